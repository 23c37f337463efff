/** Operations as data, so that a child process can be told to carry one out and be killed in the middle. */
import type { CommitHook } from '../../catalog/catalog.ts';
import { putSetting } from '../../catalog/catalog.ts';
import type { DriveId, DriveSnapshotId, ExportId, ProjectId } from '../../core/ids.ts';
import type { Engine, ImageFormat } from '../engine.ts';

export type Operation =
  | { kind: 'create'; driveId: DriveId; sizeBytes: number }
  | { kind: 'import'; driveId: DriveId; path: string; format: ImageFormat }
  | { kind: 'resize'; driveId: DriveId; sizeBytes: number }
  | { kind: 'deleteDrive'; driveId: DriveId }
  | { kind: 'snapshot'; points: { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[] }
  | {
      kind: 'revert';
      operationId: string;
      targets: { driveId: DriveId; driveSnapshotId: DriveSnapshotId; keepAs: DriveSnapshotId | null }[];
    }
  | { kind: 'clone'; driveSnapshotId: DriveSnapshotId; driveId: DriveId; sizeBytes: number }
  | { kind: 'copyPoints'; copies: { from: DriveSnapshotId; to: DriveSnapshotId }[] }
  | { kind: 'flatten'; driveId: DriveId }
  | { kind: 'deleteSnapshots'; points: DriveSnapshotId[] }
  | { kind: 'reclaim'; drives: DriveId[] }
  | { kind: 'compact'; driveId: DriveId }
  | { kind: 'startExport'; exportId: ExportId; driveId: DriveId; projectId: ProjectId }
  | { kind: 'stopExport'; exportId: ExportId };

const control = {
  signal: new AbortController().signal,
  progress: () => undefined,
  wishes: () => ({ paused: false, bytesPerSecond: 0 }),
};

/** Carries it out; what the caller would record with it is a setting `done:<name>`. */
export async function perform(engine: Engine, operation: Operation, name: string): Promise<void> {
  const commit: CommitHook = (tx) => putSetting(tx, `done:${name}`, 'yes');
  switch (operation.kind) {
    case 'create':
      return engine.createDrive(operation, commit);
    case 'import': {
      const { driveId, path, format } = operation;
      await engine.importDrive({ driveId, source: { path, format } }, control, () => commit);
      return;
    }
    case 'resize':
      return engine.resizeDrive(operation.driveId, operation.sizeBytes, commit);
    case 'deleteDrive':
      return engine.deleteDrive(operation.driveId, commit);
    case 'snapshot':
      return engine.snapshot(operation.points, commit);
    case 'revert':
      return engine.revert(operation.operationId, operation.targets, commit);
    case 'clone':
      return engine.clone(operation, commit);
    case 'copyPoints':
      return engine.copyPoints(operation.copies, commit);
    case 'flatten':
      return engine.flatten(operation.driveId, control, commit);
    case 'deleteSnapshots':
      return engine.deleteSnapshots(operation.points, commit);
    case 'reclaim':
      await engine.reclaim(operation.drives, control);
      return;
    case 'compact':
      await engine.compact(operation.driveId, control);
      return;
    case 'startExport': {
      const { exportId, driveId } = operation;
      const served = { exportId, exportName: `x-${exportId}`, of: { drive: driveId, writable: true } };
      await engine.startExport(served, async (tx) => {
        await tx
          .insertInto('exports')
          .values({
            id: exportId,
            project_id: operation.projectId,
            drive_id: driveId,
            drive_snapshot_id: null,
            writable: 1,
            transport: 'unix',
            name: `x-${exportId}`,
            detail_json: '{}',
            created_at: 1,
          })
          .onConflict((conflict) => conflict.doNothing())
          .execute();
        await commit(tx);
      });
      return;
    }
    case 'stopExport':
      return engine.stopExport(operation.exportId, async (tx) => {
        await tx.deleteFrom('exports').where('id', '=', operation.exportId).execute();
        await commit(tx);
      });
  }
}
