/**
 * A small NBD client: reads snapshots and deltas out of QEMU's exports (vault, changed blocks, checks) and writes
 * restored images. Many requests run at once on one connection; no guest's data path goes through here.
 * Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, "Transmission".
 */
import type { Socket } from 'node:net';
import { CalotypeError, type ErrorCode, type ErrorDetails } from '../core/errors.ts';
import { type Extent, normalizeExtents } from '../core/extents.ts';
import {
  type NbdAddress,
  type NbdBlockSizes,
  type NbdConnectOptions,
  type NbdSession,
  openSession,
} from './nbd-handshake.ts';
import {
  type ByteReader,
  type CommandName,
  chunk,
  chunkErrorBit,
  chunkFlagDone,
  codeOfErrno,
  command,
  commandFlag,
  errnoName,
  limits,
  magic,
  transmissionFlag,
  violation,
} from './nbd-protocol.ts';

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

interface RawRun {
  readonly length: number;
  readonly flags: number;
}

interface RequestShape {
  readonly name: CommandName;
  readonly offset: number;
  readonly length: number;
}

type Expected =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'data'; readonly target: Buffer; readonly received: Extent[] }
  | { readonly kind: 'status'; readonly runs: Map<number, RawRun[]> };

interface Pending {
  readonly request: RequestShape;
  readonly expected: Expected;
  error: CalotypeError | undefined;
  resolve(): void;
  reject(error: CalotypeError): void;
}

