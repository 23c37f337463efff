/** For the tests of the CLI: a fake of the native API that answers what a test tells it and records what was asked, and a run of the CLI on it. */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { PassThrough, Readable, Writable } from 'node:stream';
import type { Drive, DriveSnapshot, Image, Machine, MachineSnapshot, Snapshot, Task } from '../src/cli/api-types.ts';
import { run } from '../src/cli/main.ts';

export interface Recorded {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

type Handler = (request: Recorded, response: ServerResponse, raw: IncomingMessage) => unknown;

export class FakeApi implements AsyncDisposable {
  readonly requests: Recorded[] = [];
  private readonly handlers = new Map<string, Handler>();
  private readonly server = createServer((request, response) => void this.answer(request, response));

  static async start(): Promise<FakeApi> {
    const api = new FakeApi();
    api.server.listen(0, '127.0.0.1');
    await once(api.server, 'listening');
    return api;
  }

  get url(): string {
    const address = this.server.address();
    return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  }

  /** `GET /drives`; a handler answers by its value as JSON, or writes the response itself and gives undefined. */
  on(route: string, answer: Handler | object): this {
    this.handlers.set(
      route,
      typeof answer === 'function' ? (request, response, raw) => answer(request, response, raw) : () => answer,
    );
    return this;
  }

  /** The bodies sent to a route. */
  sent(route: string): unknown[] {
    return this.asked(route).map((request) => (request.body === '' ? null : JSON.parse(request.body)));
  }

  asked(route: string): Recorded[] {
    return this.requests.filter((request) => `${request.method} ${request.path}` === route);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  private async answer(raw: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(raw.url ?? '/', 'http://host');
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of raw) chunks.push(chunk);
    } catch {
      return; // The client went away.
    }
    const path = decodeURIComponent(url.pathname.replace(/^\/v1/, '')) || '/';
    const request: Recorded = {
      method: raw.method ?? '',
      path,
      query: url.searchParams,
      headers: raw.headers,
      body: Buffer.concat(chunks).toString('utf8'),
    };
    this.requests.push(request);
    const handler = this.handlers.get(`${request.method} ${path}`);
    const value =
      handler === undefined
        ? problem(response, 404, 'not_found', `There is no ${path}.`)
        : await handler(request, response, raw);
    if (value === undefined || response.writableEnded || response.destroyed) return;
    if (!response.headersSent) response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(value));
  }
}

/** Answers with a problem body. */
export function problem(
  response: ServerResponse,
  status: number,
  code: string,
  detail: string,
  more: object = {},
): undefined {
  response.writeHead(status, { 'content-type': 'application/problem+json' });
  response.end(JSON.stringify({ type: `urn:calotype:error:${code}`, title: code, status, detail, code, ...more }));
  return undefined;
}

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly api?: FakeApi;
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: Readable;
  /** Columns of a terminal; without it the output is none. */
  readonly columns?: number;
  readonly signal?: AbortSignal;
  readonly now?: () => number;
}

class Screen extends Writable {
  text: Buffer[] = [];
  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.text.push(Buffer.from(chunk));
    callback();
  }
  get bytes(): Buffer {
    return Buffer.concat(this.text);
  }
}

/** Runs one command to its end. */
export async function runCli(argv: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const terminal = options.columns === undefined ? {} : { isTTY: true, columns: options.columns };
  const stdout = new Screen();
  const stderr = new Screen();
  const env = {
    ...(options.api === undefined ? {} : { CALOTYPE_URL: options.api.url, CALOTYPE_TOKEN: 'secret' }),
    NO_COLOR: '1',
    ...options.env,
  };
  const code = await run(argv, {
    stdin: options.stdin ?? Readable.from([]),
    stdout: Object.assign(stdout, terminal),
    stderr: Object.assign(stderr, terminal),
    env,
    now: options.now ?? Date.now,
    interrupted: options.signal ?? new AbortController().signal,
  });
  return { code, stdout: stdout.bytes.toString('utf8'), stderr: stderr.bytes.toString('utf8') };
}

export const emptyInput = (): PassThrough => new PassThrough();

let count = 0;
const nextId = (): string =>
  `${(++count).toString(16).padStart(8, 'a')}-0000-4000-8000-${String(count).padStart(12, '0')}`;

