/**
 * Receives one migration stream for MemoryWriter, in a process of its own. QEMU 7.2 may hang for good when the stream of a
 * background save breaks: the guest then waits for a page that nobody writes any more, and holds the lock that the end of
 * the save needs. So whatever happens, to the file or to the server, the stream is read to its end.
 *
 * It also keeps the gate (flush-gate.ts) that the guest stands still at while its drives are taken: a server that dies
 * leaves no guest standing there.
 *
 * Arguments: socket to listen on, socket of the gate, file to make. On stdin the word `open` opens the gate, and `discard`
 * gives the file up, too; the end of stdin means that the server is gone. Stdout gets one JSON object a line: `ready`, `held`
 * when the guest stands at the gate, `bytes` now and then, at last `done` or `failed`.
 */
import { createWriteStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, crc32, createZstdCompress } from 'node:zlib';
import { FlushGate } from './flush-gate.ts';

/** Fast enough not to be what a save waits for, and a quarter of the size on guests that do something. */
const compressionLevel = 1;
const pieceBytes = 1024 * 1024;
const tellEveryMs = 100;

const [, , socketPath = '', gatePath = '', path = ''] = process.argv;

function tell(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

// Nobody listens any more once the server is gone.
process.stdout.on('error', () => undefined);

class Meter extends Transform {
  bytes = 0;
  checksum = 0;
  readonly #onBytes: (bytes: number) => void;

  constructor(onBytes: (bytes: number) => void = () => undefined) {
    super({ highWaterMark: pieceBytes });
    this.#onBytes = onBytes;
  }

  override _transform(piece: Buffer, _encoding: string, done: () => void): void {
    this.bytes += piece.length;
    this.checksum = crc32(piece, this.checksum);
    this.#onBytes(this.bytes);
    this.push(piece);
    done();
  }
}

async function store(socket: Socket, signal: AbortSignal): Promise<object> {
  let toldAt = 0;
  const raw = new Meter((bytes) => {
    if (performance.now() - toldAt < tellEveryMs) return;
    toldAt = performance.now();
    tell({ bytes });
  });
  const stored = new Meter();
  const params = { [constants.ZSTD_c_compressionLevel]: compressionLevel, [constants.ZSTD_c_checksumFlag]: 1 };
  const compress = createZstdCompress({ chunkSize: pieceBytes, params });
  // What is left of a stream that could not be stored is read below: the socket must survive the pipeline.
  const through = new Transform({
    transform: (piece, _encoding, done) => done(null, piece),
    highWaterMark: pieceBytes,
  });
  socket.pipe(through);
  const file = createWriteStream(path, { flags: 'wx', mode: 0o600, flush: true });
  try {
    await pipeline(through, raw, compress, stored, file, { signal });
  } finally {
    socket.unpipe(through);
  }
  const directory = await open(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
  return { done: { streamBytes: raw.bytes, storedBytes: stored.bytes, checksum: stored.checksum } };
}

async function receive(socket: Socket, signal: AbortSignal): Promise<void> {
  const ended = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
  let broken = false;
  socket.once('error', () => {
    broken = true;
  });
  let outcome: object;
  try {
    outcome = await store(socket, signal);
    if (broken) outcome = { failed: 'ECONNRESET' };
  } catch (error) {
    outcome = { failed: error instanceof Error && 'code' in error ? error.code : String(error) };
    socket.resume();
    await ended;
  }
  if ('failed' in outcome) await rm(path, { force: true });
  tell(outcome);
}

const gate = await FlushGate.listen(gatePath, () => tell({ held: true }));
const discard = new AbortController();
const server = createServer();
let connected = false;
server.once('connection', (socket) => {
  connected = true;
  server.close();
  void receive(socket, discard.signal).finally(() => process.exit(0));
});
server.listen(socketPath, () => tell({ ready: true }));
const giveUp = (): void => {
  gate.open();
  if (!connected) process.exit(0);
};
process.stdin.setEncoding('utf8');
process.stdin.on('data', (text: string) => {
  if (text.includes('open')) gate.open();
  if (!text.includes('discard')) return;
  discard.abort();
  giveUp();
});
process.stdin.on('end', giveUp);
process.stdin.on('error', giveUp);
