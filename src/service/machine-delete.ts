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
import type { DriveId, MachineId, SnapshotId } from '../core/ids.ts';
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
import { can } from './rights.ts';
import type { AddTask } from './runner.ts';

const shownBlocking = 100;

type Fate = 'keep' | 'delete';

export interface MachineDeletion {
  /** Default keep. A list: these go, the others stay. */
  readonly drives?: Fate | readonly DriveId[];
  /** Default refuse: a machine with snapshots stays. */
  readonly snapshots?: 'refuse' | Fate;
  /** What becomes of the snapshots of drives that stay, where they are not of the machine; default keep. */
  readonly driveSnapshots?: Fate;
  readonly ifVersion?: number;
}

export interface MachineDeletionInput {
  readonly drives: Fate | readonly DriveId[];
  readonly snapshots: Fate;
  /** Missing in tasks of earlier versions. */
  readonly driveSnapshots?: Fate;
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
        const driveIds = (await slotsOf(tx, id)).map((slot) => slot.driveId);
        if (typeof drives !== 'string') {
          for (const driveId of drives) {
            if (!driveIds.includes(driveId)) throw new CalotypeError('drive_not_attached', undefined, { driveId });
          }
        }
        const { driveSnapshots = 'keep' } = options;
        const touched = driveSnapshots === 'delete' ? driveIds : driveIds.filter((driveId) => goes(drives, driveId));
        await assertMayTouch(tx, caller, touched);
        await updateMachine(tx, id, { state: 'deleting', updated_at: nowUs() });
        const added = await add({
          kind: 'machine.delete',
          input: { drives, snapshots: snapshots === 'delete' ? 'delete' : 'keep', driveSnapshots },
          driveIds,
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
          const attached = (await slotsOf(tx, machine.id)).map((slot) => slot.driveId);
          const driveIds = attached.filter((id) => goes(input.drives, id));
          const snapshotIds =
            input.snapshots === 'delete'
              ? await deleteSnapshots(tx, add, task, await snapshotsOfMachine(tx, machine.id))
              : [];
          await forgetMachine(tx, machine.id, nowUs());
          for (const driveId of driveIds) await deleteDrive(tx, add, task, driveId, input.snapshots);
          if (input.driveSnapshots === 'delete') {
            const staying = attached.filter((id) => !driveIds.includes(id));
            snapshotIds.push(...(await deleteSnapshots(tx, add, task, await snapshotsOfDrives(tx, staying), staying)));
          }
          const result = { driveIds, snapshotIds };
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

/** The right to change a machine is none to delete its drives or what was taken of them by itself. @throws forbidden */
async function assertMayTouch(tx: Tx, caller: Caller, driveIds: readonly DriveId[]): Promise<void> {
  for (const id of driveIds) {
    if (await can(caller, 'write', { projectId: caller.projectId, kind: 'drive', id }, tx)) continue;
    throw new CalotypeError('forbidden', 'You may not change all drives of the machine: keep its drives.', {
      kind: 'drive',
      id,
      needs: 'rw',
    });
  }
}

function goes(fate: MachineDeletionInput['drives'], id: DriveId): boolean {
  return typeof fate === 'string' ? fate === 'delete' : fate.includes(id);
}

async function snapshotsOfDrives(tx: Tx, driveIds: readonly DriveId[]): Promise<SnapshotId[]> {
  if (driveIds.length === 0) return [];
  const rows = await tx
    .selectFrom('drive_snapshots')
    .select('snapshot_id')
    .distinct()
    .where('drive_id', 'in', driveIds)
    .execute();
  return rows.map((row) => row.snapshot_id);
}

/** All of each snapshot, or only its parts of some drives. Returns those that it had not been decided of before. */
async function deleteSnapshots(
  tx: Tx,
  add: AddTask,
  task: ActiveTask,
  ids: readonly SnapshotId[],
  only?: readonly DriveId[],
): Promise<SnapshotId[]> {
  const begun: SnapshotId[] = [];
  for (const id of ids) {
    const snapshot = await findSnapshot(tx, id);
    if (snapshot === undefined || snapshot.state === 'deleting') continue;
    const parts = snapshot.parts.filter((part) => only === undefined || only.includes(part.drive_id));
    const whole = parts.length === snapshot.parts.length;
    const at = nowUs();
    if (whole) {
      await moveSnapshot(tx, { id, from: ['creating', 'available', 'error'], to: 'deleting', error: null, at });
    }
    const driveIds = [...new Set(parts.map((part) => part.drive_id))];
    await add({
      kind: 'snapshot.delete',
      input: {
        snapshotId: id,
        driveSnapshotIds: parts.map((part) => part.id),
        driveIds,
        whole,
        before: snapshot.state === 'error' ? 'error' : 'available',
      },
      driveIds,
      objectKind: 'snapshot',
      objectId: id,
      owner: ownerAs(task),
      event: { detail: { name: snapshot.name } },
    });
    begun.push(id);
  }
  return begun;
}

/** Snapshots of the drive that were not taken of the machine share the fate of those that were. */
async function deleteDrive(
  tx: Tx,
  add: AddTask,
  task: ActiveTask,
  driveId: DriveId,
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
