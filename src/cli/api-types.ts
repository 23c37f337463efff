/** What the native API sends (docs/api.md): plain JSON; sizes in bytes, times ISO 8601 UTC. */

export type Meta = Readonly<Record<string, string>>;

export interface StoredError {
  readonly code: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}

/** RFC 9457. */
export interface Problem {
  readonly type: string;
  readonly title?: string;
  readonly status: number;
  readonly detail?: string;
  readonly code: string;
  readonly retryable?: boolean;
  readonly changed?: 'no' | 'rolledBack' | 'partly';
  readonly requestId?: string;
  readonly field?: string;
  readonly blocking?: unknown;
  readonly taskId?: string;
  readonly remedy?: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  readonly nextCursor?: string | null;
  readonly total?: number | null;
}

interface Labelled {
  readonly id: string;
  readonly number: number;
  readonly projectId: string;
  readonly name: string;
  readonly description: string;
  readonly state: string;
  readonly meta: Meta;
  readonly tags: readonly string[];
  readonly error: StoredError | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly version: number;
}

export interface Drive extends Labelled {
  readonly sizeBytes: number;
  /** The drive snapshot its present state descends from. */
  readonly basedOn: string | null;
  readonly sourceId: string | null;
  /** The image it was made from, until it is flattened. */
  readonly imageId: string | null;
  readonly snapshotCount: number;
  readonly exported: boolean;
  readonly attachedTo: { readonly machineId: string; readonly slot: number } | null;
}

export interface MachineSlot {
  readonly slot: number;
  readonly driveId: string;
}

export interface MachineHardware {
  /** As QEMU names it, with its version. */
  readonly machineType: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly macAddress: string;
}

export interface MachineBoot {
  readonly from: 'drive' | 'kernel';
  readonly kernel?: string;
  readonly initrd?: string | null;
  readonly append?: string;
}

export interface Machine extends Labelled {
  readonly kind: string;
  /** The server runs its QEMU process. */
  readonly managed: boolean;
  readonly power: string;
  readonly hardware: MachineHardware;
  readonly boot: MachineBoot;
  readonly drives: readonly MachineSlot[];
  /** The machine snapshot its present state descends from. */
  readonly basedOn: string | null;
  readonly sourceId: string | null;
  /** The image it was made from, which may be gone. */
  readonly imageId: string | null;
  readonly snapshotCount: number;
  /** Null while it is off. */
  readonly runtime: {
    readonly pid: number;
    readonly accelerator: string;
    readonly qemuVersion: string;
    readonly startedAt: string;
    readonly uptimeSeconds: number;
  } | null;
}

/** What a snapshot of a machine says beyond its parts. */
export interface MachineSnapshot {
  readonly machineId: string;
  readonly machineName: string;
  /** The machine snapshot it was taken after. */
  readonly parentId: string | null;
  readonly current: boolean;
  /** What the machine did at that instant. */
  readonly power: string;
  readonly hardware: MachineHardware;
  readonly slots: readonly MachineSlot[];
  /** Ids of attached drives that were left out. */
  readonly excluded: readonly string[];
  /** Why the consistency is what it is. */
  readonly reason: string;
  readonly frozenMilliseconds: number | null;
  readonly pauseMilliseconds: number | null;
  readonly memory: {
    readonly method: string;
    readonly streamBytes: number | null;
    readonly storedBytes: number | null;
  } | null;
}

export interface DriveSnapshot {
  readonly id: string;
  readonly number: number;
  readonly snapshotId: string;
  readonly driveId: string;
  readonly driveName: string;
  readonly parentId: string | null;
  readonly virtualBytes: number;
  readonly sizeBytes: number | null;
  readonly current: boolean;
}

export interface Snapshot extends Labelled {
  readonly origin: string;
  readonly consistency: string;
  readonly complete: boolean;
  readonly parts: readonly DriveSnapshot[];
  /** Null for a snapshot of drives. */
  readonly machine: MachineSnapshot | null;
  readonly sizeBytes: number | null;
  readonly createdBy: string | null;
}

export interface SnapshotNode {
  /** Levels below a root. */
  readonly depth: number;
  readonly part: DriveSnapshot;
  readonly snapshot: Snapshot;
  /** Ids of drive snapshots. */
  readonly children: readonly string[];
}

/** Every node comes after its parent. */
export interface SnapshotTree {
  readonly current: string | null;
  readonly nodes: readonly SnapshotNode[];
}

