/** What is asked for as one: a drive in a machine, a machine with only some of its drives gone, what an object is doing. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type MachineId, newId } from '../core/ids.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

async function machineOf(...names: string[]) {
  const drives = [];
  for (const name of names) drives.push({ driveId: (await h.drive(name)).id });
  const made = await h.service.machines.create(h.caller, { name: 'vm', memoryBytes: 16 * mib, drives });
  await h.done(made.task);
  return { id: made.machine.id, driveIds: drives.map(({ driveId }) => driveId) };
}

const drivesOf = async (id: MachineId) => (await h.service.machines.get(h.caller, id)).drives;

describe('a drive made in a machine', () => {
  it('is attached when its one task has ended', async () => {
    const { id } = await machineOf('root');
    const made = await h.service.drives.create(h.caller, { name: 'new', sizeBytes: mib, attachTo: id });
    expect(made.task.kind).toBe('machine.attach');
    await h.done(made.task);
    expect(await h.service.drives.get(h.caller, made.drive.id)).toMatchObject({
      state: 'available',
      attachedTo: { machineId: id, slot: 1 },
    });
  });

  it('is attached after a crash between the two steps', async () => {
    const { id } = await machineOf('root');
    const held = h.hold('before:createDrive');
    const made = await h.service.drives.create(h.caller, { name: 'new', sizeBytes: mib, attachTo: id });
    await held.reached;
    await h.crash();
    held.release();
    await h.done(made.task);
    expect((await drivesOf(id)).map(({ driveId }) => driveId)).toContain(made.drive.id);
  });

  it('is not attached when it cannot be made, and says so', async () => {
    const { id } = await machineOf('root');
    h.engine.gate = (place) => {
      if (place === 'before:createDrive') throw new CalotypeError('engine_failed');
    };
    const made = await h.service.drives.create(h.caller, { name: 'new', sizeBytes: mib, attachTo: id });
    const ended = await h.ended(made.task);
    expect(ended).toMatchObject({ state: 'failed', error: { code: 'drive_not_ready' } });
    expect(await drivesOf(id)).toHaveLength(1);
  });

  it('gets a slot of its own beside others that wait', async () => {
    const { id } = await machineOf('root');
    const made = await Promise.all(
      ['a', 'b', 'c'].map((name) => h.service.drives.create(h.caller, { name, sizeBytes: mib, attachTo: id })),
    );
    for (const { task } of made) await h.done(task);
    expect((await drivesOf(id)).map(({ slot }) => slot).sort()).toEqual([0, 1, 2, 3]);
  });

  it('is refused without a trace for a machine that is missing, foreign or read only', async () => {
    const { id } = await machineOf('root');
    const guest = await h.person('gina', 'guest');
    const stranger = await h.person('sam', 'member', await h.project('elsewhere'));
    const before = await h.service.queries.list(h.caller, 'drive', {});
    const input = { name: 'new', sizeBytes: mib };
    const ask = (caller: typeof guest, attachTo: MachineId) =>
      codeOf(h.service.drives.create(caller, { ...input, attachTo }));
    expect((await ask(h.caller, newId<MachineId>())).code).toBe('not_found');
    expect((await ask(stranger, id)).code).toBe('not_found');
    expect((await ask(guest, id)).code).toBe('forbidden');
    expect(await h.service.queries.list(h.caller, 'drive', {})).toEqual(before);
  });

  it('can be a clone', async () => {
    const { id, driveIds } = await machineOf('root');
    const [driveId] = driveIds;
    if (driveId === undefined) throw new Error('the machine has no drive');
    const snapshot = await h.snapshot([driveId]);
    const made = await h.service.snapshots.clone(h.caller, snapshot.id, { name: 'copy', attachTo: id });
    await h.done(made.task);
    expect((await h.service.drives.get(h.caller, made.drive.id)).attachedTo).toEqual({ machineId: id, slot: 1 });
  });
});

describe('a machine deleted with some of its drives', () => {
  it('leaves the others, with or without their snapshots', async () => {
    for (const driveSnapshots of ['keep', 'delete'] as const) {
      const { id, driveIds } = await machineOf('root', 'data');
      const [root, data] = driveIds;
      if (root === undefined || data === undefined) throw new Error('the machine has too few drives');
      const both = await h.snapshot([root, data]);
      const own = await h.snapshot([data]);
      const options = { drives: [root], snapshots: 'delete', driveSnapshots } as const;
      await h.done(await h.service.machines.delete(h.caller, id, options));
      const goes = driveSnapshots === 'delete';
      const found = async () => (await h.service.queries.list(h.caller, 'part', {})).items.map(({ part }) => part.id);
      const expected = goes ? [] : [both.parts[1]?.id, own.parts[0]?.id];
      await expect.poll(found).toEqual(expected);
      const left = async () => (await h.service.queries.list(h.caller, 'drive', {})).items.map((drive) => drive.id);
      await expect.poll(left).toEqual([data]);
      await h.done(await h.service.drives.delete(h.caller, data, { snapshots: 'delete' }));
    }
  });

  it('is refused for a drive that is not in it', async () => {
    const { id } = await machineOf('root');
    const other = await h.drive('other');
    const refused = await codeOf(h.service.machines.delete(h.caller, id, { drives: [other.id] }));
    expect(refused).toMatchObject({ code: 'drive_not_attached', details: { driveId: other.id } });
    expect((await h.service.machines.get(h.caller, id)).state).toBe('available');
  });
});

describe('what is under way', () => {
  it('names the tasks of drives in order, and nothing for those that are idle', async () => {
    const [busy, idle] = [await h.drive('busy'), await h.drive('idle')];
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [busy.id] });
    const resized = await h.service.drives.resize(h.caller, busy.id, 2 * mib);
    await held.reached;
    expect([...h.service.tasks.underWay(h.caller, [busy.id, idle.id])]).toMatchObject([
      [
        busy.id,
        [
          { kind: 'snapshot.create', objectId: snapshot.id, progress: { unit: 'steps' } },
          { kind: 'drive.resize', objectId: busy.id },
        ],
      ],
    ]);
    expect((await h.service.tasks.get(h.caller, task.id)).settled).toBe(false);
    held.release();
    await h.done(resized);
    expect(h.service.tasks.underWay(h.caller, [busy.id]).size).toBe(0);
    expect((await h.service.tasks.get(h.caller, task.id)).settled).toBe(true);
  });

  it('a deletion is settled once the object is gone, while space still comes back', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('before:reclaim');
    const task = await h.service.snapshots.delete(h.caller, snapshot.id);
    await held.reached;
    await expect.poll(() => h.service.tasks.get(h.caller, task.id)).toMatchObject({ state: 'running', settled: true });
    expect((await codeOf(h.service.snapshots.get(h.caller, snapshot.id))).code).toBe('not_found');
    held.release();
    await h.done(task);
  });
});
