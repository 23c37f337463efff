/** `/servers/`: machines, as far as clients of drives and snapshots need them. */
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, MachineId } from '../../core/ids.ts';
import type { Machine } from '../../core/model.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { isoFromUs } from '../../core/time.ts';
import { bodyOf } from '../dialect.ts';
import { type Answer, type Call, gone, made, ok, parametersOf } from './call.ts';
import { invalidField, invalidFields, wrongState } from './errors.ts';
import { envelope, readFilters, readOrder, readSelection, readWindow, select, text, word } from './filters.ts';
import {
  type Fields,
  given,
  isFields,
  type Parameters,
  parameter,
  readAction,
  readFields,
  readId,
  readInteger,
  readName,
  readObjects,
  referenceOf,
  requireFields,
} from './parse.ts';
import { link, type Surroundings, uriOf } from './present.ts';
import { lookAround, readLabels, tagFilter } from './surroundings.ts';

/** One core, in the MHz that this API counts processors in. [libcloud cloudsigma.py] */
export const mhzPerCpu = 2000;
/** Units on one controller, in `dev_channel`. */
const unitsPerController = 4;
const detachTimeoutMs = 60_000;

type Field = QueryFields['machine'];
const orders = { name: 'name', uuid: 'id', status: 'power' } as const satisfies Record<string, Field>;

export type ServerStatus = 'running' | 'stopped' | 'paused' | 'starting' | 'stopping' | 'unavailable';

/** What is being done to machines shows in their status. */
async function statusesOf(
  { service, caller }: Pick<Call, 'service' | 'caller'>,
  machines: readonly Machine[],
): Promise<(machine: Machine) => ServerStatus> {
  const underWay = service.tasks.underWay(
    caller,
    machines.map((machine) => machine.id),
  );
  return (machine) =>
    statusDuring(
      machine,
      (underWay.get(machine.id) ?? []).map((task) => task.kind),
    );
}

function statusDuring(machine: Machine, kinds: readonly string[]): ServerStatus {
  if (machine.state === 'error') return 'unavailable';
  if (machine.state === 'deleting') return 'stopping';
  if (kinds.includes('machine.start')) return 'starting';
  if (kinds.includes('machine.stop')) return 'stopping';
  return machine.power === 'off' ? 'stopped' : machine.power;
}

export function serverCondition(call: Call, parameters: Parameters): Promise<Condition<Field>> {
  const power = (value: string): Condition<Field> => ({ field: 'power', op: 'eq', value });
  return readFilters<Field>(parameters, {
    uuid: text('id'),
    name: text('name'),
    status: word<Field>({ running: power('running'), stopped: power('off'), paused: power('paused') }),
    tag: tagFilter(call),
    tag__name: text('tag'),
  });
}

export async function listServers(call: Call, form: 'short' | 'full'): Promise<Answer> {
  const { service, caller } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const where = await serverCondition(call, parameters);
  const sort = readOrder(parameters, orders) ?? [];
  const page = await service.queries.list(caller, 'machine', { where, sort, ...window, withTotal: true });
  const full = await presentServers(call, page.items);
  const selection = readSelection(parameters);
  const objects = selection === undefined && form === 'short' ? full.map(shortServer) : select(full, selection);
  return ok(envelope(objects, window, page.total ?? 0));
}

export async function getServer(call: Call): Promise<Answer> {
  return ok(await presentOne(call, await findServer(call)));
}

/** All of them are checked first; each is a change of its own. */
export async function createServers(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const objects = readObjects(bodyOf(request));
  requireFields(objects, ['cpu', 'mem', 'name']);
  if (objects.length > 1) throw invalidField('objects', 'Servers are created one at a time.');
  const machines: Machine[] = [];
  for (const fields of objects) {
    const { name = '', cpus, memoryBytes = 0 } = readHardware(fields);
    const drives = (readDrives(fields) ?? []).map((driveId, slot) => ({ driveId, slot }));
    const input = { name, memoryBytes, drives, ...(cpus === undefined ? {} : { cpus }) };
    const { machine } = await service.machines.create(caller, { ...input, ...(await readLabels(call, fields)) });
    machines.push(machine);
  }
  return made(await presentServers(call, machines));
}

