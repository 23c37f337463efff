/** Carries out what makes, runs and stops machines, and plugs drives in and out. */
import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows } from '../catalog/drives.ts';
import { exportsOfMachine } from '../catalog/exports.ts';
import {
  attachDrive,
  attachmentOf,
  detachDrive,
  findMachineRow,
  forgetMachine,
  setPower,
  slotsOf,
  updateMachine,
} from '../catalog/machines.ts';
import type { DriveRow, MachineRow } from '../catalog/schema.ts';
import { CalotypeError, notFound, type StoredError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { MachinePower } from '../core/states.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, assertMachineReady } from './access.ts';
import type { ActiveTask, Outcome } from './active-task.ts';
import { type Context, runningMachine } from './context.ts';
import { bringDown, bringUp, endServing, serveDrive } from './machine-power.ts';

const defaultUnplugTimeoutMs = 15_000;

export type StopMode = 'graceful' | 'guest' | 'power';

/** @throws not_found */
export async function machineOf(context: Context, task: ActiveTask): Promise<MachineRow> {
  const id = task.machineId;
  const row = id === null ? undefined : await findMachineRow(context.catalog.db, id);
  if (row === undefined) throw notFound('machine', id ?? '');
  return row;
}

/** A machine ended by itself: what served its drives is to go, once nothing else changes it. */
export function settleMachine(context: Context, machine: MachineRow): void {
  const change = context.runner.change(async (tx, add) => {
    await add({
      kind: 'machine.stop',
      input: { mode: 'power', timeoutMs: 0, settle: true },
      driveIds: (await slotsOf(tx, machine.id)).map((slot) => slot.driveId),
      machineId: machine.id,
      objectKind: 'machine',
      objectId: machine.id,
      owner: { projectId: machine.project_id, userId: null, via: 'system' },
      event: null,
    });
  });
  change.catch((error) =>
    context.logger.error({ err: error, machineId: machine.id }, 'a machine could not be cleared up'),
  );
}

/**
 * A guest has let go of a drive, or may have. Where no task took note of it, as the guest was asked so long ago that the
 * task gave up, or no server ran, the drive is detached now.
 */
export async function settleUnplugged(context: Context, id: MachineId): Promise<void> {
  const { catalog, logger, machines, runner } = context;
  try {
    // What is under way may be why.
    for (const task of runner.queueOf(id)) if (task.started) await runner.wait(task, Number.POSITIVE_INFINITY);
    const there = await machines.find(id)?.slots();
    const machine = await findMachineRow(catalog.db, id);
    if (there === undefined || machine === undefined) return;
    const slots = await slotsOf(catalog.db, id);
    for (const { slot, driveId } of slots) {
      if (there.has(slot)) continue;
      await runner.change((_tx, add) =>
        add({
          kind: 'machine.detach',
          input: { driveId, late: true },
          driveIds: slots.map((known) => known.driveId),
          machineId: id,
          objectKind: 'machine',
          objectId: id,
          owner: { projectId: machine.project_id, userId: null, via: 'system' },
          event: null,
        }),
      );
    }
  } catch (error) {
    if (!runner.closing) logger.error({ err: error, machineId: id }, 'what a guest let go of could not be looked at');
  }
}

/** Machines that were being made when it failed: gone if that was wished, else kept with the reason. */
export async function abandonMachine(tx: Tx, task: ActiveTask, error: StoredError, cancelled: boolean): Promise<void> {
  const id = task.machineId;
  if (id === null) return;
  if (cancelled) await forgetMachine(tx, id, nowUs());
  else {
    const change = { state: 'error', error_json: JSON.stringify(error), updated_at: nowUs() } as const;
    await updateMachine(tx, id, change, ['creating']);
  }
}

export function registerMachineTasks(context: Context): void {
  const { catalog, machines, runner } = context;
  const { unplugTimeoutMs = defaultUnplugTimeoutMs } = context.config;
  const plain = { cancellable: false, pausable: false } as const;
  const step = (name: string): void => context.config.onStep?.(name);

  function conclude(task: ActiveTask, machine: MachineRow, power: MachinePower, outcome: Outcome): Promise<void> {
    return catalog.write(async (tx) => {
      const now = await findMachineRow(tx, machine.id);
      const startedAt = power === 'off' ? null : now?.power === 'off' ? nowUs() : undefined;
      await setPower(tx, machine.id, { power, error: null, ...(startedAt === undefined ? {} : { startedAt }) });
      await task.conclude(tx, { power }, outcome);
    });
  }

  runner.register('machine.create', {
    ...plain,
    async run(task) {
      const machine = await machineOf(context, task);
      step('machine.created');
      await catalog.write(async (tx) => {
        await updateMachine(tx, machine.id, { state: 'available', updated_at: nowUs() }, ['creating']);
        await task.conclude(tx, { machineId: machine.id }, { event: 'machine.created' });
      });
      return undefined;
    },
    abandon: (tx, task, _input, error, cancelled) => abandonMachine(tx, task, error, cancelled),
  });

  runner.register('machine.start', {
    ...plain,
    async run(task, { paused }) {
      const machine = await machineOf(context, task);
      // The task before may have been the one to make it, and have failed.
      assertMachineReady(context, machine);
      const running = machines.find(machine.id) ?? (await bringUp(context, machine));
      if (!paused && running.power !== 'running') await running.qmp.execute('cont');
      step('machine.started');
      // One that runs already is not paused.
      await conclude(task, machine, paused ? running.power : 'running', { event: 'machine.started' });
      return undefined;
    },
  });

  runner.register('machine.stop', {
    ...plain,
    async run(task, { mode, timeoutMs, settle }) {
      const machine = await machineOf(context, task);
      const running = runningMachine(context, machine.id);
      // It ended by itself, and was started again since.
      if (settle && running !== undefined) return undefined;
      if (settle) {
        await bringDown(context, machine);
        return undefined;
      }
      let by = 'power';
      if (running !== undefined && mode !== 'power') {
        const stopped = await machines.onPurpose(machine.id, async () => {
          if (running.power !== 'running') await running.qmp.execute('cont');
          await running.pressPowerButton();
          return running.whenEnded(timeoutMs);
        });
        if (stopped) by = 'guest';
        else if (mode === 'guest') {
          throw new CalotypeError('guest_did_not_stop', undefined, {
            machineId: machine.id,
            timeoutMs,
            remedy: 'Stop it with mode `power`, as pulling the plug does.',
          });
        }
      }
      if (machine.managed === 1) await bringDown(context, machine);
      else if (by === 'power') await context.adopted.find(machine.id)?.powerOff();
      await conclude(task, machine, 'off', { event: 'machine.stopped', detail: { by } });
      return undefined;
    },
  });

  runner.register('machine.pause', {
    ...plain,
    async run(task) {
      const machine = await machineOf(context, task);
      await mustRun(machine).qmp.execute('stop');
      await conclude(task, machine, 'paused', { event: 'machine.paused' });
      return undefined;
    },
  });

  runner.register('machine.resume', {
    ...plain,
    async run(task) {
      const machine = await machineOf(context, task);
      await mustRun(machine).qmp.execute('cont');
      await conclude(task, machine, 'running', { event: 'machine.resumed' });
      return undefined;
    },
  });

  runner.register('machine.reset', {
    ...plain,
    async run(task) {
      const machine = await machineOf(context, task);
      const running = mustRun(machine);
      await running.qmp.execute('system_reset');
      await conclude(task, machine, running.power, { event: 'machine.reset' });
      return undefined;
    },
  });

  runner.register('machine.attach', {
    ...plain,
    async run(task, { driveId, slot }) {
      const machine = await machineOf(context, task);
      const drive = (await findDriveRows(catalog.db, [driveId])).get(driveId);
      if (drive === undefined || drive.state === 'deleted') throw notFound('drive', driveId);
      assertDriveReady(context, drive);
      await assertNotElsewhere(machine, slot, drive);
      await assertSlotFree(machine, slot, driveId);
      const running = machines.find(machine.id);
      if (running !== undefined) {
        const served = await serveDrive(context, machine, { slot, driveId });
        try {
          await running.plug(served);
        } catch (error) {
          await stopServing(machine, driveId);
          throw error;
        }
      }
      step('machine.plugged');
      await catalog.write(async (tx) => {
        await attachDrive(tx, machine.id, { slot, driveId });
        await updateMachine(tx, machine.id, { updated_at: nowUs() });
        await task.conclude(tx, { driveId, slot }, { event: 'machine.drive_attached', detail: { driveId, slot } });
      });
      return undefined;
    },
  });

  runner.register('machine.detach', {
    ...plain,
    async run(task, { driveId, late }) {
      const machine = await machineOf(context, task);
      const attached = (await slotsOf(catalog.db, machine.id)).find((known) => known.driveId === driveId);
      const running = machines.find(machine.id);
      if (late && (attached === undefined || (await running?.slots())?.has(attached.slot) !== false)) return undefined;
      if (attached !== undefined && running !== undefined && !(await running.unplug(attached.slot, unplugTimeoutMs))) {
        throw new CalotypeError('drive_busy', 'The guest did not let go of the drive in time.', {
          driveId,
          machineId: machine.id,
          remedy:
            'Unmount it in the guest, or stop the machine first. It is detached as soon as the guest lets go of it.',
        });
      }
      step('machine.unplugged');
      await stopServing(machine, driveId);
      await catalog.write(async (tx) => {
        await detachDrive(tx, driveId);
        await updateMachine(tx, machine.id, { updated_at: nowUs() });
        await task.conclude(tx, { driveId }, { event: 'machine.drive_detached', detail: { driveId, late } });
      });
      return undefined;
    },
  });

  /** @throws machine_off */
  function mustRun(machine: MachineRow) {
    const found = runningMachine(context, machine.id);
    if (found === undefined) throw new CalotypeError('machine_off', undefined, { machineId: machine.id });
    return found;
  }

  /** Two may have asked for it at once, both while it was free; one that is there already was taken up after a crash. */
  async function assertNotElsewhere(machine: MachineRow, slot: number, drive: DriveRow): Promise<void> {
    const attached = await attachmentOf(catalog.db, drive.id);
    if (attached === undefined || (attached.machine.id === machine.id && attached.slot === slot)) return;
    throw new CalotypeError('drive_attached', `The drive ${drive.name} is attached to ${attached.machine.name}.`, {
      driveId: drive.id,
      machineId: attached.machine.id,
      slot: attached.slot,
    });
  }

  async function assertSlotFree(machine: MachineRow, slot: number, driveId: string): Promise<void> {
    const taken = (await slotsOf(catalog.db, machine.id)).find((known) => known.slot === slot);
    if (taken === undefined || taken.driveId === driveId) return;
    throw new CalotypeError('slot_taken', undefined, { slot, driveId: taken.driveId });
  }

  async function stopServing(machine: MachineRow, driveId: string): Promise<void> {
    for (const row of await exportsOfMachine(catalog.db, machine.id)) {
      if (row.drive_id === driveId) await endServing(context, row);
    }
  }
}
