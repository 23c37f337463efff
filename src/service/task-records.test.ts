import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Task } from '../core/model.ts';
import { codeOf, Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

async function snapshotAs(taskTitle: string, name: string): Promise<Task> {
  const drive = await h.drive(name);
  const { task } = await h.service.snapshots.create({ ...h.caller, taskTitle }, { driveIds: [drive.id], name });
  return h.done(task);
}

it('a task keeps what the front door calls it, and is found by it', async () => {
  const task = await snapshotAs('Creating snapshot a', 'a');
  expect(task.title).toBe('Creating snapshot a');
  await h.restart();
  expect((await h.service.tasks.get(h.caller, task.id)).title).toBe('Creating snapshot a');
  const titled = await h.service.queries.list(h.caller, 'task', {
    where: { field: 'title', op: 'like', value: '*shot a' },
  });
  expect(titled.items.map(({ id }) => id)).toEqual([task.id]);
  const untitled = await h.service.queries.list(h.caller, 'task', { where: { field: 'title', op: 'isNull' } });
  expect(untitled.items.map(({ kind }) => kind)).toEqual(['drive.create']);
});

it('a task that has ended can be removed by whoever may change what it changed', async () => {
  const task = await snapshotAs('x', 'a');
  const guest = await h.person('greta', 'guest');
  expect(await codeOf(h.service.tasks.remove(guest, task.id))).toMatchObject({ code: 'not_found' });
  await h.service.tasks.remove(h.caller, task.id);
  expect(await codeOf(h.service.tasks.get(h.caller, task.id))).toMatchObject({ code: 'not_found' });
  expect(await codeOf(h.service.tasks.remove(h.caller, task.id))).toMatchObject({ code: 'not_found' });
  const events = await h.service.events.list(h.caller, { objectId: task.id });
  expect(events.map(({ kind }) => kind)).toContain('task.removed');
});

it('one under way cannot be removed', async () => {
  const drive = await h.drive('a');
  const held = h.hold('before:snapshot');
  const { task } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
  await held.reached;
  expect(await codeOf(h.service.tasks.remove(h.caller, task.id))).toMatchObject({ code: 'invalid_request' });
  held.release();
  await h.done(task);
});

it('tells who started tasks that the caller sees, and nobody else', async () => {
  await h.drive('a');
  const mia = await h.person('mia', 'member');
  const idle = await h.person('idle', 'member');
  const guest = await h.person('greta', 'guest');
  const ids = [h.caller.userId, idle.userId];
  expect(await h.service.tasks.userNames(mia, ids)).toEqual(new Map([[h.caller.userId, h.caller.userName]]));
  expect(await h.service.tasks.userNames(guest, ids)).toEqual(new Map());
});

it('lists can be ordered by named values, by parents and by the last change of tasks', async () => {
  for (const name of ['a', 'b', 'c']) await h.drive(name);
  const names = async (order: 'asc' | 'desc', ranks: readonly string[]): Promise<string[]> => {
    const { items } = await h.service.queries.list(h.caller, 'drive', { sort: [{ by: 'name', order, ranks }] });
    return items.map(({ name }) => name);
  };
  expect(await names('asc', ['c', 'a'])).toEqual(['c', 'a', 'b']);
  expect(await names('desc', ['c', 'a'])).toEqual(['b', 'a', 'c']);
  expect(await names('asc', [])).toEqual(['a', 'b', 'c']);
  const tasks = await h.service.queries.list(h.caller, 'task', { sort: [{ by: 'updatedAt', order: 'desc' }] });
  const ends = tasks.items.map(({ finishedAt }) => finishedAt ?? 0);
  expect(ends).toEqual(ends.toSorted((a, b) => b - a));
});
