/**
 * What the tour checks with: what it prints, independent programs, and a writer whose every write can be told apart.
 * Knows nothing of Calotype.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify, styleText } from 'node:util';

const execute = promisify(execFile);

export const blockBytes = 4096;
export const MiB = 1024 * 1024;

// ---- what is printed

let checked = 0;
export const checkedCount = (): number => checked;

/** A fact that did not hold: the tour ends. */
export class Mismatch extends Error {}

export function chapter(title: string): void {
  console.log(`\n${styleText('bold', title)}`);
}

export function say(text: string): void {
  console.log(styleText('dim', text.replace(/^/gm, '    ')));
}

/** Prints the fact as checked, or ends the tour with what was found instead. */
export function check(fact: string, holds: boolean, found?: unknown): void {
  if (!holds) throw new Mismatch(found === undefined ? fact : `${fact}\n    found: ${JSON.stringify(found)}`);
  checked++;
  console.log(`  ${styleText('green', '✓')} ${fact}`);
}

export const formatMiB = (bytes: number): string => `${(bytes / MiB).toFixed(1)} MiB`;

// ---- programs

/** Runs a program to its end and returns what it printed. @throws Error with its output */
export async function run(program: string, ...args: readonly string[]): Promise<string> {
  try {
    return (await execute(program, args, { maxBuffer: 64 * MiB })).stdout;
  } catch (error) {
    const output = error instanceof Error && 'stdout' in error && 'stderr' in error ? error : undefined;
    throw new Mismatch(
      `${program} ${args.join(' ')} failed:\n${output?.stdout ?? ''}${output?.stderr ?? String(error)}`,
    );
  }
}

/** Whether QEMU finds two raw images equal; independent of everything of ours. */
export async function areIdentical(a: string, b: string): Promise<boolean> {
  return (await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', a, b)).includes('Images are identical');
}

/** The blocks of a file inside an ext4 image, as byte offsets of the image. */
export async function blocksOf(image: string, file: string): Promise<number[]> {
  const numbers = (await run('debugfs', '-R', `blocks ${file}`, image)).trim().split(/\s+/);
  return numbers.map((number) => Number(number) * blockBytes);
}

/** The content of a file inside an ext4 image. */
export async function readFileOf(image: string, file: string): Promise<Buffer> {
  const target = `${image}.out`;
  await run('debugfs', '-R', `dump ${file} ${target}`, image);
  return readFileSync(target);
}

/** `qemu-io` on an NBD export: an NBD client that is QEMU's own, and stays connected from command to command. */
export class QemuIo {
  readonly #child: ChildProcess;
  #output = '';
  #wake: (() => void) | undefined;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(uri: string) {
    this.#child = spawn('qemu-io', ['-f', 'raw', uri], { stdio: ['pipe', 'pipe', 'pipe'] });
    const take = (chunk: Buffer): void => {
      this.#output += chunk.toString('latin1');
      this.#wake?.();
    };
    this.#child.stdout?.on('data', take);
    this.#child.stderr?.on('data', take);
    this.#child.stdin?.on('error', () => undefined);
    this.#child.once('error', (error) => take(Buffer.from(error.message)));
    this.#child.once('close', () => this.#wake?.());
    this.#queue = this.#prompt();
    this.#queue.catch(() => undefined);
  }

  /** Sends one command and returns what it printed; commands queue. */
  command(line: string): Promise<string> {
    const answer = this.#queue.then(() => {
      this.#child.stdin?.write(`${line}\n`);
      return this.#prompt();
    });
    this.#queue = answer.catch(() => undefined);
    return answer;
  }

  async #prompt(): Promise<string> {
    while (!this.#output.endsWith('qemu-io> ')) {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        throw new Mismatch(`The NBD connection ended: ${this.#output.trim()}`);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const text = this.#output.slice(0, -'qemu-io> '.length);
    this.#output = '';
    return text;
  }

  /** Writes the whole of a file at an offset. */
  async write(file: string, offset: number, length: number): Promise<void> {
    const answer = await this.command(`write -s ${file} ${offset} ${length}`);
    if (!answer.includes(`wrote ${length}/${length} bytes`)) throw new Mismatch(`A write over NBD failed: ${answer}`);
  }

  async flush(): Promise<void> {
    const answer = await this.command('flush');
    if (answer.trim() !== '') throw new Mismatch(`A flush over NBD failed: ${answer}`);
  }

  /** The text at an offset, up to the first line end. */
  async readText(offset: number): Promise<string> {
    const dump = await this.command(`read -v ${offset} 64`);
    const bytes = [...dump.matchAll(/^[0-9a-f]{8}: {2}((?:[0-9a-f]{2} )+)/gm)].map(([, hex]) => hex ?? '').join('');
    return Buffer.from(bytes.replaceAll(' ', ''), 'hex').toString('utf8').split('\n')[0]?.trim() ?? '';
  }

  async close(): Promise<void> {
    const ended = this.#child.exitCode === null && this.#child.signalCode === null ? once(this.#child, 'close') : null;
    this.#child.stdin?.end('quit\n');
    await ended;
  }
}

