/** CloudMC's volumes, instances, templates and offerings, and lists of them: each row of the facts as a test. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CloudmcClient, holdDrive } from '../../../test/support/cloudmc-client.ts';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';

const missing = '00000000-0000-4000-8000-000000000000';
const GiB = 1024 ** 3;
let rig: DialectRig;
let client: CloudmcClient;
let offering: { id: string; name: string };
let count = 0;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new CloudmcClient(rig);
  [offering] = await client.get('diskofferings');
});
afterAll(async () => rig[Symbol.asyncDispose]());

const freshName = (what: string): string => `${what}-${++count}`;

async function instanceOf(volumes: number) {
  const drives = [];
  for (let i = 0; i < volumes; i++) drives.push(await rig.drive(freshName(`disk${i}`)));
  const machine = await rig.machine(
    freshName('vm'),
    drives.map((drive) => drive.id),
  );
  return { machine, drives };
}

describe('volumes', () => {
  test('an attached one names its instance, a detached one leaves both fields out', async () => {
    const { machine, drives } = await instanceOf(2);
    const volume = await client.get(`volumes/${drives[1]?.id}`);
    expect(volume).toMatchObject({
      name: drives[1]?.name,
      type: 'data',
      state: 'Ready',
      sizeInGb: 1,
      instanceId: machine.id,
      instanceName: machine.name,
      diskOfferingId: offering.id,
    });
    expect(volume.creationDate).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000$/);
    const free = await rig.drive(freshName('free'), 3 * GiB);
    const detached = await client.get(`volumes/${free.id}`);
    expect(detached).toMatchObject({ type: 'data', sizeInGb: 3 });
    expect(Object.keys(detached)).not.toEqual(expect.arrayContaining(['instanceId']));
    const listed = await client.get('volumes');
    expect(listed).toContainEqual(volume);
    expect(listed).toContainEqual(detached);
  });

  test('the filters type, in any case, and instance_id', async () => {
    const { machine, drives } = await instanceOf(2);
    const ids = async (query: string) => (await client.get(`volumes?${query}`)).map((v: { id: string }) => v.id);
    const [root, data] = drives.map((drive) => drive.id);
    const free = await rig.drive(freshName('free'));
    expect(await ids(`instance_id=${machine.id}`)).toEqual([root, data]);
    for (const type of ['os', 'OS', 'Os']) expect(await ids(`instance_id=${machine.id}&type=${type}`)).toEqual([root]);
    for (const type of ['data', 'DATA']) expect(await ids(`type=${type}&instance_id=${machine.id}`)).toEqual([data]);
    expect(await ids('type=data')).toContain(free.id);
    expect(await ids('type=data')).not.toContain(root);
    expect(await ids('type=os')).not.toContain(free.id);
    expect(await ids(`instance_id=${missing}`)).toEqual([]);
    expect(await ids('instance_id=x')).toEqual([]);
    expect((await client.refused('GET', 'volumes?type=tape')).status).toBe(400);
  });

  test('POST creates and attaches, as one task whose result is the volume', async () => {
    const { machine } = await instanceOf(1);
    const name = freshName('made');
    const body = { name, diskOfferingId: offering.id, instanceId: machine.id, sizeInGb: 2 };
    const volume = await client.done('POST', 'volumes', body);
    expect(volume).toMatchObject({ name, sizeInGb: 2, type: 'data', instanceId: machine.id, state: 'Ready' });
    expect(await client.get(`volumes/${volume.id}`)).toEqual(volume);
    const [{ id: zoneId }] = await client.get('zones');
    const zoned = await client.done('POST', 'volumes', { ...body, name: freshName('zoned'), zoneId, iops: 0 });
    expect(zoned.zoneId).toBe(zoneId);
  });

  test('several at once get slots of their own', async () => {
    const { machine } = await instanceOf(1);
    const bodies = [1, 2, 3].map((sizeInGb) => ({
      name: freshName('many'),
      diskOfferingId: offering.id,
      instanceId: machine.id,
      sizeInGb,
    }));
    const made = await Promise.all(bodies.map((body) => client.done('POST', 'volumes', body)));
    expect(made.map((volume) => volume.sizeInGb)).toEqual([1, 2, 3]);
    expect(await client.get(`volumes?instance_id=${machine.id}`)).toHaveLength(4);
  });

  test('POST refuses what is missing or wrong, and makes nothing', async () => {
    const { machine } = await instanceOf(1);
    const good = { name: 'n', diskOfferingId: offering.id, instanceId: machine.id, sizeInGb: 1 };
    const before = (await client.get('volumes')).length;
    const bad: [number, object][] = [
      [400, { ...good, name: undefined }],
      [400, { ...good, name: '' }],
      [400, { ...good, diskOfferingId: undefined }],
      [404, { ...good, diskOfferingId: missing }],
      [400, { ...good, instanceId: undefined }],
      [404, { ...good, instanceId: missing }],
      [404, { ...good, instanceId: 'x' }],
      [400, { ...good, sizeInGb: undefined }],
      [400, { ...good, sizeInGb: '1' }],
      [400, { ...good, sizeInGb: -1 }],
      [400, { ...good, sizeInGb: 1.5 }],
      [400, { ...good, sizeInGb: 1e9 }],
      [400, { ...good, sizeInGb: Number.MAX_SAFE_INTEGER }],
      [400, { ...good, iops: 100 }],
      [404, { ...good, zoneId: missing }],
    ];
    for (const [status, body] of bad) {
      expect((await client.refused('POST', 'volumes', body)).status, JSON.stringify(body)).toBe(status);
    }
    expect(await client.get('volumes')).toHaveLength(before);
  });

  test('attachToInstance and detachFromInstance, whose body is empty', async () => {
    const { machine } = await instanceOf(1);
    const drive = await rig.drive(freshName('roaming'));
    const attached = await client.done('POST', `volumes/${drive.id}?operation=attachToInstance`, {
      id: 'ignored',
      instanceId: machine.id,
    });
    expect(attached).toMatchObject({ id: drive.id, instanceId: machine.id });
    const again = await client.refused('POST', `volumes/${drive.id}?operation=attachToInstance`, {
      instanceId: machine.id,
    });
    expect(again.status).toBe(400);
    const detached = await client.done('POST', `volumes/${drive.id}?operation=detachFromInstance`, '');
    expect(detached).not.toHaveProperty('instanceId');
    expect((await client.refused('POST', `volumes/${drive.id}?operation=detachFromInstance`)).status).toBe(400);
    expect((await client.refused('POST', `volumes/${drive.id}?operation=attachToInstance`, {})).status).toBe(400);
    const unknown = { instanceId: missing };
    expect((await client.refused('POST', `volumes/${drive.id}?operation=attachToInstance`, unknown)).status).toBe(404);
  });

  test('resize grows, and nothing else', async () => {
    const drive = await rig.drive(freshName('grows'));
    const path = `volumes/${drive.id}?operation=resize`;
    expect(await client.done('POST', path, { id: drive.id, sizeInGb: 2 })).toMatchObject({ sizeInGb: 2 });
    for (const body of [{ sizeInGb: 1 }, {}, { iops: 50 }, { sizeInGb: 3, iops: 50 }, { sizeInGb: null }]) {
      expect((await client.refused('POST', path, body)).status).toBe(400);
    }
    expect((await client.get(`volumes/${drive.id}`)).sizeInGb).toBe(2);
  });

  test('the state while it is attached or resized', async () => {
    const { machine } = await instanceOf(1);
    await using held = await holdDrive(rig, freshName('held'));
    const path = `volumes/${held.driveId}`;
    await client.on('POST', `${path}?operation=attachToInstance`, { instanceId: machine.id });
    expect((await client.get(path)).state).toBe('Attaching');
    const refused = await client.refused('POST', `${path}?operation=resize`, { sizeInGb: 9 });
    expect(refused.error).toMatchObject({ code: 2012, context: { currentState: 'Attaching' } });
    expect((await client.get(`volumes?instance_id=${machine.id}&type=os`))[0].state).toBe('Ready');
  });

  test('resizing shows Resizing', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    await client.on('POST', `volumes/${held.driveId}?operation=resize`, { sizeInGb: 2 });
    expect((await client.get(`volumes/${held.driveId}`)).state).toBe('Resizing');
  });

  test('DELETE takes a detached one only', async () => {
    const { drives } = await instanceOf(2);
    for (const drive of drives) expect((await client.refused('DELETE', `volumes/${drive.id}`)).status).toBe(400);
    const free = await rig.drive(freshName('free'));
    expect(await client.done('DELETE', `volumes/${free.id}`)).toEqual({ id: free.id });
    expect((await client.on('GET', `volumes/${free.id}`)).status).toBe(404);
    expect((await client.on('DELETE', `volumes/${free.id}`)).status).toBe(404);
  });
});

describe('instances', () => {
  test('list and single read', async () => {
    const { machine } = await instanceOf(1);
    const instance = await client.get(`instances/${machine.id}`);
    expect(instance).toMatchObject({
      name: machine.name,
      hostname: machine.name,
      state: 'Stopped',
      cpuCount: 1,
      memoryInMB: 64,
      macAddress: machine.hardware.macAddress,
      isPasswordEnabled: false,
      affinityGroupIds: [],
      userData: '',
      publicIps: [],
      nics: [{ macAddress: machine.hardware.macAddress }],
    });
    const listed = (await client.get('instances')).find((known: { id: string }) => known.id === machine.id);
    const { userData: _, publicIps: __, nics: ___, ...common } = instance;
    expect(listed).toEqual(common);
  });

  test('of a template of an instance, and of one of a volume; it names the template while there is one', async () => {
    const { machine, drives } = await instanceOf(2);
    const whole = await rig.snapshot({ machineId: machine.id }, freshName('whole'));
    const { image } = await rig.native('POST', '/images', { snapshotId: whole.id, name: freshName('image') });
    const [network] = await client.get('networks');
    const [size] = await client.get('computeofferings');
    expect(size.custom).toBe(true);
    const instance = await client.done('POST', 'instances', {
      name: freshName('deployed'),
      templateId: image.id,
      computeOfferingId: size.id,
      networkId: network.id,
      cpuCount: 2,
      memoryInMB: 96,
      recoveryPoint: {},
    });
    expect(instance).toMatchObject({
      state: 'Running',
      cpuCount: 2,
      memoryInMB: 96,
      imageName: image.name,
      templateId: image.id,
    });
    expect(await client.get(`volumes?instance_id=${instance.id}`)).toHaveLength(2);
    expect((await client.get(`instances/${instance.id}`)).templateName).toBe(image.name);
    await client.done('DELETE', `instances/${instance.id}`, { purgeImmediately: true });

    const snapshot = await client.done('POST', 'snapshots', { volumeId: drives[0]?.id });
    const template = await client.done('POST', `snapshots/${snapshot.id}?operation=createTemplate`, { name: 'one' });
    const body = { name: freshName('small'), imageId: template.id };
    const refused = await client.refused('POST', 'instances', body);
    expect(refused).toMatchObject({ status: 400, error: { context: { field: 'memoryInMB' } } });
    const small = await client.done('POST', 'instances', { ...body, memoryInMB: 64, cpuCount: 1 });
    const [volume] = await client.get(`volumes?instance_id=${small.id}`);
    expect(volume).toMatchObject({ type: 'os' });
    await client.done('DELETE', `instances/${small.id}`, { purgeImmediately: true });
    expect((await client.on('GET', `volumes/${volume.id}`)).status).toBe(404);
  });

  test('POST refuses what is missing or wrong', async () => {
    const bad: [number, object][] = [
      [400, {}],
      [400, { name: 'x' }],
      [404, { name: 'x', templateId: missing }],
      [404, { name: 'x', templateId: 'x' }],
      [404, { name: 'x', templateId: missing, networkId: missing }],
      [404, { name: 'x', templateId: missing, computeOfferingId: missing }],
      [400, { name: 'x', templateId: missing, cpuCount: 'two' }],
      [400, { name: 7, templateId: missing }],
    ];
    for (const [status, body] of bad) {
      expect((await client.refused('POST', 'instances', body)).status, JSON.stringify(body)).toBe(status);
    }
  });

  test('operations refuse the wrong state with code 2012 and its context', async () => {
    const { machine } = await instanceOf(1);
    for (const [operation, expected] of [
      ['stop', 'Running'],
      ['reboot', 'Running'],
      ['purge', 'Destroyed'],
      ['recover', 'Destroyed'],
    ]) {
      const refused = await client.refused('POST', `instances/${machine.id}?operation=${operation}`);
      expect(refused.status).toBe(400);
      expect(refused.error).toMatchObject({
        code: 2012,
        context: { id: machine.id, type: 'instances', currentState: 'Stopped', expectedStates: [expected] },
      });
    }
  });

  test('what instances do not have is refused honestly', async () => {
    const { machine } = await instanceOf(1);
    for (const operation of ['resetPassword', 'changeNetwork', 'associateSSHKey', 'attachIso', 'detachIso', 'dance']) {
      expect((await client.refused('POST', `instances/${machine.id}?operation=${operation}`)).status).toBe(400);
    }
  });

  test('changeComputeOffering is done at once, and has a task all the same', async () => {
    const { machine } = await instanceOf(1);
    const path = `instances/${machine.id}?operation=changeComputeOffering`;
    const answer = await client.on('POST', path, { id: machine.id, cpuCount: 2, memoryInMB: 128 });
    expect(answer.json).toMatchObject({ taskStatus: 'SUCCESS', data: { cpuCount: 2, memoryInMB: 128 } });
    const task = await client.ended(answer.json.taskId);
    expect(task).toMatchObject({ status: 'SUCCESS', result: answer.json.data });
    expect((await client.get(`instances/${machine.id}`)).memoryInMB).toBe(128);
    expect((await client.refused('POST', path, {})).status).toBe(400);
    expect((await client.refused('POST', path, { memoryInMB: 1 })).status).toBe(400);
    const person = await rig.person(freshName('nobody'), 'guest');
    const nobody = new CloudmcClient(rig, person.token);
    await rig.native('POST', '/projects', { name: 'beside' });
    const outside = new CloudmcClient(rig, (await rig.person(freshName('out'), 'admin', 'beside')).token, 'beside');
    expect((await outside.send('GET', `tasks/${answer.json.taskId}`)).status).toBe(404);
    expect((await nobody.send('GET', `tasks/${answer.json.taskId}`)).status).toBe(404);
  });

  test('createRecoveryPoint is a snapshot of all volumes at one instant', async () => {
    const { machine, drives } = await instanceOf(2);
    const name = freshName('point');
    const recoveryPoint = { name, description: 'before the upgrade' };
    const path = `instances/${machine.id}?operation=createRecoveryPoint`;
    const result = await client.done('POST', path, { recoveryPoint });
    expect(result).toMatchObject({ id: machine.id, recoveryPoint });
    const snapshot = await rig.native('GET', `/snapshots/${result.recoveryPoint.id}`);
    expect(snapshot).toMatchObject({ name, description: 'before the upgrade', complete: true });
    expect(snapshot.parts.map((part: { driveId: string }) => part.driveId)).toEqual(drives.map((drive) => drive.id));
    expect((await client.refused('POST', path, { recoveryPoint })).status).toBe(400);
    expect((await client.refused('POST', path, { recoveryPoint: 'now' })).status).toBe(400);
    expect((await client.change('POST', path)).status).toBe('SUCCESS');
  });

  test('DELETE keeps snapshots and volumes', async () => {
    const { machine, drives } = await instanceOf(2);
    const made = await client.done('POST', 'snapshots', { volumeId: drives[0]?.id });
    await client.done('DELETE', `instances/${machine.id}`);
    expect((await client.on('GET', `instances/${machine.id}`)).status).toBe(404);
    expect((await client.get(`snapshots/${made.id}`)).state).toBe('BackedUp');
    for (const drive of drives) expect(await client.get(`volumes/${drive.id}`)).not.toHaveProperty('instanceId');
  });

  test('DELETE reads a body: deleteSnapshots, purgeImmediately, volumeIdsToDelete', async () => {
    const { machine, drives } = await instanceOf(3);
    const [root, data, other] = drives.map((drive) => drive.id);
    const made = [];
    for (const volumeId of [root, data, other]) made.push(await client.done('POST', 'snapshots', { volumeId }));
    await rig.snapshot({ machineId: machine.id }, freshName('whole'));
    const foreign = await rig.drive(freshName('foreign'));
    const path = `instances/${machine.id}`;
    for (const body of [
      { volumeIdsToDelete: [foreign.id] },
      { volumeIdsToDelete: data },
      { volumeIdsToDelete: [7] },
      { deleteSnapshots: 'yes' },
    ]) {
      expect((await client.refused('DELETE', path, body)).status, JSON.stringify(body)).toBe(400);
    }
    await client.done('DELETE', path, {
      deleteSnapshots: true,
      purgeImmediately: true,
      publicIpIdsToRelease: [],
      volumeIdsToDelete: [data],
    });
    await rig.settled();
    for (const id of [root, data]) expect((await client.on('GET', `volumes/${id}`)).status).toBe(404);
    expect((await client.get(`volumes/${other}`)).state).toBe('Ready');
    for (const { id } of made) expect((await client.on('GET', `snapshots/${id}`)).status).toBe(404);
    expect(await client.get(`snapshots?volume_id=${other}`)).toEqual([]);
  });
});

describe('a running instance', () => {
  test('start, recovery point with memory, reboot, stop; volumes and snapshots meanwhile', async () => {
    const { machine, drives } = await instanceOf(1);
    const path = `instances/${machine.id}`;
    const volumeId = drives[0]?.id ?? '';
    const made = await client.done('POST', 'snapshots', { volumeId });
    expect(await client.done('POST', `${path}?operation=start`)).toMatchObject({ state: 'Running' });
    expect((await client.refused('POST', `${path}?operation=start`)).error).toMatchObject({
      code: 2012,
      context: { currentState: 'Running', expectedStates: ['Stopped'] },
    });
    const inUse = { type: 'instances', id: machine.id, currentState: 'Running', expectedStates: ['Stopped'] };
    for (const [operation, body] of [
      [`snapshots/${made.id}?operation=revert`, {}],
      [`volumes/${volumeId}?operation=resize`, { sizeInGb: 2 }],
    ] as const) {
      const refused = await client.refused('POST', operation, body);
      expect(refused).toMatchObject({ status: 400, error: { code: 2012, context: inUse } });
    }
    expect((await client.refused('POST', `${path}?operation=changeComputeOffering`, { cpuCount: 2 })).status).toBe(400);
    expect((await client.done('POST', 'snapshots', { volumeId })).state).toBe('BackedUp');

    const point = await client.done('POST', `${path}?operation=createRecoveryPoint`, { recoveryPoint: {} });
    expect(point.state).toBe('Running');
    const taken = await rig.native('GET', `/snapshots/${point.recoveryPoint.id}`);
    expect(taken).toMatchObject({ consistency: 'memory' });

    expect(await client.done('POST', `${path}?operation=reboot`)).toMatchObject({ state: 'Running' });
    expect(await client.done('POST', `${path}?operation=stop`, { forceStop: true })).toMatchObject({
      state: 'Stopped',
    });
  });
});

describe('templates', () => {
  test('list, single read, and away with it', async () => {
    const drive = await rig.drive(freshName('gold'));
    const snapshot = await rig.snapshot({ driveIds: [drive.id] });
    const { image } = await rig.native('POST', '/images', { snapshotId: snapshot.id, name: freshName('template') });
    await rig.settled();
    const template = await client.get(`templates/${image.id}`);
    expect(template).toMatchObject({ name: image.name, size: 16 * MiB, ready: true, availablePublicly: false });
    expect(await client.get('templates')).toContainEqual(template);
    await client.done('DELETE', `templates/${image.id}`);
    expect((await client.on('GET', `templates/${image.id}`)).status).toBe(404);
  });
});

describe('paging and sorting', () => {
  test('page_number, page_size, sort_by and sort_order, said in the metadata', async () => {
    const drive = await rig.drive(freshName('paged'));
    const names = ['c', 'a', 'b'].map((letter) => freshName(letter));
    for (const name of names) await client.done('POST', 'snapshots', { volumeId: drive.id, name });
    const query = `snapshots?volume_id=${drive.id}`;
    const read = async (more: string) => {
      const { data, metadata } = (await client.on('GET', `${query}&${more}`)).json;
      return { names: data.map(({ name }: { name: string }) => name), metadata };
    };
    const [c, a, b] = names;
    expect(await read('sort_by=name&sort_order=DESC')).toEqual({
      names: [c, b, a],
      metadata: { recordCount: 3, sortField: 'name', sortOrder: 'DESC' },
    });
    expect(await read('page_size=2&page_number=2&sort_by=name')).toEqual({
      names: [c],
      metadata: { recordCount: 3, pageSize: 2, pageCurrent: 2, sortField: 'name', sortOrder: 'ASC' },
    });
    expect(await read('page_size=2')).toMatchObject({ names: [c, a], metadata: { recordCount: 3, pageCurrent: 1 } });
    expect(await read('page_number=9')).toMatchObject({ names: [], metadata: { recordCount: 3, pageCurrent: 9 } });
    expect(await read('')).toEqual({ names, metadata: { recordCount: 3 } });
  });

  test('every field that can be sorted by', async () => {
    for (const [entity, fields] of [
      ['snapshots', ['id', 'name', 'state', 'volumeId', 'volume']],
      ['volumes', ['id', 'name', 'state', 'sizeInGb', 'creationDate', 'instanceId', 'instanceName']],
      ['instances', ['id', 'name', 'hostname', 'state', 'cpuCount', 'memoryInMB']],
      ['templates', ['id', 'name', 'description', 'size', 'created']],
    ] as const) {
      for (const field of fields) {
        expect((await client.on('GET', `${entity}?sort_by=${field}&sort_order=desc`)).status).toBe(200);
      }
    }
  });

  test('what is no page and no order is refused', async () => {
    for (const query of [
      'page_size=0',
      'page_size=-1',
      'page_size=x',
      'page_size=99999999999',
      'page_number=0',
      'page_number=1e3',
      'sort_by=nothing',
      'sort_by=constructor',
      'sort_by=name&sort_order=up',
    ]) {
      expect((await client.refused('GET', `volumes?${query}`)).status, query).toBe(400);
    }
  });
});
