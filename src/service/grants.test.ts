import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DriveId } from '../core/ids.ts';
import type { Caller } from './caller.ts';
import { deleteGrantsOn, type NewGrant } from './grants.ts';
import { expectError, IdentityFixture } from './testing/identity.ts';

let fixture: IdentityFixture;
let admin: Caller;
let guest: Caller;
let drive: DriveId;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  admin = await fixture.person('adam', 'admin');
  guest = await fixture.person('gus', 'guest');
  drive = await fixture.addDrive(admin.projectId);
});
afterEach(() => fixture[Symbol.asyncDispose]());

const onDrive = (access: 'ro' | 'rw'): NewGrant => ({ user: 'gus', objectKind: 'drive', objectId: drive, access });

test('an admin grants, changes and withdraws', async () => {
  const grant = await fixture.grants.create(admin, onDrive('ro'));
  expect(grant).toMatchObject({ projectId: admin.projectId, userId: guest.userId, objectId: drive, access: 'ro' });
  // Granting again changes the grant there is.
  expect(await fixture.grants.create(admin, onDrive('rw'))).toEqual({ ...grant, access: 'rw' });
  expect(await fixture.grants.update(admin, grant.id, { access: 'ro' })).toEqual(grant);
  expect(await fixture.grants.get(guest, grant.id)).toEqual(grant);
  await fixture.grants.delete(admin, grant.id);
  await expectError(fixture.grants.get(admin, grant.id), 'not_found', { kind: 'grant', id: grant.id });
  expect((await fixture.eventsOf(grant.id)).map((event) => [event.kind, event.project_id])).toEqual([
    ['grant.created', admin.projectId],
    ['grant.updated', admin.projectId],
    ['grant.updated', admin.projectId],
    ['grant.deleted', admin.projectId],
  ]);
});

test('members and guests do not grant', async () => {
  const member = await fixture.person('mia', 'member');
  const grant = await fixture.grants.create(admin, onDrive('ro'));
  for (const caller of [member, guest]) {
    await expectError(fixture.grants.create(caller, onDrive('rw')), 'forbidden');
  }
  await expectError(fixture.grants.update(guest, grant.id, { access: 'rw' }), 'forbidden');
  await expectError(fixture.grants.delete(guest, grant.id), 'forbidden');
  // A member sees no grants of others.
  await expectError(fixture.grants.update(member, grant.id, { access: 'rw' }), 'not_found');
});

test('the user must belong to the project and the object be in it', async () => {
  const foreign = await fixture.person('fay', 'admin', { project: 'other' });
  const foreignDrive = await fixture.addDrive(foreign.projectId);
  const refused = async (change: Partial<NewGrant>, kind: string, id: string): Promise<void> =>
    expectError(fixture.grants.create(admin, { ...onDrive('ro'), ...change }), 'not_found', { kind, id });
  await refused({ user: 'fay' }, 'user', 'fay');
  await refused({ user: 'missing' }, 'user', 'missing');
  await refused({ objectId: foreignDrive }, 'drive', foreignDrive);
  await refused({ objectId: 'missing' }, 'drive', 'missing');
  await refused({ objectKind: 'snapshot' }, 'snapshot', drive);
  const grant = await fixture.grants.create(admin, onDrive('ro'));
  await expectError(fixture.grants.get(foreign, grant.id), 'not_found');
  await expectError(fixture.grants.delete(foreign, grant.id), 'not_found');
});

test('lists show admins all, others their own', async () => {
  const snapshot = await fixture.addSnapshot(admin, [drive]);
  await fixture.person('gia', 'guest');
  await fixture.grants.create(admin, onDrive('ro'));
  await fixture.grants.create(admin, { user: 'gia', objectKind: 'snapshot', objectId: snapshot.id, access: 'rw' });
  expect((await fixture.grants.list(admin, {}, { withTotal: true })).total).toBe(2);
  expect((await fixture.grants.list(guest)).items).toMatchObject([{ userId: guest.userId }]);
  expect((await fixture.grants.list(guest, { user: 'gia' })).items).toEqual([]);
  expect((await fixture.grants.list(admin, { user: 'gia' })).items).toMatchObject([{ objectId: snapshot.id }]);
  expect((await fixture.grants.list(admin, { objectId: drive })).items).toMatchObject([{ userId: guest.userId }]);
  expect((await fixture.grants.list(admin, { user: 'missing' })).items).toEqual([]);
});

test('wrong words are refused', async () => {
  const create = (change: object): Promise<unknown> =>
    Reflect.apply(fixture.grants.create, fixture.grants, [admin, { ...onDrive('ro'), ...change }]);
  await expectError(create({ access: 'w' }), 'invalid_request', { field: 'access' });
  await expectError(create({ objectKind: 'task' }), 'invalid_request', { field: 'objectKind' });
});

test('grants on an object go with it', async () => {
  await fixture.grants.create(admin, onDrive('ro'));
  await fixture.catalog.write((tx) => deleteGrantsOn(tx, drive));
  expect((await fixture.grants.list(admin)).items).toEqual([]);
});
