/** The model's objects as CloudSigma shows them. Keys in the order of the recorded answers: by the alphabet. */
import type { MachineId } from '../../core/ids.ts';
import type { Drive, DriveSnapshot, Image, Snapshot, Task } from '../../core/model.ts';
import type { DriveState, SnapshotState } from '../../core/states.ts';
import { isoFromUs } from '../../core/time.ts';
import type { Access, SharedWith } from '../../service/interface.ts';

export interface Link {
  readonly resource_uri: string;
  readonly uuid: string;
}

/** The one kind of storage there is; upstream's name for its usual one. */
export const storageType = 'dssd';

/** A path without a host, below where the API is mounted. */
export function uriOf(mount: string, kind: string, uuid: string): string {
  return `${mount}/api/2.0/${kind}/${uuid}/`;
}

export function link(mount: string, kind: string, uuid: string): Link {
  return { resource_uri: uriOf(mount, kind, uuid), uuid };
}

/** `2031-04-09 16:20:05.004210+00:00` */
export function timestampOf(us: number): string {
  const iso = isoFromUs(us);
  return `${iso.slice(0, 10)} ${iso.slice(11, -1)}+00:00`;
}

/** `2031-04-09T16:20:05.004210+00:00` */
export function jobTimeOf(us: number): string {
  return `${isoFromUs(us).slice(0, -1)}+00:00`;
}

/** The name of a snapshot that was given none: `<drive uuid>__2031-04-09__16_20_05`, UTC. */
export function defaultSnapshotName(driveId: string, us: number): string {
  const iso = isoFromUs(us);
  return `${driveId}__${iso.slice(0, 10)}__${iso.slice(11, 19).replaceAll(':', '_')}`;
}

const permissions: Readonly<Record<Access, readonly string[]>> = { ro: ['LIST'], rw: ['EDIT', 'LIST'] };

/** What is looked up for an object besides itself. */
export interface Surroundings {
  readonly mount: string;
  readonly owner: string;
  readonly tags: readonly Link[];
  readonly grantees: readonly SharedWith[];
  /** The caller's, when it is granted; null for who owns it. */
  readonly granted: Access | null;
}

function presentSharing({ mount, owner, tags, grantees, granted }: Surroundings) {
  return {
    grantees: grantees.map(({ access, email, userId }) => ({
      permissions: permissions[access],
      user: { email, ...link(mount, 'user', userId) },
    })),
    owner: link(mount, 'user', owner),
    permissions: granted === null ? [] : permissions[granted],
    tags,
  };
}

export const snapshotStatus = {
  creating: 'creating',
  available: 'available',
  deleting: 'deleting',
  error: 'unavailable',
} as const satisfies Record<SnapshotState, string>;

/** The twelve keys of a snapshot: one drive's part of a snapshot of ours. */
export function presentSnapshot(part: DriveSnapshot, snapshot: Snapshot, around: Surroundings) {
  const { mount } = around;
  const { grantees, owner, permissions: granted, tags } = presentSharing(around);
  return {
    // Null only while it is made: afterwards clients read a number, also of one that failed and was never measured.
    allocated_size: snapshot.state === 'creating' ? null : (part.sizeBytes ?? 0),
    drive: link(mount, 'drives', part.driveId),
    grantees,
    meta: snapshot.meta,
    name: snapshot.name,
    owner,
    permissions: granted,
    resource_uri: uriOf(mount, 'snapshots', part.id),
    status: snapshotStatus[snapshot.state],
    tags,
    timestamp: timestampOf(snapshot.createdAt),
    uuid: part.id,
  };
}

/** What is known of a drive from others: its machine, what is under way, its snapshots. */
export interface DriveFacts {
  readonly isMounted: boolean;
  readonly isResizing: boolean;
  readonly isClone: boolean;
  readonly machineId: MachineId | null;
  readonly snapshots: readonly DriveSnapshot[];
  readonly jobs: readonly string[];
  readonly media: string;
  readonly allowMultimount: boolean;
}

export type DriveStatus =
  | 'creating'
  | 'cloning_dst'
  | 'mounted'
  | 'unmounted'
  | 'resizing'
  | 'deleting'
  | 'unavailable';

