/**
 * Lists of snapshots that stay fast with millions of them. Every index of `snapshots` covers all that lists filter by, so
 * that a page is a walk along the index of its sort field. Where one filter leaves only a few thousand, found out by a
 * bounded count, the list is made from those and sorted instead: a walk would pass a million rows to find a hundred.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { DriveId } from '../core/ids.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import {
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
  readonly state: Condition[];
  readonly tag: Condition[];
  /** All of them, the tag and the drive left out. */
  readonly ofSnapshot: Condition[];
}

function filtersOf(query: SnapshotQuery): Filters {
  const name = nameConditions(sql<string>`s.name`, query);
  const time: Condition[] = [];
  if (query.createdFrom !== undefined) time.push(sql<SqlBool>`s.created_at >= ${query.createdFrom}`);
  if (query.createdBefore !== undefined) time.push(sql<SqlBool>`s.created_at < ${query.createdBefore}`);
  const state: Condition[] = [];
  if (query.states !== undefined) {
    const [only] = query.states;
    if (only === undefined) state.push(sql<SqlBool>`false`);
    else if (query.states.length === 1) state.push(sql<SqlBool>`s.state = ${only}`);
    else state.push(sql<SqlBool>`s.state in (${sql.join(query.states)})`);
  }
  const tag =
    query.tag === undefined
      ? []
      : [sql<SqlBool>`exists (select 1 from tags t where t.object_id = s.id and t.tag = ${query.tag})`];
  return { name, time, state, tag, ofSnapshot: [...name.seek, ...time, ...state, ...name.test] };
}

async function planPage(db: Db, query: SnapshotQuery, sort: SnapshotSort): Promise<Plan> {
  const filters = filtersOf(query);
  const key = sortKeys[sort];
  if (query.driveId !== undefined) return planForDrive(query, query.driveId, filters, sort);
  if (!query.wholeProject) {
    return { source: sql`snapshots as s`, conditions: [query.visible, ...filters.ofSnapshot, ...filters.tag], key };
  }
  const all = [query.visible, ...filters.ofSnapshot];
  const narrow = await narrowest(db, query, filters, sort);
  if (narrow !== undefined) return { source: narrow, conditions: narrow === taggedSource(query) ? all : [...all, ...filters.tag], key };
  return { source: along[sort], conditions: [...all, ...filters.tag], key };
}

const tagged = new WeakMap<SnapshotQuery, RawBuilder<unknown>>();

function taggedSource(query: SnapshotQuery): RawBuilder<unknown> {
  let source = tagged.get(query);
  if (source === undefined) {
    source = sql`(select object_id from tags where tag = ${query.tag}) as t cross join snapshots as s on s.id = t.object_id`;
    tagged.set(query, source);
  }
  return source;
}

/** The place to start from if some filter leaves only a few; the sort's own index needs no such help. */
async function narrowest(
  db: Db,
  query: SnapshotQuery,
  filters: Filters,
  sort: SnapshotSort | null,
): Promise<RawBuilder<unknown> | undefined> {
  const probe = (source: RawBuilder<unknown>, conditions: readonly Condition[]): Promise<number> =>
    countUpTo(db, source, [query.visible, ...conditions], few + 1);
  if (filters.name.seek.length > 0 && sort !== 'name' && (await probe(along.name, filters.name.seek)) <= few) {
    return along.name;
  }
  if (query.tag !== undefined) {
    const tags = [sql<SqlBool>`t.tag = ${query.tag}`];
    if ((await countUpTo(db, sql`tags as t`, tags, few + 1)) <= few) return taggedSource(query);
  }
  if (filters.state.length > 0 && sort !== 'state' && (await probe(along.state, filters.state)) <= few) {
    return along.state;
  }
  if (filters.time.length > 0 && sort !== 'created' && (await probe(along.created, filters.time)) <= few) {
    return along.created;
  }
  return undefined;
}

/** Parts of one drive are found in order of number and of time; each stands for one snapshot. */
function planForDrive(
  query: SnapshotQuery,
  driveId: DriveId,
  filters: Filters,
  sort: SnapshotSort,
): Plan {
  const byTime = sort === 'created' || (sort !== 'number' && filters.time.length > 0);
  const index = byTime ? sql`drive_snapshots_by_drive_time` : sql`drive_snapshots_by_drive`;
  const source = sql`drive_snapshots as d indexed by ${index} cross join snapshots as s on s.id = d.snapshot_id`;
  const conditions: Condition[] = [sql<SqlBool>`d.drive_id = ${driveId}`];
  if (query.createdFrom !== undefined) conditions.push(sql<SqlBool>`d.created_at >= ${query.createdFrom}`);
  if (query.createdBefore !== undefined) conditions.push(sql<SqlBool>`d.created_at < ${query.createdBefore}`);
  conditions.push(query.visible, ...filters.ofSnapshot, ...filters.tag);
  // Parts are numbered in the order of their snapshots.
  const keys = { ...sortKeys, created: sql`d.created_at`, number: sql`d.number` };
  return { source, conditions, key: keys[sort] };
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
  const { driveId } = query;
  if (driveId !== undefined) {
    if (query.wholeProject && filters.ofSnapshot.length === filters.time.length && filters.tag.length === 0) {
      // Every part of the drive is one snapshot of the drive's project.
      const conditions = [sql<SqlBool>`s.drive_id = ${driveId}`, ...filters.time];
      return countAll(db, sql`drive_snapshots as s`, conditions);
    }
    const plan = planForDrive(query, driveId, filters, 'created');
    return countAll(db, plan.source, plan.conditions);
  }
  const all = [query.visible, ...filters.ofSnapshot];
  if (!query.wholeProject) return countAll(db, sql`snapshots as s`, [...all, ...filters.tag]);
  const narrow = await narrowest(db, query, filters, null);
  if (narrow !== undefined) return countAll(db, narrow, narrow === taggedSource(query) ? all : [...all, ...filters.tag]);
  let source: RawBuilder<unknown> = along.state;
  if (filters.name.seek.length > 0 || filters.name.test.length > 0) source = along.name;
  else if (filters.time.length > 0) source = along.created;
  return countAll(db, source, [...all, ...filters.tag]);
}
