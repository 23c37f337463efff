import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DriveId, type DriveSnapshotId, newId, type SnapshotId } from '../core/ids.ts';
import type { Snapshot } from '../core/model.ts';
import { codeOf, Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

const partId = (snapshot: Snapshot, at = 0): DriveSnapshotId => {
  const part = snapshot.parts[at];
  if (part === undefined) throw new Error('no such part');
  return part.id;
};

/** `name(child, child(…))` for every root; `*` marks the current one. */
async function drawTree(driveId: DriveId): Promise<string> {
  type Node = Awaited<ReturnType<typeof h.service.snapshots.tree>>['roots'][number];
  const { roots, current } = await h.service.snapshots.tree(h.caller, driveId);
  const draw = (node: Node): string => {
    const mark = node.part.id === current ? '*' : '';
    const children = node.children.map(draw).join(' ');
    return `${node.snapshot.name}${mark}${children === '' ? '' : `(${children})`}`;
  };
  return roots.map(draw).join(' ');
}

describe('taking snapshots', () => {
  it('answers at once with the object being made, and makes it', async () => {
    const drive = await h.drive('web');
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.create(h.caller, {
      driveIds: [drive.id],
      description: 'before the upgrade',
      meta: { ticket: '42' },
      tags: ['b', 'a'],
    });
    expect(snapshot).toMatchObject({ state: 'creating', sizeBytes: null, tags: ['a', 'b'], meta: { ticket: '42' } });
    expect(snapshot.name).toMatch(/^web-\d{8}T\d{6}Z$/);
    expect(await h.service.snapshots.get(h.caller, snapshot.id)).toEqual(snapshot);
    held.release();
    const end = await h.done(task);
    expect(end.result).toEqual({ snapshotId: snapshot.id });
    const made = await h.service.snapshots.get(h.caller, snapshot.id);
    expect(made).toMatchObject({ state: 'available', sizeBytes: 0, complete: true, origin: 'manual' });
    expect(made.parts[0]).toMatchObject({ driveId: drive.id, driveName: 'web', current: true, parentId: null });
    expect((await h.service.drives.get(h.caller, drive.id)).snapshotCount).toBe(1);
  });

  it('costs two transactions', async () => {
    const drive = await h.drive();
    let commits = 0;
    const write = h.catalog.write.bind(h.catalog);
    h.catalog.write = (work) => {
      commits++;
      return write(work);
    };
    const { task } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    await h.done(task);
    expect(commits).toBe(2);
  });

  it('takes several drives at one instant', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const snapshot = await h.snapshot(drives.map((drive) => drive.id));
    expect(snapshot.parts.map((part) => part.driveName)).toEqual(['a', 'b']);
    expect(h.engine.calls.filter((call) => call === 'snapshot')).toHaveLength(1);
  });

  it('refuses what makes no sense, and changes nothing', async () => {
    const drive = await h.drive();
    const create = (driveIds: readonly DriveId[], more: object = {}) =>
      codeOf(h.service.snapshots.create(h.caller, { driveIds, ...more }));
    expect((await create([])).code).toBe('invalid_request');
    expect((await create([drive.id, drive.id])).code).toBe('invalid_request');
    expect((await create(Array.from({ length: 65 }, () => newId<DriveId>()))).code).toBe('invalid_request');
    expect((await create([newId<DriveId>()])).code).toBe('not_found');
    expect((await create([drive.id], { name: 'a\u0007' })).code).toBe('invalid_name');
    expect((await create([drive.id], { tags: [''] })).code).toBe('invalid_tag');
    const rows = await h.catalog.db.selectFrom('snapshots').selectAll().execute();
    expect(rows).toEqual([]);
    expect((await h.service.tasks.list(h.caller, { driveId: drive.id }, {})).items).toHaveLength(1);
  });

  it('is refused below the mark before anything is recorded, but not its repetition', async () => {
    const drive = await h.drive();
    const options = { idempotency: { key: 'k', requestHash: 'same' } };
    const first = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, options);
    await h.done(first.task);
    h.engine.low = true;
    const input = { driveIds: [drive.id] };
    expect(await codeOf(h.service.snapshots.create(h.caller, input))).toMatchObject({ code: 'space_low' });
    expect(await codeOf(h.service.snapshots.clone(h.caller, first.snapshot.id, {}))).toMatchObject({
      code: 'space_low',
    });
    expect(await codeOf(h.service.snapshots.revert(h.caller, first.snapshot.id))).toMatchObject({ code: 'space_low' });
    const driveSnapshotId = first.snapshot.parts[0]?.id ?? newId();
    expect(await codeOf(h.service.drives.revert(h.caller, drive.id, { driveSnapshotId }))).toMatchObject({
      code: 'space_low',
    });
    expect((await h.service.snapshots.create(h.caller, input, options)).snapshot.id).toBe(first.snapshot.id);
    expect((await h.service.snapshots.list(h.caller, {}, { by: 'number', order: 'asc' }, {})).items).toHaveLength(1);
    expect((await h.service.tasks.list(h.caller, {}, {})).items).toHaveLength(2);
  });

  it('keeps what was written before the snapshot failed', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    await held.reached;
    h.engine.low = true;
    held.release();
    expect((await h.ended(task)).error?.code).toBe('space_low');
    expect(await h.service.snapshots.get(h.caller, snapshot.id)).toMatchObject({ state: 'error' });
    expect(await drawTree(drive.id)).toBe('');
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id));
  });
});

