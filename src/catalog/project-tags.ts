/** Rows of tags as objects of their project, and what carries them. A tag is known to its objects by its name. */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { ProjectId, TagId } from '../core/ids.ts';
import type { Db, Tx } from './catalog.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';
import type { ProjectTagRow } from './schema.ts';

export type TaggedKind = 'machine' | 'drive' | 'part' | 'image';

/** What carries a tag; a snapshot stands as the parts it has. */
export interface TaggedRow {
  tag: string;
  kind: TaggedKind;
  id: string;
}

/** Conditions on `machines m`, `drives d`, `drive_snapshots p` of `snapshots s`, and `images i`. */
export interface Visible {
  readonly machine: RawBuilder<SqlBool>;
  readonly drive: RawBuilder<SqlBool>;
  readonly part: RawBuilder<SqlBool>;
  readonly image: RawBuilder<SqlBool>;
}

function carriers(visible: Visible): RawBuilder<unknown> {
  return sql`
    select t.tag, 'machine' as kind, m.id from tags t join machines m on m.id = t.object_id where ${visible.machine}
    union all select t.tag, 'drive', d.id from tags t join drives d on d.id = t.object_id
      where d.state <> 'deleted' and ${visible.drive}
    union all select t.tag, 'part', p.id from tags t join snapshots s on s.id = t.object_id
      join drive_snapshots p on p.snapshot_id = s.id where ${visible.part}
    union all select t.tag, 'image', i.id from tags t join images i on i.id = t.object_id where ${visible.image}`;
}

/** Everything that carries one of these tags and that may be seen. */
export async function carriersOf(db: Db, visible: Visible, names: readonly string[]): Promise<TaggedRow[]> {
  if (names.length === 0) return [];
  const wanted = inList(sql`t.tag`, names);
  const narrowed: Visible = {
    machine: sql<SqlBool>`${wanted} and ${visible.machine}`,
    drive: sql<SqlBool>`${wanted} and ${visible.drive}`,
    part: sql<SqlBool>`${wanted} and ${visible.part}`,
    image: sql<SqlBool>`${wanted} and ${visible.image}`,
  };
  return (await sql<TaggedRow>`${carriers(narrowed)}`.execute(db)).rows;
}

export interface TagQuery {
  readonly projectId: ProjectId;
  /** For who sees only tags of what he sees. */
  readonly carriedBy: Visible | null;
  readonly ids: readonly TagId[] | null;
  readonly names: readonly string[] | null;
  readonly nameContains: readonly string[];
}

function matching(query: TagQuery): RawBuilder<SqlBool> {
  const { projectId, carriedBy, ids, names, nameContains } = query;
  const conditions = [sql`project_id = ${projectId}`];
  if (ids !== null) conditions.push(inList(sql`id`, ids));
  if (names !== null) conditions.push(inList(sql`name`, names));
  if (nameContains.length > 0) {
    const any = nameContains.map((text) => sql`instr(lower(name), ${text.toLowerCase()}) > 0`);
    conditions.push(sql`(${sql.join(any, sql` or `)})`);
  }
  if (carriedBy !== null) conditions.push(sql`name in (select tag from (${carriers(carriedBy)}))`);
  return sql<SqlBool>`${sql.join(conditions, sql` and `)}`;
}

/** In the order in which they were made. */
export async function listTags(
  db: Db,
  query: TagQuery,
  page: { offset: number; limit: number | null },
): Promise<ProjectTagRow[]> {
  return db
    .selectFrom('project_tags')
    .selectAll()
    .where(matching(query))
    .orderBy('number')
    .limit(page.limit ?? -1)
    .offset(page.offset)
    .execute();
}

export async function countTags(db: Db, query: TagQuery): Promise<number> {
  const row = await db
    .selectFrom('project_tags')
    .select((eb) => eb.fn.countAll<number>().as('count'))
    .where(matching(query))
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

const byNames = prepare<{ projectId: ProjectId; names: string }>()((db, p) =>
  db
    .selectFrom('project_tags')
    .select(['id', 'name'])
    .where('project_id', '=', p('projectId'))
    .where(inList(sql`name`, p('names'))),
);

export async function tagIds(db: Db, projectId: ProjectId, names: readonly string[]): Promise<Map<string, TagId>> {
  if (names.length === 0) return new Map();
  const rows = await byNames(db, { projectId, names: JSON.stringify(names) });
  return new Map(rows.map((row) => [row.name, row.id]));
}

/** What a tag can be put on, by the id that names it: drive, part (its snapshot), machine, image. */
export async function objectsToTag(
  db: Db,
  projectId: ProjectId,
  ids: readonly string[],
): Promise<Map<string, { kind: 'machine' | 'drive' | 'snapshot' | 'image'; objectId: string }>> {
  if (ids.length === 0) return new Map();
  const list = sql`(select value from json_each(${JSON.stringify(ids)}))`;
  const found = await sql<{ asked: string; kind: 'machine' | 'drive' | 'snapshot' | 'image'; object_id: string }>`
    select id as asked, 'drive' as kind, id as object_id from drives
      where project_id = ${projectId} and state <> 'deleted' and id in ${list}
    union all select p.id, 'snapshot', s.id from drive_snapshots p join snapshots s on s.id = p.snapshot_id
      where s.project_id = ${projectId} and p.id in ${list}
    union all select id, 'machine', id from machines where project_id = ${projectId} and id in ${list}
    union all select id, 'image', id from images where project_id = ${projectId} and id in ${list}`.execute(db);
  return new Map(found.rows.map((row) => [row.asked, { kind: row.kind, objectId: row.object_id }]));
}

/** Ids of the objects of a project that carry a tag. */
export async function objectsWithTag(db: Db, projectId: ProjectId, name: string): Promise<string[]> {
  const found = await sql<{ object_id: string }>`
    select t.object_id from tags t where t.tag = ${name} and (
      exists (select 1 from drives o where o.id = t.object_id and o.project_id = ${projectId})
      or exists (select 1 from snapshots o where o.id = t.object_id and o.project_id = ${projectId})
      or exists (select 1 from machines o where o.id = t.object_id and o.project_id = ${projectId})
      or exists (select 1 from images o where o.id = t.object_id and o.project_id = ${projectId}))`.execute(db);
  return found.rows.map((row) => row.object_id);
}

/** What they show has changed: versions that were read of them no longer hold. */
export async function touchObjects(tx: Db, ids: readonly string[], at: number): Promise<void> {
  if (ids.length === 0) return;
  for (const table of ['drives', 'snapshots', 'machines', 'images'] as const) {
    await tx
      .updateTable(table)
      .set({ updated_at: at, version: sql`version + 1` })
      .where(inList(sql`id`, ids))
      .execute();
  }
}

/** The objects carry the tag under another name. */
export async function renameOn(
  tx: Tx,
  objectIds: readonly string[],
  names: { from: string; to: string },
  at: number,
): Promise<void> {
  await tx
    .updateTable('tags')
    .set({ tag: names.to })
    .where('tag', '=', names.from)
    .where(inList(sql`object_id`, objectIds))
    .execute();
  await touchObjects(tx, objectIds, at);
}

/** The objects carry the tag no more. */
export async function removeFrom(tx: Tx, objectIds: readonly string[], name: string, at: number): Promise<void> {
  await tx.deleteFrom('tags').where('tag', '=', name).where(inList(sql`object_id`, objectIds)).execute();
  await touchObjects(tx, objectIds, at);
}
