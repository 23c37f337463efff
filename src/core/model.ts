/** The model: the objects that the service returns and every front door presents. Plain data; times in µs, sizes in bytes. */
import type { StoredError } from './errors.ts';
import type {
  DriveId,
  DriveSnapshotId,
  ExportId,
  ImageId,
  MachineId,
  ProjectId,
  SnapshotId,
  TaskId,
  UserId,
} from './ids.ts';
import type { DriveState, ImageState, MachinePower, MachineState, SnapshotState, TaskState } from './states.ts';

export type Meta = Readonly<Record<string, string>>;

/** A block volume. */
export interface Drive {
  readonly id: DriveId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly state: DriveState;
  readonly meta: Meta;
  readonly tags: readonly string[];
  readonly error: StoredError | null;
  /** The drive snapshot its present state descends from. */
  readonly basedOn: DriveSnapshotId | null;
  /** The drive snapshot it was cloned from. */
  readonly sourceId: DriveSnapshotId | null;
  /** The image it was made from, until it is flattened. */
  readonly imageId: ImageId | null;
  readonly snapshotCount: number;
  readonly exported: boolean;
  /** The machine it is attached to, and where. */
  readonly attachedTo: { readonly machineId: MachineId; readonly slot: number } | null;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly version: number;
}

/** How a machine starts: from its first drive through firmware, or by a kernel of the operator's boot directory. */
export type MachineBoot =
  | { readonly from: 'drive' }
  | { readonly from: 'kernel'; readonly kernel: string; readonly initrd: string | null; readonly append: string };

/** What the guest sees of the machine; stored memory can only be used on the same. */
export interface MachineHardware {
  /** QEMU's versioned name, such as `pc-i440fx-7.2`. */
  readonly machineType: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly macAddress: string;
}

export const accelerators = ['kvm', 'tcg'] as const;
export type Accelerator = (typeof accelerators)[number];

/** What is known of the QEMU process while there is one. */
export interface MachineRuntime {
  readonly pid: number;
  readonly accelerator: Accelerator;
  readonly qemuVersion: string;
  readonly power: MachinePower;
  /** µs */
  readonly startedAt: number;
}

export const machineKinds = ['vm', 'instance'] as const;
export type MachineKind = (typeof machineKinds)[number];

/** A virtual machine. */
export interface Machine {
  readonly id: MachineId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly description: string;
  readonly kind: MachineKind;
  /** False for one whose QEMU process somebody else runs. */
  readonly managed: boolean;
  readonly state: MachineState;
  readonly power: MachinePower;
  readonly hardware: MachineHardware;
  readonly boot: MachineBoot;
  readonly drives: readonly { readonly slot: number; readonly driveId: DriveId }[];
  readonly meta: Meta;
  readonly tags: readonly string[];
  /** Why it is in state error, or how it last ended if that was not wanted. */
  readonly error: StoredError | null;
  /** The machine snapshot its present state descends from. */
  readonly basedOn: SnapshotId | null;
  /** The machine snapshot it was cloned from. */
  readonly sourceId: SnapshotId | null;
  /** The image it was made from, which may be gone. */
  readonly imageId: ImageId | null;
  readonly snapshotCount: number;
  readonly runtime: MachineRuntime | null;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly version: number;
}

export const quiesceModes = ['require', 'prefer', 'never'] as const;
export type QuiesceMode = (typeof quiesceModes)[number];

/** What a snapshot of a machine says beyond its parts. */
export interface MachineSnapshot {
  readonly machineId: MachineId;
  readonly machineName: string;
  /** The machine snapshot it was taken after. */
  readonly parentId: SnapshotId | null;
  /** True when the machine's present state descends directly from it. */
  readonly current: boolean;
  /** What the machine did at that instant. */
  readonly power: MachinePower;
  readonly hardware: MachineHardware;
  readonly slots: readonly { readonly slot: number; readonly driveId: DriveId }[];
  /** Drives that were attached and left out on request. */
  readonly excluded: readonly DriveId[];
  /** Why the consistency is what it is, in a sentence. */
  readonly reason: string;
  /** How long file systems were frozen, µs; null when they were not. */
  readonly frozenUs: number | null;
  /** How long the guest stood still, µs; null when it did not run. */
  readonly pauseUs: number | null;
  /** The guest's memory; null without. */
  readonly memory: MemoryInfo | null;
}

