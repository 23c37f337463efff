/** What requests become on their way in: callers, filters, keys, preconditions, waits. */
import { afterEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { newId, type SnapshotId } from '../core/ids.ts';
import type { Caller } from '../service/caller.ts';
import type { CreateOptions, DriveFilter, PageRequest, SnapshotFilter, Update } from '../service/interface.ts';
import type { BuiltApp } from './app.ts';
import { canonicalJson } from './idempotency.ts';
import { aDrive, aSnapshot, aTask, bearer, type FakeServices, fakeApp } from './testing/fakes.ts';
import { attachment } from './transfer.ts';
import { preferredWait } from './wait.ts';

let built: BuiltApp | undefined;
afterEach(async () => {
  await built?.app.close();
  built = undefined;
});

async function start(services: FakeServices, options: Parameters<typeof fakeApp>[1] = {}) {
  built = await fakeApp(services, options);
  return built.app;
}

describe('callers', () => {
  const seen: Caller[] = [];
  const services: FakeServices = {
    drives: {
      list: async (caller) => {
        seen.push(caller);
        return { items: [], nextCursor: null, total: null };
      },
    },
  };
  const get = async (headers: Record<string, string>) => (await start(services)).inject({ url: '/v1/drives', headers });

  test.each([
    ['Bearer good', 'native', {}],
    ['bearer good', 'native', {}],
    [`Basic ${Buffer.from('ada:secret').toString('base64')}`, 'native', {}],
    ['Bearer good', 'cli', { 'user-agent': 'calotype-cli/0.1.0' }],
    ['Bearer good', 'console', { 'calotype-client': 'console' }],
    ['Bearer good', 'native', { 'calotype-client': 'syminet' }],
  ])('%s comes in as %s', async (authorization, via, more: Record<string, string>) => {
    expect((await get({ authorization, ...more })).statusCode).toBe(200);
    expect(seen.at(-1)).toMatchObject({ userName: 'ada', via });
  });

  test.each([
    ['Bearer wrong', 401, 'unauthenticated'],
    ['Bearer expired', 401, 'token_expired'],
    ['Bearer revoked', 401, 'token_revoked'],
    ['Bearer', 401, 'unauthenticated'],
    ['Digest x', 401, 'unauthenticated'],
    ['Basic YWRh', 401, 'unauthenticated'],
    [`Basic ${Buffer.from('ada:guess').toString('base64')}`, 401, 'unauthenticated'],
    [`Basic ${Buffer.from('slow:x').toString('base64')}`, 429, 'too_many_logins'],
  ])('%s is refused with %i %s', async (authorization, status, code) => {
    const answer = await get({ authorization });
    expect([answer.statusCode, answer.json().code]).toEqual([status, code]);
    if (status === 401)
      expect(answer.headers['www-authenticate']).toEqual([
        'Bearer realm="calotype"',
        'Basic realm="calotype", charset="UTF-8"',
      ]);
    else expect(answer.headers['retry-after']).toBe('7');
  });

  test('a project that is not yours looks missing', async () => {
    const answer = await get({ ...bearer, 'calotype-project': 'theirs' });
    expect([answer.statusCode, answer.json().code, answer.json().kind]).toEqual([404, 'not_found', 'project']);
    expect((await get({ ...bearer, 'calotype-project': 'default' })).statusCode).toBe(200);
  });
});

describe('lists', () => {
  test('filters, sorting and paging reach the service as they are meant', async () => {
    const calls: unknown[][] = [];
    const app = await start({
      snapshots: {
        list: async (_caller, filter: SnapshotFilter, sort, page: PageRequest) => {
          calls.push([filter, sort, page]);
          return { items: [aSnapshot()], nextCursor: 'next', total: 17 };
        },
      },
    });
    const driveId = newId();
    const query = `driveId=${driveId}&nameLike=day-*&state=available&state=error&createdFrom=2031-04-09T16:20:05.004210Z&createdBefore=2031-04-10&sort=name&order=desc&limit=5&cursor=abc&total=true`;
    const answer = await app.inject({ url: `/v1/snapshots?${query}`, headers: bearer });
    expect(answer.statusCode).toBe(200);
    expect(calls).toEqual([
      [
        {
          driveId,
          nameLike: 'day-*',
          states: ['available', 'error'],
          createdFrom: 1933518005004210,
          createdBefore: 1933545600000000,
        },
        { by: 'name', order: 'desc' },
        { limit: 5, cursor: 'abc', withTotal: true },
      ],
    ]);
    expect(answer.json()).toMatchObject({ nextCursor: 'next', total: 17, items: [{ name: 'before the upgrade' }] });
    await app.inject({ url: '/v1/snapshots?state=creating,deleting&offset=20', headers: bearer });
    expect(calls[1]).toEqual([{ states: ['creating', 'deleting'] }, { by: 'created', order: 'asc' }, { offset: 20 }]);
  });

  test('no total unless it was asked for', async () => {
    const app = await start({
      drives: { list: async (_caller, _filter: DriveFilter) => ({ items: [], nextCursor: null, total: null }) },
    });
    expect((await app.inject({ url: '/v1/drives', headers: bearer })).json()).toEqual({ items: [], nextCursor: null });
  });

  test.each([
    ...['createdFrom=yesterday', 'createdFrom=2031-13-45', 'total=maybe', 'state=lost', 'driveId=7', 'offset=-1'],
    ...['constructor=1', '__proto__=1'],
  ])('%s is refused', async (query) => {
    const app = await start({});
    const answer = await app.inject({ url: `/v1/snapshots?${query}`, headers: bearer });
    const { code, field } = answer.json();
    expect([answer.statusCode, typeof code, field]).toEqual([400, 'string', query.split('=')[0]]);
  });
});

describe('Idempotency-Key and If-None-Match', () => {
  const options: (CreateOptions | undefined)[] = [];
  const drive = aDrive();
  const services: FakeServices = {
    drives: {
      create: async (_caller, _input, given) => {
        options.push(given);
        return { task: aTask(), drive };
      },
    },
  };
  const post = async (payload: object, headers: Record<string, string>) =>
    (await start(services)).inject({ method: 'POST', url: '/v1/drives', headers: { ...bearer, ...headers }, payload });

  test('the hash depends on what is asked, not on how it is written', async () => {
    const key = { 'idempotency-key': 'k1' };
    await post({ name: 'a', sizeBytes: 512, meta: { x: '1', y: '2' } }, key);
    await post({ meta: { y: '2', x: '1' }, sizeBytes: 512, name: 'a' }, key);
    await post({ name: 'b', sizeBytes: 512, meta: { x: '1', y: '2' } }, key);
    const [first, second, third] = options.splice(0).map((o) => o?.idempotency);
    expect(first).toMatchObject({ key: 'k1' });
    expect(first?.requestHash).toMatch(/^[0-9a-f]{64}$/);
    expect(second).toEqual(first);
    expect(third?.requestHash).not.toBe(first?.requestHash);
  });

  test.each(['', 'with space', 'x'.repeat(256), 'ü'])('the key %j is refused', async (key) => {
    const answer = await post({ name: 'a', sizeBytes: 512 }, { 'idempotency-key': key });
    expect([answer.statusCode, answer.json().field]).toEqual([400, 'Idempotency-Key']);
    expect(options).toEqual([]);
  });

  test('only * may stand in If-None-Match', async () => {
    await post({ name: 'a', sizeBytes: 512 }, { 'if-none-match': '*' });
    expect(options.splice(0)).toEqual([{ refuseExistingName: true }]);
    expect((await post({ name: 'a', sizeBytes: 512 }, { 'if-none-match': '"1"' })).statusCode).toBe(400);
  });

  test('canonicalJson', () => {
    expect(canonicalJson({ b: [{ d: 1, c: undefined }], a: 'x' })).toBe('{"a":"x","b":[{"d":1}]}');
    expect(canonicalJson(undefined)).toBe('null');
  });
});

describe('ETag and If-Match', () => {
  const drive = aDrive({ version: 3 });
  const updates: Update[] = [];
  const deleted: string[] = [];
  const services: FakeServices = {
    drives: {
      get: async () => drive,
      update: async (_caller, _id, update) => {
        if (update.ifVersion !== undefined && update.ifVersion !== 3) throw new CalotypeError('precondition_failed');
        updates.push(update);
        return { ...drive, version: 4 };
      },
      delete: async (_caller, id) => {
        deleted.push(id);
        return aTask({ kind: 'drive.delete' });
      },
    },
  };
  const url = `/v1/drives/${drive.id}`;

  test.each([
    ['"3"', 200, 3],
    ['*', 200, undefined],
    ['"1", "3"', 200, 3],
    ['"2"', 412, null],
    ['W/"3"', 412, null],
    ['"abc"', 412, null],
    ['3', 400, null],
  ])('If-Match: %s gives %i', async (ifMatch, status, ifVersion) => {
    const app = await start(services);
    const patch = await app.inject({
      method: 'PATCH',
      url,
      headers: { ...bearer, 'if-match': ifMatch },
      payload: { name: 'b' },
    });
    expect(patch.statusCode).toBe(status);
    expect(updates.splice(0).map((u) => u.ifVersion)).toEqual(ifVersion === null ? [] : [ifVersion]);
    if (status === 200) expect(patch.headers.etag).toBe('"4"');
    const remove = await app.inject({ method: 'DELETE', url, headers: { ...bearer, 'if-match': ifMatch } });
    expect(remove.statusCode).toBe(status === 200 ? 202 : status);
    expect(deleted.splice(0)).toHaveLength(status === 200 ? 1 : 0);
  });

  test('GET and HEAD carry the ETag', async () => {
    const app = await start(services);
    expect((await app.inject({ url, headers: bearer })).headers.etag).toBe('"3"');
    const head = await app.inject({ method: 'HEAD', url, headers: bearer });
    expect([head.headers.etag, head.body]).toEqual(['"3"', '']);
    expect(Number(head.headers['content-length'])).toBeGreaterThan(100);
  });
});

describe('Prefer: wait', () => {
  const drive = aDrive();
  const begun = aTask();
  const create = async () => ({ task: begun, drive: { ...drive, state: 'creating' as const } });
  const post = (app: BuiltApp['app'], prefer?: string) =>
    app.inject({
      method: 'POST',
      url: '/v1/drives',
      headers: { ...bearer, ...(prefer === undefined ? {} : { prefer }) },
      payload: { name: 'a', sizeBytes: 512 },
    });

  test('without it, 202 with the task and where to find it', async () => {
    const app = await start({ drives: { create } });
    const answer = await post(app);
    expect([answer.statusCode, answer.headers.location, answer.headers['preference-applied']]).toEqual([
      202,
      `/v1/tasks/${begun.id}`,
      undefined,
    ]);
    expect(answer.json()).toMatchObject({
      task: { id: begun.id, state: 'queued' },
      drive: { id: drive.id, state: 'creating' },
    });
  });

  test('with it, 201 with the finished object', async () => {
    const waits: number[] = [];
    const waitFor = async (_caller: Caller, _id: string, ms: number) => {
      waits.push(ms);
      return { ...begun, state: 'done' as const };
    };
    const app = await start({ drives: { create, get: async () => drive }, tasks: { waitFor } });
    const answer = await post(app, 'respond-async, wait=500');
    expect([answer.statusCode, answer.headers.location, answer.headers['preference-applied']]).toEqual([
      201,
      `/v1/drives/${drive.id}`,
      'wait=60',
    ]);
    expect(answer.json()).toMatchObject({ task: { state: 'done' }, drive: { state: 'available' } });
    expect(waits).toEqual([60_000]);
  });

  test('when the time is up, 202', async () => {
    const app = await start({
      drives: { create, get: async () => drive },
      tasks: { waitFor: async () => ({ ...begun, state: 'running' }) },
    });
    expect((await post(app, 'wait=1')).statusCode).toBe(202);
  });

  test.each([
    ['space_low', 507],
    ['drive_busy', 409],
    ['internal', 500],
  ] as const)('a task that failed with %s answers so', async (code, status) => {
    const error = { code, message: 'at /srv/secret', details: { blocking: ['x'] } };
    const app = await start({
      drives: { create },
      tasks: { waitFor: async () => ({ ...begun, state: 'failed', error }) },
    });
    const answer = await post(app, 'wait=1');
    expect([answer.statusCode, answer.json().code, answer.json().taskId]).toEqual([status, code, begun.id]);
    expect(answer.body.includes('secret')).toBe(code !== 'internal');
  });

  test('the wait ends when the server closes', async () => {
    const waiting = Promise.withResolvers<void>();
    const app = await start({
      drives: { create, get: async () => drive },
      tasks: {
        waitFor: () => {
          waiting.resolve();
          return new Promise(() => undefined);
        },
        get: async () => begun,
      },
    });
    const answer = post(app, 'wait=30');
    await waiting.promise;
    built?.beginClosing();
    expect((await answer).statusCode).toBe(202);
  });

  test.each([
    ['wait=10', 10],
    ['foo; bar, wait="7"; x=y', 7],
    ['wait=x', null],
    ['respond-async', null],
    ['WAIT = 100', 60],
  ])('preferredWait(%j) is %j', (header, seconds) => expect(preferredWait(header)).toBe(seconds));
});

describe('parts of a snapshot', () => {
  test('one is found by itself, of several one must be named', async () => {
    const one = aSnapshot();
    const [part] = one.parts;
    if (part === undefined) throw new Error('no part');
    const two = aSnapshot({ parts: [part, { ...part, id: newId() }] });
    const asked: unknown[] = [];
    const app = await start({
      snapshots: {
        get: async (_caller, id: SnapshotId) => (id === one.id ? one : two),
        changes: async (_caller, range) => {
          asked.push(range);
          return [
            { start: 0, length: 4096 },
            { start: 8192, length: 512 },
          ];
        },
      },
    });
    const answer = await app.inject({ url: `/v1/snapshots/${one.id}/changes`, headers: bearer });
    expect(answer.json()).toEqual({
      extents: [
        { start: 0, length: 4096 },
        { start: 8192, length: 512 },
      ],
      totalBytes: 4608,
    });
    expect(asked).toEqual([{ from: null, to: { point: part.id } }]);
    const unclear = await app.inject({ url: `/v1/snapshots/${two.id}/changes`, headers: bearer });
    expect(unclear.json()).toMatchObject({ code: 'invalid_request', field: 'part', parts: two.parts.map((p) => p.id) });
    const foreign = await app.inject({ url: `/v1/snapshots/${two.id}/changes?part=${newId()}`, headers: bearer });
    expect(foreign.statusCode).toBe(404);
  });
});

test.each([
  [{}, 'driveId'],
  [{ driveId: newId(), driveSnapshotId: newId() }, 'driveId'],
  [{ driveSnapshotId: newId(), writable: true }, 'writable'],
  [{ driveId: newId(), transport: { kind: 'unix', port: 1 } }, 'transport.port'],
  [{ driveId: newId(), transport: { kind: 'carrier pigeon' } }, 'transport.kind'],
  [{ driveId: newId(), transport: { kind: 'tcp', port: 70_000 } }, 'transport.port'],
])('export of %j is refused at %s', async (payload, field) => {
  const app = await start({});
  const answer = await app.inject({ method: 'POST', url: '/v1/exports', headers: bearer, payload });
  expect([answer.statusCode, answer.json().field]).toEqual([400, field]);
});

test('file names of downloads', () => {
  expect(attachment('disk1.raw')).toBe('attachment; filename="disk1.raw"');
  expect(attachment('Müll "1"\r\n.raw')).toBe(
    `attachment; filename="M_ll _1___.raw"; filename*=UTF-8''M%C3%BCll%20%221%22%0D%0A.raw`,
  );
});
