/** The use cases of tasks: looking at them, waiting for them, steering them. */

import { addEvent, type Db } from '../catalog/catalog.ts';
import type { TaskRow } from '../catalog/schema.ts';
import { listTasks } from '../catalog/task-list.ts';
import { drivesOfTasks, findTask, namesOfStarters, removeTask } from '../catalog/tasks.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveId, TaskId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { activeTaskStates } from '../core/states.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { TaskUseCases } from './interface.ts';
import { cursorOf, pageOf, readCursor } from './paging.ts';
import { type Action, can, visibleTasks } from './rights.ts';
import { toStoredTask } from './task-view.ts';
import { tasksUnderWay } from './under-way.ts';

export function taskUseCases(context: Context): TaskUseCases {
  const { catalog, runner } = context;

  /** `db`: within a transaction, that one, as the catalogue waits for its end. */
  async function mayDo(
    caller: Caller,
    action: Action,
    row: TaskRow,
    driveIds: readonly DriveId[],
    db: Db = catalog.db,
  ): Promise<boolean> {
    if (row.project_id === null) return caller.role === 'operator';
    if (row.project_id !== caller.projectId) return false;
    if (caller.role !== 'guest' || row.user_id === caller.userId) return true;
    if (row.machine_id !== null) {
      const machine = { projectId: row.project_id, kind: 'machine', id: row.machine_id } as const;
      if (await can(caller, action, machine, db)) return true;
    }
    for (const id of driveIds) {
      const object = { projectId: row.project_id, kind: 'drive', id } as const;
      const allowed = await can(caller, action, object, db);
      if (action === 'read' ? allowed : !allowed) return allowed;
    }
    return action === 'write' && driveIds.length > 0;
  }

  async function readable(caller: Caller, id: TaskId): Promise<{ active: ActiveTask } | { ended: Task }> {
    const active = runner.find(id);
    if (active?.ready) {
      if (!(await mayDo(caller, 'read', active.row, active.driveIds))) throw notFound('task', id);
      return { active };
    }
    const row = await findTask(catalog.db, id);
    if (row === undefined) throw notFound('task', id);
    const driveIds = (await drivesOfTasks(catalog.db, [id])).get(id) ?? [];
    if (!(await mayDo(caller, 'read', row, driveIds))) throw notFound('task', id);
    return { ended: toStoredTask(row, driveIds) };
  }

  /** A task that can still be steered. */
  async function steerable(
    caller: Caller,
    id: TaskId,
    refusal: 'task_not_cancellable' | 'task_not_pausable',
  ): Promise<ActiveTask> {
    const found = await readable(caller, id);
    if ('ended' in found) {
      throw new CalotypeError(refusal, `The task is ${found.ended.state}.`, { taskId: id, state: found.ended.state });
    }
    if (!(await mayDo(caller, 'write', found.active.row, found.active.driveIds))) {
      throw new CalotypeError('forbidden', undefined, { taskId: id });
    }
    return found.active;
  }

  return {
    async list(caller, filter, page) {
      const shape = {
        of: 'tasks',
        filter,
        project: caller.projectId,
        user: caller.role === 'guest' ? caller.userId : '',
      };
      const request = pageOf(page);
      const after = readCursor(page, shape, 'number', 'desc');
      const wanted = filter.states;
      // What runs is told apart in memory; a row may still say queued.
      const someActive = wanted?.some((state) => activeTaskStates.some((active) => active === state));
      const states = someActive ? [...new Set([...(wanted ?? []), ...activeTaskStates])] : wanted;
      const { rows, total } = await listTasks(catalog.db, {
        projectId: caller.projectId,
        withServerTasks: caller.role === 'operator',
        guestId: caller.role === 'guest' ? caller.userId : null,
        states,
        objectId: filter.objectId,
        driveId: filter.driveId,
        machineId: filter.machineId,
        beforeNumber: after?.number ?? null,
        offset: request.offset,
        limit: request.limit + 1,
        withTotal: page.withTotal === true,
      });
      const shown = rows.slice(0, request.limit);
      const drives = await drivesOfTasks(
        catalog.db,
        shown.map((row) => row.id),
      );
      const items = shown.map((row) => {
        const active = runner.find(row.id);
        return active === undefined ? toStoredTask(row, drives.get(row.id) ?? []) : runner.view(active);
      });
      const last = shown.at(-1);
      const more = rows.length > request.limit && last !== undefined;
      return {
        items: wanted === undefined ? items : items.filter((task) => wanted.includes(task.state)),
        nextCursor: more ? cursorOf(shape, 'number', 'desc', { key: last.number, number: last.number }) : null,
        total,
      };
    },

    async get(caller, id) {
      const found = await readable(caller, id);
      return 'active' in found ? runner.view(found.active) : found.ended;
    },

    async waitFor(caller, id, timeoutMs, part) {
      const found = await readable(caller, id);
      if ('ended' in found) return found.ended;
      // It may have ended while rights were looked up.
      if (runner.find(id) === undefined) return this.get(caller, id);
      return runner.wait(found.active, timeoutMs, part);
    },

    underWay: (caller, ids) => tasksUnderWay(runner, caller, ids),

    async cancel(caller, id) {
      const task = await steerable(caller, id, 'task_not_cancellable');
      await runner.cancel(task);
      return runner.view(task);
    },

    async pause(caller, id) {
      const task = await steerable(caller, id, 'task_not_pausable');
      await runner.setPaused(task, true);
      return runner.view(task);
    },

    async resume(caller, id) {
      const task = await steerable(caller, id, 'task_not_pausable');
      await runner.setPaused(task, false);
      return runner.view(task);
    },

    async remove(caller, id) {
      if ('active' in (await readable(caller, id))) {
        throw new CalotypeError('invalid_request', 'A task can be removed after it has ended.', { taskId: id });
      }
      await catalog.write(async (tx) => {
        const row = await findTask(tx, id);
        if (row === undefined) throw notFound('task', id);
        const driveIds = (await drivesOfTasks(tx, [id])).get(id) ?? [];
        if (!(await mayDo(caller, 'write', row, driveIds, tx)))
          throw new CalotypeError('forbidden', undefined, { taskId: id });
        await removeTask(tx, id);
        await addEvent(tx, {
          projectId: row.project_id,
          userId: caller.userId,
          via: caller.via,
          kind: 'task.removed',
          objectKind: 'task',
          objectId: id,
          detail: { kind: row.kind, number: row.number },
        });
      });
      context.feed.wake();
    },

    userNames: (caller, ids) => namesOfStarters(catalog.db, visibleTasks(caller, 't'), ids),

    async setSpeedLimit(caller, id, bytesPerSecond) {
      if (!Number.isSafeInteger(bytesPerSecond) || bytesPerSecond < 0) {
        throw new CalotypeError('invalid_request', 'The speed limit must be a whole number of bytes per second.', {
          field: 'speedLimitBytesPerSecond',
        });
      }
      const task = await steerable(caller, id, 'task_not_pausable');
      await runner.setSpeedLimit(task, bytesPerSecond);
      return runner.view(task);
    },
  };
}
