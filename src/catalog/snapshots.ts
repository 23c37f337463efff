/**
 * Rows of snapshots and of their parts, the drive snapshots: reading them with what a list shows, each change of them,
 * and the tree they form per drive.
 */
import { sql } from 'kysely';
import type { DriveId, DriveSnapshotId, MachineId, ProjectId, SnapshotId, UserId } from '../core/ids.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { dropDeparted } from './departed-machines.ts';
import { type MachineSnapshotRecord, machineSnapshotsOf, removeMachineSnapshot } from './machines.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';
import type { DriveSnapshotRow, SnapshotRow } from './schema.ts';
import { addTags, tagsOf } from './tags.ts';

/** A part with what its presentation needs of its drive. */
export interface PartRecord extends DriveSnapshotRow {
  drive_name: string;
  drive_based_on: DriveSnapshotId | null;
  drive_sizes_stale: number;
}

export interface SnapshotRecord extends SnapshotRow {
  parts: readonly PartRecord[];
  tags: readonly string[];
  /** Of a snapshot of a machine. */
  machine: MachineSnapshotRecord | null;
}

const withTags = prepare<{ id: SnapshotId }>()((db, p) =>
  db
    .selectFrom('snapshots')
    .leftJoin('tags', 'tags.object_id', 'snapshots.id')
    .selectAll('snapshots')
    .select('tags.tag')
    .where('snapshots.id', '=', p('id'))
    .orderBy('tags.tag'),
);

const partsOf = prepare<{ id: SnapshotId }>()((db, p) =>
  db
    .selectFrom('drive_snapshots')
    .innerJoin('drives', 'drives.id', 'drive_snapshots.drive_id')
    .selectAll('drive_snapshots')
    .select([
      'drives.name as drive_name',
      'drives.based_on as drive_based_on',
      'drives.sizes_stale as drive_sizes_stale',
    ])
    .where('drive_snapshots.snapshot_id', '=', p('id'))
    .orderBy('drive_snapshots.number'),
);

/** One snapshot: two small queries. */
export async function findSnapshot(db: Db, id: SnapshotId): Promise<SnapshotRecord | undefined> {
  const rows = await withTags(db, { id });
  const first = rows[0];
  if (first === undefined) return undefined;
  const tags: string[] = [];
  for (const row of rows) if (row.tag !== null) tags.push(row.tag);
  const machine = first.machine_id === null ? null : ((await machineSnapshotsOf(db, [id])).get(id) ?? null);
  return { ...first, tags, machine, parts: await partsOf(db, { id }) };
}

const byNumbers = prepare<{ numbers: string }>()((db, p) =>
  db
    .selectFrom('snapshots')
    .selectAll()
    .where(inList(sql`number`, p('numbers'))),
);

const partsOfMany = prepare<{ ids: string }>()((db, p) =>
  db
    .selectFrom('drive_snapshots')
    .innerJoin('drives', 'drives.id', 'drive_snapshots.drive_id')
    .selectAll('drive_snapshots')
    .select([
      'drives.name as drive_name',
      'drives.based_on as drive_based_on',
      'drives.sizes_stale as drive_sizes_stale',
    ])
    .where(inList(sql`drive_snapshots.snapshot_id`, p('ids')))
    .orderBy('drive_snapshots.number'),
);

/** Snapshots by number, in the order of `numbers`. */
export async function snapshotsByNumber(db: Db, numbers: readonly number[]): Promise<SnapshotRecord[]> {
  if (numbers.length === 0) return [];
  const rows = await byNumbers(db, { numbers: JSON.stringify(numbers) });
  const ids = rows.map((row) => row.id);
  const parts = new Map<SnapshotId, PartRecord[]>(ids.map((id) => [id, []]));
  for (const part of await partsOfMany(db, { ids: JSON.stringify(ids) })) parts.get(part.snapshot_id)?.push(part);
  const tags = await tagsOf(db, ids);
  const machines = await machineSnapshotsOf(
    db,
    rows.filter((row) => row.machine_id !== null).map((row) => row.id),
  );
  const byNumber = new Map(rows.map((row) => [row.number, row]));
  return numbers.flatMap((number) => {
    const row = byNumber.get(number);
    if (row === undefined) return [];
    const machine = machines.get(row.id) ?? null;
    return { ...row, machine, parts: parts.get(row.id) ?? [], tags: tags.get(row.id) ?? [] };
  });
}

const bare = prepare<{ id: SnapshotId }>()((db, p) => db.selectFrom('snapshots').selectAll().where('id', '=', p('id')));

/** The row alone, for changes. */
export async function findSnapshotRow(db: Db, id: SnapshotId): Promise<SnapshotRow | undefined> {
  return (await bare(db, { id }))[0];
}

const partById = prepare<{ id: DriveSnapshotId }>()((db, p) =>
  db.selectFrom('drive_snapshots').selectAll().where('id', '=', p('id')),
);

export async function findPart(db: Db, id: DriveSnapshotId): Promise<DriveSnapshotRow | undefined> {
  return (await partById(db, { id }))[0];
}

