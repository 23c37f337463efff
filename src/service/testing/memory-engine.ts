/**
 * A test double of the engine: drives are maps of 4 KiB blocks, points are copies of them. It keeps the contract's order
 * of things (work, then one commit with the caller's records, then the answer), idempotence by id, and can be stopped at
 * named places to play a crash or long work. Its state outlives the service under test, as files would.
 */
import type { Catalog, CommitHook } from '../../catalog/catalog.ts';
import { CalotypeError, notFound } from '../../core/errors.ts';
import { type Extents, normalizeExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, ExportId } from '../../core/ids.ts';
import type { CheckReport, DriveUsage, SnapshotUsage } from '../../core/model.ts';
import type { Engine, ImageSource, NbdTarget, ReclaimResult, Stillness, WorkControl } from '../../engine/engine.ts';

const blockBytes = 4096;

type Blocks = ReadonlyMap<number, number>;

interface MemoryDrive {
  sizeBytes: number;
  blocks: Map<number, number>;
  dirty: boolean;
  /** Layers since the last compaction. */
  depth: number;
}

interface MemoryPoint {
  readonly driveId: DriveId;
  readonly sizeBytes: number;
  readonly blocks: Blocks;
}

function differing(a: Blocks, b: Blocks): number[] {
  const found = new Set<number>();
  for (const [block, value] of a) if (b.get(block) !== value) found.add(block);
  for (const [block, value] of b) if (a.get(block) !== value) found.add(block);
  return [...found];
}

export class MemoryEngine implements Engine {
  readonly name = 'memory';
  readonly capabilities = {
    atomicGroups: true,
    revertKeepsNewer: true,
    liveRevert: true,
    throttledReclaim: true,
    changeGrainBytes: blockBytes,
  };
  catalog: Catalog;
  readonly drives = new Map<DriveId, MemoryDrive>();
  readonly points = new Map<DriveSnapshotId, MemoryPoint>();
  readonly exports = new Map<ExportId, NbdTarget>();
  readonly garbage = new Map<DriveId, number>();
  readonly operations = new Set<string>();
  /** Names of methods, in the order they were called. */
  readonly calls: string[] = [];
  /** Called at `before:METHOD`, `after:METHOD` (committed, not answered), and `step:METHOD` of long work. */
  gate: (place: string) => Promise<void> | void = () => {};
  low = false;
  compactAbove = Number.POSITIVE_INFINITY;

  constructor(catalog: Catalog) {
    this.catalog = catalog;
  }

  /** What a client of a writable export would do. */
  write(driveId: DriveId, block: number, value: number): void {
    const drive = this.#drive(driveId);
    drive.blocks.set(block, value);
    drive.dirty = true;
  }

