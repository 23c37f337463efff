/** Shared by the benchmarks: percentiles, a server of our own, a bare daemon as the floor, writers in processes of their own. */
import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { StorageDaemon } from '../src/qemu/storage-daemon.ts';
import { reachStorageDaemon } from '../src/qemu/storage-daemon.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

export interface Row {
  what: string;
  value: string;
  /** Against the baseline of the same run. */
  ratio?: string;
  /** What issue and design ask for. */
  limit?: string;
  holds?: boolean;
}

export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export const ms = (value: number): string => `${value.toFixed(value < 10 ? 2 : 1)} ms`;

/** One line of a table: a figure as a ratio to its baseline, and whether it stays within the limit. */
export function ratioRow(
  what: string,
  value: number,
  baseline: number,
  limit: number,
  sense: 'atMost' | 'atLeast',
): Row {
  const ratio = value / baseline;
  return {
    what,
    value: ms(value),
    ratio: `${ratio.toFixed(2)}×`,
    limit: `${sense === 'atMost' ? '≤' : '≥'} ${limit}×`,
    holds: sense === 'atMost' ? ratio <= limit : ratio >= limit,
  };
}

export async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; result: T }> {
  const start = performance.now();
  const result = await work();
  return { ms: performance.now() - start, result };
}

export function temporaryDirectory(name: string): string {
  const base = process.env.CALOTYPE_BENCH_DIR ?? tmpdir();
  mkdirSync(base, { recursive: true });
  return mkdtempSync(join(base, `cb-${name}-`));
}

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: unknown;
}

/** A kept-alive connection that costs next to nothing: the figures are the server's, not an HTTP client's. */
class LeanConnection {
  readonly #socket: Socket;
  #received = '';
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => this.#read(text));
    socket.on('error', (error) => this.#waiting?.reject(error));
    socket.on('close', () => this.#waiting?.reject(new Error('the server closed the connection')));
  }

  static open(port: number): Promise<LeanConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => resolve(new LeanConnection(socket)));
      socket.once('error', reject);
    });
  }

  call(method: string, path: string, body: unknown, headers: Record<string, string>): Promise<Answer> {
    const text = body === undefined ? '' : JSON.stringify(body);
    let head = `${method} ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\n`;
    for (const [name, value] of Object.entries(headers)) head += `${name}: ${value}\r\n`;
    if (body !== undefined) head += `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n`;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(`${head}\r\n${text}`);
    });
  }

  #read(text: string): void {
    this.#received += text;
    const end = this.#received.indexOf('\r\n\r\n');
    if (end < 0) return;
    const [first = '', ...lines] = this.#received.slice(0, end).split('\r\n');
    const headers = Object.fromEntries(
      lines.map((line) => {
        const at = line.indexOf(':');
        return [line.slice(0, at).toLowerCase(), line.slice(at + 1).trim()];
      }),
    );
    const size = Number(headers['content-length'] ?? 0);
    const raw = this.#received.slice(end + 4);
    if (raw.length < size) return;
    this.#received = '';
    const body: unknown = size === 0 ? null : JSON.parse(Buffer.from(raw, 'latin1').toString('utf8'));
    this.#waiting?.resolve({ status: Number(first.split(' ')[1]), headers, body });
    this.#waiting = undefined;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** A running server, in a process of its own, and a lean client for it. */
export class BenchServer {
  readonly directory: string;
  readonly port: number;
  readonly readyMs: number;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #idle: LeanConnection[] = [];
  readonly token: string;
  /** Of the operator `admin`. */
  readonly password: string;

  private constructor(
    directory: string,
    port: number,
    child: ChildProcess,
    readyMs: number,
    access: { token: string; password: string },
  ) {
    this.directory = directory;
    this.port = port;
    this.#child = child;
    this.pid = child.pid ?? 0;
    this.readyMs = readyMs;
    this.token = access.token;
    this.password = access.password;
  }

  static async start(directory: string, options: { port?: number } = {}): Promise<BenchServer> {
    const port = options.port ?? 21000 + Math.floor(Math.random() * 11000);
    const start = performance.now();
    const child = spawn(
      join(root, 'node_modules/.bin/node'),
      [join(root, 'bin/calotype'), 'serve', '--data', directory, '--port-base', String(port), '--log-level', 'warn'],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    for (;;) {
      if (child.exitCode !== null) throw new Error('the server ended');
      if (await isReady(port)) break;
      await delay(5);
    }
    const readyMs = performance.now() - start;
    const access: { token: string; password: string } = JSON.parse(
      readFileSync(join(directory, 'access.json'), 'utf8'),
    );
    return new BenchServer(directory, port, child, readyMs, access);
  }

  /** Resident memory of the server process, bytes. */
  residentBytes(): number {
    const pages = readFileSync(`/proc/${this.pid}/statm`, 'utf8').split(' ')[1];
    return Number(pages) * 4096;
  }

  async call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const connection = this.#idle.pop() ?? (await LeanConnection.open(this.port));
    const answer = await connection.call(method, path, body, { authorization: `Bearer ${this.token}`, ...headers });
    this.#idle.push(connection);
    return answer;
  }

