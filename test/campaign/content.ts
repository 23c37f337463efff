/**
 * What a point in time or a drive may hold, block by block. Where exactly one write can be visible it says which; where
 * several can (a write in flight at the instant, or not flushed when a process died) it lists them, oldest first.
 */
import { zero } from './blocks.ts';

/** One write of ours, as its client saw it. Instants are the oracle's sequence numbers. */
export interface WriteRecord {
  readonly write: number;
  readonly drive: string;
  readonly block: number;
  readonly count: number;
  readonly issuedAt: number;
  ackedAt: number | null;
}

export class Content {
  readonly values: Uint32Array;
  readonly loose: Map<number, readonly number[]>;

  constructor(values: Uint32Array, loose: ReadonlyMap<number, readonly number[]> = new Map()) {
    this.values = values;
    this.loose = new Map(loose);
  }

  get blocks(): number {
    return this.values.length;
  }

  /** Which writes may be visible there; zeros beyond the end. */
  possible(block: number): readonly number[] {
    return this.loose.get(block) ?? [this.values[block] ?? zero];
  }
}

/** The content of a drive over a time in which a point may be taken: it grows by every write issued meanwhile. */
export class Window extends Content {
  readonly openedAt: number;
  /** Its drive's daemon died meanwhile, so that even writes answered before may be missing. */
  crashed = false;

  constructor(openedAt: number, values: Uint32Array, loose: ReadonlyMap<number, readonly number[]>) {
    super(values, loose);
    this.openedAt = openedAt;
  }

  add(block: number, writes: readonly number[]): void {
    const known = this.possible(block);
    this.loose.set(block, [...known, ...writes.filter((write) => !known.includes(write))]);
  }
}

/** A block of a drive that was written since its content was last certain. */
interface Unsettled {
  /** Oldest first. */
  options: number[];
  /** So many of them are of an earlier life of the daemon, or of another layer: being answered proves nothing for them. */
  unsure: number;
}

/** The live content of a drive. Writes to one block never overlap in time, so their order is known. */
export class LiveContent {
  values: Uint32Array;
  readonly unsettled = new Map<number, Unsettled>();
  readonly windows = new Set<Window>();
  /** When its daemon last died. */
  crashedAt = -1;
  readonly #writes: ReadonlyMap<number, WriteRecord>;

  constructor(writes: ReadonlyMap<number, WriteRecord>, values: Uint32Array) {
    this.#writes = writes;
    this.values = values;
  }

  /** A drive that begins as a point. */
  static from(writes: ReadonlyMap<number, WriteRecord>, point: Content, blocks: number): LiveContent {
    const live = new LiveContent(writes, resized(point.values, blocks));
    for (const [block, options] of point.loose) {
      if (block < blocks) live.unsettled.set(block, { options: [...options], unsure: options.length });
    }
    return live;
  }

  get blocks(): number {
    return this.values.length;
  }

  grow(blocks: number): void {
    this.values = resized(this.values, blocks);
  }

  write(record: WriteRecord): void {
    for (let block = record.block; block < record.block + record.count; block++) {
      const known = this.unsettled.get(block);
      if (known === undefined) {
        this.unsettled.set(block, { options: [this.values[block] ?? zero, record.write], unsure: 0 });
      } else known.options.push(record.write);
      for (const window of this.windows) window.add(block, [record.write]);
    }
  }

  /** What a read may show now. */
  possible(block: number): readonly number[] {
    const entry = this.unsettled.get(block);
    if (entry === undefined) return [this.values[block] ?? zero];
    return entry.options.slice(this.#floor(entry, Number.POSITIVE_INFINITY, entry.unsure));
  }

  /** Writes answered before `before` are on disk. */
  flushed(before: number): void {
    const sinceCrash = before > this.crashedAt;
    for (const [block, entry] of this.unsettled) {
      const floor = this.#floor(entry, before, sinceCrash ? entry.unsure : 0);
      this.#dropOlder(block, entry, floor);
    }
  }

  /** One write is on disk, whatever else is. */
  settled(record: WriteRecord): void {
    for (let block = record.block; block < record.block + record.count; block++) {
      const entry = this.unsettled.get(block);
      const at = entry?.options.indexOf(record.write) ?? -1;
      if (entry !== undefined && at > 0) this.#dropOlder(block, entry, at);
    }
  }

  /** The daemon died at that instant: what was not flushed may be old or new. */
  crashed(at: number): void {
    this.crashedAt = Math.max(this.crashedAt, at);
    for (const window of this.windows) {
      window.crashed = true;
      for (const [block, entry] of this.unsettled) window.add(block, entry.options);
    }
    for (const entry of this.unsettled.values()) {
      const since = entry.options.findIndex((write) => (this.#writes.get(write)?.issuedAt ?? -1) > at);
      entry.unsure = Math.max(entry.unsure, since === -1 ? entry.options.length : since);
    }
  }

  /** The power failed: as `crashed`, and a block written since may also read as zeros, where the disk lost its data. */
  lostPower(at: number): void {
    for (const entry of this.unsettled.values()) {
      if (entry.options.length > 1 && !entry.options.includes(zero)) entry.options.unshift(zero);
    }
    this.crashed(at);
  }

  openWindow(at: number): Window {
    const loose = new Map<number, readonly number[]>();
    for (const block of this.unsettled.keys()) loose.set(block, this.possible(block));
    const window = new Window(at, this.values.slice(), loose);
    this.windows.add(window);
    return window;
  }

  /**
   * It went back to `target` at some instant of the window. Writes of the window may have come before or after; whatever
   * came after it is listed later and counts as before.
   */
  revertTo(target: Content, window: Window): void {
    this.windows.delete(window);
    const between = new Map<number, number[]>();
    for (const [block, options] of window.loose) {
      const straddling = options.filter((write) => {
        const record = this.#writes.get(write);
        if (record === undefined) return false;
        return record.ackedAt === null || record.ackedAt > window.openedAt;
      });
      if (straddling.length > 0) between.set(block, straddling);
    }
    this.values = resized(target.values, this.blocks);
    this.unsettled.clear();
    for (const block of new Set([...between.keys(), ...target.loose.keys()])) {
      if (block >= this.blocks) continue;
      const old = target.possible(block);
      const options = [...old, ...(between.get(block) ?? []).filter((write) => !old.includes(write))];
      const [only] = options;
      if (options.length > 1) this.unsettled.set(block, { options, unsure: options.length });
      else if (only !== undefined) this.values[block] = only;
    }
  }

  /** It was read: from now on this is what the block holds. */
  observe(block: number, write: number): void {
    this.unsettled.delete(block);
    this.values[block] = write;
  }

  /** The newest option that is sure to be there. */
  #floor(entry: Unsettled, before: number, from: number): number {
    for (let at = entry.options.length - 1; at >= from; at--) {
      const ackedAt = this.#writes.get(entry.options[at] ?? zero)?.ackedAt ?? null;
      if (ackedAt !== null && ackedAt < before) return at;
    }
    return 0;
  }

  #dropOlder(block: number, entry: Unsettled, floor: number): void {
    entry.options.splice(0, floor);
    entry.unsure = Math.max(0, entry.unsure - floor);
    const [only] = entry.options;
    if (only === undefined || entry.options.length > 1) return;
    this.unsettled.delete(block);
    this.values[block] = only;
  }
}

function resized(values: Uint32Array, blocks: number): Uint32Array {
  const out = new Uint32Array(blocks);
  out.set(values.subarray(0, blocks));
  return out;
}
