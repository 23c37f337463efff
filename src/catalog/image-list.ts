/** Lists of images: like those of drives, they need no more than the index of the project and the sort field. */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { ImageKind } from '../core/model.ts';
import type { ImageState } from '../core/states.ts';
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

export type ImageSort = 'created' | 'name' | 'state' | 'number';

export interface ImageQuery extends NameQuery {
  /** Whose images: a condition on the alias `i`. */
  readonly visible: Condition;
  readonly kinds?: readonly ImageKind[] | undefined;
  readonly states?: readonly ImageState[] | undefined;
  readonly tag?: string | undefined;
}

const source = sql`images as i`;
const number = sql`i.number`;
const keys: Readonly<Record<ImageSort, RawBuilder<unknown>>> = {
  created: sql`i.created_at`,
  name: sql`i.name`,
  state: sql`i.state`,
  number,
};

function conditionsOf(query: ImageQuery): Condition[] {
  const name = nameConditions(sql<string>`i.name`, query);
  const conditions = [query.visible, ...name.seek, ...name.test];
  if (query.kinds !== undefined) conditions.push(oneOf(sql`i.kind`, query.kinds));
  if (query.states !== undefined) conditions.push(oneOf(sql`i.state`, query.states));
  if (query.tag !== undefined) {
    conditions.push(sql<SqlBool>`i.id in (select t.object_id from tags t where t.tag = ${query.tag})`);
  }
  return conditions;
}

function oneOf(column: RawBuilder<unknown>, values: readonly string[]): Condition {
  return values.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`${column} in (${sql.join(values)})`;
}

export async function findImagePlaces(db: Db, query: ImageQuery, sort: ImageSort, page: PageQuery): Promise<Place[]> {
  return findPlaces(db, source, conditionsOf(query), { key: keys[sort], number }, page);
}

export async function countImages(db: Db, query: ImageQuery): Promise<number> {
  return countAll(db, source, conditionsOf(query));
}
