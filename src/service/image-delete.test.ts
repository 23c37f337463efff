import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type ImageId, newId } from '../core/ids.ts';
import type { Image, Snapshot, Task } from '../core/model.ts';
import { codeOf, Harness } from './testing/harness.ts';
import {
  anyTime,
  driveImage,
  expectWaiting,
  firstBlock,
  machineSnapshot,
  makeDrive,
  makeImage,
} from './testing/images.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

describe('deleting an image', () => {
  it('gives its points back and says so', async () => {
    const { driveId, image } = await driveImage(h);
    await h.done(await h.service.drives.delete(h.caller, driveId, { snapshots: 'delete' }));
    expect(h.engine.points.size).toBe(1);
    const task = await h.done(await h.service.images.delete(h.caller, image.id));
    expect(task.result).toMatchObject({ freedBytes: 4096 });
    expect(h.engine.points.size).toBe(0);
    expect(await h.catalog.db.selectFrom('image_parts').selectAll().execute()).toEqual([]);
    const events = await h.service.events.list(h.caller, { objectId: image.id });
    expect(events.map((event) => event.kind)).toEqual([
      'image.create.requested',
      'image.created',
      'image.delete.requested',
      'image.deleted',
      'image.delete.done',
    ]);
  });

  it('in use is refused, and names the drives and the machines they are in', async () => {
    const image = await makeImage(h, await machineSnapshot(h), { name: 'tpl' });
    const { task, machine } = await h.service.images.cloneMachine(h.caller, image.id, { name: 'web' });
    await h.done(task);
    const alone = await makeDrive(h, image, { slot: 0, name: 'alone' });
    const ids = [...machine.drives.map((drive) => drive.driveId), alone];
    const refused = h.service.images.delete(h.caller, image.id);
    await expect(refused).rejects.toThrow('The image tpl is in use by web-0, web-3, alone, in web.');
    expect(await codeOf(refused)).toMatchObject({
      code: 'image_in_use',
      details: {
        blocking: ids,
        drives: [{ name: 'web-0', machineId: machine.id }, { name: 'web-3' }, { id: alone, machineId: null }],
        machines: [{ id: machine.id, name: 'web' }],
        cloneCount: 3,
      },
    });
    expect((await h.service.images.get(h.caller, image.id)).state).toBe('available');

    await h.done(await h.service.drives.flatten(h.caller, alone));
    expect((await h.service.drives.get(h.caller, alone)).imageId).toBeNull();
    await h.done(await h.service.machines.delete(h.caller, machine.id, { drives: 'keep' }));
    const left = await codeOf(h.service.images.delete(h.caller, image.id));
    expect(left).toMatchObject({ code: 'image_in_use', details: { machines: [], cloneCount: 2 } });
    for (const drive of machine.drives)
      await h.done(await h.service.drives.delete(h.caller, drive.driveId, { snapshots: 'refuse' }));
    await h.done(await h.service.images.delete(h.caller, image.id));
    expect(firstBlock(h, alone)).toBe(10);
  });

  it('counts a drive from the moment it is asked for until it is gone, and none that could not be made', async () => {
    const { image } = await driveImage(h);
    const remove = () => codeOf(h.service.images.delete(h.caller, image.id));
    const making = h.hold('before:clone');
    const { task, drive } = await h.service.images.clone(h.caller, image.id, {});
    await making.reached;
    expect((await remove()).code).toBe('image_in_use');
    making.release();
    await h.done(task);
    const kept = await h.snapshot([drive.id]);
    const going = h.hold('before:deleteDrive');
    const deletion = await h.service.drives.delete(h.caller, drive.id, { snapshots: 'keep' });
    await going.reached;
    expect((await remove()).code).toBe('image_in_use');
    going.release();
    await h.done(deletion);

    h.engine.gate = (place) => {
      if (place === 'before:clone') throw new Error('no');
    };
    const failed = await h.service.images.clone(h.caller, image.id, {});
    expect((await h.ended(failed.task)).state).toBe('failed');
    h.engine.gate = () => {};
    expect((await h.service.images.get(h.caller, image.id)).cloneCount).toBe(0);
    await h.done(await h.service.images.delete(h.caller, image.id));
    const again = await h.service.snapshots.clone(h.caller, kept.id, {});
    await h.done(again.task);
    expect(firstBlock(h, again.drive.id)).toBe(7);
  });

  it('twice at once is one deletion', async () => {
    const { image } = await driveImage(h);
    const held = h.hold('before:deleteSnapshots');
    const first = await h.service.images.delete(h.caller, image.id);
    const [second, third] = await Promise.all([
      h.service.images.delete(h.caller, image.id),
      h.service.images.delete(h.caller, image.id),
    ]);
    expect([second.id, third.id]).toEqual([first.id, first.id]);
    held.release();
    await h.done(first);
    expect((await codeOf(h.service.images.delete(h.caller, image.id))).code).toBe('not_found');
  });

  it('that is still being made waits for that', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('before:copyPoints');
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    await held.reached;
    const deletion = await h.service.images.delete(h.caller, image.id);
    await expectWaiting(h, deletion);
    held.release();
    await h.done(task);
    await h.done(deletion);
    expect([...h.engine.points.keys()]).toEqual(snapshot.parts.map((part) => part.id));
  });

  it('that is called off before the image was made leaves none that only looks available', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const held = h.hold('before:copyPoints');
    const { task, image } = await h.service.images.create(h.caller, { snapshotId: snapshot.id });
    await held.reached;
    const deletion = await h.service.images.delete(h.caller, image.id);
    await h.service.tasks.cancel(h.caller, deletion.id);
    h.engine.points.clear();
    held.release();
    await h.ended(task);
    expect((await h.service.images.get(h.caller, image.id)).state).toBe('error');
    await h.done(await h.service.images.delete(h.caller, image.id));
  });

  it('that fails leaves it as it was', async () => {
    const { image } = await driveImage(h);
    h.engine.gate = (place) => {
      if (place === 'before:deleteSnapshots') throw new Error('no');
    };
    expect((await h.ended(await h.service.images.delete(h.caller, image.id))).state).toBe('failed');
    h.engine.gate = () => {};
    expect((await h.service.images.get(h.caller, image.id)).state).toBe('available');
    expect(firstBlock(h, await makeDrive(h, image))).toBe(7);
  });
});

