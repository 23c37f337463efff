import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Caller } from './caller.ts';
import { expectError, IdentityFixture } from './testing/identity.ts';

const password = 'password of ann';
let fixture: IdentityFixture;
let ann: Caller;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  ann = await fixture.person('ann', 'member', { password });
});
afterEach(() => fixture[Symbol.asyncDispose]());

describe('making users', () => {
  test('an operator makes a user who can log in', async () => {
    const user = await fixture.users.create(fixture.operator, {
      name: 'Bob B.',
      email: 'Bob@Example.net',
      password: 'password of bob',
    });
    expect(user).toMatchObject({
      name: 'Bob B.',
      email: 'bob@example.net',
      isOperator: false,
      disabled: false,
      hasPassword: true,
      version: 1,
    });
    expect(await fixture.authenticator.basic('Bob B.', 'password of bob', '192.0.2.1')).toMatchObject({
      userId: user.id,
    });
    expect(await fixture.users.get(fixture.operator, 'bob@example.NET')).toEqual(user);
    const [event] = await fixture.eventsOf(user.id);
    expect(event).toMatchObject({ kind: 'user.created', user_id: fixture.operator.userId, via: 'test' });
    expect(await fixture.auditText()).not.toContain('password of bob');
    expect(await fixture.auditText()).not.toContain('scrypt');
  });

  test('nobody else does', async () => {
    const admin = await fixture.person('adam', 'admin');
    for (const caller of [ann, admin]) {
      await expectError(fixture.users.create(caller, { name: 'eve', password: 'password of eve' }), 'forbidden');
      await expectError(fixture.users.update(caller, 'ann', { isOperator: true }), 'forbidden');
      await expectError(fixture.users.setPassword(caller, 'ann', 'another password'), 'forbidden');
      await expectError(fixture.users.delete(caller, 'ann'), 'forbidden');
    }
  });

  test.each([
    [{ name: '' }, 'invalid_name'],
    [{ name: 'a:b' }, 'invalid_name'],
    [{ name: 'a\nb' }, 'invalid_name'],
    [{ name: 'bob', password: 'short' }, 'invalid_request'],
    [{ name: 'bob', email: 'bob' }, 'invalid_request'],
    [{ name: 'bob', email: 'b ob@example.net' }, 'invalid_request'],
    [{ name: 'ann' }, 'name_taken'],
    [{ name: 'ann@example.net' }, 'name_taken'],
    [{ name: 'Ann@Example.net' }, 'name_taken'],
    [{ name: 'bob', email: 'ANN@example.net' }, 'name_taken'],
  ] as const)('%j is refused with %s', async (input, code) => {
    await expectError(fixture.users.create(fixture.operator, input), code);
  });

  test('an e-mail address cannot be another user’s name', async () => {
    await fixture.users.create(fixture.operator, { name: 'Carl@Example.net' });
    await expectError(
      fixture.users.create(fixture.operator, { name: 'carl', email: 'carl@example.net' }),
      'name_taken',
      { field: 'email' },
    );
  });
});

describe('seeing users', () => {
  test('operators see all, admins their project, others themselves', async () => {
    const admin = await fixture.person('adam', 'admin');
    const foreign = await fixture.person('fay', 'admin', { project: 'other' });
    const names = async (caller: Caller): Promise<string[]> =>
      (await fixture.users.list(caller)).items.map((user) => user.name);
    expect(await names(fixture.operator)).toEqual(['root', 'ann', 'adam', 'fay']);
    expect(await names(admin)).toEqual(['root', 'ann', 'adam']);
    expect(await names(ann)).toEqual(['ann']);
    expect(await names(foreign)).toEqual(['fay']);
    expect((await fixture.users.get(ann, 'ann')).id).toBe(ann.userId);
    for (const asked of ['fay', foreign.userId, 'fay@example.net', 'missing']) {
      await expectError(fixture.users.get(admin, asked), 'not_found', { kind: 'user', id: asked });
    }
  });

  test('pages by cursor, by offset, with a total', async () => {
    for (const name of ['b', 'c', 'd']) await fixture.users.create(fixture.operator, { name });
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await fixture.users.list(fixture.operator, {
        limit: 2,
        withTotal: true,
        ...(cursor === undefined ? {} : { cursor }),
      });
      expect(page.total).toBe(5);
      seen.push(...page.items.map((user) => user.name));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    expect(seen).toEqual(['root', 'ann', 'b', 'c', 'd']);
    const second = await fixture.users.list(fixture.operator, { limit: 2, offset: 2 });
    expect(second).toMatchObject({ items: [{ name: 'b' }, { name: 'c' }], total: null });
    await expectError(fixture.users.list(fixture.operator, { cursor: 'x' }), 'invalid_cursor');
    await expectError(fixture.users.list(fixture.operator, { limit: 0 }), 'invalid_request');
    await expectError(fixture.users.list(fixture.operator, { limit: 1001 }), 'invalid_request');
  });
});

