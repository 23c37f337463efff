/**
 * Who is asking. Turns credentials into an identity and an identity into the caller that use cases take. It stands on
 * the path of every request, so what was verified is remembered for a minute; whatever changes a user, token, project
 * or membership tells it to forget. The password itself is never kept, only a keyed hash of the credentials.
 */
import { hash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import type { Catalog, Db } from '../catalog/catalog.ts';
import type { Role, UserRow } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { ProjectId, TokenId, UserId } from '../core/ids.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import { hashPassword, needsRehash, verifyPassword } from './passwords.ts';
import { LoginThrottle, tooManyLogins } from './throttle.ts';
import { hashTokenSecret, tokenExpired, verifyToken } from './tokens.ts';

export interface Membership {
  readonly projectId: ProjectId;
  readonly projectName: string;
  readonly role: Role;
}

export interface Identity {
  readonly userId: UserId;
  readonly userName: string;
  readonly isOperator: boolean;
  /** In the order in which the projects were made. */
  readonly memberships: readonly Membership[];
  /** Set when a token was shown. */
  readonly tokenId?: TokenId;
}

export interface AuthenticatorOptions {
  /** Milliseconds that never go back; default `performance.now`. */
  now?: () => number;
  /** µs since the epoch, for the expiry of tokens. */
  wallClockUs?: () => number;
  /** How long verified credentials are remembered; default 60 000. */
  rememberMs?: number;
  throttle?: LoginThrottle;
}

interface Remembered {
  readonly identity: Identity;
  readonly until: number;
  /** µs; null for never. */
  readonly tokenExpiresAt: number | null;
}

interface KnownProject {
  readonly id: ProjectId;
  readonly name: string;
  readonly until: number;
}

const capacity = 10_000;
/** Password checks at a time: each takes a core and 32 MiB, and file work shares the same threads. */
const checksAtOnce = 2;
const waitingChecks = 256;

export class Authenticator {
  readonly #catalog: Catalog;
  readonly #now: () => number;
  readonly #wallClockUs: () => number;
  readonly #rememberMs: number;
  readonly #throttle: LoginThrottle;
  /** Of this process only. */
  readonly #key = randomBytes(32).toString('base64');
  readonly #remembered = new BoundedMap<string, Remembered>(capacity);
  readonly #projects = new BoundedMap<string, KnownProject>(capacity);
  /** Logins under way, so that a client's twenty connections cost one check. */
  readonly #logins = new Map<string, Promise<Identity>>();
  readonly #shutOutListeners: ((userId: UserId) => void)[] = [];
  readonly #checks = new Gate(checksAtOnce, waitingChecks);
  /** Grows when something is forgotten: what was read before must not be remembered after. */
  #generation = 0;

  constructor(catalog: Catalog, options: AuthenticatorOptions = {}) {
    this.#catalog = catalog;
    this.#now = options.now ?? (() => performance.now());
    this.#wallClockUs = options.wallClockUs ?? (() => Date.now() * 1000);
    this.#rememberMs = options.rememberMs ?? 60_000;
    this.#throttle = options.throttle ?? new LoginThrottle(options.now === undefined ? {} : { now: options.now });
  }

  /**
   * The user of a name or e-mail address and a password, seen from a network address.
   *
   * Remembered credentials hold for the address they came from, and the address is throttled first: else a guesser
   * whom the throttle turned away could still tell a remembered password from a wrong one.
   * @throws `unauthenticated`, `too_many_logins` with `retryAfterSeconds`
   */
  async basic(user: string, password: string, address: string): Promise<Identity> {
    this.#throttle.checkAddress(address);
    const key = this.#digest(user, address, password);
    const known = this.#remembered.get(key);
    if (known !== undefined && known.until > this.#now()) return known.identity;
    const running = this.#logins.get(key);
    if (running !== undefined) return running;
    const login = this.#login(user, password, address, key).finally(() => {
      if (this.#logins.get(key) === login) this.#logins.delete(key);
    });
    this.#logins.set(key, login);
    return login;
  }

  /**
   * The user of a token; `key` is the hash of its secret, for who has it already.
   * @throws `unauthenticated`, `token_expired`, `token_revoked`
   */
  async bearer(secret: string, key: string = hashTokenSecret(secret)): Promise<Identity> {
    const known = this.#remembered.get(key);
    if (known !== undefined && known.until > this.#now()) {
      const { identity, tokenExpiresAt } = known;
      if (tokenExpiresAt !== null && identity.tokenId !== undefined && tokenExpiresAt <= this.#wallClockUs()) {
        throw tokenExpired(identity.tokenId);
      }
      return identity;
    }
    const generation = this.#generation;
    const token = await verifyToken(this.#catalog.db, secret, this.#wallClockUs());
    const user = await loadIdentity(this.#catalog.db, token.userId);
    // Who holds the token may know: its secret cannot be guessed, and a deleted user's tokens are gone.
    if (user === null) throw new CalotypeError('unauthenticated', 'The user of this token is disabled.');
    const identity: Identity = { ...user, tokenId: token.tokenId };
    this.#remember(key, identity, token.expiresAt, generation);
    return identity;
  }

  /**
   * A user known by other means: a session that was opened with one of the above. Remembered like them.
   * @throws `unauthenticated` when the user is gone or disabled
   */
  async identityOf(userId: UserId): Promise<Identity> {
    const key = `user:${userId}`;
    const known = this.#remembered.get(key);
    if (known !== undefined && known.until > this.#now()) return known.identity;
    const generation = this.#generation;
    const identity = await loadIdentity(this.#catalog.db, userId);
    if (identity === null) throw new CalotypeError('unauthenticated', 'The user is disabled or deleted.');
    this.#remember(key, identity, null, generation);
    return identity;
  }

  /**
   * The caller: an identity in one project, by id or name. Without one, the first membership; for an operator without
   * any, the first project.
   * @throws `not_found` for a project that is missing or not the user's; `forbidden` for a user of no project
   */
  async callerFor(identity: Identity, choice: { project?: string; via: string }): Promise<Caller> {
    const { project, via } = choice;
    const { memberships } = identity;
    const membership =
      project === undefined
        ? memberships[0]
        : (memberships.find((m) => m.projectId === project) ?? memberships.find((m) => m.projectName === project));
    const { userId, userName, isOperator } = identity;
    if (membership !== undefined) {
      const { projectId, projectName, role } = membership;
      return { userId, userName, projectId, projectName, role: isOperator ? 'operator' : role, via };
    }
    if (isOperator) {
      const found = await this.#findProject(project);
      if (found !== undefined) {
        return { userId, userName, projectId: found.id, projectName: found.name, role: 'operator', via };
      }
    }
    if (project !== undefined) throw notFound('project', project);
    throw new CalotypeError('forbidden', `User ${userName} belongs to no project.`, {
      remedy: 'Ask an operator to make you a member of a project.',
    });
  }

  /**
   * Whether a user's password is the one given, throttled like a login to that account; for changes that ask again.
   * @throws `too_many_logins`
   */
  async confirmPassword(userId: UserId, password: string): Promise<boolean> {
    const account = `user:${userId}`;
    this.#throttle.checkAccount(account);
    return this.#checks.run(async () => {
      this.#throttle.checkAccount(account);
      const row = await this.#catalog.db
        .selectFrom('users')
        .select('password_hash')
        .where('id', '=', userId)
        .executeTakeFirst();
      const isRight = await verifyPassword(password, row?.password_hash ?? null);
      if (isRight) this.#throttle.succeed(account);
      else this.#throttle.failAccount(account);
      return isRight;
    });
  }

  /** The user changed in any way: password, name, rights, memberships, disabled, deleted. */
  forgetUser(userId: UserId): void {
    this.#forget((known) => known.identity.userId === userId);
  }

  /** What the user logged in with is no longer good: password changed, disabled, deleted. */
  shutOut(userId: UserId): void {
    this.forgetUser(userId);
    for (const listener of this.#shutOutListeners) listener(userId);
  }

  /** Calls back when a user is shut out. */
  onShutOut(listener: (userId: UserId) => void): void {
    this.#shutOutListeners.push(listener);
  }

  /** The token was revoked. */
  forgetToken(tokenId: string): void {
    this.#forget((known) => known.identity.tokenId === tokenId);
  }

  /** A project was renamed or deleted. */
  forgetProject(projectId: ProjectId): void {
    this.#projects.clear();
    this.#forget((known) => known.identity.memberships.some((m) => m.projectId === projectId));
  }

  #forget(matches: (known: Remembered) => boolean): void {
    this.#generation++;
    this.#logins.clear();
    this.#remembered.deleteWhere(matches);
  }

  #remember(key: string, identity: Identity, tokenExpiresAt: number | null, generation: number): void {
    if (generation !== this.#generation) return;
    this.#remembered.set(key, { identity, until: this.#now() + this.#rememberMs, tokenExpiresAt });
  }

  async #login(user: string, password: string, address: string, key: string): Promise<Identity> {
    const generation = this.#generation;
    const row = await findLogin(this.#catalog.db, user);
    const account = row === undefined ? `name:${this.#digest(user)}` : `user:${row.id}`;
    const admit = (): void => {
      this.#throttle.checkAddress(address);
      try {
        this.#throttle.checkAccount(account);
      } catch (error) {
        // Turned away unseen, yet a guess: without this the address could go on guessing at remembered credentials.
        this.#throttle.failAddress(address, key);
        throw error;
      }
    };
    admit();
    await this.#checks.run(async () => {
      // Those that queued up together must not all pass on the strength of one look.
      admit();
      const stored = row === undefined || row.disabled !== 0 ? null : row.password_hash;
      if (!(await verifyPassword(password, stored))) {
        this.#throttle.failAccount(account);
        this.#throttle.failAddress(address, key);
        throw wrongCredentials();
      }
      if (row !== undefined && stored !== null && needsRehash(stored)) await this.#rehash(row.id, stored, password);
    });
    const identity = row === undefined ? null : await loadIdentity(this.#catalog.db, row.id);
    if (identity === null) throw wrongCredentials();
    this.#throttle.succeed(account);
    this.#remember(key, identity, null, generation);
    return identity;
  }

  /** Stores the password at today's cost, unless it was changed meanwhile. */
  async #rehash(userId: UserId, stored: string, password: string): Promise<void> {
    const hash = await hashPassword(password);
    await this.#catalog.write((tx) =>
      tx
        .updateTable('users')
        .set({ password_hash: hash })
        .where('id', '=', userId)
        .where('password_hash', '=', stored)
        .execute(),
    );
  }

  async #findProject(asked: string | undefined): Promise<KnownProject | undefined> {
    const key = asked === undefined ? '' : `=${asked}`;
    const known = this.#projects.get(key);
    if (known !== undefined && known.until > this.#now()) return known;
    const generation = this.#generation;
    const all = this.#catalog.db.selectFrom('projects').select(['id', 'name']).orderBy('number');
    const rows =
      asked === undefined
        ? await all.limit(1).execute()
        : await all.where((eb) => eb.or([eb('id', '=', sql<ProjectId>`${asked}`), eb('name', '=', asked)])).execute();
    const row = rows.find((project) => project.id === asked) ?? rows[0];
    if (row === undefined) return undefined;
    const found = { id: row.id, name: row.name, until: this.#now() + this.#rememberMs };
    if (generation === this.#generation) this.#projects.set(key, found);
    return found;
  }

  /** Never leaves the process, so that a key before and behind does what an HMAC would, at a fifth of its cost. */
  #digest(...texts: string[]): string {
    const lengths = texts.map((text) => text.length).join(':');
    return hash('sha256', `${this.#key}${lengths}|${texts.join('')}|${this.#key}`, 'base64');
  }
}

/** Lets so many pieces of work run at a time and so many wait; more are turned away. */
class Gate {
  #free: number;
  readonly #maxWaiting: number;
  readonly #waiting: (() => void)[] = [];

  constructor(atOnce: number, maxWaiting: number) {
    this.#free = atOnce;
    this.#maxWaiting = maxWaiting;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else if (this.#waiting.length >= this.#maxWaiting) throw tooManyLogins(1000);
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

/** One answer for every reason, so that it tells none. */
function wrongCredentials(): CalotypeError {
  return new CalotypeError('unauthenticated', 'The user name or password is wrong.');
}

async function findLogin(db: Db, user: string): Promise<UserRow | undefined> {
  if (user === '' || user.length > 512 || user.includes('\0')) return undefined;
  const rows = await db
    .selectFrom('users')
    .selectAll()
    .where((eb) => eb.or([eb('name', '=', user), eb('email', '=', user.toLowerCase())]))
    .execute();
  return rows.find((row) => row.name === user) ?? rows[0];
}

/** What a user is and belongs to; null when missing or disabled. */
async function loadIdentity(db: Db, userId: UserId): Promise<Identity | null> {
  const user = await db
    .selectFrom('users')
    .select(['id', 'name', 'is_operator', 'disabled'])
    .where('id', '=', userId)
    .executeTakeFirst();
  if (user === undefined || user.disabled !== 0) return null;
  const memberships = await db
    .selectFrom('memberships as m')
    .innerJoin('projects as p', 'p.id', 'm.project_id')
    .select(['p.id as projectId', 'p.name as projectName', 'm.role'])
    .where('m.user_id', '=', userId)
    .orderBy('p.number')
    .execute();
  return { userId: user.id, userName: user.name, isOperator: user.is_operator !== 0, memberships };
}
