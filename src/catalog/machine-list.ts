/** Lists of machines: like those of drives, they need no more than the index of the project and the sort field. */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { MachineKind } from '../core/model.ts';
import type { MachinePower, MachineState } from '../core/states.ts';
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

export type MachineSort = 'created' | 'name' | 'state' | 'power' | 'number';

export interface MachineQuery extends NameQuery {
  /** Whose machines: a condition on the alias `m`. */
  readonly visible: Condition;
  readonly kinds?: readonly MachineKind[] | undefined;
  readonly states?: readonly MachineState[] | undefined;
  readonly powers?: readonly MachinePower[] | undefined;
  readonly tag?: string | undefined;
}

const source = sql`machines as m`;
const number = sql`m.number`;
const keys: Readonly<Record<MachineSort, RawBuilder<unknown>>> = {
  created: sql`m.created_at`,
  name: sql`m.name`,
  state: sql`m.state`,
  power: sql`m.power`,
  number,
};

function conditionsOf(query: MachineQuery): Condition[] {
  const name = nameConditions(sql<string>`m.name`, query);
  const conditions = [query.visible, ...name.seek, ...name.test];
  const oneOf = (column: RawBuilder<unknown>, values: readonly string[] | undefined): void => {
    if (values === undefined) return;
    conditions.push(values.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`${column} in (${sql.join(values)})`);
  };
  oneOf(sql`m.kind`, query.kinds);
  oneOf(sql`m.state`, query.states);
  oneOf(sql`m.power`, query.powers);
  if (query.tag !== undefined) {
    conditions.push(sql<SqlBool>`m.id in (select t.object_id from tags t where t.tag = ${query.tag})`);
  }
  return conditions;
}

export async function findMachinePlaces(
  db: Db,
  query: MachineQuery,
  sort: MachineSort,
  page: PageQuery,
): Promise<Place[]> {
  return findPlaces(db, source, conditionsOf(query), { key: keys[sort], number }, page);
}

export async function countMachines(db: Db, query: MachineQuery): Promise<number> {
  return countAll(db, source, conditionsOf(query));
}