  /** Calls and waits for the task; throws on any failure. */
  async done<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.call(method, path, body, { prefer: 'wait=60' });
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body as T;
  }

  async createDrive(name: string, sizeBytes: number): Promise<string> {
    const made = await this.done<{ drive: { id: string } }>('POST', '/v1/drives', { name, sizeBytes });
    return made.drive.id;
  }

  async exportDrive(driveId: string): Promise<{ id: string; exportName: string; socketPath: string }> {
    const made = await this.done<{ id: string; exportName: string; uri: string }>('POST', '/v1/exports', {
      driveId,
      writable: true,
    });
    const socketPath = new URL(made.uri.replace('nbd+unix', 'http')).searchParams.get('socket') ?? '';
    return { id: made.id, exportName: made.exportName, socketPath };
  }

  async stop(): Promise<void> {
    for (const connection of this.#idle.splice(0)) connection.close();
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGTERM');
    await ended;
    stopDaemon(this.directory);
  }
}

async function isReady(port: number): Promise<boolean> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`);
    return answer.ok;
  } catch {
    return false;
  }
}

/** Ends the storage daemon that a server left behind. */
export function stopDaemon(directory: string): void {
  try {
    process.kill(Number(readFileSync(join(directory, 'run/storage-daemon.pid'), 'utf8')), 'SIGTERM');
  } catch {
    return;
  }
}

/** A storage daemon with nothing of ours around it: the floor. */
export class BareDaemon {
  readonly directory: string;
  readonly daemon: StorageDaemon;
  #next = 0;

  private constructor(directory: string, daemon: StorageDaemon) {
    this.directory = directory;
    this.daemon = daemon;
  }

  static async start(): Promise<BareDaemon> {
    const directory = temporaryDirectory('bare');
    const daemon = await reachStorageDaemon({ runDirectory: join(directory, 'run'), imageDirectory: directory });
    return new BareDaemon(directory, daemon);
  }

  /** A new image file by qemu-img; returns its name. */
  image(sizeBytes: number, backing?: string): string {
    const name = `i${this.#next++}`;
    const base = backing === undefined ? [] : ['-b', `${backing}.qcow2`, '-F', 'qcow2'];
    execFileSync(
      'qemu-img',
      [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-o',
        'cluster_size=128k,extended_l2=on',
        ...base,
        `${name}.qcow2`,
        String(sizeBytes),
      ],
      { cwd: this.directory },
    );
    return name;
  }

  node(name: string, backing: string | null, readOnly = false): Record<string, unknown> {
    return {
      driver: 'qcow2',
      'node-name': name,
      'read-only': readOnly,
      backing,
      discard: 'unmap',
      cache: { direct: true },
      file: {
        driver: 'file',
        'node-name': `${name}f`,
        filename: `${name}.qcow2`,
        discard: 'unmap',
        cache: { direct: true },
      },
    };
  }

  async add(name: string, backing: string | null, readOnly = false): Promise<void> {
    await this.daemon.qmp.execute('blockdev-add', this.node(name, backing, readOnly));
  }

  async serve(node: string, exportName: string): Promise<void> {
    await this.daemon.qmp.execute('block-export-add', {
      type: 'nbd',
      id: exportName,
      'node-name': node,
      name: exportName,
      writable: true,
    });
  }

  stop(): void {
    this.daemon.qmp.close();
    stopDaemon(this.directory);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface Writer {
  /** Ends the writer. @returns the longest time one write took, and the writes per second */
  stop(): Promise<{ longestMs: number; perSecond: number }>;
  /** The longest write since the last call. */
  longest(): Promise<number>;
}

/** Random 4 KiB writes at a rate over NBD, from a process of its own. */
export async function startWriter(
  socketPath: string,
  exportName: string,
  options: { perSecond: number; spanBytes: number },
): Promise<Writer> {
  const child = fork(join(root, 'bench/writer.ts'), [
    socketPath,
    exportName,
    String(options.perSecond),
    String(options.spanBytes),
  ]);
  const answer = <T>(question: string): Promise<T> =>
    new Promise((resolve) => {
      child.once('message', (message) => resolve(message as T));
      child.send(question);
    });
  await new Promise((resolve) => child.once('message', resolve));
  return {
    longest: () => answer<number>('longest'),
    stop: async () => {
      const summary = await answer<{ longestMs: number; perSecond: number }>('stop');
      child.kill();
      return summary;
    },
  };
}
