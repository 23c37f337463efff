/** The whole server inside the test's process: as quick to start as it gets, and its steps can be watched. */
import { createWriteStream, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { assemble, type Server } from '../../src/http/assemble.ts';
import { readConfig } from '../../src/http/config.ts';
import { createLogger } from '../../src/http/logging.ts';
import { endpointsOf, listen } from '../../src/http/serve.ts';
import { bootstrap, type Endpoints } from '../../src/service/bootstrap.ts';
import type { Access } from '../campaign/api.ts';
import { daemonPidOf } from '../campaign/arm.ts';

export interface LocalServer {
  readonly access: Access;
  readonly server: Server;
  /** URL by front door. */
  readonly endpoints: Endpoints;
  /** Of `admin`. */
  readonly password: string;
  /** What recovery found and did. */
  readonly recovered: readonly string[];
  /** Ends server, storage daemon and machines, without giving the daemon time for anything. */
  destroy(): Promise<void>;
}

/** `more`: flags of `calotype serve`. */
export async function startLocalServer(
  data: string,
  logPath: string,
  onStep: (name: string) => void = () => undefined,
  more: readonly string[] = [],
): Promise<LocalServer> {
  const flags = ['--data', data, '--port-base', '0', '--reserve-bytes', '0', '--min-free-bytes', '0'];
  const config = readConfig([...flags, '--high-water-percent', '100', ...more], {});
  mkdirSync(data, { recursive: true });
  const log = createWriteStream(logPath, { flags: 'a' });
  const server: Server = await assemble(config, 'test', createLogger('info', log), { onStep });
  for (const line of server.recovered) log.write(`recovered: ${line}\n`);
  const ports = await listen(server, config);
  const endpoints = endpointsOf(config, server, (offset) => ports.get(offset) ?? 0);
  const { access } = await bootstrap(server.catalog, data, endpoints);
  if (access === null) throw new Error('the server left no access.json');
  return {
    access: { url: new URL(access.endpoints.native ?? '').origin, token: access.token },
    endpoints,
    password: access.password,
    recovered: server.recovered,
    server,
    destroy: async () => {
      const pid = daemonPidOf(data);
      if (pid !== 0) process.kill(pid, 'SIGKILL');
      while (daemonPidOf(data) !== 0) await sleep(2);
      await server.close(0);
      await killAllOf(data);
      await new Promise<void>((resolve) => log.end(() => resolve()));
    },
  };
}

/** A server that was not quite closed may have brought its daemon back, and machines outlive it: all of them come to an end. */
async function killAllOf(data: string): Promise<void> {
  for (let seenNone = 0; seenNone < 2; await sleep(5)) {
    const pids = processesNaming(`${data}/run/`);
    seenNone = pids.length === 0 ? seenNone + 1 : 0;
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
  }
}

/** Zombies name nothing any more. */
function processesNaming(path: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(path);
      } catch {
        return false;
      }
    })
    .map(Number);
}
