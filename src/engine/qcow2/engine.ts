/**
 * The qcow2 engine: external overlays in one directory, held by one storage daemon. This file is the contract's surface:
 * it takes the locks, retries what a dying daemon interrupted, and leaves the work to the files beside it.
 */
import { constants, mkdirSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Catalog, CommitHook } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { Extents } from '../../core/extents.ts';
import { clipExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, ExportId } from '../../core/ids.ts';
import type { CheckReport, DriveUsage, SnapshotUsage } from '../../core/model.ts';
import { KeyedMutex, Mutex } from '../../core/mutex.ts';
import { convertImport, imageInfo } from '../../qemu/image-tools.ts';
import { reachStorageDaemon, stopStorageDaemon } from '../../qemu/storage-daemon.ts';
import type {
  DoctorReport,
  Engine,
  EngineCapabilities,
  ImageSource,
  NbdTarget,
  ReclaimResult,
  WorkControl,
} from '../engine.ts';
import { Allocations } from './allocations.ts';
import { addSkipLayer, flattenDrive, needsSkipLayer } from './compact.ts';
import { type Context, type EngineLogger, markDead, planOverlay, removeDead } from './context.ts';
import { Deltas } from './deltas.ts';
import { examine } from './doctor.ts';
import { asSpaceError, FileStore } from './file-store.ts';
import { Graph } from './graph.ts';
import { dropSpare, maxDepth, pivotDrives, topDepth } from './pivot.ts';
import { type Parts, reclaim } from './reclaim.ts';
import {
  depthOf,
  findHead,
  findPoint,
  getFile,
  getHead,
  getPoint,
  insertFile,
  insertLayer,
  updateFiles,
} from './records.ts';
import { openDriveExport, openFileExport, recover } from './recover.ts';
import { type RevertTarget, revertDrives, settleTop } from './revert.ts';
import { SpaceGuard } from './space.ts';
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

