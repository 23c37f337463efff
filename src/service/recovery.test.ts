import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DriveId, newId, type SnapshotId, type TaskId } from '../core/ids.ts';
import type { Drive, Task } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { codeOf, Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

/** Every task has ended, nothing is between states, and catalog and engine agree. */
async function expectSettled(): Promise<void> {
  const tasks = await h.service.tasks.list(h.caller, { states: ['queued', 'running', 'paused'] }, {});
  for (const task of tasks.items) await h.ended(task);
  const { db } = h.catalog;
  const drives = await db.selectFrom('drives').selectAll().execute();
  const snapshots = await db.selectFrom('snapshots').selectAll().execute();
  const parts = await db.selectFrom('drive_snapshots').selectAll().execute();
  const between = [...drives, ...snapshots].filter((row) => row.state === 'creating' || row.state === 'deleting');
  expect(between).toEqual([]);
  const living = drives.filter((row) => row.state === 'available').map((row) => row.id);
  expect([...h.engine.drives.keys()].sort()).toEqual(living.sort());
  const standing = new Set(snapshots.filter((row) => row.state === 'available').map((row) => row.id));
  const points = parts.filter((part) => standing.has(part.snapshot_id)).map((part) => part.id);
  expect([...h.engine.points.keys()].sort()).toEqual(points.sort());
  for (const part of parts) {
    if (part.parent_id !== null) expect(parts.map((other) => other.id)).toContain(part.parent_id);
  }
  for (const drive of drives) {
    if (drive.based_on !== null) expect(parts.map((part) => part.id)).toContain(drive.based_on);
  }
  const open = await db.selectFrom('tasks').selectAll().where('finished_at', 'is', null).execute();
  expect(open).toEqual([]);
}

interface Play {
  /** Made and settled before the change begins. */
  readonly drive: Drive;
  readonly snapshotId: SnapshotId;
}

const changes: Record<string, { places: readonly string[]; begin: (play: Play) => Promise<Task> }> = {
  'drive.create': {
    places: ['before:createDrive', 'after:createDrive'],
    begin: async () => (await h.service.drives.create(h.caller, { name: 'new', sizeBytes: 4096 })).task,
  },
  'snapshot.create': {
    places: ['before:snapshot', 'after:snapshot'],
    begin: async ({ drive }) => (await h.service.snapshots.create(h.caller, { driveIds: [drive.id] })).task,
  },
  'snapshot.delete': {
    places: ['before:deleteSnapshots', 'after:deleteSnapshots', 'before:reclaim', 'step:reclaim'],
    begin: ({ snapshotId }) => h.service.snapshots.delete(h.caller, snapshotId),
  },
  'drive.revert': {
    places: ['before:revert', 'after:revert'],
    begin: async ({ drive, snapshotId }) => {
      const snapshot = await h.service.snapshots.get(h.caller, snapshotId);
      const part = snapshot.parts[0];
      return h.service.drives.revert(h.caller, drive.id, { driveSnapshotId: part?.id ?? newId() });
    },
  },
  'snapshot.revert, nothing kept': {
    places: ['before:revert', 'after:revert', 'step:reclaim'],
    begin: ({ snapshotId }) => h.service.snapshots.revert(h.caller, snapshotId, { keepSafety: false }),
  },
  'drive.clone': {
    places: ['before:clone', 'after:clone'],
    begin: async ({ snapshotId }) => (await h.service.snapshots.clone(h.caller, snapshotId, {})).task,
  },
  'drive.clone of a drive as it is': {
    places: [
      'before:snapshot',
      'after:snapshot',
      'before:clone',
      'after:clone',
      'before:deleteSnapshots',
      'after:deleteSnapshots',
    ],
    begin: async ({ drive }) => (await h.service.drives.clone(h.caller, drive.id, { name: 'copy' })).task,
  },
  'drive.resize': {
    places: ['before:resizeDrive', 'after:resizeDrive'],
    begin: ({ drive }) => h.service.drives.resize(h.caller, drive.id, drive.sizeBytes * 2),
  },
  'drive.flatten': {
    places: ['before:flatten', 'step:flatten', 'after:flatten'],
    begin: ({ drive }) => h.service.drives.flatten(h.caller, drive.id),
  },
  'drive.delete with its snapshots': {
    places: [
      'before:deleteSnapshots',
      'after:deleteSnapshots',
      'before:deleteDrive',
      'after:deleteDrive',
      'step:reclaim',
    ],
    begin: ({ drive }) => h.service.drives.delete(h.caller, drive.id, { snapshots: 'delete' }),
  },
  'drive.delete, snapshots kept': {
    places: ['before:deleteDrive', 'after:deleteDrive', 'step:reclaim'],
    begin: ({ drive }) => h.service.drives.delete(h.caller, drive.id, { snapshots: 'keep' }),
  },
};

describe('a server killed in the middle', () => {
  for (const [what, { places, begin }] of Object.entries(changes)) {
    for (const place of places) {
      it(`of ${what} (${place}) finishes it at the next start`, async () => {
        const drive = await h.drive();
        h.engine.write(drive.id, 1, 1);
        const snapshot = await h.snapshot([drive.id]);
        h.engine.write(drive.id, 2, 2);
        const held = h.hold(place);
        const task = await begin({ drive, snapshotId: snapshot.id });
        await held.reached;
        await h.crash();
        expect((await h.done(task)).state).toBe('done');
        await expectSettled();
      });
    }
  }

  it('keeps the order of what waited', async () => {
    const drive = await h.drive();
    const held = h.hold('before:resizeDrive');
    await h.service.drives.resize(h.caller, drive.id, drive.sizeBytes * 2);
    await held.reached;
    const names = ['one', 'two', 'three'];
    const tasks: Task[] = [];
    for (const name of names) {
      tasks.push((await h.service.snapshots.create(h.caller, { driveIds: [drive.id], name })).task);
    }
    h.engine.calls.length = 0;
    await h.crash();
    for (const task of tasks) await h.done(task);
    expect(h.service.recovered.tasks).toBe(4);
    expect(h.engine.calls).toEqual(['resizeDrive', 'snapshot', 'snapshot', 'snapshot']);
    const { items } = await h.service.snapshots.list(h.caller, {}, { by: 'created', order: 'asc' }, {});
    expect(items.map((item) => item.name)).toEqual(names);
    expect(items.map((item) => item.parts[0]?.parentId)).toEqual([
      null,
      items[0]?.parts[0]?.id,
      items[1]?.parts[0]?.id,
    ]);
    expect(items.every((item) => item.parts[0]?.virtualBytes === drive.sizeBytes * 2)).toBe(true);
    await expectSettled();
  });

  it('remembers what was asked of a task: pause, speed, cancellation', async () => {
    const drive = await h.drive();
    let held = h.hold('step:flatten');
    const task = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    await h.service.tasks.setSpeedLimit(h.caller, task.id, 12345);
    await h.service.tasks.pause(h.caller, task.id);
    await h.crash();
    await expect
      .poll(() => h.service.tasks.get(h.caller, task.id))
      .toMatchObject({ state: 'paused', speedLimitBytesPerSecond: 12345 });
    await h.service.tasks.resume(h.caller, task.id);
    await h.done(task);

    held = h.hold('step:flatten');
    const second = await h.service.drives.flatten(h.caller, drive.id);
    await held.reached;
    await h.service.tasks.cancel(h.caller, second.id);
    await h.crash();
    expect((await h.ended(second)).state).toBe('cancelled');
    await expectSettled();
  });

  it('finds the first attempt of a retried request', async () => {
    const drive = await h.drive();
    const held = h.hold('after:snapshot');
    const options = { idempotency: { key: 'k', requestHash: 'h' } };
    const first = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, options);
    await held.reached;
    await h.crash();
    const again = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] }, options);
    expect(again.snapshot.id).toBe(first.snapshot.id);
    await h.done(again.task);
    expect(h.engine.points.size).toBe(1);
  });

  it('stopped in good order goes on likewise, without a task lost', async () => {
    const drive = await h.drive();
    const held = h.hold('step:flatten');
    const task = await h.service.drives.flatten(h.caller, drive.id);
    const waiting = h.service.tasks.waitFor(h.caller, task.id, 10_000);
    await held.reached;
    const closing = h.service.close(50);
    held.release();
    await closing;
    expect((await waiting).state).not.toBe('done');
    await h.restart();
    await h.done(task);
    await expectSettled();
  });

  it('refuses new work while it stops', async () => {
    const drive = await h.drive();
    await h.service.close(0);
    expect((await codeOf(h.service.snapshots.create(h.caller, { driveIds: [drive.id] }))).code).toBe('shutting_down');
  });
});

