/** `calotype machine console`: the guest's serial port, both ways, on a terminal or between pipes. */
import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { Context } from '../context.ts';
import { CliError, InterruptedError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { setRawMode, write } from '../io.ts';
import { resolveMachine } from '../resolve.ts';
import { parseDuration, parseSize } from '../sizes.ts';
import { onMachine } from './machine-power.ts';

/** Ctrl-], as telnet and virsh have it. */
const leaveKey = 0x1d;
/** What the server takes at once. */
const maxInputBytes = 64 * 1024;
/** For a guest that does not read. */
const fullPauseMs = 250;
const defaultLingerSeconds = 1;
/** Beyond every log: from its end. */
const end = Number.MAX_SAFE_INTEGER;

interface ConsoleOptions {
  readonly last?: number;
  readonly linger?: number;
}

export function registerConsole(noun: Command, ctx: Context): void {
  onMachine(noun, 'console', 'type on the serial port of a guest and see what it writes; Ctrl-] leaves')
    .option('--last <size>', 'show so much of what it wrote before', (text) => parseSize(text))
    .option(
      '--linger <duration>',
      'when a piped input has ended, show for so long what the guest answers (default: 1s)',
      parseDuration,
    )
    .action(async (text: string, options: ConsoleOptions) => {
      const { id, name } = await resolveMachine(ctx, text);
      const from = options.last === undefined || options.last === 0 ? end : -options.last;
      const output = await ctx.client.stream(`/machines/${id}/serial`, { query: { from, follow: true } });
      const isTerminal = ctx.io.stdin.isTTY === true;
      if (isTerminal) ctx.note(`The console of ${name}. Ctrl-] leaves.`);
      const lingerMs = 1000 * (options.linger ?? defaultLingerSeconds);
      await new Console(ctx, `/machines/${id}/console`, output).run({ isTerminal, lingerMs });
    });
}

class Console {
  readonly #ctx: Context;
  readonly #path: string;
  readonly #output: IncomingMessage;
  #isOver = false;

  constructor(ctx: Context, path: string, output: IncomingMessage) {
    this.#ctx = ctx;
    this.#path = path;
    this.#output = output;
  }

  /** Until the escape key, the end of a piped input, or the end of what the server sends. */
  async run(options: { isTerminal: boolean; lingerMs: number }): Promise<void> {
    const { io } = this.#ctx;
    const shown = this.#show();
    if (options.isTerminal) setRawMode(io, true);
    try {
      await Promise.race([this.#type(options), shown]);
    } catch (error) {
      throw io.interrupted.aborted ? new InterruptedError() : error;
    } finally {
      this.#isOver = true;
      if (options.isTerminal) {
        setRawMode(io, false);
        io.stderr.write('\n');
      }
      io.stdin.destroy();
      this.#output.destroy();
      await shown.catch(() => undefined);
    }
  }

  /** What a guest sends to a terminal is obeyed: that is what a console is for. @throws when the server ends it */
  async #show(): Promise<void> {
    const { client, io } = this.#ctx;
    try {
      for await (const chunk of this.#output) await write(io.stdout, chunk);
    } catch (error) {
      if (!this.#isOver) throw client.connectionError(error);
    }
    if (this.#isOver) return;
    throw new CliError(exitCodes.unreachable, 'console_ended', 'The server ended the console.', {
      remedy: 'It restarts, or the machine is deleted; or you may no longer see it.',
    });
  }

  async #type({ isTerminal, lingerMs }: { isTerminal: boolean; lingerMs: number }): Promise<void> {
    for await (const chunk of this.#ctx.io.stdin) {
      const bytes = Buffer.from(chunk);
      const left = isTerminal ? bytes.indexOf(leaveKey) : -1;
      await this.#send(left < 0 ? bytes : bytes.subarray(0, left));
      if (left >= 0) return;
    }
    if (isTerminal) return;
    // Not until it is silent: many guests never are.
    await delay(lingerMs, undefined, { signal: this.#ctx.io.interrupted });
  }

  async #send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + maxInputBytes);
      try {
        // Typed once only: it cannot be known how much of a lost request arrived.
        await this.#ctx.client.request('POST', this.#path, { bytes: piece, once: true });
        at += piece.length;
      } catch (error) {
        if (!(error instanceof CliError) || error.code !== 'console_full') throw error;
        await delay(fullPauseMs, undefined, { signal: this.#ctx.io.interrupted });
      }
    }
  }
}
