/** `calotype machine log`: what a guest writes to its serial port, byte for byte, also over restarts of the server. */
import { setTimeout as delay } from 'node:timers/promises';
import { type Command, Option } from 'commander';
import type { Context } from '../context.ts';
import { CliError, InterruptedError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { harmless, write } from '../io.ts';
import { resolveMachine } from '../resolve.ts';
import { parseInteger, parseSize } from '../sizes.ts';
import { onMachine } from './machine-power.ts';

/** For a server that is away, such as for a restart. */
const returnPauseMs = 2000;
const againPauseMs = 200;
const newline = 0x0a;
/** Lines are looked for in so much of the end. */
const tailBytes = 1024 ** 2;
/** Beyond every log: from its end. */
const end = Number.MAX_SAFE_INTEGER;

interface LogOptions {
  readonly follow?: boolean;
  readonly last?: number;
  readonly tail?: number;
  readonly all?: boolean;
}

export function registerLog(noun: Command, ctx: Context): void {
  onMachine(noun, 'log', 'print what the guest has written to its serial port')
    .option('-f, --follow', 'go on with what it writes, until Ctrl-C')
    .addOption(
      new Option('--last <size>', 'no more than so much of its end (default: 64KiB)').argParser((text) =>
        parseSize(text),
      ),
    )
    .addOption(
      new Option('--tail <lines>', 'no more than so many lines of its end')
        .argParser((text) => parseInteger(text, 'number of lines', 0))
        .conflicts('last'),
    )
    .addOption(new Option('--all', 'from the beginning of what is kept').conflicts(['last', 'tail']))
    .action(async (text: string, options: LogOptions) => {
      const path = `/machines/${(await resolveMachine(ctx, text)).id}/serial`;
      const log = new SerialLog(ctx, path, firstByteOf(options));
      if (options.tail === undefined) await log.printNew();
      else await log.printLines(options.tail);
      while (options.follow === true) {
        try {
          await log.printNew({ follow: true });
          // The server ends: the next one is there soon.
          await pause(ctx, againPauseMs);
        } catch (error) {
          if (!(error instanceof CliError) || error.exitCode !== exitCodes.unreachable) throw error;
          await pause(ctx, returnPauseMs);
        }
      }
      await log.end();
    });
}

/** Zero bytes of the end is its end, but 0 means the beginning to the server. */
function firstByteOf({ all, tail, last }: LogOptions): number | undefined {
  if (all === true) return 0;
  if (tail !== undefined) return -tailBytes;
  return last === 0 ? end : last === undefined ? undefined : -last;
}

async function pause(ctx: Context, ms: number): Promise<void> {
  try {
    await delay(ms, undefined, { signal: ctx.io.interrupted });
  } catch {
    throw new InterruptedError();
  }
}

/** Where the last `count` lines begin; a line that is not ended counts. */
function lastLines(bytes: Buffer, count: number): number {
  let at = bytes.at(-1) === newline ? bytes.length - 1 : bytes.length;
  if (count === 0) return bytes.length;
  for (let left = count; left > 0; left--) {
    at = at === 0 ? -1 : bytes.lastIndexOf(newline, at - 1);
    if (at < 0) return 0;
  }
  return at + 1;
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

  /** Prints up to the present end, or until the server ends it. What was printed of a piece that broke off is not printed again. */
  async printNew(options: { follow?: boolean } = {}): Promise<void> {
    await this.#read(options, (chunk) => this.#print(chunk));
  }

  async printLines(count: number): Promise<void> {
    const chunks: Uint8Array[] = [];
    await this.#read({}, async (chunk) => void chunks.push(chunk));
    const bytes = Buffer.concat(chunks);
    await this.#print(bytes.subarray(lastLines(bytes, count)));
  }

  async #read(options: { follow?: boolean }, take: (chunk: Uint8Array) => Promise<void>): Promise<void> {
    const { client, io } = this.#ctx;
    const response = await client.stream(this.#path, { query: { from: this.#from, ...options } });
    let next = Number(/^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1] ?? 0);
    this.#from = next;
    try {
      for await (const chunk of response) {
        await take(chunk);
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
