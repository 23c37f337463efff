/**
 * Who may do what. Members of a project may do everything with its objects; a guest only what grants say. What a caller
 * may not see answers exactly like what is not there. Every use case asks here before it acts, every list filters by it.
 *
 * A grant on a machine goes for its snapshots, too. A snapshot may cover several drives. A grant on any of them shows it to a guest; changing it as a whole takes `rw` on
 * all of them, or on the snapshot. One drive's part of it (a drive snapshot) goes with that drive or the snapshot.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Db } from '../catalog/catalog.ts';
import type { Access, GrantedKind } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { DriveSnapshotId, ProjectId, SnapshotId } from '../core/ids.ts';
import type { Caller } from './caller.ts';

export type Action = 'read' | 'write';

export type ProtectedKind = 'machine' | 'drive' | 'snapshot' | 'driveSnapshot' | 'image';

export interface ProtectedObject {
  readonly projectId: ProjectId;
  readonly kind: ProtectedKind;
  readonly id: string;
}

/**
 * Whether the caller may read or change an object. For all but guests this takes no query.
 * The object's own state is not looked at.
 */
export async function can(caller: Caller, action: Action, object: ProtectedObject, db: Db): Promise<boolean> {
  if (object.projectId !== caller.projectId) return false;
  if (caller.role !== 'guest') return true;
  switch (object.kind) {
    case 'machine':
    case 'drive':
    case 'image':
      return allows(action, await grantedAccess(caller, object.kind, object.id, db));
    case 'snapshot':
      return canGuestSnapshot(caller, action, object.id, db);
    case 'driveSnapshot':
      return canGuestDriveSnapshot(caller, action, object.id, db);
  }
}

/**
 * The object, if the caller may see it. `undefined` stands for one that was not found, so that missing and hidden take
 * one path. `askedFor` is what the client named it by (an id, a number): the answer must not tell more than was asked.
 * @throws `not_found`
 */
export async function assertReadable<T extends ProtectedObject>(
  caller: Caller,
  object: T | undefined,
  db: Db,
  asked: { kind: string; id: string },
): Promise<T> {
  if (object === undefined || !(await can(caller, 'read', object, db))) throw notFound(asked.kind, asked.id);
  return object;
}

/**
 * The object, if the caller may change it.
 * @throws `not_found` when the caller may not even see it, `forbidden` when seen but not writable
 */
export async function assertWritable<T extends ProtectedObject>(
  caller: Caller,
  object: T | undefined,
  db: Db,
  asked: { kind: string; id: string },
): Promise<T> {
  const seen = await assertReadable(caller, object, db, asked);
  if (!(await can(caller, 'write', seen, db))) {
    throw new CalotypeError('forbidden', `You may look at ${asked.kind} ${asked.id} but not change it.`, {
      kind: asked.kind,
      id: asked.id,
      needs: 'rw',
    });
  }
  return seen;
}

/** New objects need a place in the project, which a guest does not have. @throws `forbidden` */
export function assertMayCreate(caller: Caller): void {
  if (caller.role === 'guest') {
    throw new CalotypeError('forbidden', `A guest of project ${caller.projectName} cannot create objects in it.`, {
      needs: 'member',
    });
  }
}

/** Admins and operators see every grant of the project, others their own. */
export function seesAllGrants(caller: Caller): boolean {
  return caller.role === 'operator' || caller.role === 'admin';
}

/** @throws `forbidden` */
export function assertOperator(caller: Caller): void {
  if (caller.role !== 'operator') {
    throw new CalotypeError('forbidden', 'Only an operator may do this.', { needs: 'operator' });
  }
}

/** Operators everywhere, admins in their project. A foreign project looks missing. @throws `not_found`, `forbidden` */
export function assertProjectAdmin(caller: Caller, projectId: ProjectId, asked: string = projectId): void {
  if (caller.role === 'operator') return;
  if (projectId !== caller.projectId) throw notFound('project', asked);
  if (caller.role !== 'admin') {
    throw new CalotypeError('forbidden', `Only an admin of project ${caller.projectName} may do this.`, {
      needs: 'admin',
    });
  }
}

/**
 * The condition under which rows belong in the caller's list: of the caller's project and, for a guest, granted. Used
 * as `query.where(visibleFilter(caller, 'drive'))`. `table` is the name or alias of the listed table; drive snapshots
 * have no project of their own, so their lists join `snapshots`, by default under that name.
 */
export function visibleFilter(
  caller: Caller,
  kind: ProtectedKind,
  tables: { table?: string; snapshots?: string } = {},
): RawBuilder<SqlBool> {
  const table =
    tables.table ??
    { machine: 'machines', drive: 'drives', snapshot: 'snapshots', driveSnapshot: 'drive_snapshots', image: 'images' }[
      kind
    ];
  const owner = kind === 'driveSnapshot' ? (tables.snapshots ?? 'snapshots') : table;
  const inProject = sql<SqlBool>`${sql.ref(`${owner}.project_id`)} = ${caller.projectId}`;
  if (caller.role !== 'guest') return inProject;
  // Lists of ids that do not depend on the row: the database reads them once, at a cost in what is granted.
  switch (kind) {
    case 'machine':
    case 'drive':
    case 'image':
      return sql<SqlBool>`(${inProject} and ${sql.ref(`${table}.id`)} in (${grantedIds(caller, kind)}))`;
    case 'snapshot':
      return sql<SqlBool>`(${inProject} and ${sql.ref(`${table}.id`)} in (${visibleSnapshotIds(caller)}))`;
    case 'driveSnapshot':
      return sql<SqlBool>`(${inProject} and (
        ${sql.ref(`${table}.drive_id`)} in (${grantedIds(caller, 'drive')})
        or ${sql.ref(`${table}.snapshot_id`)} in (${grantedIds(caller, 'snapshot')})
        or ${sql.ref(`${table}.snapshot_id`)} in (
          select m.id from snapshots m where m.machine_id in (${grantedIds(caller, 'machine')}))))`;
  }
}

