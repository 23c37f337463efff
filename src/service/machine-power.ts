/** Brings machines up and down: the exports their drives are served by, the process, and the way back. Used by tasks only. */
import { markSizesStale } from '../catalog/drives.ts';
import { deleteExport, exportsOfMachine, insertExport, liveExportsOf } from '../catalog/exports.ts';
import { slotsOf } from '../catalog/machines.ts';
import type { ExportRow, MachineRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type ExportId, newId } from '../core/ids.ts';
import type { MachineBoot } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import type { MachineDrive, MachineProcess, MachineProcessSpec } from '../qemu/machine-process.ts';
import type { Context } from './context.ts';
import { resolveFile } from './operator-directory.ts';

/** Starts the process with its drives, guest not running yet. What it began is undone when it fails. */
export async function bringUp(
  context: Context,
  machine: MachineRow,
  options: { incoming?: boolean } = {},
): Promise<MachineProcess> {
  const { catalog, machines } = context;
  const kernel = await kernelOf(context, JSON.parse(machine.boot_json));
  try {
    const drives: MachineDrive[] = [];
    for (const slot of await slotsOf(catalog.db, machine.id)) drives.push(await serveDrive(context, machine, slot));
    context.config.onStep?.('machine.served');
    const started = await machines.launch(machine, { drives, kernel, incoming: options.incoming ?? false });
    context.config.onStep?.('machine.launched');
    return started;
  } catch (error) {
    await bringDown(context, machine);
    throw error;
  }
}

/** Ends the process, if there is one, and what served its drives. Idempotent. */
export async function bringDown(context: Context, machine: MachineRow): Promise<void> {
  await context.machines.end(machine.id);
  for (const row of await exportsOfMachine(context.catalog.db, machine.id)) await endServing(context, row);
  context.config.onStep?.('machine.down');
}

/** Serves a drive to its machine. Idempotent. @throws drive_exported */
export async function serveDrive(
  context: Context,
  machine: MachineRow,
  slot: { slot: number; driveId: DriveId },
): Promise<MachineDrive> {
  const { catalog, engine, exports } = context;
  const { driveId } = slot;
  const others = await liveExportsOf(catalog.db, driveId);
  const own = others.find((row) => row.machine_id === machine.id);
  if (own === undefined && others.length > 0) {
    throw new CalotypeError('drive_exported', 'A drive of the machine is exported.', {
      driveId,
      blocking: others.map((row) => row.id),
      remedy: 'Close these exports first.',
    });
  }
  const exportId = own?.id ?? newId<ExportId>();
  const exportName = own?.name ?? `m${machine.number}-${slot.slot}-${exportId.slice(0, 8)}`;
  const of = { drive: driveId, writable: true };
  const target = await engine.startExport({ exportId, exportName, of }, async (tx) => {
    await insertExport(tx, {
      id: exportId,
      projectId: machine.project_id,
      driveId,
      driveSnapshotId: null,
      writable: true,
      transport: 'unix',
      name: exportName,
      detail: {},
      machineId: machine.id,
      at: nowUs(),
    });
  });
  exports.opened(driveId, exportId);
  return { slot: slot.slot, ...target, serial: driveId.replaceAll('-', '').slice(0, 20) };
}

export async function endServing(context: Context, row: ExportRow): Promise<void> {
  await context.engine.stopExport(row.id, async (tx) => {
    await deleteExport(tx, row.id);
    if (row.drive_id !== null) await markSizesStale(tx, row.drive_id);
  });
  if (row.drive_id !== null) context.exports.closed(row.drive_id, row.id);
}

/** @throws boot_path_refused, boot_file_not_found */
export async function kernelOf(context: Context, boot: MachineBoot): Promise<MachineProcessSpec['kernel']> {
  if (boot.from === 'drive') return null;
  const directory = {
    path: context.config.bootDirectory,
    words: 'the boot directory',
    refused: 'boot_path_refused',
    missing: 'boot_file_not_found',
  } as const;
  return {
    kernel: await resolveFile(directory, boot.kernel),
    initrd: boot.initrd === null ? null : await resolveFile(directory, boot.initrd),
    append: boot.append,
  };
}
