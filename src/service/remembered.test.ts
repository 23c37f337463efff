/** What is remembered of drives and machines, and for whom. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MachineId } from '../core/ids.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

async function machine(): Promise<MachineId> {
  const { task, machine: made } = await h.service.machines.create(h.caller, { name: 'web', memoryBytes: 16 * mib });
  await h.done(task);
  return made.id;
}

describe('an object that was looked at', () => {
  it('is read again when it has changed', async () => {
    const { drives, machines } = h.service;
    const drive = await h.drive('data');
    const id = await machine();
    expect(await drives.get(h.caller, drive.id)).toBe(await drives.get(h.caller, drive.id));
    const before = await machines.get(h.caller, id);
    await h.snapshot([drive.id]);
    expect((await drives.get(h.caller, drive.id)).snapshotCount).toBe(drive.snapshotCount + 1);
    await drives.update(h.caller, drive.id, { name: 'renamed', tags: ['new'] });
    await machines.update(h.caller, id, { name: 'renamed', cpus: 2 });
    expect(await drives.get(h.caller, drive.id)).toMatchObject({ name: 'renamed', tags: ['new'] });
    expect(await machines.get(h.caller, id)).toEqual({
      ...before,
      name: 'renamed',
      hardware: { ...before.hardware, cpus: 2 },
      version: before.version + 1,
      updatedAt: expect.any(Number),
    });
    await h.done(await drives.delete(h.caller, drive.id, { snapshots: 'delete' }));
    await h.done(await machines.delete(h.caller, id, {}));
    expect((await codeOf(drives.get(h.caller, drive.id))).code).toBe('not_found');
    expect((await codeOf(machines.get(h.caller, id))).code).toBe('not_found');
  });

  it('is not shown to those who may not see it', async () => {
    const { drives, machines } = h.service;
    const drive = await h.drive('data');
    const id = await machine();
    const guest = await h.person('gus', 'guest');
    const stranger = await h.person('stan', 'admin', await h.project('other'));
    for (const granted of [false, true]) {
      if (granted) {
        await h.grant(guest, drive.id, 'ro');
        await h.grant(guest, id, 'ro', 'machine');
      }
      await drives.get(h.caller, drive.id);
      await machines.get(h.caller, id);
      expect((await codeOf(drives.get(guest, drive.id))).code).toBe(granted ? null : 'not_found');
      expect((await codeOf(machines.get(guest, id))).code).toBe(granted ? null : 'not_found');
      expect((await codeOf(drives.get(stranger, drive.id))).code).toBe('not_found');
      expect((await codeOf(machines.get(stranger, id))).code).toBe('not_found');
    }
  });
});
