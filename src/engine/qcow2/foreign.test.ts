/** Drives of a QEMU process that somebody else started: taken over, snapshotted, merged and let go of while it runs. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { expect, test, vi } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId } from '../../core/ids.ts';
import { QmpClient } from '../../qemu/qmp.ts';
import { ForeignMachine, type TestDisk } from '../../qemu/testing/foreign-machine.ts';
import { MiB } from '../conformance/content.ts';
import { noCommit, Rig } from '../conformance/rig.ts';
import type { DriveFiles } from '../engine.ts';
import { harness } from './conformance-harness.ts';

interface Adopted extends AsyncDisposable {
  readonly machine: ForeignMachine;
  readonly id: MachineId;
  readonly disks: readonly TestDisk[];
  readonly drives: readonly DriveId[];
  qmp: QmpClient;
}

const sizeBytes = 4 * MiB;

/** A raw disk, and a qcow2 one on a base that others may share. */
async function adopted(rig: Rig): Promise<Adopted> {
  const machine = new ForeignMachine();
  const base = machine.createDisk('base.qcow2', 'qcow2', sizeBytes);
  machine.fill(base, 11, 0, MiB);
  const disks = [
    machine.createDisk('web.qcow2', 'qcow2', sizeBytes, base),
    machine.createDisk('data.img', 'raw', sizeBytes),
  ];
  for (const [at, disk] of disks.entries()) machine.fill(disk, 21 + at, MiB / 2, MiB);
  await machine.start(disks);
  const qmp = await machine.connect();
  const id = newId<MachineId>();
  const drives = disks.map(() => newId<DriveId>());
  const devices = drives.map((driveId, at) => ({ driveId, device: `/machine/peripheral/disk${at}/virtio-backend` }));
  const process = { id, qmp, workingDirectory: null };
  await rig.engine.adoptDrives(process, devices, noCommit);
  await rig.engine.joinProcess(process);
  return {
    machine,
    id,
    disks,
    drives,
    qmp,
    [Symbol.asyncDispose]: () => machine[Symbol.asyncDispose](),
  };
}

async function write(it: Adopted, pattern: number, offset: number, length: number): Promise<void> {
  for (const [at, disk] of it.disks.entries())
    await ForeignMachine.write(it.qmp, at, disk, pattern + at, offset, length);
}

/** Points of all disks at one instant, with what they must read as. */
async function take(rig: Rig, it: Adopted): Promise<{ points: DriveSnapshotId[]; contents: Buffer[] }> {
  const points = it.drives.map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
  await rig.engine.snapshot(points, noCommit);
  return {
    points: points.map((point) => point.driveSnapshotId),
    contents: it.disks.map((disk) => Buffer.from(disk.content)),
  };
}

async function expectPoints(rig: Rig, taken: { points: DriveSnapshotId[]; contents: Buffer[] }): Promise<void> {
  for (const [at, point] of taken.points.entries()) {
    expect((await rig.read({ point })).equals(taken.contents[at] ?? Buffer.alloc(0))).toBe(true);
  }
}

/** What the guest would read now. */
async function expectLive(it: Adopted): Promise<void> {
  for (const [at, disk] of it.disks.entries()) {
    for (let offset = 0; offset < sizeBytes; offset += MiB / 4) {
      const pattern = disk.content[offset] ?? 0;
      const said = await it.qmp.execute<string>('human-monitor-command', {
        'command-line': `qemu-io drive${at} "read -q -P ${pattern} ${offset} ${MiB / 4}"`,
      });
      expect(said.trim()).toBe('');
    }
  }
}

test('disks of a running machine are taken at one instant, and read and cloned while it goes on', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 31, 0, MiB / 4);
  const second = await take(rig, it);
  await write(it, 41, MiB, MiB);
  await expectPoints(rig, first);
  await expectPoints(rig, second);
  await expectLive(it);
  const [point] = first.points;
  if (point === undefined) throw new Error('no point');
  const clone = await rig.clone(point, sizeBytes);
  expect((await rig.read({ drive: clone })).equals(first.contents[0] ?? Buffer.alloc(0))).toBe(true);
  const [drive] = it.drives;
  expect(await rig.engine.changedBytes(drive as DriveId, first.points.slice(0, 1))).toEqual([MiB + MiB / 4]);
  expect(await rig.complaints()).toEqual([]);
});

test('deleted points are merged inside the machine, and its own file takes back what was written over it', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const taken = [];
  for (let round = 0; round < 4; round++) {
    taken.push(await take(rig, it));
    await write(it, 51 + 4 * round, round * (MiB / 4), MiB / 2);
  }
  const [first, second, third, fourth] = taken;
  if (first === undefined || second === undefined || third === undefined || fourth === undefined) throw new Error();
  await rig.deletePoints(...second.points);
  await rig.reclaim(...it.drives);
  for (const left of [first, third, fourth]) await expectPoints(rig, left);
  await expectLive(it);
  await rig.deletePoints(...first.points, ...third.points, ...fourth.points);
  await rig.reclaim(...it.drives);
  await expectLive(it);
  expect(readdirSync(it.machine.directory).filter((name) => name.includes('.calotype-')).length).toBeLessThanOrEqual(4);
  expect(await rig.complaints()).toEqual([]);
});

