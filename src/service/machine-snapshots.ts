/**
 * Snapshots of machines: all drives at one instant, on request with the memory, file systems quiet if the guest's agent
 * helps. The same steps keep the state before a revert.
 */

import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows, setBasedOn } from '../catalog/drives.ts';
import { findMachineRow, insertMachineSnapshot, slotsOf, updateMachine } from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import {
  findSnapshot,
  finishSnapshot,
  insertSnapshot,
  removeIfEmpty,
  removeParts,
  resettleSnapshot,
} from '../catalog/snapshots.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { MachineHardware, QuiesceMode, Snapshot } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import type { MachinePower } from '../core/states.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, assertMachineReady, assertNotBusy, machineRow, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Compaction } from './compaction.ts';
import { type Context, runningMachine } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, checkLabels, compactTime, fitName } from './labels.ts';
import {
  endInterrupted,
  MemorySave,
  recordMemory,
  removeMemoryFiles,
  type SavedMemory,
  sweepMemory,
} from './memory-save.ts';
import { toSnapshot } from './objects.ts';
import { assertQuiescible, quiesce } from './quiesce.ts';
import { replaySnapshot } from './replay.ts';
import { assertRoom } from './room.ts';

export interface MachineSnapshotRequest extends Labels {
  readonly machineId: MachineId;
  readonly name?: string;
  readonly memory?: boolean;
  /** Default `prefer`. */
  readonly quiesce?: QuiesceMode;
  /** Drives that are left out. */
  readonly exclude?: readonly DriveId[];
}

