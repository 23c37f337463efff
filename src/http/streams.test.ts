/** Event streams, uploads, downloads, metrics, health: over a real socket. */
import { once } from 'node:events';
import http from 'node:http';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import type { CatalogEvent } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import type { BuiltApp } from './app.ts';
import type { AppOptions } from './context.ts';
import { Metrics } from './metrics.ts';
import { EventStreams, formatEvent } from './sse.ts';
import { aDrive, aTask, bearer, type FakeServices, fakeApp, fakeAuthenticator } from './testing/fakes.ts';

let built: BuiltApp | undefined;
afterEach(async () => {
  await built?.app.close();
  built = undefined;
});

async function listen(
  services: FakeServices,
  options: Partial<AppOptions> = {},
  streams?: EventStreams,
): Promise<string> {
  built = await fakeApp(services, options, streams === undefined ? {} : { streams });
  return built.app.listen({ port: 0, host: '127.0.0.1' });
}

function anEvent(seq: number, objectId = 'o', detail: Record<string, unknown> = { name: 'line\nbreak' }): CatalogEvent {
  return {
    seq,
    at: nowUs(),
    projectId: null,
    userId: null,
    via: 'native',
    kind: 'drive.created',
    objectKind: 'drive',
    objectId,
    detail,
  };
}

/** A feed in memory, as the service keeps one in the catalog. */
class Feed {
  readonly past: CatalogEvent[] = [];
  readonly subscribers = new Set<(event: CatalogEvent) => void>();
  readonly lists: (number | undefined)[] = [];
  add(event: CatalogEvent): void {
    this.past.push(event);
    for (const subscriber of this.subscribers) subscriber(event);
  }
  readonly useCases: FakeServices['events'] = {
    list: async (_caller, { afterSeq = 0, limit = 100, objectId }) => {
      this.lists.push(afterSeq);
      return this.past
        .filter((e) => e.seq > afterSeq && (objectId === undefined || e.objectId === objectId))
        .slice(0, limit);
    },
    subscribe: async (_caller, afterSeq, onEvent) => {
      if (afterSeq !== null) for (const event of this.past.filter((e) => e.seq > afterSeq)) onEvent(event);
      this.subscribers.add(onEvent);
      return () => this.subscribers.delete(onEvent);
    },
  };
}

async function follow(
  url: string,
  headers: Record<string, string> = {},
): Promise<{ response: http.IncomingMessage; until: (pattern: RegExp) => Promise<string> }> {
  const request = http.get(url, { headers: { ...bearer, accept: 'text/event-stream', ...headers } });
  const [response]: http.IncomingMessage[] = await once(request, 'response');
  if (response === undefined) throw new Error('no answer');
  response.setEncoding('utf8');
  response.on('error', () => undefined);
  let text = '';
  response.on('data', (chunk: string) => {
    text += chunk;
  });
  const until = async (pattern: RegExp): Promise<string> => {
    while (!pattern.test(text)) await once(response, 'data');
    return text;
  };
  return { response, until };
}

const idsIn = (text: string): number[] => [...text.matchAll(/^id: (\d+)$/gm)].map((match) => Number(match[1]));

