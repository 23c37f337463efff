/**
 * Sessions of dialects whose clients log in once: a random secret that stands for a user until it expires. In memory only,
 * so that a restart ends them all, and as hashes only. What shuts a user out (a new password, disabling, deletion) ends
 * the user's sessions; everything else about the user is looked up at every request.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { ProjectId, UserId } from '../core/ids.ts';
import type { Authenticator } from './authenticate.ts';

export interface Session {
  readonly userId: UserId;
  /** The project chosen at login; null for the user's first. */
  readonly projectId: ProjectId | null;
  /** µs since the epoch. */
  readonly expiresAt: number;
}

export interface SessionsOptions {
  /** Milliseconds that never go back; default `performance.now`. */
  readonly now?: () => number;
  /** µs since the epoch, to say when a session expires. */
  readonly wallClockUs?: () => number;
  /** Sessions at a time; the one unused for longest makes room. Default 10 000. */
  readonly capacity?: number;
  /** Sessions of one user at a time; default 100. */
  readonly perUser?: number;
}

interface Kept {
  readonly userId: UserId;
  readonly projectId: ProjectId | null;
  readonly ttlMs: number;
  until: number;
}

const secretBytes = 32;
const hexSecretBytes = 16;

export class Sessions {
  readonly #now: () => number;
  readonly #wallClockUs: () => number;
  readonly #capacity: number;
  readonly #perUser: number;
  /** By hash of the secret; the one unused for longest first. */
  readonly #kept = new Map<string, Kept>();
  /** Hashes of each user's, in the same order. */
  readonly #byUser = new Map<UserId, Set<string>>();

  constructor(authenticator: Pick<Authenticator, 'onShutOut'>, options: SessionsOptions = {}) {
    this.#now = options.now ?? (() => performance.now());
    this.#wallClockUs = options.wallClockUs ?? (() => Date.now() * 1000);
    this.#capacity = options.capacity ?? 10_000;
    this.#perUser = options.perUser ?? 100;
    authenticator.onShutOut((userId) => this.closeUser(userId));
  }

  get size(): number {
    return this.#kept.size;
  }

  /** `hex`: a secret of 32 hexadecimal digits. @returns the secret, which is not kept */
  open(userId: UserId, options: { ttlMs: number; projectId?: ProjectId; hex?: boolean }): string {
    const secret =
      options.hex === true
        ? randomBytes(hexSecretBytes).toString('hex')
        : randomBytes(secretBytes).toString('base64url');
    const key = hashOf(secret);
    const { ttlMs, projectId = null } = options;
    const own = this.#byUser.get(userId) ?? new Set();
    this.#byUser.set(userId, own);
    this.#keep(key, { userId, projectId, ttlMs, until: this.#now() + ttlMs }, own);
    if (own.size > this.#perUser) this.#dropFirst(own);
    if (this.#kept.size > this.#capacity) this.#dropFirst(this.#kept.keys());
    return secret;
  }

  /** The session of a secret, if it has not expired. With `renew`, it lasts anew from now on. */
  use(secret: string, options: { renew: boolean }): Session | undefined {
    const key = hashOf(secret);
    const kept = this.#kept.get(key);
    if (kept === undefined) return undefined;
    const now = this.#now();
    if (kept.until <= now) {
      this.#drop(key);
      return undefined;
    }
    if (options.renew) kept.until = now + kept.ttlMs;
    const own = this.#byUser.get(kept.userId);
    if (own !== undefined) this.#keep(key, kept, own);
    const { userId, projectId } = kept;
    return { userId, projectId, expiresAt: this.#wallClockUs() + Math.round((kept.until - now) * 1000) };
  }

  /** Ends a session; nothing if there is none. */
  close(secret: string): void {
    this.#drop(hashOf(secret));
  }

  /** Ends all sessions of a user. */
  closeUser(userId: UserId): void {
    for (const key of this.#byUser.get(userId) ?? []) this.#kept.delete(key);
    this.#byUser.delete(userId);
  }

  /** As the one used last. */
  #keep(key: string, kept: Kept, own: Set<string>): void {
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    own.delete(key);
    own.add(key);
  }

  #dropFirst(keys: Iterable<string>): void {
    for (const key of keys) {
      this.#drop(key);
      return;
    }
  }

  #drop(key: string): void {
    const kept = this.#kept.get(key);
    if (kept === undefined) return;
    this.#kept.delete(key);
    const own = this.#byUser.get(kept.userId);
    own?.delete(key);
    if (own?.size === 0) this.#byUser.delete(kept.userId);
  }
}

/** Looking a hash up tells nothing about other secrets, however long it takes. */
function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('base64');
}
