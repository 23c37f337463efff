/** What a retry with a known idempotency key is answered: the object and the task of the first attempt, as they are now. */
import { sql } from 'kysely';
import { findDrive } from '../catalog/drives.ts';
import { findImage } from '../catalog/images.ts';
import { findMachine } from '../catalog/machines.ts';
import { findSnapshot } from '../catalog/snapshots.ts';
import { drivesOfTasks, findTask } from '../catalog/tasks.ts';
import { notFound } from '../core/errors.ts';
import type { DriveId, ImageId, MachineId, SnapshotId } from '../core/ids.ts';
import type { Drive, Image, Machine, Snapshot, Task } from '../core/model.ts';
import { type Context, runtimeOf } from './context.ts';
import type { FirstAttempt } from './idempotency.ts';
import type { WithTask } from './interface.ts';
import { toDrive, toImage, toMachine, toSnapshot } from './objects.ts';
import { toStoredTask } from './task-view.ts';

export async function replayTask(context: Context, attempt: FirstAttempt): Promise<Task> {
  const id = attempt.task_id;
  const active = id === null ? undefined : context.runner.find(id);
  if (active?.ready) return context.runner.view(active);
  const row = id === null ? undefined : await findTask(context.catalog.db, id);
  if (row === undefined) throw notFound('task', id ?? '');
  return toStoredTask(row, (await drivesOfTasks(context.catalog.db, [row.id])).get(row.id) ?? []);
}

/** @throws not_found when the object was deleted since */
export async function replayDrive(context: Context, attempt: FirstAttempt): Promise<WithTask<'drive', Drive>> {
  const task = await replayTask(context, attempt);
  const { db } = context.catalog;
  const row = await db
    .selectFrom('drives')
    .select('id')
    .where('id', '=', sql<DriveId>`${attempt.object_id}`)
    .executeTakeFirst();
  const record = row === undefined ? undefined : await findDrive(db, row.id);
  if (record === undefined) throw notFound('drive', attempt.object_id ?? '');
  return { task, drive: toDrive(record) };
}

/** @throws not_found when the object was deleted since */
export async function replaySnapshot(context: Context, attempt: FirstAttempt): Promise<WithTask<'snapshot', Snapshot>> {
  const task = await replayTask(context, attempt);
  const { db } = context.catalog;
  const row = await db
    .selectFrom('snapshots')
    .select('id')
    .where('id', '=', sql<SnapshotId>`${attempt.object_id}`)
    .executeTakeFirst();
  const record = row === undefined ? undefined : await findSnapshot(db, row.id);
  if (record === undefined) throw notFound('snapshot', attempt.object_id ?? '');
  return { task, snapshot: toSnapshot(record) };
}

/** @throws not_found when the object was deleted since */
export async function replayMachine(context: Context, attempt: FirstAttempt): Promise<WithTask<'machine', Machine>> {
  const task = await replayTask(context, attempt);
  const { db } = context.catalog;
  const row = await db
    .selectFrom('machines')
    .select('id')
    .where('id', '=', sql<MachineId>`${attempt.object_id}`)
    .executeTakeFirst();
  const record = row === undefined ? undefined : await findMachine(db, row.id);
  if (record === undefined) throw notFound('machine', attempt.object_id ?? '');
  return { task, machine: toMachine(record, runtimeOf(context, record)) };
}

/** @throws not_found when the object was deleted since */
export async function replayImage(context: Context, attempt: FirstAttempt): Promise<WithTask<'image', Image>> {
  const task = await replayTask(context, attempt);
  const { db } = context.catalog;
  const row = await db
    .selectFrom('images')
    .select('id')
    .where('id', '=', sql<ImageId>`${attempt.object_id}`)
    .executeTakeFirst();
  const record = row === undefined ? undefined : await findImage(db, row.id);
  if (record === undefined) throw notFound('image', attempt.object_id ?? '');
  return { task, image: toImage(record) };
}
