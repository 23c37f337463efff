/** The use cases of snapshots; what is longer lives beside this file: creation, lists, deletion, reverts, clones, downloads. */
import { sql } from 'kysely';
import { addEvent } from '../catalog/catalog.ts';
import { findMachineRow } from '../catalog/machines.ts';
import { findSnapshot, type SnapshotRecord } from '../catalog/snapshots.ts';
import { replaceTags } from '../catalog/tags.ts';
import { notFound } from '../core/errors.ts';
import type { DriveSnapshotId, SnapshotId } from '../core/ids.ts';
import type { Snapshot } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { driveRow, partRow, readableSnapshot, snapshotRow } from './access.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import { cloneSnapshot } from './clones.ts';
import type { Context } from './context.ts';
import { downloadSnapshot } from './downloads.ts';
import type { SnapshotUseCases } from './interface.ts';
import { assertVersion, checkUpdate } from './labels.ts';
import { cloneMachine } from './machine-clones.ts';
import { revertMachine } from './machine-reverts.ts';
import { createMachineSnapshot } from './machine-snapshots.ts';
import { toSnapshot } from './objects.ts';
import { revertSnapshot } from './reverts.ts';
import { createSnapshot, createSnapshots } from './snapshot-create.ts';
import { deleteParts, deleteSnapshot } from './snapshot-delete.ts';
import { listSnapshots, snapshotTree } from './snapshot-lists.ts';

const rememberedSnapshots = 2000;
const rememberedParts = 10_000;

export function snapshotUseCases(context: Context): SnapshotUseCases {
  const { catalog, engine, exports, sizes } = context;
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
    create: (caller, input, options) => createSnapshot(context, caller, input, options),
    createEach: (caller, inputs) => createSnapshots(context, caller, inputs),
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
    deleteParts: (caller, ids) => deleteParts(context, caller, ids),
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
