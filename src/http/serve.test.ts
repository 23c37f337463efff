/** `calotype serve` as a process: starting, refusing to start, stopping. Real QEMU, real catalog. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const command = fileURLToPath(new URL('../../bin/calotype', import.meta.url));
let directory: string;
let data: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'calotype-serve-'));
  data = join(directory, 'data');
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  }
  try {
    process.kill(Number(readFileSync(join(data, 'run/storage-daemon.pid'), 'utf8')), 'SIGKILL');
  } catch {
    // None was started.
  }
  rmSync(directory, { recursive: true, force: true });
});

function run(flags: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, [command, 'serve', '--log-level', 'warn', '--reserve-bytes', '0', ...flags], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  const ended = Promise.all([once(child, 'exit'), text(child.stderr)]).then(([[code], stderr]) => ({
    code: Number(code),
    stderr,
  }));
  return { child, ended };
}

interface Access {
  token: string;
  endpoints: { native: string };
}

async function start(flags: readonly string[] = ['--port-base', '0']) {
  const { child, ended } = run(['--data', data, ...flags]);
  let said = '';
  child.stdout?.setEncoding('utf8');
  const ready = (async () => {
    for await (const chunk of child.stdout ?? []) {
      said += chunk;
      if (said.includes('credentials ')) return;
    }
    throw new Error((await ended).stderr);
  })();
  await ready;
  const access: Access = JSON.parse(readFileSync(join(data, 'access.json'), 'utf8'));
  const call = (path: string, init: RequestInit = {}) =>
    fetch(`${access.endpoints.native}${path}`, {
      ...init,
      headers: { authorization: `Bearer ${access.token}`, ...init.headers },
    });
  return { child, ended, access, call, said };
}

async function failure(flags: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { code, stderr } = await run(flags, env).ended;
  return { code, stderr: stderr.trim() };
}

describe('starting', () => {
  test('the first start makes credentials and says what to try; a later one finds everything as it was', async () => {
    const first = await start();
    expect(first.said).toContain(first.access.token);
    expect(first.said).toContain('  calotype demo ');
    expect(first.said).toContain('calotype drive create disk1 1GiB');
    expect(statSync(join(data, 'access.json')).mode & 0o777).toBe(0o600);
    const made = await first.call('/drives', {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait=30' },
      body: JSON.stringify({ name: 'd', sizeBytes: 1024 ** 2 }),
    });
    expect(made.status).toBe(201);
    first.child.kill('SIGTERM');
    expect(await first.ended).toEqual({ code: 0, stderr: '' });

    const second = await start();
    expect(second.access.token).toBe(first.access.token);
    expect(second.said).not.toContain(first.access.token);
    expect(await (await second.call('/drives')).json()).toMatchObject({ items: [{ name: 'd', state: 'available' }] });
    second.child.kill('SIGINT');
    expect((await second.ended).code).toBe(0);
  });

  test('after kill -9 it starts again at once', async () => {
    const first = await start();
    first.child.kill('SIGKILL');
    await once(first.child, 'exit');
    expect((await (await start()).call('')).status).toBe(200);
  });

  test('TLS, with another certificate after SIGHUP', async () => {
    const pair = async (name: string) => {
      const child = spawn(
        'openssl',
        [
          'req',
          '-x509',
          '-newkey',
          'ec',
          '-pkeyopt',
          'ec_paramgen_curve:P-256',
          '-nodes',
          '-days',
          '2',
          '-subj',
          `/CN=${name}`,
          '-keyout',
          join(directory, `${name}.key`),
          '-out',
          join(directory, `${name}.pem`),
        ],
        { stdio: 'ignore' },
      );
      await once(child, 'exit');
      return { cert: readFileSync(join(directory, `${name}.pem`)), key: readFileSync(join(directory, `${name}.key`)) };
    };
    const [one, two] = [await pair('one'), await pair('two')];
    const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
    writeFileSync(cert, one.cert);
    writeFileSync(key, one.key);
    const server = await start(['--port-base', '0', '--tls-cert', cert, '--tls-key', key]);
    expect(server.access.endpoints.native).toMatch(/^https:/);
    const subject = async (): Promise<unknown> => {
      const request = https.get(server.access.endpoints.native.replace('/v1', '/healthz'), {
        rejectUnauthorized: false,
        agent: false,
      });
      const [response] = await once(request, 'response');
      const name: unknown = response.socket.getPeerCertificate().subject.CN;
      response.resume();
      expect(response.headers['strict-transport-security']).toBe('max-age=31536000');
      return name;
    };
    expect(await subject()).toBe('one');
    writeFileSync(cert, two.cert);
    writeFileSync(key, two.key);
    server.child.kill('SIGHUP');
    await expect.poll(subject).toBe('two');
    writeFileSync(cert, one.cert);
    expect(
      await failure(['--data', join(directory, 'other'), '--port-base', '0', '--tls-cert', cert, '--tls-key', key]),
    ).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^calotype: --tls-cert, --tls-key: .* do not make a pair/),
    });
  });
});

describe('refusing to start, in one sentence', () => {
  test('2: configuration', async () => {
    expect(await failure(['--data', data, '--port-base', 'x'])).toEqual({
      code: 2,
      stderr: 'calotype: --port-base: "x" is not valid; it takes a whole number from 0 to 65530.',
    });
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const address = taken.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const refused = await failure(['--data', data, '--port-base', String(port)]);
    taken.close();
    expect(refused).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^calotype: Port \d+ on 127\.0\.0\.1 is taken\. .*--port-base/),
    });
  });

  test('3: QEMU missing, no place to keep data', async () => {
    expect(await failure(['--data', data, '--port-base', '0'], { PATH: '/nonexistent' })).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^calotype: .*qemu/i),
    });
    writeFileSync(join(directory, 'file'), '');
    expect(await failure(['--data', join(directory, 'file/data'), '--port-base', '0'])).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^calotype: .*--data/),
    });
  });

  test('4: data directory in use', async () => {
    const server = await start();
    expect(await failure(['--data', data, '--port-base', '0'])).toEqual({
      code: 4,
      stderr: `calotype: Another server (process ${server.child.pid}, ${server.access.endpoints.native}) is using ${data}. Stop it first, or give this one a directory of its own with --data.`,
    });
    expect((await server.call('')).status).toBe(200);
  });

  test('5: catalog too new, or none', async () => {
    const server = await start();
    server.child.kill('SIGTERM');
    await server.ended;
    const db = new DatabaseSync(join(data, 'catalog.db'));
    db.exec('pragma user_version = 99');
    db.close();
    expect(await failure(['--data', data, '--port-base', '0'])).toMatchObject({
      code: 5,
      stderr: expect.stringContaining('newer program'),
    });
    const garbage = mkdtempSync(join(directory, 'garbage-'));
    writeFileSync(join(garbage, 'catalog.db'), 'not a database, by any means '.repeat(100));
    expect(await failure(['--data', garbage, '--port-base', '0'])).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/^calotype: The catalog/),
    });
  });
});

test('--reset-password gives a user of a stopped server a new password; a running one is left alone', async () => {
  const flags = ['--data', data, '--reset-password', 'admin'];
  expect(await failure(flags)).toMatchObject({ code: 2, stderr: expect.stringContaining('There is no catalog') });
  const first = await start();
  expect(await failure(flags)).toMatchObject({ code: 4 });
  first.child.kill('SIGTERM');
  await first.ended;
  rmSync(join(data, 'access.json'));
  expect(await failure(['--data', data, '--reset-password=nobody'])).toEqual({
    code: 1,
    stderr: 'calotype: There is no user nobody.',
  });
  const reset = run(flags);
  const [password, { code }] = await Promise.all([text(reset.child.stdout), reset.ended]);
  expect(code).toBe(0);

  const { child } = run(['--data', data, '--port-base', '0']);
  let said = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) {
    said += chunk;
    if (said.includes('credentials ')) break;
  }
  expect(said).toContain('calotype serve --reset-password USER');
  const url = /native +(\S+)/.exec(said)?.[1] ?? '';
  const basic = Buffer.from(`admin:${password.trim()}`).toString('base64');
  expect((await fetch(`${url}/drives`, { headers: { authorization: `Basic ${basic}` } })).status).toBe(200);
});

test('requests in flight are finished when the server is asked to stop', async () => {
  const server = await start();
  const stream = await server.call('/events', { headers: { accept: 'text/event-stream' } });
  server.child.kill('SIGTERM');
  expect(await stream.text()).toMatch(/^retry: /);
  expect(await server.ended).toEqual({ code: 0, stderr: '' });
  await expect(server.call('')).rejects.toThrow();
});
