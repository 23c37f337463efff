/**
 * How much of a drive changed since each of its snapshots. The figures are stored with the snapshots; they are asked of
 * the engine again only for drives that were changed since (`drives.sizes_stale` counts such changes) or that have a
 * writable export under which something was written. What was asked is kept in memory and stored a little later, so that
 * reading never waits for a commit.
 */
import type { Catalog } from '../catalog/catalog.ts';
import { findDriveRow, pointsOfDrive } from '../catalog/drives.ts';
import { isStillStale, storeSizes } from '../catalog/sizes.ts';
import type { PartRecord } from '../catalog/snapshots.ts';
import type { DriveId, DriveSnapshotId } from '../core/ids.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Engine } from '../engine/engine.ts';
import type { Logger } from './context.ts';
import type { ExportBook } from './export-book.ts';

const storeAfterMs = 300;
const driveLimit = 2000;
const freezeAtOnce = 200;

interface Known {
  /** `sizes_stale` that the figures belong to. */
  readonly stale: number;
  /** True when older stored figures are wrong even so: the drive was found written. */
  readonly written: boolean;
  readonly bytes: Map<DriveSnapshotId, number>;
}

/** A part as far as its size goes. */
export type SizedPart = Pick<PartRecord, 'id' | 'drive_id' | 'changed_bytes' | 'drive_sizes_stale'>;

export class SizeBook {
  readonly #catalog: Catalog;
  readonly #engine: Engine;
  readonly #exports: ExportBook;
  readonly #logger: Logger;
  readonly #known = new Map<DriveId, Known>();
  readonly #unsaved = new Set<DriveId>();
  #timer: NodeJS.Timeout | undefined;

  constructor(deps: { catalog: Catalog; engine: Engine; exports: ExportBook; logger: Logger }) {
    this.#catalog = deps.catalog;
    this.#engine = deps.engine;
    this.#exports = deps.exports;
    this.#logger = deps.logger;
  }

  /** Sizes of the parts of some snapshots that are not as stored. Parts still being made are left out. */
  async fresh(
    snapshots: readonly { readonly state: SnapshotState; readonly parts: readonly SizedPart[] }[],
  ): Promise<ReadonlyMap<DriveSnapshotId, number>> {
    const fresh = new Map<DriveSnapshotId, number>();
    let byDrive: Map<DriveId, SizedPart[]> | undefined;
    for (const snapshot of snapshots) {
      if (snapshot.state !== 'available') continue;
      for (const part of snapshot.parts) {
        if (part.changed_bytes !== null && part.drive_sizes_stale === 0 && !this.#exports.mayBeWritten(part.drive_id)) {
          continue;
        }
        byDrive ??= new Map();
        const parts = byDrive.get(part.drive_id);
        if (parts === undefined) byDrive.set(part.drive_id, [part]);
        else parts.push(part);
      }
    }
    if (byDrive === undefined) return fresh;
    await Promise.all([...byDrive].map(([driveId, parts]) => this.#ofDrive(driveId, parts, fresh)));
    return fresh;
  }

  async #ofDrive(driveId: DriveId, parts: readonly SizedPart[], into: Map<DriveSnapshotId, number>): Promise<void> {
    const stale = parts[0]?.drive_sizes_stale ?? 0;
    const dirty = this.#exports.mayBeWritten(driveId) && (await this.#engine.isDirty(driveId));
    let known = this.#known.get(driveId);
    if (dirty || known?.stale !== stale) {
      known = { stale, written: dirty, bytes: new Map() };
      if (!dirty && stale === 0) {
        for (const part of parts) if (part.changed_bytes !== null) known.bytes.set(part.id, part.changed_bytes);
      }
      this.#known.delete(driveId);
      this.#known.set(driveId, known);
      if (this.#known.size > driveLimit) this.#dropOldest();
    }
    const missing = parts.map((part) => part.id).filter((id) => !known.bytes.has(id));
    if (missing.length > 0) {
      try {
        const sizes = await this.#engine.changedBytes(driveId, missing);
        missing.forEach((id, at) => {
          const size = sizes[at];
          if (size !== undefined) known.bytes.set(id, size);
        });
        this.#unsaved.add(driveId);
        this.#timer ??= setTimeout(() => void this.store(), storeAfterMs);
      } catch (error) {
        // A part that was deleted meanwhile, or a daemon that does not answer: the list shows what is stored.
        this.#logger.warn({ err: error, driveId }, 'sizes of snapshots could not be read');
      }
    }
    for (const part of parts) {
      const size = known.bytes.get(part.id);
      if (size !== undefined) into.set(part.id, size);
    }
  }

  #dropOldest(): void {
    for (const id of this.#known.keys()) {
      if (this.#unsaved.has(id)) continue;
      this.#known.delete(id);
      return;
    }
  }

  /** Stores what was asked since, for drives that did not change meanwhile. */
  async store(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const driveIds = [...this.#unsaved];
    this.#unsaved.clear();
    for (const driveId of driveIds) {
      const known = this.#known.get(driveId);
      if (known === undefined) continue;
      try {
        if (this.#exports.mayBeWritten(driveId) && (await this.#engine.isDirty(driveId))) {
          this.#known.delete(driveId);
          continue;
        }
        if (!(await isStillStale(this.#catalog.db, driveId, known.stale))) continue;
        await this.#catalog.write((tx) => storeSizes(tx, driveId, known));
        this.#known.delete(driveId);
        // Under a writer the figures in memory stay the better ones.
        if (this.#exports.mayBeWritten(driveId))
          this.#known.set(driveId, { stale: 0, written: false, bytes: known.bytes });
      } catch (error) {
        this.#logger.warn({ err: error, driveId }, 'sizes of snapshots could not be stored');
      }
    }
  }

  /** Stores the sizes of all snapshots of a drive whose present state is about to go: they stay what they are. */
  async freeze(driveId: DriveId): Promise<void> {
    const ids = await pointsOfDrive(this.#catalog.db, driveId);
    const bytes = new Map<DriveSnapshotId, number>();
    for (let from = 0; from < ids.length; from += freezeAtOnce) {
      const some = ids.slice(from, from + freezeAtOnce);
      const sizes = await this.#engine.changedBytes(driveId, some);
      some.forEach((id, at) => {
        const size = sizes[at];
        if (size !== undefined) bytes.set(id, size);
      });
    }
    const row = await findDriveRow(this.#catalog.db, driveId);
    if (row === undefined) return;
    await this.#catalog.write((tx) => storeSizes(tx, driveId, { stale: row.sizes_stale, written: true, bytes }));
    this.#known.delete(driveId);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
