/**
 * Machines seen from outside the server: what their guests say, what is in a memory file, which processes and files
 * there are. None of it asks the server.
 */
import { createReadStream, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { createZstdDecompress } from 'node:zlib';
import type { ExportBody } from '../../src/http/schemas.ts';
import { NbdClient } from '../../src/qemu/nbd-client.ts';
import { type Api, addressOf } from './api.ts';
import type { Victim } from './arm.ts';

const sectorBytes = 512;
const markBytes = 64;

/** All that the guest of the machine with this number has said. */
export function serialOf(data: string, machineNumber: number): string {
  try {
    return readFileSync(join(data, 'run', `m${machineNumber}`, 'serial.log'), 'utf8').replaceAll('\r', '');
  } catch {
    return '';
  }
}

/** The number that a guest wrote at an offset of a drive or a part of a snapshot; 0 where nothing is. */
export async function numberAt(
  api: Api,
  of: { driveId: string } | { driveSnapshotId: string },
  offset: number,
): Promise<number> {
  const served = await api.startExport(of);
  try {
    return await readNumber(served, offset);
  } finally {
    await api.stopExport(served.id);
  }
}

/** The same of what is served already. */
export async function readNumber(served: ExportBody, offset: number): Promise<number> {
  const { path, exportName } = addressOf(served);
  const client = await NbdClient.connect({ kind: 'unix', path }, { exportName });
  try {
    return Number.parseInt((await client.read(offset, sectorBytes)).toString('latin1'), 10) || 0;
  } finally {
    await client.close();
  }
}

/** The counter in stored memory: the greatest mark of mode `disk` in it. */
export async function counterInMemoryFile(path: string): Promise<number> {
  let greatest = 0;
  let rest = '';
  for await (const piece of createReadStream(path).pipe(createZstdDecompress())) {
    const text = rest + (piece as Buffer).toString('latin1');
    for (const [, digits] of text.matchAll(/calotype-counter:(\d{20});/g))
      greatest = Math.max(greatest, Number(digits));
    rest = text.slice(-markBytes);
  }
  return greatest;
}

/** Where the memory of a snapshot is kept; null when there is none. */
export function memoryFileOf(data: string, snapshotId: string): string | null {
  const [row] = readCatalog(data, `select id from memory_files where state = 'kept' and snapshot_id = '${snapshotId}'`);
  return row === undefined ? null : join(data, 'memory', `m${Number(row.id).toString(36)}.zst`);
}

export interface Helpers {
  readonly machines: readonly number[];
  readonly writers: readonly number[];
  readonly guards: readonly number[];
}

/** The processes that work for the machines of a data directory, by what they are. */
export function processesOf(data: string): Helpers {
  const found = { machines: [] as number[], writers: [] as number[], guards: [] as number[] };
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    let words: string[];
    try {
      words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
    } catch {
      continue;
    }
    if (!words.some((word) => word.includes(`${data}/run/m`))) continue;
    if (words[0]?.startsWith('qemu-system-') === true) found.machines.push(Number(name));
    else if (words.some((word) => word.includes('memory-writer-process'))) found.writers.push(Number(name));
    else if (words.some((word) => word.includes('freeze-guard-process'))) found.guards.push(Number(name));
  }
  return found;
}

/** Kills those that `victim` names. @returns how many */
export function killHelpers(data: string, victim: Victim): number {
  const { machines, writers, guards } = processesOf(data);
  const pids = victim === 'qemu' ? machines : victim === 'writer' ? writers : victim === 'guard' ? guards : [];
  let killed = 0;
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
      killed++;
    } catch {
      // Gone already.
    }
  }
  return killed;
}

/** Directories and memory files that no machine and no snapshot accounts for, and those that are missing. */
export function strayMachineFiles(data: string): string[] {
  const problems: string[] = [];
  const numbers = new Set(readCatalog(data, 'select number from machines').map((row) => `m${row.number}`));
  for (const name of readdirSync(join(data, 'run'))) {
    if (/^m\d+$/.test(name) && !numbers.has(name)) problems.push(`run/${name} is of no machine`);
  }
  const rows = readCatalog(data, 'select id, state from memory_files');
  const kept = new Set(rows.map((row) => `m${Number(row.id).toString(36)}.zst`));
  for (const row of rows) if (row.state !== 'kept') problems.push(`memory file ${row.id} is ${row.state}`);
  let files: string[] = [];
  try {
    files = readdirSync(join(data, 'memory'));
  } catch {
    // Made with the first memory.
  }
  for (const name of files) if (!kept.has(name)) problems.push(`memory/${name} is of no snapshot`);
  for (const name of kept) if (!files.includes(name)) problems.push(`memory/${name} is missing`);
  return problems;
}

function readCatalog(data: string, query: string): Record<string, unknown>[] {
  const catalog = new DatabaseSync(join(data, 'catalog.db'), { readOnly: true });
  try {
    return catalog.prepare(query).all();
  } finally {
    catalog.close();
  }
}
