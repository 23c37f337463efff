import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MachineId, SnapshotId } from '../core/ids.ts';
import type { Caller } from './caller.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
let guest: Caller;
beforeEach(async () => {
  h = await Harness.start();
  guest = await h.person('gus', 'guest');
});
afterEach(() => h.stop());

async function machineWithSnapshots(name: string, count: number): Promise<{ id: MachineId; snapshots: SnapshotId[] }> {
  const drive = await h.drive(`${name}-root`);
  const drives = [{ driveId: drive.id }];
  const made = await h.service.machines.create(h.caller, { name, memoryBytes: 16 * mib, drives });
  await h.done(made.task);
  const snapshots: SnapshotId[] = [];
  for (let at = 0; at < count; at++) {
    const { task, snapshot } = await h.service.snapshots.createOfMachine(h.caller, { machineId: made.machine.id });
    await h.done(task);
    snapshots.push(snapshot.id);
  }
  return { id: made.machine.id, snapshots };
}

const departed = async (caller: Caller, id: MachineId) => (await h.service.machines.departed(caller, [id])).get(id);
const grantsOn = (id: string) => h.catalog.db.selectFrom('grants').select('id').where('object_id', '=', id).execute();

describe('a machine that was deleted', () => {
  it('keeps its number, its name and the grants on it until its last snapshot goes', async () => {
    const { id, snapshots } = await machineWithSnapshots('web', 2);
    await h.grant(guest, id, 'ro', 'machine');
    const before = await h.service.machines.get(h.caller, id);
    expect(await departed(h.caller, id)).toBeUndefined();
    await h.done(await h.service.machines.delete(h.caller, id, { snapshots: 'keep', drives: 'keep' }));

    const { number, name, kind, projectId, createdAt } = before;
    const after = await departed(h.caller, id);
    expect(after).toEqual({ id, number, name, kind, projectId, createdAt, deletedAt: expect.any(Number) });
    expect(after?.deletedAt).toBeGreaterThan(createdAt);
    expect((await codeOf(h.service.machines.get(h.caller, id))).code).toBe('not_found');
    expect(await h.service.numbers.idOf('machine', number)).toBe(id);
    expect(await departed(guest, id)).toEqual(after);
    const [first, second] = snapshots;
    if (first === undefined || second === undefined) throw new Error('there are no snapshots');
    expect((await h.service.snapshots.get(guest, first)).machine?.machineId).toBe(id);
    const listed = await h.service.queries.list(guest, 'snapshot', {
      where: { field: 'machineNumber', op: 'eq', value: number },
      withTotal: true,
    });
    expect(listed).toMatchObject({ total: 2, items: [{ id: first }, { id: second }] });
    expect(await h.service.sharing.accessTo(guest, 'machine', [id])).toEqual(new Map([[id, 'ro']]));
    expect(await h.service.sharing.accessTo(h.caller, 'machine', [id])).toEqual(new Map([[id, 'rw']]));

    const strangers = [await h.person('gil', 'guest'), await h.person('stan', 'admin', await h.project('other'))];
    for (const stranger of strangers) expect(await departed(stranger, id)).toBeUndefined();

    await h.done(await h.service.snapshots.delete(h.caller, first));
    expect(await departed(guest, id)).toEqual(after);
    expect(await grantsOn(id)).toHaveLength(1);
    await h.done(await h.service.snapshots.delete(h.caller, second));
    expect(await departed(h.caller, id)).toBeUndefined();
    expect(await grantsOn(id)).toEqual([]);
    expect(await h.catalog.db.selectFrom('departed_machines').selectAll().execute()).toEqual([]);
    expect((await machineWithSnapshots('next', 0)).id).not.toBe(id);
    expect(await h.service.queries.list(h.caller, 'machine', {})).toMatchObject({ items: [{ number: number + 1 }] });
  });

  it('is forgotten at once when there is no snapshot of it', async () => {
    const { id } = await machineWithSnapshots('web', 0);
    await h.grant(guest, id, 'ro', 'machine');
    await h.done(await h.service.machines.delete(h.caller, id, {}));
    expect(await departed(h.caller, id)).toBeUndefined();
    expect(await grantsOn(id)).toEqual([]);
  });

  it('is forgotten in the end when its snapshots go with it', async () => {
    const { id, snapshots } = await machineWithSnapshots('web', 2);
    await h.done(await h.service.machines.delete(h.caller, id, { snapshots: 'delete', drives: 'delete' }));
    for (const snapshotId of snapshots) {
      const tasks = await h.service.tasks.list(h.caller, { objectId: snapshotId }, {});
      for (const task of tasks.items) await h.ended(task);
    }
    expect(await departed(h.caller, id)).toBeUndefined();
    expect(await h.catalog.db.selectFrom('departed_machines').selectAll().execute()).toEqual([]);
  });
});
