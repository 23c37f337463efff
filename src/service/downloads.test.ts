import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { newId, type SnapshotId } from '../core/ids.ts';
import type { Drive, Snapshot } from '../core/model.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

// The engine double lends out a real export of a sparse file, so that NBD and qemu-img are the real ones.
let h: Harness;
let server: ChildProcess;
let directory: string;
let content: Buffer;
let drive: Drive;
let snapshot: Snapshot;
let readers = 0;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'calotype-download-'));
  const file = join(directory, 'disk.raw');
  writeFileSync(file, Buffer.alloc(3 * mib + 512, 5));
  truncateSync(file, 16 * mib);
  content = readFileSync(file);
  const socketPath = join(directory, 'nbd.sock');
  server = spawn('qemu-nbd', ['-r', '-t', '-e', '8', '-f', 'raw', '-k', socketPath, '-x', 'reader', file]);
  await vi.waitUntil(() => existsSync(socketPath), { timeout: 10_000 });
  h = await Harness.start();
  h.engine.withReader = async (_of, use) => {
    readers++;
    try {
      return await use({ exportName: 'reader', socketPath });
    } finally {
      readers--;
    }
  };
  drive = await h.drive('disk: a/b');
  snapshot = await h.snapshot([drive.id], 'point');
});

afterAll(async () => {
  server.kill();
  await h.stop();
  rmSync(directory, { recursive: true, force: true });
});

describe('downloads', () => {
  it('give the bytes, holes and all', async () => {
    const made = await h.service.snapshots.download(h.caller, snapshot.id, 'raw');
    expect(made).toMatchObject({ sizeBytes: content.length, fileName: 'point.img' });
    expect(readers).toBe(1);
    expect((await buffer(made.stream)).equals(content)).toBe(true);
    await expect.poll(() => readers).toBe(0);
    const live = await h.service.drives.download(h.caller, drive.id, 'raw');
    expect(live.fileName).toBe('disk_ a_b.img');
    expect((await buffer(live.stream)).equals(content)).toBe(true);
    await expect.poll(() => readers).toBe(0);
  });

  it('release the reader when the client goes', async () => {
    const { stream } = await h.service.snapshots.download(h.caller, snapshot.id, 'raw');
    for await (const _ of stream) break;
    await expect.poll(() => readers).toBe(0);
    const unread = await h.service.snapshots.download(h.caller, snapshot.id, 'raw');
    unread.stream.destroy();
    await expect.poll(() => readers).toBe(0);
  });

  it('read no further ahead than the client takes', async () => {
    const { stream } = await h.service.snapshots.download(h.caller, snapshot.id, 'raw');
    stream.once('readable', () => {});
    await expect.poll(() => stream.readableLength).toBeGreaterThan(0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(stream.readableLength).toBeLessThanOrEqual(3 * mib);
    stream.destroy();
    await expect.poll(() => readers).toBe(0);
  });

  it('as qcow2 hold the same, and leave no file', async () => {
    const made = await h.service.snapshots.download(h.caller, snapshot.id, 'qcow2');
    expect(made.fileName).toBe('point.qcow2');
    const bytes = await buffer(made.stream);
    expect(bytes.length).toBe(made.sizeBytes);
    const copy = join(directory, 'copy.qcow2');
    writeFileSync(copy, bytes);
    execFileSync('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', copy, join(directory, 'disk.raw')]);
    expect(readdirSync(join(h.directory, 'tmp'))).toEqual([]);
    expect(readers).toBe(0);
  });

  it('of what is not there are refused', async () => {
    expect((await codeOf(h.service.snapshots.download(h.caller, newId<SnapshotId>(), 'raw'))).code).toBe('not_found');
    h.engine.withReader = () => Promise.reject(new Error('no daemon'));
    await expect(h.service.snapshots.download(h.caller, snapshot.id, 'raw')).rejects.toThrow('no daemon');
  });
});
