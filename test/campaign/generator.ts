/**
 * Decides what to do next: random changes of what is there, never two at once that cannot both be wanted, kept within
 * bounds so that everything can be read after every kill.
 */
import type { Names } from './names.ts';
import type { DriveModel, Oracle, SnapshotModel } from './oracle.ts';
import type { Plan, PlanKind } from './plans.ts';
import type { Random } from './random.ts';

export interface Bounds {
  readonly drives: number;
  readonly exports: number;
  readonly snapshots: number;
  /** Largest drive, in blocks. */
  readonly blocks: number;
}

type Lock = readonly [name: string, exclusive: boolean];

/** Which work leads past a step, by the step's first word; else anything may. */
const leadsTo: Readonly<Record<string, Partial<Record<PlanKind, number>>>> = {
  merge: { 'delete-snapshot': 8, snapshot: 3 },
  'merge-up': { 'delete-snapshot': 8, snapshot: 3 },
  relink: { 'delete-snapshot': 5, flatten: 3 },
  unlink: { 'delete-snapshot': 5, 'delete-drive': 5 },
  points: { 'delete-snapshot': 5 },
  dead: { 'delete-snapshot': 4 },
  twin: { snapshot: 12 },
  flat: { flatten: 8 },
  revert: { revert: 6 },
  export: { export: 10, unexport: 10 },
  spare: { snapshot: 4, export: 4, unexport: 4 },
  pivot: { snapshot: 4 },
  overlay: { create: 4, clone: 4 },
  drive: { create: 4, clone: 4, 'delete-drive': 6 },
};

export class Generator {
  readonly #random: Random;
  readonly #oracle: Oracle;
  readonly #names: Names;
  readonly #bounds: Bounds;
  readonly #shared = new Map<string, number>();
  readonly #exclusive = new Set<string>();
  readonly #held = new Map<Plan, readonly Lock[]>();
  #counter = 0;
  /** The step that one would like to see. */
  wanted: string | undefined;

  constructor(random: Random, oracle: Oracle, names: Names, bounds: Bounds) {
    this.#random = random;
    this.#oracle = oracle;
    this.#names = names;
    this.#bounds = bounds;
  }

  /** Undefined when nothing can be done just now. The plan's objects stay locked until `done`. */
  next(): Plan | undefined {
    const bias = leadsTo[this.wanted?.split('.')[0] ?? ''] ?? {};
    const weight = (kind: PlanKind, base: number): readonly [PlanKind, number] => [kind, base * (bias[kind] ?? 1)];
    const few = this.#oracle.drives.size < 3;
    const manySnapshots = this.#oracle.snapshots.size >= this.#bounds.snapshots;
    const manyDrives = this.#oracle.drives.size >= this.#bounds.drives;
    for (let tries = 0; tries < 12; tries++) {
      const kind = this.#random.weighted([
        weight('create', few ? 8 : manyDrives ? 0 : 1),
        weight('snapshot', manySnapshots ? 0 : 10),
        weight('revert', 4),
        weight('clone', manyDrives ? 0 : 2),
        weight('delete-snapshot', manySnapshots ? 12 : 4),
        weight('delete-part', 0.7),
        weight('delete-drive', few ? 0 : manyDrives ? 4 : 0.7),
        weight('resize', 0.8),
        weight('flatten', 0.8),
        weight('export', 3),
        weight('unexport', 0.9),
      ]);
      const plan = kind === undefined ? undefined : this.#make(kind);
      if (plan === undefined) continue;
      const locks = this.#locksOf(plan);
      if (!locks.every((lock) => this.#isFree(lock))) continue;
      for (const lock of locks) this.#take(lock);
      this.#held.set(plan, locks);
      return plan;
    }
    return undefined;
  }

  done(plan: Plan): void {
    for (const [name, exclusive] of this.#held.get(plan) ?? []) {
      if (exclusive) this.#exclusive.delete(name);
      else this.#shared.set(name, (this.#shared.get(name) ?? 1) - 1);
    }
    this.#held.delete(plan);
  }

