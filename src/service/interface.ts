/**
 * The use cases, as the front doors see them. Every call takes the caller first, checks rights, and speaks in the
 * model's terms. Changes return the task that carries them out, beside the object where there is one; `waitFor` waits for it.
 */
import type { Readable } from 'node:stream';
import type { Traits } from '../catalog/traits.ts';
import type { Extents } from '../core/extents.ts';
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
} from '../core/ids.ts';
import type {
  CatalogEvent,
  Drive,
  DriveExport,
  DriveSnapshot,
  DriveUsage,
  Image,
  ImageKind,
  Machine,
  MachineBoot,
  MachineKind,
  Meta,
  Snapshot,
  SnapshotUsage,
  Task,
} from '../core/model.ts';
import type { Query, QueryKind } from '../core/query.ts';
import type { DriveState, ImageState, MachinePower, MachineState, SnapshotState, TaskState } from '../core/states.ts';
import type { DoctorReport, DriveFiles, ImageFormat } from '../engine/engine.ts';
import type { SerialRange } from '../qemu/serial-log.ts';
import type { Caller } from './caller.ts';
import type { DriveFromImage, MachineFromImage } from './image-clones.ts';
import type { AdoptionRequest, DisownInput } from './machine-adoption.ts';
import type { MachineCloneRequest } from './machine-clones.ts';
import type { MachineDeletion } from './machine-delete.ts';
import type { MachineRevertRequest } from './machine-reverts.ts';
import type { MachineSnapshotRequest } from './machine-snapshots.ts';
import type { StopMode } from './machine-tasks.ts';
import type { PreferenceUseCases } from './preferences.ts';
import type { TagUseCases } from './tags.ts';
import type { TraitUseCases } from './traits.ts';

export interface Page<T> {
  readonly items: readonly T[];
  /** Opaque; null on the last page. */
  readonly nextCursor: string | null;
  /** Exact count of all that match, when asked for. */
  readonly total: number | null;
}

export interface PageRequest {
  /** 1 to 1000, default 100. */
  readonly limit?: number;
  readonly cursor?: string;
  /** For dialects that page by offset; excludes `cursor`. */
  readonly offset?: number;
  readonly withTotal?: boolean;
}

/** Name filters combine by AND. */
export interface NameFilter {
  readonly name?: string;
  /** Case-insensitive part of the name. */
  readonly nameContains?: string;
  /** `*` stands for any run of characters; case-sensitive, anchored. */
  readonly nameLike?: string;
}

export interface DriveFilter extends NameFilter {
  readonly states?: readonly DriveState[];
  readonly tag?: string;
  /** Made from this image and not flattened since. */
  readonly imageId?: ImageId;
}

export interface SnapshotFilter extends NameFilter {
  readonly driveId?: DriveId;
  readonly machineId?: MachineId;
  readonly states?: readonly SnapshotState[];
  readonly tag?: string;
  /** µs, inclusive. */
  readonly createdFrom?: number;
  /** µs, exclusive. */
  readonly createdBefore?: number;
}

export type SortOrder = 'asc' | 'desc';
export type SnapshotSort = 'created' | 'name' | 'state' | 'number';
export type DriveSort = 'created' | 'name' | 'state' | 'number';

export interface Labels {
  readonly description?: string;
  readonly meta?: Meta;
  readonly tags?: readonly string[];
}

export interface Update extends Labels {
  readonly name?: string;
  /** Fail with `precondition_failed` unless the object is at this version. */
  readonly ifVersion?: number;
}

/** Given on creates: a retry with the same key and the same request finds the first attempt. */
export interface Idempotency {
  readonly key: string;
  /** SHA-256 over method, path and canonical body. */
  readonly requestHash: string;
}

export interface CreateOptions {
  readonly idempotency?: Idempotency;
  /** Refuse with `name_taken` when an object of that name exists in the project. */
  readonly refuseExistingName?: boolean;
  /** Refuse with `drive_busy` while another task changes the machine. Taking a snapshot changes nothing. */
  readonly refuseBusy?: boolean;
}

