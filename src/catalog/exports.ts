/** Rows of exports. The engine re-creates from them what a dead process no longer serves. */
import type { DriveId, DriveSnapshotId, ExportId, MachineId, ProjectId } from '../core/ids.ts';
import type { Db } from './catalog.ts';
import type { ExportRow } from './schema.ts';

export interface NewExportRow {
  id: ExportId;
  projectId: ProjectId;
  driveId: DriveId | null;
  driveSnapshotId: DriveSnapshotId | null;
  writable: boolean;
  transport: 'unix' | 'tcp';
  name: string;
  detail: object;
  /** Set for what a machine uses. */
  machineId?: MachineId;
  at: number;
}

/** Writes an export, unless an earlier attempt did. */
export async function insertExport(tx: Db, row: NewExportRow): Promise<void> {
  await tx
    .insertInto('exports')
    .values({
      id: row.id,
      project_id: row.projectId,
      drive_id: row.driveId,
      drive_snapshot_id: row.driveSnapshotId,
      writable: row.writable ? 1 : 0,
      transport: row.transport,
      name: row.name,
      detail_json: JSON.stringify(row.detail),
      machine_id: row.machineId ?? null,
      created_at: row.at,
    })
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute();
}

export async function setExportDetail(tx: Db, id: ExportId, detail: object): Promise<void> {
  await tx
    .updateTable('exports')
    .set({ detail_json: JSON.stringify(detail) })
    .where('id', '=', id)
    .execute();
}

export async function deleteExport(tx: Db, id: ExportId): Promise<void> {
  await tx.deleteFrom('exports').where('id', '=', id).execute();
}

export async function findExport(db: Db, id: ExportId): Promise<ExportRow | undefined> {
  return db.selectFrom('exports').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function allExports(db: Db): Promise<ExportRow[]> {
  return db.selectFrom('exports').selectAll().orderBy('number').execute();
}

/** Exports of a drive or of its points, oldest first. */
export async function exportsOfDrive(db: Db, driveId: DriveId): Promise<ExportRow[]> {
  const points = db.selectFrom('drive_snapshots').select('id').where('drive_id', '=', driveId);
  return db
    .selectFrom('exports')
    .selectAll()
    .where((eb) => eb.or([eb('drive_id', '=', driveId), eb('drive_snapshot_id', 'in', points)]))
    .orderBy('number')
    .execute();
}

/** What a machine's process uses. */
export async function exportsOfMachine(db: Db, machineId: MachineId): Promise<ExportRow[]> {
  return db.selectFrom('exports').selectAll().where('machine_id', '=', machineId).orderBy('number').execute();
}

/** Exports of the drive's present state. */
export async function liveExportsOf(db: Db, driveId: DriveId): Promise<ExportRow[]> {
  return db.selectFrom('exports').selectAll().where('drive_id', '=', driveId).orderBy('number').execute();
}

export async function exportsOfPoints(db: Db, ids: readonly DriveSnapshotId[]): Promise<ExportRow[]> {
  if (ids.length === 0) return [];
  return db.selectFrom('exports').selectAll().where('drive_snapshot_id', 'in', ids).orderBy('number').execute();
}