export async function findParts(db: Db, ids: readonly DriveSnapshotId[]): Promise<DriveSnapshotRow[]> {
  if (ids.length === 0) return [];
  return db.selectFrom('drive_snapshots').selectAll().where('id', 'in', ids).execute();
}

const insert = prepare<{
  id: SnapshotId;
  projectId: ProjectId;
  name: string;
  description: string;
  state: SnapshotState;
  meta: string;
  origin: 'manual' | 'safety';
  createdBy: UserId | null;
  machineId: MachineId | null;
  availableAt: number | null;
  partCount: number;
  at: number;
}>()((db, p) =>
  db
    .insertInto('snapshots')
    .values({
      id: p('id'),
      project_id: p('projectId'),
      name: p('name'),
      description: p('description'),
      state: p('state'),
      meta_json: p('meta'),
      error_json: null,
      origin: p('origin'),
      consistency: 'crash',
      complete: 1,
      machine_id: p('machineId'),
      created_by: p('createdBy'),
      created_at: p('at'),
      available_at: p('availableAt'),
      part_count: p('partCount'),
      updated_at: p('at'),
      version: 1,
    })
    .returning('number'),
);

const insertPart = prepare<{
  id: DriveSnapshotId;
  snapshotId: SnapshotId;
  driveId: DriveId;
  parentId: DriveSnapshotId | null;
  sizeBytes: number;
  changedBytes: number | null;
  at: number;
}>()((db, p) =>
  db
    .insertInto('drive_snapshots')
    .values({
      id: p('id'),
      snapshot_id: p('snapshotId'),
      drive_id: p('driveId'),
      parent_id: p('parentId'),
      size_bytes: p('sizeBytes'),
      changed_bytes: p('changedBytes'),
      created_at: p('at'),
    })
    .returning('number'),
);

export interface NewPart {
  id: DriveSnapshotId;
  driveId: DriveId;
  driveName: string;
  parentId: DriveSnapshotId | null;
  sizeBytes: number;
  changedBytes: number | null;
}

export interface NewSnapshotRow {
  machineId?: MachineId | null;
  id: SnapshotId;
  projectId: ProjectId;
  name: string;
  description: string;
  state: 'creating' | 'available';
  meta: string;
  origin: 'manual' | 'safety';
  createdBy: UserId | null;
  tags: readonly string[];
  parts: readonly NewPart[];
  at: number;
}

/** Writes a snapshot and its parts. Returns it as it now is, without reading it again. */
export async function insertSnapshot(tx: Db, snapshot: NewSnapshotRow): Promise<SnapshotRecord> {
  const { parts, tags, machineId = null, ...values } = snapshot;
  const availableAt = snapshot.state === 'available' ? snapshot.at : null;
  const [row] = await insert(tx, { ...values, machineId, availableAt, partCount: parts.length });
  if (row === undefined) throw new Error('the catalog did not number the snapshot');
  const records: PartRecord[] = [];
  for (const { driveName, ...part } of parts) {
    const [made] = await insertPart(tx, { ...part, snapshotId: snapshot.id, at: snapshot.at });
    if (made === undefined) throw new Error('the catalog did not number the drive snapshot');
    records.push({
      number: made.number,
      id: part.id,
      snapshot_id: snapshot.id,
      drive_id: part.driveId,
      parent_id: part.parentId,
      size_bytes: part.sizeBytes,
      changed_bytes: part.changedBytes,
      created_at: snapshot.at,
      drive_name: driveName,
      drive_based_on: null,
      drive_sizes_stale: 0,
    });
  }
  await addTags(tx, snapshot.id, tags);
  return {
    number: row.number,
    id: snapshot.id,
    project_id: snapshot.projectId,
    name: snapshot.name,
    description: snapshot.description,
    state: snapshot.state,
    meta_json: snapshot.meta,
    error_json: null,
    origin: snapshot.origin,
    consistency: 'crash',
    complete: 1,
    machine_id: machineId,
    created_by: snapshot.createdBy,
    created_at: snapshot.at,
    available_at: availableAt,
    part_count: parts.length,
    updated_at: snapshot.at,
    version: 1,
    parts: records,
    tags,
    machine: null,
  };
}

const finish = prepare<{ id: SnapshotId; now: number }>()((db, p) =>
  db
    .updateTable('snapshots')
    .set({
      // A deletion asked for meanwhile stays asked for.
      state: sql`case when state = 'creating' then 'available' else state end`,
      available_at: p('now'),
      updated_at: p('now'),
      version: sql`version + 1`,
    })
    .where('id', '=', p('id')),
);

/** A snapshot was taken. The current markers of its drives are the caller's to move after this. */
export async function finishSnapshot(tx: Db, id: SnapshotId, now: number): Promise<void> {
  await finish(tx, { id, now });
}

/** Brings a snapshot that had to wait for its turn to what its drives are now, and to the instant it stands for. */
export async function resettleSnapshot(tx: Db, id: SnapshotId, at: number): Promise<void> {
  await tx.updateTable('snapshots').set({ created_at: at }).where('id', '=', id).execute();
  await tx
    .updateTable('drive_snapshots')
    .set({
      parent_id: sql`(select based_on from drives where drives.id = drive_snapshots.drive_id)`,
      size_bytes: sql`(select size_bytes from drives where drives.id = drive_snapshots.drive_id)`,
      changed_bytes: null,
      created_at: at,
    })
    .where('snapshot_id', '=', id)
    .execute();
}

