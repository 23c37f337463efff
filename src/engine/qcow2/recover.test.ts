/** Recovery from states that crashes leave, set up by hand; and from a daemon that refuses, or cannot be heard. */
import { copyFile, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { type DriveId, type DriveSnapshotId, type ExportId, newId } from '../../core/ids.ts';
import { createOverlayFile, setBackingName } from '../../qemu/qcow2.ts';
import { QmpClient, type QmpCommand } from '../../qemu/qmp.ts';
import { expectContent } from '../conformance/content.ts';
import { type LiveDrive, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from '../conformance/rig.ts';
import { harness } from './conformance-harness.ts';
import { findHead, findPoint, getFile, insertFile, insertIntent, updateFiles } from './records.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

const pathOf = (rig: Rig, id: number): string => join(rig.directory, 'images', `l${id.toString(36)}.qcow2`);
const topOf = async (rig: Rig, id: DriveId): Promise<number> => (await findHead(rig.catalog.db, id))?.file_id ?? -1;
const fileOf = async (rig: Rig, id: DriveSnapshotId): Promise<number> =>
  (await findPoint(rig.catalog.db, id))?.file_id ?? -1;

/** Makes QEMU refuse some commands: they are sent with a name it does not know. */
function refuse(which: (command: string) => boolean): void {
  const spoil = (command: QmpCommand): QmpCommand =>
    which(command.execute) ? { ...command, execute: `no-${command.execute}` } : command;
  const { executeEach, executeAll } = QmpClient.prototype;
  vi.spyOn(QmpClient.prototype, 'executeEach').mockImplementation(function (this: QmpClient, commands) {
    return executeEach.call(this, commands.map(spoil));
  });
  vi.spyOn(QmpClient.prototype, 'executeAll').mockImplementation(function (this: QmpClient, commands) {
    return executeAll.call(this, commands.map(spoil));
  });
}

/** The engine's connections to its daemon, newest last. */
function connections(): QmpClient[] {
  const made: QmpClient[] = [];
  const { connect } = QmpClient;
  vi.spyOn(QmpClient, 'connect').mockImplementation(async (path) => {
    const client = await connect.call(QmpClient, path);
    made.push(client);
    return client;
  });
  return made;
}

async function twoPoints(rig: Rig): Promise<LiveDrive & { first: DriveSnapshotId; second: DriveSnapshotId }> {
  const live = await liveDrive(rig);
  await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 100 }]);
  const first = await rig.snapshot(live.driveId);
  await writeFresh(live.attachment.client, live.content, [{ grain: 50, count: 100 }]);
  const second = await rig.snapshot(live.driveId);
  await writeFresh(live.attachment.client, live.content, [{ grain: 120, count: 10 }]);
  return { ...live, first, second };
}

test('a connection that is lost while the daemon lives is made again, and no client notices', async () => {
  const made = connections();
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  for (let i = 0; i < 3; i++) {
    made.at(-1)?.close();
    await writeFresh(live.attachment.client, live.content, [{ grain: i, count: 3 }]);
    await rig.snapshot(live.driveId);
    expectContent(await readLive(live), live.content);
  }
  expect(made.length).toBeGreaterThanOrEqual(4);
  expect(await rig.complaints()).toEqual([]);
});

test('a connection that is lost during calls lets them come to their end', async () => {
  const made = connections();
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  await rig.deletePoints(live.first);
  const calls = Promise.all([
    rig.reclaim(live.driveId),
    rig.read({ point: live.second }).catch(() => undefined),
    rig.engine.usage(live.driveId),
    rig.engine.createDrive({ driveId: newId(), sizeBytes: 4096 }, noCommit),
  ]);
  await new Promise((resolve) => setTimeout(resolve, 3));
  made.at(-1)?.close();
  await calls;
  expectContent(await readLive(live), live.content);
  expect(await rig.complaints()).toEqual([]);
});

test('a revert that QEMU carries out by half, and will not undo, is settled as soon as it can be', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  refuse((command) => command === 'blockdev-reopen');
  const kept = newId<DriveSnapshotId>();
  const targets = [{ driveId: live.driveId, driveSnapshotId: live.first, keepAs: kept }];
  await expect(rig.engine.revert('r', targets, noCommit)).rejects.toMatchObject({ code: 'engine_failed' });
  expectContent(await readLive(live), live.content);
  await expect(rig.snapshot(live.driveId)).rejects.toMatchObject({ code: 'engine_failed' });
  vi.restoreAllMocks();
  await rig.engine.revert('r', targets, noCommit);
  expect((await readLive(live)).equals(await rig.read({ point: live.first }))).toBe(true);
  expectContent(await rig.read({ point: kept }), live.content);
  await rig.snapshot(live.driveId);
  expect(await rig.complaints()).toEqual([]);
});

