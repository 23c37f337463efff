/** Rows of images and of their parts, and who stands on them. */
import { sql } from 'kysely';
import type { DriveId, DriveSnapshotId, ImageId, MachineId, ProjectId, SnapshotId, UserId } from '../core/ids.ts';
import type { ImageKind, ImageMachine } from '../core/model.ts';
import type { ImageState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { type Condition, countAll, inList } from './page.ts';
import type { ImagePartRow, ImageRow } from './schema.ts';
import { addTags, deleteTags, tagsOf } from './tags.ts';

/** An image with what its presentation needs. */
export interface ImageRecord extends ImageRow {
  parts: readonly ImagePartRow[];
  clone_count: number;
  tags: readonly string[];
}

/** One that could not be made stands on nothing; of one that was deleted, snapshots stand for themselves. */
const standsOn: Condition = sql<boolean>`d.state not in ('deleted', 'error')`;

export async function findImageRow(db: Db, id: ImageId): Promise<ImageRow | undefined> {
  return db.selectFrom('images').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function findImage(db: Db, id: ImageId): Promise<ImageRecord | undefined> {
  const row = await findImageRow(db, id);
  return row === undefined ? undefined : (await completed(db, [row]))[0];
}

/** Images by number, with what a list shows, in the order of `numbers`. */
export async function imagesByNumber(db: Db, numbers: readonly number[]): Promise<ImageRecord[]> {
  if (numbers.length === 0) return [];
  const rows = await db.selectFrom('images').selectAll().where(inList(sql`number`, numbers)).execute();
  const byNumber = new Map((await completed(db, rows)).map((row) => [row.number, row]));
  return numbers.flatMap((number) => byNumber.get(number) ?? []);
}

async function completed(db: Db, rows: readonly ImageRow[]): Promise<ImageRecord[]> {
  const ids = rows.map((row) => row.id);
  if (ids.length === 0) return [];
  const tags = await tagsOf(db, ids);
  const parts = new Map<ImageId, ImagePartRow[]>(ids.map((id) => [id, []]));
  const found = await db
    .selectFrom('image_parts')
    .selectAll()
    .where(inList(sql`image_id`, ids))
    .orderBy('slot')
    .execute();
  for (const part of found) parts.get(part.image_id)?.push(part);
  const counted = await db
    .selectFrom('drives as d')
    .select(['d.image_id', (eb) => eb.fn.countAll<number>().as('count')])
    .where(inList(sql`d.image_id`, ids))
    .where(standsOn)
    .groupBy('d.image_id')
    .execute();
  const counts = new Map(counted.map((row) => [row.image_id, row.count]));
  return rows.map((row) => ({
    ...row,
    parts: parts.get(row.id) ?? [],
    clone_count: counts.get(row.id) ?? 0,
    tags: tags.get(row.id) ?? [],
  }));
}

export interface NewImageRow {
  id: ImageId;
  projectId: ProjectId;
  name: string;
  description: string;
  kind: ImageKind;
  consistency: ImageRow['consistency'];
  machine: ImageMachine | null;
  sourceId: SnapshotId;
  meta: string;
  tags: readonly string[];
  createdBy: UserId | null;
  parts: readonly {
    slot: number;
    driveSnapshotId: DriveSnapshotId;
    driveId: DriveId;
    driveName: string;
    sizeBytes: number;
  }[];
  at: number;
}

/** Writes an image that is being made. Returns it as it now is. */
export async function insertImage(tx: Db, image: NewImageRow): Promise<ImageRecord> {
  const row = {
    id: image.id,
    project_id: image.projectId,
    name: image.name,
    description: image.description,
    kind: image.kind,
    state: 'creating' as const,
    size_bytes: image.parts.reduce((sum, part) => sum + part.sizeBytes, 0),
    consistency: image.consistency,
    machine_json: image.machine === null ? null : JSON.stringify(image.machine),
    source_id: image.sourceId,
    meta_json: image.meta,
    error_json: null,
    created_by: image.createdBy,
    created_at: image.at,
    updated_at: image.at,
    version: 1,
  };
  const { number } = await tx.insertInto('images').values(row).returning('number').executeTakeFirstOrThrow();
  await addTags(tx, image.id, image.tags);
  const parts = image.parts.map((part) => ({
    image_id: image.id,
    slot: part.slot,
    drive_snapshot_id: part.driveSnapshotId,
    drive_id: part.driveId,
    drive_name: part.driveName,
    size_bytes: part.sizeBytes,
  }));
  await tx.insertInto('image_parts').values(parts).execute();
  return { ...row, number, parts, clone_count: 0, tags: image.tags };
}

/** Moves an image to another state, unless it is in none of `from`. */
export async function moveImage(
  tx: Db,
  change: { id: ImageId; from: readonly ImageState[]; to: ImageState; error: string | null; at: number },
): Promise<void> {
  await tx
    .updateTable('images')
    .set({ state: change.to, error_json: change.error, updated_at: change.at, version: sql`version + 1` })
    .where('id', '=', change.id)
    .where('state', 'in', change.from)
    .execute();
}

/** Takes an image out of the catalog. Machines made from it go on naming it. */
export async function forgetImage(tx: Db, id: ImageId): Promise<void> {
  await deleteTags(tx, [id]);
  await tx.deleteFrom('grants').where('object_id', '=', id).execute();
  await tx.deleteFrom('image_parts').where('image_id', '=', id).execute();
  await tx.deleteFrom('images').where('id', '=', id).execute();
}

export async function imageNameExists(db: Db, projectId: ProjectId, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('images')
    .select('number')
    .where('project_id', '=', projectId)
    .where('name', '=', name)
    .where('state', '!=', 'deleting')
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

export interface ImageUser {
  readonly id: DriveId;
  readonly name: string;
  readonly machineId: MachineId | null;
  readonly machineName: string | null;
}

/** The drives, at most `limit`, that were made from an image and not flattened since, with the machines they are in. */
export async function usersOfImage(db: Db, id: ImageId, visible: Condition, limit: number): Promise<ImageUser[]> {
  return db
    .selectFrom('drives as d')
    .leftJoin('machine_drives as a', 'a.drive_id', 'd.id')
    .leftJoin('machines as m', 'm.id', 'a.machine_id')
    .select(['d.id', 'd.name', 'm.id as machineId', 'm.name as machineName'])
    .where('d.image_id', '=', id)
    .where(standsOn)
    .where(visible)
    .orderBy('d.number')
    .limit(limit)
    .execute();
}

export function countUsersOfImage(db: Db, id: ImageId): Promise<number> {
  return countAll(db, sql`drives as d`, [sql<boolean>`d.image_id = ${id}`, standsOn]);
}
