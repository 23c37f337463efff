import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createCipheriv, randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createConnection, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type Extent, normalizeExtents } from '../core/extents.ts';
import { NbdClient, type NbdConnectOptions, type NbdStatusRun } from './nbd-client.ts';
import { ByteReader } from './nbd-protocol.ts';

const run = promisify(execFile);
const KiB = 1024;
const MiB = 1024 * KiB;
const TiB = 1024 * 1024 * MiB;

let dir = '';
let cleanup = new AsyncDisposableStack();
beforeEach(async () => {
  cleanup = new AsyncDisposableStack();
  dir = await mkdtemp(join(tmpdir(), 'calotype-nbd-'));
  const own = dir;
  cleanup.defer(() => rm(own, { recursive: true }));
});
afterEach(async () => {
  await cleanup.disposeAsync();
});

const at = (name: string): string => join(dir, name);
const socketUri = (name: string): string => `nbd+unix:///${name}?socket=${at('nbd.sock')}`;

/** Starts a server and waits until it prints `ready`; it dies with the test, and with the test's process whatever ends that. */
async function start(program: string, args: string[], ready: string): Promise<ChildProcess> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  const closed = once(child, 'close');
  cleanup.defer(async () => {
    child.stdout.resume();
    child.stdin.end();
    if (program !== 'nbdkit') child.kill('SIGKILL');
    await closed;
  });
  let printed = '';
  for await (const data of child.stdout.iterator({ destroyOnReturn: false })) {
    printed += String(data);
    if (printed.includes(ready)) return child;
  }
  throw new Error(`${program} ended: ${printed}`);
}

const unixServer = (): string => `addr.type=unix,addr.path=${at('nbd.sock')}`;

/** A storage daemon that exports `image` (a qcow2 file with its backing chain) as "disk". The QMP greeting comes when all is set up. */
function startDaemon(image: string, more: { server?: string; exported?: string; objects?: string[] } = {}) {
  const args = ['--chardev', 'stdio,id=mon', ...(more.objects ?? []).flatMap((o) => ['--object', o])];
  const file = `driver=qcow2,node-name=top,discard=unmap,file.driver=file,file.discard=unmap,file.filename=${image}`;
  args.push('--blockdev', file, '--nbd-server', more.server ?? unixServer());
  args.push('--export', `type=nbd,id=e0,node-name=top,name=disk,${more.exported ?? 'writable=on'}`);
  return start('qemu-storage-daemon', [...args, '--monitor', 'chardev=mon'], '"QMP"');
}

/** nbdkit serves in a process of its own, for as long as its command runs: `cat` ends when we close its input. */
function startNbdkit(args: string[]): Promise<ChildProcess> {
  return start('nbdkit', ['-U', at('nbd.sock'), ...args, '--run', 'echo ready; exec cat'], 'ready');
}

async function connect(options: Partial<NbdConnectOptions> = {}): Promise<NbdClient> {
  const client = await NbdClient.connect({ kind: 'unix', path: at('nbd.sock') }, { exportName: 'disk', ...options });
  return cleanup.use(client);
}

async function createImage(name: string, sizeBytes: number, more: string[] = []): Promise<string> {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, at(name), String(sizeBytes)]);
  return at(name);
}

async function qemuIo(image: string, ...commands: string[]): Promise<void> {
  await run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), image]);
}

/** Bytes that do not repeat. */
function noise(length: number): Buffer {
  return createCipheriv('aes-128-ctr', randomBytes(16), randomBytes(16)).update(Buffer.alloc(length));
}

async function failureOf(promise: Promise<unknown>): Promise<CalotypeError> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  if (error instanceof CalotypeError) return error;
  throw error;
}

async function mapByNbdinfo(context: string): Promise<NbdStatusRun[]> {
  const { stdout } = await run('nbdinfo', ['--json', `--map=${context}`, socketUri('disk')]);
  const rows: { offset: number; length: number; type: number }[] = JSON.parse(stdout);
  const runs: { start: number; length: number; flags: number }[] = [];
  for (const row of rows) {
    const last = runs[runs.length - 1];
    if (last?.flags === row.type) last.length += row.length;
    else runs.push({ start: row.offset, length: row.length, flags: row.type });
  }
  return runs;
}

