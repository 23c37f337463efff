import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newId, type TagId } from '../core/ids.ts';
import { addProject, codeOf, Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

const all = { limit: null };

describe('tags', () => {
  it('come about by being put on an object, and are one for all objects of the project', async () => {
    const drive = await h.drive();
    await h.service.drives.update(h.caller, drive.id, { tags: ['x', 'y'] });
    const snapshot = await h.snapshot([drive.id]);
    await h.service.snapshots.update(h.caller, snapshot.id, { tags: ['x'] });
    const { items, total } = await h.service.tags.list(h.caller, {}, all);
    expect([total, items.map((tag) => tag.name)]).toEqual([2, ['x', 'y']]);
    expect(items[0]?.carriers).toEqual([
      { kind: 'drive', id: drive.id },
      { kind: 'part', id: snapshot.parts[0]?.id },
    ]);
    expect(items[0]?.createdBy).toBeNull();
    expect(await h.service.tags.idsOf(h.caller, ['x', 'z'])).toEqual(new Map([['x', items[0]?.id]]));
  });

  it('are renamed and deleted on all objects, whose versions say so; those of other projects stay', async () => {
    const elsewhere = await h.person('bob', 'member', await addProject(h.catalog, 'elsewhere'));
    const own = await h.drive();
    await h.service.drives.update(h.caller, own.id, { tags: ['x'] });
    const { task, drive: foreign } = await h.service.drives.create(elsewhere, {
      name: 'f',
      sizeBytes: 4096,
      tags: ['x'],
    });
    await h.service.tasks.waitFor(elsewhere, task.id, 10_000);
    const [tag] = (await h.service.tags.list(h.caller, {}, all)).items;
    const id = tag?.id ?? newId<TagId>();
    const { version } = await h.service.drives.get(h.caller, own.id);
    await h.service.tags.update(h.caller, id, { name: 'z' });
    expect(await h.service.drives.get(h.caller, own.id)).toMatchObject({ tags: ['z'], version: version + 1 });
    expect((await codeOf(h.service.tags.get(elsewhere, id))).code).toBe('not_found');
    expect((await codeOf(h.service.tags.delete(elsewhere, id))).code).toBe('not_found');
    await h.service.tags.delete(h.caller, id);
    expect((await h.service.drives.get(h.caller, own.id)).tags).toEqual([]);
    expect((await h.service.drives.get(elsewhere, foreign.id)).tags).toEqual(['x']);
    expect((await codeOf(h.service.tags.get(h.caller, id))).code).toBe('not_found');
  });

  it('are made all or none, under names that are free', async () => {
    const drive = await h.drive();
    const create = (...names: string[]) =>
      h.service.tags.create(
        h.caller,
        names.map((name) => ({ name, carriers: [drive.id] })),
      );
    expect((await create('a', 'b')).map((tag) => tag.carriers)).toEqual([
      [{ kind: 'drive', id: drive.id }],
      [{ kind: 'drive', id: drive.id }],
    ]);
    expect((await codeOf(create('c', 'a'))).code).toBe('name_taken');
    expect(
      (await codeOf(h.service.tags.create(h.caller, [{ name: 'd' }, { name: 'e', carriers: [newId()] }]))).code,
    ).toBe('not_found');
    expect((await codeOf(create('e,f'))).code).toBe('invalid_tag');
    expect((await h.service.tags.list(h.caller, {}, all)).items.map((tag) => tag.name)).toEqual(['a', 'b']);
    expect((await h.service.drives.get(h.caller, drive.id)).tags).toEqual(['a', 'b']);
  });

  it('hold no more on an object than it may have', async () => {
    const drive = await h.drive();
    await h.service.drives.update(h.caller, drive.id, { tags: Array.from({ length: 64 }, (_, at) => `t${at}`) });
    const [tag] = await h.service.tags.create(h.caller, [{ name: 'more' }]);
    const update = h.service.tags.update(h.caller, tag?.id ?? newId<TagId>(), { carriers: [drive.id] });
    expect((await codeOf(update)).code).toBe('invalid_tag');
    expect((await h.service.drives.get(h.caller, drive.id)).tags).toHaveLength(64);
  });

  it('show a guest those of what he sees, with nothing else on them, and let him change none', async () => {
    const [seen, hidden] = [await h.drive('seen'), await h.drive('hidden')];
    await h.service.drives.update(h.caller, seen.id, { tags: ['both'] });
    await h.service.drives.update(h.caller, hidden.id, { tags: ['both', 'secret'] });
    const guest = await h.person('gast', 'guest');
    await h.grant(guest, seen.id, 'rw');
    const { items, total } = await h.service.tags.list(guest, {}, all);
    expect([total, items.map((tag) => [tag.name, tag.carriers])]).toEqual([
      1,
      [['both', [{ kind: 'drive', id: seen.id }]]],
    ]);
    const id = items[0]?.id ?? newId<TagId>();
    expect((await codeOf(h.service.tags.update(guest, id, { name: 'x' }))).code).toBe('forbidden');
    expect((await codeOf(h.service.tags.delete(guest, id))).code).toBe('forbidden');
    expect((await codeOf(h.service.tags.create(guest, [{ name: 'x' }]))).code).toBe('forbidden');
    const secret = (await h.service.tags.list(h.caller, { names: ['secret'] }, all)).items[0]?.id ?? newId<TagId>();
    expect((await codeOf(h.service.tags.update(guest, secret, { name: 'x' }))).code).toBe('not_found');
  });

  it('go with their project, preferences with their user, traits with their drive', async () => {
    await h.service.preferences.set(h.caller, 'colour', 'red');
    await h.service.preferences.set(h.caller, 'colour', 'blue');
    expect(await h.service.preferences.get(h.caller, 'colour')).toBe('blue');
    const drive = await h.drive();
    await h.service.traits.set(h.caller, drive.id, { media: 'cdrom' });
    expect(await h.service.traits.of([drive.id])).toEqual(new Map([[drive.id, { media: 'cdrom' }]]));
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'delete' }));
    expect(await h.service.traits.of([drive.id])).toEqual(new Map());
    const guest = await h.person('gast', 'guest');
    expect(await h.service.preferences.get(guest, 'colour')).toBeUndefined();
    const other = await h.drive();
    expect((await codeOf(h.service.traits.set(guest, other.id, { media: 'x' }))).code).toBe('not_found');
  });
});