test('a server that comes back finds the machine where it left it', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 61, 0, MiB);
  it.qmp.close();
  await rig.reopen();
  await expectPoints(rig, first);
  await expect(take(rig, it)).rejects.toMatchObject({ code: 'machine_off' });
  it.qmp = await it.machine.connect();
  expect(await rig.engine.joinProcess({ id: it.id, qmp: it.qmp, workingDirectory: null })).toEqual([]);
  const second = await take(rig, it);
  await write(it, 71, MiB, MiB);
  await expectPoints(rig, second);
  await rig.deletePoints(...first.points);
  await rig.reclaim(...it.drives);
  await expectPoints(rig, second);
  await expectLive(it);
});

test('while its process is away, no other may write the past of a machine', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await it.machine.kill();
  const started = async (): Promise<string> => {
    try {
      await it.machine.start(it.disks.slice(0, 1));
      await it.machine.kill();
      return 'started';
    } catch (error) {
      return String(error);
    }
  };
  // It may have come in between, and been in the way of the hold.
  await expect.poll(started, { interval: 2000 }).toMatch(/Failed to get "write" lock/);
  await expectPoints(rig, first);
  expect(await rig.complaints()).toEqual([]);
});

test('a machine that was started on a file of its past is not touched', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  await take(rig, it);
  const [top] = await rig.engine.filesOf(it.drives);
  await it.machine.kill();
  const [disk, raw] = it.disks;
  if (top?.files[0] === undefined || disk === undefined || raw === undefined)
    throw new Error('two disks were expected');
  await it.machine.start([top.files[0], raw]);
  it.qmp = await it.machine.connect();
  const joined = rig.engine.joinProcess({ id: it.id, qmp: it.qmp, workingDirectory: null });
  await expect(joined).rejects.toMatchObject({ code: 'machine_changed' });
  await expect(take(rig, it)).rejects.toMatchObject({ code: 'machine_off' });
});

test('a machine that was started anew on its present files goes on', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 81, 0, MiB);
  const tops = await it.qmp.execute<{ inserted: { file: string } }[]>('query-block');
  await it.machine.kill();
  await it.machine.start(tops.map((top) => ({ path: top.inserted.file, format: 'qcow2' as const })));
  it.qmp = await it.machine.connect();
  await rig.engine.joinProcess({ id: it.id, qmp: it.qmp, workingDirectory: null });
  const second = await take(rig, it);
  await write(it, 91, MiB, MiB);
  await expectPoints(rig, first);
  await rig.deletePoints(...first.points);
  await rig.reclaim(...it.drives);
  await expectPoints(rig, second);
  await expectLive(it);
});

test('a layer that somebody else put on a disk is followed', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 101, 0, MiB);
  await it.qmp.execute('blockdev-snapshot-sync', {
    device: 'drive0',
    'snapshot-file': `${it.machine.directory}/by-hand.qcow2`,
    format: 'qcow2',
  });
  await write(it, 111, MiB, MiB);
  it.qmp.close();
  it.qmp = await it.machine.connect();
  const report = await rig.engine.joinProcess({ id: it.id, qmp: it.qmp, workingDirectory: null });
  expect(report).toContainEqual(expect.stringContaining('by-hand.qcow2'));
  const second = await take(rig, it);
  await write(it, 121, 0, MiB);
  await expectPoints(rig, first);
  await expectPoints(rig, second);
});

test('a machine that is let go of runs on, and its files are whole without this server', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 131, 0, MiB);
  const [point] = first.points;
  if (point === undefined) throw new Error('no point');
  const clone = await rig.clone(point, sizeBytes);
  await expect(rig.engine.releaseDrives(it.drives, () => noCommit)).rejects.toMatchObject({
    code: 'drive_has_clones',
    details: { blocking: [clone] },
  });
  await rig.engine.deleteDrive(clone, noCommit);
  await rig.reclaim(clone);
  const released: DriveFiles[] = [];
  await rig.engine.releaseDrives(it.drives, (drives) => {
    released.push(...drives);
    return noCommit;
  });
  await expectLive(it);
  await it.machine.kill();
  for (const [at, drive] of released.entries()) {
    const [top] = drive.files;
    const said = execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', top?.path ?? '']).toString();
    expect(said).toBe('');
    const raw = execFileSync('qemu-img', [
      'dd',
      '-f',
      'qcow2',
      '-O',
      'raw',
      `if=${top?.path}`,
      `of=${it.machine.directory}/all-${at}`,
    ]);
    expect(raw.toString()).toBe('');
  }
  expect(await rig.complaints()).toEqual([]);
});

test('a monitor that is lost in the middle of a transaction leaves the machine whole', async () => {
  await using rig = await Rig.start(harness);
  await using it = await adopted(rig);
  const first = await take(rig, it);
  await write(it, 141, 0, MiB);
  const { execute } = QmpClient.prototype;
  const cut = vi.spyOn(QmpClient.prototype, 'execute').mockImplementation(async function (
    this: QmpClient,
    command,
    args,
  ) {
    const answer = await execute.call(this, command, args);
    if (command === 'transaction') this.close();
    if (this.closed) throw new CalotypeError('engine_unavailable');
    return answer as never;
  });
  await expect(take(rig, it)).rejects.toMatchObject({ code: 'engine_unavailable' });
  cut.mockRestore();
  it.qmp = await it.machine.connect();
  const report = await rig.engine.joinProcess({ id: it.id, qmp: it.qmp, workingDirectory: null });
  expect(report).toContainEqual(expect.stringContaining('when a connection was lost'));
  await write(it, 151, MiB, MiB);
  const second = await take(rig, it);
  await expectPoints(rig, first);
  await expectPoints(rig, second);
  await expectLive(it);
  expect(await rig.complaints()).toEqual([]);
});
