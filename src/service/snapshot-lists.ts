/** Lists of snapshots, and the tree they form for one drive. */

import { findDriveRow } from '../catalog/drives.ts';
import { countSnapshots } from '../catalog/snapshot-count.ts';
import type { SnapshotQuery } from '../catalog/snapshot-filters.ts';
import { findSnapshotPlaces } from '../catalog/snapshot-list.ts';
import { type SnapshotRecord, snapshotNumbersOfDrive, snapshotsByNumber } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../core/ids.ts';
import type { DriveSnapshot, Snapshot } from '../core/model.ts';
import { driveRow } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { Page, PageRequest, SnapshotFilter, SnapshotNode, SnapshotSort, SortOrder } from './interface.ts';
import { toSnapshot } from './objects.ts';
import { cursorOf, pageOf, readCursor } from './paging.ts';
import { can, visibleFilter } from './rights.ts';

const readAtOnce = 500;

export async function listSnapshots(
  context: Context,
  caller: Caller,
  filter: SnapshotFilter,
  sort: { by: SnapshotSort; order: SortOrder },
  page: PageRequest,
): Promise<Page<Snapshot>> {
  const { db } = context.catalog;
  const { limit, offset } = pageOf(page);
  const guest = caller.role === 'guest';
  const shape = { of: 'snapshots', filter, project: caller.projectId, user: guest ? caller.userId : '' };
  const after = readCursor(page, shape, sort.by, sort.order);
  if (filter.driveId !== undefined && !(await isOwnDrive(context, caller, filter.driveId))) {
    return { items: [], nextCursor: null, total: page.withTotal === true ? 0 : null };
  }
  const query: SnapshotQuery = {
    ...filter,
    visible: visibleFilter(caller, 'snapshot', { table: 's' }),
    projectId: guest ? null : caller.projectId,
    totalToo: page.withTotal === true,
  };
  const places = await findSnapshotPlaces(db, query, sort.by, { order: sort.order, after, limit: limit + 1, offset });
  const shown = places.slice(0, limit);
  const records = await snapshotsByNumber(
    db,
    shown.map((place) => place.number),
  );
  const fresh = await context.sizes.fresh(records);
  const last = shown.at(-1);
  return {
    items: records.map((record) => toSnapshot(record, fresh)),
    nextCursor: places.length > limit && last !== undefined ? cursorOf(shape, sort.by, sort.order, last) : null,
    total: page.withTotal === true ? await countSnapshots(db, query) : null,
  };
}

/** A foreign drive has no snapshots, as far as the caller can tell. A guest's rights are looked at per snapshot. */
async function isOwnDrive(context: Context, caller: Caller, id: DriveId): Promise<boolean> {
  const row = await findDriveRow(context.catalog.db, id);
  return row !== undefined && row.project_id === caller.projectId;
}

interface Node extends SnapshotNode {
  readonly children: Node[];
}

/** Snapshots that were never finished are not part of it. */
export async function snapshotTree(
  context: Context,
  caller: Caller,
  driveId: DriveId,
): Promise<{ roots: readonly SnapshotNode[]; current: DriveSnapshotId | null }> {
  const { db } = context.catalog;
  const drive = await driveRow(db, caller, 'read', driveId, { hidden: true });
  const numbers = await snapshotNumbersOfDrive(db, driveId);
  const nodes = new Map<DriveSnapshotId, Node>();
  for (let from = 0; from < numbers.length; from += readAtOnce) {
    const records = await snapshotsByNumber(db, numbers.slice(from, from + readAtOnce));
    const own: SnapshotRecord[] = [];
    for (const record of records) {
      if (record.state !== 'available' && record.state !== 'deleting') continue;
      const visible = { projectId: record.project_id, kind: 'snapshot', id: record.id } as const;
      if (await can(caller, 'read', visible, db)) own.push(record);
    }
    const fresh = await context.sizes.fresh(own);
    for (const record of own) {
      const snapshot = toSnapshot(record, fresh);
      const part = partOfDrive(snapshot, driveId);
      nodes.set(part.id, { part, snapshot, children: [] });
    }
  }
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = node.part.parentId === null ? undefined : nodes.get(node.part.parentId);
    (parent?.children ?? roots).push(node);
  }
  return { roots, current: drive.based_on };
}

function partOfDrive(snapshot: Snapshot, driveId: DriveId): DriveSnapshot {
  const part = snapshot.parts.find((known) => known.driveId === driveId);
  if (part === undefined) throw new CalotypeError('internal', 'A snapshot of a drive has no part of it.');
  return part;
}