  #drive(id: DriveId): MemoryDrive {
    const drive = this.drives.get(id);
    if (drive === undefined) throw notFound('drive', id);
    return drive;
  }

  #point(id: DriveSnapshotId): MemoryPoint {
    const point = this.points.get(id);
    if (point === undefined) throw notFound('drive snapshot', id);
    return point;
  }

  async #commit(method: string, commit: CommitHook, apply: () => void): Promise<void> {
    await this.catalog.write(commit);
    apply();
    await this.gate(`after:${method}`);
  }

  async #begin(method: string): Promise<void> {
    this.calls.push(method);
    await this.gate(`before:${method}`);
  }

  async open(): Promise<readonly string[]> {
    return [];
  }
  async close(): Promise<void> {}
  onServedAnew(): void {}

  async ping(): Promise<void> {}

  async createDrive(drive: { driveId: DriveId; sizeBytes: number }, commit: CommitHook): Promise<void> {
    await this.#begin('createDrive');
    if (this.low) throw new CalotypeError('space_low');
    await this.#commit('createDrive', commit, () => {
      if (this.drives.has(drive.driveId)) return;
      this.drives.set(drive.driveId, { sizeBytes: drive.sizeBytes, blocks: new Map(), dirty: false, depth: 1 });
    });
  }

  async importDrive(
    drive: { driveId: DriveId; source: ImageSource },
    control: WorkControl,
    commit: (sizeBytes: number) => CommitHook,
  ): Promise<number> {
    await this.#begin('importDrive');
    await this.#work('importDrive', control, 4 * blockBytes);
    const sizeBytes = 4 * blockBytes;
    await this.#commit('importDrive', commit(sizeBytes), () =>
      this.drives.set(drive.driveId, { sizeBytes, blocks: new Map([[0, 1]]), dirty: false, depth: 1 }),
    );
    return sizeBytes;
  }

  async resizeDrive(driveId: DriveId, sizeBytes: number, commit: CommitHook): Promise<void> {
    await this.#begin('resizeDrive');
    const drive = this.#drive(driveId);
    if (sizeBytes < drive.sizeBytes) throw new CalotypeError('shrink_not_supported');
    await this.#commit('resizeDrive', commit, () => {
      drive.sizeBytes = sizeBytes;
    });
  }

  async deleteDrive(driveId: DriveId, commit: CommitHook): Promise<void> {
    await this.#begin('deleteDrive');
    await this.#commit('deleteDrive', commit, () => {
      this.#addGarbage(driveId, this.drives.get(driveId)?.blocks.size ?? 0);
      this.drives.delete(driveId);
    });
  }

  async snapshot(
    points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[],
    commit: CommitHook,
    stillness?: Stillness,
  ): Promise<void> {
    await this.#begin('snapshot');
    if (this.low) throw new CalotypeError('space_low');
    for (const { driveId } of points) this.#drive(driveId);
    await stillness?.hold();
    await stillness?.release(true);
    await this.#commit('snapshot', commit, () => {
      for (const { driveId, driveSnapshotId } of points) this.#keep(driveId, driveSnapshotId);
    });
  }

  #keep(driveId: DriveId, id: DriveSnapshotId): void {
    const drive = this.#drive(driveId);
    if (this.points.has(id)) return;
    this.points.set(id, { driveId, sizeBytes: drive.sizeBytes, blocks: new Map(drive.blocks) });
    drive.depth++;
  }

  async revert(
    operationId: string,
    targets: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId; keepAs: DriveSnapshotId | null }[],
    commit: CommitHook,
  ): Promise<void> {
    await this.#begin('revert');
    for (const target of targets) this.#point(target.driveSnapshotId);
    await this.#commit('revert', commit, () => {
      if (this.operations.has(operationId)) return;
      this.operations.add(operationId);
      for (const { driveId, driveSnapshotId, keepAs } of targets) {
        const drive = this.#drive(driveId);
        if (keepAs !== null) this.#keep(driveId, keepAs);
        else this.#addGarbage(driveId, differing(drive.blocks, this.#point(driveSnapshotId).blocks).length);
        drive.blocks = new Map(this.#point(driveSnapshotId).blocks);
      }
    });
  }

  async clone(
    request: { driveSnapshotId: DriveSnapshotId; driveId: DriveId; sizeBytes: number },
    commit: CommitHook,
  ): Promise<void> {
    await this.#begin('clone');
    const point = this.#point(request.driveSnapshotId);
    await this.#commit('clone', commit, () => {
      const blocks = new Map(point.blocks);
      this.drives.set(request.driveId, { sizeBytes: request.sizeBytes, blocks, dirty: false, depth: 2 });
    });
  }

  async copyPoints(
    copies: readonly { from: DriveSnapshotId; to: DriveSnapshotId }[],
    commit: CommitHook,
  ): Promise<void> {
    await this.#begin('copyPoints');
    const found = copies.map(({ from, to }) => ({ to, point: this.points.get(to) ?? this.#point(from) }));
    await this.#commit('copyPoints', commit, () => {
      for (const { to, point } of found) this.points.set(to, point);
    });
  }

  async flatten(driveId: DriveId, control: WorkControl, commit: CommitHook): Promise<void> {
    await this.#begin('flatten');
    const drive = this.#drive(driveId);
    await this.#work('flatten', control, 4 * blockBytes);
    await this.#commit('flatten', commit, () => {
      drive.depth = 1;
    });
  }

  async deleteSnapshots(ids: readonly DriveSnapshotId[], commit: CommitHook): Promise<void> {
    await this.#begin('deleteSnapshots');
    await this.#commit('deleteSnapshots', commit, () => {
      for (const id of ids) {
        const point = this.points.get(id);
        if (point === undefined) continue;
        const live = this.drives.get(point.driveId)?.blocks ?? new Map<number, number>();
        this.#addGarbage(point.driveId, differing(point.blocks, live).length);
        this.points.delete(id);
      }
    });
  }

  #addGarbage(driveId: DriveId, blocks: number): void {
    this.garbage.set(driveId, (this.garbage.get(driveId) ?? 0) + blocks * blockBytes);
  }

  /** Long work in steps of a block, that can be watched, paused and aborted. */
  async #work(method: string, control: WorkControl, totalBytes: number): Promise<void> {
    for (let done = 0; ; done += blockBytes) {
      control.progress(Math.min(done, totalBytes), totalBytes);
      if (done >= totalBytes) return;
      await this.gate(`step:${method}`);
      while (control.wishes().paused && !control.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 5));
      if (control.signal.aborted) throw new CalotypeError('cancelled');
    }
  }

  async reclaim(driveIds: readonly DriveId[], control: WorkControl): Promise<ReclaimResult> {
    await this.#begin('reclaim');
    const bytes = driveIds.reduce((sum, id) => sum + (this.garbage.get(id) ?? 0), 0);
    await this.#work('reclaim', control, bytes);
    for (const id of driveIds) this.garbage.delete(id);
    return { freedBytes: bytes, keptBytes: 0 };
  }

  async compact(driveId: DriveId, control: WorkControl): Promise<boolean> {
    await this.#begin('compact');
    if (!(await this.needsCompaction(driveId))) return false;
    await this.#work('compact', control, 2 * blockBytes);
    this.#drive(driveId).depth = 1;
    return true;
  }

  async needsCompaction(driveId: DriveId): Promise<boolean> {
    return (this.drives.get(driveId)?.depth ?? 0) > this.compactAbove;
  }

  async usage(driveId: DriveId): Promise<DriveUsage> {
    const drive = this.#drive(driveId);
    const liveBytes = drive.blocks.size * blockBytes;
    let snapshotBytes = 0;
    for (const point of this.points.values()) {
      if (point.driveId === driveId) snapshotBytes += differing(point.blocks, drive.blocks).length * blockBytes;
    }
    return {
      virtualBytes: drive.sizeBytes,
      liveBytes,
      snapshotBytes,
      onDiskBytes: liveBytes + snapshotBytes,
      depth: drive.depth,
    };
  }

  async changedBytes(driveId: DriveId, ids: readonly DriveSnapshotId[]): Promise<readonly number[]> {
    await this.#begin('changedBytes');
    const drive = this.#drive(driveId);
    drive.dirty = false;
    return ids.map((id) => differing(this.#point(id).blocks, drive.blocks).length * blockBytes);
  }

  async snapshotUsage(id: DriveSnapshotId): Promise<SnapshotUsage> {
    const point = this.#point(id);
    const live = this.#drive(point.driveId).blocks;
    const sizeBytes = differing(point.blocks, live).length * blockBytes;
    let unique = 0;
    for (const [block, value] of point.blocks) {
      const others = [...this.points].some(([other, { blocks }]) => other !== id && blocks.get(block) === value);
      if (!others && live.get(block) !== value) unique += blockBytes;
    }
    return { sizeBytes, uniqueBytes: unique };
  }

  async isDirty(driveId: DriveId): Promise<boolean> {
    return this.drives.get(driveId)?.dirty ?? false;
  }

  async changedExtents(
    from: DriveSnapshotId | null,
    to: { point: DriveSnapshotId } | { drive: DriveId },
  ): Promise<Extents> {
    const before: Blocks = from === null ? new Map() : this.#point(from).blocks;
    const after = 'point' in to ? this.#point(to.point).blocks : this.#drive(to.drive).blocks;
    return normalizeExtents(
      differing(before, after).map((block) => ({ start: block * blockBytes, length: blockBytes })),
    );
  }

  async startExport(
    request: {
      exportId: ExportId;
      exportName: string;
      of: { drive: DriveId; writable: boolean } | { point: DriveSnapshotId };
    },
    commit: CommitHook,
  ): Promise<NbdTarget> {
    await this.#begin('startExport');
    const target = { exportName: request.exportName, socketPath: this.socketPathOf() };
    await this.#commit('startExport', commit, () => this.exports.set(request.exportId, target));
    return target;
  }

  async adoptDrives(): Promise<void> {
    throw new CalotypeError('not_supported');
  }

  async joinProcess(): Promise<readonly string[]> {
    throw new CalotypeError('not_supported');
  }

  async filesOf(): Promise<readonly []> {
    return [];
  }

  async releaseDrives(): Promise<void> {
    throw new CalotypeError('not_supported');
  }

  socketPathOf(): string {
    return '/run/memory.sock';
  }

  async stopExport(exportId: ExportId, commit: CommitHook): Promise<void> {
    await this.#begin('stopExport');
    await this.#commit('stopExport', commit, () => this.exports.delete(exportId));
  }

  async withReader<T>(
    _of: { drive: DriveId } | { point: DriveSnapshotId },
    use: (target: NbdTarget) => Promise<T>,
  ): Promise<T> {
    return use({ exportName: 'reader', socketPath: this.socketPathOf() });
  }

  async check(driveId: DriveId, control: WorkControl): Promise<CheckReport> {
    await this.#begin('check');
    this.#drive(driveId);
    await this.#work('check', control, blockBytes);
    return { ok: true, files: 1, errors: 0, corruptions: 0, leaks: 0 };
  }

  async doctor(): Promise<{ findings: []; checkedFiles: number }> {
    return { findings: [], checkedFiles: this.drives.size };
  }

  async space(): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }> {
    return { freeBytes: this.low ? 0 : 1e12, totalBytes: 1e12, reserveBytes: 0, low: this.low };
  }
}
