import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drive, Snapshot } from '../core/model.ts';
import type { SnapshotState } from '../core/states.ts';
import type { SnapshotFilter, SnapshotSort, SortOrder } from './interface.ts';
import { codeOf, Harness } from './testing/harness.ts';

let h: Harness;
let all: Snapshot[];
let drives: Drive[];

const sorts: readonly SnapshotSort[] = ['created', 'name', 'state', 'number'];
const orders: readonly SortOrder[] = ['asc', 'desc'];
const states: readonly SnapshotState[] = ['creating', 'available', 'error', 'deleting'];

beforeAll(async () => {
  h = await Harness.start();
  drives = [await h.drive('web'), await h.drive('db')];
  const names = ['web-1', 'web-2', 'db-1', 'Web-3', 'odd[1]*?', 'web-1', 'zebra', 'a web in it', '日本語', 'db-%_2'];
  for (const [at, name] of names.entries()) {
    const covered = at % 3 === 0 ? drives : drives.slice(at % 2, (at % 2) + 1);
    const { task, snapshot } = await h.service.snapshots.create(h.caller, {
      driveIds: covered.map((drive) => drive.id),
      name,
      tags: at % 2 === 0 ? ['even'] : ['odd', 'rare'],
    });
    await h.done(task);
    const state = states[at % 4] ?? 'available';
    if (at > 5) await h.catalog.db.updateTable('snapshots').set({ state }).where('id', '=', snapshot.id).execute();
  }
  all = [...(await h.service.snapshots.list(h.caller, {}, { by: 'number', order: 'asc' }, { limit: 1000 })).items];
  expect(all).toHaveLength(names.length);
});
afterAll(() => h.stop());

const keyOf: Record<SnapshotSort, (snapshot: Snapshot) => string | number> = {
  created: (snapshot) => snapshot.createdAt,
  name: (snapshot) => snapshot.name,
  state: (snapshot) => snapshot.state,
  number: (snapshot) => snapshot.number,
};

/** As bytes, like the index. */
function compare(a: string | number, b: string | number): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return Buffer.compare(Buffer.from(String(a)), Buffer.from(String(b)));
}

