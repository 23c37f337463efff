import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId } from '../core/ids.ts';
import { maxBatch } from './batches.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

const counts = async () => {
  const { db } = h.catalog;
  const [drives, snapshots, tasks] = await Promise.all([
    db.selectFrom('drives').select('id').execute(),
    db.selectFrom('snapshots').select('id').execute(),
    db.selectFrom('tasks').select('id').execute(),
  ]);
  return [drives.length, snapshots.length, tasks.length];
};

describe('changes of several objects', () => {
  it('take snapshots of several drives, each with an instant of its own, or none', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const made = await h.service.snapshots.createEach(
      h.caller,
      [b, a, b].map((drive) => ({ driveIds: [drive.id], name: drive.name })),
    );
    expect(made.map(({ snapshot }) => [snapshot.name, snapshot.parts.length])).toEqual([
      ['b', 1],
      ['a', 1],
      ['b', 1],
    ]);
    for (const { task } of made) await h.done(task);
    const last = await h.service.snapshots.get(h.caller, made[2]?.snapshot.id ?? newId());
    expect(last.parts[0]?.parentId).toBe(made[0]?.snapshot.parts[0]?.id);
    const before = await counts();
    const refused = h.service.snapshots.createEach(h.caller, [{ driveIds: [a.id] }, { driveIds: [newId<DriveId>()] }]);
    expect((await codeOf(refused)).code).toBe('not_found');
    expect(await counts()).toEqual(before);
    expect(h.service.tasks.underWay(h.caller, [a.id]).size).toBe(0);
  });

  it('make and delete drives, or none', async () => {
    const made = await h.service.drives.createEach(h.caller, [
      { name: 'a', sizeBytes: mib },
      { name: 'b', sizeBytes: mib, traits: { media: 'cdrom' } },
    ]);
    for (const { task } of made) await h.done(task);
    const ids = made.map(({ drive }) => drive.id);
    expect(await h.service.traits.of(ids)).toEqual(new Map([[ids[1], { media: 'cdrom' }]]));
    const before = await counts();
    const wrong = h.service.drives.createEach(h.caller, [
      { name: 'c', sizeBytes: mib },
      { name: '', sizeBytes: mib },
    ]);
    expect((await codeOf(wrong)).code).toBe('invalid_name');
    const unknown = h.service.drives.deleteEach(h.caller, [...ids, newId<DriveId>()], { snapshots: 'delete' });
    expect((await codeOf(unknown)).code).toBe('not_found');
    expect(await counts()).toEqual(before);
    for (const id of ids) expect((await h.service.drives.get(h.caller, id)).state).toBe('available');
    for (const task of await h.service.drives.deleteEach(h.caller, [...ids, ...ids], { snapshots: 'delete' })) {
      await h.done(task);
    }
    expect((await counts())[0]).toBe(0);
  });

  it('delete parts of several snapshots, or none', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const both = await h.snapshot([a.id, b.id]);
    const one = await h.snapshot([a.id]);
    const parts = [...both.parts.filter((part) => part.driveId === a.id), ...one.parts].map((part) => part.id);
    const before = await counts();
    const unknown = h.service.snapshots.deleteParts(h.caller, [...parts, newId<DriveSnapshotId>()]);
    expect((await codeOf(unknown)).code).toBe('not_found');
    expect(await counts()).toEqual(before);
    for (const task of await h.service.snapshots.deleteParts(h.caller, parts)) await h.done(task);
    expect(await h.service.snapshots.get(h.caller, both.id)).toMatchObject({
      complete: false,
      parts: [{ driveId: b.id }],
    });
    expect((await codeOf(h.service.snapshots.get(h.caller, one.id))).code).toBe('not_found');
  });

  it('are held to a number', async () => {
    const drive = await h.drive();
    const of = (count: number) => Array.from({ length: count }, () => ({ driveIds: [drive.id] }));
    for (const count of [0, maxBatch + 1]) {
      expect((await codeOf(h.service.snapshots.createEach(h.caller, of(count)))).code).toBe('invalid_request');
    }
  });
});

describe('clones of drives as they are', () => {
  it('leave no point behind, also when the clone cannot be made', async () => {
    const drive = await h.drive();
    h.engine.write(drive.id, 1, 7);
    const { task, drive: copy } = await h.service.drives.clone(h.caller, drive.id, { name: 'copy' });
    await h.done(task);
    expect(h.engine.points.size).toBe(0);
    h.engine.gate = async (at) => {
      if (at === 'before:clone') throw new CalotypeError('engine_failed');
    };
    const failed = await h.service.drives.clone(h.caller, drive.id, { name: 'never' });
    expect((await h.ended(failed.task)).state).toBe('failed');
    expect(h.engine.points.size).toBe(0);
    expect((await h.service.drives.get(h.caller, failed.drive.id)).state).toBe('error');
    expect((await h.service.drives.get(h.caller, copy.id)).state).toBe('available');
  });

  it('are not smaller, and need a place in the project', async () => {
    const drive = await h.drive();
    const smaller = h.service.drives.clone(h.caller, drive.id, { name: 'x', sizeBytes: 512 });
    expect((await codeOf(smaller)).code).toBe('shrink_not_supported');
    const guest = await h.person('gast', 'guest');
    await h.grant(guest, drive.id, 'rw');
    expect((await codeOf(h.service.drives.clone(guest, drive.id, { name: 'x' }))).code).toBe('forbidden');
  });

  it('of a snapshot that is still being taken wait for it, when that is wished', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const { snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    await held.reached;
    expect((await codeOf(h.service.snapshots.clone(h.caller, snapshot.id, {}))).code).toBe('snapshot_not_ready');
    const { task } = await h.service.snapshots.clone(h.caller, snapshot.id, { evenCreating: true });
    held.release();
    expect((await h.done(task)).state).toBe('done');
  });
});
