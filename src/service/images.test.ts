import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { type DriveSnapshotId, type GrantId, newId, type SnapshotId } from '../core/ids.ts';
import type { Image } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { Authenticator } from './authenticate.ts';
import type { Caller } from './caller.ts';
import { Projects } from './projects.ts';
import { codeOf, Harness, mib } from './testing/harness.ts';
import {
  anyTime,
  driveImage,
  expectWaiting,
  firstBlock,
  hardware,
  machineSnapshot,
  makeDrive,
  makeImage,
} from './testing/images.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

async function grantOn(to: Caller, id: string, kind: 'image' | 'drive', access: 'ro' | 'rw'): Promise<void> {
  const grant = { id: newId<GrantId>(), user_id: to.userId, project_id: to.projectId, created_at: nowUs() };
  await h.catalog.db
    .insertInto('grants')
    .values({ ...grant, object_kind: kind, object_id: id, access })
    .execute();
}

describe('an image', () => {
  it('of a drive says what it holds, who made it and of what', async () => {
    const { snapshot, image } = await driveImage(h);
    expect(image).toMatchObject({
      name: 'base',
      kind: 'drive',
      state: 'available',
      sizeBytes: mib,
      consistency: 'crash',
      drives: [{ slot: 0, name: 'base', sizeBytes: mib }],
      machine: null,
      sourceId: snapshot.id,
      createdBy: h.caller.userId,
      cloneCount: 0,
    });
    const events = await h.service.events.list(h.caller, { objectId: image.id });
    expect(events.map((event) => event.kind)).toEqual(['image.create.requested', 'image.created']);
  });

  it('outlives its snapshot and its drive, and does not change with what is made from it', async () => {
    const { driveId, image } = await driveImage(h);
    await h.done(await h.service.drives.delete(h.caller, driveId, { snapshots: 'delete' }));
    expect((await h.service.snapshots.list(h.caller, {}, anyTime, {})).items).toEqual([]);
    expect(await h.catalog.db.selectFrom('drives').selectAll().execute()).toEqual([]);
    const first = await makeDrive(h, image, { name: 'first' });
    h.engine.write(first, 0, 99);
    await h.done(await h.service.snapshots.create(h.caller, { driveIds: [first] }).then((made) => made.task));
    const second = await makeDrive(h, image, { name: 'second', sizeBytes: 3 * mib });
    expect([firstBlock(h, first), firstBlock(h, second)]).toEqual([99, 7]);
    expect(await h.service.drives.get(h.caller, second)).toMatchObject({
      name: 'second',
      sizeBytes: 3 * mib,
      imageId: image.id,
      sourceId: null,
    });
    const ofImage = await h.service.drives.list(h.caller, { imageId: image.id }, anyTime, { withTotal: true });
    expect([ofImage.items.map((drive) => drive.id), ofImage.total]).toEqual([[first, second], 2]);
    expect((await h.service.images.get(h.caller, image.id)).cloneCount).toBe(2);
  });

  it('of a machine makes machines of the same kind, with drives in the same slots and an address of their own', async () => {
    const snapshot = await machineSnapshot(h);
    const image = await makeImage(h, snapshot, { name: 'tpl' });
    expect(image).toMatchObject({
      name: 'tpl',
      kind: 'machine',
      sizeBytes: 3 * mib,
      consistency: 'filesystem',
      drives: [
        { slot: 0, name: 'root' },
        { slot: 3, name: 'data', sizeBytes: 2 * mib },
      ],
      machine: { name: 'web', kind: 'instance', hardware, boot: { from: 'drive' } },
    });
    expect(JSON.stringify(image)).not.toContain('macAddress');
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id));

    const one = await h.service.images.cloneMachine(h.caller, image.id, { name: 'one' });
    await h.done(one.task);
    const given = { name: 'two', cpus: 4, memoryBytes: 1024 * mib, kind: 'vm', tags: ['a'] } as const;
    const two = await h.service.images.cloneMachine(h.caller, image.id, given);
    await h.done(two.task);
    const [first, second] = [
      await h.service.machines.get(h.caller, one.machine.id),
      await h.service.machines.get(h.caller, two.machine.id),
    ];
    expect(first).toMatchObject({ kind: 'instance', power: 'off', state: 'available', hardware, imageId: image.id });
    expect(second).toMatchObject({ kind: 'vm', hardware: { cpus: 4, memoryBytes: 1024 * mib }, tags: ['a'] });
    expect(second.hardware.macAddress).not.toBe(first.hardware.macAddress);
    for (const machine of [first, second]) {
      expect(machine.drives.map((drive) => drive.slot)).toEqual([0, 3]);
      expect(machine.drives.map((drive) => firstBlock(h, drive.driveId))).toEqual([10, 11]);
    }
    expect((await h.service.drives.get(h.caller, first.drives[1]?.driveId ?? newId())).name).toBe('one-3');
    expect(firstBlock(h, await makeDrive(h, image, { slot: 3 }))).toBe(11);
  });

  it('has no memory: of a snapshot with memory it is as after a power failure', async () => {
    expect(await makeImage(h, await machineSnapshot(h, 'memory'))).toMatchObject({
      kind: 'machine',
      consistency: 'crash',
    });
  });

  it('can be of one drive of a machine, also if the snapshot is no longer whole', async () => {
    const snapshot = await machineSnapshot(h);
    const [root, data] = snapshot.parts;
    if (root === undefined || data === undefined) throw new Error('no parts');
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id, { parts: [root.id] }));
    const create = (part?: DriveSnapshotId) => h.service.images.create(h.caller, { snapshotId: snapshot.id, part });
    expect((await codeOf(create())).code).toBe('snapshot_incomplete');
    expect((await codeOf(create(root.id))).code).toBe('not_found');
    expect(await makeImage(h, snapshot, { part: data.id })).toMatchObject({
      kind: 'drive',
      machine: null,
      sizeBytes: 2 * mib,
    });
  });

  it('changes its labels and nothing else', async () => {
    const { image } = await driveImage(h);
    const update = { name: 'new', description: 'd', meta: { a: '1' }, tags: ['y', 'x'], ifVersion: image.version };
    const changed = await h.service.images.update(h.caller, image.id, update);
    expect(changed).toEqual({
      ...image,
      name: 'new',
      description: 'd',
      meta: { a: '1' },
      tags: ['x', 'y'],
      version: image.version + 1,
      updatedAt: changed.updatedAt,
    });
    expect((await codeOf(h.service.images.update(h.caller, image.id, update))).code).toBe('precondition_failed');
    expect((await codeOf(h.service.images.update(h.caller, image.id, { name: '' }))).code).toBe('invalid_name');
    const stale = h.service.images.delete(h.caller, image.id, { ifVersion: image.version });
    expect((await codeOf(stale)).code).toBe('precondition_failed');
    const events = await h.service.events.list(h.caller, { objectId: image.id });
    expect(events.at(-1)).toMatchObject({ kind: 'image.updated', detail: { name: 'new' } });
  });

  it('is made once with one key, and its name refused where that is wished', async () => {
    const { snapshot, image } = await driveImage(h);
    const options = { idempotency: { key: 'k', requestHash: 'h' } };
    const input = { snapshotId: snapshot.id, name: 'keyed' };
    const first = await h.service.images.create(h.caller, input, options);
    await h.done(first.task);
    const again = await h.service.images.create(h.caller, input, options);
    expect([again.image.id, again.task.id]).toEqual([first.image.id, first.task.id]);
    const taken = h.service.images.create(h.caller, input, { refuseExistingName: true });
    expect((await codeOf(taken)).code).toBe('name_taken');
    const drive = { idempotency: { key: 'd', requestHash: 'h' } };
    const made = await h.service.images.clone(h.caller, image.id, {}, drive);
    expect((await h.service.images.clone(h.caller, image.id, {}, drive)).drive.id).toBe(made.drive.id);
    const gone = { idempotency: { key: 'x', requestHash: 'h' } };
    const deletion = await h.service.images.delete(h.caller, first.image.id, gone);
    await h.done(deletion);
    expect((await h.service.images.delete(h.caller, first.image.id, gone)).id).toBe(deletion.id);
  });
});

