import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import type { BuiltApp } from './app.ts';
import { aDrive, bearer, fakeApp, fakeAuthenticator } from './testing/fakes.ts';

const drive = aDrive();
let built: BuiltApp;

beforeEach(async () => {
  built = await fakeApp({
    drives: {
      get: async (_caller, id) => {
        if (id === drive.id) return drive;
        throw new TypeError('connect /secret/path failed');
      },
      create: async () => {
        throw Object.assign(new Error('database or disk is full'), { errcode: 13 });
      },
      delete: async () => {
        throw new CalotypeError('drive_has_snapshots', 'It has 2 snapshots.', {
          blocking: ['a', 'b'],
          remedy: 'keep or delete them',
        });
      },
    },
  });
});
afterEach(() => built.app.close());

interface Ask {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'PUT' | 'OPTIONS';
  url: string;
  headers?: Record<string, string>;
  payload?: string;
}
const json = { ...bearer, 'content-type': 'application/json' };
const deep = `{"name":"a","meta":${'['.repeat(64)}${']'.repeat(64)}}`;

describe('every failure is a problem body with a code', () => {
  test.each<[string, number, string, Ask]>([
    ['unknown address', 404, 'route_not_found', { url: '/v2/nothing' }],
    ['unknown address below v1', 404, 'route_not_found', { url: '/v1/nothing', headers: bearer }],
    ['wrong method', 405, 'method_not_allowed', { method: 'PUT', url: '/v1/drives' }],
    ['no preflight', 405, 'method_not_allowed', { method: 'OPTIONS', url: '/v1/drives' }],
    ['bad percent encoding', 400, 'invalid_request', { url: '/v1/drives/%zz' }],
    ['id of no object', 404, 'not_found', { url: '/v1/drives/42', headers: bearer }],
    ['broken JSON', 400, 'invalid_request', { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":' }],
    [
      'no UTF-8',
      400,
      'invalid_request',
      { method: 'POST', url: '/v1/drives', headers: { ...json, 'x-raw': '1' }, payload: 'RAW' },
    ],
    ['no object', 400, 'invalid_request', { method: 'POST', url: '/v1/drives', headers: json, payload: '[]' }],
    ['no body', 400, 'invalid_request', { method: 'POST', url: '/v1/drives', headers: bearer }],
    ['empty JSON', 400, 'invalid_request', { method: 'POST', url: '/v1/drives', headers: json, payload: '' }],
    ['too deep', 400, 'json_too_deep', { method: 'POST', url: '/v1/drives', headers: json, payload: deep }],
    [
      'too large',
      413,
      'body_too_large',
      { method: 'POST', url: '/v1/drives', headers: json, payload: `{"name":"${'x'.repeat(1024 ** 2)}"}` },
    ],
    [
      'a form',
      415,
      'unsupported_media_type',
      {
        method: 'POST',
        url: '/v1/drives',
        headers: { ...bearer, 'content-type': 'application/x-www-form-urlencoded' },
        payload: 'name=a',
      },
    ],
    [
      'no type',
      415,
      'unsupported_media_type',
      { method: 'POST', url: '/v1/drives', headers: { ...bearer, 'content-type': 'nonsense' }, payload: 'name=a' },
    ],
    [
      'unknown field',
      400,
      'invalid_request',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1,"seize":2}' },
    ],
    [
      'prototype',
      400,
      'invalid_request',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","meta":{"\\u005f_proto__":"x"}}' },
    ],
    [
      'missing field',
      400,
      'invalid_request',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"sizeBytes":1}' },
    ],
    [
      'empty name',
      400,
      'invalid_name',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"","sizeBytes":1}' },
    ],
    [
      'long name',
      400,
      'invalid_name',
      { method: 'POST', url: '/v1/drives', headers: json, payload: `{"name":"${'x'.repeat(256)}","sizeBytes":1}` },
    ],
    [
      'no text as name',
      400,
      'invalid_name',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":5,"sizeBytes":1}' },
    ],
    [
      'size 0',
      400,
      'invalid_size',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":0}' },
    ],
    [
      'negative size',
      400,
      'invalid_size',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":-1}' },
    ],
    [
      'fractional size',
      400,
      'invalid_size',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1.5}' },
    ],
    [
      'size as text',
      400,
      'invalid_size',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":"10"}' },
    ],
    [
      'size beyond doubles',
      400,
      'invalid_size',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1e300}' },
    ],
    [
      'meta no string',
      400,
      'invalid_meta',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1,"meta":{"k":1}}' },
    ],
    [
      'tags no list',
      400,
      'invalid_tag',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1,"tags":"x"}' },
    ],
    [
      'format unknown',
      400,
      'image_format_unknown',
      { method: 'POST', url: '/v1/drives/import?name=a&format=zip', headers: bearer },
    ],
    [
      'image too large',
      413,
      'image_too_large',
      { method: 'POST', url: '/v1/drives/import?name=a&format=raw', headers: bearer, payload: 'x'.repeat(1001) },
    ],
    [
      'image as form',
      415,
      'unsupported_media_type',
      {
        method: 'POST',
        url: '/v1/drives/import?name=a&format=raw',
        headers: { ...bearer, 'content-type': 'text/plain' },
        payload: 'x',
      },
    ],
    ['unknown sort', 400, 'invalid_sort', { url: '/v1/drives?sort=weight', headers: bearer }],
    ['unknown query field', 400, 'invalid_request', { url: '/v1/drives?nmae=a', headers: bearer }],
    ['limit 0', 400, 'invalid_request', { url: '/v1/drives?limit=0', headers: bearer }],
    ['limit no number', 400, 'invalid_request', { url: '/v1/drives?limit=10x', headers: bearer }],
    [
      'field in a body that takes none',
      400,
      'invalid_request',
      { method: 'POST', url: `/v1/drives/${drive.id}/flatten`, headers: json, payload: '{"now":true}' },
    ],
    ['blocked', 409, 'drive_has_snapshots', { method: 'DELETE', url: `/v1/drives/${drive.id}`, headers: bearer }],
    [
      'disk full',
      507,
      'space_exhausted',
      { method: 'POST', url: '/v1/drives', headers: json, payload: '{"name":"a","sizeBytes":1}' },
    ],
    ['unexpected', 500, 'internal', { url: '/v1/drives/00000000-0000-4000-8000-000000000000', headers: bearer }],
    ['no credentials', 401, 'unauthenticated', { url: '/v1/drives' }],
    [
      'foreign site',
      403,
      'forbidden',
      { method: 'POST', url: '/v1/drives', headers: { ...json, 'sec-fetch-site': 'cross-site' }, payload: '{}' },
    ],
  ])('%s: %i %s', async (_name, status, code, ask) => {
    const payload = ask.payload === 'RAW' ? Buffer.from([0x7b, 0xff, 0x7d]) : ask.payload;
    const answer = await built.app.inject({ method: 'GET', ...ask, ...(payload === undefined ? {} : { payload }) });
    expect({ status: answer.statusCode, type: answer.headers['content-type'] }).toEqual({
      status,
      type: 'application/problem+json; charset=utf-8',
    });
    const body = answer.json();
    expect(body).toMatchObject({ code, status, type: `urn:calotype:error:${code}` });
    expect(typeof body.detail).toBe('string');
    expect(body.requestId).toBe(answer.headers['x-request-id']);
    expect(answer.body).not.toContain('secret');
  });

  test('names the field, also deep down', async () => {
    const post = async (payload: object) =>
      (await built.app.inject({ method: 'POST', url: '/v1/drives', headers: bearer, payload })).json();
    expect(await post({ name: 'a', seize: 2 })).toMatchObject({ field: 'seize', unknown: ['seize'] });
    expect(await post({ sizeBytes: 2 })).toMatchObject({ field: 'name' });
    expect(await post({ name: 'a', meta: { k: 1 } })).toMatchObject({ field: 'meta.k' });
    expect(await post({ name: 'a', import: { file: 'x', format: 'zip' } })).toMatchObject({ field: 'import.format' });
    expect(await post({ name: 'a', import: { file: 'x', format: 'raw', size: 1 } })).toMatchObject({
      field: 'import.size',
    });
  });

  test('405 says what is allowed; details of the service come along', async () => {
    const wrong = await built.app.inject({ method: 'DELETE', url: '/v1/drives' });
    expect(wrong.headers.allow).toBe('GET, HEAD, POST');
    const blocked = await built.app.inject({ method: 'DELETE', url: `/v1/drives/${drive.id}`, headers: bearer });
    expect(blocked.json()).toMatchObject({
      blocking: ['a', 'b'],
      remedy: 'keep or delete them',
      retryable: false,
      changed: 'no',
    });
  });

  test('HEAD of a failure has its status and no body', async () => {
    const answer = await built.app.inject({ method: 'HEAD', url: '/v1/drives/42', headers: bearer });
    expect([answer.statusCode, answer.body]).toEqual([404, '']);
  });

  test('what is no HTTP at all is answered in the same shape', async () => {
    await built.app.listen({ port: 0, host: '127.0.0.1' });
    const address = built.app.server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const text = await new Promise<string>((resolve) => {
      let got = '';
      const socket = connect(port, '127.0.0.1', () => socket.write('nonsense\r\n\r\n'));
      socket.on('data', (chunk) => {
        got += chunk;
      });
      socket.on('close', () => resolve(got));
    });
    expect(text).toMatch(/^HTTP\/1\.1 400 Bad Request\r\nContent-Type: application\/problem\+json/);
    expect(text).toContain('"code":"invalid_request"');
  });

  test('while shutting down', async () => {
    built.beginClosing();
    const answer = await built.app.inject({ url: '/v1/drives', headers: bearer });
    expect(answer.json()).toMatchObject({ code: 'shutting_down', retryable: true });
    expect(answer.headers['retry-after']).toBe('2');
  });
});

