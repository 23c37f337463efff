/** What is remembered is what would be found again; whatever only memory knows is asked for anew. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Query, QueryKind } from '../core/query.ts';
import type { Caller } from './caller.ts';
import type { QueryUseCases } from './interface.ts';
import { rememberLists } from './remembered-lists.ts';
import { Harness, mib } from './testing/harness.ts';

let h: Harness;
let asked = 0;
let writable = false;
let queries: QueryUseCases;
beforeEach(async () => {
  h = await Harness.start();
  asked = 0;
  writable = false;
  const counting: QueryUseCases = {
    list: (caller, kind, query) => {
      asked++;
      return h.service.queries.list(caller, kind, query);
    },
  };
  const exports = { mayBeWritten: () => writable };
  // The rest of the book of exports is not looked at.
  queries = rememberLists({ catalog: h.catalog, exports: Object.assign(Object.create(null), exports) }, counting);
});
afterEach(() => h.stop());

/** How many of two equal questions had to be answered. */
async function timesAsked<K extends QueryKind>(kind: K, query: Query<K>, caller: Caller = h.caller): Promise<number> {
  const before = asked;
  const first = await queries.list(caller, kind, query);
  expect(await queries.list(caller, kind, query)).toEqual(first);
  return asked - before;
}

it('asks once, until a row changes', async () => {
  const drive = await h.drive('web');
  const { id } = await h.snapshot([drive.id], 'point');
  expect(await timesAsked('snapshot', { withTotal: true })).toBe(1);
  expect(await timesAsked('snapshot', { withTotal: true })).toBe(0);
  await h.service.snapshots.update(h.caller, id, { name: 'renamed' });
  const { items, total } = await queries.list(h.caller, 'snapshot', { withTotal: true });
  expect([items.map(({ name }) => name), total, asked]).toEqual([['renamed'], 1, 2]);
  for (const kind of ['drive', 'image', 'part', 'machine'] as const) expect(await timesAsked(kind, {})).toBe(1);
});

it('tells questions, projects and guests apart', async () => {
  await h.drive('web');
  const guest = await h.person('guest', 'guest');
  const member = await h.person('member', 'member');
  const stranger = await h.person('stranger', 'member', await h.project('other'));
  expect((await queries.list(h.caller, 'drive', {})).items).toHaveLength(1);
  expect((await queries.list(h.caller, 'drive', { limit: 0 })).items).toHaveLength(0);
  expect((await queries.list(h.caller, 'drive', { where: { field: 'name', op: 'eq', value: 'x' } })).items).toEqual([]);
  expect((await queries.list(guest, 'drive', {})).items).toEqual([]);
  expect((await queries.list(stranger, 'drive', {})).items).toEqual([]);
  const before = asked;
  expect((await queries.list(member, 'drive', {})).items).toHaveLength(1);
  expect(asked).toBe(before);
});

it('does not remember what only memory knows', async () => {
  const drive = await h.drive('web');
  await h.snapshot([drive.id], 'point');
  const drives = [{ driveId: drive.id }];
  const made = await h.service.machines.create(h.caller, { name: 'web', memoryBytes: 16 * mib, drives });
  await h.done(made.task);
  expect(await timesAsked('task', {})).toBe(2);
  expect(await timesAsked('machine', { where: { field: 'power', op: 'eq', value: 'off' } })).toBe(2);
  expect(await timesAsked('machine', { sort: [{ by: 'power' }] })).toBe(2);
  expect(await timesAsked('snapshot', { sort: [{ by: 'sizeBytes' }] })).toBe(2);
  expect(await timesAsked('snapshot', {})).toBe(1);
  writable = true;
  expect(await timesAsked('snapshot', { offset: 0 })).toBe(2);
  expect(await timesAsked('part', {})).toBe(2);
});

it('remembers no list that is long, and no question', async () => {
  for (let at = 0; at < 101; at++) await h.drive(`d${at}`);
  expect(await timesAsked('drive', { limit: null })).toBe(2);
  expect(await timesAsked('drive', { limit: 100 })).toBe(1);
  expect(await timesAsked('drive', { where: { field: 'name', op: 'eq', value: 'x'.repeat(2000) } })).toBe(2);
});
