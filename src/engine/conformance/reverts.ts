/** Going back in place, and forth again. */
import { expect, test } from 'vitest';
import { type DriveSnapshotId, newId } from '../../core/ids.ts';
import { Content, expectContent } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { driveBytes, liveDrive, noCommit, Rig, readLive, writeFresh } from './rig.ts';
import { Writer } from './writer.ts';

export function testReverts(harness: EngineHarness): void {
  test('a free drive goes back; the state before is kept when it is named, newer points stay', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 0, count: 50 }]);
    const [old, oldContent] = [await rig.snapshot(drive), content.copy()];
    await rig.write(drive, content, [{ grain: 20, count: 50 }]);
    const [newer, newerContent] = [await rig.snapshot(drive), content.copy()];
    await rig.write(drive, content, [{ grain: 40, count: 50 }]);
    const kept = newId<DriveSnapshotId>();
    await rig.revert(drive, old, kept);
    expectContent(await rig.read({ drive }), oldContent);
    expectContent(await rig.read({ point: kept }), content);
    if (rig.engine.capabilities.revertKeepsNewer) expectContent(await rig.read({ point: newer }), newerContent);
    else await expect(rig.read({ point: newer })).rejects.toMatchObject({ code: 'not_found' });
    await rig.revert(drive, kept);
    expectContent(await rig.read({ drive }), content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('an exported drive goes back under its client, who stays connected and goes on writing', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    const { client } = live.attachment;
    await writeFresh(client, content, [{ grain: 0, count: 600 }]);
    const [old, oldContent] = [await rig.snapshot(driveId), content.copy()];
    await writeFresh(client, content, [{ grain: 300, count: 600 }]);
    if (!rig.engine.capabilities.liveRevert) {
      await expect(rig.revert(driveId, old)).rejects.toMatchObject({ code: 'not_supported' });
      return;
    }
    const kept = newId<DriveSnapshotId>();
    const before = content.copy();
    await rig.revert(driveId, old, kept);
    expectContent(await readLive(live), oldContent);
    content.values.set(oldContent.values);
    await writeFresh(client, content, [{ grain: 10, count: 5 }]);
    expectContent(await readLive(live), content);
    expectContent(await rig.read({ point: kept }), before);
    await rig.revert(driveId, kept, null);
    expectContent(await readLive(live), before);
    await writeFresh(client, before, [{ grain: 7, count: 1 }]);
    const branch = await rig.snapshot(driveId);
    await rig.end(live.attachment);
    expectContent(await rig.read({ drive: driveId }), before);
    expectContent(await rig.read({ point: branch }), before);
    expectContent(await rig.read({ point: old }), oldContent);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive goes to a branch, from it, and back, many times over', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    const { client } = live.attachment;
    const points: { id: DriveSnapshotId; content: Content }[] = [];
    for (let round = 0; round < 14; round++) {
      await writeFresh(client, content, [{ grain: (round * 97) % 900, count: 40 }]);
      const id = newId<DriveSnapshotId>();
      await rig.engine.snapshot([{ driveId, driveSnapshotId: id }], noCommit);
      points.push({ id, content: content.copy() });
      const target = points[(round * 5) % points.length];
      if (target === undefined) continue;
      await rig.revert(driveId, target.id);
      content.values.set(target.content.values);
      expectContent(await readLive(live), content);
    }
    for (const point of points) expectContent(await rig.read({ point: point.id }), point.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a write in flight during a revert falls on one side or the other, and later ones hold', async () => {
    await using rig = await Rig.start(harness);
    if (!rig.engine.capabilities.liveRevert) return;
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 1024 }]);
    const old = await rig.snapshot(driveId);
    const oldContent = content.copy();
    const second = await rig.connect(live.attachment.target);
    for (let round = 0; round < 6; round++) {
      const writer = new Writer(second, content, [1, 2, 3, 500, 1000]);
      await writer.progress(20);
      await rig.revert(driveId, old);
      await writer.progress(40);
      await writer.stop();
      const expected = oldContent.copy();
      for (const grain of writer.history.keys()) expected.set(grain, 1, content.values[grain] ?? 0);
      expectContent(await readLive(live), expected);
    }
    expect(await rig.complaints()).toEqual([]);
  });

  test('several drives go back together', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const free = await rig.createDrive();
    const freeContent = new Content(driveBytes);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 10 }]);
    await rig.write(free, freeContent, [{ grain: 0, count: 10 }]);
    const points = [live.driveId, free].map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
    await rig.engine.snapshot(points, noCommit);
    const wanted = [live.content.copy(), freeContent.copy()] as const;
    await writeFresh(live.attachment.client, live.content, [{ grain: 5, count: 10 }]);
    await rig.write(free, freeContent, [{ grain: 5, count: 10 }]);
    const kept = [newId<DriveSnapshotId>(), newId<DriveSnapshotId>()];
    const targets = points.map((point, at) => ({ ...point, keepAs: kept[at] ?? null }));
    const refuse = async (): Promise<never> => {
      throw new Error('refused');
    };
    await expect(rig.engine.revert('group', targets, refuse)).rejects.toThrow('refused');
    expectContent(await readLive(live), live.content);
    expectContent(await rig.read({ drive: free }), freeContent);
    await rig.engine.revert('group', targets, noCommit);
    expectContent(await readLive(live), wanted[0]);
    expectContent(await rig.read({ drive: free }), wanted[1]);
    expectContent(await rig.read({ point: kept[0] ?? newId() }), live.content);
    expectContent(await rig.read({ point: kept[1] ?? newId() }), freeContent);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive that is only read goes back under its readers', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 0, count: 50 }]);
    const [old, oldContent] = [await rig.snapshot(drive), content.copy()];
    await rig.write(drive, content, [{ grain: 20, count: 50 }]);
    const reader = await rig.attach({ drive }, { writable: false });
    await rig.revert(drive, old);
    expectContent(await readLive({ attachment: reader }), oldContent);
    const another = await rig.attach({ drive }, { writable: false });
    expectContent(await readLive({ attachment: another }), oldContent);
    await rig.end(reader);
    await rig.end(another);
    await rig.write(drive, oldContent, [{ grain: 1, count: 1 }]);
    expectContent(await rig.read({ drive }), oldContent);
    expect(await rig.complaints()).toEqual([]);
  });
}