describe('idempotency keys', () => {
  const key = (requestHash: string) => ({ idempotency: { key: 'k', requestHash } });

  it('find the first attempt, whatever became of it', async () => {
    const drive = await h.drive();
    const first = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'));
    const again = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'));
    expect([again.task.id, again.snapshot.id]).toEqual([first.task.id, first.snapshot.id]);
    await h.done(first.task);
    const late = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'));
    expect(late.snapshot).toMatchObject({ id: first.snapshot.id, state: 'available' });
    expect((await codeOf(h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('other')))).code).toBe(
      'idempotency_conflict',
    );
  });

  it('belong to one user', async () => {
    const drive = await h.drive();
    const bob = await h.person('bob', 'member');
    const mine = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'));
    const his = await h.service.snapshots.create(bob, { driveIds: [drive.id] }, key('same'));
    expect(his.snapshot.id).not.toBe(mine.snapshot.id);
  });

  it('make one object when requests with one key come at once', async () => {
    const drive = await h.drive();
    const attempts = await Promise.all(
      Array.from({ length: 8 }, () => h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'))),
    );
    expect(new Set(attempts.map((attempt) => attempt.snapshot.id)).size).toBe(1);
    await h.done(attempts[0]?.task ?? { id: newId() });
    expect((await h.service.drives.get(h.caller, drive.id)).snapshotCount).toBe(1);
  });

  it('expire after a day', async () => {
    const drive = await h.drive();
    const first = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('same'));
    await h.catalog.db.updateTable('idempotency').set({ created_at: 1 }).execute();
    const later = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('other'));
    expect(later.snapshot.id).not.toBe(first.snapshot.id);
  });

  it('are not used up by what was refused', async () => {
    const refused = h.service.snapshots.create(h.caller, { driveIds: [newId<DriveId>()] }, key('same'));
    expect((await codeOf(refused)).code).toBe('not_found');
    const drive = await h.drive();
    expect(
      (await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, key('other'))).task.state,
    ).toBeDefined();
  });
});

describe('the tree', () => {
  it('follows snapshots, reverts and deletions', async () => {
    const drive = await h.drive();
    const a = await h.snapshot([drive.id], 'a');
    const b = await h.snapshot([drive.id], 'b');
    await h.snapshot([drive.id], 'c');
    expect(await drawTree(drive.id)).toBe('a(b(c*))');
    await h.done(await h.service.drives.revert(h.caller, drive.id, { driveSnapshotId: partId(a) }));
    expect(await drawTree(drive.id)).toBe('a*(b(c(before revert to a)))');
    await h.snapshot([drive.id], 'd');
    expect(await drawTree(drive.id)).toBe('a(b(c(before revert to a)) d*)');
    await h.done(await h.service.snapshots.delete(h.caller, b.id));
    expect(await drawTree(drive.id)).toBe('a(c(before revert to a) d*)');
    await h.done(await h.service.snapshots.delete(h.caller, a.id));
    expect(await drawTree(drive.id)).toBe('c(before revert to a) d*');
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'delete' }));
    expect((await h.service.snapshots.list(h.caller, {}, { by: 'name', order: 'asc' }, {})).items).toEqual([]);
  });

  it('moves the current marker to the parent of a deleted one', async () => {
    const drive = await h.drive();
    await h.snapshot([drive.id], 'a');
    const b = await h.snapshot([drive.id], 'b');
    await h.done(await h.service.snapshots.delete(h.caller, b.id));
    expect(await drawTree(drive.id)).toBe('a*');
  });
});

