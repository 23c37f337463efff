/** The qcow2 engine as the conformance suite wants it; also loaded by the suite's child processes. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { EngineHarness } from '../conformance/harness.ts';
import { Qcow2Engine } from './engine.ts';
import { maxDepth } from './pivot.ts';

export const harness: EngineHarness = {
  make: (parts) => new Qcow2Engine(parts),
  module: import.meta.url,
  killProcesses,
  usedBytes,
  overheadBytes: 1024 * 1024,
  maxDepth,
};

async function killProcesses(dataDirectory: string): Promise<void> {
  const pid = await daemonPid(dataDirectory);
  if (pid === null) return;
  try {
    process.kill(pid, 'SIGKILL');
    for (;;) {
      process.kill(pid, 0);
      await delay(2);
    }
  } catch {
    // It is gone.
  }
}

/** The daemon that has this directory for its working directory: a stale pid file may name a stranger. */
async function daemonPid(dataDirectory: string): Promise<number | null> {
  const text = await readFile(join(dataDirectory, 'run', 'storage-daemon.pid'), 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  if (!(pid > 1)) return null;
  const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return command.includes(join(dataDirectory, 'run')) ? pid : null;
}

async function usedBytes(dataDirectory: string): Promise<number> {
  const directory = join(dataDirectory, 'images');
  let bytes = 0;
  for (const name of await readdir(directory)) {
    if (name === 'reserve') continue;
    bytes += await stat(join(directory, name)).then(
      (found) => found.blocks * 512,
      () => 0,
    );
  }
  return bytes;
}
