/** The ground rules of CloudMC and its tasks, each row of the facts as a test, over HTTP against a real engine. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { CloudmcClient, holdDrive } from '../../../test/support/cloudmc-client.ts';
import { DialectRig } from '../../../test/support/dialect-rig.ts';

const missing = '00000000-0000-4000-8000-000000000000';
let rig: DialectRig;
let client: CloudmcClient;
let count = 0;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new CloudmcClient(rig);
});
afterAll(async () => rig[Symbol.asyncDispose]());

const freshName = (what: string): string => `${what}-${++count}`;

describe('ground rules', () => {
  test.each(['/api/v2', '/api/v1', '/v1', '/v1/', '//api//v2'])('the base is %s, too', async (base) => {
    const answer = await client.send('GET', `${base}/services/compute/default/zones`);
    expect(answer.json.data).toEqual([{ id: expect.any(String), name: 'local' }]);
  });

  test('MC-Api-Key is the only scheme; a missing or wrong key is 403 with errors', async () => {
    const path = '/api/v2/environments';
    const { token } = rig.admin;
    const wrong: Record<string, string>[] = [
      {},
      { 'mc-api-key': 'wrong' },
      { 'mc-api-key': '' },
      { authorization: `Bearer ${token}` },
    ];
    for (const headers of wrong) {
      const answer = await rig.send('cloudmc', { path, headers });
      expect(answer.status).toBe(403);
      expect(answer.json.errors[0]).toMatchObject({ code: 1201, errorCode: '1201' });
    }
    expect((await rig.send('cloudmc', { path, headers: { 'mc-api-key': token } })).status).toBe(200);
  });

  test('a revoked key stops at once', async () => {
    const person = await rig.person('revoked', 'member');
    const other = new CloudmcClient(rig, person.token);
    expect((await other.on('GET', 'zones')).status).toBe(200);
    const { items } = await rig.native('GET', '/tokens?user=revoked');
    for (const { id } of items) await rig.native('DELETE', `/tokens/${id}`);
    expect((await other.on('GET', 'zones')).status).toBe(403);
  });

  test('a list has data and metadata, one object has data only', async () => {
    const list = await client.on('GET', 'diskofferings');
    expect(list.json).toEqual({ data: [expect.any(Object)], metadata: { recordCount: 1 } });
    const single = await client.on('GET', `diskofferings/${list.json.data[0].id}`);
    expect(single.json).toEqual({ data: list.json.data[0] });
  });

  test('an empty list is an array', async () => {
    const answer = await client.on('GET', 'affinitygroups?type=ExplicitDedication');
    expect(answer.json).toEqual({ data: [], metadata: { recordCount: 0 } });
  });

  test('an unknown route, a wrong method and broken JSON answer errors', async () => {
    expect((await client.send('GET', 'nothing')).status).toBe(404);
    expect((await client.send('GET', '/')).status).toBe(404);
    expect((await client.on('GET', 'nothing')).status).toBe(404);
    const wrong = await client.on('PUT', `volumes/${missing}`, {});
    expect(wrong.status).toBe(405);
    expect(wrong.headers.allow).toContain('DELETE');
    expect(wrong.json.errors[0].context.allowed).toContain('GET');
    for (const body of ['{', '[]', '"x"', '7', '\0', '{"name":"\\ud800"']) {
      expect((await client.on('POST', 'snapshots', body)).status).toBe(400);
    }
    const odd = await client.refused('POST', 'snapshots', '{"__proto__":1}');
    expect(odd).toMatchObject({ status: 400, error: { context: { field: '__proto__' } } });
  });

  test('a body too large and a request that is no HTTP answer errors', async () => {
    expect((await client.on('POST', 'snapshots', Buffer.alloc(1024 ** 2 + 1, ' '))).status).toBe(400);
    const answer = await fetch(`${rig.origin('cloudmc')}/api/v2/${'x'.repeat(5000)}`, {
      headers: { 'mc-api-key': rig.admin.token, filler: 'y'.repeat(20_000) },
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({ errors: [expect.objectContaining({ code: 1001, errorCode: '1001' })] });
  });

  test('a content type without a body, and a body of another content type, are taken', async () => {
    const type = { 'content-type': 'application/json' };
    expect((await client.send('GET', client.path('zones'), undefined, type)).status).toBe(200);
    const drive = await rig.drive(freshName('typed'));
    const made = await client.send(
      'POST',
      `${client.path(`volumes/${drive.id}`)}?operation=createSnapshotFromVolume`,
      '',
      type,
    );
    expect((await client.ended(made.json.taskId)).status).toBe('SUCCESS');
    await rig.settled();
    const plain = { 'content-type': 'text/plain' };
    const body = JSON.stringify({ volumeId: drive.id, name: freshName('plain') });
    const other = await client.send('POST', client.path('snapshots'), body, plain);
    expect((await client.ended(other.json.taskId)).status).toBe('SUCCESS');
  });

  test('double slashes, a slash at the end and a bare question mark are taken', async () => {
    for (const path of [
      '/v1//services/compute/default/volumes?',
      '/api/v2/services/compute/default/volumes/',
      '/api/v2//services//compute/default/volumes/?',
      '/api/v2/environments?',
    ]) {
      expect((await client.send('GET', path)).status).toBe(200);
    }
  });

  test('the same below the mount of the main listener', async () => {
    const answer = await rig.send('native', {
      path: '/cloudmc/v1//services/compute/default/zones?',
      headers: { 'mc-api-key': rig.admin.token },
    });
    expect(answer.status).toBe(200);
    expect(answer.json.data).toHaveLength(1);
  });

  test('HEAD answers as GET without a body', async () => {
    const answer = await client.on('HEAD', 'zones');
    expect(answer.status).toBe(200);
    expect(answer.text).toBe('');
  });

  test('org_id names the organisation on any call; another one is not found', async () => {
    const [own] = (await client.send('GET', 'organizations')).json.data;
    expect((await client.on('GET', `volumes?org_id=${own.id}`)).status).toBe(200);
    expect((await client.on('GET', `volumes?org_id=${missing}`)).status).toBe(404);
  });

  test('an unknown service code, environment or id is 404 with errors', async () => {
    expect((await client.send('GET', 'services/nothing/default/volumes')).status).toBe(404);
    expect((await client.send('GET', 'services/compute/nothing/volumes')).status).toBe(404);
    expect((await client.send('GET', 'services/connections/default/volumes')).status).toBe(404);
    for (const entity of ['volumes', 'snapshots', 'instances', 'templates', 'zones', 'diskofferings']) {
      for (const id of [missing, 'x', '1', '%00', '../..', missing.toUpperCase()]) {
        expect((await client.on('GET', `${entity}/${encodeURIComponent(id)}`)).status, `${entity}/${id}`).toBe(404);
      }
    }
    expect((await client.on('GET', `volumes/${missing}`)).json.errors[0].message).toBe(
      `There is no volume ${missing}.`,
    );
  });
});

describe('tasks', () => {
  test('GET and POST, with id, status, created, and the resource as the result', async () => {
    const drive = await rig.drive(freshName('tasked'));
    const { taskId, ...reference } = (await client.on('POST', 'snapshots', { volumeId: drive.id })).json;
    expect(reference).toEqual({ taskStatus: 'PENDING' });
    const task = await client.ended(taskId);
    expect(task).toMatchObject({ id: taskId, status: 'SUCCESS', result: { volumeId: drive.id, state: 'BackedUp' } });
    expect(task.created).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/);
    expect((await client.send('POST', `tasks/${taskId}`)).json.data).toEqual(task);
    expect((await client.send('POST', `tasks/${taskId}`, '{}')).json.data).toEqual(task);
  });

  test('one that is under way is PENDING and has no result', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    const { taskId } = (await client.on('POST', 'snapshots', { volumeId: held.driveId })).json;
    const task = (await client.send('GET', `tasks/${taskId}`)).json.data;
    expect(task).toEqual({ id: taskId, status: 'PENDING', created: expect.any(String) });
  });

  test('one that failed is FAILED, with 200 and the errors', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    const { taskId } = (await client.on('POST', 'snapshots', { volumeId: held.driveId })).json;
    await rig.native('POST', `/tasks/${taskId}/cancel`);
    const answer = await client.send('GET', `tasks/${taskId}`);
    expect(answer.status).toBe(200);
    expect(answer.json.data).toMatchObject({ status: 'FAILED', result: { errors: [{ message: expect.any(String) }] } });
  });

  test('is kept for 30 minutes', async () => {
    const drive = await rig.drive(freshName('kept'));
    const { taskId } = (await client.on('POST', 'snapshots', { volumeId: drive.id })).json;
    await client.ended(taskId);
    const now = Date.now();
    try {
      vi.useFakeTimers({ toFake: ['Date'], now: now + 29 * 60_000 });
      expect((await client.send('GET', `tasks/${taskId}`)).status).toBe(200);
      vi.setSystemTime(now + 31 * 60_000);
      expect((await client.send('GET', `tasks/${taskId}`)).status).toBe(404);
    } finally {
      vi.useRealTimers();
    }
  });

  test('of another environment or none is not found', async () => {
    const drive = await rig.drive(freshName('foreign'));
    const { taskId } = (await client.on('POST', 'snapshots', { volumeId: drive.id })).json;
    await client.ended(taskId);
    await rig.native('POST', '/projects', { name: 'elsewhere' });
    const stranger = new CloudmcClient(rig, (await rig.person('stranger', 'admin', 'elsewhere')).token, 'elsewhere');
    const foreign = await stranger.send('GET', `tasks/${taskId}`);
    const unknown = await stranger.send('GET', `tasks/${missing}`);
    expect([foreign.status, unknown.status]).toEqual([404, 404]);
    expect(foreign.text.replace(taskId, missing)).toBe(unknown.text);
  });
});
