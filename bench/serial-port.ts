/** What a guest says on its serial port, and what it is asked there: QEMU keeps the one in a file, and takes the other on a socket. */
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const waitMs = 120_000;
const lookMs = 20;

export class SerialPort {
  readonly #log: string;
  readonly #socket: string;

  /** Paths. */
  constructor(log: string, socket: string) {
    this.#log = log;
    this.#socket = socket;
  }

  /** The first match of what is said after `from` characters. @throws Error after two minutes */
  async line(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    for (const until = performance.now() + waitMs; performance.now() < until; await delay(lookMs)) {
      const found = pattern.exec(this.#said().slice(from));
      if (found !== null) return found;
    }
    throw new Error(`the guest never said ${pattern}: ${this.#said().slice(-300)}`);
  }

  /** Sends a line and waits for the answer. */
  async ask(question: string, answer: RegExp): Promise<RegExpExecArray> {
    const from = this.#said().length;
    const socket = connect({ path: this.#socket });
    socket.resume().write(`${question}\n`);
    try {
      return await this.line(answer, from);
    } finally {
      socket.destroy();
    }
  }

  /** The longest time between two steps of a guest in mode `gap`, since the last answer, ms. */
  async longestGapMs(): Promise<number> {
    return Number((await this.ask('gap?', /^gap ([\d.]+)$/m))[1]);
  }

  #said(): string {
    try {
      return readFileSync(this.#log, 'utf8').replaceAll('\r', '');
    } catch {
      return '';
    }
  }
}
