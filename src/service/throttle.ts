/**
 * Slows down failed logins, per account and per address: five are free, then each one closes the door for 1, 2, 4 …
 * 60 seconds. It never holds a request: it says at once when to come back. In memory and bounded; a restart forgets.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { CalotypeError } from '../core/errors.ts';
import { BoundedMap } from './bounded-map.ts';

export interface ThrottleOptions {
  /** Milliseconds that never go back; default `performance.now`. */
  now?: () => number;
  /** Failures without consequence; default 5. */
  freeFailures?: number;
  /** Longest delay in milliseconds; default 60 000. */
  maxDelayMs?: number;
  /** Idle time after which failures are forgotten; default 15 minutes. */
  forgetAfterMs?: number;
  /** Accounts, and addresses, remembered at a time; default 10 000. */
  capacity?: number;
}

interface Counter {
  failures: number;
  lastAt: number;
  blockedUntil: number;
}

const firstDelayMs = 1000;

export class LoginThrottle {
  readonly #now: () => number;
  readonly #freeFailures: number;
  readonly #maxDelayMs: number;
  readonly #forgetAfterMs: number;
  readonly #accounts: BoundedMap<string, Counter>;
  readonly #addresses: BoundedMap<string, Counter>;
  readonly #guesses: BoundedMap<string, number>;

  constructor(options: ThrottleOptions = {}) {
    this.#now = options.now ?? (() => performance.now());
    this.#freeFailures = options.freeFailures ?? 5;
    this.#maxDelayMs = options.maxDelayMs ?? 60_000;
    this.#forgetAfterMs = options.forgetAfterMs ?? 15 * 60_000;
    const capacity = options.capacity ?? 10_000;
    this.#accounts = new BoundedMap(capacity);
    this.#addresses = new BoundedMap(capacity);
    this.#guesses = new BoundedMap(capacity);
  }

  /** @throws `too_many_logins` with `retryAfterSeconds` while the address must wait */
  checkAddress(address: string): void {
    if (this.#addresses.size > 0) this.#check(this.#addresses.get(addressKey(address)));
  }

  /** @throws `too_many_logins` with `retryAfterSeconds` while the account must wait */
  checkAccount(account: string): void {
    this.#check(this.#accounts.get(account));
  }

  /** Counts one failed login against the account. */
  failAccount(account: string): void {
    this.#count(this.#accounts, account);
  }

  /**
   * Counts one failed login against the address. `guess` stands for the credentials tried (a keyed hash): the very same
   * ones tried again are no new guess, so that one misconfigured script does not shut out its neighbours.
   */
  failAddress(address: string, guess: string): void {
    const now = this.#now();
    const triedAt = this.#guesses.get(guess);
    this.#guesses.set(guess, now);
    if (triedAt !== undefined && now - triedAt < this.#forgetAfterMs) return;
    this.#count(this.#addresses, addressKey(address));
  }

  /** A successful login: the account starts afresh. Its address does not, or one's own account would buy free guesses. */
  succeed(account: string): void {
    this.#accounts.delete(account);
  }

  #check(counter: Counter | undefined): void {
    if (counter === undefined) return;
    const waitMs = counter.blockedUntil - this.#now();
    if (waitMs > 0) throw tooManyLogins(waitMs);
  }

  #count(counters: BoundedMap<string, Counter>, key: string): void {
    const now = this.#now();
    const known = counters.get(key);
    const before = known !== undefined && now - known.lastAt < this.#forgetAfterMs ? known.failures : 0;
    const failures = before + 1;
    const excess = failures - this.#freeFailures;
    const delayMs = excess < 0 ? 0 : Math.min(this.#maxDelayMs, firstDelayMs * 2 ** Math.min(excess, 30));
    counters.set(key, { failures, lastAt: now, blockedUntil: now + delayMs });
  }
}

export function tooManyLogins(waitMs: number): CalotypeError {
  const retryAfterSeconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new CalotypeError('too_many_logins', `Too many failed logins; try again in ${retryAfterSeconds} s.`, {
    retryAfterSeconds,
  });
}

/**
 * What counts as one address: an IPv4 address, also when mapped into IPv6; of IPv6 the first 64 bits, since one
 * subscriber holds all the rest.
 */
export function addressKey(address: string): string {
  if (isIPv4(address)) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  const bare = address.split('%')[0] ?? '';
  if (!isIPv6(bare)) return address.slice(0, 64);
  const [head = '', tail] = bare.split('::');
  const front = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const back = tail === '' ? [] : tail.split(':');
    // A dotted quad at the end stands for two groups.
    const groups = back.length + (back.at(-1)?.includes('.') === true ? 1 : 0);
    while (front.length + groups < 8) front.push('0');
    front.push(...back);
  }
  return front
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
