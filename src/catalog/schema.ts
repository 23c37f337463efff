/** The tables of the catalog as Kysely sees them. Times are microseconds since the epoch; `*_json` columns hold JSON text. */
import type { Generated, Insertable, Selectable, Updateable } from 'kysely';
import type {
  DriveId,
  DriveSnapshotId,
  ExportId,
  GrantId,
  ImageId,
  MachineId,
  ProjectId,
  SnapshotId,
  TagId,
  TaskId,
  TokenId,
  UserId,
} from '../core/ids.ts';
import type { ImageKind, MachineKind } from '../core/model.ts';
import type { DriveState, ImageState, MachinePower, MachineState, SnapshotState, TaskState } from '../core/states.ts';

export interface ProjectsTable {
  number: Generated<number>;
  id: ProjectId;
  name: string;
  description: Generated<string>;
  created_at: number;
  version: number;
}

export interface UsersTable {
  number: Generated<number>;
  id: UserId;
  name: string;
  email: string | null;
  /** `scrypt$N$r$p$salt$hash`, or null for a user who may only use tokens. */
  password_hash: string | null;
  /** 1 for an operator of the whole server, who passes every check. */
  is_operator: number;
  disabled: number;
  created_at: number;
  version: number;
}

export type Role = 'admin' | 'member' | 'guest';

export interface MembershipsTable {
  project_id: ProjectId;
  user_id: UserId;
  /** admin: everything in the project; member: everything but its users; guest: only what is granted. */
  role: Role;
}

export type GrantedKind = 'machine' | 'drive' | 'snapshot' | 'image';
export type Access = 'ro' | 'rw';

export interface GrantsTable {
  number: Generated<number>;
  id: GrantId;
  project_id: ProjectId;
  user_id: UserId;
  object_kind: GrantedKind;
  object_id: string;
  access: Access;
  created_at: number;
}

export interface TokensTable {
  number: Generated<number>;
  id: TokenId;
  user_id: UserId;
  name: string;
  /** SHA-256 of the secret, hex. */
  hash: string;
  /** The secret's first characters, so that people can tell tokens apart. */
  prefix: string;
  created_at: number;
  expires_at: number | null;
  revoked_at: number | null;
}

export interface DrivesTable {
  number: Generated<number>;
  id: DriveId;
  project_id: ProjectId;
  name: string;
  description: string;
  size_bytes: number;
  state: DriveState;
  meta_json: string;
  error_json: string | null;
  /** The drive snapshot that the live state descends from: the `current` marker of the tree. */
  based_on: DriveSnapshotId | null;
  /** What the drive was made from, if it was cloned. */
  source_id: DriveSnapshotId | null;
  /** The image it was made from; null once it was flattened. */
  image_id: ImageId | null;
  /** 1 when a stored `changed_bytes` of its snapshots may be out of date. */
  sizes_stale: number;
  created_at: number;
  updated_at: number;
  deleted_at: number | null;
  version: number;
}

export interface MachinesTable {
  number: Generated<number>;
  id: MachineId;
  project_id: ProjectId;
  name: string;
  description: string;
  kind: MachineKind;
  /** 1: its QEMU process is ours. */
  managed: number;
  state: MachineState;
  /** What it was last seen to do, or was told to. */
  power: MachinePower;
  hardware_json: string;
  boot_json: string;
  meta_json: string;
  error_json: string | null;
  /** The machine snapshot that its state descends from. */
  based_on: SnapshotId | null;
  source_id: SnapshotId | null;
  image_id: ImageId | null;
  /** When the present run began, µs; null while off. */
  started_at: number | null;
  /** Monitor and agent sockets of an adopted machine. */
  qmp_path: Generated<string | null>;
  agent_path: Generated<string | null>;
  created_at: number;
  updated_at: number;
  version: number;
}

/** A machine that was deleted while there are snapshots of it; grants on it stay as long. */
export interface DepartedMachinesTable {
  number: number;
  id: MachineId;
  project_id: ProjectId;
  name: string;
  kind: MachineKind;
  created_at: number;
  deleted_at: number;
}

export interface MachineDrivesTable {
  machine_id: MachineId;
  slot: number;
  drive_id: DriveId;
}

/** What a snapshot of a machine holds beside its parts; outlives the machine. */
export interface MachineSnapshotsTable {
  snapshot_id: SnapshotId;
  machine_id: MachineId;
  machine_name: string;
  parent_id: SnapshotId | null;
  power: MachinePower;
  kind: MachineKind;
  boot_json: string;
  hardware_json: string;
  slots_json: string;
  excluded_json: string;
  reason: string;
  frozen_us: number | null;
  pause_us: number | null;
}

/** planned: row written before the file; kept: whole and durable; dead: to be unlinked. */
export type MemoryFileState = 'planned' | 'kept' | 'dead';

/** A file with a guest's memory, `m<id in base 36>.zst`. */
export interface MemoryFilesTable {
  id: Generated<number>;
  snapshot_id: SnapshotId;
  /** @see MemoryFileState */
  state: MemoryFileState;
  method: 'background' | 'stopped';
  accelerator: string;
  qemu_version: string;
  stream_bytes: number | null;
  stored_bytes: number | null;
  /** CRC-32 of the file; the zstd frame in it has a checksum of its own. */
  checksum: number | null;
  created_at: number;
}