export interface MemoryInfo {
  /** `background`: the guest ran on while it was written. `stopped`: it stood still meanwhile. */
  readonly method: 'background' | 'stopped';
  /** Bytes of the migration stream, and what they take compressed; null while being written. */
  readonly streamBytes: number | null;
  readonly storedBytes: number | null;
}

/** The part of a snapshot that covers one drive. */
export interface DriveSnapshot {
  readonly id: DriveSnapshotId;
  readonly number: number;
  readonly snapshotId: SnapshotId;
  readonly driveId: DriveId;
  readonly driveName: string;
  readonly parentId: DriveSnapshotId | null;
  /** Virtual size of the drive at that instant. */
  readonly virtualBytes: number;
  /** Bytes of the drive changed since, exact to 4 KiB; null while being made. */
  readonly sizeBytes: number | null;
  /** True when the drive's present state descends directly from it. */
  readonly current: boolean;
}

/** One point in time of one or several drives. */
export interface Snapshot {
  readonly id: SnapshotId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly description: string;
  readonly state: SnapshotState;
  readonly meta: Meta;
  readonly tags: readonly string[];
  readonly error: StoredError | null;
  readonly origin: 'manual' | 'safety';
  readonly consistency: 'memory' | 'filesystem' | 'crash';
  /** False once a part of it was deleted on its own: it can no longer be reverted to as a whole. */
  readonly complete: boolean;
  readonly parts: readonly DriveSnapshot[];
  /** For a snapshot of a machine. */
  readonly machine: MachineSnapshot | null;
  /** Sum over its parts. */
  readonly sizeBytes: number | null;
  readonly createdBy: UserId | null;
  /** The instant it stands for. */
  readonly createdAt: number;
  /** When it was finished; null until then, and in snapshots of earlier versions. */
  readonly availableAt: number | null;
  readonly updatedAt: number;
  readonly version: number;
}

export const imageKinds = ['drive', 'machine'] as const;
export type ImageKind = (typeof imageKinds)[number];

/** What an image says of the machine it was taken of, and a machine made from it starts with. */
export interface ImageMachine {
  readonly name: string;
  readonly kind: MachineKind;
  readonly hardware: Omit<MachineHardware, 'macAddress'>;
  readonly boot: MachineBoot;
}

/** A template: one instant that never changes, for any number of drives and machines. It outlives what it was made from. */
export interface Image {
  readonly id: ImageId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly description: string;
  /** `drive`: of one drive. `machine`: of a machine with its drives. */
  readonly kind: ImageKind;
  readonly state: ImageState;
  readonly meta: Meta;
  readonly tags: readonly string[];
  readonly error: StoredError | null;
  /** Sum over its drives. */
  readonly sizeBytes: number;
  /** How good its data is; memory is no part of an image. */
  readonly consistency: 'filesystem' | 'crash';
  /** What it holds, by slot; an image of a drive has one, in slot 0. */
  readonly drives: readonly { readonly slot: number; readonly name: string; readonly sizeBytes: number }[];
  readonly machine: ImageMachine | null;
  /** The snapshot it was made from, which may be gone. */
  readonly sourceId: SnapshotId;
  /** Drives that were made from it and not flattened since; as long as there are any, it is in use. */
  readonly cloneCount: number;
  readonly createdBy: UserId | null;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly version: number;
}

export interface TaskProgress {
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'steps';
  /** Units per second over the last seconds; null when not known. */
  readonly ratePerSecond: number | null;
  readonly estimateSeconds: number | null;
}

