/** What every listener of the server has in common, whatever is spoken there: sockets, request ids, log lines, allowed methods. */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, RequestListener, Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type { AppOptions } from './context.ts';
import { pathOf } from './problem.ts';

/** The server under Fastify: with TLS if there is a certificate, patient with uploads, and without answers of Node's own. */
export function makeServer(handler: RequestListener, tls: AppOptions['tls']): Server {
  // An import statement would evaluate every export, and with `WebSocket` load all of undici.
  const { createServer } = process.getBuiltinModule('node:http');
  // A request without Host is answered by whoever speaks here.
  const options = { requireHostHeader: false };
  const server: Server =
    tls === undefined
      ? createServer(options, handler)
      : createTlsServer({ ...options, ...tls, minVersion: 'TLSv1.2' }, handler);
  // Uploads may take hours; slow headers may not.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  server.keepAliveTimeout = 75_000;
  server.on('checkExpectation', (request, response) => {
    // RFC 9110 lets a server ignore what it does not know.
    delete request.headers.expect;
    server.emit('request', request, response);
  });
  return server;
}

const idPrefix = randomBytes(6).toString('hex');
let idCount = 0;

/** The caller's own id if it is harmless, else one of ours. */
export function requestIdFrom(request: IncomingMessage | { headers: IncomingMessage['headers'] }): string {
  const given = request.headers['x-request-id'];
  if (typeof given === 'string' && /^[\x21-\x7e]{1,128}$/.test(given)) return given;
  idCount++;
  return `${idPrefix}-${idCount.toString(36)}`;
}

export function logAnswer(
  logger: Logger,
  request: FastifyRequest,
  reply: FastifyReply,
  user: string | undefined,
): void {
  const status = reply.statusCode;
  const level = status >= 500 && status !== 503 && status !== 507 ? 'warn' : 'debug';
  if (!logger.isLevelEnabled(level)) return;
  logger[level](
    {
      requestId: request.id,
      method: request.method,
      path: pathOf(request.url),
      status,
      ms: Math.round(reply.elapsedTime * 10) / 10,
      address: request.ip,
      user,
    },
    'answered',
  );
}

/** Collects the routes as they are added; tells which methods an address takes, or null for an address that is none. */
export function trackMethods(app: FastifyInstance): (path: string) => string[] | null {
  const routes = new Map<string, { pattern: RegExp; methods: Set<string> }>();
  app.addHook('onRoute', ({ url, method }) => {
    const known = routes.get(url) ?? {
      pattern: new RegExp(
        `^${url
          .replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
          .replace(/:[A-Za-z]+/g, '[^/]+')
          .replace(/\\\*$/, '.*')}$`,
      ),
      methods: new Set<string>(),
    };
    routes.set(url, known);
    for (const each of Array.isArray(method) ? method : [method]) known.methods.add(each);
  });
  return (path) => {
    const methods = [...routes.values()]
      .filter(({ pattern }) => pattern.test(path))
      .flatMap((route) => [...route.methods]);
    return methods.length === 0 ? null : [...new Set(methods)].sort();
  };
}
