/** What the engine leaves on disk: files, headers, chains, and in which direction merges go. */
import { execFile } from 'node:child_process';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { type DriveId, type DriveSnapshotId, newId } from '../../core/ids.ts';
import { backingChain } from '../../qemu/image-tools.ts';
import { readAllocation, readHeader } from '../../qemu/qcow2.ts';
import { Content, expectContent, grainBytes, MiB } from '../conformance/content.ts';
import { liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from '../conformance/rig.ts';
import { harness } from './conformance-harness.ts';
import { chainOf, type FileRow, findHead, findPoint, updateFiles } from './records.ts';

const run = promisify(execFile);

const pathOf = (rig: Rig, id: number): string => join(rig.directory, 'images', `l${id.toString(36)}.qcow2`);

async function filesOf(rig: Rig): Promise<FileRow[]> {
  return rig.catalog.db.selectFrom('qcow2_files').selectAll().orderBy('id').execute();
}

async function topOf(rig: Rig, driveId: DriveId): Promise<number> {
  return (await findHead(rig.catalog.db, driveId))?.file_id ?? -1;
}

async function fileOf(rig: Rig, point: DriveSnapshotId): Promise<number> {
  return (await findPoint(rig.catalog.db, point))?.file_id ?? -1;
}

/** Every header on disk, followed from every top and point, says what the catalog says. */
async function expectHeadersAgree(rig: Rig): Promise<void> {
  const { db } = rig.catalog;
  const heads = await db.selectFrom('qcow2_drives').select('file_id').execute();
  const points = await db.selectFrom('qcow2_points').select('file_id').execute();
  for (const { file_id: id } of [...heads, ...points]) {
    const wanted = (await chainOf(db, id)).map((file) => pathOf(rig, file.id));
    expect((await backingChain(pathOf(rig, id))).map((link) => link.path)).toEqual(wanted);
  }
}

test('a layer is one opaque file, 128 KiB clusters with extended L2, on a relative backing name', async () => {
  await using rig = await Rig.start(harness);
  const drive = await rig.createDrive();
  await rig.snapshot(drive);
  const names = (await readdir(join(rig.directory, 'images'))).sort();
  expect(names).toEqual(['l1.qcow2', 'l2.qcow2']);
  const header = await readHeader(join(rig.directory, 'images', 'l2.qcow2'));
  expect(header).toMatchObject({ clusterBytes: 128 * 1024, subclusterBytes: 4096, backing: 'l1.qcow2' });
  expect(header).toMatchObject({ backingFormat: 'qcow2', incompatible: { extendedL2: true, dirty: false } });
});

test('headers agree with the catalog after every kind of change, and qemu-img reads what clients read', async () => {
  await using rig = await Rig.start(harness);
  const live = await liveDrive(rig);
  const points: DriveSnapshotId[] = [];
  for (let i = 0; i < 9; i++) {
    await writeFresh(live.attachment.client, live.content, [{ grain: i * 60, count: 90 }]);
    points.push(await rig.snapshot(live.driveId));
  }
  const [, second, third] = points;
  if (second === undefined || third === undefined) throw new Error('no points');
  const contentThen = await rig.read({ point: second });
  await rig.engine.compact(live.driveId, new TestControl());
  await expectHeadersAgree(rig);
  const clone = await rig.clone(third);
  await rig.deletePoints(...points.filter((point) => point !== second));
  await rig.reclaim(live.driveId, clone);
  await expectHeadersAgree(rig);
  await rig.revert(live.driveId, second, newId());
  await rig.engine.flatten(clone, new TestControl(), noCommit);
  await rig.detach({ stopProcesses: true });
  await rig.open();
  await expectHeadersAgree(rig);
  const raw = join(rig.directory, 'second.raw');
  await writeFile(raw, contentThen);
  const images = join(rig.directory, 'images');
  const name = `l${(await fileOf(rig, second)).toString(36)}.qcow2`;
  await run('qemu-img', ['compare', '-U', '-f', 'qcow2', '-F', 'raw', name, raw], { cwd: images });
});

test('each file holds the delta of its interval and no more', async () => {
  await using rig = await Rig.start(harness);
  const live = await liveDrive(rig);
  await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 100 }]);
  await rig.snapshot(live.driveId);
  await writeFresh(live.attachment.client, live.content, [
    { grain: 50, count: 1 },
    { grain: 700, count: 2 },
  ]);
  const point = await rig.snapshot(live.driveId);
  const { data, zero } = await readAllocation(pathOf(rig, await fileOf(rig, point)));
  expect(data).toEqual([
    { start: 50 * grainBytes, length: grainBytes },
    { start: 700 * grainBytes, length: 2 * grainBytes },
  ]);
  expect(zero).toEqual([]);
});

