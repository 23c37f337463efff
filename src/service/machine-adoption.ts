/**
 * Adoption: a QEMU process that somebody else runs becomes a machine here, its disks become drives, as they are; and the
 * way back. Nothing in the process or its files is changed by either.
 */
import { isAbsolute } from 'node:path';
import type { Tx } from '../catalog/catalog.ts';
import { findDriveRows, forgetDrive, insertDrive, moveDrive, pointsOfDrive } from '../catalog/drives.ts';
import { exportsOfDrive } from '../catalog/exports.ts';
import {
  findMachineRow,
  forgetMachine,
  insertMachine,
  setPower,
  slotsOf,
  snapshotsOfMachine,
  updateMachine,
} from '../catalog/machines.ts';
import { removeIfEmpty, removeParts } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Machine, MachineHardware, MachineKind, Task } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { AdoptedProcess } from '../qemu/adopted-process.ts';
import { inspectDrives } from '../qemu/foreign-drives.ts';
import { assertMachineReady, machineRow, ownerOf } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, checkLabels, fitName } from './labels.ts';
import { machineOf } from './machine-tasks.ts';
import { toMachine } from './objects.ts';
import { replayMachine, replayTask } from './replay.ts';
import { assertOperator } from './rights.ts';

export interface AdoptionRequest extends Labels {
  readonly name: string;
  /** Default vm. */
  readonly kind?: MachineKind;
  /** Absolute path of a monitor socket (QMP) that nobody else uses. */
  readonly qmpSocket: string;
  /** Absolute path of the guest agent's socket, if it has one that nobody else uses. */
  readonly agentSocket?: string;
}

export interface AdoptionInput {
  readonly drives: readonly { readonly driveId: DriveId; readonly device: string }[];
}

export interface DisownInput {
  readonly snapshots: 'refuse' | 'forget';
}

const shownBlocking = 100;

/** Operators only, since it names sockets of the host. @throws adoption_refused with what speaks against each disk */
export function adoptMachine(
  context: Context,
  caller: Caller,
  input: AdoptionRequest,
  options?: CreateOptions,
): Promise<WithTask<'machine', Machine>> {
  const { runner } = context;
  const first = async () => {
    assertOperator(caller);
    const name = checkName(input.name);
    const labels = checkLabels(input);
    const qmpPath = checkSocket('qmpSocket', input.qmpSocket);
    const agentPath = input.agentSocket === undefined ? null : checkSocket('agentSocket', input.agentSocket);
    const { hardware, disks } = await look(context, qmpPath);
    const id = newId<MachineId>();
    const { task, record } = await runner.change(async (tx, add) => {
      await assertNameFree(tx, options, 'machine', caller.projectId, name);
      const at = nowUs();
      const drives = [];
      for (const [slot, disk] of disks.entries()) {
        const driveId = newId<DriveId>();
        await insertDrive(tx, {
          id: driveId,
          projectId: caller.projectId,
          name: fitName(name, `-${slot}`),
          description: `${disk.device} on ${disk.path}`.slice(0, 1000),
          meta: '{}',
          tags: [],
          sizeBytes: disk.sizeBytes,
          sourceId: null,
          at,
        });
        drives.push({ driveId, device: disk.device });
      }
      const made = await insertMachine(tx, {
        id,
        projectId: caller.projectId,
        name,
        ...labels,
        kind: input.kind ?? 'vm',
        managed: false,
        hardware,
        boot: { from: 'drive' },
        sourceId: null,
        slots: drives.map(({ driveId }, slot) => ({ driveId, slot })),
        qmpPath,
        agentPath,
        at,
      });
      const added = await add({
        kind: 'machine.adopt',
        input: { drives },
        driveIds: drives.map((drive) => drive.driveId),
        machineId: id,
        objectKind: 'machine',
        objectId: id,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, qmpSocket: qmpPath, disks: disks.map((disk) => disk.device) } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: id });
      return { task: added, record: made };
    });
    return { task: runner.view(task), machine: toMachine(record, null) };
  };
  return once(context, caller, options, first, (attempt) => replayMachine(context, attempt));
}

