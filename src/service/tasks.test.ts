import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type MachineId, newId, type TaskId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import type { Caller } from './caller.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

const snap = async (driveId: DriveId, name: string): Promise<Task> =>
  (await h.service.snapshots.create(h.caller, { driveIds: [driveId], name })).task;

describe('the queue of a drive', () => {
  it('carries out one change at a time, in order', async () => {
    const drive = await h.drive();
    const other = await h.drive('other');
    const held = h.hold('before:snapshot');
    const first = await snap(drive.id, 'one');
    await held.reached;
    const second = await snap(drive.id, 'two');
    const third = await h.service.drives.resize(h.caller, drive.id, drive.sizeBytes * 2);
    expect((await h.service.tasks.get(h.caller, first.id)).state).toBe('running');
    expect((await h.service.tasks.get(h.caller, second.id)).state).toBe('queued');
    expect((await h.service.tasks.get(h.caller, third.id)).state).toBe('queued');
    const elsewhere = await h.service.drives.resize(h.caller, other.id, other.sizeBytes * 2);
    await h.done(elsewhere);
    held.release();
    await h.done(third);
    expect(h.engine.calls.filter((call) => call !== 'createDrive')).toEqual([
      'snapshot',
      'resizeDrive',
      'snapshot',
      'resizeDrive',
    ]);
    // The second was taken before the drive grew, after the first.
    const page = await h.service.snapshots.list(h.caller, {}, { by: 'number', order: 'asc' }, {});
    expect(page.items.map((item) => [item.name, item.parts[0]?.parentId])).toEqual([
      ['one', null],
      ['two', page.items[0]?.parts[0]?.id],
    ]);
  });

  it('lets a snapshot of several drives wait for all of them', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const held = h.hold('before:resizeDrive');
    await h.service.drives.resize(h.caller, b.id, b.sizeBytes * 2);
    await held.reached;
    const { task } = await h.service.snapshots.create(h.caller, { driveIds: [a.id, b.id] });
    const after = await h.service.drives.resize(h.caller, a.id, a.sizeBytes * 2);
    expect((await h.service.tasks.get(h.caller, after.id)).state).toBe('queued');
    held.release();
    await h.done(after);
    expect((await h.service.tasks.get(h.caller, task.id)).state).toBe('done');
    const [made] = (await h.service.snapshots.list(h.caller, {}, { by: 'number', order: 'asc' }, {})).items;
    expect(made?.parts.map((part) => part.virtualBytes)).toEqual([a.sizeBytes, b.sizeBytes * 2]);
  });

  it('names the task in the way of what cannot wait', async () => {
    const drive = await h.drive();
    const held = h.hold('step:check');
    const check = await h.service.drives.check(h.caller, drive.id);
    await held.reached;
    const refused = await codeOf(
      h.service.exports.create(h.caller, { of: { drive: drive.id, writable: true }, transport: { kind: 'unix' } }),
    );
    expect(refused).toMatchObject({ code: 'drive_busy', details: { taskId: check.id, kind: 'drive.check' } });
    held.release();
    await h.done(check);
  });

  it('does not make deletions wait for long reading', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('step:check');
    const check = await h.service.drives.check(h.caller, drive.id);
    await held.reached;
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id));
    expect((await h.service.tasks.get(h.caller, check.id)).state).toBe('running');
    held.release();
    expect((await h.done(check)).result).toEqual({ ok: true, files: 1, errors: 0, corruptions: 0, leaks: 0 });
  });
});

