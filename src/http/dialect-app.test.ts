import { once } from 'node:events';
import { connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bodyOf, type Dialect, type DialectContext, rawQueryOf } from '../dialects/dialect.ts';
import type { App } from './context.ts';
import { buildDialectApp, mountDialects } from './dialect-app.ts';
import { Metrics } from './metrics.ts';
import { fakeApp } from './testing/fakes.ts';

const plain: Dialect = {
  name: 'syminet',
  path: '/api',
  addRoutes(app) {
    app.get('/api/base', (request) => request.base);
    app.get('/api/query', (request) => rawQueryOf(request));
    app.post('/api/echo', (request, reply) => reply.type('text/plain').send(bodyOf(request)));
    app.get('/api/fail', () => {
      throw new Error('inner words');
    });
  },
  answerError: (error, request, reply) =>
    reply.code(error.status).type('text/plain').send(`${request.base}: own: ${error.code}`),
  answerParserError: (error) => ({
    status: 400,
    headers: { 'Content-Type': 'text/plain' },
    body: `own: ${error.code}`,
  }),
  rewriteUrl: (url) => url.replace(/^\/+/, '/'),
};

const noRows = async () => [];
const noSpace = { freeBytes: 0, totalBytes: 0, reserveBytes: 0, low: false };

let closing: AbortController;
let own: FastifyInstance;
let main: App;

beforeEach(async () => {
  closing = new AbortController();
  const inventory = { counts: noRows, powers: noRows, memoryBytes: async () => 0, space: async () => noSpace };
  const options = { trustedProxies: ['127.0.0.1'], metrics: new Metrics({ version: '0', inventory }) };
  // This dialect looks at nothing else.
  const context = { closing: closing.signal } as DialectContext;
  const built = await buildDialectApp(plain, context, options, pino({ level: 'silent' }));
  own = built.app;
  const { app } = await fakeApp({}, options, { mount: mountDialects([built]) });
  main = app;
  await own.listen({ port: 0, host: '127.0.0.1' });
  await main.listen({ port: 0, host: '127.0.0.1' });
});
afterEach(async () => {
  await main.close();
  await own.close();
});

const portOf = ({ server }: Pick<FastifyInstance, 'server'>): number => {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
};

/** Sends text as it is; the whole answer. */
async function raw(app: Pick<FastifyInstance, 'server'>, text: string): Promise<string> {
  const socket = connect(portOf(app), '127.0.0.1');
  let answer = '';
  socket.on('data', (part) => {
    answer += part.toString();
  });
  socket.end(text);
  await once(socket, 'close');
  return answer;
}

const get = (
  app: Pick<FastifyInstance, 'server'>,
  path: string,
  headers: Record<string, string> = {},
): Promise<string> => {
  const lines = Object.entries({ host: 'cloud.example:81', connection: 'close', ...headers });
  return raw(app, `GET ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`);
};

describe('absolute references', () => {
  test('begin with what the client asked for', async () => {
    expect(await get(own, '/api/base')).toMatch(/\r\n\r\nhttp:\/\/cloud\.example:81$/);
    expect(await get(own, '/api/base', { host: 'a"b' })).toMatch(/\r\n\r\nhttp:\/\/127\.0\.0\.1:\d+$/);
    expect(await raw(own, 'GET /api/base HTTP/1.0\r\n\r\n')).toMatch(/\r\n\r\nhttp:\/\/127\.0\.0\.1:\d+$/);
  });

  test('follow the mount and what a trusted proxy forwards', async () => {
    expect(await get(main, '/syminet/api/base')).toMatch(/http:\/\/cloud\.example:81\/syminet$/);
    const forwarded = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'front.example', 'x-forwarded-port': '8443' };
    expect(await get(own, '/api/base', forwarded)).toMatch(/https:\/\/front\.example:8443$/);
    const usual = { ...forwarded, 'x-forwarded-port': '443', 'x-forwarded-prefix': '/clouds/' };
    expect(await get(main, '/syminet/api/base', usual)).toMatch(/https:\/\/front\.example\/clouds\/syminet$/);
  });
});

describe('what no route answers', () => {
  test.each([
    ['/api/nothing', 404, 'route_not_found'],
    ['/api/echo', 405, 'method_not_allowed'],
    ['/api/fail', 500, 'internal'],
    ['/api/%zz', 400, 'invalid_request'],
  ])('%s is refused in the words of the dialect', async (path, status, code) => {
    for (const answer of [await get(own, path), await get(main, `/syminet${path}`)]) {
      expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
      expect(answer).toMatch(new RegExp(`http://cloud.example:81(/syminet)?: own: ${code}$`));
    }
  });

  test('nor what is no HTTP', async () => {
    expect(await raw(own, 'NONSENSE\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 [\s\S]*own: invalid_request$/);
  });

  test('nor a server that ends', async () => {
    closing.abort();
    expect(await get(own, '/api/base')).toMatch(/own: shutting_down$/);
  });

  test('nor a body that is too large, whatever it says it is', async () => {
    const type = { method: 'POST', url: '/api/echo', payload: 'x'.repeat(1024 ** 2 + 1) } as const;
    expect((await own.inject(type)).body).toMatch(/own: body_too_large$/);
    const odd = { ...type, payload: 'x', headers: { 'content-type': 'no type at all' } };
    expect((await own.inject(odd)).body).toBe('x');
  });
});

test('bodies and queries come as they were sent', async () => {
  expect((await own.inject({ method: 'POST', url: '//api/echo', payload: '\n{"a":1} ' })).body).toBe('\n{"a":1} ');
  expect((await own.inject({ method: 'POST', url: '/api/echo' })).body).toBe('');
  expect(await get(main, '/syminet/api/query?a=%41&&b')).toMatch(/a=%41&&b$/);
});

test('addresses that only begin like a dialect are not mounted', async () => {
  expect(await get(main, '/syminetwork/api/base')).toMatch(/route_not_found/);
});
