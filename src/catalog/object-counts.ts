/**
 * How many snapshots a machine has, parts a drive, tasks a project. Counting passes what it counts, so the larger counts are kept in
 * memory (a temporary table) from the first time on, exact by triggers in the transactions that change them.
 */
import type { DatabaseSync } from 'node:sqlite';
import { type RawBuilder, sql } from 'kysely';
import type { Db } from './catalog.ts';
import { inList } from './page.ts';

/** Fewer are counted in no time. */
const worthKeeping = 1000;

/** Call once per connection, after migrations. */
export function createObjectCounts(raw: DatabaseSync): void {
  const change = (by: string, id: string): string =>
    `update kept_counts set count = count ${by} where object_id = ${id};`;
  raw.exec(`
    create temp table kept_counts (object_id text primary key, count integer not null) without rowid;
    create temp trigger part_counted after insert on main.drive_snapshots begin ${change('+ 1', 'new.drive_id')} end;
    create temp trigger part_uncounted after delete on main.drive_snapshots begin ${change('- 1', 'old.drive_id')} end;
    create temp trigger machine_snapshot_counted after insert on main.snapshots when new.machine_id is not null
      begin ${change('+ 1', 'new.machine_id')} end;
    create temp trigger machine_snapshot_uncounted after delete on main.snapshots when old.machine_id is not null
      begin ${change('- 1', 'old.machine_id')} end;
    create temp trigger task_counted after insert on main.tasks begin ${change('+ 1', 'new.project_id')} end;
    create temp trigger task_uncounted after delete on main.tasks begin ${change('- 1', 'old.project_id')} end;
    create temp trigger machine_snapshot_moved after update of machine_id on main.snapshots
      begin ${change('- 1', 'old.machine_id')} ${change('+ 1', 'new.machine_id')} end;
  `);
}

/** Of what the id is: no two objects have the same. */
export type CountedKind = 'drive' | 'machine' | 'project';

const counted = {
  drive: (id: RawBuilder<unknown>) => sql`select count(*) from drive_snapshots x where x.drive_id = ${id}`,
  machine: (id: RawBuilder<unknown>) => sql`select count(*) from snapshots x where x.machine_id = ${id}`,
  project: (id: RawBuilder<unknown>) => sql`select count(*) from tasks x where x.project_id = ${id}`,
} as const;

/** The count as an expression, kept or not. */
export function countExpression(kind: CountedKind, id: RawBuilder<unknown>): RawBuilder<number> {
  return sql<number>`coalesce((select k.count from kept_counts k where k.object_id = ${id}), (${counted[kind](id)}))`;
}

export async function countOf(db: Db, kind: CountedKind, id: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`select ${countExpression(kind, sql`${id}`)} as count`.execute(db);
  const count = rows[0]?.count ?? 0;
  await keepCounts(db, kind, new Map([[id, count]]));
  return count;
}

/** Keeps those of some counts that are worth it and not kept yet. */
export async function keepCounts(db: Db, kind: CountedKind, counts: ReadonlyMap<string, number>): Promise<void> {
  const large = [...counts].flatMap(([id, count]) => (count < worthKeeping ? [] : [id]));
  if (large.length === 0) return;
  const { rows } = await sql<{ id: string }>`
    select object_id as id from kept_counts where ${inList(sql`object_id`, large)}`.execute(db);
  const kept = new Set(rows.map((row) => row.id));
  for (const id of large) {
    if (kept.has(id)) continue;
    // Counted anew, in one statement: others may have changed it since.
    const count = counted[kind](sql`${id}`);
    await sql`insert into kept_counts select ${id}, (${count}) where true on conflict do nothing`.execute(db);
  }
}
