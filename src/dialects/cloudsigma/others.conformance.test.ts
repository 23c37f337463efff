/** CloudSigma 2.0 against the real engine: tags, jobs, servers, the account. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DialectRig } from '../../../test/support/dialect-rig.ts';
import { Client } from './testing/client.ts';

let rig: DialectRig;
let admin: Client;
const nobody = '00000000-0000-4000-8000-000000000000';

beforeAll(async () => {
  rig = await DialectRig.start();
  admin = new Client(rig, rig.admin);
});
afterAll(() => rig[Symbol.asyncDispose]());

const uuidsOf = (objects: readonly { uuid: string }[]) => objects.map((one) => one.uuid).sort();

describe('tags', () => {
  test('made with resources by uuid or as objects; PUT replaces the list, an absent one is kept', async () => {
    const drive = await admin.drive('carrier');
    const snapshot = await admin.snapshot(drive.uuid);
    const body = { objects: [{ name: 'a', meta: { k: 'v' }, resources: [drive.uuid, { uuid: snapshot.uuid }] }] };
    const [tag] = (await admin.post('/tags/', body)).json.objects;
    expect(tag.resources).toEqual([
      { owner: tag.owner, res_type: 'drives', resource_uri: drive.resource_uri, uuid: drive.uuid },
      { owner: tag.owner, res_type: 'snapshots', resource_uri: snapshot.resource_uri, uuid: snapshot.uuid },
    ]);
    const link = { resource_uri: tag.resource_uri, uuid: tag.uuid };
    expect((await admin.get(`/drives/${drive.uuid}/`)).json.tags).toEqual([link]);
    expect((await admin.get(`/snapshots/${snapshot.uuid}/`)).json.tags).toEqual([link]);
    const renamed = (await admin.put(`/tags/${tag.uuid}/`, { name: 'b' })).json;
    expect([renamed.name, uuidsOf(renamed.resources), renamed.meta]).toEqual(['b', uuidsOf(tag.resources), { k: 'v' }]);
    expect((await rig.native('GET', `/drives/${drive.uuid}`)).tags).toEqual(['b']);
    const fewer = (await admin.put(`/tags/${tag.uuid}/`, { ...renamed, resources: [snapshot.uuid], meta: {} })).json;
    expect([uuidsOf(fewer.resources), fewer.meta]).toEqual([[snapshot.uuid], {}]);
    expect((await rig.native('GET', `/drives/${drive.uuid}`)).tags).toEqual([]);
  });

  test('those that come about elsewhere show too, under one uuid for all objects', async () => {
    const drive = await rig.native('POST', '/drives', { name: 'native', sizeBytes: 1048576, tags: ['from native'] });
    await rig.settled();
    const { objects } = (await admin.get('/tags/?name=from+native')).json;
    expect(objects.length).toBe(1);
    expect(uuidsOf(objects[0].resources)).toEqual([drive.drive.id]);
    expect((await admin.get(`/drives/${drive.drive.id}/`)).json.tags[0].uuid).toBe(objects[0].uuid);
    await rig.native('POST', '/drives', { name: 'native too', sizeBytes: 1048576, tags: ['from native'] });
    expect((await admin.get(`/tags/${objects[0].uuid}/`)).json.resources.length).toBe(2);
  });

  test('deleting is immediate and leaves resources alone', async () => {
    const drive = await admin.drive('left');
    const [tag] = (await admin.post('/tags/', { name: 'gone', resources: [drive.uuid] })).json.objects;
    expect((await admin.delete(`/tags/${tag.uuid}/`)).status).toBe(204);
    expect((await admin.get(`/tags/${tag.uuid}/`)).status).toBe(404);
    expect((await admin.get(`/drives/${drive.uuid}/`)).json.tags).toEqual([]);
    expect((await admin.delete(`/tags/${tag.uuid}/`)).status).toBe(404);
  });

  test('what carries one, by type: short entries with a nested path, whole ones in detail', async () => {
    const drive = await admin.drive('typed');
    const snapshot = await admin.snapshot(drive.uuid);
    const machine = await rig.machine('typed', []);
    const resources = [drive.uuid, snapshot.uuid, machine.id];
    const [tag] = (await admin.post('/tags/', { name: 'typed', resources })).json.objects;
    for (const [type, uuid] of [
      ['drives', drive.uuid],
      ['snapshots', snapshot.uuid],
      ['servers', machine.id],
    ] as const) {
      const { meta, objects } = (await admin.get(`/tags/${tag.uuid}/${type}/`)).json;
      expect(meta).toEqual({ limit: 20, offset: 0, total_count: 1 });
      expect(objects[0].resource_uri).toEqual({ resource_uri: `/api/2.0/${type}/${uuid}/`, uuid });
      const whole = (await admin.get(`/tags/${tag.uuid}/${type}/detail/?limit=0`)).json.objects[0];
      expect(whole.resource_uri).toBe(`/api/2.0/${type}/${uuid}/`);
    }
    expect((await admin.get(`/tags/${tag.uuid}/ips/`)).json.objects).toEqual([]);
    expect((await admin.get(`/tags/${tag.uuid}/dreams/`)).status).toBe(404);
  });

  test('a resources key beside objects is passed over; names are unique; unknown resources are refused', async () => {
    const drive = await admin.drive('misplaced');
    const misplaced = await admin.post('/tags/', { objects: [{ name: 'm' }], resources: [drive.uuid] });
    expect([misplaced.status, misplaced.json.objects[0].resources]).toEqual([201, []]);
    const before = (await admin.get('/tags/')).json.meta.total_count;
    const wrong: [object, string][] = [
      [{ name: 'm' }, 'name'],
      [{}, 'name'],
      [{ name: 'a,b' }, 'name'],
      [{ name: 'n', meta: [] }, 'meta'],
      [{ name: 'n', resources: [nobody] }, 'resources'],
      [{ name: 'n', resources: [{}] }, 'resources'],
    ];
    for (const [body, point] of wrong) {
      const answer = await admin.post('/tags/', { objects: [{ name: 'first' }, body] });
      expect([answer.status, answer.json[0].error_point], JSON.stringify(body)).toEqual([400, point]);
    }
    expect((await admin.get('/tags/')).json.meta.total_count).toBe(before);
    expect((await admin.get('/tags/schema/')).json.allowed_list_http_methods).toEqual(['get', 'post']);
  });
});

describe('jobs', () => {
  test('tasks, newest change first, by state; a clone has the source before the new drive', async () => {
    const drive = await admin.drive('worked');
    const [made] = (await admin.post(`/drives/${drive.uuid}/action/?do=clone`)).json.objects;
    await rig.settled();
    const { meta, objects } = (await admin.get('/jobs/?limit=0&state=success')).json;
    expect(meta.total_count).toBe(objects.length);
    expect(objects[0].uuid).toBe(made.jobs[0].uuid);
    expect(objects[0].resources).toEqual([drive.resource_uri, made.resource_uri]);
    const times = objects.map((job: { last_modified: string }) => job.last_modified);
    expect(times).toEqual([...times].sort().reverse());
    expect((await admin.get('/jobs/?limit=1&offset=1')).json.objects).toEqual([objects[1]]);
    expect((await admin.get('/jobs/?state=started')).json.objects).toEqual([]);
    expect((await admin.get('/jobs/schema/')).json.ordering).toEqual(['-last_modified']);
  });
});

describe('servers', () => {
  const create = async (body: object) => (await admin.post('/servers/', body)).json.objects?.[0];

  test('are machines: made, read, changed, deleted with their drives', async () => {
    const drive = await admin.drive('boot');
    const drives = [{ boot_order: 1, dev_channel: '0:0', device: 'virtio', drive: drive.uuid }];
    const body = { name: 'srv', cpu: 4000, mem: 67108864, vnc_password: 'x', nics: [], drives };
    const made = await create(body);
    expect([made.cpu, made.smp, made.mem, made.drives.length]).toEqual([4000, 2, 67108864, 1]);
    await rig.settled();
    const server = (await admin.get(`/servers/${made.uuid}/`)).json;
    expect([server.status, server.drives[0].drive.uuid, server.runtime]).toEqual(['stopped', drive.uuid, null]);
    expect((await admin.get(`/drives/${drive.uuid}/`)).json.mounted_on[0].uuid).toBe(made.uuid);
    const more = await admin.drive('more');
    const attached = {
      ...server,
      name: 'renamed',
      cpu: 2000,
      smp: 1,
      drives: [...server.drives, { drive: more.uuid }],
    };
    const changed = (await admin.put(`/servers/${made.uuid}/`, attached)).json;
    expect([changed.name, changed.smp, changed.drives.length, changed.drives[1].dev_channel]).toEqual([
      'renamed',
      1,
      2,
      '0:1',
    ]);
    const detached = (await admin.put(`/servers/${made.uuid}/`, { ...changed, drives: [changed.drives[0]] })).json;
    expect(detached.drives.map((one: { drive: { uuid: string } }) => one.drive.uuid)).toEqual([drive.uuid]);
    expect((await admin.get('/servers/detail/?name=renamed')).json.objects).toEqual([detached]);
    expect((await admin.get('/servers/?name=renamed&status=stopped')).json.meta.total_count).toBe(1);
    expect((await admin.delete(`/servers/${made.uuid}/?recurse=all_drives`)).status).toBe(204);
    for (const path of [`/servers/${made.uuid}/`, `/drives/${drive.uuid}/`]) {
      await expect.poll(async () => (await admin.get(path)).status).toBe(404);
    }
    expect((await admin.get(`/drives/${more.uuid}/`)).status).toBe(200);
  });

  test('deleted with its disks or its cdroms only', async () => {
    for (const recurse of ['disks', 'cdroms', undefined]) {
      const disk = await admin.drive('disk');
      const cdrom = await admin.drive('cdrom', { media: 'cdrom' });
      const drives = [{ drive: disk.uuid }, { drive: { uuid: cdrom.uuid } }];
      const { uuid } = await create({ name: 'mixed', cpu: 2000, mem: 67108864, drives });
      await rig.settled();
      await admin.delete(`/servers/${uuid}/${recurse === undefined ? '' : `?recurse=${recurse}`}`);
      await rig.settled();
      const left = await Promise.all(
        [disk, cdrom].map(async (one) => (await admin.get(`/drives/${one.uuid}/`)).status),
      );
      expect(left).toEqual(recurse === 'disks' ? [404, 200] : recurse === 'cdroms' ? [200, 404] : [200, 200]);
    }
  });

  test('started and stopped; meanwhile its drive is mounted: no new size, but snapshots', async () => {
    const drive = await admin.drive('running');
    const { uuid } = await create({ name: 'run', cpu: 2000, mem: 67108864, drives: [{ drive: drive.uuid }] });
    await rig.settled();
    const act = (action: string) => admin.post(`/servers/${uuid}/action/?do=${action}`, {});
    const refused = await act('stop');
    expect([refused.status, refused.json[0].error_message]).toEqual([
      403,
      'Cannot stop guest in state "stopped". Guest should be in state "started"',
    ]);
    expect((await act('start')).json).toEqual({ action: 'start', result: 'success', uuid });
    await expect
      .poll(async () => (await admin.get(`/servers/${uuid}/`)).json.status, { timeout: 60_000 })
      .toBe('running');
    const again = await act('start');
    expect([again.status, again.json[0].error_message]).toEqual([
      403,
      'Cannot start guest in state "started". Guest should be in state "stopped"',
    ]);
    expect((await admin.get('/drives/?status=mounted')).json.objects[0]).toMatchObject({
      status: 'mounted',
      uuid: drive.uuid,
    });
    const passed = (
      await admin.put(`/drives/${drive.uuid}/`, { ...drive, name: 'named', size: 2 * drive.size, media: 'cdrom' })
    ).json;
    expect([passed.name, passed.size, passed.media, passed.status]).toEqual(['named', drive.size, 'disk', 'mounted']);
    // Smaller ones and those out of bounds are passed over as well.
    for (const size of [1, drive.size / 2, Number.MAX_SAFE_INTEGER]) {
      const answer = await admin.put(`/drives/${drive.uuid}/`, { size });
      expect([answer.status, answer.json.size]).toEqual([200, drive.size]);
    }
    for (const change of [{ size: 2 * drive.size }, { size: drive.size, media: 'cdrom' }]) {
      const resized = await admin.post(`/drives/${drive.uuid}/action/?do=resize`, change);
      expect([resized.status, resized.json[0].error_type]).toEqual([403, 'permission']);
    }
    const same = await admin.post(`/drives/${drive.uuid}/action/?do=resize`, { ...drive, name: 'acted on' });
    expect([same.status, same.json.objects[0].name]).toEqual([202, 'acted on']);
    expect((await admin.snapshot(drive.uuid)).status).toBe('available');
    expect((await admin.delete(`/servers/${uuid}/`)).status).toBe(403);
    expect((await act('stop')).status).toBe(202);
    await expect.poll(async () => (await admin.get(`/servers/${uuid}/`)).json.status).toBe('stopped');
    expect((await admin.get(`/drives/${drive.uuid}/`)).json.status).toBe('unmounted');
  });

  test('what is wrong is refused', async () => {
    const good = { name: 'x', cpu: 2000, mem: 67108864 };
    const wrong: [object, string | null][] = [
      [{}, 'cpu'],
      [{ ...good, mem: 1 }, 'mem'],
      [{ ...good, cpu: 'fast' }, 'cpu'],
      [{ ...good, drives: 'x' }, 'drives'],
      [{ ...good, drives: [{}] }, 'drives'],
    ];
    for (const [body, point] of wrong) {
      const answer = await admin.post('/servers/', body);
      expect([answer.status, answer.json[0].error_point], JSON.stringify(body)).toEqual([400, point]);
    }
    expect((await admin.post('/servers/', { ...good, drives: [{ drive: nobody }] })).status).toBe(404);
    const { uuid } = await create(good);
    await rig.settled();
    expect((await admin.delete(`/servers/${uuid}/?recurse=everything`)).json[0].error_point).toBe('recurse');
    expect((await admin.get('/servers/availability_groups/')).json[0]).toContain(uuid);
    expect((await admin.get(`/servers/availability_groups/${uuid}/`)).json).toContain(uuid);
  });
});

describe('the account', () => {
  test('capabilities is a bare object that counts all snapshots of the account', async () => {
    const before = (await admin.get('/capabilities/')).json.snapshots.current;
    const drive = await admin.drive('counted');
    await admin.snapshot(drive.uuid);
    const now = (await admin.get('/capabilities')).json;
    expect(now.snapshots.current).toBe(before + 1);
    expect(now.drives[now.default_storage_type].min_size).toBe(536870912);
    expect(now.remote_snapshots).toBeUndefined();
    expect((await admin.get('/capabilities/schema/')).json.fields.snapshots.type).toBe('dict');
  });

  test('the profile is bare, and the uuid in it that of the owner of what one makes', async () => {
    const profile = (await admin.get('/profile/')).json;
    const drive = await admin.drive('owned');
    const snapshot = await admin.snapshot(drive.uuid);
    expect([drive.owner.uuid, snapshot.owner.uuid]).toEqual([profile.uuid, profile.uuid]);
    expect((await admin.put('/profile/', { ...profile, email: 'other@example.net' })).json).toEqual(profile);
  });

  test('what needs a vault or schedules says so', async () => {
    for (const kind of ['remotesnapshots', 'backupschedulers']) {
      expect((await admin.get(`/${kind}/`)).json.objects).toEqual([]);
      const answer = await admin.post(`/${kind}/`, { drive: nobody });
      expect([answer.status, answer.json[0].error_type]).toEqual([403, 'permission']);
    }
  });
});
