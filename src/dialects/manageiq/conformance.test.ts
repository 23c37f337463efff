/** Ground rules, authentication, entry point and metadata, through HTTP. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { basic } from '../../../test/support/dialect-rig.ts';
import { Sessions } from '../../service/sessions.ts';
import { TestClient, told } from './testing/client.ts';

let client: TestClient;
let vm: Awaited<ReturnType<TestClient['machine']>>;
let instance: typeof vm;

beforeAll(async () => {
  client = await TestClient.start();
  vm = await client.machine('web01');
  instance = await client.machine('app01', 'instance');
});
afterAll(() => client[Symbol.asyncDispose]());

const notAuthenticated = 'Api::BaseController::Authentication::AuthenticationError';

describe('ground rules', () => {
  test('a version segment equals none, and references keep it', async () => {
    const { json } = await client.get(`/api/v4.4.0-pre/vms/${vm.number}`);
    expect(json.href).toBe(`${client.root}/v4.4.0-pre/vms/${vm.number}`);
    expect(json.actions[0].href).toBe(json.href);
    expect((await client.get('/api/v4.4.0-pre')).json.collections[0].href).toContain('/api/v4.4.0-pre/');
    const plain = await client.get(`/api/vms/${vm.number}`);
    expect(plain.json.href).toBe(`${client.root}/vms/${vm.number}`);
  });

  test('another version is refused', async () => {
    expect(told(await client.get('/api/v9999.9999/vms'))).toEqual([400, 'Unsupported API Version 9999.9999 specified']);
    expect((await client.get('/api/v9999.9999')).json.error.kind).toBe('bad_request');
    for (const path of ['', '/vms']) {
      expect((await client.send('OPTIONS', `/api/v9999.9999${path}`)).status, path).toBe(400);
      expect((await client.send('OPTIONS', `/api/v4.4.0-pre${path}`)).status, path).toBe(200);
    }
  });

  test('slashes at the end and repeated ones work', async () => {
    for (const path of ['/api/', '//api', '/api//vms/', `//api///vms//${vm.number}/snapshots/`]) {
      expect((await client.get(path)).status, path).toBe(200);
    }
  });

  test('a body is JSON whatever its content type says', async () => {
    const path = `/api/vms/${vm.number}/snapshots`;
    const sent = await client.send('POST', path, Buffer.from('{"name":"typed"}'), { 'content-type': 'text/xml' });
    expect(sent.status).toBe(200);
    expect((await client.finished(sent.json.results[0].task_id)).status).toBe('Ok');
  });

  test('an empty body and null are an empty object', async () => {
    for (const body of ['', 'null', ' ', '{}']) {
      expect(told(await client.post(`/api/vms/${vm.number}/snapshots`, body))).toEqual([
        400,
        'No snapshots resources were specified for the create action',
      ]);
    }
  });

  test('malformed JSON is a bad request of its own class', async () => {
    const { status, json } = await client.post(`/api/vms/${vm.number}/snapshots`, '{"name":');
    expect([status, json.error.kind, json.error.klass]).toEqual([400, 'bad_request', 'JSON::ParserError']);
    expect((await client.post(`/api/vms/${vm.number}/snapshots`, '[1]')).status).toBe(400);
  });

  test('Accept: json, */* or nothing; else 415, but for DELETE', async () => {
    for (const accept of ['application/json', 'text/html, */*', 'application/vnd.x+json']) {
      expect((await client.get('/api/vms', { accept })).status).toBe(200);
    }
    const refused = await client.get('/api/vms', { accept: 'text/xml' });
    expect(told(refused)).toEqual([415, 'Invalid Response Format text/xml requested']);
    expect(refused.json.error).toMatchObject({
      kind: 'unsupported_media_type',
      klass: 'Api::UnsupportedMediaTypeError',
    });
    expect((await client.send('DELETE', '/api/tasks/1', undefined, { accept: 'text/xml' })).status).toBe(204);
    for (const path of ['/api', '/api/vms', `/api/vms/${vm.number}/snapshots`]) {
      expect((await client.send('OPTIONS', path, undefined, { accept: 'text/xml' })).status, path).toBe(415);
    }
    expect((await client.get('/api/product_info', { accept: 'text/xml' })).status).toBe(415);
    expect((await client.get('/api/ping', { accept: 'text/plain' })).text).toBe('pong');
  });

  test('ids are strings, times whole seconds of UTC, null attributes are there', async () => {
    const { json } = await client.get(`/api/vms/${vm.number}`);
    expect(json.id).toBe(String(vm.number));
    expect(json.description).toBeNull();
    expect(json.created_on).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  test('an id that is no integer is 400, not 404', async () => {
    const classes = {
      '/api/vms/abc': 'Vm',
      '/api/vms/1r45': 'Vm',
      '/api/instances/x': 'ManageIQ::Providers::CloudManager::Vm',
      '/api/tasks/-1': 'MiqTask',
      [`/api/vms/${vm.number}/snapshots/abc`]: 'Snapshot',
      '/api/cloud_volumes/x': 'CloudVolume',
      '/api/cloud_volume_snapshots/x': 'CloudVolumeSnapshot',
    };
    for (const [path, klass] of Object.entries(classes)) {
      const asked = path.split('/').at(-1);
      expect(told(await client.get(path))).toEqual([400, `Invalid ${klass} id ${asked} specified`]);
    }
  });

  test('404 names class and id', async () => {
    const classes = {
      '/api/vms/9999': 'Vm',
      '/api/instances/9999': 'ManageIQ::Providers::CloudManager::Vm',
      [`/api/instances/${vm.number}`]: 'ManageIQ::Providers::CloudManager::Vm',
      '/api/tasks/9999': 'MiqTask',
      [`/api/vms/${vm.number}/snapshots/9999`]: 'Snapshot',
      '/api/vms/9999/snapshots/1': 'Vm',
      '/api/vms/9999/snapshots': 'Vm',
      '/api/cloud_volumes/9999': 'CloudVolume',
      '/api/cloud_volume_snapshots/9999': 'CloudVolumeSnapshot',
    };
    for (const [path, klass] of Object.entries(classes)) {
      const { status, json } = await client.get(path);
      const digits = path.includes('9999') ? 9999 : vm.number;
      expect(status, path).toBe(404);
      expect(json.error).toEqual({
        kind: 'not_found',
        message: `Couldn't find ${klass} with 'id'=${digits}`,
        klass: 'ActiveRecord::RecordNotFound',
      });
    }
    expect((await client.get('/api/vms/99999999999999999999999')).status).toBe(404);
  });

  test('what is routed nowhere has the other body', async () => {
    const body = { status: 404, error: 'Not Found' };
    const path = `/api/vms/${vm.number}/snapshots`;
    for (const [method, address] of [
      ['GET', '/api/bogus'],
      ['GET', '/'],
      ['DELETE', path],
      ['PUT', `${path}/1`],
      ['PATCH', `${path}/1`],
      ['POST', '/api'],
      ['DELETE', '/api/vms'],
    ] as const) {
      const { status, json } = await client.send(method, address, method === 'GET' ? undefined : '{}');
      expect([status, json], `${method} ${address}`).toEqual([404, body]);
    }
    expect((await client.with({}).get('/api/bogus')).json).toEqual(body);
  });

  test('references follow the mount on the main listener', async () => {
    const answer = await client.rig.send('native', {
      path: `/manageiq/api/v4.4.0-pre/vms/${vm.number}/snapshots/`,
      headers: basic(client.rig.admin),
    });
    const root = `${client.rig.origin('native')}/manageiq/api`;
    expect(answer.json.actions[0].href).toBe(`${root}/v4.4.0-pre/vms/${vm.number}/snapshots`);
    expect(answer.json.links.self).toBe(`${root}/v4.4.0-pre/vms/${vm.number}/snapshots/?offset=0`);
  });

  test('HEAD answers as GET, without a body', async () => {
    const head = await client.send('HEAD', '/api/vms');
    expect([head.status, head.text]).toEqual([200, '']);
  });

  test('a body that is too large is refused in the same form', async () => {
    const { status, json } = await client.post(`/api/vms/${vm.number}/snapshots`, 'x'.repeat(1024 ** 2 + 1));
    expect([status, json.error.kind]).toEqual([413, 'payload_too_large']);
  });
});

