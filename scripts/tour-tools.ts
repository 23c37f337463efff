/**
 * What the tour works with: a server of its own, the native API, the command line, and independent programs. Nothing here
 * imports the server's code: the tour sees Calotype as any client does.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify, styleText } from 'node:util';

const execute = promisify(execFile);
const calotype = join(dirname(dirname(fileURLToPath(import.meta.url))), 'bin/calotype');
const readyDeadlineMs = 20_000;

export const blockBytes = 4096;
export const MiB = 1024 * 1024;

// ---- what is printed

let checked = 0;
export const checkedCount = (): number => checked;

/** A fact that did not hold: the tour ends. */
export class Mismatch extends Error {}

export function chapter(title: string): void {
  console.log(`\n${styleText('bold', title)}`);
}

export function say(text: string): void {
  console.log(styleText('dim', text.replace(/^/gm, '    ')));
}

/** Prints the fact as checked, or ends the tour with what was found instead. */
export function check(fact: string, holds: boolean, found?: unknown): void {
  if (!holds) throw new Mismatch(found === undefined ? fact : `${fact}\n    found: ${JSON.stringify(found)}`);
  checked++;
  console.log(`  ${styleText('green', '✓')} ${fact}`);
}

export const formatMiB = (bytes: number): string => `${(bytes / MiB).toFixed(1)} MiB`;

// ---- programs

/** Runs a program to its end and returns what it printed. @throws Error with its output */
export async function run(program: string, ...args: readonly string[]): Promise<string> {
  try {
    return (await execute(program, args, { maxBuffer: 64 * MiB })).stdout;
  } catch (error) {
    const output = error instanceof Error && 'stdout' in error && 'stderr' in error ? error : undefined;
    throw new Mismatch(`${program} ${args.join(' ')} failed:\n${output?.stdout ?? ''}${output?.stderr ?? String(error)}`);
  }
}

/** Whether QEMU finds two raw images equal; independent of everything of ours. */
export async function areIdentical(a: string, b: string): Promise<boolean> {
  return (await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', a, b)).includes('Images are identical');
}

/** The blocks of a file inside an ext4 image, as byte offsets of the image. */
export async function blocksOf(image: string, file: string): Promise<number[]> {
  const numbers = (await run('debugfs', '-R', `blocks ${file}`, image)).trim().split(/\s+/);
  return numbers.map((number) => Number(number) * blockBytes);
}

/** The content of a file inside an ext4 image. */
export async function readFileOf(image: string, file: string): Promise<Buffer> {
  const target = `${image}.out`;
  await run('debugfs', '-R', `dump ${file} ${target}`, image);
  return readFileSync(target);
}

/** `qemu-io` on an NBD export: an NBD client that is QEMU's own, and stays connected from command to command. */
export class QemuIo {
  readonly #child: ChildProcess;
  #output = '';
  #wake: (() => void) | undefined;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(uri: string) {
    this.#child = spawn('qemu-io', ['-f', 'raw', uri], { stdio: ['pipe', 'pipe', 'pipe'] });
    const take = (chunk: Buffer): void => {
      this.#output += chunk.toString('latin1');
      this.#wake?.();
    };
    this.#child.stdout?.on('data', take);
    this.#child.stderr?.on('data', take);
    this.#child.stdin?.on('error', () => undefined);
    this.#child.once('close', () => this.#wake?.());
    this.#queue = this.#prompt();
  }

  /** Sends one command and returns what it printed; commands queue. */
  command(line: string): Promise<string> {
    const answer = this.#queue.then(() => {
      this.#child.stdin?.write(`${line}\n`);
      return this.#prompt();
    });
    this.#queue = answer.catch(() => undefined);
    return answer;
  }

  async #prompt(): Promise<string> {
    while (!this.#output.endsWith('qemu-io> ')) {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        throw new Mismatch(`The NBD connection ended: ${this.#output.trim()}`);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const text = this.#output.slice(0, -'qemu-io> '.length);
    this.#output = '';
    return text;
  }

  /** Writes the whole of a file at an offset. */
  async write(file: string, offset: number, length: number): Promise<void> {
    const answer = await this.command(`write -s ${file} ${offset} ${length}`);
    if (!answer.includes(`wrote ${length}/${length} bytes`)) throw new Mismatch(`A write over NBD failed: ${answer}`);
  }

  async flush(): Promise<void> {
    const answer = await this.command('flush');
    if (answer.trim() !== '') throw new Mismatch(`A flush over NBD failed: ${answer}`);
  }

  /** The text at an offset, up to the first line end. */
  async readText(offset: number): Promise<string> {
    const dump = await this.command(`read -v ${offset} 64`);
    const bytes = [...dump.matchAll(/^[0-9a-f]{8}: {2}((?:[0-9a-f]{2} )+)/gm)].map(([, hex]) => hex ?? '').join('');
    return Buffer.from(bytes.replaceAll(' ', ''), 'hex').toString('utf8').split('\n')[0]?.trim() ?? '';
  }

  async close(): Promise<void> {
    const ended = this.#child.exitCode === null && this.#child.signalCode === null ? once(this.#child, 'close') : null;
    this.#child.stdin?.end('quit\n');
    await ended;
  }
}

