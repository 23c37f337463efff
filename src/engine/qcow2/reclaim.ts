/**
 * Gives back the space of files that no point and no drive needs. A file nobody stands on is unlinked. A file with one
 * neighbour above is merged with it: down into the file by a live commit job, or up into the neighbour where that moves
 * fewer bytes and nobody has it open. A file with several neighbours stays, hidden, until one is left.
 *
 * The layer being written is never part of a merge: the drive pivots first, and what froze is merged. So a merge is
 * never a race with a guest, and an interrupted one can simply be done again: until the relink's commit the upper layer
 * is whole and hides whatever the lower one took over.
 */
import { intersectExtents, sumExtents } from '../../core/extents.ts';
import type { DriveId } from '../../core/ids.ts';
import { rebase } from '../../qemu/image-tools.ts';
import type { ReclaimResult, WorkControl } from '../engine.ts';
import type { Allocations } from './allocations.ts';
import { assertNotAborted, type Context, removeDead } from './context.ts';
import type { Deltas } from './deltas.ts';
import { pivotDrives } from './pivot.ts';
import {
  chainOf,
  childrenOf,
  deleteIntent,
  type FileRow,
  findHead,
  getFile,
  insertIntent,
  pinnedAmong,
  rootOf,
  treeOf,
  updateFiles,
} from './records.ts';
import { relink } from './relink.ts';

export interface Parts {
  readonly ctx: Context;
  readonly allocations: Allocations;
  readonly deltas: Deltas;
}

type Step =
  | { kind: 'unlink'; files: FileRow[] }
  | { kind: 'merge'; lower: FileRow; upper: FileRow }
  | { kind: 'freeze'; driveId: DriveId };

interface Progress {
  doneBytes: number;
  freedBytes: number;
}

const noCommit = async (): Promise<void> => undefined;

export async function reclaim(parts: Parts, driveIds: readonly DriveId[], control: WorkControl): Promise<ReclaimResult> {
  const { ctx } = parts;
  if (driveIds.length === 0) return { freedBytes: 0, keptBytes: 0 };
  await sweepDead(ctx, driveIds);
  await parts.deltas.foldUnnamed(driveIds);
  const progress: Progress = { doneBytes: 0, freedBytes: 0 };
  const frozenOnce = new Set<DriveId>();
  const roots = await rootsOf(ctx, driveIds);
  for (const root of roots) {
    for (;;) {
      assertNotAborted(control.signal);
      const again = await ctx.trees.run([root], async () => {
        const step = await nextStep(parts, root, frozenOnce);
        if (step === undefined) return false;
        await carryOut(parts, step, control, progress);
        return true;
      });
      if (!again) break;
    }
  }
  const left = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .selectAll()
    .where('drive_id', 'in', driveIds)
    .where('state', '=', 'frozen')
    .execute();
  const pinned = await pinnedAmong(
    ctx.catalog.db,
    left.map((file) => file.id),
  );
  let keptBytes = 0;
  for (const file of left) if (!pinned.has(file.id)) keptBytes += await ctx.store.diskBytes(file.id);
  return { freedBytes: progress.freedBytes, keptBytes };
}

async function rootsOf(ctx: Context, driveIds: readonly DriveId[]): Promise<Set<number>> {
  const files = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .select(['id', 'backing_id'])
    .where('drive_id', 'in', driveIds)
    .where('state', 'in', ['active', 'frozen'])
    .execute();
  const mine = new Set(files.map((file) => file.id));
  const roots = new Set<number>();
  for (const file of files) {
    if (file.backing_id === null) roots.add(file.id);
    else if (!mine.has(file.backing_id)) roots.add(await rootOf(ctx.catalog.db, file.id));
  }
  return roots;
}

