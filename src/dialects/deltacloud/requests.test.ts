/** Where requests lead: routing, drivers and providers, the entry point, errors, OPTIONS. */
import { Agent, request as httpRequest } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { basic, DialectRig } from '../../../test/support/dialect-rig.ts';
import { DeltacloudClient, form, parseXml } from './testing/client.ts';

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

describe('routing', () => {
  const bare = ['text/html', '<h1>Not Found</h1>'];

  it('a trailing slash is not the collection, suffixes do not exist, an encoded slash is in no id', async () => {
    for (const path of [
      '/api/storage_snapshots/',
      '/api/realms.xml',
      '/api/realms.json',
      `/api/storage_snapshots/${snapshot}%2Fx`,
      '/api/realms/local/',
    ]) {
      expect((await client.get(path)).status, path).toBe(404);
    }
    expect((await client.get(`/api/storage_snapshots/${snapshot}.xml`)).status).toBe(404);
  });

  it('other methods and unknown collections are 404 with a tiny body, whatever Accept says', async () => {
    for (const accept of ['application/xml', 'application/json', 'text/html']) {
      for (const [method, path] of [
        ['PUT', '/api/storage_snapshots'],
        ['PATCH', '/api/storage_snapshots'],
        ['DELETE', '/api/storage_snapshots'],
        ['PUT', `/api/storage_snapshots/${snapshot}`],
        ['POST', `/api/storage_snapshots/${snapshot}`],
        ['GET', '/api/nope'],
        ['GET', '/api/nope/deeper/still'],
        ['GET', '/elsewhere'],
        ['POST', '/api/realms'],
        ['GET', `/api/storage_volumes/${volume}/attach`],
      ] as const) {
        const { status, headers, text } = await client.send({ method, path, headers: { accept } });
        expect([status, headers['content-type'], text], `${method} ${path}`).toEqual([404, ...bare]);
      }
    }
  });

  it.each(['the field _method', 'the header X-HTTP-Method-Override'])('%s turns POST into DELETE', async (by) => {
    const path = `/api/storage_snapshots/${await client.snapshot(volume)}`;
    const answer = by.includes('field')
      ? await client.post(path, { _method: 'delete' })
      : await client.post(path, {}, { 'x-http-method-override': 'DELETE' });
    expect([answer.status, answer.text]).toEqual([204, '']);
    expect((await client.get(path)).status).toBe(404);
  });

  it('other methods cannot be had by POST where there are none', async () => {
    for (const method of ['put', 'patch', 'options', 'head']) {
      expect((await client.post('/api/storage_snapshots', { _method: method, volume_id: volume })).status).toBe(404);
    }
    const list = await client.post('/api/storage_snapshots', { _method: 'get' });
    expect([list.status, parseXml(list.text).root]).toEqual([200, 'storage_snapshots']);
    expect((await client.post(`/api/storage_snapshots?_method=delete&volume_id=${volume}`)).status).toBe(201);
  });

  it('matrix parameters are stripped, and without effect on snapshots', async () => {
    const { storage_snapshots: all } = await client.json('/api/storage_snapshots');
    const { storage_snapshots: same } = await client.json('/api/storage_snapshots;id=nope');
    expect(same).toEqual(all);
    expect((await client.get(`/api;x=y/storage_snapshots;a=b/${snapshot};c=d`)).status).toBe(200);
    const missing = await client.xml('/api;driver=mock/storage_snapshots;a=b/nope?q=1', 404);
    expect(missing['@url']).toBe('/api/storage_snapshots/nope');
  });

  it('/ is a page that leads to /api, whatever is asked for', async () => {
    for (const accept of ['*/*', 'application/xml', 'image/png']) {
      const { status, headers, text } = await stranger.get('/', { accept });
      expect([status, headers['content-type']]).toEqual([200, 'text/html']);
      expect(text).toContain(`href="${rig.origin('deltacloud')}/api"`);
    }
  });
});

