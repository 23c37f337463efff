import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DriveId, type DriveSnapshotId, newId, type ProjectId, type SnapshotId } from '../core/ids.ts';
import { Catalog } from './catalog.ts';
import { insertDrive } from './drives.ts';
import type { Condition, Order, Place } from './page.ts';
import { countSnapshots } from './snapshot-count.ts';
import type { SnapshotQuery } from './snapshot-filters.ts';
import { findSnapshotPlaces, type SnapshotSort } from './snapshot-list.ts';
import { insertSnapshot, moveSnapshot, removeParts } from './snapshots.ts';

// The same lists by every plan: whether a filter leaves few or many is a matter of `few` here.
const directory = mkdtempSync(join(tmpdir(), 'calotype-list-'));
let catalog: Catalog;
const projectId = newId<ProjectId>();
const driveIds = [newId<DriveId>(), newId<DriveId>()];
const foreignDrive = newId<DriveId>();
const count = 5000;
const hour = 3600 * 1_000_000;
const start = 1_700_000_000_000_000;

beforeAll(async () => {
  catalog = await Catalog.open(directory);
  const other = newId<ProjectId>();
  await catalog.write(async (tx) => {
    for (const id of [projectId, other]) {
      await tx.insertInto('projects').values({ id, name: id, created_at: 1, version: 1 }).execute();
    }
    for (const id of [...driveIds, foreignDrive]) {
      const labels = { name: id, description: '', meta: '{}', tags: [] };
      const owner = id === foreignDrive ? other : projectId;
      await insertDrive(tx, { id, projectId: owner, sizeBytes: 512, sourceId: null, at: 1, ...labels });
    }
    for (let i = 0; i < count; i++) {
      const snapshotId = newId<SnapshotId>();
      const pointId = newId<DriveSnapshotId>();
      const foreign = i % 50 === 7;
      const driveId = foreign ? foreignDrive : (driveIds[i % 2] ?? foreignDrive);
      await insertSnapshot(tx, {
        id: snapshotId,
        projectId: foreign ? other : projectId,
        name: `${['nightly', 'hourly', 'By hand'][i % 3]}-${(i * 7919) % count}`,
        description: '',
        state: i % 40 === 3 ? 'creating' : 'available',
        meta: '{}',
        origin: 'manual',
        createdBy: null,
        tags: i % 5 === 0 ? ['five'] : [],
        parts: [{ id: pointId, driveId, driveName: '', parentId: null, sizeBytes: 512, changedBytes: 0 }],
        at: start + i * 61_000_000 + (i % 7),
      });
      if (i % 40 === 3) await moveSnapshot(tx, { id: snapshotId, from: ['creating'], to: 'error', error: null, at: 2 });
      if (i % 100 === 99) await removeParts(tx, [pointId], 2);
    }
  });
});

afterAll(async () => {
  await catalog.close();
  rmSync(directory, { recursive: true, force: true });
});

const visible: Condition = sql`s.project_id = ${projectId}`;
const end = start + count * 61_000_000;
const filters: Record<string, Partial<SnapshotQuery>> = {
  nothing: {},
  'a state': { states: ['available'] },
  'a rare state': { states: ['error'] },
  'two states': { states: ['error', 'creating'] },
  'all states': { states: ['error', 'creating', 'available', 'deleting'] },
  'a name': { name: 'nightly-0' },
  'a prefix': { nameLike: 'night*' },
  'a prefix of most': { nameLike: 'B*', states: ['available'] },
  'a prefix and a time': { nameLike: 'hour*', createdFrom: start + 10 * hour },
  'a time': { createdFrom: start + 3 * hour + 5, createdBefore: end - 7 * hour },
  'a time within an hour': { createdFrom: start + hour / 4, createdBefore: start + hour / 2 },
  'a time and a state': { createdBefore: start + 50 * hour + 11, states: ['available'] },
  'part of a name': { nameContains: 'LY-1' },
  'a rare part': { nameContains: '-4242' },
  'a pattern and a state': { nameLike: '*ly*9', states: ['available'] },
  'a tag': { tag: 'five' },
  'a tag, a state, a part': { tag: 'five', states: ['available'], nameContains: 'hand' },
  'a drive': { driveId: driveIds[1] },
  'a drive and a state': { driveId: driveIds[0], states: ['error'] },
};
const sorts: readonly SnapshotSort[] = ['created', 'name', 'state', 'number'];

