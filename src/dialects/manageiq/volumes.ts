/** Drives as `cloud_volumes`, and drive snapshots as `cloud_volume_snapshots`, on their own and below their volume. */
import type { Drive } from '../../core/model.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import { type Attribute, constant, type Env, type Search, type SortField, type Virtual } from './attributes.ts';
import { recordNotFound } from './errors.ts';
import { accessOf, find, listAll } from './objects.ts';
import { type ActionSpec, idOrNull, post, textOrNull, timeOf } from './present.ts';
import { columnsOf, type Resource, type Shown } from './resources.ts';

type VolumeField = SortField<'drive'>;
type PartField = SortField<'part'>;

export interface VolumeView {
  readonly drive: Drive;
  /** The drive snapshot it was made from, as long as there is one. */
  readonly sourceNumber: number | undefined;
}

export interface VolumeSnapshotView extends PartOfSnapshot {
  readonly driveNumber: number | undefined;
}

const volumeColumns: readonly Attribute<VolumeView, VolumeField>[] = [
  { name: 'id', present: ({ drive }) => String(drive.number), search: { type: 'integer', field: 'number' } },
  constant('type', 'CloudVolume'),
  { name: 'ems_ref', present: ({ drive }) => drive.id, search: { type: 'text', field: 'id' } },
  { name: 'size', present: ({ drive }) => drive.sizeBytes, search: { type: 'integer', field: 'sizeBytes' } },
  constant('ems_id', null),
  constant('availability_zone_id', null),
  {
    name: 'cloud_volume_snapshot_id',
    present: ({ sourceNumber }) => idOrNull(sourceNumber),
    search: { type: 'integer', field: 'sourceNumber' },
  },
  { name: 'name', present: ({ drive }) => drive.name, search: { type: 'text', field: 'name' } },
  { name: 'status', present: ({ drive }) => drive.state, search: { type: 'text', field: 'state' } },
  {
    name: 'description',
    present: ({ drive }) => textOrNull(drive.description),
    search: { type: 'text', field: 'description', emptyIsNull: true },
  },
  constant('volume_type', null),
  constant('bootable', null),
  {
    name: 'creation_time',
    present: ({ drive }) => timeOf(drive.createdAt),
    search: { type: 'time', field: 'createdAt' },
  },
  constant('cloud_tenant_id', null),
  constant('iops', null),
  constant('encrypted', false),
];

const partColumns: readonly Attribute<VolumeSnapshotView, PartField>[] = [
  { name: 'id', present: ({ part }) => String(part.number), search: { type: 'integer', field: 'number' } },
  constant('type', 'CloudVolumeSnapshot'),
  { name: 'ems_ref', present: ({ part }) => part.id, search: { type: 'text', field: 'id' } },
  constant('ems_id', null),
  {
    name: 'cloud_volume_id',
    present: ({ driveNumber }) => idOrNull(driveNumber),
    search: { type: 'integer', field: 'driveNumber' },
  },
  { name: 'name', present: ({ snapshot }) => snapshot.name, search: { type: 'text', field: 'name' } },
  {
    name: 'description',
    present: ({ snapshot }) => textOrNull(snapshot.description),
    search: { type: 'text', field: 'description', emptyIsNull: true },
  },
  { name: 'status', present: ({ snapshot }) => snapshot.state, search: { type: 'text', field: 'state' } },
  {
    name: 'creation_time',
    present: ({ snapshot }) => timeOf(snapshot.createdAt),
    search: { type: 'time', field: 'createdAt' },
  },
  { name: 'size', present: ({ part }) => part.virtualBytes, search: { type: 'integer', field: 'virtualBytes' } },
  constant('cloud_tenant_id', null),
  constant('encrypted', false),
];

export async function viewVolumes(drives: readonly Drive[], env: Env): Promise<readonly VolumeView[]> {
  const sources = drives.flatMap(({ sourceId }) => sourceId ?? []);
  const numbers = sources.length === 0 ? undefined : await env.context.service.numbers.numbersOf('part', sources);
  return drives.map((drive) => ({
    drive,
    sourceNumber: drive.sourceId === null ? undefined : numbers?.get(drive.sourceId),
  }));
}

export async function viewVolumeSnapshots(
  parts: readonly PartOfSnapshot[],
  env: Env,
): Promise<readonly VolumeSnapshotView[]> {
  const drives = [...new Set(parts.map(({ part }) => part.driveId))];
  const numbers = await env.context.service.numbers.numbersOf('drive', drives);
  return parts.map((one) => ({ ...one, driveNumber: numbers.get(one.part.driveId) }));
}

async function snapshotsByDrive(views: readonly VolumeView[], env: Env) {
  const where = { field: 'driveId', op: 'in', values: views.map(({ drive }) => drive.id) } as const;
  const parts = await viewVolumeSnapshots(await listAll(env, 'part', where), env);
  return Map.groupBy(parts, ({ part }) => part.driveId);
}

