/** Stored sizes of snapshots: figures of the engine, good as long as the drive's `sizes_stale` is 0. */
import { sql } from 'kysely';
import type { DriveId, DriveSnapshotId, ProjectId } from '../core/ids.ts';
import type { Db, Tx } from './catalog.ts';
import { inList } from './page.ts';
import { prepare } from './prepared.ts';
import type { PartRecord } from './snapshots.ts';

export async function isStillStale(db: Db, driveId: DriveId, stale: number): Promise<boolean> {
  const row = await db.selectFrom('drives').select('sizes_stale').where('id', '=', driveId).executeTakeFirst();
  return row?.sizes_stale === stale;
}

const storeOne = prepare<{ id: DriveSnapshotId; bytes: number }>()((db, p) =>
  db
    .updateTable('drive_snapshots')
    .set({ changed_bytes: p('bytes') })
    .where('id', '=', p('id')),
);

/** Stores figures that belong to the drive's state numbered `stale`, and forgets all older ones; nothing if it moved on. */
export async function storeSizes(
  tx: Tx,
  driveId: DriveId,
  known: { stale: number; written: boolean; bytes: ReadonlyMap<DriveSnapshotId, number> },
): Promise<void> {
  const { stale, written, bytes } = known;
  const done = await tx
    .updateTable('drives')
    .set({ sizes_stale: 0 })
    .where('id', '=', driveId)
    .where('sizes_stale', '=', stale)
    .executeTakeFirst();
  if (done.numUpdatedRows === 0n) return;
  if (stale !== 0 || written) {
    await tx.updateTable('drive_snapshots').set({ changed_bytes: null }).where('drive_id', '=', driveId).execute();
  }
  for (const [id, size] of bytes) await storeOne(tx, { id, bytes: size });
}

/** The parts of finished snapshots of a project whose stored sizes may not be right; those of drives that are written among them. */
export async function unsettledParts(
  db: Db,
  projectId: ProjectId,
  written: readonly DriveId[],
): Promise<Pick<PartRecord, 'id' | 'drive_id' | 'changed_bytes' | 'drive_sizes_stale'>[]> {
  return db
    .selectFrom('snapshots as s')
    .innerJoin('drive_snapshots as p', 'p.snapshot_id', 's.id')
    .innerJoin('drives as d', 'd.id', 'p.drive_id')
    .select(['p.id', 'p.drive_id', 'p.changed_bytes', 'd.sizes_stale as drive_sizes_stale'])
    .where('s.project_id', '=', projectId)
    .where('s.state', '=', 'available')
    .where((eb) =>
      eb.or([eb('p.changed_bytes', 'is', null), eb('d.sizes_stale', '>', 0), inList(sql`p.drive_id`, written)]),
    )
    .execute();
}