async function collect(extents: AsyncGenerator<Extent>): Promise<Extent[]> {
  const list: Extent[] = [];
  for await (const extent of extents) list.push(extent);
  return list;
}

describe('against qemu-storage-daemon', () => {
  test('what is written, zeroed and trimmed reads back, here and in qemu-img', async () => {
    const image = await createImage('disk.qcow2', 64 * MiB);
    const daemon = await startDaemon(image);
    const client = await connect();
    expect(client).toMatchObject({ sizeBytes: 64 * MiB, readOnly: false, canTrim: true, canWriteZeroes: true });
    expect(client).toMatchObject({ canFlush: true, blockSizes: { minimumBytes: 1, maximumBytes: 32 * MiB } });
    const expected = Buffer.alloc(64 * MiB);
    const data = noise(40 * MiB); // more than one request may carry
    data.copy(expected, 3);
    await client.write(3, data);
    await client.write(60 * MiB, data.subarray(0, 512), { fua: true });
    data.copy(expected, 60 * MiB, 0, 512);
    await client.writeZeroes(8 * MiB, 64 * KiB + 5);
    expected.fill(0, 8 * MiB, 8 * MiB + 64 * KiB + 5);
    await client.trim(16 * MiB, 2 * MiB);
    expected.fill(0, 16 * MiB, 18 * MiB);
    await client.flush();
    expect(expected.equals(await client.read(0, 64 * MiB))).toBe(true);
    expect(await client.read(64 * MiB, 0)).toHaveLength(0);
    expect(await client.blockStatus('base:allocation', 16 * MiB, 2 * MiB)).toEqual([
      { start: 16 * MiB, length: 2 * MiB, flags: 3 },
    ]);
    await client.close();
    expect(await failureOf(client.read(0, 1))).toMatchObject({ code: 'engine_unavailable' });
    daemon.kill('SIGTERM');
    await once(daemon, 'exit');
    await run('qemu-img', ['convert', '-O', 'raw', image, at('raw')]);
    expect(expected.equals(await readFile(at('raw')))).toBe(true);
  });

  test('64 parallel random reads bring the image content', async () => {
    const content = Buffer.concat([noise(7 * MiB), Buffer.alloc(9 * MiB), noise(8 * MiB)]);
    await writeFile(at('raw'), content);
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', at('raw'), at('disk.qcow2')]);
    await startDaemon(at('disk.qcow2'), { exported: 'writable=off' });
    const client = await connect();
    const reads = Array.from({ length: 64 }, async () => {
      const offset = randomInt(content.length - 1);
      const length = randomInt(1, Math.min(MiB, content.length - offset));
      const bytes = await client.read(offset, length);
      return bytes.equals(content.subarray(offset, offset + length)) ? 'same' : `differs at ${offset}, ${length}`;
    });
    expect(new Set(await Promise.all(reads))).toEqual(new Set(['same']));
  });

  test('the allocation map equals those of nbdinfo and qemu-img map', async () => {
    const image = await createImage('disk.qcow2', 256 * MiB);
    const writes = Array.from({ length: 300 }, () => `write -q ${randomInt(4093) * 64}k ${randomInt(1, 4) * 64}k`);
    await qemuIo(
      image,
      ...writes.filter((_, i) => i % 3 > 0),
      'write -q -z 1M 3M',
      'write -q 100M 5M',
      'write -q 0 4k',
    );
    const { stdout } = await run('qemu-img', ['map', '--output=json', image]);
    const map: { start: number; length: number; zero: boolean }[] = JSON.parse(stdout);
    await startDaemon(image);
    const client = await connect();
    expect(client.metaContexts).toEqual(['base:allocation']);
    const runs = await client.blockStatus('base:allocation', 0, client.sizeBytes);
    expect(runs).toEqual(await mapByNbdinfo('base:allocation'));
    expect(await collect(client.dataExtents())).toEqual(normalizeExtents(map.filter((row) => !row.zero)));
    const part = await client.blockStatus('base:allocation', 100 * MiB + 7, 5 * MiB - 9);
    expect(part).toEqual([{ start: 100 * MiB + 7, length: 5 * MiB - 9, flags: 0 }]);
    expect(await client.blockStatus('base:allocation', 5, 0)).toEqual([]);
  });

  test('a status far above 4 GiB is asked for in pieces', async () => {
    const image = await createImage('disk.qcow2', 10 * TiB + 512, ['-o', 'cluster_size=2M']);
    await qemuIo(image, 'write -q 9T 2M', 'write -q 10T 512');
    await startDaemon(image);
    const client = await connect();
    expect(await collect(client.dataExtents())).toEqual([
      { start: 9 * TiB, length: 2 * MiB },
      { start: 10 * TiB, length: 512 },
    ]);
    expect(await client.blockStatus('base:allocation', 5, 9 * TiB - 5)).toEqual([
      { start: 5, length: 9 * TiB - 5, flags: 3 },
    ]);
    await client.writeZeroes(0, 5 * 1024 * MiB);
    await client.trim(MiB, 5 * 1024 * MiB);
  });

  test('allocation depth tells the layers of a chain apart', async () => {
    const layers: string[] = [];
    for (const [i, name] of ['base', 'middle', 'top'].entries()) {
      const backing = i === 0 ? [] : ['-F', 'qcow2', '-b', layers[i - 1] ?? ''];
      layers.push(await createImage(name, 16 * MiB, backing));
      await qemuIo(at(name), `write -q ${i * 4}M 2M`);
    }
    await startDaemon(at('top'), { exported: 'writable=off,allocation-depth=on' });
    const client = await connect({ metaContexts: ['qemu:allocation-depth', 'base:allocation', 'x-unknown:context'] });
    expect(client.metaContexts.toSorted()).toEqual(['base:allocation', 'qemu:allocation-depth']);
    const runs = await client.blockStatus('qemu:allocation-depth', 0, client.sizeBytes);
    expect(runs.filter((r) => r.flags > 0)).toEqual([
      { start: 0, length: 2 * MiB, flags: 3 },
      { start: 4 * MiB, length: 2 * MiB, flags: 2 },
      { start: 8 * MiB, length: 2 * MiB, flags: 1 },
    ]);
    expect(runs).toEqual(await mapByNbdinfo('qemu:allocation-depth'));
    expect(await failureOf(client.blockStatus('x-unknown:context', 0, 1))).toMatchObject({ code: 'not_supported' });
  });

  test('a read-only export, a bad range and an unknown name are refused', async () => {
    const image = await createImage('disk.qcow2', MiB);
    await startDaemon(image, { exported: 'writable=off' });
    const client = await connect({ metaContexts: [] });
    expect(client).toMatchObject({ readOnly: true, canTrim: false, canWriteZeroes: false, metaContexts: [] });
    const refused = await failureOf(client.write(0, Buffer.alloc(512)));
    expect(refused).toMatchObject({ code: 'not_supported', message: 'The NBD export "disk" is read-only.' });
    expect(await failureOf(client.trim(0, 512))).toMatchObject({ code: 'not_supported', details: { errno: 'EPERM' } });
    expect(await failureOf(client.read(MiB - 1, 2))).toMatchObject({ code: 'invalid_request' });
    expect(await failureOf(client.read(0.5, 1))).toMatchObject({ code: 'invalid_request' });
    const unknown = await failureOf(connect({ exportName: 'nothing' }));
    expect(unknown).toMatchObject({ code: 'engine_failed', details: { nbdError: 'NBD_REP_ERR_UNKNOWN' } });
    expect(unknown.message).toContain('no export named "nothing"');
  });

  test('a killed server rejects all that is in flight and all that comes later', async () => {
    const image = await createImage('disk.qcow2', 64 * MiB);
    const daemon = await startDaemon(image);
    const client = await connect();
    daemon.kill('SIGSTOP');
    const inFlight = [client.read(0, MiB), client.write(0, noise(40 * MiB)), client.flush(), client.trim(0, MiB)];
    const settled = Promise.allSettled(inFlight);
    daemon.kill('SIGKILL');
    for (const result of await settled) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'engine_unavailable' } });
    }
    expect(await failureOf(client.read(0, 1))).toMatchObject({
      code: 'engine_unavailable',
      details: { command: 'read' },
    });
    await client.close();
    expect(await failureOf(connect())).toMatchObject({
      code: 'engine_unavailable',
      details: { reason: 'ECONNREFUSED' },
    });
  });

  test('close waits for answers, and not for ever', async () => {
    const image = await createImage('disk.qcow2', MiB);
    const daemon = await startDaemon(image);
    const client = await connect();
    const reading = client.read(0, MiB);
    await client.close();
    expect(await reading).toHaveLength(MiB);
    const patient = await connect({ timeoutMs: 200 });
    daemon.kill('SIGSTOP');
    const stuck = failureOf(patient.read(0, 1));
    await patient.close();
    expect(await stuck).toMatchObject({ code: 'engine_unavailable' });
    const late = await failureOf(connect({ timeoutMs: 200 }));
    expect(late).toMatchObject({ code: 'engine_unavailable', details: { timeoutMs: 200 } });
  });

  test.each([
    ['1.3', 'NORMAL'],
    ['1.2', 'NORMAL:-VERS-TLS1.3'],
  ])('TLS %s with a pre-shared key', async (_version, priority) => {
    const image = await createImage('disk.qcow2', 8 * MiB);
    const pskKeyHex = randomBytes(32).toString('hex');
    await writeFile(at('keys.psk'), `calotype:${pskKeyHex}\n`);
    const port = await freePort();
    await startDaemon(image, {
      objects: [`tls-creds-psk,id=tls0,endpoint=server,dir=${dir},priority=${priority}`],
      server: `addr.type=inet,addr.host=127.0.0.1,addr.port=${port},tls-creds=tls0`,
    });
    const address = { kind: 'tcp', host: '127.0.0.1', port } as const;
    const tls = { pskIdentity: 'calotype', pskKeyHex };
    const client = cleanup.use(await NbdClient.connect({ ...address, tls }, { exportName: 'disk' }));
    const data = noise(5 * MiB);
    await client.write(MiB, data);
    expect(data.equals(await client.read(MiB, data.length))).toBe(true);
    await client.close();

    const wrongKey = { ...tls, pskKeyHex: randomBytes(32).toString('hex') };
    const refused = await failureOf(NbdClient.connect({ ...address, tls: wrongKey }, { exportName: 'disk' }));
    expect(refused).toMatchObject({ code: 'engine_failed' });
    expect(refused.message).toContain('TLS handshake');
    const plain = await failureOf(NbdClient.connect(address, { exportName: 'disk' }));
    expect(plain).toMatchObject({ code: 'engine_failed', details: { nbdError: 'NBD_REP_ERR_TLS_REQD' } });
  });
});

