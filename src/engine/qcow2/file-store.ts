/**
 * The image directory: one opaque file per layer, named by its number and nothing else. Every creation and removal is
 * made durable here: the file's bytes, then the directory's entry.
 */
import { open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Mutex } from '../../core/mutex.ts';
import { asSpaceError } from '../../core/space-error.ts';
import { createOverlayFile, setBackingName } from '../../qemu/qcow2.ts';

/** Above this, an unlink can take from milliseconds to seconds. */
const largeBytes = 1024 * 1024;
const pattern = /^l([0-9a-z]+)\.qcow2$/;

export class FileStore {
  readonly directory: string;
  #sync: Promise<void> = Promise.resolve();
  #nextSync: Promise<void> | undefined;
  readonly #largeRemovals = new Mutex();

  constructor(directory: string) {
    this.directory = directory;
  }

  /** The file name, which is also what image headers and QEMU commands say. */
  nameOf(id: number): string {
    return `l${id.toString(36)}.qcow2`;
  }

  pathOf(id: number): string {
    return join(this.directory, this.nameOf(id));
  }

  /** The number in a file name of ours; null for any other file. */
  idOf(name: string): number | null {
    const digits = pattern.exec(name)?.[1];
    return digits === undefined ? null : Number.parseInt(digits, 36);
  }

  /** An empty overlay, durable with its name. @throws space_exhausted */
  async createOverlay(id: number, sizeBytes: number, backingId: number | null): Promise<void> {
    try {
      await createOverlayFile(this.pathOf(id), {
        sizeBytes,
        backing: backingId === null ? null : this.nameOf(backingId),
      });
      await this.syncDirectory();
    } catch (error) {
      throw asSpaceError(error);
    }
  }

  /** Rewrites a header. Only for files that no process has open. */
  async setBacking(id: number, backingId: number | null): Promise<void> {
    await setBackingName(this.pathOf(id), backingId === null ? null : this.nameOf(backingId));
  }

  /** Makes a file's content durable, whoever wrote it. */
  async syncFile(id: number): Promise<void> {
    const handle = await open(this.pathOf(id), 'r');
    try {
      await handle.datasync();
    } finally {
      await handle.close();
    }
  }

  /** Calls that come while one is under way share the next. */
  syncDirectory(): Promise<void> {
    this.#nextSync ??= this.#sync
      .catch(() => undefined)
      .then(() => {
        this.#nextSync = undefined;
        this.#sync = this.#syncNow();
        return this.#sync;
      });
    return this.#nextSync;
  }

  async #syncNow(): Promise<void> {
    const handle = await open(this.directory, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /** Unlinks; files already gone are fine. Large ones go one by one: each holds up a thread that all file work shares. */
  async remove(ids: readonly number[]): Promise<void> {
    if (ids.length === 0) return;
    for (const id of ids) {
      const unlink = (): Promise<void> => rm(this.pathOf(id), { force: true });
      if ((await this.diskBytes(id)) < largeBytes) await unlink();
      else await this.#largeRemovals.run(unlink);
    }
    await this.syncDirectory();
  }

  /** Bytes the file takes on disk; 0 when it is not there. */
  async diskBytes(id: number): Promise<number> {
    return stat(this.pathOf(id)).then(
      (found) => found.blocks * 512,
      () => 0,
    );
  }

  /** When its data was last written, ms; 0 when it is not there. */
  async modifiedMs(id: number): Promise<number> {
    return stat(this.pathOf(id)).then(
      (found) => found.mtimeMs,
      () => 0,
    );
  }

  /** Every entry of the directory, ours or not. */
  async list(): Promise<string[]> {
    return readdir(this.directory);
  }
}
