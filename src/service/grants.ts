/**
 * Grants: what a guest may see (`ro`) or change (`rw`) in the caller's project. Given and taken by the project's admins;
 * everyone may look at their own. See `rights` for what a grant covers.
 */
import { sql } from 'kysely';
import { addEvent, type Catalog, type Db, type Tx } from '../catalog/catalog.ts';
import type { Access, GrantedKind, GrantRow } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type GrantId, newId, type ProjectId, type UserId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { Caller } from './caller.ts';
import type { Page, PageRequest } from './interface.ts';
import { makeNumberPage, readNumberPage } from './number-page.ts';
import { assertProjectAdmin, seesAllGrants } from './rights.ts';
import { findUser } from './users.ts';

export interface Grant {
  readonly id: GrantId;
  readonly number: number;
  readonly projectId: ProjectId;
  readonly userId: UserId;
  readonly objectKind: GrantedKind;
  readonly objectId: string;
  readonly access: Access;
  readonly createdAt: number;
}

const grantedKinds: readonly GrantedKind[] = ['machine', 'drive', 'snapshot', 'image'];

export interface NewGrant {
  /** Id, name or e-mail address of a member of the project. */
  readonly user: string;
  readonly objectKind: GrantedKind;
  readonly objectId: string;
  readonly access: Access;
}

export class Grants {
  readonly #catalog: Catalog;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /**
   * Grants access to an object of the caller's project; a grant to the same user on the same object is changed instead.
   * @throws `forbidden`, `not_found` (user or object), `invalid_request`
   */
  async create(caller: Caller, input: NewGrant): Promise<Grant> {
    assertProjectAdmin(caller, caller.projectId);
    checkAccess(input.access);
    if (!grantedKinds.includes(input.objectKind)) {
      throw new CalotypeError('invalid_request', 'A grant is on a machine, a drive, a snapshot or an image.', {
        field: 'objectKind',
      });
    }
    const row = await this.#catalog.write(async (tx) => {
      const userId = await findMember(tx, caller, input.user);
      await assertObject(tx, caller, input.objectKind, input.objectId);
      const known = await tx
        .selectFrom('grants')
        .selectAll()
        .where('user_id', '=', userId)
        .where('object_id', '=', input.objectId)
        .executeTakeFirst();
      if (known !== undefined) return setAccess(tx, caller, known, input.access);
      const made = await tx
        .insertInto('grants')
        .values({
          id: newId<GrantId>(),
          project_id: caller.projectId,
          user_id: userId,
          object_kind: input.objectKind,
          object_id: input.objectId,
          access: input.access,
          created_at: nowUs(),
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      await addGrantEvent(tx, caller, 'grant.created', made);
      return made;
    });
    return presentGrant(row);
  }

  /** Admins see every grant of their project, others their own. */
  async list(
    caller: Caller,
    filter: { user?: string; objectId?: string } = {},
    page: PageRequest = {},
  ): Promise<Page<Grant>> {
    const { limit, offset, after } = readNumberPage(page);
    let all = this.#catalog.db.selectFrom('grants').where(visibleGrants(caller));
    if (filter.user !== undefined) {
      const user = await findUser(this.#catalog.db, filter.user);
      if (user === undefined) return { items: [], nextCursor: null, total: page.withTotal === true ? 0 : null };
      all = all.where('user_id', '=', user.id);
    }
    if (filter.objectId !== undefined) all = all.where('object_id', '=', filter.objectId);
    const rows = await all
      .selectAll()
      .where('number', '>', after)
      .orderBy('number')
      .limit(limit + 1)
      .offset(offset)
      .execute();
    const total =
      page.withTotal === true
        ? await all.select((eb) => eb.fn.countAll<number>().as('count')).executeTakeFirstOrThrow()
        : null;
    return makeNumberPage(rows, limit, total === null ? null : Number(total.count), presentGrant);
  }

  /** @throws `not_found` */
  async get(caller: Caller, id: string): Promise<Grant> {
    return presentGrant(await findGrant(this.#catalog.db, caller, id));
  }

  /** @throws `not_found`, `forbidden`, `invalid_request` */
  async update(caller: Caller, id: string, update: { access: Access }): Promise<Grant> {
    checkAccess(update.access);
    const row = await this.#catalog.write(async (tx) => {
      const grant = await findGrant(tx, caller, id);
      assertProjectAdmin(caller, grant.project_id);
      return setAccess(tx, caller, grant, update.access);
    });
    return presentGrant(row);
  }

  /** @throws `not_found`, `forbidden` */
  async delete(caller: Caller, id: string): Promise<void> {
    await this.#catalog.write(async (tx) => {
      const grant = await findGrant(tx, caller, id);
      assertProjectAdmin(caller, grant.project_id);
      await tx.deleteFrom('grants').where('number', '=', grant.number).execute();
      await addGrantEvent(tx, caller, 'grant.deleted', grant);
    });
  }
}