export async function updateServer(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const fields = readFields(bodyOf(request));
  const machine = await findServer(call);
  const { name, cpus, memoryBytes } = readHardware(fields);
  const drives = readDrives(fields);
  const labels = await readLabels(call, fields);
  if (drives !== undefined) await assertMovable(call, machine, drives);
  const { hardware } = machine;
  const changed = await service.machines.update(caller, machine.id, {
    ...(name === undefined ? {} : { name }),
    ...(cpus === undefined || cpus === hardware.cpus ? {} : { cpus }),
    ...(memoryBytes === undefined || memoryBytes === hardware.memoryBytes ? {} : { memoryBytes }),
    ...labels,
  });
  if (drives === undefined) return ok(await presentOne(call, changed));
  await plug(call, machine, drives);
  return ok(await presentOne(call, await findServer(call)));
}

/** Before anything of the server is changed. @throws not_found, forbidden for a drive that the caller may not plug or unplug */
async function assertMovable({ service, caller }: Call, machine: Machine, wanted: readonly DriveId[]): Promise<void> {
  const own = machine.drives.map((slot) => slot.driveId);
  const moving = [
    ...own.filter((driveId) => !wanted.includes(driveId)),
    ...wanted.filter((driveId) => !own.includes(driveId)),
  ];
  for (const driveId of moving) await service.drives.get(caller, driveId);
  const access = await service.sharing.accessToShown(caller, 'drive', moving);
  const refused = moving.find((driveId) => access.get(driveId) !== 'rw');
  if (refused === undefined) return;
  throw new CalotypeError('forbidden', `You may look at drive ${refused} but not change it.`, { needs: 'rw' });
}

/** Brings the drives of a server to what they shall be, one after the other. */
async function plug({ service, caller }: Call, machine: Machine, wanted: readonly DriveId[]): Promise<void> {
  const own = machine.drives.map((slot) => slot.driveId);
  const steps = [
    ...own
      .filter((driveId) => !wanted.includes(driveId))
      .map((driveId) => () => service.machines.detach(caller, machine.id, driveId)),
    ...wanted
      .filter((driveId) => !own.includes(driveId))
      .map((driveId) => () => service.machines.attach(caller, machine.id, { driveId })),
  ];
  for (const step of steps) {
    const task = await step();
    const ended = await service.tasks.waitFor(caller, task.id, detachTimeoutMs);
    if (ended.state !== 'done') {
      throw wrongState('mount', 'drive', ended.error?.message ?? 'unavailable', 'unmounted');
    }
  }
}

export async function deleteServer(call: Call): Promise<Answer> {
  const { service, caller } = call;
  const machine = await findServer(call);
  const recurse = parameter(parametersOf(call), 'recurse');
  if (recurse !== undefined && recurse !== 'all_drives' && recurse !== 'disks' && recurse !== 'cdroms') {
    throw invalidField('recurse', 'It should be one of: all_drives, cdroms, disks');
  }
  if (machine.power !== 'off') throw wrongState('delete', 'guest', stateWord(machine), 'stopped');
  const own = machine.drives.map((slot) => slot.driveId);
  const traits = await service.traits.of(own);
  const going = own.filter((id) => {
    const isCdrom = traits.get(id)?.media === 'cdrom';
    return recurse === 'all_drives' || (recurse === 'cdroms' && isCdrom) || (recurse === 'disks' && !isCdrom);
  });
  const all = own.length > 0 && going.length === own.length;
  const task = await service.machines.delete(caller, machine.id, {
    drives: all ? 'delete' : 'keep',
    snapshots: all ? 'delete' : 'keep',
  });
  if (going.length > 0 && !all) {
    await service.tasks.waitFor(caller, task.id, detachTimeoutMs);
    await service.drives.deleteEach(caller, going, { snapshots: 'delete' });
  }
  return gone;
}

export async function actOnServer(call: Call): Promise<Answer> {
  const { service, caller, id } = call;
  const action = readAction(parametersOf(call), ['start', 'stop', 'shutdown']);
  const machine = await findServer(call);
  const status = (await statusesOf(call, [machine]))(machine);
  if (action === 'start' ? status !== 'stopped' : status !== 'running' && status !== 'paused') {
    throw wrongState(action, 'guest', stateWord(machine), action === 'start' ? 'stopped' : 'started');
  }
  if (action === 'start') await service.machines.start(caller, machine.id, {});
  else await service.machines.stop(caller, machine.id, { mode: action === 'stop' ? 'power' : 'guest' });
  return { status: 202, body: { action, result: 'success', uuid: id } };
}

const stateWord = ({ power }: Machine): string =>
  power === 'off' ? 'stopped' : power === 'running' ? 'started' : power;

