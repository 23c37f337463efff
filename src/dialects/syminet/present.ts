/** From the model to the wire. All keys of an object are always there; nothing is null, not absence. */

import type { Drive, Machine, Snapshot, Task } from '../../core/model.ts';
import { isoFromUs } from '../../core/time.ts';
import type { DepartedMachine } from '../../service/interface.ts';
import { type Paging, pageSize } from './parse.ts';

export type Perms = 'ro' | 'rw';

/** A server is one place. */
export const datacenterId = 1;
export const regionSlug = 'LOCAL1';
export const regions = { data: [{ description: 'This server', region: regionSlug }] };
/** There are no fixed sizes: a slice has the processors and the memory it was given. */
export const sizes = { data: { standard: [], high_cpu: [], high_memory: [], high_disk: [] } };
/** What slices can be rebuilt with: nothing yet. */
export const dists = { data: [] };
/** The answer to every change. It holds nothing that a script could come to depend on. */
export const accepted = { status: 'OK' };

const bytesPerGb = 1024 ** 3;

/** Whole GB of 2^30 bytes, begun ones counted. */
export function gbOf(bytes: number): number {
  return Math.ceil(bytes / bytesPerGb);
}

/** Of images, backups and slices: `2025-03-01 08:15:02.104233`, UTC. */
export function dateOf(us: number): string {
  const iso = isoFromUs(us);
  return `${iso.slice(0, -17)} ${iso.slice(-16, -1)}`;
}

/** Of volumes and users: `Wed, 20 Nov 2024 22:01:30 GMT`. */
export function httpDateOf(us: number): string {
  return new Date(us / 1000).toUTCString();
}

/** `02s`, `3m20s`, `1h02m05s`: begun seconds counted, all but the first figure with two digits. */
export function durationOf(us: number): string {
  const seconds = Math.max(0, Math.ceil(us / 1_000_000));
  const two = (value: number): string => String(value).padStart(2, '0');
  if (seconds < 60) return `${two(seconds)}s`;
  const minutes = Math.floor(seconds / 60);
  const rest = `${two(seconds % 60)}s`;
  return minutes < 60 ? `${minutes}m${rest}` : `${Math.floor(minutes / 60)}h${two(minutes % 60)}m${rest}`;
}

/** Percent that a task has done. */
function percentOf({ progress: { done, total } }: Task): number {
  return total === 0 ? 0 : Math.min(100, Math.floor((100 * done) / total));
}

/** The two keys that say that something is being done. */
function workOf(task: Task | undefined, isUnderWay = task !== undefined) {
  if (!isUnderWay) return { in_progress: null, progress: null };
  return { in_progress: true, progress: task === undefined ? 0 : percentOf(task) };
}

export interface PageAnswer<T> {
  readonly data: readonly T[];
  readonly page: number;
  readonly pages: number;
  readonly results: number;
}

/** The empty result is page 0 of 0. */
export function presentPage<T>(data: readonly T[], results: number, { page }: Paging): PageAnswer<T> {
  return { data, page: results === 0 ? 0 : page, pages: Math.ceil(results / pageSize), results };
}

/** What is to be known of the slice that a snapshot was taken of. */
export interface SourceSlice {
  readonly number: number | null;
  /** As it is called now; else as it was called last. */
  readonly name: string;
  /** µs */
  readonly deletedAt: number | null;
  /** The caller's right; null without, and when it is gone. */
  readonly perms: Perms | null;
}

export interface ImageFacts {
  readonly perms: Perms;
  readonly slice: SourceSlice;
  readonly ownerNumber: number | null;
  readonly task: Task | undefined;
}

/** The long form: seventeen keys. */
export function presentImage(snapshot: Snapshot, { perms, slice, ownerNumber, task }: ImageFacts) {
  return {
    id: snapshot.number,
    name: snapshot.name,
    created: dateOf(snapshot.createdAt),
    datacenter_id: datacenterId,
    region: regionSlug,
    duration: presentDuration(snapshot),
    snapshot_size: storedGb(snapshot),
    ...workOf(task, task !== undefined || snapshot.state === 'creating'),
    legacy: null,
    perms,
    vm_id: slice.number,
    vmname: slice.name,
    vm_user_id: ownerNumber,
    vm_datacenter_id: datacenterId,
    vm_perms: slice.perms,
    vm_deleted: slice.deletedAt === null ? null : dateOf(slice.deletedAt),
  };
}

/** The short form: five keys. */
export function presentImageOfSlice(snapshot: Snapshot) {
  return {
    backup_full_size: gbOf(snapshot.parts.reduce((sum, part) => sum + part.virtualBytes, 0)),
    created: dateOf(snapshot.createdAt),
    duration: presentDuration(snapshot),
    id: snapshot.number,
    name: snapshot.name,
  };
}

