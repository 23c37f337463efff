/**
 * A guest's memory in a file: QEMU's migration stream, compressed with zstd, whose frame carries a checksum. QEMU leaves
 * out pages of zeros by itself. A file is whole and durable, or it is removed.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
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
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #done: Promise<StoredMemory>;

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>, socketPath: string, told: Told) {
    this.#child = child;
    this.socketPath = socketPath;
    this.#done = told.done;
    // Whoever waits hears of a failure; nobody has to wait.
    this.#done.catch(() => undefined);
  }

  /** @throws machine_failed */
  static async open(
    path: string,
    socketPath: string,
    options: { onBytes?: (bytes: number) => void } = {},
  ): Promise<MemoryWriter> {
    await rm(socketPath, { force: true });
    const script = fileURLToPath(new URL(`memory-writer-process${extname(import.meta.url)}`, import.meta.url));
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, socketPath, path], {
      detached: true,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    child.stdin.on('error', () => undefined);
    const told = listenTo(child, options.onBytes ?? (() => undefined));
    const writer = new MemoryWriter(child, socketPath, told);
    await told.ready;
    return writer;
  }

  /** Resolves once QEMU has sent all of it and it is durable. @throws space_exhausted, cancelled, machine_failed */
  finished(): Promise<StoredMemory> {
    return this.#done;
  }

  /** Gives up: nothing stays. What QEMU still sends is read and thrown away. */
  async abort(): Promise<void> {
    this.#child.stdin.write('discard\n');
    await this.#done.catch(() => undefined);
    await rm(this.socketPath, { force: true });
  }
}

interface Told {
  readonly ready: Promise<void>;
  readonly done: Promise<StoredMemory>;
}

function listenTo(child: ChildProcessByStdio<Writable, Readable, null>, onBytes: (bytes: number) => void): Told {
  const ready = Promise.withResolvers<void>();
  const done = Promise.withResolvers<StoredMemory>();
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const message: { ready?: true; bytes?: number; done?: StoredMemory; failed?: string } = JSON.parse(line);
      if (message.ready) ready.resolve();
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
  return { ready: ready.promise, done: done.promise };
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
  try {
    await pipeline(
      createReadStream(path, { highWaterMark: pieceBytes }),
      stored,
      createZstdDecompress({ chunkSize: pieceBytes }),
      socket,
    );
  } catch (cause) {
    socket.destroy();
    if (isClosedConnection(cause)) return verifyMemory(path, expected);
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot cannot be read.', {}, { cause });
  }
  if (stored.checksum !== expected.checksum) {
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot is not what was stored.');
  }
}

function isClosedConnection(error: unknown): boolean {
  const codes: readonly unknown[] = ['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'];
  return error instanceof Error && 'code' in error && codes.includes(error.code);
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
