/**
 * Tags as objects of a project: with an id, metadata and what carries them. Every tag that an object has is one of them,
 * whichever front door it came through; renaming or deleting one goes for all objects that carry it.
 */
import { sql } from 'kysely';
import { addEvent, type Db, type Tx } from '../catalog/catalog.ts';
import {
  carriersOf,
  countTags,
  listTags,
  objectsToTag,
  objectsWithTag,
  removeFrom,
  renameOn,
  type TaggedKind,
  type TagQuery,
  tagIds,
  touchObjects,
  type Visible,
} from '../catalog/project-tags.ts';
import type { ProjectTagRow } from '../catalog/schema.ts';
import { addTags } from '../catalog/tags.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { newId, type ProjectId, type TagId, type UserId } from '../core/ids.ts';
import type { Meta } from '../core/model.ts';
import { checkMeta, checkTags, maxTags } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { parseMeta } from './objects.ts';
import { assertMayCreate, visibleFilter } from './rights.ts';

export interface Tag {
  readonly id: TagId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly meta: Meta;
  /** Null for one that came about by being put on an object. */
  readonly createdBy: UserId | null;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly version: number;
  /** Of those that carry it, what the caller may see; a snapshot as its parts. */
  readonly carriers: readonly { readonly kind: TaggedKind; readonly id: string }[];
}

export interface NewTag {
  readonly name: string;
  readonly meta?: Meta;
  /** Ids of drives, drive snapshots (which stand for all of their snapshot), machines and images. */
  readonly carriers?: readonly string[];
}

export interface TagFilter {
  readonly ids?: readonly TagId[];
  readonly names?: readonly string[];
  /** Any of them, without regard to case. */
  readonly nameContains?: readonly string[];
}

export interface TagUseCases {
  /** In the order in which they were made; `limit` null for all. Guests see the tags of what they see. */
  list(
    caller: Caller,
    filter: TagFilter,
    page: { offset?: number; limit?: number | null },
  ): Promise<{ items: readonly Tag[]; total: number }>;
  get(caller: Caller, id: TagId): Promise<Tag>;
  /** For the tags of objects that the caller was shown. */
  idsOf(caller: Caller, names: readonly string[]): Promise<ReadonlyMap<string, TagId>>;
  /** All or none. @throws invalid_tag, name_taken, invalid_meta, not_found (a carrier) */
  create(caller: Caller, inputs: readonly NewTag[]): Promise<readonly Tag[]>;
  /** `carriers` replaces what carries it. */
  update(caller: Caller, id: TagId, update: Partial<NewTag>): Promise<Tag>;
  /** What carried it stays. */
  delete(caller: Caller, id: TagId): Promise<void>;
}

