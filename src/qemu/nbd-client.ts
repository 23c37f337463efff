/**
 * A small NBD client: reads snapshots and deltas out of QEMU's exports (vault, changed blocks, checks) and writes
 * restored images. Many requests run at once on one connection; no guest's data path goes through here.
 * The handshake is in nbd-handshake.ts, frames in flight in nbd-transport.ts, the protocol's words in nbd-protocol.ts.
 * Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { CalotypeError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import {
  type NbdAddress,
  type NbdBlockSizes,
  type NbdConnectOptions,
  type NbdSession,
  openSession,
} from './nbd-handshake.ts';
import { type CommandName, commandFlag, transmissionFlag } from './nbd-protocol.ts';
import { type NbdRequest, NbdTransport, type RawRun } from './nbd-transport.ts';

export type { NbdAddress, NbdBlockSizes, NbdConnectOptions, NbdTlsPsk } from './nbd-handshake.ts';

/** A run of bytes of one status. What `flags` means is up to the context: see `allocationFlag` for `base:allocation`; `qemu:allocation-depth` gives the depth. */
export interface NbdStatusRun {
  readonly start: number;
  readonly length: number;
  readonly flags: number;
}

/** Bits of `base:allocation`: not allocated; reads as zeroes. */
export const allocationFlag = { hole: 1, zero: 2 } as const;

/** Trim and write-zeroes carry no payload; pieces of this size keep one request short and below QEMU's 2 GiB limit. */
const zeroPieceBytes = 1024 ** 3;
const statusPieceBytes = 2 ** 32 - 128 * 1024;
/** Pieces of a split request end on multiples of this, the cluster size of our images. */
const splitAlignBytes = 128 * 1024;

/**
 * One connection to one export. Requests may run in parallel and finish in any order. Every method rejects with
 * `CalotypeError`: `engine_unavailable` when the connection is lost or closed, `space_exhausted` when the server
 * answers ENOSPC, `engine_failed` for its other errors (`details.errno` has the NBD name, `details.serverMessage` its
 * words) and when it breaks the protocol, `not_supported` when the export cannot do it, `invalid_request` for a range
 * outside the export. A lost connection rejects every request in flight; whether a write in flight arrived is unknown.
 */
export class NbdClient implements AsyncDisposable {
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly canFlush: boolean;
  readonly blockSizes: NbdBlockSizes;
  /** The metadata contexts the server granted, out of those asked for. */
  readonly metaContexts: readonly string[];

  readonly #canFua: boolean;
  readonly #contexts: ReadonlyMap<string, number>;
  readonly #transport: NbdTransport;

  private constructor(session: NbdSession) {
    const has = (flag: number): boolean => (session.flags & flag) !== 0;
    this.exportName = session.exportName;
    this.sizeBytes = session.sizeBytes;
    this.readOnly = has(transmissionFlag.readOnly);
    this.canTrim = has(transmissionFlag.sendTrim) && !this.readOnly;
    this.canWriteZeroes = has(transmissionFlag.sendWriteZeroes) && !this.readOnly;
    this.canFlush = has(transmissionFlag.sendFlush);
    this.blockSizes = session.blockSizes;
    this.metaContexts = [...session.contexts.keys()];
    this.#canFua = has(transmissionFlag.sendFua);
    this.#contexts = session.contexts;
    this.#transport = new NbdTransport(session);
  }

  /**
   * Connects to an export. Errors: `engine_unavailable` (nobody listens, timeout), `engine_failed` (unknown export, TLS
   * refused or required, protocol broken; `details.nbdError` has the server's answer), `invalid_request`.
   */
  static async connect(address: NbdAddress, options: NbdConnectOptions): Promise<NbdClient> {
    return new NbdClient(await openSession(address, options));
  }

