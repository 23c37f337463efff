/** Deletes images that nothing made from them stands on: answered and out of the catalog at once, space comes back in the background. */
import type { Tx } from '../catalog/catalog.ts';
import {
  countUsersOfImage,
  findImage,
  forgetImage,
  type ImageRecord,
  moveImage,
  usersOfImage,
} from '../catalog/images.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveId, DriveSnapshotId, ImageId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { imageRow, ownerOf } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions } from './interface.ts';
import { assertVersion } from './labels.ts';
import type { Reclaimer } from './reclaim.ts';
import { replayTask } from './replay.ts';
import { visibleFilter } from './rights.ts';

const shownBlocking = 100;
const namesInMessage = 5;

export interface ImageDeleteInput {
  readonly imageId: ImageId;
  readonly points: readonly DriveSnapshotId[];
  /** Drives that these points were taken of. */
  readonly driveIds: readonly DriveId[];
  /** The state to go back to if it fails. */
  readonly before: 'available' | 'error';
}

/** What deletes an image: it waits for nothing but, if that has not ended, its making. */
export function imageDeletion(image: ImageRecord) {
  const driveIds = [...new Set(image.parts.map((part) => part.drive_id))];
  // One that is still being made may come to nothing.
  const before: ImageDeleteInput['before'] = image.state === 'available' ? 'available' : 'error';
  return {
    kind: 'image.delete',
    input: { imageId: image.id, points: image.parts.map((part) => part.drive_snapshot_id), driveIds, before },
    driveIds: image.state === 'creating' ? driveIds : [],
    objectKind: 'image',
    objectId: image.id,
  } as const;
}

export function deleteImage(
  context: Context,
  caller: Caller,
  id: ImageId,
  options: { ifVersion?: number } & CreateOptions = {},
): Promise<Task> {
  const { runner } = context;
  const first = async (): Promise<Task> => {
    const task = await runner.change(
      async (tx, add) => {
        assertVersion(await imageRow(tx, caller, id), options.ifVersion);
        const image = await findImage(tx, id);
        if (image === undefined) throw notFound('image', id);
        if (image.state === 'deleting') {
          for (const earlier of runner.active()) {
            if (earlier.kind === 'image.delete' && earlier.row.object_id === id && earlier.ready) return earlier;
          }
        }
        await assertUnused(tx, caller, image);
        const error = image.error_json;
        const from = ['creating', 'available', 'error'] as const;
        await moveImage(tx, { id, from, to: 'deleting', error, at: nowUs() });
        const added = await add({
          ...imageDeletion(image),
          owner: ownerOf(caller, image.project_id),
          event: { detail: { name: image.name } },
        });
        await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'image', objectId: id });
        return added;
      },
      { mayUseReserve: true },
    );
    return runner.view(task);
  };
  return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
}

/** @throws image_in_use, with the first hundred drives and their machines, as far as the caller may see them */
async function assertUnused(tx: Tx, caller: Caller, image: ImageRecord): Promise<void> {
  const cloneCount = await countUsersOfImage(tx, image.id);
  if (cloneCount === 0) return;
  const users = await usersOfImage(tx, image.id, visibleFilter(caller, 'drive', { table: 'd' }), shownBlocking);
  const machines = new Map(users.flatMap(({ machineId: id, machineName: name }) => (id === null ? [] : [[id, name]])));
  const names = listNames(users.map((user) => user.name));
  const inMachines = machines.size === 0 ? '' : `, in ${listNames([...machines.values()])}`;
  const which = users.length === 0 ? `${cloneCount} drives` : `${names}${inMachines}`;
  throw new CalotypeError('image_in_use', `The image ${image.name} is in use by ${which}.`, {
    blocking: users.map((user) => user.id),
    drives: users.map(({ id, name, machineId }) => ({ id, name, machineId })),
    machines: [...machines].map(([id, name]) => ({ id, name })),
    cloneCount,
    remedy: 'Delete these drives, or flatten them.',
  });
}

function listNames(names: readonly (string | null)[]): string {
  const left = names.length - namesInMessage;
  return names.slice(0, namesInMessage).join(', ') + (left > 0 ? ` and ${left} more` : '');
}

export function registerImageDelete(context: Context, reclaimer: Reclaimer): void {
  const { config, engine, runner } = context;
  runner.register('image.delete', {
    cancellable: 'background',
    pausable: 'background',
    atLeisure: true,
    async run(task, { imageId, points, driveIds }) {
      if (task.holdsDrives) {
        config.onStep?.('image.dropping');
        await engine.deleteSnapshots(points, async (tx) => {
          await forgetImage(tx, imageId);
          await task.concludeForeground(tx, { event: 'image.deleted' });
        });
        config.onStep?.('image.dropped');
        runner.release(task);
      }
      return reclaimer.run(context, task, driveIds);
    },
    async abandon(tx, task, { imageId, before }, error, cancelled) {
      if (!task.holdsDrives) return;
      const json = cancelled ? null : JSON.stringify(error);
      await moveImage(tx, { id: imageId, from: ['deleting'], to: before, error: json, at: nowUs() });
    },
  });
}
