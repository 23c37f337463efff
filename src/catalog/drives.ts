/** Rows of drives: reading them with what a list shows, and each change of them. */
import { type ExpressionBuilder, sql } from 'kysely';
import type { DriveId, DriveSnapshotId, ImageId, MachineId, ProjectId } from '../core/ids.ts';
import type { DriveState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { countExpression, keepCounts } from './object-counts.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';
import type { DriveRow, Schema } from './schema.ts';
import { addTags, deleteTags, tagsOf } from './tags.ts';
import { deleteTraits } from './traits.ts';

/** A drive with what its presentation needs. */
export interface DriveRecord extends DriveRow {
  snapshot_count: number;
  export_count: number;
  machine_id: MachineId | null;
  machine_slot: number | null;
  tags: readonly string[];
}

function counts(eb: ExpressionBuilder<Schema, 'drives'>) {
  return [
    countExpression('drive', sql`drives.id`).as('snapshot_count'),
    eb
      .selectFrom('exports')
      .select((e) => e.fn.countAll<number>().as('count'))
      .whereRef('exports.drive_id', '=', 'drives.id')
      .where('exports.machine_id', 'is', null)
      .as('export_count'),
    eb
      .selectFrom('machine_drives')
      .select('machine_drives.machine_id')
      .whereRef('machine_drives.drive_id', '=', 'drives.id')
      .as('machine_id'),
    eb
      .selectFrom('machine_drives')
      .select('machine_drives.slot')
      .whereRef('machine_drives.drive_id', '=', 'drives.id')
      .as('machine_slot'),
  ];
}

const withTags = prepare<{ id: DriveId }>()((db, p) =>
  db
    .selectFrom('drives')
    .leftJoin('tags', 'tags.object_id', 'drives.id')
    .selectAll('drives')
    .select('tags.tag')
    .select(counts)
    .where('drives.id', '=', p('id'))
    .orderBy('tags.tag'),
);

/** The drive, also one that is only kept for its snapshots. */
export async function findDrive(db: Db, id: DriveId): Promise<DriveRecord | undefined> {
  const rows = await withTags(db, { id });
  const first = rows[0];
  if (first === undefined) return undefined;
  const tags: string[] = [];
  for (const row of rows) if (row.tag !== null) tags.push(row.tag);
  await keepCounts(db, 'drive', new Map([[id, first.snapshot_count]]));
  return { ...first, export_count: first.export_count ?? 0, tags };
}

const bare = prepare<{ id: DriveId }>()((db, p) => db.selectFrom('drives').selectAll().where('id', '=', p('id')));

/** The row alone, for changes. */
export async function findDriveRow(db: Db, id: DriveId): Promise<DriveRow | undefined> {
  return (await bare(db, { id }))[0];
}

export async function findDriveRows(db: Db, ids: readonly DriveId[]): Promise<Map<DriveId, DriveRow>> {
  const [only] = ids;
  if (only === undefined) return new Map();
  if (ids.length === 1) {
    const row = await findDriveRow(db, only);
    return new Map(row === undefined ? [] : [[row.id, row]]);
  }
  const rows = await db.selectFrom('drives').selectAll().where('id', 'in', ids).execute();
  return new Map(rows.map((row) => [row.id, row]));
}

const byNumbers = prepare<{ numbers: string }>()((db, p) =>
  db
    .selectFrom('drives')
    .selectAll()
    .select(counts)
    .where(inList(sql`drives.number`, p('numbers'))),
);

/** Drives by number, with what a list shows, in the order of `numbers`. */
export async function drivesByNumber(db: Db, numbers: readonly number[]): Promise<DriveRecord[]> {
  if (numbers.length === 0) return [];
  const rows = await byNumbers(db, { numbers: JSON.stringify(numbers) });
  await keepCounts(db, 'drive', new Map(rows.map((row) => [row.id, row.snapshot_count])));
  const tags = await tagsOf(
    db,
    rows.map((row) => row.id),
  );
  const byNumber = new Map(rows.map((row) => [row.number, row]));
  return numbers.flatMap((number) => {
    const row = byNumber.get(number);
    if (row === undefined) return [];
    return {
      ...row,
      export_count: row.export_count ?? 0,
      tags: tags.get(row.id) ?? [],
    };
  });
}

const insert = prepare<{
  id: DriveId;
  projectId: ProjectId;
  name: string;
  description: string;
  sizeBytes: number;
  meta: string;
  sourceId: DriveSnapshotId | null;
  imageId: ImageId | null;
  at: number;
}>()((db, p) =>
  db
    .insertInto('drives')
    .values({
      id: p('id'),
      project_id: p('projectId'),
      name: p('name'),
      description: p('description'),
      size_bytes: p('sizeBytes'),
      state: 'creating',
      meta_json: p('meta'),
      error_json: null,
      based_on: null,
      source_id: p('sourceId'),
      image_id: p('imageId'),
      sizes_stale: 0,
      created_at: p('at'),
      updated_at: p('at'),
      deleted_at: null,
      version: 1,
    })
    .returning('number'),
);

export interface NewDriveRow {
  id: DriveId;
  projectId: ProjectId;
  name: string;
  description: string;
  sizeBytes: number;
  meta: string;
  sourceId: DriveSnapshotId | null;
  imageId?: ImageId | null;
  tags: readonly string[];
  at: number;
}

/** Writes a drive that is being made. Returns it as it now is. */
export async function insertDrive(tx: Db, drive: NewDriveRow): Promise<DriveRecord> {
  const { tags, imageId = null, ...values } = drive;
  const [row] = await insert(tx, { ...values, imageId });
  if (row === undefined) throw new Error('the catalog did not number the drive');
  await addTags(tx, drive.id, tags);
  return {
    number: row.number,
    id: drive.id,
    project_id: drive.projectId,
    name: drive.name,
    description: drive.description,
    size_bytes: drive.sizeBytes,
    state: 'creating',
    meta_json: drive.meta,
    error_json: null,
    based_on: null,
    source_id: drive.sourceId,
    image_id: imageId,
    sizes_stale: 0,
    created_at: drive.at,
    updated_at: drive.at,
    deleted_at: null,
    version: 1,
    snapshot_count: 0,
    export_count: 0,
    machine_id: null,
    machine_slot: null,
    tags,
  };
}

const setState = prepare<{ id: DriveId; from: DriveState; to: DriveState; error: string | null; at: number }>()(
  (db, p) =>
    db
      .updateTable('drives')
      .set({ state: p('to'), error_json: p('error'), updated_at: p('at'), version: sql`version + 1` })
      .where('id', '=', p('id'))
      .where('state', '=', p('from')),
);

/** Moves a drive from one state to another; does nothing when it is in neither of the states expected. */
export async function moveDrive(
  tx: Db,
  change: { id: DriveId; from: DriveState; to: DriveState; error: string | null; at: number },
): Promise<void> {
  await setState(tx, change);
}

/** Sets the size a drive came to have. */
export async function setDriveSize(tx: Db, id: DriveId, sizeBytes: number, at: number): Promise<void> {
  await tx
    .updateTable('drives')
    .set({ size_bytes: sizeBytes, updated_at: at, version: sql`version + 1`, sizes_stale: sql`sizes_stale + 1` })
    .where('id', '=', id)
    .execute();
}

const setBase = prepare<{ id: DriveId; basedOn: DriveSnapshotId | null; stale: number }>()((db, p) =>
  db
    .updateTable('drives')
    .set({ based_on: p('basedOn'), sizes_stale: sql`sizes_stale + ${p('stale')}` })
    .where('id', '=', p('id')),
);

/** Moves the current marker; `stale` says that stored sizes of its snapshots may no longer be right. */
export async function setBasedOn(tx: Db, id: DriveId, basedOn: DriveSnapshotId | null, stale: boolean): Promise<void> {
  await setBase(tx, { id, basedOn, stale: stale ? 1 : 0 });
}

/** Marks stored sizes of the snapshots of a drive as out of date. */
export async function markSizesStale(tx: Db, id: DriveId): Promise<void> {
  await tx.updateTable('drives').set({ sizes_stale: sql`sizes_stale + 1` }).where('id', '=', id).execute();
}

/** The drive shares no data with its image any more. */
export async function leaveImage(tx: Db, id: DriveId): Promise<void> {
  await tx.updateTable('drives').set({ image_id: null }).where('id', '=', id).execute();
}

/** Removes a drive, or, while snapshots of it stay, hides it. */
export async function forgetDrive(tx: Db, id: DriveId, at: number): Promise<void> {
  const snapshot = await tx
    .selectFrom('drive_snapshots')
    .select('id')
    .where('drive_id', '=', id)
    .limit(1)
    .executeTakeFirst();
  await deleteTags(tx, [id]);
  await deleteTraits(tx, id);
  await tx.deleteFrom('grants').where('object_id', '=', id).execute();
  if (snapshot === undefined) await tx.deleteFrom('drives').where('id', '=', id).execute();
  else {
    await tx
      .updateTable('drives')
      .set({ state: 'deleted', deleted_at: at, updated_at: at, version: sql`version + 1` })
      .where('id', '=', id)
      .execute();
  }
}

/** Removes those of the drives that were only kept for snapshots and have none left. */
export async function dropHiddenDrives(tx: Db, ids: readonly DriveId[]): Promise<void> {
  if (ids.length === 0) return;
  await tx
    .deleteFrom('drives')
    .where('id', 'in', ids)
    .where('state', '=', 'deleted')
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('drive_snapshots').select('id').whereRef('drive_snapshots.drive_id', '=', 'drives.id'))),
    )
    .execute();
}

/** Ids of the snapshots, as parts, of a drive; oldest first. */
export async function pointsOfDrive(db: Db, id: DriveId, limit = Number.MAX_SAFE_INTEGER): Promise<DriveSnapshotId[]> {
  const rows = await db
    .selectFrom('drive_snapshots')
    .select('id')
    .where('drive_id', '=', id)
    .orderBy('number')
    .limit(limit)
    .execute();
  return rows.map((row) => row.id);
}

/** Whether the project has another living drive of that name. */
export async function driveNameExists(db: Db, projectId: ProjectId, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('drives')
    .select('number')
    .where('project_id', '=', projectId)
    .where('name', '=', name)
    .where('state', 'not in', ['deleted', 'deleting'])
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}
