/** What changed, how much, and what things take: figures that must be exact. */
import { expect, test } from 'vitest';
import { sumExtents } from '../../core/extents.ts';
import { type DriveSnapshotId, newId } from '../../core/ids.ts';
import { Content, changedGrains, grainBytes, grains, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { driveBytes, liveDrive, noCommit, Rig, TestControl, writeFresh } from './rig.ts';

export function testSizes(harness: EngineHarness): void {
  test('nothing written is 0 bytes, exactly; 1 MiB in scattered pieces of 4 KiB is 1 MiB', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 64 * MiB);
    const { driveId } = live;
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 4000 }]);
    const point = await rig.snapshot(driveId);
    expect(await rig.engine.changedBytes(driveId, [point])).toEqual([0]);
    for (let i = 0; i < 256; i++) await live.attachment.client.write(i * 61 * grainBytes, grains(7_000_000 + i));
    expect(await rig.engine.changedBytes(driveId, [point])).toEqual([MiB]);
    await live.attachment.client.flush();
    expect(await rig.engine.changedBytes(driveId, [point])).toEqual([MiB]);
    expect(await rig.engine.snapshotUsage(point)).toMatchObject({ sizeBytes: MiB });
    await rig.end(live.attachment);
    expect(await rig.engine.changedBytes(driveId, [point])).toEqual([MiB]);
    const after = await rig.snapshot(driveId);
    expect(await rig.engine.changedBytes(driveId, [after, point])).toEqual([0, MiB]);
  });

  test('a drive knows whether it was written since its sizes were last asked', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 1 }]);
    const point = await rig.snapshot(live.driveId);
    expect(await rig.engine.isDirty(live.driveId)).toBe(true);
    for (let round = 0; round < 5; round++) {
      await rig.engine.changedBytes(live.driveId, [point]);
      await writeFresh(live.attachment.client, live.content, [{ grain: round, count: 1 }]);
      expect(await rig.engine.isDirty(live.driveId)).toBe(true);
    }
    await new Promise((resolve) => setTimeout(resolve, 60));
    await rig.engine.changedBytes(live.driveId, [point]);
    expect(await rig.engine.isDirty(live.driveId)).toBe(false);
    await rig.revert(live.driveId, point);
    expect(await rig.engine.isDirty(live.driveId)).toBe(true);
  });

  test('changed extents between any two points are exact, also across branches and after merges', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    const { client } = live.attachment;
    const points: { id: DriveSnapshotId; content: Content }[] = [];
    const take = async (): Promise<void> => {
      points.push({ id: await rig.snapshot(driveId), content: content.copy() });
    };
    for (let i = 0; i < 4; i++) {
      await writeFresh(client, content, [
        { grain: i * 40, count: 60 },
        { grain: 600 + i * 3, count: 1 },
      ]);
      await take();
    }
    const branch = points[1];
    if (branch === undefined) throw new Error('no point');
    await rig.revert(driveId, branch.id);
    content.values.set(branch.content.values);
    await writeFresh(client, content, [{ grain: 900, count: 7 }]);
    await take();
    const compare = async (): Promise<void> => {
      for (const from of points) {
        for (const to of points) {
          expect(await rig.engine.changedExtents(from.id, { point: to.id })).toEqual(
            changedGrains(from.content, to.content),
          );
        }
        expect(await rig.engine.changedExtents(from.id, { drive: driveId })).toEqual(
          changedGrains(from.content, content),
        );
      }
      const asked = points.map((point) => point.id);
      const exact = points.map((point) => sumExtents(changedGrains(point.content, content)));
      expect(await rig.engine.changedBytes(driveId, asked)).toEqual(exact);
    };
    await compare();
    await writeFresh(client, content, [{ grain: 30, count: 100 }]);
    await compare();
    for (const at of [2, 0]) {
      const [gone] = points.splice(at, 1);
      if (gone !== undefined) await rig.deletePoints(gone.id);
      await compare();
      await rig.reclaim(driveId);
      await compare();
    }
    await rig.reopen({ stopProcesses: true });
    await compare();
  });

  test('against nothing, changed extents are where there is data', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const empty = new Content(driveBytes);
    expect(await rig.engine.changedExtents(null, { drive: live.driveId })).toEqual([]);
    await writeFresh(live.attachment.client, live.content, [
      { grain: 3, count: 2 },
      { grain: 64, count: 100 },
    ]);
    const point = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    await live.attachment.client.writeZeroes(70 * grainBytes, 10 * grainBytes);
    live.content.set(70, 10, 0);
    await writeFresh(live.attachment.client, live.content, [{ grain: 1023, count: 1 }]);
    expect(await rig.engine.changedExtents(null, { point })).toEqual(changedGrains(empty, then));
    expect(await rig.engine.changedExtents(null, { drive: live.driveId })).toEqual(changedGrains(empty, live.content));
    const clone = await rig.clone(point, 2 * driveBytes);
    expect(await rig.engine.changedExtents(null, { drive: clone })).toEqual(changedGrains(empty, then));
    expect(await rig.engine.changedExtents(point, { drive: clone })).toEqual([]);
  });

  test('points without common history cannot be compared', async () => {
    await using rig = await Rig.start(harness);
    const [a, b] = [await rig.createDrive(), await rig.createDrive()];
    const [pointA, pointB] = [await rig.snapshot(a), await rig.snapshot(b)];
    await expect(rig.engine.changedExtents(pointA, { point: pointB })).rejects.toMatchObject({
      code: 'snapshot_of_other_drive',
    });
  });

  test('the numbers add up: live, held by snapshots, freed by deleting', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 64 * MiB);
    const { driveId } = live;
    const { client } = live.attachment;
    await writeFresh(client, live.content, [{ grain: 0, count: 2048 }]);
    const first = await rig.snapshot(driveId);
    await writeFresh(client, live.content, [{ grain: 1024, count: 2048 }]);
    const second = await rig.snapshot(driveId);
    await writeFresh(client, live.content, [{ grain: 0, count: 512 }]);
    const usage = await rig.engine.usage(driveId);
    expect(usage).toMatchObject({ virtualBytes: 64 * MiB, liveBytes: 12 * MiB, snapshotBytes: 6 * MiB });
    expect(usage.onDiskBytes).toBeGreaterThanOrEqual(usage.liveBytes + usage.snapshotBytes);
    expect(usage.onDiskBytes).toBeLessThan(usage.liveBytes + usage.snapshotBytes + 3 * harness.overheadBytes);
    const unique = async (id: DriveSnapshotId): Promise<number> => (await rig.engine.snapshotUsage(id)).uniqueBytes;
    // Grains 1024 to 2047 of the first state only; grains 0 to 511 are held by both.
    expect(await unique(first)).toBe(4 * MiB);
    expect(await unique(second)).toBe(0);
    await rig.deletePoints(first);
    const { freedBytes } = await rig.reclaim(driveId);
    expect(Math.abs(freedBytes - 4 * MiB)).toBeLessThan(harness.overheadBytes);
    expect(await unique(second)).toBe(2 * MiB);
    expect(await rig.engine.usage(driveId)).toMatchObject({ liveBytes: 12 * MiB, snapshotBytes: 2 * MiB });
    await rig.deletePoints(second);
    await rig.reclaim(driveId);
    expect(await rig.engine.usage(driveId)).toMatchObject({ liveBytes: 12 * MiB, snapshotBytes: 0 });
  });

  test('what deleting would free is what deleting frees, for every point of a tree', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 16 * MiB);
    const { driveId, content } = live;
    const points: DriveSnapshotId[] = [];
    for (let i = 0; i < 3; i++) {
      await writeFresh(live.attachment.client, content, [{ grain: i * 128, count: 512 }]);
      points.push(await rig.snapshot(driveId));
    }
    const [, middle] = points;
    if (middle === undefined) throw new Error('no point');
    const kept = newId<DriveSnapshotId>();
    await writeFresh(live.attachment.client, content, [{ grain: 1000, count: 256 }]);
    await rig.revert(driveId, middle, kept);
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 300 }]);
    points.push(kept);
    while (points.length > 0) {
      const id = points.splice(points.length >> 1, 1)[0];
      if (id === undefined) break;
      const { uniqueBytes } = await rig.engine.snapshotUsage(id);
      const before = await rig.usedBytes();
      await rig.deletePoints(id);
      await rig.reclaim(driveId);
      expect(Math.abs(before - (await rig.usedBytes()) - uniqueBytes)).toBeLessThan(2 * harness.overheadBytes);
    }
  });

  test('reads of sizes never fail beside snapshots and merges, and are right afterwards', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    const [base, baseContent] = [await rig.snapshot(driveId), content.copy()];
    let stopping = false;
    const reading = (async () => {
      let reads = 0;
      while (!stopping) {
        await rig.engine.changedBytes(driveId, [base]);
        await rig.engine.usage(driveId);
        await rig.engine.changedExtents(null, { drive: driveId });
        await rig.engine.changedExtents(base, { drive: driveId });
        await rig.engine.snapshotUsage(base);
        reads++;
      }
      return reads;
    })();
    for (let i = 0; i < 12; i++) {
      await writeFresh(live.attachment.client, content, [{ grain: (i * 71) % 900, count: 50 }]);
      const point = await rig.snapshot(driveId);
      if (i % 3 === 2) await rig.engine.compact(driveId, new TestControl());
      await rig.deletePoints(point);
      await rig.reclaim(driveId);
    }
    stopping = true;
    expect(await reading).toBeGreaterThan(1);
    expect(await rig.engine.changedExtents(base, { drive: driveId })).toEqual(changedGrains(baseContent, content));
    await rig.engine.deleteSnapshots([base], noCommit);
  });
}
