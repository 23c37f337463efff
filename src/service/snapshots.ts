/** The use cases of snapshots; what is longer lives beside this file: lists, deletion, reverts, clones, downloads. */
import { sql } from 'kysely';
import { addEvent } from '../catalog/catalog.ts';
import { findDriveRows } from '../catalog/drives.ts';
import { findMachineRow } from '../catalog/machines.ts';
import { findSnapshot, insertSnapshot, type SnapshotRecord } from '../catalog/snapshots.ts';
import { replaceTags } from '../catalog/tags.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveSnapshotId, newId, type SnapshotId } from '../core/ids.ts';
import type { Snapshot } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, driveRow, ownerOf, partRow, readableSnapshot, snapshotRow } from './access.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import { cloneSnapshot } from './clones.ts';
import type { Context } from './context.ts';
import { downloadSnapshot } from './downloads.ts';
import { once, remember } from './idempotency.ts';
import type { SnapshotUseCases } from './interface.ts';
import { assertNameFree, assertVersion, checkLabels, checkUpdate, compactTime, fitName } from './labels.ts';
import { cloneMachine } from './machine-clones.ts';
import { revertMachine } from './machine-reverts.ts';
import { createMachineSnapshot } from './machine-snapshots.ts';
import { toSnapshot } from './objects.ts';
import { replaySnapshot } from './replay.ts';
import { revertSnapshot } from './reverts.ts';
import { assertWritable } from './rights.ts';
import { assertRoom } from './room.ts';
import { deleteSnapshot } from './snapshot-delete.ts';
import { listSnapshots, snapshotTree } from './snapshot-lists.ts';

/** Drives in one snapshot, at most. */
export const maxGroup = 64;
const rememberedSnapshots = 2000;
const rememberedParts = 10_000;