/** What a front door keeps with a new drive beside what the model knows of it. */
export interface WithTraits {
  readonly traits?: Traits;
}

export type WithTask<K extends string, T> = { readonly task: Task } & { readonly [key in K]: T };

export interface DriveUseCases {
  /** With `attachTo` the task ends when it is in the next free slot of that machine. */
  create(
    caller: Caller,
    input: Labels & { name: string; sizeBytes: number; attachTo?: MachineId },
    options?: CreateOptions,
  ): Promise<WithTask<'drive', Drive>>;
  /** Up to 256, all or none. */
  createEach(
    caller: Caller,
    inputs: readonly (Labels & WithTraits & { name: string; sizeBytes: number })[],
  ): Promise<readonly WithTask<'drive', Drive>[]>;
  /** A new drive as this one is now; of one that is being written, as after a power failure. No snapshot stays. */
  clone(
    caller: Caller,
    id: DriveId,
    input: Labels & WithTraits & { name: string; sizeBytes?: number },
  ): Promise<WithTask<'drive', Drive>>;
  /** From an upload: consumes the stream, bounded; or from the operator's import directory. */
  import(
    caller: Caller,
    input: Labels & { name: string; format: ImageFormat; source: { stream: Readable } | { file: string } },
    options?: CreateOptions,
  ): Promise<WithTask<'drive', Drive>>;
  list(
    caller: Caller,
    filter: DriveFilter,
    sort: { by: DriveSort; order: SortOrder },
    page: PageRequest,
  ): Promise<Page<Drive>>;
  get(caller: Caller, id: DriveId): Promise<Drive>;
  update(caller: Caller, id: DriveId, update: Update): Promise<Drive>;
  resize(caller: Caller, id: DriveId, sizeBytes: number, options?: CreateOptions): Promise<Task>;
  /** @throws drive_has_snapshots unless `snapshots` says what to do with them and there are some */
  delete(
    caller: Caller,
    id: DriveId,
    options: { snapshots: 'refuse' | 'keep' | 'delete'; ifVersion?: number } & CreateOptions,
  ): Promise<Task>;
  /** Up to 256, all or none. */
  deleteEach(
    caller: Caller,
    ids: readonly DriveId[],
    options: { snapshots: 'refuse' | 'keep' | 'delete' },
  ): Promise<readonly Task[]>;
  usage(caller: Caller, id: DriveId): Promise<DriveUsage>;
  check(caller: Caller, id: DriveId, options?: CreateOptions): Promise<Task>;
  flatten(caller: Caller, id: DriveId, options?: CreateOptions): Promise<Task>;
  /** The drive itself or, with `keepSafety` (default true), after a safety snapshot was kept. */
  revert(
    caller: Caller,
    id: DriveId,
    input: { driveSnapshotId: DriveSnapshotId; keepSafety?: boolean },
    options?: CreateOptions,
  ): Promise<Task>;
  /** Streams the drive's bytes; it must not be exported writable. */
  download(
    caller: Caller,
    id: DriveId,
    format: 'raw' | 'qcow2',
  ): Promise<{ stream: Readable; sizeBytes: number | null; fileName: string }>;
}

export interface MachineFilter extends NameFilter {
  readonly kinds?: readonly MachineKind[];
  readonly states?: readonly MachineState[];
  readonly powers?: readonly MachinePower[];
  readonly tag?: string;
}

export type MachineSort = 'created' | 'name' | 'state' | 'power' | 'number';

