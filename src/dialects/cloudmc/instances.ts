/** Instances: machines of both kinds, what they are made from, and their recovery points. */
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, ImageId, MachineId } from '../../core/ids.ts';
import type { Machine, Task } from '../../core/model.ts';
import type { QueryFields } from '../../core/query.ts';
import { wrongState } from './errors.ts';
import { computeOffering, network } from './fixed.ts';
import { type Fields, idOf } from './parse.ts';
import { instanceState, MiB, presentInstance, presentList, presentSingleInstance, rootOf } from './present.ts';
import type { InstanceBody, SingleInstanceBody } from './schemas.ts';
import { distinct, findImages, orUndefined, readList, type Scope } from './scope.ts';

const sortable = {
  id: 'id',
  name: 'name',
  hostname: 'name',
  state: 'power',
  cpuCount: 'cpus',
  memoryInMB: 'memoryBytes',
} as const satisfies Record<string, QueryFields['machine']>;

function findInstance({ service, caller }: Scope, text: string): Promise<Machine> {
  return service.machines.get(caller, idOf<MachineId>('machine', text));
}

export async function listInstances(scope: Scope): Promise<object> {
  const { items, metadata } = await readList(scope, 'machine', sortable);
  const images = await findImages(scope, distinct<ImageId>(items.map((machine) => machine.imageId)));
  const work = scope.service.tasks.underWay(
    scope.caller,
    items.map((machine) => machine.id),
  );
  return presentList(
    items.map((machine) => {
      const imageName = machine.imageId === null ? undefined : images.get(machine.imageId)?.name;
      return presentInstance(machine, work.get(machine.id), imageName);
    }),
    metadata,
  );
}

export async function showInstance({ service, caller }: Scope, machine: Machine): Promise<SingleInstanceBody> {
  const { id, imageId } = machine;
  const image = imageId === null ? undefined : await orUndefined(service.images.get(caller, imageId));
  return presentSingleInstance(machine, service.tasks.underWay(caller, [id]).get(id), image?.name);
}

export async function getInstance(scope: Scope, id: string): Promise<object> {
  return { data: await showInstance(scope, await findInstance(scope, id)) };
}

/** @throws machine_not_ready as the one published error has it */
function assertState(
  { service, caller }: Scope,
  machine: Machine,
  expectedStates: readonly InstanceBody['state'][],
): void {
  const currentState = instanceState(machine, service.tasks.underWay(caller, [machine.id]).get(machine.id));
  if (expectedStates.includes(currentState)) return;
  const message = `The instance must be ${expectedStates.join(' or ').toLowerCase()}`;
  throw wrongState(message, { type: 'instances', id: machine.id, currentState, expectedStates });
}

/** There is one offering, of any size; what it leaves open is in the request. @throws not_found, invalid_size */
function readSize(fields: Fields): { cpus?: number; memoryBytes?: number } {
  const offering = fields.text('computeOfferingId');
  if (offering !== undefined && offering !== '' && offering !== computeOffering.id) {
    throw new CalotypeError('not_found', undefined, { kind: 'compute offering', id: offering });
  }
  const cpus = fields.integer('cpuCount');
  const memoryInMB = fields.integer('memoryInMB');
  return {
    ...(cpus === undefined ? {} : { cpus }),
    ...(memoryInMB === undefined ? {} : { memoryBytes: memoryInMB * MiB }),
  };
}

/** A new instance of a template, started as instances are. A template of one volume says nothing of memory. */
export async function createInstance(scope: Scope, fields: Fields): Promise<Task> {
  const { service, caller } = scope;
  const name = fields.requiredText('name');
  const template = fields.text('templateId') ?? fields.requiredText('imageId');
  const networkId = fields.text('networkId');
  if (networkId !== undefined && networkId !== '' && networkId !== network.id) {
    throw new CalotypeError('not_found', undefined, { kind: 'network', id: networkId });
  }
  const size = readSize(fields);
  const imageId = idOf<ImageId>('image', template);
  return (await service.images.cloneMachine(caller, imageId, { name, ...size, start: true })).task;
}

