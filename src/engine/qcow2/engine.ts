/**
 * The qcow2 engine: external overlays in one directory, held by one storage daemon. This file is the contract's surface:
 * it takes the locks, retries what a dying daemon interrupted, and leaves the work to the files beside it.
 */
import { constants, mkdirSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Catalog, CommitHook } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { Extents } from '../../core/extents.ts';
import { clipExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, ExportId, MachineId } from '../../core/ids.ts';
import type { CheckReport, DriveUsage, SnapshotUsage } from '../../core/model.ts';
import { KeyedMutex, Mutex } from '../../core/mutex.ts';
import { asSpaceError } from '../../core/space-error.ts';
import { convertImport } from '../../qemu/image-tools.ts';
import { readHeader } from '../../qemu/qcow2.ts';
import { QmpError } from '../../qemu/qmp.ts';
import { nbdSocketIn, reachStorageDaemon, stopStorageDaemon } from '../../qemu/storage-daemon.ts';
import type {
  DoctorReport,
  DriveFiles,
  Engine,
  EngineCapabilities,
  ForeignProcess,
  ImageSource,
  NbdTarget,
  ReclaimResult,
  Stillness,
  WorkControl,
} from '../engine.ts';
import { Allocations } from './allocations.ts';
import { addSkipLayer, flattenDrive, needsSkipLayer, tooDeep } from './compact.ts';
import { abandon, type Context, type EngineLogger, markDead, newFile, planOverlay } from './context.ts';
import { Deltas } from './deltas.ts';
import { examine } from './doctor.ts';
import { FileStore } from './file-store.ts';
import { adoptDrives, filesOf, guardPast, joinProcess, releaseDrives, unguard } from './foreign.ts';
import type { ForeignGraph } from './foreign-graph.ts';
import { DaemonGraph, type Graph } from './graph.ts';
import { dropSpare, maxDepth, pivotDrives, topDepth } from './pivot.ts';
import { drivesWithGarbage, type Parts, reclaim, sweepDead } from './reclaim.ts';
import {
  findFile,
  findHead,
  findPoint,
  getFile,
  getHead,
  getPoint,
  insertLayer,
  insertPoint,
  ownersUnder,
  updateFiles,
} from './records.ts';
import { openDriveExport, openFileExport, recover, serveAtSize } from './recover.ts';
import { forgetReverts, type RevertTarget, revertDrives } from './revert.ts';
import { SpaceGuard } from './space.ts';
import { steered } from './steered.ts';
import { checkDrive, dataOf, driveUsage, pointUsage } from './usage.ts';

export interface Qcow2EngineOptions {
  catalog: Catalog;
  /** Images live in `images/`, sockets in `run/` below it. */
  dataDirectory: string;
  logger: EngineLogger;
  /** Creates are refused when fewer bytes are free. Default 256 MiB. */
  minFreeBytes?: number;
  /** Kept back for deletes. Default 0. */
  reserveBytes?: number;
  /** Called at every durable step; a crash campaign dies here. */
  onStep?: (name: string) => void;
}

/** Work that nobody watches or steers. */
const unhurried = {
  progress: (): void => undefined,
  wishes: (): { paused: boolean; bytesPerSecond: number } => ({ paused: false, bytesPerSecond: 0 }),
};
const retries = 3;
const restartAttempts = 4;
const restartDelayMs = 50;
/** After so many attempts in a row: calls that come meanwhile fail, and try at once themselves. */
const restartAgainMs = 2000;
const daemonExitDeadlineMs = 5000;
/** Times of files come from a clock that moves in ticks. */
const clockTickMs = 20;
/** Long enough for a client to be woken by its answer. */
const behindAnswerMs = 2;
/** For so long readers wait for a merge in another process. */
const lockPatienceMs = 20_000;
const lockRetryMs = 50;
const defaultMinFreeBytes = 256 * 1024 * 1024;

export class Qcow2Engine implements Engine {
  readonly name = 'qcow2';
  readonly capabilities: EngineCapabilities = {
    atomicGroups: true,
    revertKeepsNewer: true,
    liveRevert: true,
    throttledReclaim: true,
    changeGrainBytes: 4096,
  };
  readonly #options: Qcow2EngineOptions;
  readonly #ctx: Context;
  readonly #parts: Parts;
  readonly #space: SpaceGuard;
  readonly #imageDirectory: string;
  readonly #runDirectory: string;
  /** When sizes were last asked, ms, and of which top. */
  readonly #measured = new Map<DriveId, { atMs: number; fileId: number }>();
  readonly #background = new Set<Promise<void>>();
  readonly #servedAnew = new Set<() => void>();
  #graph: DaemonGraph | undefined;
  /** Processes of others that can be reached. */
  readonly #joined = new Map<MachineId, ForeignGraph>();
  #direct = true;
  #closing = false;
  #daemonLife = new AbortController();
  #ready: Promise<readonly string[]> = Promise.resolve([]);
  /** The daemon could not be started again; the next call tries anew. */
  #broken = false;
  #restartTimer: NodeJS.Timeout | undefined;
  #running = 0;
  #idle: (() => void)[] = [];
  #readers = 0;

