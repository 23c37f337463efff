/** What every operation of the qcow2 engine shares: records, files, the daemon's graph, and the locks between them. */
import type { Catalog, Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId } from '../../core/ids.ts';
import type { KeyedMutex, Mutex } from '../../core/mutex.ts';
import type { StorageDaemon } from '../../qemu/storage-daemon.ts';
import type { FileStore } from './file-store.ts';
import type { Graph } from './graph.ts';
import { deleteFileRows, type FileRow, insertFile, type NewFile, ownersBelow, rootOf, updateFiles } from './records.ts';
import type { SpaceGuard } from './space.ts';

export interface EngineLogger {
  info(message: string): void;
  warn(message: string): void;
}

export interface Context {
  readonly catalog: Catalog;
  readonly store: FileStore;
  readonly space: SpaceGuard;
  readonly logger: EngineLogger;
  /** The daemon's graph; throws `engine_unavailable` while there is no daemon. */
  graph(): Graph;
  /** Called before and after every durable step, by name; a crash campaign dies here. */
  step(name: string): void;
  /** Top and spare of a drive change only under its lock. */
  readonly driveLocks: KeyedMutex<DriveId>;
  /** Backings of existing files, and which file stands for a point, change only under this one; held briefly. */
  readonly links: Mutex;
  /** One merge, skip layer or flatten at a time in a tree, by its root file. Order of locks: trees, driveLocks, links. */
  readonly trees: KeyedMutex<number>;
  /** Drives whose revert recovery could not finish: nothing may be built on their state. */
  readonly stuck: Set<DriveId>;
  /** Drives whose files lost what another drive had on them: the next reclaim looks at them too. */
  readonly bereft: Set<DriveId>;
  /** Says that daemon and catalog have come apart, and why: the engine connects anew, and recovery brings them together. */
  distrust(reason: unknown): void;
  /** Work behind the answer to whoever caused it; awaited when the engine closes. Resolves when it ended, also by failing. */
  background(work: () => Promise<void>): Promise<void>;
  /** Dead files that background work is about to unlink or is unlinking, and the end of that. */
  readonly unlinking: Map<number, Promise<void>>;
  /** Files whose guest-visible allocation was read before; they no longer change. */
  forgetAllocation(fileId: number): void;
}

export type { StorageDaemon };

/** Writes the row, then the file: an empty overlay that recovery removes unless a later commit adopts it. */
export async function planOverlay(ctx: Context, file: Omit<NewFile, 'state'>): Promise<FileRow> {
  const row = await ctx.catalog.write((tx) => insertFile(tx, { ...file, state: 'planned' }));
  ctx.step('overlay.planned');
  try {
    await ctx.store.createOverlay(row.id, row.size_bytes, row.backing_id);
  } catch (error) {
    await abandon(ctx, [row.id]);
    throw error;
  }
  ctx.step('overlay.created');
  return row;
}

/** Gives up planned files on a way that has failed already; what that cannot remove now, recovery will. */
export async function abandon(ctx: Context, ids: readonly number[]): Promise<void> {
  try {
    await removeDead(ctx, ids);
  } catch (error) {
    ctx.logger.warn(`Unused layer files stay until the next start: ${String(error)}`);
  }
}

/**
 * Closes what a commit has made superfluous, and unlinks it behind the caller's back: that can take long where the file
 * system trims. The change stands already, so this may not fail; `sweepDead` and recovery see to what is left.
 */
export async function discard(ctx: Context, ids: readonly number[]): Promise<void> {
  try {
    const graph = ctx.graph();
    if (graph.alive) await graph.tidy();
    const closed = ids.filter((id) => !graph.isOpen(id));
    if (closed.length === 0) return;
    const unlink = async (): Promise<void> => {
      await removeDead(ctx, closed);
      await ctx.space.takeReserve();
    };
    const ended = ctx.background(unlink).finally(() => {
      for (const id of closed) ctx.unlinking.delete(id);
    });
    for (const id of closed) ctx.unlinking.set(id, ended);
  } catch (error) {
    ctx.logger.warn(`Superfluous layer files stay for now: ${String(error)}`);
  }
}

/** Unlinks dead files and then forgets them. Order matters: a row without file is harmless, a file without row is an orphan. */
export async function removeDead(ctx: Context, ids: readonly number[]): Promise<void> {
  if (ids.length === 0) return;
  await ctx.store.remove(ids);
  ctx.step('dead.unlinked');
  const bereft = await ctx.catalog.write(async (tx) => {
    const owners = await ownersBelow(tx, ids);
    await deleteFileRows(tx, ids);
    return owners;
  });
  for (const driveId of bereft) ctx.bereft.add(driveId);
  for (const id of ids) ctx.forgetAllocation(id);
}

/** Marks files dead in the caller's transaction. */
export async function markDead(tx: Tx, ids: readonly number[]): Promise<void> {
  await updateFiles(tx, ids, { state: 'dead' });
}

export function assertNotAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new CalotypeError('cancelled');
}

/** Runs work with the tree of a file to itself. The root may have been merged away while the lock was waited for. */
export async function withTree<T>(ctx: Context, fileOf: () => Promise<number>, work: () => Promise<T>): Promise<T> {
  for (;;) {
    const root = await rootOf(ctx.catalog.db, await fileOf());
    const done = await ctx.trees.run([root], async () => {
      if ((await rootOf(ctx.catalog.db, await fileOf())) !== root) return undefined;
      return { result: await work() };
    });
    if (done !== undefined) return done.result;
  }
}
