/** New machines made from snapshots of machines: drives, address and identity are new; on request the guest goes on in them. */
import { insertDrive, moveDrive } from '../catalog/drives.ts';
import { insertMachine, keptMemoryOf, machineNameExists, setPower, updateMachine } from '../catalog/machines.ts';
import { findParts, findSnapshot } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Machine, MachineBoot, MachineHardware } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertSnapshotReady, ownerOf, readableSnapshot } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { checkLabels, fitName } from './labels.ts';
import { newMacAddress } from './machine-hardware.ts';
import { bringDown } from './machine-power.ts';
import { assertWhole } from './machine-reverts.ts';
import { machineOf } from './machine-tasks.ts';
import { assertRestorable, bringUpFromMemory } from './memory-restore.ts';
import { toMachine } from './objects.ts';
import { replayMachine } from './replay.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';

export interface MachineCloneRequest extends Labels {
  readonly name?: string;
  /** The guest goes on from the memory of the snapshot, instead of starting afresh when it is started; default false. */
  readonly memory?: boolean;
}

export interface MachineCloneInput {
  readonly snapshotId: SnapshotId;
  readonly drives: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId; sizeBytes: number }[];
  readonly memory: boolean;
  /** The guest was about to be let go: it may have written since, so that nothing is done over. */
  readonly letGo: boolean;
}

export function cloneMachine(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  input: MachineCloneRequest,
  options?: CreateOptions,
): Promise<WithTask<'machine', Machine>> {
  const { engine, runner } = context;
  const first = async () => {
    assertMayCreate(caller);
    const wantedName = input.name === undefined ? undefined : checkName(input.name);
    const labels = checkLabels(input);
    const machineId = newId<MachineId>();
    const space = await engine.space();
    const { task, record } = await runner.change(async (tx, add) => {
      const snapshot = await readableSnapshot(tx, caller, id);
      assertSnapshotReady(context, snapshot);
      assertWhole(snapshot);
      const { machine } = snapshot;
      if (machine === null) throw new CalotypeError('invalid_request', 'This is no snapshot of a machine.');
      const memory = input.memory ?? false;
      if (memory && machine.memory?.state !== 'kept') {
        throw new CalotypeError('memory_not_restorable', 'The snapshot holds no memory.', { snapshotId: id });
      }
      const name = wantedName ?? fitName(machine.machine_name, '-clone');
      if (options?.refuseExistingName === true && (await machineNameExists(tx, caller.projectId, name))) {
        throw new CalotypeError('name_taken', `There is a machine named ${name}.`, { name });
      }
      assertRoom(space);
      const at = nowUs();
      const then: { slot: number; driveId: DriveId }[] = JSON.parse(machine.slots_json);
      const drives = [];
      const slots = [];
      for (const part of snapshot.parts) {
        const driveId = newId<DriveId>();
        const slot = then.find((known) => known.driveId === part.drive_id)?.slot ?? 0;
        await insertDrive(tx, {
          id: driveId,
          projectId: caller.projectId,
          name: fitName(name, `-${slot}`),
          description: '',
          meta: '{}',
          tags: [],
          sizeBytes: part.size_bytes,
          sourceId: part.id,
          at,
        });
        drives.push({ driveId, driveSnapshotId: part.id, sizeBytes: part.size_bytes });
        slots.push({ slot, driveId });
      }
      const taken: MachineHardware = JSON.parse(machine.hardware_json);
      const boot: MachineBoot = JSON.parse(machine.boot_json);
      const made = await insertMachine(tx, {
        id: machineId,
        projectId: caller.projectId,
        name,
        ...labels,
        kind: machine.kind,
        managed: true,
        hardware: { ...taken, macAddress: newMacAddress() },
        boot,
        sourceId: id,
        slots,
        at,
      });
      const added = await add({
        kind: 'machine.clone',
        input: { snapshotId: id, drives, memory, letGo: false },
        driveIds: [...drives.map((drive) => drive.driveId), ...snapshot.parts.map((part) => part.drive_id)],
        machineId,
        objectKind: 'machine',
        objectId: machineId,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, snapshotId: id, memory } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: machineId });
      return { task: added, record: made };
    });
    return { task: runner.view(task), machine: toMachine(record, null) };
  };
  return once(context, caller, options, first, (attempt) => replayMachine(context, attempt));
}

export function registerMachineClones(context: Context): void {
  const { catalog, engine, machines, runner } = context;
  runner.register('machine.clone', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const { snapshotId, drives, memory, letGo } = input;
      const machine = await machineOf(context, task);
      const snapshot = await findSnapshot(catalog.db, snapshotId);
      if (snapshot?.machine == null) throw notFound('snapshot', snapshotId);
      const kept = memory ? await keptMemoryOf(catalog.db, snapshotId) : undefined;
      const taken: MachineHardware = JSON.parse(snapshot.machine.hardware_json);
      if (memory && kept === undefined) throw new CalotypeError('memory_not_restorable');
      if (kept !== undefined) await assertRestorable(context, kept, taken, JSON.parse(machine.hardware_json));
      const parts = await findParts(
        catalog.db,
        drives.map((drive) => drive.driveSnapshotId),
      );
      if (parts.length !== drives.length) throw notFound('snapshot', snapshotId);
      for (const drive of drives) {
        await engine.clone(drive, async (tx) => {
          await moveDrive(tx, { id: drive.driveId, from: 'creating', to: 'available', error: null, at: nowUs() });
        });
      }
      context.config.onStep?.('machine.cloned');
      const { power } = snapshot.machine;
      let running = machines.find(machine.id);
      if (kept !== undefined && !letGo) {
        // What an earlier attempt brought up may wait for its memory still, and has not run.
        if (running !== undefined) await bringDown(context, machine);
        running = await bringUpFromMemory(context, machine, kept);
        await runner.keepInput(task, { ...input, letGo: true });
      }
      context.config.onStep?.('machine.up');
      if (running !== undefined && power === 'running') await running.qmp.execute('cont');
      context.config.onStep?.('machine.let-go');
      await catalog.write(async (tx) => {
        await updateMachine(tx, machine.id, { state: 'available', updated_at: nowUs() }, ['creating']);
        // One that died after it was let go is off, and its error says so.
        if (running !== undefined) await setPower(tx, machine.id, { power, startedAt: nowUs() });
        const driveIds = drives.map((drive) => drive.driveId);
        await task.conclude(
          tx,
          { machineId: machine.id, driveIds },
          { event: 'machine.cloned', detail: { snapshotId } },
        );
      });
      return undefined;
    },
    async abandon(tx, task, { drives }, error) {
      const json = JSON.stringify(error);
      const at = nowUs();
      for (const { driveId } of drives)
        await moveDrive(tx, { id: driveId, from: 'creating', to: 'error', error: json, at });
      if (task.machineId === null) return;
      await updateMachine(tx, task.machineId, { state: 'error', error_json: json, updated_at: at }, ['creating']);
    },
  });
}