export interface SnapshotsTable {
  number: Generated<number>;
  id: SnapshotId;
  project_id: ProjectId;
  name: string;
  description: string;
  state: SnapshotState;
  meta_json: string;
  error_json: string | null;
  /** Why it exists: asked for, or kept by a revert. */
  origin: 'manual' | 'safety';
  consistency: 'memory' | 'filesystem' | 'crash';
  /** 0 once one of its drive snapshots was deleted on its own. */
  complete: number;
  /** The machine it was taken of; see `machine_snapshots`. */
  machine_id: MachineId | null;
  created_by: UserId | null;
  /** The instant it stands for. */
  created_at: number;
  /** When it was finished; null until then. */
  available_at: Generated<number | null>;
  /** How many rows of `drive_snapshots` it has. */
  part_count: Generated<number>;
  updated_at: number;
  version: number;
}

export interface DriveSnapshotsTable {
  number: Generated<number>;
  id: DriveSnapshotId;
  snapshot_id: SnapshotId;
  drive_id: DriveId;
  parent_id: DriveSnapshotId | null;
  /** Virtual size of the drive at that instant. */
  size_bytes: number;
  /** Bytes of the drive changed since; see `drives.sizes_stale`. */
  changed_bytes: number | null;
  created_at: number;
}

export interface ImagesTable {
  number: Generated<number>;
  id: ImageId;
  project_id: ProjectId;
  name: string;
  description: string;
  kind: ImageKind;
  state: ImageState;
  /** Sum over its parts. */
  size_bytes: number;
  consistency: 'filesystem' | 'crash';
  /** `ImageMachine`, for an image of a machine. */
  machine_json: string | null;
  source_id: SnapshotId;
  meta_json: string;
  error_json: string | null;
  created_by: UserId | null;
  created_at: number;
  updated_at: number;
  version: number;
}

/** One drive in an image; outlives the drive it was taken of. */
export interface ImagePartsTable {
  image_id: ImageId;
  slot: number;
  /** The engine's point, which is the image's own. */
  drive_snapshot_id: DriveSnapshotId;
  /** The drive it was taken of. */
  drive_id: DriveId;
  drive_name: string;
  size_bytes: number;
}

export interface TagsTable {
  object_id: string;
  tag: string;
}

/** A tag as an object of its project; every tag that an object has is here, too. */
export interface ProjectTagsTable {
  number: Generated<number>;
  id: TagId;
  project_id: ProjectId;
  name: string;
  meta_json: string;
  /** Null for one that came about by being used. */
  created_by: UserId | null;
  created_at: number;
  updated_at: number;
  version: number;
}

/** What a front door keeps with an object, by name. */
export interface TraitsTable {
  object_id: string;
  name: string;
  value: string;
}

/** What a user wants, by name. */
export interface PreferencesTable {
  user_id: UserId;
  name: string;
  value: string;
}

export interface TasksTable {
  number: Generated<number>;
  id: TaskId;
  project_id: ProjectId | null;
  user_id: UserId | null;
  via: string;
  kind: string;
  state: TaskState;
  object_kind: string | null;
  object_id: string | null;
  input_json: string;
  result_json: string | null;
  error_json: string | null;
  progress_done: number;
  progress_total: number;
  progress_unit: 'bytes' | 'steps';
  /** Bytes per second, 0 for no limit. */
  speed_limit: number;
  cancel_requested: number;
  pause_requested: number;
  /** 1 while other changes of the same drives must wait. */
  holds_drives: number;
  /** The machine that it changes. */
  machine_id: MachineId | null;
  /** What whoever asked for it calls it. */
  title: Generated<string | null>;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  version: number;
}

export interface TaskDrivesTable {
  task_id: TaskId;
  drive_id: DriveId;
}

export interface ExportsTable {
  number: Generated<number>;
  id: ExportId;
  project_id: ProjectId;
  drive_id: DriveId | null;
  drive_snapshot_id: DriveSnapshotId | null;
  /** 1: read-write. */
  writable: number;
  transport: 'unix' | 'tcp';
  /** The NBD export name. */
  name: string;
  detail_json: string;
  /** The machine that uses it; such an export is not shown to anybody. */
  machine_id: MachineId | null;
  created_at: number;
}

export interface IdempotencyTable {
  user_id: UserId;
  key: string;
  request_hash: string;
  task_id: TaskId | null;
  object_kind: string | null;
  object_id: string | null;
  created_at: number;
}

export interface EventsTable {
  seq: Generated<number>;
  at: number;
  project_id: ProjectId | null;
  user_id: UserId | null;
  via: string;
  kind: string;
  object_kind: string;
  object_id: string;
  detail_json: string;
}

export interface SettingsTable {
  key: string;
  value: string;
}

/**
 * planned: row written before the file; spare: made ahead of a pivot, empty; active: a drive's top; frozen: immutable but
 * for merges; dead: to be unlinked.
 */
