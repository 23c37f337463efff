import { execFile } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type ExportId, newId } from '../core/ids.ts';
import { NbdClient, type NbdTlsPsk } from './nbd-client.ts';
import { type GatewayPsk, type GatewayRequest, NbdGateways } from './nbd-gateway.ts';
import { QmpClient } from './qmp.ts';
import { reachStorageDaemon, type StorageDaemon, stopStorageDaemon } from './storage-daemon.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;

let dir = '';
let runDirectory = '';
let main: StorageDaemon;
let gateways: NbdGateways;
let exportId: ExportId;
let cleanup = new AsyncDisposableStack();

beforeEach(async () => {
  cleanup = new AsyncDisposableStack();
  dir = await mkdtemp(join(tmpdir(), 'calotype-gateway,='));
  runDirectory = join(dir, 'run');
  const own = dir;
  cleanup.defer(() => rm(own, { recursive: true }));
  await writeFile(join(dir, 'disk.raw'), '');
  await truncate(join(dir, 'disk.raw'), 8 * MiB);
  await startMain();
  cleanup.defer(() => stopStorageDaemon(main));
  gateways = new NbdGateways({ runDirectory });
  cleanup.defer(async () => {
    const left = new NbdGateways({ runDirectory: join(own, 'run') });
    for (const one of await left.list()) await left.stop(one.exportId);
  });
  exportId = newId<ExportId>();
});
afterEach(async () => {
  await cleanup.disposeAsync();
});

/** The engine's storage daemon, serving the raw file as "drive" on its unix socket. */
async function startMain(): Promise<void> {
  main = await reachStorageDaemon({ runDirectory, imageDirectory: dir });
  const file = { driver: 'file', filename: 'disk.raw', discard: 'unmap' };
  await main.qmp.execute('blockdev-add', { driver: 'raw', 'node-name': 'top', discard: 'unmap', file });
  const more = { type: 'nbd', 'node-name': 'top', writable: true };
  await main.qmp.execute('block-export-add', { ...more, id: 'e0', name: 'drive' });
}

async function killMain(): Promise<void> {
  const closed = once(main.qmp, 'close');
  process.kill(main.pid, 'SIGKILL');
  await closed;
}

function requestFor(change: Partial<GatewayRequest> = {}): GatewayRequest {
  const target = { exportName: 'drive', socketPath: main.nbdSocketPath };
  const plain = { exportId, exportName: 'secret-name', target, writable: true, host: '127.0.0.1', port: 0, tls: false };
  return { ...plain, ...change };
}

function tlsOf(psk: GatewayPsk): NbdTlsPsk {
  return { pskIdentity: psk.identity, pskKeyHex: psk.keyHex };
}

async function connect(port: number, tls?: NbdTlsPsk, exportName = 'secret-name'): Promise<NbdClient> {
  const address = { kind: 'tcp' as const, host: '127.0.0.1', port, ...(tls && { tls }) };
  return cleanup.use(await NbdClient.connect(address, { exportName }));
}

async function failureOf(promise: Promise<unknown>): Promise<CalotypeError> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  if (error instanceof CalotypeError) return error;
  throw error;
}

function given<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('it is missing');
  return value;
}

const home = (): string => join(runDirectory, 'gateways', exportId);
const fileMode = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;

/** Every process that works in the gateway's directory. */
function processes(): number[] {
  const inHome = (pid: number): boolean => {
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === home();
    } catch {
      return false;
    }
  };
  return readdirSync('/proc').map(Number).filter(inHome);
}