  constructor(options: Qcow2EngineOptions) {
    this.#options = options;
    this.#imageDirectory = join(options.dataDirectory, 'images');
    this.#runDirectory = join(options.dataDirectory, 'run');
    mkdirSync(this.#imageDirectory, { recursive: true, mode: 0o700 });
    this.#space = new SpaceGuard(this.#imageDirectory, {
      minFreeBytes: options.minFreeBytes ?? defaultMinFreeBytes,
      reserveBytes: options.reserveBytes ?? 0,
    });
    options.catalog.relieveBy(() => this.#space.giveReserve());
    const ctx: Context = {
      catalog: options.catalog,
      store: new FileStore(this.#imageDirectory),
      space: this.#space,
      logger: options.logger,
      graph: () => this.#liveGraph(),
      graphOf: (head) => (head.process_id === null ? this.#liveGraph() : this.#joinedGraph(head.process_id)),
      graphs: () => [this.#liveGraph(), ...this.#joined.values()],
      step: (name) => options.onStep?.(name),
      driveLocks: new KeyedMutex<DriveId>(),
      links: new Mutex(),
      trees: new KeyedMutex<number>(),
      stuck: new Set(),
      bereft: new Set(),
      unlinking: new Map(),
      distrust: (reason, graph) => this.#connectAnew(reason, graph ?? this.#graph),
      background: (work) => this.#inBackground(work),
      forgetAllocation: (id) => allocations.forget(id),
    };
    const allocations = new Allocations(ctx);
    this.#ctx = ctx;
    this.#parts = { ctx, allocations, deltas: new Deltas(ctx, allocations) };
  }

  async open(): Promise<readonly string[]> {
    this.#direct = await takesDirectIo(this.#imageDirectory);
    const outside = this.#options.catalog.db.selectFrom('qcow2_files').selectAll().where('path', 'is not', null);
    for (const row of await outside.execute()) this.#ctx.store.place(row);
    this.#ready = this.#connect();
    const report = await this.#ready;
    await this.#space.takeReserve();
    this.#inBackground(async () => {
      const { signal } = this.#daemonLife;
      await reclaim(this.#parts, await drivesWithGarbage(this.#ctx), { ...unhurried, signal });
    });
    return report;
  }

  async close(options: { stopProcesses?: boolean } = {}): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#restartTimer);
    this.#daemonLife.abort();
    await this.#ready.catch(() => undefined);
    await this.#whenIdle();
    while (this.#background.size > 0) await Promise.allSettled([...this.#background]);
    const graph = this.#graph;
    if (graph === undefined || !graph.alive) return;
    if (options.stopProcesses === true) await stopStorageDaemon(graph.daemon);
    else graph.qmp.close();
  }

  onServedAnew(listener: () => void): void {
    this.#servedAnew.add(listener);
    if (this.#graph?.daemon.adopted === false) listener();
  }

  async ping(): Promise<void> {
    await this.#run(async () => {
      await this.#liveGraph().jobs();
    });
  }

  createDrive(drive: { driveId: DriveId; sizeBytes: number }, commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      if ((await findHead(this.#ctx.catalog.db, drive.driveId)) !== undefined) {
        await this.#ctx.catalog.write(commit);
        return;
      }
      await this.#space.assertRoom();
      const file = await planOverlay(this.#ctx, { ...drive, backingId: null });
      await this.#adoptNewDrive(drive.driveId, file.id, null, commit);
    });
  }

  importDrive(
    drive: { driveId: DriveId; source: ImageSource },
    control: WorkControl,
    commit: (sizeBytes: number) => CommitHook,
  ): Promise<number> {
    return this.#long(control, async (steer) => {
      const head = await findHead(this.#ctx.catalog.db, drive.driveId);
      if (head !== undefined) {
        const done = await getFile(this.#ctx.catalog.db, head.file_id);
        await this.#ctx.catalog.write(commit(done.size_bytes));
        return done.size_bytes;
      }
      await this.#space.assertRoom();
      const file = await this.#ctx.catalog.write((tx) =>
        newFile(this.#ctx, tx, { driveId: drive.driveId, backingId: null, sizeBytes: 0, state: 'planned' }),
      );
      this.#ctx.step('import.planned');
      const path = this.#ctx.store.pathOf(file.id);
      try {
        await steered(steer, (options) => convertImport(drive.source.path, drive.source.format, path, options));
        await this.#ctx.store.syncFile(file.id);
        await this.#ctx.store.syncDirectory();
      } catch (error) {
        await abandon(this.#ctx, [file.id]);
        throw error;
      }
      this.#ctx.step('import.copied');
      const { sizeBytes } = await readHeader(path);
      await this.#adoptNewDrive(drive.driveId, file.id, sizeBytes, commit(sizeBytes));
      return sizeBytes;
    });
  }

  resizeDrive(driveId: DriveId, sizeBytes: number, commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      await this.#boundDepth([driveId]);
      await this.#ctx.driveLocks.run([driveId], async () => {
        await this.#assertOwn([driveId]);
        const head = await getHead(this.#ctx.catalog.db, driveId);
        const top = await getFile(this.#ctx.catalog.db, head.file_id);
        if (sizeBytes < top.size_bytes) {
          throw new CalotypeError('shrink_not_supported', undefined, { sizeBytes: top.size_bytes });
        }
        if (sizeBytes === top.size_bytes) await this.#ctx.catalog.write(commit);
        else {
          await this.#space.assertRoom();
          await pivotDrives(this.#ctx, [{ driveId, sizeBytes }], commit);
        }
        await this.#serveAgain(driveId);
      });
    });
  }

  adoptDrives(
    process: ForeignProcess,
    drives: readonly { driveId: DriveId; device: string }[],
    commit: CommitHook,
  ): Promise<void> {
    return this.#onDrives(
      drives.map((drive) => drive.driveId),
      async () => {
        const [first] = drives;
        const head = first === undefined ? undefined : await findHead(this.#ctx.catalog.db, first.driveId);
        if (head !== undefined) await this.#ctx.catalog.write(commit);
        else await adoptDrives(this.#ctx, process, drives, commit);
      },
    );
  }

  async joinProcess(process: ForeignProcess): Promise<readonly string[]> {
    const heads = this.#ctx.catalog.db.selectFrom('qcow2_drives').select('drive_id');
    const drives = (await heads.where('process_id', '=', process.id).execute()).map((head) => head.drive_id);
    return this.#onDrives(drives, async () => {
      await unguard(this.#ctx, drives);
      const { graph, report } = await joinProcess(this.#ctx, process);
      if (!graph.alive) throw new CalotypeError('engine_unavailable', 'The connection to the machine was lost.');
      this.#joined.set(process.id, graph);
      process.qmp.once('close', () => {
        if (this.#joined.get(process.id) === graph) this.#joined.delete(process.id);
        if (!this.#closing) this.#inBackground(() => guardPast(this.#ctx, process.id, this.#daemonLife.signal));
      });
      this.#inBackground(async () => {
        await reclaim(this.#parts, drives, { ...unhurried, signal: this.#daemonLife.signal });
      });
      return report;
    });
  }

  releaseDrives(driveIds: readonly DriveId[], commit: (released: readonly DriveFiles[]) => CommitHook): Promise<void> {
    return this.#onDrives(driveIds, () => this.#ctx.links.run(() => releaseDrives(this.#ctx, driveIds, commit)));
  }

  filesOf(driveIds: readonly DriveId[]): Promise<readonly DriveFiles[]> {
    return filesOf(this.#ctx, driveIds);
  }

  deleteDrive(driveId: DriveId, commit: CommitHook): Promise<void> {
    return this.#onDrives([driveId], async () => {
      await this.#assertOwn([driveId]);
      const graph = this.#liveGraph();
      if (graph.rootNamed(`drive:${driveId}`) !== undefined) throw new CalotypeError('drive_exported');
      await this.#evenWhenFull(() =>
        this.#ctx.catalog.write(async (tx) => {
          const head = await findHead(tx, driveId);
          await forgetReverts(tx, driveId);
          if (head !== undefined) {
            await markDead(tx, head.spare_id === null ? [head.file_id] : [head.file_id, head.spare_id]);
            await tx.deleteFrom('qcow2_drives').where('drive_id', '=', driveId).execute();
            await tx.deleteFrom('qcow2_layers').where('id', '=', head.layer_id).execute();
          }
          await commit(tx);
        }),
      );
      this.#ctx.stuck.delete(driveId);
      this.#ctx.step('drive.deleted');
    });
  }