/** One block of text, filled up with spaces; what the tour writes is readable in any hex dump. */
export function blockOf(text: string): Buffer {
  return Buffer.from(`${text}\n`.padEnd(blockBytes, ' '));
}

const ringText = (sequence: number): string => `write number ${sequence}`;
export const ringBlocks = 64;

/** The ring as the tour begins with it: numbers 1 to 64. */
export function firstRing(): Buffer {
  return Buffer.concat(Array.from({ length: ringBlocks }, (_, at) => blockOf(ringText(at + 1))));
}

/**
 * Writes rising numbers into a ring of blocks, one after another, each flushed before the next begins. So an instant of
 * the drive holds 64 numbers without a gap; anything else is a torn, lost or reordered write.
 */
export class RingWriter {
  /** The last number that was begun, and the last one the drive has confirmed as flushed. */
  begun = ringBlocks;
  flushed = ringBlocks;
  /** ms */
  longestWrite = 0;
  readonly #drives: readonly { io: QemuIo; ring: readonly number[] }[];
  readonly #file: string;
  #stopped = true;
  #loop: Promise<void> = Promise.resolve();
  #failure: unknown;

  /** With several drives each number goes to the first, then to the next. */
  constructor(drives: readonly { io: QemuIo; ring: readonly number[] }[], scratchFile: string) {
    this.#drives = drives;
    this.#file = scratchFile;
  }

  /** Goes on behind `last`, by default the last number written. */
  start(last = this.begun): void {
    this.begun = last;
    this.flushed = last;
    this.#stopped = false;
    this.#loop = this.#run().catch((error: unknown) => {
      this.#failure = error;
    });
  }

  async pause(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Resolves once so many more numbers are flushed. */
  async until(more: number): Promise<void> {
    const goal = this.flushed + more;
    while (this.flushed < goal) {
      if (this.#failure !== undefined) throw this.#failure;
      await delay(2);
    }
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const next = this.begun + 1;
      writeFileSync(this.#file, blockOf(ringText(next)));
      this.begun = next;
      for (const { io, ring } of this.#drives) {
        const startedAt = performance.now();
        await io.write(this.#file, ring[(next - 1) % ringBlocks] ?? 0, blockBytes);
        await io.flush();
        this.longestWrite = Math.max(this.longestWrite, performance.now() - startedAt);
      }
      this.flushed = next;
    }
  }
}

/** The newest number in a ring. @throws Mismatch where a block is torn or a number is missing */
export function newestInRing(ring: Buffer): number {
  const numbers = Array.from({ length: ringBlocks }, (_, at) => {
    const block = ring.subarray(at * blockBytes, (at + 1) * blockBytes);
    const number = Number(/^write number (\d+)\n/.exec(block.toString('latin1'))?.[1] ?? 0);
    if (!block.equals(blockOf(ringText(number))) || (number - 1) % ringBlocks !== at) {
      throw new Mismatch(`Block ${at} of the ring is torn: ${block.toString('latin1', 0, 40)}`);
    }
    return number;
  });
  const newest = Math.max(...numbers);
  const missing = Array.from({ length: ringBlocks }, (_, back) => newest - back).find((n) => !numbers.includes(n));
  if (missing !== undefined) throw new Mismatch(`The ring ends with ${newest} but lacks number ${missing}.`);
  return newest;
}
