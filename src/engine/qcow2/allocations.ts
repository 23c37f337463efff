/**
 * Where files hold data, read from qcow2 metadata for files at rest and asked over NBD for a top that is being written.
 * Answers for frozen files are kept, since only merges change those, and merges say so.
 */
import type { Extents } from '../../core/extents.ts';
import { normalizeExtents, subtractExtents, unionExtents } from '../../core/extents.ts';
import type { DriveId } from '../../core/ids.ts';
import { mapRawFile } from '../../qemu/image-tools.ts';
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
  /** Counts what was forgotten: an answer read across that moment may be of the file as it was half way, and is not kept. */
  #forgotten = 0;

  constructor(ctx: Context) {
    this.#ctx = ctx;
  }

  forget(fileId: number): void {
    this.#forgotten++;
    this.#kept.delete(fileId);
  }

  /** A file that nobody writes. */
  async frozen(fileId: number): Promise<Allocation> {
    const known = this.#kept.get(fileId);
    if (known !== undefined) return known;
    const before = this.#forgotten;
    const found = await this.#read(fileId);
    if (before !== this.#forgotten) return found;
    if (this.#kept.size >= keptAllocations) this.#kept.clear();
    this.#kept.set(fileId, found);
    return found;
  }

  /**
   * A drive's top, exact at some instant between call and answer. A top that froze meanwhile is answered as it froze: QEMU
   * flushes it then, so that its file says all.
   */
  async top(driveId: DriveId, fileId: number): Promise<Allocation> {
    const graph = this.#ctx.graph();
    const exportName = `map-${driveId}-${this.#asked++}`;
    const found = await graph.whileOpen(fileId, async () => {
      await graph.addExport(exportName, exportName, fileId, false);
      try {
        return await this.#ask(exportName, graph.daemon.nbdSocketPath);
      } finally {
        await graph.removeExport(exportName);
      }
    });
    // A pivot meanwhile has moved our export onto the overlay, like every other.
    await graph.shapeIsKnown();
    return found !== undefined && graph.isOpenWritable(fileId) ? found : this.#read(fileId);
  }

  async #ask(exportName: string, socket: string): Promise<Allocation> {
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
    const path = this.#ctx.store.pathOf(fileId);
    if (this.#ctx.store.formatOf(fileId) === 'raw') {
      const data = await mapRawFile(path);
      return { data, all: data };
    }
    const found = await readAllocation(path);
    return { data: found.data, all: unionExtents(found.data, found.zero) };
  }
}
