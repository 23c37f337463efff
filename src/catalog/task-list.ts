/** Lists of tasks, newest first. */
import { sql } from 'kysely';
import type { DriveId, MachineId, ProjectId, UserId } from '../core/ids.ts';
import type { TaskState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import type { TaskRow } from './schema.ts';

export interface TaskListQuery {
  projectId: ProjectId;
  /** Also tasks of no project. */
  withServerTasks: boolean;
  /** A guest sees what he started and what touches drives and machines granted to him. */
  guestId: UserId | null;
  states: readonly TaskState[] | undefined;
  objectId: string | undefined;
  driveId: DriveId | undefined;
  machineId: MachineId | undefined;
  beforeNumber: number | string | null;
  offset: number;
  limit: number;
  withTotal: boolean;
}

export async function listTasks(db: Db, query: TaskListQuery): Promise<{ rows: TaskRow[]; total: number | null }> {
  let base = db.selectFrom('tasks');
  base = query.withServerTasks
    ? base.where((eb) => eb.or([eb('project_id', '=', query.projectId), eb('project_id', 'is', null)]))
    : base.where('project_id', '=', query.projectId);
  const { guestId } = query;
  if (guestId !== null) {
    base = base.where((eb) =>
      eb.or([
        eb('user_id', '=', guestId),
        eb.exists(
          eb
            .selectFrom('task_drives')
            .innerJoin('grants', 'grants.object_id', 'task_drives.drive_id')
            .select('task_drives.drive_id')
            .whereRef('task_drives.task_id', '=', 'tasks.id')
            .where('grants.user_id', '=', guestId),
        ),
        eb('machine_id', 'in', (machines) =>
          machines
            .selectFrom('grants')
            .select((of) => of.ref('object_id').$castTo<MachineId>().as('id'))
            .where('user_id', '=', guestId),
        ),
      ]),
    );
  }
  if (query.states !== undefined) base = base.where('state', 'in', query.states);
  if (query.objectId !== undefined) base = base.where('object_id', '=', query.objectId);
  if (query.machineId !== undefined) base = base.where('machine_id', '=', query.machineId);
  const { driveId } = query;
  if (driveId !== undefined) {
    base = base.where('id', 'in', (eb) =>
      eb.selectFrom('task_drives').select('task_id').where('drive_id', '=', driveId),
    );
  }
  let page = base.selectAll().orderBy('number', 'desc').limit(query.limit);
  if (query.offset > 0) page = page.offset(query.offset);
  if (query.beforeNumber !== null) page = page.where('number', '<', Number(query.beforeNumber));
  const rows = await page.execute();
  if (!query.withTotal) return { rows, total: null };
  const counted = await base.select(sql<number>`count(*)`.as('count')).executeTakeFirst();
  return { rows, total: counted?.count ?? 0 };
}