describe('making an image', () => {
  it('takes an available snapshot of one drive, or the name of a part', async () => {
    const drives = [await h.drive('a'), await h.drive('b')];
    const both = await h.snapshot(drives.map((drive) => drive.id));
    const create = (snapshotId: SnapshotId) => codeOf(h.service.images.create(h.caller, { snapshotId }));
    expect(await create(both.id)).toMatchObject({ code: 'invalid_request', details: { field: 'part' } });
    expect((await create(newId())).code).toBe('not_found');
    const held = h.hold('before:snapshot');
    const { task, snapshot } = await h.service.snapshots.create(h.caller, { driveIds: [drives[0]?.id ?? newId()] });
    await held.reached;
    expect(await create(snapshot.id)).toMatchObject({ code: 'snapshot_not_ready', details: { taskId: task.id } });
    held.release();
    await h.done(task);
    const named = { snapshotId: snapshot.id, name: 'x'.repeat(256) };
    expect((await codeOf(h.service.images.create(h.caller, named))).code).toBe('invalid_name');
  });

  it('comes before a deletion of its snapshot that was asked for after it', async () => {
    const drive = await h.drive();
    h.engine.write(drive.id, 0, 7);
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('before:copyPoints');
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    await held.reached;
    const deletion = await h.service.snapshots.delete(h.caller, snapshot.id);
    await expectWaiting(h, deletion);
    held.release();
    await h.done(task);
    await h.done(deletion);
    expect(firstBlock(h, await makeDrive(h, image))).toBe(7);
  });

  it('that fails leaves an image that says why, makes nothing, and can be deleted', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    h.engine.points.clear();
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    expect((await h.ended(task)).state).toBe('failed');
    expect(await h.service.images.get(h.caller, image.id)).toMatchObject({
      state: 'error',
      error: { code: 'not_found' },
    });
    expect((await codeOf(h.service.images.clone(h.caller, image.id, {}))).code).toBe('image_not_ready');
    await h.done(await h.service.images.delete(h.caller, image.id));
    expect((await codeOf(h.service.images.get(h.caller, image.id))).code).toBe('not_found');
  });

  it('that was cancelled while it waited leaves nothing', async () => {
    const { driveId, snapshot } = await driveImage(h);
    const held = h.hold('step:check');
    const check = await h.service.drives.check(h.caller, driveId);
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    await held.reached;
    await h.service.tasks.cancel(h.caller, task.id);
    held.release();
    await h.done(check);
    expect((await codeOf(h.service.images.get(h.caller, image.id))).code).toBe('not_found');
  });
});