function expected(filter: SnapshotFilter, sort: SnapshotSort, order: SortOrder): string[] {
  const pattern = filter.nameLike?.split('*').map((piece) => piece.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const found = all.filter(
    (item) =>
      (filter.name === undefined || item.name === filter.name) &&
      (filter.nameContains === undefined || item.name.toLowerCase().includes(filter.nameContains.toLowerCase())) &&
      (pattern === undefined || new RegExp(`^${pattern.join('.*')}$`, 'u').test(item.name)) &&
      (filter.states === undefined || filter.states.includes(item.state)) &&
      (filter.tag === undefined || item.tags.includes(filter.tag)) &&
      (filter.driveId === undefined || item.parts.some((part) => part.driveId === filter.driveId)) &&
      (filter.createdFrom === undefined || item.createdAt >= filter.createdFrom) &&
      (filter.createdBefore === undefined || item.createdAt < filter.createdBefore),
  );
  const key = keyOf[sort];
  found.sort((a, b) => compare(key(a), key(b)) || a.number - b.number);
  if (order === 'desc') found.reverse();
  return found.map((item) => item.id);
}

const filters = (): Record<string, SnapshotFilter> => ({
  nothing: {},
  'a name': { name: 'web-1' },
  'part of a name, in any case': { nameContains: 'WEB' },
  'part of a name with signs': { nameContains: '%_' },
  'a prefix': { nameLike: 'web-*' },
  'a pattern': { nameLike: '*e*b*' },
  'a pattern of signs': { nameLike: 'odd[1]**?' },
  'a pattern without stars': { nameLike: 'zebra' },
  'one state': { states: ['available'] },
  'a rare state': { states: ['error'] },
  'some states': { states: ['deleting', 'available'] },
  'no state': { states: [] },
  'a tag': { tag: 'odd' },
  'no such tag': { tag: 'none' },
  'a drive': { driveId: drives[1]?.id ?? all[0]?.parts[0]?.driveId } as SnapshotFilter,
  'a time': { createdFrom: all[2]?.createdAt ?? 0, createdBefore: all[7]?.createdAt ?? 0 },
  'all of it': {
    driveId: drives[0]?.id,
    states: ['available', 'error'],
    tag: 'even',
    nameContains: 'b',
    createdFrom: all[1]?.createdAt ?? 0,
  } as SnapshotFilter,
  'name and state': { nameLike: 'web*', states: ['available'] },
  'time and tag': { createdBefore: all[8]?.createdAt ?? 0, tag: 'even' },
});

describe('lists of snapshots', () => {
  for (const by of sorts) {
    for (const order of orders) {
      it(`find the same by key, by offset, and count the same, sorted by ${by} ${order}`, async () => {
        for (const [what, filter] of Object.entries(filters())) {
          const want = expected(filter, by, order);
          const byKey: string[] = [];
          let cursor: string | null = null;
          do {
            const page: Awaited<ReturnType<typeof h.service.snapshots.list>> = await h.service.snapshots.list(
              h.caller,
              filter,
              { by, order },
              { limit: 3, withTotal: true, ...(cursor === null ? {} : { cursor }) },
            );
            expect(page.total, what).toBe(want.length);
            byKey.push(...page.items.map((item) => item.id));
            cursor = page.nextCursor;
          } while (cursor !== null);
          expect(byKey, what).toEqual(want);
          const offset = await h.service.snapshots.list(h.caller, filter, { by, order }, { limit: 4, offset: 2 });
          expect(
            offset.items.map((item) => item.id),
            what,
          ).toEqual(want.slice(2, 6));
        }
      });
    }
  }

  it('go on where they were when others are made and deleted meanwhile', async () => {
    const own = await Harness.start();
    try {
      const drive = await own.drive();
      const names = ['b', 'd', 'f', 'h'];
      for (const name of names) await own.snapshot([drive.id], name);
      const sort = { by: 'name', order: 'asc' } as const;
      const first = await own.service.snapshots.list(own.caller, {}, sort, { limit: 2 });
      const gone = first.items[1];
      if (gone !== undefined) await own.done(await own.service.snapshots.delete(own.caller, gone.id));
      for (const name of ['a', 'e', 'g']) await own.snapshot([drive.id], name);
      const second = await own.service.snapshots.list(own.caller, {}, sort, { cursor: first.nextCursor ?? '' });
      expect(second.items.map((item) => item.name)).toEqual(['e', 'f', 'g', 'h']);
    } finally {
      await own.stop();
    }
  });

  it('refuse cursors that are damaged or of another list', async () => {
    const { nextCursor } = await h.service.snapshots.list(h.caller, {}, { by: 'name', order: 'asc' }, { limit: 2 });
    const cursor = nextCursor ?? '';
    const attempt = (
      text: string,
      filter: SnapshotFilter = {},
      sort: { by: SnapshotSort; order: SortOrder } = { by: 'name', order: 'asc' },
    ) => codeOf(h.service.snapshots.list(h.caller, filter, sort, { cursor: text }));
    expect((await attempt(cursor)).code).toBeNull();
    expect((await attempt(cursor, { tag: 'odd' })).code).toBe('invalid_cursor');
    expect((await attempt(cursor, {}, { by: 'name', order: 'desc' })).code).toBe('invalid_cursor');
    expect((await attempt(cursor, {}, { by: 'number', order: 'asc' })).code).toBe('invalid_cursor');
    for (const text of ['', 'x', '!!!', 'e30', 'bnVsbA', cursor.slice(2), 'a'.repeat(5000)]) {
      expect((await attempt(text)).code, text.slice(0, 20)).toBe('invalid_cursor');
    }
    const other = await h.person('bob', 'member', await h.project('elsewhere'));
    const stolen = h.service.snapshots.list(other, {}, { by: 'name', order: 'asc' }, { cursor });
    expect((await codeOf(stolen)).code).toBe('invalid_cursor');
  });

  it('refuse limits and offsets out of range', async () => {
    for (const page of [{ limit: 0 }, { limit: 1001 }, { limit: 1.5 }, { offset: -1 }, { offset: 1, cursor: 'x' }]) {
      const refused = await codeOf(h.service.snapshots.list(h.caller, {}, { by: 'name', order: 'asc' }, page));
      expect(refused.code).toBe('invalid_request');
    }
  });
});

describe('lists of drives', () => {
  it('filter, sort and page', async () => {
    const list = async (filter: object, page: object = {}) =>
      (await h.service.drives.list(h.caller, filter, { by: 'name', order: 'asc' }, page)).items.map(
        (item) => item.name,
      );
    expect(await list({})).toEqual(['db', 'web']);
    expect(await list({ nameContains: 'E' })).toEqual(['web']);
    expect(await list({ states: ['error'] })).toEqual([]);
    const first = await h.service.drives.list(
      h.caller,
      {},
      { by: 'name', order: 'asc' },
      { limit: 1, withTotal: true },
    );
    expect(first).toMatchObject({ total: 2, items: [{ name: 'db', exported: false }] });
    expect(first.items[0]?.snapshotCount).toBe(
      all.filter((item) => item.parts.some((p) => p.driveName === 'db')).length,
    );
    expect(await list({}, { cursor: first.nextCursor })).toEqual(['web']);
  });
});
