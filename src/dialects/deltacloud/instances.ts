/** Instances: machines, made from images and started at once; and the images they are made from. */
import { CalotypeError } from '../../core/errors.ts';
import type { ImageId } from '../../core/ids.ts';
import type { Image, Machine, Task } from '../../core/model.ts';
import { always, type Condition, never, type QueryFields } from '../../core/query.ts';
import { isActiveTask } from '../../core/states.ts';
import type { Caller } from '../../service/caller.ts';
import type { DialectContext } from '../dialect.ts';
import type { Call } from './calls.ts';
import { type Answer, listDocument, memberDocument } from './documents.ts';
import { missing, missingInstead, Refusal } from './errors.ts';
import { listAll, notThere, objectId } from './lookup.ts';
import { filled, MiB, numberIn, optional, wantedHardware, wireId } from './parse.ts';
import { architecture, type InstanceAction, type InstanceView, imageView, instanceView, realm } from './present.ts';
import * as resources from './resources.ts';
import type { Routes } from './routing.ts';
import { settled } from './waiting.ts';

const plural = 'instances';

type MachineCondition = Condition<QueryFields['machine']>;

/** Instances with all that is shown of them, in as many queries for many as for one. */
export async function instanceViews(
  context: DialectContext,
  caller: Caller,
  where: MachineCondition,
): Promise<InstanceView[]> {
  const there: MachineCondition = { all: [where, { field: 'state', op: 'ne', value: 'deleting' }] };
  return present(context, caller, await listAll(context.service, caller, 'machine', there));
}

async function present(
  { service }: DialectContext,
  caller: Caller,
  machines: readonly Machine[],
): Promise<InstanceView[]> {
  if (machines.length === 0) return [];
  const ids = machines.map(({ id }) => id);
  const few = ids.length <= 100;
  const imageIds = [...new Set(machines.flatMap(({ imageId }) => (imageId === null ? [] : [imageId])))];
  const [drives, tasks, images] = await Promise.all([
    listAll(
      service,
      caller,
      'drive',
      few ? { field: 'machineId', op: 'in', values: ids } : { field: 'machineId', op: 'isNotNull' },
    ),
    listAll(service, caller, 'task', {
      all: [
        { field: 'state', op: 'in', values: ['queued', 'running'] },
        { field: 'machineId', op: 'isNotNull' },
      ],
    }),
    imageIds.length === 0 ? new Map<ImageId, number>() : service.numbers.numbersOf('image', imageIds),
  ]);
  const active = tasks.filter(({ state }) => isActiveTask(state));
  return machines.map((machine) => {
    const imageNumber = machine.imageId === null ? undefined : images.get(machine.imageId);
    return instanceView(machine, { owner: caller.projectName, tasks: active, drives, imageNumber });
  });
}

/** An action on an instance that is not there is forbidden, not missing: clients rely on it. */
function noInstance(): Refusal {
  return new Refusal('not_found', { status: 403 });
}

