/**
 * Requests and replies on a negotiated NBD connection: sends frames as fast as the socket takes them, matches replies
 * to requests by cookie, checks every length before it is used, fails everything in flight when the connection is lost.
 * nbd-client.ts gives it requests that already respect the export's limits.
 * Source: doc/proto.md of NetworkBlockDevice/nbd, "Transmission".
 */
import type { Socket } from 'node:net';
import { CalotypeError, type ErrorCode, type ErrorDetails } from '../core/errors.ts';
import { type Extent, normalizeExtents } from '../core/extents.ts';
import type { NbdSession } from './nbd-handshake.ts';
import {
  type ByteReader,
  type CommandName,
  chunk,
  chunkErrorBit,
  chunkFlagDone,
  codeOfErrno,
  command,
  errnoName,
  limits,
  magic,
  violation,
} from './nbd-protocol.ts';

/** One descriptor of a block status answer. */
export interface RawRun {
  readonly length: number;
  readonly flags: number;
}

export interface NbdRequest {
  readonly name: CommandName;
  readonly offset: number;
  readonly length: number;
}

/** What the answer must bring, and where it goes. */
export type Expected =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'data'; readonly target: Buffer; readonly received: Extent[] }
  | { readonly kind: 'status'; readonly runs: Map<number, RawRun[]> };

interface Pending {
  readonly request: NbdRequest;
  readonly expected: Expected;
  error: CalotypeError | undefined;
  resolve(): void;
  reject(error: CalotypeError): void;
}

interface Frame {
  readonly header: Buffer;
  readonly payload: Buffer | undefined;
}

/** One negotiated connection. `request` and `close` are all it offers; errors are those of `NbdClient`. */
export class NbdTransport {
  readonly #socket: Socket;
  readonly #reader: ByteReader;
  readonly #label: string;
  readonly #exportName: string;
  readonly #structured: boolean;
  readonly #contextCount: number;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  #outbox: Frame[] = [];
  #lastCookie = 0;
  #failure: CalotypeError | undefined;
  #closing: Promise<void> | undefined;
  #onIdle: (() => void) | undefined;

  constructor(session: NbdSession) {
    this.#socket = session.socket;
    this.#reader = session.reader;
    this.#label = session.label;
    this.#exportName = session.exportName;
    this.#structured = session.structured;
    this.#contextCount = session.contexts.size;
    this.#timeoutMs = session.timeoutMs;
    this.#socket.on('drain', () => this.#pump());
    void this.#receive();
  }

  /** Sends one request; resolves when it is answered in full. There is no time limit: a slow server is not a dead one. */
  request(request: NbdRequest, expected: Expected, payload?: Buffer, flags = 0): Promise<void> {
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

  #requestError(code: ErrorCode, message: string, request: NbdRequest, details: ErrorDetails = {}): CalotypeError {
    const { name, offset, length } = request;
    const all = { ...details, command: name, offset, length, exportName: this.#exportName };
    return new CalotypeError(code, message, all, this.#failure === undefined ? undefined : { cause: this.#failure });
  }

  #encodeHeader(request: NbdRequest, flags: number): Buffer {
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

  /** See `NbdClient.close`. */
  close(): Promise<void> {
    this.#closing ??= this.#disconnect();
    return this.#closing;
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
    if (this.#failure === undefined)
      this.#socket.end(this.#encodeHeader({ name: 'disconnect', offset: 0, length: 0 }, 0));
    await closed;
    clearTimeout(timer);
  }

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
    if (expected.kind === 'status' && expected.runs.size !== this.#contextCount) {
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
