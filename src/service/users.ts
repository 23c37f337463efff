/**
 * Users of the server: made, changed and removed by operators. Everyone may look at themselves and change their own
 * password. Every change is told to the authenticator after the commit, so that nothing remembered outlives it.
 */
import { sql } from 'kysely';
import { addEvent, type Catalog, type Db, type Tx } from '../catalog/catalog.ts';
import type { UserRow } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { newId, type UserId } from '../core/ids.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import type { Authenticator } from './authenticate.ts';
import type { Caller } from './caller.ts';
import type { Page, PageRequest } from './interface.ts';
import { makeNumberPage, readNumberPage } from './number-page.ts';
import { checkNewPassword, hashPassword } from './passwords.ts';
import { assertOperator } from './rights.ts';

export interface User {
  readonly id: UserId;
  readonly number: number;
  readonly name: string;
  /** In lower case. */
  readonly email: string | null;
  readonly isOperator: boolean;
  readonly disabled: boolean;
  /** False for a user who may only use tokens. */
  readonly hasPassword: boolean;
  readonly createdAt: number;
  readonly version: number;
}

export interface NewUser {
  readonly name: string;
  readonly email?: string | null;
  /** Left out: a user who may only use tokens. */
  readonly password?: string | null;
  readonly isOperator?: boolean;
}

export interface UserUpdate {
  readonly name?: string;
  readonly email?: string | null;
  readonly isOperator?: boolean;
  readonly disabled?: boolean;
  /** Fail with `precondition_failed` unless the user is at this version. */
  readonly ifVersion?: number;
}

export class Users {
  readonly #catalog: Catalog;
  readonly #authenticator: Authenticator;

  constructor(catalog: Catalog, authenticator: Authenticator) {
    this.#catalog = catalog;
    this.#authenticator = authenticator;
  }

