import { scryptSync } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isoFromUs } from '../core/time.ts';
import type { Caller } from './caller.ts';
import { needsRehash } from './passwords.ts';
import { errorOf, expectError, IdentityFixture, operatorPassword } from './testing/identity.ts';

const here = '192.0.2.1';
const elsewhere = '198.51.100.1';
const password = 'password of ann';

let fixture: IdentityFixture;
let ann: Caller;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  ann = await fixture.person('ann', 'member', { password });
});
afterEach(() => fixture[Symbol.asyncDispose]());

describe('a password', () => {
  test('is good with the name and with the e-mail address, in any case', async () => {
    for (const name of ['ann', 'ann@example.net', 'Ann@Example.NET']) {
      const identity = await fixture.authenticator.basic(name, password, here);
      expect(identity).toEqual({
        userId: ann.userId,
        userName: 'ann',
        isOperator: false,
        memberships: [{ projectId: ann.projectId, projectName: 'home', role: 'member' }],
      });
    }
  });

  test('every refusal reads the same', async () => {
    await fixture.person('kim', 'member');
    await fixture.person('off', 'member', { password });
    await fixture.users.update(fixture.operator, 'off', { disabled: true });
    const errors = [];
    for (const [index, [name, secret]] of [
      ['ann', 'wrong password'],
      ['nobody', password],
      ['', ''],
      ['kim', ''],
      ['off', password],
      ['ann\0', password],
      [ann.userId, password],
      ["ann' or 1=1 --", password],
      ['x'.repeat(5000), 'y'.repeat(5000)],
    ].entries()) {
      const error = await errorOf(fixture.authenticator.basic(name ?? '', secret ?? '', `203.0.113.${index}`));
      errors.push({ code: error.code, message: error.message, details: error.details });
    }
    expect(new Set(errors.map((e) => JSON.stringify(e))).size).toBe(1);
    expect(errors[0]).toMatchObject({ code: 'unauthenticated', details: {} });
  });

  test('is remembered for a minute, without the catalog, at microseconds a check', async () => {
    const identity = await fixture.authenticator.basic('ann', password, here);
    await fixture.catalog.close();
    const start = performance.now();
    for (let i = 0; i < 10_000; i++) await fixture.authenticator.basic('ann', password, here);
    const microseconds = ((performance.now() - start) * 1000) / 10_000;
    console.log(`remembered password: ${microseconds.toFixed(1)} µs a check`);
    expect(microseconds).toBeLessThan(100);
    expect(await fixture.authenticator.basic('ann', password, here)).toBe(identity);
    fixture.pass(61);
    await expect(fixture.authenticator.basic('ann', password, here)).rejects.toThrow();
  });

  test('is remembered for its address and spelling only', async () => {
    await fixture.authenticator.basic('ann', password, here);
    await fixture.catalog.close();
    for (const [name, secret, address] of [
      ['ann', password, elsewhere],
      ['an', `n${password}`, here],
      ['ann', `${password} `, here],
      [`ann${here}`, password, ''],
    ] as const) {
      await expect(fixture.authenticator.basic(name, secret, address)).rejects.toThrow();
    }
  });

  test('many connections at once cost one check and are no brute force', async () => {
    const start = performance.now();
    const all = await Promise.all(Array.from({ length: 50 }, () => fixture.authenticator.basic('ann', password, here)));
    expect(performance.now() - start).toBeLessThan(2000);
    expect(new Set(all).size).toBe(1);
    const wrong = await Promise.allSettled(
      Array.from({ length: 50 }, () => fixture.authenticator.basic('ann', 'wrong password', here)),
    );
    expect(wrong.every((one) => one.status === 'rejected')).toBe(true);
    await fixture.authenticator.basic('ann', password, elsewhere);
  });

  test('stored at an older cost is stored anew at login', async () => {
    const salt = Buffer.from('0123456789abcdef');
    const hash = scryptSync(password, salt, 32, { N: 1024, r: 8, p: 1 });
    const stored = `scrypt$1024$8$1$${salt.toString('base64url')}$${hash.toString('base64url')}`;
    await fixture.catalog.db.updateTable('users').set({ password_hash: stored }).where('id', '=', ann.userId).execute();
    await fixture.authenticator.basic('ann', password, here);
    const row = await fixture.catalog.db
      .selectFrom('users')
      .select('password_hash')
      .where('id', '=', ann.userId)
      .executeTakeFirstOrThrow();
    expect(needsRehash(row.password_hash ?? '')).toBe(false);
    await fixture.authenticator.basic('ann', password, elsewhere);
  });
});

