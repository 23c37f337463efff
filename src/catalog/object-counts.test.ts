import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterEach, beforeEach, expect, it } from 'vitest';
import {
  type DriveId,
  type DriveSnapshotId,
  type MachineId,
  newId,
  type ProjectId,
  type SnapshotId,
} from '../core/ids.ts';
import { Catalog } from './catalog.ts';
import { findDrive, insertDrive } from './drives.ts';
import { findMachine, insertMachine } from './machines.ts';
import { countOf } from './object-counts.ts';
import { insertSnapshot, removeParts } from './snapshots.ts';

const directory = { path: '' };
let catalog: Catalog;
const projectId = newId<ProjectId>();
const driveId = newId<DriveId>();
const machineId = newId<MachineId>();
const labels = { name: 'one', description: '', meta: '{}', tags: [] };

beforeEach(async () => {
  directory.path = mkdtempSync(join(tmpdir(), 'calotype-counts-'));
  catalog = await Catalog.open(directory.path);
  await catalog.write(async (tx) => {
    await tx.insertInto('projects').values({ id: projectId, name: 'home', created_at: 1, version: 1 }).execute();
    await insertDrive(tx, { id: driveId, projectId, sizeBytes: 512, sourceId: null, at: 1, ...labels });
    const hardware = { machineType: 'pc', cpus: 1, memoryBytes: 1, macAddress: '' };
    const about = { kind: 'vm', managed: true, hardware, boot: { from: 'drive' }, sourceId: null, slots: [] } as const;
    await insertMachine(tx, { id: machineId, projectId, at: 1, ...about, ...labels });
  });
});
afterEach(async () => {
  await catalog.close();
  rmSync(directory.path, { recursive: true, force: true });
});

async function add(count: number): Promise<DriveSnapshotId[]> {
  const ids: DriveSnapshotId[] = [];
  await catalog.write(async (tx) => {
    for (let at = 0; at < count; at++) {
      const id = newId<DriveSnapshotId>();
      ids.push(id);
      const part = { id, driveId, driveName: '', parentId: null, sizeBytes: 512, changedBytes: 0 };
      const about = { projectId, machineId, state: 'available', origin: 'manual', createdBy: null } as const;
      await insertSnapshot(tx, { id: newId<SnapshotId>(), ...about, ...labels, parts: [part], at: 1 });
    }
  });
  return ids;
}

async function counts(): Promise<number[]> {
  const [drive, machine] = [await findDrive(catalog.db, driveId), await findMachine(catalog.db, machineId)];
  return [
    drive?.snapshot_count ?? -1,
    machine?.snapshot_count ?? -1,
    await countOf(catalog.db, 'drive', driveId),
    await countOf(catalog.db, 'machine', machineId),
  ];
}

const kept = async (): Promise<number[]> =>
  (await sql<{ count: number }>`select count from kept_counts order by count`.execute(catalog.db)).rows.map(
    (row) => row.count,
  );

it('large counts are kept from the first time on, and stay exact through changes and failures', async () => {
  const first = await add(999);
  expect(await counts()).toEqual([999, 999, 999, 999]);
  expect(await kept()).toEqual([]);
  const second = await add(2);
  expect(await kept()).toEqual([]);
  expect(await counts()).toEqual([1001, 1001, 1001, 1001]);
  expect(await kept()).toEqual([1001, 1001]);
  await add(5);
  expect(await kept()).toEqual([1006, 1006]);
  await catalog.write((tx) => removeParts(tx, [...first.slice(0, 20), ...second], 2));
  expect(await counts()).toEqual([984, 984, 984, 984]);
  const failed = catalog.write(async (tx) => {
    await removeParts(tx, first.slice(20, 40), 2);
    throw new Error('not after all');
  });
  await expect(failed).rejects.toThrow('not after all');
  expect(await counts()).toEqual([984, 984, 984, 984]);
  const one = await catalog.db.selectFrom('snapshots').select('id').orderBy('number').executeTakeFirstOrThrow();
  await catalog.db.updateTable('snapshots').set({ machine_id: null }).where('id', '=', one.id).execute();
  expect(await counts()).toEqual([984, 983, 984, 983]);
});
