/**
 * Lists of the parts of a project by any condition. Parts are numbered in the order of their snapshots, so that a list that
 * only looks at snapshots is one of snapshots; where each has one part, page by page. What looks at drives goes along the
 * indexes of `drive_snapshots`.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { DriveId } from '../core/ids.ts';
import type { Condition } from '../core/query.ts';
import type { Db } from './catalog.ts';
import { countOf } from './object-counts.ts';
import { allOf, countAll, inList } from './page.ts';
import { boundsOf, onlyValue } from './query-bounds.ts';
import { candidatesOf } from './query-candidates.ts';
import { toSql } from './query-condition.ts';
import {
  conditionsOf,
  directionOf,
  type Found,
  fewOf,
  findPlainly,
  inWindow,
  numbersFrom,
  orderOf,
  type ProjectQuery,
  rowsOf,
  type SortKey,
  type Window,
} from './query-rows.ts';
import { plainOrder } from './query-shape.ts';
import { findSnapshots, rareMatches, seeks, splitStates, worthLeavingOut } from './query-snapshots.ts';
import { allStates, along, byNumber, stateIn } from './snapshot-filters.ts';
import type { SnapshotSort } from './snapshot-list.ts';
import { totalOf } from './snapshot-totals.ts';

const fromSnapshots = sql`${byNumber} cross join drive_snapshots as p on p.snapshot_id = s.id`;
const fromParts = sql`drive_snapshots as p not indexed cross join snapshots as s on s.id = p.snapshot_id`;
const fromDrive = sql`drive_snapshots as p indexed by drive_snapshots_by_drive
  cross join snapshots as s on s.id = p.snapshot_id`;
const oddOnes = sql`snapshots as s indexed by snapshots_by_part_count`;
const isOdd = sql<SqlBool>`s.part_count <> 1`;

export async function findParts(
  db: Db,
  query: ProjectQuery,
  window: Window | null,
  withTotal: boolean,
): Promise<Found> {
  const { where = { all: [] } } = query;
  const few = fewOf(query);
  const asSnapshots = snapshotQuery(query);
  const odd = asSnapshots === undefined || (await hasOdd(db, query));
  if (asSnapshots !== undefined && !odd) {
    const { numbers, total } = await findSnapshots(db, asSnapshots, window, withTotal);
    return { numbers: await onlyParts(db, numbers), total };
  }
  if ((await totalOf(db, query.projectId)) <= few) return findPlainly(db, query, window, withTotal);
  const candidates = await candidatesOf(db, 'part', where, query.projectId, few);
  if (candidates !== undefined) {
    const { of, numbers } = candidates;
    const among = [inList(sql.ref(`${of}.number`), numbers)];
    const all = await numbersFrom(db, query, of === 's' ? fromSnapshots : fromParts, among, orderOf(query), everything);
    return inWindow(all, window, withTotal);
  }
  const rare = await rareSnapshots(db, query);
  if (rare !== undefined) {
    const among = [inList(sql`s.number`, rare)];
    const all = await numbersFrom(db, query, fromSnapshots, among, orderOf(query), everything);
    return inWindow(all, window, withTotal);
  }
  const driveId = await driveOf(db, where);
  return {
    numbers: window === null ? [] : await walk(db, query, driveId, window),
    total: withTotal ? await countMany(db, query, driveId) : null,
  };
}

const everything: Window = { offset: 0, limit: null };

/** Fields of parts that are fields of their snapshots. */
const lifted: Readonly<Record<string, string>> = {
  name: 'name',
  description: 'description',
  state: 'state',
  createdAt: 'createdAt',
  updatedAt: 'updatedAt',
  tag: 'tag',
  availableAt: 'availableAt',
  createdBy: 'createdBy',
  machineId: 'machineId',
  snapshotId: 'id',
  snapshotNumber: 'number',
};

