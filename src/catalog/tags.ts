/** Tags of machines, drives, snapshots and images: read with their objects, replaced as a set. */
import { sql } from 'kysely';
import { newId, type ProjectId, type TagId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { Db } from './catalog.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';

const insertTag = prepare<{ objectId: string; tag: string }>()((db, p) =>
  db.insertInto('tags').values({ object_id: p('objectId'), tag: p('tag') }),
);

/** A tag that is used is one that its project has, whoever used it first. */
const register = prepare<{ id: TagId; objectId: string; tag: string; at: number }>()((db, p) =>
  db
    .insertInto('project_tags')
    .columns(['id', 'project_id', 'name', 'meta_json', 'created_by', 'created_at', 'updated_at', 'version'])
    .expression((eb) =>
      eb
        .selectFrom(
          sql<{ id: string; project_id: ProjectId }>`(
            select id, project_id from drives where id = ${p('objectId')}
            union all select id, project_id from snapshots where id = ${p('objectId')}
            union all select id, project_id from machines where id = ${p('objectId')}
            union all select id, project_id from images where id = ${p('objectId')})`.as('o'),
        )
        .select([
          sql<TagId>`${p('id')}`.as('id'),
          'o.project_id',
          sql<string>`${p('tag')}`.as('name'),
          sql<string>`'{}'`.as('meta_json'),
          sql<null>`null`.as('created_by'),
          sql<number>`${p('at')}`.as('created_at'),
          sql<number>`${p('at')}`.as('updated_at'),
          sql<number>`1`.as('version'),
        ])
        // SQLite takes `on` after a bare selection for a join condition.
        .where(sql<boolean>`true`),
    )
    .onConflict((conflict) => conflict.columns(['project_id', 'name']).doNothing()),
);

/** Tags an object that is in the catalog. */
export async function addTags(tx: Db, objectId: string, tags: readonly string[]): Promise<void> {
  for (const tag of tags) {
    await insertTag(tx, { objectId, tag });
    await register(tx, { id: newId(), objectId, tag, at: nowUs() });
  }
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
