/** Requests of every kind to every address: never a server fault, never another form, and nothing changed by a refusal. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { basic, DialectRig } from '../../../test/support/dialect-rig.ts';
import { Client, checkAnswer } from './testing/client.ts';

let rig: DialectRig;
let admin: Client;
let uuids: string[];

beforeAll(async () => {
  rig = await DialectRig.start();
  admin = new Client(rig, rig.admin);
  const drive = await admin.drive('kept');
  const snapshot = await admin.snapshot(drive.uuid, { meta: { a: 'b' } });
  const [tag] = (await admin.post('/tags/', { name: 'kept', resources: [drive.uuid] })).json.objects;
  const machine = await rig.machine('kept', []);
  uuids = [drive.uuid, snapshot.uuid, tag.uuid, machine.id];
});
afterAll(() => rig[Symbol.asyncDispose]());

const kinds = [
  'snapshots',
  'drives',
  'servers',
  'tags',
  'jobs',
  'libdrives',
  'profile',
  'capabilities',
  'accounts',
  'remotesnapshots',
];
const word = fc.oneof(
  fc.constantFrom(
    'detail',
    'schema',
    'action',
    'availability_groups',
    'drives',
    '%00',
    '%ff',
    '..',
    '__proto__',
    'a'.repeat(300),
  ),
  fc.string({ maxLength: 8 }).map(encodeURIComponent),
);
const value = fc.oneof(
  fc.constantFrom(
    'clone',
    'resize',
    'start',
    'x',
    '0',
    '-1',
    '1e9',
    'a%5C,b',
    '%',
    '%00',
    ',,,',
    '%ED%A0%80',
    '9'.repeat(30),
  ),
  fc.string({ maxLength: 6 }).map(encodeURIComponent),
);
const parameter = fc.constantFrom(
  'do',
  'limit',
  'offset',
  'fields',
  'name',
  'name__contains',
  'drive',
  'status',
  'status__contains',
  'tag',
  'tag__contains',
  'uuid',
  'uuid__contains',
  'order_by',
  'avoid',
  'recurse',
  '__proto__',
  'state',
);
const query = fc
  .array(fc.tuple(parameter, value), { maxLength: 4 })
  .map((pairs) => pairs.map((pair) => pair.join('=')).join('&'));
const field = fc.constantFrom(
  'objects',
  'drive',
  'name',
  'meta',
  'tags',
  'size',
  'media',
  'resources',
  'drives',
  'cpu',
  'mem',
  'clone_naming',
  'username',
  'uuid',
);
/** Nothing of this can be carried out: no name of an object that is there, and no size that will do. */
const junk = fc.oneof(
  fc.constant(null),
  fc.boolean(),
  fc.constantFrom(-1, 0.5, 1e300, '', '\0', '\ud800', 'x'.repeat(5000)),
  fc.array(fc.constantFrom(1, 'x', null)),
  fc.dictionary(field, fc.constantFrom(1, 'x', null, [])),
);
const body = fc.oneof(
  fc.constant(undefined),
  fc.constantFrom('', '{', 'null', '[]', '7', '"x"', '\u0000', `${'{"a":'.repeat(80)}1`),
  fc.dictionary(field, junk).map((fields) => JSON.stringify(fields)),
  fc.array(fc.dictionary(field, junk), { maxLength: 3 }).map((objects) => JSON.stringify({ objects })),
);

/** With a name that is none, so that no change of it can be carried out. */
function spoilt(text: string): string {
  return text.startsWith('{') && text.endsWith('}') ? JSON.stringify({ ...JSON.parse(text), name: 7 }) : text;
}

test('a thousand requests', { timeout: 300_000 }, async () => {
  const state = async () => {
    const lists = ['/snapshots/', '/drives/detail/', '/servers/detail/', '/tags/'];
    return Promise.all(lists.map(async (path) => (await admin.get(`${path}?limit=0`)).json.objects));
  };
  const before = await state();
  const path = fc
    .tuple(
      fc.constantFrom(...kinds),
      fc.array(fc.oneof(word, fc.constantFrom(...uuids)), { maxLength: 3 }),
      fc.constantFrom('', '/', '//'),
    )
    .map(([kind, rest, end]) => `/${[kind, ...rest].join('/')}${end}`);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'HEAD'),
      path,
      query,
      body,
      async (method, where, asked, sent) => {
        // What would be carried out is another test's.
        fc.pre(!(method === 'DELETE' && uuids.some((uuid) => where.includes(uuid))));
        fc.pre(!(method === 'POST' && where.includes('/action')));
        const headers = basic(rig.admin);
        const call = {
          method,
          path: `/api/2.0${where}?${asked}`,
          headers,
          ...(sent === undefined ? {} : { body: method === 'PUT' ? spoilt(sent) : sent }),
        };
        const answer = await rig.send('cloudsigma', call);
        expect(answer.status, `${method} ${where}?${asked} ${sent}`).toBeLessThan(500);
        if (answer.status >= 400) checkAnswer(method, where, answer);
      },
    ),
    { numRuns: 1000 },
  );
  await rig.settled();
  const after = await state();
  const untimed = (lists: object[][]) => JSON.parse(JSON.stringify(lists));
  expect(untimed(after)).toEqual(untimed(before));
});