describe('drivers and providers', () => {
  it('are chosen by header or by matrix parameters, which win; in any case; for this request only', async () => {
    const byHeader = await client.xml('/api');
    expect([byHeader['@driver'], byHeader['@provider']]).toEqual(['mock', undefined]);
    const answer = await client.get('/api', { 'x-deltacloud-driver': 'CALOTYPE', 'x-deltacloud-provider': 'One' });
    expect(parseXml(answer.text).value).toMatchObject({ '@driver': 'calotype', '@provider': 'one' });
    expect(answer.headers['x-deltacloud-driver']).toBe('calotype');
    const both = await client.get('/api;driver=mock;provider=P1', { 'x-deltacloud-driver': 'calotype' });
    expect(parseXml(both.text).value).toMatchObject({ '@driver': 'mock', '@provider': 'p1' });
    expect((await client.get('/api')).headers['x-deltacloud-driver']).toBe('mock');
  });

  it('an unknown one is a 500 document that echoes it', async () => {
    const answer = await client.get('/api/realms', { 'x-deltacloud-driver': 'ec9' });
    expect([answer.status, answer.headers['x-deltacloud-driver']]).toEqual([500, 'ec9']);
    expect(parseXml(answer.text).value.backend['@driver']).toBe('ec9');
    expect((await client.get('/api;driver=a%0d%0aX:y/realms')).status).toBe(200);
  });

  it('a provider that names one of the projects of the user leads there', async () => {
    await rig.native('POST', '/projects', { name: 'Second' });
    const person = await rig.person('both', 'member');
    await rig.native('PUT', '/projects/Second/members/both', { role: 'member' });
    const both = new DeltacloudClient(rig, person);
    const made = await both.post('/api;provider=second/storage_volumes?format=json', {
      capacity: '0.01',
      name: 'over there',
    });
    expect(made.status).toBe(201);
    const { id } = made.json.storage_volume;
    expect((await both.get(`/api/storage_volumes/${id}`)).status).toBe(404);
    expect((await both.get(`/api;provider=second/storage_volumes/${id}`)).status).toBe(200);
    expect((await both.get(`/api/storage_volumes/${id}`, { 'x-deltacloud-provider': 'SECOND' })).status).toBe(200);
    const only = new DeltacloudClient(rig, await rig.person('one', 'member'));
    expect((await only.get(`/api;provider=second/storage_volumes/${id}`)).status).toBe(404);
  });

  it('POST /api leads to where the chosen one is', async () => {
    const origin = rig.origin('deltacloud');
    for (const [fields, to] of [
      [{ driver: 'mock' }, '/api;driver=mock'],
      [{ provider: 'p 1' }, '/api;provider=p%201'],
      [{ driver: 'a', provider: 'b' }, '/api;driver=a'],
      [{}, '/api'],
    ] as const) {
      const { status, headers } = await stranger.post('/api', fields);
      expect([status, headers.location]).toEqual([301, `${origin}${to}`]);
    }
  });

  it('/api/drivers lists names that, in lower case, are those of /api, without a declaration', async () => {
    const { driver } = await client.xml('/api/drivers');
    expect(driver.map((each: { name: string }) => each.name)).toEqual(['Calotype', 'Mock']);
    expect(driver.map((each: { name: string }) => each.name.toLowerCase())).toContain(
      (await client.xml('/api'))['@driver'],
    );
    const map = await client.json('/api/drivers');
    expect(Object.keys(map)).toEqual(['calotype', 'mock']);
    expect((await client.json('/api/drivers/mock')).driver).toMatchObject({ id: 'mock', name: 'Mock' });
    expect((await client.get('/api/drivers/ec2')).status).toBe(404);
  });
});

