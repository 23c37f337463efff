import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Caller } from './caller.ts';
import { expectError, IdentityFixture } from './testing/identity.ts';

let fixture: IdentityFixture;
let admin: Caller;
let member: Caller;
let foreign: Caller;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  admin = await fixture.person('adam', 'admin');
  member = await fixture.person('mia', 'member');
  foreign = await fixture.person('fay', 'admin', { project: 'other' });
});
afterEach(() => fixture[Symbol.asyncDispose]());

describe('projects', () => {
  test('are made, renamed and deleted by operators', async () => {
    const project = await fixture.projects.create(fixture.operator, { name: 'lab' });
    expect(await fixture.projects.get(fixture.operator, 'lab')).toEqual(project);
    await expectError(fixture.projects.create(fixture.operator, { name: 'lab' }), 'name_taken', {
      blocking: [project.id],
    });
    await expectError(fixture.projects.create(fixture.operator, { name: '' }), 'invalid_name');
    const renamed = await fixture.projects.update(fixture.operator, 'lab', { name: 'works', ifVersion: 1 });
    expect(renamed).toEqual({ ...project, name: 'works', version: 2 });
    await expectError(
      fixture.projects.update(fixture.operator, 'works', { name: 'lab', ifVersion: 1 }),
      'precondition_failed',
    );
    await expectError(fixture.projects.update(fixture.operator, 'works', { name: 'home' }), 'name_taken');
    await fixture.projects.delete(fixture.operator, project.id);
    await expectError(fixture.projects.get(fixture.operator, project.id), 'not_found');
    expect((await fixture.eventsOf(project.id)).map((event) => event.kind)).toEqual([
      'project.created',
      'project.updated',
      'project.deleted',
    ]);
  });

  test('say what they are for', async () => {
    const { projects, operator } = fixture;
    expect((await projects.create(operator, { name: 'plain' })).description).toBe('');
    const lab = await projects.create(operator, { name: 'lab', description: 'for trying out' });
    expect(await projects.get(operator, 'lab')).toMatchObject({ description: 'for trying out' });
    expect(await projects.update(operator, 'lab', { name: 'works' })).toMatchObject({ description: lab.description });
    expect(await projects.update(operator, 'works', { description: '' })).toMatchObject({
      name: 'works',
      description: '',
    });
    await expectError(projects.create(operator, { name: 'x', description: 'x'.repeat(5000) }), 'invalid_request');
  });

  test('are not the business of others; foreign ones look missing', async () => {
    await expectError(fixture.projects.create(admin, { name: 'lab' }), 'forbidden');
    await expectError(fixture.projects.update(admin, 'home', { name: 'mine' }), 'forbidden');
    await expectError(fixture.projects.delete(admin, 'home'), 'forbidden');
    for (const asked of ['other', foreign.projectId, 'missing']) {
      const missing = { kind: 'project', id: asked };
      await expectError(fixture.projects.get(admin, asked), 'not_found', missing);
      await expectError(fixture.projects.update(admin, asked, { name: 'mine' }), 'not_found', missing);
      await expectError(fixture.projects.delete(admin, asked), 'not_found', missing);
      await expectError(fixture.projects.listMembers(admin, asked), 'not_found', missing);
      await expectError(
        fixture.projects.setMember(admin, asked, { user: 'adam', role: 'admin' }),
        'not_found',
        missing,
      );
      await expectError(fixture.projects.removeMember(admin, asked, 'fay'), 'not_found', missing);
    }
    const names = async (caller: Caller): Promise<string[]> =>
      (await fixture.projects.list(caller)).items.map((project) => project.name);
    expect(await names(fixture.operator)).toEqual(['home', 'other']);
    expect(await names(admin)).toEqual(['home']);
    expect(await names(foreign)).toEqual(['other']);
  });

  test('that hold drives or snapshots stay, even drives in their last state', async () => {
    const drive = await fixture.addDrive(foreign.projectId);
    await fixture.addSnapshot(foreign, [drive]);
    await expectError(fixture.projects.delete(fixture.operator, 'other'), 'project_not_empty', {
      drives: 1,
      snapshots: 1,
    });
    await fixture.catalog.db.updateTable('drives').set({ state: 'deleted' }).where('id', '=', drive).execute();
    await expectError(fixture.projects.delete(fixture.operator, 'other'), 'project_not_empty');
  });

  test('the last one stays', async () => {
    await fixture.projects.delete(fixture.operator, 'other');
    await expectError(fixture.projects.delete(fixture.operator, 'home'), 'forbidden');
  });
});