export type Qcow2FileState = 'planned' | 'spare' | 'active' | 'frozen' | 'dead';

/**
 * `own`: made here. `adopted`: the disk of a virtual machine that somebody else made; it is written, as by its machine, but
 * never removed. `fixed`: what that stood on already; it is only read.
 */
export type Qcow2FileOrigin = 'own' | 'adopted' | 'fixed';
export type LayerFormat = 'qcow2' | 'raw';

/** A qcow2 file of the pool, `l<id in base 36>.qcow2`, or one outside of it. */
export interface Qcow2FilesTable {
  id: Generated<number>;
  backing_id: number | null;
  /** @see Qcow2FileState */
  state: Qcow2FileState;
  /** The drive whose history it was made for; accounting only. */
  drive_id: DriveId;
  size_bytes: number;
  /** 0 for one delta, n for a skip layer over deltas of level n - 1, 99 for one with no backing. */
  level: number;
  /** Allocated bytes when it froze; null while active or not yet measured. */
  data_bytes: number | null;
  /** Where it is, absolute; null in the image directory. */
  path: Generated<string | null>;
  /** @see Qcow2FileOrigin */
  origin: Generated<Qcow2FileOrigin>;
  format: Generated<LayerFormat>;
  created_at: number;
}

/** One interval of a drive's history: what changed between two points in time. */
export interface Qcow2LayersTable {
  id: Generated<number>;
  parent_id: number | null;
  drive_id: DriveId;
  /** Changes taken over from removed intervals, as encoded extents. */
  carried: Uint8Array | null;
  /** All changes, once recorded. */
  delta: Uint8Array | null;
  /** The file whose allocation completes `carried`, until `delta` is recorded. */
  file_id: number | null;
}

export interface Qcow2DrivesTable {
  drive_id: DriveId;
  file_id: number;
  layer_id: number;
  spare_id: number | null;
  /** The last revert that was carried out, so that its retry is told apart from another. */
  last_operation: string | null;
  /** The QEMU process of somebody else's that has the drive open, by its machine; null: the storage daemon serves it. */
  process_id: Generated<MachineId | null>;
  /** That process's name for the disk. */
  device: Generated<string | null>;
  /** What the paths of its new files begin with; null in the image directory. */
  place: Generated<string | null>;
}

export interface Qcow2PointsTable {
  drive_snapshot_id: DriveSnapshotId;
  drive_id: DriveId;
  file_id: number;
  layer_id: number;
}

/** A change of files under way; a row outlives a crash and is rolled forward at start. */
export interface Qcow2IntentsTable {
  id: Generated<number>;
  kind: string;
  plan_json: string;
  created_at: number;
}

export interface Schema {
  settings: SettingsTable;
  projects: ProjectsTable;
  users: UsersTable;
  memberships: MembershipsTable;
  grants: GrantsTable;
  tokens: TokensTable;
  machines: MachinesTable;
  departed_machines: DepartedMachinesTable;
  machine_drives: MachineDrivesTable;
  machine_snapshots: MachineSnapshotsTable;
  memory_files: MemoryFilesTable;
  drives: DrivesTable;
  snapshots: SnapshotsTable;
  drive_snapshots: DriveSnapshotsTable;
  images: ImagesTable;
  image_parts: ImagePartsTable;
  tags: TagsTable;
  project_tags: ProjectTagsTable;
  traits: TraitsTable;
  preferences: PreferencesTable;
  tasks: TasksTable;
  task_drives: TaskDrivesTable;
  exports: ExportsTable;
  idempotency: IdempotencyTable;
  events: EventsTable;
  qcow2_files: Qcow2FilesTable;
  qcow2_layers: Qcow2LayersTable;
  qcow2_drives: Qcow2DrivesTable;
  qcow2_points: Qcow2PointsTable;
  qcow2_intents: Qcow2IntentsTable;
}

export type MachineRow = Selectable<MachinesTable>;
export type DepartedMachineRow = Selectable<DepartedMachinesTable>;
export type MachineSnapshotRow = Selectable<MachineSnapshotsTable>;
export type MemoryFileRow = Selectable<MemoryFilesTable>;
export type DriveRow = Selectable<DrivesTable>;
export type SnapshotRow = Selectable<SnapshotsTable>;
export type DriveSnapshotRow = Selectable<DriveSnapshotsTable>;
export type ImageRow = Selectable<ImagesTable>;
export type ImagePartRow = Selectable<ImagePartsTable>;
export type ProjectTagRow = Selectable<ProjectTagsTable>;
export type TaskRow = Selectable<TasksTable>;
export type TaskUpdate = Updateable<TasksTable>;
export type NewTask = Insertable<TasksTable>;
export type ExportRow = Selectable<ExportsTable>;
export type EventRow = Selectable<EventsTable>;
export type UserRow = Selectable<UsersTable>;
export type ProjectRow = Selectable<ProjectsTable>;
export type TokenRow = Selectable<TokensTable>;
export type GrantRow = Selectable<GrantsTable>;
export type Qcow2FileRow = Selectable<Qcow2FilesTable>;
export type Qcow2LayerRow = Selectable<Qcow2LayersTable>;
