/** CloudSigma 2.0 against the real engine: transport, authentication, lists, errors. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Answer, basic, DialectRig } from '../../../test/support/dialect-rig.ts';
import { Client, checkAnswer } from './testing/client.ts';

let rig: DialectRig;
let admin: Client;

beforeAll(async () => {
  rig = await DialectRig.start();
  admin = new Client(rig, rig.admin);
});
afterAll(() => rig[Symbol.asyncDispose]());

const raw = (path: string, headers: Record<string, string> = {}, method = 'GET', body?: string | object) =>
  rig.send('cloudsigma', { method, path, headers, ...(body === undefined ? {} : { body }) });

describe('transport', () => {
  test('every spelling of slashes is served without a redirect', async () => {
    const drive = await admin.drive('slashes');
    const { uuid } = await admin.snapshot(drive.uuid);
    for (const path of [
      `/snapshots/${uuid}/`,
      `/snapshots/${uuid}`,
      `/snapshots/${uuid}//?format=json`,
      `//snapshots//${uuid}//`,
      `/snapshots/${uuid}?limit=0`,
    ]) {
      const answer = await admin.get(path);
      expect([answer.status, answer.json.uuid]).toEqual([200, uuid]);
    }
    for (const path of ['/drives?limit=0', '/drives/detail?limit=0', '/snapshots', '/snapshots/detail']) {
      expect((await admin.get(path)).status).toBe(200);
    }
    expect((await admin.delete(`/snapshots/${uuid}`)).status).toBe(204);
    await rig.settled();
    expect((await admin.get(`/snapshots/${uuid}`)).status).toBe(404);
  });

  test('reason phrases are upper case, empty answers are text/html', async () => {
    const drive = await admin.drive('reasons');
    const created = await admin.post('/snapshots/', { drive: drive.uuid });
    expect(created.reason).toBe('CREATED');
    expect(created.headers.location).toBe(`${rig.origin('cloudsigma')}${created.json.objects[0].resource_uri}`);
    const deleted = await admin.delete(`/drives/${drive.uuid}/`);
    expect([deleted.status, deleted.reason, deleted.text]).toEqual([204, 'NO CONTENT', '']);
    expect((await admin.get('/nope/')).reason).toBe('NOT FOUND');
  });

  test('OPTIONS on any address answers its methods, without credentials', async () => {
    const anybody = new Client(rig, null);
    const list = await anybody.send('/snapshots/', { method: 'OPTIONS' });
    expect([list.status, list.text]).toEqual([200, 'GET,DELETE,POST']);
    expect((await anybody.send('/snapshots/x/', { method: 'OPTIONS' })).text).toBe('GET,PUT,DELETE');
    expect((await anybody.send('/profile', { method: 'OPTIONS' })).text).toBe('GET,PUT');
  });

  test('Accept: JSON, anything, and lists that hold either are served; others get 406; format=json outranks', async () => {
    const ask = (accept: string, path = '/tags/') => admin.send(path, { headers: { accept } });
    for (const accept of [
      'application/json',
      '*/*',
      'text/html, */*;q=0.8',
      'application/xml',
      'application/json; charset=utf-8',
    ]) {
      expect((await ask(accept)).status, accept).toBe(200);
    }
    const refused = await ask('text/html');
    expect([refused.status, refused.reason, refused.json[0].error_type]).toEqual([406, 'NOT ACCEPTABLE', 'validation']);
    expect((await ask('application/json;q=0')).status).toBe(406);
    expect((await ask('text/html', '/tags/?format=json')).status).toBe(200);
    expect((await ask('application/json', '/tags/?format=xml')).status).toBe(406);
  });

  test('a body is JSON whatever its Content-Type, also with a charset or none', async () => {
    for (const type of ['application/json', 'application/json; charset=utf-8', 'text/plain']) {
      const answer = await admin.send('/tags/', {
        method: 'POST',
        headers: { 'content-type': type },
        body: JSON.stringify({ name: `typed ${type.length}` }),
      });
      expect(answer.status).toBe(201);
    }
  });

  test('unknown parameters are passed over, limit=0 also on single objects and capabilities', async () => {
    const drive = await admin.drive('params');
    expect((await admin.get(`/drives/${drive.uuid}/?limit=0&colour=red`)).json.uuid).toBe(drive.uuid);
    expect((await admin.get('/capabilities/?limit=0')).json.objects).toBeUndefined();
  });

  test('an X-REQUEST-ID that is sent comes back', async () => {
    const answer = await admin.send('/tags/', { headers: { 'x-request-id': 'abc-1' } });
    expect(answer.headers['x-request-id']).toBe('abc-1');
  });

  test('what is no HTTP is answered in the same words', async () => {
    const { port } = new URL(rig.origin('cloudsigma'));
    const text = await new Promise<string>((resolve, reject) => {
      const socket = connect(Number(port), '127.0.0.1', () => socket.write('NONSENSE\r\n\r\n'));
      let all = '';
      socket.on('data', (data) => {
        all += String(data);
      });
      socket.on('end', () => resolve(all));
      socket.on('error', reject);
    });
    expect(text).toMatch(/^HTTP\/1\.1 400 BAD REQUEST\r\n/);
    expect(text).toMatch(/\r\nX-Request-ID: /i);
    expect(JSON.parse(text.slice(text.indexOf('\r\n\r\n')))).toEqual([
      { error_message: 'This is not a valid HTTP request.', error_point: null, error_type: 'validation' },
    ]);
  });

  test('under the mount on the main listener, references begin with it', async () => {
    const drive = await admin.drive('mounted');
    const headers = basic(rig.admin);
    const answer = await rig.send('native', { path: `/cloudsigma/api/2.0/drives/${drive.uuid}/`, headers });
    checkAnswer('GET', `/drives/${drive.uuid}/`, answer);
    expect(answer.json.resource_uri).toBe(`/cloudsigma/api/2.0/drives/${drive.uuid}/`);
    const body = { drive: drive.uuid };
    const made = await rig.send('native', { method: 'POST', path: '/cloudsigma/api/2.0/snapshots/', headers, body });
    expect(made.headers.location).toBe(`${rig.origin('native')}${made.json.objects[0].resource_uri}`);
  });
});

