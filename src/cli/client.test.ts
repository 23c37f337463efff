import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createTlsServer } from 'node:https';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { aDrive, aTask, FakeApi, problem, runCli } from '../../test/fake-native-api.ts';
import { makeSelfSigned } from './self-signed.ts';

let api: FakeApi;
beforeEach(async () => {
  api = await FakeApi.start();
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const create = (...more: string[]) => runCli(['drive', 'create', 'data', '10G', ...more], { api });

describe('requests', () => {
  it('carry token, project and a name of the program', async () => {
    api.on('GET /space', { freeBytes: 1, totalBytes: 2, reserveBytes: 0, low: false });
    expect((await runCli(['space', '--project', 'work'], { api })).code).toBe(0);
    expect(api.requests[0]?.headers).toMatchObject({
      authorization: 'Bearer secret',
      'calotype-project': 'work',
      'user-agent': expect.stringMatching(/^calotype-cli\//),
    });
  });

  it('that make something carry a fresh idempotency key, or the one given', async () => {
    api.on('POST /drives', { task: aTask(), drive: aDrive() });
    await create();
    await create();
    await create('--idempotency-key', 'mine');
    const keys = api.asked('POST /drives').map((request) => String(request.headers['idempotency-key']));
    expect(keys[0]).toMatch(/^[0-9a-f-]{36}$/);
    expect(new Set(keys).size).toBe(3);
    expect(keys[2]).toBe('mine');
  });
});

describe('a lost connection', () => {
  it('is tried again, with the same key, and the answer then is the answer', async () => {
    api.on('POST /drives', (_request, response) => {
      if (api.requests.length < 3) {
        response.destroy();
        return undefined;
      }
      return { task: aTask(), drive: aDrive({ name: 'data' }) };
    });
    const outcome = await create();
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    expect(outcome.stdout).toContain('Created drive data');
    expect(new Set(api.requests.map((request) => request.headers['idempotency-key'])).size).toBe(1);
    expect(api.requests).toHaveLength(3);
  });

  it('is given up after three more attempts', async () => {
    api.on('POST /drives', (_request, response) => {
      response.destroy();
      return undefined;
    });
    expect(await create()).toMatchObject({ code: 6, stderr: expect.stringContaining('code: connection_lost') });
    expect(api.requests).toHaveLength(4);
  });

  it('waits for the first attempt when that is still at work', async () => {
    api.on('POST /drives', (_request, response) => {
      if (api.requests.length === 1) response.destroy();
      else if (api.requests.length === 2)
        problem(response, 409, 'idempotency_in_progress', 'Still running.', { retryable: true });
      else return { task: aTask(), drive: aDrive() };
      return undefined;
    });
    expect((await create()).code).toBe(0);
    expect(api.requests).toHaveLength(3);
  });

  it('is not tried again where the server keeps no key', async () => {
    api.on('POST /tokens', (_request, response) => {
      response.destroy();
      return undefined;
    });
    expect((await runCli(['token', 'create', 'ci'], { api })).code).toBe(6);
    expect(api.requests).toHaveLength(1);
  });
});

describe('no server', () => {
  it('is told with a remedy', async () => {
    const free = createTcpServer().listen(0, '127.0.0.1');
    await once(free, 'listening');
    const address = free.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    free.close();
    await once(free, 'close');
    const outcome = await runCli(['drive', 'list', '--url', `http://127.0.0.1:${port}`, '--token', 't']);
    expect(outcome.code).toBe(6);
    expect(outcome.stderr).toBe(
      `error: No server answers at http://127.0.0.1:${port}/v1 (ECONNREFUSED).\n` +
        'remedy: Start it (calotype serve --data DIR, or npm start), or say where it is: --data DIR, --url, CALOTYPE_URL.\n' +
        'code: unreachable\n',
    );
  });

  it('is not mistaken for one that speaks something else', async () => {
    const other = createTcpServer((socket) => socket.end('SSH-2.0-x\r\n')).listen(0, '127.0.0.1');
    await once(other, 'listening');
    const address = other.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const outcome = await runCli(['space', '--url', `http://127.0.0.1:${port}`, '--token', 't']);
    expect(outcome).toMatchObject({ code: 6, stderr: expect.stringContaining('code: not_http') });
    other.close();
  });

  it('is not mistaken for a web page', async () => {
    api.on('GET /space', (_request, response) => void response.end('<html>'));
    expect(await runCli(['space'], { api })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('code: not_json'),
    });
  });
});

describe('TLS', () => {
  it('trusts a certificate of `tls self-signed` given with --cacert, and none else', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'calotype-tls-'));
    const { certificatePem, keyPem } = await makeSelfSigned(['127.0.0.1'], 1, Date.now());
    const file = join(directory, 'cert.pem');
    writeFileSync(file, certificatePem);
    const server = createTlsServer({ cert: certificatePem, key: keyPem }, (_request, response) =>
      response.end(JSON.stringify({ freeBytes: 1, totalBytes: 2, reserveBytes: 0, low: false })),
    ).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    const url = `https://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
    try {
      const flags = ['space', '--url', url, '--token', 't'];
      expect(await runCli([...flags, '--cacert', file])).toMatchObject({ code: 0, stderr: '' });
      expect(await runCli(flags, { env: { CALOTYPE_CACERT: file } })).toMatchObject({ code: 0 });
      expect(await runCli(flags)).toMatchObject({
        code: 6,
        stderr: expect.stringMatching(/remedy: .*--cacert[\s\S]*code: tls_refused/),
      });
    } finally {
      server.closeAllConnections();
      server.close();
      rmSync(directory, { recursive: true });
    }
  });
});
