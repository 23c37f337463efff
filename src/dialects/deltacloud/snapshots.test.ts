/** Storage snapshots: parts of real snapshots of real drives. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { DeltacloudClient, form, parseXml } from './testing/client.ts';

let rig: DialectRig;
let client: DeltacloudClient;
let volume: string;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new DeltacloudClient(rig);
  volume = await client.volume({ name: 'data' });
});
afterAll(() => rig[Symbol.asyncDispose]());

const pathOf = (id: string): string => `/api/storage_snapshots/${id}`;
const wireId = (prefix: string, number: number): string => `${prefix}-${number.toString(16)}`;

describe('creating a storage snapshot', () => {
  it('answers 201 with Location and the member, which is what the list and GET show', async () => {
    const answer = await client.post('/api/storage_snapshots?format=xml', {
      volume_id: volume,
      name: 'before-upgrade',
      description: 'a & <b>',
    });
    expect([answer.status, answer.headers['content-type']]).toEqual([201, 'application/xml']);
    const { value } = parseXml(answer.text);
    expect(answer.headers.location).toBe(value['@href']);
    expect(value).toMatchObject({ name: 'before-upgrade', description: 'a & <b>', state: 'COMPLETED' });
    const got = await client.get(new URL(value['@href']).pathname);
    expect(got.text).toBe(answer.text);
    const { storage_snapshot: all } = await client.xml('/api/storage_snapshots');
    expect(all).toContainEqual(value);
  });

  it('is XML to the byte', async () => {
    const answer = await client.post('/api/storage_snapshots', { volume_id: volume }, { host: 'dc.example:3001' });
    const id = String(answer.headers.location).split('/').at(-1);
    const created = /<created>(.*)<\/created>/.exec(answer.text)?.[1];
    expect(answer.text).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<storage_snapshot href='http://dc.example:3001/api/storage_snapshots/${id}' id='${id}'>
  <name>${id}</name>
  <created>${created}</created>
  <state>COMPLETED</state>
  <storage_volume href='http://dc.example:3001/api/storage_volumes/${volume}' id='${volume}'></storage_volume>
</storage_snapshot>
`);
    const list = await client.get(`/api/storage_snapshots?id=${id}`, { host: 'dc.example:3001' });
    expect(list.text).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<storage_snapshots>
  <storage_snapshot href='http://dc.example:3001/api/storage_snapshots/${id}' id='${id}'>
    <name>${id}</name>
    <created>${created}</created>
    <state>COMPLETED</state>
    <storage_volume href='http://dc.example:3001/api/storage_volumes/${volume}' id='${volume}'></storage_volume>
  </storage_snapshot>
</storage_snapshots>
`);
  });

  it('is JSON with the keys of the original, name and description besides', async () => {
    const { text, json } = await client.post('/api/storage_snapshots?format=json', { volume_id: volume, name: 'j' });
    const { id, href, created } = json.storage_snapshot;
    const volumeHref = `${rig.origin('deltacloud')}/api/storage_volumes/${volume}`;
    expect(JSON.parse(text)).toEqual({
      storage_snapshot: {
        id,
        href: `${rig.origin('deltacloud')}${pathOf(id)}`,
        name: 'j',
        state: 'COMPLETED',
        storage_volume: { id: volume, href: volumeHref, rel: 'storage_volume' },
        created,
      },
    });
    expect(href.endsWith(id)).toBe(true);
  });

  it('is a snapshot of the bytes at that instant', async () => {
    const drive = await rig.drive('bytes', 4 * MiB);
    const written = Buffer.alloc(64 * 1024, 7);
    await rig.write(drive.id, 0, written);
    const id = await client.snapshot(wireId('vol', drive.number));
    await rig.write(drive.id, 0, Buffer.alloc(64 * 1024, 9));
    const copy = await client.volume({ snapshot_id: id, capacity: '', name: 'copy' });
    const { items } = await rig.native('GET', '/drives?name=copy');
    expect([items.length, wireId('vol', items[0].number)]).toEqual([1, copy]);
    const bytes = await rig.read(items[0].id);
    expect(bytes.subarray(0, written.length).equals(written)).toBe(true);
    expect((await rig.read(drive.id))[0]).toBe(9);
  });

  it.each([
    ['the query string and an empty body', { method: 'POST', query: true }],
    ['a form of which parts are in the query string', { both: true }],
    ['multipart/form-data', { multipart: true }],
    ['a body without a type', { untyped: true }],
  ])('takes parameters from %s', async (_, how) => {
    const path = '/api/storage_snapshots';
    const send = () => {
      if ('query' in how)
        return client.send({ method: 'POST', path: `${path}?volume_id=${volume}&name=p%20q&description=r+s` });
      if ('both' in how) {
        return client.send({
          method: 'POST',
          path: `${path}?volume_id=nope&name=p+q`,
          headers: form,
          body: `volume_id=${volume}&description=r%20s`,
        });
      }
      if ('untyped' in how)
        return client.send({ method: 'POST', path, body: `volume_id=${volume}&name=p+q&description=r+s` });
      const part = (name: string, value: string) =>
        `--cut\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
      const body = `${part('volume_id', volume)}${part('name', 'p q')}${part('description', 'r s')}--cut--\r\n`;
      return client.send({
        method: 'POST',
        path,
        headers: { 'content-type': 'multipart/form-data; boundary=cut' },
        body,
      });
    };
    const answer = await send();
    expect(answer.status, answer.text).toBe(201);
    expect(parseXml(answer.text).value).toMatchObject({ name: 'p q', description: 'r s' });
  });

  it('ignores a JSON body, and parameters that it does not know', async () => {
    const json = await client.send({ method: 'POST', path: '/api/storage_snapshots', body: { volume_id: volume } });
    expect([json.status, json.text]).toEqual([400, "Required parameter 'volume_id' not found in []"]);
    expect((await client.post('/api/storage_snapshots', { volume_id: volume, commit: 'Create', id: 'x' })).status).toBe(
      201,
    );
  });

  it('refuses an unknown volume with 404, an empty one with 400, and makes nothing', async () => {
    const count = async () => (await client.json('/api/storage_snapshots')).storage_snapshots.length;
    const before = await count();
    for (const [id, status] of [
      ['vol-ffff', 404],
      ['nope', 404],
      ['', 400],
      ['snap-1', 404],
      ['vol-0', 404],
      [`${volume} `, 404],
    ] as const) {
      const answer = await client.post('/api/storage_snapshots', { volume_id: id });
      expect([answer.status, parseXml(answer.text).root], id).toEqual([status, 'error']);
    }
    const bare = await client.send({ method: 'POST', path: '/api/storage_snapshots?volume_id' });
    expect(bare.status).toBe(400);
    const badName = await client.post('/api/storage_snapshots', { volume_id: volume, name: 'a\0b' });
    expect([badName.status, parseXml(badName.text).root]).toEqual([400, 'error']);
    expect((await client.post('/api/storage_snapshots', { volume_id: volume, name: 'x'.repeat(256) })).status).toBe(
      400,
    );
    expect(await count()).toBe(before);
  });

  it('answers a browser with the page of the new snapshot', async () => {
    const { status, headers, text } = await client.post(
      '/api/storage_snapshots',
      { volume_id: volume, name: '' },
      { accept: 'text/html' },
    );
    expect([status, headers['content-type']]).toEqual([201, 'text/html']);
    expect(text).toContain(`<h1>Storage snapshot ${String(headers.location).split('/').at(-1)}</h1>`);
  });
});

describe('listing storage snapshots', () => {
  it('has every member under its own name, fetchable, the same in list and member', async () => {
    const { storage_snapshot: all } = await client.xml('/api/storage_snapshots');
    expect(all.length).toBeGreaterThan(3);
    for (const each of all) {
      expect(each['@href'].endsWith(each['@id'])).toBe(true);
      expect(each.name).not.toBe('');
      expect(await client.xml(new URL(each['@href']).pathname)).toEqual(each);
    }
    const { storage_snapshots: asJson } = await client.json('/api/storage_snapshots');
    expect(asJson.map((each: { id: string }) => each.id)).toEqual(
      all.map((each: Record<string, string>) => each['@id']),
    );
    expect((await client.json(pathOf(asJson[0].id))).storage_snapshot).toEqual(asJson[0]);
  });

  it('?id= filters; no match is 200 with an empty list', async () => {
    const id = await client.snapshot(volume);
    const one = await client.json(`/api/storage_snapshots?id=${id}`);
    expect(one.storage_snapshots.map((each: { id: string }) => each.id)).toEqual([id]);
    for (const none of ['snap-ffff', 'nope', '', volume, id.toUpperCase()]) {
      expect(await client.json(`/api/storage_snapshots?id=${none}`)).toEqual({ storage_snapshots: [] });
      const { text } = await client.get(`/api/storage_snapshots?id=${none}`);
      expect(text).toBe("<?xml version='1.0' encoding='utf-8' ?>\n<storage_snapshots>\n</storage_snapshots>\n");
    }
    expect((await client.json('/api/storage_snapshots?id')).storage_snapshots.length).toBeGreaterThan(1);
  });

  it('holds those that were taken elsewhere, of machines one for each drive', async () => {
    const drives = [await rig.drive('m0'), await rig.drive('m1')];
    const machine = await rig.machine(
      'two',
      drives.map((drive) => drive.id),
    );
    const taken = await rig.snapshot({ machineId: machine.id }, 'of two');
    const ids = taken.parts.map((part) => wireId('snap', part.number));
    const { storage_snapshots: all } = await client.json('/api/storage_snapshots');
    const mine = all.filter((each: { id: string }) => ids.includes(each.id));
    expect(mine.map((each: { name: string }) => each.name)).toEqual(['of two', 'of two']);
    expect(mine.map((each: { storage_volume: { id: string } }) => each.storage_volume.id)).toEqual(
      drives.map((drive) => wireId('vol', drive.number)),
    );

    const [first = '', second = ''] = ids;
    expect((await client.delete(pathOf(first))).status).toBe(204);
    expect((await client.get(pathOf(first))).status).toBe(404);
    expect((await client.get(pathOf(second))).status).toBe(200);
    const left = await rig.native('GET', `/snapshots/${taken.id}`);
    expect([left.complete, left.parts.length]).toEqual([false, 1]);
    expect((await client.delete(pathOf(second))).status).toBe(204);
    await expect(rig.native('GET', `/snapshots/${taken.id}`)).rejects.toThrow('404');
  });

  it('says the same name, time and description as the native API, and follows changes', async () => {
    const id = await client.snapshot(volume, { name: 'seen' });
    const { items } = await rig.native('GET', '/snapshots?name=seen');
    const view = (await client.json(pathOf(id))).storage_snapshot;
    expect(wireId('snap', items[0].parts[0].number)).toBe(id);
    expect(view.created).toBe(`${items[0].createdAt.slice(0, 19)}Z`);
    await rig.native('PATCH', `/snapshots/${items[0].id}`, { name: 'renamed', description: 'now with one' });
    expect((await client.json(pathOf(id))).storage_snapshot).toMatchObject({
      name: 'renamed',
      description: 'now with one',
    });
  });
});

describe('deleting a storage snapshot', () => {
  it('is 204 without a body or a type; then it is 404; a second deletion is 404', async () => {
    const id = await client.snapshot(volume);
    const { status, headers, text } = await client.delete(pathOf(id));
    expect([status, text, headers['content-type'], headers.etag]).toEqual([204, '', undefined, undefined]);
    const gone = await client.get(pathOf(id));
    expect([gone.status, gone.text.startsWith("<error status='404'")]).toEqual([404, true]);
    expect((await client.delete(pathOf(id))).status).toBe(404);
    expect(
      (await client.json('/api/storage_snapshots')).storage_snapshots.some((each: { id: string }) => each.id === id),
    ).toBe(false);
  });

  it('sends browsers to the list', async () => {
    const id = await client.snapshot(volume);
    const answer = await client.post(pathOf(id), { _method: 'delete' }, { accept: 'text/html' });
    expect([answer.status, answer.headers.location]).toEqual([
      303,
      `${rig.origin('deltacloud')}/api/storage_snapshots`,
    ]);
    expect((await client.get(pathOf(id))).status).toBe(404);
  });

  it('of one that is in use is 409, and it stays', async () => {
    const id = await client.snapshot(volume, { name: 'exported' });
    const { items } = await rig.native('GET', '/snapshots?name=exported');
    const opened = await rig.native('POST', '/exports', { driveSnapshotId: items[0].parts[0].id });
    const answer = await client.delete(pathOf(id));
    expect([answer.status, parseXml(answer.text).value.code]).toEqual([409, '409']);
    expect((await client.get(pathOf(id))).status).toBe(200);
    await rig.native('DELETE', `/exports/${opened.id}`);
    expect((await client.delete(pathOf(id))).status).toBe(204);
  });

  it('twice at once succeeds once, and nothing else goes', async () => {
    const id = await client.snapshot(volume);
    const other = await client.snapshot(volume);
    const answers = await Promise.all([
      client.delete(pathOf(id)),
      client.delete(pathOf(id)),
      client.delete(pathOf(id)),
    ]);
    for (const { status } of answers) expect([204, 404]).toContain(status);
    expect(answers.some(({ status }) => status === 204)).toBe(true);
    expect((await client.get(pathOf(other))).status).toBe(200);
  });
});

describe('rights', () => {
  it('what is of another project looks like what is not there', async () => {
    await rig.native('POST', '/projects', { name: 'other' });
    const foreign = new DeltacloudClient(rig, await rig.person('foreigner', 'member', 'other'));
    const id = await client.snapshot(volume);
    const same = (text: string): string => text.replaceAll(id, 'ID').replaceAll('snap-ffff', 'ID');
    for (const method of ['GET', 'DELETE'] as const) {
      const hidden = await foreign.send({ method, path: pathOf(id) });
      const missing = await foreign.send({ method, path: pathOf('snap-ffff') });
      expect([hidden.status, same(hidden.text)]).toEqual([404, same(missing.text)]);
    }
    const hidden = await foreign.post('/api/storage_snapshots', { volume_id: volume });
    const missing = await foreign.post('/api/storage_snapshots', { volume_id: 'vol-ffff' });
    expect([hidden.status, hidden.text.replaceAll(volume, 'V')]).toEqual([
      404,
      missing.text.replaceAll('vol-ffff', 'V'),
    ]);
    expect(await foreign.json('/api/storage_snapshots')).toEqual({ storage_snapshots: [] });
    expect(await foreign.json(`/api/storage_snapshots?id=${id}`)).toEqual({ storage_snapshots: [] });
    expect((await client.get(pathOf(id))).status).toBe(200);
  });

  it('a guest sees what was granted, and changes it with rw only', async () => {
    const drive = await rig.drive('granted');
    const id = await client.snapshot(wireId('vol', drive.number));
    const person = await rig.person('guest', 'guest');
    const guest = new DeltacloudClient(rig, person);
    expect(await guest.json('/api/storage_snapshots')).toEqual({ storage_snapshots: [] });
    await rig.grant('guest', { driveId: drive.id }, 'ro');
    expect((await guest.json('/api/storage_snapshots')).storage_snapshots).toHaveLength(1);
    expect((await guest.delete(pathOf(id))).status).toBe(403);
    expect((await guest.post('/api/storage_snapshots', { volume_id: wireId('vol', drive.number) })).status).toBe(403);
    expect((await client.get(pathOf(id))).status).toBe(200);
    await rig.grant('guest', { driveId: drive.id }, 'rw');
    expect((await guest.post('/api/storage_snapshots', { volume_id: wireId('vol', drive.number) })).status).toBe(201);
    expect((await guest.delete(pathOf(id))).status).toBe(204);
  });
});