/** Unlinks what earlier work left marked dead, as far as nobody has it open. */
export async function sweepDead(ctx: Context, driveIds?: readonly DriveId[]): Promise<void> {
  let query = ctx.catalog.db.selectFrom('qcow2_files').select('id').where('state', '=', 'dead');
  if (driveIds !== undefined) query = query.where('drive_id', 'in', driveIds);
  const rows = await query.execute();
  await removeDead(
    ctx,
    rows.map((row) => row.id).filter((id) => !ctx.graph().isOpen(id)),
  );
}

async function nextStep(parts: Parts, root: number, frozenOnce: Set<DriveId>): Promise<Step | undefined> {
  const { ctx } = parts;
  const tree = (await treeOf(ctx.catalog.db, root)).filter((file) => file.state === 'frozen' || file.state === 'active');
  const pinned = await pinnedAmong(
    ctx.catalog.db,
    tree.map((file) => file.id),
  );
  const children = new Map<number, FileRow[]>();
  for (const file of tree) {
    if (file.backing_id !== null) children.set(file.backing_id, [...(children.get(file.backing_id) ?? []), file]);
  }
  const unneeded = tree.filter((file) => !pinned.has(file.id) && !isRead(ctx, file.id));
  const leaves = unneeded.filter((file) => !children.has(file.id));
  if (leaves.length > 0) return { kind: 'unlink', files: leaves };
  let best: { step: Step; bytes: number } | undefined;
  for (const lower of unneeded) {
    const above = children.get(lower.id) ?? [];
    const [upper] = above;
    if (upper === undefined || above.length > 1) continue;
    if (upper.state === 'active') {
      const step = await freezeStep(parts, lower, upper, frozenOnce);
      if (step !== undefined) return step;
      continue;
    }
    if (isRead(ctx, upper.id)) continue;
    const bytes = await dataBytes(parts, upper);
    if (best === undefined || bytes < best.bytes) best = { step: { kind: 'merge', lower, upper }, bytes };
  }
  return best?.step;
}

/** A deleted layer right under a drive's top: what the top holds by now can be merged into it, once per reclaim. */
async function freezeStep(
  parts: Parts,
  lower: FileRow,
  top: FileRow,
  frozenOnce: Set<DriveId>,
): Promise<Step | undefined> {
  if ((await dataBytes(parts, lower)) === 0 && lower.size_bytes <= top.size_bytes && lower.backing_id !== null) {
    return { kind: 'merge', lower, upper: top };
  }
  if (frozenOnce.has(top.drive_id)) return undefined;
  const own = await parts.allocations.top(top.drive_id, top.id);
  frozenOnce.add(top.drive_id);
  return own.all.length > 0 ? { kind: 'freeze', driveId: top.drive_id } : undefined;
}

function isRead(ctx: Context, id: number): boolean {
  return ctx.graph().alive && ctx.graph().isHeldBy(id, ['reader', 'export']);
}

async function dataBytes(parts: Parts, file: FileRow): Promise<number> {
  if (file.state === 'frozen') return sumExtents((await parts.allocations.frozen(file.id)).all);
  return sumExtents((await parts.allocations.top(file.drive_id, file.id)).all);
}

async function carryOut(parts: Parts, step: Step, control: WorkControl, progress: Progress): Promise<void> {
  const { ctx } = parts;
  if (step.kind === 'freeze') {
    await ctx.driveLocks.run([step.driveId], async () => {
      if ((await findHead(ctx.catalog.db, step.driveId)) === undefined) return;
      await pivotDrives(ctx, [{ driveId: step.driveId }], noCommit);
    });
    await parts.deltas.foldUnnamed([step.driveId]);
    return;
  }
  if (step.kind === 'unlink') {
    await unlinkLeaves(parts, step.files, progress);
    return;
  }
  const before = (await ctx.store.diskBytes(step.lower.id)) + (await ctx.store.diskBytes(step.upper.id));
  await merge(parts, step.lower, step.upper, control, progress);
  const after = (await ctx.store.diskBytes(step.lower.id)) + (await ctx.store.diskBytes(step.upper.id));
  progress.freedBytes += Math.max(0, before - after);
}

