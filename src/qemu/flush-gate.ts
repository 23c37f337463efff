/**
 * Tells when a guest stands still, and holds it there: an NBD server whose only command is flush. QEMU flushes every block
 * node it has open each time its guest comes to stand still, the guest's drives before nodes that no device uses. Open the
 * gate as such a node, and the first flush arrives once the processors stand and all drives are flushed; QEMU waits for
 * its answer, which is given when the gate opens. After that every flush is answered at once.
 * Source: QEMU do_vm_stop (softmmu/cpus.c), bdrv_next (block/block-backend.c); the words of NBD are in nbd-protocol.ts.
 */
import { createServer, type Socket } from 'node:net';
import {
  ByteReader,
  command,
  handshakeFlag,
  info,
  limits,
  magic,
  option,
  optionErrorBit,
  optionReply,
  transmissionFlag,
} from './nbd-protocol.ts';

const sizeBytes = 512n;
const unsupported = optionErrorBit + 1;
const invalidArgument = 22;

export class FlushGate {
  readonly #opened = Promise.withResolvers<void>();
  #isOpen = false;
  readonly #onHeld: () => void;

  private constructor(onHeld: () => void) {
    this.#onHeld = onHeld;
  }

  /** Listens for one client. `onHeld` is called at each flush that has to wait. */
  static async listen(socketPath: string, onHeld: () => void): Promise<FlushGate> {
    const gate = new FlushGate(onHeld);
    const server = createServer((socket) => {
      server.close();
      // A client that goes, or breaks the protocol, is cut off: nothing waits for it.
      gate.#serve(socket).catch(() => socket.destroy());
    });
    server.unref();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(socketPath, resolve);
    });
    return gate;
  }

  /** Idempotent. */
  open(): void {
    this.#isOpen = true;
    this.#opened.resolve();
  }

  async #serve(socket: Socket): Promise<void> {
    const reader = new ByteReader(socket);
    await negotiate(socket, reader);
    for (;;) {
      const request = await reader.take(28);
      if (request.readUInt32BE(0) !== magic.request) return void socket.destroy();
      const type = request.readUInt16BE(6);
      if (type === command.disconnect) return void socket.end();
      if (type === command.write) return void socket.destroy();
      const reply = Buffer.alloc(16);
      reply.writeUInt32BE(magic.simpleReply, 0);
      reply.writeUInt32BE(type === command.flush ? 0 : invalidArgument, 4);
      request.copy(reply, 8, 8, 16);
      if (type === command.flush) await this.#pass();
      socket.write(reply);
    }
  }

  async #pass(): Promise<void> {
    if (this.#isOpen) return;
    this.#onHeld();
    await this.#opened.promise;
  }
}

/** Fixed newstyle; of the options, only the last one. */
async function negotiate(socket: Socket, reader: ByteReader): Promise<void> {
  const hello = Buffer.alloc(18);
  hello.writeBigUInt64BE(magic.server, 0);
  hello.writeBigUInt64BE(magic.option, 8);
  hello.writeUInt16BE(handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes, 16);
  socket.write(hello);
  await reader.take(4);
  for (;;) {
    const head = await reader.take(16);
    const asked = head.readUInt32BE(8);
    const length = head.readUInt32BE(12);
    if (head.readBigUInt64BE(0) !== magic.option || length > limits.optionReplyBytes) {
      throw new Error('The client broke the protocol.');
    }
    await reader.take(length);
    if (asked !== option.go) {
      socket.write(replyTo(asked, unsupported));
      continue;
    }
    const about = Buffer.alloc(12);
    about.writeUInt16BE(info.export, 0);
    about.writeBigUInt64BE(sizeBytes, 2);
    about.writeUInt16BE(transmissionFlag.hasFlags | transmissionFlag.sendFlush, 10);
    socket.write(Buffer.concat([replyTo(asked, optionReply.info, about), replyTo(asked, optionReply.ack)]));
    return;
  }
}

function replyTo(asked: number, type: number, body: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(magic.optionReply, 0);
  head.writeUInt32BE(asked, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(body.length, 16);
  return Buffer.concat([head, body]);
}
