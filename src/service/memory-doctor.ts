/**
 * The doctor's part for the memory of snapshots: compares the catalog with the directory, both ways, and reads every file
 * through. It goes by the engine's rules: what it can explain it repairs, and a file without a record is only reported.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { MemoryFileRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { Finding } from '../core/model.ts';
import type { DoctorReport } from '../engine/engine.ts';
import { verifyMemory } from '../qemu/memory-file.ts';
import type { Context } from './context.ts';
import { memoryDirectory, memoryName, memoryPath, removeMemoryFiles } from './memory-save.ts';

export async function examineMemory(context: Context, options: { repair: boolean }): Promise<DoctorReport> {
  const findings: Finding[] = [];
  // Rows are made before their files, and go after them: what is in the list without a row is a stranger.
  const present = await readdir(memoryDirectory(context)).catch(() => []);
  const rows = await context.catalog.db.selectFrom('memory_files').selectAll().orderBy('id').execute();
  await examineStrangers(context, present, rows, findings);
  await examineLeftovers(context, rows, options.repair, findings);
  const kept = rows.filter((row) => row.state === 'kept');
  for (const row of kept) {
    const finding = await examineKept(context, row);
    if (finding !== undefined && (await stateOf(context, row)) === 'kept') findings.push(finding);
  }
  return { findings, checkedFiles: kept.length };
}

async function stateOf(context: Context, { id }: MemoryFileRow): Promise<MemoryFileRow['state'] | undefined> {
  const row = await context.catalog.db
    .selectFrom('memory_files')
    .select('state')
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.state;
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch {
    return undefined;
  }
}

async function examineKept(context: Context, row: MemoryFileRow): Promise<Finding | undefined> {
  const path = memoryPath(context, row.id);
  const size = await sizeOf(path);
  const finding = ({ code, explanation }: Pick<Finding, 'code' | 'explanation'>): Finding => ({
    code,
    severity: 'error',
    subject: `memory/${memoryName(row.id)}`,
    explanation: `${explanation} Snapshot ${row.snapshot_id} can still be reverted to without its memory.`,
    repairable: false,
  });
  if (size === undefined) {
    const explanation = 'The catalog knows this memory, but its file is gone.';
    return finding({ code: 'memory_missing', explanation });
  }
  if (size !== row.stored_bytes) {
    const explanation = `It has ${size} bytes; ${row.stored_bytes} were stored.`;
    return finding({ code: 'memory_damaged', explanation });
  }
  try {
    await verifyMemory(path, { checksum: row.checksum ?? 0 });
    return undefined;
  } catch (error) {
    if (!(error instanceof CalotypeError) || error.code !== 'memory_damaged') throw error;
    return finding({ code: 'memory_damaged', explanation: 'It cannot be read, or is not what was stored.' });
  }
}

async function examineStrangers(
  context: Context,
  present: readonly string[],
  rows: readonly MemoryFileRow[],
  findings: Finding[],
): Promise<void> {
  const known = new Set(rows.map((row) => memoryName(row.id)));
  for (const name of present) {
    if (known.has(name) || (await sizeOf(join(memoryDirectory(context), name))) === undefined) continue;
    findings.push({
      code: 'file_unknown',
      severity: 'warning',
      subject: `memory/${name}`,
      explanation: 'This file is in the memory directory, but the catalog does not know it. It is left alone.',
      repairable: false,
    });
  }
}

/** Of snapshots that are gone, and of such as never came to be while no task is at it any more. */
async function examineLeftovers(
  context: Context,
  rows: readonly MemoryFileRow[],
  repair: boolean,
  findings: Finding[],
): Promise<void> {
  const inputs = [...context.runner.active()].map((task) => task.row.input_json);
  const left: MemoryFileRow[] = [];
  for (const row of rows) {
    const isWorkedOn = inputs.some((input) => input.includes(row.snapshot_id));
    if (row.state === 'kept' || (row.state === 'planned' && isWorkedOn)) continue;
    // A task may have ended since the rows were read.
    if ((await stateOf(context, row)) === row.state) left.push(row);
  }
  if (left.length === 0) return;
  if (repair) await removeMemoryFiles(context, left);
  findings.push({
    code: 'files_to_remove',
    severity: 'info',
    subject: `${left.length} memory ${left.length === 1 ? 'file' : 'files'}`,
    explanation: 'They are no longer needed and wait to be unlinked.',
    repairable: true,
    repaired: repair,
  });
}
