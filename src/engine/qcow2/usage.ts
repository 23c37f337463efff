/** What drives and points take on disk. All figures come from allocation maps and the file system, none is estimated. */
import { intersectExtents, subtractExtents, sumExtents, unionExtents, type Extents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { CheckReport, DriveUsage, SnapshotUsage } from '../../core/model.ts';
import { checkImage } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import { assertNotAborted } from './context.ts';
import type { Deltas } from './deltas.ts';
import { CalotypeError } from '../../core/errors.ts';
import { chainOf, type FileRow, findHead, getPoint } from './records.ts';
import { freedWithout, type Parts } from './reclaim.ts';

export async function driveUsage(parts: Parts, driveId: DriveId): Promise<DriveUsage> {
  const { ctx, allocations } = parts;
  const head = await findHead(ctx.catalog.db, driveId);
  const chain = head === undefined ? [] : await chainOf(ctx.catalog.db, head.file_id);
  let covered: Extents = [];
  let liveBytes = 0;
  let liveOwnBytes = 0;
  for (const [at, file] of chain.entries()) {
    const found = at === 0 ? await allocations.top(driveId, file.id) : await allocations.frozen(file.id);
    const seen = sumExtents(subtractExtents(found.data, covered));
    liveBytes += seen;
    if (file.drive_id === driveId) liveOwnBytes += seen;
    covered = unionExtents(covered, found.all);
  }
  const own = await ownFiles(parts, driveId);
  let dataBytes = 0;
  let onDiskBytes = 0;
  for (const file of own) {
    onDiskBytes += await ctx.store.diskBytes(file.id);
    if (file.state !== 'frozen' && file.state !== 'active') continue;
    const found =
      file.state === 'active' ? await allocations.top(driveId, file.id) : await allocations.frozen(file.id);
    dataBytes += sumExtents(found.data);
  }
  return {
    virtualBytes: chain[0]?.size_bytes ?? 0,
    liveBytes,
    snapshotBytes: Math.max(0, dataBytes - liveOwnBytes),
    onDiskBytes,
    depth: chain.length,
  };
}

export async function pointUsage(parts: Parts, pointId: DriveSnapshotId): Promise<SnapshotUsage> {
  const point = await getPoint(parts.ctx.catalog.db, pointId);
  const [sizeBytes] = await parts.deltas.changedSince(point.drive_id, [pointId]);
  return { sizeBytes: sizeBytes ?? 0, uniqueBytes: await freedWithout(parts, point.file_id) };
}

/** Where a place in history holds data that is not zeros, through its whole chain. */
export async function dataOf(
  parts: Parts,
  place: Parameters<Deltas['between']>[1],
): Promise<Extents> {
  const { ctx, allocations } = parts;
  const fileId =
    'drive' in place
      ? (await findHead(ctx.catalog.db, place.drive))?.file_id
      : (await getPoint(ctx.catalog.db, place.point)).file_id;
  let covered: Extents = [];
  let data: Extents = [];
  const chain = fileId === undefined ? [] : await chainOf(ctx.catalog.db, fileId);
  const size = chain[0]?.size_bytes ?? 0;
  for (const file of chain) {
    const found =
      file.state === 'active' ? await allocations.top(file.drive_id, file.id) : await allocations.frozen(file.id);
    data = unionExtents(data, subtractExtents(found.data, covered));
    covered = unionExtents(covered, found.all);
  }
  return size === 0 ? [] : intersectExtents(data, [{ start: 0, length: size }]);
}

/** Verifies every file of the drive, its points' included, that is not being written. */
export async function checkDrive(parts: Parts, driveId: DriveId, control: WorkControl): Promise<CheckReport> {
  const { ctx } = parts;
  const graph = ctx.graph();
  const files = (await ownFiles(parts, driveId)).filter((file) => file.state === 'active' || file.state === 'frozen');
  const head = await findHead(ctx.catalog.db, driveId);
  if (head !== undefined && graph.alive && graph.isOpenWritable(head.file_id)) {
    throw new CalotypeError('drive_exported', 'The drive is being written; close its export or check a clone.');
  }
  const chain = head === undefined ? [] : await chainOf(ctx.catalog.db, head.file_id);
  const all = new Map<number, FileRow>([...files, ...chain].map((file) => [file.id, file]));
  const total = [...all.values()].reduce((sum, file) => sum + file.size_bytes, 0);
  const report = { files: 0, errors: 0, corruptions: 0, leaks: 0 };
  let done = 0;
  for (const file of all.values()) {
    assertNotAborted(control.signal);
    const result = await checkImage(ctx.store.pathOf(file.id), { signal: control.signal });
    report.files++;
    report.errors += result.errors;
    report.corruptions += result.corruptions;
    report.leaks += result.leaks;
    done += file.size_bytes;
    control.progress(done, total);
  }
  return { ok: report.errors === 0 && report.corruptions === 0, ...report };
}

async function ownFiles(parts: Parts, driveId: DriveId): Promise<FileRow[]> {
  return parts.ctx.catalog.db.selectFrom('qcow2_files').selectAll().where('drive_id', '=', driveId).execute();
}