/** The same for tasks: a guest sees those he started, and those that touch what was granted to him. */
export function visibleTasks(caller: Caller, table: string): RawBuilder<SqlBool> {
  const column = (name: string): RawBuilder<unknown> => sql.ref(`${table}.${name}`);
  const inProject = sql<SqlBool>`${column('project_id')} = ${caller.projectId}`;
  // Tasks of no project are the server's own.
  if (caller.role === 'operator') return sql<SqlBool>`(${inProject} or ${column('project_id')} is null)`;
  if (caller.role !== 'guest') return inProject;
  return sql<SqlBool>`(${inProject} and (${column('user_id')} = ${caller.userId}
    or ${column('machine_id')} in (${grantedIds(caller, 'machine')})
    or ${column('id')} in (select x.task_id from task_drives x where x.drive_id in (${grantedIds(caller, 'drive')}))))`;
}

function grantedIds(caller: Caller, kind: GrantedKind): RawBuilder<unknown> {
  return sql`select g.object_id from grants g
    where g.user_id = ${caller.userId} and g.project_id = ${caller.projectId} and g.object_kind = ${kind}`;
}

function visibleSnapshotIds(caller: Caller): RawBuilder<unknown> {
  return sql`${grantedIds(caller, 'snapshot')}
    union select p.snapshot_id from grants g join drive_snapshots p on p.drive_id = g.object_id
      where g.user_id = ${caller.userId} and g.project_id = ${caller.projectId} and g.object_kind = 'drive'
    union select s.id from snapshots s where s.machine_id in (${grantedIds(caller, 'machine')})
    union select s.id from snapshots s
      where s.project_id = ${caller.projectId} and s.state in ('creating', 'error', 'deleting')
        and s.created_by = ${caller.userId}
        and not exists (select 1 from drive_snapshots p where p.snapshot_id = s.id)`;
}

function allows(action: Action, access: Access | null | undefined): boolean {
  return action === 'read' ? access === 'ro' || access === 'rw' : access === 'rw';
}

async function grantedAccess(caller: Caller, kind: GrantedKind, id: string, db: Db): Promise<Access | undefined> {
  const grant = await db
    .selectFrom('grants')
    .select('access')
    .where('user_id', '=', caller.userId)
    .where('object_id', '=', id)
    .where('object_kind', '=', kind)
    .where('project_id', '=', caller.projectId)
    .executeTakeFirst();
  return grant?.access;
}

async function canGuestSnapshot(caller: Caller, action: Action, id: string, db: Db): Promise<boolean> {
  if (allows(action, await grantedAccess(caller, 'snapshot', id, db))) return true;
  if (allows(action, await machineGrant(caller, id, db))) return true;
  const parts = await db
    .selectFrom('drive_snapshots as p')
    .leftJoin('grants as g', (join) =>
      join
        .onRef('g.object_id', '=', 'p.drive_id')
        .on('g.user_id', '=', caller.userId)
        .on('g.project_id', '=', caller.projectId)
        .on('g.object_kind', '=', 'drive'),
    )
    .select('g.access')
    .where('p.snapshot_id', '=', sql<SnapshotId>`${id}`)
    .execute();
  if (parts.length === 0) return isOwnUnfinishedSnapshot(caller, id, db);
  return action === 'read'
    ? parts.some((part) => allows('read', part.access))
    : parts.every((part) => allows('write', part.access));
}

/** What a grant on the machine that a snapshot was taken of gives. */
async function machineGrant(caller: Caller, id: string, db: Db): Promise<Access | undefined> {
  const row = await db
    .selectFrom('snapshots')
    .select('machine_id')
    .where('id', '=', sql<SnapshotId>`${id}`)
    .executeTakeFirst();
  const machineId = row?.machine_id ?? null;
  return machineId === null ? undefined : grantedAccess(caller, 'machine', machineId, db);
}

/** A snapshot has no parts until the engine made them; meanwhile, or if that failed, it is its maker's. */
async function isOwnUnfinishedSnapshot(caller: Caller, id: string, db: Db): Promise<boolean> {
  const row = await db
    .selectFrom('snapshots')
    .select('number')
    .where('id', '=', sql<SnapshotId>`${id}`)
    .where('created_by', '=', caller.userId)
    .where('state', 'in', ['creating', 'error', 'deleting'])
    .executeTakeFirst();
  return row !== undefined;
}

async function canGuestDriveSnapshot(caller: Caller, action: Action, id: string, db: Db): Promise<boolean> {
  const part = await db
    .selectFrom('drive_snapshots')
    .select(['drive_id', 'snapshot_id'])
    .where('id', '=', sql<DriveSnapshotId>`${id}`)
    .executeTakeFirst();
  if (part === undefined) return false;
  if (allows(action, await grantedAccess(caller, 'drive', part.drive_id, db))) return true;
  if (allows(action, await grantedAccess(caller, 'snapshot', part.snapshot_id, db))) return true;
  return allows(action, await machineGrant(caller, part.snapshot_id, db));
}