export function aDrive(more: Partial<Drive> = {}): Drive {
  return {
    id: nextId(),
    number: count,
    projectId: nextId(),
    name: 'data',
    description: '',
    sizeBytes: 10 * 2 ** 30,
    state: 'available',
    meta: {},
    tags: [],
    error: null,
    basedOn: null,
    sourceId: null,
    imageId: null,
    snapshotCount: 0,
    exported: false,
    attachedTo: null,
    createdAt: '2031-04-09T16:20:05.004210Z',
    updatedAt: '2031-04-09T16:20:05.004210Z',
    version: 1,
    ...more,
  };
}

const hardware = { machineType: 'pc-q35-7.2', cpus: 1, memoryBytes: 256 * 2 ** 20, macAddress: '52:54:00:12:34:56' };

export function aMachine(more: Partial<Machine> = {}): Machine {
  return {
    id: nextId(),
    number: count,
    projectId: nextId(),
    name: 'web',
    description: '',
    kind: 'vm',
    managed: true,
    state: 'available',
    power: 'off',
    hardware,
    boot: { from: 'drive' },
    drives: [],
    meta: {},
    tags: [],
    error: null,
    basedOn: null,
    sourceId: null,
    imageId: null,
    snapshotCount: 0,
    runtime: null,
    createdAt: '2031-04-09T16:20:05.004210Z',
    updatedAt: '2031-04-09T16:20:05.004210Z',
    version: 1,
    ...more,
  };
}

/** The part of a snapshot that says what the machine was like. */
export function ofMachine(machine: Machine, more: Partial<MachineSnapshot> = {}): MachineSnapshot {
  return {
    machineId: machine.id,
    machineName: machine.name,
    parentId: null,
    current: false,
    power: 'running',
    hardware,
    slots: machine.drives,
    excluded: [],
    reason: 'No quiescing was asked for.',
    frozenMilliseconds: null,
    pauseMilliseconds: null,
    memory: null,
    ...more,
  };
}

export function aPart(drive: { id: string; name: string }, more: Partial<DriveSnapshot> = {}): DriveSnapshot {
  return {
    id: nextId(),
    number: count,
    snapshotId: nextId(),
    driveId: drive.id,
    driveName: drive.name,
    parentId: null,
    virtualBytes: 10 * 2 ** 30,
    sizeBytes: 2 ** 20,
    current: false,
    ...more,
  };
}

export function aSnapshot(parts: readonly DriveSnapshot[], more: Partial<Snapshot> = {}): Snapshot {
  return {
    id: nextId(),
    number: count,
    projectId: nextId(),
    name: 'before',
    description: '',
    state: 'available',
    meta: {},
    tags: [],
    error: null,
    origin: 'manual',
    consistency: 'crash',
    complete: true,
    parts,
    machine: null,
    sizeBytes: 2 ** 20,
    createdBy: null,
    createdAt: '2031-04-09T16:20:05.004210Z',
    updatedAt: '2031-04-09T16:20:05.004210Z',
    version: 1,
    ...more,
  };
}

export function anImage(more: Partial<Image> = {}): Image {
  return {
    id: nextId(),
    number: count,
    projectId: nextId(),
    name: 'debian-12',
    description: '',
    kind: 'machine',
    state: 'available',
    meta: {},
    tags: [],
    error: null,
    sizeBytes: 10 * 2 ** 30,
    consistency: 'filesystem',
    drives: [{ slot: 0, name: 'root', sizeBytes: 10 * 2 ** 30 }],
    machine: {
      name: 'web',
      kind: 'vm',
      hardware: { machineType: 'pc-q35-7.2', cpus: 1, memoryBytes: 256 * 2 ** 20 },
      boot: { from: 'drive' },
    },
    sourceId: nextId(),
    cloneCount: 0,
    createdBy: null,
    createdAt: '2031-04-09T16:20:05.004210Z',
    updatedAt: '2031-04-09T16:20:05.004210Z',
    version: 1,
    ...more,
  };
}

export function aTask(more: Partial<Task> = {}): Task {
  return {
    id: nextId(),
    number: count,
    via: 'cli',
    kind: 'drive.create',
    state: 'done',
    objectKind: 'drive',
    objectId: nextId(),
    driveIds: [],
    machineId: null,
    progress: { done: 0, total: 0, unit: 'bytes', ratePerSecond: null, estimateSeconds: null },
    result: null,
    error: null,
    cancellable: false,
    pausable: false,
    speedLimitBytesPerSecond: 0,
    createdAt: '2031-04-09T16:20:05.004210Z',
    startedAt: null,
    finishedAt: null,
    ...more,
  };
}
