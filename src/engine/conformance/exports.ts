/** Serving drives and points. */
import { expect, test } from 'vitest';
import { type ExportId, newId } from '../../core/ids.ts';
import { Content, expectContent, grains } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { connect, driveBytes, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';

export function testExports(harness: EngineHarness): void {
  test('a drive has one writer', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await expect(rig.attach({ drive: live.driveId })).rejects.toMatchObject({ code: 'drive_exported' });
    await expect(rig.attach({ drive: live.driveId }, { writable: false })).rejects.toMatchObject({
      code: 'drive_exported',
    });
    await expect(rig.read({ drive: live.driveId })).rejects.toMatchObject({ code: 'drive_exported' });
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 1 }]);
    await rig.end(live.attachment);
    const next = await rig.attach({ drive: live.driveId });
    expectContent(await readLive({ attachment: next }), live.content);
  });

  test('or several readers, who cannot write', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 9, count: 9 }]);
    const readers = [
      await rig.attach({ drive }, { writable: false }),
      await rig.attach({ drive }, { writable: false }),
    ] as const;
    for (const reader of readers) {
      expect(reader.client.readOnly).toBe(true);
      await expect(reader.client.write(0, grains(1))).rejects.toMatchObject({ code: 'not_supported' });
      expectContent(await readLive({ attachment: reader }), content);
    }
    await expect(rig.attach({ drive })).rejects.toMatchObject({ code: 'drive_exported' });
    expectContent(await rig.read({ drive }), content);
    await rig.end(readers[0]);
    expectContent(await readLive({ attachment: readers[1] }), content);
    await rig.end(readers[1]);
    await rig.write(drive, content, [{ grain: 1, count: 1 }]);
    expectContent(await rig.read({ drive }), content);
  });

  test('a snapshot of a drive that is only read leaves its readers alone, and lets more in', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 9, count: 9 }]);
    const reader = await rig.attach({ drive }, { writable: false });
    const point = await rig.snapshot(drive);
    expectContent(await readLive({ attachment: reader }), content);
    const another = await rig.attach({ drive }, { writable: false });
    expectContent(await readLive({ attachment: another }), content);
    expectContent(await rig.read({ drive }), content);
    await rig.deletePoints(point);
    await rig.reclaim(drive);
    expectContent(await readLive({ attachment: reader }), content);
    await rig.end(reader);
    await rig.end(another);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a point is served read-only, by any number of exports, while its drive is written', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 300 }]);
    const point = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    const served = [await rig.attach({ point }), await rig.attach({ point })] as const;
    await writeFresh(live.attachment.client, live.content, [{ grain: 100, count: 300 }]);
    for (const one of served) {
      expect(one.client.readOnly).toBe(true);
      expectContent(await readLive({ attachment: one }), then);
      await expect(one.client.write(0, grains(1))).rejects.toMatchObject({ code: 'not_supported' });
    }
    await rig.end(served[0]);
    expectContent(await readLive({ attachment: served[1] }), then);
    await rig.end(served[1]);
  });

  test('exports of points outlive merges and skip layers around them', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const served: { attachment: Awaited<ReturnType<Rig['attach']>>; content: Content }[] = [];
    const points = [];
    for (let i = 0; i < 8; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: i * 90, count: 120 }]);
      const point = await rig.snapshot(live.driveId);
      points.push(point);
      if (i % 2 === 1) served.push({ attachment: await rig.attach({ point }), content: live.content.copy() });
    }
    await rig.engine.compact(live.driveId, new TestControl());
    await rig.deletePoints(...points.filter((_, at) => at % 2 === 0));
    await rig.reclaim(live.driveId);
    for (const one of served) expectContent(await readLive(one), one.content);
    for (const one of served) await rig.end(one.attachment);
    await rig.reclaim(live.driveId);
    for (const [at, one] of served.entries()) {
      const point = points[at * 2 + 1];
      if (point !== undefined) expectContent(await rig.read({ point }), one.content);
    }
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('stopping cuts clients off, and may be repeated', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { exportId } = live.attachment;
    await rig.engine.stopExport(exportId, rig.stopCommit(exportId));
    await expect(live.attachment.client.read(0, 1)).rejects.toMatchObject({ code: 'engine_unavailable' });
    await expect(connect(live.attachment.target)).rejects.toBeInstanceOf(Error);
    await rig.engine.stopExport(exportId, noCommit);
    await rig.engine.stopExport(newId<ExportId>(), noCommit);
    expectContent(await rig.read({ drive: live.driveId }), live.content);
  });

  test('an export comes back under its name when the engine is opened again, and stays when it was only let go', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await writeFresh(live.attachment.client, live.content, [{ grain: 2, count: 2 }]);
    const point = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    const served = await rig.attach({ point });
    expect(await rig.reopen()).toEqual([]);
    await writeFresh(live.attachment.client, live.content, [{ grain: 3, count: 2 }]);
    expectContent(await readLive(live), live.content);
    expectContent(await readLive({ attachment: served }), then);
    await rig.reopen({ stopProcesses: true });
    for (const one of [live.attachment, served]) one.client = await rig.connect(one.target);
    expectContent(await readLive(live), live.content);
    expectContent(await readLive({ attachment: served }), then);
    await writeFresh(live.attachment.client, live.content, [{ grain: 4, count: 2 }]);
    await rig.snapshot(live.driveId);
    expectContent(await readLive(live), live.content);
    await rig.end(live.attachment);
    await rig.end(served);
    expect(await rig.complaints()).toEqual([]);
  });
}