describe('reverts', () => {
  it('bring the drive back and keep the state before', async () => {
    const drive = await h.drive();
    h.engine.write(drive.id, 0, 1);
    const a = await h.snapshot([drive.id], 'a');
    h.engine.write(drive.id, 0, 2);
    const end = await h.done(await h.service.drives.revert(h.caller, drive.id, { driveSnapshotId: partId(a) }));
    expect(h.engine.drives.get(drive.id)?.blocks.get(0)).toBe(1);
    const { items } = await h.service.snapshots.list(h.caller, {}, { by: 'number', order: 'asc' }, {});
    const safety = items[1];
    expect(safety).toMatchObject({ name: 'before revert to a', origin: 'safety', state: 'available', sizeBytes: 4096 });
    expect(end.result).toEqual({ safetySnapshotId: safety?.id });
  });

  it('drop the state before on request, and give back its space', async () => {
    const drive = await h.drive();
    const a = await h.snapshot([drive.id], 'a');
    h.engine.write(drive.id, 0, 2);
    const input = { driveSnapshotId: partId(a), keepSafety: false };
    const end = await h.done(await h.service.drives.revert(h.caller, drive.id, input));
    expect(end.result).toEqual({ freedBytes: 4096, keptBytes: 0, keptBecause: null });
    expect(await drawTree(drive.id)).toBe('a*');
  });

  it('of a snapshot of several drives happen in one step, unless a part is gone', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const both = await h.snapshot(
      drives.map((drive) => drive.id),
      'both',
    );
    await h.done(await h.service.snapshots.revert(h.caller, both.id));
    expect(h.engine.calls.filter((call) => call === 'revert')).toHaveLength(1);
    await h.done(await h.service.snapshots.delete(h.caller, both.id, { parts: [partId(both, 1)] }));
    expect(await h.service.snapshots.get(h.caller, both.id)).toMatchObject({ complete: false, parts: [{}] });
    expect((await codeOf(h.service.snapshots.revert(h.caller, both.id))).code).toBe('snapshot_incomplete');
    await h.done(
      await h.service.drives.revert(h.caller, drives[0]?.id ?? newId(), { driveSnapshotId: partId(both, 0) }),
    );
  });

  it('are refused for another drive', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const ofA = await h.snapshot([a.id]);
    const refused = await codeOf(h.service.drives.revert(h.caller, b.id, { driveSnapshotId: partId(ofA) }));
    expect(refused).toMatchObject({ code: 'snapshot_of_other_drive', details: { driveId: a.id } });
  });
});

