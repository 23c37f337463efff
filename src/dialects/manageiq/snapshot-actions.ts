/** Takes, deletes and goes back to snapshots of machines. (subcollections/snapshots.rb of ManageIQ/manageiq-api) */
import { CalotypeError } from '../../core/errors.ts';
import type { Machine, Snapshot } from '../../core/model.ts';
import {
  type Answer,
  answerAll,
  answerOne,
  assertSome,
  attempt,
  byMethod,
  flagOf,
  forbiddenAction,
  inOrder,
  noContent,
  textOf,
  titled,
  unsupported,
} from './actions.ts';
import type { Env } from './attributes.ts';
import { refuse } from './errors.ts';
import { machineOf, machineWords } from './machines.ts';
import { accessOf } from './objects.ts';
import { actionOf, type Body, isBlank, isObject, referenceOf, resourcesOf } from './parse.ts';
import { type ActionResult, begun, refused } from './present.ts';
import { type MachinesName, snapshotOf } from './snapshots.ts';

function identOf(name: MachinesName, machine: Machine): string {
  return `${machineWords[name].parent} id:${machine.number} name:'${machine.name}'`;
}

/** @throws forbidden */
async function assertWritable(env: Env, machine: Machine, action: string): Promise<void> {
  const access = await accessOf(env, 'machine', [machine.id]);
  if (access(machine.id) !== 'rw') throw forbiddenAction(action);
}

export async function postSnapshots(env: Env, name: MachinesName, number: number, body: Body): Promise<Answer> {
  const action = actionOf(body);
  if (action !== 'create' && action !== 'delete') throw unsupported(action, 'snapshots', 'collection');
  const machine = await machineOf(env, name, number);
  await assertWritable(env, machine, action);
  const resources = resourcesOf(body);
  assertSome(resources, 'snapshots', action);
  if (action === 'create') {
    for (const item of resources.items) assertNew(item);
    return answerAll(await inOrder(resources.items, (item) => create(env, name, machine, item)), resources.bulk);
  }
  // All are found before any is touched: one that is missing fails the request.
  const snapshots = new Map<unknown, Snapshot>();
  for (const item of resources.items) {
    if (isBlank(item)) continue;
    const reference = referenceOf(item, 'snapshots', 'Snapshot');
    if (reference === null) throw refuse('Invalid Snapshot id nil specified');
    snapshots.set(item, await snapshotOf(env, machine, reference));
  }
  const results = await inOrder(resources.items, async (item) => {
    const snapshot = snapshots.get(item);
    return snapshot === undefined ? refused('Invalid Snapshot id nil specified') : remove(env, name, machine, snapshot);
  });
  return answerAll(results, resources.bulk);
}

function assertNew(item: unknown): void {
  if (isBlank(item)) return;
  if (!isObject(item)) throw refuse('Invalid snapshots resource specified');
  if (Object.hasOwn(item, 'id') || Object.hasOwn(item, 'href')) {
    throw refuse('Resource id or href should not be specified for creating a new snapshots');
  }
}

function create(env: Env, name: MachinesName, machine: Machine, item: unknown): Promise<ActionResult> {
  return attempt('create', async () => {
    const data = isObject(item) ? item : {};
    if (isBlank(data.name)) return refused('Must specify a name for the snapshot');
    const wanted = textOf('name', data.name) ?? '';
    const description = textOf('description', data.description) ?? '';
    // A machine that is off has none, so that all of it is taken without.
    const memory = flagOf('memory', data.memory) && machine.power !== 'off';
    const message = `Creating snapshot ${wanted} for ${identOf(name, machine)}`;
    const input = { machineId: machine.id, name: wanted, description, memory };
    const { task } = await env.context.service.snapshots.createOfMachine(titled(env, message), input);
    return begun(env.api, message, task);
  });
}

function remove(env: Env, name: MachinesName, machine: Machine, snapshot: Snapshot): Promise<ActionResult> {
  return attempt('delete', async () => {
    const message = `Deleting snapshot ${snapshot.name} for ${identOf(name, machine)}`;
    return begun(env.api, message, await env.context.service.snapshots.delete(titled(env, message), snapshot.id));
  });
}

export async function postSnapshot(
  env: Env,
  name: MachinesName,
  numbers: { readonly machine: number; readonly snapshot: number },
  body: Body,
): Promise<Answer> {
  const action = actionOf(body);
  const isKnown = action === 'delete' || (action === 'revert' && name === 'vms');
  if (!isKnown) throw unsupported(action, 'snapshots', 'resource');
  const machine = await machineOf(env, name, numbers.machine);
  await assertWritable(env, machine, action);
  if (action === 'revert') return answerOne(await revert(env, name, machine, numbers.snapshot));
  return answerOne(await remove(env, name, machine, await snapshotOf(env, machine, numbers.snapshot)));
}

/** A snapshot that is missing is a refusal here, not an error. */
function revert(env: Env, name: MachinesName, machine: Machine, number: number): Promise<ActionResult> {
  return attempt('revert', async () => {
    if (machine.snapshotCount === 0) return refused('No snapshots available for this VM');
    let snapshot: Snapshot;
    try {
      snapshot = await snapshotOf(env, machine, number);
    } catch (error) {
      if (error instanceof CalotypeError && error.code === 'not_found') return refused(error.message);
      throw error;
    }
    const message = `Reverting to snapshot ${snapshot.name} for ${identOf(name, machine)}`;
    // The clients' list of snapshots is not to grow by going back.
    const input = { keepSafety: false };
    const task = await env.context.service.snapshots.revertMachine(titled(env, message), snapshot.id, input);
    return begun(env.api, message, task);
  });
}

/** That it was refused is not told. */
export async function deleteSnapshot(
  env: Env,
  name: MachinesName,
  numbers: { readonly machine: number; readonly snapshot: number },
): Promise<Answer> {
  const machine = await machineOf(env, name, numbers.machine);
  const snapshot = await snapshotOf(env, machine, numbers.snapshot);
  await byMethod(async () => {
    await assertWritable(env, machine, 'delete');
    return remove(env, name, machine, snapshot);
  });
  return noContent;
}
