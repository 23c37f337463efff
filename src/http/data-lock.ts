/**
 * One server per data directory. The lock is a write lock that SQLite holds on `<data>/run/server.lock`: a POSIX record lock of this
 * process, which the kernel drops when the process dies in whatever way, and which no child inherits. `server.json` beside it only
 * tells people who holds it.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { CalotypeError } from '../core/errors.ts';

export interface DataLock {
  /** Tells others what this server is; for error messages only. */
  describe(holder: Readonly<Record<string, unknown>>): void;
  release(): void;
}

/** @throws CalotypeError `data_in_use` when another live server has it */
export function lockDataDirectory(data: string): DataLock {
  const run = join(data, 'run');
  mkdirSync(run, { recursive: true, mode: 0o700 });
  const info = join(run, 'server.json');
  const db = new DatabaseSync(join(run, 'server.lock'));
  try {
    // No write ever follows, so there is no journal to be left behind.
    db.exec('pragma busy_timeout = 250; begin immediate');
  } catch (cause) {
    db.close();
    if (!isBusy(cause)) throw cause;
    const holder = readHolder(info);
    throw new CalotypeError(
      'data_in_use',
      `Another server${holder === null ? '' : ` (process ${holder.pid}${holder.url === undefined ? '' : `, ${holder.url}`})`} is using ${data}.`,
      { data, remedy: 'Stop it first, or give this one a directory of its own with --data.' },
      { cause },
    );
  }
  return {
    describe: (holder) => writeFileSync(info, `${JSON.stringify({ pid: process.pid, ...holder })}\n`, { mode: 0o600 }),
    release: () => {
      if (!db.isOpen) return;
      rmSync(info, { force: true });
      db.close();
    },
  };
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && (error.errcode === 5 || error.errcode === 6);
}

function readHolder(file: string): { pid: number; url?: string } | null {
  try {
    const value: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof value !== 'object' || value === null || !('pid' in value) || typeof value.pid !== 'number') return null;
    return { pid: value.pid, ...('url' in value && typeof value.url === 'string' ? { url: value.url } : {}) };
  } catch {
    return null;
  }
}
