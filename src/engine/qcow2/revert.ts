/**
 * Revert: an empty overlay on the point's file becomes the drive's top. For an exported drive it is a pivot followed, in
 * the same write to the daemon, by an exchange of the overlay's backing, so that clients stay connected; the spare that
 * waits for the next snapshot serves as the overlay, and its header follows behind. The old top becomes a point of its own or goes.
 *
 * Crash: where a daemon has a part in it the intent is durable first, and is always rolled forward, with the safety
 * points it promised. A revert of closed drives is one commit. A failure puts the daemon back before it is reported.
 */
import type { CommitHook, Tx } from '../../catalog/catalog.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import { abandon, type Context, discard, markDead, newFile } from './context.ts';
import { assertSettled, prepareSpare, recordPivot } from './pivot.ts';
import {
  activateFile,
  chainOf,
  childrenOf,
  deleteIntent,
  findFile,
  freezeFile,
  getFile,
  getHead,
  getPoint,
  type HeadRow,
  insertIntent,
  insertLayer,
  insertPoint,
  listIntents,
  nameLayerFile,
  type RevertPlan,
  replaceIntent,
  updateFiles,
} from './records.ts';
import { relinkOne } from './relink.ts';

export interface RevertTarget {
  driveId: DriveId;
  driveSnapshotId: DriveSnapshotId;
  keepAs: DriveSnapshotId | null;
}

type PlannedTarget = RevertPlan['targets'][number];

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
  const live = targets.filter((target) => ctx.graph().rootNamed(`drive:${target.driveId}`) !== undefined);
  const opened = openPoints(ctx, live); // Changes nothing, and so need not wait for the intent.
  const planned = ctx.catalog.write(async (tx) => {
    const made: RevertPlan = { operationId, targets: [] };
    for (const target of targets) made.targets.push(await planTarget(ctx, tx, target));
    return { plan: made, intent: live.length > 0 ? await insertIntent(tx, { kind: 'revert', plan: made }) : null };
  });
  const [opening] = await Promise.allSettled([opened, planned]);
  const { plan, intent } = await planned.catch(async (error: unknown) => {
    if (ctx.graph().alive) await ctx.graph().release(...live.map(pointRoot));
    throw error;
  });
  ctx.step('revert.intended');
  try {
    if (opening.status === 'rejected') throw opening.reason;
    for (const target of plan.targets) {
      if (!target.wasSpare) await ctx.store.createOverlay(target.overlay, target.sizeBytes, target.backing);
    }
    ctx.step('revert.created');
    await finishRevert(ctx, intent, plan, commit);
  } catch (error) {
    await undoRevert(ctx, intent, plan);
    throw error;
  }
}

/** What keeps a point's chain open until the revert is done or undone. */
const pointRoot = (target: { driveId: DriveId }): string => `revert:${target.driveId}`;

async function openPoints(ctx: Context, targets: readonly RevertTarget[]): Promise<void> {
  for (const target of targets) {
    const point = await getPoint(ctx.catalog.db, target.driveSnapshotId);
    await openBacking(ctx, target, point.file_id);
  }
}

async function openBacking(ctx: Context, target: { driveId: DriveId }, fileId: number): Promise<void> {
  await ctx.graph().open(pointRoot(target), await chainOf(ctx.catalog.db, fileId), { writable: false });
}

/** The spare is taken from the drive here: whatever becomes of the revert, nothing else may use it. */
async function planTarget(ctx: Context, tx: Tx, target: RevertTarget): Promise<PlannedTarget> {
  const head = await getHead(tx, target.driveId);
  assertSettled(ctx, head);
  const point = await getPoint(tx, target.driveSnapshotId);
  const top = await getFile(tx, head.file_id);
  const spare = head.spare_id === null ? undefined : await getFile(tx, head.spare_id);
  const wasSpare = spare !== undefined && spare.size_bytes === top.size_bytes && ctx.graph().isOpen(spare.id);
  let overlay: number;
  if (wasSpare) {
    overlay = spare.id;
    await updateFiles(tx, [overlay], { state: 'planned', backing_id: point.file_id });
  } else {
    const row = await newFile(ctx, tx, {
      driveId: target.driveId,
      backingId: point.file_id,
      sizeBytes: top.size_bytes,
      state: 'planned',
    });
    overlay = row.id;
    if (spare !== undefined) await markDead(tx, [spare.id]);
  }
  await tx.updateTable('qcow2_drives').set({ spare_id: null }).where('drive_id', '=', target.driveId).execute();
  return {
    driveId: target.driveId,
    keepAs: target.keepAs,
    top: head.file_id,
    overlay,
    sizeBytes: top.size_bytes,
    wasSpare,
    backing: point.file_id,
    parentLayer: point.layer_id,
  };
}

/** Carries a planned revert out; also how recovery ends one. Overlays exist. */
export async function finishRevert(
  ctx: Context,
  intent: number | null,
  plan: RevertPlan,
  commit: CommitHook,
): Promise<void> {
  const graph = ctx.graph();
  const live = plan.targets.filter((target) => graph.rootNamed(`drive:${target.driveId}`) !== undefined);
  const headers = plan.targets.filter((target) => target.wasSpare).map((target) => target.overlay);
  await moveDaemon(ctx, live);
  ctx.step('revert.done');
  await ctx.catalog.write(async (tx) => {
    for (const target of plan.targets) await recordRevert(tx, plan.operationId, target);
    if (intent !== null) await replaceIntent(tx, intent, { kind: 'headers', plan: { files: headers } });
    await commit(tx);
  });
  ctx.step('revert.committed');
  for (const root of heldRoots(plan)) graph.dropRoot(root);
  ctx.background(async () => {
    if (intent !== null) await ctx.links.run(() => finishHeaders(ctx, intent, headers));
    for (const target of live) await prepareSpare(ctx, target.driveId);
    await discard(ctx, await deadOf(ctx, plan));
  });
}

