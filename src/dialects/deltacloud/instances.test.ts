/** Instances: machines made from images, which run; and images, realms, hardware profiles and states, which they need. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { buildGuest, guestKernelArguments } from '../../guest/build.ts';
import { DeltacloudClient, parseXml } from './testing/client.ts';

let rig: DialectRig;
let client: DeltacloudClient;
/** Of a machine that starts a kernel; of one that has nothing to start from, and runs firmware only. */
let guestImage: string;
let emptyImage: string;

const wireId = (prefix: string, number: number): string => `${prefix}-${number.toString(16)}`;
const pathOf = (id: string): string => `/api/instances/${id}`;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new DeltacloudClient(rig);
  await buildGuest(rig.bootDirectory);
  const root = await rig.drive('root', 4 * MiB);
  const boot = {
    from: 'kernel',
    kernel: 'guest-vmlinuz',
    initrd: 'guest-initrd.img',
    append: guestKernelArguments(['count']),
  };
  const drives = [{ driveId: root.id }];
  const { machine } = await rig.native('POST', '/machines', { name: 'golden', memoryBytes: 128 * MiB, drives, boot });
  const taken = await rig.snapshot({ machineId: machine.id });
  const { image } = await rig.native('POST', '/images', {
    snapshotId: taken.id,
    name: 'guest',
    description: 'a tiny Linux',
  });
  guestImage = wireId('img', image.number);

  const small = await rig.machine('small', [(await rig.drive('small-root', MiB)).id]);
  const { image: empty } = await rig.native('POST', '/images', {
    snapshotId: (await rig.snapshot({ machineId: small.id })).id,
    name: 'empty',
  });
  emptyImage = wireId('img', empty.number);
});
afterAll(() => rig[Symbol.asyncDispose]());

async function nativeMachine(id: string) {
  const { items } = await rig.native('GET', '/machines?limit=1000');
  return items.find((machine: { number: number }) => wireId('inst', machine.number) === id);
}

const stateOf = async (id: string): Promise<string> => (await client.json(pathOf(id))).instance.state;
const act = (id: string, action: string) => client.post(`${pathOf(id)}/${action}?format=json`);

/** A machine that is off, made elsewhere. */
async function stopped(name: string): Promise<string> {
  const drive = await rig.drive(`${name}-root`, MiB);
  return wireId('inst', (await rig.machine(name, [drive.id])).number);
}

