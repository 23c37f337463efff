/** Drives made from image files of other programs. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { type DriveId, newId } from '../../core/ids.ts';
import { imageFormats } from '../engine.ts';
import { Content, expectContent, freshValue, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { noCommit, Rig, TestControl } from './rig.ts';

const run = promisify(execFile);

/** A raw image with some content. */
async function rawImage(path: string, sizeBytes: number): Promise<Content> {
  const content = new Content(sizeBytes);
  for (const [grain, count] of [
    [0, 3],
    [500, 200],
    [content.values.length - 1, 1],
  ] as const) {
    content.set(grain, count, freshValue());
  }
  await writeFile(path, content.bytes());
  return content;
}

export function testImports(harness: EngineHarness): void {
  for (const format of imageFormats) {
    test(`a ${format} image becomes a drive, and then is no longer needed`, async () => {
      await using rig = await Rig.start(harness);
      const raw = join(rig.directory, 'source.raw');
      const content = await rawImage(raw, 16 * MiB);
      const path = format === 'raw' ? raw : join(rig.directory, `source.${format}`);
      if (format !== 'raw') {
        const options = format === 'vpc' ? ['-o', 'force_size=on'] : [];
        await run('qemu-img', ['convert', '-f', 'raw', '-O', format, ...options, raw, path]);
      }
      const driveId = newId<DriveId>();
      const control = new TestControl();
      let told = 0;
      const source = { path, format };
      const sizeBytes = await rig.engine.importDrive({ driveId, source }, control, (bytes) => {
        told = bytes;
        return noCommit;
      });
      expect(sizeBytes).toBe(16 * MiB);
      expect(told).toBe(sizeBytes);
      expect(control.seen.at(-1)?.done).toBe(control.seen.at(-1)?.total);
      expect(await rig.engine.importDrive({ driveId, source }, control, () => noCommit)).toBe(sizeBytes);
      await writeFile(path, '');
      expectContent(await rig.read({ drive: driveId }), content);
      const point = await rig.snapshot(driveId);
      const then = content.copy();
      await rig.write(driveId, content, [{ grain: 400, count: 200 }]);
      expectContent(await rig.read({ point }), then);
      expectContent(await rig.read({ drive: driveId }), content);
      expect(await rig.complaints()).toEqual([]);
    });
  }

  test('an aborted import leaves nothing', async () => {
    await using rig = await Rig.start(harness);
    const path = join(rig.directory, 'source.raw');
    await writeFile(path, Buffer.alloc(64 * MiB, 7));
    const before = await rig.usedBytes();
    const control = new TestControl();
    control.bytesPerSecond = 4 * MiB;
    control.onProgress = () => control.abort.abort();
    const driveId = newId<DriveId>();
    const source = { path, format: 'raw' } as const;
    await expect(rig.engine.importDrive({ driveId, source }, control, () => noCommit)).rejects.toMatchObject({
      code: 'cancelled',
    });
    expect(await rig.usedBytes()).toBe(before);
    await expect(rig.read({ drive: driveId })).rejects.toMatchObject({ code: 'not_found' });
    expect(await rig.complaints()).toEqual([]);
    await rig.engine.importDrive({ driveId, source }, new TestControl(), () => noCommit);
    expect((await rig.read({ drive: driveId })).equals(Buffer.alloc(64 * MiB, 7))).toBe(true);
  });

  test('an import survives the death of the serving process', async () => {
    await using rig = await Rig.start(harness);
    const path = join(rig.directory, 'source.raw');
    await writeFile(path, Buffer.alloc(64 * MiB, 9));
    const control = new TestControl();
    control.bytesPerSecond = 32 * MiB;
    const driveId = newId<DriveId>();
    const importing = rig.engine.importDrive({ driveId, source: { path, format: 'raw' } }, control, () => noCommit);
    await new Promise((resolve) => setTimeout(resolve, 400));
    await rig.kill();
    control.bytesPerSecond = 0;
    expect(await importing).toBe(64 * MiB);
    expect((await rig.read({ drive: driveId })).equals(Buffer.alloc(64 * MiB, 9))).toBe(true);
    expect(await rig.complaints()).toEqual([]);
  });
}
