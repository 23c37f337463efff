/** Machines as the catalog has them, without a guest: what a server finds that starts again. */
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { insertExport } from '../catalog/exports.ts';
import { setPower } from '../catalog/machines.ts';
import { type ExportId, type MachineId, newId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import { Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

async function createMachine(name: string): Promise<MachineId> {
  const drive = await h.drive(`${name}-root`);
  const drives = [{ driveId: drive.id }];
  const made = await h.service.machines.create(h.caller, { name, memoryBytes: 16 * mib, drives });
  await h.done(made.task);
  return made.machine.id;
}

describe('a machine that ended while no server ran', () => {
  it('is off, and cleared up by one task that ends once', async () => {
    const [ended, other] = [await createMachine('ended'), await createMachine('other')];
    for (const id of [ended, other]) await setPower(h.catalog.db, id, { power: 'running' });
    // The next server looks at all machines at once; this one keeps it until the first is known to be off.
    const { number } = await h.service.machines.get(h.caller, other);
    const directory = join(h.directory, 'run', `m${number}`);
    await mkdir(directory, { recursive: true });
    const monitor = createServer(async (socket) => {
      while ((await h.catalog.db.selectFrom('machines').where('power', '=', 'off').select('id').execute()).length === 0)
        await turn();
      for (let at = 0; at < 50; at++) await turn();
      socket.destroy();
    });
    monitor.listen(join(directory, 'qmp.sock'));
    await once(monitor, 'listening');
    // Clearing up takes a while.
    const [drive] = (await h.service.machines.get(h.caller, ended)).drives;
    if (drive === undefined) throw new Error('the machine has no drive');
    await insertExport(h.catalog.db, {
      id: newId<ExportId>(),
      projectId: h.caller.projectId,
      driveId: drive.driveId,
      driveSnapshotId: null,
      writable: true,
      transport: 'unix',
      name: 'left',
      detail: {},
      machineId: ended,
      at: nowUs(),
    });
    const held = h.hold('before:stopExport');
    await h.restart();
    monitor.close();
    await held.reached;
    held.release();

    for (const id of [ended, other]) {
      expect(await h.service.machines.get(h.caller, id)).toMatchObject({ power: 'off' });
      const list = async () => (await h.service.tasks.list(h.caller, { machineId: id }, {})).items;
      await expect.poll(async () => (await list()).map((task) => task.kind)).toContain('machine.stop');
      const stops = (await list()).filter((task) => task.kind === 'machine.stop');
      for (const stop of stops) await h.done(stop);
      const events = await h.service.events.list(h.caller, { objectId: id, limit: 1000 });
      const ends = events.filter((event) => event.kind === 'machine.stop.done').map((event) => event.detail.taskId);
      expect(stops).toHaveLength(1);
      expect(ends).toEqual(stops.map((stop) => stop.id));
    }
  });
});

describe('a drive that two machines are given at once', () => {
  it('is attached to the first of them, and stays there', async () => {
    const [first, second] = [await createMachine('first'), await createMachine('second')];
    const { id: driveId } = await h.drive('wanted');
    const tasks = await Promise.all([first, second].map((id) => h.service.machines.attach(h.caller, id, { driveId })));
    const ends = await Promise.all(tasks.map(({ id }) => h.service.tasks.waitFor(h.caller, id, 20_000)));
    expect(ends.map(({ state, error }) => error?.code ?? state).sort()).toEqual(['done', 'drive_attached']);
    const winner = ends[0]?.state === 'done' ? first : second;
    expect((await h.service.drives.get(h.caller, driveId)).attachedTo?.machineId).toBe(winner);
  });
});