/** One block of text, filled up with spaces; what the tour writes is readable in any hex dump. */
export function blockOf(text: string): Buffer {
  return Buffer.from(`${text}\n`.padEnd(blockBytes, ' '));
}

const ringText = (sequence: number): string => `write number ${sequence}`;
export const ringBlocks = 64;

/** The ring as the tour begins with it: numbers 1 to 64. */
export function firstRing(): Buffer {
  return Buffer.concat(Array.from({ length: ringBlocks }, (_, at) => blockOf(ringText(at + 1))));
}

/**
 * Writes rising numbers into a ring of blocks, one after another, each flushed before the next begins. So an instant of
 * the drive holds 64 numbers without a gap; anything else is a torn, lost or reordered write.
 */
export class RingWriter {
  /** The last number that was begun, and the last one the drive has confirmed as flushed. */
  begun = ringBlocks;
  flushed = ringBlocks;
  /** ms */
  longestWrite = 0;
  readonly #drives: readonly { io: QemuIo; ring: readonly number[] }[];
  readonly #file: string;
  #stopped = true;
  #loop: Promise<void> = Promise.resolve();
  #failure: unknown;

  /** With several drives each number goes to the first, then to the next. */
  constructor(drives: readonly { io: QemuIo; ring: readonly number[] }[], scratchFile: string) {
    this.#drives = drives;
    this.#file = scratchFile;
  }

  /** Goes on behind `last`, by default the last number written. */
  start(last = this.begun): void {
    this.begun = last;
    this.flushed = last;
    this.#stopped = false;
    this.#loop = this.#run().catch((error: unknown) => {
      this.#failure = error;
    });
  }

  async pause(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Resolves once so many more numbers are flushed. */
  async until(more: number): Promise<void> {
    const goal = this.flushed + more;
    while (this.flushed < goal) {
      if (this.#failure !== undefined) throw this.#failure;
      await delay(2);
    }
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const next = this.begun + 1;
      writeFileSync(this.#file, blockOf(ringText(next)));
      this.begun = next;
      for (const { io, ring } of this.#drives) {
        const startedAt = performance.now();
        await io.write(this.#file, ring[(next - 1) % ringBlocks] ?? 0, blockBytes);
        await io.flush();
        this.longestWrite = Math.max(this.longestWrite, performance.now() - startedAt);
      }
      this.flushed = next;
    }
  }
}

/** The newest number in a ring. @throws Mismatch where a block is torn or a number is missing */
export function newestInRing(ring: Buffer): number {
  const numbers = Array.from({ length: ringBlocks }, (_, at) => {
    const block = ring.subarray(at * blockBytes, (at + 1) * blockBytes);
    const number = Number(/^write number (\d+)\n/.exec(block.toString('latin1'))?.[1] ?? 0);
    if (!block.equals(blockOf(ringText(number))) || (number - 1) % ringBlocks !== at) {
      throw new Mismatch(`Block ${at} of the ring is torn: ${block.toString('latin1', 0, 40)}`);
    }
    return number;
  });
  const newest = Math.max(...numbers);
  const missing = Array.from({ length: ringBlocks }, (_, back) => newest - back).find((n) => !numbers.includes(n));
  if (missing !== undefined) throw new Mismatch(`The ring ends with ${newest} but lacks number ${missing}.`);
  return newest;
}

// ---- the server

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
    const args = [calotype, 'serve', '--data', this.#data, '--port-base', '0', '--log-level', 'warn', '--reserve-bytes', '0'];
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
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly origin: string;
  readonly sizeBytes: number | null;
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
    return text === '' ? null : JSON.parse(text);
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
