/** What a machine is made of: limits, and what is made up for it. */
import { randomBytes } from 'node:crypto';
import { CalotypeError } from '../core/errors.ts';

const MiB = 1024 * 1024;
export const maxCpus = 64;
export const minMemoryBytes = 16 * MiB;
export const maxMemoryBytes = 1024 * 1024 * MiB;

/** An address of QEMU's own range. */
export function newMacAddress(): string {
  return ['52', '54', '00', ...[...randomBytes(3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/** @throws invalid_request */
export function checkCpus(value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= maxCpus) return value;
  throw new CalotypeError('invalid_request', `A machine has 1 to ${maxCpus} processors.`, {
    field: 'cpus',
    max: maxCpus,
  });
}

/** Whole MiB. @throws invalid_size */
export function checkMemory(value: unknown): number {
  const fits =
    typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    value >= minMemoryBytes &&
    value <= maxMemoryBytes &&
    value % MiB === 0;
  if (fits) return value;
  throw new CalotypeError('invalid_size', 'The memory is whole MiB, from 16 MiB to 1 TiB.', {
    field: 'memoryBytes',
    min: minMemoryBytes,
    max: maxMemoryBytes,
  });
}