describe('after a crash', () => {
  const changes: Record<string, { places: readonly string[]; begin: (image: Image, of: Snapshot) => Promise<Task> }> = {
    'image.create': {
      places: ['before:copyPoints', 'after:copyPoints'],
      begin: async (_image, { id }) => (await h.service.images.create(h.caller, { snapshotId: id, name: 'new' })).task,
    },
    'image.delete': {
      places: ['before:deleteSnapshots', 'after:deleteSnapshots', 'before:reclaim'],
      begin: (image) => h.service.images.delete(h.caller, image.id),
    },
    'drive.clone': {
      places: ['before:clone', 'after:clone'],
      begin: async (image) => (await h.service.images.clone(h.caller, image.id, { slot: 3 })).task,
    },
    'machine.clone': {
      places: ['before:clone', 'after:clone'],
      begin: async (image) => (await h.service.images.cloneMachine(h.caller, image.id, {})).task,
    },
  };
  const cases = Object.entries(changes).flatMap(([kind, { places }]) => places.map((place) => [kind, place] as const));

  it.each(cases)('%s at %s is brought to its end', async (kind, place) => {
    const snapshot = await machineSnapshot(h);
    const image = await makeImage(h, snapshot);
    const held = h.hold(place);
    const task = await changes[kind]?.begin(image, snapshot);
    await held.reached;
    await h.crash();
    expect(await h.ended(task ?? { id: newId() })).toMatchObject({ kind, state: 'done' });
    const { items } = await h.service.images.list(h.caller, {}, anyTime, {});
    expect(items.map((each) => each.state)).toEqual(items.map(() => 'available'));
    expect(items).toHaveLength(kind === 'image.create' ? 2 : kind === 'image.delete' ? 0 : 1);
    expect(h.engine.points.size).toBe(2 + 2 * items.length);
    const clones = await h.service.drives.list(h.caller, { imageId: image.id }, anyTime, {});
    expect(clones.items.map((drive) => firstBlock(h, drive.id))).toEqual(
      kind === 'machine.clone' ? [10, 11] : kind === 'drive.clone' ? [11] : [],
    );
  });

  it('no image stays in between states, with or without a task', async () => {
    const snapshot = await machineSnapshot(h);
    const [made, gone] = [await makeImage(h, snapshot), await makeImage(h, snapshot)];
    const set = (id: ImageId, state: 'creating' | 'deleting') =>
      h.catalog.db.updateTable('images').set({ state }).where('id', '=', id).execute();
    await set(made.id, 'creating');
    await set(gone.id, 'deleting');
    await h.crash();
    expect(h.service.recovered.objects).toBe(2);
    const tasks = await h.service.tasks.list(h.caller, { states: ['queued', 'running'] }, {});
    for (const task of tasks.items) await h.ended(task);
    const { items } = await h.service.images.list(h.caller, {}, anyTime, {});
    expect(items.map((image) => [image.id, image.state])).toEqual([[made.id, 'error']]);
    await h.done(await h.service.images.delete(h.caller, made.id));
    expect(h.engine.points.size).toBe(2);
  });
});
