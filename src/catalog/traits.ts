/** What front doors keep with objects beside what the model knows of them: small texts by name. */
import { sql } from 'kysely';
import type { Db, Tx } from './catalog.ts';
import { inList } from './page.ts';

export type Traits = Readonly<Record<string, string>>;

/** Those of objects without any are left out. */
export async function traitsOf(db: Db, objectIds: readonly string[]): Promise<Map<string, Traits>> {
  const found = new Map<string, Record<string, string>>();
  if (objectIds.length === 0) return found;
  const rows = await db.selectFrom('traits').selectAll().where(inList(sql`object_id`, objectIds)).execute();
  for (const row of rows) found.set(row.object_id, { ...found.get(row.object_id), [row.name]: row.value });
  return found;
}

/** Those that are named are added or replaced. */
export async function putTraits(tx: Tx, objectId: string, traits: Traits): Promise<void> {
  for (const [name, value] of Object.entries(traits)) {
    await tx
      .insertInto('traits')
      .values({ object_id: objectId, name, value })
      .onConflict((conflict) => conflict.columns(['object_id', 'name']).doUpdateSet({ value }))
      .execute();
  }
}

export async function deleteTraits(tx: Db, objectId: string): Promise<void> {
  await tx.deleteFrom('traits').where('object_id', '=', objectId).execute();
}
