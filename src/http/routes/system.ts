/** The server itself: what it is, how it is, space, doctor, metrics, its own description. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import type { Finding } from '../../core/model.ts';
import { authenticate, callerOf, isFromLoopback } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { strict } from '../requests.ts';
import { oneOf } from '../schemas.ts';

const findings = Type.Unsafe<readonly Finding[]>({
  type: 'array',
  items: {
    type: 'object',
    required: ['code', 'severity', 'subject', 'explanation', 'repairable'],
    properties: {
      code: { type: 'string' },
      severity: { type: 'string', enum: ['info', 'warning', 'error'] },
      subject: { type: 'string' },
      explanation: { type: 'string' },
      repairable: { type: 'boolean' },
      repaired: { type: 'boolean' },
    },
  },
});

const server = Type.Object({
  name: Type.String(),
  version: Type.String(),
  engine: Type.Object({
    name: Type.String(),
    capabilities: Type.Object({
      atomicGroups: Type.Boolean(),
      revertKeepsNewer: Type.Boolean(),
      liveRevert: Type.Boolean(),
      throttledReclaim: Type.Boolean(),
      changeGrainBytes: Type.Integer(),
    }),
  }),
  tools: Type.Unsafe<Readonly<Record<string, string>>>({ type: 'object', additionalProperties: { type: 'string' } }),
  bootDirectory: Type.Unsafe<string | null>({
    type: ['string', 'null'],
    description: 'where machines find their kernels; null to all but operators',
  }),
  caller: Type.Object({
    userId: Type.String(),
    userName: Type.String(),
    projectId: Type.String(),
    projectName: Type.String(),
    role: oneOf(['operator', 'admin', 'member', 'guest']),
  }),
});

/** Routes of `/v1`, for callers with credentials. */
export function systemRoutes(app: App, context: AppContext): void {
  const { bootDirectory, service, facts } = context;

  app.get(
    '/v1',
    {
      schema: {
        ...describe('getServer', 'system', 'What this server is, and who you are to it'),
        response: { 200: server },
      },
      config: { notes: { errors: [] } },
    },
    async (request) => {
      const { userId, userName, projectId, projectName, role } = callerOf(request);
      return {
        name: 'Calotype',
        ...facts,
        bootDirectory: role === 'operator' ? bootDirectory : null,
        caller: { userId, userName, projectId, projectName, role },
      };
    },
  );

  app.get(
    '/v1/space',
    {
      schema: {
        ...describe('getSpace', 'system', 'Free, total and reserved bytes of the place where drives live'),
        response: {
          200: Type.Object({
            freeBytes: Type.Integer(),
            totalBytes: Type.Integer(),
            reserveBytes: Type.Integer(),
            low: Type.Boolean({ description: 'creates are refused now' }),
          }),
        },
      },
      config: { notes: { errors: ['forbidden'] } },
    },
    (request) => service.space(callerOf(request)),
  );

  app.post(
    '/v1/doctor',
    {
      schema: {
        ...describe('runDoctor', 'system', 'Compare catalog, files and processes both ways (operators)'),
        body: strict({
          repair: Type.Optional(Type.Boolean({ description: 'repair what can be explained; default false' })),
        }),
        response: { 200: Type.Object({ findings, checkedFiles: Type.Integer() }) },
      },
      config: { notes: { errors: ['forbidden', 'engine_unavailable'] } },
    },
    (request) => service.doctor(callerOf(request), { repair: request.body.repair ?? false }),
  );
}

/** Routes that probes and tools use without credentials. */
export function publicRoutes(app: App, context: AppContext): void {
  const { service } = context;

  app.get(
    '/v1/openapi.json',
    {
      schema: { ...describe('getOpenApi', 'system', 'This description') },
      config: { notes: { errors: [], isPublic: true, responseMedia: ['application/json'] } },
    },
    async (_request, reply) => {
      const { openApiText } = await import('../openapi.ts');
      return reply.header('content-type', 'application/json; charset=utf-8').send(await openApiText());
    },
  );

  app.get(
    '/healthz',
    {
      schema: {
        ...describe('getHealth', 'system', 'Whether the server answers'),
        response: { 200: Type.Object({ status: Type.Literal('ok') }) },
      },
      config: { notes: { errors: [], isPublic: true } },
    },
    async () => ({ status: 'ok' as const }),
  );

  const readiness = Type.Object({
    ready: Type.Boolean(),
    reasons: Type.Unsafe<readonly string[]>({
      type: 'array',
      items: { type: 'string' },
      description: 'told to loopback only',
    }),
  });
  app.get(
    '/readyz',
    {
      schema: {
        ...describe('getReadiness', 'system', 'Whether the server can do its work'),
        response: { 200: readiness, 503: readiness },
      },
      config: { notes: { errors: [], isPublic: true } },
    },
    async (request, reply) => {
      const { ready, reasons } = context.closing.aborted
        ? { ready: false, reasons: ['The server is shutting down.'] }
        : await service.readiness();
      reply.code(ready ? 200 : 503);
      return { ready, reasons: isFromLoopback(request) ? reasons : [] };
    },
  );

  app.get(
    '/metrics',
    {
      schema: {
        ...describe(
          'getMetrics',
          'system',
          'Metrics for Prometheus: for loopback and operators, unless configured public',
        ),
      },
      config: { notes: { errors: ['unauthenticated', 'forbidden'], isPublic: true, responseMedia: ['text/plain'] } },
    },
    async (request, reply) => {
      if (!context.metricsPublic && !isFromLoopback(request)) {
        const caller = await authenticate(request, context.authenticator);
        if (caller.role !== 'operator')
          throw new CalotypeError('forbidden', 'Only an operator may read metrics from elsewhere.');
      }
      const { text, contentType } = await context.metrics.collect();
      return reply.header('content-type', contentType).send(text);
    },
  );
}
