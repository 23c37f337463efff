/**
 * The engine's own records: files (what is on disk), layers (intervals of history), points (drive snapshots), drives
 * (their tops) and intents (changes under way). Plain queries; the rules are elsewhere.
 */

import type { Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import type { Db } from '../../catalog/catalog.ts';
import { prepare } from '../../catalog/prepared.ts';
import type { Qcow2FileRow, Qcow2LayerRow, Schema } from '../../catalog/schema.ts';
import { CalotypeError, notFound } from '../../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import { nowUs } from '../../core/time.ts';

export type FileRow = Qcow2FileRow;
export type LayerRow = Qcow2LayerRow;
export type HeadRow = Selectable<Schema['qcow2_drives']>;
export type PointRow = Selectable<Schema['qcow2_points']>;

/** Level of a file without backing: nothing is ever folded into it from below. */
export const baseLevel = 99;

const selectHead = prepare<{ driveId: DriveId }>()((db, p) =>
  db.selectFrom('qcow2_drives').selectAll().where('drive_id', '=', p('driveId')),
);

export async function findHead(db: Db, driveId: DriveId): Promise<HeadRow | undefined> {
  return (await selectHead(db, { driveId }))[0];
}

export async function getHead(db: Db, driveId: DriveId): Promise<HeadRow> {
  const head = await findHead(db, driveId);
  if (head === undefined) throw notFound('drive', driveId);
  return head;
}

/** Drives of other processes whose tops these files are. */
export async function headsOn(db: Db, fileIds: readonly number[]): Promise<HeadRow[]> {
  const found: HeadRow[] = [];
  for (let at = 0; at < fileIds.length; at += 500) {
    const some = fileIds.slice(at, at + 500);
    const rows = db.selectFrom('qcow2_drives').selectAll().where('file_id', 'in', some);
    found.push(...(await rows.where('process_id', 'is not', null).execute()));
  }
  return found;
}

const selectPoint = prepare<{ id: DriveSnapshotId }>()((db, p) =>
  db.selectFrom('qcow2_points').selectAll().where('drive_snapshot_id', '=', p('id')),
);

export async function findPoint(db: Db, id: DriveSnapshotId): Promise<PointRow | undefined> {
  return (await selectPoint(db, { id }))[0];
}

export async function getPoint(db: Db, id: DriveSnapshotId): Promise<PointRow> {
  const point = await findPoint(db, id);
  if (point === undefined) throw notFound('drive snapshot', id);
  return point;
}

const selectFile = prepare<{ id: number }>()((db, p) =>
  db.selectFrom('qcow2_files').selectAll().where('id', '=', p('id')),
);

export async function findFile(db: Db, id: number): Promise<FileRow | undefined> {
  return (await selectFile(db, { id }))[0];
}

export async function getFile(db: Db, id: number): Promise<FileRow> {
  const row = await findFile(db, id);
  if (row === undefined) throw notFound('layer', String(id));
  return row;
}

export interface NewFile {
  driveId: DriveId;
  backingId: number | null;
  sizeBytes: number;
  state: FileRow['state'];
  level?: number;
}

const addFile = prepare<Required<NewFile> & { at: number }>()((db, p) =>
  db
    .insertInto('qcow2_files')
    .values({
      backing_id: p('backingId'),
      state: p('state'),
      drive_id: p('driveId'),
      size_bytes: p('sizeBytes'),
      level: p('level'),
      data_bytes: null,
      created_at: p('at'),
    })
    .returningAll(),
);

/** A file of a drive that another process has open is made beside the drive's own. */
export async function insertFile(db: Db, file: NewFile): Promise<FileRow> {
  const level = file.level ?? (file.backingId === null ? baseLevel : 0);
  const [row] = await addFile(db, { ...file, level, at: nowUs() });
  if (row === undefined) throw new CalotypeError('internal', 'A new file has no row.');
  const head = await findHead(db, file.driveId);
  if (head === undefined || head.place === null) return row;
  const path = `${head.place}.calotype-${row.id.toString(36)}.qcow2`;
  await updateFiles(db, [row.id], { path });
  return { ...row, path };
}

export async function updateFiles(
  db: Db,
  ids: readonly number[],
  set: Updateable<Schema['qcow2_files']>,
): Promise<void> {
  if (ids.length === 0) return;
  await db.updateTable('qcow2_files').set(set).where('id', 'in', ids).execute();
}

/** Drives, other than their own, whose files these files stand on. */
export async function ownersBelow(db: Db, ids: readonly number[]): Promise<DriveId[]> {
  if (ids.length === 0) return [];
  const rows = await db
    .selectFrom('qcow2_files as f')
    .innerJoin('qcow2_files as b', 'b.id', 'f.backing_id')
    .select('b.drive_id')
    .distinct()
    .where('f.id', 'in', ids)
    .whereRef('b.drive_id', '!=', 'f.drive_id')
    .execute();
  return rows.map((row) => row.drive_id);
}

/** Drives, other than their own, whose files these points stand on. */
export async function ownersUnder(db: Db, points: readonly DriveSnapshotId[]): Promise<DriveId[]> {
  const rows = await db
    .selectFrom('qcow2_points as p')
    .innerJoin('qcow2_files as f', 'f.id', 'p.file_id')
    .select('f.drive_id')
    .distinct()
    .where('p.drive_snapshot_id', 'in', points)
    .whereRef('f.drive_id', '!=', 'p.drive_id')
    .execute();
  return rows.map((row) => row.drive_id);
}

export async function deleteFileRows(db: Db, ids: readonly number[]): Promise<void> {
  if (ids.length === 0) return;
  await db.deleteFrom('qcow2_files').where('id', 'in', ids).execute();
}

const addLayer = prepare<{ driveId: DriveId; parentId: number | null }>()((db, p) =>
  db
    .insertInto('qcow2_layers')
    .values({ parent_id: p('parentId'), drive_id: p('driveId'), carried: null, delta: null, file_id: null })
    .returning('id'),
);

export async function insertLayer(db: Db, driveId: DriveId, parentId: number | null): Promise<number> {
  const [row] = await addLayer(db, { driveId, parentId });
  if (row === undefined) throw new CalotypeError('internal', 'A new layer has no row.');
  return row.id;
}

export const freezeFile = prepare<{ id: number }>()((db, p) =>
  db.updateTable('qcow2_files').set({ state: 'frozen' }).where('id', '=', p('id')),
);

export const activateFile = prepare<{ id: number; backingId: number }>()((db, p) =>
  db
    .updateTable('qcow2_files')
    .set({ state: 'active', backing_id: p('backingId') })
    .where('id', '=', p('id')),
);

/** Says which file an interval of history is read through. */
export const nameLayerFile = prepare<{ id: number; fileId: number }>()((db, p) =>
  db
    .updateTable('qcow2_layers')
    .set({ file_id: p('fileId') })
    .where('id', '=', p('id')),
);

const moveHead = prepare<{ driveId: DriveId; fileId: number; layerId: number }>()((db, p) =>
  db
    .updateTable('qcow2_drives')
    .set({ file_id: p('fileId'), layer_id: p('layerId'), spare_id: null })
    .where('drive_id', '=', p('driveId')),
);

/** A drive's top is frozen, and `overlay`, which stands on it, is the top, with a new interval of history. */
export async function replaceTop(db: Db, head: HeadRow, overlay: number): Promise<void> {
  await freezeFile(db, { id: head.file_id });
  await activateFile(db, { id: overlay, backingId: head.file_id });
  await nameLayerFile(db, { id: head.layer_id, fileId: head.file_id });
  const layerId = await insertLayer(db, head.drive_id, head.layer_id);
  await moveHead(db, { driveId: head.drive_id, fileId: overlay, layerId });
}

const addPoint = prepare<PointRow>()((db, p) =>
  db.insertInto('qcow2_points').values({
    drive_snapshot_id: p('drive_snapshot_id'),
    drive_id: p('drive_id'),
    file_id: p('file_id'),
    layer_id: p('layer_id'),
  }),
);

/** A frozen file, and the interval of history it ends, become a point in time. */
export async function insertPoint(db: Db, point: PointRow): Promise<void> {
  await addPoint(db, point);
}

/** The file and everything it stands on, top first. */
export async function chainOf(db: Db, fileId: number): Promise<FileRow[]> {
  const found = await sql<FileRow>`
    with recursive chain(n, id) as (
      select 0, ${fileId} union all
      select chain.n + 1, f.backing_id from chain join qcow2_files f on f.id = chain.id where f.backing_id is not null)
    select f.* from chain join qcow2_files f on f.id = chain.id order by chain.n`.execute(db);
  return found.rows;
}

/** How many layers a read of the file may walk. */
export async function depthOf(db: Db, fileId: number): Promise<number> {
  const found = await sql<{ n: number }>`
    with recursive chain(n, id) as (
      select 1, ${fileId} union all
      select chain.n + 1, f.backing_id from chain join qcow2_files f on f.id = chain.id where f.backing_id is not null)
    select max(n) as n from chain`.execute(db);
  return found.rows[0]?.n ?? 0;
}

/** The bottom file that everything in a tree stands on. */
export async function rootOf(db: Db, fileId: number): Promise<number> {
  const chain = await chainOf(db, fileId);
  return chain.at(-1)?.id ?? fileId;
}

/** Every file that stands on `rootId`, itself included. */
export async function treeOf(db: Db, rootId: number): Promise<FileRow[]> {
  const found = await sql<FileRow>`
    with recursive tree(id) as (
      select ${rootId} union
      select f.id from tree join qcow2_files f on f.backing_id = tree.id)
    select f.* from tree join qcow2_files f on f.id = tree.id order by f.id`.execute(db);
  return found.rows;
}

/** Which of the files some point or drive needs as they are, or nobody may change. */
export async function pinnedAmong(db: Db, ids: readonly number[]): Promise<Set<number>> {
  const pinned = new Set<number>();
  for (let at = 0; at < ids.length; at += 500) {
    const some = ids.slice(at, at + 500);
    const points = await db.selectFrom('qcow2_points').select('file_id').where('file_id', 'in', some).execute();
    const heads = await db.selectFrom('qcow2_drives').select('file_id').where('file_id', 'in', some).execute();
    const fixed = await db
      .selectFrom('qcow2_files')
      .select('id')
      .where('id', 'in', some)
      .where('origin', '=', 'fixed')
      .execute();
    for (const row of fixed) pinned.add(row.id);
    for (const row of points) pinned.add(row.file_id);
    for (const row of heads) pinned.add(row.file_id);
  }
  return pinned;
}

export async function childrenOf(db: Db, fileId: number): Promise<FileRow[]> {
  return db
    .selectFrom('qcow2_files')
    .selectAll()
    .where('backing_id', '=', fileId)
    .where('state', 'in', ['active', 'frozen'])
    .execute();
}

/** Whether anything has the file as its backing, also what is only being made. */
export async function standsOn(db: Db, fileId: number): Promise<boolean> {
  const found = await db
    .selectFrom('qcow2_files')
    .select('id')
    .where('backing_id', '=', fileId)
    .where('state', '!=', 'dead')
    .executeTakeFirst();
  return found !== undefined;
}

/** From a layer up to the beginning of history, newest first. */
export async function lineageOf(db: Db, layerId: number): Promise<LayerRow[]> {
  const found = await sql<LayerRow>`
    with recursive line(n, id) as (
      select 0, ${layerId} union all
      select line.n + 1, l.parent_id from line join qcow2_layers l on l.id = line.id where l.parent_id is not null)
    select l.* from line join qcow2_layers l on l.id = line.id order by line.n`.execute(db);
  return found.rows;
}

export type Intent =
  | { kind: 'relink'; plan: RelinkPlan }
  | { kind: 'merge'; plan: { upper: number; lower: number } }
  | { kind: 'revert'; plan: RevertPlan }
  /** Files whose header may name another backing than the catalog does. */
  | { kind: 'headers'; plan: { files: number[] } };

/** Files whose backing changes to one that holds the same content. */
export interface RelinkPlan {
  children: number[];
  to: number | null;
  /** Points and tops that move from one file to another of the same content. */
  move: { from: number; to: number } | null;
  dead: number[];
}

export interface RevertPlan {
  operationId: string;
  targets: {
    driveId: DriveId;
    keepAs: DriveSnapshotId | null;
    top: number;
    overlay: number;
    sizeBytes: number;
    /** The overlay was made ahead, for the old top: its header still has to be told. */
    wasSpare: boolean;
    /** File and layer of the point. */
    backing: number;
    parentLayer: number;
  }[];
}

export async function insertIntent(db: Db, intent: Intent): Promise<number> {
  const row = await db
    .insertInto('qcow2_intents')
    .values({ kind: intent.kind, plan_json: JSON.stringify(intent.plan), created_at: nowUs() })
    .returning('id')
    .executeTakeFirstOrThrow();
  return row.id;
}

export async function replaceIntent(db: Db, id: number, intent: Intent): Promise<void> {
  await db
    .updateTable('qcow2_intents')
    .set({ kind: intent.kind, plan_json: JSON.stringify(intent.plan) })
    .where('id', '=', id)
    .execute();
}

export async function deleteIntent(db: Db, id: number): Promise<void> {
  await db.deleteFrom('qcow2_intents').where('id', '=', id).execute();
}

export async function listIntents(db: Db): Promise<{ id: number; intent: Intent }[]> {
  const rows = await db.selectFrom('qcow2_intents').selectAll().orderBy('id').execute();
  return rows.map((row) => ({ id: row.id, intent: { kind: row.kind, plan: JSON.parse(row.plan_json) } as Intent }));
}

/** The recorded relink, if any, that one of these files has a part in. */
export async function findOpenRelink(db: Db, fileIds: readonly number[]): Promise<number | undefined> {
  const here = new Set(fileIds);
  for (const { id, intent } of await listIntents(db)) {
    if (intent.kind !== 'relink') continue;
    const { children, to, dead } = intent.plan;
    if ([...children, ...dead, ...(to === null ? [] : [to])].some((file) => here.has(file))) return id;
  }
  return undefined;
}
