/** What is being done to objects, who is told that something is busy, and what a right on a machine covers. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { DriveId, MachineId, SnapshotId } from '../core/ids.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
let machineId: MachineId;
let driveId: DriveId;
let snapshotId: SnapshotId;
beforeEach(async () => {
  h = await Harness.start();
  driveId = (await h.drive('root')).id;
  machineId = await machine('web', driveId);
  snapshotId = await snapshotOf(machineId);
});
afterEach(() => h.stop());

async function machine(name: string, drive: DriveId): Promise<MachineId> {
  const made = await h.service.machines.create(h.caller, { name, memoryBytes: 16 * mib, drives: [{ driveId: drive }] });
  await h.done(made.task);
  return made.machine.id;
}

async function snapshotOf(id: MachineId): Promise<SnapshotId> {
  const { task, snapshot } = await h.service.snapshots.createOfMachine(h.caller, { machineId: id });
  await h.done(task);
  return snapshot.id;
}

const refuseBusy = { refuseBusy: true };
const revert = (caller = h.caller) =>
  h.service.snapshots.revertMachine(caller, snapshotId, { keepSafety: false }, refuseBusy);

it('finds the task by each object that it is about, and only those that were asked for', async () => {
  const held = h.hold('before:revert');
  const task = await revert();
  await held.reached;
  const ids = [machineId, driveId, snapshotId, 'unknown'];
  const found = h.service.tasks.underWay(h.caller, ids);
  expect([...found].map(([id, [first]]) => [id, first?.id])).toEqual(
    expect.arrayContaining([
      [machineId, task.id],
      [driveId, task.id],
      [snapshotId, task.id],
    ]),
  );
  expect(found.size).toBe(3);
  expect(h.service.tasks.underWay(h.caller, [driveId]).size).toBe(1);
  const stranger = await h.person('stranger', 'member', await h.project('other'));
  expect(h.service.tasks.underWay(stranger, ids).size).toBe(0);
  held.release();
  await h.done(task);
  expect(h.service.tasks.underWay(h.caller, ids).size).toBe(0);
});

it('turns away who does not want to wait for a change of the machine, but not for a snapshot of it', async () => {
  const held = h.hold('before:revert');
  const task = await revert();
  await held.reached;
  const taken = h.service.snapshots.createOfMachine(h.caller, { machineId }, refuseBusy);
  expect(await codeOf(taken)).toMatchObject({ code: 'drive_busy', details: { taskId: task.id } });
  expect((await codeOf(revert())).code).toBe('drive_busy');
  const other = (await h.drive('more')).id;
  const attached = h.service.machines.attach(h.caller, machineId, { driveId: other }, refuseBusy);
  expect((await codeOf(attached)).code).toBe('drive_busy');
  const patient = await h.service.snapshots.createOfMachine(h.caller, { machineId });
  held.release();
  await h.done(task);
  await h.done(patient.task);

  const beingTaken = h.hold('before:snapshot');
  const first = await h.service.snapshots.createOfMachine(h.caller, { machineId }, refuseBusy);
  await beingTaken.reached;
  const second = await h.service.snapshots.createOfMachine(h.caller, { machineId }, refuseBusy);
  beingTaken.release();
  await h.done(first.task);
  await h.done(second.task);
});

it('lets a guest with rw on a machine take it back, but not bring back a drive that it held once', async () => {
  const guest = await h.person('guest', 'guest');
  await h.grant(guest, machineId, 'ro', 'machine');
  expect((await codeOf(revert(guest))).code).toBe('forbidden');
  const owner = await h.person('owner', 'guest');
  await h.grant(owner, machineId, 'rw', 'machine');
  await h.done(await revert(owner));

  const other = await machine('other', (await h.drive('other')).id);
  const onto = (caller = owner) => h.service.snapshots.revertMachine(caller, snapshotId, { machineId: other });
  expect((await codeOf(onto())).code).toBe('not_found');
  await h.grant(owner, other, 'rw', 'machine');
  await h.done(await onto());

  await h.done(await h.service.machines.detach(h.caller, machineId, driveId));
  expect((await codeOf(revert(owner))).code).toBe('not_found');
  await h.grant(owner, driveId, 'rw');
  await h.done(await revert(owner));
  expect((await h.service.machines.get(h.caller, machineId)).drives).toMatchObject([{ driveId }]);
});