describe('authentication', () => {
  const wrong = { name: 'admin', password: 'wrong' };

  test('no credentials: the message is the class, and there is no challenge', async () => {
    const { status, json, headers } = await client.with({}).get('/api/vms');
    expect(status).toBe(401);
    expect(headers['www-authenticate']).toBeUndefined();
    expect(json.error).toEqual({ kind: 'unauthorized', message: notAuthenticated, klass: notAuthenticated });
  });

  test('wrong Basic credentials', async () => {
    const { status, json } = await client.as(wrong).get('/api/vms');
    expect(status).toBe(401);
    expect(json.error).toEqual({
      kind: 'unauthorized',
      message: 'The username or password you entered is incorrect.',
      klass: notAuthenticated,
    });
    for (const authorization of ['Basic !', 'Basic', 'Digest x']) {
      expect((await client.with({ authorization }).get('/api/vms')).status, authorization).toBe(401);
    }
  });

  test('a token lasts 600 seconds and opens the API', async () => {
    const before = Date.now();
    const { json } = await client.get('/api/auth');
    expect(json.token_ttl).toBe(600);
    expect(json.requester_type).toBeUndefined();
    const ends = Date.parse(json.expires_on);
    expect(ends).toBeGreaterThan(before + 598_000);
    expect(ends).toBeLessThanOrEqual(Date.now() + 600_000);
    expect((await client.with({ 'x-auth-token': json.auth_token }).get('/api/vms')).status).toBe(200);
  });

  test('requester_type ui lasts longer, ws opens nothing, others are refused', async () => {
    const { json: ui } = await client.get('/api/auth?requester_type=ui');
    expect(ui).toMatchObject({ token_ttl: 3600, requester_type: 'ui' });
    const { json: ws } = await client.get('/api/auth?requester_type=ws');
    expect(ws.token_ttl).toBe(3600);
    expect(told(await client.with({ 'x-auth-token': ws.auth_token }).get('/api/vms'))).toEqual([
      401,
      `Invalid Authentication Token ${ws.auth_token} specified`,
    ]);
    expect(told(await client.get('/api/auth?requester_type=x'))).toEqual([
      400,
      'Invalid requester_type x specified, valid types are: api, ui, ws',
    ]);
  });

  test('a bad token fails although Basic would do; an empty one says so', async () => {
    expect(told(await client.get('/api/vms', { 'x-auth-token': 'nonsense' }))).toEqual([
      401,
      'Invalid Authentication Token nonsense specified',
    ]);
    expect(told(await client.get('/api/vms', { 'x-auth-token': '' }))).toEqual([
      401,
      'Empty Authentication Token (HTTP_X_AUTH_TOKEN)',
    ]);
    expect(told(await client.get('/api/vms', { 'x-miq-token': 'x' }))).toEqual([
      401,
      'Invalid System Authentication Token specified',
    ]);
  });

  test('every use of a token renews it, unless the request says not to', async () => {
    const { json } = await client.get('/api/auth');
    const holder = client.with({ 'x-auth-token': json.auth_token });
    const use = vi.spyOn(Sessions.prototype, 'use');
    try {
      await holder.get('/api/vms');
      await holder.get('/api/vms', { 'x-auth-skip-token-renewal': 'true' });
      await holder.get('/api/vms', { 'x-auth-skip-token-renewal': 'false' });
      expect(use.mock.calls.map(([, options]) => options.renew)).toEqual([true, false, true]);
    } finally {
      use.mockRestore();
    }
  });

  test('DELETE revokes the token', async () => {
    const { json } = await client.get('/api/auth');
    const holder = client.with({ 'x-auth-token': json.auth_token });
    expect((await holder.send('DELETE', '/api/auth')).status).toBe(204);
    expect((await holder.get('/api/vms')).status).toBe(401);
  });

  test('tokens of the native API do as tokens and as bearers', async () => {
    const { token } = client.rig.admin;
    const forms: Record<string, string>[] = [{ 'x-auth-token': token }, { authorization: `Bearer ${token}` }];
    for (const headers of forms) {
      expect((await client.with(headers).get('/api/vms')).status).toBe(200);
    }
    expect((await client.with({ authorization: 'Bearer nonsense' }).get('/api/vms')).status).toBe(401);
  });

  test('X-MIQ-Group is one of the groups of the user, for this request', async () => {
    await client.rig.native('POST', '/projects', { name: 'Blue Team' });
    const ann = await client.rig.person('ann', 'member');
    await client.rig.native('PUT', '/projects/Blue%20Team/members/ann', { role: 'member' });
    const inBlue = client.as(ann, { 'x-miq-group': 'Blue%20Team' });
    expect((await inBlue.get('/api')).json.identity).toMatchObject({
      group: 'Blue Team',
      groups: ['default', 'Blue Team'],
    });
    expect((await inBlue.get('/api/vms')).json.count).toBe(0);
    expect((await inBlue.get(`/api/vms/${vm.number}`)).status).toBe(404);
    expect((await client.as(ann).get('/api')).json.identity.group).toBe('default');
    expect(told(await client.as(ann, { 'x-miq-group': 'Nobody' }).get('/api'))).toEqual([
      401,
      'Invalid Authorization Group Nobody specified',
    ]);
  });

  test('a user without a role is told so', async () => {
    await client.rig.native('POST', '/users', { name: 'lone', password: 'a long secret' });
    expect(told(await client.as({ name: 'lone', password: 'a long secret' }).get('/api'))).toEqual([
      401,
      "Invalid User lone specified, User's Role is missing",
    ]);
  });

  test('an e-mail address logs in, a changed password logs out', async () => {
    const bob = await client.rig.person('bob', 'member');
    const { json } = await client.as({ ...bob, name: bob.email }).get('/api/auth');
    const holder = client.with({ 'x-auth-token': json.auth_token });
    expect((await holder.get('/api')).json.identity.userid).toBe('bob');
    await client.rig.native('PUT', '/users/bob/password', { password: 'another secret' });
    expect((await holder.get('/api')).status).toBe(401);
    expect((await client.as(bob).get('/api')).status).toBe(401);
  });

  test('a change that another web site asks for is refused', async () => {
    const answer = await client.send(
      'POST',
      `/api/vms/${vm.number}/snapshots`,
      { name: 'x' },
      { 'sec-fetch-site': 'cross-site' },
    );
    expect([answer.status, answer.json.error.kind]).toEqual([403, 'forbidden']);
  });

  test('ping, product_info and OPTIONS take no credentials', async () => {
    const anyone = client.with({});
    expect((await anyone.get('/api/ping')).text).toBe('pong');
    expect((await anyone.get('/api/product_info')).status).toBe(200);
    expect((await anyone.send('OPTIONS', '/api/vms')).status).toBe(200);
    expect((await client.as(wrong).send('OPTIONS', '/api/vms')).status).toBe(200);
  });
});

