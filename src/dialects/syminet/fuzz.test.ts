/** Any request gets an answer of this API's form and no server fault; one that is refused changes nothing. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
let panel: Panel;
let slice: Slice;
let stranger = '';
let reader = '';

beforeAll(async () => {
  panel = await Panel.start();
  slice = await panel.slice('web', [MiB]);
  await panel.snapshot(slice, 'point');
  await panel.rig.drive('free', MiB);
  await panel.rig.native('POST', '/projects', { name: 'other' });
  stranger = (await panel.rig.person('stranger', 'admin', 'other')).token;
  reader = (await panel.rig.person('reader', 'guest')).token;
  await panel.rig.grant('reader', { machineId: slice.machineId }, 'ro');
});
afterAll(() => panel[Symbol.asyncDispose]());

const odd = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }).map((text) => encodeURIComponent(text.toWellFormed())),
  fc.constantFrom(
    '%',
    '%ff',
    '%00',
    '..',
    '.',
    ';x',
    '%2e%2e',
    '__proto__',
    'constructor',
    '9'.repeat(40),
    '-1',
    '%ed%a0%80',
  ),
);
const id = fc.oneof({ weight: 4, arbitrary: fc.constantFrom('1', '2', '3', '4') }, { weight: 1, arbitrary: odd });
const name = fc.oneof(fc.constantFrom('admin', 'reader', 'stranger', 'reader@example.net'), odd);

const path = fc.oneof(
  fc.constantFrom('/images', '/slices', '/volumes', '/slices/regions', '/slices/dists', '/slices/sizes', '', '/'),
  fc.tuple(id, fc.constantFrom('', '/create', '/rename', '/delete')).map(([a, b]) => `/images/snapshots/${a}${b}`),
  fc.tuple(id, id).map(([a, b]) => `/images/snapshots/${a}/restore/${b}`),
  fc.tuple(id, fc.constantFrom('', '/backups/enable', '/backups/disable')).map(([a, b]) => `/backups/${a}${b}`),
  fc.tuple(id, id).map(([a, b]) => `/backups/${a}/restore/${b}`),
  fc.tuple(id, fc.constantFrom('', '/backups', '/backups/enable', '/rebuild')).map(([a, b]) => `/slices/${a}${b}`),
  fc.tuple(id, fc.constantFrom('', '/detach')).map(([a, b]) => `/volumes/${a}${b}`),
  fc.tuple(id, id).map(([a, b]) => `/volumes/${a}/attach/${b}`),
  fc.tuple(name, fc.constantFrom('', '/perms', '/update')).map(([a, b]) => `/users/${a}${b}`),
  fc.array(odd, { maxLength: 5 }).map((parts) => `/${parts.join('/')}`),
);
const query = fc.oneof(
  fc.constant(''),
  fc.tuple(odd, odd).map(([page, part]) => `?page=${page}&query=${part}`),
  odd.map((text) => `?${text}`),
);
const body = fc.option(
  fc.oneof(
    fc.json(),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc.constantFrom(
      '{"snapshot_name":"x"}',
      '{"username":"admin","admin":false}',
      '{"os_name":"x"}',
      '{"snapshot_name":',
    ),
  ),
);
const method = fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS');
const type = fc.constantFrom<Record<string, string>>(
  {},
  { 'content-type': 'application/json' },
  { 'content-type': 'text/;;' },
  { 'content-type': '' },
);

const everything = async (): Promise<unknown[]> => {
  const all = [];
  for (const list of ['machines', 'drives', 'snapshots', 'users', 'projects/default/members', 'grants']) {
    all.push(await panel.rig.native('GET', `/${list}`));
  }
  return all;
};

async function fuzz(token: string | null): Promise<void> {
  await fc.assert(
    fc.asyncProperty(method, path, query, body, type, async (verb, where, asked, sent, headers) => {
      const answer = await panel.rig.send('syminet', {
        method: verb,
        path: `/api/v1${where}${asked}`,
        headers: { ...(token === null ? {} : { authorization: `bearer ${token}` }), ...headers },
        ...(sent === null ? {} : { body: sent }),
      });
      expect(answer.status).toBeGreaterThanOrEqual(200);
      expect(answer.status).toBeLessThan(500);
      expect(answer.headers['content-type']).toBe('application/json; charset=utf-8');
      if (verb === 'HEAD') return;
      if (answer.status >= 400) expect(Object.keys(answer.json)).toEqual(['error']);
      else expect(answer.json).not.toHaveProperty('error');
    }),
    { numRuns: 400 },
  );
}

test.each([
  ['a stranger', () => stranger],
  ['a reader', () => reader],
  ['nobody', () => null],
  ['a guesser', () => `${reader}x`],
])('%s gets answers of this API, and changes nothing', async (_who, tokenOf) => {
  const before = await everything();
  await fuzz(tokenOf());
  expect(await everything()).toEqual(before);
});

test('who may do everything gets answers of this API', () => fuzz(panel.rig.admin.token));