test('merging moves what is smaller: little goes down, much stays where it is if nobody has it open', async () => {
  await using rig = await Rig.start(harness);
  for (const [below, above, stays] of [
    [500, 20, 'lower'],
    [20, 500, 'upper'],
  ] as const) {
    const drive = await rig.createDrive();
    const content = new Content(4 * MiB);
    await rig.write(drive, content, [{ grain: 0, count: 1 }]);
    await rig.snapshot(drive);
    await rig.write(drive, content, [{ grain: 0, count: below }]);
    const gone = await rig.snapshot(drive);
    await rig.write(drive, content, [{ grain: 510, count: above }]);
    const kept = await rig.snapshot(drive);
    const [lower, upper] = [await fileOf(rig, gone), await fileOf(rig, kept)];
    await rig.deletePoints(gone);
    await rig.reclaim(drive);
    expect(await fileOf(rig, kept)).toBe(stays === 'lower' ? lower : upper);
    expectContent(await rig.read({ point: kept }), content);
    await expectHeadersAgree(rig);
  }
  expect(await rig.complaints()).toEqual([]);
});

test('a layer with several above it is never merged into', async () => {
  await using rig = await Rig.start(harness);
  const live = await liveDrive(rig);
  await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 300 }]);
  const point = await rig.snapshot(live.driveId);
  const shared = await fileOf(rig, point);
  const before = await readAllocation(pathOf(rig, shared));
  const clones = [await rig.clone(point), await rig.clone(point)];
  for (const clone of clones) await rig.write(clone, new Content(4 * MiB), [{ grain: 100, count: 100 }]);
  await rig.deletePoints(point);
  await rig.reclaim(live.driveId, ...clones);
  expect(await readAllocation(pathOf(rig, shared))).toEqual(before);
  expect((await filesOf(rig)).find((file) => file.id === shared)?.state).toBe('frozen');
});

test('an empty layer makes no job: what stands on it is put on what it stands on', async () => {
  const steps: string[] = [];
  await using rig = await Rig.start(harness, { onStep: (step) => void steps.push(step) });
  const live = await liveDrive(rig);
  await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 300 }]);
  await rig.snapshot(live.driveId);
  const empty = [await rig.snapshot(live.driveId), await rig.snapshot(live.driveId), await rig.snapshot(live.driveId)];
  steps.length = 0;
  await rig.deletePoints(...empty);
  await rig.reclaim(live.driveId);
  expect(steps).toContain('relink.committed');
  expect(steps).not.toContain('merge.started');
  expect((await rig.engine.usage(live.driveId)).depth).toBe(2);
  expectContent(await readLive(live), live.content);
  expect(await rig.complaints()).toEqual([]);
});