describe('authentication', () => {
  test('Basic by e-mail address, Bearer by token', async () => {
    const ada = await rig.person('ada', 'member');
    const byMail = await raw('/api/2.0/profile/', basic({ name: ada.email, password: ada.password }));
    expect([byMail.status, byMail.json.uuid, byMail.json.email]).toEqual([200, ada.id, ada.email]);
    const byToken = await raw('/api/2.0/profile/', { authorization: `Bearer ${ada.token}` });
    expect(byToken.json.uuid).toBe(ada.id);
  });

  test('missing, wrong and malformed credentials: 401 with a challenge and the usual list', async () => {
    for (const authorization of [
      undefined,
      'Basic !!!',
      basic({ name: 'admin', password: 'no' }).authorization,
      'Bearer x',
      'Digest username="admin"',
    ]) {
      const answer = await raw('/api/2.0/snapshots/', authorization === undefined ? {} : { authorization });
      checkAnswer('GET', '/snapshots/', answer);
      expect(answer.status).toBe(401);
      expect(answer.headers['www-authenticate']).toContain('Basic realm="users"');
      expect(answer.json[0].error_type).toBe('permission');
    }
  });

  const cookiesOf = (answer: Answer) => (answer.headers['set-cookie'] ?? []).map((line) => line.split(';')[0] ?? '');

  test('login opens a session, whose changes need the CSRF token; logout ends it', async () => {
    const eve = await rig.person('eve', 'member');
    const login = await raw('/api/2.0/accounts/action/?do=login', {}, 'POST', {
      username: eve.email,
      password: eve.password,
    });
    checkAnswer('POST', '/accounts/action/?do=login', login);
    expect([login.status, login.json]).toEqual([200, { uuid: eve.id }]);
    const set = login.headers['set-cookie'] ?? [];
    expect(set[0]).toMatch(/^sessionid=[\w-]+; Max-Age=1209600; HttpOnly; Path=\/; SameSite=Lax$/);
    expect(set[1]).toMatch(/^csrftoken=[\w-]+; Max-Age=31449600; Path=\/; SameSite=Lax$/);
    const cookie = cookiesOf(login).join('; ');
    const token = cookiesOf(login)[1]?.split('=')[1] ?? '';
    expect((await raw('/api/2.0/snapshots/', { cookie })).status).toBe(200);
    const bare = await raw('/api/2.0/tags/', { cookie }, 'POST', { name: 'csrf' });
    expect([bare.status, bare.json[0].error_type]).toEqual([403, 'permission']);
    expect((await raw('/api/2.0/tags/', { cookie, 'x-csrftoken': 'other' }, 'POST', { name: 'csrf' })).status).toBe(
      403,
    );
    const good = { cookie, 'x-csrftoken': token, referer: 'https://example.net/' };
    expect((await raw('/api/2.0/tags/', good, 'POST', { name: 'csrf' })).status).toBe(201);
    for (const action of ['check_login', 'logout']) {
      const answer = await raw(`/api/2.0/accounts/action/?do=${action}`, good, 'POST', '{}');
      expect([answer.status, answer.text]).toEqual([200, '{}']);
    }
    expect((await raw('/api/2.0/snapshots/', { cookie })).status).toBe(401);
  });

  test('a login that is wrong or says nothing opens nothing', async () => {
    const login = (body: object) => raw('/api/2.0/accounts/action/?do=login', {}, 'POST', body);
    const wrong = await login({ username: 'admin', password: 'wrong' });
    expect([wrong.status, wrong.headers['set-cookie']]).toEqual([401, undefined]);
    const empty = await login({});
    expect([empty.status, empty.json[0].error_point]).toEqual([400, 'username']);
    const unknown = await raw('/api/2.0/accounts/action/?do=dance', {}, 'POST', {});
    expect([unknown.status, unknown.json[0].error_point]).toEqual([400, 'do']);
  });

  test('changes that another web site sends along remembered credentials are refused', async () => {
    const headers = { 'sec-fetch-site': 'cross-site' };
    const answer = await admin.send('/tags/', { method: 'POST', headers, body: { name: 'foreign' } });
    expect(answer.status).toBe(403);
    expect((await admin.get('/tags/?name=foreign')).json.meta.total_count).toBe(0);
  });
});

