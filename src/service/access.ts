/** Finds what a request names, for a caller who may read or change it, in a state that allows what is asked. */
import type { Db } from '../catalog/catalog.ts';
import { type DriveRecord, findDrive, findDriveRow } from '../catalog/drives.ts';
import { findImage, findImageRow, type ImageRecord } from '../catalog/images.ts';
import { attachmentOf, findMachine, findMachineRow, type MachineRecord } from '../catalog/machines.ts';
import type { DriveRow, DriveSnapshotRow, ImageRow, MachineRow, SnapshotRow } from '../catalog/schema.ts';
import { findPart, findSnapshot, findSnapshotRow, type SnapshotRecord } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveId, DriveSnapshotId, ImageId, MachineId, ProjectId, SnapshotId } from '../core/ids.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { CreateOptions } from './interface.ts';
import { type Action, assertReadable, assertWritable, type ProtectedKind } from './rights.ts';
import type { TaskOwner } from './runner.ts';

async function assertMay(
  db: Db,
  caller: Caller,
  action: Action,
  kind: ProtectedKind,
  id: string,
  projectId: ProjectId | undefined,
): Promise<void> {
  const object = projectId === undefined ? undefined : { projectId, kind, id };
  const asked = { kind: kind === 'driveSnapshot' ? 'drive snapshot' : kind, id };
  if (action === 'read') await assertReadable(caller, object, db, asked);
  else await assertWritable(caller, object, db, asked);
}

/** A drive as it is shown. One that is only kept for its snapshots is not found. */
export async function readableDrive(db: Db, caller: Caller, id: DriveId): Promise<DriveRecord> {
  const row = await findDrive(db, id);
  await assertMay(db, caller, 'read', 'drive', id, row?.state === 'deleted' ? undefined : row?.project_id);
  if (row === undefined) throw notFound('drive', id);
  return row;
}

/** The row of a drive. With `hidden`, also one that is only kept for its snapshots. */
export async function driveRow(
  db: Db,
  caller: Caller,
  action: Action,
  id: DriveId,
  options: { hidden?: boolean } = {},
): Promise<DriveRow> {
  const row = await findDriveRow(db, id);
  const there = row?.state === 'deleted' && options.hidden !== true ? undefined : row;
  await assertMay(db, caller, action, 'drive', id, there?.project_id);
  if (there === undefined) throw notFound('drive', id);
  return there;
}

/** @throws drive_not_ready, which names the task that the drive's state comes from */
export function assertDriveReady(context: Context, drive: DriveRow): void {
  if (drive.state === 'available') return;
  const [holder] = context.runner.queueOf(drive.id);
  throw new CalotypeError('drive_not_ready', `The drive ${drive.name} is ${drive.state}.`, {
    driveId: drive.id,
    state: drive.state,
    ...(holder === undefined ? {} : { taskId: holder.row.id }),
  });
}

/** @throws machine_running when the drive is in a machine that is not off */
export async function assertNotRunning(db: Db, drive: { id: DriveId; name: string }): Promise<void> {
  const attached = await attachmentOf(db, drive.id);
  if (attached === undefined || attached.machine.power === 'off') return;
  throw new CalotypeError('machine_running', `The drive ${drive.name} is in use by ${attached.machine.name}.`, {
    driveId: drive.id,
    machineId: attached.machine.id,
    remedy: 'Stop the machine first.',
  });
}

export async function readableMachine(db: Db, caller: Caller, id: MachineId): Promise<MachineRecord> {
  const row = await findMachine(db, id);
  await assertMay(db, caller, 'read', 'machine', id, row?.project_id);
  if (row === undefined) throw notFound('machine', id);
  return row;
}

/** A machine that the caller may change. */
export async function machineRow(db: Db, caller: Caller, id: MachineId): Promise<MachineRow> {
  const row = await findMachineRow(db, id);
  await assertMay(db, caller, 'write', 'machine', id, row?.project_id);
  if (row === undefined) throw notFound('machine', id);
  return row;
}