describe('what is remembered is dropped', () => {
  test.each<[string, () => Promise<unknown>]>([
    ['when the password is set', () => fixture.users.setPassword(fixture.operator, 'ann', 'another password')],
    [
      'when the password is changed',
      () => fixture.users.changePassword(ann, { oldPassword: password, newPassword: 'another password' }),
    ],
    ['when the user is disabled', () => fixture.users.update(fixture.operator, 'ann', { disabled: true })],
    ['when the user is deleted', () => fixture.users.delete(fixture.operator, 'ann')],
    ['when the user is renamed', () => fixture.users.update(fixture.operator, 'ann', { name: 'anna', email: null })],
  ])('%s', async (_, change) => {
    await fixture.authenticator.basic('ann', password, here);
    await change();
    await expectError(fixture.authenticator.basic('ann', password, here), 'unauthenticated');
  });

  test('while a check with the old password is under way', async () => {
    const slow = fixture.authenticator.basic('ann', password, here);
    await fixture.users.setPassword(fixture.operator, 'ann', 'another password');
    await slow.catch(() => undefined);
    await expectError(fixture.authenticator.basic('ann', password, here), 'unauthenticated');
    await fixture.authenticator.basic('ann', 'another password', here);
  });

  test('by those who come after a change, even if one with the old password still waits', async () => {
    const crowd = Array.from({ length: 12 }, (_, i) =>
      errorOf(fixture.authenticator.basic(`user${i}`, 'password1', `203.0.113.${i}`)),
    );
    const early = fixture.authenticator.basic('ann', password, here);
    // One turn of the catalog later the early one has read the old hash and waits for its check.
    await fixture.users.get(fixture.operator, 'ann');
    await fixture.catalog.db.updateTable('users').set({ password_hash: null }).where('id', '=', ann.userId).execute();
    fixture.authenticator.forgetUser(ann.userId);
    const late = expectError(fixture.authenticator.basic('ann', password, here), 'unauthenticated');
    expect(await early).toMatchObject({ userName: 'ann' });
    await late;
    await Promise.all(crowd);
    await expectError(fixture.authenticator.basic('ann', password, here), 'unauthenticated');
  });

  test('when memberships change', async () => {
    await fixture.authenticator.basic('ann', password, here);
    await fixture.projects.setMember(fixture.operator, 'home', { user: 'ann', role: 'guest' });
    expect((await fixture.authenticator.basic('ann', password, here)).memberships).toMatchObject([{ role: 'guest' }]);
    await fixture.projects.removeMember(fixture.operator, 'home', 'ann');
    const identity = await fixture.authenticator.basic('ann', password, here);
    expect(identity.memberships).toEqual([]);
    await expectError(fixture.authenticator.callerFor(identity, { via: 'native' }), 'forbidden');
  });

  test('when the project is renamed', async () => {
    await fixture.authenticator.basic('ann', password, here);
    await fixture.projects.update(fixture.operator, 'home', { name: 'castle' });
    const identity = await fixture.authenticator.basic('ann', password, here);
    expect(await fixture.authenticator.callerFor(identity, { via: 'native' })).toMatchObject({ projectName: 'castle' });
  });
});

