/** Deleting points in any order, and the space that comes back. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { DriveSnapshotId } from '../../core/ids.ts';
import { type Content, expectContent, grainBytes, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { type LiveDrive, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';
import { Writer } from './writer.ts';

interface Taken {
  id: DriveSnapshotId;
  content: Content;
}

async function takeSome(rig: Rig, live: LiveDrive, count: number, grainsEach: number): Promise<Taken[]> {
  const taken: Taken[] = [];
  const room = live.content.values.length - grainsEach;
  for (let i = 0; i < count; i++) {
    await writeFresh(live.attachment.client, live.content, [{ grain: (i * 211) % room, count: grainsEach }]);
    taken.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
  }
  return taken;
}

/** Two points over 64 MiB of which the older is deleted: what is left to do takes a while. */
async function longWork(rig: Rig): Promise<{ live: LiveDrive; newer: Taken }> {
  const live = await liveDrive(rig, 64 * MiB);
  const whole = [{ grain: 0, count: live.content.values.length }];
  await writeFresh(live.attachment.client, live.content, whole);
  const [older] = await takeSome(rig, live, 1, 1);
  await writeFresh(live.attachment.client, live.content, whole);
  const [newer] = await takeSome(rig, live, 1, 1);
  if (older === undefined || newer === undefined) throw new Error('no points');
  await rig.deletePoints(older.id);
  return { live, newer };
}

/** A drive whose only point is deleted, with changes since: what is left can be merged. */
async function deletedPoint(rig: Rig): Promise<LiveDrive> {
  const live = await liveDrive(rig, MiB);
  const [taken] = await takeSome(rig, live, 1, 16);
  if (taken === undefined) throw new Error('no point');
  await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 16 }]);
  await rig.deletePoints(taken.id);
  return live;
}

