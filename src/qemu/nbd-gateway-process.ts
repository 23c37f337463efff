/**
 * The process of a gateway (nbd-gateway.ts): starts it, asks it, finds it again, ends it. A process is known by its
 * program and its working directory, the gateway's own.
 */
import { spawn } from 'node:child_process';
import { constants, readdirSync, readlinkSync } from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import { hasCode } from './nbd-gateway-record.ts';
import { QmpClient } from './qmp.ts';

const startDeadlineMs = 20_000;
const answerDeadlineMs = 5_000;

/** The working directory makes names on the command line short and in need of no escaping; all else goes over QMP. */
export async function startDaemon(directory: string): Promise<QmpClient> {
  await rm(join(directory, 'qmp.sock'), { force: true });
  const log = await open(join(directory, 'gateway.log'), 'w', 0o600);
  const child = spawn(
    'qemu-storage-daemon',
    ['--chardev', 'socket,id=monitor,path=qmp.sock,server=on,wait=off', '--monitor', 'chardev=monitor'],
    { cwd: directory, detached: true, stdio: ['ignore', log.fd, log.fd] },
  );
  let failure: string | undefined;
  child.once('error', (error) => {
    failure = error.message;
  });
  child.once('exit', (code, signal) => {
    failure ??= `it ended with ${signal ?? `code ${code}`}`;
  });
  child.unref();
  await log.close();
  const deadline = Date.now() + startDeadlineMs;
  while (failure === undefined && Date.now() < deadline) {
    const qmp = await connectMonitor(directory).catch(() => null);
    if (qmp !== null) return qmp;
    await delay(3);
  }
  const said = await readFile(join(directory, 'gateway.log'), 'utf8').catch(() => '');
  const words = [`The NBD gateway did not start: ${failure ?? 'no answer'}.`, ...said.trim().split('\n').slice(-3)];
  throw new CalotypeError('engine_unavailable', words.join(' ').trim());
}

/** Goes through the open directory: its path may be too long for a socket. */
async function connectMonitor(directory: string): Promise<QmpClient> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    return await QmpClient.connect(`/proc/self/fd/${handle.fd}/qmp.sock`);
  } finally {
    await handle.close();
  }
}

/** Whether the gateway was finished and answers. */
export async function isServing(directory: string): Promise<boolean> {
  const ask = async (): Promise<boolean> => {
    const qmp = await connectMonitor(directory);
    try {
      const exports = await qmp.execute<readonly { 'shutting-down': boolean }[]>('query-block-exports');
      return exports.some((one) => !one['shutting-down']);
    } finally {
      qmp.close();
    }
  };
  const answer = ask().catch(() => false);
  return Promise.race([answer, delay(answerDeadlineMs, false, { ref: false })]);
}

/** The storage daemons we may see, by working directory: finds a gateway from the instant it is spawned, and never a reused pid. */
export function findDaemons(): Map<string, number> {
  const found = new Map<string, number>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    const directory = Number.isInteger(pid) ? daemonDirectory(pid) : null;
    if (directory !== null) found.set(directory, pid);
  }
  return found;
}

/** Null for processes that ended, are zombies, are other programs or belong to others. */
function daemonDirectory(pid: number): string | null {
  try {
    if (!basename(readlinkSync(`/proc/${pid}/exe`)).startsWith('qemu-storage-daemon')) return null;
    // Somebody may have removed the directory under it: then it still holds the port, and is the one to end.
    return readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, '');
  } catch {
    return null;
  }
}

export async function endsWithin(
  pid: number,
  directory: string,
  signal: NodeJS.Signals,
  deadlineMs: number,
): Promise<boolean> {
  const deadline = Date.now() + deadlineMs;
  for (let first = true; daemonDirectory(pid) === directory; first = false) {
    if (first) sendSignal(pid, signal);
    else if (Date.now() > deadline) return false;
    await delay(5);
  }
  return true;
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!hasCode(error, 'ESRCH')) throw error;
  }
}