describe('members', () => {
  test('are added, changed and removed by the admins of the project', async () => {
    const set = await fixture.projects.setMember(admin, 'home', { user: 'fay@example.net', role: 'guest' });
    expect(set).toEqual({
      projectId: admin.projectId,
      userId: foreign.userId,
      userName: 'fay',
      email: 'fay@example.net',
      role: 'guest',
    });
    await fixture.projects.setMember(admin, admin.projectId, { user: 'fay', role: 'member' });
    expect((await fixture.projects.listMembers(admin, 'home')).map((m) => [m.userName, m.role])).toEqual([
      ['adam', 'admin'],
      ['fay', 'member'],
      ['mia', 'member'],
      ['root', 'admin'],
    ]);
    await fixture.projects.removeMember(admin, 'home', 'fay');
    await expectError(fixture.projects.removeMember(admin, 'home', 'fay'), 'not_found', { kind: 'user', id: 'fay' });
    const events = await fixture.eventsOf(admin.projectId);
    expect(events.slice(-3).map((event) => [event.kind, event.user_id, event.project_id])).toEqual([
      ['member.set', admin.userId, admin.projectId],
      ['member.set', admin.userId, admin.projectId],
      ['member.removed', admin.userId, admin.projectId],
    ]);
  });

  test('are not managed by members', async () => {
    await expectError(fixture.projects.listMembers(member, 'home'), 'forbidden');
    await expectError(fixture.projects.setMember(member, 'home', { user: 'mia', role: 'admin' }), 'forbidden');
    await expectError(fixture.projects.removeMember(member, 'home', 'adam'), 'forbidden');
  });

  test('an admin of two projects manages the one they are in', async () => {
    await fixture.projects.setMember(fixture.operator, 'other', { user: 'adam', role: 'member' });
    await expectError(fixture.projects.setMember(admin, 'other', { user: 'adam', role: 'admin' }), 'not_found');
  });

  test('must exist, and roles must be known', async () => {
    await expectError(fixture.projects.setMember(admin, 'home', { user: 'missing', role: 'guest' }), 'not_found', {
      kind: 'user',
      id: 'missing',
    });
    const role: string = 'operator';
    await expectError(
      Reflect.apply(fixture.projects.setMember, fixture.projects, [admin, 'home', { user: 'mia', role }]),
      'invalid_request',
      { field: 'role' },
    );
  });

  test('keep their grants in another role, unless these are to go', async () => {
    const drive = await fixture.addDrive(admin.projectId);
    await fixture.grants.create(admin, { user: 'mia', objectKind: 'drive', objectId: drive, access: 'ro' });
    await fixture.projects.setMember(admin, 'home', { user: 'mia', role: 'guest' });
    expect((await fixture.grants.list(admin)).items).toHaveLength(1);
    await fixture.projects.setMember(admin, 'home', { user: 'mia', role: 'guest', dropGrants: true });
    expect((await fixture.grants.list(admin)).items).toEqual([]);
  });

  test('take their grants along when they leave', async () => {
    const drive = await fixture.addDrive(admin.projectId);
    await fixture.grants.create(admin, { user: 'mia', objectKind: 'drive', objectId: drive, access: 'ro' });
    await fixture.projects.removeMember(admin, 'home', 'mia');
    expect((await fixture.grants.list(admin)).items).toEqual([]);
  });
});
