/**
 * Puts a machine back to one of its snapshots, or another machine onto it. The guest goes on from that instant where its
 * memory was kept, else it starts afresh if it ran before. Newer snapshots stay; the state before is kept unless unwanted.
 *
 * Crash: every step finds what an earlier attempt did. What the machine was doing is written down before it is stopped, and
 * from the first step to the last nothing lets its guest run on old memory over new disks.
 */

import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows, setBasedOn } from '../catalog/drives.ts';
import {
  attachDrive,
  findMachineRow,
  insertMachineSnapshot,
  keptMemoryOf,
  setPower,
  slotsOf,
  updateMachine,
} from '../catalog/machines.ts';
import type { MachineRow, MemoryFileRow } from '../catalog/schema.ts';
import { findParts, findSnapshot, insertSnapshot, type SnapshotRecord } from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import type { MachinePower } from '../core/states.ts';
import { nowUs } from '../core/time.ts';
import type { MachineProcess } from '../qemu/machine-process.ts';
import {
  assertMachineReady,
  assertNotBusy,
  assertSnapshotReady,
  machineRow,
  ownerOf,
  readableSnapshot,
} from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Compaction } from './compaction.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { fitName } from './labels.ts';
import { bringDown, bringUp } from './machine-power.ts';
import { assertWhole, planOther, planOwn } from './machine-revert-plan.ts';
import { describeMachine, type MachinePoints, recordTaken, takeMachine } from './machine-snapshots.ts';
import { assertRestorable, assertSameHardware, bringUpFromMemory } from './memory-restore.ts';
import { sweepMemory } from './memory-save.ts';
import { replayTask } from './replay.ts';
import { assertRoom } from './room.ts';

export interface MachineRevertRequest {
  /** Keep the state before as a snapshot; default true. */
  readonly keepSafety?: boolean;
  /** Another machine of the project, whose drives are replaced slot by slot. */
  readonly machineId?: MachineId;
  /** Go on from the memory, where there is some; default true. */
  readonly memory?: boolean;
  /** The guest is to stand still afterwards, whatever it did before; default false. */
  readonly paused?: boolean;
}

export interface MachineRevertInput {
  readonly snapshotId: SnapshotId;
  readonly machineId: MachineId;
  readonly targets: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId; keepAs: DriveSnapshotId | null }[];
  /** Drives that were detached since, and come back. */
  readonly attach: readonly { slot: number; driveId: DriveId }[];
  /** Drives that were attached since, and are left as they are. */
  readonly untouched: readonly DriveId[];
  readonly memory: boolean;
  readonly paused: boolean;
  readonly safety: {
    readonly snapshotId: SnapshotId;
    /** For drives that were not attached, and so have no part in what the guest was doing. */
    readonly detachedSnapshotId: SnapshotId;
    readonly name: string;
    readonly points: MachinePoints['points'];
  } | null;
  /** What the machine did when the revert began; null before. */
  readonly before: MachinePower | null;
  /** The guest was about to be let go: it may have written since, so that nothing is done over. */
  readonly letGo: boolean;
}

