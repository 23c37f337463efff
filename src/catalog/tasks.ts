/**
 * Rows of tasks. A task row is written with the object it changes and ends in the transaction that makes the change
 * true; what happens in between (progress, pauses) is written at most once a second and may be lost in a crash.
 */
import { sql } from 'kysely';
import type { DriveId, MachineId, ProjectId, TaskId, UserId } from '../core/ids.ts';
import { activeTaskStates, type TaskState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { type Condition, inList } from './page.ts';
import { prepare } from './prepared.ts';
import type { TaskRow } from './schema.ts';

const insert = prepare<{
  id: TaskId;
  projectId: ProjectId | null;
  userId: UserId | null;
  via: string;
  kind: string;
  objectKind: string | null;
  objectId: string | null;
  input: string;
  total: number;
  unit: 'bytes' | 'steps';
  holds: number;
  machineId: MachineId | null;
  title: string | null;
  at: number;
}>()((db, p) =>
  db
    .insertInto('tasks')
    .values({
      id: p('id'),
      project_id: p('projectId'),
      user_id: p('userId'),
      via: p('via'),
      kind: p('kind'),
      state: 'queued',
      object_kind: p('objectKind'),
      object_id: p('objectId'),
      input_json: p('input'),
      progress_done: 0,
      progress_total: p('total'),
      progress_unit: p('unit'),
      speed_limit: 0,
      cancel_requested: 0,
      pause_requested: 0,
      holds_drives: p('holds'),
      machine_id: p('machineId'),
      title: p('title'),
      created_at: p('at'),
      version: 1,
    })
    .returning('number'),
);

const insertDrive = prepare<{ taskId: TaskId; driveId: DriveId }>()((db, p) =>
  db.insertInto('task_drives').values({ task_id: p('taskId'), drive_id: p('driveId') }),
);

export interface NewTaskRow {
  id: TaskId;
  projectId: ProjectId | null;
  userId: UserId | null;
  via: string;
  kind: string;
  objectKind: string | null;
  objectId: string | null;
  input: unknown;
  total: number;
  unit: 'bytes' | 'steps';
  holdsDrives: boolean;
  driveIds: readonly DriveId[];
  machineId: MachineId | null;
  title?: string | null;
  at: number;
}

/** Writes a queued task. Returns its row as it now is, without reading it again. */
export async function insertTask(tx: Db, task: NewTaskRow): Promise<TaskRow> {
  const input = JSON.stringify(task.input);
  const holds = task.holdsDrives ? 1 : 0;
  const { driveIds, input: _, holdsDrives: __, title = null, ...values } = task;
  const [row] = await insert(tx, { ...values, title, input, holds });
  if (row === undefined) throw new Error('the catalog did not number the task');
  for (const driveId of driveIds) await insertDrive(tx, { taskId: task.id, driveId });
  return {
    number: row.number,
    id: task.id,
    project_id: task.projectId,
    user_id: task.userId,
    via: task.via,
    kind: task.kind,
    state: 'queued',
    object_kind: task.objectKind,
    object_id: task.objectId,
    input_json: input,
    result_json: null,
    error_json: null,
    progress_done: 0,
    progress_total: task.total,
    progress_unit: task.unit,
    speed_limit: 0,
    cancel_requested: 0,
    pause_requested: 0,
    holds_drives: holds,
    machine_id: task.machineId,
    title,
    created_at: task.at,
    started_at: null,
    finished_at: null,
    version: 1,
  };
}

const end = prepare<{
  number: number;
  state: TaskState;
  result: string | null;
  error: string | null;
  done: number;
  total: number;
  unit: 'bytes' | 'steps';
  startedAt: number | null;
  at: number;
}>()((db, p) =>
  db
    .updateTable('tasks')
    .set({
      state: p('state'),
      result_json: p('result'),
      error_json: p('error'),
      progress_done: p('done'),
      progress_total: p('total'),
      progress_unit: p('unit'),
      started_at: p('startedAt'),
      finished_at: p('at'),
      version: sql`version + 1`,
    })
    .where('number', '=', p('number'))
    .where('state', 'in', activeTaskStates)
    .returning('number'),
);

/** Ends a task. Returns false when it had ended before. */
export async function endTask(
  tx: Db,
  values: {
    number: number;
    state: 'done' | 'failed' | 'cancelled';
    result: string | null;
    error: string | null;
    done: number;
    total: number;
    unit: 'bytes' | 'steps';
    startedAt: number | null;
    at: number;
  },
): Promise<boolean> {
  return (await end(tx, values)).length > 0;
}

const touch = prepare<{
  number: number;
  state: TaskState;
  error: string | null;
  done: number;
  total: number;
  unit: 'bytes' | 'steps';
  speedLimit: number;
  cancel: number;
  pause: number;
  holds: number;
  startedAt: number | null;
}>()((db, p) =>
  db
    .updateTable('tasks')
    .set({
      state: p('state'),
      error_json: p('error'),
      progress_done: p('done'),
      progress_total: p('total'),
      progress_unit: p('unit'),
      speed_limit: p('speedLimit'),
      cancel_requested: p('cancel'),
      pause_requested: p('pause'),
      holds_drives: p('holds'),
      started_at: p('startedAt'),
    })
    .where('number', '=', p('number'))
    .where('state', 'in', activeTaskStates),
);

/** Writes what a running task is at. Without effect once it has ended. */
export async function saveTask(tx: Db, row: TaskRow): Promise<void> {
  await touch(tx, {
    number: row.number,
    state: row.state,
    error: row.error_json,
    done: row.progress_done,
    total: row.progress_total,
    unit: row.progress_unit,
    speedLimit: row.speed_limit,
    cancel: row.cancel_requested,
    pause: row.pause_requested,
    holds: row.holds_drives,
    startedAt: row.started_at,
  });
}

export async function setTaskInput(tx: Db, number: number, json: string): Promise<void> {
  await tx.updateTable('tasks').set({ input_json: json }).where('number', '=', number).execute();
}

const byId = prepare<{ id: TaskId }>()((db, p) => db.selectFrom('tasks').selectAll().where('id', '=', p('id')));

export async function findTask(db: Db, id: TaskId): Promise<TaskRow | undefined> {
  return (await byId(db, { id }))[0];
}

/** Tasks by number, in the order of `numbers`. */
export async function tasksByNumber(db: Db, numbers: readonly number[]): Promise<TaskRow[]> {
  if (numbers.length === 0) return [];
  const rows = await db.selectFrom('tasks').selectAll().where(inList(sql`number`, numbers)).execute();
  const byNumber = new Map(rows.map((row) => [row.number, row]));
  return numbers.flatMap((number) => byNumber.get(number) ?? []);
}

/** Every task that has not ended, oldest first. */
export async function activeTasks(db: Db): Promise<TaskRow[]> {
  return db.selectFrom('tasks').selectAll().where('state', 'in', activeTaskStates).orderBy('number').execute();
}

export async function drivesOfTasks(db: Db, ids: readonly TaskId[]): Promise<Map<TaskId, DriveId[]>> {
  const found = new Map<TaskId, DriveId[]>();
  if (ids.length === 0) return found;
  const rows = await db.selectFrom('task_drives').selectAll().where('task_id', 'in', ids).execute();
  for (const row of rows) {
    const list = found.get(row.task_id);
    if (list === undefined) found.set(row.task_id, [row.drive_id]);
    else list.push(row.drive_id);
  }
  return found;
}

export async function removeTask(tx: Db, id: TaskId): Promise<void> {
  await tx.deleteFrom('task_drives').where('task_id', '=', id).execute();
  await tx.deleteFrom('tasks').where('id', '=', id).execute();
}

/** Names of users who started tasks that are visible, under the alias `t`. */
export async function namesOfStarters(
  db: Db,
  visible: Condition,
  ids: readonly UserId[],
): Promise<ReadonlyMap<UserId, string>> {
  const { rows } = await sql<{ id: UserId; name: string }>`
    select u.id, u.name from users u where ${inList(sql`u.id`, ids)}
      and exists (select 1 from tasks t where t.user_id = u.id and ${visible})`.execute(db);
  return new Map(rows.map(({ id, name }) => [id, name]));
}