/** Moves a snapshot to another state, unless it is in none of `from`. */
export async function moveSnapshot(
  tx: Db,
  change: { id: SnapshotId; from: readonly SnapshotState[]; to: SnapshotState; error: string | null; at: number },
): Promise<void> {
  await tx
    .updateTable('snapshots')
    .set({ state: change.to, error_json: change.error, updated_at: change.at, version: sql`version + 1` })
    .where('id', '=', change.id)
    .where('state', 'in', change.from)
    .execute();
}

const reparent = prepare<{ driveId: DriveId; from: DriveSnapshotId; to: DriveSnapshotId | null }>()((db, p) =>
  db
    .updateTable('drive_snapshots')
    .set({ parent_id: p('to') })
    .where('drive_id', '=', p('driveId'))
    .where('parent_id', '=', p('from')),
);

/**
 * Takes parts out of the catalog: their children and the current markers move to their parents, snapshots without parts
 * go, others are no longer complete. Returns the ids of the snapshots that went.
 */
export async function removeParts(
  tx: Db,
  ids: readonly DriveSnapshotId[],
  at: number,
): Promise<{ gone: SnapshotId[]; driveIds: DriveId[] }> {
  const parts = await findParts(tx, ids);
  // One after the other, so that a chain of removed parts ends at the first ancestor that stays.
  for (const { id } of parts) {
    const row = await findPart(tx, id);
    if (row === undefined) continue;
    await reparent(tx, { driveId: row.drive_id, from: id, to: row.parent_id });
    await tx
      .updateTable('drives')
      .set({ based_on: row.parent_id })
      .where('id', '=', row.drive_id)
      .where('based_on', '=', id)
      .execute();
    await tx.deleteFrom('drive_snapshots').where('id', '=', id).execute();
  }
  const gone: SnapshotId[] = [];
  for (const snapshotId of new Set(parts.map((part) => part.snapshot_id))) {
    if (await removeIfEmpty(tx, snapshotId)) gone.push(snapshotId);
    else {
      await tx
        .updateTable('snapshots')
        .set({
          complete: 0,
          part_count: sql`(select count(*) from drive_snapshots p where p.snapshot_id = snapshots.id)`,
          updated_at: at,
          version: sql`version + 1`,
        })
        .where('id', '=', snapshotId)
        .execute();
    }
  }
  return { gone, driveIds: [...new Set(parts.map((part) => part.drive_id))] };
}

/** Removes a snapshot that has no parts. Returns whether it went. */
export async function removeIfEmpty(tx: Db, id: SnapshotId): Promise<boolean> {
  const left = await tx
    .selectFrom('drive_snapshots')
    .select('id')
    .where('snapshot_id', '=', id)
    .limit(1)
    .executeTakeFirst();
  if (left !== undefined) return false;
  await tx.deleteFrom('tags').where('object_id', '=', id).execute();
  await tx.deleteFrom('grants').where('object_id', '=', id).execute();
  await removeMachineSnapshot(tx, id);
  const gone = await tx.deleteFrom('snapshots').where('id', '=', id).returning('machine_id').executeTakeFirst();
  if (gone !== undefined && gone.machine_id !== null) await dropDeparted(tx, gone.machine_id);
  return true;
}

export async function snapshotNameExists(db: Db, projectId: ProjectId, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('snapshots')
    .select('number')
    .where('project_id', '=', projectId)
    .where('name', '=', name)
    .where('state', '!=', 'deleting')
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

/** Parts by number, each with its snapshot, in the order of `numbers`. */
export async function partsByNumber(
  db: Db,
  numbers: readonly number[],
): Promise<{ part: PartRecord; snapshot: SnapshotRecord }[]> {
  if (numbers.length === 0) return [];
  const rows = await db
    .selectFrom('drive_snapshots as p')
    .innerJoin('snapshots as s', 's.id', 'p.snapshot_id')
    .select(['p.number', 's.number as of'])
    .where(inList(sql`p.number`, numbers))
    .execute();
  const found = new Map<number, { part: PartRecord; snapshot: SnapshotRecord }>();
  for (const snapshot of await snapshotsByNumber(db, [...new Set(rows.map((row) => row.of))])) {
    for (const part of snapshot.parts) found.set(part.number, { part, snapshot });
  }
  return numbers.flatMap((number) => found.get(number) ?? []);
}

/** Numbers of the snapshots that hold a part of the drive, by number of the part. */
export async function snapshotNumbersOfDrive(db: Db, driveId: DriveId): Promise<number[]> {
  const rows = await db
    .selectFrom('drive_snapshots')
    .innerJoin('snapshots', 'snapshots.id', 'drive_snapshots.snapshot_id')
    .select('snapshots.number')
    .where('drive_snapshots.drive_id', '=', driveId)
    .orderBy('drive_snapshots.number')
    .execute();
  return rows.map((row) => row.number);
}
