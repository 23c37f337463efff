/** Lists of drives: thousands, not millions, so that the index of the project and the sort field is all they need. */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { ImageId } from '../core/ids.ts';
import type { DriveState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import {
  type Condition,
  countAll,
  findPlaces,
  type NameQuery,
  nameConditions,
  type PageQuery,
  type Place,
} from './page.ts';

export type DriveSort = 'created' | 'name' | 'state' | 'number';

export interface DriveQuery extends NameQuery {
  /** Whose drives: a condition on the alias `d`. */
  readonly visible: Condition;
  readonly states?: readonly DriveState[] | undefined;
  readonly tag?: string | undefined;
  readonly imageId?: ImageId | undefined;
}

const source = sql`drives as d`;
const number = sql`d.number`;
const keys: Readonly<Record<DriveSort, RawBuilder<unknown>>> = {
  created: sql`d.created_at`,
  name: sql`d.name`,
  state: sql`d.state`,
  number,
};

function conditionsOf(query: DriveQuery): Condition[] {
  const name = nameConditions(sql<string>`d.name`, query);
  const conditions = [query.visible, sql<SqlBool>`d.state <> 'deleted'`, ...name.seek, ...name.test];
  if (query.states !== undefined) {
    conditions.push(
      query.states.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`d.state in (${sql.join(query.states)})`,
    );
  }
  if (query.tag !== undefined) {
    conditions.push(sql<SqlBool>`d.id in (select t.object_id from tags t where t.tag = ${query.tag})`);
  }
  if (query.imageId !== undefined) conditions.push(sql<SqlBool>`d.image_id = ${query.imageId}`);
  return conditions;
}

export async function findDrivePlaces(db: Db, query: DriveQuery, sort: DriveSort, page: PageQuery): Promise<Place[]> {
  return findPlaces(db, source, conditionsOf(query), { key: keys[sort], number }, page);
}

export async function countDrives(db: Db, query: DriveQuery): Promise<number> {
  return countAll(db, source, conditionsOf(query));
}
