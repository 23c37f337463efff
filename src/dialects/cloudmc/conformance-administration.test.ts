/** CloudMC's environments, service connections and organisations: each row of the facts as a test. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CloudmcClient } from '../../../test/support/cloudmc-client.ts';
import { DialectRig } from '../../../test/support/dialect-rig.ts';

const missing = '00000000-0000-4000-8000-000000000000';
let rig: DialectRig;
let client: CloudmcClient;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new CloudmcClient(rig);
});
afterAll(async () => rig[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
async function read(path: string, as = client): Promise<any> {
  const answer = await as.send('GET', path);
  expect(answer.status, answer.text).toBe(200);
  return answer.json.data;
}

describe('environments', () => {
  test('an environment names its service code, organisation, roles and, in the single read, users', async () => {
    const [environment] = await read('environments');
    expect(environment).toMatchObject({
      name: 'default',
      membership: 'MANY_USERS',
      organization: { entryPoint: 'calotype' },
      serviceConnection: { serviceCode: 'compute' },
    });
    expect(environment).not.toHaveProperty('users');
    const single = await read(`environments/${environment.id}`);
    const admin = { username: 'admin', email: 'admin@localhost' };
    expect(single.users).toEqual([expect.objectContaining(admin)]);
    expect(single.roles[0]).toMatchObject({ name: 'Environment Admin', users: [admin] });
    expect(await read(client.path('volumes'))).toEqual([]);
  });

  test('a member sees the own ones and no other member', async () => {
    await rig.native('POST', '/projects', { name: 'theirs' });
    const person = await rig.person('member', 'member');
    const member = new CloudmcClient(rig, person.token);
    const own = await read('environments', member);
    expect(own.map((environment: { name: string }) => environment.name)).toEqual(['default']);
    expect((await read(`environments/${own[0].id}`, member)).users).toEqual([{ id: person.id, username: 'member' }]);
    const theirs = (await read('environments')).find((known: { name: string }) => known.name === 'theirs');
    expect((await member.send('GET', `environments/${theirs.id}`)).status).toBe(404);
    expect((await member.send('GET', `environments/${missing}`)).status).toBe(404);
    expect((await member.send('GET', 'environments/default')).status).toBe(404);
    expect((await member.send('POST', 'environments', { name: 'new' })).status).toBe(403);
    expect((await member.send('PUT', `environments/${own[0].id}`, { description: 'x' })).status).toBe(403);
    expect((await member.send('DELETE', `environments/${own[0].id}`)).status).toBe(403);
  });

  test('a user of no environment sees none', async () => {
    await rig.native('POST', '/users', { name: 'lonely', password: 'secret of lonely' });
    const { secret } = await rig.native('POST', '/tokens', { name: 't', user: 'lonely' });
    const lonely = new CloudmcClient(rig, secret);
    expect(await read('environments', lonely)).toEqual([]);
    expect((await lonely.on('GET', 'volumes')).status).toBe(404);
  });

  test('POST, PUT and DELETE answer at once with data, without a task', async () => {
    const [connection] = await read('services/connections');
    const [organization] = await read('organizations');
    const made = await client.send('POST', 'environments', {
      name: 'test_area-1',
      description: 'for trying out',
      serviceConnection: { id: connection.id },
      organization: { id: organization.id },
      roles: [],
    });
    expect(made.status).toBe(200);
    expect(made.json).not.toHaveProperty('taskId');
    expect(made.json.data).toMatchObject({ name: 'test_area-1', description: 'for trying out' });
    const path = `environments/${made.json.data.id}`;
    expect(await read(path)).toEqual(made.json.data);
    const changed = await client.send('PUT', path, { name: 'test_area-1', description: 'for more' });
    expect(changed.json.data).toMatchObject({ name: 'test_area-1', description: 'for more' });
    const renamed = await client.send('PUT', path, { name: 'test_area-2' });
    expect(renamed.json.data).toMatchObject({ name: 'test_area-2', description: 'for more' });
    expect((await client.send('DELETE', path)).json.data).toMatchObject({ name: 'test_area-2' });
    expect((await client.send('GET', path)).status).toBe(404);
  });

  test('names are lower case letters, digits, dashes and underscores, and there once', async () => {
    for (const name of ['Upper', 'with space', 'a/b', '', 'ä', 7, undefined, 'x'.repeat(65)]) {
      expect((await client.send('POST', 'environments', { name })).status).toBe(400);
    }
    expect((await client.send('POST', 'environments', { name: 'default' })).status).toBe(400);
    expect((await client.send('POST', 'environments', { name: 'a', organization: { id: missing } })).status).toBe(404);
    expect((await client.send('POST', 'environments', { name: 'a', serviceConnection: 'x' })).status).toBe(400);
  });

  test('DELETE takes everything inside along', async () => {
    const { data } = (await client.send('POST', 'environments', { name: 'doomed' })).json;
    const inside = new CloudmcClient(rig, rig.admin.token, 'doomed');
    const native = async (path: string, body: object) => {
      const headers = { authorization: `Bearer ${rig.admin.token}`, prefer: 'wait=60', 'calotype-project': 'doomed' };
      return (await rig.send('native', { method: 'POST', path: `/v1${path}`, headers, body })).json;
    };
    const { drive: root } = await native('/drives', { name: 'root', sizeBytes: 1024 ** 2 });
    const { drive: free } = await native('/drives', { name: 'free', sizeBytes: 1024 ** 2 });
    await native('/machines', { name: 'vm', memoryBytes: 64 * 1024 ** 2, drives: [{ driveId: root.id }] });
    const snapshot = await inside.done('POST', 'snapshots', { volumeId: free.id });
    await inside.done('POST', `snapshots/${snapshot.id}?operation=createTemplate`, { name: 'template' });
    await inside.done('DELETE', `volumes/${free.id}`);
    const kept = await rig.drive('kept');
    expect((await client.send('DELETE', `environments/${data.id}`)).status).toBe(200);
    expect((await client.send('GET', `environments/${data.id}`)).status).toBe(404);
    expect((await inside.on('GET', 'volumes')).status).toBe(404);
    expect((await client.get(`volumes/${kept.id}`)).state).toBe('Ready');
  });

  test('the last one stays, with what is in it', async () => {
    for (const { id, name } of await read('environments')) {
      if (name !== 'default') await client.send('DELETE', `environments/${id}`);
    }
    const [last] = await read('environments');
    const drive = await rig.drive('stays');
    expect((await client.send('DELETE', `environments/${last.id}`)).status).toBe(403);
    expect((await client.get(`volumes/${drive.id}`)).state).toBe('Ready');
  });
});

describe('service connections', () => {
  test('the list, by organisation, and one as an object', async () => {
    const [connection] = await read('services/connections');
    expect(connection).toMatchObject({ serviceCode: 'compute', status: { reachable: true } });
    expect(await read(`services/connections/${connection.id}`)).toEqual(connection);
    const [organization] = await read('organizations');
    expect(await read(`services/connections?organizationId=${organization.id}`)).toEqual([connection]);
    expect(await read(`services/connections?organizationId=${missing}`)).toEqual([]);
    expect((await client.send('GET', `services/connections/${missing}`)).status).toBe(404);
  });
});

describe('organisations', () => {
  test('there is one, with its environments and connections', async () => {
    const [organization, ...more] = await read('organizations');
    expect(more).toEqual([]);
    expect(organization).toMatchObject({
      entryPoint: 'calotype',
      environments: [{ name: 'default' }],
      serviceConnections: [{ serviceCode: 'compute' }],
      isBillable: false,
      billingMode: 'MANUAL',
      billingDay: 1,
    });
    expect(await read(`organizations/${organization.id}`)).toEqual(organization);
    expect((await client.send('GET', `organizations/${missing}`)).status).toBe(404);
  });
});