  /** For operators. @throws `forbidden`, `invalid_name`, `invalid_request`, `name_taken` */
  async create(caller: Caller, input: NewUser): Promise<User> {
    assertOperator(caller);
    const name = checkUserName(input.name);
    const email = checkEmail(input.email);
    const password = input.password ?? null;
    const passwordHash = password === null ? null : await hashPassword(checkNewPassword(password));
    const isOperator = input.isOperator === true;
    const row = await this.#catalog.write(async (tx) => {
      const made = await insertUser(tx, { name, email, passwordHash, isOperator });
      await addUserEvent(tx, caller, 'user.created', made.id, { name, email, isOperator });
      return made;
    });
    return presentUser(row);
  }

  /** Operators see everyone, admins the members of their project, others themselves. */
  async list(caller: Caller, page: PageRequest = {}): Promise<Page<User>> {
    const { limit, offset, after } = readNumberPage(page);
    const visible = this.#catalog.db.selectFrom('users').where(visibleUsers(caller));
    const rows = await visible
      .selectAll()
      .where('number', '>', after)
      .orderBy('number')
      .limit(limit + 1)
      .offset(offset)
      .execute();
    const total =
      page.withTotal === true
        ? await visible.select((eb) => eb.fn.countAll<number>().as('count')).executeTakeFirstOrThrow()
        : null;
    return makeNumberPage(rows, limit, total === null ? null : Number(total.count), presentUser);
  }

  /** By id, name or e-mail address, among those that `list` shows. @throws `not_found` */
  async get(caller: Caller, asked: string): Promise<User> {
    return presentUser(await findVisibleUser(this.#catalog.db, caller, asked));
  }

  /**
   * For operators. Disabling stops the user's password and tokens at once.
   * @throws `forbidden`, `not_found`, `invalid_name`, `invalid_request`, `name_taken`, `last_admin`, `precondition_failed`
   */
  async update(caller: Caller, asked: string, update: UserUpdate): Promise<User> {
    const name = update.name === undefined ? undefined : checkUserName(update.name);
    const email = update.email === undefined ? undefined : checkEmail(update.email);
    const shutsOut = update.disabled === true;
    return this.#change(caller, asked, { ifVersion: update.ifVersion, shutsOut }, async (tx, user) => {
      const next = {
        name: name ?? user.name,
        email: email === undefined ? user.email : email,
        is_operator: update.isOperator === undefined ? user.is_operator : Number(update.isOperator),
        disabled: update.disabled === undefined ? user.disabled : Number(update.disabled),
      };
      await assertFree(tx, next.name, next.email, user.id);
      if (next.is_operator === 0 || next.disabled !== 0) await assertNotLastOperator(tx, user);
      const row = await tx
        .updateTable('users')
        .set({ ...next, version: user.version + 1 })
        .where('number', '=', user.number)
        .returningAll()
        .executeTakeFirstOrThrow();
      await addUserEvent(tx, caller, 'user.updated', user.id, {
        name: row.name,
        email: row.email,
        isOperator: row.is_operator !== 0,
        disabled: row.disabled !== 0,
      });
      return row;
    });
  }

  /** For operators: a new password for any user, without the old one. @throws `forbidden`, `not_found`, `invalid_request` */
  async setPassword(caller: Caller, asked: string, password: string): Promise<void> {
    assertOperator(caller);
    const hash = await hashPassword(checkNewPassword(password));
    await this.#change(caller, asked, { shutsOut: true }, async (tx, user) => {
      await addUserEvent(tx, caller, 'user.password_set', user.id);
      return storePassword(tx, user, hash);
    });
  }

  /**
   * The caller's own password. Tokens stay valid.
   * @throws `forbidden` when the old one is wrong, `too_many_logins`, `invalid_request`
   */
  async changePassword(caller: Caller, input: { oldPassword: string; newPassword: string }): Promise<void> {
    const password = checkNewPassword(input.newPassword, 'newPassword');
    const before = await findUser(this.#catalog.db, caller.userId);
    if (before === undefined) throw notFound('user', caller.userId);
    if (!(await this.#authenticator.confirmPassword(caller.userId, input.oldPassword))) {
      throw new CalotypeError('forbidden', 'The old password is wrong.', { field: 'oldPassword' });
    }
    const hash = await hashPassword(password);
    try {
      await this.#catalog.write(async (tx) => {
        const user = await findUser(tx, caller.userId);
        // Someone else set it while the old one was being checked: theirs stands.
        if (user === undefined || user.password_hash !== before.password_hash) {
          throw new CalotypeError('precondition_failed', 'The password was changed meanwhile.');
        }
        await addUserEvent(tx, caller, 'user.password_changed', user.id);
        await storePassword(tx, user, hash);
      });
    } finally {
      this.#authenticator.shutOut(caller.userId);
    }
  }

  /** For operators. The user's memberships, grants and tokens go too; what they made stays. @throws `forbidden`, `not_found`, `last_admin`, `precondition_failed` */
  async delete(caller: Caller, asked: string, options: { ifVersion?: number } = {}): Promise<void> {
    await this.#change(caller, asked, { ...options, shutsOut: true }, async (tx, user) => {
      await assertNotLastOperator(tx, user);
      await tx.deleteFrom('grants').where('user_id', '=', user.id).execute();
      await tx.deleteFrom('memberships').where('user_id', '=', user.id).execute();
      await tx.deleteFrom('preferences').where('user_id', '=', user.id).execute();
      await tx.deleteFrom('tokens').where('user_id', '=', user.id).execute();
      await tx.deleteFrom('users').where('number', '=', user.number).execute();
      await addUserEvent(tx, caller, 'user.deleted', user.id, { name: user.name, email: user.email });
      return user;
    });
  }

  /** One change of one user by an operator, in one commit, after which nothing remembered of the user holds. */
  async #change(
    caller: Caller,
    asked: string,
    how: { readonly ifVersion?: number | undefined; readonly shutsOut: boolean },
    work: (tx: Tx, user: UserRow) => Promise<UserRow>,
  ): Promise<User> {
    let changed: UserId | undefined;
    try {
      const row = await this.#catalog.write(async (tx) => {
        const user = await findVisibleUser(tx, caller, asked);
        assertOperator(caller);
        assertVersion(user, how.ifVersion);
        changed = user.id;
        return work(tx, user);
      });
      return presentUser(row);
    } finally {
      // Also when it failed: a commit whose answer was lost may have happened.
      if (changed !== undefined) {
        if (how.shutsOut) this.#authenticator.shutOut(changed);
        else this.#authenticator.forgetUser(changed);
      }
    }
  }
}

/** A user by id, name or e-mail address, the id first. */
export async function findUser(db: Db, asked: string): Promise<UserRow | undefined> {
  const rows = await db
    .selectFrom('users')
    .selectAll()
    .where((eb) =>
      eb.or([eb('id', '=', sql<UserId>`${asked}`), eb('name', '=', asked), eb('email', '=', asked.toLowerCase())]),
    )
    .execute();
  return rows.find((row) => row.id === asked) ?? rows.find((row) => row.name === asked) ?? rows[0];
}