describe('the entry point', () => {
  const collections = [
    'drivers',
    'hardware_profiles',
    'images',
    'instance_states',
    'instances',
    'realms',
    'storage_snapshots',
    'storage_volumes',
  ];

  it('links every collection, in the order of their names, each to be fetched', async () => {
    const { link } = await client.xml('/api');
    expect(link.map((each: Record<string, string>) => each['@rel'])).toEqual(collections);
    for (const each of link) expect((await client.get(new URL(each['@href']).pathname)).status).toBe(200);
    expect((await client.get('/api/')).text).toBe((await client.get('/api')).text);
  });

  it('is XML to the byte', async () => {
    const { text } = await client.get('/api', { host: 'dc.example:3001' });
    expect(text).toContain(`<api driver='mock' version='1.1.3'>
  <link href='http://dc.example:3001/api/drivers' rel='drivers'>
  </link>
`);
    expect(text).toContain(`    <feature name='user_name' rel='create'>
      <param name='name' />
    </feature>
  </link>
`);
    expect(text).toMatch(
      / {2}<link href='http:\/\/dc\.example:3001\/api\/storage_snapshots' rel='storage_snapshots'>\n {2}<\/link>\n/,
    );
    expect(text.endsWith('</api>\n')).toBe(true);
  });

  it('is JSON with features as arrays of arrays, and always a provider', async () => {
    const { api } = await client.json('/api');
    expect(Object.keys(api)).toEqual(['version', 'driver', 'provider', 'links']);
    expect([api.driver, api.provider, api.version]).toEqual(['mock', 'default', '1.1.3']);
    const instances = api.links.find((each: { rel: string }) => each.rel === 'instances');
    expect(instances.features).toContainEqual([
      { name: 'user_name', rel: 'create', params: ['name:string:optional'], constraints: {} },
    ]);
    expect(api.links.find((each: { rel: string }) => each.rel === 'storage_snapshots').features).toEqual([]);
  });
});

describe('errors', () => {
  it('are XML without a declaration, to the byte', async () => {
    const { text } = await client.get('/api/storage_snapshots/nope');
    expect(text).toBe(`<error status='404' url='/api/storage_snapshots/nope'>
  <backend driver='mock' provider='default'></backend>
  <code>404</code>
  <message><![CDATA[Not Found]]></message>
  <backtrace><![CDATA[]]></backtrace>
  <request>
    <param name='id'><![CDATA["nope"]]></param>
  </request>
</error>
`);
  });

  it('are JSON with code, message and the name of the exception', async () => {
    const { text } = await client.get('/api/storage_snapshots/nope?format=json');
    expect(text).toBe('{"code":404,"message":"Not Found","error":"Deltacloud::Exceptions::ObjectNotFound"}');
  });

  it('are a page with status, message, address and a way to retry', async () => {
    const { text } = await client.get('/api/storage_snapshots/nope?format=html');
    expect(text).toContain('<h1>404 - Not Found</h1>');
    expect(text).toContain('<code>/api/storage_snapshots/nope</code>');
    expect(text).toContain('>Retry</a>');
  });

  it('show parameters as they were inspected, harmlessly', async () => {
    const answer = await client.get('/api/realms/nope?a=%22x%22&b&c=%3C%2Fparam%3E]]%3E%00&%3C=1');
    const { param } = parseXml(answer.text).value.request;
    expect(param).toEqual([
      { '@name': 'a', '#text': '"\\"x\\""' },
      { '@name': 'b', '#text': 'nil' },
      { '@name': 'c', '#text': '"</param>]]>\\u0000"' },
      { '@name': '<', '#text': '"1"' },
      { '@name': 'id', '#text': '"nope"' },
    ]);
  });

  it.each([
    ['500', 'DeltacloudErrorMessage', 'BackendError'],
    ['501', 'NotImplementedMessage', 'NotImplemented'],
    ['502', 'ProviderErrorMessage', 'ProviderError'],
    ['504', 'ProviderTimeoutMessage', 'ProviderTimeout'],
  ])('the realm %s fails with %s', async (id, message, exception) => {
    const answer = await client.get(`/api/realms/${id}`);
    expect(answer.status).toBe(Number(id));
    expect(parseXml(answer.text).value).toMatchObject({ '@status': id, code: id, message, backtrace: '' });
    const json = await client.get(`/api/realms/${id}?format=json`);
    expect(json.json).toEqual({ code: Number(id), message, error: `Deltacloud::Exceptions::${exception}` });
  });

  it('a missing required parameter is 400 and a text, whatever Accept says', async () => {
    for (const accept of ['application/xml', 'application/json', 'text/html']) {
      const { status, headers, text } = await client.post(
        '/api/storage_snapshots',
        { name: 'n', description: 'd' },
        { accept },
      );
      expect([status, headers['content-type']]).toEqual([400, 'text/html;charset=utf-8']);
      expect(text).toBe("Required parameter 'volume_id' not found in [name,description]");
    }
    expect((await client.post('/api/storage_snapshots')).text).toBe("Required parameter 'volume_id' not found in []");
    const attach = await client.post(`/api/storage_volumes/${volume}/attach`, { instance_id: 'inst-1' });
    expect(attach.text).toBe("Required parameter 'device' not found in [instance_id,splat,captures,id]");
    const none = await client.post(`/api/storage_volumes/${volume}/attach`);
    expect(none.text).toBe("Required parameter 'instance_id' not found in [splat,captures,id]");
    const markup = await client.post('/api/storage_snapshots', { '<b>': '1' });
    expect(markup.text).toBe("Required parameter 'volume_id' not found in [&lt;b&gt;]");
  });

  it('a body that is too large is 400 in the same form', async () => {
    const body = `volume_id=${volume}&name=${'x'.repeat(1024 * 1024)}`;
    const answer = await client.send({ method: 'POST', path: '/api/storage_snapshots', headers: form, body });
    expect(answer.status).toBe(400);
    expect(parseXml(answer.text).root).toBe('error');
  });

  it('an address that is not validly encoded is 400 in the same form', async () => {
    const answer = await client.get('/api/storage_snapshots/%zz');
    expect([answer.status, parseXml(answer.text).root]).toEqual([400, 'error']);
  });
});

