/** The routes of images: what reaches the service, and what leaves. */
import { afterEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { newId } from '../core/ids.ts';
import { isoFromUs } from '../core/time.ts';
import type { ImageUseCases } from '../service/interface.ts';
import type { BuiltApp } from './app.ts';
import { aDrive, anImage, aTask, bearer, fakeApp } from './testing/fakes.ts';

let built: BuiltApp | undefined;
afterEach(async () => {
  await built?.app.close();
  built = undefined;
});

async function start(images: Partial<ImageUseCases>) {
  built = await fakeApp({ images });
  return built.app;
}

const image = anImage();
const done = aTask({ state: 'done', objectKind: 'image', objectId: image.id, kind: 'image.create' });

describe('images', () => {
  test('are made from a snapshot', async () => {
    const calls: unknown[][] = [];
    const app = await start({
      create: async (_caller, input, options) => {
        calls.push([input, options]);
        return { task: done, image };
      },
      get: async () => image,
    });
    const [snapshotId, part] = [newId(), newId()];
    const payload = { snapshotId, part, name: 'n', description: 'd', meta: { a: '1' }, tags: ['t'] };
    const headers = { ...bearer, 'idempotency-key': 'k', 'if-none-match': '*' };
    const answer = await app.inject({ method: 'POST', url: '/v1/images', headers, payload });
    expect([answer.statusCode, answer.headers.location]).toEqual([201, `/v1/images/${image.id}`]);
    expect(calls).toMatchObject([[payload, { idempotency: { key: 'k' }, refuseExistingName: true }]]);
    expect(answer.json()).toMatchObject({ task: { id: done.id, kind: 'image.create' }, image: { id: image.id } });
  });

  test('leave whole, with a version that changes may insist on', async () => {
    const seen: unknown[] = [];
    const app = await start({
      get: async () => image,
      update: async (_caller, _id, update) => {
        seen.push(update);
        return anImage({ name: 'new', version: 4 });
      },
    });
    const answer = await app.inject({ url: `/v1/images/${image.id}`, headers: bearer });
    expect(answer.headers.etag).toBe('"3"');
    expect(answer.json()).toEqual({
      ...image,
      createdAt: isoFromUs(image.createdAt),
      updatedAt: isoFromUs(image.updatedAt),
    });
    const patch = (payload: object) =>
      app.inject({
        method: 'PATCH',
        url: `/v1/images/${image.id}`,
        headers: { ...bearer, 'if-match': '"3"' },
        payload,
      });
    expect((await patch({ name: 'new' })).headers.etag).toBe('"4"');
    expect(seen).toEqual([{ name: 'new', ifVersion: 3 }]);
    for (const fixed of [{ sizeBytes: 1 }, { state: 'error' }, { machine: null }])
      expect((await patch(fixed)).json()).toMatchObject({ status: 400, field: Object.keys(fixed)[0] });
  });

  test('are listed by name, kind, state and tag', async () => {
    const calls: unknown[][] = [];
    const app = await start({
      list: async (_caller, ...rest) => {
        calls.push(rest);
        return { items: [image], nextCursor: null, total: 1 };
      },
    });
    const query = 'nameLike=deb*&kind=machine&state=available,error&tag=t&sort=name&order=desc&limit=2&total=true';
    const answer = await app.inject({ url: `/v1/images?${query}`, headers: bearer });
    expect(answer.json()).toMatchObject({ total: 1, items: [{ name: 'debian-12', cloneCount: 2 }] });
    expect(calls).toEqual([
      [
        { nameLike: 'deb*', tag: 't', kinds: ['machine'], states: ['available', 'error'] },
        { by: 'name', order: 'desc' },
        { limit: 2, withTotal: true },
      ],
    ]);
    const refused = await app.inject({ url: '/v1/images?kind=floppy', headers: bearer });
    expect(refused.json()).toMatchObject({ status: 400, field: 'kind' });
  });

  test('make drives and machines', async () => {
    const calls: unknown[] = [];
    const drive = aDrive({ imageId: image.id });
    const app = await start({
      clone: async (_caller, id, input) => {
        calls.push([id, input]);
        return { task: aTask({ state: 'queued' }), drive };
      },
      cloneMachine: async (_caller, id, input) => {
        calls.push([id, input]);
        throw new CalotypeError('image_not_ready', 'The image debian-12 is deleting.', { taskId: done.id });
      },
    });
    const post = (verb: string, payload: object) =>
      app.inject({ method: 'POST', url: `/v1/images/${image.id}/${verb}`, headers: bearer, payload });
    const made = await post('clone', { slot: 3, name: 'd', sizeBytes: 4096 });
    expect([made.statusCode, made.json().drive.imageId]).toEqual([202, image.id]);
    const machine = { name: 'm', kind: 'instance', cpus: 2, memoryBytes: 1024 ** 3 };
    expect((await post('clone-machine', machine)).json()).toMatchObject({
      status: 409,
      code: 'image_not_ready',
      taskId: done.id,
    });
    expect(calls).toEqual([
      [image.id, { slot: 3, name: 'd', sizeBytes: 4096 }],
      [image.id, machine],
    ]);
    for (const [verb, payload, field] of [
      ['clone', { slot: -1 }, 'slot'],
      ['clone', { memory: true }, 'memory'],
      ['clone-machine', { cpus: 0 }, 'cpus'],
      ['clone-machine', { drives: [] }, 'drives'],
    ] as const)
      expect((await post(verb, payload)).json()).toMatchObject({ status: 400, field });
  });

  test('in use are not deleted, and the answer says by whom', async () => {
    const [driveId, machineId] = [newId(), newId()];
    const app = await start({
      get: async () => image,
      delete: async () => {
        throw new CalotypeError('image_in_use', 'The image debian-12 is in use by web-0, in web.', {
          blocking: [driveId],
          drives: [{ id: driveId, name: 'web-0', machineId }],
          machines: [{ id: machineId, name: 'web' }],
          cloneCount: 1,
        });
      },
    });
    const answer = await app.inject({ method: 'DELETE', url: `/v1/images/${image.id}`, headers: bearer });
    expect(answer.json()).toMatchObject({
      status: 409,
      code: 'image_in_use',
      changed: 'no',
      blocking: [driveId],
      drives: [{ name: 'web-0' }],
      machines: [{ name: 'web' }],
    });
  });

  test('without a snapshot, or by an id that is none, are refused', async () => {
    const app = await start({});
    const post = (payload: object) => app.inject({ method: 'POST', url: '/v1/images', headers: bearer, payload });
    expect((await post({})).json()).toMatchObject({ status: 400, field: 'snapshotId' });
    expect((await post({ snapshotId: newId(), memory: true })).json()).toMatchObject({ status: 400, field: 'memory' });
    expect((await app.inject({ url: '/v1/images/7', headers: bearer })).statusCode).toBe(404);
  });
});
