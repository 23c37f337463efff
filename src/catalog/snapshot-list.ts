/**
 * Pages of snapshots that stay fast with millions of them. The indexes of `snapshots` cover names and times, so that a
 * page is a walk along the index of its sort field. Where one filter leaves only a few thousand, found out by a bounded
 * count, the page is made from those and sorted instead: a walk would pass a million rows to find a hundred.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Db } from './catalog.ts';
import {
  afterPlace,
  allOf,
  type Condition,
  countAll,
  countUpTo,
  findPlaces,
  inList,
  type PageQuery,
  type Place,
} from './page.ts';
import {
  along,
  byNumber,
  type Filters,
  fewOf,
  filtersOf,
  leavingOut,
  ofMachines,
  othersOf,
  partsOfDrive,
  type SnapshotQuery,
  taggedWith,
} from './snapshot-filters.ts';
import { totalOf } from './snapshot-totals.ts';

export type SnapshotSort = 'created' | 'name' | 'state' | 'number';

const number = sql`s.number`;
const sortKeys: Readonly<Record<SnapshotSort, RawBuilder<unknown>>> = {
  created: sql`s.created_at`,
  name: sql`s.name`,
  state: sql`s.state`,
  number: sql`s.number`,
};

/** From here on it pays to think about how to skip. */
const deepOffset = 2000;
/** Counting one snapshot along an index that holds all that is asked costs a fraction of looking its state up. */
const countedPerSkipped = 5;

/** One page, as numbers of snapshots with their sort keys. */
export async function findSnapshotPlaces(
  db: Db,
  query: SnapshotQuery,
  sort: SnapshotSort,
  page: PageQuery,
): Promise<Place[]> {
  const filters = filtersOf(query);
  const columns = { key: sortKeys[sort], number };
  const { visible } = query;
  if (query.driveId !== undefined) {
    // Parts of a drive are numbered in the order of its snapshots, and these are taken one after the other.
    const key = sort === 'number' || sort === 'created' ? sql`d.number` : columns.key;
    const conditions = [sql<SqlBool>`d.drive_id = ${query.driveId}`, visible, ...filters.covered, ...filters.machine];
    return findPlaces(db, partsOfDrive, [...conditions, ...filters.state, ...filters.tag], { key, number }, page);
  }
  if (query.machineId !== undefined) {
    const conditions = [visible, ...filters.covered, ...filters.machine];
    return findPlaces(db, ofMachines, [...conditions, ...filters.state, ...filters.tag], columns, page);
  }
  if (query.projectId === null) {
    const conditions = [visible, ...filters.covered, ...filters.state, ...filters.tag];
    return findPlaces(db, sql`snapshots as s`, conditions, columns, page);
  }
  const narrow = await narrowest(db, query, filters, sort);
  if (narrow !== undefined) return findPlaces(db, narrow.source, narrow.conditions, columns, page);
  const walk: Walk = { source: along[sort], conditions: [visible, ...filters.covered, ...filters.tag], columns };
  const unfiltered = filters.covered.length + filters.tag.length === 0;
  const deep = unfiltered && page.offset > deepOffset;
  if (sort === 'state') {
    const total = deep ? await totalOf(db, query.projectId, { states: query.states }) : null;
    return walkFrom(db, { ...walk, conditions: [...walk.conditions, ...filters.state] }, page, total);
  }
  const others = await othersOf(db, query, query.projectId);
  const few = others === null || others.total <= fewOf(query);
  if (few && filters.name.test.length > 0) {
    return searchNames(db, query, filters, others?.condition ?? null, walk, page);
  }
  if (others === null) return walkFrom(db, walk, page, deep ? await totalOf(db, query.projectId) : null);
  if (deep && others.total < page.offset * countedPerSkipped) {
    const total = await totalOf(db, query.projectId);
    return skipOthers(db, walk, others.condition, filters.state, page, total);
  }
  const leavesOut = few ? [leavingOut(query, others.condition)] : filters.state;
  return findPlaces(db, walk.source, [...walk.conditions, ...leavesOut], columns, page);
}

interface Walk {
  readonly source: RawBuilder<unknown>;
  readonly conditions: readonly Condition[];
  readonly columns: { readonly key: RawBuilder<unknown>; readonly number: RawBuilder<unknown> };
}

/**
 * Names that no range of an index holds: a walk that stops when the page is full. If the total is wanted too, every name
 * will be looked at anyway, and then once is enough.
 */