describe('objects between states without a task', () => {
  it('are put right at the start', async () => {
    const [a, b] = [await h.drive('a'), await h.drive('b')];
    const snapshot = await h.snapshot([a.id]);
    const other = await h.snapshot([a.id]);
    const { db } = h.catalog;
    await db.updateTable('drives').set({ state: 'deleting' }).where('id', '=', b.id).execute();
    await db.updateTable('snapshots').set({ state: 'creating' }).where('id', '=', snapshot.id).execute();
    await db.updateTable('snapshots').set({ state: 'deleting' }).where('id', '=', other.id).execute();
    const at = nowUs();
    const id = newId<DriveId>();
    await db
      .insertInto('drives')
      .values({
        id,
        project_id: h.caller.projectId,
        name: 'half',
        description: '',
        size_bytes: 4096,
        state: 'creating',
        meta_json: '{}',
        error_json: null,
        based_on: null,
        source_id: null,
        sizes_stale: 0,
        created_at: at,
        updated_at: at,
        deleted_at: null,
        version: 1,
      })
      .execute();
    await h.crash();
    expect(h.service.recovered.objects).toBe(4);
    const active = await h.service.tasks.list(h.caller, { states: ['queued', 'running'] }, {});
    for (const task of active.items) await h.ended(task);
    expect((await h.service.drives.get(h.caller, id)).state).toBe('error');
    expect((await codeOf(h.service.drives.get(h.caller, b.id))).code).toBe('not_found');
    expect((await h.service.snapshots.get(h.caller, snapshot.id)).state).toBe('error');
    expect((await codeOf(h.service.snapshots.get(h.caller, other.id))).code).toBe('not_found');
  });

  it('tasks of a kind that is not known any more fail', async () => {
    const drive = await h.drive();
    const { task } = await h.service.snapshots.create(h.caller, { driveIds: [drive.id] });
    await h.done(task);
    await h.catalog.db
      .updateTable('tasks')
      .set({ kind: 'drive.paint', state: 'running', finished_at: null })
      .where('id', '=', task.id)
      .execute();
    await h.crash();
    const row = await h.catalog.db
      .selectFrom('tasks')
      .selectAll()
      .where('id', '=', task.id satisfies TaskId)
      .executeTakeFirstOrThrow();
    expect(row.state).toBe('failed');
  });
});

