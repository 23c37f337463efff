/** Plugs a drive that is only being made into a machine, in the commit that asks for it: one task to wait for, and no way to lose the second step. */
import type { Tx } from '../catalog/catalog.ts';
import { slotsOf } from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId, MachineId } from '../core/ids.ts';
import { maxSlots } from '../qemu/machine-process.ts';
import { assertMachineReady, machineRow, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { AddTask } from './runner.ts';
import type { TaskInputs } from './task-inputs.ts';

/** The slots of a machine that hold a drive, or that a task waits to put one into. */
export async function takenSlots(context: Context, tx: Tx, machineId: MachineId): Promise<ReadonlySet<number>> {
  const taken = new Set((await slotsOf(tx, machineId)).map((slot) => slot.slot));
  for (const queued of context.runner.queueOf(machineId)) {
    if (queued.kind !== 'machine.attach') continue;
    const input: TaskInputs['machine.attach'] = JSON.parse(queued.row.input_json);
    taken.add(input.slot);
  }
  return taken;
}

/** `maxSlots` when all are taken. */
export function firstFreeSlot(taken: ReadonlySet<number>): number {
  for (let slot = 0; slot < maxSlots; slot++) if (!taken.has(slot)) return slot;
  return maxSlots;
}

/** @throws machine_adopted */
export function assertManaged(machine: MachineRow): void {
  if (machine.managed === 1) return;
  throw new CalotypeError('machine_adopted', undefined, {
    machineId: machine.id,
    remedy: 'Do it where the machine is run; a machine that is started again is found by itself.',
  });
}

/**
 * Adds the task that attaches the drive, behind the one that makes it.
 * @throws not_found, forbidden, machine_not_ready, machine_adopted, slot_taken when there is no slot left
 */
export async function addAttachment(
  context: Context,
  tx: Tx,
  add: AddTask,
  caller: Caller,
  target: { readonly machineId: MachineId; readonly driveId: DriveId },
): Promise<ActiveTask> {
  const { machineId, driveId } = target;
  const machine = await machineRow(tx, caller, machineId);
  assertMachineReady(context, machine);
  assertManaged(machine);
  const slot = firstFreeSlot(await takenSlots(context, tx, machineId));
  if (slot === maxSlots) {
    throw new CalotypeError('slot_taken', `The machine ${machine.name} has no slot left.`, { machineId });
  }
  const own = (await slotsOf(tx, machineId)).map((known) => known.driveId);
  return add({
    kind: 'machine.attach',
    input: { driveId, slot },
    driveIds: [...own, driveId],
    machineId,
    objectKind: 'machine',
    objectId: machineId,
    owner: ownerOf(caller, machine.project_id),
    event: { detail: { name: machine.name, driveId, slot } },
  });
}
