/** Which drives have a writable export, or an adopted machine that writes them: kept in memory, since every snapshot and every list of snapshots asks. */
import type { Catalog } from '../catalog/catalog.ts';
import { allExports } from '../catalog/exports.ts';
import { drivesOfAdopted } from '../catalog/machines.ts';
import type { DriveId, ExportId } from '../core/ids.ts';

export class ExportBook {
  readonly #writable = new Map<DriveId, Set<ExportId>>();
  readonly #adopted = new Set<DriveId>();

  async load(catalog: Catalog): Promise<void> {
    for (const row of await allExports(catalog.db)) {
      if (row.drive_id !== null && row.writable === 1) this.opened(row.drive_id, row.id);
    }
    for (const driveId of await drivesOfAdopted(catalog.db)) this.adopted(driveId);
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

  adopted(driveId: DriveId): void {
    this.#adopted.add(driveId);
  }

  disowned(driveId: DriveId): void {
    this.#adopted.delete(driveId);
  }

  /** All that may be written. */
  writable(): DriveId[] {
    return [...new Set([...this.#writable.keys(), ...this.#adopted])];
  }

  mayBeWritten(driveId: DriveId): boolean {
    return this.#writable.has(driveId) || this.#adopted.has(driveId);
  }
}
