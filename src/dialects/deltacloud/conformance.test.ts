/** What holds for every request: negotiation, headers, HEAD, credentials. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { basic, DialectRig } from '../../../test/support/dialect-rig.ts';
import { assertShape, DeltacloudClient, parseXml } from './testing/client.ts';

let rig: DialectRig;
let client: DeltacloudClient;
let stranger: DeltacloudClient;
let snapshot: string;
let volume: string;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new DeltacloudClient(rig);
  stranger = new DeltacloudClient(rig, null);
  volume = await client.volume({ name: 'data' });
  snapshot = await client.snapshot(volume, { name: 'first' });
});
afterAll(() => rig[Symbol.asyncDispose]());

/** Bytes as they are, for what no HTTP client would send. */
function raw(text: string): Promise<string> {
  const { port, hostname } = new URL(rig.origin('deltacloud'));
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(text));
    let answer = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      answer += chunk;
    });
    socket.on('end', () => resolve(answer));
    socket.on('error', reject);
  });
}

describe('content negotiation', () => {
  const types = { xml: 'application/xml', json: 'application/json', html: 'text/html' } as const;
  const rows: [accept: string | null, format: keyof typeof types | null][] = [
    [null, 'xml'],
    ['', 'xml'],
    ['application/xml', 'xml'],
    ['text/xml', 'xml'],
    ['application/json', 'json'],
    ['text/html', 'html'],
    ['application/xhtml+xml', 'html'],
    ['*/*', 'html'],
    ['*/*; q=0.5, application/xml', 'xml'],
    ['application/xml,application/json', 'json'],
    ['application/json,application/xml', 'xml'],
    ['application/json;q=0.9,application/xml;q=0.8', 'json'],
    ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', 'html'],
    ['text/plain, application/json;q=0.1', 'json'],
    ['application/*', null],
    ['text/plain', null],
    ['application/xml;q=0', null],
  ];
  it.each(rows)('Accept %j gives %s', async (accept, format) => {
    for (const path of ['/api', '/api/storage_snapshots', `/api/storage_snapshots/${snapshot}`]) {
      const { status, headers, text } = await client.get(path, accept === null ? {} : { accept });
      expect([status, headers['content-type']]).toEqual(format === null ? [406, undefined] : [200, types[format]]);
      if (format === null) {
        expect(text).toBe('');
        expect([headers.server, headers['x-deltacloud-driver'], headers.etag]).toEqual([
          undefined,
          undefined,
          undefined,
        ]);
      }
    }
  });

  it('the query parameter format beats Accept; a form field does not count', async () => {
    for (const format of ['xml', 'json', 'html'] as const) {
      const accept = format === 'xml' ? 'application/json' : 'application/xml';
      const answer = await client.get(`/api/storage_snapshots?format=${format}`, { accept });
      expect(answer.headers['content-type']).toBe(types[format]);
    }
    const made = await client.post('/api/storage_snapshots', { volume_id: volume, format: 'json' });
    expect([made.status, made.headers['content-type']]).toEqual([201, 'application/xml']);
  });

  it.each(['png', 'XML', '', 'yaml'])('format=%s is 406 with an empty body', async (format) => {
    const { status, text } = await client.get(`/api/realms?format=${format}`);
    expect([status, text]).toEqual([406, '']);
  });

  it('a format that the operation lacks is 406', async () => {
    for (const path of ['/api/storage_snapshots/new', '/api/storage_volumes/new']) {
      for (const format of ['xml', 'json']) expect((await client.get(`${path}?format=${format}`)).status).toBe(406);
      expect((await client.get(`${path}?format=html`)).status).toBe(200);
    }
  });

  it('errors follow it, too', async () => {
    for (const format of ['xml', 'json', 'html'] as const) {
      const answer = await client.get(`/api/storage_snapshots/nope?format=${format}`);
      expect([answer.status, answer.headers['content-type']]).toEqual([404, types[format]]);
    }
  });
});

