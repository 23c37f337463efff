/**
 * Passwords at rest: scrypt, stored as `scrypt$N$r$p$salt$hash` (base64url), so that the cost can grow and old hashes
 * still verify. Knows nothing of users; `authenticate` decides when to ask and how often.
 */
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { CalotypeError } from '../core/errors.ts';

export const minPasswordLength = 8;
export const maxPasswordBytes = 1024;

interface Cost {
  readonly N: number;
  readonly r: number;
  readonly p: number;
}

/** 32 MiB and some 70 ms of one core for each guess. */
const cost: Cost = { N: 2 ** 15, r: 8, p: 1 };
const saltBytes = 16;
const hashBytes = 32;
/** What a stored hash may ask for at most, should the catalog be tampered with. */
const maxCost: Cost = { N: 2 ** 20, r: 32, p: 16 };

/** Compared against when there is no user, so that an unknown name takes as long as a wrong password. */
const noUser = { cost, salt: randomBytes(saltBytes), hash: randomBytes(hashBytes) };

function derive(password: string, salt: Buffer, length: number, by: Cost): Promise<Buffer> {
  const maxmem = 128 * by.r * (by.N + by.p) + 1024 * 1024;
  return new Promise((resolve, reject) => {
    scrypt(password.normalize('NFC'), salt, length, { ...by, maxmem }, (error, key) => {
      if (error === null) resolve(key);
      else reject(error);
    });
  });
}

interface Stored {
  cost: Cost;
  salt: Buffer;
  hash: Buffer;
}

function parse(stored: string): Stored | null {
  const match = /^scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([\w-]+)\$([\w-]+)$/.exec(stored);
  if (match === null) return null;
  const [, N, r, p, salt = '', hash = ''] = match;
  const found: Cost = { N: Number(N), r: Number(r), p: Number(p) };
  if (found.N > maxCost.N || found.r > maxCost.r || found.p > maxCost.p) return null;
  return { cost: found, salt: Buffer.from(salt, 'base64url'), hash: Buffer.from(hash, 'base64url') };
}

function isTooLong(password: string): boolean {
  return password.length > maxPasswordBytes || Buffer.byteLength(password.normalize('NFC')) > maxPasswordBytes;
}

/** A password fit to be set: 8 characters to 1024 bytes. @throws `invalid_request`, never with the password in it */
export function checkNewPassword(value: unknown, field = 'password'): string {
  if (typeof value !== 'string' || [...value.normalize('NFC').slice(0, 64)].length < minPasswordLength) {
    throw new CalotypeError('invalid_request', `The password must have at least ${minPasswordLength} characters.`, {
      field,
      minLength: minPasswordLength,
    });
  }
  if (isTooLong(value) || !value.isWellFormed()) {
    throw new CalotypeError('invalid_request', `The password must be text of at most ${maxPasswordBytes} bytes.`, {
      field,
      maxBytes: maxPasswordBytes,
    });
  }
  return value;
}

/** The stored form of a password. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(saltBytes);
  const hash = await derive(password, salt, hashBytes, cost);
  return `scrypt$${cost.N}$${cost.r}$${cost.p}$${salt.toString('base64url')}$${hash.toString('base64url')}`;
}

/**
 * Whether a password is the one stored; compared in constant time. With nothing stored (no such user, or one without a
 * password) it does the same work and says no.
 */
export async function verifyPassword(password: string, stored: string | null): Promise<boolean> {
  if (isTooLong(password)) return false;
  const known = stored === null ? null : parse(stored);
  const against = known ?? noUser;
  const hash = await derive(password, against.salt, against.hash.length, against.cost);
  return timingSafeEqual(hash, against.hash) && known !== null;
}

/** Whether a stored hash was made at another cost than today's and should be made again at the next login. */
export function needsRehash(stored: string): boolean {
  const known = parse(stored);
  if (known === null) return true;
  return (
    known.cost.N !== cost.N || known.cost.r !== cost.r || known.cost.p !== cost.p || known.hash.length !== hashBytes
  );
}