/** One durable piece of work. */
export interface Task {
  readonly id: TaskId;
  readonly number: number;
  readonly projectId: ProjectId | null;
  readonly userId: UserId | null;
  readonly via: string;
  readonly kind: TaskKind;
  readonly state: TaskState;
  readonly objectKind: string | null;
  readonly objectId: string | null;
  readonly driveIds: readonly DriveId[];
  /** The machine that it changes, if it changes one. */
  readonly machineId: MachineId | null;
  /** What the front door calls it that began it; null if it has no words of its own. */
  readonly title: string | null;
  readonly progress: TaskProgress;
  readonly result: Readonly<Record<string, unknown>> | null;
  readonly error: StoredError | null;
  /** What was asked for is done, and durable. A deletion goes on after that, to give its space back. */
  readonly settled: boolean;
  readonly cancellable: boolean;
  readonly pausable: boolean;
  readonly speedLimitBytesPerSecond: number;
  readonly createdAt: number;
  readonly startedAt: number | null;
  readonly finishedAt: number | null;
}

export const taskKinds = [
  'machine.create',
  'machine.clone',
  'machine.adopt',
  'machine.disown',
  'machine.delete',
  'machine.start',
  'machine.stop',
  'machine.pause',
  'machine.resume',
  'machine.reset',
  'machine.attach',
  'machine.detach',
  'machine.snapshot',
  'machine.revert',
  'drive.create',
  'drive.import',
  'drive.resize',
  'drive.delete',
  'drive.clone',
  'drive.flatten',
  'drive.revert',
  'drive.check',
  'drive.export',
  'drive.unexport',
  'drive.compact',
  'snapshot.create',
  'snapshot.revert',
  'snapshot.delete',
  'image.create',
  'image.delete',
] as const;
export type TaskKind = (typeof taskKinds)[number];

/** A drive or drive snapshot served over NBD. */
export interface DriveExport {
  readonly id: ExportId;
  readonly projectId: ProjectId;
  readonly driveId: DriveId | null;
  readonly driveSnapshotId: DriveSnapshotId | null;
  readonly writable: boolean;
  readonly transport: 'unix' | 'tcp';
  readonly exportName: string;
  /** `nbd+unix:///NAME?socket=PATH` or `nbd[s]://HOST:PORT/NAME`. */
  readonly uri: string;
  /** Shown once, when the export is made with TLS. */
  readonly tlsPsk?: { readonly identity: string; readonly keyHex: string };
  readonly createdAt: number;
}

/** The four numbers of a drive. */
export interface DriveUsage {
  /** What a client sees. */
  readonly virtualBytes: number;
  /** Data that the present state refers to, shared or not. */
  readonly liveBytes: number;
  /** Data kept only because snapshots of this drive refer to it. */
  readonly snapshotBytes: number;
  /** Bytes its files take on the file system, metadata included. */
  readonly onDiskBytes: number;
  /** Layers a read may have to walk, the active one included. */
  readonly depth: number;
}

export interface SnapshotUsage {
  /** Bytes of the drive changed since. */
  readonly sizeBytes: number;
  /** Bytes freed if this one alone were deleted. */
  readonly uniqueBytes: number;
}

export interface CheckReport {
  readonly ok: boolean;
  readonly files: number;
  readonly errors: number;
  readonly corruptions: number;
  readonly leaks: number;
}

/** One difference between what the catalog says and what is there. */
export interface Finding {
  readonly code: string;
  readonly severity: 'info' | 'warning' | 'error';
  readonly subject: string;
  readonly explanation: string;
  readonly repairable: boolean;
  repaired?: boolean;
}

export interface CatalogEvent {
  readonly seq: number;
  readonly at: number;
  readonly projectId: ProjectId | null;
  readonly userId: UserId | null;
  readonly via: string;
  readonly kind: string;
  readonly objectKind: string;
  readonly objectId: string;
  readonly detail: Readonly<Record<string, unknown>>;
}
