/**
 * Skip layers: read depth stays logarithmic in the number of snapshots kept. The files below a drive's top have levels,
 * like digits of a number: a run of `runLength` files of one level gets a twin of its newest, one level up, that holds
 * the union of the run and stands on what the run stands on. The twin takes the newest's place; the others stay for the
 * points they are, off the drive's path. A thousand snapshots then read through at most 24 files, and each level keeps
 * the changed data at most once.
 *
 * The twin is built as a private file; the exchange is a relink. Flatten is the same with nothing below.
 */
import type { CommitHook } from '../../catalog/catalog.ts';
import type { DriveId } from '../../core/ids.ts';
import { copyChain, copyFile, rebase } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import { assertNotAborted, type Context, removeDead } from './context.ts';
import {
  baseLevel,
  chainOf,
  childrenOf,
  type FileRow,
  getHead,
  insertFile,
  rootOf,
  updateFiles,
} from './records.ts';
import type { Parts } from './reclaim.ts';
import { relink } from './relink.ts';

/** Files of one level that are folded together. Six keeps 1,000 snapshots at 21 files with three twins of each change. */
const runLength = 6;

const noCommit: CommitHook = async () => undefined;

interface Run {
  newest: FileRow;
  /** What the run stands on. */
  below: FileRow;
  level: number;
  bytes: number;
}

/** The deepest run worth folding: oldest first, so that levels fall from the base to the top. */
export function findRun(chain: readonly FileRow[]): Run | undefined {
  const frozen = chain.slice(1).reverse();
  for (let start = 1; start < frozen.length; start++) {
    const first = frozen[start];
    if (first === undefined || first.level >= baseLevel) continue;
    let end = start;
    while (frozen[end + 1]?.level === first.level) end++;
    const newest = frozen[start + runLength - 1];
    const below = frozen[start - 1];
    if (end - start + 1 >= runLength && newest !== undefined && below !== undefined) {
      return { newest, below, level: first.level, bytes: newest.size_bytes };
    }
    start = end;
  }
  return undefined;
}

export async function needsSkipLayer(ctx: Context, driveId: DriveId): Promise<boolean> {
  const head = await getHead(ctx.catalog.db, driveId);
  return findRun(await chainOf(ctx.catalog.db, head.file_id)) !== undefined;
}

/** Builds one skip layer if one is due. */
export async function addSkipLayer(parts: Parts, driveId: DriveId, control: WorkControl): Promise<boolean> {
  const { ctx } = parts;
  const head = await getHead(ctx.catalog.db, driveId);
  const root = await rootOf(ctx.catalog.db, head.file_id);
  return ctx.trees.run([root], async () => {
    const now = await getHead(ctx.catalog.db, driveId);
    const run = findRun(await chainOf(ctx.catalog.db, now.file_id));
    if (run === undefined) return false;
    assertNotAborted(control.signal);
    await parts.deltas.record([run.newest.id]);
    const twin = await buildTwin(ctx, run, control);
    await ctx.links.run(async () => {
      const children = (await childrenOf(ctx.catalog.db, run.newest.id)).map((child) => child.id);
      await relink(
        ctx,
        { children, to: twin, move: { from: run.newest.id, to: twin }, dead: [run.newest.id] },
        (tx) => updateFiles(tx, [twin], { state: 'frozen' }),
        noCommit,
      );
    });
    return true;
  });
}

async function buildTwin(ctx: Context, run: Run, control: WorkControl): Promise<number> {
  const twin = await ctx.catalog.write((tx) =>
    insertFile(tx, {
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
    await rebase(ctx.store.pathOf(twin.id), ctx.store.nameOf(run.below.id), {
      signal: control.signal,
      cwd: ctx.store.directory,
      onProgress: (done, total) => control.progress(done, total),
    });
    await ctx.store.syncFile(twin.id);
    await ctx.store.syncDirectory();
    ctx.step('twin.built');
    return twin.id;
  } catch (error) {
    await removeDead(ctx, [twin.id]);
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
  const head = await getHead(ctx.catalog.db, driveId);
  const root = await rootOf(ctx.catalog.db, head.file_id);
  await ctx.trees.run([root], async () => {
    const now = await getHead(ctx.catalog.db, driveId);
    const [top, below] = await chainOf(ctx.catalog.db, now.file_id);
    if (top === undefined || below === undefined) {
      await ctx.catalog.write(commit);
      return;
    }
    const flat = await ctx.catalog.write((tx) =>
      insertFile(tx, { driveId, backingId: null, sizeBytes: below.size_bytes, state: 'planned', level: baseLevel }),
    );
    ctx.step('flat.planned');
    try {
      await copyChain(ctx.store.pathOf(below.id), ctx.store.pathOf(flat.id), {
        signal: control.signal,
        onProgress: (done, total) => control.progress(done, total),
      });
      await ctx.store.syncFile(flat.id);
      await ctx.store.syncDirectory();
    } catch (error) {
      await removeDead(ctx, [flat.id]);
      throw error;
    }
    ctx.step('flat.built');
    await ctx.links.run(() =>
      relink(
        ctx,
        { children: [top.id], to: flat.id, move: null, dead: [] },
        (tx) => updateFiles(tx, [flat.id], { state: 'frozen' }),
        commit,
      ),
    );
  });
}
