/**
 * Revert: an empty overlay on the point's file becomes the drive's top. For an exported drive it is a pivot followed, in
 * the same write to the daemon, by an exchange of the overlay's backing, so that clients stay connected. The old top
 * becomes a point of its own or goes.
 *
 * Crash: for exported drives the intent is durable first and always rolled forward, with the safety points it promised.
 */
import type { CommitHook, Tx } from '../../catalog/catalog.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import { type Context, markDead, removeDead } from './context.ts';
import { adoptTop, dropSpare, prepareSpare } from './pivot.ts';
import {
  chainOf,
  childrenOf,
  deleteIntent,
  findHead,
  getFile,
  getHead,
  getPoint,
  insertFile,
  insertIntent,
  insertLayer,
  type RevertPlan,
  updateFiles,
} from './records.ts';

export interface RevertTarget {
  driveId: DriveId;
  driveSnapshotId: DriveSnapshotId;
  keepAs: DriveSnapshotId | null;
}

/** Caller holds the drives' locks and `links`. */
export async function revertDrives(
  ctx: Context,
  operationId: string,
  targets: readonly RevertTarget[],
  commit: CommitHook,
): Promise<void> {
  const heads = await Promise.all(targets.map((target) => getHead(ctx.catalog.db, target.driveId)));
  if (heads.every((head) => head.last_operation === operationId)) {
    await ctx.catalog.write(commit);
    return;
  }
  const plan: RevertPlan = { operationId, targets: [] };
  const rows: { id: number; sizeBytes: number; backing: number }[] = [];
  const intent = await ctx.catalog.write(async (tx) => {
    for (const target of targets) {
      const head = await getHead(tx, target.driveId);
      const point = await getPoint(tx, target.driveSnapshotId);
      const top = await getFile(tx, head.file_id);
      const overlay = await insertFile(tx, {
        driveId: target.driveId,
        backingId: point.file_id,
        sizeBytes: top.size_bytes,
        state: 'planned',
      });
      rows.push({ id: overlay.id, sizeBytes: top.size_bytes, backing: point.file_id });
      plan.targets.push({
        driveId: target.driveId,
        pointId: target.driveSnapshotId,
        keepAs: target.keepAs,
        top: head.file_id,
        overlay: overlay.id,
      });
    }
    return insertIntent(tx, { kind: 'revert', plan });
  });
  ctx.step('revert.intended');
  try {
    for (const row of rows) await ctx.store.createOverlay(row.id, row.sizeBytes, row.backing);
  } catch (error) {
    await ctx.catalog.write((tx) => deleteIntent(tx, intent));
    await removeDead(
      ctx,
      rows.map((row) => row.id),
    );
    throw error;
  }
  ctx.step('revert.created');
  await finishRevert(ctx, intent, plan, commit);
}

/** Carries a recorded revert out; also how recovery ends one. Overlays exist. */
export async function finishRevert(ctx: Context, intent: number, plan: RevertPlan, commit: CommitHook): Promise<void> {
  const graph = ctx.graph();
  const live = plan.targets.filter((target) => graph.alive && graph.rootNamed(`drive:${target.driveId}`) !== undefined);
  const pivots: { top: number; overlay: number; backing: number }[] = [];
  for (const target of live) {
    const point = await getPoint(ctx.catalog.db, target.pointId);
    await graph.open(`revert:${target.driveId}`, await chainOf(ctx.catalog.db, point.file_id), { writable: false });
    if (graph.rootNamed(`drive:${target.driveId}`) === target.top) {
      await graph.openSpare(`spare:${target.driveId}`, target.overlay);
      pivots.push({ top: target.top, overlay: target.overlay, backing: point.file_id });
    } else if (graph.backingOf(target.overlay) !== point.file_id) {
      await graph.relink(target.overlay, point.file_id);
    }
  }
  ctx.step('revert.before');
  if (pivots.length > 0) await graph.pivotOnto(pivots);
  ctx.step('revert.done');
  for (const target of live) graph.setRoot(`drive:${target.driveId}`, target.overlay);
  const dead = await ctx.catalog.write(async (tx) => {
    const unneeded: number[] = [];
    for (const target of plan.targets) unneeded.push(...(await recordRevert(tx, plan.operationId, target)));
    await deleteIntent(tx, intent);
    await commit(tx);
    return unneeded;
  });
  ctx.step('revert.committed');
  if (graph.alive) await graph.release(...live.map((target) => `revert:${target.driveId}`));
  await removeDead(
    ctx,
    dead.filter((id) => !graph.isOpen(id)),
  );
  for (const target of live) ctx.background(() => prepareSpare(ctx, target.driveId));
}

async function recordRevert(tx: Tx, operationId: string, target: RevertPlan['targets'][number]): Promise<number[]> {
  const head = await getHead(tx, target.driveId);
  const point = await getPoint(tx, target.pointId);
  const unneeded: number[] = head.spare_id === null || head.spare_id === target.overlay ? [] : [head.spare_id];
  await updateFiles(tx, [target.top], { state: 'frozen' });
  await tx.updateTable('qcow2_layers').set({ file_id: target.top }).where('id', '=', head.layer_id).execute();
  if (target.keepAs !== null) {
    await tx
      .insertInto('qcow2_points')
      .values({
        drive_snapshot_id: target.keepAs,
        drive_id: target.driveId,
        file_id: target.top,
        layer_id: head.layer_id,
      })
      .execute();
  } else if ((await childrenOf(tx, target.top)).length === 0) unneeded.push(target.top);
  await updateFiles(tx, [target.overlay], { state: 'active', backing_id: point.file_id });
  const layer = await insertLayer(tx, target.driveId, point.layer_id);
  await tx
    .updateTable('qcow2_drives')
    .set({ file_id: target.overlay, layer_id: layer, spare_id: null, last_operation: operationId })
    .where('drive_id', '=', target.driveId)
    .execute();
  if (target.keepAs === null) await tx.deleteFrom('qcow2_layers').where('id', '=', head.layer_id).execute();
  await markDead(tx, unneeded);
  return unneeded;
}

/** Before a revert: a pivot that was never recorded is, and the spare, which fits the old top only, goes. */
export async function settleTop(ctx: Context, driveId: DriveId): Promise<void> {
  const head = await findHead(ctx.catalog.db, driveId);
  if (head === undefined) return;
  const open = ctx.graph().alive ? ctx.graph().rootNamed(`drive:${driveId}`) : undefined;
  if (open !== undefined && open !== head.file_id) await adoptTop(ctx, head, open);
  await dropSpare(ctx, await getHead(ctx.catalog.db, driveId));
}
