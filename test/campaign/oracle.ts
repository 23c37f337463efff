/**
 * What must be true: the bytes that every drive and every snapshot must hold, given what was asked, answered, written,
 * flushed and killed. It is fed by events alone, so that a record of a run gives the expectation for any instant of it.
 *
 * The rules: a snapshot that was answered holds every write answered before it was asked for and none issued after its
 * answer, and no write without those it followed. A flush that was answered survives everything. What was not flushed
 * is old or new, per block, once a daemon died. A change without an answer has happened wholly or not at all; `end` says which.
 */
import { type Content, LiveContent, Window, type WriteRecord } from './content.ts';
import { drivesOf, type Plan } from './plans.ts';

export interface PartModel {
  readonly content: Content;
  /** Not deleted on its own. */
  present: boolean;
}

export interface SnapshotModel {
  readonly name: string;
  readonly parts: Map<string, PartModel>;
  readonly safety: boolean;
}

export interface DriveModel {
  readonly name: string;
  readonly live: LiveContent;
  exported: boolean;
  /** The snapshot its state descends from, deleted ones included. */
  current: string | null;
}

interface Begun {
  readonly plan: Plan;
  readonly windows: ReadonlyMap<string, Window>;
}

export class Oracle {
  readonly drives = new Map<string, DriveModel>();
  readonly snapshots = new Map<string, SnapshotModel>();
  readonly begun = new Map<number, Begun>();
  /** Tasks whose acceptance was answered: they must exist for ever after. */
  readonly accepted = new Map<number, string>();
  readonly writes = new Map<number, WriteRecord>();
  /** `drive/snapshot` to the snapshot before it; deleted ones stay. */
  readonly #parents = new Map<string, string | null>();
  readonly #flushes = new Map<number, { drive: string; issuedAt: number }>();
  #clock = 0;

  /** The number of the last event. */
  get clock(): number {
    return this.#clock;
  }

  drive(name: string): DriveModel {
    const found = this.drives.get(name);
    if (found === undefined) throw new Error(`the oracle knows no drive ${name}`);
    return found;
  }

  snapshot(name: string): SnapshotModel {
    const found = this.snapshots.get(name);
    if (found === undefined) throw new Error(`the oracle knows no snapshot ${name}`);
    return found;
  }

  /** Names of the drives, of all snapshots, whose present parts are of the drive. */
  snapshotsOf(drive: string): SnapshotModel[] {
    return [...this.snapshots.values()].filter((snapshot) => snapshot.parts.get(drive)?.present === true);
  }

  /** The nearest snapshot before one, of those that are still there. */
  parentOf(drive: string, snapshot: string): string | null {
    return this.#nearest(drive, this.#parents.get(`${drive}/${snapshot}`) ?? null);
  }

  currentOf(drive: string): string | null {
    return this.#nearest(drive, this.drive(drive).current);
  }