export function tagUseCases(context: Context): TagUseCases {
  const { catalog } = context;

  async function present(db: Db, caller: Caller, rows: readonly ProjectTagRow[]): Promise<Tag[]> {
    const names = rows.map((row) => row.name);
    const found = new Map<string, { kind: TaggedKind; id: string }[]>(names.map((name) => [name, []]));
    for (const { tag, kind, id } of await carriersOf(db, visibleTo(caller), names)) found.get(tag)?.push({ kind, id });
    return rows.map((row) => ({
      id: row.id,
      number: row.number,
      projectId: row.project_id,
      name: row.name,
      meta: parseMeta(row.meta_json),
      createdBy: row.created_by,
      createdAt: row.created_at,
      updatedAt: row.updated_at,
      version: row.version,
      carriers: found.get(row.name) ?? [],
    }));
  }

  async function one(db: Db, caller: Caller, id: TagId): Promise<ProjectTagRow> {
    const [row] = await listTags(db, queryFor(caller, { ids: [id] }), { offset: 0, limit: 1 });
    if (row === undefined) throw notFound('tag', id);
    return row;
  }

  async function show(caller: Caller, row: ProjectTagRow): Promise<Tag> {
    const [tag] = await present(catalog.db, caller, [row]);
    if (tag === undefined) throw notFound('tag', row.id);
    return tag;
  }

  return {
    async list(caller, filter, page) {
      const query = queryFor(caller, filter);
      const rows = await listTags(catalog.db, query, { offset: page.offset ?? 0, limit: page.limit ?? null });
      return { items: await present(catalog.db, caller, rows), total: await countTags(catalog.db, query) };
    },

    get: async (caller, id) => show(caller, await one(catalog.db, caller, id)),
    idsOf: (caller, names) => tagIds(catalog.db, caller.projectId, names),

    async create(caller, inputs) {
      assertMayCreate(caller);
      const checked = inputs.map((input) => ({ ...input, name: checkTagName(input.name), meta: metaText(input.meta) }));
      const rows = await catalog.write(async (tx) => {
        const made: ProjectTagRow[] = [];
        for (const { name, meta, carriers } of checked) {
          const at = nowUs();
          await assertFree(tx, caller, name);
          const row = await tx
            .insertInto('project_tags')
            .values({
              id: newId<TagId>(),
              project_id: caller.projectId,
              name,
              meta_json: meta,
              created_by: caller.userId,
              created_at: at,
              updated_at: at,
              version: 1,
            })
            .returningAll()
            .executeTakeFirstOrThrow();
          if (carriers !== undefined) await replaceCarriers(tx, caller, name, carriers);
          await addTagEvent(tx, caller, 'tag.created', row.id, { name });
          made.push(row);
        }
        return made;
      });
      context.feed.wake();
      return present(catalog.db, caller, rows);
    },

    async update(caller, id, update) {
      const name = update.name === undefined ? undefined : checkTagName(update.name);
      const meta = update.meta === undefined ? undefined : metaText(update.meta);
      const row = await catalog.write(async (tx) => {
        const known = await one(tx, caller, id);
        assertMayCreate(caller);
        if (name !== undefined && name !== known.name) {
          await assertFree(tx, caller, name);
          const carrying = await objectsWithTag(tx, caller.projectId, known.name);
          await renameOn(tx, carrying, { from: known.name, to: name }, nowUs());
        }
        if (update.carriers !== undefined) await replaceCarriers(tx, caller, name ?? known.name, update.carriers);
        await addTagEvent(tx, caller, 'tag.updated', id, { name: name ?? known.name, fields: Object.keys(update) });
        return tx
          .updateTable('project_tags')
          .set({
            name: name ?? known.name,
            meta_json: meta ?? known.meta_json,
            updated_at: nowUs(),
            version: sql`version + 1`,
          })
          .where('id', '=', id)
          .returningAll()
          .executeTakeFirstOrThrow();
      });
      context.feed.wake();
      return show(caller, row);
    },

    async delete(caller, id) {
      await catalog.write(async (tx) => {
        const { name } = await one(tx, caller, id);
        assertMayCreate(caller);
        await removeFrom(tx, await objectsWithTag(tx, caller.projectId, name), name, nowUs());
        await tx.deleteFrom('project_tags').where('id', '=', id).execute();
        await addTagEvent(tx, caller, 'tag.deleted', id, { name });
      });
      context.feed.wake();
    },
  };
}

function visibleTo(caller: Caller): Visible {
  return {
    machine: visibleFilter(caller, 'machine', { table: 'm' }),
    drive: visibleFilter(caller, 'drive', { table: 'd' }),
    part: visibleFilter(caller, 'driveSnapshot', { table: 'p', snapshots: 's' }),
    image: visibleFilter(caller, 'image', { table: 'i' }),
  };
}

function queryFor(caller: Caller, filter: TagFilter): TagQuery {
  return {
    projectId: caller.projectId,
    carriedBy: caller.role === 'guest' ? visibleTo(caller) : null,
    ids: filter.ids ?? null,
    names: filter.names ?? null,
    nameContains: filter.nameContains ?? [],
  };
}

function checkTagName(name: unknown): string {
  const [checked] = checkTags([name], 'name');
  if (checked === undefined) throw new CalotypeError('invalid_tag', undefined, { field: 'name' });
  return checked;
}

const metaText = (meta: Meta | undefined): string => JSON.stringify(checkMeta(meta));

async function assertFree(tx: Tx, caller: Caller, name: string): Promise<void> {
  if (!(await tagIds(tx, caller.projectId, [name])).has(name)) return;
  throw new CalotypeError('name_taken', `There is a tag named ${name}.`, { field: 'name', name });
}

/** @throws not_found for what is not there, invalid_tag when an object has too many */
async function replaceCarriers(tx: Tx, caller: Caller, name: string, asked: readonly string[]): Promise<void> {
  const found = await objectsToTag(tx, caller.projectId, asked);
  for (const id of asked) if (!found.has(id)) throw notFound('object', id);
  const wanted = new Set([...found.values()].map((object) => object.objectId));
  const before = new Set(await objectsWithTag(tx, caller.projectId, name));
  const dropped = [...before].filter((id) => !wanted.has(id));
  await removeFrom(tx, dropped, name, nowUs());
  const added = [...wanted].filter((id) => !before.has(id));
  for (const id of added) {
    const tags = await tx.selectFrom('tags').select('tag').where('object_id', '=', id).execute();
    if (tags.length >= maxTags) {
      throw new CalotypeError('invalid_tag', `There may be at most ${maxTags} tags on an object.`, { maxTags, id });
    }
    await addTags(tx, id, [name]);
  }
  await touchObjects(tx, added, nowUs());
}

async function addTagEvent(
  tx: Tx,
  caller: Caller,
  kind: string,
  id: TagId,
  detail: Readonly<Record<string, unknown>>,
): Promise<void> {
  const { projectId, userId, via } = caller;
  await addEvent(tx, { projectId, userId, via, kind, objectKind: 'tag', objectId: id, detail });
}
