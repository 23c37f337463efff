import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  aDrive,
  aPart,
  aSnapshot,
  aTask,
  FakeApi,
  problem,
  type Recorded,
  runCli,
} from '../../test/fake-native-api.ts';
import { dataRuns, importFormat } from './transfer.ts';

let api: FakeApi;
let directory: string;
const drive = aDrive({ name: 'data' });
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'calotype-cli-'));
  api = await FakeApi.start();
  api.on('GET /drives', { items: [drive], nextCursor: null });
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true });
});

const mib = 2 ** 20;
/** 16 MiB, of which the first, one in the middle, and nothing at the end is data. */
const image = Buffer.concat([randomBytes(mib), Buffer.alloc(7 * mib), randomBytes(4096), Buffer.alloc(8 * mib - 4096)]);

const send = (bytes: Buffer) => (_request: Recorded, response: ServerResponse) => {
  response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': String(bytes.length) });
  response.end(bytes);
  return undefined;
};

describe('dataRuns', () => {
  it('covers every byte that is not zero, and no block that is', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 9000 })), { maxLength: 12 }), (pieces) => {
        const chunk = Buffer.concat(pieces.map(([isData, length]) => Buffer.alloc(length, isData ? 7 : 0)));
        const rebuilt = Buffer.alloc(chunk.length);
        const runs = dataRuns(chunk);
        for (const { start, end } of runs) {
          chunk.copy(rebuilt, start, start, end);
          expect(chunk.subarray(start, end).some((byte) => byte !== 0)).toBe(true);
        }
        expect(rebuilt.equals(chunk)).toBe(true);
        for (const [i, run] of runs.slice(1).entries()) expect(run.start).toBeGreaterThan(runs[i]?.end ?? 0);
      }),
    );
  });
});

describe('download', () => {
  beforeEach(() => {
    api.on(`GET /drives/${drive.id}/download`, send(image));
  });

  it('writes the bytes, sparse, under the name asked for and nothing else', async () => {
    const file = join(directory, 'out.raw');
    expect(await runCli(['drive', 'download', 'data', file], { api })).toEqual({
      code: 0,
      stdout: `Wrote ${file}, 16 MiB.\n`,
      stderr: '',
    });
    expect(readFileSync(file).equals(image)).toBe(true);
    expect(statSync(file).blocks * 512).toBeLessThan(2 * mib);
    expect(readdirSync(directory)).toEqual(['out.raw']);
  });

  it('does not replace a file unless told to', async () => {
    const file = join(directory, 'out.raw');
    writeFileSync(file, 'mine');
    expect(await runCli(['drive', 'download', 'data', file], { api })).toMatchObject({
      code: 4,
      stderr: expect.stringContaining('--force'),
    });
    expect(readFileSync(file, 'utf8')).toBe('mine');
    expect(api.asked(`GET /drives/${drive.id}/download`)).toEqual([]);
    expect((await runCli(['drive', 'download', 'data', file, '--force'], { api })).code).toBe(0);
    expect(readFileSync(file).equals(image)).toBe(true);
  });

  it('leaves nothing behind when the connection is lost', async () => {
    api.on(`GET /drives/${drive.id}/download`, (_request: Recorded, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': String(image.length) });
      response.write(image.subarray(0, mib), () => response.destroy());
      return undefined;
    });
    const file = join(directory, 'out.raw');
    writeFileSync(file, 'mine');
    expect(await runCli(['drive', 'download', 'data', file, '--force'], { api })).toMatchObject({
      code: 6,
      stderr: expect.stringContaining('connection_lost'),
    });
    expect(readdirSync(directory)).toEqual(['out.raw']);
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });

  it('leaves nothing behind on Ctrl-C', async () => {
    const controller = new AbortController();
    api.on(`GET /drives/${drive.id}/download`, (_request: Recorded, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': String(image.length) });
      response.write(image.subarray(0, mib), () => setTimeout(() => controller.abort('SIGINT'), 50));
      return undefined;
    });
    const file = join(directory, 'out.raw');
    const outcome = await runCli(['drive', 'download', 'data', file], { api, signal: controller.signal });
    expect(outcome).toMatchObject({ code: 130, stderr: expect.stringContaining('was not written') });
    expect(readdirSync(directory)).toEqual([]);
  });

  it('says why a file cannot be written', async () => {
    expect(await runCli(['drive', 'download', 'data', join(directory, 'none', 'out')], { api })).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('local_file'),
    });
    expect((await runCli(['drive', 'download', 'data', directory], { api })).code).toBe(2);
  });

  it('does not go to a terminal', async () => {
    expect((await runCli(['drive', 'download', 'data', '-'], { api, columns: 80 })).code).toBe(2);
  });

  it('of a snapshot names the part and the format, and reports refusals', async () => {
    const snapshot = aSnapshot([aPart(drive)], { name: 'before' });
    api
      .on('GET /snapshots', { items: [snapshot], nextCursor: null })
      .on(`GET /snapshots/${snapshot.id}/download`, send(Buffer.from('QFI')));
    const outcome = await runCli(['snapshot', 'download', 'before', '-', '--format', 'qcow2'], { api });
    expect(outcome).toEqual({ code: 0, stdout: 'QFI', stderr: '' });
    expect(Object.fromEntries(api.asked(`GET /snapshots/${snapshot.id}/download`)[0]?.query ?? [])).toEqual({
      format: 'qcow2',
      part: snapshot.parts[0]?.id,
    });
    api.on(`GET /snapshots/${snapshot.id}/download`, (_request: Recorded, response: ServerResponse) =>
      problem(response, 409, 'snapshot_not_ready', 'Not yet.'),
    );
    expect((await runCli(['snapshot', 'download', 'before', '-'], { api })).code).toBe(4);
  });
});