/** What is to be taken, as kept with the task. */
export interface MachinePoints {
  readonly snapshotId: SnapshotId;
  readonly machineId: MachineId;
  readonly points: readonly { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[];
  readonly excluded: readonly DriveId[];
  readonly memory: boolean;
  readonly quiesce: QuiesceMode;
  /** What the machine did when its memory began to be taken; null before. */
  readonly before: MachinePower | null;
}

export function createMachineSnapshot(
  context: Context,
  caller: Caller,
  input: MachineSnapshotRequest,
  options?: CreateOptions,
): Promise<WithTask<'snapshot', Snapshot>> {
  const { engine, machines, runner } = context;
  const first = async () => {
    const wanted = input.name === undefined ? undefined : checkName(input.name);
    const labels = checkLabels(input);
    const excluded = [...new Set(input.exclude ?? [])];
    const id = newId<SnapshotId>();
    const space = await engine.space();
    const { standard } = await machines.machineTypes();
    const { task, record } = await runner.change(async (tx, add) => {
      const machine = await machineRow(tx, caller, input.machineId);
      assertMachineReady(context, machine);
      assertNotBusy(context, machine, options);
      const memory = input.memory ?? false;
      if (memory && machine.managed === 0) {
        throw new CalotypeError(
          'machine_adopted',
          'Memory can be kept of machines that this server runs: no other can be given it back.',
          {
            machineId: machine.id,
            remedy: 'Leave the memory out.',
          },
        );
      }
      if (memory && machine.power === 'off') {
        throw new CalotypeError('machine_off', 'A machine that is off has no memory to keep.', {
          machineId: machine.id,
          remedy: 'Start it, or leave the memory out.',
        });
      }
      // What waits may change what the machine does; then it is looked at when that is done.
      if (!memory && input.quiesce === 'require' && runner.queueOf(machine.id).length === 0) {
        assertQuiescible(runningMachine(context, machine.id), machine);
      }
      const slots = await slotsOf(tx, machine.id);
      for (const driveId of excluded) {
        if (slots.some((slot) => slot.driveId === driveId)) continue;
        throw new CalotypeError('drive_not_attached', undefined, { field: 'exclude', driveId });
      }
      const covered = slots.filter((slot) => !excluded.includes(slot.driveId));
      if (covered.length === 0) {
        throw new CalotypeError(
          'invalid_request',
          'There is no drive to take: the machine has none, or all are left out.',
          {
            field: 'exclude',
          },
        );
      }
      const drives = await findDriveRows(
        tx,
        covered.map((slot) => slot.driveId),
      );
      for (const drive of drives.values()) assertDriveReady(context, drive);
      const at = nowUs();
      const name = wanted ?? fitName(machine.name, `-${compactTime(at)}`);
      await assertNameFree(tx, options, 'snapshot', machine.project_id, name);
      assertRoom(space);
      const parts = covered.flatMap(({ driveId }) => {
        const drive = drives.get(driveId);
        if (drive === undefined) return [];
        return {
          id: newId<DriveSnapshotId>(),
          driveId,
          driveName: drive.name,
          parentId: drive.based_on,
          sizeBytes: drive.size_bytes,
          changedBytes: null,
        };
      });
      const projectId = machine.project_id;
      const createdBy = caller.userId;
      const made = {
        id,
        projectId,
        name,
        ...labels,
        state: 'creating',
        origin: 'manual',
        createdBy,
        parts,
        at,
      } as const;
      await insertSnapshot(tx, { ...made, machineId: machine.id });
      await insertMachineSnapshot(tx, {
        ...(await describeMachine(tx, machine, machine.managed === 0 ? standard : undefined)),
        snapshot_id: id,
        excluded_json: JSON.stringify(excluded),
        power: machine.power,
        reason: '',
        frozen_us: null,
        pause_us: null,
      });
      const plan: MachinePoints = {
        snapshotId: id,
        machineId: machine.id,
        points: parts.map((part) => ({ driveId: part.driveId, driveSnapshotId: part.id })),
        excluded,
        memory,
        quiesce: input.quiesce ?? 'prefer',
        before: null,
      };
      const added = await add({
        kind: 'machine.snapshot',
        input: plan,
        driveIds: slots.map((slot) => slot.driveId),
        machineId: machine.id,
        objectKind: 'snapshot',
        objectId: id,
        owner: ownerOf(caller, projectId),
        event: { detail: { name, machineId: machine.id, memory, quiesce: plan.quiesce } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'snapshot', objectId: id });
      const record = await findSnapshot(tx, id);
      if (record === undefined) throw notFound('snapshot', id);
      return { task: added, record };
    });
    return { task: runner.view(task), snapshot: toSnapshot(record) };
  };
  return once(context, caller, options, first, (attempt) => replaySnapshot(context, attempt));
}

/** What a snapshot keeps of the machine beside its drives. Made anew from it, an adopted machine is one as any other. */
export async function describeMachine(tx: Tx, machine: MachineRow, standardType?: string) {
  const hardware: MachineHardware = JSON.parse(machine.hardware_json);
  return {
    machine_id: machine.id,
    machine_name: machine.name,
    parent_id: machine.based_on,
    kind: machine.kind,
    boot_json: machine.boot_json,
    hardware_json: JSON.stringify(standardType === undefined ? hardware : { ...hardware, machineType: standardType }),
    slots_json: JSON.stringify(await slotsOf(tx, machine.id)),
  };
}

export interface Taken {
  readonly power: MachinePower;
  readonly consistency: 'memory' | 'filesystem' | 'crash';
  readonly reason: string;
  readonly frozenUs: number | null;
  readonly pauseUs: number | null;
}

/**
 * Takes all points of a plan at one instant, and the memory if it is wanted. `commit` makes the snapshot true, once all of
 * it is durable. `stayStill`: the guest does not run on afterwards. Whatever fails, the guest goes on as before and
 * nothing stays; an attempt that a crash interrupted is removed, and the instant is taken anew.
 */
export async function takeMachine(
  context: Context,
  task: ActiveTask,
  plan: MachinePoints,
  options: { stayStill: boolean },
  commit: (tx: Tx, taken: Taken) => Promise<void>,
): Promise<void> {
  const { catalog, engine, machines } = context;
  const machine = await findMachineRow(catalog.db, plan.machineId);
  if (machine === undefined) throw notFound('machine', plan.machineId);
  await assertSameDrives(context, plan);
  await forgetAttempt(context, plan);
  const running = machines.find(plan.machineId);
  const power = runningMachine(context, plan.machineId)?.power ?? 'off';
  if (!plan.memory || running === undefined) {
    if (plan.memory) throw new CalotypeError('machine_off', undefined, { machineId: plan.machineId });
    const quiet = await quiesce(runningMachine(context, plan.machineId), machine, plan.quiesce, () =>
      context.config.onStep?.('machine.frozen'),
    );
    try {
      await engine.snapshot(plan.points, (tx) => commit(tx, { power, pauseUs: null, ...quiet.outcome() }), quiet);
    } finally {
      await quiet.close();
    }
    const { frozenUs } = quiet.outcome();
    if (frozenUs !== null) context.config.observer?.guestFrozen?.(frozenUs / 1e6);
    return;
  }
  const before = plan.before ?? power;
  if (plan.before === null) await context.runner.keepInput(task, { ...plan, before });
  else await endInterrupted(running, { goOn: before === 'running' });
  const { memoryBytes }: MachineHardware = JSON.parse(machine.hardware_json);
  const save = await MemorySave.prepare(context, running, plan.snapshotId, {
    stayStill: options.stayStill,
    wasRunning: before === 'running',
    control: task,
    memoryBytes,
  });
  try {
    await engine.snapshot(plan.points, async () => undefined, save);
    const saved = await save.finish(task.signal);
    await catalog.write(async (tx) => {
      await recordMemory(tx, saved);
      await commit(tx, { power: before, ...describeMemory(saved), frozenUs: null, pauseUs: saved.pauseUs });
    });
    if (saved.pauseUs !== null) context.config.observer?.guestPaused?.(saved.pauseUs / 1e6);
  } catch (error) {
    try {
      await save.abort(context);
    } finally {
      await forgetAttempt(context, plan);
    }
    throw error;
  }
}

function describeMemory(saved: SavedMemory): Pick<Taken, 'consistency' | 'reason'> {
  return {
    consistency: 'memory',
    reason:
      saved.method === 'background'
        ? 'Memory and drives are of one instant; the guest ran on while its memory was written.'
        : 'Memory and drives are of one instant; the guest stood still while its memory was written.',
  };
}

/** Drives may have come or gone while the task waited. @throws machine_not_ready */
async function assertSameDrives(context: Context, plan: MachinePoints): Promise<void> {
  const now = (await slotsOf(context.catalog.db, plan.machineId)).map((slot) => slot.driveId);
  const planned = new Set<DriveId>([...plan.points.map((point) => point.driveId), ...plan.excluded]);
  if (now.length === planned.size && now.every((driveId) => planned.has(driveId))) return;
  throw new CalotypeError('machine_not_ready', 'Drives were attached or detached meanwhile.', {
    machineId: plan.machineId,
    remedy: 'Ask again.',
  });
}

/** What an earlier attempt left that did not come to its end. */
async function forgetAttempt(context: Context, plan: MachinePoints): Promise<void> {
  const { catalog, engine } = context;
  await engine.deleteSnapshots(
    plan.points.map((point) => point.driveSnapshotId),
    async () => undefined,
  );
  const files = await catalog.db
    .selectFrom('memory_files')
    .select('id')
    .where('snapshot_id', '=', plan.snapshotId)
    .execute();
  await removeMemoryFiles(context, files);
}

/** The snapshot stands, and is what its machine descends from now. */
export async function recordTaken(
  context: Context,
  tx: Tx,
  plan: MachinePoints,
  taken: Taken,
  options: { moveMarkers: boolean },
): Promise<void> {
  await tx.updateTable('snapshots').set({ consistency: taken.consistency }).where('id', '=', plan.snapshotId).execute();
  await tx
    .updateTable('machine_snapshots')
    .set({
      power: taken.power,
      reason: taken.reason,
      frozen_us: taken.frozenUs === null ? null : Math.round(taken.frozenUs),
      pause_us: taken.pauseUs,
      parent_id: (eb) => eb.selectFrom('machines').select('based_on').where('machines.id', '=', plan.machineId),
    })
    .where('snapshot_id', '=', plan.snapshotId)
    .execute();
  await finishSnapshot(tx, plan.snapshotId, nowUs());
  if (!options.moveMarkers) return;
  for (const { driveId, driveSnapshotId } of plan.points) {
    await setBasedOn(tx, driveId, driveSnapshotId, context.exports.mayBeWritten(driveId));
  }
  await updateMachine(tx, plan.machineId, { based_on: plan.snapshotId });
}

export function registerMachineSnapshots(context: Context, compaction: Compaction): void {
  const { runner, engine, config } = context;
  runner.register('machine.snapshot', {
    cancellable: true,
    pausable: false,
    async run(task, plan) {
      const started = nowUs();
      try {
        await takeMachine(context, task, plan, { stayStill: false }, async (tx, taken) => {
          await resettleSnapshot(tx, plan.snapshotId, started);
          await recordTaken(context, tx, plan, taken, { moveMarkers: true });
          await task.conclude(
            tx,
            { snapshotId: plan.snapshotId, consistency: taken.consistency, pauseUs: taken.pauseUs },
            { event: 'snapshot.created', detail: { machineId: plan.machineId, consistency: taken.consistency } },
          );
        });
      } catch (error) {
        // What the attempt froze is folded back.
        await engine.reclaim(task.driveIds, task).catch(() => undefined);
        throw error;
      }
      config.observer?.snapshotTaken?.(plan.points.length);
      return undefined;
    },
    async abandon(tx, _task, plan) {
      await removeParts(
        tx,
        plan.points.map((point) => point.driveSnapshotId),
        nowUs(),
      );
      await removeIfEmpty(tx, plan.snapshotId);
    },
    async after(task) {
      await sweepMemory(context);
      if (task.row.state === 'done') compaction.consider(task.driveIds);
    },
  });
}