describe('brute force', () => {
  test('against one account is slowed down from every address, the right password included', async () => {
    for (let i = 0; i < 5; i++) {
      await expectError(fixture.authenticator.basic('ann', `guess number ${i}`, `203.0.113.${i}`), 'unauthenticated');
    }
    await expectError(fixture.authenticator.basic('ann', 'guess again', '203.0.113.9'), 'too_many_logins', {
      retryAfterSeconds: 1,
    });
    // The account is one, by whatever name.
    await expectError(fixture.authenticator.basic('ann@example.net', password, elsewhere), 'too_many_logins');
    fixture.pass(1);
    await fixture.authenticator.basic('ann', password, elsewhere);
    // Success cleared the account.
    await expectError(fixture.authenticator.basic('ann', 'guess again', '203.0.113.10'), 'unauthenticated');
    await expectError(fixture.authenticator.basic('ann', 'and again', '203.0.113.11'), 'unauthenticated');
  });

  test('with the same wrong password is slowed down as well', async () => {
    for (let i = 0; i < 5; i++) {
      await expectError(fixture.authenticator.basic('ann', 'wrong password', here), 'unauthenticated');
    }
    await expectError(fixture.authenticator.basic('ann', 'wrong password', here), 'too_many_logins');
  });

  test('of unknown users is slowed down like that of known ones', async () => {
    for (let i = 0; i < 5; i++) {
      await expectError(fixture.authenticator.basic('nobody', `guess ${i}`, `203.0.113.${i}`), 'unauthenticated');
    }
    await expectError(fixture.authenticator.basic('nobody', 'guess', '203.0.113.9'), 'too_many_logins');
  });

  test('from one address against many accounts is slowed down', async () => {
    for (let i = 0; i < 5; i++) {
      await expectError(fixture.authenticator.basic(`user${i}`, 'password1', here), 'unauthenticated');
    }
    await expectError(fixture.authenticator.basic('user9', 'password1', here), 'too_many_logins', {
      retryAfterSeconds: 1,
    });
    await fixture.authenticator.basic('ann', password, elsewhere);
  });

  test('in parallel gets no more guesses than one by one, give or take one', async () => {
    const guesses = await Promise.allSettled(
      Array.from({ length: 40 }, (_, i) => fixture.authenticator.basic('ann', `guess ${i}`, `203.0.113.${i}`)),
    );
    const codes = guesses.map((g) => (g.status === 'rejected' ? String(Reflect.get(g.reason, 'code')) : 'let in'));
    expect(codes.filter((code) => code === 'unauthenticated').length).toBeLessThanOrEqual(6);
    expect(codes).not.toContain('let in');
  });

  test('cannot tell a remembered password from a wrong one', async () => {
    await fixture.authenticator.basic('ann', password, here);
    // Elsewhere the account is locked at once; here the address soon is, though no guess is verified any more.
    for (let i = 0; i < 5; i++) {
      await errorOf(fixture.authenticator.basic('ann', `guess ${i}`, `203.0.113.${i}`));
    }
    for (let i = 0; i < 5; i++) {
      await expectError(fixture.authenticator.basic('ann', `other ${i}`, here), 'too_many_logins');
    }
    await expectError(fixture.authenticator.basic('ann', password, here), 'too_many_logins');
  });

  test('by others does not shut out who is logged in already', async () => {
    await fixture.authenticator.basic('ann', password, here);
    for (let i = 0; i < 8; i++) {
      await errorOf(fixture.authenticator.basic('ann', `guess ${i}`, `203.0.113.${i}`));
    }
    await fixture.authenticator.basic('ann', password, here);
  });

  test('of the old password on a change is slowed down', async () => {
    for (let i = 0; i < 5; i++) {
      await expectError(
        fixture.users.changePassword(ann, { oldPassword: `guess ${i}`, newPassword: 'another password' }),
        'forbidden',
      );
    }
    await expectError(
      fixture.users.changePassword(ann, { oldPassword: password, newPassword: 'another password' }),
      'too_many_logins',
    );
  });
});

describe('a token', () => {
  test('acts with its user', async () => {
    const { token, secret } = await fixture.tokens.create(ann, { name: 'ci' });
    const identity = await fixture.authenticator.bearer(secret);
    expect(identity).toMatchObject({ userId: ann.userId, tokenId: token.id });
    expect(await fixture.authenticator.callerFor(identity, { via: 'native' })).toEqual({ ...ann, via: 'native' });
  });

  test('is remembered without the catalog', async () => {
    const { secret } = await fixture.tokens.create(ann, { name: 'ci' });
    await fixture.authenticator.bearer(secret);
    await fixture.catalog.close();
    const start = performance.now();
    for (let i = 0; i < 10_000; i++) await fixture.authenticator.bearer(secret);
    const microseconds = ((performance.now() - start) * 1000) / 10_000;
    console.log(`remembered token: ${microseconds.toFixed(1)} µs a check`);
    expect(microseconds).toBeLessThan(100);
    fixture.pass(61);
    await expect(fixture.authenticator.bearer(secret)).rejects.toThrow();
  });

  test('ends when it expires, even if remembered', async () => {
    const expiresAt = Date.now() * 1000 + 30_000_000;
    const { token, secret } = await fixture.tokens.create(ann, { name: isoFromUs(expiresAt), expiresAt });
    await fixture.authenticator.bearer(secret);
    fixture.pass(31);
    await expectError(fixture.authenticator.bearer(secret), 'token_expired', { tokenId: token.id });
    fixture.pass(61);
    await expectError(fixture.authenticator.bearer(secret), 'token_expired', { tokenId: token.id });
  });

  test('ends when it is revoked, its user disabled or deleted', async () => {
    const one = await fixture.tokens.create(ann, { name: 'one' });
    const two = await fixture.tokens.create(ann, { name: 'two' });
    await fixture.authenticator.bearer(one.secret);
    await fixture.authenticator.bearer(two.secret);
    await fixture.tokens.revoke(ann, one.token.id);
    await expectError(fixture.authenticator.bearer(one.secret), 'token_revoked');
    await fixture.authenticator.bearer(two.secret);
    await fixture.users.update(fixture.operator, 'ann', { disabled: true });
    const refused = await errorOf(fixture.authenticator.bearer(two.secret));
    expect(refused).toMatchObject({ code: 'unauthenticated', message: 'The user of this token is disabled.' });
    await fixture.users.update(fixture.operator, 'ann', { disabled: false });
    await fixture.authenticator.bearer(two.secret);
    await fixture.users.delete(fixture.operator, 'ann');
    await expectError(fixture.authenticator.bearer(two.secret), 'unauthenticated');
  });

  test.each([[''], ['cal_'], ['Bearer x'], [`cal_${'A'.repeat(43)}`], [`cal_${'A'.repeat(100_000)}`]])(
    'that nobody made is refused: case %#',
    async (secret) => {
      await expectError(fixture.authenticator.bearer(secret), 'unauthenticated');
    },
  );
});

