/** New drives made from snapshots: linked at once, independent of the source's fate. */
import { insertDrive } from '../catalog/drives.ts';
import type { SnapshotRecord } from '../catalog/snapshots.ts';
import { putTraits } from '../catalog/traits.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Drive } from '../core/model.ts';
import { checkName, checkSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertSnapshotReady, ownerOf, readableSnapshot } from './access.ts';
import { addAttachment } from './attach-new.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask, WithTraits } from './interface.ts';
import { assertNameFree, checkLabels, fitName } from './labels.ts';
import { toDrive } from './objects.ts';
import { replayDrive } from './replay.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';

/** The one part meant. @throws not_found, invalid_request when it must be named */
export function choosePart(snapshot: SnapshotRecord, wanted: DriveSnapshotId | undefined) {
  if (wanted !== undefined) {
    const part = snapshot.parts.find((known) => known.id === wanted);
    if (part === undefined) throw notFound('drive snapshot', wanted);
    return part;
  }
  const [only] = snapshot.parts;
  if (only === undefined) throw new CalotypeError('snapshot_incomplete', undefined, { snapshotId: snapshot.id });
  if (snapshot.parts.length > 1) {
    throw new CalotypeError('invalid_request', 'The snapshot covers several drives: name one of its parts.', {
      field: 'part',
      driveSnapshotIds: snapshot.parts.map((part) => part.id),
    });
  }
  return only;
}

export function cloneSnapshot(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  input: Labels &
    WithTraits & {
      part?: DriveSnapshotId;
      name?: string;
      sizeBytes?: number;
      evenCreating?: boolean;
      attachTo?: MachineId;
    },
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
      const snapshot = await readableSnapshot(tx, caller, id);
      const part = choosePart(snapshot, input.part);
      // Its own task holds the drive, so that the clone's comes after it.
      if (input.evenCreating !== true || snapshot.state !== 'creating') assertSnapshotReady(context, snapshot);
      const sizeBytes =
        input.sizeBytes === undefined
          ? part.size_bytes
          : checkSize(input.sizeBytes, { max: config.maxDriveBytes }, 'sizeBytes');
      if (sizeBytes < part.size_bytes) {
        throw new CalotypeError('shrink_not_supported', 'A clone cannot be smaller than its snapshot.', {
          sizeBytes: part.size_bytes,
          wanted: sizeBytes,
        });
      }
      const name = wantedName ?? fitName(snapshot.name, '-clone');
      await assertNameFree(tx, options, 'drive', caller.projectId, name);
      assertRoom(space);
      const made = await insertDrive(tx, {
        id: driveId,
        projectId: caller.projectId,
        name,
        ...labels,
        sizeBytes,
        sourceId: part.id,
        at: nowUs(),
      });
      await putTraits(tx, driveId, input.traits ?? {});
      const added = await add({
        kind: 'drive.clone',
        input: { driveSnapshotId: part.id, sizeBytes },
        driveIds: [driveId, part.drive_id],
        objectKind: 'drive',
        objectId: driveId,
        owner: ownerOf(caller, caller.projectId),
        event: { detail: { name, driveSnapshotId: part.id, snapshotId: id } },
      });
      const last =
        input.attachTo === undefined
          ? added
          : await addAttachment(context, tx, add, caller, { machineId: input.attachTo, driveId });
      await remember(tx, caller, options, { taskId: last.row.id, objectKind: 'drive', objectId: driveId });
      return { task: last, record: made };
    });
    return { task: runner.view(task), drive: toDrive(record) };
  };
  return once(context, caller, options, first, (attempt) => replayDrive(context, attempt));
}
