/**
 * The engine contract: what the service may ask of a storage engine. It speaks of drives and drive snapshots by our
 * ids; layers, files and processes are an engine's own affair. Two rules hold for every method:
 *
 *  - **Commit hook.** A method that changes the world takes `commit`, which runs inside the catalog transaction that
 *    makes the change true. When the method resolves, the change and the caller's own records are durable together;
 *    when it throws, neither is, and the engine has undone or will roll forward what it began.
 *  - **Crash.** A process may die anywhere. `open()` finishes or undoes what was begun, before anything else is served.
 *    A method interrupted before its commit may be called again with the same ids and finds its first attempt.
 *
 * Calls for one drive must not overlap unless a method says otherwise; `describeEngine` in conformance.ts holds every
 * engine to the rest.
 */
import type { CommitHook } from '../catalog/catalog.ts';
import type { Extents } from '../core/extents.ts';
import type { DriveId, DriveSnapshotId, ExportId, MachineId } from '../core/ids.ts';
import type { CheckReport, DriveUsage, Finding, SnapshotUsage } from '../core/model.ts';
import type { QmpClient } from '../qemu/qmp.ts';

export interface EngineCapabilities {
  /** Several drives can be snapshotted at one instant. */
  readonly atomicGroups: boolean;
  /** A revert keeps the snapshots taken after its target. */
  readonly revertKeepsNewer: boolean;
  /** An exported drive can be reverted under its clients. */
  readonly liveRevert: boolean;
  /** Long work can be paused, and its speed limited. */
  readonly throttledReclaim: boolean;
  /** Bytes: changed extents are exact to this grain. */
  readonly changeGrainBytes: number;
}

/** How a caller watches and steers long work. Progress is in bytes of the whole job, and may grow its total. */
export interface WorkControl {
  readonly signal: AbortSignal;
  progress(doneBytes: number, totalBytes: number): void;
  /** Asked between steps and at least every second: wanted speed in bytes/s (0: unlimited), and whether to pause. */
  wishes(): { readonly paused: boolean; readonly bytesPerSecond: number };
}

/**
 * Holds what writes the drives still for the instant itself. Everything that takes time is done before `hold` and after
 * `release`. They come in pairs, `release` also when `hold` or the instant failed; a pair comes again when a dying process
 * made the engine take the instant again.
 */
export interface Stillness {
  hold(): Promise<void>;
  /** `taken`: the instant has passed; it only has to be recorded yet. */
  release(taken: boolean): Promise<void>;
}

export interface NbdTarget {
  readonly exportName: string;
  /** Path of the unix socket it is served on. */
  readonly socketPath: string;
}

export interface ImageSource {
  /** Path of a file that the caller owns and that nobody writes. */
  readonly path: string;
  readonly format: ImageFormat;
}

export const imageFormats = ['qcow2', 'raw', 'vmdk', 'vpc', 'vhdx', 'vdi'] as const;
export type ImageFormat = (typeof imageFormats)[number];

/** What reclaiming came to for a deleted object. */
export interface ReclaimResult {
  readonly freedBytes: number;
  /** Still on disk because other points in time are built on it; freed with the last of them. */
  readonly keptBytes: number;
}

/** A QEMU process that somebody else runs, which has drives open. */
export interface ForeignProcess {
  /** Its machine. */
  readonly id: MachineId;
  readonly qmp: QmpClient;
  /** What its relative paths begin with; null when that cannot be seen. */
  readonly workingDirectory: string | null;
}

/** Where an adopted drive's state is. */
export interface DriveFiles {
  readonly driveId: DriveId;
  /** What it runs on, top first. */
  readonly files: readonly { readonly path: string; readonly format: 'qcow2' | 'raw' }[];
}

export interface DoctorReport {
  readonly findings: readonly Finding[];
  readonly checkedFiles: number;
}

export interface Engine {
  readonly name: string;
  readonly capabilities: EngineCapabilities;

