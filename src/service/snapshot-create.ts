/** Takes snapshots of drives: one, or several that do not depend on each other, in one commit. */
import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows } from '../catalog/drives.ts';
import { insertSnapshot, type SnapshotRecord } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId, type SnapshotId } from '../core/ids.ts';
import type { Snapshot } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import { checkBatch } from './batches.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, type CheckedLabels, checkLabels, compactTime, fitName } from './labels.ts';
import { toSnapshot } from './objects.ts';
import { replaySnapshot } from './replay.ts';
import { assertWritable } from './rights.ts';
import { assertRoom } from './room.ts';
import type { AddTask } from './runner.ts';

/** Drives in one snapshot, at most. */
export const maxGroup = 64;

export type NewSnapshot = Labels & { driveIds: readonly DriveId[]; name?: string };

export function createSnapshot(
  context: Context,
  caller: Caller,
  input: NewSnapshot,
  options?: CreateOptions,
): Promise<WithTask<'snapshot', Snapshot>> {
  const first = async () => {
    const checked = check(context, input);
    const space = await context.engine.space();
    const { task, record } = await context.runner.change(async (tx, add) => {
      const made = await begin(context, tx, add, caller, checked, options);
      assertRoom(space);
      await remember(tx, caller, options, {
        taskId: made.task.row.id,
        objectKind: 'snapshot',
        objectId: made.record.id,
      });
      return made;
    });
    return { task: context.runner.view(task), snapshot: toSnapshot(record) };
  };
  return once(context, caller, options, first, (attempt) => replaySnapshot(context, attempt));
}

/** Each has an instant of its own; all of them are begun, or none. */
export async function createSnapshots(
  context: Context,
  caller: Caller,
  inputs: readonly NewSnapshot[],
): Promise<readonly WithTask<'snapshot', Snapshot>[]> {
  checkBatch(inputs);
  const checked = inputs.map((input) => check(context, input));
  const space = await context.engine.space();
  const all = await context.runner.change(async (tx, add) => {
    const made = [];
    for (const one of checked) made.push(await begin(context, tx, add, caller, one, undefined));
    assertRoom(space);
    return made;
  });
  return all.map(({ task, record }) => ({ task: context.runner.view(task), snapshot: toSnapshot(record) }));
}

interface Checked {
  readonly id: SnapshotId;
  readonly driveIds: readonly DriveId[];
  readonly name: string | undefined;
  readonly labels: CheckedLabels;
}

/** @throws invalid_request, invalid_name, invalid_meta, invalid_tag, not_supported */
function check({ engine }: Context, input: NewSnapshot): Checked {
  const { driveIds } = input;
  if (driveIds.length === 0 || driveIds.length > maxGroup) {
    throw new CalotypeError('invalid_request', `Name 1 to ${maxGroup} drives.`, {
      field: 'driveIds',
      max: maxGroup,
    });
  }
  if (new Set(driveIds).size !== driveIds.length) {
    throw new CalotypeError('invalid_request', 'A drive is named twice.', { field: 'driveIds' });
  }
  if (driveIds.length > 1 && !engine.capabilities.atomicGroups) {
    throw new CalotypeError('not_supported', 'This engine cannot snapshot several drives at one instant.');
  }
  const name = input.name === undefined ? undefined : checkName(input.name);
  return { id: newId<SnapshotId>(), driveIds, name, labels: checkLabels(input) };
}

/** Writes the snapshot as `creating`, with its task. */
async function begin(
  context: Context,
  tx: Tx,
  add: AddTask,
  caller: Caller,
  { id, driveIds, name: wanted, labels }: Checked,
  options: CreateOptions | undefined,
): Promise<{ task: ActiveTask; record: SnapshotRecord }> {
  const rows = await findDriveRows(tx, driveIds);
  const drives = [];
  for (const driveId of driveIds) {
    const row = rows.get(driveId);
    const there = row === undefined || row.state === 'deleted' ? undefined : row;
    const object = there && ({ projectId: there.project_id, kind: 'drive', id: driveId } as const);
    await assertWritable(caller, object, tx, { kind: 'drive', id: driveId });
    if (there === undefined) throw notFound('drive', driveId);
    assertDriveReady(context, there);
    drives.push(there);
  }
  const [leader] = drives;
  if (leader === undefined) throw new CalotypeError('internal');
  const at = nowUs();
  const name = wanted ?? fitName(leader.name, `-${compactTime(at)}`);
  await assertNameFree(tx, options, 'snapshot', leader.project_id, name);
  const parts = drives.map((drive) => ({
    id: newId<DriveSnapshotId>(),
    driveId: drive.id,
    driveName: drive.name,
    parentId: drive.based_on,
    sizeBytes: drive.size_bytes,
    changedBytes: context.exports.mayBeWritten(drive.id) ? null : 0,
  }));
  const settled = driveIds.every((driveId) => context.runner.queueOf(driveId).length === 0);
  const record = await insertSnapshot(tx, {
    id,
    projectId: leader.project_id,
    name,
    ...labels,
    state: 'creating',
    origin: 'manual',
    createdBy: caller.userId,
    parts,
    at,
  });
  const task = await add({
    kind: 'snapshot.create',
    input: {
      snapshotId: id,
      points: parts.map((part) => ({ driveId: part.driveId, driveSnapshotId: part.id })),
      settled,
    },
    driveIds,
    objectKind: 'snapshot',
    objectId: id,
    owner: ownerOf(caller, leader.project_id),
    // What is done within the millisecond needs one line in the log, not two.
    event: settled ? null : { detail: { name, driveIds } },
  });
  return { task, record };
}
