/** The use cases of drives; what is longer lives beside this file: creation, imports, clones, lists, downloads, deletion, reverts. */
import { sql } from 'kysely';
import { addEvent, type Tx } from '../catalog/catalog.ts';
import { findDrive } from '../catalog/drives.ts';
import type { DriveRow } from '../catalog/schema.ts';
import { replaceTags } from '../catalog/tags.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveId } from '../core/ids.ts';
import type { Drive, Task } from '../core/model.ts';
import { checkSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, assertNotRunning, driveRow, ownerOf, readableDrive } from './access.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { downloadDrive } from './downloads.ts';
import { cloneDrive } from './drive-clone.ts';
import { createDrive, createDrives } from './drive-create.ts';
import { deleteDrive, deleteDrives } from './drive-delete.ts';
import { listDrives } from './drive-lists.ts';
import { type FirstAttempt, once, remember } from './idempotency.ts';
import { importDrive } from './imports.ts';
import type { CreateOptions, DriveUseCases } from './interface.ts';
import { assertVersion, checkUpdate } from './labels.ts';
import { toDrive } from './objects.ts';
import { replayTask } from './replay.ts';
import { revertDrive } from './reverts.ts';
import type { TaskInputs } from './task-inputs.ts';

const rememberedDrives = 2000;

export function driveUseCases(context: Context): DriveUseCases {
  const { catalog, engine, runner, config } = context;
  /** What polling clients ask again and again, valid as long as no row changes. */
  const remembered = new BoundedMap<DriveId, { generation: number; drive: Drive }>(rememberedDrives);

  /** A task over one ready drive that makes no object. */
  function simpleChange<K extends 'drive.resize' | 'drive.flatten' | 'drive.check'>(
    caller: Caller,
    id: DriveId,
    options: CreateOptions | undefined,
    kind: K,
    input: TaskInputs[K],
    check?: (tx: Tx, drive: DriveRow) => Promise<void>,
  ): Promise<Task> {
    const first = async (): Promise<Task> => {
      const task = await runner.change(async (tx, add) => {
        const drive = await driveRow(tx, caller, 'write', id);
        assertDriveReady(context, drive);
        await check?.(tx, drive);
        const added = await add({
          kind,
          input,
          driveIds: [id],
          objectKind: 'drive',
          objectId: id,
          owner: ownerOf(caller, drive.project_id),
          event: { detail: { name: drive.name, ...input } },
        });
        await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'drive', objectId: id });
        return added;
      });
      return runner.view(task);
    };
    return once(context, caller, options, first, (attempt: FirstAttempt) => replayTask(context, attempt));
  }

  return {
    create: (caller, input, options) => createDrive(context, caller, input, options),
    createEach: (caller, inputs) => createDrives(context, caller, inputs),
    clone: (caller, id, input) => cloneDrive(context, caller, id, input),
    import: (caller, input, options) => importDrive(context, caller, input, options),
    list: (caller, filter, sort, page) => listDrives(context, caller, filter, sort, page),

    async get(caller, id) {
      const { generation } = catalog;
      const known = remembered.get(id);
      const holds = known?.generation === generation && known.drive.projectId === caller.projectId;
      if (known !== undefined && holds && caller.role !== 'guest') return known.drive;
      const drive = toDrive(await readableDrive(catalog.db, caller, id));
      remembered.set(id, { generation, drive });
      return drive;
    },

    async update(caller, id, update) {
      const { tags, ...columns } = checkUpdate(update);
      const record = await catalog.write(async (tx) => {
        const drive = await driveRow(tx, caller, 'write', id);
        assertVersion(drive, update.ifVersion);
        await tx
          .updateTable('drives')
          .set({ ...columns, updated_at: nowUs(), version: sql`version + 1` })
          .where('id', '=', id)
          .execute();
        if (tags !== undefined) await replaceTags(tx, id, tags);
        await addEvent(tx, {
          projectId: drive.project_id,
          userId: caller.userId,
          via: caller.via,
          kind: 'drive.updated',
          objectKind: 'drive',
          objectId: id,
          detail: {
            name: columns.name ?? drive.name,
            fields: Object.keys(update).filter((key) => key !== 'ifVersion'),
          },
        });
        return findDrive(tx, id);
      });
      if (record === undefined) throw notFound('drive', id);
      context.feed.wake();
      return toDrive(record);
    },

    resize(caller, id, sizeBytes, options) {
      const wanted = checkSize(sizeBytes, { max: config.maxDriveBytes }, 'sizeBytes');
      return simpleChange(caller, id, options, 'drive.resize', { sizeBytes: wanted }, async (tx, drive) => {
        await assertNotRunning(tx, drive);
        if (wanted < drive.size_bytes) {
          throw new CalotypeError('shrink_not_supported', undefined, { sizeBytes: drive.size_bytes, wanted });
        }
      });
    },

    delete: (caller, id, options) => deleteDrive(context, caller, id, options),
    deleteEach: (caller, ids, options) => deleteDrives(context, caller, ids, options),

    async usage(caller, id) {
      await driveRow(catalog.db, caller, 'read', id);
      return engine.usage(id);
    },

    check: (caller, id, options) => simpleChange(caller, id, options, 'drive.check', {}),
    flatten: (caller, id, options) => simpleChange(caller, id, options, 'drive.flatten', {}),
    revert: (caller, id, input, options) => revertDrive(context, caller, id, input, options),
    download: (caller, id, format) => downloadDrive(context, caller, id, format),
  };
}
