/** Many snapshots of one drive, all kept: how deep, how large, and all still readable. */
import { expect, test } from 'vitest';
import type { DriveSnapshotId } from '../../core/ids.ts';
import { type Content, difference, freshValue, grainBytes, grains, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { liveDrive, Rig, readLive, TestControl } from './rig.ts';

interface Figures {
  seconds: number;
  deepest: number;
  changedBytes: number;
  /** Data in all layers; what is beyond `changedBytes` is there to keep reads shallow. */
  dataBytes: number;
  usedBytes: number;
}

async function takeMany(
  rig: Rig,
  count: number,
  grainsEach: number,
  { sizeBytes, readEvery }: { sizeBytes: number; readEvery: number },
): Promise<Figures> {
  const started = performance.now();
  const live = await liveDrive(rig, sizeBytes);
  const { driveId, content } = live;
  const { client } = live.attachment;
  const total = content.values.length;
  const points: { id: DriveSnapshotId; content: Content }[] = [];
  let deepest = 0;
  for (let i = 0; i < count; i++) {
    // Scattered, so that nothing lies side by side by chance.
    for (let k = 0; k < grainsEach; k++) {
      const grain = ((i * grainsEach + k) * 7919) % total;
      const value = freshValue();
      await client.write(grain * grainBytes, grains(value));
      content.set(grain, 1, value);
    }
    await client.flush();
    points.push({ id: await rig.snapshot(driveId), content: content.copy() });
    if (await rig.engine.needsCompaction(driveId)) await rig.engine.compact(driveId, new TestControl());
    deepest = Math.max(deepest, (await rig.engine.usage(driveId)).depth);
  }
  expect(difference(await readLive(live), content)).toBeUndefined();
  for (let at = 0; at < points.length; at += readEvery) {
    const point = points[at];
    if (point === undefined) continue;
    expect(difference(await rig.read({ point: point.id }), point.content), `point ${at}`).toBeUndefined();
  }
  expect(await rig.complaints()).toEqual([]);
  const { liveBytes, snapshotBytes } = await rig.engine.usage(driveId);
  return {
    seconds: Math.round((performance.now() - started) / 1000),
    deepest,
    changedBytes: count * grainsEach * grainBytes,
    dataBytes: liveBytes + snapshotBytes,
    usedBytes: await rig.usedBytes(),
  };
}

export function testMany(harness: EngineHarness): void {
  test('120 snapshots, all kept: reads stay shallow, space stays bounded, each is what it was', async () => {
    await using rig = await Rig.start(harness);
    const figures = await takeMany(rig, 120, 32, { sizeBytes: 16 * MiB, readEvery: 5 });
    expect(figures.deepest).toBeLessThanOrEqual(harness.maxDepth);
    expect(figures.dataBytes - figures.changedBytes).toBeLessThanOrEqual(4 * figures.changedBytes);
  }, 120_000);

  if (process.env.CALOTYPE_LONG === '1') {
    test('1,000 snapshots, all kept', async () => {
      await using rig = await Rig.start(harness);
      const figures = await takeMany(rig, 1000, 256, { sizeBytes: 64 * MiB, readEvery: 41 });
      console.log('1,000 snapshots:', figures, 'on disk', (figures.usedBytes / figures.changedBytes).toFixed(2));
      expect(figures.deepest).toBeLessThanOrEqual(harness.maxDepth);
      expect(figures.dataBytes - figures.changedBytes).toBeLessThanOrEqual(4 * figures.changedBytes);
    }, 3_600_000);
  }
}
