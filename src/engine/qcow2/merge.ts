/**
 * Merges a file nobody needs with the only one above it: down into the file by a live commit job, or up into the neighbour
 * where that moves fewer bytes and nobody has it open.
 *
 * Crash: the intent is durable first. Until the relink's commit the upper file is whole and hides whatever the lower one
 * took over, and the catalog says that it stands on the lower one; recovery restores the headers to that, or, where the
 * daemon has carried the merge out, lets the catalog follow. An interrupted merge can simply be done again.
 */
import type { Tx } from '../../catalog/catalog.ts';
import { sumExtents } from '../../core/extents.ts';
import { rebase } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import { abandon, assertNotAborted, type Context, discard, graphsWith, newFile } from './context.ts';
import type { Graph } from './graph.ts';
import { MovedError } from './moving-files.ts';
import type { Parts } from './reclaim.ts';
import {
  chainOf,
  childrenOf,
  deleteIntent,
  type FileRow,
  findFile,
  insertIntent,
  pinnedAmong,
  updateFiles,
} from './records.ts';
import { relink, relinkOne, settleHeaders } from './relink.ts';
import { steered } from './steered.ts';

/** Told the share of the merge that is done, 0 to 1. */
type ShareListener = (share: number) => void;

/** @throws MovedError when the file was given up meanwhile, such as with its drive, which does not wait for the tree */
export async function dataBytes(parts: Parts, file: FileRow): Promise<number> {
  try {
    const found = await (file.state === 'active'
      ? parts.allocations.top(file.drive_id, file.id)
      : parts.allocations.frozen(file.id));
    return sumExtents(found.all);
  } catch (error) {
    const row = await findFile(parts.ctx.catalog.db, file.id);
    if (row === undefined || row.state === 'dead') throw new MovedError();
    throw error;
  }
}

/** Bytes that merging the two moves. */
export async function costOf(parts: Parts, lower: FileRow, upper: FileRow): Promise<number> {
  const lowerBytes = await dataBytes(parts, lower);
  if (lowerBytes === 0 && lower.backing_id !== null) return 0;
  const upperBytes = await dataBytes(parts, upper);
  return mustMoveDown(parts.ctx, lower, upper) ? upperBytes : Math.min(lowerBytes, upperBytes);
}

/** Where the upper file is open, or the lower one was not made here and is to stay. */
function mustMoveDown(ctx: Context, lower: FileRow, upper: FileRow): boolean {
  return lower.origin !== 'own' || graphsWith(ctx, upper.id).length > 0;
}

/** The one process that may change the two: the one that has them open, else the daemon. Undefined where several have. */
export function mergingGraph(ctx: Context, lower: FileRow, upper: FileRow): Graph | undefined {
  const [graph, another] = new Set([...graphsWith(ctx, lower.id), ...graphsWith(ctx, upper.id)]);
  return another === undefined ? (graph ?? ctx.graph()) : undefined;
}

/** Caller holds the tree. @throws cancelled, space_exhausted, MovedError when the two no longer fit; all reads as before then */
export async function merge(
  parts: Parts,
  lower: FileRow,
  upper: FileRow,
  control: WorkControl,
  onShare: ShareListener,
): Promise<void> {
  const { ctx } = parts;
  await parts.deltas.record(upper.state === 'active' ? [lower.id] : [lower.id, upper.id]);
  const lowerBytes = await dataBytes(parts, lower);
  if (lowerBytes === 0 && lower.backing_id !== null && lower.origin === 'own') {
    await skipEmpty(ctx, lower, upper, lower.backing_id);
    return;
  }
  if (upper.state !== 'frozen') throw new MovedError();
  const upperBytes = await dataBytes(parts, upper);
  try {
    const adds = upperBytes > 0 || upper.size_bytes !== lower.size_bytes;
    // Who reads the upper file itself is moved along by a commit job only.
    if (!adds && !ctx.graph().isHeldBy(upper.id, ['reader', 'export'])) await collapse(ctx, lower, upper);
    else if (lowerBytes < upperBytes && !mustMoveDown(ctx, lower, upper)) {
      await mergeUp(ctx, lower, upper, control, onShare);
    } else await mergeDown(ctx, lower, upper, control, onShare);
  } finally {
    parts.allocations.forget(lower.id);
    parts.allocations.forget(upper.id);
  }
}

