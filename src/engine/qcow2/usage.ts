/** What drives and points take on disk. All figures come from allocation maps and the file system, none is estimated. */
import { CalotypeError } from '../../core/errors.ts';
import { clipExtents, type Extents, subtractExtents, sumExtents, unionExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { CheckReport, DriveUsage, SnapshotUsage } from '../../core/model.ts';
import { checkImage } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import type { Allocation } from './allocations.ts';
import { withTree } from './context.ts';
import type { Place } from './deltas.ts';
import { MovedError, whileFilesMove } from './moving-files.ts';
import { freedWithout, type Parts } from './reclaim.ts';
import { chainOf, type FileRow, findFile, findHead, getHead, getPoint } from './records.ts';
import { untilWanted } from './steered.ts';

export function driveUsage(parts: Parts, driveId: DriveId): Promise<DriveUsage> {
  return whileFilesMove(async () => {
    const { ctx } = parts;
    const head = await findHead(ctx.catalog.db, driveId);
    const chain = head === undefined ? [] : await chainOf(ctx.catalog.db, head.file_id);
    let covered: Extents = [];
    let liveBytes = 0;
    let liveOwnBytes = 0;
    for (const file of chain) {
      const found = await allocationOf(parts, file);
      const seen = sumExtents(subtractExtents(found.data, covered));
      liveBytes += seen;
      if (file.drive_id === driveId) liveOwnBytes += seen;
      covered = unionExtents(covered, found.all);
    }
    let dataBytes = 0;
    let onDiskBytes = 0;
    for (const file of await ownFiles(parts, driveId)) {
      onDiskBytes += await ctx.store.diskBytes(file.id);
      if (file.state !== 'frozen' && file.state !== 'active') continue;
      dataBytes += sumExtents((await allocationOf(parts, file)).data);
    }
    return {
      virtualBytes: chain[0]?.size_bytes ?? 0,
      liveBytes,
      snapshotBytes: Math.max(0, dataBytes - liveOwnBytes),
      onDiskBytes,
      depth: chain.length,
    };
  });
}

function allocationOf(parts: Parts, file: FileRow): Promise<Allocation> {
  return file.state === 'active' ? parts.allocations.top(file.drive_id, file.id) : parts.allocations.frozen(file.id);
}

export async function pointUsage(parts: Parts, pointId: DriveSnapshotId): Promise<SnapshotUsage> {
  const { db } = parts.ctx.catalog;
  const { drive_id: driveId } = await getPoint(db, pointId);
  const [sizeBytes] = await parts.deltas.changedSince(driveId, [pointId]);
  const uniqueBytes = await whileFilesMove(async () => freedWithout(parts, (await getPoint(db, pointId)).file_id));
  return { sizeBytes: sizeBytes ?? 0, uniqueBytes };
}

/** Where a place in history holds data that is not zeros, through its whole chain. */
export function dataOf(parts: Parts, place: Place): Promise<Extents> {
  return whileFilesMove(async () => {
    const { db } = parts.ctx.catalog;
    const { file_id: fileId } = 'drive' in place ? await getHead(db, place.drive) : await getPoint(db, place.point);
    const chain = await chainOf(db, fileId);
    const [top] = chain;
    if (top === undefined) throw new MovedError();
    let covered: Extents = [];
    let data: Extents = [];
    for (const file of chain) {
      const found = await allocationOf(parts, file);
      data = unionExtents(data, subtractExtents(found.data, covered));
      covered = unionExtents(covered, found.all);
    }
    return clipExtents(data, top.size_bytes);
  });
}

/** Verifies every file of the drive, its points' included, one by one, each in a moment when nothing changes it. */
export async function checkDrive(parts: Parts, driveId: DriveId, control: WorkControl): Promise<CheckReport> {
  const { ctx } = parts;
  const { db } = ctx.catalog;
  const head = await findHead(db, driveId);
  assertAtRest(parts, head?.file_id);
  const own = (await ownFiles(parts, driveId)).filter((file) => file.state === 'active' || file.state === 'frozen');
  const chain = head === undefined ? [] : await chainOf(db, head.file_id);
  const all = [...new Map([...own, ...chain].map((file) => [file.id, file])).values()];
  const total = all.reduce((sum, file) => sum + file.size_bytes, 0);
  const report = { files: 0, errors: 0, corruptions: 0, leaks: 0 };
  let done = 0;
  for (const file of all) {
    await untilWanted(control);
    const result = await withTree(
      ctx,
      async () => file.id,
      async () => {
        const now = await findFile(db, file.id);
        if (now === undefined || now.state === 'dead') return undefined; // Merged away since: its data is in another.
        assertAtRest(parts, file.id);
        return checkImage(ctx.store.pathOf(file.id), { signal: control.signal });
      },
    );
    if (result !== undefined) {
      report.files++;
      report.errors += result.errors;
      report.corruptions += result.corruptions;
      report.leaks += result.leaks;
    }
    done += file.size_bytes;
    control.progress(done, total);
  }
  return { ok: report.errors === 0 && report.corruptions === 0, ...report };
}

function assertAtRest(parts: Parts, fileId: number | undefined): void {
  if (fileId === undefined || !parts.ctx.graphs().some((graph) => graph.isOpenWritable(fileId))) return;
  throw new CalotypeError('drive_exported', 'The drive is being written; close its export or check a clone.');
}

async function ownFiles(parts: Parts, driveId: DriveId): Promise<FileRow[]> {
  return parts.ctx.catalog.db.selectFrom('qcow2_files').selectAll().where('drive_id', '=', driveId).execute();
}
