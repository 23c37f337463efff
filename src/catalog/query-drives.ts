/** Lists of drives: left to itself, the database goes by their states, to leave out those that are deleted. */
import { type RawBuilder, sql } from 'kysely';
import type { Db } from './catalog.ts';
import { countAll } from './page.ts';
import { conditionsOf, type Found, type ListQuery, numbersFrom, orderOf, rowsOf, type Window } from './query-rows.ts';
import { plainOrder } from './query-shape.ts';

const along: Readonly<Record<string, RawBuilder<unknown>>> = {
  number: sql`drives as d indexed by drives_by_number`,
  created: sql`drives as d indexed by drives_by_time`,
  name: sql`drives as d indexed by drives_by_name`,
};

export async function findDrives(db: Db, query: ListQuery, window: Window | null, withTotal: boolean): Promise<Found> {
  const order = plainOrder(query.sort);
  const walked = query.projectId === null || order === undefined ? undefined : along[order.by];
  const source = walked ?? rowsOf.drive;
  return {
    numbers: window === null ? [] : await numbersFrom(db, query, source, [], orderOf(query), window),
    total: withTotal ? await countAll(db, rowsOf.drive, [conditionsOf(query)]) : null,
  };
}