describe('entry point', () => {
  test('lists versions, who asks, and the collections by name', async () => {
    const { json } = await client.get('/api');
    expect(json.versions).toEqual([{ name: '4.4.0-pre', href: `${client.root}/v4.4.0-pre` }]);
    expect(json.identity).toMatchObject({ userid: 'admin', group: 'default', tenant: 'default' });
    const names = json.collections.map(({ name }: { name: string }) => name);
    expect(names).toEqual(['cloud_volume_snapshots', 'cloud_volumes', 'instances', 'tasks', 'vms']);
    for (const { href } of json.collections) {
      expect((await client.get(new URL(href).pathname)).status, href).toBe(200);
    }
    expect(json.authorization).toBeUndefined();
  });

  test('tells product features when asked', async () => {
    const { json } = await client.get('/api?attributes=authorization');
    expect(Object.keys(json.authorization.product_features)).toEqual([
      'vm_snapshot_view',
      'vm_snapshot_add',
      'vm_snapshot_revert',
      'vm_snapshot_delete',
    ]);
  });

  test('OPTIONS is empty', async () => {
    const { status, text, headers } = await client.send('OPTIONS', '/api');
    expect([status, text]).toEqual([200, '']);
    expect(headers['content-type']).toBe('application/json; charset=utf-8');
  });
});

