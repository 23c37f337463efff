/** A place that gets full. Needs root, to mount a small file system. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, type TestContext, test } from 'vitest';
import { newId } from '../../core/ids.ts';
import { Content, expectContent, freshValue, grainBytes, grains, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { driveBytes, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';

const run = promisify(execFile);

/** A tmpfs of its own; skips the test where mounting is not allowed. */
async function smallPlace(context: TestContext, sizeBytes: number): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'calo-'));
  const remove = (): Promise<void> => rm(path, { recursive: true, force: true });
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes},mode=700`, 'calotype-test', path]);
  } catch {
    await remove();
    context.skip('mounting a small file system takes root');
  }
  const release = async (): Promise<void> => {
    // Processes that were told to end may still hold it.
    await expect.poll(() => run('umount', [path]).then(() => 'gone', String)).toBe('gone');
    await remove();
  };
  return { path, [Symbol.asyncDispose]: release };
}

async function freeBytes(path: string): Promise<number> {
  const found = await statfs(path);
  return found.bavail * found.bsize;
}

/** Fills the place but for so many bytes; what is written meanwhile may take some of them. */
async function fill(path: string, leaveBytes: number): Promise<string> {
  const ballast = join(path, 'ballast');
  for (let attempt = 0; ; attempt++) {
    const bytes = (await freeBytes(path)) - leaveBytes;
    const failed = await run('fallocate', ['-l', String(bytes), ballast]).then(
      () => false,
      () => true,
    );
    if (!failed) return ballast;
    await rm(ballast, { force: true });
    if (attempt === 20) throw new Error('the place cannot be filled');
  }
}

export function testSpace(harness: EngineHarness): void {
  test('below the mark creates are refused, and deletes are not', async (context) => {
    await using place = await smallPlace(context, 64 * MiB);
    await using rig = await Rig.start(harness, { directory: place.path, minFreeBytes: 16 * MiB });
    const live = await liveDrive(rig);
    const { driveId } = live;
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 500 }]);
    const point = await rig.snapshot(driveId);
    expect((await rig.engine.space()).low).toBe(false);
    const ballast = await fill(place.path, 12 * MiB);
    const low = { code: 'space_low' };
    const image = join(place.path, 'x.raw');
    await writeFile(image, Buffer.alloc(grainBytes));
    const source = { path: image, format: 'raw' } as const;
    const { engine } = rig;
    await expect(rig.createDrive()).rejects.toMatchObject(low);
    await expect(rig.snapshot(driveId)).rejects.toMatchObject(low);
    await expect(rig.clone(point)).rejects.toMatchObject(low);
    await expect(engine.resizeDrive(driveId, 2 * driveBytes, noCommit)).rejects.toMatchObject(low);
    await expect(
      engine.importDrive({ driveId: newId(), source }, new TestControl(), () => noCommit),
    ).rejects.toMatchObject(low);
    expect((await engine.space()).low).toBe(true);
    expectContent(await readLive(live), live.content);
    await writeFresh(live.attachment.client, live.content, [{ grain: 100, count: 20 }]);
    await rig.deletePoints(point);
    await rig.reclaim(driveId);
    expectContent(await readLive(live), live.content);
    await rm(ballast);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await rig.snapshot(driveId);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a disk that gets full during a merge harms nothing; the merge goes on when there is room', async (context) => {
    await using place = await smallPlace(context, 96 * MiB);
    await using rig = await Rig.start(harness, { directory: place.path });
    const live = await liveDrive(rig, 32 * MiB);
    const { driveId, content } = live;
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 256 }]);
    const first = await rig.snapshot(driveId);
    await writeFresh(live.attachment.client, content, [{ grain: 256, count: 4096 }]);
    const second = await rig.snapshot(driveId);
    const then = content.copy();
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 16 }]);
    await rig.deletePoints(first);
    const ballast = await fill(place.path, 4 * MiB);
    for (let attempt = 0; attempt < 2; attempt++) {
      await expect(rig.reclaim(driveId)).rejects.toMatchObject({ code: 'space_exhausted' });
      expectContent(await rig.read({ point: second }), then);
      expectContent(await readLive(live), content);
    }
    await rm(ballast);
    await rig.reclaim(driveId);
    expectContent(await rig.read({ point: second }), then);
    expectContent(await readLive(live), content);
    expect((await rig.engine.usage(driveId)).depth).toBe(2);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a client whose disk is full is told so, loses nothing it had, and writes on when there is room', async (context) => {
    await using place = await smallPlace(context, 48 * MiB);
    await using rig = await Rig.start(harness, { directory: place.path });
    const live = await liveDrive(rig, 64 * MiB);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 1000 }]);
    await rig.snapshot(live.driveId);
    const ballast = await fill(place.path, 3 * MiB);
    let refused = 0;
    for (let grain = 2000; grain < 6000; grain += 32) {
      const value = freshValue();
      try {
        await live.attachment.client.write(grain * grainBytes, grains(value, 32));
        live.content.set(grain, 32, value);
      } catch (error) {
        expect(error).toMatchObject({ code: 'space_exhausted' });
        refused++;
        break;
      }
    }
    expect(refused).toBe(1);
    await rm(ballast);
    const rest = live.content.copy();
    await writeFresh(live.attachment.client, rest, [{ grain: 8000, count: 64 }]);
    const found = await readLive(live);
    const known = new Content(64 * MiB, rest.values);
    // The refused write itself may have got anywhere.
    for (let grain = 2000; grain < 6000; grain++) {
      if ((known.values[grain] ?? 0) === 0) found.fill(0, grain * grainBytes, (grain + 1) * grainBytes);
    }
    expectContent(found, known);
    await rig.snapshot(live.driveId);
    expect(await rig.complaints()).toEqual([]);
  });

  test('the reserve is for deletes: they go through on a disk that is quite full, and it is taken again', async (context) => {
    const reserve = 24 * MiB;
    for (const reserveBytes of [0, reserve]) {
      await using place = await smallPlace(context, 96 * MiB);
      await using rig = await Rig.start(harness, { directory: place.path, reserveBytes });
      const live = await liveDrive(rig, 16 * MiB);
      const { driveId, content } = live;
      await writeFresh(live.attachment.client, content, [{ grain: 0, count: 64 }]);
      const first = await rig.snapshot(driveId);
      await writeFresh(live.attachment.client, content, [{ grain: 64, count: 2048 }]);
      const second = await rig.snapshot(driveId);
      const then = content.copy();
      await writeFresh(live.attachment.client, content, [{ grain: 0, count: 16 }]);
      expect((await rig.engine.space()).reserveBytes).toBe(reserveBytes);
      if (reserveBytes === 0) await rig.deletePoints(first);
      await fill(place.path, 0);
      if (reserveBytes === 0) {
        await expect(rig.reclaim(driveId)).rejects.toMatchObject({ code: 'space_exhausted' });
        continue;
      }
      await rig.deletePoints(first);
      const { freedBytes } = await rig.reclaim(driveId);
      expect(freedBytes).toBeGreaterThan(0);
      expectContent(await rig.read({ point: second }), then);
      expectContent(await readLive(live), content);
      await rm(join(place.path, 'ballast'));
      await rig.reclaim(driveId);
      const taken = 96 * MiB - (await freeBytes(place.path)) - (await rig.usedBytes());
      expect(taken).toBeGreaterThanOrEqual(reserve);
      expect(await rig.complaints()).toEqual([]);
    }
  });

  test('what a full disk stopped leaves nothing behind, and works when called again', async (context) => {
    await using place = await smallPlace(context, 64 * MiB);
    await using rig = await Rig.start(harness, { directory: place.path });
    const live = await liveDrive(rig, 16 * MiB);
    const { driveId, content } = live;
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 2048 }]);
    const point = await rig.snapshot(driveId);
    const clone = await rig.clone(point, 16 * MiB);
    const ballast = await fill(place.path, 2 * MiB);
    await expect(rig.engine.flatten(clone, new TestControl(), noCommit)).rejects.toMatchObject({
      code: 'space_exhausted',
    });
    expectContent(await rig.read({ drive: clone }), content);
    expectContent(await readLive(live), content);
    await rm(ballast);
    await rig.engine.flatten(clone, new TestControl(), noCommit);
    expectContent(await rig.read({ drive: clone }), content);
    expect(await rig.complaints()).toEqual([]);
  });
}