describe('against nbdkit', () => {
  test('a server without structured replies serves, without block status', async () => {
    await startNbdkit(['--no-sr', 'memory', '4M']);
    const client = await connect();
    const data = noise(3 * MiB);
    await client.write(512, data, { fua: true });
    expect(data.equals(await client.read(512, data.length))).toBe(true);
    expect(client.metaContexts).toEqual([]);
    expect(await failureOf(collect(client.dataExtents()))).toMatchObject({ code: 'not_supported' });
  });

  test('block size limits are kept', async () => {
    const policy = ['blocksize-minimum=4096', 'blocksize-maximum=64K', 'blocksize-error-policy=error'];
    await startNbdkit(['--filter=blocksize-policy', 'memory', '4M', ...policy]);
    const client = await connect();
    expect(client.blockSizes).toMatchObject({ minimumBytes: 4096, maximumBytes: 64 * KiB });
    const data = noise(2 * MiB);
    await client.write(4096, data);
    expect(data.subarray(77, 900_000).equals(await client.read(4096 + 77, 900_000 - 77))).toBe(true);
    expect(await client.blockStatus('base:allocation', 4097, 10)).toEqual([{ start: 4097, length: 10, flags: 0 }]);
    expect(await failureOf(client.write(1, Buffer.alloc(4096)))).toMatchObject({ code: 'invalid_request' });
  });

  test('ENOSPC and EIO are told apart, and the connection goes on', async () => {
    const errors = [
      'error=EIO',
      'error-pread-rate=0',
      'error-pwrite=ENOSPC',
      'error-pwrite-rate=100%',
      'error-trim-rate=100%',
    ];
    await startNbdkit(['--filter=error', 'memory', '1M', ...errors, 'error-zero-rate=0', 'error-extents-rate=0']);
    const client = await connect();
    const full = await failureOf(client.write(0, Buffer.alloc(512)));
    expect(full).toMatchObject({ code: 'space_exhausted', details: { errno: 'ENOSPC', command: 'write' } });
    expect(await failureOf(client.trim(0, 512))).toMatchObject({ code: 'engine_failed', details: { errno: 'EIO' } });
    expect(await client.read(0, 512)).toEqual(Buffer.alloc(512));
  });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

// A server of our own that breaks the rules

type Field = readonly [bits: 16 | 32 | 64, value: number | bigint] | Uint8Array;

function pack(...fields: Field[]): Buffer {
  const parts = fields.map((field) => {
    if (field instanceof Uint8Array) return field;
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(field[1]));
    return bytes.subarray(8 - field[0] / 8);
  });
  return Buffer.concat(parts);
}

const greeting = pack([64, 0x4e42444d41474943n], [64, 0x49484156454f5054n], [16, 3]);
const optionReply = (option: number, type: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer =>
  pack([64, 0x3e889045565a9n], [32, option], [32, type], [32, length], data);

function structured(cookie: bigint, flags: number, type: number, body: Buffer, length = body.length): Buffer {
  return pack([32, 0x668e33ef], [16, flags], [16, type], [64, cookie], [32, length], body);
}

async function serve(handler: (socket: Socket, reader: ByteReader) => Promise<void>, port?: number): Promise<void> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    handler(socket, new ByteReader(socket)).catch(() => socket.destroy());
  }).listen(port === undefined ? { path: at('nbd.sock') } : { host: '127.0.0.1', port });
  await once(server, 'listening');
  cleanup.defer(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
}

