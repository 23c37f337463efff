/**
 * Gives back the space of files that no point and no drive needs. A file nobody stands on is unlinked. A file with one
 * neighbour above is merged with it (merge.ts). A file with several neighbours stays, hidden, until one is left.
 *
 * The layer being written is never part of a merge: the drive pivots first, and what froze is merged. Each step is planned
 * on one view of the catalog under the tree's lock, and checked again in the commit that begins it.
 */
import type { Tx } from '../../catalog/catalog.ts';
import { aborted } from '../../core/aborted.ts';
import { intersectExtents, sumExtents } from '../../core/extents.ts';
import type { DriveId } from '../../core/ids.ts';
import type { ReclaimResult, WorkControl } from '../engine.ts';
import type { Allocations } from './allocations.ts';
import { boundTop } from './compact.ts';
import { type Context, discard, graphsWith, isOutOfReach, markDead, removeDead } from './context.ts';
import type { Deltas } from './deltas.ts';
import { costOf, dataBytes, merge, mergingGraph } from './merge.ts';
import { MovedError } from './moving-files.ts';
import { pivotDrives } from './pivot.ts';
import {
  childrenOf,
  type FileRow,
  findFile,
  findHead,
  findOpenRelink,
  getFile,
  pinnedAmong,
  rootOf,
  standsOn,
  treeOf,
} from './records.ts';
import { assertNoOpenRelink } from './relink.ts';
import { untilWanted } from './steered.ts';

export interface Parts {
  readonly ctx: Context;
  readonly allocations: Allocations;
  readonly deltas: Deltas;
}

type Step =
  | { kind: 'unlink'; files: FileRow[] }
  | { kind: 'merge'; lower: FileRow; upper: FileRow }
  | { kind: 'freeze'; driveId: DriveId };

interface Work {
  readonly control: WorkControl;
  /** Bytes of merges done, and of those known to be left. */
  doneBytes: number;
  leftBytes: number;
  freedBytes: number;
  readonly frozenOnce: Set<DriveId>;
}

/** A tree that changes under each plan for it is left to the next call. */
const maxReplans = 5;

export async function reclaim(
  parts: Parts,
  driveIds: readonly DriveId[],
  control: WorkControl,
): Promise<ReclaimResult> {
  const { ctx } = parts;
  if (driveIds.length === 0) return { freedBytes: 0, keptBytes: 0 };
  const bereft = [...ctx.bereft];
  const owners = await ownersAround(ctx, [...driveIds, ...bereft]);
  for (const driveId of bereft) ctx.bereft.delete(driveId);
  const freedBytes = await sweepDead(ctx, driveIds);
  await parts.deltas.foldUnnamed(owners);
  const work: Work = { control, doneBytes: 0, leftBytes: 0, freedBytes, frozenOnce: new Set() };
  const finished = new Set<number>();
  for (let replans = 0; ; ) {
    const root = (await rootsOf(ctx, owners)).find((id) => !finished.has(id));
    if (root === undefined) break;
    await untilWanted(control);
    try {
      if (!(await ctx.trees.run([root], () => oneStep(parts, root, work)))) finished.add(root);
    } catch (error) {
      if (!(error instanceof MovedError)) throw error;
      if (++replans > maxReplans) finished.add(root);
    }
  }
  await sweepDead(ctx, owners);
  await untilUnlinked(ctx, control.signal);
  return { freedBytes: work.freedBytes, keptBytes: await keptBytes(ctx, driveIds) };
}

/** What was freed is there to be used when this is over. */
async function untilUnlinked(ctx: Context, signal: AbortSignal): Promise<void> {
  await Promise.race([Promise.all(ctx.unlinking.values()), aborted(signal)]);
}

/** @returns false when nothing is left to do in this tree */
async function oneStep(parts: Parts, root: number, work: Work): Promise<boolean> {
  const row = await findFile(parts.ctx.catalog.db, root);
  if (row?.backing_id !== null || row.state === 'dead') return true; // No root any more: its tree has another.
  const step = await nextStep(parts, root, work);
  if (step === undefined) return false;
  await carryOut(parts, step, work);
  return true;
}

/** What stays only because several points in time are built on it. */
async function keptBytes(ctx: Context, driveIds: readonly DriveId[]): Promise<number> {
  const { db } = ctx.catalog;
  const frozen = await db
    .selectFrom('qcow2_files')
    .select('id')
    .where('drive_id', 'in', driveIds)
    .where('state', '=', 'frozen')
    .execute();
  const ids = frozen.map((file) => file.id);
  const pinned = await pinnedAmong(db, ids);
  let bytes = 0;
  for (const id of ids) {
    if (!pinned.has(id) && (await childrenOf(db, id)).length > 1) bytes += await ctx.store.diskBytes(id);
  }
  return bytes;
}

