/** Drives made from points, and made independent. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { type DriveSnapshotId, newId } from '../../core/ids.ts';
import { Content, expectContent, grainBytes, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { driveBytes, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';

export function testClones(harness: EngineHarness): void {
  test('a clone starts as the point, shares its data, and goes its own way', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 16 * MiB);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 2000 }]);
    const point = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    const before = await rig.usedBytes();
    const clone = await rig.clone(point, 16 * MiB);
    expect((await rig.usedBytes()) - before).toBeLessThan(harness.overheadBytes);
    await writeFresh(live.attachment.client, live.content, [{ grain: 100, count: 50 }]);
    const cloned = then.copy();
    await rig.write(clone, cloned, [{ grain: 120, count: 50 }]);
    expectContent(await rig.read({ drive: clone }), cloned);
    expectContent(await rig.read({ point }), then);
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a clone may be larger than its point, never smaller', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 1000, count: 24 }]);
    const point = await rig.snapshot(drive);
    const clone = await rig.clone(point, 3 * driveBytes);
    const cloned = content.copy(3 * driveBytes);
    expectContent(await rig.read({ drive: clone }), cloned);
    await rig.write(clone, cloned, [{ grain: 1020, count: 40 }]);
    expectContent(await rig.read({ drive: clone }), cloned);
    await expect(rig.clone(point, driveBytes / 2)).rejects.toMatchObject({ code: 'shrink_not_supported' });
  });

  test('clones of clones survive the drives and points they came from', async () => {
    await using rig = await Rig.start(harness);
    const first = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(first, content, [{ grain: 0, count: 500 }]);
    let drive = first;
    for (let generation = 0; generation < 4; generation++) {
      const point = await rig.snapshot(drive);
      const clone = await rig.clone(point);
      await rig.write(clone, content, [{ grain: generation * 100, count: 60 }]);
      await rig.engine.deleteDrive(drive, noCommit);
      await rig.deletePoints(point);
      await rig.reclaim(drive, clone);
      expectContent(await rig.read({ drive: clone }), content);
      drive = clone;
    }
    expect((await rig.engine.usage(drive)).depth).toBeLessThanOrEqual(3);
    expect(await rig.usedBytes()).toBeLessThan(content.sizeBytes + 4 * harness.overheadBytes);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a copied point outlives the point, its drive and all that was taken after, and pins nothing else', async () => {
    await using rig = await Rig.start(harness);
    const source = await rig.createDrive(16 * MiB);
    const content = new Content(16 * MiB);
    await rig.write(source, content, [{ grain: 0, count: 500 }]);
    const older = await rig.snapshot(source);
    await rig.write(source, content, [{ grain: 0, count: 1000 }]);
    const point = await rig.snapshot(source);
    const then = content.copy();
    const before = await rig.usedBytes();
    const copies = [{ from: point, to: newId<DriveSnapshotId>() }];
    await rig.engine.copyPoints(copies, noCommit);
    await rig.engine.copyPoints(copies, noCommit);
    const copy = copies[0]?.to ?? point;
    expect(await rig.usedBytes()).toBe(before);
    expect((await rig.engine.snapshotUsage(point)).uniqueBytes, 'both hold the same').toBe(0);
    expect(await rig.engine.changedExtents(point, { point: copy })).toEqual([]);
    await rig.write(source, content, [{ grain: 2000, count: 1500 }]);
    const newer = await rig.snapshot(source);
    const clone = await rig.clone(copy, 16 * MiB);
    await rig.engine.deleteDrive(source, noCommit);
    await rig.deletePoints(older, point, newer);
    await rig.reclaim(source);
    expectContent(await rig.read({ point: copy }), then);
    expect(await rig.usedBytes()).toBeLessThan(1000 * grainBytes + 2 * harness.overheadBytes);
    const cloned = then.copy();
    await rig.write(clone, cloned, [{ grain: 10, count: 5 }]);
    expectContent(await rig.read({ drive: clone }), cloned);
    const later = await rig.clone(copy, 16 * MiB);
    expectContent(await rig.read({ drive: later }), then);
    await rig.deletePoints(copy);
    await rig.engine.deleteDrive(clone, noCommit);
    await rig.reclaim(source, clone);
    expectContent(await rig.read({ drive: later }), then);
    await rig.engine.deleteDrive(later, noCommit);
    await rig.reclaim(source, later);
    expect(await rig.usedBytes()).toBeLessThan(harness.overheadBytes);
    expect(await rig.complaints()).toEqual([]);
  });

  test('points are copied all or none', async () => {
    await using rig = await Rig.start(harness);
    const point = await rig.snapshot(await rig.createDrive());
    const [first, second] = [newId<DriveSnapshotId>(), newId<DriveSnapshotId>()];
    const copies = [
      { from: point, to: first },
      { from: newId<DriveSnapshotId>(), to: second },
    ];
    await expect(rig.engine.copyPoints(copies, noCommit)).rejects.toMatchObject({ code: 'not_found' });
    await expect(rig.read({ point: first })).rejects.toMatchObject({ code: 'not_found' });
  });

  test('a flattened clone shares nothing: what it came from can be freed', async () => {
    await using rig = await Rig.start(harness);
    const source = await rig.createDrive(16 * MiB);
    const content = new Content(16 * MiB);
    await rig.write(source, content, [{ grain: 0, count: 2000 }]);
    const point = await rig.snapshot(source);
    const clone = await rig.clone(point, 16 * MiB);
    const cloned = content.copy();
    await rig.write(clone, cloned, [{ grain: 10, count: 5 }]);
    const control = new TestControl();
    await rig.engine.flatten(clone, control, noCommit);
    expect(control.seen.at(-1)?.done).toBe(control.seen.at(-1)?.total);
    await rig.engine.deleteDrive(source, noCommit);
    await rig.deletePoints(point);
    const { freedBytes } = await rig.reclaim(source);
    expect(freedBytes).toBeGreaterThanOrEqual(2000 * 4096);
    expectContent(await rig.read({ drive: clone }), cloned);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive is flattened while it is exported and written', async () => {
    await using rig = await Rig.start(harness);
    const source = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(source, content, [{ grain: 0, count: 1024 }]);
    const point = await rig.snapshot(source);
    const clone = await rig.clone(point);
    const attachment = await rig.attach({ drive: clone });
    const cloned = content.copy();
    await writeFresh(attachment.client, cloned, [{ grain: 3, count: 100 }]);
    const flattening = rig.engine.flatten(clone, new TestControl(), noCommit);
    await writeFresh(attachment.client, cloned, [{ grain: 500, count: 100 }]);
    await flattening;
    await writeFresh(attachment.client, cloned, [{ grain: 700, count: 100 }]);
    expectContent(await readLive({ attachment }), cloned);
    await rig.engine.deleteDrive(source, noCommit);
    await rig.deletePoints(point);
    await rig.reclaim(source, clone);
    expectContent(await readLive({ attachment }), cloned);
    await rig.reopen({ stopProcesses: true });
    const again = await rig.connect(attachment.target);
    expectContent(await again.read(0, again.sizeBytes), cloned);
    expect(await rig.complaints()).toEqual([]);
  });

  test('an aborted flatten leaves the drive as it was and nothing behind', async () => {
    await using rig = await Rig.start(harness);
    const source = await rig.createDrive(32 * MiB);
    const content = new Content(32 * MiB);
    await rig.write(source, content, [{ grain: 0, count: 8000 }]);
    const point = await rig.snapshot(source);
    const clone = await rig.clone(point, 32 * MiB);
    const before = await rig.usedBytes();
    const control = new TestControl();
    control.bytesPerSecond = 4 * MiB;
    const flattening = rig.engine.flatten(clone, control, noCommit);
    control.onProgress = () => control.abort.abort();
    await expect(flattening).rejects.toMatchObject({ code: 'cancelled' });
    expect(await rig.usedBytes()).toBeLessThanOrEqual(before + harness.overheadBytes);
    expectContent(await rig.read({ drive: clone }), content);
    expect(await rig.complaints()).toEqual([]);
    await rig.engine.flatten(clone, new TestControl(), noCommit);
    expectContent(await rig.read({ drive: clone }), content);
  });

  test('a drive with points of its own can be flattened; the points stay', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const points: { id: Awaited<ReturnType<Rig['snapshot']>>; content: Content }[] = [];
    for (let i = 0; i < 4; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: i * 100, count: 150 }]);
      points.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
    }
    await writeFresh(live.attachment.client, live.content, [{ grain: 50, count: 10 }]);
    await rig.engine.flatten(live.driveId, new TestControl(), noCommit);
    expect((await rig.engine.usage(live.driveId)).depth).toBeLessThanOrEqual(2);
    expectContent(await readLive(live), live.content);
    for (const point of points) expectContent(await rig.read({ point: point.id }), point.content);
    await rig.deletePoints(...points.map((point) => point.id));
    await rig.reclaim(live.driveId);
    expectContent(await readLive(live), live.content);
    expect(await rig.usedBytes()).toBeLessThan(driveBytes + 3 * harness.overheadBytes);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a flatten can be paused, slowed down and resumed', async () => {
    await using rig = await Rig.start(harness);
    if (!rig.engine.capabilities.throttledReclaim) return;
    const source = await rig.createDrive(32 * MiB);
    const content = new Content(32 * MiB);
    await rig.write(source, content, [{ grain: 0, count: 8192 }]);
    const clone = await rig.clone(await rig.snapshot(source), 32 * MiB);
    const control = new TestControl();
    control.bytesPerSecond = 16 * MiB;
    let ended = false;
    const started = performance.now();
    const flattening = rig.engine.flatten(clone, control, noCommit).finally(() => {
      ended = true;
    });
    await delay(500);
    control.paused = true;
    await delay(400);
    const paused = control.seen.at(-1)?.done ?? 0;
    expect(paused).toBeLessThan(((performance.now() - started) / 1000 + 0.5) * 16 * MiB);
    await delay(700);
    expect(control.seen.at(-1)?.done ?? 0).toBe(paused);
    expect(ended).toBe(false);
    control.paused = false;
    control.bytesPerSecond = 0;
    await flattening;
    expectContent(await rig.read({ drive: clone }), content);
  });
}