  snapshot(
    points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[],
    commit: CommitHook,
    stillness?: Stillness,
  ): Promise<void> {
    const drives = points.map((point) => point.driveId);
    return this.#run(async () => {
      const first = points[0];
      if (first !== undefined && (await findPoint(this.#ctx.catalog.db, first.driveSnapshotId)) !== undefined) {
        await this.#ctx.catalog.write(commit);
        return;
      }
      await this.#space.assertRoom();
      await this.#boundDepth(drives);
      await this.#ctx.driveLocks.run(drives, () =>
        pivotDrives(
          this.#ctx,
          points.map((point) => ({ driveId: point.driveId, pointId: point.driveSnapshotId })),
          commit,
          stillness,
        ),
      );
    });
  }

  revert(operationId: string, targets: readonly RevertTarget[], commit: CommitHook): Promise<void> {
    const drives = targets.map((target) => target.driveId);
    return this.#onDrives(drives, async () => {
      await this.#assertOwn(drives);
      await this.#space.assertRoom();
      await this.#ctx.links.run(() => revertDrives(this.#ctx, operationId, targets, commit));
    });
  }

  clone(
    request: { driveSnapshotId: DriveSnapshotId; driveId: DriveId; sizeBytes: number },
    commit: CommitHook,
  ): Promise<void> {
    return this.#run(async () => {
      if ((await findHead(this.#ctx.catalog.db, request.driveId)) !== undefined) {
        await this.#ctx.catalog.write(commit);
        return;
      }
      await this.#space.assertRoom();
      await this.#ctx.links.run(async () => {
        const point = await getPoint(this.#ctx.catalog.db, request.driveSnapshotId);
        const source = await getFile(this.#ctx.catalog.db, point.file_id);
        if (request.sizeBytes < source.size_bytes) {
          throw new CalotypeError('shrink_not_supported', undefined, { sizeBytes: source.size_bytes });
        }
        const file = await planOverlay(this.#ctx, {
          driveId: request.driveId,
          backingId: point.file_id,
          sizeBytes: request.sizeBytes,
        });
        await this.#adoptNewDrive(
          request.driveId,
          file.id,
          null,
          async (tx) => {
            await getPoint(tx, request.driveSnapshotId); // Nothing may stand on a point that is gone.
            await commit(tx);
          },
          point.layer_id,
        );
      });
    });
  }

  copyPoints(copies: readonly { from: DriveSnapshotId; to: DriveSnapshotId }[], commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      await this.#ctx.catalog.write(async (tx) => {
        for (const { from, to } of copies) {
          if ((await findPoint(tx, to)) !== undefined) continue;
          await insertPoint(tx, { ...(await getPoint(tx, from)), drive_snapshot_id: to });
        }
        await commit(tx);
      });
      this.#ctx.step('points.copied');
    });
  }

  flatten(driveId: DriveId, control: WorkControl, commit: CommitHook): Promise<void> {
    return this.#long(control, async (steered) => {
      await this.#assertOwn([driveId]);
      await flattenDrive(this.#parts, driveId, steered, commit);
    });
  }

  deleteSnapshots(driveSnapshotIds: readonly DriveSnapshotId[], commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      // Under `links`: who builds on a point holds it from its look at the point to its commit.
      const owners = await this.#ctx.links.run(() =>
        this.#evenWhenFull(() =>
          this.#ctx.catalog.write(async (tx) => {
            const bereft: DriveId[] = [];
            for (let at = 0; at < driveSnapshotIds.length; at += 500) {
              const some = driveSnapshotIds.slice(at, at + 500);
              bereft.push(...(await ownersUnder(tx, some)));
              await tx.deleteFrom('qcow2_points').where('drive_snapshot_id', 'in', some).execute();
            }
            await commit(tx);
            return bereft;
          }),
        ),
      );
      for (const driveId of owners) this.#ctx.bereft.add(driveId);
      this.#ctx.step('points.deleted');
    });
  }

  async reclaim(driveIds: readonly DriveId[], control: WorkControl): Promise<ReclaimResult> {
    try {
      return await this.#evenWhenFull(() => this.#long(control, (steer) => reclaim(this.#parts, driveIds, steer)));
    } finally {
      await this.#space.takeReserve();
    }
  }

  /** A full disk must not be in the way of giving space back: then the reserve goes, and the work is done again. */
  async #evenWhenFull<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const full = asSpaceError(error);
      if (!(full instanceof CalotypeError) || full.code !== 'space_exhausted') throw error;
      if (!(await this.#space.giveReserve())) throw full;
      return work();
    }
  }

  async compact(driveId: DriveId, control: WorkControl): Promise<boolean> {
    let worked = false;
    while (await this.#long(control, (steered) => addSkipLayer(this.#parts, driveId, steered))) worked = true;
    return worked;
  }

  needsCompaction(driveId: DriveId): Promise<boolean> {
    return this.#run(async () => {
      const head = await findHead(this.#ctx.catalog.db, driveId);
      return head !== undefined && (await needsSkipLayer(this.#ctx, driveId));
    });
  }

  usage(driveId: DriveId): Promise<DriveUsage> {
    return this.#run(() => driveUsage(this.#parts, driveId));
  }

  changedBytes(driveId: DriveId, driveSnapshotIds: readonly DriveSnapshotId[]): Promise<readonly number[]> {
    return this.#run(async () => {
      const head = await findHead(this.#ctx.catalog.db, driveId);
      if (head !== undefined) this.#measured.set(driveId, { atMs: Date.now(), fileId: head.file_id });
      return this.#parts.deltas.changedSince(driveId, driveSnapshotIds);
    });
  }

  snapshotUsage(driveSnapshotId: DriveSnapshotId): Promise<SnapshotUsage> {
    return this.#run(() => pointUsage(this.#parts, driveSnapshotId));
  }

  async isDirty(driveId: DriveId): Promise<boolean> {
    const last = this.#measured.get(driveId);
    if (last === undefined) return true;
    const head = await findHead(this.#ctx.catalog.db, driveId);
    if (head === undefined) return false;
    if (head.file_id !== last.fileId) return true;
    return (await this.#ctx.store.modifiedMs(head.file_id)) >= last.atMs - clockTickMs;
  }

  changedExtents(from: DriveSnapshotId | null, to: { point: DriveSnapshotId } | { drive: DriveId }): Promise<Extents> {
    return this.#run(async () => {
      if (from === null) return dataOf(this.#parts, to);
      const extents = await this.#parts.deltas.between(from, to);
      const { db } = this.#ctx.catalog;
      const { file_id: fileId } = 'drive' in to ? await getHead(db, to.drive) : await getPoint(db, to.point);
      const file = await findFile(db, fileId);
      return file === undefined ? extents : clipExtents(extents, file.size_bytes);
    });
  }

  startExport(
    request: {
      exportId: ExportId;
      exportName: string;
      of: { drive: DriveId; writable: boolean } | { point: DriveSnapshotId };
    },
    commit: CommitHook,
  ): Promise<NbdTarget> {
    const { of } = request;
    const work = async (): Promise<NbdTarget> => {
      const graph = this.#liveGraph();
      const root = `export:${request.exportId}`;
      if (graph.rootNamed(root) === undefined) {
        if ('drive' in of) {
          await this.#assertOwn([of.drive]);
          this.#assertExportable(of.drive, of.writable);
          const { drive: driveId, writable } = of;
          await this.#ctx.links.run(() =>
            openDriveExport(this.#ctx, { id: request.exportId, name: request.exportName, driveId, writable }),
          );
        } else {
          await this.#ctx.links.run(async () => {
            const point = await getPoint(this.#ctx.catalog.db, of.point);
            const fileId = point.file_id;
            await openFileExport(this.#ctx, { id: request.exportId, name: request.exportName, fileId, kind: 'export' });
          });
        }
      }
      this.#ctx.step('export.started');
      try {
        await this.#ctx.catalog.write(commit);
      } catch (error) {
        await this.#endExport(request.exportId, 'drive' in of ? of.drive : null);
        throw error;
      }
      return { exportName: request.exportName, socketPath: graph.daemon.nbdSocketPath };
    };
    return this.#pastMerges(() => ('drive' in of ? this.#onDrives([of.drive], work) : this.#run(work)));
  }

  /**
   * Opens what an adopted machine may be merging in its own process at this moment: QEMU's locks keep others out until it has.
   * Asked again from the start, for a merge changes what stands on what.
   */
  async #pastMerges<T>(open: () => Promise<T>): Promise<T> {
    for (const until = Date.now() + lockPatienceMs; ; await delay(lockRetryMs)) {
      try {
        return await open();
      } catch (error) {
        if (this.#joined.size === 0 || !isLockRefusal(error) || Date.now() > until) throw error;
      }
    }
  }

  socketPathOf(): string {
    return nbdSocketIn(this.#runDirectory);
  }

  stopExport(exportId: ExportId, commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      const driveId = await this.#driveOfExport(exportId);
      await this.#ctx.driveLocks.run(driveId === null ? [] : [driveId], async () => {
        // From the commit on it is not wanted: whatever dies, nobody serves it again.
        await this.#ctx.catalog.write(commit);
        this.#ctx.step('export.stopped');
        const graph = this.#liveGraph();
        await this.#endExport(exportId, driveId).catch((error: unknown) => {
          if (graph.alive) throw error;
        });
      });
    });
  }

  async #driveOfExport(exportId: ExportId): Promise<DriveId | null> {
    const row = await this.#ctx.catalog.db
      .selectFrom('exports')
      .select('drive_id')
      .where('id', '=', exportId)
      .executeTakeFirst();
    if (row !== undefined) return row.drive_id;
    const graph = this.#liveGraph();
    const top = graph.rootNamed(`export:${exportId}`);
    const heads = top === undefined ? [] : await this.#ctx.catalog.db.selectFrom('qcow2_drives').selectAll().execute();
    return heads.find((head) => graph.rootNamed(`drive:${head.drive_id}`) === top)?.drive_id ?? null;
  }

  async withReader<T>(
    of: { drive: DriveId } | { point: DriveSnapshotId },
    use: (target: NbdTarget) => Promise<T>,
  ): Promise<T> {
    const id = `reader-${++this.#readers}-${process.pid}`;
    const { graph, target } = await this.#pastMerges(() => this.#run(() => this.#openReader(id, of)));
    try {
      return await use(target);
    } finally {
      if (graph.alive) await this.#closeReader(graph, id);
    }
  }

  /** What was read is whole by now: a failure here is no failure of the reading. */
  async #closeReader(graph: DaemonGraph, id: string): Promise<void> {
    try {
      await graph.removeExport(id);
      await graph.release(`reader:${id}`);
      if (!this.#closing) this.#sweepBehind();
    } catch (error) {
      if (graph.alive) this.#options.logger.warn(`A reader could not be closed: ${String(error)}`);
    }
  }

  /** Files that somebody still had open when they were given up go once nobody has. */
  #sweepBehind(): void {
    this.#inBackground(async () => {
      await sweepDead(this.#ctx);
    });
  }

  check(driveId: DriveId, control: WorkControl): Promise<CheckReport> {
    return this.#long(control, (steered) => checkDrive(this.#parts, driveId, steered));
  }

  doctor(options: { repair: boolean }): Promise<DoctorReport> {
    return this.#run(() => examine(this.#parts, options));
  }

  async space(): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }> {
    return this.#space.measure();
  }

  #assertExportable(driveId: DriveId, writable: boolean): void {
    const graph = this.#liveGraph();
    const top = graph.rootNamed(`drive:${driveId}`);
    if (top === undefined) return;
    if (writable || graph.isOpenWritable(top)) {
      throw new CalotypeError('drive_exported', 'A drive has one writable export or several read-only ones.', {
        driveId,
      });
    }
  }

  async #openReader(
    id: string,
    of: { drive: DriveId } | { point: DriveSnapshotId },
  ): Promise<{ graph: DaemonGraph; target: NbdTarget }> {
    const graph = this.#liveGraph();
    await this.#ctx.links.run(async () => {
      const db = this.#ctx.catalog.db;
      if ('drive' in of) {
        await this.#assertOwn([of.drive]);
        const head = await getHead(db, of.drive);
        if (graph.isOpenWritable(head.file_id)) throw new CalotypeError('drive_exported');
        await openFileExport(this.#ctx, { id, name: id, fileId: head.file_id, kind: 'reader' });
      } else {
        const point = await getPoint(db, of.point);
        await openFileExport(this.#ctx, { id, name: id, fileId: point.file_id, kind: 'reader' });
      }
    });
    return { graph, target: { exportName: id, socketPath: graph.daemon.nbdSocketPath } };
  }

  /** Removes an export; with the last one of a drive, the drive's chain is closed. */
  async #endExport(exportId: string, driveId: DriveId | null): Promise<void> {
    const graph = this.#liveGraph();
    await graph.removeExport(exportId);
    const root = graph.rootNamed(`export:${exportId}`);
    const shared = graph.rootNames().some((name) => {
      return name.startsWith('export:') && name !== `export:${exportId}` && graph.rootNamed(name) === root;
    });
    if (driveId === null || shared) await graph.release(`export:${exportId}`);
    else {
      const head = await findHead(this.#ctx.catalog.db, driveId);
      if (head !== undefined) await dropSpare(this.#ctx, head);
      await graph.release(`export:${exportId}`, `drive:${driveId}`, `spare:${driveId}`);
    }
    this.#sweepBehind();
  }

  /** After growth. The size stands already: what cannot be served now is served by recovery. */
  async #serveAgain(driveId: DriveId): Promise<void> {
    const { db } = this.#ctx.catalog;
    try {
      const rows = await db.selectFrom('exports').selectAll().where('drive_id', '=', driveId).execute();
      for (const row of rows) await serveAtSize(this.#ctx, row, driveId);
    } catch (error) {
      this.#ctx.distrust(error);
    }
  }

  async #adoptNewDrive(
    driveId: DriveId,
    fileId: number,
    sizeBytes: number | null,
    commit: CommitHook,
    parentLayer: number | null = null,
  ): Promise<void> {
    try {
      await this.#ctx.catalog.write(async (tx) => {
        await updateFiles(tx, [fileId], { state: 'active', ...(sizeBytes === null ? {} : { size_bytes: sizeBytes }) });
        const layerId = await insertLayer(tx, driveId, parentLayer);
        await tx
          .insertInto('qcow2_drives')
          .values({ drive_id: driveId, file_id: fileId, layer_id: layerId, spare_id: null, last_operation: null })
          .execute();
        await commit(tx);
      });
    } catch (error) {
      await abandon(this.#ctx, [fileId]);
      throw error;
    }
    this.#ctx.step('drive.adopted');
  }

  /** Compaction normally runs behind; a drive that outpaces it waits here. Takes trees, so that no drive's lock may be held. */
  async #boundDepth(driveIds: readonly DriveId[]): Promise<void> {
    const control: WorkControl = {
      signal: this.#daemonLife.signal,
      progress: () => undefined,
      wishes: () => ({ paused: false, bytesPerSecond: 0 }),
    };
    for (const driveId of driveIds) {
      while ((await topDepth(this.#ctx, driveId)) >= maxDepth) {
        if (await addSkipLayer(this.#parts, driveId, control)) continue;
        // While this waited for the tree, others may have made the room.
        if ((await topDepth(this.#ctx, driveId)) >= maxDepth) throw tooDeep();
      }
    }
  }

  /** What needs to open the drive here cannot be done while another process has it. @throws machine_adopted */
  async #assertOwn(driveIds: readonly DriveId[]): Promise<void> {
    for (const driveId of driveIds) {
      const head = await findHead(this.#ctx.catalog.db, driveId);
      if (head === undefined || head.process_id === null) continue;
      throw new CalotypeError(
        'machine_adopted',
        'The drive belongs to an adopted machine, whose process has it open.',
        {
          driveId,
          machineId: head.process_id,
          remedy: 'Take a snapshot, and work with a clone of that.',
        },
      );
    }
  }

  /** @throws machine_off */
  #joinedGraph(id: MachineId): ForeignGraph {
    const graph = this.#joined.get(id);
    if (graph?.alive === true) return graph;
    throw new CalotypeError('machine_off', 'The process of the adopted machine cannot be reached.', {
      machineId: id,
      remedy: 'Start the machine, with its monitor on the socket it was adopted by.',
    });
  }

  #liveGraph(): DaemonGraph {
    if (this.#graph === undefined) throw new CalotypeError('engine_unavailable', 'The engine is not open.');
    return this.#graph;
  }

  async #connect(): Promise<readonly string[]> {
    const daemon = await reachStorageDaemon({
      runDirectory: this.#runDirectory,
      imageDirectory: this.#imageDirectory,
    });
    const graph = new DaemonGraph(this.#ctx.store, daemon, { direct: this.#direct });
    this.#graph = graph;
    this.#daemonLife = new AbortController();
    try {
      const report = await recover(this.#ctx, daemon.adopted);
      graph.qmp.once('close', () => this.#onDaemonLost(graph));
      if (graph.qmp.closed) throw new CalotypeError('engine_unavailable', 'The storage daemon ended during recovery.');
      this.#inBackground(() => guardPast(this.#ctx, null, this.#daemonLife.signal));
      if (!daemon.adopted) for (const listener of this.#servedAnew) listener();
      return report;
    } catch (error) {
      graph.qmp.removeAllListeners('close');
      graph.qmp.close();
      throw error;
    }
  }

  /** What the mirror of a process says can no longer be relied on: the process lives on, the connection is made anew. */
  #connectAnew(reason: unknown, graph: Graph | undefined): void {
    this.#options.logger.warn(`Catalog and QEMU have to be brought together: ${String(reason)}`);
    graph?.qmp.close();
  }

  /** The daemon died under us, or was let go: once everything that leaned on it has failed, find or start one and recover. */
  #onDaemonLost(lost: DaemonGraph): void {
    if (this.#closing || lost !== this.#graph) return;
    this.#options.logger.warn('The connection to the storage daemon was lost; it is made again.');
    this.#daemonLife.abort();
    this.#startAgain(lost.daemon.pid);
  }

  #startAgain(oldPid: number | null): void {
    this.#broken = false;
    clearTimeout(this.#restartTimer);
    this.#ready = this.#restart(oldPid);
    this.#ready.then(
      (report) => {
        for (const line of report) this.#options.logger.warn(line);
      },
      (error: unknown) => {
        this.#broken = true;
        if (this.#closing) return;
        this.#options.logger.warn(`The storage daemon could not be started: ${String(error)}`);
        // Exports wait to be served again, whether or not anybody calls.
        this.#restartTimer = setTimeout(() => this.#startAgain(null), restartAgainMs);
        this.#restartTimer.unref();
      },
    );
  }

  async #restart(oldPid: number | null): Promise<readonly string[]> {
    await this.#whenIdle();
    for (let attempt = 1; ; attempt++) {
      if (this.#closing) throw new CalotypeError('shutting_down');
      try {
        return await this.#connect();
      } catch (error) {
        // A daemon that was killed holds its image locks until it is quite gone; a disk may be full.
        if (attempt === restartAttempts) throw error;
        this.#options.logger.warn(`Recovery is tried again: ${String(error)}`);
        await this.#space.giveReserveIf(asSpaceError(error));
        if (oldPid !== null) await whenGone(oldPid, daemonExitDeadlineMs);
        await delay(restartDelayMs * 2 ** attempt);
      }
    }
  }

  async #whenIdle(): Promise<void> {
    while (this.#running > 0) {
      await new Promise<void>((resolve) => {
        this.#idle.push(resolve);
      });
    }
  }

  /** Runs work against a live daemon; work that its death interrupted runs again after recovery, which is safe by contract. */
  async #run<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      if (this.#broken && !this.#closing) this.#startAgain(null);
      for (let ready: unknown; ready !== this.#ready; ) {
        ready = this.#ready;
        await this.#ready;
      }
      if (this.#closing) throw new CalotypeError('shutting_down');
      const graph = this.#liveGraph();
      this.#running++;
      try {
        return await work();
      } catch (error) {
        const lost = !graph.alive && !this.#closing;
        if (!lost || attempt >= retries) throw error;
      } finally {
        if (--this.#running === 0) for (const wake of this.#idle.splice(0)) wake();
      }
    }
  }

  #onDrives<T>(driveIds: readonly DriveId[], work: () => Promise<T>): Promise<T> {
    return this.#run(() => this.#ctx.driveLocks.run(driveIds, work));
  }

  /** Like `#run`, for work that is also ended by the daemon's death or the engine's close. */
  #long<T>(control: WorkControl, work: (steered: WorkControl) => Promise<T>): Promise<T> {
    return this.#run(() => {
      const signal = AbortSignal.any([control.signal, this.#daemonLife.signal]);
      return work({
        signal,
        progress: (done, total) => control.progress(done, total),
        wishes: () => control.wishes(),
      });
    }).catch((error: unknown) => {
      if (this.#closing && !control.signal.aborted) throw new CalotypeError('shutting_down');
      throw error;
    });
  }

  /** Behind the answer to whoever caused it, which the work would hold up: by its commits, and by keeping the processor busy. */
  #inBackground(work: () => Promise<void>): Promise<void> {
    const running = delay(behindAnswerMs)
      .then(() => this.#run(work))
      .catch((error: unknown) => {
        if (!this.#closing) this.#options.logger.warn(`Background work failed: ${String(error)}`);
      });
    const tracked = running.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
    return tracked;
  }
}

function isLockRefusal(error: unknown): boolean {
  return error instanceof QmpError && /Failed to get (shared )?".*" lock/.test(error.message);
}

/** Waits until a process has ended. */
async function whenGone(pid: number, deadlineMs: number): Promise<void> {
  const isThere = (): boolean => {
    try {
      return pid > 0 && process.kill(pid, 0);
    } catch {
      return false;
    }
  };
  for (const until = Date.now() + deadlineMs; isThere() && Date.now() < until; ) await delay(10);
}

/** Whether files there can be opened past the page cache. */
async function takesDirectIo(directory: string): Promise<boolean> {
  const path = join(directory, `.direct-${process.pid}`);
  try {
    const handle = await open(path, constants.O_CREAT | constants.O_WRONLY | constants.O_DIRECT, 0o600);
    await handle.close();
    return true;
  } catch {
    return false;
  } finally {
    await rm(path, { force: true });
  }
}