describe('making things from an image', () => {
  it('refuses what does not fit, by name', async () => {
    const { image } = await driveImage(h);
    const machine = await makeImage(h, await machineSnapshot(h));
    const drive = (of: Image, input: object) => codeOf(h.service.images.clone(h.caller, of.id, input));
    const clone = (of: Image, input: object) => codeOf(h.service.images.cloneMachine(h.caller, of.id, input));
    expect((await drive(image, { sizeBytes: 4096 })).code).toBe('shrink_not_supported');
    expect((await drive(image, { sizeBytes: 2 ** 60 })).code).toBe('invalid_size');
    expect(await drive(machine, {})).toMatchObject({ code: 'invalid_request', details: { slots: [0, 3] } });
    expect((await drive(machine, { slot: 1 })).code).toBe('not_found');
    expect((await clone(image, {})).code).toBe('invalid_request');
    expect((await clone(machine, { cpus: 0 })).code).toBe('invalid_request');
    expect((await clone(machine, { memoryBytes: 1 })).code).toBe('invalid_size');
    h.engine.low = true;
    expect([(await drive(image, {})).code, (await clone(machine, {})).code]).toEqual(['space_low', 'space_low']);
  });

  it('makes the usual machine around the only drive of an image, of the memory it is given', async () => {
    const { image } = await driveImage(h);
    const given = { name: 'around', memoryBytes: 32 * mib, cpus: 2 };
    const { task, machine } = await h.service.images.cloneMachine(h.caller, image.id, given);
    await h.done(task);
    const made = await h.service.machines.get(h.caller, machine.id);
    expect(made).toMatchObject({
      name: 'around',
      power: 'off',
      imageId: image.id,
      boot: { from: 'drive' },
      hardware: { cpus: 2, memoryBytes: 32 * mib },
      drives: [{ slot: 0 }],
    });
    const [drive] = made.drives;
    expect(drive && firstBlock(h, drive.driveId)).toBe(7);
  });

  it('does not start a machine that could not be made', async () => {
    const { image } = await driveImage(h);
    h.engine.gate = (place) => {
      if (place === 'before:clone') throw new CalotypeError('engine_failed');
    };
    const given = { memoryBytes: 32 * mib, start: true };
    const { task, machine } = await h.service.images.cloneMachine(h.caller, image.id, given);
    expect(task.kind).toBe('machine.start');
    expect(await h.ended(task)).toMatchObject({ state: 'failed', error: { code: 'machine_not_ready' } });
    expect(await h.service.machines.get(h.caller, machine.id)).toMatchObject({ state: 'error', power: 'off' });
  });

  it('takes an image that is available: not one that is still being made, nor one that is going', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const making = h.hold('before:copyPoints');
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    await making.reached;
    const clone = () => codeOf(h.service.images.clone(h.caller, image.id, {}));
    expect(await clone()).toMatchObject({ code: 'image_not_ready', details: { state: 'creating', taskId: task.id } });
    making.release();
    await h.done(task);
    const going = h.hold('before:deleteSnapshots');
    const deletion = await h.service.images.delete(h.caller, image.id);
    await going.reached;
    expect(await clone()).toMatchObject({
      code: 'image_not_ready',
      details: { state: 'deleting', taskId: deletion.id },
    });
    going.release();
    await h.done(deletion);
    expect((await clone()).code).toBe('not_found');
  });

  it('does not wait for work on the drive that the image was taken of', async () => {
    const { driveId, image } = await driveImage(h);
    const held = h.hold('step:check');
    const check = await h.service.drives.check(h.caller, driveId);
    await held.reached;
    const made = await makeDrive(h, image);
    await h.done(await h.service.drives.delete(h.caller, made, { snapshots: 'refuse' }));
    await h.done(await h.service.images.delete(h.caller, image.id));
    held.release();
    await h.done(check);
  });
});