  /**
   * Starts or re-adopts the processes, finishes what a crash interrupted, re-creates recorded exports whose process
   * died. Nothing else may be called before it resolves.
   * @returns what recovery found and did, one line each; empty after a clean stop.
   */
  open(): Promise<readonly string[]>;

  /** Detaches. Processes that serve exports stay; `stopProcesses` ends them too (exports are then re-created by `open`). */
  close(options?: { stopProcesses?: boolean }): Promise<void>;

  /**
   * Calls back whenever what serves exports had to be started anew, at once if `open` had to: writes that clients had not
   * flushed may be lost, and only a client that starts afresh can bear that.
   */
  onServedAnew(listener: () => void): void;

  /** Resolves once the engine can take commands; used by readiness. @throws engine_unavailable */
  ping(): Promise<void>;

  /** Makes an empty drive. Idempotent by id. @throws space_low, space_exhausted */
  createDrive(drive: { driveId: DriveId; sizeBytes: number }, commit: CommitHook): Promise<void>;

  /**
   * Makes a drive from an image file, which was inspected already. Long; may be aborted, then nothing stays.
   * @returns its virtual size, rounded up to whole sectors.
   */
  importDrive(
    drive: { driveId: DriveId; source: ImageSource },
    control: WorkControl,
    commit: (sizeBytes: number) => CommitHook,
  ): Promise<number>;

  /** Grows a drive. Clients of an export are cut off and must connect again. @throws shrink_not_supported */
  resizeDrive(driveId: DriveId, sizeBytes: number, commit: CommitHook): Promise<void>;

  /**
   * Forgets the drive's live state, at once. Its drive snapshots stay readable, and can be deleted one by one. Space
   * comes back by `reclaim`. The drive must not be exported. Idempotent.
   */
  deleteDrive(driveId: DriveId, commit: CommitHook): Promise<void>;

  /**
   * Takes over disks of a process of somebody else's as they are: nothing is moved or rewritten. From then on they are drives,
   * which that process has open: they can be snapshotted while it is joined, and neither exported nor resized, reverted
   * or deleted. Idempotent by drive. @throws adoption_refused
   */
  adoptDrives(
    process: ForeignProcess,
    drives: readonly { driveId: DriveId; device: string }[],
    commit: CommitHook,
  ): Promise<void>;

  /**
   * The process can be reached: what a lost connection left half done is finished. Until then, and again once the connection
   * ends, its drives' points can be read and cloned, and nothing else. @returns what was found and done, one line each.
   * @throws machine_changed when it runs on other files than its drives are in
   */
  joinProcess(process: ForeignProcess): Promise<readonly string[]>;

  /**
   * Forgets adopted drives and their points, and leaves the process and every file it has as they are. @throws drive_has_clones
   */
  releaseDrives(driveIds: readonly DriveId[], commit: (released: readonly DriveFiles[]) => CommitHook): Promise<void>;

  /** The files that adopted drives are in: what their process has to be started with when it ended. */
  filesOf(driveIds: readonly DriveId[]): Promise<readonly DriveFiles[]>;

  /**
   * One instant of all named drives: either every one is taken or none. Exported drives go on being written. Waits for
   * no background work. A drive snapshot stands from the commit on, whatever dies. @throws space_low
   */
  snapshot(
    points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[],
    commit: CommitHook,
    stillness?: Stillness,
  ): Promise<void>;