describe('GET /v1/events', () => {
  test('replays from Last-Event-ID, goes on live, in order and without gaps', async () => {
    const feed = new Feed();
    for (let seq = 1; seq <= 1203; seq++) feed.add(anEvent(seq));
    const base = await listen({ events: feed.useCases });
    const { response, until } = await follow(`${base}/v1/events?after=1`, { 'last-event-id': '2' });
    expect(response.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
    });
    await until(/id: 1203\n/);
    while (feed.subscribers.size === 0) await new Promise((resolve) => setImmediate(resolve));
    feed.add(anEvent(1204));
    expect(idsIn(await until(/id: 1204\n/))).toEqual(Array.from({ length: 1202 }, (_, i) => i + 3));
    expect(feed.lists).toEqual([2, 502, 1002]);
    response.destroy();
    while (feed.subscribers.size > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  test('frames an event in one data line', () => {
    const lines = formatEvent(anEvent(9)).split('\n');
    expect(lines.slice(0, 2)).toEqual(['id: 9', 'event: drive.created']);
    expect(lines.slice(3)).toEqual(['', '']);
    expect(JSON.parse(lines[2]?.slice('data: '.length) ?? '')).toMatchObject({
      seq: 9,
      detail: { name: 'line\nbreak' },
      at: expect.stringMatching(/Z$/),
    });
  });

  test('only what concerns one object, when asked', async () => {
    const feed = new Feed();
    feed.add(anEvent(1, 'a'));
    feed.add(anEvent(2, 'b'));
    const base = await listen({ events: feed.useCases });
    const { until, response } = await follow(`${base}/v1/events?after=0&objectId=b`);
    await until(/id: 2\n/);
    while (feed.subscribers.size === 0) await new Promise((resolve) => setImmediate(resolve));
    feed.add(anEvent(3, 'a'));
    feed.add(anEvent(4, 'b'));
    expect(idsIn(await until(/id: 4\n/))).toEqual([2, 4]);
    response.destroy();
  });

  test('says that it is still there, and ends when the credentials do', async () => {
    let isValid = true;
    const feed = new Feed();
    const authenticator = {
      ...fakeAuthenticator,
      bearer: (secret: string) => fakeAuthenticator.bearer(isValid ? secret : 'revoked'),
    };
    const base = await listen({ events: feed.useCases }, { authenticator }, new EventStreams({ heartbeatMs: 20 }));
    const { response, until } = await follow(`${base}/v1/events`);
    await until(/^retry: 2000\n\n(: still here\n\n){2}/);
    isValid = false;
    await once(response, 'end');
  });

  test('a client that does not read is dropped; others stay', async () => {
    const feed = new Feed();
    const streams = new EventStreams({ maxBacklogBytes: 100_000 });
    const base = await listen({ events: feed.useCases }, {}, streams);
    const lazy = await follow(`${base}/v1/events`);
    const eager = await follow(`${base}/v1/events`);
    while (feed.subscribers.size < 2) await new Promise((resolve) => setImmediate(resolve));
    lazy.response.pause();
    const big = { text: 'x'.repeat(50_000) };
    for (let seq = 1; streams.size === 2; seq++) {
      feed.add(anEvent(seq, 'o', big));
      await eager.until(new RegExp(`id: ${seq}\n[^]*\n\n$`));
    }
    expect(feed.subscribers.size).toBe(1);
    eager.response.destroy();
    lazy.response.destroy();
  });

  test('ends when the server closes', async () => {
    const feed = new Feed();
    const base = await listen({ events: feed.useCases });
    const { response } = await follow(`${base}/v1/events`);
    const ended = once(response, 'end');
    await built?.app.close();
    await ended;
  });

  test('is a list for those who accept JSON', async () => {
    const feed = new Feed();
    for (let seq = 1; seq <= 5; seq++) feed.add(anEvent(seq));
    await listen({ events: feed.useCases });
    const answer = await built?.app.inject({
      url: '/v1/events?after=2&limit=2',
      headers: { ...bearer, accept: 'application/json' },
    });
    expect(answer?.json()).toMatchObject({ items: [{ seq: 3 }, { seq: 4 }], lastSeq: 4 });
    const wrong = await built?.app.inject({ url: '/v1/events', headers: { ...bearer, 'last-event-id': 'x' } });
    expect(wrong?.json()).toMatchObject({ code: 'invalid_request', field: 'Last-Event-ID' });
  });
});

describe('bytes', () => {
  test('an upload reaches the service as a stream, beyond the limit of JSON bodies', async () => {
    const drive = aDrive();
    let got = 0;
    let input: object = {};
    const base = await listen(
      {
        drives: {
          import: async (_caller, { source, ...rest }) => {
            input = rest;
            if (!('stream' in source)) throw new Error('no stream');
            for await (const chunk of source.stream) got += chunk.length;
            return { task: aTask(), drive };
          },
        },
      },
      { maxImportBytes: 1e9 },
    );
    const answer = await fetch(`${base}/v1/drives/import?name=a&format=qcow2&tag=x&tag=y`, {
      method: 'POST',
      headers: { ...bearer, 'content-type': 'application/octet-stream' },
      body: new Uint8Array(3_000_000),
    });
    expect([answer.status, got]).toEqual([202, 3_000_000]);
    expect(input).toEqual({ name: 'a', format: 'qcow2', tags: ['x', 'y'] });
  });

  test('a refused upload is not read to its end', async () => {
    const base = await listen({}, { maxImportBytes: 1000 });
    const request = http.request(`${base}/v1/drives/import?name=a&format=raw`, {
      method: 'POST',
      headers: { ...bearer, 'content-length': 5e9, 'content-type': 'application/octet-stream' },
    });
    request.on('error', () => undefined);
    request.write('begin');
    const [response]: http.IncomingMessage[] = await once(request, 'response');
    expect([response?.statusCode, response?.headers.connection]).toEqual([413, 'close']);
    request.destroy();
  });

  test('a download streams with name and length; HEAD reads nothing', async () => {
    let reads = 0;
    const base = await listen({
      drives: {
        download: async () => ({
          stream: new Readable({
            read() {
              reads++;
              this.push(reads > 3 ? null : Buffer.alloc(1000));
            },
          }),
          sizeBytes: 3000,
          fileName: 'data.raw',
        }),
      },
    });
    const url = `${base}/v1/drives/${aDrive().id}/download`;
    const request = http.get(url, { headers: bearer });
    const [response]: http.IncomingMessage[] = await once(request, 'response');
    expect(response?.headers).toMatchObject({
      'content-length': '3000',
      'content-disposition': 'attachment; filename="data.raw"',
      'content-type': 'application/octet-stream',
    });
    expect(response === undefined ? 0 : (await buffer(response)).length).toBe(3000);
    reads = 0;
    const head = await fetch(url, { method: 'HEAD', headers: bearer });
    expect([head.status, head.headers.get('content-length'), reads]).toEqual([200, '3000', 0]);
  });
});

describe('probes', () => {
  const ask = async (
    url: string,
    options: { remoteAddress?: string; headers?: Record<string, string> } = {},
    more: Partial<AppOptions> = {},
  ) => {
    await built?.app.close();
    built = await fakeApp({ readiness: async () => ({ ready: false, reasons: ['no daemon'] }) }, more);
    return built.app.inject({ url, ...options });
  };

  test('health and readiness take no credentials; reasons stay at home', async () => {
    expect((await ask('/healthz', { remoteAddress: '10.1.2.3' })).json()).toEqual({ status: 'ok' });
    const here = await ask('/readyz');
    expect([here.statusCode, here.json()]).toEqual([503, { ready: false, reasons: ['no daemon'] }]);
    expect((await ask('/readyz', { remoteAddress: '10.1.2.3' })).json()).toEqual({ ready: false, reasons: [] });
  });

  test('metrics are for loopback, operators, and the public when configured', async () => {
    const here = await ask('/metrics');
    expect(here.headers['content-type']).toContain('text/plain');
    expect(here.body).toContain('calotype_objects{kind="tasks",state="done"} 5');
    expect(here.body).toContain('calotype_space_bytes{kind="free"} 3');
    expect(here.body).toContain('nodejs_eventloop_lag_seconds');
    const away = { remoteAddress: '10.1.2.3' };
    expect((await ask('/metrics', away)).statusCode).toBe(401);
    expect((await ask('/metrics', { headers: { 'x-forwarded-for': '10.1.2.3' } })).statusCode).toBe(401);
    expect((await ask('/metrics', { headers: { 'x-forwarded-for': '127.0.0.1' }, ...away })).statusCode).toBe(401);
    expect((await ask('/metrics', { ...away, headers: bearer })).statusCode).toBe(200);
    expect((await ask('/metrics', away, { metricsPublic: true })).statusCode).toBe(200);
  });

  test('a trusted proxy is believed', async () => {
    const trusted = { trustedProxies: ['127.0.0.1'] };
    expect((await ask('/metrics', { headers: { 'x-forwarded-for': '10.1.2.3' } }, trusted)).statusCode).toBe(401);
    expect((await ask('/metrics', { headers: { 'x-forwarded-for': '127.0.0.1' } }, trusted)).statusCode).toBe(200);
  });

  test('machines, and what snapshots cost their guests, are measured, also before the first scrape', async () => {
    const metrics = new Metrics({
      version: '1',
      inventory: {
        counts: async () => [{ kind: 'machines', state: 'available', count: 3 }],
        powers: async () => [{ power: 'running', count: 3 }],
        memoryBytes: async () => 4096,
        space: async () => ({ freeBytes: 3, totalBytes: 10, reserveBytes: 1, low: false }),
      },
    });
    metrics.observer.guestPaused?.(0.004);
    metrics.observer.guestFrozen?.(0.3);
    await metrics.collect();
    metrics.observer.guestPaused?.(0.008);
    metrics.observer.machineDied?.();
    const { text } = await metrics.collect();
    for (const line of [
      'calotype_objects{kind="machines",state="available"} 3',
      'calotype_machines{power="running"} 3',
      'calotype_memory_stored_bytes 4096',
      'calotype_machine_deaths_total 1',
      'calotype_guest_pause_seconds_bucket{le="0.005"} 1',
      'calotype_guest_pause_seconds_bucket{le="0.01"} 2',
      'calotype_guest_freeze_seconds_bucket{le="0.5"} 1',
    ])
      expect(text).toContain(`${line}\n`);
  });

  test('requests are counted by route', async () => {
    await listen({ drives: { get: async () => aDrive() } });
    const app = built?.app;
    await app?.inject({ url: `/v1/drives/${aDrive().id}`, headers: bearer });
    await app?.inject({ url: '/v1/drives/x', headers: bearer });
    await app?.inject({ url: '/nothing' });
    const text = (await app?.inject({ url: '/metrics' }))?.body ?? '';
    expect(text).toContain(
      'calotype_http_request_seconds_count{method="GET",route="/v1/drives/:driveId",status="200"} 1',
    );
    expect(text).toContain(
      'calotype_http_request_seconds_count{method="GET",route="/v1/drives/:driveId",status="404"} 1',
    );
    expect(text).toContain('route="unknown",status="404"} 1');
  });

  test('every answer carries a request id: the given one if harmless', async () => {
    const given = await ask('/healthz', { headers: { 'x-request-id': 'abc-1' } });
    expect(given.headers['x-request-id']).toBe('abc-1');
    const evil = await ask('/healthz', { headers: { 'x-request-id': 'a b' } });
    expect(evil.headers['x-request-id']).toMatch(/^[0-9a-f]{12}-[0-9a-z]+$/);
  });
});