async function searchNames(
  db: Db,
  query: SnapshotQuery,
  filters: Filters,
  others: Condition | null,
  walk: Walk,
  page: PageQuery,
): Promise<Place[]> {
  const conditions = [...walk.conditions, ...(others === null ? [] : [leavingOut(query, others)])];
  const all = query.totalToo === true ? await matchingNames(db, query, filters) : undefined;
  if (all === undefined) return findPlaces(db, walk.source, conditions, walk.columns, page);
  return findPlaces(db, byNumber, [...conditions, inList(number, all)], walk.columns, page);
}

const searched = new WeakMap<SnapshotQuery, Promise<readonly number[] | undefined>>();

/** Numbers of all whose name and time match, unless they are many; looked for once per query. */
export function matchingNames(db: Db, query: SnapshotQuery, filters: Filters): Promise<readonly number[] | undefined> {
  let found = searched.get(query);
  if (found === undefined) {
    const all = sql<{ number: number }>`select s.number as number from ${along.name}
      where ${allOf([query.visible, ...filters.covered])} limit ${fewOf(query) + 1}`;
    found = all
      .execute(db)
      .then(({ rows }) => (rows.length > fewOf(query) ? undefined : rows.map((row) => row.number)));
    searched.set(query, found);
  }
  return found;
}

/** Skips from the nearer end when the total is known. */
async function walkFrom(db: Db, walk: Walk, page: PageQuery, total: number | null): Promise<Place[]> {
  const fromEnd = total === null ? 0 : total - page.offset - page.limit;
  if (total === null || page.after !== null || page.offset <= total / 2) {
    return findPlaces(db, walk.source, walk.conditions, walk.columns, page);
  }
  if (page.offset >= total) return [];
  const back: PageQuery = {
    order: page.order === 'asc' ? 'desc' : 'asc',
    after: null,
    limit: fromEnd < 0 ? page.limit + fromEnd : page.limit,
    offset: Math.max(0, fromEnd),
  };
  return (await findPlaces(db, walk.source, walk.conditions, walk.columns, back)).reverse();
}

/**
 * A deep offset in a list that leaves some out: skips as if it did not, then goes on by as many as were passed that should
 * not have counted.
 */
async function skipOthers(
  db: Db,
  walk: Walk,
  others: Condition,
  wanted: readonly Condition[],
  page: PageQuery,
  total: number,
): Promise<Place[]> {
  const [start] = await walkFrom(db, walk, { ...page, limit: 1 }, total);
  if (start === undefined) return [];
  const { key } = walk.columns;
  const backwards = page.order === 'asc' ? 'desc' : 'asc';
  const before = [...walk.conditions, others, ...afterPlace(key, number, backwards, start)];
  const passed = await countAll(db, along.state, before);
  const compare = page.order === 'asc' ? sql`>=` : sql`<=`;
  const fromStart = sql<SqlBool>`(${key}, ${number}) ${compare} (${start.key}, ${start.number})`;
  const conditions = [...walk.conditions, fromStart, ...wanted];
  return findPlaces(db, walk.source, conditions, walk.columns, { ...page, after: null, offset: passed });
}

export interface Narrow {
  readonly source: RawBuilder<unknown>;
  readonly conditions: readonly Condition[];
}

/** Where to start from if some filter leaves only a few; the sort's own index needs no such help. */
export async function narrowest(
  db: Db,
  query: SnapshotQuery,
  filters: Filters,
  sort: SnapshotSort | null,
): Promise<Narrow | undefined> {
  const few = fewOf(query);
  const leavesFew = async (source: RawBuilder<unknown>, conditions: readonly Condition[]): Promise<boolean> =>
    (await countUpTo(db, source, conditions, few + 1)) <= few;
  const { visible, tag, states } = query;
  // Looking a few others up once costs less than the state of each.
  const others = query.projectId === null ? null : await othersOf(db, query, query.projectId);
  const state = others === null || others.total > few ? filters.state : [leavingOut(query, others.condition)];
  const conditions = [visible, ...filters.covered, ...filters.tag, ...state];
  if (filters.name.seek.length > 0 && sort !== 'name') {
    if (await leavesFew(along.name, [visible, ...filters.name.seek])) return { source: along.name, conditions };
  }
  if (tag !== undefined && (await leavesFew(sql`tags as t`, [sql<SqlBool>`t.tag = ${tag}`]))) {
    return { source: taggedWith(tag), conditions: [visible, ...filters.covered, ...filters.state] };
  }
  if (states !== undefined && sort !== 'state' && query.projectId !== null) {
    const inStates = [visible, ...filters.covered, ...filters.tag, ...filters.state];
    if ((await totalOf(db, query.projectId, { states })) <= few) return { source: along.state, conditions: inStates };
  }
  if (filters.time.length > 0 && sort !== 'created') {
    if (await leavesFew(along.created, [visible, ...filters.time])) return { source: along.created, conditions };
  }
  return undefined;
}
