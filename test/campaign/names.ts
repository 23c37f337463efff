/** Which objects of the server the campaign's names stand for. */
import type { DriveBody, ExportBody, SnapshotBody } from '../../src/http/schemas.ts';

/** All that belongs to the machines of a campaign is named so, and looked after by them. */
export const machinePrefix = 'mx';

export class Names {
  readonly drives = new Map<string, string>();
  readonly snapshots = new Map<string, { id: string; parts: Map<string, string> }>();
  readonly exports = new Map<string, ExportBody>();
  readonly #driveNames = new Map<string, string>();

  driveId(name: string): string {
    const id = this.drives.get(name);
    if (id === undefined) throw new Error(`drive ${name} has no id yet`);
    return id;
  }

  driveName(id: string): string | undefined {
    return this.#driveNames.get(id);
  }

  snapshotId(name: string): string {
    const found = this.snapshots.get(name);
    if (found === undefined) throw new Error(`snapshot ${name} has no id yet`);
    return found.id;
  }

  partId(snapshot: string, drive: string): string {
    const id = this.snapshots.get(snapshot)?.parts.get(drive);
    if (id === undefined) throw new Error(`snapshot ${snapshot} has no part of ${drive}`);
    return id;
  }

  learnDrive(name: string, body: DriveBody): void {
    this.drives.set(name, body.id);
    this.#driveNames.set(body.id, name);
  }

  learnSnapshot(name: string, body: SnapshotBody): void {
    const parts = new Map<string, string>();
    for (const part of body.parts) {
      const drive = this.#driveNames.get(part.driveId);
      if (drive !== undefined) parts.set(drive, part.id);
    }
    this.snapshots.set(name, { id: body.id, parts });
  }

  /** Takes what is served now for all that is. */
  learnExports(served: readonly ExportBody[]): void {
    this.exports.clear();
    for (const item of served) {
      const drive = item.driveId === null ? undefined : this.#driveNames.get(item.driveId);
      if (drive !== undefined) this.exports.set(drive, item);
    }
  }

  copy(): Names {
    const made = new Names();
    for (const [name, id] of this.drives) {
      made.drives.set(name, id);
      made.#driveNames.set(id, name);
    }
    for (const [name, found] of this.snapshots) made.snapshots.set(name, { id: found.id, parts: new Map(found.parts) });
    for (const [name, item] of this.exports) made.exports.set(name, item);
    return made;
  }
}