describe('an instance', () => {
  it('is made from an image and runs; is stopped by its guest, started, rebooted, stopped and deleted', async () => {
    const made = await client.post('/api/instances?format=json', {
      image_id: guestImage,
      name: 'web',
      hwp_id: 'c1-m256',
    });
    expect(made.status, made.text).toBe(201);
    const { id, state, actions, hardware_profile: profile, image, storage_volumes: volumes } = made.json.instance;
    expect([state, profile.id, image.id, volumes.length]).toEqual(['RUNNING', 'c1-m256', guestImage, 1]);
    expect(made.headers.location).toBe(`${rig.origin('deltacloud')}${pathOf(id)}`);
    expect(actions.map((each: { rel: string }) => each.rel)).toEqual(['reboot', 'stop']);
    const machine = await nativeMachine(id);
    expect([machine.power, machine.hardware.memoryBytes, machine.hardware.cpus]).toEqual(['running', 256 * MiB, 1]);

    // What its state does not allow changes nothing.
    expect((await act(id, 'start')).status).toBe(405);
    const early = await client.delete(`${pathOf(id)}?format=json`);
    expect([early.status, early.json.error]).toEqual([405, 'Deltacloud::Exceptions::MethodNotAllowed']);
    expect(await stateOf(id)).toBe('RUNNING');

    const serial = async (): Promise<string> => {
      const path = `/v1/machines/${machine.id}/serial?from=0`;
      return (await rig.send('native', { path, headers: { authorization: `Bearer ${rig.admin.token}` } })).text;
    };
    await expect.poll(serial, { timeout: 100_000, interval: 200 }).toContain('CALOTYPE READY');

    const stop = await act(id, 'stop');
    expect([stop.status, stop.json.instance.state]).toEqual([202, 'STOPPED']);
    expect(stop.json.instance.actions).toEqual([
      { href: `${rig.origin('deltacloud')}${pathOf(id)}`, rel: 'destroy', method: 'delete' },
      { href: `${rig.origin('deltacloud')}${pathOf(id)}/start`, rel: 'start', method: 'post' },
    ]);
    for (const action of ['stop', 'reboot']) expect((await act(id, action)).status).toBe(405);

    const start = await act(id, 'start');
    expect([start.status, start.json.instance.state]).toEqual([202, 'RUNNING']);
    const reboot = await act(id, 'reboot');
    expect([reboot.status, reboot.json.instance.state]).toEqual([202, 'RUNNING']);
    const { items: tasks } = await rig.native('GET', `/tasks?machineId=${machine.id}`);
    expect(tasks.map((task: { kind: string }) => task.kind)).toEqual([
      'machine.reset',
      'machine.start',
      'machine.stop',
      'machine.start',
      'machine.clone',
    ]);

    await rig.native('POST', `/machines/${machine.id}/stop`, { mode: 'power' });
    const { status, text } = await client.delete(pathOf(id));
    expect([status, text]).toEqual([204, '']);
    expect((await client.get(pathOf(id))).status).toBe(404);
    expect(await nativeMachine(id)).toBeUndefined();
    // Its root went with it.
    expect((await client.get(`/api/storage_volumes/${volumes[0].id}`)).status).toBe(404);
  }, 180_000);

  it('that is paused is stopped here; starting it lets it go on, and it is not deleted as it is', async () => {
    const { json } = await client.post('/api/instances?format=json', { image_id: emptyImage });
    const { id, name, state } = json.instance;
    expect([name, state]).toEqual([id, 'RUNNING']);
    const { id: machineId } = await nativeMachine(id);
    await rig.native('POST', `/machines/${machineId}/pause`);
    const paused = (await client.json(pathOf(id))).instance;
    expect([paused.state, paused.actions.map((each: { rel: string }) => each.rel)]).toEqual(['STOPPED', ['start']]);
    expect((await client.delete(pathOf(id))).status).toBe(405);
    expect((await act(id, 'start')).json.instance.state).toBe('RUNNING');
    expect((await nativeMachine(id)).power).toBe('running');
    await rig.native('POST', `/machines/${machineId}/stop`, { mode: 'power' });
    expect((await client.delete(pathOf(id))).status).toBe(204);
  });

  it('keeps volumes that were attached to it when it is deleted, and its snapshots', async () => {
    const { json } = await client.post('/api/instances?format=json', { image_id: emptyImage, name: 'with data' });
    const { id, storage_volumes: own } = json.instance;
    const { id: machineId } = await nativeMachine(id);
    await rig.native('POST', `/machines/${machineId}/stop`, { mode: 'power' });
    const volume = await client.volume();
    expect(
      (await client.post(`/api/storage_volumes/${volume}/attach`, { instance_id: id, device: '/dev/sdb' })).status,
    ).toBe(202);
    const snapshot = await client.snapshot(own[0].id);
    expect((await client.delete(pathOf(id))).status).toBe(204);
    expect((await client.json(`/api/storage_volumes/${volume}`)).storage_volume).toMatchObject({
      state: 'AVAILABLE',
      device: null,
    });
    expect((await client.get(`/api/storage_volumes/${own[0].id}`)).status).toBe(404);
    expect((await client.json(`/api/storage_snapshots/${snapshot}`)).storage_snapshot.storage_volume.id).toBe(
      own[0].id,
    );
  });

  it('is XML to the byte', async () => {
    const id = await stopped('exact');
    const machine = await nativeMachine(id);
    const volume = wireId('vol', (await rig.native('GET', `/drives/${machine.drives[0].driveId}`)).number);
    const { text } = await client.get(pathOf(id), { host: 'dc.example:3001' });
    const base = 'http://dc.example:3001/api';
    expect(text).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<instance href='${base}/instances/${id}' id='${id}'>
  <name>exact</name>
  <owner_id>default</owner_id>
  <realm href='${base}/realms/local' id='local'></realm>
  <state>STOPPED</state>
  <hardware_profile href='${base}/hardware_profiles/c1-m64' id='c1-m64'></hardware_profile>
  <actions>
    <link href='${base}/instances/${id}' method='delete' rel='destroy' />
    <link href='${base}/instances/${id}/start' method='post' rel='start' />
  </actions>
  <public_addresses>
  </public_addresses>
  <private_addresses>
    <address type='mac'>${machine.hardware.macAddress}</address>
  </private_addresses>
  <storage_volumes>
    <storage_volume device='/dev/vda' href='${base}/storage_volumes/${volume}' id='${volume}'></storage_volume>
  </storage_volumes>
  <authentication type='key'></authentication>
</instance>
`);
  });

  it('says the same in list and member', async () => {
    await stopped('listed');
    const { instance: all } = await client.xml('/api/instances');
    const { instances: asJson } = await client.json('/api/instances');
    expect(asJson.map((each: { id: string }) => each.id)).toEqual(
      all.map((each: Record<string, string>) => each['@id']),
    );
    for (const each of all) expect(await client.xml(pathOf(each['@id']))).toEqual(each);
    for (const each of asJson) expect((await client.json(pathOf(each.id))).instance).toEqual(each);
  });

  it('is found by id, state, realm_id and owner_id', async () => {
    const id = await stopped('found');
    const idsOf = async (query: string): Promise<string[]> =>
      (await client.json(`/api/instances?${query}`)).instances.map((each: { id: string }) => each.id);
    expect(await idsOf(`id=${id}`)).toEqual([id]);
    expect(await idsOf('id=nope')).toEqual([]);
    expect(await idsOf('state=STOPPED')).toContain(id);
    expect(await idsOf(`state=RUNNING&id=${id}`)).toEqual([]);
    expect(await idsOf('realm_id=local')).toContain(id);
    expect(await idsOf('realm_id=us')).toEqual([]);
    expect(await idsOf('owner_id=default')).toContain(id);
    expect(await idsOf('owner_id=somebody')).toEqual([]);
  });
});

describe('creating an instance', () => {
  it('refuses what cannot be, and makes nothing', async () => {
    const count = async () => (await client.json('/api/instances')).instances.length;
    const before = await count();
    const rows: [Record<string, string>, number][] = [
      [{ image_id: 'img-ffff' }, 404],
      [{ image_id: '' }, 400],
      [{ image_id: guestImage, hwp_id: 'm1-small' }, 400],
      [{ image_id: guestImage, hwp_id: 'c65-m256' }, 400],
      [{ image_id: guestImage, hwp_id: 'c1-m256', hwp_memory: '512' }, 400],
      [{ image_id: guestImage, hwp_memory: '15' }, 400],
      [{ image_id: guestImage, hwp_cpu: '0.5' }, 400],
      [{ image_id: guestImage, realm_id: 'us' }, 404],
      [{ image_id: guestImage, name: '\u0007' }, 400],
    ];
    for (const [fields, status] of rows) {
      const answer = await client.post('/api/instances', fields);
      expect([answer.status, parseXml(answer.text).root], JSON.stringify(fields)).toEqual([status, 'error']);
    }
    const none = await client.post('/api/instances', { name: 'x' });
    expect([none.status, none.text]).toEqual([400, "Required parameter 'image_id' not found in [name]"]);
    expect(await count()).toBe(before);
  });

  it('follows the link of the image, whose parameters are in the path', async () => {
    const { actions } = await client.xml(`/api/images/${emptyImage}`);
    const { pathname } = new URL(actions.link[0]['@href']);
    expect([actions.link[0]['@rel'], pathname]).toEqual(['create_instance', `/api/instances;image_id=${emptyImage}`]);
    const made = await client.post(`${pathname}?format=json`, { hwp_cpu: '2', hwp_memory: '32' });
    expect([made.status, made.json.instance.hardware_profile.id]).toEqual([201, 'c2-m32']);
    const { id: machineId } = await nativeMachine(made.json.instance.id);
    await rig.native('POST', `/machines/${machineId}/stop`, { mode: 'power' });
  });
});

describe('actions', () => {
  it('on an unknown instance are forbidden', async () => {
    for (const id of ['inst-ffff', 'nope']) {
      for (const action of ['start', 'stop', 'reboot']) {
        const answer = await client.post(`${pathOf(id)}/${action}`);
        expect([answer.status, parseXml(answer.text).value.message]).toEqual([403, 'Forbidden']);
      }
      expect((await client.delete(pathOf(id))).status).toBe(403);
      expect((await client.get(pathOf(id))).status).toBe(404);
    }
  });

  it('on one of another project are refused in the same words', async () => {
    const id = await stopped('theirs');
    await rig.native('POST', '/projects', { name: 'other' });
    const foreign = new DeltacloudClient(rig, await rig.person('foreigner', 'member', 'other'));
    for (const [method, rest] of [
      ['POST', '/start'],
      ['POST', '/stop'],
      ['DELETE', ''],
      ['GET', ''],
    ] as const) {
      const hidden = await foreign.send({ method, path: `${pathOf(id)}${rest}` });
      const missing = await foreign.send({ method, path: `${pathOf('inst-ffff')}${rest}` });
      expect([hidden.status, hidden.text.replaceAll(id, 'ID')]).toEqual([
        missing.status,
        missing.text.replaceAll('inst-ffff', 'ID'),
      ]);
    }
    expect(await foreign.json('/api/instances')).toEqual({ instances: [] });
    expect(await stateOf(id)).toBe('STOPPED');
  });

  it('of a guest who may only look are forbidden', async () => {
    const id = await stopped('looked at');
    const guest = new DeltacloudClient(rig, await rig.person('guest', 'guest'));
    await rig.grant('guest', { machineId: (await nativeMachine(id)).id }, 'ro');
    expect((await guest.json(pathOf(id))).instance.state).toBe('STOPPED');
    for (const action of ['start', 'stop'])
      expect((await guest.post(`${pathOf(id)}/${action}`)).status).toBeGreaterThan(402);
    expect((await guest.delete(pathOf(id))).status).toBe(403);
    expect(await stateOf(id)).toBe('STOPPED');
  });

  it('send browsers to the instance, and to the list when it is deleted', async () => {
    const id = await stopped('browsed');
    const answer = await client.post(pathOf(id), { _method: 'delete' }, { accept: 'text/html' });
    expect([answer.status, answer.headers.location]).toEqual([303, `${rig.origin('deltacloud')}/api/instances`]);
  });
});

describe('images', () => {
  it('are those of machines, the same in list and member, and are filtered', async () => {
    const { image: all } = await client.xml('/api/images');
    expect(all.map((each: Record<string, string>) => each['@id'])).toEqual([guestImage, emptyImage]);
    expect(all[0]).toMatchObject({
      name: 'guest',
      description: 'a tiny Linux',
      architecture: 'x86_64',
      state: 'AVAILABLE',
      owner_id: 'default',
      root_type: 'transient',
    });
    for (const each of all) expect(await client.xml(`/api/images/${each['@id']}`)).toEqual(each);
    const count = async (query: string) => (await client.json(`/api/images?${query}`)).images.length;
    expect([await count(`id=${guestImage}`), await count('id=nope')]).toEqual([1, 0]);
    expect([await count('architecture=x86_64'), await count('architecture=i386')]).toEqual([2, 0]);
    expect([await count('owner_id=default'), await count('owner_id=nobody')]).toEqual([2, 0]);
    for (const id of ['img-ffff', 'nope']) expect((await client.get(`/api/images/${id}`)).status).toBe(404);
  });
});

describe('realms, hardware profiles and instance states', () => {
  it('there is one realm', async () => {
    const { text } = await client.get('/api/realms', { host: 'dc.example' });
    expect(text).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<realms>
  <realm href='http://dc.example/api/realms/local' id='local'>
    <name>Local</name>
    <state>AVAILABLE</state>
  </realm>
</realms>
`);
    expect(Object.keys((await client.json('/api/realms/local')).realm)).toEqual([
      'id',
      'href',
      'name',
      'state',
      'limit',
    ]);
    expect(await client.json('/api/realms?id=us')).toEqual({ realms: [] });
    expect((await client.get('/api/realms/us')).status).toBe(404);
  });

  it('profiles have properties of known kinds, and there is one for whatever an instance has', async () => {
    const { hardware_profile: all } = await client.xml('/api/hardware_profiles');
    for (const each of all) {
      expect(await client.xml(`/api/hardware_profiles/${each['@id']}`)).toEqual(each);
      for (const property of each.property) expect(['fixed', 'range']).toContain(property['@kind']);
    }
    const { text } = await client.get('/api/hardware_profiles/c3-m96', { host: 'dc.example' });
    expect(text).toContain(`<hardware_profile href='http://dc.example/api/hardware_profiles/c3-m96' id='c3-m96'>
  <id>c3-m96</id>
  <name>c3-m96</name>
  <property kind='fixed' name='cpu' unit='count' value='3' />
  <property kind='fixed' name='memory' unit='MB' value='96' />
`);
    const custom = await client.get('/api/hardware_profiles/custom', { host: 'dc.example' });
    expect(custom.text).toContain(`  <property kind='range' name='memory' unit='MB' value='512'>
    <param href='http://dc.example/api/instances' method='post' name='hwp_memory' operation='create' />
    <range first='16' last='1048576' />
  </property>
`);
    const { properties } = (await client.json('/api/hardware_profiles/c3-m96')).hardware_profile;
    expect(properties).toEqual({ cpu: '3', memory: '96', architecture: 'x86_64' });
    for (const id of ['c0-m64', 'c1-m1', 'c65-m64', 'c1-m01', 'nope']) {
      expect((await client.get(`/api/hardware_profiles/${id}`)).status, id).toBe(404);
    }
  });

  it('the states are a machine of states, without a declaration; in JSON a bare array', async () => {
    const { text } = await client.get('/api/instance_states');
    expect(
      text.startsWith(`<states>
  <state name='start'>
    <transition action='create' to='pending'></transition>
  </state>
  <state name='pending'>
    <transition auto='true' to='running'></transition>
  </state>
`),
    ).toBe(true);
    expect(text).toContain("<transition action='stop' to='stopped'></transition>");
    const states = await client.json('/api/instance_states');
    expect(states[1]).toEqual({ name: 'pending', transitions: [{ to: 'running', auto: true }] });
  });
});