const retries = 3;
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
  readonly #measured = new Map<DriveId, number>();
  readonly #background = new Set<Promise<void>>();
  #graph: Graph | undefined;
  #direct = true;
  #closing = false;
  #daemonLife = new AbortController();
  #ready: Promise<readonly string[]> = Promise.resolve([]);
  #running = 0;
  #idle: (() => void) | undefined;
  #readers = 0;

  constructor(options: Qcow2EngineOptions) {
    this.#options = options;
    this.#imageDirectory = join(options.dataDirectory, 'images');
    mkdirSync(this.#imageDirectory, { recursive: true, mode: 0o700 });
    this.#space = new SpaceGuard(this.#imageDirectory, {
      minFreeBytes: options.minFreeBytes ?? defaultMinFreeBytes,
      reserveBytes: options.reserveBytes ?? 0,
    });
    const ctx: Context = {
      catalog: options.catalog,
      store: new FileStore(this.#imageDirectory),
      space: this.#space,
      logger: options.logger,
      graph: () => this.#liveGraph(),
      step: (name) => options.onStep?.(name),
      driveLocks: new KeyedMutex<DriveId>(),
      links: new Mutex(),
      trees: new KeyedMutex<number>(),
      background: (work) => this.#inBackground(work),
      forgetAllocation: (id) => allocations.forget(id),
    };
    const allocations = new Allocations(ctx);
    this.#ctx = ctx;
    this.#parts = { ctx, allocations, deltas: new Deltas(ctx, allocations) };
  }

  async open(): Promise<readonly string[]> {
    this.#direct = await takesDirectIo(this.#imageDirectory);
    this.#ready = this.#connect();
    const report = await this.#ready;
    await this.#space.takeReserve();
    return report;
  }

  async close(options: { stopProcesses?: boolean } = {}): Promise<void> {
    this.#closing = true;
    this.#daemonLife.abort();
    await this.#whenIdle();
    await Promise.allSettled([...this.#background]);
    const graph = this.#graph;
    if (graph === undefined || !graph.alive) return;
    if (options.stopProcesses === true) await stopStorageDaemon(graph.daemon);
    else graph.qmp.close();
  }

  async ping(): Promise<void> {
    await this.#ready;
    await this.#liveGraph().jobs();
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

  async importDrive(
    drive: { driveId: DriveId; source: ImageSource },
    control: WorkControl,
    commit: (sizeBytes: number) => CommitHook,
  ): Promise<number> {
    await this.#ready;
    const head = await findHead(this.#ctx.catalog.db, drive.driveId);
    if (head !== undefined) {
      const done = await getFile(this.#ctx.catalog.db, head.file_id);
      await this.#ctx.catalog.write(commit(done.size_bytes));
      return done.size_bytes;
    }
    await this.#space.assertRoom();
    const file = await this.#ctx.catalog.write((tx) =>
      insertFile(tx, { driveId: drive.driveId, backingId: null, sizeBytes: 0, state: 'planned' }),
    );
    this.#ctx.step('import.planned');
    const path = this.#ctx.store.pathOf(file.id);
    try {
      await convertImport(drive.source.path, drive.source.format, path, {
        signal: control.signal,
        onProgress: (done, total) => control.progress(done, total),
      });
      await this.#ctx.store.syncFile(file.id);
      await this.#ctx.store.syncDirectory();
      this.#ctx.step('import.copied');
      const { virtualBytes } = await imageInfo(path);
      await this.#adoptNewDrive(drive.driveId, file.id, virtualBytes, commit(virtualBytes));
      return virtualBytes;
    } catch (error) {
      if ((await findHead(this.#ctx.catalog.db, drive.driveId)) === undefined) await removeDead(this.#ctx, [file.id]);
      throw error;
    }
  }

  resizeDrive(driveId: DriveId, sizeBytes: number, commit: CommitHook): Promise<void> {
    return this.#onDrives([driveId], async () => {
      const head = await getHead(this.#ctx.catalog.db, driveId);
      const top = await getFile(this.#ctx.catalog.db, head.file_id);
      if (sizeBytes < top.size_bytes) {
        throw new CalotypeError('shrink_not_supported', undefined, { sizeBytes: top.size_bytes });
      }
      if (sizeBytes === top.size_bytes) {
        await this.#ctx.catalog.write(commit);
        return;
      }
      await this.#space.assertRoom();
      await pivotDrives(this.#ctx, [{ driveId, sizeBytes }], commit);
      await this.#serveAgain(driveId);
    });
  }

  deleteDrive(driveId: DriveId, commit: CommitHook): Promise<void> {
    return this.#onDrives([driveId], async () => {
      const graph = this.#liveGraph();
      if (graph.rootNamed(`drive:${driveId}`) !== undefined) throw new CalotypeError('drive_exported');
      await this.#ctx.catalog.write(async (tx) => {
        const head = await findHead(tx, driveId);
        if (head !== undefined) {
          await markDead(tx, head.spare_id === null ? [head.file_id] : [head.file_id, head.spare_id]);
          await tx.deleteFrom('qcow2_drives').where('drive_id', '=', driveId).execute();
          await tx.deleteFrom('qcow2_layers').where('id', '=', head.layer_id).execute();
        }
        await commit(tx);
      });
      this.#ctx.step('drive.deleted');
    });
  }

  snapshot(
    points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[],
    commit: CommitHook,
  ): Promise<void> {
    const drives = points.map((point) => point.driveId);
    return this.#onDrives(drives, async () => {
      const first = points[0];
      if (first !== undefined && (await findPoint(this.#ctx.catalog.db, first.driveSnapshotId)) !== undefined) {
        await this.#ctx.catalog.write(commit);
        return;
      }
      await this.#space.assertRoom();
      for (const driveId of drives) await this.#boundDepth(driveId);
      await pivotDrives(
        this.#ctx,
        points.map((point) => ({ driveId: point.driveId, pointId: point.driveSnapshotId })),
        commit,
      );
    });
  }

  revert(operationId: string, targets: readonly RevertTarget[], commit: CommitHook): Promise<void> {
    return this.#onDrives(
      targets.map((target) => target.driveId),
      async () => {
        await this.#space.assertRoom();
        for (const target of targets) {
          await settleTop(this.#ctx, target.driveId);
          await getPoint(this.#ctx.catalog.db, target.driveSnapshotId);
        }
        await this.#ctx.links.run(() => revertDrives(this.#ctx, operationId, targets, commit));
      },
    );
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
        await this.#adoptNewDrive(request.driveId, file.id, null, commit, point.layer_id);
      });
    });
  }

  flatten(driveId: DriveId, control: WorkControl, commit: CommitHook): Promise<void> {
    return this.#long(control, (steered) => flattenDrive(this.#parts, driveId, steered, commit));
  }

  deleteSnapshots(driveSnapshotIds: readonly DriveSnapshotId[], commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      await this.#ctx.catalog.write(async (tx) => {
        for (let at = 0; at < driveSnapshotIds.length; at += 500) {
          await tx
            .deleteFrom('qcow2_points')
            .where('drive_snapshot_id', 'in', driveSnapshotIds.slice(at, at + 500))
            .execute();
        }
        await commit(tx);
      });
      this.#ctx.step('points.deleted');
    });
  }

  async reclaim(driveIds: readonly DriveId[], control: WorkControl): Promise<ReclaimResult> {
    try {
      return await this.#long(control, (steered) => reclaim(this.#parts, driveIds, steered));
    } catch (error) {
      const full = asSpaceError(error);
      if (!(full instanceof CalotypeError) || full.code !== 'space_exhausted') throw error;
      if (!(await this.#space.giveReserve())) throw full;
      return await this.#long(control, (steered) => reclaim(this.#parts, driveIds, steered));
    } finally {
      await this.#space.takeReserve();
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
      this.#measured.set(driveId, Date.now());
      return this.#parts.deltas.changedSince(driveId, driveSnapshotIds);
    });
  }

  snapshotUsage(driveSnapshotId: DriveSnapshotId): Promise<SnapshotUsage> {
    return this.#run(() => pointUsage(this.#parts, driveSnapshotId));
  }

  async isDirty(driveId: DriveId): Promise<boolean> {
    const at = this.#measured.get(driveId);
    if (at === undefined) return true;
    const head = await findHead(this.#ctx.catalog.db, driveId);
    return head !== undefined && (await this.#ctx.store.modifiedMs(head.file_id)) >= at - 1;
  }

  changedExtents(
    from: DriveSnapshotId | null,
    to: { point: DriveSnapshotId } | { drive: DriveId },
  ): Promise<Extents> {
    return this.#run(async () => {
      if (from === null) return dataOf(this.#parts, to);
      const extents = await this.#parts.deltas.between(from, to);
      const fileId =
        'drive' in to
          ? (await getHead(this.#ctx.catalog.db, to.drive)).file_id
          : (await getPoint(this.#ctx.catalog.db, to.point)).file_id;
      return clipExtents(extents, (await getFile(this.#ctx.catalog.db, fileId)).size_bytes);
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
    return 'drive' in of ? this.#onDrives([of.drive], work) : this.#run(work);
  }

  stopExport(exportId: ExportId, commit: CommitHook): Promise<void> {
    return this.#run(async () => {
      const row = await this.#ctx.catalog.db
        .selectFrom('exports')
        .select('drive_id')
        .where('id', '=', exportId)
        .executeTakeFirst();
      const driveId = row?.drive_id ?? null;
      await this.#ctx.driveLocks.run(driveId === null ? [] : [driveId], async () => {
        await this.#endExport(exportId, driveId);
        this.#ctx.step('export.stopped');
        await this.#ctx.catalog.write(commit);
      });
    });
  }

  async withReader<T>(
    of: { drive: DriveId } | { point: DriveSnapshotId },
    use: (target: NbdTarget) => Promise<T>,
  ): Promise<T> {
    const id = `reader-${++this.#readers}-${process.pid}`;
    const target = await this.#run(() => this.#openReader(id, of));
    try {
      return await use(target);
    } finally {
      const graph = this.#graph;
      if (graph?.alive === true) {
        await graph.removeExport(id);
        await graph.release(`reader:${id}`);
      }
    }
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
      throw new CalotypeError('drive_exported', 'A drive has one writable export or several read-only ones.', { driveId });
    }
  }

  async #openReader(id: string, of: { drive: DriveId } | { point: DriveSnapshotId }): Promise<NbdTarget> {
    await this.#ctx.links.run(async () => {
      const db = this.#ctx.catalog.db;
      if ('drive' in of) {
        const head = await getHead(db, of.drive);
        if (this.#liveGraph().isOpenWritable(head.file_id)) throw new CalotypeError('drive_exported');
        await openFileExport(this.#ctx, { id, name: id, fileId: head.file_id, kind: 'reader' });
      } else {
        const point = await getPoint(db, of.point);
        await openFileExport(this.#ctx, { id, name: id, fileId: point.file_id, kind: 'reader' });
      }
    });
    return { exportName: id, socketPath: this.#liveGraph().daemon.nbdSocketPath };
  }

  /** Removes an export; with the last one of a drive, the drive's chain is closed. */
  async #endExport(exportId: string, driveId: DriveId | null): Promise<void> {
    const graph = this.#liveGraph();
    await graph.removeExport(exportId);
    const root = graph.rootNamed(`export:${exportId}`);
    const shared = graph.rootNames().some((name) => {
      return name.startsWith('export:') && name !== `export:${exportId}` && graph.rootNamed(name) === root;
    });
    const roots = [`export:${exportId}`];
    if (driveId !== null && !shared) roots.push(`drive:${driveId}`, `spare:${driveId}`);
    await graph.release(...roots);
    if (driveId === null || shared) return;
    const head = await findHead(this.#ctx.catalog.db, driveId);
    if (head !== undefined) await dropSpare(this.#ctx, head);
  }

  /** An export keeps the size it began with: after growth it begins again. */
  async #serveAgain(driveId: DriveId): Promise<void> {
    const rows = await this.#ctx.catalog.db
      .selectFrom('exports')
      .selectAll()
      .where('drive_id', '=', driveId)
      .execute();
    for (const row of rows) {
      const graph = this.#liveGraph();
      const top = graph.rootNamed(`drive:${driveId}`);
      if (top === undefined) continue;
      await graph.removeExport(row.id);
      await graph.addExport(row.id, row.name, top, row.writable === 1);
    }
  }

  async #adoptNewDrive(
    driveId: DriveId,
    fileId: number,
    sizeBytes: number | null,
    commit: CommitHook,
    parentLayer: number | null = null,
  ): Promise<void> {
    await this.#ctx.catalog.write(async (tx) => {
      await updateFiles(tx, [fileId], { state: 'active', ...(sizeBytes === null ? {} : { size_bytes: sizeBytes }) });
      const layerId = await insertLayer(tx, driveId, parentLayer);
      await tx
        .insertInto('qcow2_drives')
        .values({ drive_id: driveId, file_id: fileId, layer_id: layerId, spare_id: null, last_operation: null })
        .execute();
      await commit(tx);
    });
    this.#ctx.step('drive.adopted');
  }

  /** Compaction normally runs behind; a drive that outpaces it waits here. Caller holds the drive's lock. */
  async #boundDepth(driveId: DriveId): Promise<void> {
    const control: WorkControl = {
      signal: this.#daemonLife.signal,
      progress: () => undefined,
      wishes: () => ({ paused: false, bytesPerSecond: 0 }),
    };
    while ((await topDepth(this.#ctx, driveId)) >= maxDepth) {
      if (!(await addSkipLayer(this.#parts, driveId, control))) {
        const head = await getHead(this.#ctx.catalog.db, driveId);
        const depth = await depthOf(this.#ctx.catalog.db, head.file_id);
        throw new CalotypeError('chain_too_deep', undefined, { depth, limit: maxDepth });
      }
    }
  }

  #liveGraph(): Graph {
    if (this.#graph === undefined) throw new CalotypeError('engine_unavailable', 'The engine is not open.');
    return this.#graph;
  }

  async #connect(): Promise<readonly string[]> {
    const daemon = await reachStorageDaemon({
      runDirectory: join(this.#options.dataDirectory, 'run'),
      imageDirectory: this.#imageDirectory,
    });
    const graph = new Graph(this.#ctx.store, daemon, { direct: this.#direct });
    this.#graph = graph;
    this.#daemonLife = new AbortController();
    const report = await recover(this.#ctx, daemon.adopted);
    graph.qmp.once('close', () => this.#onDaemonLost());
    if (graph.qmp.closed) this.#onDaemonLost();
    return report;
  }

  /** The daemon died under us: once everything that leaned on it has failed, start another and recover. */
  #onDaemonLost(): void {
    if (this.#closing) return;
    this.#options.logger.warn('The storage daemon ended; starting it again.');
    this.#daemonLife.abort();
    this.#ready = this.#whenIdle().then(() => this.#connect());
    this.#ready.then(
      (report) => {
        for (const line of report) this.#options.logger.warn(line);
      },
      (error: unknown) => this.#options.logger.warn(`The storage daemon could not be started: ${String(error)}`),
    );
  }

  async #whenIdle(): Promise<void> {
    while (this.#running > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
  }

  /** Runs work against a live daemon; work that its death interrupted runs again after recovery, which is safe by contract. */
  async #run<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      await this.#ready;
      if (this.#closing) throw new CalotypeError('shutting_down');
      const graph = this.#liveGraph();
      this.#running++;
      try {
        return await work();
      } catch (error) {
        const lost = !graph.alive && !this.#closing;
        if (!lost || attempt >= retries) throw error;
      } finally {
        if (--this.#running === 0) this.#idle?.();
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

  #inBackground(work: () => Promise<void>): void {
    const running = this.#run(work).catch((error: unknown) => {
      if (!this.#closing) this.#options.logger.warn(`Background work failed: ${String(error)}`);
    });
    const tracked = running.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
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