describe('import', () => {
  it('streams a file with its length, format and labels', async () => {
    const file = join(directory, 'disk.qcow2');
    const bytes = randomBytes(3 * mib);
    writeFileSync(file, bytes.toString('latin1'), 'latin1');
    api.on('POST /drives/import', { task: aTask(), drive });
    expect(
      await runCli(['drive', 'import', file, 'data', '--tag', 'a', '--tag', 'b', '--description', 'd'], { api }),
    ).toMatchObject({
      code: 0,
      stdout: `Imported drive data (${drive.id}), 10 GiB.\n`,
    });
    const [request] = api.asked('POST /drives/import');
    expect(request?.headers).toMatchObject({
      'content-type': 'application/octet-stream',
      'content-length': String(3 * mib),
    });
    expect(request?.query.get('format')).toBe('qcow2');
    expect(request?.query.getAll('tag')).toEqual(['a', 'b']);
    expect(request?.body).toBe(bytes.toString('utf8'));
  });

  it('takes standard input in chunks, and wants to know its format', async () => {
    api.on('POST /drives/import', { task: aTask(), drive });
    expect((await runCli(['drive', 'import', '-', 'data'], { api })).code).toBe(2);
    const stdin = Readable.from([Buffer.from('abc'), Buffer.from('def')]);
    expect((await runCli(['drive', 'import', '-', 'data', '--format', 'raw'], { api, stdin })).code).toBe(0);
    const [request] = api.asked('POST /drives/import');
    expect(request?.headers['transfer-encoding']).toBe('chunked');
    expect(request?.body).toBe('abcdef');
  });

  it('sends a file again after a lost connection, but not standard input', async () => {
    const file = join(directory, 'disk.raw');
    writeFileSync(file, 'bytes');
    api.on('POST /drives/import', (_request: Recorded, response: ServerResponse) => {
      if (api.asked('POST /drives/import').length === 2) return { task: aTask(), drive };
      response.destroy();
      return undefined;
    });
    expect((await runCli(['drive', 'import', file, 'data'], { api })).code).toBe(0);
    expect(api.asked('POST /drives/import').map((request) => request.body)).toEqual(['bytes', 'bytes']);
    const stdin = Readable.from(['bytes']);
    expect((await runCli(['drive', 'import', '-', 'data', '--format', 'raw'], { api, stdin })).code).toBe(6);
    expect(api.asked('POST /drives/import')).toHaveLength(3);
  });

  it('names a file of the server instead', async () => {
    api.on('POST /drives', { task: aTask(), drive });
    expect((await runCli(['drive', 'import', 'win.vhd', 'data', '--from-server', '--meta', 'a=b'], { api })).code).toBe(
      0,
    );
    expect(api.sent('POST /drives')).toEqual([
      { name: 'data', import: { file: 'win.vhd', format: 'vpc' }, meta: { a: 'b' } },
    ]);
  });

  it('reports a refusal that comes before the upload has ended', async () => {
    const file = join(directory, 'disk.raw');
    writeFileSync(file, Buffer.alloc(64 * mib));
    await using refusing = await startRefusing();
    const outcome = await runCli(['drive', 'import', file, 'data', '--url', refusing.url, '--token', 't']);
    expect(outcome).toMatchObject({ code: 1, stderr: expect.stringContaining('code: image_too_large') });
    expect(refusing.bodyBytes()).toBe(0);
  });

  it('reports a missing file', async () => {
    expect((await runCli(['drive', 'import', join(directory, 'none.raw'), 'data'], { api })).code).toBe(3);
  });

  it.each([
    ['a.QCOW2', 'qcow2'],
    ['a.img', 'raw'],
    ['a.vhd', 'vpc'],
    ['a.vhdx', 'vhdx'],
    ['a.vmdk', 'vmdk'],
    ['a.vdi', 'vdi'],
  ])('knows the format of %s', (name, format) => {
    expect(importFormat(undefined, name)).toBe(format);
    expect(importFormat('vhd', name)).toBe('vpc');
  });
});

/** Answers 413 after the head of a request and closes, as the server does. */
async function startRefusing(): Promise<AsyncDisposable & { url: string; bodyBytes: () => number }> {
  let bodyBytes = 0;
  const server = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => {
      bodyBytes += chunk.length;
    });
    response.setHeader('connection', 'close');
    problem(response, 413, 'image_too_large', 'Too large.');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    bodyBytes: () => bodyBytes,
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
