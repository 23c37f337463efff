/**
 * The main listener: Fastify with our validation, serialisation, errors and headers, and the routes of API v1. Whatever leaves, leaves in
 * our shape. Makes no decision of its own about drives and snapshots: it calls the service.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyBaseLogger, LogController } from 'fastify';
import type { Logger } from 'pino';
import { CalotypeError } from '../core/errors.ts';
import { authenticate } from './authentication.ts';
import type { App, AppContext, AppOptions } from './context.ts';
import { addJsonParser, maxJsonBytes } from './json-body.ts';
import { logAnswer, makeServer, requestIdFrom, trackMethods } from './listener.ts';
import { answerParserError, pathOf, sendProblem } from './problem.ts';
import { driveRoutes } from './routes/drives.ts';
import { eventRoutes } from './routes/events.ts';
import { exportRoutes } from './routes/exports.ts';
import { grantRoutes } from './routes/grants.ts';
import { imageRoutes } from './routes/images.ts';
import { importRoute } from './routes/imports.ts';
import { machineAdoptionRoutes } from './routes/machine-adoption.ts';
import { machineRoutes } from './routes/machines.ts';
import { projectRoutes } from './routes/projects.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { publicRoutes, systemRoutes } from './routes/system.ts';
import { taskRoutes } from './routes/tasks.ts';
import { tokenRoutes } from './routes/tokens.ts';
import { userRoutes } from './routes/users.ts';
import { sharedSchemas } from './schemas.ts';
import { compileSerializer } from './serialization.ts';
import { EventStreams } from './sse.ts';
import { compileValidator } from './validation.ts';

const recheckMs = 15_000;

export interface BuiltApp {
  readonly app: App;
  /** Begins the end: long waits and streams finish, new requests are refused. Call before `app.close()`. */
  readonly beginClosing: () => void;
}

export interface BuildHooks {
  /** Called before any route is added; the OpenAPI generator comes in here. */
  readonly beforeRoutes?: (app: App) => Promise<void>;
  /** Takes requests to what is mounted on this listener; false for those that are not for it. */
  readonly mount?: (request: IncomingMessage, response: ServerResponse) => boolean;
  readonly streams?: EventStreams;
  readonly recheckMs?: number;
}

export async function buildApp(options: AppOptions, logger: Logger, hooks: BuildHooks = {}): Promise<BuiltApp> {
  const closing = new AbortController();
  const streams = hooks.streams ?? new EventStreams();
  options.metrics.watchStreams(() => streams.size);
  const context: AppContext = {
    ...options,
    closing: closing.signal,
    streams,
    recheckMs: hooks.recheckMs ?? recheckMs,
  };
  const loggerInstance: FastifyBaseLogger = logger;
  const app: App = Fastify({
    loggerInstance,
    // One child logger per request would cost more than the request; lines carry the request id instead.
    childLoggerFactory: () => loggerInstance,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestIdFrom,
    requestIdHeader: false,
    bodyLimit: maxJsonBytes,
    trustProxy: options.trustedProxies.length === 0 ? false : [...options.trustedProxies],
    // Requests that still come in over open connections are answered by us, below.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 2048 },
    clientErrorHandler: answerParserError,
    frameworkErrors: (error, request, reply) => {
      reply.header('x-request-id', request.id);
      sendProblem(error, request, reply);
    },
    serverFactory: (handler) => {
      const { mount } = hooks;
      const dispatch: RequestListener = (request, response) => {
        if (!mount?.(request, response)) handler(request, response);
      };
      return makeServer(mount === undefined ? handler : dispatch, options.tls);
    },
  }).withTypeProvider<TypeBoxTypeProvider>();

  app.setValidatorCompiler(compileValidator);
  app.setSerializerCompiler(compileSerializer);
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));
  app.decorateRequest('knownCaller', null);
  for (const schema of sharedSchemas) app.addSchema(schema);
  addJsonParser(app);

  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id);
    reply.header('x-content-type-options', 'nosniff');
    reply.header('cache-control', 'no-store');
    reply.header('content-security-policy', "default-src 'none'; frame-ancestors 'none'");
    if (options.tls !== undefined) reply.header('strict-transport-security', 'max-age=31536000');
    if (closing.signal.aborted) done(new CalotypeError('shutting_down'));
    else done();
  });
  app.addHook('onResponse', (request, reply, done) => {
    const { method, routeOptions } = request;
    context.metrics.observe(method, routeOptions.url ?? 'unknown', reply.statusCode, reply.elapsedTime / 1000);
    logAnswer(logger, request, reply, request.knownCaller?.userName);
    done();
  });
  const allowed = trackMethods(app);
  app.setNotFoundHandler((request, reply) => {
    const methods = allowed(pathOf(request.url));
    if (methods === null)
      return sendProblem(
        new CalotypeError('route_not_found', `There is no ${pathOf(request.url)} here.`),
        request,
        reply,
      );
    reply.header('allow', methods.join(', '));
    const error = new CalotypeError('method_not_allowed', `${pathOf(request.url)} takes ${methods.join(', ')}.`, {
      allowed: methods,
    });
    return sendProblem(error, request, reply);
  });

  await hooks.beforeRoutes?.(app);
  await app.register(async (scope: App) => publicRoutes(scope, context));
  await app.register(async (scope: App) => {
    scope.addHook('onRequest', async (request) => {
      request.knownCaller = await authenticate(request, options.authenticator);
    });
    systemRoutes(scope, context);
    machineRoutes(scope, context);
    machineAdoptionRoutes(scope, context);
    driveRoutes(scope, context);
    importRoute(scope, context);
    snapshotRoutes(scope, context);
    imageRoutes(scope, context);
    exportRoutes(scope, context);
    taskRoutes(scope, context);
    eventRoutes(scope, context);
    projectRoutes(scope, context);
    userRoutes(scope, context);
    tokenRoutes(scope, context);
    grantRoutes(scope, context);
  });

  const beginClosing = (): void => {
    closing.abort();
    streams.close();
  };
  app.addHook('preClose', async () => beginClosing());
  return { app, beginClosing };
}