  /**
   * Puts drives back to their points, all in one commit. The state before is kept as `keepAs` when given, else dropped. Newer
   * snapshots stay. Exported drives keep their clients, who see the old data once this resolves; writes in flight meanwhile
   * may fall on either side. The drive keeps its size: beyond the end of a smaller point it reads as zeros. A retry with the
   * same `operationId` finds the first attempt and only commits.
   */
  revert(
    operationId: string,
    targets: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId; keepAs: DriveSnapshotId | null }[],
    commit: CommitHook,
  ): Promise<void>;

  /** A new drive that starts as the point; linked, so at once. `sizeBytes` may be larger than the point. Idempotent by id. */
  clone(
    request: { driveSnapshotId: DriveSnapshotId; driveId: DriveId; sizeBytes: number },
    commit: CommitHook,
  ): Promise<void>;

  /**
   * Gives points further names: each is the same instant, and keeps it when the one it was copied from is deleted. Moves no bytes
   * and takes no space. All or none; idempotent by the new ids. @throws not_found
   */
  copyPoints(copies: readonly { from: DriveSnapshotId; to: DriveSnapshotId }[], commit: CommitHook): Promise<void>;

  /** Makes the drive independent of every snapshot and drive it shares data with. Long; may be aborted, paused; also while exported. */
  flatten(driveId: DriveId, control: WorkControl, commit: CommitHook): Promise<void>;

  /** Forgets points, at once and from any state, also ones never finished. Space comes back by `reclaim`. Idempotent. */
  deleteSnapshots(driveSnapshotIds: readonly DriveSnapshotId[], commit: CommitHook): Promise<void>;

  /**
   * Gives back the space of deleted points of these drives, live, merging in the direction that moves fewer bytes. Long; may
   * be aborted and called again; safe beside every other call, and resolves when nothing more can be freed now.
   */
  reclaim(driveIds: readonly DriveId[], control: WorkControl): Promise<ReclaimResult>;

  /** Keeps read depth logarithmic; like `reclaim` in every respect. Returns whether anything was done. */
  compact(driveId: DriveId, control: WorkControl): Promise<boolean>;

  /** Whether `compact` would have work. Cheap; asked after every snapshot. */
  needsCompaction(driveId: DriveId): Promise<boolean>;

  usage(driveId: DriveId): Promise<DriveUsage>;

  /** Sizes of points of one drive, in the order asked. Exact, also while the drive is written. */
  changedBytes(driveId: DriveId, driveSnapshotIds: readonly DriveSnapshotId[]): Promise<readonly number[]>;

  /** @see SnapshotUsage */
  snapshotUsage(driveSnapshotId: DriveSnapshotId): Promise<SnapshotUsage>;

  /** Whether the drive was written since `changedBytes` was last asked; cheap. */
  isDirty(driveId: DriveId): Promise<boolean>;

  /**
   * Where `to` differs from `from`, or, with `from` null, where `to` holds data. `to` may be a drive: its present state.
   * Over-reports only data rewritten with the same bytes.
   */
  changedExtents(from: DriveSnapshotId | null, to: { point: DriveSnapshotId } | { drive: DriveId }): Promise<Extents>;

  /** Serves a drive (one writer or several readers) or a point (readers). Idempotent by id. @throws drive_exported */
  startExport(
    request: {
      exportId: ExportId;
      exportName: string;
      of: { drive: DriveId; writable: boolean } | { point: DriveSnapshotId };
    },
    commit: CommitHook,
  ): Promise<NbdTarget>;

  /** The unix socket on which an export is served while it is open: known at any time, and the same after a restart. */
  socketPathOf(exportId: ExportId): string;

  /** Ends an export; clients are cut off after their requests in flight. Idempotent. */
  stopExport(exportId: ExportId, commit: CommitHook): Promise<void>;

  /** Runs `use` with a private read-only export of a point or of a drive that is not exported writable. */
  withReader<T>(
    of: { drive: DriveId } | { point: DriveSnapshotId },
    use: (target: NbdTarget) => Promise<T>,
  ): Promise<T>;

  /** Verifies every file a drive is made of. @throws drive_exported when the live layer is being written */
  check(driveId: DriveId, control: WorkControl): Promise<CheckReport>;

  /** Compares catalog, files and processes both ways; repairs what it can explain when asked. Deletes nothing it cannot explain. */
  doctor(options: { repair: boolean }): Promise<DoctorReport>;

  /** Free and total bytes of the place where drives live, and whether creates are refused now. */
  space(): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }>;
}
