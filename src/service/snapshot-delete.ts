/** Deletes snapshots or parts of them: answered and out of the lists at once, space comes back in the background. */

import type { Db, Tx } from '../catalog/catalog.ts';
import { dropHiddenDrives } from '../catalog/drives.ts';
import { exportsOfPoints } from '../catalog/exports.ts';
import { findParts, findSnapshot, moveSnapshot, removeIfEmpty, removeParts } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveSnapshotId, SnapshotId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { ownerOf, partRow, snapshotRow } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import { checkBatch } from './batches.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { assertVersion } from './labels.ts';
import { sweepMemory } from './memory-save.ts';
import type { Reclaimer } from './reclaim.ts';
import { replayTask } from './replay.ts';
import type { AddTask } from './runner.ts';

/** @throws snapshot_in_use, with the ids of the exports */
export async function assertPointsFree(db: Db, ids: readonly DriveSnapshotId[]): Promise<void> {
  const exports = await exportsOfPoints(db, ids);
  if (exports.length === 0) return;
  throw new CalotypeError('snapshot_in_use', 'The snapshot is exported.', {
    blocking: exports.map((row) => row.id),
    remedy: 'Close these exports first.',
  });
}

interface Deletion {
  readonly parts?: readonly DriveSnapshotId[];
  readonly ifVersion?: number;
}

export function deleteSnapshot(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  options: Deletion & CreateOptions = {},
): Promise<Task> {
  const { runner } = context;
  const first = async (): Promise<Task> => {
    const task = await runner.change(
      async (tx, add) => {
        const begun = await begin(context, tx, add, caller, id, options);
        await remember(tx, caller, options, { taskId: begun.row.id, objectKind: 'snapshot', objectId: id });
        return begun;
      },
      { mayUseReserve: true },
    );
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

/** Parts of any snapshots: all of them are begun, or none. */
export async function deleteParts(
  context: Context,
  caller: Caller,
  ids: readonly DriveSnapshotId[],
): Promise<readonly Task[]> {
  checkBatch(ids);
  const { runner } = context;
  const tasks = await runner.change(
    async (tx, add) => {
      const bySnapshot = new Map<SnapshotId, DriveSnapshotId[]>();
      for (const id of ids) {
        const { snapshot } = await partRow(tx, caller, 'write', id);
        bySnapshot.set(snapshot.id, [...(bySnapshot.get(snapshot.id) ?? []), id]);
      }
      const begun: ActiveTask[] = [];
      for (const [id, parts] of bySnapshot) begun.push(await begin(context, tx, add, caller, id, { parts }));
      return begun;
    },
    { mayUseReserve: true },
  );
  return tasks.map((task) => runner.view(task));
}

/** The task that deletes it, which may be an earlier one's. */
async function begin(
  context: Context,
  tx: Tx,
  add: AddTask,
  caller: Caller,
  id: SnapshotId,
  options: Deletion,
): Promise<ActiveTask> {
  // A guest may delete the part of a drive that he may write, without a right to all of the snapshot.
  const wanted = options.parts === undefined ? undefined : new Set(options.parts);
  if (wanted === undefined) await snapshotRow(tx, caller, 'write', id);
  else for (const part of wanted) await partRow(tx, caller, 'write', part);
  const snapshot = await findSnapshot(tx, id);
  if (snapshot === undefined) throw notFound('snapshot', id);
  assertVersion(snapshot, options.ifVersion);
  for (const part of wanted ?? []) {
    if (!snapshot.parts.some((known) => known.id === part)) throw notFound('drive snapshot', part);
  }
  const parts = snapshot.parts.filter((part) => wanted === undefined || wanted.has(part.id));
  const whole = parts.length === snapshot.parts.length;
  if (snapshot.state === 'deleting') {
    const earlier = findDeletion(context, id);
    if (earlier !== undefined) return earlier;
  }
  const driveSnapshotIds = parts.map((part) => part.id);
  await assertPointsFree(tx, driveSnapshotIds);
  if (whole) {
    await moveSnapshot(tx, {
      id,
      from: ['creating', 'available', 'error'],
      to: 'deleting',
      error: snapshot.error_json,
      at: nowUs(),
    });
  }
  const driveIds = [...new Set(parts.map((part) => part.drive_id))];
  return add({
    kind: 'snapshot.delete',
    input: {
      snapshotId: id,
      driveSnapshotIds,
      driveIds,
      whole,
      before: snapshot.state === 'error' ? 'error' : 'available',
    },
    driveIds,
    objectKind: 'snapshot',
    objectId: id,
    owner: ownerOf(caller, snapshot.project_id),
    event: { detail: { name: snapshot.name, ...(whole ? {} : { driveSnapshotIds }) } },
  });
}

function findDeletion(context: Context, id: SnapshotId): ActiveTask | undefined {
  for (const task of context.runner.active()) {
    if (task.kind === 'snapshot.delete' && task.row.object_id === id && task.ready) return task;
  }
  return undefined;
}

export function registerSnapshotDelete(context: Context, reclaimer: Reclaimer): void {
  const { catalog, engine, runner } = context;
  runner.register('snapshot.delete', {
    cancellable: 'background',
    pausable: 'background',
    atLeisure: true,
    async run(task, input) {
      if (task.holdsDrives) {
        const { snapshotId, whole } = input;
        const found = await findParts(catalog.db, input.driveSnapshotIds);
        const ids = found.map((part) => part.id);
        await assertPointsFree(catalog.db, ids);
        await engine.deleteSnapshots(ids, async (tx) => {
          await removeParts(tx, ids, nowUs());
          if (whole) await removeIfEmpty(tx, snapshotId);
          await dropHiddenDrives(tx, input.driveIds);
          await task.concludeForeground(tx, {
            event: whole ? 'snapshot.deleted' : 'snapshot.part_deleted',
            detail: { driveSnapshotIds: ids },
          });
        });
        runner.release(task);
      }
      return reclaimer.run(context, task, input.driveIds);
    },
    after: () => sweepMemory(context),
    async abandon(tx, task, input, error, cancelled) {
      if (!task.holdsDrives || !input.whole) return;
      const json = cancelled ? null : JSON.stringify(error);
      await moveSnapshot(tx, {
        id: input.snapshotId,
        from: ['deleting'],
        to: input.before,
        error: json,
        at: nowUs(),
      });
    },
  });
}
