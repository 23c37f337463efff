/** What every operation of the qcow2 engine shares: records, files, the daemon's graph, and the locks between them. */
import type { Catalog, Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId } from '../../core/ids.ts';
import type { KeyedMutex, Mutex } from '../../core/mutex.ts';
import type { StorageDaemon } from '../../qemu/storage-daemon.ts';
import type { FileStore } from './file-store.ts';
import type { DaemonGraph, Graph } from './graph.ts';
import {
  deleteFileRows,
  type FileRow,
  type HeadRow,
  headsOn,
  insertFile,
  type NewFile,
  ownersBelow,
  rootOf,
  updateFiles,
} from './records.ts';
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
  graph(): DaemonGraph;
  /** The graph of the process that has a drive open or would open it. @throws machine_off where that is one of somebody else's that cannot be reached */
  graphOf(head: HeadRow): Graph;
  /** Every graph that can be reached. */
  graphs(): readonly Graph[];
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
  /**
   * Says that a process and the catalog have come apart, and why: the engine connects anew, and recovery brings them together.
   * The process is the one of the graph; default: the daemon.
   */
  distrust(reason: unknown, graph?: Graph): void;
  /** Work behind the answer to whoever caused it; awaited when the engine closes. Resolves when it ended, also by failing. */
  background(work: () => Promise<void>): Promise<void>;
  /** Dead files that background work is about to unlink or is unlinking, and the end of that. */
  readonly unlinking: Map<number, Promise<void>>;
  /** Files whose guest-visible allocation was read before; they no longer change. */
  forgetAllocation(fileId: number): void;
}

export type { StorageDaemon };

/** The row of a file to be made, and its place. */
export async function newFile(ctx: Context, tx: Tx, file: NewFile): Promise<FileRow> {
  const row = await insertFile(tx, file);
  ctx.store.place(row);
  return row;
}

/** Where a file is open; none where it is closed. */
export function graphsWith(ctx: Context, fileId: number): Graph[] {
  return ctx.graphs().filter((graph) => graph.isOpen(fileId));
}

/**
 * Whether a process that cannot be reached has files of these open, or may open them at any time: they stay as they are then.
 */
export async function isOutOfReach(ctx: Context, files: readonly FileRow[]): Promise<boolean> {
  if (files.every((file) => file.origin === 'own' && file.path === null)) return false;
  const heads = await headsOn(
    ctx.catalog.db,
    files.map((file) => file.id),
  );
  return heads.some((head) => {
    try {
      return !ctx.graphOf(head).alive;
    } catch {
      return true;
    }
  });
}

/** Writes the row, then the file: an empty overlay that recovery removes unless a later commit adopts it. */
export async function planOverlay(ctx: Context, file: Omit<NewFile, 'state'>): Promise<FileRow> {
  const row = await ctx.catalog.write((tx) => newFile(ctx, tx, { ...file, state: 'planned' }));
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
    for (const graph of ctx.graphs()) if (graph.alive) await graph.tidy();
    const closed = ids.filter((id) => graphsWith(ctx, id).length === 0);
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