/** @throws invalid_request */
function checkSocket(field: string, path: string): string {
  if (isAbsolute(path) && Buffer.byteLength(path) <= 107 && !path.includes('\0')) return path;
  throw new CalotypeError('invalid_request', 'A socket is named by its absolute path, of up to 107 bytes.', { field });
}

/** What the process is and has. @throws adoption_refused */
async function look(
  context: Context,
  qmpPath: string,
): Promise<{ hardware: MachineHardware; disks: { device: string; path: string; sizeBytes: number }[] }> {
  const known = await context.catalog.db
    .selectFrom('machines')
    .select(['id', 'name'])
    .where('qmp_path', '=', qmpPath)
    .executeTakeFirst();
  if (known !== undefined) {
    throw new CalotypeError('adoption_refused', `The machine ${known.name} is adopted by this socket already.`, {
      machineId: known.id,
    });
  }
  const found = await AdoptedProcess.connect(qmpPath, null);
  try {
    const { facts } = found;
    const drives = await inspectDrives(found.qmp, facts.workingDirectory);
    const problems = drives.filter((drive) => drive.problem !== null);
    if (problems.length > 0) {
      const named = problems.map((drive) => `${drive.device}: ${drive.problem}`);
      throw new CalotypeError('adoption_refused', `The machine cannot be adopted as it is: ${named.join('; ')}.`, {
        disks: problems.map(({ device, problem }) => ({ device, problem })),
      });
    }
    const disks = drives.flatMap(({ device, chain: [top] }) =>
      top === undefined ? [] : [{ device, path: top.path, sizeBytes: top.sizeBytes }],
    );
    if (disks.length === 0) throw new CalotypeError('adoption_refused', 'The machine has no disk that it can write.');
    const { machineType, cpus, memoryBytes } = facts;
    return { hardware: { machineType, cpus, memoryBytes, macAddress: '' }, disks };
  } finally {
    found.release();
  }
}

/**
 * Forgets an adopted machine and its drives; it runs on, with the files it has. Its snapshots are forgotten too when that is
 * said. @throws machine_has_snapshots, snapshot_in_use, drive_has_clones
 */