export interface MachineUseCases {
  /** Off, with its drives in their slots; a drive without a slot gets the next free one. */
  create(
    caller: Caller,
    input: Labels & {
      name: string;
      /** Default `vm`. */
      kind?: MachineKind;
      /** Default 1. */
      cpus?: number;
      memoryBytes: number;
      drives?: readonly { driveId: DriveId; slot?: number }[];
      /** Default: from its first drive. */
      boot?: MachineBoot;
    },
    options?: CreateOptions,
  ): Promise<WithTask<'machine', Machine>>;
  list(
    caller: Caller,
    filter: MachineFilter,
    sort: { by: MachineSort; order: SortOrder },
    page: PageRequest,
  ): Promise<Page<Machine>>;
  get(caller: Caller, id: MachineId): Promise<Machine>;
  /** Of these, the ones that were deleted and that the caller may see or could see. */
  departed(caller: Caller, ids: readonly MachineId[]): Promise<ReadonlyMap<MachineId, DepartedMachine>>;
  /** Processors and memory only while it is off. */
  update(caller: Caller, id: MachineId, update: Update & { cpus?: number; memoryBytes?: number }): Promise<Machine>;
  /** @throws machine_has_snapshots unless `snapshots` says what to do with them and there are some */
  delete(caller: Caller, id: MachineId, options: MachineDeletion & CreateOptions): Promise<Task>;
  /** Operators only. @throws adoption_refused */
  adopt(caller: Caller, input: AdoptionRequest, options?: CreateOptions): Promise<WithTask<'machine', Machine>>;
  /** Where the drives of an adopted machine are; top first. @throws not_supported for others */
  files(caller: Caller, id: MachineId): Promise<readonly DriveFiles[]>;
  disown(caller: Caller, id: MachineId, input: Partial<DisownInput>, options?: CreateOptions): Promise<Task>;
  start(caller: Caller, id: MachineId, input: { paused?: boolean }, options?: CreateOptions): Promise<Task>;
  /** `graceful` (default): the guest is asked, and after the time limit (default 60 s) the plug is pulled. */
  stop(
    caller: Caller,
    id: MachineId,
    input: { mode?: StopMode; timeoutSeconds?: number },
    options?: CreateOptions,
  ): Promise<Task>;
  pause(caller: Caller, id: MachineId, options?: CreateOptions): Promise<Task>;
  resume(caller: Caller, id: MachineId, options?: CreateOptions): Promise<Task>;
  reset(caller: Caller, id: MachineId, options?: CreateOptions): Promise<Task>;
  attach(
    caller: Caller,
    id: MachineId,
    input: { driveId: DriveId; slot?: number },
    options?: CreateOptions,
  ): Promise<Task>;
  detach(caller: Caller, id: MachineId, driveId: DriveId, options?: CreateOptions): Promise<Task>;
  /**
   * What the guest has written to its serial port, from a byte on; a negative one counts from the end. With `follow` the
   * stream goes on over all runs of the machine, until `signal` is aborted or the machine is deleted.
   */
  serialLog(
    caller: Caller,
    id: MachineId,
    input: { fromByte: number; follow?: boolean; signal?: AbortSignal },
  ): Promise<SerialRange>;
  /** Types on the serial port. Resolves when the bytes are on their way. @throws machine_off, console_full */
  typeOnConsole(caller: Caller, id: MachineId, bytes: Uint8Array): Promise<void>;
}

export interface SnapshotNode {
  readonly part: DriveSnapshot;
  readonly snapshot: Snapshot;
  readonly children: readonly SnapshotNode[];
}

