/**
 * A guest's memory in a file: QEMU's migration stream, compressed with zstd, whose frame carries a checksum. QEMU leaves
 * out pages of zeros by itself. A file is whole and durable, or it is removed.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, crc32, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { CalotypeError } from '../core/errors.ts';
import { asSpaceError } from '../core/space-error.ts';

/** Fast enough not to be what a save waits for, and a quarter of the size on guests that do something. */
const compressionLevel = 1;
const pieceBytes = 1024 * 1024;

export interface StoredMemory {
  /** Bytes of the migration stream. */
  readonly streamBytes: number;
  readonly storedBytes: number;
  /** CRC-32 of the file. */
  readonly checksum: number;
}

/** Passes bytes on, and counts and sums them. */
class Meter extends Transform {
  bytes = 0;
  checksum = 0;
  readonly #onBytes: ((bytes: number) => void) | undefined;

  constructor(onBytes?: (bytes: number) => void) {
    super({ highWaterMark: pieceBytes });
    this.#onBytes = onBytes;
  }

  override _transform(piece: Buffer, _encoding: string, done: () => void): void {
    this.bytes += piece.length;
    this.checksum = crc32(piece, this.checksum);
    this.#onBytes?.(this.bytes);
    this.push(piece);
    done();
  }
}

/** Receives one migration stream on a socket of its own and writes it to a new file. */
export class MemoryWriter {
  readonly socketPath: string;
  readonly #path: string;
  readonly #server: Server;
  readonly #done: Promise<StoredMemory>;
  #socket: Socket | undefined;
  #stopped = false;

  private constructor(path: string, socketPath: string, server: Server, onBytes?: (bytes: number) => void) {
    this.#path = path;
    this.socketPath = socketPath;
    this.#server = server;
    this.#done = this.#receive(onBytes);
    // Whoever waits hears of a failure; nobody has to wait.
    this.#done.catch(() => undefined);
  }

  static async open(
    path: string,
    socketPath: string,
    options: { onBytes?: (bytes: number) => void } = {},
  ): Promise<MemoryWriter> {
    await rm(socketPath, { force: true });
    const server = createServer({ pauseOnConnect: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(socketPath, resolve);
    });
    return new MemoryWriter(path, socketPath, server, options.onBytes);
  }

  async #receive(onBytes?: (bytes: number) => void): Promise<StoredMemory> {
    const socket = await new Promise<Socket>((resolve, reject) => {
      this.#server.once('connection', resolve);
      this.#server.once('close', () => reject(new CalotypeError('cancelled')));
    });
    this.#socket = socket;
    this.#server.close();
    const raw = new Meter(onBytes);
    const stored = new Meter();
    const compress = createZstdCompress({
      chunkSize: pieceBytes,
      params: {
        [constants.ZSTD_c_compressionLevel]: compressionLevel,
        [constants.ZSTD_c_checksumFlag]: 1,
      },
    });
    try {
      const file = createWriteStream(this.#path, { flags: 'wx', mode: 0o600, flush: true });
      await pipeline(socket, raw, compress, stored, file);
      if (this.#stopped) throw new CalotypeError('cancelled');
      await syncDirectory(dirname(this.#path));
    } catch (error) {
      await rm(this.#path, { force: true });
      throw asSpaceError(error);
    }
    return { streamBytes: raw.bytes, storedBytes: stored.bytes, checksum: stored.checksum };
  }

  /** Resolves once QEMU has sent all of it and it is durable. @throws space_exhausted, cancelled */
  finished(): Promise<StoredMemory> {
    return this.#done;
  }

  /** Gives up; nothing stays. */
  async abort(): Promise<void> {
    this.#stopped = true;
    this.#server.close();
    this.#socket?.destroy();
    await this.#done.catch(() => undefined);
    await rm(this.#path, { force: true });
    await rm(this.socketPath, { force: true });
  }
}

/**
 * Sends stored memory to a QEMU that listens for it. @throws memory_damaged when the file is not what was stored: what was
 * sent must not be run then
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
    if (isNetworkError(cause)) {
      throw new CalotypeError('machine_failed', 'QEMU did not take the memory of the snapshot.', {}, { cause });
    }
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot cannot be read.', {}, { cause });
  }
  if (stored.checksum !== expected.checksum) {
    throw new CalotypeError('memory_damaged', 'The stored memory of the snapshot is not what was stored.');
  }
}

function isNetworkError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'EPIPE' || error.code === 'ECONNRESET');
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

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
