/** For tests of images: snapshots with known content, and what is made of them. */
import { expect } from 'vitest';
import { insertMachineSnapshot } from '../../catalog/machines.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId } from '../../core/ids.ts';
import type { Image, Snapshot, Task } from '../../core/model.ts';
import { type Harness, mib } from './harness.ts';

export const hardware = { machineType: 'pc-i440fx-7.2', cpus: 2, memoryBytes: 512 * mib };
export const anyTime = { by: 'created', order: 'asc' } as const;

export async function makeImage(
  h: Harness,
  snapshot: Snapshot,
  more: { part?: DriveSnapshotId; name?: string } = {},
): Promise<Image> {
  const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id, ...more });
  await h.done(task);
  return h.service.images.get(h.caller, image.id);
}

export async function makeDrive(h: Harness, image: Image, input: object = {}): Promise<DriveId> {
  const { task, drive } = await h.service.images.clone(h.caller, image.id, input);
  await h.done(task);
  return drive.id;
}

/** An image of a drive that holds 7 in its first block. */
export async function driveImage(
  h: Harness,
  name = 'base',
): Promise<{ driveId: DriveId; snapshot: Snapshot; image: Image }> {
  const drive = await h.drive(name);
  h.engine.write(drive.id, 0, 7);
  const snapshot = await h.snapshot([drive.id], name);
  return { driveId: drive.id, snapshot, image: await makeImage(h, snapshot) };
}

/** A snapshot of a machine that is gone, with drives in slots 0 and 3; its second drive is twice as large. */
export async function machineSnapshot(
  h: Harness,
  consistency: Snapshot['consistency'] = 'filesystem',
): Promise<Snapshot> {
  const drives = [await h.drive('root'), await h.drive('data', 2 * mib)];
  for (const [at, drive] of drives.entries()) h.engine.write(drive.id, 0, 10 + at);
  const { id } = await h.snapshot(
    drives.map((drive) => drive.id),
    'golden',
  );
  const machineId = newId<MachineId>();
  await h.catalog.write(async (tx) => {
    await insertMachineSnapshot(tx, {
      snapshot_id: id,
      machine_id: machineId,
      machine_name: 'web',
      parent_id: null,
      power: 'off',
      kind: 'instance',
      boot_json: '{"from":"drive"}',
      hardware_json: JSON.stringify({ ...hardware, macAddress: '52:54:00:00:00:01' }),
      slots_json: JSON.stringify(drives.map((drive, at) => ({ slot: at * 3, driveId: drive.id }))),
      excluded_json: '[]',
      reason: '',
      frozen_us: null,
      pause_us: null,
    });
    await tx.updateTable('snapshots').set({ machine_id: machineId, consistency }).where('id', '=', id).execute();
  });
  return h.service.snapshots.get(h.caller, id);
}

export const firstBlock = (h: Harness, driveId: DriveId): number | undefined =>
  h.engine.drives.get(driveId)?.blocks.get(0);

/** The task waits for another: what was asked for after it, and waits for nothing, has ended. */
export async function expectWaiting(h: Harness, task: Task): Promise<void> {
  const other = await h.snapshot([(await h.drive()).id]);
  await h.done(await h.service.snapshots.delete(h.caller, other.id));
  expect((await h.service.tasks.get(h.caller, task.id)).state).toBe('queued');
}
