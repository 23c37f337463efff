/** CloudSigma 2.0 against the real engine: drives. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { Client } from './testing/client.ts';

let rig: DialectRig;
let admin: Client;
const nobody = '00000000-0000-4000-8000-000000000000';
const size = 536870912;

beforeAll(async () => {
  rig = await DialectRig.start();
  admin = new Client(rig, rig.admin);
});
afterAll(() => rig[Symbol.asyncDispose]());

const count = async () => (await admin.get('/drives/?limit=1')).json.meta.total_count;

describe('creating', () => {
  test('begins as creating and becomes unmounted; the size comes as text or number and echoes as a number', async () => {
    const body = { name: 'test_drive', size: '1024000000', media: 'disk', meta: { k: 'v' }, allow_multimount: true };
    const answer = await admin.post(`/drives/?avoid=${nobody}`, body);
    const [made] = answer.json.objects;
    expect([answer.status, made.status, made.size, made.runtime.is_snapshotable, made.snapshots]).toEqual([
      201,
      'creating',
      1024000000,
      null,
      [],
    ]);
    expect([made.allow_multimount, made.meta, made.media]).toEqual([true, { k: 'v' }, 'disk']);
    expect(answer.headers.location).toContain(made.resource_uri);
    await rig.settled();
    const drive = (await admin.get(`/drives/${made.uuid}/`)).json;
    expect([drive.status, drive.runtime.is_snapshotable, drive.allow_multimount]).toEqual(['unmounted', true, true]);
    expect((await admin.post('/drives/', { ...body, size: size + 1 })).json.objects[0].size).toBe(size + 16384);
  });

  test('one entry for each field that is missing; bounds and kinds are held', async () => {
    const before = await count();
    const missing = await admin.post('/drives/', {});
    expect([missing.status, missing.json.map((one: { error_point: string }) => one.error_point)]).toEqual([
      400,
      ['media', 'name', 'size'],
    ]);
    const good = { name: 'x', size, media: 'disk' };
    const wrong: [object, string][] = [
      [{ ...good, size: 1000 }, 'size'],
      [{ ...good, size: 'big' }, 'size'],
      [{ ...good, size: -1 }, 'size'],
      [{ ...good, size: Number.MAX_SAFE_INTEGER }, 'size'],
      [{ ...good, media: 'tape' }, 'media'],
      [{ ...good, name: 7 }, 'name'],
      [{ ...good, name: '' }, 'name'],
      [{ ...good, meta: { a: 1 } }, 'meta'],
      [{ ...good, tags: [nobody] }, 'tags'],
      [{ ...good, tags: 'x' }, 'tags'],
      [{ ...good, allow_multimount: 'yes' }, 'allow_multimount'],
      [{ ...good, storage_type: 'local_nvme' }, 'storage_type'],
    ];
    for (const [body, point] of wrong) {
      const answer = await admin.post('/drives/', { objects: [good, body] });
      expect([answer.status, answer.json[0].error_point], JSON.stringify(body)).toEqual([400, point]);
    }
    expect(await count()).toBe(before);
  });

  test('bulk, and deleting in bulk: all or nothing', async () => {
    const objects = ['one', 'two', 'three'].map((name) => ({ name, size, media: 'disk' }));
    const made = (await admin.post('/drives/', { objects })).json.objects;
    expect(made.map((one: { name: string }) => one.name)).toEqual(['one', 'two', 'three']);
    await rig.settled();
    const uuids: { uuid: string }[] = made.map(({ uuid }: { uuid: string }) => ({ uuid }));
    expect((await admin.delete('/drives/', { objects: [...uuids, { uuid: nobody }] })).status).toBe(404);
    expect((await admin.delete('/drives/')).status).toBe(400);
    await rig.settled();
    for (const { uuid } of uuids) expect((await admin.get(`/drives/${uuid}/`)).status).toBe(200);
    expect((await admin.delete('/drives/', { objects: uuids })).status).toBe(204);
    for (const { uuid } of uuids) await expect.poll(async () => (await admin.get(`/drives/${uuid}/`)).status).toBe(404);
  });
});

describe('lists', () => {
  test('the short form has four keys, the detailed one all; by status and name', async () => {
    const drive = await admin.drive('listed');
    const short = (await admin.get('/drives/?name=listed')).json.objects;
    expect(short).toEqual([
      { owner: drive.owner, resource_uri: drive.resource_uri, status: 'unmounted', uuid: drive.uuid },
    ]);
    expect((await admin.get('/drives/detail/?name__contains=LISTED&status=unmounted')).json.objects).toEqual([drive]);
    expect((await admin.get('/drives/detail/?name=listed&status=mounted,creating')).json.objects).toEqual([]);
  });

  test('availability groups: one host, one group', async () => {
    const { uuid } = await admin.drive('grouped');
    const [group] = (await admin.get('/drives/availability_groups/')).json;
    expect(group).toContain(uuid);
    expect((await admin.get(`/drives/availability_groups/${uuid}/`)).json).toEqual(group);
    expect((await admin.get(`/drives/availability_groups/${nobody}/`)).status).toBe(404);
  });

  test('the schema has choices, nested fields and an order', async () => {
    const page = (await admin.get('/drives/schema/')).json;
    expect(page.ordering).toEqual(['uuid', 'name']);
    expect(page.fields.media.choices).toEqual(['cdrom', 'disk']);
    expect(Object.keys(page.fields.runtime.fields)).toContain('snapshots_allocated_size');
    const drive = await admin.drive('described');
    expect(Object.keys(page.fields).sort()).toEqual(Object.keys(drive).sort());
  });
});

describe('changing', () => {
  test('a whole object as it was read, with a new name, metadata, media', async () => {
    const drive = await admin.drive('before');
    const [tag] = (await admin.post('/tags/', { name: 'disks' })).json.objects;
    const body = { ...drive, name: 'after', meta: { a: 'b' }, media: 'cdrom', tags: [tag.uuid], status: 'creating' };
    const answer = await admin.put(`/drives/${drive.uuid}/`, body);
    expect(answer.status).toBe(200);
    const expected = { ...drive, name: 'after', meta: { a: 'b' }, media: 'cdrom' };
    const changed = (await admin.get(`/drives/${drive.uuid}/`)).json;
    expect(changed).toEqual({ ...expected, tags: [{ resource_uri: tag.resource_uri, uuid: tag.uuid }] });
    expect((await admin.put(`/drives/${drive.uuid}/`, { tags: [] })).json.tags).toEqual([]);
  });

  test.each(['PUT', 'resize'])(
    'a new size by %s: resizing with the old size, then the new one; never smaller',
    async (how) => {
      const { uuid } = await admin.drive('grown');
      const grow = (to: number | string) => {
        const body = { name: 'grown', size: to, media: 'disk' };
        return how === 'PUT'
          ? admin.put(`/drives/${uuid}/`, body)
          : admin.post(`/drives/${uuid}/action/?do=resize`, body);
      };
      const answer = await grow(String(2 * size));
      const shown = how === 'PUT' ? answer.json : answer.json.objects[0];
      expect([answer.status, shown.status, shown.size]).toEqual([how === 'PUT' ? 200 : 202, 'resizing', size]);
      await rig.settled();
      const { status, size: now } = (await admin.get(`/drives/${uuid}/`)).json;
      expect([status, now]).toEqual(['unmounted', 2 * size]);
      const smaller = await grow(size);
      expect([smaller.status, smaller.json[0].error_point]).toEqual([400, 'size']);
      expect((await grow(2 * size)).status).toBeLessThan(300);
      await rig.settled();
      expect((await admin.get(`/drives/${uuid}/`)).json.size).toBe(2 * size);
    },
  );

  test('the size that a drive’s was rounded up from is no other size', async () => {
    const [{ uuid }] = (await admin.post('/drives/', { name: 'odd', size: 1e9, media: 'disk' })).json.objects;
    await rig.settled();
    const definition = { name: 'even', size: 1e9, media: 'disk' };
    const put = await admin.put(`/drives/${uuid}/`, definition);
    expect([put.status, put.json.name, put.json.status, put.json.size]).toEqual([200, 'even', 'unmounted', 1000013824]);
    const acted = await admin.post(`/drives/${uuid}/action/?do=resize`, definition);
    expect([acted.status, acted.json.objects[0].status]).toEqual([202, 'unmounted']);
    expect((await admin.put(`/drives/${uuid}/`, { ...definition, size: 1e9 - 16384 })).status).toBe(400);
  });

  test('a look right after a deletion finds nothing', async () => {
    for (let times = 0; times < 5; times++) {
      const { uuid } = await admin.drive('looked for');
      expect((await admin.delete(`/drives/${uuid}/`)).status).toBe(204);
      expect((await admin.get(`/drives/${uuid}/`)).status).toBe(404);
    }
  });

  test('a drive that is attached to a machine is not deleted', async () => {
    const drive = await rig.drive('attached');
    const machine = await rig.machine('holder', [drive.id]);
    const shown = (await admin.get(`/drives/${drive.id}/`)).json;
    expect([shown.status, shown.mounted_on]).toEqual([
      'unmounted',
      [{ resource_uri: `/api/2.0/servers/${machine.id}/`, uuid: machine.id }],
    ]);
    const refused = await admin.delete(`/drives/${drive.id}/`);
    expect([refused.status, refused.json[0].error_type]).toEqual([403, 'permission']);
    expect((await admin.get(`/drives/${drive.id}/`)).json).toEqual(shown);
  });
});

describe('cloning', () => {
  test('202 with a list and a path; as the drive is now, without a snapshot that stays', async () => {
    const source = await rig.drive('origin');
    await rig.write(source.id, 0, Buffer.alloc(MiB, 1));
    const before = await admin.snapshot(source.id);
    await rig.write(source.id, 0, Buffer.alloc(MiB, 2));
    const answer = await admin.post(`/drives/${source.id}/action/?do=clone&avoid=${nobody}`, { meta: { x: 'y' } });
    const [made] = answer.json.objects;
    expect([answer.status, made.status, made.name, made.resource_uri, made.jobs.length, made.meta]).toEqual([
      202,
      'cloning_dst',
      'origin',
      `/api/2.0/drives/${made.uuid}/`,
      1,
      { x: 'y' },
    ]);
    expect((await admin.get(`/drives/${source.id}/`)).json.status).toBe('unmounted');
    await rig.settled();
    expect((await admin.get(`/drives/${made.uuid}/`)).json.status).toBe('unmounted');
    expect((await rig.read(made.uuid)).subarray(0, MiB).equals(Buffer.alloc(MiB, 2))).toBe(true);
    const left = (await admin.get(`/drives/${source.id}/`)).json;
    expect([left.snapshots.length, left.snapshots[0].uuid]).toEqual([1, before.uuid]);
    expect((await admin.get(`/snapshots/${before.uuid}/`)).json.allocated_size).toBe(MiB);
    await rig.write(source.id, MiB, Buffer.alloc(MiB, 3));
    await expect.poll(async () => (await admin.get(`/snapshots/${before.uuid}/`)).json.allocated_size).toBe(2 * MiB);
    expect((await admin.delete(`/drives/${source.id}/`)).status).toBe(204);
    await rig.settled();
    expect((await rig.read(made.uuid)).subarray(0, MiB).equals(Buffer.alloc(MiB, 2))).toBe(true);
  });

  test('a larger size is given, a smaller one refused; no body will do', async () => {
    const drive = await admin.drive('resized clone');
    const clone = (body?: object) => admin.post(`/drives/${drive.uuid}/action/?do=clone`, body);
    expect((await clone({ size: 2 * size, name: 'wide' })).json.objects[0]).toMatchObject({
      size: 2 * size,
      name: 'wide',
    });
    const smaller = await clone({ size: size / 2 });
    expect([smaller.status, smaller.json[0].error_point]).toEqual([400, 'size']);
    expect((await clone()).status).toBe(202);
  });

  test('names by the wish in the profile, for clones of drives and of snapshots', async () => {
    const drive = await admin.drive('x');
    const snapshot = await admin.snapshot(drive.uuid, { name: 'x' });
    const naming = async (clone_naming: string) =>
      expect((await admin.put('/profile/', { clone_naming })).json.clone_naming).toBe(clone_naming);
    const ofDrive = async (body?: object) =>
      (await admin.post(`/drives/${drive.uuid}/action/?do=clone`, body)).json.objects[0].name;
    const ofSnapshot = async () => (await admin.post(`/snapshots/${snapshot.uuid}/action/?do=clone`)).json.name;
    expect(await ofDrive()).toBe('x');
    await naming('COUNTER');
    expect([await ofDrive(), await ofDrive(), await ofSnapshot(), await ofDrive({ name: 'verbatim' })]).toEqual([
      'x_1',
      'x_2',
      'x_3',
      'verbatim',
    ]);
    await naming('DATE');
    expect(await ofDrive()).toMatch(/^x-\d{4}-\d\d-\d\d$/);
    await naming('TIMESTAMP');
    expect(await ofSnapshot()).toMatch(/^x-\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
    const wrong = await admin.put('/profile/', { clone_naming: 'RANDOM' });
    expect([wrong.status, wrong.json[0].error_point]).toEqual([400, 'clone_naming']);
    await naming('NONE');
  });

  test('an image of the library is cloned the same way', async () => {
    const drive = await rig.drive('template');
    await rig.write(drive.id, 0, Buffer.alloc(MiB, 9));
    const snapshot = await rig.snapshot({ driveIds: [drive.id] });
    const { image } = await rig.native('POST', '/images', { snapshotId: snapshot.id, name: 'debian' });
    const library = (await admin.get('/libdrives/?name=debian')).json.objects;
    expect([library.length, library[0].uuid, library[0].size]).toEqual([1, image.id, drive.sizeBytes]);
    expect((await admin.get(`/libdrives/${image.id}/`)).json).toEqual(library[0]);
    for (const kind of ['libdrives', 'drives']) {
      const answer = await admin.post(`/${kind}/${image.id}/action/?do=clone`, { name: 'mine' });
      expect([answer.status, answer.json.objects[0].name]).toEqual([202, 'mine']);
      await rig.settled();
      const { uuid } = answer.json.objects[0];
      expect((await rig.read(uuid)).subarray(0, MiB).equals(Buffer.alloc(MiB, 9))).toBe(true);
    }
  });
});