/** @throws machine_not_ready, which names the task that the machine's state comes from */
export function assertMachineReady(context: Context, machine: MachineRow): void {
  if (machine.state === 'available') return;
  const [holder] = context.runner.queueOf(machine.id);
  throw new CalotypeError('machine_not_ready', `The machine ${machine.name} is ${machine.state}.`, {
    machineId: machine.id,
    state: machine.state,
    ...(holder === undefined ? {} : { taskId: holder.row.id }),
  });
}

/** @throws drive_busy when that is asked for and another task changes the machine */
export function assertNotBusy(context: Context, machine: MachineRow, options: CreateOptions | undefined): void {
  if (options?.refuseBusy !== true) return;
  const holder = context.runner.queueOf(machine.id).find((task) => task.kind !== 'machine.snapshot');
  if (holder === undefined) return;
  throw new CalotypeError('drive_busy', `The machine ${machine.name} is busy with another task.`, {
    machineId: machine.id,
    taskId: holder.row.id,
  });
}

export async function readableSnapshot(db: Db, caller: Caller, id: SnapshotId): Promise<SnapshotRecord> {
  const row = await findSnapshot(db, id);
  await assertMay(db, caller, 'read', 'snapshot', id, row?.project_id);
  if (row === undefined) throw notFound('snapshot', id);
  return row;
}

export async function snapshotRow(db: Db, caller: Caller, action: Action, id: SnapshotId): Promise<SnapshotRow> {
  const row = await findSnapshotRow(db, id);
  await assertMay(db, caller, action, 'snapshot', id, row?.project_id);
  if (row === undefined) throw notFound('snapshot', id);
  return row;
}

/** A part, with the snapshot it belongs to. */
export async function partRow(
  db: Db,
  caller: Caller,
  action: Action,
  id: DriveSnapshotId,
): Promise<{ part: DriveSnapshotRow; snapshot: SnapshotRow }> {
  const part = await findPart(db, id);
  const snapshot = part === undefined ? undefined : await findSnapshotRow(db, part.snapshot_id);
  await assertMay(db, caller, action, 'driveSnapshot', id, snapshot?.project_id);
  if (part === undefined || snapshot === undefined) throw notFound('drive snapshot', id);
  return { part, snapshot };
}

/** The first task, of those that have not ended, that is about an object. */
function holderOf(context: Context, objectId: string): { taskId?: string } {
  for (const task of context.runner.active()) if (task.row.object_id === objectId) return { taskId: task.row.id };
  return {};
}

/** @throws snapshot_not_ready */
export function assertSnapshotReady(context: Context, snapshot: SnapshotRow): void {
  if (snapshot.state === 'available') return;
  throw new CalotypeError('snapshot_not_ready', `The snapshot ${snapshot.name} is ${snapshot.state}.`, {
    snapshotId: snapshot.id,
    state: snapshot.state,
    ...holderOf(context, snapshot.id),
  });
}

export async function readableImage(db: Db, caller: Caller, id: ImageId): Promise<ImageRecord> {
  const row = await findImage(db, id);
  await assertMay(db, caller, 'read', 'image', id, row?.project_id);
  if (row === undefined) throw notFound('image', id);
  return row;
}

/** An image that the caller may change. */
export async function imageRow(db: Db, caller: Caller, id: ImageId): Promise<ImageRow> {
  const row = await findImageRow(db, id);
  await assertMay(db, caller, 'write', 'image', id, row?.project_id);
  if (row === undefined) throw notFound('image', id);
  return row;
}

/** @throws image_not_ready, which names the task that the image's state comes from */
export function assertImageReady(context: Context, image: ImageRow): void {
  if (image.state === 'available') return;
  throw new CalotypeError('image_not_ready', `The image ${image.name} is ${image.state}.`, {
    imageId: image.id,
    state: image.state,
    ...holderOf(context, image.id),
  });
}

/** Whom a task of this caller belongs to. */
export function ownerOf(caller: Caller, projectId: ProjectId): TaskOwner {
  return { projectId, userId: caller.userId, via: caller.via, title: caller.taskTitle };
}
