/** Points in time: of free and written drives, alone and in groups, byte for byte. */
import { expect, test } from 'vitest';
import { type DriveId, type DriveSnapshotId, newId } from '../../core/ids.ts';
import { Content, expectContent, grainBytes, grains, valuesOf } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { connect, driveBytes, liveDrive, noCommit, Rig, readLive, writeFresh } from './rig.ts';
import { Writer } from './writer.ts';

export function testSnapshots(harness: EngineHarness): void {
  test('a snapshot of a free drive holds what was written before it, and nothing after', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [{ grain: 5, count: 100 }]);
    const point = await rig.snapshot(drive);
    const then = content.copy();
    await rig.write(drive, content, [{ grain: 50, count: 100 }]);
    expectContent(await rig.read({ point }), then);
    expectContent(await rig.read({ drive }), content);
  });

  test('snapshots of a drive that is being written each hold their own state', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const points: { id: DriveSnapshotId; content: Content }[] = [];
    for (let i = 0; i < 8; i++) {
      await writeFresh(live.attachment.client, live.content, [
        { grain: i * 31, count: 64 },
        { grain: 900 + i, count: 1 },
      ]);
      points.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
    }
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 1024 }]);
    for (const point of points) expectContent(await rig.read({ point: point.id }), point.content);
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('writes smaller than a grain survive snapshots, with what stood around them', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { client } = live.attachment;
    await writeFresh(client, live.content, [{ grain: 0, count: 64 }]);
    const bytes = live.content.bytes();
    for (let i = 0; i < 6; i++) {
      const point = await rig.snapshot(live.driveId);
      const before = Buffer.from(bytes);
      const sector = Buffer.alloc(512, 0xa0 + i);
      for (const offset of [i * 4096 + 512, 130_048 + i * 512, 40 * 4096 + 3584]) {
        await client.write(offset, sector);
        sector.copy(bytes, offset);
      }
      expect((await rig.read({ point })).equals(before)).toBe(true);
      expect((await readLive(live)).equals(bytes)).toBe(true);
    }
  });

  test('zeroed and discarded ranges read as zeros in later points, and as before in earlier ones', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { client } = live.attachment;
    await writeFresh(client, live.content, [{ grain: 0, count: 512 }]);
    const before = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    await client.writeZeroes(3 * grainBytes, 5 * grainBytes);
    live.content.set(3, 5, 0);
    await client.trim(64 * grainBytes, 64 * grainBytes);
    live.content.set(64, 64, 0);
    await client.flush();
    const after = await rig.snapshot(live.driveId);
    expectContent(await rig.read({ point: before }), then);
    expectContent(await rig.read({ point: after }), live.content);
    expectContent(await readLive(live), live.content);
    await rig.deletePoints(before);
    await rig.reclaim(live.driveId);
    expectContent(await rig.read({ point: after }), live.content);
    expectContent(await readLive(live), live.content);
  });

  test('every write acknowledged before the call is in the snapshot, with four clients writing', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const writers: Writer[] = [];
    for (let i = 0; i < 4; i++) {
      const client = await rig.connect(live.attachment.target);
      const own = Array.from({ length: 256 }, (_, at) => i * 256 + at);
      writers.push(new Writer(client, live.content, own));
    }
    for (let round = 0; round < 10; round++) {
      await Promise.all(writers.map((writer) => writer.progress(30)));
      const before = writers.map((writer) => writer.possible());
      const id = await rig.snapshot(live.driveId);
      const after = writers.map((writer) => writer.possible());
      const found = valuesOf(await rig.read({ point: id }));
      for (const [at, possible] of before.entries()) {
        for (const [grain, values] of possible) {
          // At least what was acknowledged, at most what was in flight when the call came back.
          const newest = after[at]?.get(grain)?.at(-1) ?? 0;
          expect(found[grain], `grain ${grain}`).toBeGreaterThanOrEqual(values[0] ?? 0);
          expect(found[grain], `grain ${grain}`).toBeLessThanOrEqual(newest);
        }
      }
    }
    await Promise.all(writers.map((writer) => writer.stop()));
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('several drives are taken at one instant: of two written in turn, none is ahead', async () => {
    await using rig = await Rig.start(harness);
    if (!rig.engine.capabilities.atomicGroups) {
      const points = [await rig.createDrive(), await rig.createDrive()].map((driveId) => ({
        driveId,
        driveSnapshotId: newId<DriveSnapshotId>(),
      }));
      await expect(rig.engine.snapshot(points, noCommit)).rejects.toMatchObject({ code: 'not_supported' });
      return;
    }
    const [first, second] = [await liveDrive(rig), await liveDrive(rig)];
    let sequence = 0;
    let stopping = false;
    const writing = (async () => {
      while (!stopping) {
        sequence++;
        await first.attachment.client.write(0, grains(sequence));
        await second.attachment.client.write(0, grains(sequence));
      }
    })();
    for (let round = 0; round < 12; round++) {
      while (sequence < (round + 1) * 40) await new Promise((resolve) => setImmediate(resolve));
      const points = [first, second].map(({ driveId }) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
      const atLeast = sequence - 1;
      await rig.engine.snapshot(points, noCommit);
      const found: number[] = [];
      for (const { driveSnapshotId: point } of points) {
        found.push(
          await rig.engine.withReader({ point }, async (target) => {
            const client = await connect(target);
            const [value] = valuesOf(await client.read(0, grainBytes));
            await client.close();
            return value ?? -1;
          }),
        );
      }
      const [a = -1, b = -1] = found;
      expect(b).toBeGreaterThanOrEqual(atLeast);
      // The first is written first: it may be one ahead, never behind.
      expect(a - b).toBeGreaterThanOrEqual(0);
      expect(a - b).toBeLessThanOrEqual(1);
    }
    stopping = true;
    await writing;
  });

  test('a group of free and written drives is taken as a whole, or not at all', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const free = await rig.createDrive();
    const freeContent = new Content(driveBytes);
    await rig.write(free, freeContent, [{ grain: 1, count: 2 }]);
    await writeFresh(live.attachment.client, live.content, [{ grain: 9, count: 2 }]);
    const points = [live.driveId, free].map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
    await expect(
      rig.engine.snapshot(points, async () => {
        throw new Error('refused');
      }),
    ).rejects.toThrow('refused');
    for (const { driveSnapshotId: point } of points) {
      await expect(rig.read({ point })).rejects.toMatchObject({ code: 'not_found' });
    }
    await rig.engine.snapshot(points, noCommit);
    const contents = [live.content.copy(), freeContent.copy()];
    await writeFresh(live.attachment.client, live.content, [{ grain: 9, count: 3 }]);
    for (const [at, { driveSnapshotId: point }] of points.entries()) {
      expectContent(await rig.read({ point }), contents[at] ?? new Content(0));
    }
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('many drives are taken at once by many callers', async () => {
    await using rig = await Rig.start(harness);
    const drives: DriveId[] = [];
    for (let i = 0; i < 12; i++) drives.push(await rig.createDrive());
    const contents = new Map(drives.map((drive) => [drive, new Content(driveBytes)]));
    for (const [drive, content] of contents) await rig.write(drive, content, [{ grain: 1, count: 3 }]);
    const points = await Promise.all(drives.map((drive) => rig.snapshot(drive)));
    for (const [at, point] of points.entries()) {
      const drive = drives[at];
      expectContent(await rig.read({ point }), contents.get(drive ?? newId()) ?? new Content(0));
    }
    expect(await rig.complaints()).toEqual([]);
  });
}