/** In the commit that begins a merge: whether the two are what they were when it was planned. */
async function assertMergeable(tx: Tx, lower: FileRow, upper: FileRow): Promise<void> {
  const nowLower = await findFile(tx, lower.id);
  const nowUpper = await findFile(tx, upper.id);
  const above = await tx
    .selectFrom('qcow2_files')
    .select('id')
    .where('backing_id', '=', lower.id)
    .where('state', '!=', 'dead')
    .execute();
  const fits =
    nowLower?.state === 'frozen' &&
    nowLower.backing_id === lower.backing_id &&
    nowUpper?.backing_id === lower.id &&
    above.length === 1 &&
    (await pinnedAmong(tx, [lower.id])).size === 0;
  if (!fits) throw new MovedError();
}

/** The lower file adds nothing: the upper one can do without. */
async function skipEmpty(ctx: Context, lower: FileRow, upper: FileRow, below: number): Promise<void> {
  const plan = { children: [upper.id], to: below, move: null, dead: [lower.id] };
  const dead = await ctx.links.run(() => relink(ctx, plan, (tx) => assertMergeable(tx, lower, upper)));
  await discard(ctx, dead);
}

/** The upper file adds nothing: what stood on it, and its point, move to the lower one. */
async function collapse(ctx: Context, lower: FileRow, upper: FileRow): Promise<void> {
  const dead = await ctx.links.run(async () => {
    const children = (await childrenOf(ctx.catalog.db, upper.id)).map((child) => child.id);
    const plan = { children, to: lower.id, move: { from: upper.id, to: lower.id }, dead: [upper.id] };
    return relink(ctx, plan, (tx) => assertMergeable(tx, lower, upper));
  });
  await discard(ctx, dead);
}

/**
 * The lower file's data moves into the upper one, which nobody has open; who wants to open it ends this first. `qemu-img`
 * writes the new backing into the header before all it copied is on disk, so that a half-done file gets its old header
 * back, here or by recovery, before anybody reads it.
 */
async function mergeUp(
  ctx: Context,
  lower: FileRow,
  upper: FileRow,
  control: WorkControl,
  onShare: ShareListener,
): Promise<void> {
  const below = lower.backing_id;
  await settleHeaders(ctx, await chainOf(ctx.catalog.db, upper.id));
  const intent = await beginMerge(ctx, lower, upper);
  const restore = (): Promise<void> => ctx.store.setBacking(upper.id, lower.id);
  const bytes: WorkControl = { ...steering(control), progress: (done, total) => onShare(total > 0 ? done / total : 0) };
  try {
    const moved = await ctx.graph().whileClosed(upper.id, async (evicted) => {
      const signal = AbortSignal.any([control.signal, evicted]);
      const name = below === null ? null : ctx.store.nameOf(below);
      const options = {
        cwd: ctx.store.directory,
        ...(below === null ? {} : { backingFormat: ctx.store.formatOf(below) }),
      };
      try {
        await steered(bytes, (run) => rebase(ctx.store.pathOf(upper.id), name, { ...run, ...options }), signal);
      } catch (error) {
        await restore();
        throw error;
      }
    });
    if (!moved) assertNotAborted(control.signal);
    if (!moved) {
      await ctx.catalog.write((tx) => deleteIntent(tx, intent));
      return;
    }
  } catch (error) {
    await ctx.catalog.write((tx) => deleteIntent(tx, intent));
    throw error;
  }
  ctx.step('merge-up.moved');
  const plan = { children: [upper.id], to: below, move: null, dead: [lower.id] };
  const dead = await ctx.links.run(() =>
    relink(ctx, plan, async (tx) => {
      await assertMergeable(tx, lower, upper);
      await deleteIntent(tx, intent);
      if (below === null) await updateFiles(tx, [upper.id], { level: lower.level });
    }).catch(async (error: unknown) => {
      if (ctx.graph().alive) ctx.distrust(error);
      throw error;
    }),
  );
  await discard(ctx, dead);
}

function steering(control: WorkControl): Omit<WorkControl, 'progress'> {
  return { signal: control.signal, wishes: () => control.wishes() };
}

async function beginMerge(ctx: Context, lower: FileRow, upper: FileRow): Promise<number> {
  const intent = await ctx.catalog.write(async (tx) => {
    await assertMergeable(tx, lower, upper);
    return insertIntent(tx, { kind: 'merge', plan: { upper: upper.id, lower: lower.id } });
  });
  ctx.step('merge.intended');
  return intent;
}

