/**
 * Tokens: API keys that act with the rights of their user. The secret is shown once; the catalog keeps its SHA-256 and
 * first characters. A revoked token's record stays, so that the audit log can be read; it goes with its user.
 */
import { hash as digest, randomBytes, timingSafeEqual } from 'node:crypto';
import { sql } from 'kysely';
import { addEvent, type Catalog, type Db, type Tx } from '../catalog/catalog.ts';
import type { TokenRow, UserRow } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { newId, type TokenId, type UserId } from '../core/ids.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import type { Authenticator } from './authenticate.ts';
import type { Caller } from './caller.ts';
import type { Page, PageRequest } from './interface.ts';
import { makeNumberPage, readNumberPage } from './number-page.ts';
import { findUser } from './users.ts';

export interface Token {
  readonly id: TokenId;
  readonly number: number;
  readonly userId: UserId;
  readonly name: string;
  /** The secret's first characters. */
  readonly prefix: string;
  readonly createdAt: number;
  /** µs; null for never. */
  readonly expiresAt: number | null;
  readonly revokedAt: number | null;
}

const secretPattern = /^cal_[\w-]{43}$/;
const prefixLength = 10;

/** `cal_` and 32 random bytes. */
export function newTokenSecret(): string {
  return `cal_${randomBytes(32).toString('base64url')}`;
}

/** SHA-256 in hex: enough for a secret of 256 random bits. */
export function hashTokenSecret(secret: string): string {
  return digest('sha256', secret, 'hex');
}

export interface VerifiedToken {
  readonly tokenId: TokenId;
  readonly userId: UserId;
  readonly expiresAt: number | null;
}

/**
 * Whose token a secret is. @throws `unauthenticated`, `token_revoked`, `token_expired`
 */
export async function verifyToken(db: Db, secret: string, now = nowUs()): Promise<VerifiedToken> {
  const wrong = new CalotypeError('unauthenticated', 'The token is not known.');
  if (!secretPattern.test(secret)) throw wrong;
  const hash = hashTokenSecret(secret);
  const row = await db.selectFrom('tokens').selectAll().where('hash', '=', hash).executeTakeFirst();
  if (row === undefined || !timingSafeEqual(Buffer.from(row.hash), Buffer.from(hash))) throw wrong;
  if (row.revoked_at !== null) throw new CalotypeError('token_revoked', undefined, { tokenId: row.id });
  if (row.expires_at !== null && row.expires_at <= now) throw tokenExpired(row.id);
  return { tokenId: row.id, userId: row.user_id, expiresAt: row.expires_at };
}

export function tokenExpired(tokenId: TokenId): CalotypeError {
  return new CalotypeError('token_expired', undefined, { tokenId });
}

/** Writes the record of a new token. */
export async function insertToken(
  tx: Tx,
  token: { userId: UserId; name: string; secret: string; expiresAt: number | null },
): Promise<TokenRow> {
  return tx
    .insertInto('tokens')
    .values({
      id: newId<TokenId>(),
      user_id: token.userId,
      name: token.name,
      hash: hashTokenSecret(token.secret),
      prefix: token.secret.slice(0, prefixLength),
      created_at: nowUs(),
      expires_at: token.expiresAt,
      revoked_at: null,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export class Tokens {
  readonly #catalog: Catalog;
  readonly #authenticator: Authenticator;

  constructor(catalog: Catalog, authenticator: Authenticator) {
    this.#catalog = catalog;
    this.#authenticator = authenticator;
  }

  /**
   * A new token of the caller or, for an operator, of any user. The secret is in this answer only.
   * @throws `invalid_name`, `invalid_request`, `not_found`, `forbidden`
   */
  async create(
    caller: Caller,
    input: { name: string; expiresAt?: number | null; user?: string },
  ): Promise<{ token: Token; secret: string }> {
    const name = checkName(input.name);
    const expiresAt = checkExpiry(input.expiresAt);
    const secret = newTokenSecret();
    const row = await this.#catalog.write(async (tx) => {
      const user = await subjectOf(tx, caller, input.user);
      const made = await insertToken(tx, { userId: user.id, name, secret, expiresAt });
      await addEvent(tx, {
        projectId: null,
        userId: caller.userId,
        via: caller.via,
        kind: 'token.created',
        objectKind: 'token',
        objectId: made.id,
        detail: { name, prefix: made.prefix, expiresAt, ofUser: user.id },
      });
      return made;
    });
    return { token: presentToken(row), secret };
  }

  /** The caller's tokens or, for an operator, any user's; revoked and expired ones too. @throws `not_found` */
  async list(caller: Caller, filter: { user?: string } = {}, page: PageRequest = {}): Promise<Page<Token>> {
    const { limit, offset, after } = readNumberPage(page);
    const user = await subjectOf(this.#catalog.db, caller, filter.user);
    const all = this.#catalog.db.selectFrom('tokens').where('user_id', '=', user.id);
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
    return makeNumberPage(rows, limit, total === null ? null : Number(total.count), presentToken);
  }

  /** @throws `not_found`, also for the token of another user */
  async get(caller: Caller, id: string): Promise<Token> {
    return presentToken(await findToken(this.#catalog.db, caller, id));
  }

  /** From now on the token is refused. Revoking twice changes nothing. @throws `not_found` */
  async revoke(caller: Caller, id: string): Promise<Token> {
    try {
      const row = await this.#catalog.write(async (tx) => {
        const known = await findToken(tx, caller, id);
        if (known.revoked_at !== null) return known;
        await addEvent(tx, {
          projectId: null,
          userId: caller.userId,
          via: caller.via,
          kind: 'token.revoked',
          objectKind: 'token',
          objectId: known.id,
          detail: { name: known.name, prefix: known.prefix, ofUser: known.user_id },
        });
        return tx
          .updateTable('tokens')
          .set({ revoked_at: nowUs() })
          .where('number', '=', known.number)
          .returningAll()
          .executeTakeFirstOrThrow();
      });
      return presentToken(row);
    } finally {
      this.#authenticator.forgetToken(id);
    }
  }
}

function presentToken(row: TokenRow): Token {
  return {
    id: row.id,
    number: row.number,
    userId: row.user_id,
    name: row.name,
    prefix: row.prefix,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    revokedAt: row.revoked_at,
  };
}

function checkExpiry(expiresAt: number | null | undefined): number | null {
  if (expiresAt === undefined || expiresAt === null) return null;
  if (!Number.isSafeInteger(expiresAt) || expiresAt <= nowUs()) {
    throw new CalotypeError('invalid_request', 'A token must expire in the future.', { field: 'expiresAt' });
  }
  return expiresAt;
}

/** Whose tokens the call is about. Only operators may name another user; for the rest others look missing. */
async function subjectOf(db: Db, caller: Caller, asked: string | undefined): Promise<UserRow> {
  const user = await findUser(db, asked ?? caller.userId);
  if (user === undefined || (user.id !== caller.userId && caller.role !== 'operator')) {
    throw notFound('user', asked ?? caller.userId);
  }
  return user;
}

async function findToken(db: Db, caller: Caller, id: string): Promise<TokenRow> {
  const row = await db.selectFrom('tokens').selectAll().where('id', '=', sql<TokenId>`${id}`).executeTakeFirst();
  if (row === undefined || (row.user_id !== caller.userId && caller.role !== 'operator')) throw notFound('token', id);
  return row;
}