export function testDeletions(harness: EngineHarness): void {
  for (const order of ['oldest first', 'newest first', 'inside out'] as const) {
    test(`points are deleted ${order} while a client writes; the others stay what they are`, async () => {
      await using rig = await Rig.start(harness);
      const live = await liveDrive(rig);
      const taken = await takeSome(rig, live, 9, 60);
      const queue = [...taken];
      const second = await rig.connect(live.attachment.target);
      const only = [5, 100, 333, 700, 1001];
      const writer = new Writer(second, live.content, only);
      while (queue.length > 0) {
        const at = order === 'oldest first' ? 0 : order === 'newest first' ? queue.length - 1 : queue.length >> 1;
        const [gone] = queue.splice(at, 1);
        if (gone === undefined) break;
        await rig.deletePoints(gone.id);
        await rig.reclaim(live.driveId);
        await expect(rig.read({ point: gone.id })).rejects.toMatchObject({ code: 'not_found' });
        for (const left of queue) expectContent(await rig.read({ point: left.id }), left.content);
        await writer.progress(10);
      }
      await writer.stop();
      expect(writer.failure).toBeUndefined();
      expectContent(await readLive(live), live.content);
      expect(await rig.complaints()).toEqual([]);
    });
  }

  test('the newest point is deleted under heavy writes; the client never fails and nothing is lost', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const [older] = await takeSome(rig, live, 1, 500);
    const writers: Writer[] = [];
    for (let i = 0; i < 3; i++) {
      const client = await rig.connect(live.attachment.target);
      const own = Array.from({ length: 341 }, (_, at) => i * 341 + at);
      writers.push(new Writer(client, live.content, own));
    }
    for (let round = 0; round < 6; round++) {
      await Promise.all(writers.map((writer) => writer.progress(60)));
      const newest = await rig.snapshot(live.driveId);
      await Promise.all(writers.map((writer) => writer.progress(60)));
      await rig.deletePoints(newest);
      await rig.reclaim(live.driveId);
    }
    await Promise.all(writers.map((writer) => writer.stop()));
    for (const writer of writers) expect(writer.failure).toBeUndefined();
    expectContent(await readLive(live), live.content);
    if (older !== undefined) expectContent(await rig.read({ point: older.id }), older.content);
    expect((await rig.engine.usage(live.driveId)).depth).toBeLessThanOrEqual(4);
    expect(await rig.complaints()).toEqual([]);
  });

  test('snapshots, reverts and clones go on beside a merge', async () => {
    await using rig = await Rig.start(harness);
    const { live, newer } = await longWork(rig);
    const control = new TestControl();
    control.bytesPerSecond = 24 * MiB;
    const working = rig.engine.reclaim([live.driveId], control);
    const points: Taken[] = [];
    for (let i = 0; i < 5; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: i * 100, count: 30 }]);
      points.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
      await delay(60);
    }
    const clone = await rig.clone(newer.id, 64 * MiB);
    await rig.revert(live.driveId, newer.id);
    expectContent(await readLive(live), newer.content);
    control.bytesPerSecond = 0;
    await working;
    live.content.values.set(newer.content.values);
    await writeFresh(live.attachment.client, live.content, [{ grain: 5, count: 30 }]);
    expectContent(await readLive(live), live.content);
    expectContent(await rig.read({ drive: clone }), newer.content);
    for (const point of points) expectContent(await rig.read({ point: point.id }), point.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a reader of a point keeps reading the same bytes while what lies below it is merged', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const taken = await takeSome(rig, live, 6, 100);
    const [, , kept] = taken;
    if (kept === undefined) throw new Error('no point');
    const others = taken.filter((one) => one !== kept).map((one) => one.id);
    const client = await rig.engine.withReader({ point: kept.id }, async (target) => {
      const reader = await rig.connect(target);
      expectContent(await reader.read(0, reader.sizeBytes), kept.content);
      await rig.deletePoints(...others);
      await rig.reclaim(live.driveId);
      expectContent(await reader.read(0, reader.sizeBytes), kept.content);
      return reader;
    });
    await expect(client.read(0, 1)).rejects.toMatchObject({ code: 'engine_unavailable' });
    await rig.reclaim(live.driveId);
    expectContent(await rig.read({ point: kept.id }), kept.content);
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a reader of the very point that is deleted is served to its end', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const [point, next] = await takeSome(rig, live, 2, 200);
    if (point === undefined || next === undefined) throw new Error('no point');
    await rig.engine.withReader({ point: point.id }, async (target) => {
      const reader = await rig.connect(target);
      await rig.deletePoints(point.id);
      await rig.reclaim(live.driveId);
      expectContent(await reader.read(0, reader.sizeBytes), point.content);
    });
    await rig.reclaim(live.driveId);
    expectContent(await rig.read({ point: next.id }), next.content);
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('merging reports its progress and comes to its total', async () => {
    await using rig = await Rig.start(harness);
    const { live } = await longWork(rig);
    const control = new TestControl();
    control.bytesPerSecond = 64 * MiB;
    const result = await rig.engine.reclaim([live.driveId], control);
    expect(control.seen.length).toBeGreaterThan(2);
    for (const { done, total } of control.seen) expect(done).toBeLessThanOrEqual(total);
    for (const [at, { done }] of control.seen.entries())
      expect(done).toBeGreaterThanOrEqual(control.seen[at - 1]?.done ?? 0);
    expect(control.seen.at(-1)?.done).toBeGreaterThan(48 * MiB);
    expect(result.freedBytes).toBeGreaterThan(60 * MiB);
    expect(result.keptBytes).toBe(0);
  });

  test('a speed limit holds, and can be lifted under way', async () => {
    await using rig = await Rig.start(harness);
    if (!rig.engine.capabilities.throttledReclaim) return;
    const { live, newer } = await longWork(rig);
    const control = new TestControl();
    control.bytesPerSecond = 8 * MiB;
    const started = performance.now();
    const working = rig.engine.reclaim([live.driveId], control);
    await delay(900);
    const done = control.seen.at(-1)?.done ?? 0;
    const allowed = (performance.now() - started) / 1000 + 0.5;
    expect(done).toBeLessThan(allowed * 8 * MiB);
    control.bytesPerSecond = 0;
    await working;
    expectContent(await rig.read({ point: newer.id }), newer.content);
  });

  test('reclaiming can be paused and resumed', async () => {
    await using rig = await Rig.start(harness);
    if (!rig.engine.capabilities.throttledReclaim) return;
    const { live, newer } = await longWork(rig);
    const control = new TestControl();
    control.bytesPerSecond = 16 * MiB;
    const working = rig.engine.reclaim([live.driveId], control);
    let ended = false;
    void working.finally(() => {
      ended = true;
    });
    await delay(600);
    control.paused = true;
    await delay(700);
    const paused = control.seen.at(-1)?.done ?? 0;
    await delay(600);
    expect(control.seen.at(-1)?.done ?? 0).toBe(paused);
    expect(ended).toBe(false);
    control.paused = false;
    control.bytesPerSecond = 0;
    await working;
    expectContent(await rig.read({ point: newer.id }), newer.content);
    expectContent(await readLive(live), live.content);
  });

  test('reclaiming can be aborted at any time and begun again', async () => {
    await using rig = await Rig.start(harness);
    const { live, newer } = await longWork(rig);
    for (const afterMs of [0, 30, 150, 400]) {
      const control = new TestControl();
      control.bytesPerSecond = 16 * MiB;
      const working = rig.engine.reclaim([live.driveId], control);
      await delay(afterMs);
      control.abort.abort();
      await expect(working).rejects.toMatchObject({ code: 'cancelled' });
      expectContent(await rig.read({ point: newer.id }), newer.content);
      expectContent(await readLive(live), live.content);
    }
    await rig.reclaim(live.driveId);
    expectContent(await rig.read({ point: newer.id }), newer.content);
    expectContent(await readLive(live), live.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive may be deleted while its layers are merged', async () => {
    await using rig = await Rig.start(harness);
    for (let round = 0; round < 12; round++) {
      const live = await deletedPoint(rig);
      await rig.end(live.attachment);
      const merging = rig.engine.reclaim([live.driveId], new TestControl());
      await delay(round);
      await rig.engine.deleteDrive(live.driveId, noCommit);
      await merging;
    }
    expect(await rig.complaints()).toEqual([]);
  });

  test('space really comes back', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 32 * MiB);
    const empty = await rig.usedBytes();
    const taken: Taken[] = [];
    for (let i = 0; i < 4; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 2048 }]);
      taken.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
    }
    expect(await rig.usedBytes()).toBeGreaterThan(32 * MiB);
    let freed = 0;
    for (const { id } of taken) {
      const before = await rig.usedBytes();
      await rig.deletePoints(id);
      const { freedBytes, keptBytes } = await rig.reclaim(live.driveId);
      expect(keptBytes).toBe(0);
      expect(Math.abs(freedBytes - (before - (await rig.usedBytes())))).toBeLessThan(harness.overheadBytes);
      freed += freedBytes;
    }
    expect(freed).toBeGreaterThan(23 * MiB);
    expect((await rig.usedBytes()) - empty).toBeLessThan(2048 * grainBytes + 2 * harness.overheadBytes);
    expectContent(await readLive(live), live.content);
  });

  test('what a guest has given back is not written out by a merge', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 32 * MiB);
    const { client } = live.attachment;
    await writeFresh(client, live.content, [{ grain: 0, count: 4096 }]);
    const first = await rig.snapshot(live.driveId);
    await client.trim(0, 12 * MiB);
    await client.flush();
    live.content.set(0, 3072, 0);
    await rig.snapshot(live.driveId);
    await rig.deletePoints(first);
    await rig.reclaim(live.driveId);
    expect(await rig.usedBytes()).toBeLessThan(4 * MiB + 3 * harness.overheadBytes);
    expectContent(await readLive(live), live.content);
  });

  test('a deleted point with several states built on it stays, hidden, until one is left', async () => {
    await using rig = await Rig.start(harness);
    const source = await liveDrive(rig, 16 * MiB);
    await writeFresh(source.attachment.client, source.content, [{ grain: 0, count: 1024 }]);
    const point = await rig.snapshot(source.driveId);
    const clone = await rig.clone(point, 16 * MiB);
    const cloned = source.content.copy();
    await writeFresh(source.attachment.client, source.content, [{ grain: 0, count: 1024 }]);
    await rig.deletePoints(point);
    const held = await rig.reclaim(source.driveId, clone);
    expect(held.keptBytes).toBeGreaterThanOrEqual(4 * MiB);
    expectContent(await rig.read({ drive: clone }), cloned);
    await rig.engine.deleteDrive(clone, noCommit);
    const { freedBytes, keptBytes } = await rig.reclaim(source.driveId, clone);
    expect(freedBytes).toBeGreaterThanOrEqual(4 * MiB);
    expect(keptBytes).toBe(0);
    expectContent(await readLive(source), source.content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('many points are deleted in one call', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const taken = await takeSome(rig, live, 20, 40);
    const [first, last] = [taken[3], taken[17]];
    if (first === undefined || last === undefined) throw new Error('no points');
    const gone = taken.filter((one) => one !== first && one !== last);
    await rig.deletePoints(...gone.map((one) => one.id));
    await rig.reclaim(live.driveId);
    for (const one of [first, last]) expectContent(await rig.read({ point: one.id }), one.content);
    expectContent(await readLive(live), live.content);
    expect((await rig.engine.usage(live.driveId)).depth).toBeLessThanOrEqual(5);
    expect(await rig.complaints()).toEqual([]);
  });
}