export const volumeResource: Resource<'drive', VolumeView> = {
  name: 'cloud_volumes',
  path: 'cloud_volumes',
  klass: 'CloudVolume',
  kind: 'drive',
  where: { all: [] },
  countsOwn: false,
  columns: volumeColumns,
  virtuals: [
    {
      name: 'cloud_volume_snapshots',
      isRelation: true,
      async prepare(views, env) {
        const found = await snapshotsByDrive(views, env);
        return ({ drive }) => (found.get(drive.id) ?? []).map((view) => columnsOf(partColumns, view));
      },
    },
  ],
  subcollections: [
    {
      name: 'cloud_volume_snapshots',
      async prepare(views, env) {
        const found = await snapshotsByDrive(views, env);
        return ({ drive }) =>
          (found.get(drive.id) ?? []).map((view): Shown => {
            const href = `${env.api}/cloud_volumes/${drive.number}/cloud_volume_snapshots/${view.part.number}`;
            return { href, ...columnsOf(partColumns, view) };
          });
      },
    },
  ],
  actions: post('query'),
  tagged: (values) => ({ field: 'tag', op: 'in', values }),
  subclasses: {},
  numberOf: ({ drive }) => drive.number,
  view: viewVolumes,
  actionsOf: async () => () => [],
};

const deletion: readonly ActionSpec[] = [...post('delete'), { name: 'delete', method: 'delete' }];

/** What can be asked of the volume of a snapshot. */
const volumeSearches: Readonly<Record<string, Search<PartField>>> = {
  id: { type: 'integer', field: 'driveNumber' },
  name: { type: 'text', field: 'driveName' },
  ems_ref: { type: 'text', field: 'driveId' },
};

const partVirtuals: readonly Virtual<VolumeSnapshotView, PartField>[] = [
  {
    name: 'cloud_volume',
    isRelation: true,
    async prepare(views, env) {
      const ids = [...new Set(views.map(({ part }) => part.driveId))];
      const drives = await viewVolumes(await listAll(env, 'drive', { field: 'id', op: 'in', values: ids }), env);
      const byId = new Map(drives.map((view) => [view.drive.id, columnsOf(volumeColumns, view)]));
      return ({ part }) => byId.get(part.driveId) ?? null;
    },
  },
];

/** All of them. */
export const volumeSnapshotResource: Resource<'part', VolumeSnapshotView> = {
  name: 'cloud_volume_snapshots',
  path: 'cloud_volume_snapshots',
  klass: 'CloudVolumeSnapshot',
  kind: 'part',
  where: { all: [] },
  countsOwn: false,
  columns: partColumns,
  virtuals: partVirtuals,
  subcollections: [],
  actions: post('query', 'delete'),
  tagged: (values) => ({ field: 'tag', op: 'in', values }),
  subclasses: {},
  searchOf(attribute) {
    const [association, column = ''] = attribute.split('.');
    if (association !== 'cloud_volume' || !volumeColumns.some(({ name }) => name === column)) return undefined;
    return { search: volumeSearches[column] ?? null };
  },
  numberOf: ({ part }) => part.number,
  view: viewVolumeSnapshots,
  async actionsOf(views, env) {
    const access = await accessOf(
      env,
      'part',
      views.map(({ part }) => part.id),
    );
    return ({ part }) => (access(part.id) === 'rw' ? deletion : []);
  },
};

/** Those of one volume. */
export function snapshotsOfVolume(drive: Drive, mayWrite: boolean): Resource<'part', VolumeSnapshotView> {
  return {
    ...volumeSnapshotResource,
    path: `cloud_volumes/${drive.number}/cloud_volume_snapshots`,
    where: { field: 'driveId', op: 'eq', value: drive.id },
    actions: mayWrite ? post('create', 'delete') : [],
  };
}

/** @throws not_found */
export async function volumeOf(env: Env, number: number): Promise<Drive> {
  const { service } = env.context;
  const id = await service.numbers.idOf('drive', number);
  const drive = id === undefined ? undefined : await find(() => service.drives.get(env.caller, id));
  if (drive === undefined) throw recordNotFound(volumeResource.klass, number);
  return drive;
}

/** With `drive`, only of that one. @throws not_found */
export async function volumeSnapshotOf(env: Env, number: number, drive?: Drive): Promise<PartOfSnapshot> {
  const { service } = env.context;
  const id = await service.numbers.idOf('part', number);
  const snapshot = id === undefined ? undefined : await find(() => service.snapshots.getByPart(env.caller, id));
  const part = snapshot?.parts.find((known) => known.id === id);
  const isElsewhere = drive !== undefined && part?.driveId !== drive.id;
  if (snapshot === undefined || part === undefined || isElsewhere) {
    throw recordNotFound(volumeSnapshotResource.klass, number);
  }
  return { part, snapshot };
}
