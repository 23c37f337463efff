/**
 * Requests that nobody should send, to every route of every dialect: never a fault of the server, never an answer in
 * another's shape, never a hang, and nothing changed by what was refused.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type DialectName, dialectNames } from '../src/dialects/dialect.ts';
import { type Answer, basic, type Call, DialectRig, type Loose, MiB, type Person } from './support/dialect-rig.ts';

const requestsEach = 4000;
const timeoutMs = 200_000;

let rig: DialectRig;
let person: Person;
/** Ids that there are, in all forms. */
const ids: string[] = [];

beforeAll(async () => {
  rig = await DialectRig.start();
  person = await rig.person('mia', 'member');
  const drive = await rig.drive('web-1', MiB);
  const free = await rig.drive('free', MiB);
  const machine = await rig.machine('web', [drive.id]);
  const whole = await rig.snapshot({ machineId: machine.id }, 'nightly');
  const single = await rig.snapshot({ driveIds: [free.id] }, 'weekly');
  const numbers = [drive.number, machine.number, whole.number];
  for (const part of [...whole.parts, ...single.parts]) {
    ids.push(part.id, `snap-${part.number.toString(16)}`);
    numbers.push(part.number);
  }
  ids.push(drive.id, free.id, machine.id, whole.id, `vol-${free.number.toString(16)}`, person.id, 'mia', 'default');
  ids.push(`inst-${machine.number.toString(16)}`, ...numbers.map(String), 'compute');
});
afterAll(() => rig[Symbol.asyncDispose]());

/** How a dialect says no. */
const refusals: Readonly<Record<DialectName, (answer: Answer, call: Call) => boolean>> = {
  manageiq({ json, status }) {
    if (typeof json.error === 'string') return json.status === status;
    if (json.error !== undefined)
      return ['kind', 'message', 'klass'].every((key) => typeof json.error[key] === 'string');
    return json.success === false || Array.isArray(json.results);
  },
  cloudsigma: ({ json }) =>
    Array.isArray(json) &&
    json.length > 0 &&
    json.every(
      (item) => typeof item.error_message === 'string' && typeof item.error_type === 'string' && 'error_point' in item,
    ),
  syminet: ({ json }) => typeof json.error === 'string' && Object.keys(json).length === 1,
  cloudmc: ({ json }) =>
    Array.isArray(json.errors) &&
    json.errors.length > 0 &&
    json.errors.every(
      (item: Loose) =>
        typeof item.code === 'number' && typeof item.errorCode === 'string' && typeof item.message === 'string',
    ),
  deltacloud(answer) {
    const { text, status, headers } = answer;
    const type = headers['content-type'] ?? '';
    if (status === 406) return text === '';
    if (type.startsWith('application/xml')) return text.startsWith('<error ');
    if (type.startsWith('application/json'))
      return typeof answer.json.message === 'string' && answer.json.code === status;
    return type.startsWith('text/html') || type.startsWith('text/plain');
  },
};

const words: Readonly<Record<DialectName, readonly string[]>> = {
  manageiq: [
    'action',
    'resource',
    'resources',
    'name',
    'description',
    'memory',
    'id',
    'href',
    'expand',
    'attributes',
    'filter[]',
    'sort_by',
    'sort_order',
    'sort_options',
    'limit',
    'offset',
    'hide',
    'by_tag',
    'collection_class',
    'requester_type',
  ],
  cloudsigma: [
    'objects',
    'drive',
    'name',
    'meta',
    'tags',
    'uuid',
    'size',
    'media',
    'limit',
    'offset',
    'fields',
    'order_by',
    'name__contains',
    'status',
    'tag',
    'do',
    'avoid',
    'format',
    'username',
    'password',
    'clone_naming',
    'resources',
    'state',
    'recurse',
  ],
  syminet: ['snapshot_name', 'page', 'query', 'username', 'admin', 'os_name', 'password'],
  cloudmc: [
    'volumeId',
    'name',
    'rapid',
    'snapshot',
    'operation',
    'volume_id',
    'instance_id',
    'type',
    'sizeInGb',
    'iops',
    'diskOfferingId',
    'instanceId',
    'zoneId',
    'recoveryPoint',
    'org_id',
    'page_size',
    'page_number',
    'sort_by',
    'deleteSnapshots',
    'volumeIdsToDelete',
    'description',
    'serviceConnection',
    'organization',
  ],
  deltacloud: [
    'volume_id',
    'snapshot_id',
    'name',
    'description',
    'capacity',
    'realm_id',
    'instance_id',
    'device',
    'image_id',
    'hwp_id',
    'format',
    '_method',
    'id',
    'state',
    'force_auth',
    'driver',
  ],
};
const values: readonly string[] = [
  'create',
  'delete',
  'revert',
  'query',
  'clone',
  'resize',
  'resources',
  'snapshots',
  "name='a*'",
  'name=[a,b]',
  'or id>3',
  'create_time>2024-01-01',
  'name=~/(a+)+$/',
  'xml',
  'json',
  'html',
  '-1',
  '0',
  '1e99',
  '9'.repeat(40),
  'NULL',
  'true',
  '%',
  '\\',
  'asc,desc',
  'start',
  'stop',
  'attachToInstance',
  'createSnapshotFromVolume',
  'root',
  'all',
];

