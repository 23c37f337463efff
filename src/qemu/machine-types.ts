/** Which machine types the installed QEMU knows: stored memory can only be used on the type it was taken of. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { CalotypeError } from '../core/errors.ts';

export interface MachineTypes {
  /** The versioned name behind `pc`. */
  readonly standard: string;
  has(name: string): boolean;
}

/** @throws qemu_missing, machine_failed */
export async function readMachineTypes(): Promise<MachineTypes> {
  const { stdout } = await promisify(execFile)('qemu-system-x86_64', ['-machine', 'help']).catch((cause: unknown) => {
    const missing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
    throw new CalotypeError(
      missing ? 'qemu_missing' : 'machine_failed',
      'qemu-system-x86_64 could not be asked for its machine types.',
      { remedy: 'Install the Debian package qemu-system-x86.' },
      { cause },
    );
  });
  const names = new Set<string>();
  let standard: string | undefined;
  for (const line of stdout.split('\n').slice(1)) {
    const [name] = line.split(/\s/, 1);
    if (name === undefined || name === '') continue;
    names.add(name);
    if (name === 'pc') standard = /\(alias of (\S+)\)/.exec(line)?.[1];
  }
  if (standard === undefined) throw new CalotypeError('machine_failed', 'This QEMU does not know the machine type pc.');
  return { standard, has: (name) => names.has(name) };
}
