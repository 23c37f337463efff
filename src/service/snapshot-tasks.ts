/** Carries out the taking of snapshots: the hot path, one transaction beside the one that asked for it. */
import { setBasedOn } from '../catalog/drives.ts';
import { finishSnapshot, moveSnapshot, removeParts, resettleSnapshot } from '../catalog/snapshots.ts';
import { nowUs } from '../core/time.ts';
import type { Compaction } from './compaction.ts';
import type { Context } from './context.ts';

/** A snapshot that was begun this soon after it was asked for shows the instant it was asked for. */
const promptUs = 50_000;

export function registerSnapshotTasks(context: Context, compaction: Compaction): void {
  const { engine, runner, exports, config } = context;

  runner.register('snapshot.create', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const { snapshotId: id, points } = input;
      // Everything written before the instant that the snapshot shows is in it.
      const started = nowUs();
      const settled = input.settled && started - task.row.created_at < promptUs;
      await engine.snapshot(points, async (tx) => {
        if (!settled) await resettleSnapshot(tx, id, started);
        await finishSnapshot(tx, id, nowUs());
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
