/**
 * Skip layers: read depth stays logarithmic in the number of snapshots kept. The files below a drive's top have levels,
 * like digits of a number: a run of `runLength` files of one level gets a twin of its newest, one level up, that holds
 * the union of the run and stands on what the run stands on. The twin takes the newest's place; the others stay for the
 * points they are, off the drive's path. A thousand snapshots then read through at most 24 files, and each level keeps
 * the changed data at most once.
 *
 * The twin is built as a private file; the exchange is a relink. Flatten is the same with nothing below.
 */
import type { CommitHook, Db } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId } from '../../core/ids.ts';
import { copyChain, copyFile, rebase } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import { abandon, type Context, discard, newFile, withTree } from './context.ts';
import { maxDepth } from './pivot.ts';
import type { Parts } from './reclaim.ts';
import {
  baseLevel,
  chainOf,
  childrenOf,
  depthOf,
  type FileRow,
  findHead,
  getHead,
  pinnedAmong,
  updateFiles,
} from './records.ts';
import { assertNoOpenRelink, relink, settleHeaders } from './relink.ts';
import { steered, untilWanted } from './steered.ts';

/** Files of one level that are folded together. Six keeps 1,000 snapshots at 21 files with three twins of each change. */
const runLength = 6;

interface Run {
  newest: FileRow;
  /** What the run stands on. */
  below: FileRow;
  level: number;
}

/** The deepest run worth folding: oldest first, so that levels fall from the base to the top. */
export function findRun(chain: readonly FileRow[], length = runLength): Run | undefined {
  const frozen = chain.slice(1).reverse();
  for (let start = 1; start < frozen.length; start++) {
    const first = frozen[start];
    if (first === undefined || first.level >= baseLevel) continue;
    let end = start;
    while (frozen[end + 1]?.level === first.level) end++;
    const newest = frozen[start + length - 1];
    const below = frozen[start - 1];
    if (end - start + 1 >= length && newest !== undefined && below !== undefined) {
      return { newest, below, level: first.level };
    }
    start = end;
  }
  return undefined;
}

/** Where a chain is nearly as deep as it may get, shorter runs have to do. */
export function findRunFor(chain: readonly FileRow[]): Run | undefined {
  const shortest = chain.length < maxDepth - 1 ? runLength : 2;
  for (let length = runLength; length >= shortest; length--) {
    const run = findRun(chain, length);
    if (run !== undefined) return run;
  }
  return undefined;
}

export async function needsSkipLayer(ctx: Context, driveId: DriveId): Promise<boolean> {
  const head = await findHead(ctx.catalog.db, driveId);
  return head !== undefined && findRunFor(await chainOf(ctx.catalog.db, head.file_id)) !== undefined;
}

/** Builds one skip layer if one is due. A drive that is gone meanwhile needs none. */
export async function addSkipLayer(parts: Parts, driveId: DriveId, control: WorkControl): Promise<boolean> {
  const { db } = parts.ctx.catalog;
  if ((await findHead(db, driveId)) === undefined) return false;
  const top = async (): Promise<number> => (await getHead(db, driveId)).file_id;
  return withTree(parts.ctx, top, () => foldOnce(parts, driveId, control)).catch((error: unknown) => {
    if (error instanceof CalotypeError && error.code === 'not_found') return false;
    throw error;
  });
}

/** Makes room for one more layer on a drive; one that is gone needs none. Caller holds its tree. @throws chain_too_deep */
export async function boundTop(parts: Parts, driveId: DriveId, control: WorkControl): Promise<void> {
  const { db } = parts.ctx.catalog;
  for (;;) {
    const head = await findHead(db, driveId);
    if (head === undefined || (await depthOf(db, head.file_id)) < maxDepth) return;
    if (!(await foldOnce(parts, driveId, control)) && (await findHead(db, driveId)) !== undefined) throw tooDeep();
  }
}

export function tooDeep(): CalotypeError {
  return new CalotypeError('chain_too_deep', undefined, { limit: maxDepth });
}