export interface SnapshotUseCases {
  /** The drives at one instant. `name` defaults to the first drive's name and the time. */
  create(
    caller: Caller,
    input: Labels & { driveIds: readonly DriveId[]; name?: string },
    options?: CreateOptions,
  ): Promise<WithTask<'snapshot', Snapshot>>;
  /** Up to 256 that do not depend on each other, each of its own instant: all are begun, or none. */
  createEach(
    caller: Caller,
    inputs: readonly (Labels & { driveIds: readonly DriveId[]; name?: string })[],
  ): Promise<readonly WithTask<'snapshot', Snapshot>[]>;
  /** All drives of a machine at one instant, but for those excluded; on request with its memory. */
  createOfMachine(
    caller: Caller,
    input: MachineSnapshotRequest,
    options?: CreateOptions,
  ): Promise<WithTask<'snapshot', Snapshot>>;
  list(
    caller: Caller,
    filter: SnapshotFilter,
    sort: { by: SnapshotSort; order: SortOrder },
    page: PageRequest,
  ): Promise<Page<Snapshot>>;
  get(caller: Caller, id: SnapshotId): Promise<Snapshot>;
  /** For the answer to `create`: like `get`, with sizes as of the instant it was taken, without measuring the drive. */
  getJustTaken(caller: Caller, id: SnapshotId): Promise<Snapshot>;
  /** For volume dialects and clones: the snapshot that a drive snapshot is part of. */
  getByPart(caller: Caller, id: DriveSnapshotId): Promise<Snapshot>;
  update(caller: Caller, id: SnapshotId, update: Update): Promise<Snapshot>;
  /** All of it, or only the parts named. */
  delete(
    caller: Caller,
    id: SnapshotId,
    options?: { parts?: readonly DriveSnapshotId[]; ifVersion?: number } & CreateOptions,
  ): Promise<Task>;
  /** Up to 256 parts of any snapshots, all or none; a snapshot of which no part is left goes. */
  deleteParts(caller: Caller, ids: readonly DriveSnapshotId[]): Promise<readonly Task[]>;
  /** All its drives go back, in one step. */
  revert(caller: Caller, id: SnapshotId, input?: { keepSafety?: boolean }, options?: CreateOptions): Promise<Task>;
  /** The machine goes back, or another one is put onto it, slot by slot. */
  revertMachine(caller: Caller, id: SnapshotId, input?: MachineRevertRequest, options?: CreateOptions): Promise<Task>;
  /** A new machine with new drives. */
  cloneMachine(
    caller: Caller,
    id: SnapshotId,
    input: MachineCloneRequest,
    options?: CreateOptions,
  ): Promise<WithTask<'machine', Machine>>;
  /**
   * A new drive from one part; `part` may be left out when there is only one. With `evenCreating`, from a snapshot that is still
   * being taken: the clone waits for it. With `attachTo` as for a new drive.
   */
  clone(
    caller: Caller,
    id: SnapshotId,
    input: Labels &
      WithTraits & {
        part?: DriveSnapshotId;
        name?: string;
        sizeBytes?: number;
        evenCreating?: boolean;
        attachTo?: MachineId;
      },
    options?: CreateOptions,
  ): Promise<WithTask<'drive', Drive>>;
  tree(caller: Caller, driveId: DriveId): Promise<{ roots: readonly SnapshotNode[]; current: DriveSnapshotId | null }>;
  usage(caller: Caller, id: SnapshotId): Promise<readonly (SnapshotUsage & { driveSnapshotId: DriveSnapshotId })[]>;
  /** Where `to` differs from `from`; both of one drive or its clones. */
  changes(
    caller: Caller,
    range: { from: DriveSnapshotId | null; to: { point: DriveSnapshotId } | { drive: DriveId } },
  ): Promise<Extents>;
  download(
    caller: Caller,
    id: SnapshotId,
    format: 'raw' | 'qcow2',
    part?: DriveSnapshotId,
  ): Promise<{ stream: Readable; sizeBytes: number | null; fileName: string }>;
}

export interface ImageFilter extends NameFilter {
  readonly kinds?: readonly ImageKind[];
  readonly states?: readonly ImageState[];
  readonly tag?: string;
}

export type ImageSort = 'created' | 'name' | 'state' | 'number';