async function unlinkLeaves(parts: Parts, files: readonly FileRow[], progress: Progress): Promise<void> {
  const { ctx } = parts;
  const ids = files.map((file) => file.id);
  await parts.deltas.record(ids);
  for (const id of ids) progress.freedBytes += await ctx.store.diskBytes(id);
  await ctx.links.run(async () => {
    await ctx.catalog.write((tx) => updateFiles(tx, ids, { state: 'dead' }));
    ctx.step('unlink.marked');
    if (ctx.graph().alive) await ctx.graph().tidy();
    await removeDead(
      ctx,
      ids.filter((id) => !ctx.graph().isOpen(id)),
    );
  });
}

/** Merges a file nobody needs with the only one above it. Caller holds the tree. */
async function merge(
  parts: Parts,
  lower: FileRow,
  upper: FileRow,
  control: WorkControl,
  progress: Progress,
): Promise<void> {
  const { ctx } = parts;
  await parts.deltas.record(upper.state === 'active' ? [lower.id] : [lower.id, upper.id]);
  const lowerBytes = await dataBytes(parts, lower);
  const upperBytes = await dataBytes(parts, upper);
  if (lowerBytes === 0 && lower.backing_id !== null) {
    const to = lower.backing_id;
    await ctx.links.run(() =>
      relink(ctx, { children: [upper.id], to, move: null, dead: [lower.id] }, noCommit, noCommit),
    );
    return;
  }
  if (upper.state === 'active') return;
  try {
    if (upperBytes === 0 && upper.size_bytes === lower.size_bytes) await collapse(ctx, lower, upper);
    else if (lowerBytes < upperBytes && !isOpen(ctx, upper)) await mergeUp(ctx, lower, upper, control);
    else await mergeDown(ctx, lower, upper, control, progress, upperBytes);
  } finally {
    parts.allocations.forget(lower.id);
    parts.allocations.forget(upper.id);
  }
}

/** The upper file adds nothing: what stood on it, and its point, move to the lower one. */
async function collapse(ctx: Context, lower: FileRow, upper: FileRow): Promise<void> {
  await ctx.links.run(async () => {
    const children = (await childrenOf(ctx.catalog.db, upper.id)).map((child) => child.id);
    const move = { from: upper.id, to: lower.id };
    await relink(ctx, { children, to: lower.id, move, dead: [upper.id] }, noCommit, noCommit);
  });
}

function isOpen(ctx: Context, file: FileRow): boolean {
  return ctx.graph().alive && ctx.graph().isOpen(file.id);
}

/**
 * The lower file's data moves into the upper one, which nobody has open; who wants to open it ends this first. Content never
 * changes; a repeat finds less to do.
 */
async function mergeUp(ctx: Context, lower: FileRow, upper: FileRow, control: WorkControl): Promise<void> {
  const below = lower.backing_id;
  const moved = await ctx.graph().whileClosed(upper.id, async (evicted) => {
    await rebase(ctx.store.pathOf(upper.id), below === null ? null : ctx.store.nameOf(below), {
      signal: AbortSignal.any([control.signal, evicted]),
      cwd: ctx.store.directory,
    });
  });
  assertNotAborted(control.signal);
  if (!moved) return;
  ctx.step('merge-up.moved');
  await ctx.links.run(() =>
    relink(
      ctx,
      { children: [upper.id], to: below, move: null, dead: [lower.id] },
      async (tx) => {
        if (below === null) await updateFiles(tx, [upper.id], { level: lower.level });
      },
      noCommit,
    ),
  );
}

