/**
 * Opens the socket to an NBD server and haggles: fixed newstyle handshake, TLS by pre-shared key, structured replies,
 * metadata contexts, NBD_OPT_GO. What comes out is a session ready for requests (nbd-client.ts).
 * Source: doc/proto.md of NetworkBlockDevice/nbd, "Handshake phase".
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { CalotypeError, type ErrorDetails } from '../core/errors.ts';
import {
  ByteReader,
  handshakeFlag,
  info,
  limits,
  magic,
  option,
  optionErrorBit,
  optionErrorName,
  optionReply,
  transmissionFlag,
  violation,
} from './nbd-protocol.ts';

/** TLS 1.2 or 1.3 with a pre-shared key, as QEMU's `tls-creds-psk` object wants it. */
export interface NbdTlsPsk {
  readonly pskIdentity: string;
  /** The key in hex digits, as in QEMU's `keys.psk`. */
  readonly pskKeyHex: string;
}

export type NbdAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly tls?: NbdTlsPsk };

export interface NbdConnectOptions {
  readonly exportName: string;
  /** Metadata contexts to ask for; `['base:allocation']` unless given. What the server lacks is left out, see `NbdClient.metaContexts`. */
  readonly metaContexts?: readonly string[];
  /** Time for connecting and the whole handshake, and again for `close()`; 10 s unless given. */
  readonly timeoutMs?: number;
}

/** The sizes that requests must respect, in bytes. */
export interface NbdBlockSizes {
  /** Offsets and lengths are whole multiples of this; a power of two. */
  readonly minimumBytes: number;
  /** Efficient size and alignment. */
  readonly preferredBytes: number;
  /** The most that one read or write request carries. */
  readonly maximumBytes: number;
}

export interface NbdSession {
  readonly socket: Socket;
  readonly reader: ByteReader;
  /** For messages: `/path` or `host:port`. */
  readonly label: string;
  readonly exportName: string;
  readonly structured: boolean;
  /** Names of the contexts the server granted → their ids on this connection. */
  readonly contexts: ReadonlyMap<string, number>;
  readonly sizeBytes: number;
  readonly flags: number;
  readonly blockSizes: NbdBlockSizes;
  readonly timeoutMs: number;
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

/** TLS 1.3's first suite is the only one OpenSSL joins with an external key; the others are TLS 1.2, forward secret first. */
const pskCiphers = [
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
].join(':');

/**
 * Connects and negotiates. Errors: `engine_unavailable` (nobody listens, connection lost, timeout), `engine_failed`
 * (export unknown, TLS refused or required, protocol broken; `details.nbdError` names the server's answer),
 * `invalid_request` (names too long, key not hex).
 */
export async function openSession(address: NbdAddress, options: NbdConnectOptions): Promise<NbdSession> {
  const tls = address.kind === 'tcp' ? address.tls : undefined;
  const label = address.kind === 'unix' ? address.path : `${address.host}:${address.port}`;
  const timeoutMs = options.timeoutMs ?? 10_000;
  checkNames(options, tls);
  const plain =
    address.kind === 'unix'
      ? createConnection({ path: address.path })
      : createConnection({ host: address.host, port: address.port, noDelay: true, keepAlive: true });
  const handshake = new Handshake(plain, label, options.exportName);
  const timer = setTimeout(() => {
    const message = `The NBD server at ${label} did not answer in time.`;
    handshake.abort(new CalotypeError('engine_unavailable', message, { timeoutMs }));
  }, timeoutMs);
  try {
    await handshake.connected();
    await handshake.greet();
    if (tls !== undefined) await handshake.startTls(tls);
    const structured = await handshake.askStructuredReplies();
    const wanted = options.metaContexts ?? ['base:allocation'];
    const contexts = structured && wanted.length > 0 ? await handshake.askContexts(wanted) : new Map<string, number>();
    const granted = await handshake.go();
    const { socket, reader } = handshake;
    return { socket, reader, label, exportName: options.exportName, structured, contexts, ...granted, timeoutMs };
  } catch (error) {
    const failure = asConnectError(error, label);
    handshake.abort(failure);
    throw failure;
  } finally {
    clearTimeout(timer);
  }
}

function checkNames(options: NbdConnectOptions, tls: NbdTlsPsk | undefined): void {
  for (const name of [options.exportName, ...(options.metaContexts ?? [])]) {
    if (Buffer.byteLength(name) > limits.stringBytes) {
      throw new CalotypeError('invalid_request', 'An NBD name is longer than 4096 bytes.');
    }
  }
  if (tls !== undefined && !/^([0-9a-f]{2}){16,64}$/i.test(tls.pskKeyHex)) {
    throw new CalotypeError('invalid_request', 'The pre-shared key must be 16 to 64 bytes in hex digits.');
  }
}

function asConnectError(error: unknown, label: string): CalotypeError {
  if (error instanceof CalotypeError) return error;
  const reason = error instanceof Error && 'code' in error ? error.code : undefined;
  const message = `There is no NBD server to talk to at ${label}.`;
  return new CalotypeError('engine_unavailable', message, { address: label, reason }, { cause: error });
}

/** One connection during its handshake; the socket changes when TLS starts. */
class Handshake {
  socket: Socket;
  reader: ByteReader;
  readonly #label: string;
  readonly #exportName: string;
  #abortedBy: CalotypeError | undefined;