test('a drive whose revert cannot be finished can still be deleted', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  refuse((command) => command === 'blockdev-reopen');
  await expect(rig.revert(live.driveId, live.first)).rejects.toMatchObject({ code: 'engine_failed' });
  await rig.end(live.attachment);
  await rig.engine.deleteDrive(live.driveId, noCommit);
  vi.restoreAllMocks();
  await rig.deletePoints(live.first, live.second);
  await rig.reclaim(live.driveId);
  await rig.reopen({ stopProcesses: true });
  expect(await rig.complaints()).toEqual([]);
  expect(await rig.usedBytes()).toBe(0);
});

test('a revert whose pivot QEMU refuses changes nothing', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  refuse((command) => command === 'blockdev-snapshot');
  await expect(rig.revert(live.driveId, live.first, newId())).rejects.toMatchObject({ code: 'engine_failed' });
  vi.restoreAllMocks();
  await writeFresh(live.attachment.client, live.content, [{ grain: 3, count: 3 }]);
  expectContent(await readLive(live), live.content);
  await rig.snapshot(live.driveId);
  await rig.revert(live.driveId, live.first, newId());
  expect((await readLive(live)).equals(await rig.read({ point: live.first }))).toBe(true);
  expect(await rig.complaints()).toEqual([]);
});

test('an exchange of layers that QEMU refuses is done when it no longer does', async () => {
  await using rig = await Rig.start(harness);
  const live = await liveDrive(rig);
  for (let i = 0; i < 8; i++) {
    await writeFresh(live.attachment.client, live.content, [{ grain: i * 30, count: 40 }]);
    await rig.snapshot(live.driveId);
  }
  let refusals = 0;
  refuse((command) => command === 'change-backing-file' && refusals++ < 1);
  await expect(rig.engine.compact(live.driveId, new TestControl())).rejects.toMatchObject({ code: 'engine_failed' });
  vi.restoreAllMocks();
  await rig.engine.ping();
  await writeFresh(live.attachment.client, live.content, [{ grain: 3, count: 3 }]);
  expectContent(await readLive(live), live.content);
  expect(await rig.engine.needsCompaction(live.driveId)).toBe(false);
  expect(await rig.complaints()).toEqual([]);
});

test('a half-done merge upwards gets its header back', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  const [lower, upper] = [await fileOf(rig, live.first), await fileOf(rig, live.second)];
  const third = await rig.snapshot(live.driveId);
  await rig.end(live.attachment);
  await rig.deletePoints(live.second);
  const above = await fileOf(rig, third);
  await rig.catalog.write((tx) => insertIntent(tx, { kind: 'merge', plan: { upper: above, lower: upper } }));
  await rig.detach({ stopProcesses: true });
  await setBackingName(pathOf(rig, above), `l${lower.toString(36)}.qcow2`);
  const report = await rig.open();
  expect(report.join()).toContain('interrupted merge');
  expect(await rig.complaints()).toEqual([]);
  expectContent(await rig.read({ point: third }), live.content);
  await rig.reclaim(live.driveId);
  expectContent(await rig.read({ point: third }), live.content);
});

test('an overlay with data that nobody recorded is adopted; an empty one goes', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  await rig.end(live.attachment);
  const top = await topOf(rig, live.driveId);
  const { size_bytes: sizeBytes } = await getFile(rig.catalog.db, top);
  const empty = await rig.catalog.write((tx) =>
    insertFile(tx, { driveId: live.driveId, backingId: top, sizeBytes, state: 'planned' }),
  );
  await createOverlayFile(pathOf(rig, empty.id), { sizeBytes, backing: `l${top.toString(36)}.qcow2` });
  await rig.reopen({ stopProcesses: true });
  expect(await topOf(rig, live.driveId)).toBe(top);
  expectContent(await rig.read({ drive: live.driveId }), live.content);

  // What a daemon wrote after a pivot that no commit followed.
  const again = await rig.attach({ drive: live.driveId });
  await rig.snapshot(live.driveId);
  await writeFresh(again.client, live.content, [{ grain: 7, count: 9 }]);
  await rig.detach({ stopProcesses: true });
  await rig.open();
  const pivoted = await topOf(rig, live.driveId);
  expect(pivoted).not.toBe(top);
  await rig.engine.stopExport(again.exportId, rig.stopCommit(again.exportId));
  await rig.catalog.write(async (tx) => {
    const head = await findHead(tx, live.driveId);
    const layer = await tx
      .selectFrom('qcow2_layers')
      .select('parent_id')
      .where('id', '=', head?.layer_id ?? -1)
      .executeTakeFirstOrThrow();
    await updateFiles(tx, [pivoted], { state: 'planned' });
    await updateFiles(tx, [top], { state: 'active' });
    await tx
      .updateTable('qcow2_drives')
      .set({ file_id: top, layer_id: layer.parent_id ?? -1 })
      .where('drive_id', '=', live.driveId)
      .execute();
    await tx.deleteFrom('qcow2_points').where('file_id', '=', top).execute();
  });
  const report = await rig.reopen({ stopProcesses: true });
  expect(report.join()).toContain('Adopted');
  expect(await topOf(rig, live.driveId)).toBe(pivoted);
  expectContent(await rig.read({ drive: live.driveId }), live.content);
});