describe('deleting', () => {
  it('takes the snapshot out at once and frees space after, with progress', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    h.engine.write(drive.id, 1, 1);
    h.engine.write(drive.id, 2, 1);
    const held = h.hold('step:reclaim');
    const task = await h.service.snapshots.delete(h.caller, snapshot.id);
    await held.reached;
    expect((await codeOf(h.service.snapshots.get(h.caller, snapshot.id))).code).toBe('not_found');
    const now = await h.service.tasks.get(h.caller, task.id);
    expect(now).toMatchObject({ state: 'running', cancellable: true, pausable: true });
    expect(now.progress).toMatchObject({ done: 0, total: 8192, unit: 'bytes' });
    // The drive is free meanwhile.
    await h.snapshot([drive.id]);
    // Who waits for no more than that is told.
    expect((await h.service.tasks.waitFor(h.caller, task.id, 600_000, 'foreground')).state).toBe('running');
    held.release();
    expect((await h.done(task)).result).toEqual({ freedBytes: 8192, keptBytes: 0, keptBecause: null });
  });

  it('is waited for until the snapshot is gone', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    h.engine.write(drive.id, 1, 1);
    const before = h.hold('before:deleteSnapshots');
    const after = h.hold('step:reclaim');
    const task = await h.service.snapshots.delete(h.caller, snapshot.id, { parts: snapshot.parts.map(({ id }) => id) });
    await before.reached;
    const waited = h.service.tasks.waitFor(h.caller, task.id, 600_000, 'foreground');
    before.release();
    expect((await waited).state).toBe('running');
    expect((await codeOf(h.service.snapshots.get(h.caller, snapshot.id))).code).toBe('not_found');
    after.release();
    expect((await h.done(task)).state).toBe('done');
  });

  it('asked for twice is one task', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('before:deleteSnapshots');
    const first = await h.service.snapshots.delete(h.caller, snapshot.id);
    await held.reached;
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).state).toBe('deleting');
    expect((await h.service.snapshots.delete(h.caller, snapshot.id)).id).toBe(first.id);
    held.release();
    await h.done(first);
  });

  it('is possible while the snapshot is still being made', async () => {
    const drive = await h.drive();
    const held = h.hold('before:snapshot');
    const { snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    await held.reached;
    const task = await h.service.snapshots.delete(h.caller, snapshot.id);
    held.release();
    await h.done(task);
    expect(h.engine.points.size).toBe(0);
    expect(await drawTree(drive.id)).toBe('');
  });

  it('leaves the snapshot as it was when the engine refuses', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    h.engine.gate = (place) => {
      if (place === 'before:deleteSnapshots') throw new Error('no');
    };
    expect((await h.ended(await h.service.snapshots.delete(h.caller, snapshot.id))).state).toBe('failed');
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).state).toBe('available');
  });

  it('is refused while the snapshot is exported, naming the export', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const opened = await h.service.exports.create(h.caller, {
      of: { point: partId(snapshot) },
      transport: { kind: 'unix' },
    });
    expect(await codeOf(h.service.snapshots.delete(h.caller, snapshot.id))).toMatchObject({
      code: 'snapshot_in_use',
      details: { blocking: [opened.id] },
    });
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).state).toBe('available');
    await h.service.exports.close(h.caller, opened.id);
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id));
  });
});

describe('clones', () => {
  it('start as the snapshot and outlive it', async () => {
    const drive = await h.drive('base');
    h.engine.write(drive.id, 3, 7);
    const snapshot = await h.snapshot([drive.id], 'gold');
    const { task, drive: clone } = await h.service.snapshots.clone(h.caller, snapshot.id, { sizeBytes: 2 * 1024 ** 2 });
    await h.done(task);
    expect(await h.service.drives.get(h.caller, clone.id)).toMatchObject({
      name: 'gold-clone',
      state: 'available',
      sourceId: partId(snapshot),
      basedOn: null,
      sizeBytes: 2 * 1024 ** 2,
    });
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'delete' }));
    expect(h.engine.drives.get(clone.id)?.blocks.get(3)).toBe(7);
  });

  it('need a part named when there are several, and the room', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const both = await h.snapshot(drives.map((drive) => drive.id));
    expect((await codeOf(h.service.snapshots.clone(h.caller, both.id, {}))).code).toBe('invalid_request');
    const small = h.service.snapshots.clone(h.caller, both.id, { part: partId(both, 1), sizeBytes: 512 });
    expect((await codeOf(small)).code).toBe('shrink_not_supported');
    const { task } = await h.service.snapshots.clone(h.caller, both.id, { part: partId(both, 1), name: 'copy' });
    await h.done(task);
    const taken = h.service.snapshots.clone(
      h.caller,
      both.id,
      { part: partId(both, 1), name: 'copy' },
      { refuseExistingName: true },
    );
    expect((await codeOf(taken)).code).toBe('name_taken');
  });
});

