/**
 * Input for a guest's serial port. There is one connection to QEMU, made at the first input and kept: QEMU forgets what the
 * guest has not taken yet when a connection ends. What the guest writes comes over it, too, and must be read, or the guest
 * would wait; it is in the log already.
 */
import { connect, type Socket } from 'node:net';
import { CalotypeError } from '../core/errors.ts';

/** What may wait here for a guest that reads nothing, beside what the kernel holds. */
export const maxInputBytes = 64 * 1024;

export class SerialInput {
  readonly #socketPath: string;
  readonly #onOutput: () => void;
  #socket: Promise<Socket> | undefined;
  #waitingBytes = 0;

  /** `onOutput` is called when the guest writes while a connection is open. */
  constructor(socketPath: string, onOutput: () => void) {
    this.#socketPath = socketPath;
    this.#onOutput = onOutput;
  }

  /** Resolves when the bytes are on their way to the guest, in order. @throws console_full, machine_off */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#waitingBytes > 0 && this.#waitingBytes + bytes.length > maxInputBytes) {
      throw new CalotypeError('console_full', undefined, { waitingBytes: this.#waitingBytes });
    }
    this.#waitingBytes += bytes.length;
    try {
      this.#socket ??= this.#connect();
      const socket = await this.#socket;
      await new Promise<void>((resolve, reject) => {
        const end = (): void => reject(new CalotypeError('machine_off', 'The machine ended before it took the input.'));
        socket.once('close', end);
        socket.write(bytes, (error) => {
          socket.off('close', end);
          if (error == null) resolve();
          else end();
        });
        if (socket.destroyed) end();
      });
    } finally {
      this.#waitingBytes -= bytes.length;
    }
  }

  #connect(): Promise<Socket> {
    const socket = connect({ path: this.#socketPath });
    socket.setMaxListeners(0);
    const forget = (): void => {
      this.#socket = undefined;
    };
    socket.on('close', forget);
    socket.on('data', this.#onOutput);
    return new Promise((resolve, reject) => {
      socket.once('connect', () => resolve(socket));
      socket.on('error', (cause) => {
        forget();
        reject(new CalotypeError('machine_off', 'The console of the machine cannot be reached.', {}, { cause }));
      });
    });
  }

  close(): void {
    this.#socket?.then(
      (socket) => socket.destroy(),
      () => undefined,
    );
  }
}