describe('lists', () => {
  test('limit defaults to 20, 0 is everything, offset is zero-based, POST answers have no meta', async () => {
    const drive = await admin.drive('many');
    const objects = Array.from({ length: 23 }, (_, at) => ({ drive: drive.uuid, name: `s${at}` }));
    const made = await admin.post('/snapshots/', { objects });
    expect([made.status, made.json.meta]).toEqual([201, undefined]);
    expect(made.json.objects.map((one: { name: string }) => one.name)).toEqual(objects.map((one) => one.name));
    await rig.settled();
    const ask = async (query: string) => (await admin.get(`/snapshots/?drive=${drive.uuid}${query}`)).json;
    const first = await ask('');
    expect([first.meta, first.objects.length]).toEqual([{ limit: 20, offset: 0, total_count: 23 }, 20]);
    const all = await ask('&limit=0');
    expect([all.meta, all.objects.length]).toEqual([{ limit: 0, offset: 0, total_count: 23 }, 23]);
    const tail = await ask('&offset=20');
    expect(tail.objects).toEqual(all.objects.slice(20));
    const past = await ask('&offset=50&limit=5');
    expect([past.meta, past.objects]).toEqual([{ limit: 5, offset: 50, total_count: 23 }, []]);
    expect((await ask('&order_by=-name&limit=1')).objects[0].name).toBe('s9');
    for (const query of ['&limit=-1', '&limit=x', '&offset=1.5']) {
      expect((await admin.get(`/snapshots/?${query}`)).status).toBe(400);
    }
  });

  test('fields selects from the full form, on short and detailed lists; unknown ones are dropped', async () => {
    const drive = await admin.drive('selected');
    const ask = async (path: string) => (await admin.get(path)).json.objects;
    expect(await ask('/drives/?fields=name,uuid&name=selected')).toEqual([{ name: 'selected', uuid: drive.uuid }]);
    expect(await ask('/drives/detail/?fields=status,colour&name=selected')).toEqual([{ status: 'unmounted' }]);
    const { uuid } = await admin.snapshot(drive.uuid);
    expect(await ask(`/snapshots/?fields=uuid&drive=${drive.uuid}`)).toEqual([{ uuid }]);
  });

  test('filters: AND of parameters, OR of commas, escapes, __contains', async () => {
    const drive = await admin.drive('filtered');
    const other = await admin.drive('other');
    const names = ['Alpha one', 'alpha two', 'a,b', 'a\\', 'beta'];
    for (const name of names) await admin.post('/snapshots/', { drive: drive.uuid, name });
    await admin.post('/snapshots/', { drive: other.uuid, name: 'beta' });
    await rig.settled();
    const found = async (query: string) => {
      const { objects } = (await admin.get(`/snapshots/?drive=${drive.uuid}&limit=0&${query}`)).json;
      return objects.map((one: { name: string }) => one.name);
    };
    expect(await found('name=beta')).toEqual(['beta']);
    expect(await found('name=Beta')).toEqual([]);
    expect(await found('name=beta,alpha+two')).toEqual(['alpha two', 'beta']);
    expect(await found('name=a%5C,b')).toEqual(['a,b']);
    expect(await found('name=a%5C%5C,beta')).toEqual(['a\\', 'beta']);
    expect(await found('name__contains=ALPHA')).toEqual(['Alpha one', 'alpha two']);
    expect(await found('name__contains=alpha&name__contains=two')).toEqual(['alpha two']);
    expect(await found('name__contains=alpha&name=beta')).toEqual([]);
    expect(await found('status=available,creating')).toEqual(names);
    expect(await found('status=unavailable')).toEqual([]);
    expect(await found('status=dancing')).toEqual([]);
    const uuids = (await admin.get(`/snapshots/?drive=${drive.uuid}&name=beta,a%5C%5C,beta`)).json.objects;
    expect(await found(`uuid=${uuids.map((one: { uuid: string }) => one.uuid).join(',')}`)).toEqual(['a\\', 'beta']);
    expect((await admin.get(`/snapshots/?drive=${drive.uuid},${other.uuid}&name=beta`)).json.meta.total_count).toBe(2);
    expect((await admin.get('/snapshots/?drive=00000000-0000-4000-8000-000000000000')).json.objects).toEqual([]);
  });
});