const odd = fc.constantFrom(
  '',
  '.',
  '..',
  '%00',
  '%2e%2e%2f',
  '%',
  '%zz',
  "'",
  '"',
  '<x>',
  ';a=b',
  ':',
  '*',
  '~',
  'é',
  '%F0%9F%98%80',
  '%C3%28',
  'a'.repeat(3000),
  '-',
  '__proto__',
  'constructor',
  '0x10',
  '1.5',
  'ffffffff-ffff-4fff-8fff-ffffffffffff',
  '999999999',
  'detail',
  'schema',
  'action',
  'new',
);

function segment(): fc.Arbitrary<string> {
  return fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...ids) }, { weight: 2, arbitrary: odd });
}

function pathsOf(door: DialectName): fc.Arbitrary<string> {
  const routes = [...new Set(rig.routesOf(door).map(({ url }) => url))];
  expect(routes.length, door).toBeGreaterThan(5);
  const filled = fc.constantFrom(...routes).chain((url) => {
    const parts = url.split('/').map((part) => (/[:*(]/.test(part) ? segment() : fc.constant(part)));
    return fc.tuple(...parts).map((texts) => texts.join('/'));
  });
  const spoiled = fc
    .tuple(filled, odd, fc.constantFrom('/', '//', '', '?', ';x=y'))
    .map(([path, more, end]) => `${path}/${more}${end}`);
  return fc.oneof(
    { weight: 8, arbitrary: filled },
    { weight: 1, arbitrary: filled.map((path) => `${path}/`) },
    { weight: 1, arbitrary: spoiled },
  );
}

function callsOf(door: DialectName): fc.Arbitrary<Call> {
  const key = fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...words[door]) }, fc.string());
  const text = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...ids) },
    { weight: 3, arbitrary: fc.constantFrom(...values) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
  );
  const query = fc
    .array(fc.tuple(key, text), { maxLength: 4 })
    .map((pairs) => pairs.map(([name, value]) => `${escaped(name)}=${escaped(value)}`).join('&'));
  const { json } = fc.letrec<{ json: unknown; object: unknown }>((tie) => ({
    json: fc.oneof(
      { maxDepth: 4, depthSize: 'small' },
      // The first is what is taken where it would get too deep.
      { weight: 3, arbitrary: text },
      { weight: 4, arbitrary: tie('object') },
      fc.constantFrom(null, true, false, 0, -1, 1.5, 1e300, 2 ** 53, '', [], {}),
      fc.array(tie('json'), { maxLength: 3 }),
    ),
    object: fc.dictionary(key, tie('json'), { maxKeys: 5 }),
  }));
  const form = fc
    .array(fc.tuple(key, text), { maxLength: 4 })
    .map((pairs) => pairs.map(([a, b]) => `${escaped(a)}=${escaped(b)}`).join('&'));
  const body = fc.oneof(
    { weight: 6, arbitrary: json.map((value) => JSON.stringify(value)) },
    { weight: 2, arbitrary: form },
    { weight: 2, arbitrary: json.map((value) => JSON.stringify(value).slice(0, -1)) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('['.repeat(10_000), `${'{"a":'.repeat(500)}1`, '{"__proto__":{"a":1}}', ' ', '\0'),
    },
  );
  const huge = fc.constant('x'.repeat(1024 ** 2 + 10));
  const credentials: fc.Arbitrary<Record<string, string>> = fc.oneof(
    { weight: 12, arbitrary: fc.constant(credentialsFor(door)) },
    fc.constantFrom<Record<string, string>>(
      {},
      { authorization: 'Basic !!!' },
      { authorization: 'Bearer' },
      { 'x-auth-token': '' },
      { 'mc-api-key': '\u00ff' },
      { cookie: 'sessionid=x; csrftoken=y' },
    ),
  );
  const more = fc.record(
    {
      accept: fc.constantFrom(
        'application/json',
        'application/xml',
        'text/html',
        '*/*',
        'image/png',
        '',
        ';;q=x',
        'a'.repeat(500),
      ),
      'content-type': fc.constantFrom(
        'application/json',
        'application/x-www-form-urlencoded',
        'multipart/form-data',
        'multipart/form-data; boundary=x',
        'text/xml',
        'nonsense',
        '',
      ),
      'x-http-method-override': fc.constantFrom('DELETE', 'NONSENSE'),
      'x-miq-group': fc.constantFrom('default', '%zz'),
      'x-deltacloud-driver': fc.constant('mock'),
      'if-none-match': fc.constantFrom('*', '"x"'),
      host: fc.constantFrom('a.example', '"<x>', '[::1]:1', 'a b'),
    },
    { requiredKeys: [] },
  );
  return fc
    .record({
      method: fc.oneof(
        { weight: 9, arbitrary: fc.constantFrom('GET', 'POST', 'PUT', 'DELETE') },
        { weight: 1, arbitrary: fc.constantFrom('PATCH', 'OPTIONS', 'HEAD', 'PROPFIND') },
      ),
      path: pathsOf(door),
      query: fc.option(query),
      headers: fc.tuple(credentials, more).map(([a, b]) => ({ ...b, ...a })),
      body: fc.option(fc.oneof({ weight: 200, arbitrary: body }, { weight: 1, arbitrary: huge })),
    })
    .map(({ method, path, query: asked, headers, body: sent }) => ({
      method,
      path: sendable(asked === null ? path : `${path}?${asked}`),
      headers,
      ...(sent === null || method === 'GET' || method === 'HEAD' ? {} : { body: Buffer.from(sent) }),
    }));
}

