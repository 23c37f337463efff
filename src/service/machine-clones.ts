/** New machines made from snapshots and images of machines: drives, address and identity are new; on request the guest goes on in them. */
import type { Tx } from '../catalog/catalog.ts';
import { insertDrive, moveDrive } from '../catalog/drives.ts';
import { insertMachine, keptMemoryOf, type MachineRecord, setPower, updateMachine } from '../catalog/machines.ts';
import type { MachineRow, MemoryFileRow } from '../catalog/schema.ts';
import { findParts, findSnapshot } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import {
  type DriveId,
  type DriveSnapshotId,
  type ImageId,
  type MachineId,
  newId,
  type ProjectId,
  type SnapshotId,
} from '../core/ids.ts';
import type { Machine, MachineBoot, MachineHardware, MachineKind } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import type { MachinePower } from '../core/states.ts';
import { nowUs } from '../core/time.ts';
import { assertSnapshotReady, ownerOf, readableSnapshot } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, type CheckedLabels, checkLabels, fitName } from './labels.ts';
import { newMacAddress } from './machine-hardware.ts';
import { bringDown } from './machine-power.ts';
import { assertWhole } from './machine-revert-plan.ts';
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
  /** `memory`: its guest goes on from the memory of the snapshot. */
  readonly from: { readonly snapshotId: SnapshotId; readonly memory: boolean } | { readonly imageId: ImageId };
  readonly drives: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId; sizeBytes: number }[];
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
      await assertNameFree(tx, options, 'machine', caller.projectId, name);
      assertRoom(space);
      const then: { slot: number; driveId: DriveId }[] = JSON.parse(machine.slots_json);
      const { record: made, drives } = await insertMachineLike(tx, {
        id: machineId,
        projectId: caller.projectId,
        name,
        ...labels,
        kind: machine.kind,
        hardware: JSON.parse(machine.hardware_json),
        boot: JSON.parse(machine.boot_json),
        sourceId: id,
        imageId: null,
        parts: snapshot.parts.map((part) => ({
          slot: then.find((known) => known.driveId === part.drive_id)?.slot ?? 0,
          driveSnapshotId: part.id,
          sizeBytes: part.size_bytes,
        })),
      });
      const added = await add({
        kind: 'machine.clone',
        input: { from: { snapshotId: id, memory }, drives, letGo: false },
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

/** Writes a machine with new drives in its slots, which are yet to be filled. */
export async function insertMachineLike(
  tx: Tx,
  machine: CheckedLabels & {
    readonly id: MachineId;
    readonly projectId: ProjectId;
    readonly name: string;
    readonly kind: MachineKind;
    readonly hardware: Omit<MachineHardware, 'macAddress'>;
    readonly boot: MachineBoot;
    /** The snapshot, or the image, that the parts are of. */
    readonly sourceId: SnapshotId | null;
    readonly imageId: ImageId | null;
    readonly parts: readonly { slot: number; driveSnapshotId: DriveSnapshotId; sizeBytes: number }[];
  },
): Promise<{ record: MachineRecord; drives: MachineCloneInput['drives'] }> {
  const { parts, hardware, imageId, ...values } = machine;
  const at = nowUs();
  const drives = parts.map((part) => ({ ...part, driveId: newId<DriveId>() }));
  for (const { driveId, slot, driveSnapshotId, sizeBytes } of drives) {
    await insertDrive(tx, {
      id: driveId,
      projectId: machine.projectId,
      name: fitName(machine.name, `-${slot}`),
      description: '',
      meta: '{}',
      tags: [],
      sizeBytes,
      sourceId: imageId === null ? driveSnapshotId : null,
      imageId,
      at,
    });
  }
  const record = await insertMachine(tx, {
    ...values,
    managed: true,
    hardware: { ...hardware, macAddress: newMacAddress() },
    imageId,
    slots: drives.map(({ slot, driveId }) => ({ slot, driveId })),
    at,
  });
  return {
    record,
    drives: drives.map(({ driveId, driveSnapshotId, sizeBytes }) => ({ driveId, driveSnapshotId, sizeBytes })),
  };
}

/** What its guest is to go on from, of a snapshot that is still whole. @throws not_found, memory_not_restorable, memory_damaged */
async function memoryToGoOnFrom(
  context: Context,
  machine: MachineRow,
  from: { snapshotId: SnapshotId; memory: boolean },
  drives: MachineCloneInput['drives'],
): Promise<{ file: MemoryFileRow; power: MachinePower } | undefined> {
  const { db } = context.catalog;
  const snapshot = await findSnapshot(db, from.snapshotId);
  if (snapshot?.machine == null) throw notFound('snapshot', from.snapshotId);
  const file = from.memory ? await keptMemoryOf(db, from.snapshotId) : undefined;
  if (from.memory && file === undefined) throw new CalotypeError('memory_not_restorable');
  if (file !== undefined) {
    const taken: MachineHardware = JSON.parse(snapshot.machine.hardware_json);
    await assertRestorable(context, file, taken, JSON.parse(machine.hardware_json));
  }
  const parts = await findParts(
    db,
    drives.map((drive) => drive.driveSnapshotId),
  );
  if (parts.length !== drives.length) throw notFound('snapshot', from.snapshotId);
  return file === undefined ? undefined : { file, power: snapshot.machine.power };
}

export function registerMachineClones(context: Context): void {
  const { catalog, engine, machines, runner } = context;
  runner.register('machine.clone', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const { from, drives, letGo } = input;
      const machine = await machineOf(context, task);
      const memory = 'imageId' in from ? undefined : await memoryToGoOnFrom(context, machine, from, drives);
      for (const drive of drives) {
        await engine.clone(drive, async (tx) => {
          await moveDrive(tx, { id: drive.driveId, from: 'creating', to: 'available', error: null, at: nowUs() });
        });
      }
      context.config.onStep?.('machine.cloned');
      let running = machines.find(machine.id);
      if (memory !== undefined && !letGo) {
        // What an earlier attempt brought up may wait for its memory still, and has not run.
        if (running !== undefined) await bringDown(context, machine);
        running = await bringUpFromMemory(context, machine, memory.file);
        await runner.keepInput(task, { ...input, letGo: true });
      }
      context.config.onStep?.('machine.up');
      if (running !== undefined && memory?.power === 'running') await running.qmp.execute('cont');
      context.config.onStep?.('machine.let-go');
      await catalog.write(async (tx) => {
        await updateMachine(tx, machine.id, { state: 'available', updated_at: nowUs() }, ['creating']);
        // One that died after it was let go is off, and its error says so.
        if (running !== undefined && memory !== undefined) {
          await setPower(tx, machine.id, { power: memory.power, startedAt: nowUs() });
        }
        const driveIds = drives.map((drive) => drive.driveId);
        await task.conclude(
          tx,
          { machineId: machine.id, driveIds },
          {
            event: 'machine.cloned',
            detail: 'imageId' in from ? { imageId: from.imageId } : { snapshotId: from.snapshotId },
          },
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