interface Frame {
  readonly header: Buffer;
  readonly payload: Buffer | undefined;
}

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
  readonly #structured: boolean;
  readonly #contexts: ReadonlyMap<string, number>;
  readonly #socket: Socket;
  readonly #reader: ByteReader;
  readonly #label: string;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  #outbox: Frame[] = [];
  #lastCookie = 0;
  #failure: CalotypeError | undefined;
  #closing: Promise<void> | undefined;
  #onIdle: (() => void) | undefined;

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
    this.#structured = session.structured;
    this.#contexts = session.contexts;
    this.#socket = session.socket;
    this.#reader = session.reader;
    this.#label = session.label;
    this.#timeoutMs = session.timeoutMs;
    this.#socket.on('drain', () => this.#pump());
    void this.#receive();
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
      return this.#request(piece, { kind: 'data', target: target.subarray(at, at + piece.length), received: [] });
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
      return this.#request(piece, { kind: 'nothing' }, data.subarray(at, at + piece.length), flags);
    });
    if (fua && !this.#canFua) await this.flush();
  }

  /** Brings every write that was answered before this call to stable storage. */
  async flush(): Promise<void> {
    if (!this.canFlush) throw this.#unsupported('flush');
    await this.#request({ name: 'flush', offset: 0, length: 0 }, { kind: 'nothing' });
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
    this.#closing ??= this.#disconnect();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #disconnect(): Promise<void> {
    if (this.#socket.closed) return;
    const closed = new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve());
    });
    const timer = setTimeout(() => {
      this.#fail(new CalotypeError('engine_unavailable', `The NBD server at ${this.#label} did not answer in time.`));
    }, this.#timeoutMs);
    if (this.#pending.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    if (this.#failure === undefined) {
      this.#outbox.push({
        header: this.#encodeHeader({ name: 'disconnect', offset: 0, length: 0 }, 0),
        payload: undefined,
      });
      this.#pump();
      this.#socket.end();
    }
    await closed;
    clearTimeout(timer);
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
      this.#request(piece, { kind: 'nothing' }),
    );
  }

  /** Runs a range's pieces in parallel and settles when every one is answered, so that no buffer is in use afterwards. */
  async #inPieces(
    name: CommandName,
    start: number,
    end: number,
    maximumBytes: number,
    send: (piece: RequestShape) => Promise<void>,
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
      await this.#request(piece, { kind: 'status', runs });
      for (const run of runs.get(id) ?? []) {
        const start = Math.max(at, offset);
        at += run.length;
        // The last run of an answer may reach beyond what was asked.
        if (start < end) yield { start, length: Math.min(at, end) - start, flags: run.flags };
      }
    }
  }

  #request(request: RequestShape, expected: Expected, payload?: Buffer, flags = 0): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#requestError(this.#failure.code, this.#failure.message, request, this.#failure.details));
      } else if (this.#closing !== undefined) {
        reject(this.#requestError('engine_unavailable', 'The NBD connection is closed.', request));
      } else {
        this.#lastCookie += 1;
        this.#pending.set(this.#lastCookie, { request, expected, error: undefined, resolve, reject });
        this.#outbox.push({ header: this.#encodeHeader(request, flags), payload });
        this.#pump();
      }
    });
  }

  #requestError(code: ErrorCode, message: string, request: RequestShape, details: ErrorDetails = {}): CalotypeError {
    const { name, offset, length } = request;
    const all = { ...details, command: name, offset, length, exportName: this.exportName };
    return new CalotypeError(code, message, all, { cause: this.#failure });
  }

  #encodeHeader(request: RequestShape, flags: number): Buffer {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(magic.request, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(command[request.name], 6);
    header.writeBigUInt64BE(BigInt(this.#lastCookie), 8);
    header.writeBigUInt64BE(BigInt(request.offset), 16);
    header.writeUInt32BE(request.length, 24);
    return header;
  }

  /** Hands frames to the socket while it takes them; the rest waits here for `drain`. */
  #pump(): void {
    while (this.#outbox.length > 0 && !this.#socket.writableNeedDrain && this.#failure === undefined) {
      const frames = this.#outbox;
      this.#outbox = [];
      this.#socket.cork();
      let taken = 0;
      for (const { header, payload } of frames) {
        taken += 1;
        const wantsMore = this.#socket.write(header);
        if (payload === undefined ? !wantsMore : !this.#socket.write(payload)) break;
      }
      this.#outbox = frames.slice(taken);
      this.#socket.uncork();
    }
  }

  // Replies

  async #receive(): Promise<void> {
    try {
      for (;;) await this.#receiveReply();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Ends the connection and rejects all that is in flight. After the first call there is nothing left to do. */
  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    const message = `The connection to the NBD server at ${this.#label} was lost.`;
    const failure =
      error instanceof CalotypeError ? error : new CalotypeError('engine_unavailable', message, {}, { cause: error });
    this.#failure = failure;
    this.#outbox = [];
    this.#socket.destroy();
    for (const { request, reject } of this.#pending.values()) {
      reject(this.#requestError(failure.code, failure.message, request, failure.details));
    }
    this.#pending.clear();
    this.#onIdle?.();
  }

  async #receiveReply(): Promise<void> {
    const header = await this.#reader.take(16);
    const kind = header.readUInt32BE(0);
    if (kind !== magic.simpleReply && kind !== magic.structuredReply) throw violation('bad magic in a reply');
    const cookie = Number(header.readBigUInt64BE(8));
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw violation('a reply to a request that was not sent');
    if (kind === magic.simpleReply) {
      await this.#receiveSimple(pending, header.readUInt32BE(4));
      this.#settle(cookie, pending);
      return;
    }
    if (!this.#structured) throw violation('a structured reply that was not negotiated');
    const isDone = (header.readUInt16BE(4) & chunkFlagDone) !== 0;
    const type = header.readUInt16BE(6);
    const length = (await this.#reader.take(4)).readUInt32BE(0);
    await this.#receiveChunk(pending, type, length);
    if (isDone) this.#settle(cookie, pending);
  }

  async #receiveSimple(pending: Pending, errno: number): Promise<void> {
    const { expected } = pending;
    if (expected.kind === 'status' || (expected.kind === 'data' && this.#structured)) {
      throw violation('a simple reply where a structured one is due', { command: pending.request.name });
    }
    if (errno !== 0) this.#noteError(pending, errno, '');
    else if (expected.kind === 'data') await this.#receiveData(pending, pending.request.offset, pending.request.length);
  }

  async #receiveChunk(pending: Pending, type: number, length: number): Promise<void> {
    if (type === chunk.none && length === 0) return;
    if (type === chunk.offsetData && length > 8 && length <= 8 + limits.payloadBytes) {
      const at = Number((await this.#reader.take(8)).readBigUInt64BE(0));
      return this.#receiveData(pending, at, length - 8);
    }
    if (type === chunk.offsetHole && length === 12) {
      const body = await this.#reader.take(12);
      this.#dataRange(pending, Number(body.readBigUInt64BE(0)), body.readUInt32BE(8)).fill(0);
      return;
    }
    if (type === chunk.blockStatus && length <= limits.blockStatusChunkBytes)
      return this.#receiveStatus(pending, length);
    if ((type & chunkErrorBit) !== 0 && length >= 6 && length <= limits.errorChunkBytes) {
      return this.#receiveError(pending, type, await this.#reader.take(length));
    }
    throw violation('a reply chunk of unknown type or impossible length', { type, lengthBytes: length });
  }

  async #receiveData(pending: Pending, at: number, length: number): Promise<void> {
    await this.#reader.readInto(this.#dataRange(pending, at, length));
  }

  /** The place for received bytes `at … at + length` of the export, marked as received. */
  #dataRange(pending: Pending, at: number, length: number): Buffer {
    const { request, expected } = pending;
    const start = at - request.offset;
    if (expected.kind !== 'data' || length === 0 || start < 0 || start + length > request.length) {
      throw violation('data outside the range asked for', { command: request.name, at, lengthBytes: length });
    }
    const last = expected.received[expected.received.length - 1];
    if (last !== undefined && last.start + last.length === start) {
      expected.received[expected.received.length - 1] = { start: last.start, length: last.length + length };
    } else expected.received.push({ start, length });
    return expected.target.subarray(start, start + length);
  }

  async #receiveStatus(pending: Pending, length: number): Promise<void> {
    const { expected } = pending;
    if (expected.kind !== 'status' || length < 12 || length % 8 !== 4) throw violation('bad block status');
    const body = await this.#reader.take(length);
    const id = body.readUInt32BE(0);
    if (expected.runs.has(id)) throw violation('block status of one context twice');
    const runs: RawRun[] = [];
    for (let at = 4; at < length; at += 8) {
      const run = { length: body.readUInt32BE(at), flags: body.readUInt32BE(at + 4) };
      if (run.length === 0) throw violation('block status with an empty run');
      runs.push(run);
    }
    expected.runs.set(id, runs);
  }

  #receiveError(pending: Pending, type: number, body: Buffer): void {
    const errno = body.readUInt32BE(0);
    const messageEnd = 6 + body.readUInt16BE(4);
    if (errno === 0 || messageEnd > body.length) throw violation('bad error chunk');
    const hasOffset = type === chunk.errorOffset && messageEnd + 8 <= body.length;
    const errorOffset = hasOffset ? Number(body.readBigUInt64BE(messageEnd)) : undefined;
    this.#noteError(pending, errno, body.toString('utf8', 6, messageEnd), errorOffset);
  }

  #noteError(pending: Pending, errno: number, serverMessage: string, errorOffset?: number): void {
    const name = errnoName(errno);
    const words = serverMessage === '' ? '' : `: ${serverMessage}`;
    const message = `The NBD server refused a ${pending.request.name} request with ${name}${words}.`;
    const details = { errno: name, serverMessage, ...(errorOffset === undefined ? {} : { errorOffset }) };
    pending.error ??= this.#requestError(codeOfErrno(name), message, pending.request, details);
  }

  #settle(cookie: number, pending: Pending): void {
    if (pending.error === undefined) this.#checkComplete(pending);
    this.#pending.delete(cookie);
    if (pending.error === undefined) pending.resolve();
    else pending.reject(pending.error);
    if (this.#pending.size === 0) this.#onIdle?.();
  }

  /** A read must have been answered for each byte exactly once, a status request for each context. */
  #checkComplete({ request, expected }: Pending): void {
    if (expected.kind === 'status' && expected.runs.size !== this.#contexts.size) {
      throw violation('block status without one of the contexts');
    }
    if (expected.kind !== 'data') return;
    let sum = 0;
    for (const { length } of expected.received) sum += length;
    const [only, ...others] = normalizeExtents(expected.received);
    if (sum !== request.length || only?.length !== request.length || others.length > 0) {
      throw violation('a read answered with gaps or overlaps', { offset: request.offset, length: request.length });
    }
  }
}
