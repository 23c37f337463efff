/** Makes images from snapshots: the points they consist of become the image's own, so that it outlives snapshot, drive and machine. */
import { forgetImage, insertImage, moveImage } from '../catalog/images.ts';
import type { SnapshotRecord } from '../catalog/snapshots.ts';
import { type DriveId, type DriveSnapshotId, type ImageId, newId, type SnapshotId } from '../core/ids.ts';
import type { Image, ImageMachine, MachineHardware } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertSnapshotReady, ownerOf, readableSnapshot } from './access.ts';
import type { Caller } from './caller.ts';
import { choosePart } from './clones.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, checkLabels } from './labels.ts';
import { assertWhole } from './machine-revert-plan.ts';
import { toImage } from './objects.ts';
import { replayImage } from './replay.ts';
import { assertMayCreate } from './rights.ts';

export function createImage(
  context: Context,
  caller: Caller,
  input: Labels & { snapshotId: SnapshotId; part?: DriveSnapshotId; name?: string },
  options?: CreateOptions,
): Promise<WithTask<'image', Image>> {
  const { runner } = context;
  const first = async () => {
    assertMayCreate(caller);
    const wanted = input.name === undefined ? undefined : checkName(input.name);
    const labels = checkLabels(input);
    const { snapshotId } = input;
    const id = newId<ImageId>();
    const { task, record } = await runner.change(async (tx, add) => {
      const snapshot = await readableSnapshot(tx, caller, snapshotId);
      const { machine, parts } = contentOf(context, snapshot, input.part);
      const name = wanted ?? snapshot.name;
      await assertNameFree(tx, options, 'image', caller.projectId, name);
      const made = await insertImage(tx, {
        id,
        projectId: caller.projectId,
        name,
        ...labels,
        kind: machine === null ? 'drive' : 'machine',
        // Without the memory, what was not written yet is lost.
        consistency: snapshot.consistency === 'filesystem' ? 'filesystem' : 'crash',
        machine,
        sourceId: snapshotId,
        createdBy: caller.userId,
        parts,
        at: nowUs(),
      });
      const added = await add({
        kind: 'image.create',
        input: { imageId: id, copies: parts.map((part) => ({ from: part.source, to: part.driveSnapshotId })) },
        driveIds: parts.map((part) => part.driveId),
        objectKind: 'image',
        objectId: id,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, kind: made.kind, snapshotId } },
      });
      await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'image', objectId: id });
      return { task: added, record: made };
    });
    return { task: runner.view(task), image: toImage(record) };
  };
  return once(context, caller, options, first, (attempt) => replayImage(context, attempt));
}

interface Part {
  slot: number;
  /** The point of the snapshot, and what the image's own is to be called. */
  source: DriveSnapshotId;
  driveSnapshotId: DriveSnapshotId;
  driveId: DriveId;
  driveName: string;
  sizeBytes: number;
}

/** One part, or all of a machine. @throws snapshot_not_ready, snapshot_incomplete, not_found, invalid_request when a part must be named */
function contentOf(
  context: Context,
  snapshot: SnapshotRecord,
  wanted: DriveSnapshotId | undefined,
): { machine: ImageMachine | null; parts: readonly Part[] } {
  assertSnapshotReady(context, snapshot);
  const { machine } = snapshot;
  const partIn = (slot: number, part: SnapshotRecord['parts'][number]): Part => ({
    slot,
    source: part.id,
    driveSnapshotId: newId<DriveSnapshotId>(),
    driveId: part.drive_id,
    driveName: part.drive_name,
    sizeBytes: part.size_bytes,
  });
  if (machine === null || wanted !== undefined) {
    return { machine: null, parts: [partIn(0, choosePart(snapshot, wanted))] };
  }
  assertWhole(snapshot);
  const slots: { slot: number; driveId: DriveId }[] = JSON.parse(machine.slots_json);
  const { macAddress: _, ...hardware }: MachineHardware = JSON.parse(machine.hardware_json);
  const parts = snapshot.parts.map((part) =>
    partIn(slots.find((known) => known.driveId === part.drive_id)?.slot ?? 0, part),
  );
  return {
    machine: { name: machine.machine_name, kind: machine.kind, hardware, boot: JSON.parse(machine.boot_json) },
    parts,
  };
}

export function registerImageCreate(context: Context): void {
  const { config, engine, runner } = context;
  runner.register('image.create', {
    cancellable: false,
    pausable: false,
    async run(task, { imageId: id, copies }) {
      config.onStep?.('image.begun');
      await engine.copyPoints(copies, async (tx) => {
        // One whose deletion was asked for meanwhile stays so.
        await moveImage(tx, { id, from: ['creating'], to: 'available', error: null, at: nowUs() });
        await task.conclude(tx, { imageId: id }, { event: 'image.created' });
      });
      config.onStep?.('image.made');
      return undefined;
    },
    async abandon(tx, _task, { imageId: id }, error, cancelled) {
      const row = await tx.selectFrom('images').select('state').where('id', '=', id).executeTakeFirst();
      // One that is to be deleted already belongs to that task.
      if (row?.state !== 'creating') return;
      if (cancelled) await forgetImage(tx, id);
      else await moveImage(tx, { id, from: ['creating'], to: 'error', error: JSON.stringify(error), at: nowUs() });
    },
  });
}