describe('a session', () => {
  test('knows its user until they are disabled', async () => {
    expect(await fixture.authenticator.identityOf(ann.userId)).toMatchObject({ userName: 'ann' });
    await fixture.users.update(fixture.operator, 'ann', { disabled: true });
    await expectError(fixture.authenticator.identityOf(ann.userId), 'unauthenticated');
  });
});

describe('the caller', () => {
  test('is in the only or first project, or the one asked for', async () => {
    const other = await fixture.projects.create(fixture.operator, { name: 'other' });
    await fixture.projects.setMember(fixture.operator, 'other', { user: 'ann', role: 'admin' });
    const identity = await fixture.authenticator.basic('ann', password, here);
    expect(await fixture.authenticator.callerFor(identity, { via: 'native' })).toEqual({ ...ann, via: 'native' });
    for (const project of ['other', other.id]) {
      expect(await fixture.authenticator.callerFor(identity, { project, via: 'cloudmc' })).toEqual({
        userId: ann.userId,
        userName: 'ann',
        projectId: other.id,
        projectName: 'other',
        role: 'admin',
        via: 'cloudmc',
      });
    }
  });

  test('meets a foreign project like a missing one', async () => {
    const foreign = await fixture.projects.create(fixture.operator, { name: 'foreign' });
    const identity = await fixture.authenticator.basic('ann', password, here);
    for (const project of ['foreign', foreign.id, 'missing', '', '*']) {
      const error = await errorOf(fixture.authenticator.callerFor(identity, { project, via: 'native' }));
      expect([error.code, error.message, error.details]).toEqual([
        'not_found',
        `There is no project ${project}.`,
        { kind: 'project', id: project },
      ]);
    }
  });

  test('when an operator may be in any project, remembered without the catalog', async () => {
    const far = await fixture.projects.create(fixture.operator, { name: 'far' });
    const identity = await fixture.authenticator.basic('root', operatorPassword, here);
    for (const project of ['far', far.id]) {
      expect(await fixture.authenticator.callerFor(identity, { project, via: 'native' })).toMatchObject({
        projectId: far.id,
        projectName: 'far',
        role: 'operator',
      });
    }
    expect(await fixture.authenticator.callerFor(identity, { via: 'native' })).toMatchObject({ projectName: 'home' });
    await expectError(fixture.authenticator.callerFor(identity, { project: 'missing', via: 'native' }), 'not_found');
    await fixture.projects.update(fixture.operator, 'far', { name: 'near' });
    await expectError(fixture.authenticator.callerFor(identity, { project: 'far', via: 'native' }), 'not_found');
    expect(await fixture.authenticator.callerFor(identity, { project: 'near', via: 'native' })).toMatchObject({
      projectId: far.id,
    });
    await fixture.catalog.close();
    await fixture.authenticator.callerFor(identity, { project: 'near', via: 'native' });
  });

  test('when an operator of no project is in the first one', async () => {
    await fixture.users.create(fixture.operator, { name: 'op', password, isOperator: true });
    const identity = await fixture.authenticator.basic('op', password, here);
    expect(await fixture.authenticator.callerFor(identity, { via: 'native' })).toMatchObject({
      projectName: 'home',
      role: 'operator',
    });
  });
});
