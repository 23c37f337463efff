/** `calotype machine log`: what a guest writes to its serial port, piece by piece from where the last one ended. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { Context } from '../context.ts';
import { CliError, InterruptedError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { harmless, write } from '../io.ts';
import { resolveMachine } from '../resolve.ts';
import { parseSize } from '../sizes.ts';
import { onMachine } from './machine-power.ts';

const pollMs = 200;
/** For a server that is away, such as for a restart. */
const returnPauseMs = 2000;

interface LogOptions {
  readonly follow?: boolean;
  readonly last?: number;
  readonly all?: boolean;
}

export function registerLog(noun: Command, ctx: Context): void {
  onMachine(noun, 'log', 'print what the guest has written to its serial port')
    .option('-f, --follow', 'go on with what it writes, until Ctrl-C')
    .option('--last <size>', 'no more than so much of its end (default: 64KiB)', (text) => parseSize(text))
    .option('--all', 'from its beginning')
    .action(async (text: string, options: LogOptions) => {
      const path = `/machines/${(await resolveMachine(ctx, text)).id}/serial`;
      // Zero bytes of the end is its end, but 0 means the beginning to the server.
      const last =
        options.last === 0 ? Number.MAX_SAFE_INTEGER : options.last === undefined ? undefined : -options.last;
      const log = new SerialLog(ctx, path, options.all === true ? 0 : last);
      await log.printNew();
      while (options.follow === true) {
        const started = performance.now();
        let pauseMs = pollMs;
        try {
          await log.printNew();
        } catch (error) {
          if (!(error instanceof CliError) || error.exitCode !== exitCodes.unreachable) throw error;
          pauseMs = returnPauseMs;
        }
        await pause(ctx, Math.max(0, pauseMs - (performance.now() - started)));
      }
      await log.end();
    });
}

async function pause(ctx: Context, ms: number): Promise<void> {
  try {
    await delay(ms, undefined, { signal: ctx.io.interrupted });
  } catch {
    throw new InterruptedError();
  }
}

/** To a terminal goes text whose escape sequences are shown, not obeyed, as a guest is not to be trusted; elsewhere, the bytes. */
class SerialLog {
  readonly #ctx: Context;
  readonly #path: string;
  readonly #decoder = new TextDecoder();
  /** The byte to go on from; negative: from the end. */
  #from: number | undefined;

  constructor(ctx: Context, path: string, from: number | undefined) {
    this.#ctx = ctx;
    this.#path = path;
    this.#from = from;
  }

  /** Prints up to the present end. What was printed of a piece that broke off is not printed again. */
  async printNew(): Promise<void> {
    const { client, io } = this.#ctx;
    const response = await client.stream(this.#path, { query: { from: this.#from } });
    let next = Number(/^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1] ?? 0);
    this.#from = next;
    try {
      for await (const chunk of response) {
        await this.#print(chunk);
        next += chunk.length;
        this.#from = next;
      }
    } catch (error) {
      if (io.interrupted.aborted) throw new InterruptedError();
      throw client.connectionError(error);
    } finally {
      response.destroy();
    }
  }

  async #print(chunk: Uint8Array): Promise<void> {
    const { stdout } = this.#ctx.io;
    if (stdout.isTTY === true) await this.#ctx.print(readable(this.#decoder.decode(chunk, { stream: true })));
    else await write(stdout, chunk);
  }

  async end(): Promise<void> {
    if (this.#ctx.io.stdout.isTTY === true) await this.#ctx.print(readable(this.#decoder.decode()));
  }
}

const readable = (text: string): string =>
  text
    .split(/(\r?\n|\t)/)
    .map((part, index) => (index % 2 === 1 ? part : harmless(part)))
    .join('');