/** A port that no process is given by chance while its owner is away: below those that Linux chooses from. */
async function quietPort(): Promise<number> {
  const port = 20_000 + randomInt(10_000);
  const server = createServer().listen(port, '127.0.0.1');
  const taken = await once(server, 'listening').catch(() => 'taken');
  if (taken === 'taken') return quietPort();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Ends the gateway behind its owner's back. */
async function killGateway(): Promise<void> {
  for (const pid of processes()) process.kill(pid, 'SIGKILL');
  await expect.poll(processes, { interval: 5 }).toEqual([]);
}

describe('without TLS', () => {
  test('what is written over TCP is in the drive, for two clients and nbdinfo', async () => {
    const { host, port, psk } = await gateways.start(requestFor());
    expect({ host, psk, privileged: port < 1024 }).toEqual({ host: '127.0.0.1', psk: undefined, privileged: false });
    const [one, two] = await Promise.all([connect(port), connect(port)]);
    const data = randomBytes(MiB);
    await one.write(MiB, data);
    await one.flush();
    expect(data.equals(await two.read(MiB, MiB))).toBe(true);
    expect(data.equals(readFileSync(join(dir, 'disk.raw')).subarray(MiB, 2 * MiB))).toBe(true);
    await two.trim(MiB, MiB);
    expect(Buffer.alloc(MiB).equals(await one.read(MiB, MiB))).toBe(true);
    // Why a name is no secret without TLS: see the module comment.
    const { stdout } = await run('nbdinfo', ['--json', '--list', `nbd://${host}:${port}`]);
    expect(JSON.parse(stdout)).toMatchObject({ TLS: false, exports: [{ 'export-name': 'secret-name' }] });
  });

  test('another name, the name of the target included, is refused', async () => {
    const { port } = await gateways.start(requestFor());
    const failure = await failureOf(connect(port, undefined, 'drive'));
    expect(failure).toMatchObject({ code: 'engine_failed', details: { nbdError: 'NBD_REP_ERR_UNKNOWN' } });
  });

  test('a read-only gateway to a writable export refuses writes', async () => {
    const { port } = await gateways.start(requestFor({ writable: false }));
    const client = await connect(port);
    expect(client.readOnly).toBe(true);
    expect(await client.read(0, 4)).toEqual(Buffer.alloc(4));
    const uri = `nbd://127.0.0.1:${port}/secret-name`;
    await expect(run('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', uri])).rejects.toThrow(/read.?only|permission/i);
  });

  test('requests wait for a main daemon that restarts', async () => {
    const { port } = await gateways.start(requestFor());
    const client = await connect(port);
    await client.write(0, Buffer.alloc(4096, 7), { fua: true });
    await killMain();
    const answer = client.read(0, 4096);
    await startMain();
    expect(await answer).toEqual(Buffer.alloc(4096, 7));
    await client.write(4096, Buffer.alloc(4096, 8), { fua: true });
    expect(readFileSync(join(dir, 'disk.raw')).subarray(4096, 8192)).toEqual(Buffer.alloc(4096, 8));
  });

  test('a gateway with a request that waits for the main daemon still stops', async () => {
    const { port } = await gateways.start(requestFor());
    const client = await connect(port);
    await killMain();
    const answer = failureOf(client.read(0, 4096));
    await gateways.stop(exportId);
    expect((await answer).code).toBe('engine_unavailable');
    expect(processes()).toEqual([]);
    await startMain();
  });
});

describe('with TLS', () => {
  test('our client, nbdinfo and qemu-io get in with the key, and with nothing else', async () => {
    const { port, psk } = await gateways.start(requestFor({ tls: true }));
    const tls = tlsOf(given(psk));
    const client = await connect(port, tls);
    await client.write(0, Buffer.alloc(512, 0x55), { fua: true });

    const keys = join(dir, 'keys');
    await mkdir(keys);
    await writeFile(join(keys, 'keys.psk'), `${tls.pskIdentity}:${tls.pskKeyHex}\n`);
    const uri = `nbds://${tls.pskIdentity}@127.0.0.1:${port}/secret-name?tls-psk-file=${join(keys, 'keys.psk')}`;
    const { stdout } = await run('nbdinfo', ['--json', uri]);
    expect(JSON.parse(stdout)).toMatchObject({ TLS: true, exports: [{ 'export-size': 8 * MiB, is_read_only: false }] });
    const credentials = `tls-creds-psk,id=t,endpoint=client,username=${tls.pskIdentity},dir=${keys.replaceAll(',', ',,')}`;
    const image = `driver=nbd,host=127.0.0.1,port=${port},export=secret-name,tls-creds=t`;
    await run('qemu-io', ['--object', credentials, '--image-opts', image, '-c', 'read -P 0x55 0 512']);

    expect(await failureOf(connect(port))).toMatchObject({ details: { nbdError: 'NBD_REP_ERR_TLS_REQD' } });
    const wrongKey = { ...tls, pskKeyHex: randomBytes(32).toString('hex') };
    expect((await failureOf(connect(port, wrongKey))).code).toMatch(/^engine_/);
    expect((await failureOf(connect(port, { ...tls, pskIdentity: 'other' }))).code).toMatch(/^engine_/);
    expect(await failureOf(connect(port, tls, 'drive'))).toMatchObject({ code: 'engine_failed' });
    // The name is for those with the key only.
    const listed = await run('nbdinfo', ['--list', `nbd://127.0.0.1:${port}`]).catch(String);
    expect(JSON.stringify(listed)).not.toContain('secret-name');
  });

  test('the key lies in a private directory and goes with the gateway', async () => {
    await gateways.start(requestFor({ tls: true }));
    expect(await fileMode(home())).toBe(0o700);
    expect(await fileMode(join(home(), 'keys.psk'))).toBe(0o600);
    await gateways.stop(exportId);
    expect(existsSync(home())).toBe(false);
  });

  test('a key from the caller is used', async () => {
    const psk = { identity: 'me', keyHex: '5a'.repeat(32) };
    const { port } = await gateways.start(requestFor({ tls: true, psk }));
    expect((await connect(port, tlsOf(psk))).sizeBytes).toBe(8 * MiB);
  });
});