async function all(query: SnapshotQuery, sort: SnapshotSort, order: Order): Promise<Place[]> {
  return findSnapshotPlaces(catalog.db, query, sort, { order, after: null, limit: 100_000, offset: 0 });
}

describe('pages of snapshots', () => {
  for (const [what, filter] of Object.entries(filters)) {
    it(`filtered by ${what} do not depend on the plan`, async () => {
      for (const sort of sorts) {
        for (const order of ['asc', 'desc'] as const) {
          // Without a project of its own to go by, every row is looked at.
          const plain = await all({ ...filter, visible, projectId: null }, sort, order);
          const numbers = plain.map((place) => place.number);
          for (const few of [0, 100, 1_000_000]) {
            for (const totalToo of few === 100 ? [false] : [true]) {
              const query: SnapshotQuery = { ...filter, visible, projectId, few, totalToo };
              const note = `${sort} ${order} ${few}`;
              const page = { order, after: null, limit: 50 };
              for (const offset of [10, 2500, numbers.length - 20, numbers.length + 5]) {
                if (offset < 0) continue;
                const found = await findSnapshotPlaces(catalog.db, query, sort, { ...page, offset });
                expect(
                  found.map((place) => place.number),
                  `${note} at ${offset}`,
                ).toEqual(numbers.slice(offset, offset + 50));
              }
              const middle = Math.floor(numbers.length / 2);
              const [after] = await findSnapshotPlaces(catalog.db, query, sort, { ...page, limit: 1, offset: middle });
              if (after === undefined) continue;
              const next = await findSnapshotPlaces(catalog.db, query, sort, { ...page, after, offset: 0 });
              expect(
                next.map((place) => place.number),
                note,
              ).toEqual(numbers.slice(middle + 1, middle + 51));
              expect(await countSnapshots(catalog.db, query), note).toBe(numbers.length);
            }
          }
        }
      }
    });
  }

  it('are counted right after changes and rollbacks', async () => {
    const query: SnapshotQuery = { visible, projectId };
    const before = await countSnapshots(catalog.db, query);
    const [victim] = await catalog.db
      .selectFrom('drive_snapshots')
      .innerJoin('snapshots', 'snapshots.id', 'drive_snapshots.snapshot_id')
      .select(['drive_snapshots.id', 'drive_snapshots.snapshot_id'])
      .where('snapshots.project_id', '=', projectId)
      .where('snapshots.state', '=', 'available')
      .limit(1)
      .execute();
    const remove = (fail: boolean): Promise<void> =>
      catalog.write(async (tx) => {
        if (victim === undefined) throw new Error('nothing to remove');
        const { snapshot_id: id } = victim;
        await moveSnapshot(tx, { id, from: ['available'], to: 'deleting', error: null, at: 3 });
        await removeParts(tx, [victim.id], 3);
        if (fail) throw new Error('undo');
      });
    const available: SnapshotQuery = { ...query, states: ['available'] };
    const ready = await countSnapshots(catalog.db, available);
    await expect(remove(true)).rejects.toThrow('undo');
    expect(await countSnapshots(catalog.db, query)).toBe(before);
    expect(await countSnapshots(catalog.db, available)).toBe(ready);
    await remove(false);
    expect(await countSnapshots(catalog.db, query)).toBe(before - 1);
    expect(await countSnapshots(catalog.db, available)).toBe(ready - 1);
  });
});
