/** Machines and tasks, through HTTP. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TestClient, told } from './testing/client.ts';

let client: TestClient;
let vm: Awaited<ReturnType<TestClient['machine']>>;
let app: typeof vm;

beforeAll(async () => {
  client = await TestClient.start();
  vm = await client.machine('web01');
  app = await client.machine('app01', 'instance');
});
afterAll(async () => {
  await client.rig.native('POST', `/machines/${vm.id}/stop`, { mode: 'power' });
  await client[Symbol.asyncDispose]();
});

describe('machines', () => {
  test('vms holds every machine, instances the cloud ones, under the same ids', async () => {
    expect(await client.names('/api/vms?expand=resources')).toEqual(['web01', 'app01']);
    expect(await client.names('/api/instances?expand=resources')).toEqual(['app01']);
    const asVm = await client.get(`/api/vms/${app.number}`);
    const asInstance = await client.get(`/api/instances/${app.number}`);
    expect(asVm.json.href).toBe(`${client.root}/vms/${app.number}`);
    expect(asInstance.json.href).toBe(`${client.root}/instances/${app.number}`);
    expect(asVm.json.guid).toBe(asInstance.json.guid);
    expect(asVm.json).toMatchObject({ cloud: true, power_state: 'off', raw_power_state: 'off', guid: app.id });
    expect((await client.get(`/api/vms/${vm.number}`)).json).toMatchObject({ cloud: false, template: false });
  });

  test('query looks several up, by id, href and guid', async () => {
    const references = [{ id: String(app.number) }, { href: `${client.root}/vms/${vm.number}` }, { guid: app.id }];
    const { json } = await client.post('/api/vms?attributes=name', { action: 'query', resources: references });
    expect(json.results.map(({ name }: { name: string }) => name)).toEqual(['app01', 'web01', 'app01']);
    const full = await client.post('/api/vms?expand=snapshots', { action: 'query', resources: [{ id: vm.number }] });
    expect(full.json.results[0]).toMatchObject({ name: 'web01', snapshots: [] });
    expect(
      told(await client.post('/api/vms', { action: 'query', resources: [{ id: vm.number }, { id: 9999 }] })),
    ).toEqual([404, "Couldn't find Vm with 'id'=9999"]);
    expect((await client.post('/api/vms', { action: 'query', resources: [{ guid: 'none' }] })).status).toBe(404);
    expect((await client.post('/api/vms', { action: 'query', resources: [{ name: 'x' }] })).status).toBe(400);
  });

  test('actions that there are not', async () => {
    expect(told(await client.post('/api/vms', { name: 'x' }))).toEqual([
      400,
      'Unsupported Action create for the vms collection specified',
    ]);
    expect(told(await client.post(`/api/vms/${vm.number}`, { action: 'reboot_guest' }))).toEqual([
      400,
      'Unsupported Action reboot_guest for the vms resource specified',
    ]);
    expect(told(await client.post('/api/vms', { action: 'start' }))).toEqual([
      400,
      'No vms resources were specified for the start action',
    ]);
    for (const action of ['constructor', '__proto__', 'toString']) {
      expect((await client.post(`/api/vms/${vm.number}`, { action })).status).toBe(400);
    }
  });

  test('what its state does not allow is a failed result', async () => {
    for (const action of ['stop', 'pause', 'suspend', 'reset', 'shutdown_guest']) {
      const { status, json } = await client.post(`/api/vms/${vm.number}`, { action });
      expect([status, json]).toEqual([
        400,
        { success: false, message: 'The VM is not powered on', href: `${client.root}/vms/${vm.number}` },
      ]);
    }
  });

  test('in bulk, failures show only inside', async () => {
    const resources = [{ id: 9999 }, {}, { id: app.number }];
    const { status, json } = await client.post('/api/vms', { action: 'stop', resources });
    expect(status).toBe(200);
    expect(json.results).toMatchObject([
      { success: false, message: "Couldn't find Vm with 'id'=9999" },
      null,
      { success: false, message: 'The VM is not powered on' },
    ]);
    expect((await client.post('/api/vms', { action: 'stop', resource: { id: 9999 } })).status).toBe(404);
  });

  test('runs, is taken with its memory, is put back to it, stands still and stops', { timeout: 240_000 }, async () => {
    const path = `/api/vms/${vm.number}`;
    const begin = async (action: string, message: string): Promise<void> => {
      const { status, json, text } = await client.post(path, { action });
      expect(status, text).toBe(200);
      expect(json).toMatchObject({ success: true, message, href: `${client.root}/vms/${vm.number}` });
      expect(await client.finished(json.task_id)).toMatchObject({ status: 'Ok', name: message });
    };
    const ident = `Vm id: ${vm.number} name: 'web01'`;
    const state = async (): Promise<string> => (await client.get(path)).json.power_state;
    await begin('start', `Starting ${ident}`);
    expect((await client.get(path)).json).toMatchObject({ power_state: 'on', raw_power_state: 'running' });
    expect(await client.names('/api/vms?expand=resources&filter[]=power_state=on')).toEqual(['web01']);
    expect(told(await client.post(path, { action: 'start' }))).toEqual([400, 'The VM is powered on']);
    await client.done(`${path}/snapshots`, { name: 'live', memory: true });
    await client.done(`${path}/snapshots`, { name: 'disks', memory: 'false' });
    const { items } = await client.rig.native('GET', `/snapshots?machineId=${vm.id}&sort=created`);
    expect(items.map((item: { name: string; consistency: string }) => [item.name, item.consistency])).toEqual([
      ['live', 'memory'],
      ['disks', expect.not.stringMatching('memory')],
    ]);
    const [live] = (await client.get(`${path}/snapshots?expand=resources&filter[]=name=live`)).json.resources;
    await begin('pause', `Pausing ${ident}`);
    expect(await state()).toBe('paused');
    expect(await client.names('/api/vms?expand=resources&sort_by=power_state')).toEqual(['app01', 'web01']);
    await begin('start', `Starting ${ident}`);
    expect(await state()).toBe('on');
    await client.done(`${path}/snapshots/${live.id}`, { action: 'revert' });
    expect(await state()).toBe('on');
    expect((await client.get(`${path}/snapshots/${live.id}`)).json.current).toBe(1);
    await begin('reset', `Resetting ${ident}`);
    // Nothing in it takes notice of the power button: a task that fails.
    await client.rig.native('POST', `/machines/${vm.id}/stop`, { mode: 'guest', timeoutSeconds: 1 }).catch(() => null);
    await client.rig.settled();
    const failed = await client.get('/api/tasks?expand=resources&filter[]=status=Error&attributes=state_or_status');
    expect(failed.json.resources).toMatchObject([
      { state: 'Finished', status: 'Error', state_or_status: 'Error', message: 'The guest did not stop in time.' },
    ]);
    await begin('stop', `Stopping ${ident}`);
    expect(await state()).toBe('off');
  });
});

describe('tasks', () => {
  test('are there at once, and say how they stand', async () => {
    const { json } = await client.post(`/api/vms/${app.number}/snapshots`, { name: 'quick' });
    const { task_id: id, message: name } = json.results[0];
    const fresh = await client.get(`/api/tasks/${id}`);
    expect(fresh.status).toBe(200);
    expect(fresh.json).toMatchObject({ href: `${client.root}/tasks/${id}`, id, name, status: 'Ok', userid: 'admin' });
    if (fresh.json.state !== 'Finished') {
      expect(fresh.json.message).toBe(`Queued the action: [${name}] being run for user: [admin]`);
    }
    const task = await client.finished(id);
    expect(task).toMatchObject({ state: 'Finished', status: 'Ok', message: 'Task completed successfully' });
    const slug = await client.get(`/api/tasks/${id}?attributes=state_or_status`);
    expect(slug.json).toMatchObject({ state_or_status: 'Ok', id });
    expect(slug.json.actions).toEqual([{ name: 'delete', method: 'post', href: `${client.root}/tasks/${id}` }]);
  });

  test('the whole query language: names, states, users, times', async () => {
    const list = (query: string) => client.get(`/api/tasks?expand=resources&${query.replaceAll(' ', '%20')}`);
    const named = await list("filter[]=name='Creating snapshot quick*'");
    expect(named.json.subquery_count).toBe(1);
    expect((await list("filter[]=name='Create drive'")).json.subquery_count).toBeGreaterThan(0);
    expect((await list("filter[]=name='Create d*'&filter[]=state=Finished")).json.subquery_count).toBeGreaterThan(0);
    expect((await list('filter[]=state=Queued')).json.subcount).toBe(0);
    expect((await list('filter[]=status!=Ok&filter[]=state=Finished')).json.subcount).toBe(1);
    expect((await list('filter[]=userid=admin')).json.subcount).toBeGreaterThan(3);
    expect((await list('filter[]=userid=nobody')).json.subcount).toBe(0);
    expect((await list('filter[]=state_or_status=Ok')).json.subcount).toBeGreaterThan(3);
    expect((await list('filter[]=updated_on>2020-01-01&sort_by=updated_on&sort_order=desc')).status).toBe(200);
    expect((await list('sort_by=state,name,created_on&limit=2')).json.subcount).toBe(2);
    expect(told(await list('filter[]=message=x'))).toEqual([400, 'Filtering by message is not supported']);
  });

  test('whoever may only look at the machine may not remove its tasks', async () => {
    const { json } = await client.post(`/api/vms/${app.number}/snapshots`, { name: 'seen' });
    const { task_id: id } = json.results[0];
    await client.finished(id);
    const guest = await client.rig.person('guest', 'guest');
    await client.rig.grant(guest.name, { machineId: app.id }, 'ro');
    const viewer = client.as(guest);
    expect((await viewer.get(`/api/tasks/${id}`)).status).toBe(200);
    expect(told(await viewer.send('DELETE', `/api/tasks/${id}`))).toEqual([
      403,
      'Use of the delete action is forbidden',
    ]);
    expect(told(await viewer.post(`/api/tasks/${id}`, { action: 'delete' }))).toEqual([
      403,
      'Use of Action delete is forbidden',
    ]);
    expect((await client.get(`/api/tasks/${id}`)).status).toBe(200);
  });

  test('query and delete, one or several', async () => {
    const all = await client.get('/api/tasks?expand=resources&sort_by=id');
    const [a, b, c, d] = all.json.resources.map(({ id }: { id: string }) => id);
    const found = await client.post('/api/tasks', {
      action: 'query',
      resources: [{ id: b }, { href: `/api/tasks/${a}` }],
    });
    expect(found.json.results.map(({ id }: { id: string }) => id)).toEqual([b, a]);
    const one = await client.post(`/api/tasks/${a}`, { action: 'delete' });
    const { name } = found.json.results[1];
    expect([one.status, one.json]).toEqual([
      200,
      { success: true, message: `Deleting Task id: ${a} name: '${name}'`, href: `${client.root}/tasks/${a}` },
    ]);
    expect(told(await client.get(`/api/tasks/${a}`))).toEqual([404, `Couldn't find MiqTask with 'id'=${a}`]);
    const bulk = await client.post('/api/tasks', { action: 'delete', resources: [{ id: a }, { id: b }, { id: c }] });
    expect(bulk.status).toBe(200);
    expect(bulk.json.results.map(({ success }: { success: boolean }) => success)).toEqual([false, true, true]);
    expect((await client.send('DELETE', `/api/tasks/${d}`)).status).toBe(204);
    expect((await client.send('DELETE', `/api/tasks/${d}`)).status).toBe(404);
    expect((await client.get('/api/tasks')).json.count).toBe(all.json.count - 4);
    expect(told(await client.post('/api/tasks', { action: 'cancel' }))).toEqual([
      400,
      'Unsupported Action cancel for the tasks collection specified',
    ]);
  });
});