describe('OPTIONS', () => {
  const options = async (path: string) => {
    const { status, headers, text } = await stranger.send({ method: 'OPTIONS', path });
    expect(text).toBe('');
    return [status, headers.allow];
  };

  it('of a collection', async () => {
    for (const name of ['storage_snapshots', 'storage_volumes', 'instances', 'realms', 'images', 'drivers']) {
      expect(await options(`/api/${name}`)).toEqual([200, 'OPTIONS,GET,POST,DELETE']);
    }
  });

  it('of operations', async () => {
    expect(await options('/api/storage_snapshots/create')).toEqual([
      200,
      'volume_id:string:required,name:string:optional,description:string:optional',
    ]);
    expect(await options('/api/storage_snapshots/show')).toEqual([200, 'id:string:required']);
    expect(await options('/api/storage_snapshots/destroy')).toEqual([200, 'id:string:required']);
    expect(await options('/api/storage_volumes/anything/attach')).toEqual([
      200,
      'id:string:required,instance_id:string:required,device:string:required',
    ]);
    expect(await options('/api/storage_volumes/anything/detach')).toEqual([200, 'id:string:required']);
  });

  it('of a member, or of nothing, is 404', async () => {
    for (const path of [
      `/api/storage_snapshots/${snapshot}`,
      '/api/nope',
      '/api/storage_volumes/attach',
      '/api/storage_volumes/x/create',
    ]) {
      const { status, text } = await stranger.send({ method: 'OPTIONS', path });
      expect([status, text]).toEqual([404, '<h1>Not Found</h1>']);
    }
  });

  it('of the entry point names the classes of collections', async () => {
    const [status, allow] = await options('/api');
    expect(status).toBe(200);
    expect(String(allow).split(',')[0]).toBe('Deltacloud::Rabbit::DriversCollection');
    expect(String(allow).split(',')).toContain('Deltacloud::Rabbit::StorageSnapshotsCollection');
    expect(String(allow).split(',')).toHaveLength(8);
  });
});

describe('keep-alive', () => {
  it('goes on after every kind of answer', async () => {
    const { hostname, port } = new URL(rig.origin('deltacloud'));
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const statuses: number[] = [];
    for (const path of ['/api', '/api/nope', '/api/realms?format=png', '/api/storage_snapshots', '/api']) {
      statuses.push(
        await new Promise<number>((resolve, reject) => {
          const sent = httpRequest({ hostname, port, path, agent, headers: basic(rig.admin) }, (answer) => {
            answer.resume();
            answer.on('end', () => resolve(answer.statusCode ?? 0));
          });
          sent.on('error', reject);
          sent.end();
        }),
      );
    }
    agent.destroy();
    expect(statuses).toEqual([200, 404, 406, 200, 200]);
  });
});
