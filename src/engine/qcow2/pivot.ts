/**
 * The pivot: a drive's top freezes and an empty overlay takes its place, at one instant for all drives named. Snapshots,
 * growth and the folding of a deleted layer into its neighbour are all this one step.
 *
 * Crash: the overlay is known to the catalog (planned or spare) before it exists as a file; until the last commit the
 * old top is the drive's state. If the server dies between pivot and commit, recovery finds the overlay above the old
 * top, in the daemon's graph or by the data in it, and adopts it. Nothing a client flushed is lost either way.
 */
import type { CommitHook, Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { Stillness } from '../engine.ts';
import { type Context, newFile, planOverlay, removeDead } from './context.ts';
import type { Graph } from './graph.ts';
import { depthOf, findFile, getFile, getHead, type HeadRow, insertPoint, replaceTop, updateFiles } from './records.ts';

/** Below this a read walks few enough layers to go on taking snapshots while compaction catches up. */
export const maxDepth = 24;

export interface PivotDrive {
  driveId: DriveId;
  /** Names the frozen state, if it becomes a point in time. */
  pointId?: DriveSnapshotId;
  /** The new size, when the drive grows. */
  sizeBytes?: number;
}

interface Prepared extends PivotDrive {
  head: HeadRow;
  overlay: number;
  sizeBytes: number;
}

/** Caller holds the drives' locks. `commit` runs in the transaction that records the new tops. */
export async function pivotDrives(
  ctx: Context,
  drives: readonly PivotDrive[],
  commit: CommitHook,
  stillness?: Stillness,
): Promise<void> {
  const prepared: Prepared[] = [];
  try {
    for (const drive of drives) prepared.push(await prepare(ctx, drive));
    const graph = graphOfAll(ctx, prepared);
    const open = prepared.filter((drive) => graph.rootNamed(`drive:${drive.driveId}`) === drive.head.file_id);
    for (const drive of prepared) {
      const top = drive.head.file_id;
      if (open.includes(drive)) {
        await graph.openSpare(`spare:${drive.driveId}`, drive.overlay, { readOnly: !graph.isOpenWritable(top) });
      } else await ctx.store.syncFile(top); // Whoever wrote it may have died before it was durable.
    }
    ctx.step('pivot.before');
    await instant(stillness, async () => {
      if (open.length === 0) return;
      await graph.pivot(open.map((drive) => ({ top: drive.head.file_id, overlay: drive.overlay })));
      for (const drive of open) graph.setRoot(`drive:${drive.driveId}`, drive.overlay);
    });
    ctx.step('pivot.done');
    await ctx.catalog.write(async (tx) => {
      for (const drive of prepared) await recordPivot(tx, drive.head, drive.overlay, drive.pointId);
      await commit(tx);
    });
    ctx.step('pivot.committed');
    for (const drive of open) ctx.background(() => prepareSpare(ctx, drive.driveId));
  } catch (error) {
    await undoPrepared(ctx, prepared);
    throw error;
  }
}

async function instant(stillness: Stillness | undefined, take: () => Promise<void>): Promise<void> {
  if (stillness === undefined) return take();
  let taken = false;
  try {
    await stillness.hold();
    await take();
    taken = true;
  } finally {
    await stillness.release(taken);
  }
}

/** One process must have them all, since only one can name an instant. @throws machine_off, not_supported */
function graphOfAll(ctx: Context, drives: readonly Prepared[]): Graph {
  const [first, ...others] = new Set(drives.map((drive) => ctx.graphOf(drive.head)));
  if (first === undefined || others.length > 0) {
    throw new CalotypeError('not_supported', 'Drives of an adopted machine are not taken together with others.');
  }
  return first;
}

/** After a failure: overlays that QEMU took on stay and are adopted; the others go. Without a daemon, recovery decides. */
async function undoPrepared(ctx: Context, prepared: readonly Prepared[]): Promise<void> {
  for (const { driveId, head, overlay } of prepared) {
    const graph = reachable(ctx, head);
    if (graph === undefined) continue;
    const pivoted = graph.rootNamed(`drive:${driveId}`) === overlay;
    try {
      if (pivoted) await adoptTop(ctx, head, overlay);
      else if (head.spare_id === overlay) await dropSpare(ctx, head);
      else {
        await graph.release(`spare:${driveId}`);
        await removeDead(ctx, [overlay]);
      }
    } catch (error) {
      ctx.distrust(error, graph);
    }
  }
}

/** Makes the catalog agree with a pivot that happened but was not recorded. */
export async function adoptTop(ctx: Context, head: HeadRow, overlay: number): Promise<void> {
  await ctx.catalog.write((tx) => recordPivot(tx, head, overlay, undefined));
}

/** Records that `overlay` is the drive's top and the old top is frozen, as a point if it has a name. */
export async function recordPivot(
  tx: Tx,
  head: HeadRow,
  overlay: number,
  pointId: DriveSnapshotId | undefined,
): Promise<void> {
  await replaceTop(tx, head, overlay);
  if (pointId === undefined) return;
  const { drive_id, file_id, layer_id } = head;
  await insertPoint(tx, { drive_snapshot_id: pointId, drive_id, file_id, layer_id });
}

/** Where the daemon stands on another top than the catalog, or neither is sure, recovery is to have another look. @throws engine_failed */
export function assertSettled(ctx: Context, head: HeadRow): void {
  const graph = ctx.graphOf(head);
  const open = graph.rootNamed(`drive:${head.drive_id}`);
  const isOwn = head.process_id === null;
  if (!ctx.stuck.has(head.drive_id) && ((isOwn && open === undefined) || open === head.file_id)) return;
  const error = new CalotypeError('engine_failed', `The state of drive ${head.drive_id} is not settled.`);
  ctx.distrust(error, graph);
  throw error;
}

async function prepare(ctx: Context, drive: PivotDrive): Promise<Prepared> {
  const head = await getHead(ctx.catalog.db, drive.driveId);
  assertSettled(ctx, head);
  if (head.spare_id !== null) {
    const spare = await findFile(ctx.catalog.db, head.spare_id);
    const fits = spare?.backing_id === head.file_id && (drive.sizeBytes ?? spare.size_bytes) === spare.size_bytes;
    if (spare !== undefined && fits) return { ...drive, head, overlay: spare.id, sizeBytes: spare.size_bytes };
    await dropSpare(ctx, head);
  }
  const top = await getFile(ctx.catalog.db, head.file_id);
  const sizeBytes = drive.sizeBytes ?? top.size_bytes;
  const row = await planOverlay(ctx, { driveId: drive.driveId, backingId: top.id, sizeBytes });
  return { ...drive, head, overlay: row.id, sizeBytes };
}

/** Makes and opens the next overlay of an exported drive ahead of time, so that its next snapshot is one command and one commit. */
export async function prepareSpare(ctx: Context, driveId: DriveId): Promise<void> {
  await ctx.driveLocks.run([driveId], async () => {
    const head = await getHead(ctx.catalog.db, driveId).catch(() => undefined);
    if (head === undefined || head.spare_id !== null || ctx.stuck.has(driveId)) return;
    const graph = reachable(ctx, head);
    if (graph === undefined) return;
    if (graph.rootNamed(`drive:${driveId}`) !== head.file_id || !graph.isOpenWritable(head.file_id)) return;
    const top = await getFile(ctx.catalog.db, head.file_id);
    const spare = await ctx.catalog.write(async (tx) => {
      const row = await newFile(ctx, tx, {
        driveId,
        backingId: top.id,
        sizeBytes: top.size_bytes,
        state: 'spare',
      });
      await tx.updateTable('qcow2_drives').set({ spare_id: row.id }).where('drive_id', '=', driveId).execute();
      return row;
    });
    try {
      ctx.step('spare.planned');
      await ctx.store.createOverlay(spare.id, spare.size_bytes, top.id);
      ctx.step('spare.created');
      await graph.openSpare(`spare:${driveId}`, spare.id);
    } catch (error) {
      if (graph.alive) await dropSpare(ctx, { ...head, spare_id: spare.id });
      throw error;
    }
  });
}

/** Takes a spare away that no longer fits. Caller holds the drive's lock. */
export async function dropSpare(ctx: Context, head: HeadRow): Promise<void> {
  const spare = head.spare_id;
  const graph = reachable(ctx, head);
  if (spare === null || graph?.rootNamed(`drive:${head.drive_id}`) === spare) return;
  await ctx.catalog.write(async (tx) => {
    await updateFiles(tx, [spare], { state: 'dead' });
    await tx.updateTable('qcow2_drives').set({ spare_id: null }).where('drive_id', '=', head.drive_id).execute();
  });
  await graph?.release(`spare:${head.drive_id}`);
  await removeDead(ctx, [spare]);
}

/** The graph that has a drive open, while it lives. */
export function reachable(ctx: Context, head: HeadRow): Graph | undefined {
  try {
    const graph = ctx.graphOf(head);
    return graph.alive ? graph : undefined;
  } catch {
    return undefined;
  }
}

export async function topDepth(ctx: Context, driveId: DriveId): Promise<number> {
  const head = await getHead(ctx.catalog.db, driveId);
  return depthOf(ctx.catalog.db, head.file_id);
}
