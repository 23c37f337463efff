/** Snapshots of machines: created, shown, deleted, gone back to, through HTTP and with the real engine. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { TestClient, told } from './testing/client.ts';

let client: TestClient;
let vm: Awaited<ReturnType<TestClient['machine']>>;
let path: string;
let made = 0;

beforeAll(async () => {
  client = await TestClient.start();
});
afterAll(() => client[Symbol.asyncDispose]());
beforeEach(async () => {
  vm = await client.machine(`vm-${++made}`);
  path = `/api/vms/${vm.number}/snapshots`;
});

async function snapshot(name: string, description = ''): Promise<string> {
  await client.done(path, { name, description });
  const { json } = await client.get(`${path}?expand=resources&filter[]=name='${name}'&attributes=id,name`);
  return json.resources[0].id;
}

describe('create', () => {
  test('all forms of the body mean the same', async () => {
    await client.done(path, { name: 'plain', description: 'd', memory: false });
    await client.done(path, { action: 'create', name: 'action' });
    await client.done(path, { action: 'create', resource: { name: 'resource' } });
    await client.done(path, { action: 'create', resources: [{ name: 'a' }, { name: 'b' }] });
    await client.done(`${path}/`, { resources: [{ name: 'unknown fields', bogus: 1 }] });
    expect(await client.names(`${path}?expand=resources`)).toEqual([
      'plain',
      'action',
      'resource',
      'a',
      'b',
      'unknown fields',
    ]);
  });

  test('answers with a task, and neither reference nor id', async () => {
    const { status, json } = await client.post(path, { name: 'nightly' });
    expect(status).toBe(200);
    const [result] = json.results;
    const message = `Creating snapshot nightly for Virtual Machine id:${vm.number} name:'${vm.name}'`;
    expect(result).toEqual({
      success: true,
      message,
      task_id: expect.stringMatching(/^\d+$/),
      task_href: `${client.root}/tasks/${result.task_id}`,
    });
    expect(await client.finished(result.task_id)).toMatchObject({
      name: message,
      status: 'Ok',
      message: 'Task completed successfully',
    });
  });

  test('of an instance, the message says so', async () => {
    const app = await client.machine(`app-${made}`, 'instance');
    const { json } = await client.post(`/api/instances/${app.number}/snapshots`, { name: 'x' });
    expect(json.results[0].message).toBe(`Creating snapshot x for Instance id:${app.number} name:'${app.name}'`);
    await client.finished(json.results[0].task_id);
  });

  test('without a name: 400 with a result, in bulk 200', async () => {
    for (const body of [
      { description: 'd' },
      { name: ' ' },
      { action: 'create', resource: { name: '', memory: true } },
    ]) {
      const { status, json } = await client.post(path, body);
      expect(status).toBe(400);
      expect(json).toEqual({ results: [{ success: false, message: 'Must specify a name for the snapshot' }] });
    }
    const bulk = await client.post(path, { resources: [{ description: 'd' }, { name: 'good' }] });
    expect(bulk.status).toBe(200);
    expect(bulk.json.results.map(({ success }: { success: boolean }) => success)).toEqual([false, true]);
    await client.finished(bulk.json.results[1].task_id);
  });

  test('nothing to create', async () => {
    for (const body of [{}, { resource: null }, { resource: {} }, { resources: [] }, { resources: [null, {}] }]) {
      expect(told(await client.post(path, body))).toEqual([
        400,
        'No snapshots resources were specified for the create action',
      ]);
    }
  });

  test('a blank entry among good ones is null in the results', async () => {
    const { status, json } = await client.post(path, { resources: [{}, { name: 'good' }] });
    expect(status).toBe(200);
    expect(json.results[0]).toBeNull();
    await client.finished(json.results[1].task_id);
  });

  test('an id or href in it is refused, and nothing is created', async () => {
    for (const resource of [
      { id: '1', name: 'a' },
      { href: '/api/vms/1/snapshots/1', name: 'a' },
    ]) {
      expect(told(await client.post(path, { resources: [{ name: 'first' }, resource] }))).toEqual([
        400,
        'Resource id or href should not be specified for creating a new snapshots',
      ]);
    }
    expect(await client.names(`${path}?expand=resources`)).toEqual([]);
  });

  test('another action is refused', async () => {
    expect(told(await client.post(path, { action: 'add', name: 'a' }))).toEqual([
      400,
      'Unsupported Action add for the snapshots collection specified',
    ]);
    expect(told(await client.post(path, { action: 'revert' }))).toEqual([
      400,
      'Unsupported Action revert for the snapshots collection specified',
    ]);
  });

  test('what cannot be is a failed result with the reason', async () => {
    const bare = await client.rig.machine(`bare-${made}`, []);
    const { status, json } = await client.post(`/api/vms/${bare.number}/snapshots`, { name: 'x' });
    expect([status, json.results[0].success]).toEqual([400, false]);
    expect(json.results[0].message).toMatch(/no drive/);
    for (const body of [{ name: 'x'.repeat(300) }, { name: { a: 1 } }, { name: 'x', memory: 'perhaps' }]) {
      const refused = await client.post(path, body);
      expect([refused.status, refused.json.results[0].success]).toEqual([400, false]);
    }
    expect(await client.names(`${path}?expand=resources`)).toEqual([]);
  });

  test('names need not be unique', async () => {
    await client.done(path, { name: 'twice' });
    await client.done(path, { name: 'twice' });
    expect(await client.names(`${path}?expand=resources`)).toEqual(['twice', 'twice']);
  });

  test('the memory of a machine that is off is none', async () => {
    await client.done(path, { name: 'with memory', memory: true });
  });
});

describe('show', () => {
  test('a snapshot has all columns, its place in the tree, and what can be done with it', async () => {
    const first = await snapshot('first');
    const second = await snapshot('second', 'after');
    const { json: root } = await client.get(`${path}/${first}`);
    expect(root).toMatchObject({ parent_id: null, parent_uid: null, description: null, current: 0 });
    const { json } = await client.get(`${path}/${second}`);
    const href = `${client.root}/vms/${vm.number}/snapshots/${second}`;
    expect(json).toMatchObject({
      href,
      id: second,
      name: 'second',
      description: 'after',
      current: 1,
      total_size: 0,
      parent_id: first,
      parent_uid: root.uid,
      vm_or_template_id: String(vm.number),
    });
    expect(json.actions).toEqual([
      { name: 'revert', method: 'post', href },
      { name: 'delete', method: 'post', href },
      { name: 'delete', method: 'delete', href },
    ]);
    const size = 3 * 4096;
    await client.rig.write(vm.drive.id, 0, Buffer.alloc(size, 7));
    expect((await client.get(`${path}/${second}`)).json.total_size).toBe(size);
  });

  test('of an instance, there is no revert', async () => {
    const app = await client.machine(`app-${made}`, 'instance');
    const own = `/api/instances/${app.number}/snapshots`;
    await client.done(own, { name: 'x' });
    const { json } = await client.get(`${own}?expand=resources`);
    expect(json.resources[0].href).toContain(own);
    expect(json.resources[0].actions.map(({ name }: { name: string }) => name)).toEqual(['delete', 'delete']);
    // The same machine is a vm, too.
    const { json: asVm } = await client.get(`/api/vms/${app.number}/snapshots?expand=resources`);
    expect(asVm.resources[0].href).toContain(`/api/vms/${app.number}/snapshots/`);
  });

  test('a list holds references only, unless expanded', async () => {
    const id = await snapshot('one');
    const { json } = await client.get(path);
    expect(json.resources).toEqual([{ href: `${client.root}/vms/${vm.number}/snapshots/${id}` }]);
    expect(json.actions).toEqual(
      ['create', 'delete'].map((name) => ({ name, method: 'post', href: `${client.root}/vms/${vm.number}/snapshots` })),
    );
  });

  test('count is of all snapshots that there are, subcount of these', async () => {
    await snapshot('one');
    const other = await client.machine(`other-${made}`);
    const { json } = await client.get(`/api/vms/${other.number}/snapshots`);
    expect(json).toMatchObject({ name: 'snapshots', subcount: 0, resources: [] });
    expect(json.count).toBeGreaterThan(0);
    expect(json.subquery_count).toBeUndefined();
  });

  test('a snapshot of another machine is not found here', async () => {
    const id = await snapshot('mine');
    const other = await client.machine(`other-${made}`);
    for (const method of ['GET', 'DELETE']) {
      expect((await client.send(method, `/api/vms/${other.number}/snapshots/${id}`)).status).toBe(404);
    }
    expect((await client.get(`${path}/${id}`)).status).toBe(200);
  });

  test('what native clients took is here, too', async () => {
    const native = await client.rig.snapshot({ machineId: vm.id }, 'native');
    expect((await client.get(`${path}/${native.number}`)).json).toMatchObject({ name: 'native', uid: native.id });
  });
});

describe('delete', () => {
  test('one, by action: a bare result with a task', async () => {
    const id = await snapshot('gone');
    const { status, json } = await client.post(`${path}/${id}`, { action: 'delete' });
    expect(status).toBe(200);
    expect(json).toMatchObject({
      success: true,
      message: `Deleting snapshot gone for Virtual Machine id:${vm.number} name:'${vm.name}'`,
    });
    expect(json.href).toBeUndefined();
    expect(await client.finished(json.task_id)).toMatchObject({ status: 'Ok', name: json.message });
    for (const again of [
      await client.get(`${path}/${id}`),
      await client.post(`${path}/${id}`, { action: 'delete' }),
      await client.send('DELETE', `${path}/${id}`),
    ]) {
      expect(told(again)).toEqual([404, `Couldn't find Snapshot with 'id'=${id}`]);
      expect(again.json.error.klass).toBe('ActiveRecord::RecordNotFound');
    }
  });

  test('one, by method: 204, with or without a body', async () => {
    for (const body of [undefined, '{}', 'nonsense']) {
      const id = await snapshot('gone');
      const answer = await client.send('DELETE', `${path}/${id}`, body);
      expect([answer.status, answer.text]).toEqual([204, '']);
      await expect.poll(async () => (await client.get(`${path}/${id}`)).status).toBe(404);
    }
  });

  test('in bulk, by href, by number and by text, in the order of the request', async () => {
    const [a, b, c, kept] = [await snapshot('a'), await snapshot('b'), await snapshot('c'), await snapshot('kept')];
    const { status, json } = await client.post(path, {
      action: 'delete',
      resources: [{ href: `http://other/api/vms/0/snapshots/${c}`, name: 'ignored' }, { id: Number(a) }, { id: b }],
    });
    expect(status).toBe(200);
    expect(json.results.map(({ message }: { message: string }) => message.split(' ')[2])).toEqual(['c', 'a', 'b']);
    for (const { task_id: id } of json.results) expect((await client.finished(id)).status).toBe('Ok');
    expect(await client.names(`${path}?expand=resources`)).toEqual(['kept']);
    expect((await client.get(`${path}/${kept}`)).json.parent_id).toBeNull();
  });

  test('whole resources are references, as the service UI posts them', async () => {
    await snapshot('a');
    await snapshot('b');
    const { json } = await client.get(`${path}?expand=resources`);
    await client.done(path, { action: 'delete', resources: json.resources });
    expect(await client.names(`${path}?expand=resources`)).toEqual([]);
  });

  test('one as a resource of the collection', async () => {
    const id = await snapshot('a');
    const { status, json } = await client.post(path, { action: 'delete', resource: { href: `${path}/${id}` } });
    expect([status, json.results.length]).toEqual([200, 1]);
    await client.finished(json.results[0].task_id);
  });

  test('one missing reference fails the request, and nothing is deleted', async () => {
    const id = await snapshot('kept');
    const answer = await client.post(path, { action: 'delete', resources: [{ id }, { id: 0 }] });
    expect(told(answer)).toEqual([404, "Couldn't find Snapshot with 'id'=0"]);
    expect((await client.get(`${path}/${id}`)).status).toBe(200);
  });

  test('references without an id, and none at all', async () => {
    for (const resource of [{ name: 'x' }, 'x', { href: `${path}/x` }]) {
      expect(told(await client.post(path, { action: 'delete', resources: [resource] }))).toEqual([
        400,
        'Invalid Snapshot id nil specified',
      ]);
    }
    for (const body of [{ action: 'delete' }, { action: 'delete', resources: [] }]) {
      expect(told(await client.post(path, body))).toEqual([
        400,
        'No snapshots resources were specified for the delete action',
      ]);
    }
  });

  test('children stay and attach to the grandparent', async () => {
    const [a, b, c] = [await snapshot('a'), await snapshot('b'), await snapshot('c')];
    await client.done(`${path}/${b}`, { action: 'delete' });
    expect((await client.get(`${path}/${c}`)).json.parent_id).toBe(a);
  });
});

describe('revert', () => {
  test('puts the bytes back and marks the snapshot current', async () => {
    await client.rig.write(vm.drive.id, 0, Buffer.alloc(4096, 1));
    const id = await snapshot('before');
    await client.rig.write(vm.drive.id, 0, Buffer.alloc(4096, 2));
    await snapshot('after');
    const { status, json } = await client.post(`${path}/${id}`, { action: 'revert' });
    expect(status).toBe(200);
    expect(json.message).toBe(`Reverting to snapshot before for Virtual Machine id:${vm.number} name:'${vm.name}'`);
    expect(await client.finished(json.task_id)).toMatchObject({ status: 'Ok', name: json.message });
    expect((await client.rig.read(vm.drive.id))[0]).toBe(1);
    const list = await client.get(`${path}?expand=resources`);
    expect(list.json.resources.map(({ name, current }: Record<string, unknown>) => [name, current])).toEqual([
      ['before', 1],
      ['after', 0],
    ]);
  });

  test('without any snapshot, and of one that is missing: a failed result', async () => {
    expect(told(await client.post(`${path}/1`, { action: 'revert' }))).toEqual([
      400,
      'No snapshots available for this VM',
    ]);
    await snapshot('some');
    const { status, json } = await client.post(`${path}/9999`, { action: 'revert' });
    expect(status).toBe(400);
    expect(json).toEqual({ success: false, message: "Couldn't find Snapshot with 'id'=9999" });
    expect((await client.post('/api/vms/9999/snapshots/1', { action: 'revert' })).status).toBe(404);
  });

  test('of instances there is none', async () => {
    const app = await client.machine(`app-${made}`, 'instance');
    const own = `/api/instances/${app.number}/snapshots`;
    await client.done(own, { name: 'x' });
    const id = (await client.get(`${own}?expand=resources`)).json.resources[0].id;
    const answer = await client.post(`${own}/${id}`, { action: 'revert' });
    expect(told(answer)).toEqual([400, 'Unsupported Action revert for the snapshots resource specified']);
    expect(answer.json.error.kind).toBe('bad_request');
  });
});

describe('rights', () => {
  test('whoever may only look is shown no actions, and told so', async () => {
    const guest = await client.rig.person(`guest-${made}`, 'guest');
    const viewer = client.as(guest);
    const id = await snapshot('kept');
    for (const address of [path, `${path}/${id}`, `/api/vms/${vm.number}`]) {
      expect((await viewer.get(address)).status).toBe(404);
    }
    await client.rig.grant(guest.name, { machineId: vm.id }, 'ro');
    for (const address of [path, `${path}/${id}`, `/api/vms/${vm.number}`]) {
      const { status, json } = await viewer.get(address);
      expect([status, json.actions]).toEqual([200, undefined]);
    }
    expect((await viewer.get(path)).json).toMatchObject({ count: 1, subcount: 1 });
    const create = await viewer.post(path, { name: 'x' });
    expect(told(create)).toEqual([403, 'Use of Action create is forbidden']);
    expect(create.json.error).toMatchObject({ kind: 'forbidden', klass: 'Api::ForbiddenError' });
    expect(told(await viewer.post(`${path}/${id}`, { action: 'revert' }))).toEqual([
      403,
      'Use of Action revert is forbidden',
    ]);
    expect(told(await viewer.send('DELETE', `${path}/${id}`))).toEqual([403, 'Use of the delete action is forbidden']);
    expect((await client.get(`${path}/${id}`)).status).toBe(200);
  });

  test('whoever may change sees and uses the actions, and tasks of his own', async () => {
    const guest = await client.rig.person(`writer-${made}`, 'guest');
    await client.rig.grant(guest.name, { machineId: vm.id }, 'rw');
    const writer = client.as(guest);
    await writer.done(path, { name: 'mine' });
    const { json } = await writer.get(`${path}?expand=resources`);
    expect(json.actions.length).toBe(2);
    expect(json.resources[0].actions.length).toBe(3);
    const other = await client.machine(`other-${made}`);
    const hidden = await client.post(`/api/vms/${other.number}/snapshots`, { name: 'x' });
    const { task_id: id } = hidden.json.results[0];
    expect(told(await writer.get(`/api/tasks/${id}`))).toEqual([404, `Couldn't find MiqTask with 'id'=${id}`]);
    await client.finished(id);
  });
});
