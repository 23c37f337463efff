/** Puts drives back to a snapshot, in place. Newer snapshots stay; the state before is kept as one more, unless unwanted. */

import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows, setBasedOn } from '../catalog/drives.ts';
import type { DriveRow, DriveSnapshotRow, SnapshotRow } from '../catalog/schema.ts';
import { findParts, findSnapshot, insertSnapshot } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId, type SnapshotId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import {
  assertDriveReady,
  assertNotRunning,
  assertSnapshotReady,
  driveRow,
  ownerOf,
  partRow,
  readableSnapshot,
} from './access.ts';
import type { ActiveTask, Outcome } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Compaction } from './compaction.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { fitName } from './labels.ts';
import type { Reclaimer } from './reclaim.ts';
import { replayTask } from './replay.ts';
import { assertRoom } from './room.ts';
import type { AddTask } from './runner.ts';
import type { RevertInput } from './task-inputs.ts';

export function revertDrive(
  context: Context,
  caller: Caller,
  id: DriveId,
  input: { driveSnapshotId: DriveSnapshotId; keepSafety?: boolean },
  options?: CreateOptions,
): Promise<Task> {
  const plan = async (tx: Tx, add: AddTask): Promise<ActiveTask> => {
    const drive = await driveRow(tx, caller, 'write', id);
    const { part, snapshot } = await partRow(tx, caller, 'read', input.driveSnapshotId);
    if (part.drive_id !== id) {
      throw new CalotypeError('snapshot_of_other_drive', undefined, {
        driveSnapshotId: part.id,
        driveId: part.drive_id,
        remedy: 'Clone that snapshot instead.',
      });
    }
    assertDriveReady(context, drive);
    await assertNotRunning(tx, drive);
    assertSnapshotReady(context, snapshot);
    const made = revertInput([part], snapshot, input.keepSafety);
    const added = await add({
      kind: 'drive.revert',
      input: made,
      driveIds: [id],
      objectKind: 'drive',
      objectId: id,
      owner: ownerOf(caller, drive.project_id),
      event: { detail: { name: drive.name, driveSnapshotId: part.id, to: snapshot.name } },
    });
    await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'drive', objectId: id });
    return added;
  };
  return start(context, caller, options, plan);
}

export function revertSnapshot(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  input: { keepSafety?: boolean } = {},
  options?: CreateOptions,
): Promise<Task> {
  const plan = async (tx: Tx, add: AddTask): Promise<ActiveTask> => {
    const snapshot = await readableSnapshot(tx, caller, id);
    assertSnapshotReady(context, snapshot);
    if (snapshot.complete === 0) {
      throw new CalotypeError('snapshot_incomplete', undefined, {
        snapshotId: id,
        driveSnapshotIds: snapshot.parts.map((part) => part.id),
        remedy: 'Revert its drives one by one.',
      });
    }
    for (const part of snapshot.parts) {
      const drive = await driveRow(tx, caller, 'write', part.drive_id, { hidden: true });
      if (drive.state === 'deleted') {
        throw new CalotypeError('drive_not_ready', `The drive ${drive.name} was deleted; clone the snapshot instead.`, {
          driveId: drive.id,
          state: drive.state,
        });
      }
      assertDriveReady(context, drive);
      await assertNotRunning(tx, drive);
    }
    const driveIds = snapshot.parts.map((part) => part.drive_id);
    const added = await add({
      kind: 'snapshot.revert',
      input: revertInput(snapshot.parts, snapshot, input.keepSafety),
      driveIds,
      objectKind: 'snapshot',
      objectId: id,
      owner: ownerOf(caller, snapshot.project_id),
      event: { detail: { name: snapshot.name, driveIds } },
    });
    await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'snapshot', objectId: id });
    return added;
  };
  return start(context, caller, options, plan);
}