export function disownMachine(
  context: Context,
  caller: Caller,
  id: MachineId,
  input: Partial<DisownInput>,
  options?: CreateOptions,
): Promise<Task> {
  const { runner } = context;
  const first = async (): Promise<Task> => {
    const task = await runner.change(async (tx, add) => {
      const machine = await machineRow(tx, caller, id);
      assertMachineReady(context, machine);
      if (machine.managed === 1) {
        throw new CalotypeError('not_supported', 'This server runs the machine itself: delete it instead.', {
          machineId: id,
        });
      }
      const snapshots = input.snapshots ?? 'refuse';
      const driveIds = (await slotsOf(tx, id)).map((slot) => slot.driveId);
      const taken = await snapshotsOn(tx, id, driveIds);
      if (snapshots === 'refuse' && taken.length > 0) {
        throw new CalotypeError('machine_has_snapshots', undefined, {
          blocking: taken.slice(0, shownBlocking),
          remedy: 'Delete them first, or say that they are to be forgotten; their data stays in the files.',
        });
      }
      await assertNoImages(tx, driveIds);
      for (const driveId of driveIds) {
        const exports = await exportsOfDrive(tx, driveId);
        if (exports.length === 0) continue;
        throw new CalotypeError('snapshot_in_use', 'Snapshots of the machine are exported.', {
          blocking: exports.map((row) => row.id),
          remedy: 'Close these exports first.',
        });
      }
      const added = await add({
        kind: 'machine.disown',
        input: { snapshots },
        driveIds,
        machineId: id,
        objectKind: 'machine',
        objectId: id,
        owner: ownerOf(caller, machine.project_id),
        event: { detail: { name: machine.name, snapshots } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: id });
      return added;
    });
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

/** Those of the machine, and those of its drives alone. */
async function snapshotsOn(tx: Tx, id: MachineId, driveIds: readonly DriveId[]): Promise<SnapshotId[]> {
  const parts = await tx
    .selectFrom('drive_snapshots')
    .select('snapshot_id')
    .distinct()
    .where('drive_id', 'in', driveIds)
    .execute();
  return [...new Set([...(await snapshotsOfMachine(tx, id)), ...parts.map((part) => part.snapshot_id)])];
}

/** @throws drive_has_clones */
async function assertNoImages(tx: Tx, driveIds: readonly DriveId[]): Promise<void> {
  const rows = await tx
    .selectFrom('image_parts')
    .select('image_id')
    .distinct()
    .where('drive_id', 'in', driveIds)
    .limit(shownBlocking)
    .execute();
  if (rows.length === 0) return;
  throw new CalotypeError('drive_has_clones', 'Images stand on the drives of the machine.', {
    blocking: rows.map((row) => row.image_id),
    remedy: 'Delete these images first.',
  });
}

export function registerMachineAdoption(context: Context): void {
  const { catalog, engine, exports, runner, adopted } = context;

  runner.register('machine.adopt', {
    cancellable: false,
    pausable: false,
    async run(task, { drives }) {
      const machine = await machineOf(context, task);
      const found = await AdoptedProcess.connect(machine.qmp_path ?? '', null);
      try {
        const { workingDirectory } = found.facts;
        const { power } = found;
        await engine.adoptDrives({ id: machine.id, qmp: found.qmp, workingDirectory }, drives, async (tx) => {
          const at = nowUs();
          for (const { driveId } of drives) {
            await moveDrive(tx, { id: driveId, from: 'creating', to: 'available', error: null, at });
          }
          await updateMachine(tx, machine.id, { state: 'available', updated_at: at }, ['creating']);
          await setPower(tx, machine.id, { power, startedAt: at });
        });
      } finally {
        found.release();
      }
      for (const { driveId } of drives) exports.adopted(driveId);
      const row = await findMachineRow(catalog.db, machine.id);
      if (row !== undefined) await adopted.watch(row);
      await catalog.write(async (tx) => {
        const driveIds = drives.map((drive) => drive.driveId);
        await task.conclude(tx, { machineId: machine.id, driveIds }, { event: 'machine.adopted' });
      });
      return undefined;
    },
    async abandon(tx, task, { drives }) {
      const known = task.machineId === null ? undefined : await findMachineRow(tx, task.machineId);
      if (known === undefined || known.state !== 'creating') return;
      await forgetMachine(tx, known.id, nowUs());
      for (const { driveId } of drives) await forgetDrive(tx, driveId, nowUs());
    },
  });

  runner.register('machine.disown', {
    cancellable: false,
    pausable: false,
    async run(task, { snapshots }) {
      const machine = await machineOf(context, task);
      const slots = await slotsOf(catalog.db, machine.id);
      const driveIds = slots.map((slot) => slot.driveId);
      await engine.releaseDrives(driveIds, (released) => async (tx) => {
        const at = nowUs();
        const names = await findDriveRows(tx, driveIds);
        const taken = await snapshotsOn(tx, machine.id, driveIds);
        if (snapshots === 'refuse' && taken.length > 0) throw new CalotypeError('machine_has_snapshots');
        await assertNoImages(tx, driveIds);
        for (const driveId of driveIds) await removeParts(tx, await pointsOfDrive(tx, driveId), at);
        for (const snapshotId of taken) await removeIfEmpty(tx, snapshotId);
        await forgetMachine(tx, machine.id, at);
        for (const driveId of driveIds) await forgetDrive(tx, driveId, at);
        const drives = released.map(({ driveId, files }) => ({
          driveId,
          name: names.get(driveId)?.name ?? '',
          files: files.map((file) => file.path),
        }));
        await task.conclude(tx, { machineId: machine.id, drives }, { event: 'machine.disowned', detail: { drives } });
      });
      adopted.forget(machine.id);
      for (const driveId of driveIds) exports.disowned(driveId);
      return undefined;
    },
  });
}