describe('a task', () => {
  it('fails with the error of the engine, and its object shows it', async () => {
    const held = h.hold('before:createDrive');
    const { task, drive } = await h.service.drives.create(h.caller, { name: 'd', sizeBytes: 4096 });
    await held.reached;
    h.engine.low = true;
    held.release();
    expect(await h.ended(task)).toMatchObject({ state: 'failed', error: { code: 'space_low' } });
    expect(await h.service.drives.get(h.caller, drive.id)).toMatchObject({
      state: 'error',
      error: { code: 'space_low' },
    });
    h.engine.low = false;
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' }));
    expect((await codeOf(h.service.drives.get(h.caller, drive.id))).code).toBe('not_found');
  });

  it('can be cancelled while it waits, and leaves nothing behind', async () => {
    const drive = await h.drive();
    const held = h.hold('before:resizeDrive');
    await h.service.drives.resize(h.caller, drive.id, drive.sizeBytes * 2);
    await held.reached;
    const { task, snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    const waiting = h.ended(task);
    const cancelled = await h.service.tasks.cancel(h.caller, task.id);
    expect(cancelled).toMatchObject({ state: 'cancelled', error: { code: 'cancelled' }, cancellable: false });
    expect((await waiting).state).toBe('cancelled');
    expect((await codeOf(h.service.snapshots.get(h.caller, snapshot.id))).code).toBe('not_found');
    held.release();
    expect((await h.snapshot([drive.id])).state).toBe('available');
  });

  it('can be cancelled while it runs if that can be undone', async () => {
    const drive = await h.drive();
    const held = h.hold('step:flatten');
    const task = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    const asked = await h.service.tasks.cancel(h.caller, task.id);
    expect(asked.state).toBe('running');
    held.release();
    expect((await h.ended(task)).state).toBe('cancelled');
    expect((await codeOf(h.service.tasks.cancel(h.caller, task.id))).code).toBe('task_not_cancellable');
  });

  it('cannot be cancelled once a snapshot is being taken', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const task = await snap(drive.id, 'x');
    await held.reached;
    expect(await codeOf(h.service.tasks.cancel(h.caller, task.id))).toMatchObject({
      code: 'task_not_cancellable',
      details: { taskId: task.id },
    });
    expect((await codeOf(h.service.tasks.pause(h.caller, task.id))).code).toBe('task_not_pausable');
    held.release();
    await h.done(task);
  });

  it('pauses, shows it, and goes on', async () => {
    const drive = await h.drive();
    const held = h.hold('step:flatten');
    const task = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    expect((await h.service.tasks.pause(h.caller, task.id)).state).toBe('paused');
    held.release();
    expect((await h.service.tasks.waitFor(h.caller, task.id, 30)).state).toBe('paused');
    const listed = await h.service.tasks.list(h.caller, { states: ['paused'] }, {});
    expect(listed.items.map((item) => item.id)).toEqual([task.id]);
    expect((await h.service.tasks.setSpeedLimit(h.caller, task.id, 1000)).speedLimitBytesPerSecond).toBe(1000);
    expect((await h.service.tasks.resume(h.caller, task.id)).state).toBe('running');
    expect((await h.done(task)).progress).toMatchObject({ done: 16384, total: 16384, unit: 'bytes' });
  });

  it('pauses by itself on a full disk, says so, and is resumed', async () => {
    const drive = await h.drive();
    let full = true;
    h.engine.gate = (place) => {
      if (place === 'step:flatten' && full) throw new CalotypeError('space_exhausted');
    };
    const task = await h.service.drives.flatten(h.caller, drive.id);
    await expect
      .poll(async () => h.service.tasks.get(h.caller, task.id))
      .toMatchObject({ state: 'paused', error: { code: 'space_exhausted' } });
    full = false;
    await h.service.tasks.resume(h.caller, task.id);
    expect(await h.done(task)).toMatchObject({ state: 'done', error: null });
  });

  it('shows progress while it runs and a full bar at its end', async () => {
    const drive = await h.drive();
    const held = h.hold('step:flatten');
    const task = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    expect((await h.service.tasks.get(h.caller, task.id)).progress).toMatchObject({ done: 0, total: 16384 });
    held.release();
    await h.done(task);
    const stored = await h.service.tasks.get(h.caller, task.id);
    expect(stored.progress).toMatchObject({ done: 16384, total: 16384, unit: 'bytes' });
    expect(stored.finishedAt).toBeGreaterThan(stored.startedAt ?? Number.POSITIVE_INFINITY);
  });

  it('is waited for with a deadline', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const task = await snap(drive.id, 'x');
    await held.reached;
    expect((await h.service.tasks.waitFor(h.caller, task.id, 5)).state).toBe('running');
    const both = Promise.all([h.ended(task), h.ended(task)]);
    held.release();
    expect((await both).map((end) => end.state)).toEqual(['done', 'done']);
    expect((await codeOf(h.service.tasks.get(h.caller, newId<TaskId>()))).code).toBe('not_found');
  });

  it('is seen by its project only, and by a guest if it is his or of his drive', async () => {
    const drive = await h.drive();
    const task = await snap(drive.id, 'x');
    await h.done(task);
    const stranger = await h.person('mallory', 'member', await h.project('elsewhere'));
    expect((await codeOf(h.service.tasks.get(stranger, task.id))).code).toBe('not_found');
    const guest = await h.person('gus', 'guest');
    expect((await codeOf(h.service.tasks.get(guest, task.id))).code).toBe('not_found');
    expect((await h.service.tasks.list(guest, {}, {})).items).toEqual([]);
    await h.grant(guest, drive.id, 'ro');
    expect((await h.service.tasks.get(guest, task.id)).id).toBe(task.id);
    expect((await h.service.tasks.list(guest, {}, {})).items.map((item) => item.id)).toContain(task.id);
  });

  it('is listed newest first, by page', async () => {
    const drive = await h.drive();
    const made: Task[] = [];
    for (let i = 0; i < 5; i++) made.push(await h.done(await snap(drive.id, `s${i}`)));
    const filter = { driveId: drive.id };
    const first = await h.service.tasks.list(h.caller, filter, { limit: 3, withTotal: true });
    expect(first.total).toBe(6);
    const second = await h.service.tasks.list(h.caller, filter, { limit: 3, cursor: first.nextCursor ?? '' });
    expect([...first.items, ...second.items].map((item) => item.id)).toEqual([
      ...made.map((item) => item.id).reverse(),
      expect.anything(),
    ]);
    expect(second.nextCursor).toBeNull();
  });
});

describe('the tasks of a machine', () => {
  it('are listed by it, also for a guest to whom the machine is granted', async () => {
    const machine = async (name: string) => {
      const made = await h.service.machines.create(h.caller, { name, memoryBytes: 16 * mib });
      await h.done(made.task);
      return made;
    };
    const [web, other] = [await machine('web'), await machine('other')];
    await h.drive();
    const list = async (caller: Caller, machineId: MachineId) =>
      (await h.service.tasks.list(caller, { machineId }, { withTotal: true })).items.map((task) => task.id);
    expect(await list(h.caller, web.machine.id)).toEqual([web.task.id]);
    expect(await list(h.caller, newId<MachineId>())).toEqual([]);

    const guest = await h.person('gus', 'guest');
    expect(await list(guest, web.machine.id)).toEqual([]);
    await h.grant(guest, web.machine.id, 'ro', 'machine');
    expect(await list(guest, web.machine.id)).toEqual([web.task.id]);
    expect(await list(guest, other.machine.id)).toEqual([]);
    expect((await h.service.tasks.get(guest, web.task.id)).machineId).toBe(web.machine.id);
    await expect(h.service.tasks.get(guest, other.task.id)).rejects.toMatchObject({ code: 'not_found' });
    const events = await h.service.events.list(guest, { objectId: web.machine.id });
    expect(events.map((event) => event.kind)).toContain('machine.created');
    expect(await h.service.events.list(guest, { objectId: other.machine.id })).toEqual([]);
  });
});