describe('changing users', () => {
  test('an update writes what is given, one version on, and an event', async () => {
    const before = await fixture.users.get(fixture.operator, 'ann');
    const after = await fixture.users.update(fixture.operator, 'ann', { name: 'anna', ifVersion: before.version });
    expect(after).toEqual({ ...before, name: 'anna', version: before.version + 1 });
    await expectError(
      fixture.users.update(fixture.operator, 'anna', { disabled: true, ifVersion: before.version }),
      'precondition_failed',
      { version: after.version },
    );
    await expectError(fixture.users.update(fixture.operator, 'anna', { name: 'root' }), 'name_taken');
    expect((await fixture.eventsOf(ann.userId)).map((event) => event.kind)).toEqual(['user.created', 'user.updated']);
  });

  test('one’s own password needs the old one', async () => {
    const change = (oldPassword: string, newPassword: string) =>
      fixture.users.changePassword(ann, { oldPassword, newPassword });
    await expectError(change('wrong password', 'another password'), 'forbidden', { field: 'oldPassword' });
    await expectError(change(password, 'short'), 'invalid_request', { field: 'newPassword' });
    await change(password, 'another password');
    await fixture.authenticator.basic('ann', 'another password', '192.0.2.1');
    await expectError(fixture.authenticator.basic('ann', password, '192.0.2.1'), 'unauthenticated');
    const audit = await fixture.auditText();
    expect(audit).toContain('user.password_changed');
    expect(audit).not.toContain('another password');
  });

  test('a user without a password cannot give themselves one', async () => {
    const kim = await fixture.person('kim', 'member');
    await expectError(
      fixture.users.changePassword(kim, { oldPassword: '', newPassword: 'another password' }),
      'forbidden',
    );
  });

  test('of two changes at once with the same old password one stands', async () => {
    const both = await Promise.allSettled([
      fixture.users.changePassword(ann, { oldPassword: password, newPassword: 'password one' }),
      fixture.users.changePassword(ann, { oldPassword: password, newPassword: 'password two' }),
    ]);
    expect(both.filter((one) => one.status === 'fulfilled')).toHaveLength(1);
  });

  test('operators set a password without the old one', async () => {
    await fixture.users.setPassword(fixture.operator, 'ann', 'another password');
    await fixture.authenticator.basic('ann', 'another password', '192.0.2.1');
    await expectError(fixture.users.setPassword(fixture.operator, 'ann', 'short'), 'invalid_request');
    await expectError(fixture.users.setPassword(fixture.operator, 'missing', 'long enough'), 'not_found');
  });
});

describe('the last operator', () => {
  test('stays operator, enabled and there', async () => {
    const changes = [{ isOperator: false }, { disabled: true }];
    for (const change of changes) {
      await expectError(fixture.users.update(fixture.operator, 'root', change), 'last_admin');
    }
    await expectError(fixture.users.delete(fixture.operator, 'root'), 'last_admin');
    await fixture.users.update(fixture.operator, 'ann', { isOperator: true, disabled: true });
    await expectError(fixture.users.delete(fixture.operator, 'root'), 'last_admin');
    await fixture.users.update(fixture.operator, 'ann', { disabled: false });
    await fixture.users.delete(fixture.operator, 'root');
    await expectError(fixture.users.delete(fixture.operator, 'ann'), 'last_admin');
  });
});

describe('deleting', () => {
  test('takes memberships, grants and tokens along, and leaves the audit log', async () => {
    const drive = await fixture.addDrive(ann.projectId);
    await fixture.grants.create(fixture.operator, {
      user: 'ann',
      objectKind: 'drive',
      objectId: drive,
      access: 'rw',
    });
    await fixture.tokens.create(ann, { name: 'ci' });
    await fixture.users.delete(fixture.operator, 'ann');
    for (const table of ['memberships', 'grants', 'tokens'] as const) {
      const rows = await fixture.catalog.db
        .selectFrom(table)
        .select('user_id')
        .where('user_id', '=', ann.userId)
        .execute();
      expect(rows).toEqual([]);
    }
    expect((await fixture.eventsOf(ann.userId)).at(-1)).toMatchObject({ kind: 'user.deleted' });
    await expectError(fixture.users.get(fixture.operator, 'ann'), 'not_found');
  });

  test('what fails leaves no event', async () => {
    await expectError(fixture.users.delete(fixture.operator, 'root'), 'last_admin');
    expect((await fixture.eventsOf(fixture.operator.userId)).map((event) => event.kind)).not.toContain('user.deleted');
  });
});
