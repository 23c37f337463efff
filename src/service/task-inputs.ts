/** What each kind of task is given: JSON in its row, read again when a restarted server takes it up. */
import type { DriveId, DriveSnapshotId, ExportId, ImageId, SnapshotId } from '../core/ids.ts';
import type { TaskKind } from '../core/model.ts';
import type { ImageFormat } from '../engine/engine.ts';
import type { ImageDeleteInput } from './image-delete.ts';
import type { AdoptionInput, DisownInput } from './machine-adoption.ts';
import type { MachineCloneInput } from './machine-clones.ts';
import type { MachineDeletionInput } from './machine-delete.ts';
import type { MachineRevertInput } from './machine-reverts.ts';
import type { MachinePoints } from './machine-snapshots.ts';
import type { StopMode } from './machine-tasks.ts';

export interface RevertInput {
  readonly targets: readonly {
    readonly driveId: DriveId;
    readonly driveSnapshotId: DriveSnapshotId;
    readonly keepAs: DriveSnapshotId | null;
  }[];
  /** The snapshot that keeps the state before, if one does. */
  readonly safety: { readonly snapshotId: SnapshotId; readonly name: string } | null;
}

export interface DriveCloneInput {
  readonly driveSnapshotId: DriveSnapshotId;
  readonly sizeBytes: number;
  readonly imageId?: ImageId;
  readonly copyOf?: DriveId;
  readonly taken?: boolean;
}

export interface ExportInput {
  readonly exportId: ExportId;
  readonly exportName: string;
  readonly of: { readonly drive: DriveId; readonly writable: boolean } | { readonly point: DriveSnapshotId };
  readonly transport: { kind: 'unix' } | { kind: 'tcp'; host: string; port?: number; tls: boolean };
}

export interface TaskInputs extends Record<TaskKind, object> {
  'machine.create': Record<string, never>;
  'machine.clone': MachineCloneInput;
  'machine.adopt': AdoptionInput;
  'machine.disown': DisownInput;
  'machine.delete': MachineDeletionInput;
  'machine.start': { paused: boolean };
  /** `settle`: it ended by itself; only what served its drives is to go. */
  'machine.stop': { mode: StopMode; timeoutMs: number; settle: boolean };
  'machine.pause': Record<string, never>;
  'machine.resume': Record<string, never>;
  'machine.reset': Record<string, never>;
  'machine.attach': { driveId: DriveId; slot: number };
  /** `late`: the guest has let go of it by itself, after an earlier detachment gave up. */
  'machine.detach': { driveId: DriveId; late: boolean };
  'machine.snapshot': MachinePoints;
  'machine.revert': MachineRevertInput;
  'drive.create': { sizeBytes: number };
  /** `upload`: the file is ours and goes when the task ends. */
  'drive.import': { path: string; format: ImageFormat; upload: boolean; fileBytes: number };
  'drive.resize': { sizeBytes: number };
  /** `before`: the state to go back to if it fails. */
  'drive.delete': { snapshots: 'keep' | 'delete'; before: 'available' | 'error' };
  /**
   * `imageId`: the point is a part of this image, and of no snapshot. `copyOf`: it is made for this clone, of that drive, and goes
   * again; `taken`: it is there.
   */
  'drive.clone': DriveCloneInput;
  'drive.flatten': Record<string, never>;
  'drive.revert': RevertInput;
  'drive.check': Record<string, never>;
  'drive.export': ExportInput;
  'drive.unexport': { exportId: ExportId };
  'drive.compact': Record<string, never>;
  /** `settled`: nothing was before it in the queues, so that parents and sizes are right as first written. */
  'snapshot.create': {
    snapshotId: SnapshotId;
    points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[];
    settled: boolean;
  };
  'snapshot.revert': RevertInput;
  /** `whole`: the snapshot goes, whatever parts it has by then. `before`: the state to go back to if it fails. */
  'snapshot.delete': {
    snapshotId: SnapshotId;
    driveSnapshotIds: readonly DriveSnapshotId[];
    driveIds: readonly DriveId[];
    whole: boolean;
    before: 'available' | 'error';
  };
  'image.create': { imageId: ImageId; copies: readonly { from: DriveSnapshotId; to: DriveSnapshotId }[] };
  'image.delete': ImageDeleteInput;
}
