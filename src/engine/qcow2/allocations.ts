/**
 * Where files hold data, read from qcow2 metadata for files at rest and asked over NBD for a top that is being written.
 * Answers for frozen files are kept, since only merges change those, and merges say so.
 */
import type { Extents } from '../../core/extents.ts';
import { normalizeExtents, subtractExtents, unionExtents } from '../../core/extents.ts';
import type { DriveId } from '../../core/ids.ts';
import { allocationFlag, NbdClient } from '../../qemu/nbd-client.ts';
import { readAllocation } from '../../qemu/qcow2.ts';
import type { Context } from './context.ts';

export interface Allocation {
  /** Ranges with data of their own. */
  readonly data: Extents;
  /** Data, and ranges that were made to read as zeros. */
  readonly all: Extents;
}

const keptAllocations = 5000;

export class Allocations {
  readonly #ctx: Context;
  readonly #kept = new Map<number, Allocation>();
  #asked = 0;

  constructor(ctx: Context) {
    this.#ctx = ctx;
  }

  forget(fileId: number): void {
    this.#kept.delete(fileId);
  }

  /** A file that nobody writes. */
  async frozen(fileId: number): Promise<Allocation> {
    const known = this.#kept.get(fileId);
    if (known !== undefined) return known;
    const found = await this.#read(fileId);
    if (this.#kept.size >= keptAllocations) this.#kept.clear();
    this.#kept.set(fileId, found);
    return found;
  }

  /** A drive's top, exact at some instant between call and answer. */
  async top(driveId: DriveId, fileId: number): Promise<Allocation> {
    const graph = this.#ctx.graph();
    if (!graph.alive || graph.rootNamed(`drive:${driveId}`) !== fileId) return this.#read(fileId);
    const exportName = `map-${driveId}-${this.#asked++}`;
    await graph.addExport(exportName, exportName, fileId, false);
    try {
      return await this.#ask(exportName);
    } finally {
      await graph.removeExport(exportName);
    }
  }

  async #ask(exportName: string): Promise<Allocation> {
    const socket = this.#ctx.graph().daemon.nbdSocketPath;
    const client = await NbdClient.connect(
      { kind: 'unix', path: socket },
      { exportName, metaContexts: ['qemu:allocation-depth', 'base:allocation'] },
    );
    try {
      const depths = await client.blockStatus('qemu:allocation-depth', 0, client.sizeBytes);
      const own = normalizeExtents(depths.filter((range) => range.flags === 1));
      const kinds = await client.blockStatus('base:allocation', 0, client.sizeBytes);
      const zero = normalizeExtents(kinds.filter((range) => (range.flags & allocationFlag.zero) !== 0));
      return { data: subtractExtents(own, zero), all: own };
    } finally {
      await client.close();
    }
  }

  async #read(fileId: number): Promise<Allocation> {
    const found = await readAllocation(this.#ctx.store.pathOf(fileId));
    return { data: found.data, all: unionExtents(found.data, found.zero) };
  }
}