const escaped = (text: string): string => encodeURIComponent(text.toWellFormed());
/** Node's client sends no address with spaces or control characters. */
const sendable = (path: string): string => path.replace(/[\0- \x7f-\uffff]/g, (character) => escaped(character));

function credentialsFor(door: DialectName): Record<string, string> {
  if (door === 'syminet') return { authorization: `bearer ${person.token}` };
  return door === 'cloudmc' ? { 'mc-api-key': person.token } : basic(person);
}

/** What a dialect has begun or changed so far. */
async function changesBy(door: DialectName): Promise<number> {
  const { db } = rig.catalog;
  const count = db.fn.countAll<number>().as('count');
  const tasks = await db.selectFrom('tasks').select(count).where('via', '=', door).executeTakeFirst();
  const edits = await db
    .selectFrom('events')
    .select(count)
    .where('via', '=', door)
    .where('kind', 'like', '%updated')
    .executeTakeFirst();
  return (tasks?.count ?? 0) + (edits?.count ?? 0);
}

describe.each(dialectNames)('%s', (door) => {
  test(`stands ${requestsEach} requests that make no sense`, { timeout: timeoutMs }, async () => {
    let before = await changesBy(door);
    const one = async (call: Call): Promise<void> => {
      const answer = await rig.send(door, call);
      const what = `${call.method} ${call.path} -> ${answer.status} ${answer.text.slice(0, 300)}`;
      expect(answer.status, what).toBeLessThan(500);
      expect(answer.headers['content-type'] ?? '', what).not.toMatch(/problem/);
      const after = await changesBy(door);
      if (answer.status >= 400) {
        expect(answer.text, what).not.toMatch(/"statusCode"/);
        if (call.method !== 'HEAD') expect(refusals[door](answer, call), what).toBe(true);
        expect(after, what).toBe(before);
      }
      before = after;
    };
    await fc.assert(fc.asyncProperty(callsOf(door), one), { numRuns: requestsEach, endOnFailure: true });
    await rig.settled();
    const { findings } = await rig.native('POST', '/doctor', {});
    expect(findings.filter((finding: Loose) => finding.severity !== 'info')).toEqual([]);
  });
});
