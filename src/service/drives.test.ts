import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DriveId, newId } from '../core/ids.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

describe('drives', () => {
  it('are made, read, labelled and renamed', async () => {
    const { task, drive } = await h.service.drives.create(h.caller, {
      name: 'web',
      sizeBytes: 1000,
      meta: { a: '1' },
      tags: ['x'],
    });
    expect(drive).toMatchObject({ state: 'creating', sizeBytes: 1024, version: 1, tags: ['x'] });
    await h.done(task);
    const made = await h.service.drives.get(h.caller, drive.id);
    expect(made).toMatchObject({ state: 'available', meta: { a: '1' }, exported: false, snapshotCount: 0 });
    const update = { name: 'www', tags: ['z', 'y'], description: 'd', ifVersion: made.version };
    const changed = await h.service.drives.update(h.caller, drive.id, update);
    expect(changed).toMatchObject({ name: 'www', tags: ['y', 'z'], meta: { a: '1' }, version: made.version + 1 });
    expect(await h.service.drives.get(h.caller, drive.id)).toEqual(changed);
    expect((await codeOf(h.service.drives.update(h.caller, drive.id, update))).code).toBe('precondition_failed');
    expect((await h.service.drives.update(h.caller, drive.id, { tags: [] })).tags).toEqual([]);
  });

  it('refuse what is not valid with a code of its own', async () => {
    const create = (name: string, sizeBytes: number) => codeOf(h.service.drives.create(h.caller, { name, sizeBytes }));
    for (const name of ['', 'x'.repeat(256), 'a\nb']) expect((await create(name, 4096)).code).toBe('invalid_name');
    for (const size of [0, -1, 1.5, Number.NaN, 2 ** 60]) expect((await create('d', size)).code).toBe('invalid_size');
    const drive = await h.drive('d');
    const shrink = await codeOf(h.service.drives.resize(h.caller, drive.id, 512));
    expect(shrink).toMatchObject({ code: 'shrink_not_supported', details: { sizeBytes: mib, wanted: 512 } });
    const again = h.service.drives.create(h.caller, { name: 'd', sizeBytes: 4096 }, { refuseExistingName: true });
    expect((await codeOf(again)).code).toBe('name_taken');
    expect((await h.service.drives.list(h.caller, {}, { by: 'name', order: 'asc' }, {})).items).toHaveLength(1);
  });

  it('grow', async () => {
    const drive = await h.drive();
    await h.done(await h.service.drives.resize(h.caller, drive.id, 2 * mib));
    expect((await h.service.drives.get(h.caller, drive.id)).sizeBytes).toBe(2 * mib);
  });

  it('that are still being made name the task that makes them', async () => {
    const held = h.hold('before:createDrive');
    const { task, drive } = await h.service.drives.create(h.caller, { name: 'd', sizeBytes: 4096 });
    await held.reached;
    expect(await codeOf(h.service.snapshots.create(h.caller, { driveIds: [drive.id] }))).toMatchObject({
      code: 'drive_not_ready',
      details: { taskId: task.id, state: 'creating' },
    });
    held.release();
    await h.done(task);
  });

  it('with snapshots are deleted only as told', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    expect(await codeOf(h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' }))).toMatchObject({
      code: 'drive_has_snapshots',
      details: { blocking: [snapshot.id] },
    });
    expect((await h.service.drives.get(h.caller, drive.id)).state).toBe('available');
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'keep' }));
    expect((await h.service.drives.list(h.caller, {}, { by: 'name', order: 'asc' }, { withTotal: true })).total).toBe(
      0,
    );
    const kept = await h.service.snapshots.get(h.caller, snapshot.id);
    expect(kept).toMatchObject({ state: 'available', parts: [{ driveName: 'disk' }] });
    const page = await h.service.snapshots.list(h.caller, { driveId: drive.id }, { by: 'name', order: 'asc' }, {});
    expect(page.items.map((item) => item.id)).toEqual([snapshot.id]);
  });

  it('take only their own part of a snapshot of several with them', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const both = await h.snapshot([a.id, b.id]);
    const alone = await h.snapshot([a.id]);
    await h.done(await h.service.drives.delete(h.caller, a.id, { snapshots: 'delete' }));
    const left = await h.service.snapshots.get(h.caller, both.id);
    expect(left).toMatchObject({ state: 'available', complete: false, parts: [{ driveName: 'b' }] });
    expect((await codeOf(h.service.snapshots.get(h.caller, alone.id))).code).toBe('not_found');
  });

  it('stay, with their snapshots, when the engine cannot delete them', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    h.engine.gate = (place) => {
      if (place === 'before:deleteSnapshots') throw new Error('no');
    };
    const task = await h.service.drives.delete(h.caller, drive.id, { snapshots: 'delete' });
    expect((await h.ended(task)).state).toBe('failed');
    expect((await h.service.drives.get(h.caller, drive.id)).state).toBe('available');
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).state).toBe('available');
  });

  it('are deleted while long work on them goes on, which ends', async () => {
    const drive = await h.drive();
    const held = h.hold('step:flatten');
    const flatten = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    const task = await h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' });
    expect((await h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' })).id).toBe(task.id);
    held.release();
    await h.done(task);
    expect((await h.ended(flatten)).state).toBe('cancelled');
  });

  it('tell their usage', async () => {
    const drive = await h.drive();
    h.engine.write(drive.id, 0, 1);
    const snapshot = await h.snapshot([drive.id]);
    h.engine.write(drive.id, 0, 2);
    expect(await h.service.drives.usage(h.caller, drive.id)).toMatchObject({
      virtualBytes: mib,
      liveBytes: 4096,
      snapshotBytes: 4096,
    });
    expect(await h.service.snapshots.usage(h.caller, snapshot.id)).toEqual([
      { driveSnapshotId: snapshot.parts[0]?.id, sizeBytes: 4096, uniqueBytes: 4096 },
    ]);
    const from = snapshot.parts[0]?.id ?? null;
    expect(await h.service.snapshots.changes(h.caller, { from, to: { drive: drive.id } })).toEqual([
      { start: 0, length: 4096 },
    ]);
  });

  it('of others answer as if they were not there', async () => {
    const drive = await h.drive();
    const stranger = await h.person('mallory', 'member', await h.project('elsewhere'));
    const attempts = [
      h.service.drives.get(stranger, drive.id),
      h.service.drives.update(stranger, drive.id, { name: 'x' }),
      h.service.drives.resize(stranger, drive.id, 2 * mib),
      h.service.drives.delete(stranger, drive.id, { snapshots: 'delete' }),
      h.service.drives.usage(stranger, drive.id),
      h.service.drives.check(stranger, drive.id),
      h.service.drives.flatten(stranger, drive.id),
      h.service.drives.download(stranger, drive.id, 'raw'),
      h.service.snapshots.tree(stranger, drive.id),
      h.service.drives.get(h.caller, newId<DriveId>()),
    ];
    for (const { code } of await Promise.all(attempts.map(codeOf))) expect(code).toBe('not_found');
  });

  it('can be read by a guest with a grant, and changed with a better one', async () => {
    const drive = await h.drive();
    const guest = await h.person('gus', 'guest');
    await h.grant(guest, drive.id, 'ro');
    expect((await h.service.drives.get(guest, drive.id)).id).toBe(drive.id);
    expect((await codeOf(h.service.drives.update(guest, drive.id, { name: 'x' }))).code).toBe('forbidden');
    expect((await codeOf(h.service.drives.create(guest, { name: 'x', sizeBytes: 4096 }))).code).toBe('forbidden');
    const other = await h.person('gil', 'guest');
    await h.grant(other, drive.id, 'rw');
    const { task } = await h.service.snapshots.create(other, { driveIds: [drive.id] });
    await h.done(task);
  });

  it('are made once per idempotency key, whatever the kind of change', async () => {
    const drive = await h.drive();
    const key = (name: string) => ({ idempotency: { key: name, requestHash: 'h' } });
    const resizes = [1, 2].map(() => h.service.drives.resize(h.caller, drive.id, 2 * mib, key('r')));
    const [first, second] = await Promise.all(resizes);
    expect(first?.id).toBe(second?.id);
    const made = await h.service.drives.create(h.caller, { name: 'n', sizeBytes: 4096 }, key('c'));
    expect((await h.service.drives.create(h.caller, { name: 'n', sizeBytes: 4096 }, key('c'))).drive.id).toBe(
      made.drive.id,
    );
    await h.done(made.task);
    const gone = await h.service.drives.delete(h.caller, made.drive.id, { snapshots: 'refuse', ...key('d') });
    await h.done(gone);
    expect((await h.service.drives.delete(h.caller, made.drive.id, { snapshots: 'refuse', ...key('d') })).id).toBe(
      gone.id,
    );
  });
});