describe('lists of images', () => {
  it('filter, sort, count and page as others do', async () => {
    const snapshot = await machineSnapshot(h);
    const [part] = snapshot.parts;
    for (const name of ['b', 'a', 'c']) await makeImage(h, snapshot, { name, part: part?.id ?? newId() });
    const machine = await makeImage(h, snapshot, { name: 'whole' });
    await h.service.images.update(h.caller, machine.id, { tags: ['t'] });
    const list = (filter: object, page: object = {}, by: 'name' | 'created' = 'name') =>
      h.service.images.list(h.caller, filter, { by, order: 'asc' }, { withTotal: true, ...page });
    const names = async (filter: object) => (await list(filter)).items.map((image) => image.name);
    expect(await names({})).toEqual(['a', 'b', 'c', 'whole']);
    expect(await names({ kinds: ['machine'] })).toEqual(['whole']);
    expect(await names({ kinds: ['drive'], nameLike: '*c*' })).toEqual(['c']);
    expect(await names({ tag: 't' })).toEqual(['whole']);
    expect(await names({ states: ['error'] })).toEqual([]);
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page = await list({}, { limit: 3, ...(cursor === '' ? {} : { cursor }) }, 'created');
      expect(page.total).toBe(4);
      seen.push(...page.items.map((image) => image.name));
      cursor = page.nextCursor;
    }
    expect(seen).toEqual(['b', 'a', 'c', 'whole']);
    const { nextCursor } = await list({}, { limit: 1 });
    expect((await codeOf(list({ tag: 't' }, { cursor: nextCursor ?? '' }))).code).toBe('invalid_cursor');
  });

  it('show a guest what is granted, and foreign ones to nobody', async () => {
    const { image } = await driveImage(h);
    await makeImage(h, await machineSnapshot(h));
    const inUse = await makeDrive(h, image, { name: 'secret' });
    const other = await h.person('olga', 'admin', await h.project('other'));
    const guest = await h.person('gus', 'guest');
    const { images } = h.service;
    const count = async (caller: Caller) => (await images.list(caller, {}, anyTime, {})).items.length;
    for (const caller of [other, guest]) {
      expect(await count(caller)).toBe(0);
      const calls = [
        images.get(caller, image.id),
        images.update(caller, image.id, { name: 'mine' }),
        images.delete(caller, image.id),
      ];
      for (const call of calls) expect((await codeOf(call)).code).toBe('not_found');
    }
    expect((await codeOf(images.clone(other, image.id, {}))).code).toBe('not_found');
    await grantOn(guest, image.id, 'image', 'ro');
    expect(await count(guest)).toBe(1);
    expect((await codeOf(images.update(guest, image.id, { name: 'mine' }))).code).toBe('forbidden');
    expect((await codeOf(images.delete(guest, image.id))).code).toBe('forbidden');
    expect((await codeOf(images.clone(guest, image.id, {}))).code).toBe('forbidden');
    expect((await h.service.events.list(guest, { objectId: image.id })).length).toBeGreaterThan(0);
    await h.catalog.db.deleteFrom('grants').execute();
    await grantOn(guest, image.id, 'image', 'rw');
    const refused = await codeOf(images.delete(guest, image.id));
    expect(refused).toMatchObject({ code: 'image_in_use', details: { drives: [], cloneCount: 1 } });
    await h.done(await h.service.drives.delete(h.caller, inUse, { snapshots: 'refuse' }));
    await h.done(await images.delete(guest, image.id));
    expect(await h.catalog.db.selectFrom('grants').selectAll().execute()).toEqual([]);
  });
});

it('a project that holds an image is not empty', async () => {
  const { driveId } = await driveImage(h);
  await h.done(await h.service.drives.delete(h.caller, driveId, { snapshots: 'delete' }));
  await h.project('other');
  const projects = new Projects(h.catalog, new Authenticator(h.catalog));
  const operator: Caller = { ...h.caller, role: 'operator' };
  const refused = await codeOf(projects.delete(operator, h.caller.projectId));
  expect(refused).toMatchObject({ code: 'project_not_empty', details: { images: 1, drives: 0 } });
});