function presentDuration({ createdAt, availableAt }: Snapshot): string | null {
  return availableAt === null ? null : durationOf(availableAt - createdAt);
}

/**
 * What is kept because of the snapshot: the data that was overwritten since, and the memory if it has one. Its files are
 * never empty, so that a finished one has at least 1.
 */
function storedGb({ state, sizeBytes, machine }: Snapshot): number | null {
  if (state === 'creating' || sizeBytes === null) return null;
  return Math.max(1, gbOf(sizeBytes + (machine?.memory?.storedBytes ?? 0)));
}

export interface SliceFacts {
  readonly perms: Perms | null;
  readonly ownerNumber: number | null;
  readonly task: Task | undefined;
}

const powerWords = { running: 'active', paused: 'paused', off: 'off' } as const;

export function presentSlice(machine: Machine, { perms, ownerNumber, task }: SliceFacts) {
  const { number, name, state, power, createdAt } = machine;
  const status = state === 'available' ? powerWords[power] : state;
  return {
    ...sliceOf({ number, name, createdAt }, { perms, ownerNumber, status, deletedAt: null }),
    ...workOf(task),
  };
}

/** A slice that is gone, and of which there are snapshots. */
export function presentDepartedSlice(machine: DepartedMachine, ownerNumber: number | null) {
  const { deletedAt } = machine;
  return { ...sliceOf(machine, { perms: null, ownerNumber, status: 'deleted', deletedAt }), ...workOf(undefined) };
}

function sliceOf(
  machine: { number: number; name: string; createdAt: number },
  facts: { perms: Perms | null; ownerNumber: number | null; status: string; deletedAt: number | null },
) {
  return {
    id: machine.number,
    vmname: machine.name,
    perms: facts.perms,
    region: regionSlug,
    datacenter_id: datacenterId,
    user_id: facts.ownerNumber,
    status: facts.status,
    created: dateOf(machine.createdAt),
    deleted: facts.deletedAt === null ? null : dateOf(facts.deletedAt),
  };
}

export interface VolumeFacts {
  readonly sliceNumber: number | null;
  readonly ownerNumber: number | null;
  readonly task: Task | undefined;
  /** Who asked for the task. */
  readonly askerNumber: number | null;
}

export function presentVolume(drive: Drive, { sliceNumber, ownerNumber, task, askerNumber }: VolumeFacts) {
  const isQueued = task?.state === 'queued';
  return {
    id: drive.number,
    volname: drive.name,
    volsize: gbOf(drive.sizeBytes),
    status: drive.state === 'available' ? 'active' : drive.state,
    vm_id: sliceNumber,
    user_id: ownerNumber,
    host_id: null,
    datacenter_id: datacenterId,
    vol_uuid: drive.id,
    vol_allocated: null,
    snapshot_uuid: drive.sourceId,
    created: httpDateOf(drive.createdAt),
    deleted: null,
    ...workOf(task),
    queued: isQueued ? true : null,
    queued_user_id: isQueued ? askerNumber : null,
  };
}

export function presentUser(user: { number: number; name: string; email: string | null }, admin: boolean) {
  // No record of logins is kept.
  return {
    admin,
    email: user.email,
    id: user.number,
    last_login: null,
    last_login_ip: null,
    username: user.name,
  };
}

export interface PermsFacts {
  readonly admin: boolean;
  readonly mayCreate: boolean;
  readonly mayUseApi: boolean;
  readonly slices: readonly { readonly number: number; readonly name: string; readonly perms: Perms }[];
  readonly snapshots: readonly { readonly number: number; readonly name: string; readonly perms: Perms }[];
  readonly volumes: readonly { readonly number: number; readonly name: string; readonly perms: Perms }[];
}

export function presentPerms(user: { number: number; name: string; email: string | null }, facts: PermsFacts) {
  const { admin, mayCreate, mayUseApi } = facts;
  return {
    id: user.number,
    username: user.name,
    email: user.email,
    admin,
    global: {
      create_vm: mayCreate,
      // Whoever has rw on a slice may take snapshots of it, guests included.
      create_snapshot: true,
      create_volume: mayCreate,
      create_flexip: false,
      create_fw: false,
      create_domain: false,
      use_api: mayUseApi,
    },
    slices: facts.slices.map(({ number, name, perms }) => ({ id: number, vmname: name, perms })),
    snapshots: facts.snapshots.map(({ number, name, perms }) => ({ id: number, name, perms })),
    volumes: facts.volumes.map(({ number, name, perms }) => ({ id: number, volname: name, perms })),
    firewalls: [],
    domains: [],
    symscripts: [],
  };
}