describe('metadata', () => {
  test('OPTIONS of collections sorts names and knows the subcollections', async () => {
    const { json } = await client.with({}).send('OPTIONS', '/api/vms');
    expect(json.subcollections).toContain('snapshots');
    expect(json.attributes).toEqual([...json.attributes].sort());
    expect(json.attributes).toContain('power_state');
    expect(json.virtual_attributes).toContain('v_total_snapshots');
    expect(json.relationships).toContain('snapshots');
    expect(json.data).toEqual({});
    for (const name of ['instances', 'tasks', 'cloud_volumes', 'cloud_volume_snapshots']) {
      expect((await client.send('OPTIONS', `/api/${name}`)).status, name).toBe(200);
    }
    // What browsers ask before they fetch a token for a page from elsewhere.
    expect((await client.with({}).send('OPTIONS', '/api/auth')).json).toEqual({
      attributes: [],
      virtual_attributes: [],
      relationships: [],
      subcollections: [],
      data: {},
    });
  });

  test('OPTIONS of snapshots describes the form', async () => {
    const path = `/api/vms/${vm.number}/snapshots`;
    const { json } = await client.send('OPTIONS', path);
    expect(json.subcollections).toContain('snapshots');
    const { fields } = json.data.snapshot_form_schema;
    expect(fields.map(({ component, name }: Record<string, string>) => [component, name])).toEqual([
      ['text-field', 'name'],
      ['textarea', 'description'],
      ['switch', 'memory'],
    ]);
    expect(fields[0]).toMatchObject({ id: 'name', label: 'Name', isRequired: true, validate: [{ type: 'required' }] });
    expect((await client.send('OPTIONS', '/api/vms/9999/snapshots')).status).toBe(404);
    // Whoever is not known learns nothing about machines.
    const anyone = client.with({});
    expect((await anyone.send('OPTIONS', '/api/vms/9999/snapshots')).text).toBe(
      (await anyone.send('OPTIONS', path)).text,
    );
    expect((await client.send('OPTIONS', `/api/instances/${instance.number}/snapshots`)).status).toBe(200);
  });
});
