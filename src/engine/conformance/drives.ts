/** Creating, growing, deleting, checking drives; every method twice. */
import { expect, test } from 'vitest';
import type { CommitHook } from '../../catalog/catalog.ts';
import { type DriveId, type DriveSnapshotId, type ExportId, newId } from '../../core/ids.ts';
import type { Engine } from '../engine.ts';
import { Content, expectContent, grainBytes, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { driveBytes, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';

export function testDrives(harness: EngineHarness): void {
  test('a new drive reads as zeros and takes next to nothing', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive(64 * MiB);
    const bytes = await rig.read({ drive });
    expect(bytes.length).toBe(64 * MiB);
    expect(bytes.equals(Buffer.alloc(64 * MiB))).toBe(true);
    expect(await rig.usedBytes()).toBeLessThan(harness.overheadBytes);
    expect(await rig.complaints()).toEqual([]);
  });

  test('what a client wrote and flushed is there after its export has ended', async () => {
    await using rig = await Rig.start(harness);
    const drive = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(drive, content, [
      { grain: 0, count: 1 },
      { grain: 100, count: 33 },
      { grain: 1023, count: 1 },
    ]);
    expectContent(await rig.read({ drive }), content);
  });

  test('every method can be called again with the same ids', async () => {
    await using rig = await Rig.start(harness);
    const { engine } = rig;
    const twice = async (call: () => Promise<unknown>): Promise<void> => {
      await call();
      await call();
    };
    const driveId = newId<DriveId>();
    const clone = newId<DriveId>();
    const point = newId<DriveSnapshotId>();
    const kept = newId<DriveSnapshotId>();
    const exportId = newId<ExportId>();
    const of = { drive: driveId, writable: true };
    let commits = 0;
    const count = async (): Promise<void> => {
      commits++;
    };
    await twice(() => engine.createDrive({ driveId, sizeBytes: driveBytes }, count));
    await twice(() => engine.snapshot([{ driveId, driveSnapshotId: point }], count));
    await twice(() => engine.revert('once', [{ driveId, driveSnapshotId: point, keepAs: kept }], count));
    await twice(() => engine.clone({ driveId: clone, driveSnapshotId: point, sizeBytes: driveBytes }, count));
    await twice(() => engine.resizeDrive(driveId, 2 * driveBytes, count));
    await twice(() => engine.flatten(clone, new TestControl(), count));
    await twice(() => engine.startExport({ exportId, exportName: 'e', of }, count));
    await twice(() => engine.stopExport(exportId, count));
    await twice(() => engine.deleteSnapshots([point, kept], count));
    await twice(() => engine.deleteDrive(driveId, count));
    await twice(() => rig.reclaim(driveId, clone));
    expect(commits).toBe(20);
    expectContent(await rig.read({ drive: clone }), new Content(driveBytes));
    expect(await rig.complaints()).toEqual([]);
  });

  test('a commit that fails leaves the drive as it was, and the call can be made again', async () => {
    await using rig = await Rig.start(harness);
    const { engine } = rig;
    const live = await liveDrive(rig);
    const { driveId, content } = live;
    await writeFresh(live.attachment.client, content, [{ grain: 3, count: 5 }]);
    const point = await rig.snapshot(driveId);
    const old = content.copy();
    await writeFresh(live.attachment.client, content, [{ grain: 4, count: 9 }]);
    const refuse = async (): Promise<never> => {
      throw new Error('refused');
    };
    const calls: Record<string, (commit: CommitHook) => Promise<unknown>> = {
      create: (commit) => engine.createDrive({ driveId: newId(), sizeBytes: driveBytes }, commit),
      snapshot: (commit) => engine.snapshot([{ driveId, driveSnapshotId: newId() }], commit),
      revert: (commit) => engine.revert('r', [{ driveId, driveSnapshotId: point, keepAs: newId() }], commit),
      clone: (commit) => engine.clone({ driveId: newId(), driveSnapshotId: point, sizeBytes: driveBytes }, commit),
      flatten: (commit) => engine.flatten(driveId, new TestControl(), commit),
      delete: (commit) => engine.deleteSnapshots([point], commit),
      export: (commit) => engine.startExport({ exportId: newId(), exportName: 'no', of: { point } }, commit),
    };
    for (const [name, call] of Object.entries(calls)) {
      await expect(call(refuse), name).rejects.toThrow('refused');
      await writeFresh(live.attachment.client, content, [{ grain: 7, count: 1 }]);
      expectContent(await readLive(live), content, name);
      expectContent(await rig.read({ point }), old, name);
      expect(await rig.complaints(), name).toEqual([]);
    }
    for (const [name, call] of Object.entries(calls)) {
      if (name === 'delete') continue;
      await call(noCommit);
      if (name === 'revert') content.values.set(old.values);
      expectContent(await readLive(live), content, name);
    }
    await rig.end(live.attachment);
    await expect(engine.resizeDrive(driveId, 2 * driveBytes, refuse)).rejects.toThrow('refused');
    await expect(engine.deleteDrive(driveId, refuse)).rejects.toThrow('refused');
    const bytes = await rig.read({ drive: driveId });
    expectContent(bytes.subarray(0, driveBytes), content);
    await rig.reopen({ stopProcesses: true });
    expectContent((await rig.read({ drive: driveId })).subarray(0, driveBytes), content);
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive grows while it is free and while it is exported; what is new reads as zeros', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const { driveId } = live;
    const last = driveBytes / grainBytes - 1;
    await writeFresh(live.attachment.client, live.content, [{ grain: last, count: 1 }]);
    const small = await rig.snapshot(driveId);
    await rig.engine.resizeDrive(driveId, 2 * driveBytes, noCommit);
    await expect(live.attachment.client.read(0, 1)).rejects.toMatchObject({ code: 'engine_unavailable' });
    live.attachment.client = await rig.connect(live.attachment.target);
    const grown = live.content.copy(2 * driveBytes);
    expectContent(await readLive(live), grown);
    await writeFresh(live.attachment.client, grown, [
      { grain: last + 1, count: 2 },
      { grain: 2 * last + 1, count: 1 },
    ]);
    await rig.end(live.attachment);
    await rig.engine.resizeDrive(driveId, 3 * driveBytes, noCommit);
    const largest = grown.copy(3 * driveBytes);
    expectContent(await rig.read({ drive: driveId }), largest);
    expectContent(await rig.read({ point: small }), live.content);
    expect((await rig.engine.usage(driveId)).virtualBytes).toBe(3 * driveBytes);
    await expect(rig.engine.resizeDrive(driveId, driveBytes, noCommit)).rejects.toMatchObject({
      code: 'shrink_not_supported',
    });
    await rig.revert(driveId, small);
    expectContent(await rig.read({ drive: driveId }), live.content.copy(3 * driveBytes));
    await rig.deletePoints(small);
    await rig.reclaim(driveId);
    expectContent(await rig.read({ drive: driveId }), live.content.copy(3 * driveBytes));
    expect(await rig.complaints()).toEqual([]);
  });

  test('a drive that grows again and again stays shallow', async () => {
    await using rig = await Rig.start(harness);
    const driveId = await rig.createDrive();
    const content = new Content(driveBytes);
    await rig.write(driveId, content, [{ grain: 8, count: 8 }]);
    let sizeBytes = driveBytes;
    for (let i = 0; i < 30; i++) {
      sizeBytes += MiB;
      await rig.engine.resizeDrive(driveId, sizeBytes, noCommit);
      expect((await rig.engine.usage(driveId)).depth).toBeLessThanOrEqual(harness.maxDepth);
    }
    expectContent(await rig.read({ drive: driveId }), content.copy(sizeBytes));
  });

  test('a deleted drive is gone; its points stay readable unless they are deleted too', async () => {
    await using rig = await Rig.start(harness);
    const [keeping, with_] = [await rig.createDrive(), await rig.createDrive()];
    const contents = [new Content(driveBytes), new Content(driveBytes)] as const;
    await rig.write(keeping, contents[0], [{ grain: 1, count: 40 }]);
    await rig.write(with_, contents[1], [{ grain: 2, count: 40 }]);
    const points = [await rig.snapshot(keeping), await rig.snapshot(with_)] as const;
    const then = contents[0].copy();
    await rig.write(keeping, contents[0], [{ grain: 1, count: 20 }]);
    await rig.engine.deleteSnapshots([points[1]], noCommit);
    for (const drive of [keeping, with_]) {
      await rig.engine.deleteDrive(drive, noCommit);
      await expect(rig.read({ drive })).rejects.toMatchObject({ code: 'not_found' });
    }
    await rig.reclaim(keeping, with_);
    expectContent(await rig.read({ point: points[0] }), then);
    await expect(rig.read({ point: points[1] })).rejects.toMatchObject({ code: 'not_found' });
    await rig.deletePoints(points[0]);
    const { freedBytes } = await rig.reclaim(keeping, with_);
    expect(freedBytes).toBeGreaterThan(0);
    expect(await rig.usedBytes()).toBeLessThan(harness.overheadBytes);
    expect(await rig.complaints()).toEqual([]);
  });

  test('an exported drive is not deleted', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await expect(rig.engine.deleteDrive(live.driveId, noCommit)).rejects.toMatchObject({ code: 'drive_exported' });
    expectContent(await readLive(live), live.content);
  });

  test('a check reads every file of a drive at rest and finds nothing', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    for (let i = 0; i < 3; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: i * 50, count: 30 }]);
      await rig.snapshot(live.driveId);
    }
    const control = new TestControl();
    await expect(rig.engine.check(live.driveId, control)).rejects.toMatchObject({ code: 'drive_exported' });
    await rig.end(live.attachment);
    const report = await rig.engine.check(live.driveId, control);
    expect(report).toMatchObject({ ok: true, errors: 0, corruptions: 0, leaks: 0 });
    expect(report.files).toBeGreaterThan(0);
    const last = control.seen.at(-1);
    expect(last?.done).toBe(last?.total);
  });

  test('what does not exist is not found, by every method', async () => {
    await using rig = await Rig.start(harness);
    const { engine } = rig;
    const driveId = newId<DriveId>();
    const point = newId<DriveSnapshotId>();
    const real = await rig.createDrive();
    const calls: Record<string, (e: Engine) => Promise<unknown>> = {
      resize: (e) => e.resizeDrive(driveId, driveBytes, noCommit),
      snapshot: (e) => e.snapshot([{ driveId, driveSnapshotId: point }], noCommit),
      group: (e) =>
        e.snapshot(
          [
            { driveId: real, driveSnapshotId: newId() },
            { driveId, driveSnapshotId: point },
          ],
          noCommit,
        ),
      revert: (e) => e.revert('x', [{ driveId: real, driveSnapshotId: point, keepAs: null }], noCommit),
      clone: (e) => e.clone({ driveId, driveSnapshotId: point, sizeBytes: driveBytes }, noCommit),
      flatten: (e) => e.flatten(driveId, new TestControl(), noCommit),
      export: (e) => e.startExport({ exportId: newId(), exportName: 'x', of: { point } }, noCommit),
      changed: (e) => e.changedExtents(null, { point }),
      usage: (e) => e.snapshotUsage(point),
    };
    for (const [name, call] of Object.entries(calls)) {
      await expect(call(engine), name).rejects.toMatchObject({ code: 'not_found' });
    }
    await engine.deleteDrive(driveId, noCommit);
    await engine.deleteSnapshots([point], noCommit);
    expect(await engine.needsCompaction(driveId)).toBe(false);
    expect(await engine.compact(driveId, new TestControl())).toBe(false);
    expectContent(await rig.read({ drive: real }), new Content(driveBytes));
    expect(await rig.complaints()).toEqual([]);
  });

  test('it answers while it runs, and refuses everything once it is closed', async () => {
    await using rig = await Rig.start(harness);
    const { engine } = rig;
    await engine.ping();
    await engine.close();
    await expect(engine.ping()).rejects.toMatchObject({ code: 'shutting_down' });
    await expect(engine.usage(newId())).rejects.toMatchObject({ code: 'shutting_down' });
    await rig.reopen();
    await rig.engine.ping();
  });
}
