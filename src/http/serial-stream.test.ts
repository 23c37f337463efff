/** The serial port of a machine over a real socket: followed, read, typed on. */
import { once } from 'node:events';
import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type MachineId, newId } from '../core/ids.ts';
import { SerialLog } from '../qemu/serial-log.ts';
import type { BuildHooks, BuiltApp } from './app.ts';
import type { AppOptions } from './context.ts';
import { bearer, fakeApp, fakeAuthenticator } from './testing/fakes.ts';

const directory = await mkdtemp(join(tmpdir(), 'calosh-'));
afterAll(() => rm(directory, { recursive: true, force: true }));
let built: BuiltApp | undefined;
afterEach(async () => {
  await built?.app.close();
  built = undefined;
});

const path = `/v1/machines/${newId<MachineId>()}`;
const refuse = (): never => {
  throw new Error('not looked for');
};
let count = 0;

/** A server with one machine, what it writes and what is typed on it, and how many read. */
async function serve(options: Partial<AppOptions> = {}, hooks: BuildHooks = {}) {
  const file = join(directory, `serial-${++count}.log`);
  const log = new SerialLog(file);
  const typed: string[] = [];
  const open = new Set<object>();
  built = await fakeApp(
    {
      machines: {
        get: refuse,
        async serialLog(_caller, _id, { fromByte, ...more }) {
          const range = await log.read(fromByte, more);
          open.add(range);
          range.stream.once('close', () => open.delete(range));
          return range;
        },
        async typeOnConsole(_caller, _id, bytes) {
          typed.push(Buffer.from(bytes).toString());
        },
      },
    },
    options,
    hooks,
  );
  const base = await built.app.listen({ port: 0, host: '127.0.0.1' });
  return { base, typed, open, say: (text: string) => appendFile(file, text) };
}

async function follow(url: string) {
  const [response]: http.IncomingMessage[] = await once(http.get(url, { headers: bearer }), 'response');
  if (response === undefined) throw new Error('no answer');
  let text = '';
  response.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
  });
  response.on('error', () => undefined);
  const until = async (wanted: string): Promise<void> => {
    while (text !== wanted) await once(response, 'data');
  };
  return { response, until, ended: once(response, 'end').then(() => text) };
}

describe('GET /v1/machines/{id}/serial?follow=true', () => {
  it('answers before there is anything, goes on with what comes, and ends with its client', async () => {
    const { base, say, open } = await serve();
    const { response, until } = await follow(`${base}${path}/serial?follow=true`);
    expect(response.headers).toMatchObject({
      'content-type': 'text/plain; charset=utf-8',
      'content-range': 'bytes 0--1/0',
      'cache-control': 'no-store',
      'transfer-encoding': 'chunked',
    });
    await say('one ');
    await until('one ');
    await say('two');
    await until('one two');
    const late = await follow(`${base}${path}/serial?follow=true&from=-3`);
    expect(late.response.headers['content-range']).toBe('bytes 4-6/7');
    await late.until('two');
    expect(open.size).toBe(2);
    response.destroy();
    late.response.destroy();
    while (open.size > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  it('ends in good order when the server closes', async () => {
    const { base, say } = await serve();
    await say('all');
    const { ended, until } = await follow(`${base}${path}/serial?follow=true&from=0`);
    await until('all');
    built?.beginClosing();
    expect(await ended).toBe('all');
  });

  it('ends when the credentials do', async () => {
    let isRevoked = false;
    const bearerOnce: AppOptions['authenticator']['bearer'] = (secret, hash) =>
      isRevoked ? Promise.reject(new CalotypeError('token_revoked')) : fakeAuthenticator.bearer(secret, hash);
    const authenticator = { ...fakeAuthenticator, bearer: bearerOnce };
    const { base } = await serve({ authenticator }, { recheckMs: 5 });
    const { ended } = await follow(`${base}${path}/serial?follow=true`);
    isRevoked = true;
    expect(await ended).toBe('');
  });

  it('is answered by its head alone when no more is wanted', async () => {
    const { base, say, open } = await serve();
    await say('abc');
    const answer = await fetch(`${base}${path}/serial?follow=true`, { method: 'HEAD', headers: bearer });
    expect(answer.headers.get('content-range')).toBe('bytes 0-2/3');
    while (open.size > 0) await new Promise((resolve) => setImmediate(resolve));
  });
});

describe('POST /v1/machines/{id}/console', () => {
  it('types the bytes as they are', async () => {
    const { base, typed } = await serve();
    const send = (body: string, type: string) =>
      fetch(`${base}${path}/console`, { method: 'POST', body, headers: { ...bearer, 'content-type': type } });
    expect((await send('ls\r\n', 'application/octet-stream')).status).toBe(204);
    expect((await send('{"a": 1}', 'text/plain')).status).toBe(204);
    expect(typed).toEqual(['ls\r\n', '{"a": 1}']);
    expect((await send('{}', 'application/json')).status).toBe(415);
    expect((await send('x'.repeat(64 * 1024 + 1), 'text/plain')).status).toBe(413);
    expect(typed).toHaveLength(2);
  });
});