  #nearest(drive: string, from: string | null): string | null {
    let at = from;
    while (at !== null && this.snapshots.get(at)?.parts.get(drive)?.present !== true) {
      at = this.#parents.get(`${drive}/${at}`) ?? null;
    }
    return at;
  }

  // Events

  /** A change is asked for; call before the request leaves. */
  begin(id: number, plan: Plan): void {
    const at = ++this.#clock;
    const windows = new Map<string, Window>();
    if (plan.kind === 'snapshot' || plan.kind === 'revert') {
      for (const name of drivesOf(plan)) windows.set(name, this.drive(name).live.openWindow(at));
    }
    this.begun.set(id, { plan, windows });
  }

  accept(id: number, taskId: string): void {
    this.#clock++;
    this.accepted.set(id, taskId);
  }

  /** It was answered, or found out: it has happened, or it has not. */
  end(id: number, happened: boolean): void {
    this.#clock++;
    const begun = this.begun.get(id);
    if (begun === undefined) throw new Error(`the oracle knows no change ${id}`);
    this.begun.delete(id);
    if (happened) this.#apply(begun);
    else for (const [name, window] of begun.windows) this.drives.get(name)?.live.windows.delete(window);
  }

  writeIssued(write: number, drive: string, block: number, count: number): void {
    const record: WriteRecord = { write, drive, block, count, issuedAt: ++this.#clock, ackedAt: null };
    this.writes.set(write, record);
    this.drive(drive).live.write(record);
  }

  writeAcked(write: number, durable: boolean): void {
    const record = this.writes.get(write);
    if (record === undefined) throw new Error(`the oracle knows no write ${write}`);
    record.ackedAt = ++this.#clock;
    if (durable) this.drives.get(record.drive)?.live.settled(record);
  }

  flushIssued(flush: number, drive: string): void {
    this.#flushes.set(flush, { drive, issuedAt: ++this.#clock });
  }

  flushAcked(flush: number): void {
    this.#clock++;
    const found = this.#flushes.get(flush);
    if (found === undefined) throw new Error(`the oracle knows no flush ${flush}`);
    this.#flushes.delete(flush);
    this.drives.get(found.drive)?.live.flushed(found.issuedAt);
  }

  /** The daemon that served the drive died, at the instant `at` of this clock. */
  crashed(drive: string, at: number): void {
    this.#clock++;
    this.drives.get(drive)?.live.crashed(at);
  }

  lostPower(): void {
    for (const drive of this.drives.values()) drive.live.lostPower(++this.#clock);
  }

  // What changes do

  #apply({ plan, windows }: Begun): void {
    switch (plan.kind) {
      case 'create':
        this.#addDrive(plan.drive, new LiveContent(this.writes, new Uint32Array(plan.blocks)), null);
        return;
      case 'clone': {
        const point = this.#part(plan.snapshot, plan.part);
        this.#addDrive(plan.drive, LiveContent.from(this.writes, point, plan.blocks), null);
        return;
      }
      case 'snapshot':
        this.#addSnapshot(plan.snapshot, windows, false);
        for (const name of plan.drives) this.drive(name).current = plan.snapshot;
        return;
      case 'revert': {
        const targets = plan.drives.map((name) => this.#part(plan.snapshot, name));
        if (plan.safety !== null) this.#addSnapshot(plan.safety, windows, true);
        for (const [at, name] of plan.drives.entries()) {
          const [drive, target, window] = [this.drive(name), targets[at], windows.get(name)];
          if (target === undefined || window === undefined) throw new Error('a revert without its target');
          drive.live.revertTo(target, window);
          drive.current = plan.snapshot;
        }
        return;
      }
      case 'delete-snapshot':
        for (const part of this.snapshot(plan.snapshot).parts.values()) part.present = false;
        this.#forgetEmpty(plan.snapshot);
        return;
      case 'delete-part': {
        const part = this.snapshot(plan.snapshot).parts.get(plan.part);
        if (part !== undefined) part.present = false;
        this.#forgetEmpty(plan.snapshot);
        return;
      }
      case 'delete-drive':
        if (plan.snapshots === 'delete') {
          for (const snapshot of this.snapshotsOf(plan.drive)) {
            const part = snapshot.parts.get(plan.drive);
            if (part !== undefined) part.present = false;
            this.#forgetEmpty(snapshot.name);
          }
        }
        this.drives.delete(plan.drive);
        return;
      case 'resize':
        this.drive(plan.drive).live.grow(plan.blocks);
        return;
      case 'flatten':
        return;
      case 'export':
      case 'unexport':
        this.drive(plan.drive).exported = plan.kind === 'export';
    }
  }

  #part(snapshot: string, drive: string): Content {
    const part = this.snapshot(snapshot).parts.get(drive);
    if (part === undefined) throw new Error(`snapshot ${snapshot} has no part of ${drive}`);
    return part.content;
  }

  #addDrive(name: string, live: LiveContent, current: string | null): void {
    this.drives.set(name, { name, live, exported: false, current });
  }

  /** What was written before the snapshot was asked for went to disk with it. */
  #addSnapshot(name: string, windows: ReadonlyMap<string, Window>, safety: boolean): void {
    const parts = new Map<string, PartModel>();
    for (const [driveName, window] of windows) {
      const drive = this.drive(driveName);
      parts.set(driveName, { content: window, present: true });
      drive.live.windows.delete(window);
      if (!window.crashed) drive.live.flushed(window.openedAt);
      this.#parents.set(`${driveName}/${name}`, drive.current);
    }
    this.snapshots.set(name, { name, parts, safety });
  }

  #forgetEmpty(name: string): void {
    const left = [...this.snapshot(name).parts.values()].some((part) => part.present);
    if (!left) this.snapshots.delete(name);
  }
}

/**
 * Whether what was read of a snapshot is one instant: no write that is in it was issued after the answer to one that is
 * not. `read` gives, per part, the write seen at each loose block.
 */
export function followsOrder(
  writes: ReadonlyMap<number, WriteRecord>,
  parts: readonly { content: Content; seen: ReadonlyMap<number, number> }[],
): boolean {
  let newestIn = -1;
  let oldestOut = Number.POSITIVE_INFINITY;
  for (const { content, seen } of parts) {
    if (!(content instanceof Window) || content.crashed) return true;
    for (const [block, options] of content.loose) {
      const at = options.indexOf(seen.get(block) ?? -1);
      for (const [index, write] of options.entries()) {
        const record = writes.get(write);
        if (record === undefined) continue;
        if (index <= at) newestIn = Math.max(newestIn, record.issuedAt);
        // Earlier ones may be missing for another reason: a revert may have taken them away.
        else if (record.ackedAt !== null && record.issuedAt > content.openedAt) {
          oldestOut = Math.min(oldestOut, record.ackedAt);
        }
      }
    }
  }
  return oldestOut > newestIn;
}
