/** One request as the nouns see it: who asks, where answers point to, and how they are sent. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Caller } from '../../service/caller.ts';
import type { Service } from '../../service/interface.ts';
import { type DialectContext, rawQueryOf } from '../dialect.ts';
import { jsonType, reasonOf } from './errors.ts';
import { type Parameters, readParameters } from './parse.ts';

export interface Call {
  readonly context: DialectContext;
  readonly service: Service;
  readonly caller: Caller;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** What the paths of resources begin with: empty, or where the API is mounted. */
  readonly mount: string;
  /** The parameter of the path; empty without one. */
  readonly id: string;
}

/** What a noun answers with; without a body it is empty. */
export interface Answer {
  readonly status: number;
  readonly body?: unknown;
  /** The body's text, where it was made before. */
  readonly text?: string;
  /** Path of the object that was made. */
  readonly location?: string;
}

export type Handler = (call: Call) => Promise<Answer>;

export const ok = (body: unknown): Answer => ({ status: 200, body });
export const gone: Answer = { status: 204 };

/** `objects` without `meta`, as POST answers. */
export function made(objects: readonly { readonly resource_uri: unknown }[], status = 201): Answer {
  const uri = objects[0]?.resource_uri;
  return { status, body: { objects }, ...(status === 201 && typeof uri === 'string' ? { location: uri } : {}) };
}

/** The mount, as the client sees it: the path of what references begin with. */
export function mountOf(base: string): string {
  const slash = base.indexOf('/', base.indexOf('//') + 2);
  return slash === -1 ? '' : base.slice(slash);
}

export function parametersOf(call: Call): Parameters {
  return readParameters(rawQueryOf(call.request));
}

export function send({ request, reply, mount }: Call, { status, body, text, location }: Answer): FastifyReply {
  reply.raw.statusMessage = reasonOf(status);
  reply.code(status);
  if (location !== undefined)
    reply.header('location', request.base.slice(0, request.base.length - mount.length) + location);
  if (text !== undefined) return reply.header('content-type', jsonType).send(text);
  if (body === undefined) return reply.header('content-type', 'text/html; charset=utf-8').send();
  return reply.header('content-type', jsonType).send(JSON.stringify(body));
}
