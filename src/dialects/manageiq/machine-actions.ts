/** Starts, stops and holds machines, and looks several up at once. (vms_controller.rb of ManageIQ/manageiq-api) */
import type { Machine, Task } from '../../core/model.ts';
import {
  type Answer,
  answerAll,
  answerOne,
  assertSome,
  attemptInBulk,
  inOrder,
  lookUp,
  titled,
  unsupported,
} from './actions.ts';
import type { Env } from './attributes.ts';
import { recordNotFound, refuse } from './errors.ts';
import { machineByGuid, machineOf, machineResources, machineWords } from './machines.ts';
import { actionOf, type Body, isObject, type Params, referenceOf, resourcesOf } from './parse.ts';
import { type ActionResult, begun, refused } from './present.ts';
import type { MachinesName } from './snapshots.ts';

interface Verb {
  readonly doing: string;
  /** Why not, as the machine is now. */
  unsupportedReason(machine: Machine): string | null;
  run(env: Env, caller: Env['caller'], machine: Machine): Promise<Task>;
}

const isOn = ({ power }: Machine): string | null => (power === 'running' ? null : 'The VM is not powered on');
const isNotOff = ({ power }: Machine): string | null => (power === 'off' ? 'The VM is not powered on' : null);

const pausing: Verb['run'] = ({ context }, caller, { id }) => context.service.machines.pause(caller, id);

const verbs: Readonly<Record<string, Verb>> = {
  start: {
    doing: 'Starting',
    unsupportedReason: ({ power }) => (power === 'running' ? 'The VM is powered on' : null),
    // One that stands still goes on.
    run: ({ context: { service } }, caller, { id, power }) =>
      power === 'paused' ? service.machines.resume(caller, id) : service.machines.start(caller, id, {}),
  },
  stop: {
    doing: 'Stopping',
    unsupportedReason: isNotOff,
    run: ({ context }, caller, { id }) => context.service.machines.stop(caller, id, { mode: 'power' }),
  },
  suspend: { doing: 'Suspending', unsupportedReason: isOn, run: pausing },
  pause: { doing: 'Pausing', unsupportedReason: isOn, run: pausing },
  reset: {
    doing: 'Resetting',
    unsupportedReason: isNotOff,
    run: ({ context }, caller, { id }) => context.service.machines.reset(caller, id),
  },
  shutdown_guest: {
    doing: 'Shutting down',
    unsupportedReason: isOn,
    run: ({ context }, caller, { id }) => context.service.machines.stop(caller, id, { mode: 'guest' }),
  },
};

function verbOf(action: string): Verb | undefined {
  return Object.hasOwn(verbs, action) ? verbs[action] : undefined;
}

async function change(env: Env, name: MachinesName, verb: Verb, machine: Machine): Promise<ActionResult> {
  const href = `${env.api}/${name}/${machine.number}`;
  const reason = verb.unsupportedReason(machine);
  if (reason !== null) return { ...refused(reason), href };
  const message = `${verb.doing} ${machineWords[name].model} id: ${machine.number} name: '${machine.name}'`;
  return begun(env.api, message, await verb.run(env, titled(env, message), machine), href);
}

export async function postMachine(env: Env, name: MachinesName, number: number, body: Body): Promise<Answer> {
  const action = actionOf(body);
  const verb = verbOf(action);
  if (verb === undefined) throw unsupported(action, name, 'resource');
  const machine = await machineOf(env, name, number);
  return answerOne(await attemptInBulk(action, false, () => change(env, name, verb, machine)));
}

export async function postMachines(env: Env, name: MachinesName, body: Body, params: Params): Promise<Answer> {
  const action = actionOf(body);
  const verb = verbOf(action);
  if (verb === undefined && action !== 'query') throw unsupported(action, name, 'collection');
  const { items, bulk } = resourcesOf(body);
  assertSome({ items, bulk }, name, action);
  if (verb === undefined) {
    return lookUp(machineResources[name], env, items, params, (item) => machineNamed(env, name, item));
  }
  const results = await inOrder(items, (item) =>
    attemptInBulk(action, bulk, async () => change(env, name, verb, await machineNamed(env, name, item))),
  );
  return answerAll(results, bulk);
}

/** By reference or by `guid`. @throws not_found, invalid_request */
async function machineNamed(env: Env, name: MachinesName, item: unknown): Promise<Machine> {
  const { klass } = machineResources[name];
  const number = referenceOf(item, name, klass);
  if (number !== null) return machineOf(env, name, number);
  const guid = isObject(item) ? item.guid : undefined;
  if (typeof guid !== 'string') throw refuse(`Invalid ${klass} id nil specified`);
  const machine = await machineByGuid(env, name, guid);
  if (machine === undefined) throw recordNotFound(klass, guid);
  return machine;
}
