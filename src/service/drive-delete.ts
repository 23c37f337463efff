/** Deletes drives, with their snapshots or without: the drive is out of the lists at once, space comes back later. */
import { sql } from 'kysely';
import type { Tx } from '../catalog/catalog.ts';
import { findDriveRow, forgetDrive, moveDrive, pointsOfDrive } from '../catalog/drives.ts';
import { exportsOfDrive, liveExportsOf } from '../catalog/exports.ts';
import { attachmentOf } from '../catalog/machines.ts';
import { removeParts } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { driveRow, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import { checkBatch } from './batches.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { driveOf } from './drive-tasks.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { assertVersion } from './labels.ts';
import type { Reclaimer } from './reclaim.ts';
import { replayTask } from './replay.ts';
import type { AddTask } from './runner.ts';

const shownBlocking = 100;
const pointsAtOnce = 100;

interface Deletion {
  readonly snapshots: 'refuse' | 'keep' | 'delete';
  readonly ifVersion?: number;
}

export function deleteDrive(
  context: Context,
  caller: Caller,
  id: DriveId,
  options: Deletion & CreateOptions,
): Promise<Task> {
  const { runner } = context;
  const first = async (): Promise<Task> => {
    const task = await runner.change(
      async (tx, add) => {
        const begun = await begin(context, tx, add, caller, id, options);
        await remember(tx, caller, options, { taskId: begun.row.id, objectKind: 'drive', objectId: id });
        return begun;
      },
      { mayUseReserve: true },
    );
    cancelUseless(context, id);
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

/** All of them are begun, or none. */
export async function deleteDrives(
  context: Context,
  caller: Caller,
  ids: readonly DriveId[],
  options: Deletion,
): Promise<readonly Task[]> {
  checkBatch(ids);
  const { runner } = context;
  const wanted = [...new Set(ids)];
  const tasks = await runner.change(
    async (tx, add) => {
      const begun: ActiveTask[] = [];
      for (const id of wanted) begun.push(await begin(context, tx, add, caller, id, options));
      return begun;
    },
    { mayUseReserve: true },
  );
  for (const id of wanted) cancelUseless(context, id);
  return tasks.map((task) => runner.view(task));
}

/** The task that deletes it, which may be an earlier one's. */
async function begin(
  context: Context,
  tx: Tx,
  add: AddTask,
  caller: Caller,
  id: DriveId,
  options: Deletion,
): Promise<ActiveTask> {
  const { runner } = context;
  const drive = await driveRow(tx, caller, 'write', id);
  assertVersion(drive, options.ifVersion);
  if (drive.state === 'deleting') {
    const earlier = runner.queueOf(id).find((queued) => queued.kind === 'drive.delete' && queued.ready);
    if (earlier !== undefined) return earlier;
  }
  await assertNotAttached(tx, id);
  await assertNotExported(tx, id);
  if (options.snapshots === 'refuse') await assertNoSnapshots(tx, id);
  if (options.snapshots === 'delete') await beginDeletingSnapshots(tx, id);
  await tx
    .updateTable('drives')
    .set({ state: 'deleting', updated_at: nowUs(), version: sql`version + 1` })
    .where('id', '=', id)
    .execute();
  return add({
    kind: 'drive.delete',
    input: {
      snapshots: options.snapshots === 'delete' ? 'delete' : 'keep',
      before: drive.state === 'error' || drive.state === 'creating' ? 'error' : 'available',
    },
    driveIds: [id],
    objectKind: 'drive',
    objectId: id,
    owner: ownerOf(caller, drive.project_id),
    event: { detail: { name: drive.name, snapshots: options.snapshots } },
  });
}

/** Long work for a drive that is to go need not be finished. */
function cancelUseless(context: Context, id: DriveId): void {
  for (const task of context.runner.active()) {
    if (!task.driveIds.includes(id)) continue;
    const useless =
      task.kind === 'drive.import' ||
      task.kind === 'drive.flatten' ||
      task.kind === 'drive.check' ||
      task.kind === 'drive.compact';
    if (!useless || !context.runner.abilities(task).cancellable) continue;
    context.runner
      .cancel(task)
      .catch((error) => context.logger.warn({ err: error, taskId: task.row.id }, 'a task could not be cancelled'));
  }
}

/** @throws drive_attached */
async function assertNotAttached(tx: Tx, id: DriveId): Promise<void> {
  const attached = await attachmentOf(tx, id);
  if (attached === undefined) return;
  throw new CalotypeError('drive_attached', `The drive is attached to ${attached.machine.name}.`, {
    driveId: id,
    machineId: attached.machine.id,
    slot: attached.slot,
    remedy: 'Detach it first.',
  });
}

/** @throws drive_exported, with the ids of the exports */
async function assertNotExported(tx: Tx, id: DriveId): Promise<void> {
  const exports = await liveExportsOf(tx, id);
  if (exports.length === 0) return;
  throw new CalotypeError('drive_exported', undefined, {
    blocking: exports.map((row) => row.id),
    remedy: 'Close these exports first.',
  });
}

/** @throws drive_has_snapshots, with the ids of the first hundred */
async function assertNoSnapshots(tx: Tx, id: DriveId): Promise<void> {
  const rows = await tx
    .selectFrom('drive_snapshots')
    .select('snapshot_id')
    .where('drive_id', '=', id)
    .orderBy('number')
    .limit(shownBlocking)
    .execute();
  if (rows.length === 0) return;
  throw new CalotypeError('drive_has_snapshots', undefined, {
    blocking: [...new Set(rows.map((row) => row.snapshot_id))],
    remedy: 'Say whether to keep or to delete its snapshots.',
  });
}

/** Snapshots of this drive alone are deleted as a whole, and show it. @throws snapshot_in_use */
async function beginDeletingSnapshots(tx: Tx, id: DriveId): Promise<void> {
  const exports = await exportsOfDrive(tx, id);
  if (exports.length > 0) {
    throw new CalotypeError('snapshot_in_use', 'Snapshots of the drive are exported.', {
      blocking: exports.map((row) => row.id),
      remedy: 'Close these exports first.',
    });
  }
  await tx
    .updateTable('snapshots')
    .set({ state: 'deleting', updated_at: nowUs(), version: sql`version + 1` })
    .where('id', 'in', (eb) => eb.selectFrom('drive_snapshots').select('snapshot_id').where('drive_id', '=', id))
    .where('state', '!=', 'deleting')
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('drive_snapshots as other')
            .select('other.id')
            .whereRef('other.snapshot_id', '=', 'snapshots.id')
            .where('other.drive_id', '!=', id),
        ),
      ),
    )
    .execute();
}

