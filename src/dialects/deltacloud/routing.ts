/**
 * Puts operations on addresses: reads the request, authenticates, checks required parameters, runs, sends. A POST can stand for
 * another method, so that each address takes one and finds out by itself.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Caller } from '../../service/caller.ts';
import type { DialectContext } from '../dialect.ts';
import {
  authenticate,
  type Call,
  callOf,
  inAddress,
  overriddenMethod,
  type Reading,
  readParameters,
  refuseForeignForms,
  requireParameters,
  unread,
} from './calls.ts';
import { type Answer, sendAnswer } from './documents.ts';
import { findCollection, findOperation, type Operation } from './reference.ts';

type Method = 'GET' | 'POST' | 'DELETE';

interface Common {
  /** Other formats are not acceptable. */
  readonly onlyHtml?: true;
  /** Of the reference: its required parameters must be there. */
  readonly operation?: string;
}

export type Handler = Common &
  (
    | { readonly isOpen: true; run(call: Call): Answer | Promise<Answer> }
    | { readonly isOpen?: false; run(call: Call, caller: Caller): Answer | Promise<Answer> }
  );

/** By address, as the framework writes them. */
export type Routes = Readonly<Record<string, Partial<Readonly<Record<Method, Handler>>>>>;

export function addHandlers(app: FastifyInstance, context: DialectContext, routes: Routes): void {
  for (const [url, handlers] of Object.entries(routes)) {
    const collection = findCollection(url.split('/')[2] ?? '');
    const prepared = new Map<string, Prepared>();
    for (const [method, handler] of Object.entries(handlers)) {
      const { operation: name } = handler;
      const operation = name === undefined || collection === undefined ? undefined : findOperation(collection, name);
      prepared.set(method, { handler, operation });
    }
    for (const method of ['GET', 'DELETE'] as const) {
      const found = prepared.get(method);
      if (found === undefined) continue;
      app.route({ url, method, handler: (request, reply) => run(context, found, request, reply) });
    }
    app.route({
      url,
      method: 'POST',
      handler: (request, reply) => {
        const found = prepared.get(overriddenMethod(request, readingOf(request)) ?? 'POST');
        if (found === undefined) throw new CalotypeError('route_not_found');
        return run(context, found, request, reply);
      },
    });
  }
}

interface Prepared {
  readonly handler: Handler;
  readonly operation: Operation | undefined;
}

function readingOf(request: FastifyRequest): Reading {
  return request.deltacloud ?? unread;
}

async function run(
  context: DialectContext,
  { handler, operation }: Prepared,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const reading = readingOf(request);
  const id = inAddress(request, 'id');
  // With nothing behind the last slash it is no member, and a slash is in no id.
  if (id === '' || id?.includes('/')) throw new CalotypeError('route_not_found');
  refuseForeignForms(request);
  let perform: (call: Call) => Answer | Promise<Answer>;
  if (handler.isOpen) perform = handler.run;
  else {
    const caller = await authenticate(context, request, reading);
    perform = (call) => handler.run(call, caller);
  }
  if (handler.onlyHtml && reading.format !== 'html') return reply.code(406).send();
  readParameters(request, reading);
  const call = callOf(request, reading);
  if (operation !== undefined) requireParameters(operation, call);
  return sendAnswer(call, reply, await perform(call));
}