describe('headers', () => {
  it('Server says the version of /api and has the form that the suite matches', async () => {
    const answer = await client.get('/api');
    expect(answer.headers.server).toMatch(/^Apache-Deltacloud\/\d+\.\d+\.\d+$/);
    expect(parseXml(answer.text).value['@version']).toBe(String(answer.headers.server).split('/')[1]);
  });

  it('X-Deltacloud-Driver is on every answer, errors too; X-Deltacloud-Provider only if one was chosen', async () => {
    for (const [who, path, status] of [
      [client, '/api', 200],
      [stranger, '/api/storage_snapshots', 401],
      [client, '/api/storage_snapshots/nope', 404],
      [client, '/api/nope', 404],
      [client, '/api/realms/500', 500],
    ] as const) {
      const { headers, status: got } = await who.get(path);
      expect([got, headers['x-deltacloud-driver'], headers['x-deltacloud-provider']]).toEqual([
        status,
        'mock',
        undefined,
      ]);
    }
    const chosen = await client.get('/api/realms', { 'x-deltacloud-provider': 'P1' });
    expect(chosen.headers['x-deltacloud-provider']).toBe('p1');
  });

  it('ETag is the bare MD5 of the body of 200 and 201, with Cache-Control; If-None-Match is not honoured', async () => {
    const paths = [
      '/',
      '/api',
      '/api/docs',
      '/api/realms',
      '/api/images',
      '/api/instances',
      '/api/drivers',
      '/api/instance_states',
    ];
    paths.push(
      '/api/hardware_profiles',
      '/api/storage_volumes',
      '/api/storage_snapshots',
      `/api/storage_snapshots/${snapshot}`,
    );
    for (const path of paths) {
      for (const accept of ['application/xml', 'application/json', 'text/html']) {
        const { headers } = await client.get(path, { accept });
        expect(headers.etag, path).toMatch(/^[0-9a-f]{32}$/);
        expect(headers['cache-control']).toBe('max-age=0, private, must-revalidate');
        const again = await client.get(path, { accept, 'if-none-match': headers.etag ?? '' });
        expect(again.status).toBe(200);
      }
    }
    const made = await client.post('/api/storage_snapshots', { volume_id: volume });
    expect([made.status, made.headers['cache-control']]).toEqual([201, 'max-age=0, private, must-revalidate']);
    expect(made.headers.etag).toMatch(/^[0-9a-f]{32}$/);
    const error = await client.get('/api/storage_snapshots/nope');
    expect([error.headers.etag, error.headers['cache-control']]).toEqual([undefined, undefined]);
  });

  it('X-Backend-Runtime is seconds, on list and show', async () => {
    for (const path of ['/api/storage_snapshots', `/api/storage_snapshots/${snapshot}`, '/api/realms/local']) {
      expect((await client.get(path)).headers['x-backend-runtime']).toMatch(/^\d+\.\d{5}$/);
    }
  });

  it('Date and Content-Length are always there', async () => {
    for (const path of ['/', '/api', '/api/realms', '/api/nope', '/api/realms?format=png']) {
      const { headers } = await rig.send('deltacloud', { path, headers: basic(rig.admin) });
      expect(Date.parse(headers.date ?? '')).toBeGreaterThan(0);
      expect(headers['content-length']).toMatch(/^\d+$/);
    }
  });

  it('references are absolute, and follow Host and the mount', async () => {
    const { text } = await client.get(`/api/storage_snapshots/${snapshot}`, { host: 'dc.example:3001' });
    expect(parseXml(text).value['@href']).toBe(`http://dc.example:3001/api/storage_snapshots/${snapshot}`);
    const path = `/deltacloud/api/storage_snapshots/${snapshot}`;
    const mounted = await rig.send('native', { path, headers: { ...basic(rig.admin), host: 'one.example' } });
    assertShape(mounted);
    expect(parseXml(mounted.text).value['@href']).toBe(`http://one.example${path}`);
    const missing = await rig.send('native', { path: '/deltacloud/api/images/nope', headers: basic(rig.admin) });
    assertShape(missing);
    expect(parseXml(missing.text).value['@url']).toBe('/deltacloud/api/images/nope');
  });

  it('references leave out the port that goes without saying, and no other', async () => {
    for (const [host, shown] of [
      ['dc.example:80', 'dc.example'],
      ['[::1]:80', '[::1]'],
      ['dc.example:8080', 'dc.example:8080'],
      ['dc.example:443', 'dc.example:443'],
    ] as const) {
      const path = `/api/storage_snapshots/${snapshot}`;
      const { text } = await client.get(path, { host });
      expect(parseXml(text).value['@href']).toBe(`http://${shown}${path}`);
      const mounted = await rig.send('native', { path: `/deltacloud${path}`, headers: { ...basic(rig.admin), host } });
      expect(parseXml(mounted.text).value['@href']).toBe(`http://${shown}/deltacloud${path}`);
    }
  });

  it('without Host it is 400 and plain text', async () => {
    const answer = await raw('GET /api HTTP/1.0\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toMatch(/\r\nserver: Apache-Deltacloud\//i);
    expect(answer.endsWith('\r\n\r\nBad Request')).toBe(true);
  });

  it('what is no HTTP is answered in the same words', async () => {
    expect(await raw('nonsense\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 .*\r\n\r\nBad Request$/s);
  });
});

describe('HEAD', () => {
  it('answers as GET would, without the body', async () => {
    for (const path of [
      '/',
      '/api',
      '/api/',
      '/api/storage_snapshots',
      `/api/storage_snapshots/${snapshot}`,
      `/api/storage_volumes/${volume}`,
    ]) {
      const got = await client.get(path);
      const { status, headers, text } = await client.send({ method: 'HEAD', path });
      expect([status, text]).toEqual([200, '']);
      for (const name of ['content-type', 'content-length', 'etag'] as const)
        expect(headers[name]).toBe(got.headers[name]);
    }
  });
});

describe('credentials', () => {
  it('none: 401 with a challenge and the error document', async () => {
    const answer = await stranger.get('/api/storage_snapshots');
    expect(answer.status).toBe(401);
    expect(answer.headers['www-authenticate']).toMatch(/^Basic realm="mock-deltacloud@[^"]+"$/);
    expect(answer.text.startsWith("<error status='401' url='/api/storage_snapshots'>")).toBe(true);
    const json = await stranger.get('/api/storage_snapshots?format=json');
    expect(json.json).toMatchObject({ code: 401, error: 'Deltacloud::Exceptions::AuthenticationFailure' });
  });

  it('wrong ones, or what cannot be decoded: 401 and the error document', async () => {
    for (const authorization of [
      basic({ name: 'admin', password: 'wrong' }).authorization,
      'Basic %%%',
      'Basic',
      'Basic ',
    ]) {
      const answer = await stranger.get('/api/storage_snapshots', { authorization: authorization ?? '' });
      expect(answer.status).toBe(401);
      expect(parseXml(answer.text).root).toBe('error');
    }
  });

  it('another scheme counts as none', async () => {
    const answer = await stranger.get('/api/storage_snapshots', { authorization: `Bearer ${rig.admin.token}` });
    expect(answer.status).toBe(401);
    expect(answer.headers['www-authenticate']).toBeDefined();
  });

  it('blanks at the end of the credentials are trimmed, the scheme is read in any case', async () => {
    const [, credentials] = (basic(rig.admin).authorization ?? '').split(' ');
    for (const authorization of [`Basic ${credentials}  `, `basic ${credentials}`]) {
      expect((await stranger.get('/api/storage_snapshots', { authorization })).status).toBe(200);
    }
  });

  it('an e-mail address works as a user name', async () => {
    const person = await rig.person('mail', 'member');
    expect((await stranger.get('/api/realms', basic({ name: person.email, password: person.password }))).status).toBe(
      200,
    );
  });

  it('the entry point, docs, drivers, states, profiles and the form for snapshots need none', async () => {
    for (const path of [
      '/',
      '/api',
      '/api/',
      '/api/drivers',
      '/api/drivers/mock',
      '/api/instance_states',
      '/api/hardware_profiles',
    ]) {
      expect((await stranger.get(path)).status, path).toBe(200);
    }
    for (const path of ['/api/docs', '/api/docs/images', '/api/docs/images/show', '/api/storage_snapshots/new']) {
      expect((await stranger.get(`${path}?format=html`)).status, path).toBe(200);
    }
    for (const path of [
      '/api/realms',
      '/api/images',
      '/api/instances',
      '/api/storage_volumes',
      '/api/storage_volumes/new',
    ]) {
      expect((await stranger.get(path)).status, path).toBe(401);
    }
  });

  it.each(['1', 'true', ''])('force_auth=%s checks them on the entry point', async (value) => {
    const path = `/api?force_auth=${value}`;
    const none = await stranger.get(path);
    expect([none.status, parseXml(none.text).root]).toEqual([401, 'error']);
    expect(none.headers['www-authenticate']).toBeDefined();
    const wrong = await stranger.get(path, basic({ name: 'admin', password: 'wrong' }));
    expect([wrong.status, wrong.text]).toEqual([401, 'Authentication failed']);
    const good = await client.get(path);
    expect([good.status, parseXml(good.text).root]).toEqual([200, 'api']);
  });

  it('a page of another web site cannot use those that a browser remembers', async () => {
    const count = async () => (await client.json('/api/storage_snapshots')).storage_snapshots.length;
    const before = await count();
    const foreign: Record<string, string>[] = [
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
      { origin: 'http://evil.example' },
      { origin: 'null' },
    ];
    for (const headers of foreign) {
      const answer = await client.post('/api/storage_snapshots', { volume_id: volume }, headers);
      expect([answer.status, parseXml(answer.text).root]).toEqual([403, 'error']);
      const deletion = await client.post(`/api/storage_snapshots/${snapshot}`, { _method: 'delete' }, headers);
      expect(deletion.status).toBe(403);
    }
    expect(await count()).toBe(before);
    const own: Record<string, string>[] = [{ 'sec-fetch-site': 'same-origin' }, { origin: rig.origin('deltacloud') }];
    for (const headers of own) {
      expect((await client.post('/api/storage_snapshots', { volume_id: volume }, headers)).status).toBe(201);
    }
  });
});
