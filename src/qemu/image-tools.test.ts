import { execFile } from 'node:child_process';
import {
  copyFile as copyPlain,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { ErrorCode } from '../core/errors.ts';
import {
  backingChain,
  checkImage,
  convertImport,
  convertToQcow2,
  copyFile,
  imageInfo,
  inspectImport,
  rebase,
  toolVersions,
} from './image-tools.ts';
import { createOverlayFile, readAllocation, readHeader } from './qcow2.ts';

const run = promisify(execFile);
const KiB = 1024;
const MiB = 1024 * KiB;
const limits = { maxVirtualBytes: 1024 * MiB, maxFileBytes: 256 * MiB };

let directory = '';
let counter = 0;
const fresh = (): string => join(directory, `image-${++counter}`);
const path = process.env.PATH;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calotype-tools-'));
});
afterEach(() => {
  process.env.PATH = path;
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function qemuImg(...args: string[]): Promise<string> {
  return (await run('qemu-img', args, { cwd: directory })).stdout;
}

async function qemuIo(image: string, format: string, ...commands: string[]): Promise<void> {
  const { stdout, stderr } = await run('qemu-io', [
    ...['-f', format, ...commands.flatMap((command) => ['-c', command])],
    image,
  ]);
  if (/fail|error/i.test(stdout + stderr)) throw new Error(stdout + stderr);
}

const error = (code: ErrorCode): { code: ErrorCode } => ({ code });

/** A raw disk with some data at both ends, and its copies in the other formats. */
async function makeRaw(sizeBytes = 20 * MiB): Promise<string> {
  const image = fresh();
  await qemuImg('create', '-q', '-f', 'raw', image, String(sizeBytes));
  await qemuIo(image, 'raw', 'write -q -P 1 64k 512k', 'write -q -P 2 9M 1k', `write -q -P 3 ${sizeBytes - 4096} 4k`);
  return image;
}

async function makeImage(format: string, options?: string, sizeBytes?: number): Promise<string> {
  const raw = await makeRaw(sizeBytes);
  const image = fresh();
  const extra = options === undefined ? [] : ['-o', options];
  await qemuImg('convert', '-f', 'raw', '-O', format, ...extra, raw, image);
  return image;
}

/** Puts an executable before all others on PATH. */
async function fakeProgram(name: string, script: string): Promise<void> {
  const folder = fresh();
  await mkdir(folder);
  await writeFile(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  process.env.PATH = `${folder}:${path}`;
}

async function patch(image: string, position: number, bytes: Buffer | string): Promise<void> {
  const file = await open(image, 'r+');
  const buffer = Buffer.from(bytes);
  await file.write(buffer, 0, buffer.length, position);
  await file.close();
}

async function cut(image: string, sizeBytes: number): Promise<void> {
  const file = await open(image, 'r+');
  await file.truncate(sizeBytes);
  await file.close();
}

const u64 = (value: bigint): Buffer => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64BE(value);
  return out;
};

describe('toolVersions', () => {
  test('tells what is installed', async () => {
    const versions = await toolVersions();
    expect(versions.qemuImg).toMatch(/^\d+\.\d+/);
    expect(versions.qemuStorageDaemon).toMatch(/^\d+\.\d+/);
  });

  test('tells how to install what is missing', async () => {
    process.env.PATH = fresh();
    await expect(toolVersions()).rejects.toMatchObject({
      code: 'qemu_missing',
      details: { remedy: expect.stringMatching(/^sudo apt-get install .*qemu-utils/) },
    });
  });

  test('refuses what is too old', async () => {
    await fakeProgram('qemu-storage-daemon', 'echo "qemu-storage-daemon version 6.2.0 (Debian)"');
    await expect(toolVersions()).rejects.toMatchObject({
      code: 'qemu_too_old',
      details: { program: 'qemu-storage-daemon', version: '6.2.0' },
    });
  });
});

describe('checkImage', () => {
  test('tells sound, leaking and corrupt images apart', async () => {
    const image = await makeImage('qcow2', 'cluster_size=64k');
    expect(await checkImage(image)).toEqual({ errors: 0, leaks: 0, corruptions: 0, ok: true });
    const header = await readFile(image);
    const refcountBlock = Number(header.readBigUInt64BE(Number(header.readBigUInt64BE(48))));
    const l1 = Number(header.readBigUInt64BE(40));

    const leaking = fresh();
    await copyPlain(image, leaking);
    const clusters = Math.ceil((await stat(image)).size / (64 * KiB));
    await patch(leaking, refcountBlock + (clusters + 3) * 2, Buffer.from([0, 1]));
    await cut(leaking, (clusters + 8) * 64 * KiB);
    expect(await checkImage(leaking)).toMatchObject({ errors: 0, leaks: 1, corruptions: 0, ok: true });

    const corrupt = fresh();
    await copyPlain(image, corrupt);
    await patch(corrupt, refcountBlock + (l1 / (64 * KiB)) * 2, Buffer.from([0, 0]));
    const result = await checkImage(corrupt);
    expect(result.ok).toBe(false);
    expect(result.corruptions).toBeGreaterThan(0);
  });

  test('raises engine_failed with the reason for what it cannot open', async () => {
    const image = fresh();
    await writeFile(image, 'no image');
    await expect(checkImage(image)).rejects.toMatchObject({
      code: 'engine_failed',
      details: { exitCode: 1, stderr: expect.stringContaining('not in qcow2 format') },
    });
  });
});

const formats: [string, string, string | undefined][] = [
  ['raw', 'raw', undefined],
  ['qcow2', 'qcow2', undefined],
  ['qcow2', 'qcow2', 'cluster_size=128k,extended_l2=on'],
  ['qcow2', 'qcow2', 'compat=0.10,cluster_size=512'],
  ['qcow2', 'qcow2', 'preallocation=metadata,lazy_refcounts=on'],
  ['vmdk', 'vmdk', undefined],
  ['vmdk', 'vmdk', 'subformat=streamOptimized'],
  ['vmdk', 'vmdk', 'zeroed_grain=on'],
  ['vpc', 'vpc', 'force_size=on'],
  ['vhd', 'vpc', 'subformat=fixed,force_size=on'],
  ['vhdx', 'vhdx', undefined],
  ['vhdx', 'vhdx', 'subformat=fixed,block_size=1M'],
  ['vdi', 'vdi', undefined],
  ['vdi', 'vdi', 'static=on'],
];

describe('an import', () => {
  test.each(formats)('of %s (%s %s) is admitted and copied exactly', async (claimed, format, options) => {
    const sizeBytes = 20 * MiB + 512;
    const image = await makeImage(format, options, sizeBytes);
    const { virtualBytes } = await inspectImport(image, claimed, limits);
    expect(virtualBytes).toBeGreaterThanOrEqual(sizeBytes);
    const target = fresh();
    const seen: [number, number][] = [];
    await convertImport(image, claimed, target, { onProgress: (done, total) => seen.push([done, total]) });
    expect(await qemuImg('compare', '-f', format, '-F', 'qcow2', image, target)).toContain('identical');
    expect(await readHeader(target)).toMatchObject({
      sizeBytes: virtualBytes,
      clusterBytes: 128 * KiB,
      subclusterBytes: 4 * KiB,
      backing: null,
    });
    expect(seen.at(-1)).toEqual([virtualBytes, virtualBytes]);
    expect(seen.map(([done]) => done)).toEqual(seen.map(([done]) => done).sort((a, b) => a - b));
    expect(await checkImage(target)).toMatchObject({ ok: true, leaks: 0 });
  });

  test.each(formats.filter(([claimed]) => claimed !== 'raw'))(
    'of %s (%s %s) is refused wherever it is cut',
    async (claimed, format, options) => {
      const image = await makeImage(format, options);
      const { size } = await stat(image);
      for (const part of [0.02, 0.3, 0.7, 0.98]) {
        const copy = fresh();
        await copyPlain(image, copy);
        await cut(copy, Math.floor(size * part));
        const outcome = await inspectImport(copy, claimed, limits).catch((reason: unknown) => reason);
        // A VHD of fixed size carries its only mark at its end: without that it is no VHD.
        const code = options?.includes('fixed') && format === 'vpc' ? 'image_format_mismatch' : 'image_truncated';
        // QEMU leaves slack behind the last grain of a stream; to lose that is to lose nothing.
        if (options === 'subformat=streamOptimized' && part > 0.5 && !(outcome instanceof Error)) {
          expect(await qemuImg('compare', '-f', format, '-F', format, image, copy)).toContain('identical');
        } else expect(outcome, `${part}`).toMatchObject(error(code));
      }
      await cut(image, 100);
      await expect(inspectImport(image, claimed, limits)).rejects.toMatchObject(error('image_truncated'));
    },
  );

  test('of a qcow2 with internal snapshots is fine', async () => {
    const image = await makeImage('qcow2');
    await qemuImg('snapshot', '-c', 'one', image);
    await expect(inspectImport(image, 'qcow2', limits)).resolves.toEqual({ virtualBytes: 20 * MiB });
  });

  test('under a name that looks like an option, a protocol or a list is read as a file', async () => {
    const image = await makeImage('qcow2');
    for (const name of ['-f', 'nbd:unix:x', 'json:{}', 'a,b=c "d" \'e\' \\', 'ünïcode']) {
      const source = join(directory, name);
      await copyPlain(image, source);
      const target = join(directory, `${name} to`);
      await expect(inspectImport(source, 'qcow2', limits)).resolves.toEqual({ virtualBytes: 20 * MiB });
      await convertImport(source, 'qcow2', target);
      expect(await imageInfo(target)).toMatchObject({ virtualBytes: 20 * MiB, corrupt: false, dirty: false });
      expect((await checkImage(target)).ok).toBe(true);
      const copied = join(directory, `${name} copy`);
      await copyFile(target, copied);
      expect((await readFile(copied)).equals(await readFile(target))).toBe(true);
    }
  });

  test('that refers to a backing file or to a parent is refused, whoever it names', async () => {
    const base = await makeImage('qcow2');
    const overlay = fresh();
    await qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', overlay);
    const unformatted = fresh();
    await createOverlayFile(unformatted, { sizeBytes: MiB, backing: '/etc/passwd' });
    const parentVmdk = await makeImage('vmdk');
    const vmdk = fresh();
    await qemuImg('create', '-q', '-f', 'vmdk', '-b', parentVmdk, '-F', 'vmdk', vmdk);
    const hinted = await makeImage('vmdk');
    await patch(hinted, 8 * 512, 'parentFileNameHint="/etc/passwd"\n');
    const vpc = await makeImage('vpc');
    await patch(vpc, 60, Buffer.from([0, 0, 0, 4]));
    const vdi = await makeImage('vdi');
    await patch(vdi, 440, Buffer.from([1]));
    const vdiKind = await makeImage('vdi');
    await patch(vdiKind, 76, Buffer.from([4]));
    const vhdx = await makeImage('vhdx');
    const bytes = await readFile(vhdx);
    // The file parameters: block size, then flags; bit 1 is has-parent.
    const blockSize = bytes.indexOf(Buffer.from('3767a1ca36fa434db3b633f0aa44e76b', 'hex'));
    const metadata = bytes.indexOf('metadata');
    await patch(vhdx, metadata + bytes.readUInt32LE(blockSize + 16) + 4, Buffer.from([2]));
    for (const [image, format] of [
      [overlay, 'qcow2'],
      [unformatted, 'qcow2'],
      [vmdk, 'vmdk'],
      [hinted, 'vmdk'],
      [vpc, 'vpc'],
      [vdi, 'vdi'],
      [vdiKind, 'vdi'],
      [vhdx, 'vhdx'],
    ] as const) {
      const outcome = inspectImport(image, format, limits);
      await expect(outcome, format).rejects.toMatchObject(error('image_has_backing_file'));
    }
  });

  test('that keeps its data in another file is refused', async () => {
    const external = fresh();
    await qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${external}.data`, external, '1M');
    const flat = `${fresh()}.vmdk`;
    await qemuImg('create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', flat, '1M');
    const written = fresh();
    await writeFile(
      written,
      '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/passwd" 0\n',
    );
    // A sparse header of capacity 0: QEMU would follow the descriptor inside.
    const hollow = await makeImage('vmdk');
    await patch(hollow, 12, Buffer.alloc(8));
    const part = await makeImage('vmdk');
    await patch(part, 28, Buffer.alloc(16));
    const kind = await makeImage('vmdk');
    const descriptor = (await readFile(kind)).indexOf('monolithicSparse"');
    await patch(kind, descriptor, 'monolithicFlat"\n\n');
    for (const [image, format] of [
      [external, 'qcow2'],
      [flat, 'vmdk'],
      [written, 'vmdk'],
      [hollow, 'vmdk'],
      [part, 'vmdk'],
      [kind, 'vmdk'],
    ] as const) {
      await expect(inspectImport(image, format, limits)).rejects.toMatchObject(error('image_has_data_file'));
    }
  });

  test('under a false format is refused, and the true one named', async () => {
    const real = ['qcow2', 'vmdk', 'vpc', 'vhdx', 'vdi', 'raw'];
    const images = await Promise.all(real.map((format) => makeImage(format)));
    for (const [i, image] of images.entries()) {
      for (const claimed of real.filter((format) => format !== real[i])) {
        const found = real[i] === 'raw' ? 'unknown' : real[i];
        await expect(inspectImport(image, claimed, limits)).rejects.toMatchObject({
          code: 'image_format_mismatch',
          details: { claimed, found, remedy: expect.any(String) },
        });
      }
    }
    const fixed = await makeImage('vpc', 'subformat=fixed');
    await expect(inspectImport(fixed, 'raw', limits)).rejects.toMatchObject({ details: { found: 'vpc' } });
    const packed = fresh();
    await writeFile(packed, Buffer.from('1f8b0800000000000003', 'hex'));
    await expect(inspectImport(packed, 'raw', limits)).rejects.toMatchObject({
      code: 'image_format_mismatch',
      details: { found: 'gzip', remedy: 'Unpack the file first.' },
    });
    await expect(inspectImport(packed, 'iso', limits)).rejects.toMatchObject(error('image_format_unknown'));
    const old = fresh();
    await qemuImg('create', '-q', '-f', 'qcow', old, '1M');
    await expect(inspectImport(old, 'qcow2', limits)).rejects.toMatchObject({ details: { found: 'qcow' } });
  });

  test('that is too large, odd, damaged, encrypted or from the future is refused', async () => {
    const big = fresh();
    await qemuImg('create', '-q', '-f', 'qcow2', big, '2G');
    await expect(inspectImport(big, 'qcow2', limits)).rejects.toMatchObject({
      code: 'image_too_large',
      details: { virtualBytes: 2048 * MiB, limit: limits.maxVirtualBytes },
    });
    const raw = await makeRaw();
    await expect(inspectImport(raw, 'raw', { ...limits, maxFileBytes: MiB })).rejects.toMatchObject({
      code: 'image_too_large',
      details: { fileBytes: 20 * MiB },
    });
    await cut(raw, MiB + 100);
    await expect(inspectImport(raw, 'raw', limits)).rejects.toMatchObject(error('image_truncated'));
    await cut(raw, 0);
    await expect(inspectImport(raw, 'raw', limits)).rejects.toMatchObject(error('image_truncated'));

    for (const flag of [1, 2]) {
      const image = await makeImage('qcow2');
      await patch(image, 79, Buffer.from([flag]));
      await expect(inspectImport(image, 'qcow2', limits)).rejects.toMatchObject({
        code: 'image_truncated',
        details: { remedy: 'qemu-img check -r all FILE' },
      });
    }
    const future = await makeImage('qcow2');
    await patch(future, 79, Buffer.from([0x80]));
    await expect(inspectImport(future, 'qcow2', limits)).rejects.toMatchObject(error('image_format_unknown'));
    const encrypted = await makeImage('qcow2');
    await patch(encrypted, 35, Buffer.from([2]));
    await expect(inspectImport(encrypted, 'qcow2', limits)).rejects.toMatchObject(error('image_format_unknown'));

    // Refcounts that deny a cluster in use: only qemu-img check sees it.
    const overlapping = await makeImage('qcow2');
    const l1 = (await readFile(overlapping)).readBigUInt64BE(40);
    await patch(overlapping, Number((await readFile(overlapping)).readBigUInt64BE(48)), u64(0n));
    expect(l1).toBeGreaterThan(0n);
    await expect(inspectImport(overlapping, 'qcow2', limits)).rejects.toMatchObject(error('image_truncated'));
  });

  test('with tables made to keep us busy is refused at once', async () => {
    const image = fresh();
    await qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', image, '1G');
    await qemuIo(image, 'qcow2', 'write -q 0 512');
    const bytes = await readFile(image);
    const l1 = Number(bytes.readBigUInt64BE(40));
    // Every L1 entry names the same L2 table.
    for (let i = 1; i < bytes.readUInt32BE(36); i++) bytes.copy(bytes, l1 + i * 8, l1, l1 + 8);
    await writeFile(image, bytes);
    const begun = performance.now();
    await expect(inspectImport(image, 'qcow2', limits)).rejects.toMatchObject(error('image_truncated'));
    expect(performance.now() - begun).toBeLessThan(2000);
  });

  test('of anything but a regular file is refused', async () => {
    await expect(inspectImport(directory, 'raw', limits)).rejects.toMatchObject(error('import_path_refused'));
    const link = fresh();
    await symlink('/etc/passwd', link);
    await expect(inspectImport(link, 'raw', limits)).rejects.toMatchObject(error('import_path_refused'));
    const pipe = fresh();
    await run('mkfifo', [pipe]);
    await expect(inspectImport(pipe, 'raw', limits)).rejects.toMatchObject(error('import_path_refused'));
    await expect(inspectImport(fresh(), 'raw', limits)).rejects.toMatchObject(error('import_not_found'));
  });

  test('leaves no target behind when it fails, is cancelled or meets a full disk, and never replaces a file', async () => {
    const image = await makeRaw();
    const target = fresh();
    await expect(convertImport(image, 'raw', target, { signal: AbortSignal.abort() })).rejects.toMatchObject(
      error('cancelled'),
    );
    await fakeProgram(
      'qemu-img',
      'case "$1" in info) echo \'{"virtual-size":1024}\';; *) echo "(1.00/100%)"; exec sleep 60;; esac',
    );
    const stop = new AbortController();
    const onProgress = (): void => stop.abort();
    await expect(convertImport(image, 'raw', target, { signal: stop.signal, onProgress })).rejects.toMatchObject(
      error('cancelled'),
    );
    await fakeProgram(
      'qemu-img',
      'case "$1" in info) echo \'{"virtual-size":1024}\';; *) echo "qemu-img: error while writing at byte 0: No space left on device" >&2; exit 1;; esac',
    );
    await expect(convertImport(image, 'raw', target)).rejects.toMatchObject(error('space_exhausted'));
    process.env.PATH = path;
    await expect(stat(target)).rejects.toMatchObject({ code: 'ENOENT' });

    await writeFile(target, 'precious');
    await expect(convertImport(image, 'raw', target)).rejects.toMatchObject({ code: 'EEXIST' });
    await expect(copyFile(image, target)).rejects.toMatchObject({ code: 'EEXIST' });
    expect(await readFile(target, 'utf8')).toBe('precious');
  });
});

/** Three layers in a directory of their own, each with data of its own; returns the directory. */
async function makeChain(): Promise<string> {
  const folder = fresh();
  await mkdir(folder);
  const sizeBytes = 64 * MiB;
  for (const [i, name] of ['l0', 'l1', 'l2'].entries()) {
    await createOverlayFile(join(folder, name), { sizeBytes, backing: i === 0 ? null : `l${i - 1}` });
    await qemuIo(
      join(folder, name),
      'qcow2',
      `write -q -P ${i + 1} ${i * 4}k 16k`,
      `write -q -P ${i + 5} ${i + 9}M 100k`,
    );
  }
  return folder;
}

const sameContent = async (a: string, b: string): Promise<void> => {
  expect(await qemuImg('compare', '-f', 'qcow2', '-F', 'qcow2', a, b)).toContain('identical');
};

describe('layers', () => {
  test('a chain is told by its headers as QEMU tells it', async () => {
    const folder = await makeChain();
    const chain = await backingChain(join(folder, 'l2'));
    expect(chain.map((layer) => layer.path)).toEqual(['l2', 'l1', 'l0'].map((name) => join(folder, name)));
    const told: { filename: string }[] = JSON.parse(
      await qemuImg('info', '--backing-chain', '--output=json', join(folder, 'l2')),
    );
    expect(told.map((layer) => layer.filename)).toEqual(chain.map((layer) => layer.path));
    expect(await imageInfo(join(folder, 'l2'))).toMatchObject({
      backing: 'l1',
      backingFormat: 'qcow2',
      clusterBytes: 131072,
    });
    await rm(join(folder, 'l0'));
    await expect(backingChain(join(folder, 'l2'))).rejects.toMatchObject({
      code: 'layer_damaged',
      details: { path: join(folder, 'l0') },
    });
    await createOverlayFile(join(folder, 'l0'), { sizeBytes: MiB, backing: 'l2' });
    await expect(backingChain(join(folder, 'l2'))).rejects.toMatchObject(error('layer_damaged'));
  });

  test('a private copy is rebased past a layer, or onto nothing, and reads the same', async () => {
    const folder = await makeChain();
    const top = join(folder, 'l2');
    const twin = join(folder, 'twin');
    await copyFile(top, twin);
    const seen: number[] = [];
    await rebase('twin', 'l0', { cwd: folder, onProgress: (done) => seen.push(done) });
    expect(seen.at(-1)).toBe(64 * MiB);
    expect(await readHeader(twin)).toMatchObject({ backing: 'l0', backingFormat: 'qcow2' });
    await sameContent(top, twin);
    expect((await readAllocation(twin)).data.length).toBeGreaterThan((await readAllocation(top)).data.length);
    expect(await checkImage(twin)).toMatchObject({ ok: true, leaks: 0 });

    await rebase(twin, null);
    expect(await readHeader(twin)).toMatchObject({ backing: null });
    await sameContent(top, twin);
    await expect(rebase(twin, 'nbd:x')).rejects.toMatchObject(error('engine_failed'));
    await expect(rebase(twin, 'missing')).rejects.toMatchObject(error('engine_failed'));
    await expect(rebase(twin, 'l0', { signal: AbortSignal.abort() })).rejects.toMatchObject(error('cancelled'));
  });

  test('a copy keeps its holes', async () => {
    const folder = await makeChain();
    const from = join(folder, 'l1');
    const to = join(folder, 'copy');
    await copyFile(from, to);
    expect((await readFile(to)).equals(await readFile(from))).toBe(true);
    expect((await stat(to)).blocks).toBeLessThanOrEqual((await stat(from)).blocks);
    await expect(copyFile(join(folder, 'none'), join(folder, 'other'))).rejects.toMatchObject(error('engine_failed'));
    await expect(copyFile(from, join(folder, 'other'), AbortSignal.abort())).rejects.toMatchObject(error('cancelled'));
    expect(await readdir(folder)).toEqual(['copy', 'l0', 'l1', 'l2']);
  });

  test('an export flattens a chain, or an NBD export, into a plain qcow2', async () => {
    const folder = await makeChain();
    const top = join(folder, 'l2');
    for (const compress of [false, true]) {
      const target = join(folder, `export-${compress}`);
      const seen: [number, number][] = [];
      const onProgress = (done: number, total: number): number => seen.push([done, total]);
      await convertToQcow2({ kind: 'file', path: top }, target, { compress, onProgress });
      expect(seen.at(-1)).toEqual([64 * MiB, 64 * MiB]);
      expect(await readHeader(target)).toMatchObject({ backing: null, incompatible: { extendedL2: false } });
      await sameContent(top, target);
    }

    const socketPath = join(folder, 'nbd.sock');
    const pidFile = join(folder, 'pid');
    await run(
      'qemu-storage-daemon',
      [
        ...['--daemonize', '--pidfile', pidFile, '--nbd-server', `addr.type=unix,addr.path=${socketPath}`],
        ...['--blockdev', `driver=qcow2,node-name=top,read-only=on,file.driver=file,file.filename=${top}`],
        ...['--export', 'type=nbd,id=e,node-name=top,name=drive one'],
      ],
      { cwd: folder },
    );
    try {
      const target = join(folder, 'export-nbd');
      await convertToQcow2({ kind: 'nbd', socketPath, exportName: 'drive one' }, target);
      await sameContent(top, target);
      const missing = convertToQcow2({ kind: 'nbd', socketPath, exportName: 'none' }, fresh());
      await expect(missing).rejects.toMatchObject(error('engine_failed'));
    } finally {
      process.kill(Number(await readFile(pidFile, 'utf8')));
    }
  });

  test('a helper dies with the process that started it, even if it dies before the helper is set up', async () => {
    const folder = await mkdtemp(join(directory, 'orphans-'));
    const top = join(await makeChain(), 'l2');
    const slow = await mkdtemp(join(directory, 'slow-'));
    await writeFile(join(slow, 'nice'), '#!/bin/sh\nsleep 0.2\nexec /usr/bin/nice "$@"\n', { mode: 0o755 });
    process.env.PATH = `${slow}:${path}`;
    const program = `
      import { copyChain } from ${JSON.stringify(join(import.meta.dirname, 'image-tools.ts'))};
      const onStart = () => process.kill(process.pid, 'SIGKILL');
      await copyChain(${JSON.stringify(top)}, process.argv[1], { onStart });`;
    for (let n = 0; n < 5; n++) {
      const target = join(folder, `${n}`);
      const started = run(process.execPath, ['--input-type=module', '-e', program, target]);
      await expect(started).rejects.toMatchObject({ signal: 'SIGKILL' });
      await rm(target);
    }
    await setTimeout(500);
    expect(await readdir(folder), 'written again after its removal').toEqual([]);
  });
});
