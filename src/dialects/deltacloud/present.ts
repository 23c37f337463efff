/** From the model to what this dialect shows: plain views with its own ids, names and states; documents are made of them. */
import type { Drive, Image, Machine, Task } from '../../core/model.ts';
import { isoFromUs } from '../../core/time.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import { GiB, MiB, type Profile, profileOf, wireId } from './parse.ts';

/** Of the original whose behaviour this dialect follows. */
export const deltacloudVersion = '1.1.3';

/** Absolute references. */
export class Links {
  readonly base: string;

  constructor(base: string) {
    this.base = `${base}/api`;
  }

  collection(name: string): string {
    return `${this.base}/${name}`;
  }

  member(collection: string, id: string): string {
    return `${this.base}/${collection}/${id}`;
  }
}

export interface SnapshotView {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly created: string;
  readonly state: string;
  /** Also of one that was deleted since. */
  readonly volumeId: string;
}

export interface VolumeView {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly created: string;
  /** GB of 2^30 bytes. */
  readonly capacity: string;
  readonly state: string;
  /** The instance and what the drive is called there; null for a free one. */
  readonly mount: { readonly instanceId: string; readonly device: string } | null;
}

export type InstanceAction = 'destroy' | 'reboot' | 'start' | 'stop';

export interface InstanceView {
  readonly id: string;
  readonly name: string;
  readonly owner: string;
  readonly imageId: string | null;
  readonly state: string;
  readonly profile: Profile;
  readonly actions: readonly InstanceAction[];
  readonly macAddress: string;
  readonly volumes: readonly { readonly id: string; readonly name: string; readonly device: string }[];
}

export interface ImageView {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly owner: string;
  readonly architecture: string;
  readonly state: string;
}

export interface RealmView {
  readonly id: string;
  readonly name: string;
  readonly state: string;
}

export interface DriverView {
  readonly id: string;
  readonly name: string;
}

/** One host: one place. */
export const realm: RealmView = { id: 'local', name: 'Local', state: 'AVAILABLE' };

/** `mock` is what test suites ask for; there is one back end behind both names. */
export const drivers: readonly DriverView[] = [
  { id: 'calotype', name: 'Calotype' },
  { id: 'mock', name: 'Mock' },
];
export const usualDriver = 'mock';

/** QEMU's `pc` machines, the only ones there are. */
export const architecture = 'x86_64';

/** ISO 8601, UTC, whole seconds: `2031-04-09T16:20:05Z`. */
export function dateOf(us: number): string {
  return `${isoFromUs(us).slice(0, -'.000000Z'.length)}Z`;
}

const snapshotStates = { creating: 'PENDING', available: 'COMPLETED', error: 'ERROR', deleting: 'DELETING' } as const;

/** A name that was not given is the id, as in the original. */
export function snapshotView({ part, snapshot }: PartOfSnapshot, driveNumber: number): SnapshotView {
  return {
    id: wireId('part', part.number),
    name: snapshot.name,
    description: snapshot.description,
    created: dateOf(snapshot.createdAt),
    state: snapshotStates[snapshot.state],
    volumeId: wireId('drive', driveNumber),
  };
}

/** Up to nine decimals, never an exponent: small drives are thousandths of a GB. */
export function gigabytes(bytes: number): string {
  return (bytes / GiB).toFixed(9).replace(/\.?0+$/, '');
}

/** Where a drive keeps what it was called at its attachment; the machine's id goes before, since names go with machines. */
export const deviceKey = 'deltacloud_device';

export function deviceMeta(machineId: string, device: string): string {
  return `${machineId} ${device}`;
}

/** As it was attached here, else as Linux calls the drive in that slot. */
export function deviceOf(drive: Drive, attachedTo: { machineId: string; slot: number }): string {
  const [machineId, device] = drive.meta[deviceKey]?.split(' ') ?? [];
  return machineId === attachedTo.machineId && device !== undefined ? device : usualDevice(attachedTo.slot);
}

export function usualDevice(slot: number): string {
  return `/dev/vd${String.fromCharCode(97 + slot)}`;
}

const volumeStates = {
  creating: 'CREATING',
  available: 'AVAILABLE',
  error: 'ERROR',
  deleting: 'DELETING',
  deleted: 'DELETED',
} as const;

/** @param machineNumber of the machine that it is attached to, if it is */
export function volumeView(drive: Drive, machineNumber: number | undefined): VolumeView {
  const { attachedTo, state } = drive;
  const isMounted = attachedTo !== null && machineNumber !== undefined;
  return {
    id: wireId('drive', drive.number),
    name: drive.name,
    description: drive.description,
    created: dateOf(drive.createdAt),
    capacity: gigabytes(drive.sizeBytes),
    state: attachedTo !== null && state === 'available' ? 'IN-USE' : volumeStates[state],
    mount: isMounted ? { instanceId: wireId('machine', machineNumber), device: deviceOf(drive, attachedTo) } : null,
  };
}

/** What an instance is becoming, by the tasks that are changing it. */
const becoming: Partial<Record<Task['kind'], string>> = {
  'machine.start': 'PENDING',
  'machine.clone': 'PENDING',
  'machine.stop': 'STOPPING',
};

/** @param tasks those under way */
export function instanceState(machine: Machine, tasks: readonly Task[]): string {
  if (machine.state === 'creating') return 'PENDING';
  if (machine.state === 'error') return 'ERROR';
  if (machine.state === 'deleting') return 'FINISH';
  for (const { machineId, kind } of tasks) {
    const state = machineId === machine.id ? becoming[kind] : undefined;
    // One that is off already is only cleared up after.
    if (state !== undefined && !(state === 'STOPPING' && machine.power === 'off')) return state;
  }
  return machine.power === 'running' ? 'RUNNING' : 'STOPPED';
}

/** What the state allows. A paused machine is stopped here, and goes on when it is started; it is not destroyed as it is. */
function actionsOf(machine: Machine, state: string): readonly InstanceAction[] {
  if (state === 'RUNNING') return ['reboot', 'stop'];
  if (state === 'STOPPED') return machine.power === 'off' ? ['destroy', 'start'] : ['start'];
  return state === 'ERROR' ? ['destroy'] : [];
}

export interface InstanceParts {
  readonly owner: string;
  readonly tasks: readonly Task[];
  /** Its drives, as far as the caller may see them. */
  readonly drives: readonly Drive[];
  readonly imageNumber: number | undefined;
}

export function instanceView(machine: Machine, { owner, tasks, drives, imageNumber }: InstanceParts): InstanceView {
  const { cpus, memoryBytes, macAddress } = machine.hardware;
  const state = instanceState(machine, tasks);
  const volumes = machine.drives.flatMap(({ slot, driveId }) => {
    const drive = drives.find((known) => known.id === driveId);
    if (drive === undefined) return [];
    const device = deviceOf(drive, { machineId: machine.id, slot });
    return [{ id: wireId('drive', drive.number), name: drive.name, device }];
  });
  return {
    id: wireId('machine', machine.number),
    name: machine.name,
    owner,
    imageId: imageNumber === undefined ? null : wireId('image', imageNumber),
    state,
    profile: profileOf({ cpus, memoryMiB: Math.round(memoryBytes / MiB) }),
    actions: actionsOf(machine, state),
    macAddress,
    volumes,
  };
}

const imageStates = { creating: 'PENDING', available: 'AVAILABLE', error: 'ERROR', deleting: 'DELETING' } as const;

export function imageView(image: Image, owner: string): ImageView {
  return {
    id: wireId('image', image.number),
    name: image.name,
    description: image.description,
    owner,
    architecture,
    state: imageStates[image.state],
  };
}
