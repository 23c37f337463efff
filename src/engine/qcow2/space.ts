/**
 * Free space of the image directory. Creates are refused below a mark; deletes may go on, and fall back on a reserve: a
 * preallocated file that is given up when a merge meets a full disk and taken again when space is back.
 */
import { execFile } from 'node:child_process';
import { rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CalotypeError } from '../../core/errors.ts';

const run = promisify(execFile);
const cacheMs = 1000;
/** With this many times the bytes wanted free, a figure of a second ago will do. */
const roomyTimes = 8;

export interface SpaceOptions {
  /** Creates are refused when fewer bytes are free. */
  minFreeBytes: number;
  /** Size of the reserve; 0 for none. */
  reserveBytes: number;
}

export class SpaceGuard {
  readonly #directory: string;
  readonly #options: SpaceOptions;
  #at = 0;
  #free = 0;
  #total = 0;

  constructor(directory: string, options: SpaceOptions) {
    this.#directory = directory;
    this.#options = options;
  }

  get #reservePath(): string {
    return join(this.#directory, 'reserve');
  }

  /** Free and total bytes, at most a second old. */
  async measure(): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }> {
    if (Date.now() - this.#at > cacheMs) {
      const found = await statfs(this.#directory);
      this.#free = found.bavail * found.bsize;
      this.#total = found.blocks * found.bsize;
      this.#at = Date.now();
    }
    return {
      freeBytes: this.#free,
      totalBytes: this.#total,
      reserveBytes: this.#options.reserveBytes,
      low: this.#free < this.#options.minFreeBytes,
    };
  }

  /** @throws space_low with free and wanted bytes */
  async assertRoom(neededBytes = 0): Promise<void> {
    const wanted = this.#options.minFreeBytes + neededBytes;
    if (this.#free < wanted * roomyTimes) this.#at = 0;
    const { freeBytes } = await this.measure();
    if (freeBytes >= wanted) return;
    this.#at = 0;
    throw new CalotypeError('space_low', `Only ${freeBytes} bytes are free; ${wanted} are wanted.`, {
      freeBytes,
      wantedBytes: wanted,
      remedy: 'Delete snapshots or drives, or give the file system more room.',
    });
  }

  /** Takes the reserve when it is missing and there is room for it. */
  async takeReserve(): Promise<void> {
    const size = this.#options.reserveBytes;
    if (size === 0) return;
    const has = await stat(this.#reservePath).then(
      (found) => found.blocks * 512 >= size,
      () => false,
    );
    if (has) return;
    this.#at = 0;
    const { freeBytes } = await this.measure();
    if (freeBytes < size + this.#options.minFreeBytes) return;
    await run('fallocate', ['-l', String(size), this.#reservePath]).catch(() => rm(this.#reservePath, { force: true }));
  }

  /** Gives the reserve up, so that a delete can go on. Returns whether there was one. */
  async giveReserve(): Promise<boolean> {
    const had = await stat(this.#reservePath).then(
      (found) => found.blocks > 0,
      () => false,
    );
    await rm(this.#reservePath, { force: true });
    this.#at = 0;
    return had;
  }

  /** Gives it up when that is what an error calls for. */
  async giveReserveIf(error: unknown): Promise<void> {
    if (error instanceof CalotypeError && error.code === 'space_exhausted') await this.giveReserve();
  }
}
