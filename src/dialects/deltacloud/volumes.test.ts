/** Storage volumes: real drives, attached to machines and detached again in the very answer. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { DeltacloudClient, form, parseXml } from './testing/client.ts';

const GiB = 1024 * MiB;
let rig: DialectRig;
let client: DeltacloudClient;
let instance: string;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new DeltacloudClient(rig);
  const root = await rig.drive('root');
  const machine = await rig.machine('web', [root.id]);
  instance = wireId('inst', machine.number);
});
afterAll(() => rig[Symbol.asyncDispose]());

const pathOf = (id: string): string => `/api/storage_volumes/${id}`;
const wireId = (prefix: string, number: number): string => `${prefix}-${number.toString(16)}`;
const attach = (id: string, device = '/dev/sdh') =>
  client.post(`${pathOf(id)}/attach?format=json`, { instance_id: instance, device });
const detach = (id: string) => client.post(`${pathOf(id)}/detach?format=json`);

/** As the native API has it. */
async function nativeDrive(id: string) {
  const { items } = await rig.native('GET', '/drives?limit=1000');
  return items.find((drive: { number: number }) => wireId('vol', drive.number) === id);
}

describe('creating a storage volume', () => {
  it('answers 201 with Location and the member; without parameters it has 1 GB and its identifier for a name', async () => {
    const answer = await client.send({ method: 'POST', path: '/api/storage_volumes?format=xml' });
    expect(answer.status).toBe(201);
    const { value } = parseXml(answer.text);
    expect(answer.headers.location).toBe(value['@href']);
    expect(value).toMatchObject({ name: value['@id'], capacity: { '#text': '1', '@unit': 'GB' }, state: 'AVAILABLE' });
    expect((await nativeDrive(value['@id'])).sizeBytes).toBe(GiB);
    expect((await client.get(new URL(value['@href']).pathname)).text).toBe(answer.text);
    expect((await client.delete(pathOf(value['@id']))).status).toBe(204);
  });

  it('takes capacity, name, description and realm; what forms leave empty counts as absent', async () => {
    const { json } = await client.post('/api/storage_volumes?format=json', {
      capacity: '0.5',
      name: 'half',
      description: 'of one',
      realm_id: 'local',
      snapshot_id: '',
    });
    expect(json.storage_volume).toMatchObject({
      name: 'half',
      description: 'of one',
      capacity: 0.5,
      state: 'AVAILABLE',
      kind: null,
      device: null,
      instance: {},
    });
    expect((await nativeDrive(json.storage_volume.id)).sizeBytes).toBe(GiB / 2);
  });

  it('is XML to the byte', async () => {
    const answer = await client.post(
      '/api/storage_volumes',
      { capacity: '0.01', name: 'data' },
      { host: 'dc.example:3001' },
    );
    const id = String(answer.headers.location).split('/').at(-1);
    const created = /<created>(.*)<\/created>/.exec(answer.text)?.[1];
    const href = `http://dc.example:3001/api/storage_volumes/${id}`;
    const bytes = (await nativeDrive(String(id))).sizeBytes;
    expect(answer.text).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<storage_volume href='${href}' id='${id}'>
  <created>${created}</created>
  <capacity unit='GB'>${(bytes / GiB).toFixed(9).replace(/0+$/, '')}</capacity>
  <name>data</name>
  <realm href='http://dc.example:3001/api/realms/local' id='local'></realm>
  <realm_id>local</realm_id>
  <state>AVAILABLE</state>
  <actions>
    <link href='${href}/attach' method='post' rel='attach' />
    <link href='${href}/detach' method='post' rel='detach' />
    <link href='${href}' method='delete' rel='destroy' />
  </actions>
</storage_volume>
`);
    const attached = await client.post(
      `${pathOf(String(id))}/attach`,
      { instance_id: instance, device: '/dev/sdh' },
      { host: 'dc.example:3001' },
    );
    expect(attached.text).toContain(`  <name>data</name>
  <device>/dev/sdh</device>
  <realm href='http://dc.example:3001/api/realms/local' id='local'></realm>
  <realm_id>local</realm_id>
  <state>IN-USE</state>
  <mount>
    <instance href='http://dc.example:3001/api/instances/${instance}' id='${instance}'></instance>
    <device name='/dev/sdh'></device>
  </mount>
  <actions>
`);
    await detach(String(id));
  });

  it('from a snapshot it has its data and size, or a larger size', async () => {
    const source = await client.volume({ capacity: '0.0078125', name: 'source' });
    await rig.write((await nativeDrive(source)).id, 4096, Buffer.from('of the source'));
    const snapshot = await client.snapshot(source);
    const { json: same } = await client.post('/api/storage_volumes?format=json', { snapshot_id: snapshot });
    expect([same.storage_volume.capacity, same.storage_volume.name]).toEqual([0.0078125, same.storage_volume.id]);
    const bytes = await rig.read((await nativeDrive(same.storage_volume.id)).id);
    expect(bytes.subarray(4096, 4096 + 13).toString()).toBe('of the source');
    const { json: larger } = await client.post('/api/storage_volumes?format=json', {
      snapshot_id: snapshot,
      capacity: '0.015625',
    });
    expect(larger.storage_volume.capacity).toBe(0.015625);
    expect((await client.post('/api/storage_volumes', { snapshot_id: snapshot, capacity: '0.001' })).status).toBe(400);
  });

  it('refuses what cannot be, and makes nothing', async () => {
    const count = async () => (await client.json('/api/storage_volumes')).storage_volumes.length;
    const before = await count();
    const rows: [Record<string, string>, number][] = [
      [{ capacity: '0' }, 400],
      [{ capacity: '-1' }, 400],
      [{ capacity: 'ten' }, 400],
      [{ capacity: '1e3' }, 400],
      [{ capacity: '999999999' }, 400],
      [{ capacity: '9'.repeat(400) }, 400],
      [{ snapshot_id: 'snap-ffff' }, 404],
      [{ snapshot_id: 'nope' }, 404],
      [{ realm_id: 'us' }, 404],
      [{ name: '\u0001' }, 400],
      [{ name: 'x'.repeat(300) }, 400],
    ];
    for (const [fields, status] of rows) {
      const answer = await client.post('/api/storage_volumes', fields);
      expect([answer.status, parseXml(answer.text).root], JSON.stringify(fields)).toEqual([status, 'error']);
    }
    expect(await count()).toBe(before);
  });
});

describe('listing storage volumes', () => {
  it('has every member, the same in list and member, in XML and JSON', async () => {
    const { storage_volume: all } = await client.xml('/api/storage_volumes');
    const { storage_volumes: asJson } = await client.json('/api/storage_volumes');
    expect(asJson.map((each: { id: string }) => each.id)).toEqual(
      all.map((each: Record<string, string>) => each['@id']),
    );
    for (const each of all) expect(await client.xml(new URL(each['@href']).pathname)).toEqual(each);
    for (const each of asJson) expect((await client.json(pathOf(each.id))).storage_volume).toEqual(each);
  });

  it('?id= filters', async () => {
    const id = await client.volume();
    expect(
      (await client.json(`/api/storage_volumes?id=${id}`)).storage_volumes.map((each: { id: string }) => each.id),
    ).toEqual([id]);
    expect(await client.json('/api/storage_volumes?id=nope')).toEqual({ storage_volumes: [] });
  });
});

describe('attaching', () => {
  it('answers 202 with IN-USE, the instance and the device; detaching with AVAILABLE and neither', async () => {
    const id = await client.volume();
    const attached = await attach(id);
    expect(attached.status).toBe(202);
    expect([attached.headers.etag, attached.headers['cache-control']]).toEqual([undefined, undefined]);
    expect(attached.json.storage_volume).toMatchObject({
      state: 'IN-USE',
      device: '/dev/sdh',
      instance: { id: instance, href: `${rig.origin('deltacloud')}/api/instances/${instance}`, rel: 'instance' },
    });
    expect((await client.json(pathOf(id))).storage_volume).toEqual(attached.json.storage_volume);
    const { storage_volumes: volumes } = (await client.json(`/api/instances/${instance}`)).instance;
    expect(volumes.map((each: { id: string }) => each.id)).toContain(id);
    expect((await nativeDrive(id)).attachedTo).not.toBeNull();

    const detached = await detach(id);
    expect(detached.status).toBe(202);
    expect(detached.json.storage_volume).toMatchObject({ state: 'AVAILABLE', device: null, instance: {} });
    const xml = await client.xml(pathOf(id));
    expect([xml.mount, xml.device]).toEqual([undefined, undefined]);
    const drive = await nativeDrive(id);
    expect([drive.attachedTo, drive.meta]).toEqual([null, {}]);
  });

  it('without a device gives it the name that Linux has for the slot', async () => {
    const id = await client.volume();
    const answer = await client.send({
      method: 'POST',
      path: `${pathOf(id)}/attach?device&instance_id=${instance}&format=json`,
    });
    expect(answer.status).toBe(202);
    const { slot } = (await nativeDrive(id)).attachedTo;
    expect(answer.json.storage_volume.device).toBe(`/dev/vd${'abcdefghijklmno'[slot]}`);
    // As the C client detaches: an empty form.
    const detached = await client.send({ method: 'POST', path: `${pathOf(id)}/detach`, headers: form, body: '' });
    expect([detached.status, parseXml(detached.text).value.state]).toEqual([202, 'AVAILABLE']);
  });

  it('takes the redundant id of the C client, and not for the volume', async () => {
    const [id, other] = [await client.volume(), await client.volume()];
    const answer = await client.post(`${pathOf(id)}/attach?format=json`, {
      id: other,
      instance_id: instance,
      device: '/dev/sdx',
    });
    expect([answer.status, answer.json.storage_volume.id]).toEqual([202, id]);
    expect((await client.json(pathOf(other))).storage_volume.state).toBe('AVAILABLE');
    await detach(id);
  });

  it('forgets the name of the device when it was detached elsewhere', async () => {
    const id = await client.volume();
    await attach(id, '/dev/sdq');
    const { attachedTo, id: driveId } = await nativeDrive(id);
    await rig.native('DELETE', `/machines/${attachedTo.machineId}/drives/${driveId}`);
    expect((await client.json(pathOf(id))).storage_volume.device).toBeNull();
    const other = await rig.machine('elsewhere', []);
    await rig.native('POST', `/machines/${other.id}/drives`, { driveId });
    expect((await client.json(pathOf(id))).storage_volume).toMatchObject({ device: '/dev/vda', state: 'IN-USE' });
    expect((await detach(id)).status).toBe(202);
    expect((await nativeDrive(id)).meta).toEqual({});
  });

  it('keeps the metadata that others gave the drive', async () => {
    const id = await client.volume();
    const drive = await nativeDrive(id);
    await rig.native('PATCH', `/drives/${drive.id}`, { meta: { owner: 'anna' } });
    await attach(id);
    expect((await nativeDrive(id)).meta.owner).toBe('anna');
    await detach(id);
    expect((await nativeDrive(id)).meta).toEqual({ owner: 'anna' });
  });

  it('sends browsers to the volume', async () => {
    const id = await client.volume();
    for (const [action, fields] of [
      ['attach', { instance_id: instance, device: '/dev/sdc' }],
      ['detach', {}],
    ] as const) {
      const answer = await client.post(`${pathOf(id)}/${action}`, fields, { accept: 'text/html' });
      expect([answer.status, answer.headers.location]).toEqual([303, `${rig.origin('deltacloud')}${pathOf(id)}`]);
    }
  });

  it('refuses what is not there with 404, what is in the way with 409, and changes nothing', async () => {
    const [free, taken] = [await client.volume(), await client.volume()];
    await attach(taken);
    const rows = [
      [await client.post(`${pathOf('vol-ffff')}/attach`, { instance_id: instance, device: '/dev/sdh' }), 404],
      [await client.post(`${pathOf(free)}/attach`, { instance_id: 'inst-ffff', device: '/dev/sdh' }), 404],
      [await client.post(`${pathOf(free)}/attach`, { instance_id: '', device: '/dev/sdh' }), 400],
      [await client.post(`${pathOf(free)}/attach`, { instance_id: instance, device: 'a b' }), 400],
      [await client.post(`${pathOf(free)}/attach`, { instance_id: instance, device: `/${'x'.repeat(100)}` }), 400],
      [await client.post(`${pathOf(taken)}/attach`, { instance_id: instance, device: '/dev/sdh' }), 409],
      [await client.post(`${pathOf('vol-ffff')}/detach`), 404],
      [await client.post(`${pathOf(free)}/detach`), 409],
    ] as const;
    for (const [answer, status] of rows) expect([answer.status, parseXml(answer.text).root]).toEqual([status, 'error']);
    expect((await client.json(pathOf(free))).storage_volume.state).toBe('AVAILABLE');
    expect((await client.json(pathOf(taken))).storage_volume).toMatchObject({ state: 'IN-USE', device: '/dev/sdh' });
    await detach(taken);
  });

  it('to two instances at once goes to one of them', async () => {
    const machines = [await rig.machine('a', []), await rig.machine('b', [])];
    const id = await client.volume();
    const answers = await Promise.all(
      machines.map(({ number }) =>
        client.post(`${pathOf(id)}/attach?format=json`, { instance_id: wireId('inst', number), device: '' }),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([202, 409]);
    const winner = answers.find(({ status }) => status === 202);
    expect((await client.json(pathOf(id))).storage_volume).toEqual(winner?.json.storage_volume);
    await detach(id);
  });
});

describe('deleting a storage volume', () => {
  it('is 204; its snapshots stay, and go on naming it', async () => {
    const id = await client.volume();
    const snapshot = await client.snapshot(id);
    const { status, text, headers } = await client.delete(pathOf(id));
    expect([status, text, headers['content-type']]).toEqual([204, '', undefined]);
    expect((await client.get(pathOf(id))).status).toBe(404);
    expect((await client.delete(pathOf(id))).status).toBe(404);
    expect(
      (await client.json('/api/storage_volumes')).storage_volumes.some((each: { id: string }) => each.id === id),
    ).toBe(false);
    expect((await client.json(`/api/storage_snapshots/${snapshot}`)).storage_snapshot.storage_volume.id).toBe(id);
    expect((await client.post('/api/storage_snapshots', { volume_id: id })).status).toBe(404);
    expect((await client.delete(`/api/storage_snapshots/${snapshot}`)).status).toBe(204);
  });

  it('is 409 while it is attached', async () => {
    const id = await client.volume();
    await attach(id);
    const answer = await client.delete(`${pathOf(id)}?format=json`);
    expect([answer.status, answer.json.error]).toEqual([409, 'Deltacloud::Exceptions::Conflict']);
    expect(JSON.stringify(answer.json)).not.toMatch(/[0-9a-f]{8}-[0-9a-f]{4}/);
    await detach(id);
    expect((await client.delete(pathOf(id))).status).toBe(204);
  });

  it('sends browsers to the list', async () => {
    const answer = await client.post(pathOf(await client.volume()), { _method: 'delete' }, { accept: 'text/html' });
    expect([answer.status, answer.headers.location]).toEqual([303, `${rig.origin('deltacloud')}/api/storage_volumes`]);
  });
});

describe('rights', () => {
  it('what is of another project looks like what is not there', async () => {
    await rig.native('POST', '/projects', { name: 'other' });
    const foreign = new DeltacloudClient(rig, await rig.person('foreigner', 'member', 'other'));
    const id = await client.volume();
    const calls = [
      ['GET', ''],
      ['DELETE', ''],
      ['POST', `/attach?instance_id=${instance}&device=x`],
      ['POST', '/detach'],
    ] as const;
    for (const [method, rest] of calls) {
      const hidden = await foreign.send({ method, path: `${pathOf(id)}${rest}` });
      const missing = await foreign.send({ method, path: `${pathOf('vol-ffff')}${rest}` });
      expect([hidden.status, hidden.text.replaceAll(id, 'ID')]).toEqual([
        404,
        missing.text.replaceAll('vol-ffff', 'ID'),
      ]);
    }
    const own = await foreign.volume();
    const onto = await foreign.post(`${pathOf(own)}/attach`, { instance_id: instance, device: '' });
    const nowhere = await foreign.post(`${pathOf(own)}/attach`, { instance_id: 'inst-ffff', device: '' });
    expect([onto.status, onto.text.replaceAll(instance, 'I')]).toEqual([
      404,
      nowhere.text.replaceAll('inst-ffff', 'I'),
    ]);
    expect((await foreign.json('/api/storage_volumes')).storage_volumes).toHaveLength(1);
  });

  it('a guest changes only what was granted with rw, and makes nothing', async () => {
    const id = await client.volume();
    const guest = new DeltacloudClient(rig, await rig.person('guest', 'guest'));
    expect((await guest.get(pathOf(id))).status).toBe(404);
    await rig.grant('guest', { driveId: (await nativeDrive(id)).id }, 'ro');
    expect((await guest.get(pathOf(id))).status).toBe(200);
    expect((await guest.delete(pathOf(id))).status).toBe(403);
    expect((await guest.post('/api/storage_volumes', { capacity: '0.01' })).status).toBe(403);
    expect((await client.get(pathOf(id))).status).toBe(200);
  });
});
