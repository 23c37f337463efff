/** Events: the audit log as a list, and as a live stream with replay. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import { authenticate, callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { presentEvent } from '../presenters.ts';
import { strict } from '../requests.ts';

export function eventRoutes(app: App, context: AppContext): void {
  const { events } = context.service;

  app.get(
    '/v1/events',
    {
      exposeHeadRoute: false,
      schema: {
        ...describe('listEvents', 'events', 'Follow events as a stream, or list them with Accept: application/json'),
        querystring: strict({
          after: Type.Optional(
            Type.Integer({
              minimum: 0,
              maximum: Number.MAX_SAFE_INTEGER,
              description: 'replay what came after this number',
            }),
          ),
          objectId: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, description: 'for lists; default 100' })),
        }),
      },
      config: { notes: { errors: [], responseMedia: ['text/event-stream', 'application/json'] } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { after, objectId, limit = 100 } = request.query;
      const accept = request.headers.accept ?? '';
      if (accept.includes('application/json') && !accept.includes('text/event-stream')) {
        const items = await events.list(caller, {
          afterSeq: after ?? 0,
          limit,
          ...(objectId === undefined ? {} : { objectId }),
        });
        const last = items.at(-1);
        return { items: items.map(presentEvent), lastSeq: last?.seq ?? after ?? 0 };
      }
      const afterSeq = readLastEventId(request.headers['last-event-id']) ?? after ?? null;
      reply.hijack();
      await context.streams.serve({
        response: reply.raw,
        headers: reply.getHeaders(),
        events,
        caller,
        afterSeq,
        ...(objectId === undefined ? {} : { objectId }),
        recheck: () => authenticate(request, context.authenticator),
        onError: (err) => request.log.error({ requestId: request.id, err }, 'event stream failed'),
      });
      return reply;
    },
  );
}

/** @throws CalotypeError `invalid_request` */
function readLastEventId(header: string | string[] | undefined): number | null {
  if (header === undefined || header === '') return null;
  if (typeof header !== 'string' || !/^\d{1,15}$/.test(header)) {
    throw new CalotypeError('invalid_request', 'Last-Event-ID takes the id of an event.', { field: 'Last-Event-ID' });
  }
  return Number(header);
}
