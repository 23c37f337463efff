/**
 * Lists of the snapshots of a project by any condition. In this order: the ways of the plain filters, where the condition
 * comes to those; the few that an index leaves; the few that a scan finds, if a sample says that there are few; a walk along
 * the index of the sort field that ends when the page is full.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { MachineId } from '../core/ids.ts';
import type { Condition } from '../core/query.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { countOf } from './object-counts.ts';
import { countAll, inList, type Condition as SqlCondition } from './page.ts';
import { boundsOf, onlyValue, searchesOf } from './query-bounds.ts';
import { candidatesOf } from './query-candidates.ts';
import { fieldOf, testsOf, toSql } from './query-condition.ts';
import { namedCandidates } from './query-names.ts';
import {
  conditionsOf,
  type Found,
  fewOf,
  findPlainly,
  inWindow,
  numbersFrom,
  orderOf,
  type ProjectQuery,
  rowsOf,
  type Window,
} from './query-rows.ts';
import { filtersOfCondition, plainOrder, statesMeeting } from './query-shape.ts';
import { countSnapshots } from './snapshot-count.ts';
import { allStates, along, byNumber, ofMachines, type SnapshotQuery, stateIn } from './snapshot-filters.ts';
import { findSnapshotPlaces, type SnapshotSort } from './snapshot-list.ts';
import { shareOf } from './snapshot-sample.ts';
import { totalOf } from './snapshot-totals.ts';

export async function findSnapshots(
  db: Db,
  query: ProjectQuery,
  window: Window | null,
  withTotal: boolean,
): Promise<Found> {
  const { where, projectId } = query;
  const named = where === undefined ? undefined : await namedCandidates(db, where, projectId, fewOf(query));
  if (named !== undefined) return inWindow(await sorted(db, query, named), window, withTotal);
  const plain = plainQuery(query, withTotal);
  const order = plainOrder(query.sort);
  if (plain !== undefined && order !== undefined) {
    return {
      numbers: window === null ? [] : await plainPage(db, plain, order, window),
      total: withTotal ? await countSnapshots(db, plain) : null,
    };
  }
  if ((await totalOf(db, query.projectId)) <= fewOf(query)) return findPlainly(db, query, window, withTotal);
  const few = (await isAlongMachine(db, query)) ? undefined : await fewMatches(db, query);
  if (few !== undefined) return inWindow(await sorted(db, query, few), window, withTotal);
  return {
    numbers: window === null ? [] : await walk(db, query, window),
    total: withTotal ? await countMany(db, query) : null,
  };
}

/** The condition as plain filters, if it comes to those. */
function plainQuery({ where, visible, projectId, few }: ProjectQuery, totalToo: boolean): SnapshotQuery | undefined {
  const filters = filtersOfCondition(where);
  if (filters === undefined) return undefined;
  return { ...filters, visible, projectId, totalToo, ...(few === undefined ? {} : { few }) };
}

async function plainPage(
  db: Db,
  plain: SnapshotQuery,
  { by, order }: { by: SnapshotSort; order: 'asc' | 'desc' },
  { offset, limit }: Window,
): Promise<number[]> {
  const page = { order, after: null, limit: limit ?? Number.MAX_SAFE_INTEGER, offset };
  return (await findSnapshotPlaces(db, plain, by, page)).map((place) => place.number);
}

async function sorted(db: Db, query: ProjectQuery, numbers: readonly number[]): Promise<number[]> {
  const among = inList(sql`s.number`, numbers);
  return numbersFrom(db, query, byNumber, [among], orderOf(query), { offset: 0, limit: null });
}

/** Numbers of all that can meet the condition, if they are few. */
async function fewMatches(db: Db, query: ProjectQuery): Promise<readonly number[] | undefined> {
  const { where, projectId } = query;
  const few = fewOf(query);
  if (where === undefined) return undefined;
  const candidates = await candidatesOf(db, 'snapshot', where, projectId, few);
  return candidates?.numbers ?? rareMatches(db, query);
}

/** Numbers of all that meet the condition, if a sample of all found none and a scan finds few. */
export async function rareMatches(db: Db, query: ProjectQuery): Promise<number[] | undefined> {
  const few = fewOf(query);
  const conditions = conditionsOf(query);
  if ((await shareOf(db, query.visible, [conditions])) > 0) return undefined;
  const { rows } = await sql<{ number: number }>`
    select s.number as number from ${scanFor(query.where)} where ${conditions} limit ${few + 1}`.execute(db);
  return rows.length > few ? undefined : rows.map((row) => row.number);
}

/** The index that has all that a condition looks at; else the rows in their own order, since they are needed. */
export function scanFor(where: Condition | undefined): RawBuilder<unknown> {
  const fields = new Set([...testsOf(where ?? { all: [] })].map((test) => test.field));
  for (const field of ['number', 'name', 'createdAt']) fields.delete(field);
  if (fields.size === 0) return along.name;
  fields.delete('state');
  return fields.size === 0 ? along.state : along.number;
}

/** The one machine that the snapshots are of. */
async function machineOf(db: Db, where: Condition): Promise<MachineId | undefined> {
  const id = onlyValue(boundsOf(where, 'machineId', 'text'));
  const number = onlyValue(boundsOf(where, 'machineNumber', 'number'));
  if (id === undefined && number === undefined) return undefined;
  const wanted = id === undefined ? sql`m.number = ${number}` : sql`m.id = ${id}`;
  const { rows } = await sql<{ id: MachineId }>`
    select m.id from (select number, id from machines union all select number, id from departed_machines) as m
    where ${wanted}`.execute(db);
  return rows[0]?.id;
}

