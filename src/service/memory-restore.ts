/** Brings a machine up with the memory of a snapshot, so that its guest goes on from that instant. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { MachineRow, MemoryFileRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { MachineHardware } from '../core/model.ts';
import type { MachineProcess } from '../qemu/machine-process.ts';
import { sendMemory, verifyMemory } from '../qemu/memory-file.ts';
import type { QmpEvent } from '../qemu/qmp.ts';
import type { Context } from './context.ts';
import { bringDown, bringUp } from './machine-power.ts';
import { memoryPath } from './memory-save.ts';

/** @throws memory_not_restorable */
export function assertSameHardware(taken: MachineHardware, target: MachineHardware): void {
  if (
    taken.cpus !== target.cpus ||
    taken.memoryBytes !== target.memoryBytes ||
    taken.machineType !== target.machineType
  ) {
    throw new CalotypeError('memory_not_restorable', 'The machine has changed since: its processors, memory or type.', {
      taken,
      now: target,
      remedy: 'Revert without the memory.',
    });
  }
}

/**
 * Looks at everything that could be in the way, before anything is changed.
 * @throws memory_damaged, memory_not_restorable, machine_type_missing
 */
export async function assertRestorable(
  context: Context,
  memory: MemoryFileRow,
  taken: MachineHardware,
  target: MachineHardware,
): Promise<void> {
  const types = await context.machines.machineTypes();
  if (!types.has(taken.machineType)) {
    throw new CalotypeError('machine_type_missing', undefined, { machineType: taken.machineType });
  }
  const { accelerator } = await context.machines.accelerator();
  if (accelerator !== memory.accelerator) {
    throw new CalotypeError(
      'memory_not_restorable',
      `It was taken with ${memory.accelerator}; guests run with ${accelerator} here.`,
      {
        remedy: 'Revert without the memory.',
      },
    );
  }
  assertSameHardware(taken, target);
  await verifyMemory(memoryPath(context, memory.id), { checksum: memory.checksum ?? 0 });
}

/** The guest stands still when this resolves, exactly where it was. @throws memory_damaged, machine_failed */
export async function bringUpFromMemory(
  context: Context,
  machine: MachineRow,
  memory: MemoryFileRow,
): Promise<MachineProcess> {
  const running = await bringUp(context, machine, { incoming: true });
  try {
    const socketPath = join(running.directory, 'incoming.sock');
    await rm(socketPath, { force: true });
    const loaded = whenLoaded(running);
    await running.qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] });
    await running.qmp.execute('migrate-incoming', { uri: `unix:${socketPath}` });
    await Promise.all([
      sendMemory(memoryPath(context, memory.id), socketPath, { checksum: memory.checksum ?? 0 }),
      loaded,
    ]);
    return running;
  } catch (error) {
    await bringDown(context, machine);
    throw error;
  }
}

function whenLoaded(running: MachineProcess): Promise<void> {
  const done = new Promise<void>((resolve, reject) => {
    const finish = (error?: CalotypeError): void => {
      running.off('qmp', onEvent);
      running.off('end', onEnd);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onEnd = (end: { lastWords: string }): void =>
      finish(new CalotypeError('machine_failed', `QEMU could not take up the memory. ${end.lastWords}`));
    const onEvent = (event: QmpEvent): void => {
      if (event.event !== 'MIGRATION') return;
      if (event.data?.status === 'completed') finish();
      else if (event.data?.status === 'failed')
        finish(new CalotypeError('machine_failed', 'QEMU could not take up the memory.'));
    };
    running.on('qmp', onEvent);
    running.once('end', onEnd);
  });
  done.catch(() => undefined);
  return done;
}
