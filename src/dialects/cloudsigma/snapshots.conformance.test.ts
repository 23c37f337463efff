/** CloudSigma 2.0 against the real engine: snapshots. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { Client } from './testing/client.ts';

let rig: DialectRig;
let admin: Client;
const nobody = '00000000-0000-4000-8000-000000000000';

beforeAll(async () => {
  rig = await DialectRig.start();
  admin = new Client(rig, rig.admin);
});
afterAll(() => rig[Symbol.asyncDispose]());

const total = async (query = '') => (await admin.get(`/snapshots/?${query}`)).json.meta.total_count;

describe('creating', () => {
  test('three spellings of a body, and of the drive in it, all answered with a list', async () => {
    const { uuid, resource_uri } = await admin.drive('spellings');
    const bodies = [
      { objects: [{ drive: uuid }] },
      { drive: uuid },
      [{ drive: uuid }],
      { drive: { uuid } },
      { drive: { uuid, resource_uri } },
      { drive: resource_uri },
      { drive: uuid, name: null, meta: null, tags: [] },
    ];
    for (const body of bodies) {
      const answer = await admin.post('/snapshots/', body);
      expect([answer.status, answer.json.objects[0].drive]).toEqual([201, { resource_uri, uuid }]);
    }
  });

  test('begins as creating without a size, and becomes available with one; the timestamp stays', async () => {
    const drive = await admin.drive('states');
    const [made] = (await admin.post('/snapshots/', { drive: drive.uuid, name: 'n', meta: { k: 'a\nb' } })).json
      .objects;
    expect([made.status, made.allocated_size, made.name, made.meta]).toEqual(['creating', null, 'n', { k: 'a\nb' }]);
    await rig.settled();
    const snapshot = (await admin.get(`/snapshots/${made.uuid}/`)).json;
    expect([snapshot.status, snapshot.allocated_size]).toEqual(['available', 0]);
    const { status: _, allocated_size: __, ...rest } = made;
    expect(snapshot).toMatchObject(rest);
    expect((await admin.get('/snapshots/detail/?limit=0')).json.objects).toContainEqual(snapshot);
    expect((await admin.get('/snapshots/?limit=0')).json.objects).toContainEqual(snapshot);
  });

  test('the default name is of the uuid of the drive and the time, UTC', async () => {
    const drive = await admin.drive('named by its uuid');
    const { name, timestamp } = await admin.snapshot(drive.uuid);
    expect(name).toMatch(new RegExp(`^${drive.uuid}__\\d{4}-\\d\\d-\\d\\d__\\d\\d_\\d\\d_\\d\\d$`));
    expect(name.slice(38, 48)).toBe(timestamp.slice(0, 10));
  });

  test('a drive that is missing, of the wrong type, unknown', async () => {
    const missing = await admin.post('/snapshots/', { name: 'x' });
    expect([missing.status, missing.json]).toEqual([
      400,
      [{ error_message: 'This field is required', error_point: 'drive', error_type: 'validation' }],
    ]);
    for (const drive of [7, [], {}, { uuid: 7 }, '', true]) {
      const answer = await admin.post('/snapshots/', { drive });
      expect([answer.status, answer.json[0].error_point]).toEqual([400, 'drive']);
    }
    const unknown = await admin.post('/snapshots/', { drive: nobody });
    expect([unknown.status, unknown.json[0].error_message]).toEqual([404, `Object with uuid ${nobody} does not exist`]);
  });

  test('bulk is all or nothing', async () => {
    const a = await admin.drive('bulk a');
    const b = await admin.drive('bulk b');
    const before = await total();
    const refused = await admin.post('/snapshots/', {
      objects: [{ drive: a.uuid }, { drive: nobody }, { drive: b.uuid }],
    });
    expect(refused.status).toBe(404);
    const fields = await admin.post('/snapshots/', { objects: [{}, { drive: a.uuid }, { name: 'y' }] });
    expect([fields.status, fields.json.length]).toEqual([400, 2]);
    expect(await total()).toBe(before);
    const made = await admin.post('/snapshots/', {
      objects: [{ drive: b.uuid }, { drive: a.uuid }, { drive: b.uuid }],
    });
    expect(made.json.objects.map((one: { drive: { uuid: string } }) => one.drive.uuid)).toEqual([
      b.uuid,
      a.uuid,
      b.uuid,
    ]);
    await rig.settled();
    expect(await total('status=available')).toBe(before + 3);
  });

  test('bad metadata is refused with its point', async () => {
    const drive = await admin.drive('meta');
    for (const meta of [{ k: 7 }, [], 'text', { ['k'.repeat(33)]: 'v' }, { k: { nested: 'x' } }]) {
      const answer = await admin.post('/snapshots/', { drive: drive.uuid, meta });
      expect([answer.status, answer.json[0].error_point, answer.json[0].error_type]).toEqual([
        400,
        'meta',
        'validation',
      ]);
    }
    expect((await admin.post('/snapshots/', { drive: drive.uuid, name: 7 })).json[0].error_point).toBe('name');
    const cut = await admin.snapshot(drive.uuid, { name: 'seen\0unseen', meta: { k: 'v\0w' } });
    expect([cut.name, cut.meta]).toEqual(['seen', { k: 'v' }]);
  });

  test('two back to back on one drive, and one of a drive that is not ready', async () => {
    const drive = await admin.drive('back to back');
    const [one, two] = await Promise.all([
      admin.post('/snapshots/', { drive: drive.uuid }),
      admin.post('/snapshots/', { drive: drive.uuid }),
    ]);
    expect([one?.status, two?.status]).toEqual([201, 201]);
    const [created] = (await admin.post('/drives/', { name: 'fresh', size: 536870912, media: 'disk' })).json.objects;
    await rig.settled();
    await admin.delete(`/drives/${created.uuid}/`);
    const late = await admin.post('/snapshots/', { drive: created.uuid });
    expect([403, 404]).toContain(late.status);
    if (late.status === 403) {
      expect(late.json[0].error_message).toBe(
        'Cannot change drive in state "deleting". Drive should be in state "unmounted"',
      );
    }
  });
});

describe('sizes', () => {
  test('what has diverged since: 0 untouched, then the bytes of the drive that were overwritten', async () => {
    const drive = await rig.drive('sizes');
    const first = await admin.snapshot(drive.id);
    expect(first.allocated_size).toBe(0);
    await rig.write(drive.id, 0, Buffer.alloc(MiB, 1));
    const second = await admin.snapshot(drive.id);
    await rig.write(drive.id, 4 * MiB, Buffer.alloc(2 * MiB, 2));
    const sizes = async () =>
      (await admin.get(`/snapshots/?drive=${drive.id}`)).json.objects.map(
        (one: { allocated_size: number }) => one.allocated_size,
      );
    await expect.poll(sizes).toEqual([3 * MiB, 2 * MiB]);
    expect((await admin.get(`/snapshots/${first.uuid}/`)).json.allocated_size).toBe(3 * MiB);
    const { runtime, snapshots } = (await admin.get(`/drives/${drive.id}/`)).json;
    expect(runtime.snapshots_allocated_size).toBe(5 * MiB);
    expect(snapshots.map((one: { uuid: string }) => one.uuid)).toEqual([second.uuid, first.uuid]);
  });
});

describe('editing', () => {
  test('a whole object as it was last read, with stale fields, changes only what can be changed', async () => {
    const drive = await admin.drive('edited');
    const [stale] = (await admin.post('/snapshots/', { drive: drive.uuid, name: 'a', meta: { k: 'v' } })).json.objects;
    await rig.settled();
    const body = { ...stale, name: 'b', uuid: nobody, timestamp: 'never', owner: null };
    const answer = await admin.put(`/snapshots/${stale.uuid}/`, body);
    expect([answer.status, answer.json.name, answer.json.status, answer.json.uuid]).toEqual([
      200,
      'b',
      'available',
      stale.uuid,
    ]);
    expect(answer.json.timestamp).toBe(stale.timestamp);
    expect((await admin.get(`/snapshots/${stale.uuid}/`)).json).toEqual(answer.json);
  });

  test('meta that is present replaces the map, absent keys keep their value, another drive is refused', async () => {
    const drive = await admin.drive('edited too');
    const { uuid } = await admin.snapshot(drive.uuid, { name: 'kept', meta: { a: '1', b: '2' } });
    const put = async (body: object) => (await admin.put(`/snapshots/${uuid}/`, body)).json;
    expect((await put({ meta: { b: '3' } })).meta).toEqual({ b: '3' });
    expect((await put({ drive: { uuid: drive.uuid } })).name).toBe('kept');
    expect((await put({ name: 'new' })).meta).toEqual({ b: '3' });
    const moved = await admin.put(`/snapshots/${uuid}/`, { drive: nobody, name: 'moved' });
    expect([moved.status, moved.json[0].error_point]).toEqual([400, 'drive']);
    expect((await admin.get(`/snapshots/${uuid}/?drive=${nobody}`)).json.name).toBe('new');
    expect((await admin.put(`/snapshots/${uuid}/`, [])).status).toBe(400);
    // As the Go client sends a drive that it was not given.
    for (const none of [{}, { owner: {}, runtime: {} }, null]) {
      const answer = await admin.put(`/snapshots/${uuid}/`, { drive: none, name: 'unmoved' });
      expect([answer.status, answer.json.name, answer.json.drive.uuid]).toEqual([200, 'unmoved', drive.uuid]);
    }
  });

  test('tags: uuids or links set them, an empty list clears them, an unknown one is refused', async () => {
    const drive = await admin.drive('tagged');
    const [tag] = (await admin.post('/tags/', { name: 'nightly' })).json.objects;
    const { uuid, tags } = await admin.snapshot(drive.uuid, { tags: [tag.uuid] });
    expect(tags).toEqual([{ resource_uri: tag.resource_uri, uuid: tag.uuid }]);
    for (const filter of [`tag=${tag.uuid}`, 'tag=nightly', 'tag__name=nightly', 'tag__name__contains=NIGHT']) {
      expect((await admin.get(`/snapshots/?${filter}`)).json.objects.map((one: { uuid: string }) => one.uuid)).toEqual([
        uuid,
      ]);
    }
    const cleared = await admin.put(`/snapshots/${uuid}/`, { tags: [] });
    expect(cleared.json.tags).toEqual([]);
    const again = await admin.put(`/snapshots/${uuid}/`, { tags: [{ uuid: tag.uuid }] });
    expect(again.json.tags).toEqual(tags);
    const unknown = await admin.put(`/snapshots/${uuid}/`, { tags: [nobody] });
    expect([unknown.status, unknown.json[0].error_point]).toEqual([400, 'tags']);
  });
});

describe('deleting', () => {
  test('in any order, with or without a body; the others stay valid, a second time is no fault', async () => {
    const drive = await admin.drive('deleted');
    const [a, b, c] = [
      await admin.snapshot(drive.uuid),
      await admin.snapshot(drive.uuid),
      await admin.snapshot(drive.uuid),
    ];
    const both = await Promise.all([admin.delete(`/snapshots/${b.uuid}/`, {}), admin.delete(`/snapshots/${b.uuid}/`)]);
    expect(both[0]?.status).toBe(204);
    expect([204, 404]).toContain(both[1]?.status);
    await expect.poll(async () => (await admin.get(`/snapshots/${b.uuid}/`)).status).toBe(404);
    for (const { uuid } of [a, c]) expect((await admin.get(`/snapshots/${uuid}/`)).json.status).toBe('available');
  });

  test('a look right after it finds nothing', async () => {
    const drive = await admin.drive('looked for');
    for (let times = 0; times < 5; times++) {
      const { uuid } = await admin.snapshot(drive.uuid);
      expect((await admin.delete(`/snapshots/${uuid}/`)).status).toBe(204);
      expect((await admin.get(`/snapshots/${uuid}/`)).status).toBe(404);
    }
    const { uuid } = await admin.snapshot(drive.uuid);
    expect((await admin.delete(`/drives/${drive.uuid}/`)).status).toBe(204);
    expect((await admin.get(`/snapshots/${uuid}/`)).status).toBe(404);
  });

  test('bulk is all or nothing, and needs a usable list', async () => {
    const drive = await admin.drive('deleted in bulk');
    const uuids = [(await admin.snapshot(drive.uuid)).uuid, (await admin.snapshot(drive.uuid)).uuid];
    const count = () => total(`drive=${drive.uuid}`);
    for (const body of [undefined, '{}', '{"objects": []}', '{"objects": [{}]}', '{"objects": [,]}', '[7]']) {
      expect((await admin.delete('/snapshots/', body)).status, body).toBe(400);
    }
    const unknown = await admin.delete('/snapshots/', { objects: [...uuids, nobody].map((uuid) => ({ uuid })) });
    expect([unknown.status, unknown.json[0].error_message]).toEqual([404, `Object with uuid ${nobody} does not exist`]);
    await rig.settled();
    expect(await count()).toBe(2);
    expect((await admin.delete('/snapshots/', { objects: uuids.map((uuid) => ({ uuid })) })).status).toBe(204);
    await expect.poll(count).toBe(0);
  });

  test('a drive takes its snapshots along; a drive cloned from one survives both', async () => {
    const source = await rig.drive('source');
    await rig.write(source.id, 0, Buffer.alloc(MiB, 7));
    const { uuid } = await admin.snapshot(source.id);
    const clone = (await admin.post(`/snapshots/${uuid}/action/?do=clone`)).json;
    await rig.settled();
    expect((await admin.delete(`/drives/${source.id}/`)).status).toBe(204);
    await expect.poll(async () => (await admin.get(`/snapshots/${uuid}/`)).status).toBe(404);
    expect((await admin.get(`/drives/${source.id}/`)).status).toBe(404);
    expect(await total(`drive=${source.id}`)).toBe(0);
    expect((await rig.read(clone.uuid)).subarray(0, MiB).equals(Buffer.alloc(MiB, 7))).toBe(true);
  });

  test('one drive of a snapshot of a machine: that part goes, the rest stays', async () => {
    const [a, b] = [await rig.drive('part a'), await rig.drive('part b')];
    const machine = await rig.machine('two drives', [a.id, b.id]);
    const whole = await rig.snapshot({ machineId: machine.id }, 'whole');
    const [part] = (await admin.get(`/snapshots/?drive=${a.id}`)).json.objects;
    expect([part.name, whole.parts.map((one) => one.id)]).toEqual(['whole', expect.arrayContaining([part.uuid])]);
    await admin.delete(`/snapshots/${part.uuid}/`);
    await rig.settled();
    const left = await rig.native('GET', `/snapshots/${whole.id}`);
    expect([left.complete, left.parts.length, left.parts[0].driveId]).toEqual([false, 1, b.id]);
    expect(await total(`drive=${b.id}`)).toBe(1);
  });
});

describe('cloning', () => {
  test('202 with a bare drive whose resource_uri is a link; a later look shows a path', async () => {
    const source = await rig.drive('cloned');
    const snapshot = await admin.snapshot(source.id, { name: 'base', meta: { why: 'x' } });
    const answer = await admin.post(`/snapshots/${snapshot.uuid}/action/?do=clone&avoid=${nobody},${source.id}`, {
      name: 'copy',
      affinities: [],
      media: 'cdrom',
    });
    const { uuid, resource_uri, status, jobs, size, name, meta, tags, media, snapshots } = answer.json;
    expect([answer.status, resource_uri]).toEqual([202, { resource_uri: `/api/2.0/drives/${uuid}/`, uuid }]);
    expect([status, jobs.length, size, name, meta, tags, media, snapshots]).toEqual([
      'cloning_dst',
      1,
      source.sizeBytes,
      'copy',
      { why: 'x' },
      [],
      'cdrom',
      [],
    ]);
    await rig.settled();
    const drive = (await admin.get(`/drives/${uuid}/`)).json;
    expect([drive.status, drive.resource_uri, drive.jobs]).toEqual(['unmounted', `/api/2.0/drives/${uuid}/`, jobs]);
    const job = (await admin.get(jobs[0].resource_uri.slice('/api/2.0'.length))).json;
    expect([job.operation, job.state, job.data.progress]).toEqual(['drive_clone', 'success', 100]);
    expect(job.resources).toEqual([`/api/2.0/drives/${source.id}/`, `/api/2.0/drives/${uuid}/`]);
  });

  test('no body, an empty one, {} and null will do; the name is the snapshot’s', async () => {
    const source = await rig.drive('cloned barely');
    const { uuid } = await admin.snapshot(source.id, { name: 'bare' });
    for (const body of [undefined, '', '{}', 'null']) {
      const answer = await admin.post(`/snapshots/${uuid}/action/?do=clone`, body);
      expect([answer.status, answer.json.name]).toEqual([202, 'bare']);
    }
  });

  test('straight after creating, without waiting; it has the content of that instant', async () => {
    const source = await rig.drive('hasty');
    await rig.write(source.id, 0, Buffer.alloc(MiB, 3));
    const [made] = (await admin.post('/snapshots/', { drive: source.id })).json.objects;
    const answer = await admin.post(`/snapshots/${made.uuid}/action/?do=clone`);
    expect(answer.status).toBe(202);
    await expect.poll(async () => (await admin.get(`/drives/${answer.json.uuid}/`)).json.status).toBe('unmounted');
    expect((await rig.read(answer.json.uuid)).subarray(0, MiB).equals(Buffer.alloc(MiB, 3))).toBe(true);
  });

  test('unknown and missing actions are refused', async () => {
    const drive = await admin.drive('actions');
    const { uuid } = await admin.snapshot(drive.uuid);
    for (const query of ['?do=restore', '']) {
      const answer = await admin.post(`/snapshots/${uuid}/action/${query}`);
      expect([answer.status, answer.json[0].error_point]).toEqual([400, 'do']);
    }
    expect((await admin.post(`/snapshots/${nobody}/action/?do=clone`)).status).toBe(404);
  });
});

describe('sharing', () => {
  test('grants show as grantees to the owner and as permissions to the guest, who is held to them', async () => {
    const drive = await admin.drive('shared');
    const mine = await admin.snapshot(drive.uuid);
    const reader = await rig.person('reader', 'guest');
    const writer = await rig.person('writer', 'guest');
    await rig.grant('reader', { driveId: drive.uuid }, 'ro');
    await rig.grant('writer', { driveId: drive.uuid }, 'rw');
    const shown = (await admin.get(`/snapshots/${mine.uuid}/`)).json;
    expect(shown.permissions).toEqual([]);
    expect(shown.grantees).toEqual(
      [reader, writer].map((person, at) => ({
        permissions: at === 0 ? ['LIST'] : ['EDIT', 'LIST'],
        user: { email: person.email, resource_uri: `/api/2.0/user/${person.id}/`, uuid: person.id },
      })),
    );
    const read = new Client(rig, reader);
    const write = new Client(rig, writer);
    expect((await read.get(`/snapshots/${mine.uuid}/`)).json.permissions).toEqual(['LIST']);
    expect((await read.get('/snapshots/')).json.objects.length).toBe(1);
    expect((await read.put(`/snapshots/${mine.uuid}/`, { name: 'x' })).status).toBe(403);
    expect((await read.delete(`/snapshots/${mine.uuid}/`)).status).toBe(403);
    expect((await read.post('/snapshots/', { drive: drive.uuid })).status).toBe(403);
    expect((await write.get(`/snapshots/${mine.uuid}/`)).json.permissions).toEqual(['EDIT', 'LIST']);
    expect((await write.post('/snapshots/', { drive: drive.uuid })).status).toBe(201);
    expect((await write.put(`/snapshots/${mine.uuid}/`, { name: 'theirs' })).json.name).toBe('theirs');
    expect((await write.get('/drives/detail/')).json.objects.map((one: { uuid: string }) => one.uuid)).toEqual([
      drive.uuid,
    ]);
  });
});

test('the schema lists the twelve fields with their flags', async () => {
  const page = (await admin.get('/snapshots/schema/')).json;
  expect(page.allowed_list_http_methods).toEqual(['get', 'put', 'delete', 'post']);
  expect(page.allowed_detail_http_methods).toEqual(['get', 'put', 'delete']);
  expect(page.filtering).toEqual({ name: 'exact', name__contains: 'exact', tag: 'exact', uuid: 'exact' });
  expect(Object.keys(page.fields).sort()).toEqual([
    'allocated_size',
    'drive',
    'grantees',
    'meta',
    'name',
    'owner',
    'permissions',
    'resource_uri',
    'status',
    'tags',
    'timestamp',
    'uuid',
  ]);
  const flags = (name: string) => [page.fields[name].type, page.fields[name].required, page.fields[name].readonly];
  expect(flags('allocated_size')).toEqual(['integer', true, true]);
  expect(flags('drive')).toEqual(['related', true, false]);
  expect(flags('meta')).toEqual(['dict', false, false]);
  expect(flags('owner')).toEqual(['related', false, true]);
  expect([page.fields.name.default, page.fields.meta.default, page.fields.status.default]).toEqual([
    null,
    {},
    'No default provided.',
  ]);
});
