/** What the doctor says about the memory of snapshots, with files and rows as an engine would have left them. */
import { mkdir, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { insertMemoryFile, keepMemoryFile, markMemoryDead } from '../catalog/machines.ts';
import { type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Finding } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { Harness, mib } from './testing/harness.ts';

let h: Harness;
let directory: string;
beforeEach(async () => {
  h = await Harness.start();
  directory = join(h.directory, 'memory');
  await mkdir(directory);
});
afterEach(() => h.stop());

async function findings(repair = false): Promise<readonly Finding[]> {
  return (await h.service.doctor({ ...h.caller, role: 'operator' }, { repair })).findings;
}

const plan = (snapshotId: SnapshotId): Promise<number> =>
  insertMemoryFile(h.catalog.db, {
    snapshot_id: snapshotId,
    method: 'background',
    accelerator: 'tcg',
    qemu_version: '7.2.0',
    created_at: nowUs(),
  });

/** The memory of a snapshot, kept; its file's path. */
async function keep(snapshotId = newId<SnapshotId>()): Promise<string> {
  const id = await plan(snapshotId);
  const bytes = Buffer.from(`memory of ${snapshotId}`);
  const storedBytes = bytes.length;
  const path = join(directory, `m${id.toString(36)}.zst`);
  await writeFile(path, bytes);
  const checksum = crc32(bytes);
  await keepMemoryFile(h.catalog.db, id, { method: 'background', streamBytes: mib, storedBytes, checksum });
  return path;
}

describe('memory that is kept', () => {
  it('is sound as it was stored', async () => {
    await keep();
    const report = await h.service.doctor({ ...h.caller, role: 'operator' }, { repair: true });
    expect(report).toEqual({ findings: [], checkedFiles: 1 });
  });

  it('is missing, short or changed, and stays as it is', async () => {
    const [gone, short, changed] = [await keep(), await keep(), await keep()];
    await keep();
    await rm(gone);
    await truncate(short, 3);
    await writeFile(changed, 'M', { flag: 'r+' });
    for (const repair of [false, true]) {
      expect(await findings(repair)).toMatchObject([
        { code: 'memory_missing', severity: 'error', subject: 'memory/m1.zst', repairable: false },
        { code: 'memory_damaged', subject: 'memory/m2.zst', explanation: expect.stringContaining('3 bytes') },
        { code: 'memory_damaged', subject: 'memory/m3.zst' },
      ]);
    }
    expect(await readdir(directory)).toHaveLength(3);
  });
});

it('files that nobody knows are reported and left alone', async () => {
  await writeFile(join(directory, 'mzz.zst'), 'x');
  const unknown = { code: 'file_unknown', severity: 'warning', subject: 'memory/mzz.zst', repairable: false };
  expect(await findings(true)).toMatchObject([unknown]);
  expect(await readdir(directory)).toEqual(['mzz.zst']);
});

describe('memory that nothing needs', () => {
  it('is removed by a repair: of a snapshot that is gone, and of one that never came to be', async () => {
    const deleted = newId<SnapshotId>();
    await keep(deleted);
    await markMemoryDead(h.catalog.db, deleted);
    await writeFile(join(directory, `m${(await plan(newId<SnapshotId>())).toString(36)}.zst`), 'half');
    expect(await findings()).toMatchObject([{ code: 'files_to_remove', subject: '2 memory files', repaired: false }]);
    expect(await readdir(directory)).toHaveLength(2);
    expect(await findings(true)).toMatchObject([{ code: 'files_to_remove', repaired: true }]);
    expect(await readdir(directory)).toEqual([]);
    expect(await findings()).toEqual([]);
  });

  it('is left to the task that is at it', async () => {
    const drive = await h.drive();
    const made = await h.service.machines.create(h.caller, {
      name: 'web',
      memoryBytes: 16 * mib,
      drives: [{ driveId: drive.id }],
    });
    await h.done(made.task);
    const machineId: MachineId = made.machine.id;
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.createOfMachine(h.caller, { machineId });
    await held.reached;
    await plan(snapshot.id);
    expect(await findings(true)).toEqual([]);
    held.release();
    await h.done(task);
    expect(await findings()).toMatchObject([{ code: 'files_to_remove', subject: '1 memory file' }]);
  });
});
