/** Tags of drives and snapshots: read with their objects, replaced as a set. */
import { sql } from 'kysely';
import type { Db } from './catalog.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';

const insertTag = prepare<{ objectId: string; tag: string }>()((db, p) =>
  db.insertInto('tags').values({ object_id: p('objectId'), tag: p('tag') }),
);

export async function addTags(tx: Db, objectId: string, tags: readonly string[]): Promise<void> {
  for (const tag of tags) await insertTag(tx, { objectId, tag });
}

export async function replaceTags(tx: Db, objectId: string, tags: readonly string[]): Promise<void> {
  await deleteTags(tx, [objectId]);
  await addTags(tx, objectId, tags);
}

export async function deleteTags(tx: Db, objectIds: readonly string[]): Promise<void> {
  if (objectIds.length === 0) return;
  await tx.deleteFrom('tags').where('object_id', 'in', objectIds).execute();
}

const ofObjects = prepare<{ ids: string }>()((db, p) =>
  db
    .selectFrom('tags')
    .selectAll()
    .where(inList(sql`object_id`, p('ids')))
    .orderBy('object_id')
    .orderBy('tag'),
);

/** Tags by object, sorted; objects without tags are left out. */
export async function tagsOf(db: Db, objectIds: readonly string[]): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  if (objectIds.length === 0) return found;
  const rows = await ofObjects(db, { ids: JSON.stringify(objectIds) });
  for (const row of rows) {
    const list = found.get(row.object_id);
    if (list === undefined) found.set(row.object_id, [row.tag]);
    else list.push(row.tag);
  }
  return found;
}
