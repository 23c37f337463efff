import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
let images: string;
beforeEach(async () => {
  h = await Harness.start({ maxImportBytes: 4 * mib });
  images = join(h.directory, 'images');
  mkdirSync(images);
  await h.reconfigure({ importDirectory: images });
});
afterEach(() => h.stop());

const raw = Buffer.alloc(mib, 7);
const upload = (bytes: Buffer, format: 'raw' | 'qcow2' = 'raw') =>
  h.service.drives.import(h.caller, { name: 'up', format, source: { stream: Readable.from([bytes]) } });
const file = (name: string, format: 'raw' | 'qcow2' = 'raw') =>
  h.service.drives.import(h.caller, { name: 'file', format, source: { file: name } });
const temporary = (): string[] => readdirSync(join(h.directory, 'tmp'));
const noDrives = async (): Promise<void> => {
  expect((await h.service.drives.list(h.caller, {}, { by: 'name', order: 'asc' }, {})).items).toEqual([]);
  await expect.poll(temporary).toEqual([]);
};

describe('imports', () => {
  it('take an upload, and leave no file behind', async () => {
    const { task, drive } = await upload(raw);
    expect(drive).toMatchObject({ state: 'creating', sizeBytes: mib });
    await h.done(task);
    expect(await h.service.drives.get(h.caller, drive.id)).toMatchObject({ state: 'available' });
    await expect.poll(temporary).toEqual([]);
  });

  it('take a file of the import directory, and leave it alone', async () => {
    const path = join(images, 'a.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '2M']);
    const before = readFileSync(path);
    const { task, drive } = await file('a.qcow2', 'qcow2');
    expect(drive.sizeBytes).toBe(2 * mib);
    await h.done(task);
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('refuse paths that lead elsewhere', async () => {
    writeFileSync(join(h.directory, 'secret'), raw);
    symlinkSync(join(h.directory, 'secret'), join(images, 'link'));
    symlinkSync(h.directory, join(images, 'dir'));
    mkdirSync(join(images, 'folder'));
    for (const path of [
      '../secret',
      '/etc/passwd',
      'link',
      'dir/secret',
      'folder',
      '',
      '.',
      'a/../../secret',
      'x\0y',
    ]) {
      expect((await codeOf(file(path))).code, path).toBe('import_path_refused');
    }
    expect((await codeOf(file('missing'))).code).toBe('import_not_found');
    await noDrives();
  });

  it('refuse what is too large, is not what it claims, or points outside itself', async () => {
    expect((await codeOf(upload(Buffer.alloc(5 * mib)))).code).toBe('image_too_large');
    expect((await codeOf(upload(raw, 'qcow2'))).code).toBe('image_format_mismatch');
    const base = join(images, 'base.qcow2');
    const child = join(images, 'child.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '1M']);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', child]);
    expect((await codeOf(file('child.qcow2', 'qcow2'))).code).toBe('image_has_backing_file');
    await noDrives();
  });

  it('refuse an upload that breaks off', async () => {
    const stream = new Readable({
      read() {
        this.push(raw);
        this.destroy();
      },
    });
    const attempt = h.service.drives.import(h.caller, { name: 'up', format: 'raw', source: { stream } });
    expect((await codeOf(attempt)).code).toBe('image_truncated');
    await noDrives();
  });

  it('can be cancelled: neither drive nor file stay', async () => {
    const held = h.hold('step:importDrive');
    const { task } = await upload(raw);
    await held.reached;
    await h.service.tasks.cancel(h.caller, task.id);
    held.release();
    expect((await h.ended(task)).state).toBe('cancelled');
    await expect.poll(temporary).toEqual([]);
    await noDrives();
  });

  it('are ended by the deletion of their drive', async () => {
    const held = h.hold('step:importDrive');
    const { task, drive } = await upload(raw);
    await held.reached;
    const deletion = await h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' });
    held.release();
    await h.done(deletion);
    expect((await h.ended(task)).state).toBe('cancelled');
    await noDrives();
  });

  it('go on after a crash; files nobody needs any more go', async () => {
    writeFileSync(join(h.directory, 'tmp', 'upload-of-nobody'), raw);
    const held = h.hold('step:importDrive');
    const { task, drive } = await upload(raw);
    await held.reached;
    await h.crash();
    await h.done(task);
    expect((await h.service.drives.get(h.caller, drive.id)).state).toBe('available');
    await expect.poll(temporary).toEqual([]);
  });

  it('of a file that changed meanwhile fail', async () => {
    writeFileSync(join(images, 'a.raw'), raw);
    const held = h.hold('before:importDrive');
    const { task } = await file('a.raw');
    await held.reached;
    writeFileSync(join(images, 'a.raw'), Buffer.alloc(512));
    await h.crash();
    expect((await h.ended(task)).error?.code).toBe('image_truncated');
  });
});