/** The drives, and all that share files with them: what only a clone stood on may go with the clone. */
async function ownersAround(ctx: Context, driveIds: readonly DriveId[]): Promise<DriveId[]> {
  const owners = new Set(driveIds);
  for (const root of await rootsOf(ctx, driveIds, ['active', 'frozen', 'dead'])) {
    for (const file of await treeOf(ctx.catalog.db, root)) owners.add(file.drive_id);
  }
  return [...owners];
}

async function rootsOf(
  ctx: Context,
  driveIds: readonly DriveId[],
  states: readonly FileRow['state'][] = ['active', 'frozen'],
): Promise<number[]> {
  const files = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .select(['id', 'backing_id'])
    .where('drive_id', 'in', driveIds)
    .where('state', 'in', states)
    .execute();
  const mine = new Set(files.map((file) => file.id));
  const roots = new Set<number>();
  for (const file of files) {
    if (file.backing_id === null) roots.add(file.id);
    else if (!mine.has(file.backing_id)) roots.add(await rootOf(ctx.catalog.db, file.id));
  }
  return [...roots];
}

/** Drives with files that nobody needs any more: a crash may have lost the work that was to see to them. */
export async function drivesWithGarbage(ctx: Context): Promise<DriveId[]> {
  const rows = await ctx.catalog.db
    .selectFrom('qcow2_files as f')
    .select('f.drive_id')
    .distinct()
    .where('f.state', '=', 'frozen')
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('qcow2_points as p').select('p.file_id').whereRef('p.file_id', '=', 'f.id'))),
    )
    .execute();
  return rows.map((row) => row.drive_id);
}

/** Unlinks what earlier work left marked dead, as far as nobody has it open. @returns the bytes it took */
export async function sweepDead(ctx: Context, driveIds?: readonly DriveId[]): Promise<number> {
  let query = ctx.catalog.db.selectFrom('qcow2_files').select('id').where('state', '=', 'dead');
  if (driveIds !== undefined) query = query.where('drive_id', 'in', driveIds);
  const dead = (await query.execute()).map((row) => row.id);
  const ids = dead.filter((id) => graphsWith(ctx, id).length === 0 && !ctx.unlinking.has(id));
  let bytes = 0;
  for (const id of ids) bytes += await ctx.store.diskBytes(id);
  await removeDead(ctx, ids);
  return bytes;
}

async function nextStep(parts: Parts, root: number, work: Work): Promise<Step | undefined> {
  const { ctx } = parts;
  const { tree, pinned, relinked } = await ctx.catalog.write(async (tx) => {
    const all = (await treeOf(tx, root)).filter((file) => file.state !== 'dead');
    const ids = all.map((file) => file.id);
    const open = await findOpenRelink(tx, ids);
    return { tree: all, pinned: await pinnedAmong(tx, ids), relinked: open === undefined ? [] : ids };
  });
  if (relinked.length > 0) {
    await assertNoOpenRelink(ctx, relinked);
    throw new MovedError();
  }
  const above = new Map<number, FileRow[]>();
  for (const file of tree) {
    if (file.backing_id === null) continue;
    const others = above.get(file.backing_id);
    if (others === undefined) above.set(file.backing_id, [file]);
    else others.push(file);
  }
  if (await isOutOfReach(ctx, tree)) return undefined;
  const unneeded = tree.filter((file) => file.state === 'frozen' && !pinned.has(file.id) && !isRead(ctx, file.id));
  const leaves = unneeded.filter((file) => !above.has(file.id) && file.origin === 'own');
  if (leaves.length > 0) return { kind: 'unlink', files: leaves };
  let best: { step: Step; bytes: number } | undefined;
  work.leftBytes = 0;
  for (const lower of unneeded) {
    const [upper, another] = above.get(lower.id) ?? [];
    if (upper === undefined || another !== undefined) continue;
    if (upper.state === 'active') {
      const step = await freezeStep(parts, lower, upper, work);
      if (step !== undefined) return step;
    } else if (isMergeable(ctx, lower, upper)) {
      const bytes = await costOf(parts, lower, upper);
      work.leftBytes += bytes;
      if (best === undefined || bytes < best.bytes) best = { step: { kind: 'merge', lower, upper }, bytes };
    }
  }
  return best?.step;
}

function isMergeable(ctx: Context, lower: FileRow, upper: FileRow): boolean {
  if (upper.state !== 'frozen' || upper.origin !== 'own') return false;
  return !isUnderOthers(ctx, lower.id, upper.id) && mergingGraph(ctx, lower, upper) !== undefined;
}

/** A deleted layer right under a drive's top: what the top holds by now can be merged into it, once per reclaim. */
async function freezeStep(parts: Parts, lower: FileRow, top: FileRow, work: Work): Promise<Step | undefined> {
  if (lower.backing_id !== null && lower.origin === 'own' && (await dataBytes(parts, lower)) === 0) {
    return { kind: 'merge', lower, upper: top };
  }
  if (work.frozenOnce.has(top.drive_id)) return undefined;
  work.frozenOnce.add(top.drive_id);
  return (await dataBytes(parts, top)) > 0 ? { kind: 'freeze', driveId: top.drive_id } : undefined;
}

