/** What lists of snapshots filter by, as conditions on the alias `s`, and the indexes they are walked along. */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { DriveId, MachineId, ProjectId } from '../core/ids.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { allOf, type Condition, type NameConditions, type NameQuery, nameConditions } from './page.ts';
import { totalOf } from './snapshot-totals.ts';

export interface SnapshotQuery extends NameQuery {
  /** Whose snapshots. */
  readonly visible: Condition;
  /** The project when `visible` says no more than that; every index starts with it. */
  readonly projectId: ProjectId | null;
  readonly driveId?: DriveId | undefined;
  readonly machineId?: MachineId | undefined;
  readonly states?: readonly SnapshotState[] | undefined;
  readonly tag?: string | undefined;
  readonly createdFrom?: number | undefined;
  readonly createdBefore?: number | undefined;
  /** The total will be asked for after the page. */
  readonly totalToo?: boolean;
  /** For tests: what counts as few. */
  readonly few?: number;
}

/** So many can be sorted within a few milliseconds. */
const defaultFew = 5000;

export function fewOf(query: SnapshotQuery): number {
  return query.few ?? defaultFew;
}

export const allStates: readonly SnapshotState[] = ['creating', 'available', 'error', 'deleting'];

/** SQLite takes our word for the index; a database that keeps statistics finds it by itself. */
export const along = {
  created: sql`snapshots as s indexed by snapshots_by_time`,
  name: sql`snapshots as s indexed by snapshots_by_name`,
  state: sql`snapshots as s indexed by snapshots_by_state`,
  number: sql`snapshots as s indexed by snapshots_by_number`,
} as const;

export const partsOfDrive = sql`drive_snapshots as d indexed by drive_snapshots_by_drive
  cross join snapshots as s on s.id = d.snapshot_id`;

/** Found by their numbers, which come as a list: without this a walk along the order would test each against the list. */
export const byNumber = sql`snapshots as s not indexed`;

export const ofMachines = sql`snapshots as s indexed by snapshots_by_machine`;

export function taggedWith(tag: string): RawBuilder<unknown> {
  return sql`(select object_id from tags where tag = ${tag}) as t cross join snapshots as s on s.id = t.object_id`;
}

export interface Filters {
  readonly name: NameConditions;
  readonly time: Condition[];
  readonly tag: Condition[];
  /** On name and time, which every index covers. */
  readonly covered: Condition[];
  /** The machine, with an index of its own. */
  readonly machine: Condition[];
  /** The state, looked up in the row. */
  readonly state: Condition[];
}

export function filtersOf(query: SnapshotQuery): Filters {
  const name = nameConditions(sql<string>`s.name`, query);
  const time: Condition[] = [];
  if (query.createdFrom !== undefined) time.push(sql<SqlBool>`s.created_at >= ${query.createdFrom}`);
  if (query.createdBefore !== undefined) time.push(sql<SqlBool>`s.created_at < ${query.createdBefore}`);
  const tag =
    query.tag === undefined
      ? []
      : [sql<SqlBool>`exists (select 1 from tags t where t.object_id = s.id and t.tag = ${query.tag})`];
  const state = query.states === undefined ? [] : [stateIn(query.states)];
  const machine = query.machineId === undefined ? [] : [sql<SqlBool>`s.machine_id = ${query.machineId}`];
  return { name, time, tag, machine, covered: [...name.seek, ...time, ...name.test], state };
}

export function stateIn(states: readonly SnapshotState[]): Condition {
  return states.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`s.state in (${sql.join(states)})`;
}

/** Snapshots in the states that are not asked for. */
export interface Others {
  readonly condition: Condition;
  readonly total: number;
}

/**
 * The state stands in one index only, since every snapshot changes it once. Where not many are in other states, those
 * are what a walk along another index leaves out. Null when no state is left out.
 */
export async function othersOf(db: Db, query: SnapshotQuery, projectId: ProjectId): Promise<Others | null> {
  const { states } = query;
  if (states === undefined) return null;
  const others = allStates.filter((state) => !states.includes(state));
  if (others.length === 0) return null;
  return { condition: stateIn(others), total: await totalOf(db, projectId, { states: others }) };
}

/** As a condition on a walk along any index. */
export function leavingOut(query: SnapshotQuery, others: Condition): Condition {
  return sql<SqlBool>`s.number not in (select s.number from ${along.state} where ${allOf([query.visible, others])})`;
}