/** Images never change but for their labels; there is no revert, no resize and no writing of them. */
export interface ImageUseCases {
  /** Of a machine, if the snapshot is of one; of one drive, with `part`, or if the snapshot is of one drive. Without its memory. */
  create(
    caller: Caller,
    input: Labels & { snapshotId: SnapshotId; part?: DriveSnapshotId; name?: string },
    options?: CreateOptions,
  ): Promise<WithTask<'image', Image>>;
  list(
    caller: Caller,
    filter: ImageFilter,
    sort: { by: ImageSort; order: SortOrder },
    page: PageRequest,
  ): Promise<Page<Image>>;
  get(caller: Caller, id: ImageId): Promise<Image>;
  update(caller: Caller, id: ImageId, update: Update): Promise<Image>;
  /** @throws image_in_use, with the drives that were made from it and not flattened since, and their machines */
  delete(caller: Caller, id: ImageId, options?: { ifVersion?: number } & CreateOptions): Promise<Task>;
  /** A new drive; `slot` may be left out when there is only one. */
  clone(caller: Caller, id: ImageId, input: DriveFromImage, options?: CreateOptions): Promise<WithTask<'drive', Drive>>;
  /** A new machine with new drives, off unless it is to be started. */
  cloneMachine(
    caller: Caller,
    id: ImageId,
    input: MachineFromImage,
    options?: CreateOptions,
  ): Promise<WithTask<'machine', Machine>>;
}

export interface ExportUseCases {
  create(
    caller: Caller,
    input: {
      of: { drive: DriveId; writable: boolean } | { point: DriveSnapshotId };
      transport: { kind: 'unix' } | { kind: 'tcp'; host: string; port?: number; tls: boolean };
    },
    options?: CreateOptions,
  ): Promise<DriveExport>;
  list(caller: Caller, filter: { driveId?: DriveId }): Promise<readonly DriveExport[]>;
  get(caller: Caller, id: ExportId): Promise<DriveExport>;
  close(caller: Caller, id: ExportId): Promise<void>;
}

export interface TaskUseCases {
  list(
    caller: Caller,
    filter: { states?: readonly TaskState[]; objectId?: string; driveId?: DriveId; machineId?: MachineId },
    page: PageRequest,
  ): Promise<Page<Task>>;
  get(caller: Caller, id: TaskId): Promise<Task>;
  /**
   * Resolves when the task has ended, or with its state after `timeoutMs`. Of deletions the `foreground` part is over when
   * the object is gone, while its space still comes back; of most others it is all.
   */
  waitFor(caller: Caller, id: TaskId, timeoutMs: number, part?: 'all' | 'foreground'): Promise<Task>;
  /** Of these objects, the ones that something is being done to, with the tasks, oldest first. Costs no query. */
  underWay(caller: Caller, ids: readonly string[]): ReadonlyMap<string, readonly Task[]>;
  cancel(caller: Caller, id: TaskId): Promise<Task>;
  pause(caller: Caller, id: TaskId): Promise<Task>;
  resume(caller: Caller, id: TaskId): Promise<Task>;
  /** Takes one that has ended out of the records. @throws task_not_ended */
  remove(caller: Caller, id: TaskId): Promise<void>;
  /** Names of users whose tasks the caller may see; deleted ones are left out. */
  userNames(caller: Caller, ids: readonly UserId[]): Promise<ReadonlyMap<UserId, string>>;
  /** Bytes per second, 0 for no limit. */
  setSpeedLimit(caller: Caller, id: TaskId, bytesPerSecond: number): Promise<Task>;
}

export interface EventUseCases {
  /** Past events after `afterSeq`, oldest first. */
  list(
    caller: Caller,
    filter: { afterSeq?: number; objectId?: string; limit?: number },
  ): Promise<readonly CatalogEvent[]>;
  /** Calls back for every event the caller may see, in order, replaying from `afterSeq`; returns how to stop. */
  subscribe(caller: Caller, afterSeq: number | null, onEvent: (event: CatalogEvent) => void): Promise<() => void>;
}