describe('errors', () => {
  test('always a list with three keys: unknown address, method, JSON, body too large', async () => {
    const cases: [Promise<Answer>, number, string][] = [
      [admin.get('/nonsense/'), 404, 'notexist'],
      [admin.send('/profile/', { method: 'DELETE' }), 405, 'validation'],
      [admin.put('/snapshots/', {}), 405, 'validation'],
      [admin.post('/snapshots/', '{"drive"'), 400, 'validation'],
      [admin.post('/snapshots/', '"text"'), 400, 'validation'],
      [admin.post('/snapshots/'), 400, 'validation'],
      [admin.post('/snapshots/', `${'['.repeat(100)}${']'.repeat(100)}`), 400, 'validation'],
      [admin.post('/snapshots/', 'x'.repeat(1024 ** 2 + 1)), 400, 'validation'],
      [admin.get('/snapshots/%zz/'), 400, 'validation'],
      [admin.get('/snapshots/?name=%zz'), 400, 'validation'],
      [admin.get('/snapshots/no-uuid/'), 404, 'notexist'],
      [admin.get('/remotesnapshots/00000000-0000-4000-8000-000000000000/'), 404, 'notexist'],
      [admin.post('/remotesnapshots/', { drive: 'x' }), 403, 'permission'],
    ];
    for (const [sent, status, type] of cases) {
      const answer = await sent;
      expect([answer.status, answer.json[0].error_type]).toEqual([status, type]);
    }
    expect((await admin.send('/profile/', { method: 'DELETE' })).headers.allow).toBe('GET,PUT');
  });

  test('the 404 of an object is worded as upstream', async () => {
    const uuid = '00000000-0000-4000-8000-000000000000';
    for (const kind of ['snapshots', 'drives', 'servers', 'tags', 'jobs', 'libdrives']) {
      const answer = await admin.get(`/${kind}/${uuid}/`);
      expect(answer.json).toEqual([
        { error_message: `Object with uuid ${uuid} does not exist`, error_point: null, error_type: 'notexist' },
      ]);
    }
  });

  test('an object of another project answers exactly like none', async () => {
    await rig.native('POST', '/projects', { name: 'elsewhere' });
    const zoe = new Client(rig, await rig.person('zoe', 'admin', 'elsewhere'));
    const drive = await admin.drive('private');
    const snapshot = await admin.snapshot(drive.uuid);
    for (const path of [`/drives/${drive.uuid}/`, `/snapshots/${snapshot.uuid}/`]) {
      const { uuid } = path.startsWith('/drives') ? drive : snapshot;
      for (const method of ['GET', 'PUT', 'DELETE']) {
        const answer = await zoe.send(path, { method, ...(method === 'PUT' ? { body: { name: 'mine' } } : {}) });
        expect([answer.status, answer.json[0].error_message]).toEqual([404, `Object with uuid ${uuid} does not exist`]);
      }
    }
    expect((await zoe.post('/snapshots/', { drive: drive.uuid })).status).toBe(404);
    expect((await zoe.get('/snapshots/')).json.meta.total_count).toBe(0);
    expect((await admin.get(`/snapshots/${snapshot.uuid}/`)).json.name).toBe(snapshot.name);
  });
});
