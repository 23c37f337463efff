/**
 * What lists of each kind can be filtered and sorted by: how each field is read from the rows of the list. Aliases: `m`
 * machines, `s` snapshots, `p` parts (joined with `s`), `d` drives, `i` images, `t` tasks.
 */
import { type RawBuilder, sql } from 'kysely';
import type { QueryFields, QueryKind } from '../core/query.ts';
import { countExpression } from './object-counts.ts';

export type FieldType = 'text' | 'number' | 'boolean';

/** Handles of `held` values that outrank what the rows say; left out where the rows are right. */
export interface LiveHandles {
  /** Sizes by id of the part. */
  readonly sizes?: number;
  /** Power by id of the machine. */
  readonly powers?: number;
  /** State, and beginning in µs, by id of the task. */
  readonly taskStates?: number;
  readonly taskStarts?: number;
  /** Numbers of the tasks that these are of. */
  readonly activeTasks?: readonly number[];
}

export interface Field {
  readonly type: FieldType;
  /** As an expression over the rows of the list. */
  column(live: LiveHandles): RawBuilder<unknown>;
}

function field(type: FieldType, column: RawBuilder<unknown>): Field {
  return { type, column: () => column };
}

const text = (column: RawBuilder<unknown>): Field => field('text', column);
const number = (column: RawBuilder<unknown>): Field => field('number', column);
const boolean = (column: RawBuilder<unknown>): Field => field('boolean', column);

function outranked(handle: number | undefined, id: RawBuilder<unknown>, stored: RawBuilder<unknown>) {
  return handle === undefined ? stored : sql`coalesce(held(${handle}, ${id}), ${stored})`;
}

type FieldTable<K extends QueryKind> = { readonly [F in Exclude<QueryFields[K], 'tag'>]: Field };

const firstSnapshot = (order: 'asc' | 'desc'): RawBuilder<unknown> =>
  sql`(select x.created_at from snapshots x indexed by snapshots_of_machine_by_time where x.machine_id = m.id
    order by x.created_at ${sql.raw(order)} limit 1)`;

const machine: FieldTable<'machine'> = {
  number: number(sql`m.number`),
  id: text(sql`m.id`),
  name: text(sql`m.name`),
  description: text(sql`m.description`),
  state: text(sql`m.state`),
  createdAt: number(sql`m.created_at`),
  updatedAt: number(sql`m.updated_at`),
  kind: text(sql`m.kind`),
  power: { type: 'text', column: ({ powers }) => outranked(powers, sql`m.id`, sql`m.power`) },
  managed: boolean(sql`m.managed`),
  startedAt: number(sql`m.started_at`),
  cpus: number(sql`json_extract(m.hardware_json, '$.cpus')`),
  memoryBytes: number(sql`json_extract(m.hardware_json, '$.memoryBytes')`),
  snapshotCount: number(countExpression('machine', sql`m.id`)),
  oldestSnapshotAt: number(firstSnapshot('asc')),
  newestSnapshotAt: number(firstSnapshot('desc')),
};