/** The condition over snapshots; undefined when it looks at anything else. */
function lift(where: Condition): Condition | undefined {
  if ('all' in where || 'any' in where) {
    const parts = 'all' in where ? where.all : where.any;
    const all = parts.flatMap((part) => lift(part) ?? []);
    if (all.length < parts.length) return undefined;
    return 'all' in where ? { all } : { any: all };
  }
  if ('not' in where) {
    const inner = lift(where.not);
    return inner === undefined ? undefined : { not: inner };
  }
  const field = lifted[where.field];
  return field === undefined ? undefined : { ...where, field };
}

function liftSort(sort: readonly SortKey[]): readonly SortKey[] | undefined {
  const keys = sort.flatMap((key) => {
    const by = key.by === 'number' ? 'number' : lifted[key.by];
    return by === undefined ? [] : [{ ...key, by }];
  });
  return keys.length < sort.length ? undefined : keys;
}

/** As a list of snapshots, if it looks at nothing else. */
function snapshotQuery(query: ProjectQuery): ProjectQuery | undefined {
  const { where = { all: [] }, sort = [], projectId } = query;
  const ofSnapshots = lift(where);
  const keys = liftSort(sort);
  if (ofSnapshots === undefined || keys === undefined) return undefined;
  const visible = sql<SqlBool>`s.project_id = ${projectId}`;
  return { ...query, kind: 'snapshot', visible, where: ofSnapshots, sort: keys };
}

/** Whether the project has snapshots of several drives, or of none. */
async function hasOdd(db: Db, { projectId }: ProjectQuery): Promise<boolean> {
  const { rows } = await sql`
    select s.number from ${oddOnes} where s.project_id = ${projectId} and ${isOdd} limit 1`.execute(db);
  return rows.length > 0;
}

/** The parts of snapshots that have one each, in the same order. */
async function onlyParts(db: Db, numbers: readonly number[]): Promise<number[]> {
  if (numbers.length === 0) return [];
  const { rows } = await sql<{ of: number; number: number }>`
    select s.number as "of", p.number as number from ${fromSnapshots} where ${inList(sql`s.number`, numbers)}`.execute(
    db,
  );
  const parts = new Map(rows.map((row) => [row.of, row.number]));
  return numbers.flatMap((number) => parts.get(number) ?? []);
}

/** What is asked of the snapshots alone, of what must all be met. */
function askedOfSnapshots(where: Condition): Condition | undefined {
  const all = ('all' in where ? where.all : [where]).flatMap((part) => lift(part) ?? []);
  return all.length === 0 ? undefined : { all };
}

/** Numbers of the snapshots that can have such parts, if they are rare. */
async function rareSnapshots(db: Db, query: ProjectQuery): Promise<number[] | undefined> {
  const where = askedOfSnapshots(query.where ?? { all: [] });
  if (where === undefined) return undefined;
  const visible = sql<SqlBool>`s.project_id = ${query.projectId}`;
  return rareMatches(db, { ...query, kind: 'snapshot', visible, where, sort: [] });
}

/** The one drive that the parts are of. */
async function driveOf(db: Db, where: Condition): Promise<DriveId | undefined> {
  const id = onlyValue(boundsOf(where, 'driveId', 'text'));
  const number = onlyValue(boundsOf(where, 'driveNumber', 'number'));
  if (id === undefined && number === undefined) return undefined;
  const wanted = id === undefined ? sql`d.number = ${number}` : sql`d.id = ${id}`;
  const { rows } = await sql<{ id: DriveId }>`select d.id from drives as d where ${wanted}`.execute(db);
  return rows[0]?.id;
}

const alongDrive: { readonly [S in SnapshotSort]?: { source: RawBuilder<unknown>; key: RawBuilder<unknown> } } = {
  number: { source: fromDrive, key: sql`p.number` },
  // A part is as old as its snapshot.
  created: {
    source: sql`drive_snapshots as p indexed by drive_snapshots_by_time
      cross join snapshots as s on s.id = p.snapshot_id`,
    key: sql`p.created_at`,
  },
};