describe('compaction', () => {
  it('comes by itself after snapshots, once per drive', async () => {
    h.engine.compactAbove = 3;
    const drive = await h.drive();
    for (let i = 0; i < 5; i++) await h.snapshot([drive.id]);
    // On a slow machine it may begin before the last snapshot, which then is not worth another.
    await expect.poll(() => h.engine.drives.get(drive.id)?.depth).toBeLessThanOrEqual(h.engine.compactAbove);
    const { items } = await h.service.tasks.list(h.caller, { driveId: drive.id }, {});
    const compactions = items.filter((item) => item.kind === 'drive.compact');
    expect(compactions.length).toBeGreaterThan(0);
    expect(compactions[0]).toMatchObject({ userId: null, via: 'system' });
  });

  it('does not keep the drive from its owner', async () => {
    h.engine.compactAbove = 1;
    const drive = await h.drive();
    const held = h.hold('step:compact');
    await h.snapshot([drive.id]);
    await held.reached;
    await h.snapshot([drive.id]);
    const { items } = await h.service.tasks.list(h.caller, { states: ['running'] }, {});
    expect(items.map((item) => item.kind)).toEqual(['drive.compact']);
    held.release();
    await expect.poll(() => h.engine.drives.get(drive.id)?.depth).toBe(1);
  });
});