/** Negotiates a 1 MiB export with base:allocation as context 7, then sends what `answer` makes of each request. */
function serveAnswers(answer: (cookie: bigint) => Buffer): Promise<void> {
  return serve(async (socket, reader) => {
    socket.write(greeting);
    await reader.take(4);
    for (let option = 0; option !== 7; ) {
      const header = await reader.take(16);
      option = header.readUInt32BE(8);
      await reader.take(header.readUInt32BE(12));
      if (option === 10) socket.write(optionReply(10, 4, pack([32, 7], Buffer.from('base:allocation'))));
      if (option === 7) socket.write(optionReply(7, 3, pack([16, 0], [64, MiB], [16, 1])));
      socket.write(optionReply(option, 1));
    }
    for (;;) {
      const request = await reader.take(28);
      const bytes = answer(request.readBigUInt64BE(8));
      for (let from = 0; from < bytes.length; from += 5) socket.write(bytes.subarray(from, from + 5));
    }
  });
}

describe('against a server that breaks the rules', () => {
  const handshakes: [string, Buffer][] = [
    ['no NBD greeting', Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n')],
    ['bad magic in the greeting', pack([64, 0x4e42444d41474943n], [64, 1], [16, 3])],
    ['the server speaks the oldstyle handshake', pack([64, 0x4e42444d41474943n], [64, 0x420281861253n], [16, 0])],
    ['an option reply is too long', Buffer.concat([greeting, optionReply(8, 1, Buffer.alloc(0), 0xffffffff)])],
    ['bad magic in an option reply', Buffer.concat([greeting, Buffer.alloc(20)])],
    ['a reply to an option that was not sent', Buffer.concat([greeting, optionReply(3, 1)])],
  ];
  test.each(handshakes)('%s', async (what, bytes) => {
    await serve(async (socket) => {
      socket.write(bytes);
    });
    expect(await failureOf(connect())).toMatchObject({ code: 'engine_failed', details: { violation: what } });
  });

  test('bytes in the clear behind the answer to STARTTLS are refused', async () => {
    const port = await freePort();
    await serve(async (socket, reader) => {
      socket.write(greeting);
      await reader.take(4 + 16);
      socket.write(Buffer.concat([optionReply(5, 1), optionReply(8, 1)]));
    }, port);
    const tls = { pskIdentity: 'calotype', pskKeyHex: '00'.repeat(32) };
    const failed = await failureOf(
      NbdClient.connect({ kind: 'tcp', host: '127.0.0.1', port, tls }, { exportName: '' }),
    );
    expect(failed).toMatchObject({ details: { violation: 'data in the clear after NBD_OPT_STARTTLS' } });
  });

  const data = (offset: number, length: number): Buffer => pack([64, offset], Buffer.alloc(length, 0xaa));
  const answers: [string, (cookie: bigint) => Buffer][] = [
    ['bad magic in a reply', () => Buffer.alloc(32, 1)],
    ['a reply to a request that was not sent', (cookie) => structured(cookie + 9n, 1, 0, Buffer.alloc(0))],
    ['a simple reply where a structured one is due', (cookie) => pack([32, 0x67446698], [32, 0], [64, cookie])],
    ['a reply chunk of unknown type or impossible length', (c) => structured(c, 1, 1, data(0, 9), 0xffffffff)],
    ['a reply chunk of unknown type or impossible length', (c) => structured(c, 1, 0x8001, data(0, 9), 0x7fffffff)],
    ['a reply chunk of unknown type or impossible length', (c) => structured(c, 1, 99, data(0, 9))],
    ['data outside the range asked for', (cookie) => structured(cookie, 1, 1, data(0, 4097))],
    ['data outside the range asked for', (cookie) => structured(cookie, 1, 2, pack([64, 2n ** 63n], [32, 4096]))],
    ['a read answered with gaps or overlaps', (cookie) => structured(cookie, 1, 1, data(0, 4095))],
    [
      'a read answered with gaps or overlaps',
      (c) => Buffer.concat([structured(c, 0, 1, data(0, 2048)), structured(c, 1, 1, data(1, 2048))]),
    ],
    ['bad block status', (cookie) => structured(cookie, 1, 5, pack([32, 7], [32, 512], [32, 0]))],
    ['bad error chunk', (cookie) => structured(cookie, 1, 0x8001, pack([32, 5], [16, 60]))],
  ];
  test.each(answers)('%s (%#)', async (what, answer) => {
    await serveAnswers(answer);
    const client = await connect();
    const both = await Promise.all([failureOf(client.read(0, 4096)), failureOf(client.read(0, 4096))]);
    for (const error of both) expect(error).toMatchObject({ code: 'engine_failed', details: { violation: what } });
  });

  test.each([
    ['bad block status', Buffer.alloc(4)],
    ['block status with an empty run', pack([32, 7], [32, 0], [32, 0])],
    ['block status without one of the contexts', undefined],
  ])('%s', async (what, body) => {
    await serveAnswers((cookie) => structured(cookie, 1, body === undefined ? 0 : 5, body ?? Buffer.alloc(0)));
    const client = await connect();
    const failed = await failureOf(client.blockStatus('base:allocation', 0, MiB));
    expect(failed).toMatchObject({ code: 'engine_failed', details: { violation: what } });
  });

  test('a server that sends ahead of the reader is held back', async () => {
    const content = noise(16 * MiB);
    await serve(async (socket) => {
      socket.write(content);
    });
    const socket = createConnection(at('nbd.sock'));
    cleanup.defer(() => {
      socket.destroy();
    });
    const reader = new ByteReader(socket);
    await once(socket, 'pause');
    expect(socket.bytesRead).toBeLessThan(4 * MiB);
    const first = Buffer.from(await reader.take(100));
    const rest = await reader.take(content.length - 100);
    expect(Buffer.concat([first, rest]).equals(content)).toBe(true);
  });

  test('chunks in any order and in crumbs make a read; an error ends only its own request', async () => {
    const message = Buffer.from('bad sector');
    await serveAnswers((cookie) => {
      if (cookie === 2n) {
        const error = pack([32, 5], [16, message.length], message, [64, 1024]);
        return Buffer.concat([structured(cookie, 0, 1, data(0, 1024)), structured(cookie, 1, 0x8002, error)]);
      }
      const hole = structured(cookie, 0, 2, pack([64, 2048], [32, 2048]));
      const done = structured(cookie, 1, 0, Buffer.alloc(0));
      const chunks = [hole, structured(cookie, 0, 1, data(1024, 1024)), structured(cookie, 0, 1, data(0, 1024)), done];
      return Buffer.concat(chunks);
    });
    const client = await connect();
    const expected = Buffer.concat([Buffer.alloc(2048, 0xaa), Buffer.alloc(2048)]);
    const [first, second, third] = await Promise.all([
      client.read(0, 4096),
      failureOf(client.read(0, 4096)),
      client.read(0, 4096),
    ]);
    expect(first).toEqual(expected);
    expect(third).toEqual(expected);
    expect(second).toMatchObject({ code: 'engine_failed', details: { errno: 'EIO', errorOffset: 1024 } });
    expect(second.message).toContain('bad sector');
  });
});