/** The user if the caller may see them. @throws `not_found` */
export async function findVisibleUser(db: Db, caller: Caller, asked: string): Promise<UserRow> {
  const found = await findUser(db, asked);
  if (found !== undefined) {
    const row = await db
      .selectFrom('users')
      .select('number')
      .where('id', '=', found.id)
      .where(visibleUsers(caller))
      .executeTakeFirst();
    if (row !== undefined) return found;
  }
  throw notFound('user', asked);
}

/** Writes the record of a new user. @throws `name_taken` */
export async function insertUser(
  tx: Tx,
  user: { name: string; email: string | null; passwordHash: string | null; isOperator: boolean },
): Promise<UserRow> {
  await assertFree(tx, user.name, user.email, null);
  return tx
    .insertInto('users')
    .values({
      id: newId<UserId>(),
      name: user.name,
      email: user.email,
      password_hash: user.passwordHash,
      is_operator: user.isOperator ? 1 : 0,
      disabled: 0,
      created_at: nowUs(),
      version: 1,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export function presentUser(row: UserRow): User {
  return {
    id: row.id,
    number: row.number,
    name: row.name,
    email: row.email,
    isOperator: row.is_operator !== 0,
    disabled: row.disabled !== 0,
    hasPassword: row.password_hash !== null,
    createdAt: row.created_at,
    version: row.version,
  };
}

/** @throws `precondition_failed` with the version there is */
export function assertVersion(row: { version: number }, ifVersion: number | undefined): void {
  if (ifVersion !== undefined && row.version !== ifVersion) {
    throw new CalotypeError('precondition_failed', undefined, { version: row.version, ifVersion });
  }
}

function visibleUsers(caller: Caller) {
  if (caller.role === 'operator') return sql<boolean>`1 = 1`;
  if (caller.role !== 'admin') return sql<boolean>`users.id = ${caller.userId}`;
  return sql<boolean>`(users.id = ${caller.userId}
    or users.id in (select m.user_id from memberships m where m.project_id = ${caller.projectId}))`;
}

/** A colon would end the name in Basic credentials (RFC 7617). */
function checkUserName(value: unknown): string {
  const name = checkName(value);
  if (name.includes(':')) {
    throw new CalotypeError('invalid_name', 'A user name must not hold a colon.', { field: 'name' });
  }
  return name;
}

function checkEmail(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== 'string' || value.length > 254 || !/^[^\s@:\p{Cc}]+@[^\s@:\p{Cc}]+$/u.test(value)) {
    throw new CalotypeError('invalid_request', 'The e-mail address is not valid.', { field: 'email' });
  }
  return value.toLowerCase();
}

/** Names and e-mail addresses share one space: whoever logs in with one must not be taken for another. */
async function assertFree(tx: Tx, name: string, email: string | null, except: UserId | null): Promise<void> {
  const asEmail = name.toLowerCase();
  const rows = await tx
    .selectFrom('users')
    .select(['id', 'name', 'email'])
    .where((eb) =>
      eb.or([
        eb('name', '=', name),
        eb('email', '=', asEmail),
        ...(email === null ? [] : [eb('email', '=', email), eb(eb.fn<string>('lower', ['name']), '=', email)]),
      ]),
    )
    .execute();
  const taken = rows.find((row) => row.id !== except);
  if (taken === undefined) return;
  const field = taken.name === name || taken.email === asEmail ? 'name' : 'email';
  throw new CalotypeError('name_taken', `Another user has this ${field === 'name' ? 'name' : 'e-mail address'}.`, {
    field,
    blocking: [taken.id],
  });
}

/** @throws `last_admin` when the user is the only operator who can still log in */
async function assertNotLastOperator(tx: Tx, user: UserRow): Promise<void> {
  if (user.is_operator === 0 || user.disabled !== 0) return;
  const other = await tx
    .selectFrom('users')
    .select('number')
    .where('is_operator', '=', 1)
    .where('disabled', '=', 0)
    .where('number', '!=', user.number)
    .executeTakeFirst();
  if (other === undefined) {
    throw new CalotypeError('last_admin', `User ${user.name} is the last operator.`, {
      id: user.id,
      remedy: 'Make another user an operator first.',
    });
  }
}

async function storePassword(tx: Tx, user: UserRow, hash: string): Promise<UserRow> {
  return tx
    .updateTable('users')
    .set({ password_hash: hash, version: user.version + 1 })
    .where('number', '=', user.number)
    .returningAll()
    .executeTakeFirstOrThrow();
}

async function addUserEvent(
  tx: Tx,
  caller: Caller,
  kind: string,
  userId: UserId,
  detail: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await addEvent(tx, {
    projectId: null,
    userId: caller.userId,
    via: caller.via,
    kind,
    objectKind: 'user',
    objectId: userId,
    detail,
  });
}
