/**
 * Exact totals of lists of snapshots. Counting passes what it counts, some eight million index entries a second; so what
 * matches is counted, or what does not, whichever is less.
 */
import { type SqlBool, sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { Db } from './catalog.ts';
import { type Condition, countAll, inList } from './page.ts';
import {
  along,
  type Filters,
  fewOf,
  filtersOf,
  leavingOut,
  ofMachines,
  othersOf,
  partsOfDrive,
  type SnapshotQuery,
  stateIn,
  taggedWith,
} from './snapshot-filters.ts';
import { matchingNames, narrowest } from './snapshot-list.ts';
import { shareOf } from './snapshot-sample.ts';
import { hourUs, totalOf } from './snapshot-totals.ts';

export async function countSnapshots(db: Db, query: SnapshotQuery): Promise<number> {
  const filters = filtersOf(query);
  const { driveId, projectId, visible, tag } = query;
  const all = [visible, ...filters.covered, ...filters.state, ...filters.tag, ...filters.machine];
  if (driveId !== undefined) {
    const ofDrive = sql<SqlBool>`d.drive_id = ${driveId}`;
    // Every part of a drive is one snapshot of the drive's project.
    if (projectId !== null && all.length === 1) return countAll(db, sql`drive_snapshots as d`, [ofDrive]);
    return countAll(db, partsOfDrive, [ofDrive, ...all]);
  }
  if (query.machineId !== undefined) return countAll(db, ofMachines, all);
  if (projectId === null) return countAll(db, sql`snapshots as s`, all);
  const { states } = query;
  if (filters.covered.length + filters.tag.length === 0) return totalOf(db, projectId, { states });
  if (filters.name.seek.length + filters.name.test.length + filters.tag.length === 0) {
    return countTimes(db, query, projectId);
  }
  const narrow = await narrowest(db, query, filters, null);
  if (narrow !== undefined) return countAll(db, narrow.source, narrow.conditions);
  if (tag !== undefined) return countAll(db, taggedWith(tag), [visible, ...filters.covered, ...filters.state]);
  if (filters.name.test.length > 0) {
    const found = await matchingNames(db, query, filters);
    if (found !== undefined) return countAll(db, sql`snapshots as s`, [inList(sql`s.number`, found), ...filters.state]);
  }
  const others = await othersOf(db, query, projectId);
  if (others !== null && others.total > fewOf(query)) {
    return countAll(db, along.name, [visible, ...filters.covered, ...filters.state]);
  }
  if (others !== null && filters.name.test.length > 0) {
    return countAll(db, along.name, [visible, ...filters.covered, leavingOut(query, others.condition)]);
  }
  const total = await countNames(db, query, filters, projectId);
  if (others === null) return total;
  return total - (await countAll(db, along.state, [visible, ...filters.covered, others.condition]));
}

/** Whole hours are known; the ends of the range are counted. */
async function countTimes(db: Db, query: SnapshotQuery, projectId: ProjectId): Promise<number> {
  const { states, visible } = query;
  const from = query.createdFrom;
  const before = query.createdBefore;
  const fromHour = from === undefined ? undefined : Math.ceil(from / hourUs);
  const beforeHour = before === undefined ? undefined : Math.floor(before / hourUs);
  const state = states === undefined ? [] : [stateIn(states)];
  const count = (low: number, high: number): Promise<number> => {
    const range = sql<SqlBool>`s.created_at >= ${low} and s.created_at < ${high}`;
    return low >= high ? Promise.resolve(0) : countAll(db, along.created, [visible, range, ...state]);
  };
  if (fromHour !== undefined && beforeHour !== undefined && fromHour >= beforeHour)
    return count(from ?? 0, before ?? 0);
  let total = await totalOf(db, projectId, {
    states,
    ...(fromHour === undefined ? {} : { fromHour }),
    ...(beforeHour === undefined ? {} : { beforeHour }),
  });
  if (from !== undefined && fromHour !== undefined) total += await count(from, fromHour * hourUs);
  if (before !== undefined && beforeHour !== undefined) total += await count(beforeHour * hourUs, before);
  return total;
}

/** Below this it does not matter which side is counted. */
const worthSampling = 50_000;

/** Counts what meets conditions on name and time. */
async function countNames(db: Db, query: SnapshotQuery, filters: Filters, projectId: ProjectId): Promise<number> {
  const count = (condition: readonly Condition[]): Promise<number> =>
    countAll(db, along.name, [query.visible, ...condition]);
  const oneRange = filters.name.test.length === 0 && filters.time.length === 0;
  const total = oneRange ? await totalOf(db, projectId) : 0;
  if (total < worthSampling || (await shareOf(db, query.visible, filters.covered)) < 0.5) return count(filters.covered);
  let outside = 0;
  for (const range of filters.name.outside) outside += await count([range]);
  return total - outside;
}
