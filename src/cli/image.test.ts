import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  aDrive,
  aMachine,
  anImage,
  aPart,
  aSnapshot,
  aTask,
  FakeApi,
  ofMachine,
  problem,
  runCli,
} from '../../test/fake-native-api.ts';

let api: FakeApi;
beforeEach(async () => {
  api = await FakeApi.start();
  api.on('GET /images', { items: [image], nextCursor: null }).on(`GET /images/${image.id}`, image);
  api.on('GET /snapshots', { items: [golden], nextCursor: null });
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const now = () => Date.parse('2031-04-12T16:21:05Z');
const cli = (...argv: string[]) => runCli(argv, { api, now });
const root = aDrive({ name: 'root' });
const data = aDrive({ name: 'data' });
const web = aMachine({ name: 'web' });
const golden = aSnapshot([aPart(root), aPart(data)], { name: 'golden', machine: ofMachine(web) });
const image = anImage({ id: '12345678-0000-4000-8000-000000000000', tags: ['a'], cloneCount: 1 });
const task = aTask({ kind: 'image.create', objectKind: 'image', objectId: image.id });

describe('an image', () => {
  it('is made of a whole machine, or of one drive', async () => {
    api.on('POST /images', { task, image });
    const made = await cli('image', 'create', 'golden', 'debian-12', '--tag', 'a', '--description', 'd');
    expect(made).toMatchObject({ code: 0, stdout: `Created image debian-12 (${image.id}) of a machine, 10 GiB.\n` });
    expect((await cli('image', 'create', 'golden', '--part', 'data')).code).toBe(0);
    expect((await cli('image', 'create', 'golden', '--part', 'nothing')).code).toBe(3);
    expect(api.sent('POST /images')).toEqual([
      { snapshotId: golden.id, name: 'debian-12', tags: ['a'], description: 'd' },
      { snapshotId: golden.id, part: golden.parts[1]?.id },
    ]);
    const both = aSnapshot([aPart(root), aPart(data)], { name: 'both' });
    api.on('GET /snapshots', { items: [both], nextCursor: null });
    expect(await cli('image', 'create', 'both')).toMatchObject({ code: 2, stderr: expect.stringContaining('--part') });
    const one = aSnapshot([aPart(root)], { name: 'one' });
    api.on('GET /snapshots', { items: [one], nextCursor: null });
    await cli('image', 'create', 'one');
    expect(api.sent('POST /images').at(-1)).toEqual({ snapshotId: one.id, part: one.parts[0]?.id });
  });

  it('is shown as it is after its task', async () => {
    api.on('POST /images', { task: { ...task, state: 'running' }, image: { ...image, state: 'creating' } });
    api.on(`GET /tasks/${task.id}`, task);
    const { stdout } = await cli('image', 'create', 'golden', '--json');
    expect(JSON.parse(stdout)).toEqual({ task, image });
  });

  it('is listed with its size and what was made from it; filters are passed on', async () => {
    const filters = ['--kind', 'machine', '--state', 'available', '--tag', 'a', '--sort', 'name', '--like', 'deb*'];
    expect((await cli('image', 'list', ...filters)).stdout).toBe(
      'ID        NAME       OF         SIZE  STATE      CLONES  AGE  TAGS\n' +
        '12345678  debian-12  machine  10 GiB  available       1   3d  a\n',
    );
    expect(Object.fromEntries(api.requests[0]?.query ?? [])).toMatchObject({
      kind: 'machine',
      state: 'available',
      tag: 'a',
      sort: 'name',
      nameLike: 'deb*',
    });
    api.on('GET /images', { items: [], nextCursor: null, total: 7 });
    expect((await cli('image', 'list', '--count')).stdout).toBe('7\n');
  });

  it('is shown with what it holds', async () => {
    const { stdout } = await cli('image', 'show', 'debian-12');
    expect(stdout).toMatch(/^of: +machine$/m);
    expect(stdout).toMatch(/^memory: +256 MiB$/m);
    expect(stdout).toMatch(/^in use by: +1 drive$/m);
    expect(stdout).toContain('SLOT  DRIVE    SIZE\n   0  root   10 GiB\n');
    expect(JSON.parse((await cli('image', 'show', '123456', '--json')).stdout)).toEqual(image);
    api.on('GET /images', { items: [], nextCursor: null });
    expect(await cli('image', 'show', 'no')).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('calotype image list'),
    });
  });

  it('is renamed and labelled', async () => {
    api.on(`PATCH /images/${image.id}`, { ...image, name: 'new' });
    expect((await cli('image', 'rename', 'debian-12', 'new', '--if-version', '1')).stdout).toBe(
      `Renamed image ${image.id} to new.\n`,
    );
    expect((await cli('image', 'set', 'debian-12', 'k=v', '--untag', 'a')).code).toBe(0);
    expect(api.sent(`PATCH /images/${image.id}`)).toEqual([{ name: 'new' }, { meta: { k: 'v' }, tags: [] }]);
  });

  it('is deleted, unless it is in use: then it says by whom and what to do', async () => {
    api.on(`DELETE /images/${image.id}`, { task: { ...task, kind: 'image.delete', result: { freedBytes: 2 ** 20 } } });
    expect((await cli('image', 'delete', 'debian-12')).stdout).toBe('Deleted image debian-12 (1 MiB freed).\n');
    api.on(`DELETE /images/${image.id}`, (_request, response) =>
      problem(response, 409, 'image_in_use', 'The image debian-12 is in use by web-0, in web.', {
        blocking: [root.id],
      }),
    );
    const refused = await cli('image', 'delete', 'debian-12');
    expect(refused.code).toBe(4);
    expect(refused.stderr).toContain('in use by web-0, in web');
    expect(refused.stderr).toContain(`blocking: ${root.id}`);
    expect(refused.stderr).toContain('calotype drive list --image IMAGE');
  });

  it('is granted to guests', async () => {
    const eve = { id: root.id, name: 'eve' };
    api.on('GET /users/eve', eve);
    api.on('POST /grants', { id: data.id, userId: eve.id, objectKind: 'image', objectId: image.id, access: 'ro' });
    expect((await cli('grant', 'create', 'eve', 'ro', '--image', 'debian-12')).code).toBe(0);
    expect(api.sent('POST /grants')).toEqual([{ user: eve.id, imageId: image.id, access: 'ro' }]);
  });
});