/** There is one host, so that all servers share it. */
export async function listServerGroups({ service, caller, id }: Call): Promise<Answer> {
  if (id !== '') await service.machines.get(caller, readId<MachineId>('server', id));
  const { items } = await service.queries.list(caller, 'machine', { limit: null });
  const uuids = items.map((machine) => machine.id);
  return ok(id !== '' || uuids.length === 0 ? uuids : [uuids]);
}

async function findServer({ service, caller, id }: Call): Promise<Machine> {
  return service.machines.get(caller, readId<MachineId>('server', id));
}

function readHardware(fields: Fields): { name?: string; cpus?: number; memoryBytes?: number } {
  const name = readName(fields);
  const mhz = readInteger(fields, 'cpu');
  const smp = readInteger(fields, 'smp');
  const memoryBytes = readInteger(fields, 'mem');
  const cpus = smp !== undefined && smp > 1 ? smp : mhz === undefined ? smp : Math.max(1, Math.ceil(mhz / mhzPerCpu));
  return {
    ...(name === undefined ? {} : { name }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  };
}

/** In the order they are to start from; undefined when the body says nothing of drives. @throws invalid_request */
function readDrives(fields: Fields): readonly DriveId[] | undefined {
  const value = given(fields, 'drives');
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || !value.every(isFields)) throw invalidField('drives', 'A list of drives is expected.');
  const rows: readonly Fields[] = value;
  const entries = rows.map((row, at) => {
    const reference = referenceOf(given(row, 'drive'));
    if (reference === undefined) throw invalidFields([{ point: 'drives', message: 'A uuid of a drive is expected.' }]);
    return { id: readId<DriveId>('drive', reference), boot: readInteger(row, 'boot_order') ?? Infinity, at };
  });
  return [...entries].sort((a, b) => a.boot - b.boot || a.at - b.at).map((entry) => entry.id);
}

export async function presentServers(call: Call, machines: readonly Machine[]) {
  const around = await lookAround(call, 'machine', machines.map(subjectOf));
  const statusOf = await statusesOf(call, machines);
  return machines.map((machine) => presentServer(machine, statusOf(machine), around(subjectOf(machine))));
}

async function presentOne(call: Call, machine: Machine) {
  const [shown] = await presentServers(call, [machine]);
  return shown;
}

function subjectOf(machine: Machine) {
  return { id: machine.id, sharedBy: [machine.id], tags: machine.tags, madeBy: null };
}

function presentServer(machine: Machine, status: ServerStatus, around: Surroundings) {
  const { mount, owner, tags, granted } = around;
  const { hardware, runtime } = machine;
  const first = machine.drives[0]?.slot;
  return {
    context: false,
    cpu: hardware.cpus * mhzPerCpu,
    cpu_model: null,
    cpus_instead_of_cores: false,
    drives: machine.drives.map(({ slot, driveId }) => ({
      boot_order: slot === first ? 1 : null,
      dev_channel: `${Math.floor(slot / unitsPerController)}:${slot % unitsPerController}`,
      device: 'virtio',
      drive: link(mount, 'drives', driveId),
      runtime: null,
    })),
    enable_numa: false,
    grantees: around.grantees.map(({ access, email, userId }) => ({
      permissions: access === 'rw' ? ['EDIT', 'LIST'] : ['LIST'],
      user: { email, ...link(mount, 'user', userId) },
    })),
    hv_relaxed: false,
    hv_tsc: false,
    jobs: [],
    mem: hardware.memoryBytes,
    meta: machine.meta,
    name: machine.name,
    nics: [
      {
        boot_order: null,
        firewall_policy: null,
        ip_v4_conf: null,
        ip_v6_conf: null,
        mac: hardware.macAddress,
        model: 'virtio',
        runtime: null,
        vlan: null,
      },
    ],
    owner: link(mount, 'user', owner),
    permissions: granted === null ? [] : granted === 'rw' ? ['EDIT', 'LIST'] : ['LIST'],
    requirements: [],
    resource_uri: uriOf(mount, 'servers', machine.id),
    runtime: runtime === null ? null : { active_since: `${isoFromUs(runtime.startedAt).slice(0, 19)}+00:00`, nics: [] },
    smp: hardware.cpus,
    status,
    tags,
    uuid: machine.id,
    vnc_password: '',
  };
}

export function shortServer({ name, owner, resource_uri, runtime, status, uuid }: ReturnType<typeof presentServer>) {
  return { name, owner, resource_uri, runtime, status, uuid };
}