test('the next overlay waits ready, and the snapshot takes it', async () => {
  const steps: string[] = [];
  await using rig = await Rig.start(harness, { onStep: (step) => void steps.push(step) });
  const live = await liveDrive(rig);
  await rig.snapshot(live.driveId);
  for (let i = 0; i < 3; i++) {
    const until = Date.now() + 5000;
    while ((await findHead(rig.catalog.db, live.driveId))?.spare_id === null && Date.now() < until) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    const spare = (await findHead(rig.catalog.db, live.driveId))?.spare_id;
    steps.length = 0;
    await rig.snapshot(live.driveId);
    expect(steps).toEqual(expect.arrayContaining(['pivot.before', 'pivot.done', 'pivot.committed']));
    expect(steps).not.toContain('overlay.created');
    expect(await topOf(rig, live.driveId)).toBe(spare);
  }
});

test('a drive that grew between snapshots keeps its skip layers right', async () => {
  await using rig = await Rig.start(harness);
  const live = await liveDrive(rig);
  let content = live.content;
  const taken: { id: DriveSnapshotId; content: typeof content }[] = [];
  for (let i = 0; i < 14; i++) {
    await writeFresh(live.attachment.client, content, [
      { grain: i * 13, count: 20 },
      { grain: content.values.length - 2, count: 2 },
    ]);
    taken.push({ id: await rig.snapshot(live.driveId), content: content.copy() });
    if (i % 3 !== 1) continue;
    content = content.copy(content.sizeBytes + MiB);
    await rig.engine.resizeDrive(live.driveId, content.sizeBytes, noCommit);
    live.attachment.client = await rig.connect(live.attachment.target);
  }
  expect(await rig.engine.compact(live.driveId, new TestControl())).toBe(true);
  for (const point of taken) expectContent(await rig.read({ point: point.id }), point.content);
  expectContent(await readLive(live), content);
  await rig.deletePoints(...taken.filter((_, at) => at % 4 !== 0).map((point) => point.id));
  await rig.reclaim(live.driveId);
  for (const point of taken.filter((_, at) => at % 4 === 0)) {
    expectContent(await rig.read({ point: point.id }), point.content);
  }
  expectContent(await readLive(live), content);
  expect(await rig.complaints()).toEqual([]);
});

test('what only a clone or its snapshots stood on goes with them, whosever it was', async () => {
  await using rig = await Rig.start(harness);
  const files = (): Promise<string[]> => readdir(join(rig.directory, 'images'));
  const source = await rig.createDrive();
  await rig.write(source, new Content(4 * MiB), [{ grain: 0, count: 100 }]);
  const point = await rig.snapshot(source);
  const clone = await rig.clone(point);
  const kept = await rig.snapshot(clone);
  await rig.engine.deleteDrive(source, noCommit);
  await rig.deletePoints(point);
  await rig.reclaim(source);
  await rig.engine.deleteDrive(clone, noCommit);
  await rig.reclaim(clone);
  await expect.poll(async () => (await filesOf(rig)).map((file) => file.drive_id)).toEqual([source]);
  await rig.detach({ stopProcesses: true });
  await rig.open();
  expect((await rig.read({ point: kept })).subarray(0, grainBytes).some((byte) => byte !== 0)).toBe(true);
  await rig.deletePoints(kept);
  await rig.reclaim(clone);
  await expect.poll(files).toEqual([]);
});

test('a snapshot that waits for another to make room is taken, though it finds nothing left to fold itself', async () => {
  await using rig = await Rig.start(harness);
  const driveId = await rig.createDrive();
  while ((await rig.engine.usage(driveId)).depth < harness.maxDepth) await rig.snapshot(driveId);
  // As many small snapshots leave it: one run worth folding, and once that is folded none.
  const [, ...below] = (await chainOf(rig.catalog.db, await topOf(rig, driveId))).reverse();
  for (const [at, file] of below.entries()) {
    const level = 4 - Math.floor(at / 5);
    await rig.catalog.write((tx) => updateFiles(tx, [file.id], { level }));
  }
  await Promise.all([rig.snapshot(driveId), rig.snapshot(driveId), rig.snapshot(driveId)]);
  expect((await rig.engine.usage(driveId)).depth).toBeLessThanOrEqual(harness.maxDepth);
  expect(await rig.complaints()).toEqual([]);
});