/** Drops the grants on an object that is going; for the transaction that removes it. */
export async function deleteGrantsOn(tx: Tx, objectId: string): Promise<void> {
  await tx.deleteFrom('grants').where('object_id', '=', objectId).execute();
}

function visibleGrants(caller: Caller) {
  if (seesAllGrants(caller)) {
    return sql<boolean>`grants.project_id = ${caller.projectId}`;
  }
  return sql<boolean>`(grants.project_id = ${caller.projectId} and grants.user_id = ${caller.userId})`;
}

async function findGrant(db: Db, caller: Caller, id: string): Promise<GrantRow> {
  const row = await db
    .selectFrom('grants')
    .selectAll()
    .where('id', '=', sql<GrantId>`${id}`)
    .where(visibleGrants(caller))
    .executeTakeFirst();
  if (row === undefined) throw notFound('grant', id);
  return row;
}

async function findMember(tx: Tx, caller: Caller, asked: string): Promise<UserId> {
  const user = await findUser(tx, asked);
  if (user !== undefined) {
    const membership = await tx
      .selectFrom('memberships')
      .select('role')
      .where('project_id', '=', caller.projectId)
      .where('user_id', '=', user.id)
      .executeTakeFirst();
    if (membership !== undefined) return user.id;
  }
  throw notFound('user', asked);
}

async function assertObject(tx: Tx, caller: Caller, kind: GrantedKind, id: string): Promise<void> {
  const table = { machine: 'machines', drive: 'drives', snapshot: 'snapshots', image: 'images' } as const;
  const found = await sql`
    select number from ${sql.table(table[kind])}
    where id = ${id} and project_id = ${caller.projectId} and state <> 'deleted'`.execute(tx);
  const [row] = found.rows;
  if (row === undefined) throw notFound(kind, id);
}

async function setAccess(tx: Tx, caller: Caller, grant: GrantRow, access: Access): Promise<GrantRow> {
  if (grant.access === access) return grant;
  const row = await tx
    .updateTable('grants')
    .set({ access })
    .where('number', '=', grant.number)
    .returningAll()
    .executeTakeFirstOrThrow();
  await addGrantEvent(tx, caller, 'grant.updated', row);
  return row;
}

function checkAccess(access: unknown): void {
  if (access !== 'ro' && access !== 'rw') {
    throw new CalotypeError('invalid_request', 'The access must be ro or rw.', { field: 'access' });
  }
}

function presentGrant(row: GrantRow): Grant {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    userId: row.user_id,
    objectKind: row.object_kind,
    objectId: row.object_id,
    access: row.access,
    createdAt: row.created_at,
  };
}

async function addGrantEvent(tx: Tx, caller: Caller, kind: string, grant: GrantRow): Promise<void> {
  await addEvent(tx, {
    projectId: grant.project_id,
    userId: caller.userId,
    via: caller.via,
    kind,
    objectKind: 'grant',
    objectId: grant.id,
    detail: { user: grant.user_id, kind: grant.object_kind, object: grant.object_id, access: grant.access },
  });
}