/** A template for drives and machines. */
export interface Image extends Labelled {
  readonly kind: 'drive' | 'machine';
  readonly sizeBytes: number;
  readonly consistency: string;
  /** What it holds. */
  readonly drives: readonly { readonly slot: number; readonly name: string; readonly sizeBytes: number }[];
  /** What a machine made from it starts with; null for an image of a drive. */
  readonly machine: {
    readonly name: string;
    readonly kind: string;
    readonly hardware: Omit<MachineHardware, 'macAddress'>;
    readonly boot: MachineBoot;
  } | null;
  readonly sourceId: string;
  /** Drives made from it and not flattened since. */
  readonly cloneCount: number;
  readonly createdBy: string | null;
}

export interface TaskProgress {
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'steps';
  readonly ratePerSecond: number | null;
  readonly estimateSeconds: number | null;
}

export interface Task {
  readonly id: string;
  readonly number: number;
  readonly kind: string;
  readonly state: 'queued' | 'running' | 'paused' | 'done' | 'failed' | 'cancelled';
  readonly via: string;
  readonly objectKind: string | null;
  readonly objectId: string | null;
  readonly driveIds: readonly string[];
  readonly machineId: string | null;
  readonly progress: TaskProgress;
  readonly result: Readonly<Record<string, unknown>> | null;
  readonly error: StoredError | null;
  readonly cancellable: boolean;
  readonly pausable: boolean;
  readonly speedLimitBytesPerSecond: number;
  readonly createdAt: string;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
}

/** What a change answers: its task, and the object where there is one. */
export interface Change {
  readonly task: Task;
  readonly drive?: Drive;
  readonly machine?: Machine;
  readonly snapshot?: Snapshot;
  readonly image?: Image;
}

export interface DriveExport {
  readonly id: string;
  readonly driveId: string | null;
  readonly driveSnapshotId: string | null;
  readonly writable: boolean;
  readonly transport: 'unix' | 'tcp';
  readonly exportName: string;
  readonly uri: string;
  readonly tlsPsk?: { readonly identity: string; readonly keyHex: string };
  readonly createdAt: string;
}

export interface DriveUsage {
  readonly virtualBytes: number;
  readonly liveBytes: number;
  readonly snapshotBytes: number;
  readonly onDiskBytes: number;
  readonly depth: number;
}

export interface SnapshotUsage {
  readonly parts: readonly {
    readonly driveSnapshotId: string;
    readonly sizeBytes: number;
    readonly uniqueBytes: number;
  }[];
}

export interface Changes {
  readonly extents: readonly { readonly start: number; readonly length: number }[];
  readonly totalBytes: number;
}

export interface Finding {
  readonly code: string;
  readonly severity: 'info' | 'warning' | 'error';
  readonly subject: string;
  readonly explanation: string;
  readonly repairable: boolean;
  readonly repaired?: boolean;
}

export interface DoctorReport {
  readonly findings: readonly Finding[];
  readonly checkedFiles: number;
}

export interface Space {
  readonly freeBytes: number;
  readonly totalBytes: number;
  readonly reserveBytes: number;
  readonly low: boolean;
}

export interface CatalogEvent {
  readonly seq: number;
  readonly at: string;
  readonly projectId: string | null;
  readonly userId: string | null;
  readonly via: string;
  readonly kind: string;
  readonly objectKind: string;
  readonly objectId: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface Project {
  readonly id: string;
  readonly name: string;
  readonly createdAt: string;
  readonly version: number;
}

export interface Member {
  readonly projectId: string;
  readonly userId: string;
  readonly userName: string;
  readonly email: string | null;
  readonly role: string;
}

export interface User {
  readonly id: string;
  readonly name: string;
  readonly email: string | null;
  readonly isOperator: boolean;
  readonly disabled: boolean;
  readonly hasPassword: boolean;
  readonly createdAt: string;
  readonly version: number;
}

export interface Token {
  readonly id: string;
  readonly name: string;
  readonly userId: string;
  readonly prefix: string;
  readonly createdAt: string;
  readonly expiresAt: string | null;
  readonly revokedAt: string | null;
}

/** The answer to the creation of a token: the only place of its secret. */
export interface NewToken {
  readonly token: Token;
  readonly secret: string;
}

export interface Grant {
  readonly id: string;
  readonly userId: string;
  readonly objectKind: string;
  readonly objectId: string;
  readonly access: string;
  readonly createdAt: string;
}

export interface ServerInfo {
  readonly name: string;
  readonly version: string;
  readonly engine: unknown;
  readonly capabilities: unknown;
  /** Null to all but operators. */
  readonly bootDirectory?: string | null;
  readonly caller?: {
    readonly userId?: string;
    readonly userName?: string;
    readonly projectId?: string;
    readonly projectName?: string;
    readonly role?: string;
  };
}

/** `<data>/access.json`. */
export interface AccessFile {
  readonly user?: string;
  readonly token?: string;
  readonly project?: string;
  readonly endpoints?: { readonly native?: string };
}
