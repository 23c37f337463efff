/**
 * The image directory: one opaque file per layer, named by its number and nothing else; and the files outside of it that
 * belong to drives of adopted machines. Every creation and removal is made durable here: the file's bytes, then the
 * directory's entry.
 */
import { chmod, chown, open, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { LayerFormat, Qcow2FileRow } from '../../catalog/schema.ts';
import { CalotypeError } from '../../core/errors.ts';
import { Mutex } from '../../core/mutex.ts';
import { asSpaceError } from '../../core/space-error.ts';
import { createOverlayFile, setBackingName } from '../../qemu/qcow2.ts';

/** Above this, an unlink can take from milliseconds to seconds. */
const largeBytes = 1024 * 1024;
const pattern = /^l([0-9a-z]+)\.qcow2$/;

interface Place {
  readonly path: string;
  readonly format: LayerFormat;
  readonly removable: boolean;
}

export class FileStore {
  readonly directory: string;
  #sync: Promise<void> = Promise.resolve();
  #nextSync: Promise<void> | undefined;
  readonly #largeRemovals = new Mutex();
  readonly #outside = new Map<number, Place>();

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Learns where a file is; to be called with every row before the file is used. */
  place(row: Pick<Qcow2FileRow, 'id' | 'path' | 'format' | 'origin'>): void {
    if (row.path === null) this.#outside.delete(row.id);
    else this.#outside.set(row.id, { path: row.path, format: row.format, removable: row.origin === 'own' });
  }

  /** The file's name, or its path outside the directory: what image headers and QEMU commands say. */
  nameOf(id: number): string {
    return this.#outside.get(id)?.path ?? `l${id.toString(36)}.qcow2`;
  }

  pathOf(id: number): string {
    return this.#outside.get(id)?.path ?? join(this.directory, this.nameOf(id));
  }

  formatOf(id: number): LayerFormat {
    return this.#outside.get(id)?.format ?? 'qcow2';
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
        ...(backingId === null ? {} : { backingFormat: this.formatOf(backingId) }),
      });
      await this.makeDurable(id, backingId);
    } catch (error) {
      throw asSpaceError(error);
    }
  }

  /** Makes durable that a new file is there. Outside, whoever may use the one below may use it. */
  async makeDurable(id: number, likeId: number | null): Promise<void> {
    const place = this.#outside.get(id);
    if (place === undefined) return this.syncDirectory();
    if (likeId !== null) {
      const like = await stat(this.pathOf(likeId));
      await chmod(place.path, like.mode & 0o666);
      if (process.getuid?.() === 0) await chown(place.path, like.uid, like.gid);
    }
    await syncDirectoryAt(dirname(place.path));
  }

  /** Rewrites a header. Only for files that no process has open. */
  async setBacking(id: number, backingId: number | null): Promise<void> {
    const backing = backingId === null ? null : { name: this.nameOf(backingId), format: this.formatOf(backingId) };
    await setBackingName(this.pathOf(id), backing?.name ?? null, backing?.format);
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

  #syncNow(): Promise<void> {
    return syncDirectoryAt(this.directory);
  }

  /** Unlinks; files already gone are fine. Large ones go one by one: each holds up a thread that all file work shares. */
  async remove(ids: readonly number[]): Promise<void> {
    if (ids.length === 0) return;
    for (const id of ids) {
      const place = this.#outside.get(id);
      if (place?.removable === false) throw new CalotypeError('internal', `${place.path} was not made here.`);
      const unlink = (): Promise<void> => rm(this.pathOf(id), { force: true });
      if ((await this.diskBytes(id)) < largeBytes) await unlink();
      else await this.#largeRemovals.run(unlink);
      if (place !== undefined) await syncDirectoryAt(dirname(place.path));
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

async function syncDirectoryAt(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
