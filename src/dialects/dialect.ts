/**
 * What a dialect is to the server: routes on a listener of its own, which are mounted under `/<name>` on the main listener
 * as well, and its words for every failure. The server (src/http/dialect-app.ts) sees to bodies, unknown routes, limits,
 * logs and the end of everything; a dialect parses, calls one use case and presents.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { CalotypeError } from '../core/errors.ts';
import type { Authenticator } from '../service/authenticate.ts';
import type { Caller } from '../service/caller.ts';
import type { Grants } from '../service/grants.ts';
import type { Service } from '../service/interface.ts';
import type { Projects } from '../service/projects.ts';
import type { Sessions } from '../service/sessions.ts';
import type { Users } from '../service/users.ts';

/** In the order of their ports: the first listens on the port after the native API's. */
export const dialectNames = ['manageiq', 'cloudsigma', 'syminet', 'cloudmc', 'deltacloud'] as const;
export type DialectName = (typeof dialectNames)[number];

/** The public side of a class, so that tests can stand in for it. */
type PublicSide<T> = Pick<T, keyof T>;

export interface DialectContext {
  readonly service: Service;
  readonly users: PublicSide<Users>;
  readonly projects: PublicSide<Projects>;
  readonly grants: PublicSide<Grants>;
  readonly sessions: PublicSide<Sessions>;
  readonly authenticator: Pick<Authenticator, 'basic' | 'bearer' | 'identityOf' | 'callerFor'>;
  /** Of this program. */
  readonly version: string;
  /** What CloudMC's paths name the server by. */
  readonly cloudmcServiceCode: string;
  /** Aborted when the server begins to shut down. */
  readonly closing: AbortSignal;
}

/** An answer to what never became a request. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Default `Bad Request`. */
  readonly reason?: string;
}

export interface Dialect {
  readonly name: DialectName;
  /** Where the API begins, below its listener's root and its mount: `/api/2.0`. */
  readonly path: string;
  /**
   * Adds routes, hooks and decorations. Handlers get the body as a Buffer, or undefined without one; HEAD goes with each GET.
   * Handlers throw; `answerError` answers.
   */
  addRoutes(app: FastifyInstance, context: DialectContext): void;
  /** Answers any failure: of a use case, an unknown route (`route_not_found`), a wrong method (`method_not_allowed`, `details.allowed`), a body too large. */
  answerError(error: CalotypeError, request: FastifyRequest, reply: FastifyReply): FastifyReply;
  /** For what is no valid HTTP, and was refused before there was a request. */
  answerParserError(error: CalotypeError): RawAnswer;
  /** Brings an address (path and query) into the form that the routes have: slashes, matrix parameters. */
  rewriteUrl?(url: string): string;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Scheme, host and mount as the client sees them, without a slash at the end: what absolute references begin with. */
    base: string;
    /** Set by the dialect's authentication, for the log. */
    dialectCaller: Caller | null;
  }
}

/** The body; empty without one. */
export function bodyOf(request: FastifyRequest): Buffer {
  return Buffer.isBuffer(request.body) ? request.body : noBody;
}

const noBody = Buffer.alloc(0);

/** The query string as it was sent, without `?`. */
export function rawQueryOf(request: FastifyRequest): string {
  const { url } = request.raw;
  const mark = url?.indexOf('?') ?? -1;
  return mark === -1 ? '' : (url?.slice(mark + 1) ?? '');
}
