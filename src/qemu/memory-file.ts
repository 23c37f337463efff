/**
 * A guest's memory in a file: QEMU's migration stream, compressed with zstd, whose frame carries a checksum. QEMU leaves
 * out pages of zeros by itself. A file is whole and durable, or it is removed.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { extname } from 'node:path';
import { type Readable, Transform, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { crc32, createZstdDecompress } from 'node:zlib';
import { CalotypeError } from '../core/errors.ts';

const pieceBytes = 1024 * 1024;

export interface StoredMemory {
  /** Bytes of the migration stream. */
  readonly streamBytes: number;
  readonly storedBytes: number;
  /** CRC-32 of the file. */
  readonly checksum: number;
}

/** Passes bytes on, and sums them. */
class Meter extends Transform {
  checksum = 0;

  constructor() {
    super({ highWaterMark: pieceBytes });
  }

  override _transform(piece: Buffer, _encoding: string, done: () => void): void {
    this.checksum = crc32(piece, this.checksum);
    this.push(piece);
    done();
  }
}

/** Receives one migration stream and writes it to a new file, through a process of its own (memory-writer-process.ts). */
export class MemoryWriter {
  readonly socketPath: string;
  /** Of the gate that the guest is to stand still at (flush-gate.ts); closed until `openGate`. */
  readonly gatePath: string;
  /** Resolves when the guest stands at the gate. Rejects never; a writer that ends leaves it open. */
  readonly held: Promise<void>;
  readonly #path: string;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #done: Promise<StoredMemory>;

  private constructor(
    path: string,
    child: ChildProcessByStdio<Writable, Readable, null>,
    sockets: { socketPath: string; gatePath: string },
    told: Told,
  ) {
    this.#path = path;
    this.#child = child;
    this.socketPath = sockets.socketPath;
    this.gatePath = sockets.gatePath;
    this.held = told.held;
    this.#done = told.done;
    // Whoever waits hears of a failure; nobody has to wait.
    this.#done.catch(() => undefined);
  }

  /** @throws machine_failed */
  static async open(
    path: string,
    sockets: { socketPath: string; gatePath: string },
    options: { onBytes?: (bytes: number) => void } = {},
  ): Promise<MemoryWriter> {
    const { socketPath, gatePath } = sockets;
    for (const socket of [socketPath, gatePath]) await rm(socket, { force: true });
    const script = fileURLToPath(new URL(`memory-writer-process${extname(import.meta.url)}`, import.meta.url));
    const args = ['--disable-warning=ExperimentalWarning', script, socketPath, gatePath, path];
    const child = spawn(process.execPath, args, { detached: true, stdio: ['pipe', 'pipe', 'ignore'] });
    child.stdin.on('error', () => undefined);
    const told = listenTo(child, options.onBytes ?? (() => undefined));
    const writer = new MemoryWriter(path, child, sockets, told);
    await told.ready;
    return writer;
  }

  /** Resolves once QEMU has sent all of it and it is durable. @throws space_exhausted, cancelled, machine_failed */
  finished(): Promise<StoredMemory> {
    return this.#done;
  }

  /** Lets a guest that stands at the gate go on. Idempotent. */
  openGate(): void {
    this.#child.stdin.write('open\n');
  }

  /** Gives up: the gate opens, and nothing stays. What QEMU still sends is read and thrown away. */
  async abort(): Promise<void> {
    this.#child.stdin.write('discard\n');
    await this.#done.catch(() => undefined);
    // A process that died, or was done already, took nothing away.
    for (const left of [this.#path, this.socketPath, this.gatePath]) await rm(left, { force: true });
  }
}

interface Told {
  readonly ready: Promise<void>;
  readonly held: Promise<void>;
  readonly done: Promise<StoredMemory>;
}

function listenTo(child: ChildProcessByStdio<Writable, Readable, null>, onBytes: (bytes: number) => void): Told {
  const ready = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const done = Promise.withResolvers<StoredMemory>();
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const message: { ready?: true; held?: true; bytes?: number; done?: StoredMemory; failed?: string } =
        JSON.parse(line);
      if (message.ready) ready.resolve();
      else if (message.held) held.resolve();
      else if (message.bytes !== undefined) onBytes(message.bytes);
      else if (message.done !== undefined) done.resolve(message.done);
      else if (message.failed !== undefined) done.reject(failureOf(message.failed));
    }
  });
  const end = (): void => {
    const error = new CalotypeError('machine_failed', 'What was to store the memory ended.');
    ready.reject(error);
    done.reject(error);
  };
  child.once('error', end);
  child.once('close', end);
  ready.promise.catch(() => undefined);
  return { ready: ready.promise, held: held.promise, done: done.promise };
}

function failureOf(code: string): CalotypeError {
  if (code === 'ABORT_ERR') return new CalotypeError('cancelled');
  if (code === 'ENOSPC' || code === 'EDQUOT') return new CalotypeError('space_exhausted');
  return new CalotypeError('machine_failed', `The memory could not be stored: ${code}.`);
}

/**
 * Sends stored memory to a QEMU that listens for it. @throws memory_damaged when the file is not what was stored: what was
 * sent must not be run then. A QEMU that closes the connection is no error here: it does so when it has all that it wants,
 * which may be before the end is seen on this side, and when it fails; its monitor says which.
 */
export async function sendMemory(path: string, socketPath: string, expected: { checksum: number }): Promise<void> {
  const stored = new Meter();
  const socket = connect({ path: socketPath });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  const sending = new SocketSender(socket);
  try {
    await pipeline(
      createReadStream(path, { highWaterMark: pieceBytes }),
      stored,
      createZstdDecompress({ chunkSize: pieceBytes }),
      async (pieces: AsyncIterable<Buffer>) => {
        for await (const piece of pieces) await sending.send(piece);
      },
    );
  } catch (cause) {
    socket.destroy();
    // QEMU hangs up when it has all of it, or can use none of it: its monitor tells which.
    if (sending.isClosed) return verifyMemory(path, expected);
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot cannot be read.', {}, { cause });
  }
  // QEMU hangs up by itself when it has all of it, maybe before this.
  socket.end();
  if (stored.checksum !== expected.checksum) {
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot is not what was stored.');
  }
}

/** Hands pieces to a socket, one after another, at the pace of the other side. */
class SocketSender {
  readonly #socket: Socket;
  isClosed = false;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.once('error', () => this.#close());
    socket.once('close', () => this.#close());
    socket.on('drain', () => this.#wake());
  }

  /** Resolves when there is room for the next one. Rejects when the other side has hung up. */
  async send(piece: Buffer): Promise<void> {
    if (this.isClosed) throw new Error('The other side hung up.');
    if (this.#socket.write(piece)) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    // After the last piece it may.
    if (this.isClosed && this.#socket.writableLength > 0) throw new Error('The other side hung up.');
  }

  #close(): void {
    this.isClosed = true;
    this.#wake();
  }
}

/** @throws memory_damaged when the file is not what was stored */
export async function verifyMemory(path: string, expected: { checksum: number }): Promise<void> {
  let checksum = 0;
  try {
    for await (const piece of createReadStream(path, { highWaterMark: pieceBytes })) checksum = crc32(piece, checksum);
  } catch (cause) {
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot cannot be read.', {}, { cause });
  }
  if (checksum !== expected.checksum) throw new CalotypeError('memory_damaged');
}
