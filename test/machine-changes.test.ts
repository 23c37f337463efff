/** Machines with a real guest: drives that come and go, clones, reverts without memory, other machines, bad input. */
import { readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { MachineId } from '../src/core/ids.ts';
import type { Snapshot } from '../src/core/model.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { daemonPidOf } from './campaign/arm.ts';
import { driveBytes, MachineRig } from './support/machine-rig.ts';

const timeoutMs = 240_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const failure = (code: string) => expect.objectContaining({ code });
const firstPart = (snapshot: Snapshot) => {
  const [part] = snapshot.parts;
  if (part === undefined) throw new Error('the snapshot has no part');
  return part;
};

describe.skipIf(!hasGuest)('a machine', () => {
  let rig: MachineRig;
  let booted: Snapshot;
  beforeAll(async () => {
    rig = await MachineRig.start();
    const id = await rig.createMachine('template', ['count', 'disk'], [await rig.createDrive('template')]);
    await rig.boot(id);
    booted = await rig.snapshot(id, { memory: true });
    await rig.done(rig.service.machines.stop(rig.caller, id, { mode: 'power' }));
  }, timeoutMs);
  afterAll(() => rig[Symbol.asyncDispose]());

  /** One of its own, with one drive, whose guest goes on from where it had booted: much quicker than booting. */
  async function startMachine(name: string): Promise<MachineId> {
    const { task, machine } = await rig.service.snapshots.cloneMachine(rig.caller, booted.id, { name, memory: true });
    await rig.done(task);
    return machine.id;
  }
  const memoryFiles = () => readdir(join(rig.directory, 'memory'));

  test(
    'takes drives in and lets them go while it runs; what was attached later stays untouched by a revert',
    async () => {
      const { machines, drives, snapshots } = rig.service;
      const [b, c] = [await rig.createDrive('b'), await rig.createDrive('c')];
      const id = await startMachine('plug');
      const a = (await rig.machine(id)).drives[0]?.driveId;
      await rig.done(machines.attach(rig.caller, id, { driveId: b }));
      await rig.line(id, /^drive vdb$/m);
      await expect(machines.attach(rig.caller, id, { driveId: b })).rejects.toEqual(failure('drive_attached'));
      await expect(machines.attach(rig.caller, id, { driveId: c, slot: 1 })).rejects.toEqual(failure('slot_taken'));
      await expect(drives.delete(rig.caller, b, { snapshots: 'keep' })).rejects.toEqual(failure('drive_attached'));
      await expect(drives.resize(rig.caller, b, 2 * driveBytes)).rejects.toEqual(failure('machine_running'));

      const before = await rig.snapshot(id);
      await rig.done(machines.attach(rig.caller, id, { driveId: c }));
      await rig.line(id, /^drive vdc$/m);
      await rig.done(machines.detach(rig.caller, id, b));
      await rig.line(id, /^gone vdb$/m);
      expect(await rig.machine(id)).toMatchObject({ drives: [{ slot: 0 }, { slot: 2, driveId: c }] });

      const task = await rig.done(snapshots.revert(rig.caller, before.id));
      expect(task.result).toMatchObject({ power: 'running', untouchedDriveIds: [c], attachedDriveIds: [b] });
      expect((await rig.machine(id)).drives.map((slot) => slot.driveId)).toEqual([a, b, c]);
      const safety = await snapshots.list(rig.caller, { machineId: id }, { by: 'number', order: 'desc' }, {});
      expect(safety.items[0]).toMatchObject({ origin: 'safety', consistency: 'memory', machine: { power: 'running' } });

      await rig.done(machines.stop(rig.caller, id, { mode: 'power' }));
      await rig.done(machines.detach(rig.caller, id, b));
      const other = await rig.createMachine('other', ['count'], [b]);
      await expect(snapshots.revert(rig.caller, before.id)).rejects.toEqual(failure('drive_attached'));
      await rig.done(machines.delete(rig.caller, other, { drives: 'keep' }));
    },
    timeoutMs,
  );

  test(
    'stops by its power button; one that dies is noticed, and reported with its reason',
    async () => {
      const { machines, snapshots } = rig.service;
      const id = await startMachine('ends');
      const alive = await rig.snapshot(id, { memory: true });
      const goOn = () => rig.done(snapshots.revert(rig.caller, alive.id, { keepSafety: false }));
      await rig.done(machines.start(rig.caller, id, { paused: true }));
      expect((await rig.machine(id)).power, 'one that runs is not paused by a start').toBe('running');
      const stopped = await rig.done(machines.stop(rig.caller, id, { mode: 'guest', timeoutSeconds: 60 }));
      expect(stopped.result).toMatchObject({ power: 'off' });
      expect(await rig.machine(id)).toMatchObject({ power: 'off', error: null, runtime: null });
      await expect(machines.pause(rig.caller, id)).rejects.toEqual(failure('machine_off'));

      await goOn();
      await rig.ask(id, 'poweroff', /Power down/);
      await expect.poll(async () => (await rig.machine(id)).power).toBe('off');
      expect((await rig.machine(id)).error).toBeNull();

      await goOn();
      process.kill((await rig.machine(id)).runtime?.pid ?? 0, 'SIGKILL');
      await expect.poll(async () => (await rig.machine(id)).power).toBe('off');
      expect((await rig.machine(id)).error).toMatchObject({ code: 'machine_died' });
      await rig.done(machines.start(rig.caller, id, {}));
      expect(await rig.machine(id)).toMatchObject({ power: 'running', error: null });

      // Its drive is gone from under it: to go on would be to lose what it believes is written.
      process.kill(daemonPidOf(rig.directory), 'SIGKILL');
      await expect.poll(async () => (await rig.machine(id)).power).toBe('off');
      expect((await rig.machine(id)).error).toMatchObject({ message: expect.stringMatching(/storage daemon died/) });
      await rig.boot(id);
      await rig.line(id, /^disk [1-9]/m, (await rig.serial(id)).length);
      await rig.done(machines.stop(rig.caller, id, { mode: 'power' }));
    },
    timeoutMs,
  );

  test(
    'becomes another one: a clone that starts afresh, a clone that goes on, and a machine put onto its snapshot',
    async () => {
      const { machines, snapshots } = rig.service;
      const known = await memoryFiles();
      const id = await startMachine('source');
      await rig.line(id, /^disk [1-9]/m);
      const snapshot = await rig.snapshot(id, { memory: true });
      const onDisk = await rig.numberAt(firstPart(snapshot).id, 0);
      await rig.done(machines.stop(rig.caller, id, { mode: 'power' }));

      const fresh = await snapshots.cloneMachine(rig.caller, snapshot.id, { name: 'fresh' });
      await rig.done(fresh.task);
      const made = await rig.machine(fresh.machine.id);
      const source = await rig.machine(id);
      expect(made).toMatchObject({ power: 'off', state: 'available', sourceId: snapshot.id, kind: source.kind });
      expect(made.hardware.macAddress).not.toBe(source.hardware.macAddress);
      expect(made.drives[0]?.driveId).not.toBe(source.drives[0]?.driveId);

      const going = await snapshots.cloneMachine(rig.caller, snapshot.id, { name: 'going', memory: true });
      await rig.done(going.task);
      const said = await rig.line(going.machine.id, /^disk (\d+)$/m);
      expect(Number(said[1])).toBeGreaterThanOrEqual(onDisk);
      await rig.done(machines.stop(rig.caller, going.machine.id, { mode: 'power' }));

      const small = await rig.createMachine('small', [], [await rig.createDrive('s', 'empty', driveBytes / 2)]);
      const onto = (machineId: typeof small) => snapshots.revertMachine(rig.caller, snapshot.id, { machineId });
      await expect(onto(small)).rejects.toEqual(failure('drive_too_small'));
      const large = await rig.createMachine('large', [], [await rig.createDrive('l', 'empty', driveBytes * 2)]);
      await rig.done(onto(large));
      const taken = await rig.snapshot(large);
      expect(await rig.numberAt(firstPart(taken).id, 0)).toBe(onDisk);

      await expect(machines.delete(rig.caller, id, {})).rejects.toEqual(failure('machine_has_snapshots'));
      await rig.done(machines.delete(rig.caller, id, { snapshots: 'delete', drives: 'delete' }));
      await expect.poll(async () => (await memoryFiles()).filter((name) => !known.includes(name))).toEqual([]);
    },
    timeoutMs,
  );

  test(
    'is not harmed by what cannot be done',
    async () => {
      const { machines, snapshots } = rig.service;
      const idle = await rig.createMachine('idle', [], [await rig.createDrive('idle')]);
      const off = snapshots.createOfMachine(rig.caller, { machineId: idle, memory: true });
      await expect(off).rejects.toEqual(failure('machine_off'));
      const id = await startMachine('safe');
      const exclude = (await rig.machine(id)).drives.map(({ driveId }) => driveId);
      const agent = snapshots.createOfMachine(rig.caller, { machineId: id, quiesce: 'require' });
      await expect(rig.done(agent)).rejects.toEqual(failure('agent_unavailable'));
      const all = snapshots.createOfMachine(rig.caller, { machineId: id, exclude });
      await expect(all).rejects.toEqual(failure('invalid_request'));

      const known = await memoryFiles();
      const snapshot = await rig.snapshot(id, { memory: true });
      const file = (await memoryFiles()).find((name) => !known.includes(name)) ?? '';
      await truncate(join(rig.directory, 'memory', file), 100_000);
      await expect(rig.done(snapshots.revert(rig.caller, snapshot.id))).rejects.toEqual(failure('memory_damaged'));
      const report = await rig.service.doctor({ ...rig.caller, role: 'operator' }, { repair: true });
      const findings = report.findings.filter(({ severity }) => severity !== 'info');
      expect(findings).toMatchObject([{ code: 'memory_damaged', subject: `memory/${file}` }]);
      const from = (await rig.serial(id)).length;
      await rig.line(id, /^count \d+$/m, from);
      expect(await rig.machine(id)).toMatchObject({ power: 'running', basedOn: snapshot.id });
      const boot = { from: 'kernel', kernel: '../catalog.db', initrd: null, append: '' } as const;
      const outside = machines.create(rig.caller, { name: 'x', memoryBytes: 64 * 1024 * 1024, boot });
      await expect(outside).rejects.toEqual(failure('boot_path_refused'));
    },
    timeoutMs,
  );
});