/** One drive's part of a snapshot, with the snapshot. */
export interface PartOfSnapshot {
  readonly part: DriveSnapshot;
  readonly snapshot: Snapshot;
}

export interface QueriedObjects {
  machine: Machine;
  snapshot: Snapshot;
  part: PartOfSnapshot;
  drive: Drive;
  image: Image;
  task: Task;
}

export interface QueryPage<T> {
  readonly items: readonly T[];
  /** Of what meets `where`; null unless asked for. */
  readonly total: number | null;
  /** Of what the caller may see; null unless asked for. */
  readonly all: number | null;
}

export interface QueryUseCases {
  /** Any list, by any condition. @throws invalid_request for a `matches` that is no regular expression */
  list<K extends QueryKind>(caller: Caller, kind: K, query: Query<K>): Promise<QueryPage<QueriedObjects[K]>>;
}

export interface NumberedIds {
  machine: MachineId;
  snapshot: SnapshotId;
  part: DriveSnapshotId;
  drive: DriveId;
  image: ImageId;
  task: TaskId;
  user: UserId;
  project: ProjectId;
}

/** Numbers and ids of the same objects, for dialects with integers. They say nothing about rights, and never change. */
export interface NumberUseCases {
  /** Undefined for a number that no object has. A machine that was deleted keeps its number as long as there are snapshots of it. */
  idOf<K extends keyof NumberedIds>(kind: K, number: number): Promise<NumberedIds[K] | undefined>;
  /** Those that are known, deleted drives and machines with snapshots included. */
  numbersOf<K extends keyof NumberedIds>(
    kind: K,
    ids: readonly NumberedIds[K][],
  ): Promise<ReadonlyMap<NumberedIds[K], number>>;
}

/** A machine that was deleted, and of which there are snapshots. */
export interface DepartedMachine {
  readonly id: MachineId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly kind: MachineKind;
  readonly createdAt: number;
  readonly deletedAt: number;
}

export type Access = 'ro' | 'rw';
export type SharedKind = 'machine' | 'drive' | 'snapshot' | 'part' | 'image';

export interface SharedWith {
  readonly userId: UserId;
  readonly userName: string;
  readonly email: string | null;
  readonly access: Access;
}

export interface SharingUseCases {
  /** The caller's own right on each object that he may see; those that he may not see are left out. */
  accessTo(caller: Caller, kind: SharedKind, ids: readonly string[]): Promise<ReadonlyMap<string, Access>>;
  /** The same of objects that the caller has just been shown: no query, but for guests. */
  accessToShown(caller: Caller, kind: SharedKind, ids: readonly string[]): Promise<ReadonlyMap<string, Access>>;
  /** The guests that objects were granted to, for who may see that: admins and operators all, others themselves. */
  grantees(caller: Caller, ids: readonly string[]): Promise<ReadonlyMap<string, readonly SharedWith[]>>;
}

export interface Service {
  readonly queries: QueryUseCases;
  readonly numbers: NumberUseCases;
  readonly sharing: SharingUseCases;
  readonly machines: MachineUseCases;
  readonly drives: DriveUseCases;
  readonly snapshots: SnapshotUseCases;
  readonly images: ImageUseCases;
  readonly exports: ExportUseCases;
  readonly tasks: TaskUseCases;
  readonly events: EventUseCases;
  readonly tags: TagUseCases;
  readonly traits: TraitUseCases;
  readonly preferences: PreferenceUseCases;
  /** What this server takes. */
  readonly limits: { readonly maxDriveBytes: number };
  doctor(caller: Caller, options: { repair: boolean }): Promise<DoctorReport>;
  space(caller: Caller): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }>;
  readiness(): Promise<{ ready: boolean; reasons: readonly string[] }>;
  projectIdOf(object: {
    kind: 'machine' | 'drive' | 'snapshot' | 'image' | 'task';
    id: string;
  }): Promise<ProjectId | null>;
}
