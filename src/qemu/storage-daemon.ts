/**
 * The storage daemon: one `qemu-storage-daemon` per data directory, which holds every open image and serves exports over
 * NBD. It is started detached and outlives the server, who finds it again by its monitor socket. Its working directory
 * is the image directory, so that file names in commands and image headers are the same short strings.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import { QmpClient } from './qmp.ts';

export interface DaemonPlace {
  /** Where sockets, pid file and log go; created with mode 0700. */
  runDirectory: string;
  /** The daemon's working directory. */
  imageDirectory: string;
}

export interface StorageDaemon {
  qmp: QmpClient;
  pid: number;
  nbdSocketPath: string;
  /** True when it was already running. */
  adopted: boolean;
}

const maxSocketPath = 107;
const startDeadlineMs = 20_000;

/** Where the daemon of a run directory serves NBD, running or not. */
export const nbdSocketIn = (runDirectory: string): string => join(runDirectory, 'nbd.sock');

/** Finds the running daemon or starts one. @throws engine_unavailable, config_invalid (path too long for a socket) */
export async function reachStorageDaemon(place: DaemonPlace): Promise<StorageDaemon> {
  mkdirSync(place.runDirectory, { recursive: true, mode: 0o700 });
  const monitor = join(place.runDirectory, 'qmp.sock');
  const nbdSocketPath = nbdSocketIn(place.runDirectory);
  if (Buffer.byteLength(monitor) > maxSocketPath) {
    throw new CalotypeError('config_invalid', `The path ${monitor} is too long for a socket.`, {
      remedy: 'Choose a data directory with a shorter path.',
    });
  }
  const running = await connectIfListening(monitor);
  if (running !== null) return { qmp: running, pid: readPid(place), nbdSocketPath, adopted: true };

  rmSync(monitor, { force: true });
  rmSync(nbdSocketPath, { force: true });
  const log = openSync(join(place.runDirectory, 'storage-daemon.log'), 'a', 0o600);
  const child = spawn(
    'qemu-storage-daemon',
    [
      '--chardev',
      `socket,id=monitor,path=${monitor.replaceAll(',', ',,')},server=on,wait=off`,
      '--monitor',
      'chardev=monitor',
      '--nbd-server',
      `addr.type=unix,addr.path=${nbdSocketPath.replaceAll(',', ',,')}`,
      '--pidfile',
      pidFile(place),
    ],
    { cwd: place.imageDirectory, detached: true, stdio: ['ignore', log, log] },
  );
  closeSync(log);
  let failure: Error | undefined;
  child.once('error', (error) => {
    failure = error;
  });
  child.once('exit', (code, signal) => {
    failure ??= new Error(`it ended with ${signal ?? `code ${code}`}`);
  });
  child.unref();
  const deadline = Date.now() + startDeadlineMs;
  while (failure === undefined && Date.now() < deadline) {
    const qmp = existsSync(nbdSocketPath) ? await connectIfListening(monitor) : null;
    if (qmp !== null) {
      child.removeAllListeners();
      return { qmp, pid: child.pid ?? readPid(place), nbdSocketPath, adopted: false };
    }
    await delay(3);
  }
  throw new CalotypeError(
    'engine_unavailable',
    `The storage daemon did not start: ${failure?.message ?? 'no answer'}. ${lastLines(place)}`,
  );
}

/** Ends the daemon and waits until it is gone. */
export async function stopStorageDaemon(daemon: StorageDaemon): Promise<void> {
  const gone = new Promise<void>((resolve) => {
    if (daemon.qmp.closed) resolve();
    else daemon.qmp.once('close', () => resolve());
  });
  await daemon.qmp.execute('quit').catch(() => undefined);
  await gone;
}

function pidFile(place: DaemonPlace): string {
  return join(place.runDirectory, 'storage-daemon.pid');
}

function readPid(place: DaemonPlace): number {
  try {
    return Number.parseInt(readFileSync(pidFile(place), 'utf8'), 10);
  } catch {
    return 0;
  }
}

function lastLines(place: DaemonPlace): string {
  try {
    return readFileSync(join(place.runDirectory, 'storage-daemon.log'), 'utf8').trim().split('\n').slice(-3).join(' ');
  } catch {
    return '';
  }
}

async function connectIfListening(path: string): Promise<QmpClient | null> {
  try {
    return await QmpClient.connect(path);
  } catch {
    return null;
  }
}