/** The upper file's data moves down into the lower one by a commit job in the daemon, which then takes the upper one's place. */
async function mergeDown(
  ctx: Context,
  lower: FileRow,
  upper: FileRow,
  control: WorkControl,
  progress: Progress,
  weightBytes: number,
): Promise<void> {
  const graph = ctx.graph();
  const intent = await ctx.catalog.write((tx) =>
    insertIntent(tx, { kind: 'merge', plan: { upper: upper.id, lower: lower.id } }),
  );
  ctx.step('merge.intended');
  const standIn = await ctx.catalog.write((tx) =>
    tx
      .insertInto('qcow2_files')
      .values({
        backing_id: upper.id,
        state: 'dead',
        drive_id: upper.drive_id,
        size_bytes: upper.size_bytes,
        level: 0,
        data_bytes: 0,
        created_at: upper.created_at,
      })
      .returning('id')
      .executeTakeFirstOrThrow(),
  );
  const root = `job:${standIn.id}`;
  const jobId = `j${intent}`;
  try {
    await ctx.store.createOverlay(standIn.id, upper.size_bytes, upper.id);
    const chain = await chainOf(ctx.catalog.db, upper.id);
    await graph.open(root, [{ id: standIn.id, backing_id: upper.id }, ...chain], { writable: false });
    ctx.step('merge.started');
    await graph.commitDown(jobId, { upper: upper.id, lower: lower.id, standIn: standIn.id }, control, {
      doneBytes: progress.doneBytes,
      weightBytes,
    });
    ctx.step('merge.pending');
    await ctx.links.run(async () => {
      await graph.finishCommit(jobId);
      ctx.step('merge.finished');
      await settleMerge(ctx, intent, lower, upper);
      await graph.dismissJob(jobId);
    });
    progress.doneBytes += weightBytes;
  } catch (error) {
    if (graph.alive) await ctx.catalog.write((tx) => deleteIntent(tx, intent));
    throw error;
  } finally {
    if (graph.alive) {
      await graph.release(root);
      await removeDead(ctx, graph.isOpen(standIn.id) ? [] : [standIn.id]);
      await sweepDead(ctx, [upper.drive_id]);
    }
  }
}

/** The commit job has taken effect in the daemon: the catalog follows. Also how recovery ends a merge that got so far. */
export async function settleMerge(ctx: Context, intent: number, lower: FileRow, upper: FileRow): Promise<void> {
  const children = await childrenOf(ctx.catalog.db, upper.id);
  for (const id of ctx.graph().childrenOf(upper.id)) ctx.graph().noteBacking(id, lower.id);
  await relink(
    ctx,
    {
      children: children.map((child) => child.id),
      to: lower.id,
      move: { from: upper.id, to: lower.id },
      dead: [upper.id],
    },
    async (tx) => {
      await deleteIntent(tx, intent);
      await updateFiles(tx, [lower.id], { size_bytes: Math.max(lower.size_bytes, upper.size_bytes) });
    },
    noCommit,
  );
}

/** Bytes that would come back if this file alone were no longer needed. */
export async function freedWithout(parts: Parts, fileId: number): Promise<number> {
  const { ctx } = parts;
  const file = await getFile(ctx.catalog.db, fileId);
  const needs = await ctx.catalog.db
    .selectFrom('qcow2_points')
    .select('drive_snapshot_id')
    .where('file_id', '=', fileId)
    .execute();
  if (needs.length > 1) return 0;
  const above = await childrenOf(ctx.catalog.db, fileId);
  const own = (await parts.allocations.frozen(fileId)).data;
  const [upper] = above;
  if (above.length > 1) return 0;
  if (upper !== undefined) {
    const over =
      upper.state === 'active'
        ? await parts.allocations.top(upper.drive_id, upper.id)
        : await parts.allocations.frozen(upper.id);
    return sumExtents(intersectExtents(own, over.all));
  }
  let bytes = sumExtents(own);
  for (let below = file.backing_id; below !== null; ) {
    const pinned = await pinnedAmong(ctx.catalog.db, [below]);
    if (pinned.size > 0 || (await childrenOf(ctx.catalog.db, below)).length > 1) break;
    bytes += sumExtents((await parts.allocations.frozen(below)).data);
    below = (await getFile(ctx.catalog.db, below)).backing_id;
  }
  return bytes;
}