  /** Reads `length` bytes from byte `offset`; the whole range is held in memory. Any alignment will do. */
  async read(offset: number, length: number): Promise<Buffer> {
    this.#checkRange('read', offset, length);
    if (length === 0) return Buffer.alloc(0);
    const { minimumBytes, maximumBytes } = this.blockSizes;
    const start = offset - (offset % minimumBytes);
    const end = this.#roundUp(offset + length);
    const target = Buffer.allocUnsafe(end - start);
    await this.#inPieces('read', start, end, maximumBytes, (piece) => {
      const at = piece.offset - start;
      return this.#transport.request(piece, {
        kind: 'data',
        target: target.subarray(at, at + piece.length),
        received: [],
      });
    });
    return target.subarray(offset - start, offset - start + length);
  }

  /**
   * Writes all of `data` at byte `offset`, both multiples of the minimum block size. With `fua` the data is on stable
   * storage when this resolves. `data` must not change until then. When it rejects, parts may have been written.
   */
  async write(offset: number, data: Buffer, options: { fua?: boolean } = {}): Promise<void> {
    this.#checkChange('write', offset, data.length, true);
    const fua = options.fua === true;
    if (fua && !this.#canFua && !this.canFlush) throw this.#unsupported('write with FUA');
    const flags = fua && this.#canFua ? commandFlag.fua : 0;
    await this.#inPieces('write', offset, offset + data.length, this.blockSizes.maximumBytes, (piece) => {
      const at = piece.offset - offset;
      return this.#transport.request(piece, { kind: 'nothing' }, data.subarray(at, at + piece.length), flags);
    });
    if (fua && !this.#canFua) await this.flush();
  }

  /** Brings every write that was answered before this call to stable storage. */
  async flush(): Promise<void> {
    if (!this.canFlush) throw this.#unsupported('flush');
    await this.#transport.request({ name: 'flush', offset: 0, length: 0 }, { kind: 'nothing' });
  }

  /** Gives a range back to the storage, in whole blocks; what it reads afterwards is not defined. */
  async trim(offset: number, length: number): Promise<void> {
    await this.#zeroInPieces('trim', offset, length, this.canTrim);
  }

  /** Makes a range read as zeroes, in whole blocks, by leaving a hole where the storage can. */
  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#zeroInPieces('writeZeroes', offset, length, this.canWriteZeroes);
  }

  /** The status of every byte of a range: adjacent runs in order, neighbours differ in flags. `not_supported` when the context was not granted. */
  async blockStatus(context: string, offset: number, length: number): Promise<NbdStatusRun[]> {
    const runs: NbdStatusRun[] = [];
    for await (const run of this.#mergedRuns(context, offset, length)) runs.push(run);
    return runs;
  }

  /**
   * The ranges worth copying, in order and not adjacent: all of the export but what `base:allocation` calls a hole that
   * reads as zeroes. Asks as it goes, so an export of any size needs little memory.
   */
  async *dataExtents(): AsyncGenerator<Extent> {
    const nothingThere = allocationFlag.hole | allocationFlag.zero;
    const isData = (flags: number): number => ((flags & nothingThere) === nothingThere ? 0 : 1);
    for await (const { start, length, flags } of this.#mergedRuns('base:allocation', 0, this.sizeBytes, isData)) {
      if (flags === 1) yield { start, length };
    }
  }

  /**
   * Waits for the answers still due, says goodbye (NBD_CMD_DISC) and closes the socket; at the latest after `timeoutMs`
   * it just closes. Does not flush. Never rejects; may be called again.
   */
  close(): Promise<void> {
    return this.#transport.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Requests

  #checkRange(name: CommandName, offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0) {
      if (offset + length <= this.sizeBytes) return;
    }
    const details = { command: name, offset, length, sizeBytes: this.sizeBytes };
    throw new CalotypeError('invalid_request', 'The range is outside the export.', details);
  }

  #checkChange(name: CommandName, offset: number, length: number, able: boolean): void {
    if (this.readOnly) {
      const details = { command: name, errno: 'EPERM', exportName: this.exportName };
      throw new CalotypeError('not_supported', `The NBD export "${this.exportName}" is read-only.`, details);
    }
    if (!able) throw this.#unsupported(name);
    this.#checkRange(name, offset, length);
    const { minimumBytes } = this.blockSizes;
    if (offset % minimumBytes === 0 && length % minimumBytes === 0) return;
    const details = { command: name, offset, length, minimumBytes };
    throw new CalotypeError('invalid_request', `The range is not in whole blocks of ${minimumBytes} bytes.`, details);
  }

  #unsupported(what: string): CalotypeError {
    const details = { command: what, errno: 'ENOTSUP', exportName: this.exportName };
    return new CalotypeError('not_supported', `The NBD export "${this.exportName}" does not support ${what}.`, details);
  }

  #roundUp(end: number): number {
    const { minimumBytes } = this.blockSizes;
    const over = end % minimumBytes;
    return over === 0 ? end : Math.min(this.sizeBytes, end - over + minimumBytes);
  }

  async #zeroInPieces(name: 'trim' | 'writeZeroes', offset: number, length: number, able: boolean): Promise<void> {
    this.#checkChange(name, offset, length, able);
    await this.#inPieces(name, offset, offset + length, zeroPieceBytes, (piece) =>
      this.#transport.request(piece, { kind: 'nothing' }),
    );
  }

  /** Runs a range's pieces in parallel and settles when every one is answered, so that no buffer is in use afterwards. */
  async #inPieces(
    name: CommandName,
    start: number,
    end: number,
    maximumBytes: number,
    send: (piece: NbdRequest) => Promise<void>,
  ): Promise<void> {
    const sent: Promise<void>[] = [];
    for (let at = start; at < end; ) {
      const pieceEnd = this.#pieceEnd(at, end, maximumBytes);
      sent.push(send({ name, offset: at, length: pieceEnd - at }));
      at = pieceEnd;
    }
    for (const result of await Promise.allSettled(sent)) if (result.status === 'rejected') throw result.reason;
  }

  #pieceEnd(at: number, end: number, maximumBytes: number): number {
    if (end - at <= maximumBytes) return end;
    const furthest = at + maximumBytes;
    return maximumBytes >= 2 * splitAlignBytes ? furthest - (furthest % splitAlignBytes) : furthest;
  }

  async *#mergedRuns(
    context: string,
    offset: number,
    length: number,
    classify: (flags: number) => number = (flags) => flags,
  ): AsyncGenerator<NbdStatusRun> {
    let last: NbdStatusRun | undefined;
    for await (const run of this.#statusRuns(context, offset, length)) {
      const flags = classify(run.flags);
      if (last === undefined || last.flags !== flags) {
        if (last !== undefined) yield last;
        last = { start: run.start, length: run.length, flags };
      } else last = { start: last.start, length: last.length + run.length, flags };
    }
    if (last !== undefined) yield last;
  }

  async *#statusRuns(context: string, offset: number, length: number): AsyncGenerator<NbdStatusRun> {
    this.#checkRange('blockStatus', offset, length);
    const id = this.#contexts.get(context);
    if (id === undefined) throw this.#unsupported(`the metadata context "${context}"`);
    const end = offset + length;
    const lastEnd = this.#roundUp(end);
    for (let at = offset - (offset % this.blockSizes.minimumBytes); at < end; ) {
      const runs = new Map<number, RawRun[]>();
      const pieceEnd = this.#pieceEnd(at, lastEnd, statusPieceBytes);
      const piece = { name: 'blockStatus', offset: at, length: pieceEnd - at } as const;
      await this.#transport.request(piece, { kind: 'status', runs });
      for (const run of runs.get(id) ?? []) {
        const start = Math.max(at, offset);
        at += run.length;
        // The last run of an answer may reach beyond what was asked.
        if (start < end) yield { start, length: Math.min(at, end) - start, flags: run.flags };
      }
    }
  }
}
