import { createHash } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Caller } from './caller.ts';
import { expectError, IdentityFixture } from './testing/identity.ts';
import { newTokenSecret, verifyToken } from './tokens.ts';

let fixture: IdentityFixture;
let ann: Caller;
let bob: Caller;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  ann = await fixture.person('ann', 'guest');
  bob = await fixture.person('bob', 'admin');
});
afterEach(() => fixture[Symbol.asyncDispose]());

test('the secret is shown once and stored as its SHA-256', async () => {
  const { token, secret } = await fixture.tokens.create(ann, { name: 'ci' });
  expect(secret).toMatch(/^cal_[\w-]{43}$/);
  expect(token).toMatchObject({ name: 'ci', userId: ann.userId, expiresAt: null, revokedAt: null });
  expect(secret.startsWith(token.prefix)).toBe(true);
  expect(token.prefix).toHaveLength(10);
  const rows = await fixture.catalog.db.selectFrom('tokens').selectAll().execute();
  expect(rows[0]?.hash).toBe(createHash('sha256').update(secret).digest('hex'));
  expect(JSON.stringify(rows)).not.toContain(secret);
  expect(await fixture.auditText()).not.toContain(secret.slice(10));
  expect((await fixture.eventsOf(token.id)).map((event) => event.kind)).toEqual(['token.created']);
  expect(await verifyToken(fixture.catalog.db, secret)).toEqual({
    tokenId: token.id,
    userId: ann.userId,
    expiresAt: null,
  });
});

test('secrets differ', () => {
  expect(new Set(Array.from({ length: 1000 }, newTokenSecret)).size).toBe(1000);
});

test('each has their own; those of others look missing; operators manage all', async () => {
  const anns = await fixture.tokens.create(ann, { name: 'one' });
  await fixture.tokens.create(bob, { name: 'two' });
  expect((await fixture.tokens.list(ann, {}, { withTotal: true })).items).toEqual([anns.token]);
  await expectError(fixture.tokens.get(bob, anns.token.id), 'not_found', { kind: 'token', id: anns.token.id });
  await expectError(fixture.tokens.revoke(bob, anns.token.id), 'not_found');
  await expectError(fixture.tokens.list(bob, { user: 'ann' }), 'not_found', { kind: 'user', id: 'ann' });
  await expectError(fixture.tokens.create(bob, { name: 'x', user: 'ann' }), 'not_found');
  const given = await fixture.tokens.create(fixture.operator, { name: 'given', user: 'ann' });
  expect(given.token.userId).toBe(ann.userId);
  expect((await fixture.tokens.list(fixture.operator, { user: 'ann' })).items).toHaveLength(2);
  await fixture.tokens.revoke(fixture.operator, anns.token.id);
  await expectError(verifyToken(fixture.catalog.db, anns.secret), 'token_revoked');
});

test('revoking twice changes nothing', async () => {
  const { token, secret } = await fixture.tokens.create(ann, { name: 'ci' });
  const once = await fixture.tokens.revoke(ann, token.id);
  expect(once.revokedAt).toBeGreaterThan(token.createdAt);
  expect(await fixture.tokens.revoke(ann, token.id)).toEqual(once);
  expect((await fixture.eventsOf(token.id)).map((event) => event.kind)).toEqual(['token.created', 'token.revoked']);
  await expectError(verifyToken(fixture.catalog.db, secret), 'token_revoked', { tokenId: token.id });
  await expectError(fixture.tokens.revoke(ann, 'missing'), 'not_found');
});

test('an expired token says so, from its very last instant on', async () => {
  const expiresAt = Date.now() * 1000 + 60_000_000;
  const { secret } = await fixture.tokens.create(ann, { name: 'ci', expiresAt });
  await verifyToken(fixture.catalog.db, secret, expiresAt - 1);
  await expectError(verifyToken(fixture.catalog.db, secret, expiresAt), 'token_expired');
  await expectError(verifyToken(fixture.catalog.db, newTokenSecret()), 'unauthenticated');
});

test.each([
  [{ name: '' }, 'invalid_name'],
  [{ name: 'a\0' }, 'invalid_name'],
  [{ name: 'ci', expiresAt: 1 }, 'invalid_request'],
  [{ name: 'ci', expiresAt: Number.NaN }, 'invalid_request'],
] as const)('%j is refused with %s', async (input, code) => {
  await expectError(fixture.tokens.create(ann, input), code);
});
