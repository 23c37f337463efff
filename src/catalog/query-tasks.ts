/**
 * Lists of the tasks of a project. Most have ended well, and what has not is few: that is found by an index, as are the
 * tasks of a user, an object, a machine. The states of tasks that have not ended are those in memory, so each such task is
 * looked at by itself.
 */
import { type SqlBool, sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { Condition } from '../core/query.ts';
import type { TaskState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { countOf } from './object-counts.ts';
import { countAll, countUpTo, inList, type Condition as SqlCondition } from './page.ts';
import { boundsOf, onlyValue } from './query-bounds.ts';
import { type Dimension, searchDimension } from './query-candidates.ts';
import { toSql } from './query-condition.ts';
import {
  conditionsOf,
  type Found,
  fewOf,
  findPlainly,
  inWindow,
  type ListQuery,
  numbersFrom,
  orderOf,
  type Window,
} from './query-rows.ts';
import { plainOrder, statesMeeting } from './query-shape.ts';

interface TaskQuery extends ListQuery {
  readonly projectId: ProjectId;
}

const ofProject = (projectId: ProjectId): SqlCondition => sql<SqlBool>`t.project_id = ${projectId}`;
const tasks = sql`tasks as t`;
const tasksAsListed = sql`tasks as t not indexed`;
const alongUser = sql`tasks as t indexed by tasks_by_user`;
const alongProject = sql`tasks as t indexed by tasks_by_project`;

const endedBadly = sql<SqlBool>`t.state in ('failed', 'cancelled')`;
const notEnded = sql<SqlBool>`t.state in ('queued', 'running', 'paused')`;
const allTaskStates: readonly TaskState[] = ['queued', 'running', 'paused', 'done', 'failed', 'cancelled'];

const dimensions: readonly Dimension<'t'>[] = [
  { field: 'number', type: 'number', of: 't', source: tasks, column: sql`t.number` },
  { field: 'id', type: 'text', of: 't', source: tasks, column: sql`t.id` },
  { field: 'objectId', type: 'text', of: 't', source: tasks, column: sql`t.object_id` },
  {
    field: 'machineId',
    type: 'text',
    of: 't',
    source: sql`tasks as t indexed by tasks_by_machine`,
    column: sql`t.machine_id`,
  },
  { field: 'userId', type: 'text', of: 't', source: alongUser, column: sql`t.user_id`, within: ofProject },
  {
    field: 'userName',
    type: 'text',
    of: 't',
    source: sql`users as u cross join ${alongUser} on t.user_id = u.id`,
    column: sql`u.name`,
    within: ofProject,
  },
];

export async function findTasks(
  db: Db,
  query: ListQuery & { projectId: ProjectId },
  window: Window | null,
  withTotal: boolean,
): Promise<Found> {
  const few = fewOf(query);
  const found = await withoutServerTasks(db, query);
  if (found === undefined || (await countUpTo(db, alongProject, [ofProject(query.projectId)], few + 1)) <= few) {
    return findPlainly(db, query, window, withTotal);
  }
  const candidates = await candidatesOf(db, found);
  if (candidates !== undefined) {
    const among = [inList(sql`t.number`, candidates)];
    const all = await numbersFrom(db, found, tasksAsListed, among, orderOf(found), { offset: 0, limit: null });
    return inWindow(all, window, withTotal);
  }
  return {
    numbers: window === null ? [] : await walk(db, found, window),
    total: withTotal ? await countMany(db, found) : null,
  };
}

/** An operator sees tasks of no project, too. Where there are none, the project says it all. */
async function withoutServerTasks(db: Db, query: TaskQuery): Promise<TaskQuery | undefined> {
  const { rows } = await sql`select number from tasks where project_id is null limit 1`.execute(db);
  return rows.length > 0 ? undefined : { ...query, visible: ofProject(query.projectId) };
}

async function candidatesOf(db: Db, query: TaskQuery): Promise<readonly number[] | undefined> {
  const { where, projectId } = query;
  if (where === undefined) return undefined;
  const few = fewOf(query);
  for (const dimension of dimensions) {
    const numbers = await searchDimension(db, dimension, where, projectId, few);
    if (numbers !== undefined) return numbers;
  }
  return notWell(db, query, where);
}

/** Tasks that have not ended, and those that ended otherwise than well, if no others can meet the condition. */
async function notWell(db: Db, query: TaskQuery, where: Condition): Promise<readonly number[] | undefined> {
  const bounds = boundsOf(where, 'state', 'text');
  if (bounds === null || bounds.some(({ from, to }) => from === null || from !== to || from === 'done'))
    return undefined;
  const few = fewOf(query);
  const states = bounds.map(({ from }) => from).filter((state) => state === 'failed' || state === 'cancelled');
  const ended = states.map(
    (state) => sql`select t.number from tasks as t indexed by tasks_ended_badly
      where t.project_id = ${query.projectId} and ${endedBadly} and t.state = ${state}`,
  );
  const active = sql`select t.number from tasks as t indexed by tasks_active
    where ${notEnded}`;
  const { rows } = await sql<{ number: number }>`
    select number from (${sql.join([active, ...ended], sql` union all `)}) as found limit ${few + 1}`.execute(db);
  if (rows.length > few) return undefined;
  return [...new Set([...rows.map((row) => row.number), ...(query.live.activeTasks ?? [])])];
}

async function walk(db: Db, query: TaskQuery, window: Window): Promise<number[]> {
  const userId = onlyValue(boundsOf(query.where ?? { all: [] }, 'userId', 'text'));
  const byNumber = plainOrder(query.sort)?.by === 'number';
  if (!byNumber || userId === undefined)
    return numbersFrom(db, query, byNumber ? alongProject : tasks, [], orderOf(query), window);
  return numbersFrom(db, query, alongUser, [sql<SqlBool>`t.user_id = ${userId}`], orderOf(query), window);
}

/** Those that have ended by their rows, the others one by one. */
async function countMany(db: Db, query: TaskQuery): Promise<number> {
  const { live, where = { all: [] }, projectId } = query;
  const { activeTasks = [] } = live;
  const isActive = inList(sql`t.number`, activeTasks);
  const ended =
    activeTasks.length === 0 ? [ofProject(projectId)] : [ofProject(projectId), sql<SqlBool>`not ${isActive}`];
  const countActive = (conditions: readonly SqlCondition[]): Promise<number> =>
    activeTasks.length === 0 ? Promise.resolve(0) : countAll(db, tasksAsListed, [isActive, ...conditions]);
  const others = await countActive([conditionsOf(query)]);
  const states = statesMeeting(where, allTaskStates);
  if (states !== undefined) {
    const count = async (some: readonly TaskState[]): Promise<number> => {
      let sum = 0;
      for (const state of some) if (state !== 'done') sum += await countState(db, state, ended);
      return sum;
    };
    if (!states.includes('done')) return others + (await count(states));
    const all = (await countOf(db, 'project', projectId)) - (await countActive([ofProject(projectId)]));
    return others + all - (await count(allTaskStates.filter((state) => !states.includes(state))));
  }
  const ofUser = 'op' in where && onlyValue(boundsOf(where, 'userId', 'text')) !== undefined;
  return others + (await countAll(db, ofUser ? alongUser : tasks, [...ended, toSql('task', where, {})]));
}

/** One of the states that have an index of their own, which is named in its words. */
function countState(db: Db, state: TaskState, conditions: readonly SqlCondition[]): Promise<number> {
  const is = sql<SqlBool>`t.state = ${state}`;
  return state === 'failed' || state === 'cancelled'
    ? countAll(db, sql`tasks as t indexed by tasks_ended_badly`, [endedBadly, is, ...conditions])
    : countAll(db, sql`tasks as t indexed by tasks_active`, [notEnded, is, ...conditions]);
}
