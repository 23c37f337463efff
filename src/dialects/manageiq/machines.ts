/** Machines as `vms` (all of them) and `instances` (those of kind `instance`). */
import type { Machine } from '../../core/model.ts';
import { type Env, type SortField, said, unknown, type Virtual } from './attributes.ts';
import { recordNotFound } from './errors.ts';
import { instanceClass, isInstance, isVm, machineColumns, vmClass } from './machine-columns.ts';
import { relatedOfMachine, valuesOfMachine } from './machine-names.ts';
import { accessOf, find, listAll } from './objects.ts';
import { post } from './present.ts';
import { columnsOf, type Resource, type Shown } from './resources.ts';
import { type MachinesName, snapshotColumns, taken, viewSnapshots } from './snapshots.ts';

type Field = SortField<'machine'>;

/** Asked of the list of the machine's snapshots, as no machine carries it. */
function ofSnapshots(end: 'oldest' | 'newest'): Virtual<Machine, Field>[] {
  const order = end === 'oldest' ? 'asc' : 'desc';
  const field = end === 'oldest' ? 'oldestSnapshotAt' : 'newestSnapshotAt';
  const part = (name: string, column: string): Virtual<Machine, Field> => ({
    name: `v_snapshot_${end}_${name}`,
    async prepare(machines, env) {
      const found = await Promise.all(
        machines.map(async ({ id }) => {
          const where = { all: [{ field: 'machineId', op: 'eq', value: id } as const, taken] };
          const sort = [{ by: 'createdAt', order } as const];
          const { items } = await env.context.service.queries.list(env.caller, 'snapshot', { where, sort, limit: 1 });
          return [id, (await viewSnapshots(items, env))[0]] as const;
        }),
      );
      const byMachine = new Map(found);
      const attribute = snapshotColumns.find((known) => known.name === column);
      return ({ id }) => {
        const snapshot = byMachine.get(id);
        return snapshot === undefined ? null : attribute?.present(snapshot);
      };
    },
    ...(name === 'timestamp' ? { search: { type: 'time', field } } : {}),
  });
  return [
    part('name', 'name'),
    part('description', 'description'),
    part('total_size', 'total_size'),
    part('timestamp', 'create_time'),
  ];
}

/** The snapshots of machines, by machine, oldest first. */
async function snapshotsByMachine(machines: readonly Machine[], env: Env) {
  const where = {
    all: [{ field: 'machineId', op: 'in', values: machines.map(({ id }) => id) } as const, taken],
  };
  const items = machines.length === 0 ? [] : await listAll(env, 'snapshot', where);
  return Map.groupBy(await viewSnapshots(items, env), ({ snapshot }) => snapshot.machine?.machineId);
}

const snapshots: Virtual<Machine> = {
  name: 'snapshots',
  isRelation: true,
  async prepare(machines, env) {
    const found = await snapshotsByMachine(machines, env);
    return ({ id }) => (found.get(id) ?? []).map((view) => columnsOf(snapshotColumns, view));
  },
};

const megabyte = 1024 * 1024;

function value(name: string, present: (machine: Machine) => unknown): Virtual<Machine, Field> {
  return { name, prepare: async () => present };
}

export const machineVirtuals: readonly Virtual<Machine, Field>[] = [
  {
    name: 'v_total_snapshots',
    prepare: async () => (machine) => machine.snapshotCount,
    search: { type: 'integer', field: 'snapshotCount' },
  },
  ...ofSnapshots('oldest'),
  ...ofSnapshots('newest'),
  snapshots,
  { ...value('cpu_total_cores', ({ hardware }) => hardware.cpus), search: { type: 'integer', field: 'cpus' } },
  { ...value('num_cpu', ({ hardware }) => hardware.cpus), search: { type: 'integer', field: 'cpus' } },
  value('ram_size', ({ hardware }) => Math.floor(hardware.memoryBytes / megabyte)),
  value('ram_size_in_bytes', ({ hardware }) => hardware.memoryBytes),
  value('num_disks', ({ drives }) => drives.length),
  value('mac_addresses', ({ hardware }) => [hardware.macAddress]),
  ...valuesOfMachine.map((name) => unknown<Machine>(name, null, false)),
  ...relatedOfMachine.map(({ name, isList }) => unknown<Machine>(name, isList ? [] : null, true)),
];

const forWriters = post('start', 'stop', 'suspend', 'pause', 'reset', 'shutdown_guest');

function machinesAs(name: MachinesName): Resource<'machine', Machine> {
  const isPart = name === 'instances';
  return {
    name,
    path: name,
    klass: isPart ? instanceClass : 'Vm',
    kind: 'machine',
    where: isPart ? isInstance : { all: [] },
    countsOwn: isPart,
    columns: machineColumns,
    virtuals: machineVirtuals,
    subcollections: [
      {
        name: 'snapshots',
        async prepare(machines, env) {
          const found = await snapshotsByMachine(machines, env);
          return ({ id, number }) =>
            (found.get(id) ?? []).map((view): Shown => {
              const href = `${env.api}/${name}/${number}/snapshots/${view.snapshot.number}`;
              return { href, ...columnsOf(snapshotColumns, view) };
            });
        },
      },
    ],
    actions: [...post('query'), ...forWriters],
    tagged: (values) => ({ field: 'tag', op: 'in', values }),
    subclasses: isPart ? {} : { [vmClass]: isVm, [instanceClass]: isInstance },
    searchOf(attribute) {
      // There is nothing at the other end, whatever is asked of it.
      const [association, column] = attribute.split('.');
      const isKnown = relatedOfMachine.some(({ name: known, isList }) => known === association && !isList);
      return isKnown && column !== undefined ? { search: said(null) } : undefined;
    },
    numberOf: ({ number }) => number,
    view: async (machines) => machines,
    async actionsOf(machines, env) {
      const access = await accessOf(
        env,
        'machine',
        machines.map(({ id }) => id),
      );
      return ({ id }) => (access(id) === 'rw' ? forWriters : []);
    },
  };
}

export const machineResources: Readonly<Record<MachinesName, Resource<'machine', Machine>>> = {
  vms: machinesAs('vms'),
  instances: machinesAs('instances'),
};

/** What the dialect calls one of them in sentences. */
export const machineWords: Readonly<Record<MachinesName, { readonly parent: string; readonly model: string }>> = {
  vms: { parent: 'Virtual Machine', model: 'Vm' },
  instances: { parent: 'Instance', model: 'Instance' },
};

/** @throws not_found */
export async function machineOf(env: Env, name: MachinesName, number: number): Promise<Machine> {
  const { service } = env.context;
  const id = await service.numbers.idOf('machine', number);
  const machine = id === undefined ? undefined : await find(() => service.machines.get(env.caller, id));
  if (machine === undefined || (name === 'instances' && machine.kind !== 'instance')) {
    throw recordNotFound(machineResources[name].klass, number);
  }
  return machine;
}

/** @throws not_found */
export async function machineByGuid(env: Env, name: MachinesName, guid: string): Promise<Machine | undefined> {
  const { where } = machineResources[name];
  const { items } = await env.context.service.queries.list(env.caller, 'machine', {
    where: { all: [where, { field: 'id', op: 'eq', value: guid }] },
    limit: 1,
  });
  return items[0];
}
