/**
 * Lists of the snapshots and parts that a guest sees. In this order: the few that are granted at all; the few that an index
 * leaves; a walk along the index of the sort field, each row looked at, that ends when the page is full.
 */
import { type RawBuilder, sql } from 'kysely';
import type { Db } from './catalog.ts';
import { countAll, inList } from './page.ts';
import { candidatesOf, fewNumbers } from './query-candidates.ts';
import {
  conditionsOf,
  directionOf,
  type Found,
  fewOf,
  inWindow,
  numbersFrom,
  orderOf,
  type ProjectQuery,
  rowsOf,
  type Window,
} from './query-rows.ts';
import { plainOrder } from './query-shape.ts';
import { along, byNumber, withParts } from './snapshot-filters.ts';

interface GrantedQuery extends ProjectQuery {
  readonly granted: RawBuilder<unknown>;
}

const partsByNumber = sql`drive_snapshots as p not indexed cross join snapshots as s on s.id = p.snapshot_id`;
const keys = { number: sql`s.number`, created: sql`s.created_at`, name: sql`s.name`, state: sql`s.state` } as const;

export async function findGranted(
  db: Db,
  query: GrantedQuery,
  window: Window | null,
  withTotal: boolean,
): Promise<Found> {
  const { kind, where, projectId } = query;
  const few = fewOf(query);
  const own = { of: kind === 'part' ? 'p' : 's', numbers: await fewNumbers(db, query.granted, few) } as const;
  const { numbers, of } =
    own.numbers === undefined && where !== undefined
      ? ((await candidatesOf(db, kind, where, projectId, few)) ?? own)
      : own;
  if (numbers !== undefined) {
    const fromSnapshots = kind === 'part' ? sql`${byNumber} ${withParts}` : byNumber;
    const among = [inList(sql.ref(`${of}.number`), numbers)];
    const source = of === 'p' ? partsByNumber : fromSnapshots;
    const all = await numbersFrom(db, query, source, among, orderOf(query), { offset: 0, limit: null });
    return inWindow(all, window, withTotal);
  }
  return {
    numbers: window === null ? [] : await walk(db, query, window),
    total: withTotal ? await countAll(db, rowsOf[kind], [conditionsOf(query)]) : null,
  };
}

async function walk(db: Db, query: GrantedQuery, window: Window): Promise<number[]> {
  const order = plainOrder(query.sort);
  if (order === undefined) return numbersFrom(db, query, rowsOf[query.kind], [], orderOf(query), window);
  if (query.kind === 'snapshot') return numbersFrom(db, query, along[order.by], [], orderOf(query), window);
  // Parts are numbered in the order of their snapshots.
  const direction = directionOf(order.order);
  const by = sql`${keys[order.by]} ${direction}, s.number ${direction}, p.number ${direction}`;
  return numbersFrom(db, query, sql`${along[order.by]} ${withParts}`, [], by, window);
}
