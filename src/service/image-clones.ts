/** New drives and machines made from images: linked at once, with names, addresses and ids of their own. */
import { insertDrive } from '../catalog/drives.ts';
import type { ImageRecord } from '../catalog/images.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type ImageId, type MachineId, newId } from '../core/ids.ts';
import type { Drive, ImageMachine, Machine, MachineKind } from '../core/model.ts';
import { checkName, checkSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertImageReady, ownerOf, readableImage } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, checkLabels } from './labels.ts';
import { insertMachineLike } from './machine-clones.ts';
import { checkCpus, checkMemory } from './machine-hardware.ts';
import { toDrive, toMachine } from './objects.ts';
import { replayDrive, replayMachine } from './replay.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';
import type { AddTask } from './runner.ts';

export interface DriveFromImage extends Labels {
  /** Which drive of a machine. */
  readonly slot?: number;
  /** Default: that of the image. */
  readonly name?: string;
  /** Default: as in the image; not less. */
  readonly sizeBytes?: number;
}

/** What is left out is as in the image. One of a drive says nothing of a machine: it takes `memoryBytes`, and starts from that drive. */
export interface MachineFromImage extends Labels {
  readonly name?: string;
  readonly kind?: MachineKind;
  readonly cpus?: number;
  readonly memoryBytes?: number;
  /** The task ends when it runs; default false. */
  readonly start?: boolean;
}

export function cloneImage(
  context: Context,
  caller: Caller,
  id: ImageId,
  input: DriveFromImage,
  options?: CreateOptions,
): Promise<WithTask<'drive', Drive>> {
  const { engine, runner, config } = context;
  const first = async () => {
    assertMayCreate(caller);
    const wantedName = input.name === undefined ? undefined : checkName(input.name);
    const labels = checkLabels(input);
    const driveId = newId<DriveId>();
    const space = await engine.space();
    const { task, record } = await runner.change(async (tx, add) => {
      const image = await readableImage(tx, caller, id);
      assertImageReady(context, image);
      const part = choosePart(image, input.slot);
      const sizeBytes =
        input.sizeBytes === undefined
          ? part.size_bytes
          : checkSize(input.sizeBytes, { max: config.maxDriveBytes }, 'sizeBytes');
      if (sizeBytes < part.size_bytes) {
        throw new CalotypeError('shrink_not_supported', 'A drive cannot be smaller than its image.', {
          sizeBytes: part.size_bytes,
          wanted: sizeBytes,
        });
      }
      const name = wantedName ?? image.name;
      await assertNameFree(tx, options, 'drive', caller.projectId, name);
      assertRoom(space);
      const made = await insertDrive(tx, {
        id: driveId,
        projectId: caller.projectId,
        name,
        ...labels,
        sizeBytes,
        sourceId: null,
        imageId: id,
        at: nowUs(),
      });
      const added = await add({
        kind: 'drive.clone',
        input: { driveSnapshotId: part.drive_snapshot_id, sizeBytes, imageId: id },
        driveIds: [driveId],
        objectKind: 'drive',
        objectId: driveId,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, imageId: id } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'drive', objectId: driveId });
      return { task: added, record: made };
    });
    return { task: runner.view(task), drive: toDrive(record) };
  };
  return once(context, caller, options, first, (attempt) => replayDrive(context, attempt));
}

/** @throws not_found, invalid_request when a slot must be named */
function choosePart(image: ImageRecord, slot: number | undefined): ImageRecord['parts'][number] {
  const slots = image.parts.map((part) => part.slot);
  if (slot === undefined && slots.length > 1) {
    const text = `The image ${image.name} holds several drives: name the slot of one.`;
    throw new CalotypeError('invalid_request', text, { field: 'slot', slots });
  }
  const part = slot === undefined ? image.parts[0] : image.parts.find((known) => known.slot === slot);
  if (part !== undefined) return part;
  throw new CalotypeError('not_found', `The image ${image.name} has no drive in slot ${slot}.`, {
    field: 'slot',
    slots,
  });
}

export function cloneImageMachine(
  context: Context,
  caller: Caller,
  id: ImageId,
  input: MachineFromImage,
  options?: CreateOptions,
): Promise<WithTask<'machine', Machine>> {
  const { engine, machines, runner } = context;
  const first = async () => {
    assertMayCreate(caller);
    const wantedName = input.name === undefined ? undefined : checkName(input.name);
    const labels = checkLabels(input);
    const { standard } = await machines.machineTypes();
    const wanted = {
      ...(input.cpus === undefined ? {} : { cpus: checkCpus(input.cpus) }),
      ...(input.memoryBytes === undefined ? {} : { memoryBytes: checkMemory(input.memoryBytes) }),
    };
    const machineId = newId<MachineId>();
    const space = await engine.space();
    const { task, record } = await runner.change(async (tx, add) => {
      const image = await readableImage(tx, caller, id);
      assertImageReady(context, image);
      const then = machineOfImage(image, standard, wanted.memoryBytes);
      const name = wantedName ?? image.name;
      await assertNameFree(tx, options, 'machine', caller.projectId, name);
      assertRoom(space);
      const { record: made, drives } = await insertMachineLike(tx, {
        id: machineId,
        projectId: caller.projectId,
        name,
        ...labels,
        kind: input.kind ?? then.kind,
        hardware: { ...then.hardware, ...wanted },
        boot: then.boot,
        sourceId: null,
        imageId: id,
        parts: image.parts.map((part) => ({
          slot: part.slot,
          driveSnapshotId: part.drive_snapshot_id,
          sizeBytes: part.size_bytes,
        })),
      });
      const added = await add({
        kind: 'machine.clone',
        input: { from: { imageId: id }, drives, letGo: false },
        driveIds: drives.map((drive) => drive.driveId),
        machineId,
        objectKind: 'machine',
        objectId: machineId,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, imageId: id } },
      });
      const last = input.start === true ? await addStart(add, added) : added;
      await remember(tx, caller, options, { taskId: last.row.id, objectKind: 'machine', objectId: machineId });
      return { task: last, record: made };
    });
    return { task: runner.view(task), machine: toMachine(record, null) };
  };
  return once(context, caller, options, first, (attempt) => replayMachine(context, attempt));
}

/** What the image says of a machine, or the usual machine around its only drive. @throws invalid_request */
function machineOfImage(image: ImageRecord, standard: string, memoryBytes: number | undefined): ImageMachine {
  if (image.machine_json !== null) return JSON.parse(image.machine_json);
  if (memoryBytes === undefined) {
    throw new CalotypeError('invalid_request', `The image ${image.name} is of a drive, not of a machine.`, {
      field: 'memoryBytes',
      imageId: image.id,
      remedy: 'Say how much memory the machine is to have, or make a drive from the image.',
    });
  }
  return {
    name: image.name,
    kind: 'vm',
    hardware: { machineType: standard, cpus: 1, memoryBytes },
    boot: { from: 'drive' },
  };
}

/** Starts a machine once the task before has made it. */
function addStart(add: AddTask, made: ActiveTask): Promise<ActiveTask> {
  const { row, driveIds, machineId } = made;
  if (machineId === null) throw new CalotypeError('internal', `Task ${row.id} makes no machine.`);
  return add({
    kind: 'machine.start',
    input: { paused: false },
    driveIds,
    machineId,
    objectKind: 'machine',
    objectId: machineId,
    owner: { projectId: row.project_id, userId: row.user_id, via: row.via },
    event: { detail: {} },
  });
}
