/** Carries out the taking of snapshots: the hot path, one transaction beside the one that asked for it. */
import { setBasedOn } from '../catalog/drives.ts';
import { finishSnapshot, moveSnapshot, removeParts } from '../catalog/snapshots.ts';
import { nowUs } from '../core/time.ts';
import type { Compaction } from './compaction.ts';
import type { Context } from './context.ts';

export function registerSnapshotTasks(context: Context, compaction: Compaction): void {
  const { engine, runner, exports, config } = context;

  runner.register('snapshot.create', {
    cancellable: false,
    pausable: false,
    async run(task, { snapshotId: id, points }) {
      // Everything written before this instant is in the snapshot.
      const at = nowUs();
      await engine.snapshot(points, async (tx) => {
        const parts = points.map(({ driveId, driveSnapshotId }) => ({
          id: driveSnapshotId,
          changedBytes: exports.mayBeWritten(driveId) ? null : 0,
        }));
        await finishSnapshot(tx, { id, at, now: nowUs(), parts });
        for (const { driveId, driveSnapshotId } of points) {
          await setBasedOn(tx, driveId, driveSnapshotId, exports.mayBeWritten(driveId));
        }
        await task.conclude(tx, { snapshotId: id }, { event: 'snapshot.created' });
      });
      config.observer?.snapshotTaken?.(points.length);
      return undefined;
    },
    async abandon(tx, _task, { snapshotId: id, points }, error, cancelled) {
      const at = nowUs();
      if (cancelled) {
        await removeParts(
          tx,
          points.map((point) => point.driveSnapshotId),
          at,
        );
      } else await moveSnapshot(tx, { id, from: ['creating'], to: 'error', error: JSON.stringify(error), at });
    },
    async after(task) {
      if (task.row.state === 'done') compaction.consider(task.driveIds);
    },
  });
}
