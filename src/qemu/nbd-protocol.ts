/**
 * The words of the NBD protocol: magic numbers, flags, error names, limits, and a reader that cuts a byte stream
 * into frames. Used by nbd-handshake.ts and nbd-client.ts only; opens nothing itself.
 * Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (names below are the document's).
 */
import type { Socket } from 'node:net';
import { CalotypeError, type ErrorCode, type ErrorDetails } from '../core/errors.ts';

export const magic = {
  server: 0x4e42444d41474943n,
  option: 0x49484156454f5054n,
  oldStyle: 0x00420281861253n,
  optionReply: 0x0003e889045565a9n,
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
} as const;

/** Handshake flags; the client's bits have the same values as the server's. */
export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const option = { startTls: 5, go: 7, structuredReply: 8, setMetaContext: 10 } as const;

export const optionReply = { ack: 1, info: 3, metaContext: 4 } as const;

/** Bit 31 of an option reply's type marks an error. */
export const optionErrorBit = 0x80000000;

const optionErrorNames: Readonly<Record<number, string>> = {
  1: 'NBD_REP_ERR_UNSUP',
  2: 'NBD_REP_ERR_POLICY',
  3: 'NBD_REP_ERR_INVALID',
  4: 'NBD_REP_ERR_PLATFORM',
  5: 'NBD_REP_ERR_TLS_REQD',
  6: 'NBD_REP_ERR_UNKNOWN',
  7: 'NBD_REP_ERR_SHUTDOWN',
  8: 'NBD_REP_ERR_BLOCK_SIZE_REQD',
  9: 'NBD_REP_ERR_TOO_BIG',
  10: 'NBD_REP_ERR_EXT_HEADER_REQD',
};

export const info = { export: 0, blockSize: 3 } as const;

export const transmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
} as const;

export const command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6, blockStatus: 7 } as const;
export type CommandName = keyof typeof command;

export const commandFlag = { fua: 1 } as const;

export const chunk = { none: 0, offsetData: 1, offsetHole: 2, blockStatus: 5, errorOffset: 32770 } as const;
export const chunkFlagDone = 1;
/** Bit 15 of a chunk's type marks an error; every error chunk starts like NBD_REPLY_TYPE_ERROR. */
export const chunkErrorBit = 0x8000;

const errnoNames: Readonly<Record<number, string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};

/** What we accept before allocating. Strings are 4096 bytes in the protocol; the rest follows QEMU, nbdkit and libnbd. */
export const limits = {
  stringBytes: 4096,
  optionReplyBytes: 16 * 1024,
  errorChunkBytes: 4 + 2 + 4096 + 8,
  blockStatusChunkBytes: 16 * 1024 * 1024,
  payloadBytes: 32 * 1024 * 1024,
} as const;

/** Received and not yet parsed, above which the socket is paused. */
const pauseAt = { bytes: 1024 * 1024, chunks: 256 } as const;

/** The protocol's name of an error number; an unknown one is to be taken as EINVAL, but its number is worth seeing. */
export function errnoName(errno: number): string {
  return errnoNames[errno] ?? `EINVAL(${errno})`;
}

export function optionErrorName(type: number): string {
  return optionErrorNames[type % optionErrorBit] ?? `NBD_REP_ERR_${type % optionErrorBit}`;
}

/** The catalogue code for a request the server refused. */
export function codeOfErrno(name: string): ErrorCode {
  if (name === 'ENOSPC') return 'space_exhausted';
  return name === 'ESHUTDOWN' ? 'engine_unavailable' : 'engine_failed';
}

export function violation(what: string, details: ErrorDetails = {}): CalotypeError {
  return new CalotypeError('engine_failed', `The NBD server broke the protocol: ${what}.`, {
    violation: what,
    ...details,
  });
}

/** Cuts what a socket receives into pieces of asked lengths. Pauses the socket while nobody asks; each byte is copied at most once. */
export class ByteReader {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #bufferedBytes = 0;
  #end: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', this.#onData);
    socket.on('error', this.#onError);
    socket.on('end', this.#onClose);
    socket.on('close', this.#onClose);
  }

  /** Stops listening, so that TLS can take the socket over. Returns how many bytes were received and not read. */
  detach(): number {
    this.#socket.pause();
    this.#socket.off('data', this.#onData);
    this.#socket.off('end', this.#onClose);
    this.#socket.off('close', this.#onClose);
    return this.#bufferedBytes;
  }

  /** The next `length` bytes. The caller has checked `length` against a limit. Rejects when the stream ends first. */
  async take(length: number): Promise<Buffer> {
    const first = this.#chunks[0];
    if (first !== undefined && first.length >= length) return this.#shift(first, length);
    const target = Buffer.allocUnsafe(length);
    await this.readInto(target);
    return target;
  }

  /** Fills the whole of `target`. */
  async readInto(target: Buffer): Promise<void> {
    let filled = 0;
    while (filled < target.length) {
      const first = this.#chunks[0];
      if (first === undefined) await this.#more();
      else filled += this.#shift(first, Math.min(first.length, target.length - filled)).copy(target, filled);
    }
  }

  #shift(first: Buffer, length: number): Buffer {
    this.#bufferedBytes -= length;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    return first.length === length ? first : first.subarray(0, length);
  }

  async #more(): Promise<void> {
    if (this.#end !== undefined) throw this.#end;
    if (this.#socket.isPaused()) this.#socket.resume();
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  readonly #onData = (data: Buffer): void => {
    this.#chunks.push(data);
    this.#bufferedBytes += data.length;
    if (this.#bufferedBytes >= pauseAt.bytes || this.#chunks.length >= pauseAt.chunks) this.#socket.pause();
    this.#wake?.();
  };

  readonly #onError = (error: Error): void => {
    this.#end ??= error;
    this.#wake?.();
  };

  readonly #onClose = (): void => {
    this.#onError(new CalotypeError('engine_unavailable', 'The NBD server closed the connection.'));
  };
}