async function foldOnce(parts: Parts, driveId: DriveId, control: WorkControl): Promise<boolean> {
  const { ctx } = parts;
  const head = await findHead(ctx.catalog.db, driveId);
  if (head === undefined) return false;
  const chain = await chainOf(ctx.catalog.db, head.file_id);
  const run = findRunFor(chain);
  if (run === undefined) return false;
  await assertNoOpenRelink(
    ctx,
    chain.map((file) => file.id),
  );
  await untilWanted(control);
  await parts.deltas.record([run.newest.id]);
  await settleHeaders(ctx, await chainOf(ctx.catalog.db, run.newest.id));
  const twin = await buildTwin(ctx, run, control);
  const dead = await ctx.links.run(async () => {
    const children = (await childrenOf(ctx.catalog.db, run.newest.id)).map((child) => child.id);
    const plan = { children, to: twin, move: { from: run.newest.id, to: twin }, dead: [run.newest.id] };
    return relink(ctx, plan, (tx) => updateFiles(tx, [twin], { state: 'frozen' }));
  });
  await discard(ctx, dead);
  return true;
}

async function buildTwin(ctx: Context, run: Run, control: WorkControl): Promise<number> {
  const twin = await ctx.catalog.write((tx) =>
    newFile(ctx, tx, {
      driveId: run.newest.drive_id,
      backingId: run.below.id,
      sizeBytes: run.newest.size_bytes,
      state: 'planned',
      level: run.level + 1,
    }),
  );
  ctx.step('twin.planned');
  try {
    await copyFile(ctx.store.pathOf(run.newest.id), ctx.store.pathOf(twin.id), control.signal);
    await steered(control, (options) =>
      rebase(ctx.store.pathOf(twin.id), ctx.store.nameOf(run.below.id), {
        ...options,
        cwd: ctx.store.directory,
        backingFormat: ctx.store.formatOf(run.below.id),
      }),
    );
    await ctx.store.syncFile(twin.id);
    await ctx.store.makeDurable(twin.id, run.newest.id);
    ctx.step('twin.built');
    return twin.id;
  } catch (error) {
    await abandon(ctx, [twin.id]);
    throw error;
  }
}

/** Gives the drive a base of its own: a copy of all its top stands on. */
export async function flattenDrive(
  parts: Parts,
  driveId: DriveId,
  control: WorkControl,
  commit: CommitHook,
): Promise<void> {
  const { ctx } = parts;
  const { db } = ctx.catalog;
  const dead = await withTree(
    ctx,
    async () => (await getHead(db, driveId)).file_id,
    async () => {
      const chain = await chainOf(db, (await getHead(db, driveId)).file_id);
      const [top, below] = chain;
      if (top === undefined || below === undefined || (await isItsOwn(db, chain))) {
        await ctx.catalog.write(commit);
        return [];
      }
      await assertNoOpenRelink(
        ctx,
        chain.map((file) => file.id),
      );
      await settleHeaders(ctx, chain.slice(1));
      const flat = await buildFlat(ctx, driveId, below, control);
      const plan = { children: [top.id], to: flat, move: null, dead: [] };
      return ctx.links.run(() => relink(ctx, plan, (tx) => updateFiles(tx, [flat], { state: 'frozen' }), commit));
    },
  );
  await discard(ctx, dead);
}

/** Whether nothing else needs what the top stands on: there is nothing to be made independent of. */
async function isItsOwn(db: Db, chain: readonly FileRow[]): Promise<boolean> {
  const below = chain.slice(1).map((file) => file.id);
  if ((await pinnedAmong(db, below)).size > 0) return false;
  for (const id of below) if ((await childrenOf(db, id)).length > 1) return false;
  return true;
}

async function buildFlat(ctx: Context, driveId: DriveId, below: FileRow, control: WorkControl): Promise<number> {
  const flat = await ctx.catalog.write((tx) =>
    newFile(ctx, tx, { driveId, backingId: null, sizeBytes: below.size_bytes, state: 'planned', level: baseLevel }),
  );
  ctx.step('flat.planned');
  try {
    await steered(control, (options) => copyChain(ctx.store.pathOf(below.id), ctx.store.pathOf(flat.id), options));
    await ctx.store.syncFile(flat.id);
    await ctx.store.syncDirectory();
  } catch (error) {
    await abandon(ctx, [flat.id]);
    throw error;
  }
  ctx.step('flat.built');
  return flat.id;
}
