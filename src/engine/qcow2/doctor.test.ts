/** The doctor: says what is wrong, repairs what it can explain, deletes nothing. */
import { open, readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { newId, type SnapshotId } from '../../core/ids.ts';
import type { Finding } from '../../core/model.ts';
import { readHeader, setBackingName } from '../../qemu/qcow2.ts';
import { Content, expectContent } from '../conformance/content.ts';
import { driveBytes, Rig } from '../conformance/rig.ts';
import { harness } from './conformance-harness.ts';

const at = (rig: Rig, name: string): string => join(rig.directory, 'images', name);

async function findings(rig: Rig, repair = false): Promise<Finding[]> {
  return [...(await rig.engine.doctor({ repair })).findings];
}

/** A drive with two points: files l1, l2 (the points) and l3 (the top). */
async function threeLayers(rig: Rig) {
  const drive = await rig.createDrive();
  const content = new Content(driveBytes);
  await rig.write(drive, content, [{ grain: 0, count: 100 }]);
  const first = await rig.snapshot(drive);
  const then = content.copy();
  await rig.write(drive, content, [{ grain: 50, count: 100 }]);
  const second = await rig.snapshot(drive);
  await rig.reopen({ stopProcesses: true });
  const names = (await readdir(join(rig.directory, 'images'))).filter((name) => name.endsWith('.qcow2')).sort();
  return { drive, content, first, then, second, names };
}

test('a sound place gives no findings', async () => {
  await using rig = await Rig.start(harness);
  await threeLayers(rig);
  expect(await rig.engine.doctor({ repair: false })).toMatchObject({ findings: [], checkedFiles: 3 });
});

test('a file that is gone is an error, and what does not need it goes on', async () => {
  await using rig = await Rig.start(harness);
  const { drive, first, then, names } = await threeLayers(rig);
  const [, middle = ''] = names;
  await rename(at(rig, middle), join(rig.directory, 'aside'));
  expect(await findings(rig)).toMatchObject([{ code: 'file_missing', severity: 'error', subject: middle }]);
  expectContent(await rig.read({ point: first }), then);
  await expect(rig.read({ drive })).rejects.toMatchObject({ code: 'engine_failed' });
  await rename(join(rig.directory, 'aside'), at(rig, middle));
  expect(await findings(rig)).toEqual([]);
  await rig.read({ drive });
});

test('files that nobody knows are reported and left alone', async () => {
  await using rig = await Rig.start(harness);
  await threeLayers(rig);
  for (const name of ['notes.txt', 'lzz.qcow2']) await writeFile(at(rig, name), 'x');
  for (const repair of [false, true]) {
    const found = await findings(rig, repair);
    expect(found.map(({ code, subject }) => [code, subject]).sort()).toEqual([
      ['file_unknown', 'lzz.qcow2'],
      ['file_unknown', 'notes.txt'],
    ]);
  }
  expect(await readdir(join(rig.directory, 'images'))).toEqual(expect.arrayContaining(['notes.txt', 'lzz.qcow2']));
  await rig.reopen();
  const next = await rig.createDrive();
  expect(await rig.read({ drive: next })).toHaveLength(driveBytes);
  expect(await readdir(join(rig.directory, 'images'))).toContain('lzz.qcow2');
});

test('a header that names another backing is put right on request; the catalog holds meanwhile', async () => {
  await using rig = await Rig.start(harness);
  const { drive, content, names } = await threeLayers(rig);
  const [base = '', middle = '', top = ''] = names;
  await setBackingName(at(rig, top), base);
  expectContent(await rig.read({ drive }), content);
  expect(await findings(rig)).toMatchObject([
    { code: 'header_disagrees', severity: 'warning', subject: top, repairable: true, repaired: false },
  ]);
  expect((await readHeader(at(rig, top))).backing).toBe(base);
  expect(await findings(rig, true)).toMatchObject([{ code: 'header_disagrees', repaired: true }]);
  expect((await readHeader(at(rig, top))).backing).toBe(middle);
  expect(await findings(rig)).toEqual([]);
});

test('so is one whose file is open', async () => {
  await using rig = await Rig.start(harness);
  const { drive, names } = await threeLayers(rig);
  const [base = '', middle = '', top = ''] = names;
  await setBackingName(at(rig, top), base);
  const attachment = await rig.attach({ drive });
  expect(await findings(rig, true)).toMatchObject([{ code: 'header_disagrees', repaired: true }]);
  expect((await readHeader(at(rig, top))).backing).toBe(middle);
  expect(await findings(rig)).toEqual([]);
  await rig.end(attachment);
});

test('a header that cannot be read, a corrupt mark, and broken tables are errors', async () => {
  await using rig = await Rig.start(harness);
  const { names } = await threeLayers(rig);
  const [base = '', middle = '', top = ''] = names;
  const poke = async (name: string, offset: number, bytes: number[]): Promise<void> => {
    const file = await open(at(rig, name), 'r+');
    await file.write(Uint8Array.from(bytes), 0, bytes.length, offset);
    await file.close();
  };
  await poke(base, 0, [0]);
  await poke(middle, 79, [16 | 2]); // incompatible features: corrupt
  await poke(top, 2 * 128 * 1024, [0, 0, 0, 0]); // refcounts of header and table
  const found = await findings(rig);
  expect(found.filter((one) => one.severity === 'error').map(({ code, subject }) => `${subject} ${code}`)).toEqual(
    expect.arrayContaining([`${base} file_unreadable`, `${middle} file_corrupt`, `${top} file_damaged`]),
  );
});

test('layers that wait for another to go are no complaint', async () => {
  await using rig = await Rig.start(harness);
  const { drive, first, second } = await threeLayers(rig);
  const clone = await rig.clone(second);
  await rig.deletePoints(second);
  await rig.reclaim(drive, clone);
  expect(await findings(rig)).toMatchObject([{ code: 'layers_hidden', severity: 'info' }]);
  await rig.deletePoints(first);
  expect((await findings(rig)).every((finding) => finding.severity === 'info')).toBe(true);
});

test('an available snapshot without data is an error', async () => {
  await using rig = await Rig.start(harness);
  const { drive, first } = await threeLayers(rig);
  await rig.catalog.write(async (tx) => {
    await tx
      .insertInto('drives')
      .values({
        id: drive,
        project_id: rig.projectId,
        name: 'd',
        description: '',
        size_bytes: driveBytes,
        state: 'available',
        meta_json: '{}',
        error_json: null,
        based_on: null,
        source_id: null,
        sizes_stale: 0,
        created_at: 1,
        updated_at: 1,
        deleted_at: null,
        version: 1,
      })
      .execute();
    const snapshotId = newId<SnapshotId>();
    await tx
      .insertInto('snapshots')
      .values({
        id: snapshotId,
        project_id: rig.projectId,
        name: 's',
        description: '',
        state: 'available',
        meta_json: '{}',
        error_json: null,
        origin: 'manual',
        consistency: 'crash',
        complete: 1,
        created_by: null,
        created_at: 1,
        updated_at: 1,
        version: 1,
      })
      .execute();
    await tx
      .insertInto('drive_snapshots')
      .values({
        id: first,
        snapshot_id: snapshotId,
        drive_id: drive,
        parent_id: null,
        size_bytes: driveBytes,
        changed_bytes: null,
        created_at: 1,
      })
      .execute();
  });
  expect(await findings(rig)).toEqual([]);
  await rig.deletePoints(first);
  expect(await findings(rig)).toMatchObject([{ code: 'layers_hidden' }, { code: 'snapshot_without_data' }]);
});

test('what is dead is unlinked on request', async () => {
  await using rig = await Rig.start(harness);
  const { drive } = await threeLayers(rig);
  await rig.engine.deleteDrive(drive, async () => undefined);
  expect((await findings(rig)).map(({ code }) => code)).toContain('files_to_remove');
  await findings(rig, true);
  expect((await findings(rig)).map(({ code }) => code)).not.toContain('files_to_remove');
});