  constructor(socket: Socket, label: string, exportName: string) {
    this.socket = socket;
    this.reader = new ByteReader(socket);
    this.#label = label;
    this.#exportName = exportName;
  }

  abort(error: CalotypeError): void {
    this.#abortedBy ??= error;
    this.socket.destroy(error);
  }

  async connected(): Promise<void> {
    await once(this.socket, 'connect');
  }

  async greet(): Promise<void> {
    const hello = await this.reader.take(18);
    if (hello.readBigUInt64BE(0) !== magic.server) throw violation('no NBD greeting');
    const style = hello.readBigUInt64BE(8);
    const flags = hello.readUInt16BE(16);
    if (style === magic.oldStyle) throw violation('the server speaks the oldstyle handshake');
    if (style !== magic.option) throw violation('bad magic in the greeting');
    if ((flags & handshakeFlag.fixedNewstyle) === 0) throw violation('the server lacks the fixed newstyle handshake');
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags & (handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes));
    this.socket.write(answer);
  }

  async startTls(tls: NbdTlsPsk): Promise<void> {
    this.#send(option.startTls, Buffer.alloc(0));
    await this.#expectAck(option.startTls);
    const plain = this.socket;
    // Bytes sent ahead of the handshake in the clear would otherwise count as encrypted ones.
    if (this.reader.detach() > 0) throw violation('data in the clear after NBD_OPT_STARTTLS');
    const secure = connectTls({
      socket: plain,
      ciphers: pskCiphers,
      minVersion: 'TLSv1.2',
      pskCallback: () => ({ identity: tls.pskIdentity, psk: Buffer.from(tls.pskKeyHex, 'hex') }),
      // Only the key proves who the server is: a certificate, even a trusted one, means that it did not use the key.
      checkServerIdentity: (_host, certificate) =>
        Object.keys(certificate).length === 0 ? undefined : new Error('the server did not use the pre-shared key'),
    });
    this.socket = secure;
    this.reader = new ByteReader(secure);
    try {
      await once(secure, 'secureConnect');
    } catch (cause) {
      if (this.#abortedBy !== undefined) throw this.#abortedBy;
      const reason = cause instanceof Error && 'code' in cause ? cause.code : undefined;
      const message = `The TLS handshake with ${this.#label} failed; do both sides hold the same key?`;
      throw new CalotypeError('engine_failed', message, { address: this.#label, reason }, { cause });
    }
  }

  /** True when the server will send structured replies. */
  async askStructuredReplies(): Promise<boolean> {
    this.#send(option.structuredReply, Buffer.alloc(0));
    const reply = await this.#reply(option.structuredReply);
    if (reply.type === optionReply.ack) return true;
    if (optionErrorName(reply.type) !== 'NBD_REP_ERR_UNSUP') throw this.#refused(reply);
    return false;
  }

  async askContexts(wanted: readonly string[]): Promise<Map<string, number>> {
    const queries = wanted.map(lengthPrefixed);
    this.#send(
      option.setMetaContext,
      Buffer.concat([lengthPrefixed(this.#exportName), u32(wanted.length), ...queries]),
    );
    const granted = new Map<string, number>();
    for (;;) {
      const reply = await this.#reply(option.setMetaContext);
      if (reply.type === optionReply.ack) return granted;
      if (reply.type >= optionErrorBit) {
        if (optionErrorName(reply.type) === 'NBD_REP_ERR_UNSUP') return new Map();
        throw this.#refused(reply);
      }
      if (reply.type !== optionReply.metaContext || reply.data.length < 5) throw violation('bad metadata context');
      granted.set(reply.data.toString('utf8', 4), reply.data.readUInt32BE(0));
      if (granted.size > wanted.length) throw violation('more metadata contexts than asked for');
    }
  }

  async go(): Promise<Pick<NbdSession, 'sizeBytes' | 'flags' | 'blockSizes'>> {
    const infos = Buffer.alloc(4);
    infos.writeUInt16BE(1, 0);
    infos.writeUInt16BE(info.blockSize, 2);
    this.#send(option.go, Buffer.concat([lengthPrefixed(this.#exportName), infos]));
    let exported: { sizeBytes: number; flags: number } | undefined;
    // What the protocol says of a server that does not tell.
    let blockSizes: NbdBlockSizes = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: limits.payloadBytes };
    for (;;) {
      const reply = await this.#reply(option.go);
      if (reply.type === optionReply.ack) break;
      if (reply.type >= optionErrorBit) throw this.#refused(reply);
      if (reply.type !== optionReply.info || reply.data.length < 2) throw violation('bad reply to NBD_OPT_GO');
      const kind = reply.data.readUInt16BE(0);
      if (kind === info.export) exported = parseExportInfo(reply.data);
      else if (kind === info.blockSize) blockSizes = parseBlockSizes(reply.data);
    }
    if (exported === undefined) throw violation('NBD_OPT_GO told no size');
    return { ...exported, blockSizes };
  }

  #send(number: number, data: Buffer): void {
    const header = Buffer.alloc(16);
    header.writeBigUInt64BE(magic.option, 0);
    header.writeUInt32BE(number, 8);
    header.writeUInt32BE(data.length, 12);
    this.socket.write(Buffer.concat([header, data]));
  }

  async #reply(number: number): Promise<Reply> {
    const header = await this.reader.take(20);
    if (header.readBigUInt64BE(0) !== magic.optionReply) throw violation('bad magic in an option reply');
    if (header.readUInt32BE(8) !== number) throw violation('a reply to an option that was not sent');
    const type = header.readUInt32BE(12);
    const length = header.readUInt32BE(16);
    if (length > limits.optionReplyBytes) throw violation('an option reply is too long', { lengthBytes: length });
    return { type, data: Buffer.from(await this.reader.take(length)) };
  }

  async #expectAck(number: number): Promise<void> {
    const reply = await this.#reply(number);
    if (reply.type !== optionReply.ack) throw this.#refused(reply);
  }

  #refused(reply: Reply): CalotypeError {
    if (reply.type < optionErrorBit) return violation('an unexpected option reply', { type: reply.type });
    const nbdError = optionErrorName(reply.type);
    const serverMessage = reply.data.toString('utf8', 0, limits.stringBytes);
    const details: ErrorDetails = { nbdError, serverMessage, exportName: this.#exportName, address: this.#label };
    if (nbdError === 'NBD_REP_ERR_SHUTDOWN') {
      return new CalotypeError('engine_unavailable', `The NBD server at ${this.#label} is shutting down.`, details);
    }
    const sentences: Readonly<Record<string, string>> = {
      NBD_REP_ERR_UNKNOWN: `The NBD server at ${this.#label} has no export named "${this.#exportName}".`,
      NBD_REP_ERR_TLS_REQD: `The NBD server at ${this.#label} requires TLS.`,
    };
    const message = sentences[nbdError] ?? `The NBD server at ${this.#label} refused the connection (${nbdError}).`;
    return new CalotypeError('engine_failed', message, details);
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function lengthPrefixed(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([u32(bytes.length), bytes]);
}

function parseExportInfo(data: Buffer): { sizeBytes: number; flags: number } {
  if (data.length !== 12) throw violation('bad NBD_INFO_EXPORT');
  const sizeBytes = Number(data.readBigUInt64BE(2));
  const flags = data.readUInt16BE(10);
  if (!Number.isSafeInteger(sizeBytes)) throw violation('the export is larger than 2^53 bytes');
  if ((flags & transmissionFlag.hasFlags) === 0) throw violation('NBD_FLAG_HAS_FLAGS is not set');
  return { sizeBytes, flags };
}

function parseBlockSizes(data: Buffer): NbdBlockSizes {
  if (data.length !== 14) throw violation('bad NBD_INFO_BLOCK_SIZE');
  const minimumBytes = data.readUInt32BE(2);
  const preferredBytes = data.readUInt32BE(6);
  const largest = data.readUInt32BE(10);
  const isPowerOfTwo = minimumBytes > 0 && (minimumBytes & (minimumBytes - 1)) === 0;
  if (!isPowerOfTwo || minimumBytes > 65536 || preferredBytes < minimumBytes || largest < minimumBytes) {
    throw violation('impossible block sizes', { minimumBytes, preferredBytes, maximumBytes: largest });
  }
  const capped = Math.min(largest, limits.payloadBytes);
  return { minimumBytes, preferredBytes, maximumBytes: capped - (capped % minimumBytes) };
}
