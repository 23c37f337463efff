import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DriveSnapshotId, newId } from '../core/ids.ts';
import { codeOf, Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

/** Its words, with one id in them instead of another. */
async function errorOf(promise: Promise<unknown>, as?: string): Promise<string> {
  const message = await promise.then(
    () => 'no error',
    (error: unknown) => (error instanceof Error ? error.message : ''),
  );
  return as === undefined ? message : message.replace(/[0-9a-f-]{36}/, as);
}

describe('the snapshot of a part', () => {
  it('is as one gets it by its own id, and changes with it', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const made = await h.snapshot(drives.map((drive) => drive.id));
    const [first, second] = made.parts;
    if (first === undefined || second === undefined) throw new Error('there are no parts');
    const { snapshots } = h.service;
    for (const round of ['read', 'remembered']) {
      expect(await snapshots.getByPart(h.caller, first.id), round).toEqual(made);
    }
    await snapshots.update(h.caller, made.id, { name: 'renamed' });
    expect((await snapshots.getByPart(h.caller, second.id)).name).toBe('renamed');
    await h.done(await snapshots.delete(h.caller, made.id, { parts: [first.id] }));
    await snapshots.get(h.caller, made.id);
    const gone = await errorOf(snapshots.getByPart(h.caller, first.id));
    expect(gone).toEqual(await errorOf(snapshots.getByPart(h.caller, newId<DriveSnapshotId>()), first.id));
    expect(await snapshots.getByPart(h.caller, second.id)).toMatchObject({
      complete: false,
      parts: [{ id: second.id }],
    });
  });

  it('is for those who may see the part, whoever asked before', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const made = await h.snapshot(drives.map((drive) => drive.id));
    const [first, second] = made.parts;
    if (first === undefined || second === undefined) throw new Error('there are no parts');
    const { snapshots } = h.service;
    const guest = await h.person('gus', 'guest');
    const stranger = await h.person('stan', 'admin', await h.project('other'));
    await h.grant(guest, first.driveId, 'ro');
    for (const round of ['first', 'second']) {
      await snapshots.getByPart(h.caller, first.id);
      await snapshots.getByPart(h.caller, second.id);
      expect(await snapshots.getByPart(guest, first.id), round).toEqual(made);
      expect((await codeOf(snapshots.getByPart(guest, second.id))).code, round).toBe('not_found');
      expect((await codeOf(snapshots.getByPart(stranger, first.id))).code, round).toBe('not_found');
    }
  });
});

describe('when a snapshot was finished', () => {
  it('is told from then on, and not before', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    expect(snapshot.availableAt).toBeNull();
    await held.reached;
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).availableAt).toBeNull();
    held.release();
    const done = await h.done(task);
    const { availableAt, createdAt } = await h.service.snapshots.get(h.caller, snapshot.id);
    expect(availableAt).toBeGreaterThanOrEqual(createdAt);
    expect(availableAt).toBeLessThanOrEqual(done.finishedAt ?? 0);
  });

  it('is the instant itself where a revert kept the state before', async () => {
    const drive = await h.drive();
    const [part] = (await h.snapshot([drive.id])).parts;
    if (part === undefined) throw new Error('there is no part');
    await h.done(await h.service.drives.revert(h.caller, drive.id, { driveSnapshotId: part.id }));
    const list = await h.service.queries.list(h.caller, 'snapshot', {
      where: { field: 'origin', op: 'eq', value: 'safety' },
    });
    expect(list.items[0]?.availableAt).toBe(list.items[0]?.createdAt);
  });
});