describe('sizes', () => {
  const writable = (driveId: DriveId) =>
    h.service.exports.create(h.caller, { of: { drive: driveId, writable: true }, transport: { kind: 'unix' } });
  const sizeOf = async (id: SnapshotId) => (await h.service.snapshots.get(h.caller, id)).sizeBytes;
  const asked = () => h.engine.calls.filter((call) => call === 'changedBytes').length;

  it('cost no call while nothing can have changed', async () => {
    const drive = await h.drive();
    for (let i = 0; i < 5; i++) await h.snapshot([drive.id]);
    const { items } = await h.service.snapshots.list(h.caller, {}, { by: 'name', order: 'asc' }, {});
    expect(items.map((item) => item.sizeBytes)).toEqual([0, 0, 0, 0, 0]);
    expect(asked()).toBe(0);
  });

  it('grow as the drive is written, and are asked for once per change', async () => {
    const drive = await h.drive();
    const opened = await writable(drive.id);
    const [a, b] = [await h.snapshot([drive.id], 'a'), await h.snapshot([drive.id], 'b')];
    h.engine.write(drive.id, 1, 1);
    expect([await sizeOf(a.id), await sizeOf(b.id)]).toEqual([4096, 4096]);
    const c = await h.snapshot([drive.id], 'c');
    h.engine.write(drive.id, 2, 1);
    expect([await sizeOf(a.id), await sizeOf(b.id), await sizeOf(c.id)]).toEqual([8192, 8192, 4096]);
    const before = asked();
    await h.service.snapshots.list(h.caller, {}, { by: 'name', order: 'asc' }, {});
    expect(asked()).toBe(before);
    h.engine.write(drive.id, 3, 1);
    await h.service.exports.close(h.caller, opened.id);
    expect([await sizeOf(a.id), await sizeOf(b.id), await sizeOf(c.id)]).toEqual([12288, 12288, 8192]);
  });

  it('are stored, so that a restarted server need not ask', async () => {
    const drive = await h.drive();
    const opened = await writable(drive.id);
    const a = await h.snapshot([drive.id], 'a');
    h.engine.write(drive.id, 1, 1);
    await h.service.exports.close(h.caller, opened.id);
    expect(await sizeOf(a.id)).toBe(4096);
    await h.restart();
    const before = asked();
    expect(await sizeOf(a.id)).toBe(4096);
    expect(asked()).toBe(before);
  });

  it('change by a revert', async () => {
    const drive = await h.drive();
    const a = await h.snapshot([drive.id], 'a');
    h.engine.write(drive.id, 1, 1);
    const b = await h.snapshot([drive.id], 'b');
    await h.done(await h.service.drives.revert(h.caller, drive.id, { driveSnapshotId: partId(a), keepSafety: false }));
    expect([await sizeOf(a.id), await sizeOf(b.id)]).toEqual([0, 4096]);
  });

  it('stay what they were when the drive goes and its snapshots are kept', async () => {
    const drive = await h.drive();
    const a = await h.snapshot([drive.id], 'a');
    h.engine.write(drive.id, 1, 1);
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'keep' }));
    expect(await sizeOf(a.id)).toBe(4096);
    expect((await codeOf(h.service.drives.get(h.caller, drive.id))).code).toBe('not_found');
    const { task } = await h.service.snapshots.clone(h.caller, a.id, {});
    await h.done(task);
    await h.done(await h.service.snapshots.delete(h.caller, a.id));
    expect(await h.catalog.db.selectFrom('drives').selectAll().where('id', '=', drive.id).execute()).toEqual([]);
  });
});

describe('rights', () => {
  it('hide what is of other projects, and let a guest do what was granted', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const stranger = await h.person('mallory', 'member', await h.project('elsewhere'));
    const guest = await h.person('gus', 'guest');
    for (const who of [stranger, guest]) {
      expect((await codeOf(h.service.snapshots.get(who, snapshot.id))).code).toBe('not_found');
      expect((await codeOf(h.service.snapshots.delete(who, snapshot.id))).code).toBe('not_found');
      expect((await codeOf(h.service.snapshots.create(who, { driveIds: [drive.id] }))).code).toBe('not_found');
      const page = await h.service.snapshots.list(who, {}, { by: 'name', order: 'asc' }, { withTotal: true });
      expect(page).toEqual({ items: [], nextCursor: null, total: 0 });
      const ofDrive = await h.service.snapshots.list(who, { driveId: drive.id }, { by: 'name', order: 'asc' }, {});
      expect(ofDrive.items).toEqual([]);
    }
    await h.grant(guest, drive.id, 'ro');
    expect((await h.service.snapshots.get(guest, snapshot.id)).id).toBe(snapshot.id);
    expect((await codeOf(h.service.snapshots.create(guest, { driveIds: [drive.id] }))).code).toBe('forbidden');
    expect((await codeOf(h.service.snapshots.clone(guest, snapshot.id, {}))).code).toBe('forbidden');
    const page = await h.service.snapshots.list(guest, {}, { by: 'name', order: 'asc' }, { withTotal: true });
    expect(page).toMatchObject({ total: 1, items: [{ id: snapshot.id }] });
  });
});