export function revertMachine(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  input: MachineRevertRequest = {},
  options?: CreateOptions,
): Promise<Task> {
  const { engine, runner } = context;
  const first = async (): Promise<Task> => {
    const space = await engine.space();
    const task = await runner.change(async (tx, add) => {
      const snapshot = await readableSnapshot(tx, caller, id);
      assertSnapshotReady(context, snapshot);
      assertWhole(snapshot);
      const machineId = input.machineId ?? snapshot.machine_id;
      if (machineId === null) throw new CalotypeError('invalid_request', 'This is no snapshot of a machine.');
      const machine = await machineRow(tx, caller, machineId);
      assertMachineReady(context, machine);
      assertNotBusy(context, machine, options);
      if (machine.managed === 0) {
        throw new CalotypeError('machine_adopted', 'Only a machine that this server runs can be reverted.', {
          machineId,
          remedy: 'Clone the snapshot to a machine of its own.',
        });
      }
      const own = machineId === snapshot.machine_id;
      const plan = own
        ? await planOwn(context, tx, caller, snapshot, machine)
        : await planOther(context, tx, snapshot, machine);
      assertRoom(space);
      const withMemory = own && (input.memory ?? true) && snapshot.machine?.memory?.state === 'kept';
      if (withMemory)
        assertSameHardware(JSON.parse(snapshot.machine?.hardware_json ?? '{}'), JSON.parse(machine.hardware_json));
      const keepSafety = input.keepSafety ?? true;
      const targets = plan.targets.map((target) => ({
        ...target,
        keepAs: keepSafety ? newId<DriveSnapshotId>() : null,
      }));
      const made: MachineRevertInput = {
        snapshotId: id,
        machineId,
        targets,
        attach: plan.attach,
        untouched: plan.untouched,
        memory: withMemory,
        paused: input.paused ?? false,
        safety: keepSafety
          ? {
              snapshotId: newId<SnapshotId>(),
              detachedSnapshotId: newId<SnapshotId>(),
              name: fitName(`before revert to ${snapshot.name}`, ''),
              points: targets.flatMap(({ driveId, keepAs }) =>
                keepAs === null ? [] : { driveId, driveSnapshotId: keepAs },
              ),
            }
          : null,
        before: null,
        letGo: false,
      };
      const added = await add({
        kind: 'machine.revert',
        input: made,
        driveIds: [
          ...new Set([
            ...made.targets.map((target) => target.driveId),
            ...plan.untouched,
            // So that a deletion of the snapshot waits, and finds it used.
            ...snapshot.parts.map((part) => part.drive_id),
          ]),
        ],
        machineId,
        objectKind: 'machine',
        objectId: machineId,
        owner: ownerOf(caller, machine.project_id),
        event: { detail: { name: machine.name, snapshotId: id, to: snapshot.name, memory: made.memory } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: machineId });
      return added;
    });
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

export function registerMachineReverts(context: Context, compaction: Compaction): void {
  const { runner } = context;
  runner.register('machine.revert', {
    cancellable: false,
    pausable: false,
    run: (task, input) => new Revert(context, task, input).run(),
    async after(task) {
      await sweepMemory(context);
      compaction.consider(task.driveIds);
    },
  });
}

class Revert {
  readonly #context: Context;
  readonly #task: ActiveTask;
  #input: MachineRevertInput;

  constructor(context: Context, task: ActiveTask, input: MachineRevertInput) {
    this.#context = context;
    this.#task = task;
    this.#input = input;
  }

  #step(name: string): void {
    this.#context.config.onStep?.(name);
  }

  async run(): Promise<undefined> {
    const { catalog, machines } = this.#context;
    const machine = await findMachineRow(catalog.db, this.#input.machineId);
    const snapshot = await findSnapshot(catalog.db, this.#input.snapshotId);
    if (machine === undefined) throw notFound('machine', this.#input.machineId);
    if (snapshot === undefined) throw notFound('snapshot', this.#input.snapshotId);
    const memory = this.#input.memory ? await keptMemoryOf(catalog.db, snapshot.id) : undefined;
    if (this.#input.letGo) {
      await this.#letGo(machine, snapshot, memory !== undefined, machines.find(machine.id));
      return undefined;
    }
    if (memory !== undefined) {
      const taken = JSON.parse(snapshot.machine?.hardware_json ?? '{}');
      await assertRestorable(this.#context, memory, taken, JSON.parse(machine.hardware_json));
    }
    if (this.#input.before === null) {
      const before = machines.find(machine.id)?.power ?? 'off';
      this.#input = { ...this.#input, before };
      await this.#context.runner.keepInput(this.#task, this.#input);
    }
    const before = this.#input.before ?? 'off';
    await this.#keepStateBefore(machine, before);
    this.#step('machine.kept');
    // Its drives go on being served: they are put back under their exports.
    await machines.end(machine.id);
    this.#step('machine.down');
    const power = memory === undefined ? before : (snapshot.machine?.power ?? before);
    const running = await this.#bringBack(machine, power, memory);
    if (running !== undefined) {
      this.#input = { ...this.#input, letGo: true };
      await this.#context.runner.keepInput(this.#task, this.#input);
    }
    this.#step('machine.up');
    await this.#letGo(machine, snapshot, memory !== undefined, running);
    return undefined;
  }

  /** Drives and process as at the snapshot, the guest not running yet. */
  async #bringBack(
    machine: MachineRow,
    power: MachinePower,
    memory: MemoryFileRow | undefined,
  ): Promise<MachineProcess | undefined> {
    try {
      if (memory === undefined) {
        await this.#revertDrives(machine);
        this.#step('machine.reverted');
        return power === 'off' ? undefined : await bringUp(this.#context, machine);
      }
      const reverting = this.#revertDrives(machine).then(() => this.#step('machine.reverted'));
      // A guest that stands still does nothing with its drives: its memory is loaded while they are put back, unless some
      // of them have yet to become its own.
      if (this.#input.attach.length > 0) await reverting;
      const [reverted, running] = await Promise.allSettled([
        reverting,
        bringUpFromMemory(this.#context, machine, memory),
      ]);
      if (reverted.status === 'rejected') throw reverted.reason;
      if (running.status === 'rejected') throw running.reason;
      return running.value;
    } catch (error) {
      await bringDown(this.#context, machine);
      throw error;
    }
  }

  /** The machine stands at the instant; its guest goes on, or starts. One that died meanwhile stays off. */
  async #letGo(
    machine: MachineRow,
    snapshot: SnapshotRecord,
    withMemory: boolean,
    running: MachineProcess | undefined,
  ): Promise<void> {
    const then = snapshot.machine?.power ?? this.#input.before;
    // A guest without its memory starts, even if it was paused: there is nothing to be paused in.
    const goesOn = !this.#input.paused && (!withMemory || then === 'running');
    if (running !== undefined && goesOn) await running.qmp.execute('cont');
    this.#step('machine.let-go');
    await this.#conclude(machine, running === undefined ? 'off' : goesOn ? 'running' : 'paused');
  }

  /** With the memory of a guest that has one; it does not run on afterwards. Without, the engine keeps it with the revert. */
  async #keepStateBefore(machine: MachineRow, before: MachinePower): Promise<void> {
    const { safety } = this.#input;
    const { catalog } = this.#context;
    if (safety === null || before === 'off') return;
    if ((await findSnapshot(catalog.db, safety.snapshotId))?.state === 'available') return;
    const covered = new Set(safety.points.map((point) => point.driveId));
    const slots = await slotsOf(catalog.db, machine.id);
    const attached = new Set(slots.map((slot) => slot.driveId));
    const plan: MachinePoints = {
      snapshotId: safety.snapshotId,
      machineId: machine.id,
      // A drive that is not attached has no part in what the guest does: the engine keeps it with the revert.
      points: safety.points.filter((point) => attached.has(point.driveId)),
      excluded: slots.map((slot) => slot.driveId).filter((driveId) => !covered.has(driveId)),
      memory: true,
      quiesce: 'never',
      before,
    };
    await takeMachine(this.#context, this.#task, plan, { stayStill: true }, async (tx, taken) => {
      await this.#insertSafety(
        tx,
        machine,
        plan.points.map((point) => point.driveId),
        { id: safety.snapshotId, excluded: plan.excluded },
      );
      await recordTaken(this.#context, tx, plan, taken, { moveMarkers: true });
    });
  }

  async #insertSafety(
    tx: Tx,
    machine: MachineRow,
    driveIds: readonly DriveId[],
    as: { id: SnapshotId; excluded: readonly DriveId[] },
  ): Promise<void> {
    const { safety } = this.#input;
    if (safety === null || (await findSnapshot(tx, as.id)) !== undefined) return;
    const ofMachine = as.id === safety.snapshotId;
    const drives = await findDriveRows(tx, driveIds);
    const parts = safety.points.flatMap(({ driveId, driveSnapshotId: id }) => {
      const drive = drives.get(driveId);
      if (drive === undefined) return [];
      const { based_on: parentId, size_bytes: sizeBytes, name: driveName } = drive;
      return { id, driveId, driveName, parentId, sizeBytes, changedBytes: null };
    });
    await insertSnapshot(tx, {
      id: as.id,
      projectId: machine.project_id,
      name: safety.name,
      description: '',
      state: 'available',
      meta: '{}',
      origin: 'safety',
      createdBy: this.#task.row.user_id,
      machineId: ofMachine ? machine.id : null,
      tags: [],
      parts,
      at: nowUs(),
    });
    if (!ofMachine) return;
    await insertMachineSnapshot(tx, {
      ...(await describeMachine(tx, machine)),
      snapshot_id: as.id,
      excluded_json: JSON.stringify(as.excluded),
      power: 'off',
      reason: 'The machine was off.',
      frozen_us: null,
      pause_us: null,
    });
  }

  async #revertDrives(machine: MachineRow): Promise<void> {
    const { catalog, engine } = this.#context;
    const { targets, safety, attach, snapshotId } = this.#input;
    const ids = targets.map((target) => target.driveSnapshotId);
    const found = await findParts(catalog.db, ids);
    const gone = ids.find((id) => !found.some((part) => part.id === id));
    if (gone !== undefined) throw notFound('drive snapshot', gone);
    const kept =
      safety === null
        ? []
        : await findParts(
            catalog.db,
            safety.points.map((point) => point.driveSnapshotId),
          );
    const keptBefore = new Set(kept.map((part) => part.id));
    const wanted = targets.map((target) =>
      target.keepAs !== null && keptBefore.has(target.keepAs) ? { ...target, keepAs: null } : target,
    );
    await engine.revert(this.#task.row.id, wanted, async (tx) => {
      const left = wanted.filter((target) => target.keepAs !== null).map((target) => target.driveId);
      if (safety !== null && left.length > 0) {
        const id = keptBefore.size === 0 ? safety.snapshotId : safety.detachedSnapshotId;
        await this.#insertSafety(tx, machine, left, { id, excluded: [] });
      }
      for (const { driveId, driveSnapshotId } of wanted) {
        await setBasedOn(tx, driveId, driveSnapshotId, true);
      }
      for (const slot of attach) await attachDrive(tx, machine.id, slot);
      const own = (await findSnapshot(tx, snapshotId))?.machine_id === machine.id;
      await updateMachine(tx, machine.id, { based_on: own ? snapshotId : null, updated_at: nowUs() });
      await setPower(tx, machine.id, { power: 'off', startedAt: null });
    });
    this.#step('machine.reverted');
  }

  async #conclude(machine: MachineRow, power: MachinePower): Promise<void> {
    const { safety, untouched, attach, snapshotId, memory, letGo } = this.#input;
    const result = {
      snapshotId,
      power,
      memory,
      safetySnapshotId: safety?.snapshotId ?? null,
      untouchedDriveIds: untouched,
      attachedDriveIds: attach.map((slot) => slot.driveId),
    };
    await this.#context.catalog.write(async (tx) => {
      // Off after it was let go: it died, and its error says so.
      if (power !== 'off' || !letGo) {
        await setPower(tx, machine.id, { power, startedAt: power === 'off' ? null : nowUs(), error: null });
      }
      await this.#task.conclude(tx, result, { event: 'machine.reverted', detail: result });
    });
  }
}
