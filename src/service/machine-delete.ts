/**
 * Deletes machines, with their drives and snapshots or without. What is to go with the machine becomes tasks of its own,
 * written in the commit that takes the machine away.
 */
import { rm } from 'node:fs/promises';
import { sql } from 'kysely';
import type { Tx } from '../catalog/catalog.ts';
import { forgetMachine, slotsOf, snapshotsOfMachine, updateMachine } from '../catalog/machines.ts';
import { findSnapshot, moveSnapshot } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { machineRow, ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { assertVersion } from './labels.ts';
import { bringDown } from './machine-power.ts';
import { machineOf } from './machine-tasks.ts';
import { replayTask } from './replay.ts';
import type { AddTask } from './runner.ts';

const shownBlocking = 100;

export interface MachineDeletion {
  /** Default keep. */
  readonly drives?: 'keep' | 'delete';
  /** Default refuse: a machine with snapshots stays. */
  readonly snapshots?: 'refuse' | 'keep' | 'delete';
  readonly ifVersion?: number;
}

export function deleteMachine(
  context: Context,
  caller: Caller,
  id: MachineId,
  options: MachineDeletion & CreateOptions,
): Promise<Task> {
  const { runner } = context;
  const first = async (): Promise<Task> => {
    const task = await runner.change(
      async (tx, add) => {
        const machine = await machineRow(tx, caller, id);
        assertVersion(machine, options.ifVersion);
        if (machine.managed === 0) {
          throw new CalotypeError('machine_adopted', 'Somebody else runs the machine: it can be disowned.', {
            machineId: id,
            remedy: 'Disown it; it runs on.',
          });
        }
        if (machine.state === 'deleting') {
          const earlier = runner.queueOf(id).find((queued) => queued.kind === 'machine.delete' && queued.ready);
          if (earlier !== undefined) return earlier;
        }
        const snapshots = options.snapshots ?? 'refuse';
        const drives = options.drives ?? 'keep';
        const taken = await snapshotsOfMachine(tx, id);
        if (snapshots === 'refuse' && taken.length > 0) {
          throw new CalotypeError('machine_has_snapshots', undefined, {
            blocking: taken.slice(0, shownBlocking),
            remedy: 'Say whether to keep or to delete its snapshots.',
          });
        }
        await updateMachine(tx, id, { state: 'deleting', updated_at: nowUs() });
        const added = await add({
          kind: 'machine.delete',
          input: { drives, snapshots: snapshots === 'delete' ? 'delete' : 'keep' },
          driveIds: (await slotsOf(tx, id)).map((slot) => slot.driveId),
          machineId: id,
          objectKind: 'machine',
          objectId: id,
          owner: ownerOf(caller, machine.project_id),
          event: { detail: { name: machine.name, drives, snapshots } },
        });
        await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: id });
        return added;
      },
      { mayUseReserve: true },
    );
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

export function registerMachineDelete(context: Context): void {
  const { runner } = context;
  runner.register('machine.delete', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const machine = await machineOf(context, task);
      await bringDown(context, machine);
      const begun = await runner.change(
        async (tx, add) => {
          const slots = await slotsOf(tx, machine.id);
          const snapshotIds = input.snapshots === 'delete' ? await deleteSnapshots(tx, add, task, machine.id) : [];
          await forgetMachine(tx, machine.id, nowUs());
          const driveIds = slots.map((slot) => slot.driveId);
          if (input.drives === 'delete') {
            for (const driveId of driveIds) await deleteDrive(tx, add, task, driveId, input.snapshots);
          }
          const result = { driveIds: input.drives === 'delete' ? driveIds : [], snapshotIds };
          await task.conclude(tx, result, { event: 'machine.deleted', detail: result });
          return result;
        },
        { mayUseReserve: true },
      );
      context.config.onStep?.('machine.forgotten');
      await rm(context.machines.directoryOf(machine), { recursive: true, force: true });
      context.machines.forget(machine.id);
      return begun;
    },
    async abandon(tx, task, _input, error) {
      if (task.machineId === null) return;
      const change = { state: 'available', error_json: JSON.stringify(error), updated_at: nowUs() } as const;
      await updateMachine(tx, task.machineId, change, ['deleting']);
    },
  });
}

const ownerAs = (task: ActiveTask) => ({ projectId: task.row.project_id, userId: task.row.user_id, via: task.row.via });

async function deleteSnapshots(tx: Tx, add: AddTask, task: ActiveTask, machineId: MachineId): Promise<string[]> {
  const ids = await snapshotsOfMachine(tx, machineId);
  for (const id of ids) {
    const snapshot = await findSnapshot(tx, id);
    if (snapshot === undefined || snapshot.state === 'deleting') continue;
    const at = nowUs();
    await moveSnapshot(tx, { id, from: ['creating', 'available', 'error'], to: 'deleting', error: null, at });
    await add({
      kind: 'snapshot.delete',
      input: {
        snapshotId: id,
        driveSnapshotIds: snapshot.parts.map((part) => part.id),
        driveIds: [...new Set(snapshot.parts.map((part) => part.drive_id))],
        whole: true,
        before: snapshot.state === 'error' ? 'error' : 'available',
      },
      driveIds: [...new Set(snapshot.parts.map((part) => part.drive_id))],
      objectKind: 'snapshot',
      objectId: id,
      owner: ownerAs(task),
      event: { detail: { name: snapshot.name } },
    });
  }
  return ids;
}

/** Snapshots of the drive that were not taken of the machine share the fate of those that were. */
async function deleteDrive(
  tx: Tx,
  add: AddTask,
  task: ActiveTask,
  driveId: Parameters<AddTask>[0]['driveIds'][number],
  snapshots: 'keep' | 'delete',
): Promise<void> {
  const drive = await tx.selectFrom('drives').selectAll().where('id', '=', driveId).executeTakeFirst();
  if (drive === undefined || drive.state === 'deleting' || drive.state === 'deleted') return;
  await tx
    .updateTable('drives')
    .set({ state: 'deleting', updated_at: nowUs(), version: sql`version + 1` })
    .where('id', '=', driveId)
    .execute();
  await add({
    kind: 'drive.delete',
    input: { snapshots, before: drive.state === 'available' ? 'available' : 'error' },
    driveIds: [driveId],
    objectKind: 'drive',
    objectId: driveId,
    owner: ownerAs(task),
    event: { detail: { name: drive.name, snapshots } },
  });
}
