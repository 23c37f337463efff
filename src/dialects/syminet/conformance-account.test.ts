/** The sheet's rows on backups, users, slices and volumes, over HTTP against the real engine. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
const GiB = 1024 ** 3;
let panel: Panel;
let web: Slice;
beforeAll(async () => {
  panel = await Panel.start();
  web = await panel.slice('web.example.net', [16 * MiB]);
});
afterAll(() => panel[Symbol.asyncDispose]());

describe('4. automatic backups', () => {
  test('both spellings list them; unknown slices are 404', async () => {
    for (const path of [`/backups/${web.id}`, `/slices/${web.id}/backups`]) {
      expect(await panel.get(path)).toEqual({ data: [] });
    }
    expect((await panel.call('GET', '/backups/999999')).json).toEqual({ error: 'There is no slice 999999.' });
    expect((await panel.call('GET', '/slices/999999/backups')).status).toBe(404);
  });

  test('slice first, backup second: there is none to restore', async () => {
    const answer = await panel.call('POST', `/backups/${web.id}/restore/20001`);
    expect(answer).toMatchObject({ status: 404, json: { error: 'There is no backup 20001.' } });
  });

  test('enable and disable, by GET or POST: an honest error, and nothing by HEAD', async () => {
    for (const spelling of [`/backups/${web.id}/backups`, `/slices/${web.id}/backups`]) {
      for (const wish of ['enable', 'disable']) {
        for (const method of ['GET', 'POST']) {
          const answer = await panel.call(method, `${spelling}/${wish}`);
          expect(answer.status).toBe(409);
          expect(answer.json.error).toContain('no automatic backups');
        }
        expect((await panel.call('HEAD', `${spelling}/${wish}`)).status).toBe(405);
        expect((await panel.call('PUT', `${spelling}/${wish}`)).status).toBe(405);
      }
    }
    expect((await panel.call('GET', '/backups/999999/backups/enable')).status).toBe(404);
  });

  test('nothing is ever cached', async () => {
    for (const path of ['/images', '/slices/regions', `/backups/${web.id}`, '/nothing']) {
      expect((await panel.call('GET', path)).headers['cache-control']).toBe('no-store');
    }
  });
});

describe('5. users', () => {
  test('the user without wrapper: six keys', async () => {
    expect(await panel.get('/users/admin')).toEqual({
      admin: true,
      email: 'admin@localhost',
      id: 1,
      last_login: null,
      last_login_ip: null,
      username: 'admin',
    });
    const ops = await panel.rig.person('ops', 'admin');
    expect(await panel.get('/users/ops')).toMatchObject({ admin: true, email: ops.email, username: 'ops' });
    expect(await panel.get(`/users/${ops.email}`)).toMatchObject({ username: 'ops' });
    expect((await panel.call('GET', '/users/nobody')).json).toEqual({ error: 'There is no user nobody.' });
  });

  test('perms: who may create, and the right on each resource', async () => {
    const mia = await panel.rig.person('mia', 'member');
    const gus = await panel.rig.person('gus', 'guest');
    const other = await panel.slice('other.example.net', [MiB]);
    const id = await panel.snapshot(web, 'granted');
    const { id: snapshotId } = await panel.native(id);
    await panel.rig.grant('gus', { snapshotId }, 'ro');
    await panel.rig.grant('gus', { machineId: other.machineId }, 'rw');
    const ofOther = await panel.snapshot(other, 'of a granted slice');

    const guest = await panel.get('/users/gus/perms');
    expect(guest).toMatchObject({
      username: 'gus',
      email: gus.email,
      admin: false,
      global: { create_vm: false, create_snapshot: true, create_volume: false, create_flexip: false, use_api: true },
      slices: [{ id: other.id, vmname: 'other.example.net', perms: 'rw' }],
      snapshots: [
        { id, name: 'granted', perms: 'ro' },
        { id: ofOther, name: 'of a granted slice', perms: 'rw' },
      ],
      volumes: [],
    });
    expect(await panel.get('/users/gus/perms', gus.token)).toEqual(guest);

    const member = await panel.get('/users/mia/perms', mia.token);
    expect(member).toMatchObject({ admin: false, global: { create_vm: true, create_snapshot: true } });
    expect(member.slices).toContainEqual({ id: web.id, vmname: 'web.example.net', perms: 'rw' });
    expect(member.volumes).toContainEqual({ id: web.volumeIds[0], volname: 'web.example.net-0', perms: 'rw' });
    expect(await panel.get('/users/admin/perms')).toMatchObject({ admin: true });
  });

  test('only admins see others, and no one those of other accounts', async () => {
    await panel.rig.native('POST', '/projects', { name: 'elsewhere' });
    await panel.rig.person('far', 'admin', 'elsewhere');
    const near = await panel.rig.person('near', 'member');
    const boss = await panel.rig.person('boss', 'admin');
    for (const [name, token] of [
      ['far', panel.rig.admin.token],
      ['far', boss.token],
      ['boss', near.token],
    ] as const) {
      for (const [method, path] of [
        ['GET', ''],
        ['GET', '/perms'],
        ['PUT', '/update'],
      ] as const) {
        const body = { username: 'x' };
        const answer = await panel.call(method, `/users/${name}${path}`, {
          token,
          ...(method === 'PUT' ? { body } : {}),
        });
        expect(answer).toMatchObject({ status: 404, json: { error: `There is no user ${name}.` } });
      }
    }
    expect(await panel.get('/users/near', near.token)).toMatchObject({ admin: false });
    expect(await panel.get('/users/near', boss.token)).toMatchObject({ username: 'near' });
  });

  test('update: the name, and whether the user is an admin; who is admin no more loses all rights', async () => {
    const ann = await panel.rig.person('ann', 'member');
    await panel.change('PUT', '/users/ann/update', { username: 'anne', admin: true });
    expect(await panel.get('/users/anne')).toMatchObject({ admin: true, username: 'anne' });
    expect((await panel.call('GET', '/users/ann')).status).toBe(404);
    await panel.rig.grant('anne', { machineId: web.machineId }, 'rw');
    await panel.change('PUT', '/users/anne/update', { username: 'anne', admin: true });
    expect((await panel.get('/slices', ann.token)).results).toBeGreaterThan(0);
    await panel.change('PUT', '/users/anne/update', { username: 'anne', admin: false });
    expect(await panel.get('/users/anne/perms')).toMatchObject({
      admin: false,
      slices: [],
      snapshots: [],
      volumes: [],
    });
    expect(await panel.get('/slices', ann.token)).toMatchObject({ data: [], results: 0 });
    await panel.change('PUT', '/users/anne/update', { username: 'anne' });
  });

  test('update: wrong bodies and wrong callers change nothing', async () => {
    const ben = await panel.rig.person('ben', 'member');
    const eve = await panel.rig.person('eve', 'admin');
    const bodies = [
      '',
      '{',
      '{}',
      '[]',
      { admin: true },
      { username: '' },
      { username: 5 },
      { username: 'ben', admin: 'yes' },
    ];
    for (const body of bodies) {
      expect((await panel.call('PUT', '/users/ben/update', { body })).status, JSON.stringify(body)).toBe(400);
    }
    const username = 'ben';
    expect((await panel.call('PUT', '/users/ben/update', { body: { username }, token: ben.token })).status).toBe(403);
    const taken = await panel.call('PUT', '/users/ben/update', { body: { username: 'admin' } });
    expect(taken.status).toBe(409);
    const byAdmin = await panel.call('PUT', '/users/ben/update', { body: { username: 'bob' }, token: eve.token });
    expect(byAdmin.status).toBe(403);
    const primary = await panel.call('PUT', '/users/admin/update', { body: { username: 'admin', admin: false } });
    expect(primary.status).toBe(403);
    expect(await panel.get('/users/ben/perms')).toMatchObject({
      username: 'ben',
      admin: false,
      global: { create_vm: true },
    });
    await panel.change('PUT', '/users/ben/update', { username, admin: true }, eve.token);
    expect(await panel.get('/users/ben')).toMatchObject({ admin: true });
  });
});

describe('6. slices', () => {
  test('one slice without wrapper, the same as in the list', async () => {
    const one = await panel.get(`/slices/${web.id}`);
    expect(one).toMatchObject({
      id: web.id,
      vmname: 'web.example.net',
      perms: 'rw',
      region: 'LOCAL1',
      datacenter_id: 1,
      status: 'off',
      deleted: null,
      in_progress: null,
      progress: null,
    });
    expect(await panel.get('/slices?query=WEB.example')).toEqual({ data: [one], page: 1, pages: 1, results: 1 });
    for (const id of ['999999', '0', 'web', 'x'.repeat(1000)]) {
      expect((await panel.call('GET', `/slices/${id}`)).status).toBe(404);
    }
  });

  test('machines and instances are slices alike', async () => {
    const { number } = await panel.rig.machine('an-instance', [], { kind: 'instance' });
    expect(await panel.get(`/slices/${number}`)).toMatchObject({ vmname: 'an-instance' });
  });

  test('rebuild: os_name is required, and none is offered', async () => {
    for (const body of ['', '{}', { os_name: '' }, { os_name: 1 }, { os_name: 'debian', password: 1 }]) {
      expect((await panel.call('POST', `/slices/${web.id}/rebuild`, { body })).status).toBe(400);
    }
    const answer = await panel.call('POST', `/slices/${web.id}/rebuild`, {
      body: { os_name: 'debian', password: 'x' },
    });
    expect(answer).toMatchObject({ status: 400, json: { error: 'There is no os_name debian to rebuild from here.' } });
    expect((await panel.call('POST', '/slices/999999/rebuild', { body: { os_name: 'debian' } })).status).toBe(404);
  });
});

describe('6. volumes', () => {
  test('the volume without wrapper, seventeen keys, dates in the HTTP form', async () => {
    const drive = await panel.rig.drive('data', 3 * GiB + 1);
    const volume = await panel.get(`/volumes/${drive.number}`);
    expect(volume).toMatchObject({
      id: drive.number,
      volname: 'data',
      volsize: 4,
      status: 'active',
      vm_id: null,
      datacenter_id: 1,
      vol_uuid: drive.id,
      snapshot_uuid: null,
      queued: null,
      queued_user_id: null,
    });
    expect(Object.keys(volume)).toHaveLength(17);
    expect(Date.parse(volume.created)).toBe(Math.floor(Date.parse(drive.createdAt) / 1000) * 1000);
    expect(await panel.get('/volumes?query=data')).toMatchObject({ data: [volume], page: 1, results: 1 });
    expect((await panel.call('GET', '/volumes/999999')).json).toEqual({ error: 'There is no volume 999999.' });
  });

  test('attach and detach: 202; twice, unknown and detached ones are refused', async () => {
    const { number } = await panel.rig.drive('movable', MiB);
    await panel.change('POST', `/volumes/${number}/attach/${web.id}`);
    await panel.rig.settled();
    expect(await panel.get(`/volumes/${number}`)).toMatchObject({ vm_id: web.id, in_progress: null });
    expect((await panel.call('POST', `/volumes/${number}/attach/${web.id}`)).status).toBe(409);
    expect((await panel.call('POST', `/volumes/${number}/attach/999999`)).status).toBe(404);
    expect((await panel.call('POST', `/volumes/999999/attach/${web.id}`)).status).toBe(404);
    await panel.change('POST', `/volumes/${number}/detach`);
    await panel.rig.settled();
    expect(await panel.get(`/volumes/${number}`)).toMatchObject({ vm_id: null });
    expect((await panel.call('POST', `/volumes/${number}/detach`)).json).toEqual({
      error: 'The volume is not attached to a slice.',
    });
    expect((await panel.call('POST', '/volumes/999999/detach')).status).toBe(404);
  });

  test('a volume made from a snapshot names it', async () => {
    const base = await panel.rig.drive('base', MiB);
    const { id, parts } = await panel.rig.snapshot({ driveIds: [base.id] });
    const { drive } = await panel.rig.native('POST', `/snapshots/${id}/clone`, { name: 'copy' });
    const { number } = await panel.rig.native('GET', `/drives/${drive.id}`);
    expect(await panel.get(`/volumes/${number}`)).toMatchObject({ snapshot_uuid: parts[0]?.id });
  });
});

describe('7. quirks', () => {
  test('paths with a slash too many, as scripts put them together', async () => {
    for (const path of ['/images/', '//images', `/images/snapshots/${web.id}/`]) {
      expect((await panel.call('GET', path, {})).status, path).toBe(200);
    }
  });

  test('HEAD answers as GET does, without the body', async () => {
    const answer = await panel.call('HEAD', '/images');
    expect(answer).toMatchObject({ status: 200, text: '' });
    expect((await panel.call('HEAD', '/images', { token: null })).status).toBe(401);
  });
});
