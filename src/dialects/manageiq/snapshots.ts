/** Snapshots of machines, as a subcollection of `vms` and `instances`. (app/models/snapshot.rb of ManageIQ/manageiq) */
import type { Machine, Snapshot } from '../../core/model.ts';
import { type Attribute, constant, type Env, type Search, type SortField, said, type Virtual } from './attributes.ts';
import { recordNotFound } from './errors.ts';
import { machineColumns } from './machine-columns.ts';
import { accessOf, find, listAll } from './objects.ts';
import { type ActionSpec, idOrNull, post, textOrNull, timeOf } from './present.ts';
import { columnsOf, type Resource } from './resources.ts';

type Field = SortField<'snapshot'>;

/** The collections of machines. */
export type MachinesName = 'vms' | 'instances';

/** A snapshot of a machine, with what its own record does not hold. */
export interface SnapshotView {
  readonly snapshot: Snapshot;
  readonly machineNumber: number | undefined;
  readonly parentNumber: number | undefined;
}

const uuid: Search<Field> = { type: 'text', field: 'id' };

/** In the order of the real service's table. */
export const snapshotColumns: readonly Attribute<SnapshotView, Field>[] = [
  {
    name: 'id',
    present: ({ snapshot }) => String(snapshot.number),
    search: { type: 'integer', field: 'number' },
  },
  { name: 'uid', present: ({ snapshot }) => snapshot.id, search: uuid },
  {
    name: 'parent_uid',
    present: ({ snapshot, parentNumber }) => (parentNumber === undefined ? null : snapshot.machine?.parentId),
    search: { type: 'text', field: 'parentId' },
  },
  { name: 'name', present: ({ snapshot }) => snapshot.name, search: { type: 'text', field: 'name' } },
  {
    name: 'description',
    present: ({ snapshot }) => textOrNull(snapshot.description),
    search: { type: 'text', field: 'description', emptyIsNull: true },
  },
  {
    name: 'current',
    present: ({ snapshot }) => (snapshot.machine?.current === true ? 1 : 0),
    search: {
      type: 'words',
      words: [
        { word: 0, when: { field: 'current', op: 'eq', value: false } },
        { word: 1, when: { field: 'current', op: 'eq', value: true } },
      ],
      sort: { field: 'current' },
    },
  },
  {
    name: 'total_size',
    present: ({ snapshot }) => snapshot.sizeBytes,
    search: { type: 'integer', field: 'sizeBytes' },
  },
  constant('filename', null),
  {
    name: 'create_time',
    present: ({ snapshot }) => timeOf(snapshot.createdAt),
    search: { type: 'time', field: 'createdAt' },
  },
  { name: 'disks', present: () => [] },
  {
    name: 'created_on',
    present: ({ snapshot }) => timeOf(snapshot.createdAt),
    search: { type: 'time', field: 'createdAt' },
  },
  {
    name: 'updated_on',
    present: ({ snapshot }) => timeOf(snapshot.updatedAt),
    search: { type: 'time', field: 'updatedAt' },
  },
  {
    name: 'parent_id',
    present: ({ parentNumber }) => idOrNull(parentNumber),
    search: { type: 'integer', field: 'parentNumber' },
  },
  {
    name: 'vm_or_template_id',
    present: ({ machineNumber }) => idOrNull(machineNumber),
    search: { type: 'integer', field: 'machineNumber' },
  },
  { name: 'uid_ems', present: ({ snapshot }) => snapshot.id, search: uuid },
  { name: 'ems_ref', present: ({ snapshot }) => snapshot.id, search: uuid },
  constant('ems_ref_type', null),
  constant('type', 'Snapshot'),
];

export async function viewSnapshots(snapshots: readonly Snapshot[], env: Env): Promise<readonly SnapshotView[]> {
  const { numbers } = env.context.service;
  const parents = snapshots.flatMap(({ machine }) => machine?.parentId ?? []);
  const machines = snapshots.flatMap(({ machine }) => machine?.machineId ?? []);
  const parentNumbers = parents.length === 0 ? undefined : await numbers.numbersOf('snapshot', parents);
  const machineNumbers = await numbers.numbersOf('machine', [...new Set(machines)]);
  return snapshots.map((snapshot) => ({
    snapshot,
    machineNumber: snapshot.machine === null ? undefined : machineNumbers.get(snapshot.machine.machineId),
    parentNumber: snapshot.machine?.parentId ? parentNumbers?.get(snapshot.machine.parentId) : undefined,
  }));
}

