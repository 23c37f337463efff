/** The SQL that every way of finding a list shares: its rows, what it shows of them, its order. */
import { type RawBuilder, sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { Condition, FieldValue, QueryKind } from '../core/query.ts';
import type { Db } from './catalog.ts';
import { allOf, countAll, type Condition as SqlCondition } from './page.ts';
import { bound, fieldOf, toSql } from './query-condition.ts';
import type { LiveHandles } from './query-fields.ts';
import { withParts } from './snapshot-filters.ts';

export interface SortKey {
  readonly by: string;
  readonly order?: 'asc' | 'desc';
  readonly ignoreCase?: boolean;
  readonly ranks?: readonly FieldValue[];
}

export interface ListQuery {
  readonly kind: QueryKind;
  /** What the caller may see of it, over the alias of the kind. */
  readonly visible: SqlCondition;
  /** The project when `visible` says no more than that; of a guest, with `granted`, the project he is in. */
  readonly projectId: ProjectId | null;
  /** For a guest's list of snapshots or parts: a query of the numbers of all that he sees. */
  readonly granted?: RawBuilder<unknown>;
  readonly live: LiveHandles;
  readonly where: Condition | undefined;
  readonly sort: readonly SortKey[] | undefined;
  /** For tests: what counts as few. */
  readonly few?: number;
}

export interface Window {
  readonly offset: number;
  /** Null for all there are. */
  readonly limit: number | null;
}

export interface Found {
  readonly numbers: readonly number[];
  /** Null unless asked for. */
  readonly total: number | null;
}

/** Of snapshots or parts, by somebody who sees all of a project. */
export interface ProjectQuery extends ListQuery {
  readonly kind: 'snapshot' | 'part';
  readonly projectId: ProjectId;
}

/** So many are found, tested and sorted within a few milliseconds. */
const defaultFew = 2000;

export function fewOf(query: ListQuery): number {
  return query.few ?? defaultFew;
}

export const rowsOf: { readonly [K in QueryKind]: RawBuilder<unknown> } = {
  machine: sql`machines as m`,
  snapshot: sql`snapshots as s`,
  part: sql`snapshots as s ${withParts}`,
  drive: sql`drives as d`,
  image: sql`images as i`,
  task: sql`tasks as t`,
};

/** What a list of the kind never shows. */
const listed: { readonly [K in QueryKind]?: SqlCondition } = { drive: sql`d.state <> 'deleted'` };

export function numberOf({ kind, live }: ListQuery): RawBuilder<unknown> {
  return fieldOf(kind, 'number').column(live);
}

export function conditionsOf({ kind, visible, where, live }: ListQuery): SqlCondition {
  const always = listed[kind];
  return allOf([
    visible,
    ...(always === undefined ? [] : [always]),
    ...(where === undefined ? [] : [toSql(kind, where, live)]),
  ]);
}

export const directionOf = (order: 'asc' | 'desc' = 'asc'): RawBuilder<unknown> =>
  order === 'asc' ? sql`asc` : sql`desc`;

/** Null comes before everything else. */
export function orderOf(query: ListQuery): RawBuilder<unknown> {
  const { kind, sort = [], live } = query;
  const keys = sort.map(({ by, order, ignoreCase = false, ranks }) => {
    const { column, type } = fieldOf(kind, by);
    const collation = ignoreCase && type === 'text' ? sql` collate nocase` : sql``;
    const key = ranks === undefined ? column(live) : rankOf(column(live), ranks);
    return sql`${key}${collation} ${directionOf(order)}`;
  });
  return sql.join([...keys, sql`${numberOf(query)} ${directionOf(sort.at(-1)?.order)}`], sql`, `);
}

/** The place of a value among those named; null stays null. */
function rankOf(column: RawBuilder<unknown>, ranks: readonly FieldValue[]): RawBuilder<unknown> {
  if (ranks.length === 0) return sql`case when ${column} is not null then 0 end`;
  const places = ranks.map((value, place) => sql`when ${bound(value)} then ${place}`);
  return sql`case when ${column} is not null then case ${column} ${sql.join(places, sql` `)} else ${ranks.length} end end`;
}

/** Numbers from some rows, which need not be all that the condition could be met by. */
export async function numbersFrom(
  db: Db,
  query: ListQuery,
  source: RawBuilder<unknown>,
  conditions: readonly SqlCondition[],
  order: RawBuilder<unknown>,
  { offset, limit }: Window,
): Promise<number[]> {
  const { rows } = await sql<{ number: number }>`
    select ${numberOf(query)} as number from ${source} where ${allOf([conditionsOf(query), ...conditions])}
    order by ${order} limit ${limit ?? -1} offset ${offset}`.execute(db);
  return rows.map((row) => row.number);
}

/** Of all that was found, what is asked for. */
export function inWindow(all: readonly number[], window: Window | null, withTotal: boolean): Found {
  const { offset = 0, limit = 0 } = window ?? {};
  return {
    numbers: all.slice(offset, limit === null ? undefined : offset + limit),
    total: withTotal ? all.length : null,
  };
}

/** As the database sees fit. */
export async function findPlainly(db: Db, query: ListQuery, window: Window | null, withTotal: boolean): Promise<Found> {
  const rows = rowsOf[query.kind];
  return {
    numbers: window === null ? [] : await numbersFrom(db, query, rows, [], orderOf(query), window),
    total: withTotal ? await countAll(db, rows, [conditionsOf(query)]) : null,
  };
}
