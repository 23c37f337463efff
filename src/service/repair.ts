/**
 * At start, after the tasks of the last process were taken up: no object stays in between states without a task that
 * will take it out of there.
 */
import { sql } from 'kysely';
import { imagesByNumber, moveImage } from '../catalog/images.ts';
import type { CalotypeError } from '../core/errors.ts';
import { nowUs } from '../core/time.ts';
import type { Context } from './context.ts';
import { imageDeletion } from './image-delete.ts';

const interrupted = JSON.stringify({
  code: 'internal',
  message: 'The server stopped while this was being made.',
  details: {},
} satisfies Pick<CalotypeError, 'code' | 'message' | 'details'>);

/** Returns how many objects were put right. */
export async function repairStates(context: Context): Promise<number> {
  const { catalog, runner } = context;
  const objects = new Set<string>();
  const deletedDrives = new Set<string>();
  /** A clone of a machine makes several, none of which is the task's object. */
  const cloned = new Set<string>();
  for (const task of runner.active()) {
    if (task.kind === 'machine.clone') for (const id of task.driveIds) cloned.add(id);
    if (task.row.object_id !== null) objects.add(task.row.object_id);
    if (task.kind === 'drive.delete') for (const id of task.driveIds) deletedDrives.add(id);
  }
  let repaired = 0;

  const drives = await catalog.db
    .selectFrom('drives')
    .selectAll()
    .where('state', 'in', ['creating', 'deleting'])
    .execute();
  for (const drive of drives) {
    if (objects.has(drive.id) || (drive.state === 'creating' && cloned.has(drive.id))) continue;
    repaired++;
    await runner.change(async (tx, add) => {
      if (drive.state === 'creating') {
        await tx
          .updateTable('drives')
          .set({ state: 'error', error_json: interrupted, updated_at: nowUs(), version: sql`version + 1` })
          .where('id', '=', drive.id)
          .execute();
      } else {
        deletedDrives.add(drive.id);
        await add({
          kind: 'drive.delete',
          input: { snapshots: 'keep', before: 'error' },
          driveIds: [drive.id],
          objectKind: 'drive',
          objectId: drive.id,
          owner: { projectId: drive.project_id, userId: null, via: 'system' },
        });
      }
    });
  }

  const snapshots = await catalog.db
    .selectFrom('snapshots')
    .selectAll()
    .where('state', 'in', ['creating', 'deleting'])
    .execute();
  for (const snapshot of snapshots) {
    if (objects.has(snapshot.id)) continue;
    const parts = await catalog.db
      .selectFrom('drive_snapshots')
      .select(['id', 'drive_id'])
      .where('snapshot_id', '=', snapshot.id)
      .execute();
    // Deleted together with its drive.
    if (snapshot.state === 'deleting' && parts.some((part) => deletedDrives.has(part.drive_id))) continue;
    repaired++;
    await runner.change(async (tx, add) => {
      if (snapshot.state === 'creating') {
        await tx
          .updateTable('snapshots')
          .set({ state: 'error', error_json: interrupted, updated_at: nowUs(), version: sql`version + 1` })
          .where('id', '=', snapshot.id)
          .execute();
        return;
      }
      const driveIds = [...new Set(parts.map((part) => part.drive_id))];
      await add({
        kind: 'snapshot.delete',
        input: {
          snapshotId: snapshot.id,
          driveSnapshotIds: parts.map((part) => part.id),
          driveIds,
          whole: true,
          before: 'error',
        },
        driveIds,
        objectKind: 'snapshot',
        objectId: snapshot.id,
        owner: { projectId: snapshot.project_id, userId: null, via: 'system' },
      });
    });
  }

  const between = await catalog.db
    .selectFrom('images')
    .select(['id', 'number'])
    .where('state', 'in', ['creating', 'deleting'])
    .execute();
  const left = between.filter((image) => !objects.has(image.id)).map((image) => image.number);
  for (const image of await imagesByNumber(catalog.db, left)) {
    repaired++;
    await runner.change(async (tx, add) => {
      if (image.state === 'deleting') {
        await add({
          ...imageDeletion(image),
          owner: { projectId: image.project_id, userId: null, via: 'system' },
        });
      } else await moveImage(tx, { id: image.id, from: ['creating'], to: 'error', error: interrupted, at: nowUs() });
    });
  }
  return repaired;
}