/** What can be asked of a snapshot's parent: its fields in the list of its children. */
const parentSearches: Readonly<Record<string, Search<Field>>> = {
  id: { type: 'integer', field: 'parentNumber' },
  name: { type: 'text', field: 'parentName' },
  uid: { type: 'text', field: 'parentId' },
  uid_ems: { type: 'text', field: 'parentId' },
  ems_ref: { type: 'text', field: 'parentId' },
  type: said('Snapshot'),
};

function virtualsOf(machine: Machine): readonly Virtual<SnapshotView, Field>[] {
  return [
    {
      name: 'parent',
      isRelation: true,
      async prepare(views, env) {
        const ids = views.flatMap(({ snapshot }) => snapshot.machine?.parentId ?? []);
        const where = { field: 'id', op: 'in', values: ids } as const;
        const parents = ids.length === 0 ? [] : await viewSnapshots(await listAll(env, 'snapshot', where), env);
        const byId = new Map(parents.map((view) => [view.snapshot.id, columnsOf(snapshotColumns, view)]));
        return ({ snapshot }) => {
          const { parentId = null } = snapshot.machine ?? {};
          return parentId === null ? null : (byId.get(parentId) ?? null);
        };
      },
    },
    {
      name: 'children',
      isRelation: true,
      async prepare(views, env) {
        const values = views.map(({ snapshot }) => snapshot.id);
        const where = { field: 'parentId', op: 'in', values } as const;
        const children = await viewSnapshots(await listAll(env, 'snapshot', where), env);
        const byParent = Map.groupBy(children, ({ snapshot }) => snapshot.machine?.parentId);
        return ({ snapshot }) => (byParent.get(snapshot.id) ?? []).map((view) => columnsOf(snapshotColumns, view));
      },
    },
    {
      name: 'vm_or_template',
      isRelation: true,
      prepare: async () => () => columnsOf(machineColumns, machine),
    },
  ];
}

const deletion: readonly ActionSpec[] = [...post('delete'), { name: 'delete', method: 'delete' }];
const reversion = post('revert');

/** A snapshot that is only being taken is not there yet. */
export const taken = { field: 'state', op: 'ne', value: 'creating' } as const;

/** Those of one machine. */
export function snapshotsOf(
  name: MachinesName,
  machine: Machine,
  mayWrite: boolean,
): Resource<'snapshot', SnapshotView> {
  const ofWriters = name === 'vms' ? [...reversion, ...deletion] : deletion;
  return {
    name: 'snapshots',
    path: `${name}/${machine.number}/snapshots`,
    klass: 'Snapshot',
    kind: 'snapshot',
    where: { all: [{ field: 'machineId', op: 'eq', value: machine.id }, taken] },
    countsOwn: false,
    columns: snapshotColumns,
    virtuals: virtualsOf(machine),
    subcollections: [],
    actions: mayWrite ? post('create', 'delete') : [],
    tagged: (values) => ({ field: 'tag', op: 'in', values }),
    subclasses: {},
    searchOf(attribute) {
      const [association, column = ''] = attribute.split('.');
      if (association === 'parent') {
        if (!snapshotColumns.some((known) => known.name === column)) return undefined;
        return { search: parentSearches[column] ?? null };
      }
      if (association !== 'vm_or_template') return undefined;
      // All of the list are of the same machine: what it says is said of each.
      const own = machineColumns.find((known) => known.name === column);
      return own === undefined ? undefined : { search: saidBy(own.present(machine)) };
    },
    numberOf: ({ snapshot }) => snapshot.number,
    view: viewSnapshots,
    async actionsOf(views, env) {
      const access = await accessOf(
        env,
        'snapshot',
        views.map(({ snapshot }) => snapshot.id),
      );
      return ({ snapshot }) => (access(snapshot.id) === 'rw' ? ofWriters : []);
    },
  };
}

function saidBy(value: unknown): Search<never> | null {
  const isWord = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
  return isWord || value === null ? said(value) : null;
}

/** Of this machine. What is only being taken is not there yet. @throws not_found */
export async function snapshotOf(env: Env, machine: Pick<Machine, 'id'>, number: number): Promise<Snapshot> {
  const { service } = env.context;
  const id = await service.numbers.idOf('snapshot', number);
  const snapshot = id === undefined ? undefined : await find(() => service.snapshots.get(env.caller, id));
  if (snapshot?.machine?.machineId !== machine.id || snapshot.state === 'creating') {
    throw recordNotFound('Snapshot', number);
  }
  return snapshot;
}