describe('the life of a gateway', () => {
  test('another server adopts it while clients go on, and stops it', async () => {
    const { port, psk } = await gateways.start(requestFor({ tls: true }));
    const client = await connect(port, tlsOf(given(psk)));
    const later = new NbdGateways({ runDirectory });
    expect(await later.adopt()).toEqual([exportId]);
    const { target } = requestFor();
    expect(await later.list()).toEqual([
      {
        exportId,
        exportName: 'secret-name',
        target,
        writable: true,
        host: '127.0.0.1',
        port,
        tls: true,
        running: true,
      },
    ]);
    expect(await client.read(0, 4)).toEqual(Buffer.alloc(4));
    await later.stop(exportId);
    expect(processes()).toEqual([]);
    expect((await failureOf(connect(port))).code).toBe('engine_unavailable');
    await gateways.stop(exportId);
    await gateways.stop(newId<ExportId>());
    expect(await gateways.list()).toEqual([]);
  });

  test('one that died is listed as such and comes back with its port and key', async () => {
    const first = await gateways.start(requestFor({ tls: true, port: await quietPort() }));
    await killGateway();
    const later = new NbdGateways({ runDirectory });
    expect(await later.adopt()).toEqual([]);
    expect(await later.list()).toMatchObject([{ exportId, port: first.port, running: false }]);
    expect(await later.restart(exportId)).toEqual(first);
    await connect(first.port, tlsOf(given(first.psk)));
    await killGateway();
    expect(await later.start(requestFor({ tls: true }))).toEqual(first);
    expect(await failureOf(later.restart(newId<ExportId>()))).toMatchObject({ code: 'not_found' });
  });

  test('starting twice leaves the first alone; starting it differently replaces it', async () => {
    const [first, again] = await Promise.all([gateways.start(requestFor()), gateways.start(requestFor())]);
    expect(again).toEqual(first);
    const before = processes();
    await gateways.start(requestFor({ port: first.port }));
    expect(processes()).toEqual(before);
    expect(await gateways.start(requestFor({ writable: false }))).toEqual(first);
    expect((await connect(first.port)).readOnly).toBe(true);
    expect(processes()).toHaveLength(1);
  });

  test('adopting ends what is half made and removes what says nothing', async () => {
    const empty = join(runDirectory, 'gateways', newId<ExportId>());
    await mkdir(empty, { recursive: true });
    await gateways.start(requestFor());
    const qmp = await QmpClient.connect(join(home(), 'qmp.sock'));
    await qmp.execute('nbd-server-stop');
    qmp.close();
    expect(await gateways.adopt()).toEqual([]);
    expect(processes()).toEqual([]);
    expect(existsSync(empty)).toBe(false);
    expect(await gateways.list()).toMatchObject([{ exportId, running: false }]);
  });

  test('one whose directory was removed is ended before another takes its place', async () => {
    const { port } = await gateways.start(requestFor());
    const orphans = processes();
    await rm(home(), { recursive: true });
    expect(await gateways.start(requestFor({ port }))).toEqual({ host: '127.0.0.1', port });
    expect(processes()).toHaveLength(1);
    expect(processes()).not.toEqual(orphans);
  });

  test('a run directory whose path is too long for a socket will do', async () => {
    const deep = new NbdGateways({ runDirectory: join(dir, 'd'.repeat(120)) });
    const { port } = await deep.start(requestFor());
    cleanup.defer(() => deep.stop(exportId));
    expect((await connect(port)).sizeBytes).toBe(8 * MiB);
    expect(await deep.adopt()).toEqual([exportId]);
  });
});

describe('what is refused', () => {
  test('a port that is taken', async () => {
    const squatter = createServer().listen(0, '127.0.0.1');
    await once(squatter, 'listening');
    cleanup.defer(async () => void (await new Promise((resolve) => squatter.close(resolve))));
    const address = squatter.address();
    const port = address !== null && typeof address === 'object' ? address.port : 0;
    const failure = await failureOf(gateways.start(requestFor({ port })));
    expect(failure).toMatchObject({ code: 'invalid_request', details: { field: 'port', port } });
    expect(failure.message).toContain('taken');
    expect(existsSync(home())).toBe(false);
  });

  test.each<[string, Partial<GatewayRequest>]>([
    ['port', { port: 80 }],
    ['port', { port: 65_536 }],
    ['port', { port: 1.5 }],
    ['host', { host: 'localhost' }],
    ['host', { host: '192.0.2.1' }],
    ['host', { host: '2001:db8::1' }],
    ['exportName', { exportName: '' }],
    ['exportName', { exportName: 'a\nb' }],
    ['psk', { tls: false, psk: { identity: 'a', keyHex: '00'.repeat(32) } }],
    ['psk', { tls: true, psk: { identity: 'a:b', keyHex: '00'.repeat(32) } }],
    ['psk', { tls: true, psk: { identity: 'a', keyHex: '00' } }],
  ])('%s: %j', async (field, change) => {
    const failure = await failureOf(gateways.start(requestFor(change)));
    expect(failure).toMatchObject({ code: 'invalid_request', details: { field } });
    expect(existsSync(home())).toBe(false);
  });

  test('a target that is not served: nothing is left behind', async () => {
    const target = { exportName: 'nobody', socketPath: main.nbdSocketPath };
    expect(await failureOf(gateways.start(requestFor({ target })))).toMatchObject({ code: 'engine_failed' });
    expect(existsSync(home())).toBe(false);
    expect(processes()).toEqual([]);
  });
});
