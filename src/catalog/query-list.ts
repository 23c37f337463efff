/** Lists by any condition, in any order: found as numbers, counted exactly. The rows are read after. */
import { type RawBuilder, sql } from 'kysely';
import type { FieldValue, Query, QueryKind } from '../core/query.ts';
import type { Db } from './catalog.ts';
import { allOf, type Condition, countAll } from './page.ts';
import { bound, fieldOf, toSql } from './query-condition.ts';
import type { LiveHandles } from './query-fields.ts';

export interface ListQuery {
  readonly kind: QueryKind;
  /** What the caller may see of it, over the alias of the kind. */
  readonly visible: Condition;
  readonly live: LiveHandles;
  readonly where: Query['where'];
  readonly sort: Query['sort'];
}

const sources: { readonly [K in QueryKind]: RawBuilder<unknown> } = {
  machine: sql`machines as m`,
  snapshot: sql`snapshots as s`,
  part: sql`drive_snapshots as p join snapshots as s on s.id = p.snapshot_id`,
  drive: sql`drives as d`,
  image: sql`images as i`,
  task: sql`tasks as t`,
};

/** What a list of the kind never shows. */
const listed: { readonly [K in QueryKind]?: Condition } = { drive: sql`d.state <> 'deleted'` };

/** Numbers of what meets the condition, in order. */
export async function findNumbers(
  db: Db,
  query: ListQuery,
  page: { offset: number; limit: number | null },
): Promise<number[]> {
  const number = fieldOf(query.kind, 'number').column(query.live);
  const { rows } = await sql<{ number: number }>`
    select ${number} as number from ${sources[query.kind]} where ${conditionsOf(query)}
    order by ${orderOf(query, number)} limit ${page.limit ?? -1} offset ${page.offset}`.execute(db);
  return rows.map((row) => row.number);
}

/** How many meet the condition. */
export function countMatches(db: Db, query: ListQuery): Promise<number> {
  return countAll(db, sources[query.kind], [conditionsOf(query)]);
}

function conditionsOf({ kind, visible, where, live }: ListQuery): Condition {
  const always = listed[kind];
  return allOf([
    visible,
    ...(always === undefined ? [] : [always]),
    ...(where === undefined ? [] : [toSql(kind, where, live)]),
  ]);
}

/** Null comes before everything else. */
function orderOf({ kind, sort = [], live }: ListQuery, number: RawBuilder<unknown>): RawBuilder<unknown> {
  const directionOf = (order: 'asc' | 'desc' = 'asc') => (order === 'asc' ? sql`asc` : sql`desc`);
  const keys = sort.map(({ by, order, ignoreCase = false, ranks }) => {
    const { column, type } = fieldOf(kind, by);
    const collation = ignoreCase && type === 'text' ? sql` collate nocase` : sql``;
    const key = ranks === undefined ? column(live) : rankOf(column(live), ranks);
    return sql`${key}${collation} ${directionOf(order)}`;
  });
  return sql.join([...keys, sql`${number} ${directionOf(sort.at(-1)?.order)}`], sql`, `);
}

/** The place of a value among those named; null stays null. */
function rankOf(column: RawBuilder<unknown>, ranks: readonly FieldValue[]): RawBuilder<unknown> {
  if (ranks.length === 0) return sql`case when ${column} is not null then 0 end`;
  const places = ranks.map((value, place) => sql`when ${bound(value)} then ${place}`);
  return sql`case when ${column} is not null then case ${column} ${sql.join(places, sql` `)} else ${ranks.length} end end`;
}