/** A clone's target says so; its source stays what it is, since clients that wait give up on words they do not know. */
export function driveStatus(
  state: DriveState,
  facts: Pick<DriveFacts, 'isMounted' | 'isResizing' | 'isClone'>,
): DriveStatus {
  switch (state) {
    case 'creating':
      return facts.isClone ? 'cloning_dst' : 'creating';
    case 'available':
      return facts.isResizing ? 'resizing' : facts.isMounted ? 'mounted' : 'unmounted';
    case 'error':
      return 'unavailable';
    default:
      return 'deleting';
  }
}

export function presentDrive(drive: Drive, facts: DriveFacts, around: Surroundings) {
  const { mount } = around;
  const { grantees, owner, permissions: granted, tags } = presentSharing(around);
  const newestFirst = [...facts.snapshots].sort((a, b) => b.number - a.number);
  return {
    affinities: [],
    allow_multimount: facts.allowMultimount,
    backup_scheduler: null,
    grantees,
    iops: null,
    jobs: facts.jobs.map((uuid) => link(mount, 'jobs', uuid)),
    licenses: [],
    media: facts.media,
    meta: drive.meta,
    mounted_on: facts.machineId === null ? [] : [link(mount, 'servers', facts.machineId)],
    name: drive.name,
    owner,
    permissions: granted,
    remote_snapshots: [],
    resource_uri: uriOf(mount, 'drives', drive.id),
    runtime: {
      is_downloadable: false,
      is_ephemeral: false,
      is_snapshotable: drive.state === 'creating' ? null : drive.state === 'available',
      snapshots_allocated_size: facts.snapshots.reduce((sum, part) => sum + (part.sizeBytes ?? 0), 0),
      storage_type: storageType,
    },
    size: drive.sizeBytes,
    snapshots: newestFirst.map((part) => link(mount, 'snapshots', part.id)),
    status: driveStatus(drive.state, facts),
    storage_type: storageType,
    tags,
    uuid: drive.id,
  };
}

export type PresentedDrive = ReturnType<typeof presentDrive>;

/** What `/drives/` shows of each. */
export function shortDrive({ owner, resource_uri, status, uuid }: PresentedDrive) {
  return { owner, resource_uri, status, uuid };
}

/** The answer to the clone of a snapshot has a link where a path belongs. [fog snapshots_tests.rb] */
export function withNestedUri<T extends { resource_uri: string; uuid: string }>(object: T) {
  const { resource_uri, uuid } = object;
  return { ...object, resource_uri: { resource_uri, uuid } };
}

const jobStates = {
  queued: 'started',
  running: 'started',
  paused: 'started',
  done: 'success',
  failed: 'failed',
  cancelled: 'failed',
} as const satisfies Record<Task['state'], string>;

export function presentJob(mount: string, task: Task) {
  const { done, total } = task.progress;
  const percent = task.state === 'done' ? 100 : total <= 0 ? 0 : Math.min(99, Math.floor((done / total) * 100));
  const made = task.objectKind === 'drive' ? task.objectId : null;
  // What was there before comes first, what was made of it last.
  const drives = [...task.driveIds].sort((a, b) => Number(a === made) - Number(b === made));
  return {
    children: [],
    created: jobTimeOf(task.createdAt),
    data: { progress: percent },
    last_modified: jobTimeOf(task.finishedAt ?? task.startedAt ?? task.createdAt),
    operation: task.kind.replace('.', '_'),
    resource_uri: uriOf(mount, 'jobs', task.id),
    resources: [
      ...(task.machineId === null ? [] : [uriOf(mount, 'servers', task.machineId)]),
      ...drives.map((id) => uriOf(mount, 'drives', id)),
    ],
    state: jobStates[task.state],
    uuid: task.id,
  };
}

/** An image, as a drive of the library. */
export function presentLibraryDrive(image: Image, around: Surroundings) {
  const { mount } = around;
  return {
    allow_multimount: false,
    arch: '64',
    category: [],
    description: image.description,
    favourite: false,
    image_type: 'preinst',
    install_notes: '',
    jobs: [],
    licenses: [],
    media: 'disk',
    meta: image.meta,
    mounted_on: [],
    name: image.name,
    os: 'other',
    owner: null,
    paid: false,
    resource_uri: uriOf(mount, 'libdrives', image.id),
    size: image.sizeBytes,
    status: image.state === 'available' ? 'unmounted' : image.state === 'error' ? 'unavailable' : image.state,
    storage_type: storageType,
    tags: around.tags,
    url: '',
    uuid: image.id,
    version: '',
  };
}
