import { afterEach, beforeEach, expect, test } from 'vitest';
import { newId, type ProjectId, type UserId } from '../core/ids.ts';
import { Sessions, type SessionsOptions } from './sessions.ts';
import { errorOf, IdentityFixture, operatorPassword } from './testing/identity.ts';

let fixture: IdentityFixture;
let clock: { ms: number };

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  clock = { ms: 5000 };
});
afterEach(() => fixture[Symbol.asyncDispose]());

const someone = newId<UserId>();
const keep = { renew: false };

function sessions(options: SessionsOptions = {}): Sessions {
  const wallClockUs = () => clock.ms * 1000;
  return new Sessions(fixture.authenticator, { now: () => clock.ms, wallClockUs, ...options });
}

test('a session stands for its user until it expires', () => {
  const book = sessions();
  const projectId = newId<ProjectId>();
  const secret = book.open(someone, { ttlMs: 600_000, projectId });
  const other = book.open(someone, { ttlMs: 1000 });
  expect(secret.length).toBeGreaterThanOrEqual(43);
  expect(book.use(secret, keep)).toEqual({ userId: someone, projectId, expiresAt: 605_000_000 });
  expect(book.use(other, keep)).toEqual({ userId: someone, projectId: null, expiresAt: 6_000_000 });
  clock.ms += 599_999;
  expect(book.use(secret, keep)).toMatchObject({ expiresAt: 605_000_000 });
  expect(book.use(other, keep)).toBeUndefined();
  clock.ms += 1;
  expect(book.use(secret, keep)).toBeUndefined();
  expect(book.size).toBe(0);
});

test('use renews a session when that is said, and only then', () => {
  const book = sessions();
  const secret = book.open(someone, { ttlMs: 1000 });
  clock.ms += 900;
  expect(book.use(secret, { renew: true })?.expiresAt).toBe(6_900_000);
  clock.ms += 900;
  expect(book.use(secret, keep)?.expiresAt).toBe(6_900_000);
  clock.ms += 100;
  expect(book.use(secret, { renew: true })).toBeUndefined();
});

test('nothing but the secret opens it, and closing ends it', () => {
  const book = sessions();
  const secret = book.open(someone, { ttlMs: 1000 });
  for (const guess of ['', secret.slice(1), `${secret}=`, secret.toLowerCase(), 'a'.repeat(100_000), '\0', '\ud800']) {
    expect(book.use(guess, keep)).toBeUndefined();
    book.close(guess);
  }
  expect(book.use(secret, keep)).toBeDefined();
  book.close(secret);
  expect(book.use(secret, keep)).toBeUndefined();
  book.close(secret);
});

test('there are only so many: the one unused for longest goes, of the user or of all', () => {
  const book = sessions({ capacity: 4, perUser: 3 });
  const other = newId<UserId>();
  const own = [1, 2, 3].map(() => book.open(someone, { ttlMs: 1000 }));
  expect(book.use(own[0] ?? '', keep)).toBeDefined();
  const fourth = book.open(someone, { ttlMs: 1000 });
  expect([...own, fourth].map((secret) => book.use(secret, keep) !== undefined)).toEqual([true, false, true, true]);
  const foreign = [1, 2].map(() => book.open(other, { ttlMs: 1000 }));
  expect([...own, fourth, ...foreign].map((secret) => book.use(secret, keep) !== undefined)).toEqual([
    false,
    false,
    true,
    true,
    true,
    true,
  ]);
  expect(book.size).toBe(4);
  book.closeUser(someone);
  expect(book.size).toBe(2);
  expect(book.use(foreign[0] ?? '', keep)?.userId).toBe(other);
});

test('what shuts a user out ends the sessions; what does not, does not', async () => {
  const book = sessions();
  const ann = await fixture.person('ann', 'member', { password: 'a password of ann' });
  const bob = await fixture.person('bob', 'member');
  const ofBob = book.open(bob.userId, { ttlMs: 1000 });
  let secret = book.open(ann.userId, { ttlMs: 1000 });
  const { users, projects, operator } = fixture;
  await projects.setMember(operator, 'home', { user: 'ann', role: 'admin' });
  await users.update(operator, 'ann', { email: 'new@example.net', isOperator: false });
  await users.update(operator, 'ann', { disabled: false });
  await errorOf(users.setPassword(ann, 'bob', 'a new password'));
  await errorOf(users.delete(operator, 'root'));
  expect(book.use(secret, keep)).toBeDefined();

  await users.setPassword(operator, 'ann', 'another password');
  expect(book.use(secret, keep)).toBeUndefined();
  secret = book.open(ann.userId, { ttlMs: 1000 });
  await errorOf(users.changePassword(ann, { oldPassword: 'wrong', newPassword: 'one more password' }));
  expect(book.use(secret, keep)).toBeDefined();
  await users.changePassword(ann, { oldPassword: 'another password', newPassword: 'one more password' });
  expect(book.use(secret, keep)).toBeUndefined();
  secret = book.open(ann.userId, { ttlMs: 1000 });
  await users.update(operator, 'ann', { disabled: true });
  expect(book.use(secret, keep)).toBeUndefined();
  secret = book.open(ann.userId, { ttlMs: 1000 });
  await users.delete(operator, 'ann');
  expect(book.use(secret, keep)).toBeUndefined();

  expect(book.use(ofBob, keep)).toBeDefined();
  const root = book.open(operator.userId, { ttlMs: 1000 });
  await users.changePassword(operator, { oldPassword: operatorPassword, newPassword: 'a password of root' });
  expect(book.use(root, keep)).toBeUndefined();
});
