/**
 * A dialect as an application of its own: its routes with nothing of the framework's own around them, on a listener of
 * its own and mounted on the main one. Bodies come as bytes; every failure is answered in the dialect's words.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { BlockList, isIPv6 } from 'node:net';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import { CalotypeError } from '../core/errors.ts';
import type { Dialect, DialectContext, RawAnswer } from '../dialects/dialect.ts';
import type { AppOptions } from './context.ts';
import { maxJsonBytes } from './json-body.ts';
import { logAnswer, makeServer, requestIdFrom, trackMethods } from './listener.ts';
import { answerSocket, parserErrorOf, pathOf, toCalotypeError } from './problem.ts';

export interface DialectApp {
  readonly dialect: Dialect;
  readonly app: FastifyInstance;
  /** Every route that it has. */
  readonly routes: readonly { readonly method: string; readonly url: string }[];
}

/** Requests that came in over the main listener, and what they are mounted under. */
const mounts = new WeakMap<IncomingMessage, string>();

export async function buildDialectApp(
  dialect: Dialect,
  context: DialectContext,
  options: Pick<AppOptions, 'metrics' | 'trustedProxies' | 'tls'>,
  logger: Logger,
): Promise<DialectApp> {
  const loggerInstance: FastifyBaseLogger = logger;
  const { trustedProxies } = options;
  const fail = (thrown: unknown, request: FastifyRequest): CalotypeError => {
    const error = toCalotypeError(thrown);
    if (error.code === 'internal' || (error.status >= 500 && error.cause !== undefined)) {
      const { id, method } = request;
      const where = { requestId: id, dialect: dialect.name, method, url: pathOf(request.url) };
      logger.error({ ...where, err: error.cause ?? error }, error.message);
    }
    return error;
  };
  const isTrusted = trustOf(trustedProxies);
  const prepare = (request: FastifyRequest, reply: FastifyReply): void => {
    reply.header('x-request-id', request.id);
    reply.header('x-content-type-options', 'nosniff');
    request.base = baseOf(request, isTrusted);
  };
  const app = Fastify({
    loggerInstance,
    childLoggerFactory: () => loggerInstance,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestIdFrom,
    requestIdHeader: false,
    bodyLimit: maxJsonBytes,
    trustProxy: trustedProxies.length === 0 ? false : [...trustedProxies],
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 2048 },
    clientErrorHandler: (error, socket) => {
      answerSocket(error, socket, () => headOf(dialect.answerParserError(parserErrorOf(error))));
    },
    frameworkErrors: (error, request, reply) => {
      // For an address that cannot be decoded no hook is run.
      prepare(request, reply);
      dialect.answerError(fail(error, request), request, reply);
    },
    serverFactory: (handler) => makeServer(handler, options.tls),
    rewriteUrl: (request) => {
      const url = request.url ?? '/';
      return dialect.rewriteUrl?.(url) ?? url;
    },
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.decorateRequest('base', '');
  app.decorateRequest('dialectCaller', null);
  app.setErrorHandler((error, request, reply) => dialect.answerError(fail(error, request), request, reply));
  app.addHook('onRequest', (request, reply, done) => {
    prepare(request, reply);
    // The framework would refuse a type that is none; what a body is, the dialect says.
    const { headers } = request;
    if (headers['content-type'] !== undefined && !isMediaType.test(headers['content-type']))
      delete headers['content-type'];
    if (context.closing.aborted) done(new CalotypeError('shutting_down'));
    else done();
  });
  app.addHook('onResponse', (request, reply, done) => {
    const route = `/${dialect.name}${request.routeOptions.url ?? '/unknown'}`;
    options.metrics.observe(request.method, route, reply.statusCode, reply.elapsedTime / 1000);
    logAnswer(logger, request, reply, request.dialectCaller?.userName);
    done();
  });
  const allowed = trackMethods(app);
  const routes: { method: string; url: string }[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    for (const each of [method].flat()) routes.push({ method: each, url });
  });
  app.setNotFoundHandler((request) => {
    const path = pathOf(request.url);
    const methods = allowed(path);
    if (methods === null) throw new CalotypeError('route_not_found', `There is no ${path} here.`);
    throw new CalotypeError('method_not_allowed', undefined, { allowed: methods });
  });
  dialect.addRoutes(app, context);
  await app.ready();
  return { dialect, app, routes };
}

/** Hands requests below `/<name>` to the dialect of that name. */
export function mountDialects(apps: readonly DialectApp[]) {
  const byName = new Map<string, FastifyInstance>(apps.map(({ dialect, app }) => [dialect.name, app]));
  return (request: IncomingMessage, response: ServerResponse): boolean => {
    const url = request.url ?? '';
    const end = url.slice(1).search(/[/?;]/);
    const name = end === -1 ? url.slice(1) : url.slice(1, end + 1);
    const app = byName.get(name);
    if (app === undefined) return false;
    mounts.set(request, `/${name}`);
    const rest = url.slice(name.length + 1);
    request.url = rest.startsWith('/') ? rest : `/${rest}`;
    app.routing(request, response);
    return true;
  };
}

/** What absolute references begin with. Forwarded headers count where their sender is trusted. */
function baseOf(request: FastifyRequest, isTrusted: (address: string | undefined) => boolean): string {
  const mount = mounts.get(request.raw) ?? '';
  let { host } = request;
  let prefix = '';
  if (isTrusted(request.raw.socket.remoteAddress)) {
    const { 'x-forwarded-prefix': given, 'x-forwarded-port': port } = request.headers;
    if (typeof given === 'string' && isPrefix.test(given)) prefix = given.replace(/\/+$/, '');
    if (typeof port === 'string' && /^\d{1,5}$/.test(port) && !/:\d+$/.test(host) && !isUsualPort(request, port)) {
      host = `${host}:${port}`;
    }
  }
  if (!isHost.test(host)) host = localHostOf(request);
  return `${request.protocol === 'https' ? 'https' : 'http'}://${host}${prefix}${mount}`;
}

const isHost = /^[\w.~-]+(:\d{1,5})?$|^\[[\da-fA-F:.]+\](:\d{1,5})?$/;
const isMediaType = /^[\w!#$&^.+*-]+\/[\w!#$&^.+*-]+\s*(;|$)/;
const isPrefix = /^(\/[\w.~-]+)+\/?$/;

function isUsualPort(request: FastifyRequest, port: string): boolean {
  return port === (request.protocol === 'https' ? '443' : '80');
}

/** For requests that name no host, or none that can be one. */
function localHostOf(request: FastifyRequest): string {
  const { localAddress = '127.0.0.1', localPort = 0 } = request.raw.socket;
  return `${isIPv6(localAddress) ? `[${localAddress}]` : localAddress}:${localPort}`;
}

function trustOf(trustedProxies: readonly string[]): (address: string | undefined) => boolean {
  if (trustedProxies.length === 0) return () => false;
  const list = new BlockList();
  for (const item of trustedProxies) {
    const [address = '', prefix] = item.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (prefix === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(prefix), family);
  }
  return (address) => address !== undefined && list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}

function headOf({ status, headers, body, reason = 'Bad Request' }: RawAnswer): string {
  const head = Object.entries({ ...headers, 'Content-Length': String(Buffer.byteLength(body)), Connection: 'close' });
  return [`HTTP/1.1 ${status} ${reason}`, ...head.map(([name, value]) => `${name}: ${value}`), '', body].join('\r\n');
}