function start(
  context: Context,
  caller: Caller,
  options: CreateOptions | undefined,
  plan: (tx: Tx, add: AddTask) => Promise<ActiveTask>,
): Promise<Task> {
  const first = async (): Promise<Task> => {
    const space = await context.engine.space();
    const task = await context.runner.change((tx, add) =>
      plan(tx, (spec) => {
        assertRoom(space);
        return add(spec);
      }),
    );
    return context.runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

function revertInput(parts: readonly DriveSnapshotRow[], to: SnapshotRow, keepSafety = true): RevertInput {
  return {
    targets: parts.map((part) => ({
      driveId: part.drive_id,
      driveSnapshotId: part.id,
      keepAs: keepSafety ? newId<DriveSnapshotId>() : null,
    })),
    safety: keepSafety ? { snapshotId: newId<SnapshotId>(), name: fitName(`before revert to ${to.name}`, '') } : null,
  };
}

export function registerReverts(context: Context, reclaimer: Reclaimer, compaction: Compaction): void {
  const { catalog, engine, runner } = context;

  async function run(task: ActiveTask, input: RevertInput) {
    if (task.holdsDrives) {
      for (const drive of (await findDriveRows(catalog.db, task.driveIds)).values())
        await assertNotRunning(catalog.db, drive);
      const ids = input.targets.map((target) => target.driveSnapshotId);
      const found = await findParts(catalog.db, ids);
      const gone = ids.find((id) => !found.some((part) => part.id === id));
      if (gone !== undefined) throw notFound('drive snapshot', gone);
      await engine.revert(task.row.id, input.targets, (tx) => commit(tx, task, input));
      if (input.safety !== null) return undefined;
      runner.release(task);
    }
    return reclaimer.run(context, task, task.driveIds);
  }

  async function commit(tx: Tx, task: ActiveTask, { targets, safety }: RevertInput): Promise<void> {
    const drives = await findDriveRows(
      tx,
      targets.map((target) => target.driveId),
    );
    if (safety !== null) await insertSafety(tx, task, targets, safety, drives);
    for (const { driveId, driveSnapshotId } of targets) await setBasedOn(tx, driveId, driveSnapshotId, true);
    const outcome: Outcome = {
      event: task.kind === 'drive.revert' ? 'drive.reverted' : 'snapshot.reverted',
      detail: {
        driveSnapshotIds: targets.map((target) => target.driveSnapshotId),
        ...(safety === null ? {} : { safetySnapshotId: safety.snapshotId }),
      },
    };
    if (safety === null) await task.concludeForeground(tx, outcome);
    else await task.conclude(tx, { safetySnapshotId: safety.snapshotId }, outcome);
  }

  runner.register('drive.revert', {
    cancellable: 'background',
    pausable: 'background',
    run,
    after: async (task) => compaction.consider(task.driveIds),
  });
  runner.register('snapshot.revert', {
    cancellable: 'background',
    pausable: 'background',
    run,
    after: async (task) => compaction.consider(task.driveIds),
  });
}

async function insertSafety(
  tx: Tx,
  task: ActiveTask,
  targets: RevertInput['targets'],
  safety: { snapshotId: SnapshotId; name: string },
  drives: ReadonlyMap<DriveId, DriveRow>,
): Promise<void> {
  if ((await findSnapshot(tx, safety.snapshotId)) !== undefined) return;
  const parts = targets.flatMap(({ driveId, keepAs }) => {
    const drive = drives.get(driveId);
    if (drive === undefined || keepAs === null) return [];
    return {
      id: keepAs,
      driveId,
      driveName: drive.name,
      parentId: drive.based_on,
      sizeBytes: drive.size_bytes,
      changedBytes: null,
    };
  });
  const projectId = task.row.project_id;
  if (projectId === null) throw new CalotypeError('internal', 'A revert belongs to no project.');
  await insertSnapshot(tx, {
    id: safety.snapshotId,
    projectId,
    name: safety.name,
    description: '',
    state: 'available',
    meta: '{}',
    origin: 'safety',
    createdBy: task.row.user_id,
    tags: [],
    parts,
    at: nowUs(),
  });
}
