/** Guests that answer late or not at all, as they stand still: drives that are to go, file systems that are to be quiet. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DriveId, MachineId } from '../src/core/ids.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { QmpClient, type QmpEvent } from '../src/qemu/qmp.ts';
import { MachineRig } from './support/machine-rig.ts';

const timeoutMs = 300_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const failure = (code: string) => expect.objectContaining({ code });

/** QEMU's monitor, for what happens while no server runs. */
async function resumeByHand(directory: string): Promise<void> {
  const qmp = await QmpClient.connect(join(directory, 'qmp.sock'));
  const gone = new Promise<void>((resolve) => {
    qmp.on('event', ({ event, data }: QmpEvent) => {
      if (event === 'DEVICE_DELETED' && data?.device === 'disk1') resolve();
    });
  });
  await qmp.execute('cont');
  await gone;
  qmp.close();
}

describe.skipIf(!hasGuest)('of a machine', () => {
  let rig: MachineRig;
  let id: MachineId;
  let a: DriveId;
  let b: DriveId;
  let c: DriveId;
  beforeAll(async () => {
    // A guest that stands still never lets go of a drive: no wait is long enough for it.
    rig = await MachineRig.start({ unplugTimeoutMs: 1000 });
    a = await rig.createDrive('a');
    b = await rig.createDrive('b');
    c = await rig.createDrive('c', 'ext4');
    id = await rig.createMachine('m', ['ext4', 'agent'], [a, b, c], { ext4Device: '/dev/vdc' });
    await rig.boot(id);
  }, timeoutMs);
  afterAll(() => rig[Symbol.asyncDispose]());

  test(
    'file systems that are to be quiet are not waited for where the guest stands still, and not kept frozen for others',
    async () => {
      const { machines, snapshots, tasks } = rig.service;
      await rig.line(id, /^ext4 [1-9]\d*$/m);
      const take = (input: { quiesce?: 'require' | 'prefer'; memory?: boolean }) =>
        snapshots.createOfMachine(rig.caller, { machineId: id, ...input });

      // One that takes a while, one that is to be quiet behind it, and one that waits for both.
      const begun = [await take({ memory: true }), await take({ quiesce: 'require' })];
      const pausing = await machines.pause(rig.caller, id);
      // By its turn the guest stands still.
      const tooLate = await take({ quiesce: 'require' });
      expect((await tasks.get(rig.caller, tooLate.task.id)).state).toBe('queued');
      const [, quiet] = begun;
      if (quiet === undefined) throw new Error('not reached');
      await rig.done(quiet.task);
      const taken = await snapshots.get(rig.caller, quiet.snapshot.id);
      expect(taken.consistency).toBe('filesystem');
      // The agent thaws by itself after ten seconds, and then this would be a crash.
      expect(taken.machine?.frozenUs).toBeLessThan(10_000_000);
      await rig.done(pausing);
      await expect(rig.done(tooLate.task)).rejects.toEqual(failure('agent_unavailable'));
      await expect(snapshots.get(rig.caller, tooLate.snapshot.id)).rejects.toEqual(failure('not_found'));

      // At once, without a task.
      const before = (await tasks.list(rig.caller, { machineId: id }, { withTotal: true })).total;
      await expect(take({ quiesce: 'require' })).rejects.toMatchObject({
        code: 'agent_unavailable',
        details: { remedy: expect.stringMatching(/Resume/) },
      });
      expect((await tasks.list(rig.caller, { machineId: id }, { withTotal: true })).total).toBe(before);
      const rough = await take({ quiesce: 'prefer' });
      await rig.done(rough.task);
      expect(await snapshots.get(rig.caller, rough.snapshot.id)).toMatchObject({
        consistency: 'crash',
        machine: { reason: expect.stringMatching(/was paused/), frozenUs: null },
      });

      await rig.done(machines.resume(rig.caller, id));
      const from = (await rig.serial(id)).length;
      await rig.line(id, /^ext4 \d+$/m, from);
    },
    timeoutMs,
  );

  test(
    'a drive that the guest lets go of late is detached in the end, with a server there or not, and stays attached until then',
    async () => {
      const directory = await rig.directoryOf(id);
      const attached = async () => (await rig.machine(id)).drives.map(({ driveId }) => driveId);
      const isBusy = async () => {
        await rig.done(rig.service.machines.pause(rig.caller, id));
        const detaching = rig.done(rig.service.machines.detach(rig.caller, id, b));
        await expect(detaching).rejects.toEqual(failure('drive_busy'));
        expect(await attached()).toEqual([a, b, c]);
      };
      /** It is nobody's, and can be taken in again. */
      const isFree = async () => {
        await expect.poll(attached, { timeout: 20_000 }).toEqual([a, c]);
        const events = await rig.service.events.list(rig.caller, { objectId: id, limit: 1000 });
        expect(events.filter(({ kind }) => kind === 'machine.drive_detached').at(-1)?.detail.late).toBe(true);
        const from = (await rig.serial(id)).length;
        await rig.done(rig.service.machines.attach(rig.caller, id, { driveId: b, slot: 1 }));
        await rig.line(id, /^drive vdb$/m, from);
      };

      await isBusy();
      await rig.done(rig.service.machines.resume(rig.caller, id));
      await isFree();

      await isBusy();
      await rig.restart();
      expect(await attached()).toEqual([a, b, c]);
      await rig.restart(() => resumeByHand(directory));
      await isFree();

      // The server ends while the guest is asked; the next one asks again.
      await rig.done(rig.service.machines.pause(rig.caller, id));
      const task = await rig.service.machines.detach(rig.caller, id, b);
      await expect.poll(async () => (await rig.service.tasks.get(rig.caller, task.id)).state).toBe('running');
      await rig.restart();
      await expect(rig.done(rig.service.tasks.get(rig.caller, task.id))).rejects.toEqual(failure('drive_busy'));
      await rig.done(rig.service.machines.reset(rig.caller, id));
      // A reset takes away what was to go.
      await expect.poll(attached, { timeout: 20_000 }).toEqual([a, c]);
    },
    timeoutMs,
  );
});
