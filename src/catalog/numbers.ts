/** Numbers and ids of the same objects. */
import { sql } from 'kysely';
import type { Db } from './catalog.ts';
import { inList } from './page.ts';

export type NumberedKind = 'machine' | 'snapshot' | 'part' | 'drive' | 'image' | 'task' | 'user' | 'project';

/** Where objects of a kind have their numbers, gone ones too. */
const tables: { readonly [K in NumberedKind]: readonly string[] } = {
  machine: ['machines', 'departed_machines'],
  snapshot: ['snapshots'],
  part: ['drive_snapshots'],
  drive: ['drives'],
  image: ['images'],
  task: ['tasks'],
  user: ['users'],
  project: ['projects'],
};

export interface Numbered<Id extends string> {
  readonly id: Id;
  readonly number: number;
}

export async function findByNumber<Id extends string>(
  db: Db,
  kind: NumberedKind,
  number: number,
): Promise<Numbered<Id> | undefined> {
  for (const table of tables[kind]) {
    const query = sql<Numbered<Id>>`select id, number from ${sql.table(table)} where number = ${number}`;
    const [row] = (await query.execute(db)).rows;
    if (row !== undefined) return row;
  }
  return undefined;
}

export async function findByIds<Id extends string>(
  db: Db,
  kind: NumberedKind,
  ids: readonly Id[],
): Promise<Numbered<Id>[]> {
  const all: Numbered<Id>[] = [];
  for (const table of tables[kind]) {
    const query = sql<Numbered<Id>>`select id, number from ${sql.table(table)} where ${inList(sql`id`, ids)}`;
    all.push(...(await query.execute(db)).rows);
  }
  return all;
}
