/**
 * The tour's side of Calotype: a server of its own, the native API and the command line. Imports none of the sources:
 * the tour sees what any client sees.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MiB, Mismatch, say } from './tour-tools.ts';

const execute = promisify(execFile);
const calotype = join(dirname(dirname(fileURLToPath(import.meta.url))), 'bin/calotype');
const readyDeadlineMs = 20_000;

export interface Place {
  readonly url: string;
  readonly token: string;
}

/** A server on a directory and ports of its own. */
export class OwnServer {
  readonly #data: string;
  #child: ChildProcess | undefined;
  #log = '';

  constructor(data: string) {
    this.#data = data;
  }

  async start(): Promise<Place> {
    const args = [
      calotype,
      'serve',
      '--data',
      this.#data,
      '--port-base',
      '0',
      '--log-level',
      'warn',
      '--reserve-bytes',
      '0',
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    this.#log = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#log = `${this.#log}${chunk}`.slice(-4000);
      });
    }
    const deadline = performance.now() + readyDeadlineMs;
    while (child.exitCode === null && performance.now() < deadline) {
      const place = this.#readPlace();
      if (place !== null && (await isReady(place))) return place;
      await delay(20);
    }
    throw new Mismatch(`The server did not become ready.\n${this.#log}`);
  }

  #readPlace(): Place | null {
    try {
      const access = JSON.parse(readFileSync(join(this.#data, 'access.json'), 'utf8'));
      return { url: access.endpoints.native, token: access.token };
    } catch {
      return null;
    }
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** The storage daemon outlives its server; the tour ends it by its own pid file. */
  async stopDaemon(): Promise<void> {
    const file = join(this.#data, 'run/storage-daemon.pid');
    if (!existsSync(file)) return;
    const pid = Number.parseInt(readFileSync(file, 'utf8'), 10);
    const isOurs = (): boolean => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.#data);
      } catch {
        return false;
      }
    };
    if (isOurs()) process.kill(pid, 'SIGTERM');
    while (isOurs()) await delay(10);
  }
}

async function isReady({ url, token }: Place): Promise<boolean> {
  try {
    return (await fetch(url, { headers: { authorization: `Bearer ${token}` } })).ok;
  } catch {
    return false;
  }
}

// ---- API and command line

export interface Extent {
  readonly start: number;
  readonly length: number;
}
export interface Drive {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly state: string;
}
export interface Machine {
  readonly id: string;
  readonly name: string;
  readonly drives: readonly { readonly slot: number; readonly driveId: string }[];
  readonly runtime: { readonly qemuVersion: string; readonly accelerator: string } | null;
}
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly origin: string;
  readonly consistency: string;
  readonly sizeBytes: number | null;
  readonly machine: { readonly reason: string; readonly pauseMilliseconds: number | null } | null;
  readonly parts: readonly { readonly id: string; readonly driveId: string; readonly current: boolean }[];
}
export interface Task {
  readonly id: string;
  readonly state: string;
  readonly result: { readonly freedBytes?: number; readonly keptBytes?: number } | null;
}
export interface Change {
  readonly task: Task;
  readonly drive: Drive;
  readonly machine: Machine;
  readonly snapshot: Snapshot;
}
export interface Export {
  readonly id: string;
  readonly uri: string;
}
export interface Report {
  readonly checkedFiles: number;
  readonly findings: readonly { readonly code: string; readonly severity: string; readonly explanation: string }[];
}

/** The native API, and the command line beside it. */
export class Client {
  place: Place;
  constructor(place: Place) {
    this.place = place;
  }

  async #send<T>(method: string, path: string, body: unknown, headers: Record<string, string>): Promise<T> {
    const text = await this.#answer(method, path, body, headers);
    return JSON.parse(text === '' ? 'null' : text);
  }

  async #answer(method: string, path: string, body: unknown, headers: Record<string, string>): Promise<string> {
    const response = await fetch(`${this.place.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.place.token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Mismatch(`${method} ${path} was answered ${response.status}: ${text}`);
    return text;
  }

  /** An answer that is no JSON. */
  text(path: string): Promise<string> {
    return this.#answer('GET', path, undefined, {});
  }

  get<T>(path: string): Promise<T> {
    return this.#send('GET', path, undefined, {});
  }

  /** A request that is carried out before its answer. */
  do<T>(method: 'POST' | 'DELETE', path: string, body?: unknown): Promise<T> {
    return this.#send(method, path, body, {});
  }

  /** A change, waited for. @throws Mismatch when its task does not end well */
  async change(method: 'POST' | 'DELETE', path: string, body?: unknown): Promise<Change> {
    const answer = await this.#send<Change>(method, path, body, { prefer: 'wait=60' });
    if (answer.task.state !== 'done') throw new Mismatch(`${method} ${path}: its task is ${answer.task.state}.`);
    return answer;
  }

  /** `calotype …`, as people type it. */
  async cli(...args: readonly string[]): Promise<string> {
    say(`$ calotype ${args.map((arg) => (/^[\w./:=@+-]+$/.test(arg) ? arg : `'${arg}'`)).join(' ')}`);
    const env = { ...process.env, CALOTYPE_URL: this.place.url, CALOTYPE_TOKEN: this.place.token };
    try {
      return (await execute(process.execPath, [calotype, '--quiet', ...args], { env, maxBuffer: 64 * MiB })).stdout;
    } catch (error) {
      const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
      throw new Mismatch(`calotype ${args.join(' ')} failed: ${text}`);
    }
  }

  async cliJson<T>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await this.cli(...args, '--json'));
  }
}
