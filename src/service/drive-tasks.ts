/** Carries out tasks that make, grow, check and flatten drives. */

import type { Tx } from '../catalog/catalog.ts';
import { forgetDrive, leaveImage, moveDrive, setDriveSize } from '../catalog/drives.ts';
import { findPart } from '../catalog/snapshots.ts';
import { CalotypeError, notFound, type StoredError } from '../core/errors.ts';
import type { DriveId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { ActiveTask } from './active-task.ts';
import type { Context } from './context.ts';
import { copyDrive } from './drive-clone.ts';
import { untilSpace } from './space-wait.ts';

/** The drive that a task is about. */
export function driveOf(task: ActiveTask): DriveId {
  const id = task.driveIds.find((driveId) => driveId === task.row.object_id);
  if (id === undefined) throw new CalotypeError('internal', `Task ${task.row.id} names no drive.`);
  return id;
}

/** A drive that could not be made: gone if that was wished, else kept with the reason. */
export async function abandonDrive(tx: Tx, task: ActiveTask, error: StoredError, cancelled: boolean): Promise<void> {
  const id = driveOf(task);
  const at = nowUs();
  // One that is to be deleted already belongs to that task.
  if (cancelled) {
    const row = await tx.selectFrom('drives').select('state').where('id', '=', id).executeTakeFirst();
    if (row?.state === 'creating') await forgetDrive(tx, id, at);
  } else await moveDrive(tx, { id, from: 'creating', to: 'error', error: JSON.stringify(error), at });
}

export function registerDriveTasks(context: Context): void {
  const { engine, runner } = context;

  runner.register('drive.create', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const driveId = driveOf(task);
      await engine.createDrive({ driveId, sizeBytes: input.sizeBytes }, async (tx) => {
        await moveDrive(tx, { id: driveId, from: 'creating', to: 'available', error: null, at: nowUs() });
        await task.conclude(tx, { driveId }, { event: 'drive.created', detail: { sizeBytes: input.sizeBytes } });
      });
      return undefined;
    },
    abandon: (tx, task, _input, error, cancelled) => abandonDrive(tx, task, error, cancelled),
  });

  runner.register('drive.clone', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const driveId = driveOf(task);
      if (input.copyOf !== undefined) return copyDrive(context, task, input, { source: input.copyOf, driveId });
      const { driveSnapshotId, sizeBytes, imageId } = input;
      if (imageId === undefined && (await findPart(context.catalog.db, driveSnapshotId)) === undefined) {
        throw notFound('drive snapshot', driveSnapshotId);
      }
      await engine.clone({ driveSnapshotId, driveId, sizeBytes }, async (tx) => {
        await moveDrive(tx, { id: driveId, from: 'creating', to: 'available', error: null, at: nowUs() });
        const source = imageId === undefined ? { driveSnapshotId } : { imageId };
        await task.conclude(tx, { driveId }, { event: 'drive.cloned', detail: { ...source, sizeBytes } });
      });
      return undefined;
    },
    abandon: (tx, task, _input, error, cancelled) => abandonDrive(tx, task, error, cancelled),
  });

  runner.register('drive.resize', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const driveId = driveOf(task);
      await engine.resizeDrive(driveId, input.sizeBytes, async (tx) => {
        await setDriveSize(tx, driveId, input.sizeBytes, nowUs());
        await task.conclude(
          tx,
          { sizeBytes: input.sizeBytes },
          { event: 'drive.resized', detail: { sizeBytes: input.sizeBytes } },
        );
      });
      return undefined;
    },
  });

  runner.register('drive.flatten', {
    cancellable: true,
    pausable: true,
    async run(task) {
      const driveId = driveOf(task);
      await untilSpace(context, task, () =>
        engine.flatten(driveId, task, async (tx) => {
          await leaveImage(tx, driveId);
          await task.conclude(tx, null, { event: 'drive.flattened' });
        }),
      );
      return undefined;
    },
  });

  runner.register('drive.check', {
    cancellable: true,
    pausable: false,
    run: async (task) => ({ ...(await engine.check(driveOf(task), task)) }),
  });
}
