/**
 * Lists of snapshots and parts of which an index says that only a few can be in them: those are found first, by number,
 * then tested and sorted. What is tried costs no more than looking at `few` entries of each index.
 */
import { type RawBuilder, sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { Condition } from '../core/query.ts';
import type { Db } from './catalog.ts';
import { allOf, type Condition as SqlCondition } from './page.ts';
import { boundsOf, searchesOf } from './query-bounds.ts';
import type { FieldType } from './query-fields.ts';
import { along, ofMachines } from './snapshot-filters.ts';

export interface Candidates {
  /** `s`: numbers of snapshots; `p`: of parts. */
  readonly of: 's' | 'p';
  readonly numbers: readonly number[];
}

/** A field with an index that leads to numbers of `of`. */
export interface Dimension<Alias extends string = 's' | 'p'> {
  readonly field: string;
  readonly type: FieldType;
  readonly of: Alias;
  readonly source: RawBuilder<unknown>;
  readonly column: RawBuilder<unknown>;
  /** What else the index begins with. */
  readonly within?: (projectId: ProjectId) => SqlCondition;
  readonly many?: boolean;
}

const ofProject = (projectId: ProjectId): SqlCondition => sql<boolean>`s.project_id = ${projectId}`;

const snapshotDimensions: readonly Dimension[] = [
  { field: 'number', type: 'number', of: 's', source: sql`snapshots as s`, column: sql`s.number` },
  { field: 'id', type: 'text', of: 's', source: sql`snapshots as s`, column: sql`s.id` },
  { field: 'machineId', type: 'text', of: 's', source: ofMachines, column: sql`s.machine_id` },
  {
    field: 'machineNumber',
    type: 'number',
    of: 's',
    source: sql`(select number, id from machines union all select number, id from departed_machines) as m
      cross join snapshots as s indexed by snapshots_by_machine on s.machine_id = m.id`,
    column: sql`m.number`,
  },
  { field: 'name', type: 'text', of: 's', source: along.name, column: sql`s.name`, within: ofProject },
  {
    field: 'tag',
    type: 'text',
    of: 's',
    source: sql`tags as g indexed by tags_by_tag cross join snapshots as s on s.id = g.object_id`,
    column: sql`g.tag`,
    many: true,
  },
  { field: 'state', type: 'text', of: 's', source: along.state, column: sql`s.state`, within: ofProject },
  { field: 'createdAt', type: 'number', of: 's', source: along.created, column: sql`s.created_at`, within: ofProject },
];

const parts = sql`drive_snapshots as p`;

const partDimensions: readonly Dimension[] = [
  { field: 'number', type: 'number', of: 'p', source: parts, column: sql`p.number` },
  { field: 'id', type: 'text', of: 'p', source: parts, column: sql`p.id` },
  { field: 'snapshotId', type: 'text', of: 'p', source: parts, column: sql`p.snapshot_id` },
  { field: 'driveId', type: 'text', of: 'p', source: parts, column: sql`p.drive_id` },
  {
    field: 'driveNumber',
    type: 'number',
    of: 'p',
    source: sql`drives as d cross join drive_snapshots as p on p.drive_id = d.id`,
    column: sql`d.number`,
  },
  { field: 'snapshotNumber', type: 'number', of: 's', source: sql`snapshots as s`, column: sql`s.number` },
  ...snapshotDimensions.filter(({ field }) => !['number', 'id', 'machineNumber'].includes(field)),
];

/** All that can meet the condition and more, if they are at most `few`. */
export async function candidatesOf(
  db: Db,
  kind: 'snapshot' | 'part',
  where: Condition,
  projectId: ProjectId,
  few: number,
): Promise<Candidates | undefined> {
  for (const dimension of kind === 'snapshot' ? snapshotDimensions : partDimensions) {
    const numbers = await searchDimension(db, dimension, where, projectId, few);
    if (numbers !== undefined) return { of: dimension.of, numbers };
  }
  return undefined;
}

/** Numbers of all that one index says can meet the condition, if they are at most `few`. */
export async function searchDimension<Alias extends string>(
  db: Db,
  { field, type, many, of, source, column, within }: Dimension<Alias>,
  where: Condition,
  projectId: ProjectId,
  few: number,
): Promise<number[] | undefined> {
  const bounds = boundsOf(where, field, type, many);
  const searches = bounds === null ? undefined : searchesOf(column, bounds);
  if (searches === undefined) return undefined;
  if (searches.length === 0) return [];
  const scope = within === undefined ? [] : [within(projectId)];
  const each = searches.map(
    (search) => sql`select ${sql.ref(`${of}.number`)} as number from ${source} where ${allOf([...scope, search])}`,
  );
  const { rows } = await sql<{ number: number }>`
    select number from (${sql.join(each, sql` union all `)}) as found limit ${few + 1}`.execute(db);
  return rows.length > few ? undefined : [...new Set(rows.map((row) => row.number))];
}