  #make(kind: PlanKind): Plan | undefined {
    const random = this.#random;
    switch (kind) {
      case 'create':
        return { kind, drive: this.#name('d'), blocks: random.between(2, this.#bounds.blocks / 64) * 64 };
      case 'snapshot':
        return this.#snapshot();
      case 'revert':
        return this.#revert();
      case 'clone': {
        const [snapshot, part] = this.#anyPart();
        const size = snapshot?.parts.get(part)?.content.blocks ?? 0;
        if (snapshot === undefined || size === 0) return undefined;
        const blocks = random.chance(0.3) ? Math.min(this.#bounds.blocks, size + 64) : size;
        return { kind, snapshot: snapshot.name, part, drive: this.#name('c'), blocks: Math.max(size, blocks) };
      }
      case 'delete-snapshot': {
        const snapshot = random.pick(this.#knownSnapshots());
        return snapshot === undefined ? undefined : { kind, snapshot: snapshot.name };
      }
      case 'delete-part': {
        const several = this.#knownSnapshots().filter((item) => presentParts(item).length > 1);
        const snapshot = random.pick(several);
        const part = snapshot === undefined ? undefined : random.pick(presentParts(snapshot));
        return snapshot === undefined || part === undefined ? undefined : { kind, snapshot: snapshot.name, part };
      }
      case 'delete-drive': {
        const drive = random.pick(this.#knownDrives().filter((item) => !item.exported));
        if (drive === undefined) return undefined;
        return { kind, drive: drive.name, snapshots: random.chance(0.5) ? 'keep' : 'delete' };
      }
      case 'resize': {
        const drive = random.pick(this.#knownDrives().filter((item) => item.live.blocks < this.#bounds.blocks));
        if (drive === undefined) return undefined;
        const blocks = Math.min(this.#bounds.blocks, drive.live.blocks + random.between(1, 4) * 32);
        return { kind, drive: drive.name, blocks };
      }
      case 'flatten': {
        const drive = random.pick(this.#knownDrives());
        return drive === undefined ? undefined : { kind, drive: drive.name };
      }
      case 'export': {
        const drives = this.#knownDrives();
        if (drives.filter((item) => item.exported).length >= this.#bounds.exports) return undefined;
        const drive = random.pick(drives.filter((item) => !item.exported));
        return drive === undefined ? undefined : { kind, drive: drive.name };
      }
      case 'unexport': {
        const drive = random.pick(this.#knownDrives().filter((item) => item.exported));
        return drive === undefined ? undefined : { kind, drive: drive.name };
      }
    }
  }

  /** Half of all snapshots are of one drive, so that its history grows long. */
  #snapshot(): Plan | undefined {
    const drives = this.#knownDrives();
    const [favourite] = drives;
    if (favourite === undefined) return undefined;
    const first = this.#random.chance(0.5) ? favourite : (this.#random.pick(drives) ?? favourite);
    const names = new Set([first.name]);
    while (this.#random.chance(0.3)) names.add(this.#random.pick(drives)?.name ?? first.name);
    return { kind: 'snapshot', snapshot: this.#name('s'), drives: [...names] };
  }

  #revert(): Plan | undefined {
    const alive = (snapshot: SnapshotModel): string[] =>
      presentParts(snapshot).filter((drive) => this.#oracle.drives.has(drive));
    const snapshot = this.#random.pick(this.#knownSnapshots().filter((item) => alive(item).length > 0));
    if (snapshot === undefined) return undefined;
    const drives = alive(snapshot);
    const whole = drives.length === snapshot.parts.size && this.#random.chance(0.6);
    const one = this.#random.pick(drives);
    if (one === undefined) return undefined;
    const keep = this.#oracle.snapshots.size < this.#bounds.snapshots && this.#random.chance(0.5);
    const safety = keep ? this.#name('y') : null;
    return { kind: 'revert', snapshot: snapshot.name, drives: whole ? drives : [one], whole, safety };
  }

  #anyPart(): [SnapshotModel | undefined, string] {
    const snapshot = this.#random.pick(this.#knownSnapshots());
    return [snapshot, snapshot === undefined ? '' : (this.#random.pick(presentParts(snapshot)) ?? '')];
  }

  #knownDrives(): DriveModel[] {
    return [...this.#oracle.drives.values()].filter((drive) => this.#names.drives.has(drive.name));
  }

  #knownSnapshots(): SnapshotModel[] {
    return [...this.#oracle.snapshots.values()].filter((snapshot) => this.#names.snapshots.has(snapshot.name));
  }

  #name(prefix: string): string {
    return `${prefix}${++this.#counter}`;
  }

  #locksOf(plan: Plan): Lock[] {
    const drive = (name: string, exclusive: boolean): Lock => [`drive:${name}`, exclusive];
    const line = (name: string): Lock => [`line:${name}`, true];
    switch (plan.kind) {
      case 'create':
        return [];
      case 'snapshot':
        return plan.drives.flatMap((name) => [line(name), drive(name, false)]);
      case 'revert':
        return [
          ...plan.drives.flatMap((name) => [line(name), drive(name, false)]),
          [`snapshot:${plan.snapshot}`, false],
        ];
      case 'clone':
        return [[`snapshot:${plan.snapshot}`, false]];
      case 'delete-snapshot':
      case 'delete-part':
        return [[`snapshot:${plan.snapshot}`, true]];
      case 'delete-drive': {
        const gone = plan.snapshots === 'delete' ? this.#oracle.snapshotsOf(plan.drive) : [];
        return [
          line(plan.drive),
          drive(plan.drive, true),
          ...gone.map((snapshot): Lock => [`snapshot:${snapshot.name}`, true]),
        ];
      }
      case 'flatten':
        return [drive(plan.drive, false)];
      case 'resize':
      case 'export':
      case 'unexport':
        return [line(plan.drive), drive(plan.drive, false)];
    }
  }

  #isFree([name, exclusive]: Lock): boolean {
    if (this.#exclusive.has(name)) return false;
    return !exclusive || (this.#shared.get(name) ?? 0) === 0;
  }

  #take([name, exclusive]: Lock): void {
    if (exclusive) this.#exclusive.add(name);
    else this.#shared.set(name, (this.#shared.get(name) ?? 0) + 1);
  }
}

function presentParts(snapshot: SnapshotModel): string[] {
  return [...snapshot.parts].filter(([, part]) => part.present).map(([drive]) => drive);
}