/** Image headers that say something else than the catalog, which is what everybody goes by but `qemu-img`. Caller holds `links`. */
export async function finishHeaders(ctx: Context, intent: number, files: readonly number[]): Promise<void> {
  for (const id of files) {
    const row = await findFile(ctx.catalog.db, id);
    if (row !== undefined) await relinkOne(ctx, id, row.backing_id);
  }
  ctx.step('headers.written');
  await ctx.catalog.write((tx) => deleteIntent(tx, intent));
}

/** The points' chains, and the old tops. */
function heldRoots(plan: RevertPlan): string[] {
  return plan.targets.flatMap((target) => [pointRoot(target), `undo:${target.driveId}`]);
}

async function moveDaemon(ctx: Context, live: readonly PlannedTarget[]): Promise<void> {
  const graph = ctx.graph();
  const pivots: { top: number; overlay: number; backing: number }[] = [];
  for (const target of live) {
    const { driveId, top, overlay, backing } = target;
    await openBacking(ctx, target, backing);
    if (graph.rootNamed(`drive:${driveId}`) === top) {
      graph.setRoot(`undo:${driveId}`, top);
      await graph.openSpare(`spare:${driveId}`, overlay, { readOnly: !graph.isOpenWritable(top) });
      pivots.push({ top, overlay, backing });
    } else if (graph.backingOf(overlay) !== backing) await graph.relink(overlay, backing);
  }
  ctx.step('revert.before');
  if (pivots.length > 0) await graph.pivotOnto(pivots);
  for (const target of live) graph.setRoot(`drive:${target.driveId}`, target.overlay);
}

/** After a failure: drives whose top was exchanged already get back to what they were, under the same new top. */
async function undoRevert(ctx: Context, intent: number | null, plan: RevertPlan): Promise<void> {
  const graph = ctx.graph();
  if (!graph.alive) return;
  try {
    const pivoted: PlannedTarget[] = [];
    for (const target of plan.targets) {
      const stands = graph.isOpen(target.overlay) ? graph.backingOf(target.overlay) : null;
      if (stands === null) continue;
      pivoted.push(target);
      await graph.relink(target.overlay, target.top);
      graph.setRoot(`drive:${target.driveId}`, target.overlay);
    }
    const unused = plan.targets.filter((target) => !pivoted.includes(target)).map((target) => target.overlay);
    await ctx.catalog.write(async (tx) => {
      for (const target of pivoted) await recordPivot(tx, await getHead(tx, target.driveId), target.overlay, undefined);
      await markDead(tx, unused);
      if (intent !== null) await deleteIntent(tx, intent);
    });
    const roots = heldRoots(plan);
    for (const target of plan.targets) if (!pivoted.includes(target)) roots.push(`spare:${target.driveId}`);
    await graph.release(...roots);
    await abandon(ctx, unused);
  } catch (error) {
    ctx.distrust(error);
  }
}

async function recordRevert(tx: Tx, operationId: string, target: PlannedTarget): Promise<void> {
  const head: HeadRow = await getHead(tx, target.driveId);
  await freezeFile(tx, { id: target.top });
  if (target.keepAs !== null) {
    await nameLayerFile(tx, { id: head.layer_id, fileId: target.top });
    await insertPoint(tx, {
      drive_snapshot_id: target.keepAs,
      drive_id: target.driveId,
      file_id: target.top,
      layer_id: head.layer_id,
    });
  } else {
    await tx.deleteFrom('qcow2_layers').where('id', '=', head.layer_id).execute();
    if ((await childrenOf(tx, target.top)).length === 0) await markDead(tx, [target.top]);
  }
  await activateFile(tx, { id: target.overlay, backingId: target.backing });
  const layer = await insertLayer(tx, target.driveId, target.parentLayer);
  await tx
    .updateTable('qcow2_drives')
    .set({ file_id: target.overlay, layer_id: layer, spare_id: null, last_operation: operationId })
    .where('drive_id', '=', target.driveId)
    .execute();
}

/** A drive that is deleted takes the part it has in an unfinished revert along. */
export async function forgetReverts(tx: Tx, driveId: DriveId): Promise<void> {
  for (const { id, intent } of await listIntents(tx)) {
    if (intent.kind !== 'revert') continue;
    const own = intent.plan.targets.filter((target) => target.driveId === driveId);
    const others = intent.plan.targets.filter((target) => target.driveId !== driveId);
    if (own.length === 0) continue;
    await markDead(
      tx,
      own.map((target) => target.overlay),
    );
    if (others.length === 0) await deleteIntent(tx, id);
    else await replaceIntent(tx, id, { kind: 'revert', plan: { ...intent.plan, targets: others } });
  }
}

/** What the revert left for removal: old tops that nothing keeps, spares that did not fit. */
async function deadOf(ctx: Context, plan: RevertPlan): Promise<number[]> {
  const rows = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .select('id')
    .where(
      'drive_id',
      'in',
      plan.targets.map((target) => target.driveId),
    )
    .where('state', '=', 'dead')
    .execute();
  return rows.map((row) => row.id);
}