/** The upper file's data moves down into the lower one by a commit job in the daemon, which then takes the upper one's place. */
async function mergeDown(
  ctx: Context,
  lower: FileRow,
  upper: FileRow,
  control: WorkControl,
  onShare: ShareListener,
): Promise<void> {
  const graph = mergingGraph(ctx, lower, upper);
  if (graph === undefined) throw new MovedError();
  const intent = await beginMerge(ctx, lower, upper);
  const jobId = graph.jobName(intent);
  const standIn = await ctx.catalog.write((tx) =>
    newFile(ctx, tx, { driveId: upper.drive_id, backingId: null, sizeBytes: upper.size_bytes, state: 'planned' }),
  );
  const root = `job:${standIn.id}`;
  try {
    await whileDaemonIsOut(ctx, graph, [lower.id, upper.id], control, (steer) =>
      runCommit(ctx, graph, jobId, { lower, upper, standIn }, root, steer, onShare),
    );
  } catch (error) {
    if (graph.alive) {
      await graph.endJob(jobId);
      await graph.release(root);
      await ctx.catalog.write((tx) => deleteIntent(tx, intent));
      await abandon(ctx, [standIn.id]);
    }
    throw error;
  }
  ctx.step('merge.pending');
  const dead = await ctx.links.run(async () => {
    try {
      await graph.finishCommit(jobId);
      ctx.step('merge.finished');
      const unneeded = await settleMerge(ctx, intent, lower, upper);
      await graph.endJob(jobId);
      return unneeded;
    } catch (error) {
      // Some files may stand on the lower one already and some not: recovery looks.
      if (graph.alive) ctx.distrust(error, graph);
      throw error;
    }
  });
  graph.dropRoot(root);
  await discard(ctx, [standIn.id, ...dead]);
}

/** While another process writes files, the daemon must not have them open: who wants to read them there ends the work. */
async function whileDaemonIsOut(
  ctx: Context,
  graph: Graph,
  files: readonly number[],
  control: WorkControl,
  work: (steered: WorkControl) => Promise<void>,
): Promise<void> {
  const [file, ...others] = files;
  if (graph === ctx.graph() || file === undefined) return work(control);
  const finished = await ctx.graph().whileClosed(file, (evicted) => {
    const signal = AbortSignal.any([control.signal, evicted]);
    const steer: WorkControl = { signal, wishes: () => control.wishes(), progress: (...at) => control.progress(...at) };
    return whileDaemonIsOut(ctx, graph, others, steer, work);
  });
  if (!finished) throw new MovedError();
}

/** Ends with the job pending: all data has moved, and is durable. */
async function runCommit(
  ctx: Context,
  graph: Graph,
  jobId: string,
  files: { lower: FileRow; upper: FileRow; standIn: FileRow },
  root: string,
  control: WorkControl,
  onShare: ShareListener,
): Promise<void> {
  const { lower, upper, standIn } = files;
  await ctx.store.createOverlay(standIn.id, upper.size_bytes, upper.id);
  const chain = await chainOf(ctx.catalog.db, upper.id);
  await graph.open(root, [{ id: standIn.id, backing_id: upper.id }, ...chain], { writable: false });
  ctx.step('merge.started');
  await graph.commitDown(jobId, { upper: upper.id, lower: lower.id, standIn: standIn.id }, control, onShare);
  await ctx.store.syncFile(lower.id);
}

/** The commit job has taken effect in the daemon: the catalog follows. Also how recovery ends a merge that got so far. */
export async function settleMerge(
  ctx: Context,
  intent: number,
  lower: FileRow,
  upper: FileRow,
): Promise<readonly number[]> {
  const children = await childrenOf(ctx.catalog.db, upper.id);
  for (const graph of graphsWith(ctx, upper.id)) {
    for (const id of graph.childrenOf(upper.id)) graph.noteBacking(id, lower.id);
    graph.moveReaders(upper.id, lower.id);
  }
  const plan = {
    children: children.map((child) => child.id),
    to: lower.id,
    move: { from: upper.id, to: lower.id },
    dead: [upper.id],
  };
  return relink(ctx, plan, async (tx) => {
    await deleteIntent(tx, intent);
    await updateFiles(tx, [lower.id], { size_bytes: Math.max(lower.size_bytes, upper.size_bytes) });
  });
}

/** Takes back what an interrupted merge may have written into headers; the catalog's word holds. Caller holds `links`. */
export async function restoreHeaders(ctx: Context, upper: FileRow): Promise<void> {
  await relinkOne(ctx, upper.id, upper.backing_id);
  for (const child of await childrenOf(ctx.catalog.db, upper.id)) await relinkOne(ctx, child.id, child.backing_id);
}
