/**
 * History: which bytes changed between points in time. Every layer row is an interval of a drive's history; its delta is
 * the allocation of the file that was the top meanwhile, plus what it took over from removed intervals. Deltas are
 * recorded before a merge or skip layer touches the file, so they stay exact whatever happens to files later.
 */
import type { Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import { decodeExtents, encodeExtents, type Extents, normalizeExtents, sumExtents, unionExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { Allocations } from './allocations.ts';
import type { Context } from './context.ts';
import { findHead, getHead, getPoint, type LayerRow, lineageOf } from './records.ts';

/** A drive's present layer, or the layer that ends in a point. */
export type Place = { drive: DriveId } | { point: DriveSnapshotId };

export class Deltas {
  readonly #ctx: Context;
  readonly #allocations: Allocations;
  readonly #decoded = new Map<number, { blob: Uint8Array; extents: Extents }>();

  constructor(ctx: Context, allocations: Allocations) {
    this.#ctx = ctx;
    this.#allocations = allocations;
  }

  /** Records the deltas that still rest on these files. Must run before their content or existence changes. */
  async record(fileIds: readonly number[]): Promise<void> {
    if (fileIds.length === 0) return;
    const rows = await this.#ctx.catalog.db
      .selectFrom('qcow2_layers')
      .selectAll()
      .where('file_id', 'in', fileIds)
      .where('delta', 'is', null)
      .execute();
    for (const row of rows) await this.#recordRow(row);
  }

  async #recordRow(row: LayerRow): Promise<Uint8Array> {
    const extents = await this.#unrecorded(row);
    const delta = encodeExtents(extents);
    await this.#ctx.catalog.write(async (tx) => {
      await tx.updateTable('qcow2_layers').set({ delta, carried: null, file_id: null }).where('id', '=', row.id).execute();
    });
    return delta;
  }

  async #unrecorded(row: LayerRow): Promise<Extents> {
    const carried = row.carried === null ? [] : decodeExtents(row.carried);
    if (row.file_id === null) return carried;
    const own = await this.#allocations.frozen(row.file_id);
    return unionExtents(carried, own.all);
  }

  async #deltaOf(row: LayerRow): Promise<Extents> {
    const known = this.#decoded.get(row.id);
    if (known !== undefined && row.delta !== null && Buffer.compare(known.blob, row.delta) === 0) return known.extents;
    const blob = row.delta ?? (await this.#recordRow(row));
    const extents = decodeExtents(blob);
    if (this.#decoded.size > 20_000) this.#decoded.clear();
    this.#decoded.set(row.id, { blob, extents });
    return extents;
  }

  /** What the drive's present layer holds by now: taken over, and written. */
  async #live(driveId: DriveId, row: LayerRow): Promise<Extents> {
    const head = await getHead(this.#ctx.catalog.db, driveId);
    const own = await this.#allocations.top(driveId, head.file_id);
    return unionExtents(row.carried === null ? [] : decodeExtents(row.carried), own.all);
  }

  /** Union of everything that changed on the way from one place in history to another; `from` null: since the beginning. */
  async between(from: DriveSnapshotId | null, to: Place): Promise<Extents> {
    const toLine = await this.#lineage(to);
    let extents: Extents = [];
    const add = async (row: LayerRow): Promise<void> => {
      const isLive = 'drive' in to && row === toLine[0];
      extents = unionExtents(extents, isLive ? await this.#live(to.drive, row) : await this.#deltaOf(row));
    };
    const fromLine = from === null ? [] : await this.#lineage({ point: from });
    const common = new Set(fromLine.map((row) => row.id));
    const meet = toLine.find((row) => common.has(row.id))?.id;
    if (from !== null && meet === undefined) {
      throw new CalotypeError('snapshot_of_other_drive', 'The two points have no history in common.');
    }
    for (const row of toLine) {
      if (row.id === meet) break;
      await add(row);
    }
    for (const row of fromLine) {
      if (row.id === meet) break;
      extents = unionExtents(extents, await this.#deltaOf(row));
    }
    return extents;
  }

  /**
   * For each point the bytes changed between it and the drive's present state. Points in the present state's own past are
   * answered together by one sweep: each byte counts for the newest interval that changed it.
   */
  async changedSince(driveId: DriveId, points: readonly DriveSnapshotId[]): Promise<number[]> {
    const head = await findHead(this.#ctx.catalog.db, driveId);
    if (head === undefined) return points.map(() => 0);
    const line = await this.#lineage({ drive: driveId });
    const position = new Map(line.map((row, at) => [row.id, at]));
    const layers = new Map<DriveSnapshotId, number>();
    for (const point of points) layers.set(point, (await getPoint(this.#ctx.catalog.db, point)).layer_id);
    let deepest = 0;
    for (const layer of layers.values()) deepest = Math.max(deepest, position.get(layer) ?? 0);
    const lists: Extents[] = [];
    for (const [at, row] of line.slice(0, deepest).entries()) {
      lists.push(at === 0 ? await this.#live(driveId, row) : await this.#deltaOf(row));
    }
    const newest = bytesByNewest(lists);
    const sums: number[] = [0];
    for (const bytes of newest) sums.push((sums.at(-1) ?? 0) + bytes);
    const answers: number[] = [];
    for (const point of points) {
      const at = position.get(layers.get(point) ?? -1);
      answers.push(at === undefined ? sumExtents(await this.between(point, { drive: driveId })) : (sums[at] ?? 0));
    }
    return answers;
  }

  async #lineage(place: Place): Promise<LayerRow[]> {
    const db = this.#ctx.catalog.db;
    const layer = 'drive' in place ? (await getHead(db, place.drive)).layer_id : (await getPoint(db, place.point)).layer_id;
    return lineageOf(db, layer);
  }

  /**
   * Removes intervals that end in no point any more: their delta passes to the one interval that follows, or goes if none
   * does. An interval that several follow stays.
   */
  async foldUnnamed(driveIds: readonly DriveId[]): Promise<void> {
    for (;;) {
      const row = await this.#nextUnnamed(driveIds);
      if (row === undefined) return;
      const children = await this.#ctx.catalog.db
        .selectFrom('qcow2_layers')
        .selectAll()
        .where('parent_id', '=', row.id)
        .execute();
      const [child] = children;
      const passed = child === undefined ? [] : await this.#deltaOf(row);
      await this.#ctx.catalog.write(async (tx) => {
        if (child !== undefined) await takeOver(tx, child, row, passed);
        await tx.deleteFrom('qcow2_layers').where('id', '=', row.id).execute();
      });
    }
  }

  async #nextUnnamed(driveIds: readonly DriveId[]): Promise<LayerRow | undefined> {
    return this.#ctx.catalog.db
      .selectFrom('qcow2_layers as l')
      .selectAll('l')
      .where('l.drive_id', 'in', driveIds)
      .where(({ not, exists, selectFrom }) =>
        not(exists(selectFrom('qcow2_points as p').select('p.layer_id').whereRef('p.layer_id', '=', 'l.id'))),
      )
      .where(({ not, exists, selectFrom }) =>
        not(exists(selectFrom('qcow2_drives as d').select('d.layer_id').whereRef('d.layer_id', '=', 'l.id'))),
      )
      .where(({ selectFrom, fn }) =>
        selectFrom('qcow2_layers as c')
          .select(({ eb }) => eb(fn.countAll<number>(), '<', 2).as('few'))
          .whereRef('c.parent_id', '=', 'l.id')
          .$asScalar(),
      )
      .limit(1)
      .executeTakeFirst();
  }
}

async function takeOver(tx: Tx, child: LayerRow, row: LayerRow, passed: Extents): Promise<void> {
  const into = child.delta === null ? 'carried' : 'delta';
  const mine = child[into] === null ? [] : decodeExtents(child[into]);
  await tx
    .updateTable('qcow2_layers')
    .set({ [into]: encodeExtents(unionExtents(mine, passed)), parent_id: row.parent_id })
    .where('id', '=', child.id)
    .execute();
}

/** For lists ordered newest first: how many bytes each is the newest to cover. */
export function bytesByNewest(lists: readonly Extents[]): number[] {
  const edges: { at: number; list: number; opens: boolean }[] = [];
  for (const [list, extents] of lists.entries()) {
    for (const extent of normalizeExtents(extents)) {
      edges.push({ at: extent.start, list, opens: true }, { at: extent.start + extent.length, list, opens: false });
    }
  }
  edges.sort((a, b) => a.at - b.at);
  const bytes = lists.map(() => 0);
  const open = new Set<number>();
  const heap = new MinHeap();
  let last = 0;
  for (const edge of edges) {
    let newest = heap.peek();
    while (newest !== undefined && !open.has(newest)) {
      heap.pop();
      newest = heap.peek();
    }
    if (newest !== undefined && edge.at > last) bytes[newest] = (bytes[newest] ?? 0) + edge.at - last;
    last = edge.at;
    if (edge.opens) {
      open.add(edge.list);
      heap.push(edge.list);
    } else open.delete(edge.list);
  }
  return bytes;
}

class MinHeap {
  readonly #items: number[] = [];

  peek(): number | undefined {
    return this.#items[0];
  }

  push(value: number): void {
    const items = this.#items;
    let at = items.push(value) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent] ?? 0;
      if (above <= value) break;
      items[at] = above;
      at = parent;
    }
    items[at] = value;
  }

  pop(): void {
    const items = this.#items;
    const moved = items.pop();
    if (moved === undefined || items.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if ((items[child + 1] ?? Number.POSITIVE_INFINITY) < (items[child] ?? 0)) child++;
      const below = items[child] ?? 0;
      if (below >= moved) break;
      items[at] = below;
      at = child;
    }
    items[at] = moved;
  }
}
