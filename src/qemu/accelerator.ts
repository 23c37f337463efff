/**
 * Which accelerator guests get. A `/dev/kvm` that is there may still not run anything, or run a firmware half way, so that
 * a guest is really started: one that goes through the firmware and says from 64-bit mode that it lives.
 */
import { spawn } from 'node:child_process';
import { access, constants, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Accelerator } from '../core/model.ts';
import { circumstances, recordRefusal, wasRefused } from './accelerator-record.ts';

const proofDeadlineMs = 3000;
const debugPort = '0x402';
const proof = '64-bit guest';

/**
 * A boot sector, loaded at 0x7c00: page tables at 0x1000 (one for the PML4, one for the PDPT, one huge page), PAE on, EFER.LME
 * set, a descriptor table with one 64-bit code segment, paging and protection on, a far jump, then `proof` byte by byte to
 * the debug port, then `hlt`.
 */
const bootSector = Buffer.from(
  [
    'fa31c08ed88ec0bf0010b90030fcf3aa66c70600100320000066c70600200330000066c70600308300000066b8001000000f22d8',
    '0f20e06683c8200f22e066b9800000c00f32660d000100000f300f0116747c0f20c0660d010000800f22c0ea7a7c080000000000',
    '0000000000000000009a20000f00647c000066ba0204be8e7c0000ac84c07403eeebf8f4ebfd36342d6269742067756573740a00',
  ].join(''),
  'hex',
);
const sectorBytes = 512;
const bootSignature = 0xaa55;

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** In a sentence, for people. */
  readonly reason: string;
}

/**
 * Tries KVM once; TCG needs no proof. Takes some 100 ms where KVM works.
 * @param recordPath a file to keep a failed try in; the next call then takes some 50 ms instead of 3 s
 */
export async function chooseAccelerator(recordPath: string | null = null): Promise<AcceleratorChoice> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return { accelerator: 'tcg', reason: 'There is no /dev/kvm that this server may use.' };
  }
  const refusal = 'There is a /dev/kvm, but a guest started with it did not come to life.';
  const now = recordPath === null ? null : await circumstances().catch(() => null);
  if (recordPath !== null && now !== null && (await wasRefused(recordPath, now))) {
    return { accelerator: 'tcg', reason: `${refusal} That was found earlier.` };
  }
  if (await bootsWith('kvm')) return { accelerator: 'kvm', reason: 'A guest was started with KVM.' };
  if (recordPath !== null && now !== null) await recordRefusal(recordPath, now);
  return { accelerator: 'tcg', reason: refusal };
}

/** Whether a guest comes to life. */
export async function bootsWith(accelerator: Accelerator): Promise<boolean> {
  const directory = await mkdtemp(join(tmpdir(), 'calotype-proof-'));
  try {
    const disk = join(directory, 'disk');
    const sector = Buffer.alloc(sectorBytes);
    bootSector.copy(sector);
    sector.writeUInt16LE(bootSignature, sectorBytes - 2);
    await writeFile(disk, sector);
    return await speaks(accelerator, disk);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function speaks(accelerator: Accelerator, disk: string): Promise<boolean> {
  // A guest that hangs must not outlive a server that dies meanwhile.
  const child = spawn(
    'timeout',
    [
      ...['-s', 'KILL', String((2 * proofDeadlineMs) / 1000), 'qemu-system-x86_64'],
      ...['-machine', `pc,accel=${accelerator}`, '-m', '16', '-nodefaults', '-display', 'none', '-monitor', 'none'],
      ...['-chardev', 'stdio,id=debug', '-device', `isa-debugcon,iobase=${debugPort},chardev=debug`],
      ...['-drive', `file=${disk},format=raw,if=ide,snapshot=on`],
    ],
    { stdio: ['ignore', 'pipe', 'ignore'], detached: true },
  );
  return new Promise((resolve) => {
    let heard = '';
    const end = (): void => {
      clearTimeout(timer);
      if (child.pid !== undefined) killGroup(child.pid);
      resolve(heard.includes(proof));
    };
    const timer = setTimeout(end, proofDeadlineMs);
    child.once('error', end);
    child.once('exit', end);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      heard += text;
      if (heard.includes(proof)) end();
    });
  });
}

/** `timeout` and what it runs. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
