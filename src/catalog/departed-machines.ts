/** Rows of machines that were deleted while there are snapshots of them. */
import { sql } from 'kysely';
import type { MachineId } from '../core/ids.ts';
import type { Db } from './catalog.ts';
import { type Condition, inList } from './page.ts';
import type { DepartedMachineRow } from './schema.ts';

/** Keeps the name and number of a machine that is about to go, if there are snapshots of it. @returns whether there are */
export async function noteDeparted(tx: Db, id: MachineId, at: number): Promise<boolean> {
  const snapshot = await tx
    .selectFrom('snapshots')
    .select('number')
    .where('machine_id', '=', id)
    .limit(1)
    .executeTakeFirst();
  if (snapshot === undefined) return false;
  const machine = await tx
    .selectFrom('machines')
    .select(['number', 'id', 'project_id', 'name', 'kind', 'created_at'])
    .where('id', '=', id)
    .executeTakeFirst();
  if (machine === undefined) return false;
  await tx
    .insertInto('departed_machines')
    .values({ ...machine, deleted_at: at })
    .execute();
  return true;
}

/** Forgets a machine that is gone, and the grants on it, if its last snapshot has gone too. */
export async function dropDeparted(tx: Db, id: MachineId): Promise<void> {
  const dropped = await tx
    .deleteFrom('departed_machines')
    .where('id', '=', id)
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('snapshots').select('number').where('snapshots.machine_id', '=', id))),
    )
    .returning('number')
    .executeTakeFirst();
  if (dropped !== undefined) await tx.deleteFrom('grants').where('object_id', '=', id).execute();
}

/** Those that meet a condition on the alias `m`. */
export async function findDeparted(
  db: Db,
  ids: readonly MachineId[],
  visible: Condition,
): Promise<DepartedMachineRow[]> {
  return db.selectFrom('departed_machines as m').selectAll().where(inList(sql`m.id`, ids)).where(visible).execute();
}