/** The snapshots that a failed deletion left over stand as before. */
async function endDeletingSnapshots(context: Context, tx: Tx, id: DriveId): Promise<void> {
  const own: string[] = [];
  for (const task of context.runner.active()) {
    if (task.kind === 'snapshot.delete' && task.row.object_id !== null) own.push(task.row.object_id);
  }
  const left = await tx
    .selectFrom('drive_snapshots')
    .innerJoin('snapshots', 'snapshots.id', 'drive_snapshots.snapshot_id')
    .select('snapshots.id')
    .where('drive_snapshots.drive_id', '=', id)
    .where('snapshots.state', '=', 'deleting')
    .execute();
  const ids = left.map((row) => row.id).filter((snapshotId) => !own.includes(snapshotId));
  if (ids.length === 0) return;
  await tx
    .updateTable('snapshots')
    .set({ state: 'available', updated_at: nowUs(), version: sql`version + 1` })
    .where('id', 'in', ids)
    .execute();
}

export function registerDriveDelete(context: Context, reclaimer: Reclaimer): void {
  const { catalog, engine, runner, sizes, logger } = context;

  async function foreground(task: ActiveTask, mode: 'keep' | 'delete'): Promise<void> {
    const id = driveOf(task);
    const row = await findDriveRow(catalog.db, id);
    if (row === undefined) return;
    await catalog.write((tx) => assertNotExported(tx, id));
    if (mode === 'delete') {
      for (;;) {
        const points = await pointsOfDrive(catalog.db, id, pointsAtOnce);
        if (points.length === 0) break;
        await engine.deleteSnapshots(points, async (tx) => {
          await removeParts(tx, points, nowUs());
        });
      }
    } else {
      await sizes.freeze(id).catch((error) => logger.warn({ err: error, driveId: id }, 'sizes could not be kept'));
    }
    await engine.deleteDrive(id, async (tx) => {
      await forgetDrive(tx, id, nowUs());
      await task.concludeForeground(tx, { event: 'drive.deleted', detail: { snapshots: mode } });
    });
  }

  runner.register('drive.delete', {
    cancellable: 'background',
    pausable: 'background',
    atLeisure: true,
    async run(task, input) {
      if (task.holdsDrives) {
        await foreground(task, input.snapshots);
        runner.release(task);
      }
      return reclaimer.run(context, task, task.driveIds);
    },
    async abandon(tx, task, input, error, cancelled) {
      if (!task.holdsDrives) return;
      const json = cancelled ? null : JSON.stringify(error);
      await moveDrive(tx, { id: driveOf(task), from: 'deleting', to: input.before, error: json, at: nowUs() });
      if (input.snapshots === 'delete') await endDeletingSnapshots(context, tx, driveOf(task));
    },
  });
}