test('a change that cannot be finished is reported, and everything else is served', async () => {
  await using rig = await Rig.start(harness);
  const broken = await twoPoints(rig);
  const sound = await twoPoints(rig);
  const top = await topOf(rig, broken.driveId);
  const lost = await fileOf(rig, broken.second);
  await rig.catalog.write((tx) =>
    insertIntent(tx, { kind: 'relink', plan: { children: [top], to: lost, move: null, dead: [] } }),
  );
  await rig.detach({ stopProcesses: true });
  await rename(pathOf(rig, lost), join(rig.directory, 'aside'));
  const report = await rig.open();
  expect(report.join()).toContain('could not be finished');
  sound.attachment.client = await rig.connect(sound.attachment.target);
  expectContent(await readLive(sound), sound.content);
  await rig.snapshot(sound.driveId);
  await expect(rig.reclaim(broken.driveId)).rejects.toMatchObject({ code: 'layer_damaged' });
  const codes = (await rig.complaints()).map((finding) => finding.code);
  expect(codes).toContain('file_missing');
  await rename(join(rig.directory, 'aside'), pathOf(rig, lost));
  await rig.reopen({ stopProcesses: true });
  broken.attachment.client = await rig.connect(broken.attachment.target);
  expectContent(await readLive(broken), broken.content);
  expect(await rig.complaints()).toEqual([]);
});

test('an export that nobody recorded is closed, and one of an older size is served again', async () => {
  await using rig = await Rig.start(harness);
  const live = await twoPoints(rig);
  const point = await rig.attach({ point: live.first });
  await rig.catalog.write((tx) => tx.deleteFrom('exports').where('id', '=', point.exportId).execute());
  const top = await topOf(rig, live.driveId);
  expect((await rig.reopen()).join()).toContain('never acknowledged');
  await expect(point.client.read(0, 1)).rejects.toMatchObject({ code: 'engine_unavailable' });
  expectContent(await readLive(live), live.content);
  expect(await topOf(rig, live.driveId)).toBe(top);
  expect(await rig.complaints()).toEqual([]);
});

test('numbers of files are never used again, also after an older catalog was put back', async () => {
  await using rig = await Rig.start(harness);
  const first = await rig.createDrive();
  await rig.detach({ stopProcesses: true });
  await copyFile(join(rig.directory, 'catalog.db'), join(rig.directory, 'backup.db'));
  await rig.open();
  await rig.createDrive();
  await rig.createDrive();
  await rig.detach({ stopProcesses: true });
  for (const name of await readdir(rig.directory)) {
    if (name.startsWith('catalog.db-')) await rename(join(rig.directory, name), join(rig.directory, `old-${name}`));
  }
  await rename(join(rig.directory, 'backup.db'), join(rig.directory, 'catalog.db'));
  expect((await rig.open()).join()).toContain('highest file found');
  const next = await rig.createDrive();
  expect(await topOf(rig, next)).toBe(4);
  await rig.read({ drive: first });
  const codes = (await rig.complaints()).map((finding) => `${finding.code} ${finding.subject}`);
  expect(codes).toEqual(['file_unknown l2.qcow2', 'file_unknown l3.qcow2']);
});

test('a spare that could not be made does not stand in the way of the next snapshot', async () => {
  let broken = true;
  await using rig = await Rig.start(harness, {
    onStep: (step) => {
      if (step === 'spare.planned' && broken) throw new Error('no room');
    },
  });
  const live = await liveDrive(rig);
  for (let i = 0; i < 3; i++) {
    await writeFresh(live.attachment.client, live.content, [{ grain: i, count: 1 }]);
    await rig.snapshot(live.driveId);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  broken = false;
  await rig.snapshot(live.driveId);
  expectContent(await readLive(live), live.content);
  await rig.end(live.attachment);
  await rig.deletePoints(newId<DriveSnapshotId>());
  await rig.engine.stopExport(newId<ExportId>(), noCommit);
  expect(await rig.complaints()).toEqual([]);
});
