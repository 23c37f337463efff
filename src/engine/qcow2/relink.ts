/**
 * The relink: files move from one backing to another that holds the same content, and points with them. Every merge, skip
 * layer and flatten ends in this one step. Its intent is durable first and is always rolled forward, since each part
 * can be done twice: what the graph and the headers say already is left alone.
 */
import type { CommitHook } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import { readHeader } from '../../qemu/qcow2.ts';
import { type Context, graphsWith, markDead } from './context.ts';
import {
  chainOf,
  deleteIntent,
  type FileRow,
  findFile,
  findOpenRelink,
  insertIntent,
  ownersBelow,
  pinnedAmong,
  type RelinkPlan,
  standsOn,
  updateFiles,
} from './records.ts';

const noCommit: CommitHook = async () => undefined;

/**
 * Records the intent, beside whatever else becomes true with it, and carries it out. Caller holds `links`, and discards
 * the files that come back once it has let go of them. A failure before the intent changes nothing; after it, recovery takes over.
 */
export async function relink(
  ctx: Context,
  plan: RelinkPlan,
  begin: CommitHook,
  commit: CommitHook = noCommit,
): Promise<readonly number[]> {
  const intent = await ctx.catalog.write(async (tx) => {
    await begin(tx);
    return insertIntent(tx, { kind: 'relink', plan });
  });
  ctx.step('relink.intended');
  try {
    return await finishRelink(ctx, intent, plan, commit);
  } catch (error) {
    // The caller's own records may be what failed; the files are to agree with the catalog in any case.
    await finishRelink(ctx, intent, plan, noCommit).catch(() => ctx.distrust(error));
    throw error;
  }
}

/** Carries a recorded relink out; also how recovery ends one. @returns files that nothing needs any more, marked dead */
export async function finishRelink(
  ctx: Context,
  intent: number,
  plan: RelinkPlan,
  commit: CommitHook,
): Promise<readonly number[]> {
  if (plan.to !== null) await ctx.store.syncFile(plan.to);
  for (const child of plan.children) {
    await relinkOne(ctx, child, plan.to);
    ctx.step('relink.child');
  }
  const { dead, bereft } = await ctx.catalog.write(async (tx) => {
    const owners = await ownersBelow(tx, plan.children);
    await updateFiles(tx, plan.children, { backing_id: plan.to });
    if (plan.move !== null) {
      const { from, to } = plan.move;
      await tx.updateTable('qcow2_points').set({ file_id: to }).where('file_id', '=', from).execute();
    }
    const pinned = await pinnedAmong(tx, plan.dead);
    const unneeded: number[] = [];
    for (const id of plan.dead) if (!pinned.has(id) && !(await standsOn(tx, id))) unneeded.push(id);
    await markDead(tx, unneeded);
    await deleteIntent(tx, intent);
    await commit(tx);
    return { dead: unneeded, bereft: owners };
  });
  for (const driveId of bereft) ctx.bereft.add(driveId);
  ctx.step('relink.committed');
  return dead;
}

/** Makes the daemon and the image header say what a file stands on; what they say already is left alone. Caller holds `links`. */
export async function relinkOne(ctx: Context, child: number, to: number | null): Promise<void> {
  if (!(await isNeeded(ctx, child))) return;
  try {
    await relinkFile(ctx, child, to);
  } catch (error) {
    // The last drive on it may be deleted meanwhile, and it with that.
    if (await isNeeded(ctx, child)) throw error;
  }
}

async function isNeeded(ctx: Context, id: number): Promise<boolean> {
  const row = await findFile(ctx.catalog.db, id);
  return row !== undefined && row.state !== 'dead';
}

async function relinkFile(ctx: Context, child: number, to: number | null): Promise<void> {
  const graph = graphsWith(ctx, child)[0] ?? ctx.graph();
  const header = await readHeader(ctx.store.pathOf(child));
  const written = header.backing === (to === null ? null : ctx.store.nameOf(to));
  const roots = [`relinked:${child}`];
  if (graph.alive && graph.isOpen(child)) {
    // Whoever has it open may let go of it meanwhile, or is about to already.
    graph.setRoot(`relinked:${child}`, child);
    await graph.tidy();
    if (!graph.isOpen(child)) graph.dropRoot(`relinked:${child}`);
  }
  if (graph.alive && graph.isOpen(child)) {
    try {
      if (written && graph.backingOf(child) === to) return;
      if (to !== null) {
        await graph.open(`relink:${to}`, await chainOf(ctx.catalog.db, to), { writable: false });
        roots.push(`relink:${to}`);
      }
      await graph.relink(child, to);
    } finally {
      await graph.release(...roots);
    }
  } else if (!written) await ctx.store.setBacking(child, to);
  await ctx.store.syncFile(child);
}

/**
 * A relink that could not be finished, not even by recovery, leaves its files' true backing in doubt: nothing may be planned
 * on them. One that is merely under way, as when a flatten moves a drive to another tree, is waited for. Caller holds the
 * files' tree but not `links`. @throws layer_damaged
 */
export async function assertNoOpenRelink(ctx: Context, fileIds: readonly number[]): Promise<void> {
  const { db } = ctx.catalog;
  if ((await findOpenRelink(db, fileIds)) === undefined) return;
  const intent = await ctx.links.run(() => findOpenRelink(db, fileIds));
  if (intent === undefined) return;
  throw new CalotypeError('layer_damaged', 'An earlier change of these layers could not be finished.', {
    intent,
    remedy: 'Run the doctor; it says what is in the way.',
  });
}

/**
 * Before `qemu-img`, which goes by headers, looks at a chain: each header says what the catalog says. They may differ where
 * a header follows behind, as after a revert.
 */
export async function settleHeaders(ctx: Context, chain: readonly FileRow[]): Promise<void> {
  for (const { id, backing_id: backing } of chain) {
    const header = await readHeader(ctx.store.pathOf(id));
    if (header.backing === (backing === null ? null : ctx.store.nameOf(backing))) continue;
    await ctx.links.run(async () => {
      const row = await findFile(ctx.catalog.db, id);
      if (row !== undefined) await relinkOne(ctx, id, row.backing_id);
    });
  }
}
