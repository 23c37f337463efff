/** Volumes and their snapshots, through HTTP. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MiB } from '../../../test/support/dialect-rig.ts';
import { TestClient, told } from './testing/client.ts';

let client: TestClient;
let volume: Awaited<ReturnType<TestClient['rig']['drive']>>;
let path: string;

beforeAll(async () => {
  client = await TestClient.start();
  volume = await client.rig.drive('data01');
  path = `/api/cloud_volumes/${volume.number}/cloud_volume_snapshots`;
});
afterAll(() => client[Symbol.asyncDispose]());

async function snapshot(name: string): Promise<string> {
  await client.done(path, { name });
  const { json } = await client.get(`${path}?expand=resources&filter[]=name='${name}'`);
  return json.resources[0].id;
}

describe('cloud_volumes', () => {
  test('one and all', async () => {
    const { json } = await client.get(`/api/cloud_volumes/${volume.number}`);
    expect(json).toMatchObject({
      href: `${client.root}/cloud_volumes/${volume.number}`,
      name: 'data01',
      size: 16 * MiB,
      status: 'available',
      cloud_volume_snapshot_id: null,
    });
    expect(json.actions).toBeUndefined();
    expect(await client.names('/api/cloud_volumes?expand=resources')).toEqual(['data01']);
    expect((await client.get('/api/cloud_volumes')).json.actions.map(({ name }: { name: string }) => name)).toEqual([
      'query',
    ]);
  });

  test('made from a snapshot, it says of which', async () => {
    const id = await snapshot('source');
    const { items } = await client.rig.native('GET', '/snapshots?name=source');
    await client.rig.native('POST', `/snapshots/${items[0].id}/clone`, { name: 'copy' });
    const { json } = await client.get(`/api/cloud_volumes?expand=resources&filter[]=cloud_volume_snapshot_id=${id}`);
    expect(json.resources).toMatchObject([{ name: 'copy', cloud_volume_snapshot_id: id }]);
    expect(await client.names('/api/cloud_volumes?expand=resources&filter[]=cloud_volume_snapshot_id=NULL')).toEqual([
      'data01',
    ]);
  });
});

describe('cloud_volume_snapshots', () => {
  test('created: with a task, and a reference without an id', async () => {
    const { status, json } = await client.post(path, { name: 'nightly', description: 'd' });
    expect(status).toBe(200);
    const message = `Creating cloud volume snapshot nightly for Cloud Volume id: ${volume.number} name: 'data01'`;
    const [result] = json.results;
    expect(result).toMatchObject({ success: true, message, href: `${client.root}/cloud_volume_snapshots/` });
    expect(await client.finished(result.task_id)).toMatchObject({ status: 'Ok', name: message });
    const shown = await client.get(`${path}?expand=resources&filter[]=name=nightly`);
    expect(shown.json.resources[0]).toMatchObject({
      description: 'd',
      status: 'available',
      size: 16 * MiB,
      cloud_volume_id: String(volume.number),
    });
  });

  test('the name may be left out', async () => {
    const { status, json } = await client.post(path, { action: 'create', resource: { description: 'no name' } });
    expect([status, json.results[0].success]).toEqual([200, true]);
    await client.finished(json.results[0].task_id);
  });

  test('what cannot be is an error for one, a failed result in bulk', async () => {
    const long = { name: 'x'.repeat(300) };
    const one = await client.post(path, long);
    expect([one.status, one.json.error.kind]).toEqual([400, 'bad_request']);
    const bulk = await client.post(path, { action: 'create', resources: [long, { name: 'good' }] });
    expect(bulk.status).toBe(200);
    expect(bulk.json.results.map(({ success }: { success: boolean }) => success)).toEqual([false, true]);
    await client.finished(bulk.json.results[1].task_id);
    expect(told(await client.post(path, { id: 1, name: 'x' }))).toEqual([
      400,
      'Resource id or href should not be specified for creating a new cloud_volume_snapshots',
    ]);
  });

  test('shown below the volume and on their own', async () => {
    const id = await snapshot('shown');
    const below = await client.get(`${path}/${id}`);
    const alone = await client.get(`/api/cloud_volume_snapshots/${id}?attributes=name,cloud_volume.name`);
    expect(below.json.href).toBe(`${client.root}/cloud_volumes/${volume.number}/cloud_volume_snapshots/${id}`);
    expect(alone.json).toEqual({
      href: `${client.root}/cloud_volume_snapshots/${id}`,
      id,
      name: 'shown',
      cloud_volume: { name: 'data01' },
    });
    const filters = 'filter[]=cloud_volume.name=data01&filter[]=name=shown&filter[]=status=available';
    expect(await client.names(`/api/cloud_volume_snapshots?expand=resources&${filters}`)).toEqual(['shown']);
  });

  test('count below a volume is of all', async () => {
    const other = await client.rig.drive('empty');
    const { json } = await client.get(`/api/cloud_volumes/${other.number}/cloud_volume_snapshots`);
    expect(json.subcount).toBe(0);
    expect(json.count).toBe((await client.get('/api/cloud_volume_snapshots')).json.count);
    expect((await client.get(`/api/cloud_volumes/${other.number}/cloud_volume_snapshots/1`)).status).toBe(404);
  });

  test('embedded in the volume where asked for', async () => {
    const expanded = await client.get(`/api/cloud_volumes/${volume.number}?expand=cloud_volume_snapshots`);
    expect(expanded.json.cloud_volume_snapshots[0].href).toContain(path);
    const named = await client.get(`/api/cloud_volumes/${volume.number}?attributes=cloud_volume_snapshots`);
    expect(named.json.cloud_volume_snapshots[0].href).toBeUndefined();
  });

  test('deleted: with reference and task, one missing is 404', async () => {
    const id = await snapshot('gone');
    const { status, json } = await client.post(`/api/cloud_volume_snapshots/${id}`, { action: 'delete' });
    expect(status).toBe(200);
    expect(json).toMatchObject({
      success: true,
      message: `Deleting Cloud Volume Snapshot id: ${id} name: 'gone'`,
      href: `${client.root}/cloud_volume_snapshots/${id}`,
    });
    await client.finished(json.task_id);
    for (const method of ['GET', 'DELETE']) {
      expect(told(await client.send(method, `/api/cloud_volume_snapshots/${id}`))).toEqual([
        404,
        `Couldn't find CloudVolumeSnapshot with 'id'=${id}`,
      ]);
    }
  });

  test('deleted in bulk: one missing is a failed result', async () => {
    const [a, b] = [await snapshot('a'), await snapshot('b')];
    const below = await client.post(path, { action: 'delete', resources: [{ id: a }, { id: 9999 }] });
    expect(below.json.results).toMatchObject([
      { success: true },
      { success: false, message: "Couldn't find CloudVolumeSnapshot with 'id'=9999" },
    ]);
    expect(below.status).toBe(200);
    const alone = await client.post('/api/cloud_volume_snapshots', {
      action: 'delete',
      resources: [{ href: `${client.root}/cloud_volume_snapshots/${b}` }],
    });
    expect(alone.json.results[0].success).toBe(true);
    await client.rig.settled();
    expect((await client.send('DELETE', `${path}/${a}`)).status).toBe(404);
  });

  test('deleted by method: 204', async () => {
    for (const address of [path, '/api/cloud_volume_snapshots']) {
      const answer = await client.send('DELETE', `${address}/${await snapshot('gone')}`, '{}');
      expect([answer.status, answer.text]).toEqual([204, '']);
      await client.rig.settled();
    }
  });

  test('whoever may only look may not delete, and is told so by the method and by the action', async () => {
    const id = await snapshot('seen');
    const guest = await client.rig.person('guest', 'guest');
    await client.rig.grant(guest.name, { driveId: volume.id }, 'ro');
    const viewer = client.as(guest);
    for (const address of [`${path}/${id}`, `/api/cloud_volume_snapshots/${id}`]) {
      expect((await viewer.get(address)).json.actions).toBeUndefined();
      const deleted = await viewer.send('DELETE', address);
      expect(told(deleted)).toEqual([403, 'Use of the delete action is forbidden']);
      expect(deleted.json.error).toMatchObject({ kind: 'forbidden', klass: 'Api::ForbiddenError' });
      expect(told(await viewer.post(address, { action: 'delete' }))).toEqual([
        403,
        'Use of Action delete is forbidden',
      ]);
    }
    expect((await client.get(`${path}/${id}`)).status).toBe(200);
  });

  test('one that is in use is not deleted, and says so', async () => {
    const id = await snapshot('held');
    const { items } = await client.rig.native('GET', '/snapshots?name=held');
    const held = await client.rig.native('POST', '/exports', { driveSnapshotId: items[0].parts[0].id });
    expect(told(await client.post(`/api/cloud_volume_snapshots/${id}`, { action: 'delete' }))).toEqual([
      400,
      'The snapshot is exported.',
    ]);
    expect((await client.get(`/api/cloud_volume_snapshots/${id}`)).status).toBe(200);
    await client.rig.native('DELETE', `/exports/${held.id}`);
  });

  test('no revert, and no create on its own', async () => {
    const id = await snapshot('still');
    expect(told(await client.post(`${path}/${id}`, { action: 'revert' }))).toEqual([
      400,
      'Unsupported Action revert for the cloud_volume_snapshots resource specified',
    ]);
    expect(told(await client.post('/api/cloud_volume_snapshots', { name: 'x' }))).toEqual([
      400,
      'Unsupported Action create for the cloud_volume_snapshots collection specified',
    ]);
    expect(told(await client.post('/api/cloud_volumes', { name: 'x' }))).toEqual([
      400,
      'Unsupported Action create for the cloud_volumes collection specified',
    ]);
  });

  test('of a machine, its drives have them, too', async () => {
    const machine = await client.machine('web01');
    await client.done(`/api/vms/${machine.number}/snapshots`, { name: 'of a machine' });
    const { json } = await client.get(
      `/api/cloud_volumes/${machine.drive.number}/cloud_volume_snapshots?expand=resources`,
    );
    expect(json.resources).toMatchObject([{ name: 'of a machine', status: 'available' }]);
  });
});