describe('from an image', () => {
  it('drives are made, as large as it or larger', async () => {
    api.on(`POST /images/${image.id}/clone`, { task, drive: root });
    expect((await cli('drive', 'create', 'root', '--image', 'debian-12')).stdout).toBe(
      `Created drive root (${root.id}), 10 GiB.\n`,
    );
    await cli('drive', 'create', 'big', '20G', '--image', 'debian-12', '--slot', '3', '--tag', 't');
    expect(api.sent(`POST /images/${image.id}/clone`)).toEqual([
      { name: 'root' },
      { name: 'big', sizeBytes: 20 * 2 ** 30, slot: 3, tags: ['t'] },
    ]);
    api.on('GET /drives', { items: [root], nextCursor: null });
    await cli('drive', 'list', '--image', 'debian-12');
    expect(api.asked('GET /drives')[0]?.query.get('imageId')).toBe(image.id);
  });

  it('machines are made, with what is to differ', async () => {
    api.on(`POST /images/${image.id}/clone-machine`, { task, machine: web });
    expect((await cli('machine', 'create', 'web', '--image', 'debian-12')).stdout).toBe(
      `Created machine web (${web.id}).\n`,
    );
    await cli(
      'machine',
      'create',
      'web',
      '--image',
      'debian-12',
      '--cpus',
      '2',
      '--memory',
      '1G',
      '--kind',
      'instance',
    );
    expect(api.sent(`POST /images/${image.id}/clone-machine`)).toEqual([
      { name: 'web' },
      { name: 'web', cpus: 2, memoryBytes: 2 ** 30, kind: 'instance' },
    ]);
  });

  it.each([
    [['drive', 'create', 'x']],
    [['drive', 'create', 'x', '1G', '--slot', '1']],
    [['machine', 'create', 'x']],
    [['machine', 'create', 'x', '--image', 'debian-12', '--drive', 'root']],
    [['machine', 'create', 'x', '--image', 'debian-12', '--kernel', 'k']],
    [['image', 'list', '--kind', 'floppy']],
    [['image', 'set', 'debian-12']],
    [['grant', 'create', 'eve', 'ro', '--image', 'debian-12', '--drive', 'root']],
  ])('%j is a usage error that changes nothing', async (argv) => {
    expect((await cli(...argv)).code).toBe(2);
    expect(api.requests.filter((request) => request.method !== 'GET')).toEqual([]);
  });
});
