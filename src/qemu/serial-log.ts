/**
 * What a guest writes to its serial port: a file that QEMU appends to, over all runs of the machine. Its bytes are numbered
 * from the first ever written. What is old is punched out of the file, so that numbers stay what they are, and QEMU, which
 * has the file open, needs not know. A limit on the size of QEMU's files bounds what it writes while nobody punches.
 */
import { execFile } from 'node:child_process';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MiB = 1024 * 1024;

/** So much of the end is kept at least, and up to twice as much. */
export const defaultKeptBytes = 8 * MiB;
/** So many times what is kept may be written while no server is there to punch. */
const unattendedFactor = 8;
const pieceBytes = 64 * 1024;
/** Long enough to cost nothing, short enough to look live. */
const lookMs = 40;

/** The first byte that is kept of a log, for any size it has: it moves on in steps of `keptBytes`. */
export function firstKeptByte(sizeBytes: number, keptBytes: number): number {
  return sizeBytes <= 2 * keptBytes ? 0 : (Math.floor(sizeBytes / keptBytes) - 1) * keptBytes;
}

export interface SerialRange {
  readonly stream: Readable;
  /** Number of the first byte that comes. */
  readonly fromByte: number;
  /** Bytes ever written, when the stream began. */
  readonly sizeBytes: number;
}

export class SerialLog {
  readonly #path: string;
  readonly #keptBytes: number;
  readonly #unattendedBytes: number;
  readonly #waiting = new Set<() => void>();
  readonly #closed = new AbortController();
  #looking: NodeJS.Timeout | undefined;
  #seenBytes = 0;
  #punchedBytes = 0;
  #cannotPunch = false;
  /** 0: not known. */
  #limitBytes = 0;

  constructor(path: string, options: { keptBytes?: number } = {}) {
    this.#path = path;
    this.#keptBytes = options.keptBytes ?? defaultKeptBytes;
    this.#unattendedBytes = unattendedFactor * this.#keptBytes;
  }

  /** Bytes ever written; 0 when there is no file yet. */
  async size(): Promise<number> {
    return stat(this.#path).then(
      (found) => found.size,
      () => 0,
    );
  }

  /** The size from which on QEMU is to write no more, from now on. */
  async limit(): Promise<number> {
    this.#limitBytes = (await this.size()) + this.#unattendedBytes;
    return this.#limitBytes;
  }

  /**
   * What was written, from a byte on; a negative one counts from the end. Without `follow` to the present end; with it, the
   * stream goes on with what is written until `signal` is aborted or the log closed. It holds a piece or two, however slow
   * its reader; one so slow that what it has yet to read is not kept any more goes on with what is.
   */
  async read(fromByte: number, options: { follow?: boolean; signal?: AbortSignal } = {}): Promise<SerialRange> {
    const sizeBytes = await this.size();
    const wanted = fromByte < 0 ? Math.max(0, sizeBytes + fromByte) : Math.min(fromByte, sizeBytes);
    const start = Math.max(wanted, firstKeptByte(sizeBytes, this.#keptBytes));
    const gone = new AbortController();
    const signals = [gone.signal, this.#closed.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const pieces = this.#pieces(start, options.follow === true ? null : sizeBytes, AbortSignal.any(signals));
    const stream = new Readable({
      highWaterMark: pieceBytes,
      read() {
        pieces.next().then(
          ({ done, value }) => this.push(done === true ? null : value),
          (error: Error) => this.destroy(error),
        );
      },
      destroy(error, done) {
        gone.abort();
        pieces.return(undefined).then(
          () => done(error),
          () => done(error),
        );
      },
    });
    return { stream, fromByte: start, sizeBytes };
  }

  async *#pieces(from: number, to: number | null, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
    let file: FileHandle | undefined;
    let at = from;
    try {
      while (!signal.aborted && (to === null || at < to)) {
        const size = to ?? (await this.size());
        if (at >= size) {
          await this.#change(signal);
          continue;
        }
        file ??= await open(this.#path, 'r');
        const wanted = Math.min(pieceBytes, size - at);
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(wanted), 0, wanted, at);
        if (bytesRead === 0) return undefined;
        // Asked after reading, of the very file that was read: what was punched while it was read is zeros.
        const first = firstKeptByte((await file.stat()).size, this.#keptBytes);
        if (first > at) {
          at = first;
          continue;
        }
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      await file?.close();
    }
    return undefined;
  }

  /** Resolves when there may be more. One timer looks for all that wait. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#waiting.delete(done);
        signal.removeEventListener('abort', done);
        if (this.#waiting.size === 0) {
          clearInterval(this.#looking);
          this.#looking = undefined;
        }
        resolve();
      };
      this.#waiting.add(done);
      signal.addEventListener('abort', done);
      if (signal.aborted) done();
      else this.#looking ??= setInterval(() => void this.#look(), lookMs);
    });
  }

  async #look(): Promise<void> {
    const size = await this.size();
    if (size === this.#seenBytes) return;
    this.#seenBytes = size;
    this.wake();
  }

  /** There is more, as far as the caller knows: whoever follows looks at once. */
  wake(): void {
    for (const done of [...this.#waiting]) done();
  }

  /**
   * Gives back the space of what is not kept, and lets the process that writes go on as far again. To be called now and then.
   * @throws Error once when the file system cannot do that; the process then keeps the limit it has
   */
  async punch(pid: number): Promise<void> {
    if (this.#cannotPunch) return;
    const size = await this.size();
    const first = firstKeptByte(size, this.#keptBytes);
    try {
      if (first > this.#punchedBytes) {
        await run('fallocate', ['--punch-hole', '--offset', '0', '--length', String(first), this.#path]);
        this.#punchedBytes = first;
      }
      if (this.#limitBytes - size < this.#unattendedBytes / 2) await this.#extend(pid);
    } catch (error) {
      this.#cannotPunch = true;
      throw error;
    }
  }

  async #extend(pid: number): Promise<void> {
    const limits = await readFile(`/proc/${pid}/limits`, 'utf8').catch(() => '');
    const limit = await this.limit();
    // A process without a limit was not made to bear one.
    if (/^Max file size\s+\d/m.test(limits)) await run('prlimit', ['--pid', String(pid), `--fsize=${limit}:`]);
  }

  /** Ends all streams: nothing will be written any more. */
  close(): void {
    this.#closed.abort();
  }
}

/** A command under a limit on the size of its files; writing beyond it is an error to it, not its end. */
export function limitedCommand(limitBytes: number, command: readonly string[]): [string, string[]] {
  const blocks = Math.ceil(limitBytes / 512);
  return ['/bin/sh', ['-c', `trap '' XFSZ && ulimit -S -f ${blocks} && exec "$@"`, 'sh', ...command]];
}