/**
 * `purgeImmediately` takes the root volume along; without it the volume stays, where CloudStack would keep the instance
 * for a while to be recovered. Other volumes go when they are named, and snapshots when it is said so.
 */
export async function deleteInstance(scope: Scope, id: string, fields: Fields): Promise<Task> {
  const { service, caller } = scope;
  const machine = await findInstance(scope, id);
  const snapshots = fields.flag('deleteSnapshots') === true ? 'delete' : 'keep';
  const root = fields.flag('purgeImmediately') === true ? rootOf(machine) : undefined;
  const named = fields.texts('volumeIdsToDelete').map((text) => idOf<DriveId>('drive', text));
  for (const driveId of named) {
    // One that is not of the instance is not looked for elsewhere.
    if (!machine.drives.some((known) => known.driveId === driveId)) {
      throw new CalotypeError('invalid_request', `The volume ${driveId} is not attached to the instance.`, {
        field: 'volumeIdsToDelete',
      });
    }
  }
  return service.machines.delete(caller, machine.id, {
    drives: distinct<DriveId>([root, ...named]),
    snapshots,
    driveSnapshots: snapshots,
  });
}

async function start(scope: Scope, machine: Machine): Promise<Task> {
  assertState(scope, machine, ['Stopped']);
  return scope.service.machines.start(scope.caller, machine.id, {});
}

async function stop(scope: Scope, machine: Machine, fields: Fields): Promise<Task> {
  const mode = fields.flag('forceStop') === true ? 'power' : 'graceful';
  assertState(scope, machine, ['Running']);
  return scope.service.machines.stop(scope.caller, machine.id, { mode });
}

async function reboot(scope: Scope, machine: Machine): Promise<Task> {
  assertState(scope, machine, ['Running']);
  return scope.service.machines.reset(scope.caller, machine.id);
}

/** Of a running instance with its memory, if this server runs it. */
async function createRecoveryPoint(scope: Scope, machine: Machine, fields: Fields): Promise<Task> {
  const point = fields.nested('recoveryPoint');
  const name = point.text('name');
  const description = point.text('description');
  assertState(scope, machine, ['Running', 'Stopped']);
  const input = {
    machineId: machine.id,
    memory: machine.managed && machine.power !== 'off',
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
  };
  return (await scope.service.snapshots.createOfMachine(scope.caller, input, { refuseExistingName: true })).task;
}

/** The one change that is done when it is answered. */
export async function changeComputeOffering(scope: Scope, id: string, fields: Fields): Promise<object> {
  const machine = await findInstance(scope, id);
  const size = readSize(fields);
  if (size.cpus === undefined && size.memoryBytes === undefined) {
    throw new CalotypeError('invalid_request', 'The offering is custom: say cpuCount, memoryInMB or both.', {
      field: 'cpuCount',
    });
  }
  assertState(scope, machine, ['Stopped']);
  return showInstance(scope, await scope.service.machines.update(scope.caller, machine.id, size));
}

/** What would need an instance that was deleted and is kept for a while; there is none. */
async function ofDestroyed(scope: Scope, machine: Machine): Promise<Task> {
  const currentState = instanceState(machine, scope.service.tasks.underWay(scope.caller, [machine.id]).get(machine.id));
  const state = { type: 'instances', id: machine.id, currentState, expectedStates: ['Destroyed'] } as const;
  throw wrongState('The instance must be destroyed', state);
}

/** What the guests of this server have nothing for. */
async function unsupported(): Promise<Task> {
  throw new CalotypeError('not_supported', 'Instances of this server do not have that.', { field: 'operation' });
}

const operations = {
  start,
  stop,
  reboot,
  createRecoveryPoint,
  purge: ofDestroyed,
  recover: ofDestroyed,
  resetPassword: unsupported,
  changeNetwork: unsupported,
  associateSSHKey: unsupported,
  attachIso: unsupported,
  detachIso: unsupported,
};

export const instanceOperations = Object.fromEntries(
  Object.entries(operations).map(([name, operate]) => [
    name,
    async (scope: Scope, id: string, fields: Fields) => operate(scope, await findInstance(scope, id), fields),
  ]),
);