describe('of a choice, what is wrong with the one that was meant', () => {
  test.each([
    [
      { from: 'kernel', kernel: 'k', append: 'x'.repeat(2049) },
      'boot.append',
      /^boot\.append must not have more than 2048/,
    ],
    [{ from: 'kernel' }, 'boot.kernel', /^kernel is missing\.$/],
    [{ from: 'kernel', kernel: 'k', extra: 1 }, 'boot.extra', /^Unknown field: "extra"\.$/],
    [{ from: 'drive', kernel: 'k' }, 'boot.kernel', /^Unknown field: "kernel"\.$/],
    [{ from: 'disk' }, 'boot.from', /^boot\.from must be one of: drive, kernel\.$/],
    ['kernel', 'boot', /^boot must be object\.$/],
  ])('%j', async (boot, field, message) => {
    const payload = JSON.stringify({ name: 'm', memoryBytes: 2 ** 26, boot });
    const answer = await built.app.inject({ method: 'POST', url: '/v1/machines', headers: json, payload });
    expect(answer.json()).toMatchObject({ status: 400, field, detail: expect.stringMatching(message) });
  });
});

test('the boot directory is told to operators only', async () => {
  const ask = async () => (await built.app.inject({ url: '/v1', headers: bearer })).json();
  expect(await ask()).toMatchObject({ bootDirectory: '/srv/boot', caller: { role: 'operator' } });
  await built.app.close();
  const { callerFor } = fakeAuthenticator;
  const member: typeof callerFor = async (...given) => ({ ...(await callerFor(...given)), role: 'member' });
  built = await fakeApp({}, { authenticator: { ...fakeAuthenticator, callerFor: member } });
  expect(await ask()).toMatchObject({ bootDirectory: null, caller: { role: 'member' } });
});