const alongMachine: { readonly [S in SnapshotSort]?: RawBuilder<unknown> } = {
  number: ofMachines,
  created: sql`snapshots as s indexed by snapshots_of_machine_by_time`,
  name: sql`snapshots as s indexed by snapshots_of_machine_by_name`,
};

const testedAlongMachine: readonly string[] = ['machineId', 'number', 'name', 'createdAt', 'state'];

/** Whether a machine has few, and its indexes, in the order that is asked for, say nearly all that is looked at. */
async function isAlongMachine(db: Db, query: ProjectQuery): Promise<boolean> {
  const { where = { all: [] }, sort } = query;
  const order = plainOrder(sort);
  if (order === undefined || alongMachine[order.by] === undefined) return false;
  if (![...testsOf(where)].every(({ field }) => testedAlongMachine.includes(field))) return false;
  const machineId = await machineOf(db, where);
  return machineId !== undefined && (await countOf(db, 'machine', machineId)) <= fewOf(query);
}

const fieldsOfSort = { number: 'number', created: 'createdAt', name: 'name', state: 'state' } as const;

async function walk(db: Db, query: ProjectQuery, window: Window): Promise<number[]> {
  const { where = { all: [] }, sort } = query;
  const order = plainOrder(sort);
  if (order === undefined) return numbersFrom(db, query, rowsOf.snapshot, [], orderOf(query), window);
  const conditions = seeks(where, fieldsOfSort[order.by]);
  const machineId = await machineOf(db, where);
  const ofMachine = machineId === undefined ? undefined : alongMachine[order.by];
  if (ofMachine !== undefined) conditions.push(sql<SqlBool>`s.machine_id = ${machineId}`);
  return numbersFrom(db, query, ofMachine ?? along[order.by], conditions, orderOf(query), window);
}

/** Where in the index of a field to begin and to end. */
export function seeks(where: Condition, field: string): SqlCondition[] {
  const { type, column } = fieldOf('snapshot', field);
  const searches = searchesOf(column({}), boundsOf(where, field, type) ?? [{ from: null, to: null }]);
  return searches?.length === 1 ? searches : [];
}

/** So many times as many as are few are counted to be left out, rather than all others looked up. */
export const worthLeavingOut = 3;

/** How many meet a condition that many may meet. */
async function countMany(db: Db, query: ProjectQuery): Promise<number> {
  const plain = plainQuery(query, true);
  if (plain !== undefined) return countSnapshots(db, plain);
  const { where = { all: [] }, projectId } = query;
  if ('not' in where && isNeverNull(where.not)) {
    return (await totalOf(db, projectId)) - (await countMany(db, { ...query, where: where.not }));
  }
  const { rest, states } = splitStates(where);
  if (states !== undefined) {
    const others = allStates.filter((state) => !states.includes(state));
    if ((await totalOf(db, projectId, { states: others })) <= fewOf(query) * worthLeavingOut) {
      const all = { ...query, where: rest };
      const out = await countAll(db, along.state, [conditionsOf(all), stateIn(others)]);
      return (await countMany(db, all)) - out;
    }
  }
  const machineId = await machineOf(db, where);
  if (machineId === undefined || !(await isOfProject(db, machineId, query))) {
    return countAll(db, scanFor(where), [conditionsOf(query)]);
  }
  const test = 'all' in where && where.all.length === 1 ? where.all[0] : where;
  if (test !== undefined && 'op' in test) return countOf(db, 'machine', machineId);
  // The machine stands for its project, which the indexes of a machine do not have.
  const ofMachine = [sql<SqlBool>`s.machine_id = ${machineId}`, toSql('snapshot', where, query.live)];
  const names = seeks(where, 'name');
  return countAll(db, (names.length > 0 ? alongMachine.name : undefined) ?? ofMachines, [...ofMachine, ...names]);
}

const neverNull: readonly string[] = ['number', 'id', 'name', 'state', 'createdAt', 'description', 'updatedAt', 'tag'];

/** Whether a condition is met or not met by everything. */
function isNeverNull(where: Condition): boolean {
  return [...testsOf(where)].every((test) => neverNull.includes(test.field));
}

/** Snapshots of a machine are all of the machine's project. */
async function isOfProject(db: Db, id: MachineId, { projectId }: ProjectQuery): Promise<boolean> {
  const { rows } = await sql`select number from machines where id = ${id} and project_id = ${projectId}
    union all select number from departed_machines where id = ${id} and project_id = ${projectId}`.execute(db);
  return rows.length > 0;
}

/** What a condition says about the state, apart from the rest. */
export function splitStates(where: Condition): { rest: Condition; states: readonly SnapshotState[] | undefined } {
  if (!('all' in where)) return { rest: where, states: undefined };
  const ofState = where.all.filter((part) => statesMeeting(part, allStates) !== undefined);
  if (ofState.length === 0) return { rest: where, states: undefined };
  const rest = where.all.filter((part) => !ofState.includes(part));
  return { rest: { all: rest }, states: statesMeeting({ all: ofState }, allStates) };
}
