/**
 * Lists of snapshots that stay fast with millions of them. Every index of `snapshots` covers all that lists filter by, so
 * that a page is a walk along the index of its sort field. Where one filter leaves only a few thousand, found out by a
 * bounded count, the list is made from those and sorted instead: a walk would pass a million rows to find a hundred.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { DriveId } from '../core/ids.ts';
import type { SnapshotState, snapshotTransitions } from '../core/states.ts';
import type { Db } from './catalog.ts';
import {
  allOf,
  type Condition,
  countAll,
  countUpTo,
  findPlaces,
  type NameQuery,
  nameConditions,
  type PageQuery,
  type Place,
} from './page.ts';

export type SnapshotSort = 'created' | 'name' | 'state' | 'number';

export interface SnapshotQuery extends NameQuery {
  /** Whose snapshots: a condition on the alias `s`. */
  readonly visible: Condition;
  /** True when `visible` is nothing but one project, which all indexes start with. */
  readonly wholeProject: boolean;
  readonly driveId?: DriveId | undefined;
  readonly states?: readonly SnapshotState[] | undefined;
  readonly tag?: string | undefined;
  readonly createdFrom?: number | undefined;
  readonly createdBefore?: number | undefined;
}

const allStates: readonly SnapshotState[] = ['creating', 'available', 'error', 'deleting'] satisfies (keyof typeof snapshotTransitions)[];

/** So many can be sorted within a millisecond or two. */
const few = 5000;

const number = sql`s.number`;
const sortKeys: Readonly<Record<SnapshotSort, RawBuilder<unknown>>> = {
  created: sql`s.created_at`,
  name: sql`s.name`,
  state: sql`s.state`,
  number: sql`s.number`,
};

/** SQLite takes our word for the index; a database that keeps statistics finds it by itself. */
const along = {
  created: sql`snapshots as s indexed by snapshots_by_time`,
  name: sql`snapshots as s indexed by snapshots_by_name`,
  state: sql`snapshots as s indexed by snapshots_by_state`,
  number: sql`snapshots as s indexed by snapshots_by_number`,
} as const;

interface Plan {
  readonly source: RawBuilder<unknown>;
  readonly conditions: readonly Condition[];
  readonly key: RawBuilder<unknown>;
}

interface Filters {
  readonly name: { seek: Condition[]; test: Condition[] };
  readonly time: Condition[];
  readonly tag: Condition[];
  /** On name and time, which every index covers. */
  readonly covered: Condition[];
}

function filtersOf(query: SnapshotQuery): Filters {
  const name = nameConditions(sql<string>`s.name`, query);
  const time: Condition[] = [];
  if (query.createdFrom !== undefined) time.push(sql<SqlBool>`s.created_at >= ${query.createdFrom}`);
  if (query.createdBefore !== undefined) time.push(sql<SqlBool>`s.created_at < ${query.createdBefore}`);
  const tag =
    query.tag === undefined
      ? []
      : [sql<SqlBool>`exists (select 1 from tags t where t.object_id = s.id and t.tag = ${query.tag})`];
  return { name, time, tag, covered: [...name.seek, ...time, ...name.test] };
}

async function planPage(db: Db, query: SnapshotQuery, sort: SnapshotSort): Promise<Plan> {
  const filters = filtersOf(query);
  const key = sortKeys[sort];
  const { states, driveId } = query;
  const plain = states === undefined ? [] : [stateIn(states)];
  if (driveId !== undefined) {
    // Parts of a drive are numbered in the order of its snapshots, and these are taken one after the other.
    const inOrder = sort === 'number' || sort === 'created';
    const conditions = [...ofDrive(query, driveId, filters), ...plain];
    return { source: partsOfDrive, conditions, key: inOrder ? sql`d.number` : key };
  }
  if (!query.wholeProject) {
    const conditions = [query.visible, ...filters.covered, ...plain, ...filters.tag];
    return { source: sql`snapshots as s`, conditions, key };
  }
  const narrow = await narrowest(db, query, filters, sort);
  if (narrow !== undefined) return { source: narrow.source, conditions: [...narrow.conditions, ...plain], key };
  const state = sort === 'state' ? plain : await stateConditions(db, query);
  return { source: along[sort], conditions: [query.visible, ...filters.covered, ...state, ...filters.tag], key };
}

function stateIn(states: readonly SnapshotState[]): Condition {
  return states.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`s.state in (${sql.join(states)})`;
}

