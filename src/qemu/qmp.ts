/**
 * A QMP client: JSON commands to a QEMU process over its monitor socket. Commands are numbered and may overlap; several
 * can leave in one write, because the 7.2 monitor pays by the byte and by the round trip. Nothing here has a timeout: a
 * command ends with its answer or with the connection.
 * Source: QEMU docs/interop/qmp-spec.rst.
 */
import { EventEmitter } from 'node:events';
import { connect, type Socket } from 'node:net';
import { CalotypeError } from '../core/errors.ts';

export interface QmpEvent {
  event: string;
  /** When it happened by QEMU's clock, µs since 1970. */
  atUs: number;
  data?: Record<string, unknown>;
}

/** A command that QEMU refused. `qmpClass` is QEMU's error class, mostly `GenericError`. */
export class QmpError extends CalotypeError {
  readonly qmpClass: string;
  constructor(command: string, qmpClass: string, description: string) {
    super('engine_failed', `QEMU refused ${command}: ${description}`, { command, qmpClass });
    this.qmpClass = qmpClass;
  }
}

export interface QmpCommand {
  execute: string;
  arguments?: Readonly<Record<string, unknown>>;
}

interface Pending {
  command: string;
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

interface Message extends Partial<Omit<QmpEvent, 'atUs'>> {
  id?: number;
  timestamp?: { seconds: number; microseconds: number };
  return?: unknown;
  error?: { class: string; desc: string };
  QMP?: unknown;
}

const maxLineBytes = 64 * 1024 * 1024;

/** Emits `event` (QmpEvent) and, once, `close`. */
export class QmpClient extends EventEmitter<{ event: [QmpEvent]; close: [] }> {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #parts: string[] = [];
  #partBytes = 0;
  #closed = false;
  #greeted: (() => void) | undefined;

  private constructor(socket: Socket) {
    super();
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#read(text));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#end());
  }

  /** Connects and leaves negotiation mode. @throws engine_unavailable when nobody listens */
  static async connect(path: string): Promise<QmpClient> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (cause) =>
        reject(new CalotypeError('engine_unavailable', `No QEMU listens on ${path}.`, {}, { cause })),
      );
    });
    const client = new QmpClient(socket);
    await new Promise<void>((resolve, reject) => {
      client.#greeted = resolve;
      client.once('close', () => reject(new CalotypeError('engine_unavailable', `QEMU closed ${path}.`)));
    });
    await client.execute('qmp_capabilities');
    return client;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Runs one command. @throws QmpError, engine_unavailable */
  async execute<T = unknown>(command: string, args?: Readonly<Record<string, unknown>>): Promise<T> {
    const [answer] = this.#send([args === undefined ? { execute: command } : { execute: command, arguments: args }]);
    return (await answer) as T;
  }

  /** Sends all commands in one write; QEMU runs them in order. Resolves with all answers; the first failure rejects, after the rest ran too. */
  async executeAll(commands: readonly QmpCommand[]): Promise<unknown[]> {
    const results = await Promise.allSettled(this.#send(commands));
    return results.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
  }

  /** Like `executeAll`, but answers with what became of each. */
  async executeEach(commands: readonly QmpCommand[]): Promise<PromiseSettledResult<unknown>[]> {
    return Promise.allSettled(this.#send(commands));
  }

  close(): void {
    this.#socket.destroy();
    this.#end();
  }

  #send(commands: readonly QmpCommand[]): Promise<unknown>[] {
    if (this.#closed) return commands.map(() => Promise.reject(this.#gone()));
    let text = '';
    const answers = commands.map((command) => {
      const id = this.#next++;
      text += `${JSON.stringify({ ...command, id })}\n`;
      return new Promise<unknown>((resolve, reject) => {
        this.#pending.set(id, { command: command.execute, resolve, reject });
      });
    });
    this.#socket.write(text);
    return answers;
  }

  #read(text: string): void {
    let rest = text;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      this.#parts.push(rest.slice(0, end));
      const line = this.#parts.join('');
      this.#parts = [];
      this.#partBytes = 0;
      rest = rest.slice(end + 1);
      if (line.trim() !== '') this.#take(line);
    }
    if (rest !== '') {
      this.#parts.push(rest);
      this.#partBytes += rest.length;
      if (this.#partBytes > maxLineBytes) this.#socket.destroy();
    }
  }

  #take(line: string): void {
    const message = parseMessage(line);
    if (message === null) {
      this.#socket.destroy(); // Whatever this is, it is no QEMU.
      return;
    }
    if (message.QMP !== undefined) this.#greeted?.();
    else if (message.event !== undefined) {
      const { seconds, microseconds } = message.timestamp ?? { seconds: 0, microseconds: 0 };
      this.emit('event', { event: message.event, atUs: seconds * 1_000_000 + microseconds, data: message.data ?? {} });
    } else if (message.id !== undefined) {
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (message.error === undefined) pending?.resolve(message.return);
      else pending?.reject(new QmpError(pending.command, message.error.class, message.error.desc));
    }
  }

  #gone(): CalotypeError {
    return new CalotypeError('engine_unavailable', 'The connection to QEMU was lost.');
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const pending of this.#pending.values()) pending.reject(this.#gone());
    this.#pending.clear();
    this.emit('close');
  }
}

function parseMessage(line: string): Message | null {
  try {
    const message: unknown = JSON.parse(line);
    return typeof message === 'object' && message !== null ? message : null;
  } catch {
    return null;
  }
}
