/** What the routes of the native API work with; put together once in main.ts, faked in unit tests. */

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { ErrorCode } from '../core/errors.ts';
import type { EngineCapabilities } from '../engine/engine.ts';
import type { Authenticator } from '../service/authenticate.ts';
import type { Caller } from '../service/caller.ts';
import type { Grants } from '../service/grants.ts';
import type { Service } from '../service/interface.ts';
import type { Projects } from '../service/projects.ts';
import type { Tokens } from '../service/tokens.ts';
import type { Users } from '../service/users.ts';
import type { Metrics } from './metrics.ts';
import type { EventStreams } from './sse.ts';

/** The public side of a class, so that tests can stand in for it. */
type PublicSide<T> = Pick<T, keyof T>;

export interface Accounts {
  readonly users: PublicSide<Users>;
  readonly projects: PublicSide<Projects>;
  readonly tokens: PublicSide<Tokens>;
  readonly grants: PublicSide<Grants>;
}

export interface ServerFacts {
  readonly version: string;
  readonly engine: { readonly name: string; readonly capabilities: EngineCapabilities };
  /** `qemu-img` and the like, for people. */
  readonly tools: Readonly<Record<string, string>>;
}

export interface AppOptions {
  readonly service: Service;
  readonly accounts: Accounts;
  readonly authenticator: Pick<Authenticator, 'basic' | 'bearer' | 'callerFor'>;
  readonly facts: ServerFacts;
  /** Absolute; told to operators only. */
  readonly bootDirectory: string;
  readonly metrics: Metrics;
  readonly maxImportBytes: number;
  readonly metricsPublic: boolean;
  readonly trustedProxies: readonly string[];
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer };
}

export interface AppContext extends AppOptions {
  /** Aborted when the server begins to shut down: long waits end, streams close. */
  readonly closing: AbortSignal;
  readonly streams: EventStreams;
  /** How often those who follow something are asked whether they still may. */
  readonly recheckMs: number;
}

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** What OpenAPI says about an operation beyond its schemas. The headers are read by idempotency.ts, preconditions.ts and wait.ts. */
export interface OperationNotes {
  /** Codes of its own; those of authentication, bodies and headers are added. */
  readonly errors: readonly ErrorCode[];
  /** No credentials. */
  readonly isPublic?: boolean;
  /** Takes `Idempotency-Key`. */
  readonly idempotent?: boolean;
  /** Takes `If-Match`. */
  readonly versioned?: boolean;
  /** Takes `If-None-Match: *`. */
  readonly refusesExisting?: boolean;
  /** Takes `Prefer: wait=SECONDS`. */
  readonly waits?: boolean;
  /** Not JSON. */
  readonly requestMedia?: string;
  readonly responseMedia?: readonly string[];
}

declare module 'fastify' {
  /** As @fastify/swagger declares them; it is loaded only when the description is asked for. */
  interface FastifySchema {
    operationId?: string;
    tags?: readonly string[];
    summary?: string;
    description?: string;
  }
  interface FastifyContextConfig {
    notes?: OperationNotes;
  }
  interface FastifyRequest {
    /** Set by authentication before any handler of `/v1` runs. */
    knownCaller: Caller | null;
  }
}

/** The `schema` words and the `config` of an operation. */
export function describe<const Id extends string>(operationId: Id, tag: string, summary: string) {
  return { operationId, tags: [tag], summary };
}
