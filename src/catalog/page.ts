/**
 * The pieces that lists are put together from: conditions, the place a page starts after, and the choice of an index.
 * A page is found as numbers and sort keys in an index that covers all of its filters; the rows of the page are read after.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Db } from './catalog.ts';

export type Condition = RawBuilder<SqlBool>;
export type Order = 'asc' | 'desc';

export interface Place {
  readonly key: string | number;
  readonly number: number;
}

export interface PageQuery {
  readonly order: Order;
  /** The last item of the page before. */
  readonly after: Place | null;
  readonly limit: number;
  readonly offset: number;
}

export interface NameQuery {
  readonly name?: string | undefined;
  readonly nameContains?: string | undefined;
  readonly nameLike?: string | undefined;
}

export function allOf(conditions: readonly Condition[]): RawBuilder<SqlBool> {
  return conditions.length === 0 ? sql<SqlBool>`true` : sql<SqlBool>`${sql.join(conditions, sql` and `)}`;
}

/** What every match of a pattern starts with, and whether there is more to compare. */
export function patternPrefix(pattern: string): { prefix: string; exact: boolean; simple: boolean } {
  const star = pattern.indexOf('*');
  if (star < 0) return { prefix: pattern, exact: true, simple: true };
  return { prefix: pattern.slice(0, star), exact: false, simple: /^\*+$/.test(pattern.slice(star)) };
}

/** The least text above every one that starts with `prefix`, in the byte order of the index; null when there is none. */
export function endOfPrefix(prefix: string): string | null {
  const points = [...prefix];
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    const point = last.codePointAt(0) ?? 0;
    // UTF-8 has the order of code points, without the halves of surrogate pairs.
    if (point < 0x10ffff) return `${points.join('')}${String.fromCodePoint(point === 0xd7ff ? 0xe000 : point + 1)}`;
  }
  return null;
}

export interface NameConditions {
  /** One range of an index. */
  readonly seek: Condition[];
  /** What lies outside of that range. */
  readonly outside: Condition[];
  /** What is left to compare, name by name. */
  readonly test: Condition[];
}

export function nameConditions(column: RawBuilder<string>, filter: NameQuery): NameConditions {
  const seek: Condition[] = [];
  const outside: Condition[] = [];
  const test: Condition[] = [];
  const equals = (name: string): void => {
    seek.push(sql<SqlBool>`${column} = ${name}`);
    outside.push(sql<SqlBool>`${column} < ${name}`, sql<SqlBool>`${column} > ${name}`);
  };
  if (filter.name !== undefined) equals(filter.name);
  if (filter.nameLike !== undefined) {
    const { prefix, exact, simple } = patternPrefix(filter.nameLike);
    if (filter.name !== undefined) test.push(sql<SqlBool>`${column} glob ${globOf(filter.nameLike)}`);
    else if (exact) equals(prefix);
    else {
      const end = endOfPrefix(prefix);
      if (end !== null) {
        seek.push(sql<SqlBool>`${column} >= ${prefix} and ${column} < ${end}`);
        outside.push(sql<SqlBool>`${column} < ${prefix}`, sql<SqlBool>`${column} >= ${end}`);
      } else if (prefix !== '') {
        seek.push(sql<SqlBool>`${column} >= ${prefix}`);
        outside.push(sql<SqlBool>`${column} < ${prefix}`);
      }
      if (!simple) test.push(sql<SqlBool>`${column} glob ${globOf(filter.nameLike)}`);
    }
  }
  if (filter.nameContains !== undefined && filter.nameContains !== '') {
    test.push(sql<SqlBool>`${column} like ${likeOf(filter.nameContains)} escape '\\'`);
  }
  return { seek, outside, test };
}

/** SQLite's `like` takes no notice of case; in PostgreSQL that is `ilike`. */
export function likeOf(part: string): string {
  return `%${part.replace(/[\\%_]/g, '\\$&')}%`;
}

/** Only `*` is special in our patterns. */
export function globOf(pattern: string): string {
  return pattern.replace(/[[?]/g, '[$&]').replace(/\*+/g, '*');
}

/** What comes after a place, in index order. */
export function afterPlace(
  key: RawBuilder<unknown>,
  number: RawBuilder<unknown>,
  order: Order,
  after: Place | null,
): Condition[] {
  if (after === null) return [];
  const compare = order === 'asc' ? sql`>` : sql`<`;
  return [sql<SqlBool>`(${key}, ${number}) ${compare} (${after.key}, ${after.number})`];
}

/** Membership in a list of any length, as one parameter, so that the text of a query does not depend on the length. */
export function inList(
  column: RawBuilder<unknown>,
  list: RawBuilder<string> | readonly (string | number)[],
): Condition {
  const json = Array.isArray(list) ? sql`${JSON.stringify(list)}` : list;
  return sql<SqlBool>`${column} in (select value from json_each(${json}))`;
}

/** Counts what matches, but no further than `limit`. */
export async function countUpTo(
  db: Db,
  source: RawBuilder<unknown>,
  conditions: readonly Condition[],
  limit: number,
): Promise<number> {
  const query = sql<{ count: number }>`
    select count(*) as count from (select 1 from ${source} where ${allOf(conditions)} limit ${limit}) as few`;
  return Number((await query.execute(db)).rows[0]?.count ?? 0);
}

export async function countAll(db: Db, source: RawBuilder<unknown>, conditions: readonly Condition[]): Promise<number> {
  const query = sql<{ count: number }>`select count(*) as count from ${source} where ${allOf(conditions)}`;
  return Number((await query.execute(db)).rows[0]?.count ?? 0);
}

/** The numbers and keys of one page. */
export async function findPlaces(
  db: Db,
  source: RawBuilder<unknown>,
  conditions: readonly Condition[],
  columns: { key: RawBuilder<unknown>; number: RawBuilder<unknown> },
  page: PageQuery,
): Promise<Place[]> {
  const direction = page.order === 'asc' ? sql`asc` : sql`desc`;
  const all = [...conditions, ...afterPlace(columns.key, columns.number, page.order, page.after)];
  const offset = page.offset > 0 ? sql` offset ${page.offset}` : sql``;
  const query = sql<Place>`
    select ${columns.key} as key, ${columns.number} as number from ${source} where ${allOf(all)}
    order by ${columns.key} ${direction}, ${columns.number} ${direction} limit ${page.limit}${offset}`;
  return (await query.execute(db)).rows;
}
