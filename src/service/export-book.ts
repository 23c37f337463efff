/** Which drives have a writable export: kept in memory, since every snapshot and every list of snapshots asks. */
import type { Catalog } from '../catalog/catalog.ts';
import { allExports } from '../catalog/exports.ts';
import type { DriveId, ExportId } from '../core/ids.ts';

export class ExportBook {
  readonly #writable = new Map<DriveId, Set<ExportId>>();

  async load(catalog: Catalog): Promise<void> {
    for (const row of await allExports(catalog.db)) {
      if (row.drive_id !== null && row.writable === 1) this.opened(row.drive_id, row.id);
    }
  }

  opened(driveId: DriveId, exportId: ExportId): void {
    const known = this.#writable.get(driveId);
    if (known === undefined) this.#writable.set(driveId, new Set([exportId]));
    else known.add(exportId);
  }

  closed(driveId: DriveId, exportId: ExportId): void {
    const known = this.#writable.get(driveId);
    known?.delete(exportId);
    if (known?.size === 0) this.#writable.delete(driveId);
  }

  mayBeWritten(driveId: DriveId): boolean {
    return this.#writable.has(driveId);
  }
}