const ofMachine = (column: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`(select ${column} from machine_snapshots x where x.snapshot_id = s.id)`;
const parentSnapshot = (column: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`(select ${column} from machine_snapshots x join snapshots y on y.id = x.parent_id where x.snapshot_id = s.id)`;

const partSize = (live: LiveHandles): RawBuilder<unknown> => outranked(live.sizes, sql`p.id`, sql`p.changed_bytes`);

const snapshot: FieldTable<'snapshot'> = {
  number: number(sql`s.number`),
  id: text(sql`s.id`),
  name: text(sql`s.name`),
  description: text(sql`s.description`),
  state: text(sql`s.state`),
  createdAt: number(sql`s.created_at`),
  updatedAt: number(sql`s.updated_at`),
  origin: text(sql`s.origin`),
  consistency: text(sql`s.consistency`),
  complete: boolean(sql`s.complete`),
  availableAt: number(sql`s.available_at`),
  createdBy: text(sql`s.created_by`),
  sizeBytes: {
    type: 'number',
    column: (live) =>
      sql`(select case when count(*) = 0 then 0
          when s.state = 'creating' or count(${partSize(live)}) < count(*) then null else sum(${partSize(live)}) end
        from drive_snapshots p where p.snapshot_id = s.id)`,
  },
  partCount: number(sql`s.part_count`),
  machineId: text(sql`s.machine_id`),
  machineNumber: number(sql`coalesce((select x.number from machines x where x.id = s.machine_id),
    (select x.number from departed_machines x where x.id = s.machine_id))`),
  machineName: text(ofMachine(sql`x.machine_name`)),
  machinePower: {
    type: 'text',
    column: ({ powers }) =>
      sql`(select ${outranked(powers, sql`x.id`, sql`x.power`)} from machines x where x.id = s.machine_id)`,
  },
  machineKind: text(sql`(select x.kind from machines x where x.id = s.machine_id)`),
  parentId: text(parentSnapshot(sql`y.id`)),
  parentNumber: number(parentSnapshot(sql`y.number`)),
  parentName: text(parentSnapshot(sql`y.name`)),
  current: boolean(sql`case when s.machine_id is null then null
    else exists (select 1 from machines x where x.id = s.machine_id and x.based_on = s.id) end`),
  hasMemory: boolean(sql`exists (select 1 from memory_files x where x.snapshot_id = s.id and x.state <> 'dead')`),
};

const driveOfPart = (column: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`(select ${column} from drives x where x.id = p.drive_id)`;

const part: FieldTable<'part'> = {
  number: number(sql`p.number`),
  id: text(sql`p.id`),
  name: snapshot.name,
  description: snapshot.description,
  state: snapshot.state,
  createdAt: snapshot.createdAt,
  updatedAt: snapshot.updatedAt,
  snapshotId: text(sql`p.snapshot_id`),
  snapshotNumber: snapshot.number,
  driveId: text(sql`p.drive_id`),
  driveNumber: number(driveOfPart(sql`x.number`)),
  driveName: text(driveOfPart(sql`x.name`)),
  availableAt: snapshot.availableAt,
  createdBy: snapshot.createdBy,
  sizeBytes: {
    type: 'number',
    column: (live) => sql`case when s.state = 'creating' then null else ${partSize(live)} end`,
  },
  virtualBytes: number(sql`p.size_bytes`),
  parentNumber: number(sql`(select x.number from drive_snapshots x where x.id = p.parent_id)`),
  current: boolean(sql`exists (select 1 from drives x where x.id = p.drive_id and x.based_on = p.id)`),
  machineId: snapshot.machineId,
};

const holderOfDrive = (column: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`(select ${column} from machine_drives a join machines x on x.id = a.machine_id where a.drive_id = d.id)`;

const drive: FieldTable<'drive'> = {
  number: number(sql`d.number`),
  id: text(sql`d.id`),
  name: text(sql`d.name`),
  description: text(sql`d.description`),
  state: text(sql`d.state`),
  createdAt: number(sql`d.created_at`),
  updatedAt: number(sql`d.updated_at`),
  sizeBytes: number(sql`d.size_bytes`),
  snapshotCount: number(countExpression('drive', sql`d.id`)),
  exported: boolean(sql`exists (select 1 from exports x where x.drive_id = d.id and x.machine_id is null)`),
  imageId: text(sql`d.image_id`),
  sourceId: text(sql`d.source_id`),
  sourceNumber: number(sql`(select x.number from drive_snapshots x where x.id = d.source_id)`),
  machineId: text(holderOfDrive(sql`x.id`)),
  machineNumber: number(holderOfDrive(sql`x.number`)),
  machineName: text(holderOfDrive(sql`x.name`)),
  slot: number(holderOfDrive(sql`a.slot`)),
};

const image: FieldTable<'image'> = {
  number: number(sql`i.number`),
  id: text(sql`i.id`),
  name: text(sql`i.name`),
  description: text(sql`i.description`),
  state: text(sql`i.state`),
  createdAt: number(sql`i.created_at`),
  updatedAt: number(sql`i.updated_at`),
  kind: text(sql`i.kind`),
  sizeBytes: number(sql`i.size_bytes`),
  createdBy: text(sql`i.created_by`),
};

const task: FieldTable<'task'> = {
  number: number(sql`t.number`),
  id: text(sql`t.id`),
  state: { type: 'text', column: ({ taskStates }) => outranked(taskStates, sql`t.id`, sql`t.state`) },
  title: text(sql`t.title`),
  createdAt: number(sql`t.created_at`),
  updatedAt: {
    type: 'number',
    column: ({ taskStarts }) =>
      sql`coalesce(t.finished_at, ${outranked(taskStarts, sql`t.id`, sql`t.started_at`)}, t.created_at)`,
  },
  kind: text(sql`t.kind`),
  via: text(sql`t.via`),
  objectKind: text(sql`t.object_kind`),
  objectId: text(sql`t.object_id`),
  machineId: text(sql`t.machine_id`),
  startedAt: { type: 'number', column: ({ taskStarts }) => outranked(taskStarts, sql`t.id`, sql`t.started_at`) },
  finishedAt: number(sql`t.finished_at`),
  userId: text(sql`t.user_id`),
  userName: text(sql`(select x.name from users x where x.id = t.user_id)`),
};

export const queryFields: { readonly [K in QueryKind]: Readonly<Record<string, Field>> } = {
  machine,
  snapshot,
  part,
  drive,
  image,
  task,
};

/** Whose tags an object shows: a part those of its snapshot. Tasks have none. */
export const taggedId: { readonly [K in QueryKind]: RawBuilder<unknown> | null } = {
  machine: sql`m.id`,
  snapshot: sql`s.id`,
  part: sql`s.id`,
  drive: sql`d.id`,
  image: sql`i.id`,
  task: null,
};