/**
 * The state stands in one index only, since every snapshot changes it once. A walk along another index leaves out, by
 * number, the few that are in other states; only when those are many it looks at the rows.
 */
async function stateConditions(db: Db, query: SnapshotQuery): Promise<Condition[]> {
  const { states } = query;
  if (states === undefined) return [];
  const others = allStates.filter((state) => !states.includes(state));
  if (others.length === 0) return [];
  const those = [query.visible, stateIn(others)];
  if ((await countUpTo(db, along.state, those, few + 1)) > few) return [stateIn(states)];
  return [sql<SqlBool>`s.number not in (select s.number from ${along.state} where ${allOf(those)})`];
}

interface Narrow {
  readonly source: RawBuilder<unknown>;
  /** All of the query's, but for the states. */
  readonly conditions: readonly Condition[];
}

/** Where to start from if some filter leaves only a few; the sort's own index needs no such help. */
async function narrowest(
  db: Db,
  query: SnapshotQuery,
  filters: Filters,
  sort: SnapshotSort | null,
): Promise<Narrow | undefined> {
  const leavesFew = async (source: RawBuilder<unknown>, conditions: readonly Condition[]): Promise<boolean> =>
    (await countUpTo(db, source, conditions, few + 1)) <= few;
  const { visible, tag, states } = query;
  const conditions = [visible, ...filters.covered, ...filters.tag];
  if (filters.name.seek.length > 0 && sort !== 'name') {
    if (await leavesFew(along.name, [visible, ...filters.name.seek])) return { source: along.name, conditions };
  }
  if (tag !== undefined && (await leavesFew(sql`tags as t`, [sql<SqlBool>`t.tag = ${tag}`]))) {
    const source = sql`(select object_id from tags where tag = ${tag}) as t cross join snapshots as s on s.id = t.object_id`;
    return { source, conditions: [visible, ...filters.covered] };
  }
  if (states !== undefined && sort !== 'state') {
    if (await leavesFew(along.state, [visible, stateIn(states)])) return { source: along.state, conditions };
  }
  if (filters.time.length > 0 && sort !== 'created') {
    if (await leavesFew(along.created, [visible, ...filters.time])) return { source: along.created, conditions };
  }
  return undefined;
}

const partsOfDrive = sql`drive_snapshots as d indexed by drive_snapshots_by_drive
  cross join snapshots as s on s.id = d.snapshot_id`;

function ofDrive(query: SnapshotQuery, driveId: DriveId, filters: Filters): Condition[] {
  return [sql<SqlBool>`d.drive_id = ${driveId}`, query.visible, ...filters.covered, ...filters.tag];
}

/** One page, as numbers of snapshots with their sort keys. */
export async function findSnapshotPlaces(
  db: Db,
  query: SnapshotQuery,
  sort: SnapshotSort,
  page: PageQuery,
): Promise<Place[]> {
  const plan = await planPage(db, query, sort);
  return findPlaces(db, plan.source, plan.conditions, { key: plan.key, number }, page);
}

/** How many match, exactly. */
export async function countSnapshots(db: Db, query: SnapshotQuery): Promise<number> {
  const filters = filtersOf(query);
  const { driveId, states, visible } = query;
  const plain = states === undefined ? [] : [stateIn(states)];
  if (driveId !== undefined) {
    if (query.wholeProject && filters.covered.length + filters.tag.length + plain.length === 0) {
      // Every part of the drive is one snapshot of the drive's project.
      return countAll(db, sql`drive_snapshots as d`, [sql<SqlBool>`d.drive_id = ${driveId}`]);
    }
    return countAll(db, partsOfDrive, [...ofDrive(query, driveId, filters), ...plain]);
  }
  if (!query.wholeProject) {
    return countAll(db, sql`snapshots as s`, [visible, ...filters.covered, ...plain, ...filters.tag]);
  }
  if (filters.covered.length + filters.tag.length === 0) return countAll(db, along.state, [visible, ...plain]);
  const narrow = await narrowest(db, query, filters, null);
  if (narrow !== undefined) return countAll(db, narrow.source, [...narrow.conditions, ...plain]);
  const byName = filters.name.seek.length > 0 || filters.name.test.length > 0;
  const source = byName ? along.name : filters.time.length > 0 ? along.created : along.state;
  const state = await stateConditions(db, query);
  return countAll(db, source, [visible, ...filters.covered, ...state, ...filters.tag]);
}