export function snapshotUseCases(context: Context): SnapshotUseCases {
  const { catalog, engine, exports, runner, sizes } = context;
  /** What polling clients ask again and again, valid as long as no row changes. */
  const remembered = new BoundedMap<SnapshotId, { generation: number; snapshot: Snapshot }>(rememberedSnapshots);

  /** Which snapshot a part belongs to never changes. */
  const snapshotOf = new BoundedMap<DriveSnapshotId, SnapshotId>(rememberedParts);

  /** What is remembered of a snapshot, for a caller who may see all of the project. */
  function recall(caller: Caller, id: SnapshotId): Snapshot | undefined {
    const known = remembered.get(id);
    const holds = known?.generation === catalog.generation && known.snapshot.projectId === caller.projectId;
    return known !== undefined && holds && caller.role !== 'guest' ? known.snapshot : undefined;
  }

  async function show(record: SnapshotRecord, generation: number): Promise<Snapshot> {
    const snapshot = toSnapshot(record, await sizes.fresh([record]));
    // Under a writer sizes grow without the catalog's knowing.
    if (!snapshot.parts.some((part) => exports.mayBeWritten(part.driveId)))
      remembered.set(record.id, { generation, snapshot });
    return snapshot;
  }

  return {
    create(caller, input, options) {
      const first = async () => {
        const { driveIds } = input;
        if (driveIds.length === 0 || driveIds.length > maxGroup) {
          throw new CalotypeError('invalid_request', `Name 1 to ${maxGroup} drives.`, {
            field: 'driveIds',
            max: maxGroup,
          });
        }
        if (new Set(driveIds).size !== driveIds.length) {
          throw new CalotypeError('invalid_request', 'A drive is named twice.', { field: 'driveIds' });
        }
        if (driveIds.length > 1 && !engine.capabilities.atomicGroups) {
          throw new CalotypeError('not_supported', 'This engine cannot snapshot several drives at one instant.');
        }
        const wanted = input.name === undefined ? undefined : checkName(input.name);
        const labels = checkLabels(input);
        const id = newId<SnapshotId>();
        const space = await engine.space();
        const { task, record } = await runner.change(async (tx, add) => {
          const rows = await findDriveRows(tx, driveIds);
          const drives = [];
          for (const driveId of driveIds) {
            const row = rows.get(driveId);
            const there = row === undefined || row.state === 'deleted' ? undefined : row;
            const object = there && ({ projectId: there.project_id, kind: 'drive', id: driveId } as const);
            await assertWritable(caller, object, tx, { kind: 'drive', id: driveId });
            if (there === undefined) throw notFound('drive', driveId);
            assertDriveReady(context, there);
            drives.push(there);
          }
          const [leader] = drives;
          if (leader === undefined) throw new CalotypeError('internal');
          const at = nowUs();
          const name = wanted ?? fitName(leader.name, `-${compactTime(at)}`);
          await assertNameFree(tx, options, 'snapshot', leader.project_id, name);
          assertRoom(space);
          const parts = drives.map((drive) => ({
            id: newId<DriveSnapshotId>(),
            driveId: drive.id,
            driveName: drive.name,
            parentId: drive.based_on,
            sizeBytes: drive.size_bytes,
            changedBytes: context.exports.mayBeWritten(drive.id) ? null : 0,
          }));
          const settled = driveIds.every((driveId) => runner.queueOf(driveId).length === 0);
          const made = await insertSnapshot(tx, {
            id,
            projectId: leader.project_id,
            name,
            ...labels,
            state: 'creating',
            origin: 'manual',
            createdBy: caller.userId,
            parts,
            at,
          });
          const added = await add({
            kind: 'snapshot.create',
            input: {
              snapshotId: id,
              points: parts.map((part) => ({ driveId: part.driveId, driveSnapshotId: part.id })),
              settled,
            },
            driveIds,
            objectKind: 'snapshot',
            objectId: id,
            owner: ownerOf(caller, leader.project_id),
            // What is done within the millisecond needs one line in the log, not two.
            event: settled ? null : { detail: { name, driveIds } },
          });
          await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'snapshot', objectId: id });
          return { task: added, record: made };
        });
        return { task: runner.view(task), snapshot: toSnapshot(record) };
      };
      return once(context, caller, options, first, (attempt) => replaySnapshot(context, attempt));
    },

    list: (caller, filter, sort, page) => listSnapshots(context, caller, filter, sort, page),

    async get(caller, id) {
      const { generation } = catalog;
      return recall(caller, id) ?? show(await readableSnapshot(catalog.db, caller, id), generation);
    },

    async getJustTaken(caller, id) {
      const record = await readableSnapshot(catalog.db, caller, id);
      return toSnapshot(record, new Map(record.parts.map((part) => [part.id, part.changed_bytes ?? 0])));
    },

    async getByPart(caller, id) {
      const { generation } = catalog;
      const of = snapshotOf.get(id);
      const known = of === undefined ? undefined : recall(caller, of);
      if (known?.parts.some((part) => part.id === id)) return known;
      const { snapshot } = await partRow(catalog.db, caller, 'read', id);
      snapshotOf.set(id, snapshot.id);
      const record = await findSnapshot(catalog.db, snapshot.id);
      if (record === undefined) throw notFound('drive snapshot', id);
      return show(record, generation);
    },

    async update(caller, id, update) {
      const { tags, ...columns } = checkUpdate(update);
      const record = await catalog.write(async (tx) => {
        const snapshot = await snapshotRow(tx, caller, 'write', id);
        assertVersion(snapshot, update.ifVersion);
        await tx
          .updateTable('snapshots')
          .set({ ...columns, updated_at: nowUs(), version: sql`version + 1` })
          .where('id', '=', id)
          .execute();
        if (tags !== undefined) await replaceTags(tx, id, tags);
        await addEvent(tx, {
          projectId: snapshot.project_id,
          userId: caller.userId,
          via: caller.via,
          kind: 'snapshot.updated',
          objectKind: 'snapshot',
          objectId: id,
          detail: {
            name: columns.name ?? snapshot.name,
            fields: Object.keys(update).filter((key) => key !== 'ifVersion'),
          },
        });
        return findSnapshot(tx, id);
      });
      if (record === undefined) throw notFound('snapshot', id);
      context.feed.wake();
      return toSnapshot(record, await sizes.fresh([record]));
    },

    createOfMachine: (caller, input, options) => createMachineSnapshot(context, caller, input, options),
    revertMachine: (caller, id, input, options) => revertMachine(context, caller, id, input, options),
    cloneMachine: (caller, id, input, options) => cloneMachine(context, caller, id, input, options),
    delete: (caller, id, options) => deleteSnapshot(context, caller, id, options),
    async revert(caller, id, input, options) {
      const { machine_id: machineId } = await readableSnapshot(catalog.db, caller, id);
      const machine = machineId === null ? undefined : await findMachineRow(catalog.db, machineId);
      // Of a machine that is gone, drives are left.
      return machine === undefined
        ? revertSnapshot(context, caller, id, input, options)
        : revertMachine(context, caller, id, input, options);
    },
    clone: (caller, id, input, options) => cloneSnapshot(context, caller, id, input, options),
    tree: (caller, driveId) => snapshotTree(context, caller, driveId),

    async usage(caller, id) {
      const record = await readableSnapshot(catalog.db, caller, id);
      return Promise.all(
        record.parts.map(async (part) => ({ driveSnapshotId: part.id, ...(await engine.snapshotUsage(part.id)) })),
      );
    },

    async changes(caller, range) {
      if (range.from !== null) await partRow(catalog.db, caller, 'read', range.from);
      if ('point' in range.to) await partRow(catalog.db, caller, 'read', range.to.point);
      else await driveRow(catalog.db, caller, 'read', range.to.drive);
      return engine.changedExtents(range.from, range.to);
    },

    download: (caller, id, format, part) => downloadSnapshot(context, caller, id, format, part),
  };
}
