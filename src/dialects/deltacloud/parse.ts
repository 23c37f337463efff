/** From the wire to the model: ids, sizes, devices, hardware. What cannot be read is refused as `invalid_request`, or names nothing. */
import { CalotypeError } from '../../core/errors.ts';
import { maxCpus, maxMemoryBytes, minMemoryBytes } from '../../service/machine-hardware.ts';
import type { Parameters } from './parameters.ts';

export const GiB = 1024 ** 3;
export const MiB = 1024 ** 2;

/** What ids begin with; the number of the object follows in hexadecimal. */
export const idKinds = { part: 'snap', drive: 'vol', machine: 'inst', image: 'img' } as const;
export type IdKind = keyof typeof idKinds;

export function wireId(kind: IdKind, number: number): string {
  return `${idKinds[kind]}-${number.toString(16)}`;
}

const digits = /^[1-9a-f][\da-f]{0,12}$/;

/** The number in an id, in its one spelling; undefined for what can be no id. */
export function numberIn(kind: IdKind, id: string): number | undefined {
  const prefix = idKinds[kind];
  if (!id.startsWith(prefix) || id[prefix.length] !== '-') return undefined;
  const hex = id.slice(prefix.length + 1);
  const number = digits.test(hex) ? Number.parseInt(hex, 16) : 0;
  return number > 0 && number <= Number.MAX_SAFE_INTEGER ? number : undefined;
}

/** A parameter that forms send along empty when nothing was chosen. */
export function optional(parameters: Parameters, name: string): string | undefined {
  const value = parameters.get(name);
  return value === null || value === '' ? undefined : value;
}

/** One that is known to be there. @throws invalid_request when it is empty */
export function filled(parameters: Parameters, name: string): string {
  const value = optional(parameters, name);
  if (value === undefined) throw refused(name, `The parameter ${name} is empty.`);
  return value;
}

function refused(parameter: string, message: string): CalotypeError {
  return new CalotypeError('invalid_request', message, { parameter });
}

/** `capacity`, in GB of 2^30 bytes, to bytes; undefined when none was given. @throws invalid_request */
export function capacityBytes(parameters: Parameters): number | undefined {
  const text = optional(parameters, 'capacity')?.trim();
  if (text === undefined) return undefined;
  const bytes = /^\d{1,9}(\.\d{1,12})?$/.test(text) ? Math.round(Number(text) * GiB) : 0;
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
  throw refused('capacity', 'The capacity is a number of GB above zero, and not too large.');
}

const maxDeviceLength = 64;

/** What to call the drive in the instance; undefined for its usual name. @throws invalid_request */
export function deviceName(parameters: Parameters): string | undefined {
  const device = optional(parameters, 'device')?.trim();
  if (device === undefined || device === '') return undefined;
  if (device.length <= maxDeviceLength && /^[\w./:-]+$/.test(device)) return device;
  throw refused('device', `A device has at most ${maxDeviceLength} letters, digits and ". / : - _".`);
}

export interface Hardware {
  readonly cpus: number;
  readonly memoryMiB: number;
}

export interface Profile {
  readonly id: string;
  /** Null where every value within the limits can be had. */
  readonly fixed: Hardware | null;
}

export const hardwareLimits = {
  cpu: { first: 1, last: maxCpus, usual: 1 },
  memory: { first: minMemoryBytes / MiB, last: maxMemoryBytes / MiB, usual: 512 },
} as const;

/** Any processors and memory. */
export const customProfile: Profile = { id: 'custom', fixed: null };

export const listedProfiles: readonly Profile[] = [
  ...[
    [1, 256],
    [1, 512],
    [1, 1024],
    [2, 2048],
    [2, 4096],
    [4, 8192],
    [8, 16384],
  ].map(([cpus = 1, memoryMiB = 256]) => profileOf({ cpus, memoryMiB })),
  customProfile,
];

/** Hardware names itself: there is a profile for whatever an instance has. */
export function profileOf(hardware: Hardware): Profile {
  return { id: `c${hardware.cpus}-m${hardware.memoryMiB}`, fixed: hardware };
}

const within = (value: number, { first, last }: { first: number; last: number }): boolean =>
  Number.isInteger(value) && value >= first && value <= last;

export function findProfile(id: string): Profile | undefined {
  if (id === customProfile.id) return customProfile;
  const match = /^c([1-9]\d{0,3})-m([1-9]\d{0,7})$/.exec(id);
  if (match === null) return undefined;
  const hardware = { cpus: Number(match[1]), memoryMiB: Number(match[2]) };
  const fits = within(hardware.cpus, hardwareLimits.cpu) && within(hardware.memoryMiB, hardwareLimits.memory);
  return fits ? profileOf(hardware) : undefined;
}

/**
 * What `hwp_id`, `hwp_cpu` and `hwp_memory` ask for; what they leave open is as in the image.
 * @throws invalid_request for a profile that is none, or a value that the profile does not offer
 */
export function wantedHardware(parameters: Parameters): Partial<Hardware> {
  const id = optional(parameters, 'hwp_id');
  const profile = id === undefined ? customProfile : findProfile(id);
  if (profile === undefined) throw refused('hwp_id', 'There is no such hardware profile.');
  const cpus = chosen(parameters, 'cpu', profile.fixed?.cpus);
  const memoryMiB = chosen(parameters, 'memory', profile.fixed?.memoryMiB);
  return { ...(cpus === undefined ? {} : { cpus }), ...(memoryMiB === undefined ? {} : { memoryMiB }) };
}

function chosen(parameters: Parameters, property: 'cpu' | 'memory', fixed: number | undefined): number | undefined {
  const name = `hwp_${property}`;
  const text = optional(parameters, name)?.trim();
  if (text === undefined) return fixed;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (fixed === undefined ? within(value, hardwareLimits[property]) : value === fixed) return value;
  throw refused(name, `The hardware profile does not offer that ${property}.`);
}
