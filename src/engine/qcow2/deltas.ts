/**
 * History: which bytes changed between points in time. Every layer row is an interval of a drive's history; its delta is
 * the allocation of the file that was the top meanwhile, plus what it took over from removed intervals. Deltas are
 * recorded before a merge or skip layer touches the file, so they stay exact whatever happens to files later.
 */
import type { Db, Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import {
  decodeExtents,
  type Extents,
  encodeExtents,
  normalizeExtents,
  sumExtents,
  unionExtents,
} from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import { Mutex } from '../../core/mutex.ts';
import type { Allocations } from './allocations.ts';
import type { Context } from './context.ts';
import { MovedError, whileFilesMove } from './moving-files.ts';
import { findHead, getHead, getPoint, type HeadRow, type LayerRow, lineageOf } from './records.ts';

const keptDeltas = 20_000;

/** A drive's present layer, or the layer that ends in a point. */
export type Place = { drive: DriveId } | { point: DriveSnapshotId };

export class Deltas {
  readonly #ctx: Context;
  readonly #allocations: Allocations;
  readonly #decoded = new Map<number, { blob: Uint8Array; extents: Extents }>();
  readonly #folding = new Mutex();

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

  /** What others recorded or passed on meanwhile stands: the row is read again where it is written. */
  async #recordRow(row: LayerRow): Promise<Extents> {
    const own = row.file_id === null ? [] : (await this.#allocations.frozen(row.file_id)).all;
    return this.#ctx.catalog.write(async (tx) => {
      const now = (await findLayer(tx, row.id)) ?? row;
      if (now.delta !== null) return decodeExtents(now.delta);
      const extents = unionExtents(carriedBy(now), own);
      await tx
        .updateTable('qcow2_layers')
        .set({ delta: encodeExtents(extents), carried: null, file_id: null })
        .where('id', '=', row.id)
        .execute();
      return extents;
    });
  }

  async #deltaOf(row: LayerRow): Promise<Extents> {
    if (row.delta === null) return this.#recordRow(row);
    const known = this.#decoded.get(row.id);
    if (known !== undefined && Buffer.compare(known.blob, row.delta) === 0) return known.extents;
    const extents = decodeExtents(row.delta);
    if (this.#decoded.size > keptDeltas) this.#decoded.clear();
    this.#decoded.set(row.id, { blob: row.delta, extents });
    return extents;
  }

  /** What the drive's present layer holds by now: taken over, and written. */
  async #live(head: HeadRow, row: LayerRow): Promise<Extents> {
    const own = await this.#allocations.top(head.drive_id, head.file_id);
    return unionExtents(carriedBy(row), own.all);
  }

  /** Union of everything that changed on the way from one place in history to another; `from` null: since the beginning. */
  between(from: DriveSnapshotId | null, to: Place): Promise<Extents> {
    return whileFilesMove(async () => {
      const toLine = await this.#lineage(to);
      const fromLine = from === null ? { head: null, rows: [] } : await this.#lineage({ point: from });
      const common = new Set(fromLine.rows.map((row) => row.id));
      const meet = toLine.rows.find((row) => common.has(row.id))?.id;
      if (from !== null && meet === undefined) {
        throw new CalotypeError('snapshot_of_other_drive', 'The two points have no history in common.');
      }
      const lists: Extents[] = [];
      for (const line of [toLine, fromLine]) {
        for (const [at, row] of line.rows.entries()) {
          if (row.id === meet) break;
          lists.push(line.head !== null && at === 0 ? await this.#live(line.head, row) : await this.#deltaOf(row));
        }
      }
      return normalizeExtents(lists.flat());
    });
  }

  /**
   * For each point the bytes changed between it and the drive's present state. Points in the present state's own past are
   * answered together by one sweep: each byte counts for the newest interval that changed it.
   */
  changedSince(driveId: DriveId, points: readonly DriveSnapshotId[]): Promise<number[]> {
    return whileFilesMove(async () => {
      if ((await findHead(this.#ctx.catalog.db, driveId)) === undefined) return points.map(() => 0);
      const line = await this.#lineage({ drive: driveId });
      const position = new Map(line.rows.map((row, at) => [row.id, at]));
      const layers = new Map<DriveSnapshotId, number>();
      for (const point of points) layers.set(point, (await getPoint(this.#ctx.catalog.db, point)).layer_id);
      let deepest = 0;
      for (const layer of layers.values()) deepest = Math.max(deepest, position.get(layer) ?? 0);
      const lists: Extents[] = [];
      for (const [at, row] of line.rows.slice(0, deepest).entries()) {
        lists.push(line.head !== null && at === 0 ? await this.#live(line.head, row) : await this.#deltaOf(row));
      }
      const sums: number[] = [0];
      for (const bytes of bytesByNewest(lists)) sums.push((sums.at(-1) ?? 0) + bytes);
      const answers: number[] = [];
      for (const point of points) {
        const at = position.get(layers.get(point) ?? -1);
        answers.push(at === undefined ? sumExtents(await this.between(point, { drive: driveId })) : (sums[at] ?? 0));
      }
      return answers;
    });
  }

  /** Newest first; for a drive with the head that the first interval is still growing under. */
  async #lineage(place: Place): Promise<{ head: HeadRow | null; rows: LayerRow[] }> {
    const db = this.#ctx.catalog.db;
    if ('point' in place) return { head: null, rows: await lineageOf(db, (await getPoint(db, place.point)).layer_id) };
    const head = await getHead(db, place.drive);
    const rows = await lineageOf(db, head.layer_id);
    if (rows.length === 0) throw new MovedError();
    return { head, rows };
  }

  /**
   * Removes intervals that end in no point any more: their delta passes to the one interval that follows, or goes if none
   * does. An interval that several follow stays.
   */
  foldUnnamed(driveIds: readonly DriveId[]): Promise<void> {
    return this.#folding.run(async () => {
      for (;;) {
        const row = await nextUnnamed(this.#ctx.catalog.db, driveIds);
        if (row === undefined) return;
        const [child] = await layersOn(this.#ctx.catalog.db, row.id);
        const passed = child === undefined ? [] : await this.#deltaOf(row);
        await this.#ctx.catalog.write((tx) => fold(tx, row.id, passed));
      }
    });
  }
}

function carriedBy(row: LayerRow): Extents {
  return row.carried === null ? [] : decodeExtents(row.carried);
}

async function findLayer(db: Db, id: number): Promise<LayerRow | undefined> {
  return db.selectFrom('qcow2_layers').selectAll().where('id', '=', id).executeTakeFirst();
}

async function layersOn(db: Db, id: number): Promise<LayerRow[]> {
  return db.selectFrom('qcow2_layers').selectAll().where('parent_id', '=', id).execute();
}

/** An interval of these drives that is no drive's present one, ends in no point, and has at most one that follows. */
async function nextUnnamed(db: Db, driveIds: readonly DriveId[]): Promise<LayerRow | undefined> {
  return db
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

async function fold(tx: Tx, id: number, passed: Extents): Promise<void> {
  const row = await findLayer(tx, id);
  const [child, another] = await layersOn(tx, id);
  if (row === undefined || another !== undefined) return;
  if (child !== undefined) await takeOver(tx, child, row, passed);
  await tx.deleteFrom('qcow2_layers').where('id', '=', id).execute();
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