const keys = { number: sql`s.number`, created: sql`s.created_at`, name: sql`s.name`, state: sql`s.state` } as const;
const fields = { number: 'number', created: 'createdAt', name: 'name', state: 'state' } as const;

async function walk(db: Db, query: ProjectQuery, driveId: DriveId | undefined, window: Window): Promise<number[]> {
  const { sort = [], where = { all: [] } } = query;
  const order = plainOrder(sort);
  if (order === undefined) return numbersFrom(db, query, rowsOf.part, [], orderOf(query), window);
  const direction = directionOf(order.order);
  const ofDrive = driveId === undefined ? [] : [sql<SqlBool>`p.drive_id = ${driveId}`];
  const path = driveId === undefined ? undefined : alongDrive[order.by];
  if (path !== undefined) {
    const by = sql`${path.key} ${direction}, p.number ${direction}`;
    return numbersFrom(db, query, path.source, ofDrive, by, window);
  }
  const source = sql`${along[order.by]} cross join drive_snapshots as p on p.snapshot_id = s.id`;
  const by = sql`${keys[order.by]} ${direction}, s.number ${direction}, p.number ${direction}`;
  const ends = order.by === 'number' ? [] : seeks(where, fields[order.by]);
  return numbersFrom(db, query, source, [...ends, ...ofDrive], by, window);
}

/** How many meet a condition that many may meet. */
async function countMany(db: Db, query: ProjectQuery, driveId: DriveId | undefined): Promise<number> {
  const ofSnapshots = snapshotQuery({ ...query, sort: [] });
  if (ofSnapshots !== undefined) return countLifted(db, ofSnapshots);
  const { where = { all: [] }, projectId } = query;
  const { rest, states } = splitStates(where);
  if (states !== undefined) {
    const others = allStates.filter((state) => !states.includes(state));
    if ((await totalOf(db, projectId, { states: others })) <= fewOf(query) * worthLeavingOut) {
      const all = { ...query, where: rest };
      const source = sql`${along.state} cross join drive_snapshots as p on p.snapshot_id = s.id`;
      const out = await countAll(db, source, [conditionsOf(all), stateIn(others)]);
      return (await countMany(db, all, driveId)) - out;
    }
  }
  if (driveId === undefined) return countAll(db, rowsOf.part, [conditionsOf(query)]);
  const test = 'all' in where && where.all.length === 1 ? where.all[0] : where;
  if (test !== undefined && 'op' in test && (await isOfProject(db, driveId, query)))
    return countOf(db, 'drive', driveId);
  const ofDrive = sql<SqlBool>`p.drive_id = ${driveId}`;
  const names = seeks(where, 'name');
  const source =
    names.length > 0 ? sql`${along.name} cross join drive_snapshots as p on p.snapshot_id = s.id` : fromDrive;
  return countAll(db, source, [allOf([...names, ofDrive, conditionsOf(query)])]);
}

/** Snapshots, and for those of several drives the others of their parts. */
async function countLifted(db: Db, ofSnapshots: ProjectQuery): Promise<number> {
  const { total } = await findSnapshots(db, ofSnapshots, null, true);
  const { where = { all: [] }, projectId, live } = ofSnapshots;
  const { rows } = await sql<{ more: number | null }>`
    select sum(s.part_count - 1) as more from ${oddOnes}
    where s.project_id = ${projectId} and ${isOdd} and ${toSql('snapshot', where, live)}`.execute(db);
  return (total ?? 0) + (rows[0]?.more ?? 0);
}

async function isOfProject(db: Db, id: DriveId, { projectId }: ProjectQuery): Promise<boolean> {
  const { rows } = await sql`select number from drives where id = ${id} and project_id = ${projectId}`.execute(db);
  return rows.length > 0;
}