export function instanceRoutes(context: DialectContext): Routes {
  const { service } = context;

  async function find(caller: Caller, id: string, refusal = notThere): Promise<Machine> {
    const machineId = await objectId(service, 'machine', id, refusal);
    const machine = await service.machines.get(caller, machineId).catch((error: unknown) => {
      throw error instanceof CalotypeError && error.code === 'not_found' ? refusal() : error;
    });
    // Answered as deleted already.
    if (machine.state === 'deleting') throw refusal();
    return machine;
  }

  async function viewOf(caller: Caller, machine: Machine): Promise<InstanceView> {
    const [view] = await present(context, caller, [machine]);
    if (view === undefined) throw notThere();
    return view;
  }

  async function list(call: Call, caller: Caller): Promise<Answer> {
    const { parameters } = call;
    const asked = (name: string): string | undefined => parameters.get(name) ?? undefined;
    const [id, state, realmId, owner] = [asked('id'), asked('state'), asked('realm_id'), asked('owner_id')];
    const number = id === undefined ? undefined : numberIn('machine', id);
    const isNone =
      (id !== undefined && number === undefined) ||
      (realmId ?? realm.id) !== realm.id ||
      (owner ?? caller.projectName) !== caller.projectName;
    const where: MachineCondition = isNone
      ? never
      : number === undefined
        ? always
        : { field: 'number', op: 'eq', value: number };
    const found = isNone ? [] : await instanceViews(context, caller, where);
    const shown = state === undefined ? found : found.filter((view) => view.state === state);
    return { is: 'document', status: 200, document: listDocument(resources.instances, shown, call) };
  }

  async function answer(caller: Caller, machine: Machine, status: 200 | 201 | 202, { links }: Call): Promise<Answer> {
    const view = await viewOf(caller, machine);
    const location = links.member(plural, view.id);
    const document = memberDocument(resources.instances, view, location, links);
    return {
      is: 'document',
      status,
      document,
      ...(status === 201 ? { location } : {}),
      ...(status === 202 ? { seeOther: location } : {}),
    };
  }

  async function create(call: Call, caller: Caller): Promise<Answer> {
    const { parameters } = call;
    const wantedImage = filled(parameters, 'image_id');
    const { cpus, memoryMiB } = wantedHardware(parameters);
    const realmId = optional(parameters, 'realm_id') ?? realm.id;
    if (realmId !== realm.id) throw missing('realm', realmId);
    const name = optional(parameters, 'name');
    const imageId = await objectId(service, 'image', wantedImage, () => missing('image', wantedImage));
    // Who may not see it is not told that it is there by being refused to make anything.
    await service.images.get(caller, imageId).catch((error: unknown) => {
      throw missingInstead(error, 'image', wantedImage);
    });
    const { machine, task } = await service.images
      .cloneMachine(caller, imageId, {
        ...(name === undefined ? {} : { name }),
        ...(cpus === undefined ? {} : { cpus }),
        ...(memoryMiB === undefined ? {} : { memoryBytes: memoryMiB * MiB }),
      })
      .catch((error: unknown) => {
        throw missingInstead(error, 'image', wantedImage);
      });
    const made = await settled(context, caller, task);
    if (name === undefined) {
      await service.machines.update(caller, machine.id, { name: wireId('machine', machine.number) });
    }
    if (!isActiveTask(made.state)) await startFirst(caller, machine);
    return answer(caller, await service.machines.get(caller, machine.id), 201, call);
  }

  /** The instance is there whether it comes up or not: it shows that by its state, and can be started again. */
  async function startFirst(caller: Caller, machine: Machine): Promise<void> {
    try {
      await settled(context, caller, await service.machines.start(caller, machine.id, {}));
    } catch (error) {
      if (!(error instanceof CalotypeError)) throw error;
    }
  }

  const acts: Readonly<
    Record<Exclude<InstanceAction, 'destroy'>, (caller: Caller, machine: Machine) => Promise<Task>>
  > = {
    start: (caller, { id }) => service.machines.start(caller, id, {}),
    stop: (caller, { id }) => service.machines.stop(caller, id, {}),
    reboot: (caller, { id }) => service.machines.reset(caller, id),
  };

  /** @throws forbidden for one that is not there, machine_not_ready when its state does not allow it */
  async function assertMay(caller: Caller, id: string, action: InstanceAction): Promise<Machine> {
    const machine = await find(caller, id, noInstance);
    const { actions, state } = await viewOf(caller, machine);
    if (actions.includes(action)) return machine;
    const why = machine.power === 'paused' ? 'paused: start it first' : state;
    throw new CalotypeError('machine_not_ready', `The instance ${id} is ${why}.`);
  }

  async function act(call: Call, caller: Caller, action: keyof typeof acts): Promise<Answer> {
    const machine = await assertMay(caller, call.id, action);
    await settled(context, caller, await acts[action](caller, machine));
    return answer(caller, await service.machines.get(caller, machine.id), 202, call);
  }

  async function destroy({ id, links }: Call, caller: Caller): Promise<Answer> {
    const machine = await assertMay(caller, id, 'destroy');
    const own = await rootDrives(caller, machine);
    await settled(context, caller, await service.machines.delete(caller, machine.id, { snapshots: 'keep' }));
    for (const driveId of own) {
      // One that somebody took meanwhile, or that the caller may not change, stays as a volume.
      await service.drives.delete(caller, driveId, { snapshots: 'keep' }).catch((error: unknown) => {
        if (!(error instanceof CalotypeError)) throw error;
      });
    }
    return { is: 'gone', seeOther: links.collection(plural) };
  }

  /** The drives that it was made with from its image go with it: its root is transient. Those attached later stay. */
  async function rootDrives(caller: Caller, { id, imageId }: Machine) {
    if (imageId === null) return [];
    const where: Condition<QueryFields['drive']> = {
      all: [
        { field: 'machineId', op: 'eq', value: id },
        { field: 'imageId', op: 'eq', value: imageId },
      ],
    };
    return (await listAll(service, caller, 'drive', where)).map((drive) => drive.id);
  }

  return {
    [`/api/${plural}`]: { GET: { run: list }, POST: { run: create, operation: 'create' } },
    [`/api/${plural}/:id`]: {
      GET: { run: async (call, caller) => answer(caller, await find(caller, call.id), 200, call) },
      DELETE: { run: destroy },
    },
    [`/api/${plural}/:id/start`]: { POST: { run: (call, caller) => act(call, caller, 'start') } },
    [`/api/${plural}/:id/stop`]: { POST: { run: (call, caller) => act(call, caller, 'stop') } },
    [`/api/${plural}/:id/reboot`]: { POST: { run: (call, caller) => act(call, caller, 'reboot') } },
  };
}

/** Images of machines; those of single drives are nothing that an instance could be made from. */
export function imageRoutes({ service }: DialectContext): Routes {
  const isShown = ({ kind, state }: Image): boolean => kind === 'machine' && state !== 'deleting';

  async function list(call: Call, caller: Caller): Promise<Answer> {
    const { parameters } = call;
    const asked = (name: string): string | undefined => parameters.get(name) ?? undefined;
    const [id, arch, owner] = [asked('id'), asked('architecture'), asked('owner_id')];
    const number = id === undefined ? undefined : numberIn('image', id);
    const isNone =
      (id !== undefined && number === undefined) ||
      (arch ?? architecture) !== architecture ||
      (owner ?? caller.projectName) !== caller.projectName;
    const where: Condition<QueryFields['image']> = {
      all: [
        { field: 'kind', op: 'eq', value: 'machine' },
        { field: 'state', op: 'ne', value: 'deleting' },
        ...(number === undefined ? [] : [{ field: 'number', op: 'eq', value: number } as const]),
      ],
    };
    const found = isNone ? [] : await listAll(service, caller, 'image', where);
    const shown = found.map((image) => imageView(image, caller.projectName));
    return { is: 'document', status: 200, document: listDocument(resources.images, shown, call) };
  }

  async function show({ id, links }: Call, caller: Caller): Promise<Answer> {
    const image = await service.images.get(caller, await objectId(service, 'image', id));
    if (!isShown(image)) throw notThere();
    const self = links.member('images', id);
    const document = memberDocument(resources.images, imageView(image, caller.projectName), self, links);
    return { is: 'document', status: 200, document };
  }

  return { '/api/images': { GET: { run: list } }, '/api/images/:id': { GET: { run: show } } };
}
