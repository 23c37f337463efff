/**
 * Clones drives as they are now. The point that a clone starts from is made for it and of no snapshot: nobody sees it, and it
 * goes with the end of the task, however it ends.
 */
import { insertDrive, moveDrive } from '../catalog/drives.ts';
import { setTaskInput } from '../catalog/tasks.ts';
import { putTraits } from '../catalog/traits.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId } from '../core/ids.ts';
import type { Drive } from '../core/model.ts';
import { checkName, checkSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, driveRow, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { Labels, WithTask, WithTraits } from './interface.ts';
import { checkLabels } from './labels.ts';
import { toDrive } from './objects.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';
import type { DriveCloneInput } from './task-inputs.ts';

/** @throws shrink_not_supported */
export async function cloneDrive(
  context: Context,
  caller: Caller,
  id: DriveId,
  input: Labels & WithTraits & { name: string; sizeBytes?: number },
): Promise<WithTask<'drive', Drive>> {
  const { config, engine, runner } = context;
  assertMayCreate(caller);
  const name = checkName(input.name);
  const labels = checkLabels(input);
  const wanted =
    input.sizeBytes === undefined ? undefined : checkSize(input.sizeBytes, { max: config.maxDriveBytes }, 'sizeBytes');
  const space = await engine.space();
  const { task, record } = await runner.change(async (tx, add) => {
    const source = await driveRow(tx, caller, 'read', id);
    assertDriveReady(context, source);
    const sizeBytes = wanted ?? source.size_bytes;
    if (sizeBytes < source.size_bytes) {
      throw new CalotypeError('shrink_not_supported', 'A clone cannot be smaller than its drive.', {
        field: 'sizeBytes',
        sizeBytes: source.size_bytes,
        wanted: sizeBytes,
      });
    }
    assertRoom(space);
    const driveId = newId<DriveId>();
    const { projectId } = caller;
    const made = await insertDrive(tx, {
      id: driveId,
      projectId,
      name,
      ...labels,
      sizeBytes,
      sourceId: null,
      at: nowUs(),
    });
    await putTraits(tx, driveId, input.traits ?? {});
    const added = await add({
      kind: 'drive.clone',
      input: { driveSnapshotId: newId<DriveSnapshotId>(), sizeBytes, copyOf: id },
      driveIds: [driveId, id],
      objectKind: 'drive',
      objectId: driveId,
      owner: ownerOf(caller, projectId),
      event: { detail: { name, driveId: id } },
    });
    return { task: added, record: made };
  });
  return { task: runner.view(task), drive: toDrive(record) };
}

/** Carries it out, from wherever a crash left it. */
export async function copyDrive(
  context: Context,
  task: ActiveTask,
  input: DriveCloneInput,
  { source, driveId }: { source: DriveId; driveId: DriveId },
): Promise<undefined> {
  const { config, engine } = context;
  const { driveSnapshotId, sizeBytes } = input;
  try {
    if (input.taken !== true) {
      await engine.snapshot([{ driveId: source, driveSnapshotId }], async (tx) => {
        await setTaskInput(tx, task.number, JSON.stringify({ ...input, taken: true }));
      });
      config.onStep?.('clone.taken');
    }
    await engine.clone({ driveSnapshotId, driveId, sizeBytes }, async (tx) => {
      await moveDrive(tx, { id: driveId, from: 'creating', to: 'available', error: null, at: nowUs() });
    });
    config.onStep?.('clone.made');
  } catch (error) {
    if (!context.runner.closing) await engine.deleteSnapshots([driveSnapshotId], async () => undefined);
    throw error;
  }
  await engine.deleteSnapshots([driveSnapshotId], async (tx) => {
    await task.conclude(tx, { driveId }, { event: 'drive.cloned', detail: { driveId: source, sizeBytes } });
  });
  return undefined;
}
