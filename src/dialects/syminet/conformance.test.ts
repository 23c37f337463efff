/** The sheet's ground rules, paging and life of a snapshot, row by row, over HTTP against the real engine. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { usFromIso } from '../../core/time.ts';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
const longKeys = [
  ...['id', 'name', 'created', 'datacenter_id', 'region', 'duration', 'snapshot_size', 'in_progress', 'progress'],
  ...['legacy', 'perms', 'vm_id', 'vmname', 'vm_user_id', 'vm_datacenter_id', 'vm_perms', 'vm_deleted'],
];

let panel: Panel;
let web: Slice;

beforeAll(async () => {
  panel = await Panel.start();
  web = await panel.slice('web.example.net', [16 * MiB, 4 * MiB]);
});
afterAll(() => panel[Symbol.asyncDispose]());

const names = async (path: string): Promise<string[]> =>
  (await panel.get(path)).data.map(({ name }: { name: string }) => name);

describe('1. ground rules', () => {
  test('the base is /api/v1, on the own listener and mounted below /syminet', async () => {
    const headers = { authorization: `bearer ${panel.rig.admin.token}` };
    const own = await panel.rig.send('syminet', { path: '/api/v1/slices', headers });
    const mounted = await panel.rig.send('native', { path: '/syminet/api/v1/slices', headers });
    expect(mounted).toMatchObject({ status: 200, text: own.text });
    expect(mounted.json.data).toMatchObject([{ vmname: 'web.example.net' }]);
    const wrong = await panel.rig.send('native', { path: '/syminet/api/v1/nothing', headers });
    expect(wrong).toMatchObject({ status: 404, json: { error: 'There is no /api/v1/nothing here.' } });
  });

  test('authorization:bearer TOKEN, scheme in any case, with and without blanks', async () => {
    for (const scheme of ['bearer', 'Bearer', 'BEARER', ' bearer ', 'bearer  ']) {
      const authorization = `${scheme} ${panel.rig.admin.token} `;
      expect((await panel.call('GET', '/slices', { token: null, headers: { authorization } })).status).toBe(200);
    }
  });

  test('401 without a token, with an unknown one, with another scheme', async () => {
    const basic = `Basic ${Buffer.from(`admin:${panel.rig.admin.password}`).toString('base64')}`;
    const wrong = [
      '',
      'bearer',
      'bearer ',
      'bearer wrong',
      panel.rig.admin.token,
      basic,
      `token ${panel.rig.admin.token}`,
    ];
    for (const headers of [{}, ...wrong.map((authorization) => ({ authorization }))]) {
      const answer = await panel.call('GET', '/images', { token: null, headers });
      expect(answer.status).toBe(401);
      expect(answer.headers['www-authenticate']).toBe('Bearer');
    }
  });

  test('a token whose user lost API access is refused, and works again later', async () => {
    const sam = await panel.rig.person('sam', 'member');
    await panel.get('/slices', sam.token);
    await panel.rig.native('PATCH', `/users/${sam.id}`, { disabled: true });
    expect((await panel.call('GET', '/slices', { token: sam.token })).status).toBe(401);
    expect(await panel.get('/users/sam/perms')).toMatchObject({ global: { use_api: false } });
    await panel.rig.native('PATCH', `/users/${sam.id}`, { disabled: false });
    await panel.get('/slices', sam.token);
    expect(await panel.get('/users/sam/perms')).toMatchObject({ global: { use_api: true } });
  });

  test('404 for an unknown path, 405 for another verb, each with one error key', async () => {
    for (const token of [null, panel.rig.admin.token]) {
      expect((await panel.call('GET', '/nothing', { token })).status).toBe(404);
      expect((await panel.call('GET', '/images/1', { token })).status).toBe(404);
      const verb = await panel.call('GET', `/images/snapshots/${web.id}/create`, { token });
      expect(verb.status).toBe(405);
      expect(verb.headers.allow).toBe('POST');
      expect((await panel.call('POST', '/images', { token })).status).toBe(405);
      expect((await panel.call('OPTIONS', '/images', { token })).status).toBe(405);
    }
    expect((await panel.rig.send('syminet', { path: '/' })).json).toEqual({ error: 'There is no / here.' });
  });

  test('no credentials are needed for regions, dists and sizes', async () => {
    expect(await panel.get('/slices/regions', null)).toEqual({
      data: [{ description: 'This server', region: 'LOCAL1' }],
    });
    expect(await panel.get('/slices/dists', null)).toEqual({ data: [] });
    expect(Object.keys((await panel.get('/slices/sizes', null)).data)).toEqual([
      'standard',
      'high_cpu',
      'high_memory',
      'high_disk',
    ]);
  });

  test('failures before there is a request have the same form', async () => {
    const answer = await panel.rig.send('syminet', {
      path: '/api/v1/images',
      headers: { 'x-long': 'x'.repeat(40_000) },
    });
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(answer.status).toBeLessThan(500);
    expect(Object.keys(answer.json)).toEqual(['error']);
  });

  test('a body that is too large is refused', async () => {
    const body = Buffer.alloc(1024 * 1024 + 1, 0x20);
    const answer = await panel.call('POST', `/images/snapshots/${web.id}/create`, { body });
    expect(answer.status).toBe(413);
  });
});

describe('2. paging', () => {
  const made = 27;
  let paged: Slice;
  beforeAll(async () => {
    paged = await panel.slice('paged', [MiB]);
    for (let at = 0; at < made; at++) {
      await panel.change('POST', `/images/snapshots/${paged.id}/create`, { snapshot_name: `Page-${at}` });
    }
    await panel.rig.settled();
  });

  test('pages of 25, counted from 1, oldest first, with the total in results', async () => {
    const first = await panel.get('/images?query=page-');
    expect(first).toMatchObject({ page: 1, pages: 2, results: made });
    expect(first.data.map(({ name }: { name: string }) => name)).toEqual(
      Array.from({ length: 25 }, (_, at) => `Page-${at}`),
    );
    expect(await panel.get('/images?query=page-&page=2')).toMatchObject({
      data: [{ name: 'Page-25' }, { name: 'Page-26' }],
      page: 2,
      pages: 2,
      results: made,
    });
  });

  test('a page beyond the last is empty, with the true pages and results', async () => {
    for (const page of ['3', '1000000', '99999999999999999999']) {
      const { page: shown, ...rest } = await panel.get(`/images?query=page-&page=${page}`);
      expect(rest).toEqual({ data: [], pages: 2, results: made });
      expect(shown).toBeGreaterThanOrEqual(3);
    }
  });

  test('a page that is no positive integer is the first', async () => {
    for (const page of ['0', '-1', 'x', '', '1.5', '1e1', '%00']) {
      expect(await panel.get(`/images?query=page-&page=${page}`)).toMatchObject({ page: 1, results: made });
    }
  });

  test('nothing found is page 0 of 0', async () => {
    const empty = { data: [], page: 0, pages: 0, results: 0 };
    for (const path of ['/images', '/slices', '/volumes']) {
      for (const query of ['no-such-name', '%00', '%25', '_', '*', '%F0%9F', "'%20or%201=1"]) {
        expect(await panel.get(`${path}?query=${query}`)).toEqual(empty);
        expect(await panel.get(`${path}?query=${query}&page=7`)).toEqual(empty);
      }
    }
    const lone = await panel.rig.person('lone', 'guest');
    for (const path of ['/images', '/slices', '/volumes']) expect(await panel.get(path, lone.token)).toEqual(empty);
  });

  test('query matches a part of the snapshot name or of the slice name, in any case', async () => {
    expect((await panel.get('/images?query=AGE-2')).results).toBe(8);
    expect((await panel.get('/images?query=PAGED')).results).toBe(made);
    expect((await panel.get('/images?query=')).results).toBeGreaterThanOrEqual(made);
    expect(await names('/slices?query=PAGED')).toHaveLength(1);
  });

  test('lists of one slice are not paginated', async () => {
    const list = await panel.get(`/images/snapshots/${paged.id}?page=2&query=x`);
    expect(Object.keys(list)).toEqual(['data']);
    expect(list.data).toHaveLength(made);
  });
});

describe('3. snapshots', () => {
  test('create: 202 without an id, listed from that moment, an instant of the disks', async () => {
    await panel.rig.write(web.driveIds[0] ?? '', 0, Buffer.from('first'));
    const body = { snapshot_name: 'web-1733300000' };
    const answer = await panel.call('POST', `/images/snapshots/${web.id}/create`, { body });
    expect(answer).toMatchObject({ status: 202, json: { status: 'OK' } });
    const list = await panel.get(`/images/snapshots/${web.id}`);
    expect(list.data.map(({ name }: { name: string }) => name)).toEqual(['web-1733300000']);
    const id = await panel.finished('web-1733300000');
    const native = await panel.native(id);
    expect(native).toMatchObject({ name: 'web-1733300000', state: 'available', consistency: 'filesystem' });
    expect(native.parts).toHaveLength(2);
  });

  test('the long form has its seventeen keys, null where there is nothing', async () => {
    const [entry] = (await panel.get('/images?query=web-1733300000')).data;
    expect(Object.keys(entry)).toEqual(longKeys);
    const native = await panel.native(entry.id);
    expect(entry).toMatchObject({
      name: 'web-1733300000',
      datacenter_id: 1,
      region: 'LOCAL1',
      snapshot_size: 1,
      in_progress: null,
      progress: null,
      legacy: null,
      perms: 'rw',
      vm_id: web.id,
      vmname: 'web.example.net',
      vm_datacenter_id: 1,
      vm_perms: 'rw',
      vm_deleted: null,
    });
    expect(usFromIso(`${entry.created.replace(' ', 'T')}Z`)).toBe(usFromIso(native.createdAt));
    expect(entry.duration).toMatch(/^\d{2}s$/);
  });

  test('the short form has its five keys, with the size of the disks', async () => {
    const { data } = await panel.get(`/images/snapshots/${web.id}`);
    expect(Object.keys(data[0])).toEqual(['backup_full_size', 'created', 'duration', 'id', 'name']);
    expect(data[0].backup_full_size).toBe(1);
    const large = await panel.slice('large', [50 * 1024 ** 3]);
    await panel.snapshot(large, 'of-50');
    expect((await panel.get(`/images/snapshots/${large.id}`)).data).toMatchObject([
      { name: 'of-50', backup_full_size: 50 },
    ]);
    expect((await panel.get('/images?query=of-50')).data).toMatchObject([{ snapshot_size: 1 }]);
  });

  test('create: missing, blank and wrong names, broken JSON: 400, and nothing is taken', async () => {
    const before = await panel.get(`/images/snapshots/${web.id}`);
    const bodies = [
      ...['', '\n', '{', '[]', 'null', '"web"', '5', '{"snapshot_name"', 'snapshot_name=web', '{"__proto__":{}}'],
      ...[{}, { snapshot_name: '' }, { snapshot_name: '  \t' }, { snapshot_name: null }, { snapshot_name: 5 }],
      ...[
        { snapshot_name: ['web'] },
        { name: 'web' },
        { snapshot_name: 'a\u0000b' },
        { snapshot_name: 'x'.repeat(256) },
      ],
      Buffer.from([0x7b, 0xff, 0x7d]),
      '['.repeat(100),
    ];
    for (const body of bodies) {
      const answer = await panel.call('POST', `/images/snapshots/${web.id}/create`, { body });
      expect(answer.status, String(body)).toBe(400);
    }
    const missing = await panel.call('POST', `/images/snapshots/${web.id}/create`, { body: '{}' });
    expect(missing.json).toEqual({ error: 'The property snapshot_name is missing.' });
    expect(await panel.get(`/images/snapshots/${web.id}`)).toEqual(before);
  });

  test('unknown slices are 404, whatever stands in the path', async () => {
    const unknown = ['0', '-1', '01', '999999', '1.0', 'abc', '%00', '%2F', '99999999999999999999999', web.machineId];
    for (const slice of unknown) {
      expect((await panel.call('GET', `/images/snapshots/${slice}`)).status).toBe(404);
      const body = { snapshot_name: 'x' };
      expect((await panel.call('POST', `/images/snapshots/${slice}/create`, { body })).status).toBe(404);
    }
    const answer = await panel.call('GET', '/images/snapshots/999999');
    expect(answer.json).toEqual({ error: 'There is no slice 999999.' });
  });

  test('a slice without snapshots has an empty list, one without disks cannot be taken', async () => {
    const bare = await panel.slice('bare', []);
    expect(await panel.get(`/images/snapshots/${bare.id}`)).toEqual({ data: [] });
    const body = { snapshot_name: 'x' };
    expect((await panel.call('POST', `/images/snapshots/${bare.id}/create`, { body })).status).toBe(400);
  });

  test('names need not be unique, and hold dots, dashes, blanks and any script', async () => {
    const other = await panel.slice('names', [MiB]);
    const given = ['web-1.example.net-1733300000', 'web-1.example.net-1733300000', 'vor dem Umzug – 東京 "1"'];
    for (const snapshot_name of given) {
      await panel.change('POST', `/images/snapshots/${other.id}/create`, { snapshot_name });
      await panel.rig.settled();
    }
    expect(await names(`/images/snapshots/${other.id}`)).toEqual(given);
  });

  test('rename: 202 at once, the same property', async () => {
    const id = await panel.snapshot(web, 'to rename');
    await panel.change('POST', `/images/snapshots/${id}/rename`, { snapshot_name: 'renamed' });
    expect(await names(`/images/snapshots/${web.id}`)).toContain('renamed');
    expect((await panel.native(id)).name).toBe('renamed');
    for (const body of ['', '{}', { snapshot_name: ' ' }, { snapshot_name: 1 }, '{']) {
      expect((await panel.call('POST', `/images/snapshots/${id}/rename`, { body })).status).toBe(400);
    }
    const body = { snapshot_name: 'x' };
    expect((await panel.call('POST', '/images/snapshots/999999/rename', { body })).json).toEqual({
      error: 'There is no snapshot 999999.',
    });
    expect((await panel.native(id)).name).toBe('renamed');
  });

  test('delete: the verb DELETE and a path that ends in /delete; twice is 404', async () => {
    const id = await panel.snapshot(web, 'to delete');
    expect((await panel.call('DELETE', `/images/snapshots/${id}`)).status).toBe(405);
    expect((await panel.call('POST', `/images/snapshots/${id}/delete`)).status).toBe(405);
    await panel.change('DELETE', `/images/snapshots/${id}/delete`);
    const again = await panel.call('DELETE', `/images/snapshots/${id}/delete`);
    expect(again).toMatchObject({ status: 404, json: { error: `There is no snapshot ${id}.` } });
    expect(await names(`/images/snapshots/${web.id}`)).not.toContain('to delete');
    expect((await panel.get('/images?query=to+delete')).results).toBe(0);
    await expect.poll(() => panel.native(id)).toBeUndefined();
  });

  test('a snapshot of drives only is none of a slice', async () => {
    const drive = await panel.rig.drive('loose', MiB);
    const { number } = await panel.rig.snapshot({ driveIds: [drive.id] }, 'of a drive');
    expect((await panel.get('/images?query=of+a+drive')).results).toBe(0);
    expect((await panel.call('DELETE', `/images/snapshots/${number}/delete`)).status).toBe(404);
    expect(await panel.native(number)).toBeDefined();
  });
});

describe('3. restore', () => {
  const at = async (slice: Slice, disk = 0): Promise<string> =>
    (await panel.rig.read(slice.driveIds[disk] ?? '')).subarray(0, 5).toString();

  test('snapshot first, slice second, no body: all data is replaced, and nothing else is kept', async () => {
    const slice = await panel.slice('restored', [MiB, 2 * MiB]);
    await panel.rig.write(slice.driveIds[0] ?? '', 0, Buffer.from('older'));
    const id = await panel.snapshot(slice, 'point');
    await panel.rig.write(slice.driveIds[0] ?? '', 0, Buffer.from('newer'));
    const later = await panel.snapshot(slice, 'later point');
    await panel.change('POST', `/images/snapshots/${id}/restore/${slice.id}`);
    await panel.rig.settled();
    expect(await at(slice)).toBe('older');
    expect(await names(`/images/snapshots/${slice.id}`)).toEqual(['point', 'later point']);
    await panel.change('POST', `/images/snapshots/${later}/restore/${slice.id}`);
    await panel.rig.settled();
    expect(await at(slice)).toBe('newer');
  });

  test('onto another slice whose disks are large enough', async () => {
    const source = await panel.slice('source', [MiB]);
    await panel.rig.write(source.driveIds[0] ?? '', 0, Buffer.from('moved'));
    const id = await panel.snapshot(source, 'to move');
    const target = await panel.slice('target', [4 * MiB, MiB]);
    await panel.rig.write(target.driveIds[1] ?? '', 0, Buffer.from('stays'));
    await panel.change('POST', `/images/snapshots/${id}/restore/${target.id}`);
    await panel.rig.settled();
    expect([await at(target), await at(target, 1), await at(source)]).toEqual(['moved', 'stays', 'moved']);
  });

  test('onto a slice whose disks are too small, or missing: 400, and nothing is changed', async () => {
    const source = await panel.slice('wide', [4 * MiB]);
    const id = await panel.snapshot(source, 'wide point');
    for (const sizes of [[MiB], []]) {
      const target = await panel.slice(`narrow-${sizes.length}`, sizes);
      expect((await panel.call('POST', `/images/snapshots/${id}/restore/${target.id}`)).status).toBe(400);
      expect(await panel.get(`/slices/${target.id}`)).toMatchObject({ in_progress: null });
    }
  });

  test('unknown snapshots and slices: 404', async () => {
    const id = await panel.snapshot(web, 'known');
    expect((await panel.call('POST', `/images/snapshots/999999/restore/${web.id}`)).json).toEqual({
      error: 'There is no snapshot 999999.',
    });
    expect((await panel.call('POST', `/images/snapshots/${id}/restore/999999`)).json).toEqual({
      error: 'There is no slice 999999.',
    });
  });

  test('a snapshot that lost a part cannot be restored: 409', async () => {
    const slice = await panel.slice('partly', [MiB, MiB]);
    const id = await panel.snapshot(slice, 'partly point');
    const { id: snapshotId, parts } = await panel.native(id);
    await panel.rig.native('DELETE', `/snapshots/${snapshotId}?part=${parts[1]?.id}`);
    expect((await panel.call('POST', `/images/snapshots/${id}/restore/${slice.id}`)).status).toBe(409);
  });
});

describe('life of a snapshot', () => {
  test('deleting the slice leaves its snapshots, and its id stays readable', async () => {
    const slice = await panel.slice('departing', [MiB]);
    const id = await panel.snapshot(slice, 'left behind');
    await panel.rig.native('DELETE', `/machines/${slice.machineId}?snapshots=keep`);
    expect((await panel.get(`/images/snapshots/${slice.id}`)).data).toMatchObject([{ id, name: 'left behind' }]);
    const [entry] = (await panel.get('/images?query=left+behind')).data;
    expect(entry).toMatchObject({ id, perms: 'rw', vm_id: slice.id, vmname: 'departing', vm_perms: null });
    expect(entry.vm_deleted).not.toBeNull();
    const shown = await panel.get(`/slices/${slice.id}`);
    expect(shown).toMatchObject({ id: slice.id, vmname: 'departing', status: 'deleted', deleted: entry.vm_deleted });
    expect((await panel.get('/slices?query=departing')).results).toBe(0);
    const body = { snapshot_name: 'x' };
    expect((await panel.call('POST', `/images/snapshots/${slice.id}/create`, { body })).status).toBe(404);
    expect((await panel.call('POST', `/images/snapshots/${id}/restore/${slice.id}`)).status).toBe(404);

    const heir = await panel.slice('heir', [MiB]);
    await panel.change('POST', `/images/snapshots/${id}/restore/${heir.id}`);
    await panel.rig.settled();
    await panel.change('DELETE', `/images/snapshots/${id}/delete`);
    await expect.poll(async () => (await panel.call('GET', `/images/snapshots/${slice.id}`)).status).toBe(404);
  });

  test('the slice is shown as it is called now', async () => {
    const slice = await panel.slice('before', [MiB]);
    await panel.snapshot(slice, 'of a renamed slice');
    await panel.rig.native('PATCH', `/machines/${slice.machineId}`, { name: 'after' });
    expect((await panel.get('/images?query=of+a+renamed')).data).toMatchObject([{ vm_id: slice.id, vmname: 'after' }]);
  });
});
