/**
 * How many snapshots each project has, by state and hour: counted once when the catalog is opened, kept exact by triggers
 * since, in the same transactions. In memory only (temporary tables), so that it costs the hot path no page of the log.
 */
import type { DatabaseSync } from 'node:sqlite';
import { type RawBuilder, sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { SnapshotState } from '../core/states.ts';
import type { Db } from './catalog.ts';

export const hourUs = 3600 * 1_000_000;

/** Call once per connection, after migrations. Row by row: grouping would sort a million rows in memory. */
export function createTotals(raw: DatabaseSync): void {
  const add = (row: string): string => `
    insert into snapshot_counts values (${row}.project_id, ${row}.state, ${row}.created_at / ${hourUs}, 1)
      on conflict do update set count = count + 1;`;
  const drop = `
    update snapshot_counts set count = count - 1
      where project_id = old.project_id and state = old.state and hour = old.created_at / ${hourUs};`;
  raw.exec(`
    create temp table snapshot_counts (
      project_id text not null, state text not null, hour integer not null, count integer not null,
      primary key (project_id, state, hour)) without rowid;
    insert into snapshot_counts
      select project_id, state, created_at / ${hourUs}, 1 from main.snapshots indexed by snapshots_by_state where true
      on conflict do update set count = count + 1;
    create temp trigger snapshot_added after insert on main.snapshots begin ${add('new')} end;
    create temp trigger snapshot_removed after delete on main.snapshots begin ${drop} end;
    create temp trigger snapshot_moved after update of state, created_at, project_id on main.snapshots
      when old.state <> new.state or old.created_at <> new.created_at or old.project_id <> new.project_id
      begin ${drop} ${add('new')} end;
  `);
}

/** Snapshots of a project, in some states if named, in whole hours from `fromHour` to before `beforeHour` if named. */
export async function totalOf(
  db: Db,
  projectId: ProjectId,
  filter: { states?: readonly SnapshotState[] | undefined; fromHour?: number; beforeHour?: number } = {},
): Promise<number> {
  const conditions: RawBuilder<unknown>[] = [sql`project_id = ${projectId}`];
  const { states, fromHour, beforeHour } = filter;
  if (states !== undefined) conditions.push(states.length === 0 ? sql`false` : sql`state in (${sql.join(states)})`);
  if (fromHour !== undefined) conditions.push(sql`hour >= ${fromHour}`);
  if (beforeHour !== undefined) conditions.push(sql`hour < ${beforeHour}`);
  const found = await sql<{ total: number | null }>`
    select sum(count) as total from snapshot_counts where ${sql.join(conditions, sql` and `)}`.execute(db);
  return Number(found.rows[0]?.total ?? 0);
}