/** Readers and exports that stand on a file itself, such as one of a point that was deleted under them. */
function isRead(ctx: Context, id: number): boolean {
  return ctx.graph().isHeldBy(id, ['reader', 'export']);
}

/** Whether somebody reads the file below another than the catalog knows of: one that was given up while it was read. */
function isUnderOthers(ctx: Context, lower: number, upper: number): boolean {
  return ctx.graphs().some((graph) => graph.childrenOf(lower).some((id) => id !== upper));
}

async function carryOut(parts: Parts, step: Step, work: Work): Promise<void> {
  if (step.kind === 'freeze') await freeze(parts, step.driveId, work);
  else if (step.kind === 'unlink') await unlinkLeaves(parts, step.files, work);
  else {
    const { lower, upper } = step;
    const before = await bytesOf(parts.ctx, [lower.id, upper.id]);
    const cost = await costOf(parts, lower, upper);
    const left = Math.max(work.leftBytes, cost);
    await merge(parts, lower, upper, work.control, (share) => {
      work.control.progress(work.doneBytes + Math.round(share * cost), work.doneBytes + left);
    });
    work.doneBytes += cost;
    work.freedBytes += Math.max(0, before - (await bytesOf(parts.ctx, [lower.id, upper.id])));
  }
}

async function freeze(parts: Parts, driveId: DriveId, work: Work): Promise<void> {
  const { ctx } = parts;
  await boundTop(parts, driveId, work.control);
  await ctx.driveLocks.run([driveId], async () => {
    if ((await findHead(ctx.catalog.db, driveId)) === undefined) return;
    await pivotDrives(ctx, [{ driveId }], async () => undefined);
  });
  await parts.deltas.foldUnnamed([driveId]);
}

/** What files take on disk that are not about to go. */
async function bytesOf(ctx: Context, ids: readonly number[]): Promise<number> {
  let bytes = 0;
  for (const id of ids) {
    const row = await findFile(ctx.catalog.db, id);
    if (row !== undefined && row.state !== 'dead') bytes += await ctx.store.diskBytes(id);
  }
  return bytes;
}

async function unlinkLeaves(parts: Parts, files: readonly FileRow[], work: Work): Promise<void> {
  const { ctx } = parts;
  const ids = files.map((file) => file.id);
  await parts.deltas.record(ids);
  const dead = await ctx.links.run(() => ctx.catalog.write((tx) => markLeavesDead(tx, ids)));
  if (dead.length === 0) throw new MovedError();
  ctx.step('unlink.marked');
  for (const id of dead) work.freedBytes += await ctx.store.diskBytes(id);
  await discard(ctx, dead);
}

async function markLeavesDead(tx: Tx, ids: readonly number[]): Promise<number[]> {
  const pinned = await pinnedAmong(tx, ids);
  const dead: number[] = [];
  for (const id of ids) {
    const row = await findFile(tx, id);
    if (row?.state === 'frozen' && !pinned.has(id) && !(await standsOn(tx, id))) dead.push(id);
  }
  await markDead(tx, dead);
  return dead;
}

/** Bytes that would come back if this file alone were no longer needed. */
export async function freedWithout(parts: Parts, fileId: number): Promise<number> {
  const { ctx, allocations } = parts;
  const { db } = ctx.catalog;
  const file = await getFile(db, fileId);
  const needs = await db.selectFrom('qcow2_points').select('drive_snapshot_id').where('file_id', '=', fileId).execute();
  const above = await childrenOf(db, fileId);
  const [upper] = above;
  if (needs.length > 1 || above.length > 1) return 0;
  if (upper !== undefined) return mergedAway(parts, fileId, upper);
  let bytes = sumExtents((await allocations.frozen(fileId)).data);
  let gone = fileId;
  for (let below = file.backing_id; below !== null; ) {
    if ((await pinnedAmong(db, [below])).size > 0) break;
    const others = (await childrenOf(db, below)).filter((child) => child.id !== gone);
    const [other] = others;
    if (others.length > 1) break;
    if (other !== undefined) return bytes + (await mergedAway(parts, below, other));
    bytes += sumExtents((await allocations.frozen(below)).data);
    gone = below;
    below = (await getFile(db, below)).backing_id;
  }
  return bytes;
}

/** Data of a file that the one above it hides: what merging the two gives back. */
async function mergedAway(parts: Parts, lowerId: number, upper: FileRow): Promise<number> {
  const { allocations } = parts;
  const over = await (upper.state === 'active'
    ? allocations.top(upper.drive_id, upper.id)
    : allocations.frozen(upper.id));
  return sumExtents(intersectExtents((await allocations.frozen(lowerId)).data, over.all));
}
