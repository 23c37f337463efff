/**
 * One request, understood: its format, driver, provider and parameters; and who sends it. Whatever a client can get wrong
 * before an operation is reached is found here.
 */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import { readAuthorization, refuseForeignSites } from '../credentials.ts';
import { bodyOf, type DialectContext, rawQueryOf } from '../dialect.ts';
import { missingParameter } from './errors.ts';
import { matrixOf } from './matrix.ts';
import { type Format, negotiate } from './negotiation.ts';
import { mergeParameters, type Parameters, readForm, readUrlencoded } from './parameters.ts';
import { drivers, Links, usualDriver } from './present.ts';
import type { Operation } from './reference.ts';

/** What is known of a request from its head alone. */
export interface Reading {
  /** Null when no format fits. */
  readonly format: Format | null;
  readonly driver: string;
  readonly knowsDriver: boolean;
  readonly provider: string | null;
  readonly query: Parameters;
  /** Null until the body was read. */
  form: Parameters | null;
  /** Of all places together, once the body was read. */
  parameters: Parameters;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Null for what never came as far as this dialect's hooks. */
    deltacloud: Reading | null;
  }
}

/** What may go into a header as it is. */
const headerText = /^[\x21-\x7e]{1,200}$/;

function selected(request: FastifyRequest, key: 'driver' | 'provider'): string | null {
  const header = request.headers[`x-deltacloud-${key}`];
  const asked = matrixOf(request.originalUrl, 'api')?.get(key) ?? (typeof header === 'string' ? header : '');
  const value = asked.trim().toLowerCase();
  return headerText.test(value) ? value : null;
}

/** @throws invalid_request for too many parameters */
export function readHead(request: FastifyRequest): Reading {
  const { accept } = request.headers;
  const query = readUrlencoded(rawQueryOf(request));
  const driver = selected(request, 'driver') ?? usualDriver;
  return {
    format: negotiate(query.get('format'), accept),
    driver,
    knowsDriver: drivers.some(({ id }) => id === driver),
    provider: selected(request, 'provider'),
    query,
    form: null,
    parameters: query,
  };
}

/** Stands for a request whose head could not be read. */
export const unread: Reading = {
  format: 'xml',
  driver: usualDriver,
  knowsDriver: true,
  provider: null,
  query: new Map(),
  form: null,
  parameters: new Map(),
};

export interface Call {
  readonly request: FastifyRequest;
  readonly reading: Reading;
  readonly format: Format;
  readonly links: Links;
  /** In the address; empty where it has none. */
  readonly id: string;
  /** Of the reference, in the address of its page. */
  readonly operation: string;
  readonly parameters: Parameters;
}

export function callOf(request: FastifyRequest, reading: Reading): Call {
  const { format, parameters } = reading;
  const id = inAddress(request, 'id') ?? '';
  const operation = inAddress(request, 'operation') ?? '';
  return { request, reading, format: format ?? 'xml', links: new Links(request.base), id, operation, parameters };
}

export function inAddress({ params }: FastifyRequest, name: 'id' | 'operation'): string | null {
  const found: unknown = typeof params === 'object' && params !== null ? Reflect.get(params, name) : undefined;
  return typeof found === 'string' ? found : null;
}

/** @throws invalid_request for a malformed body */
function formOf(request: FastifyRequest, reading: Reading): Parameters {
  reading.form ??= readForm(bodyOf(request), request.headers['content-type']);
  return reading.form;
}

/** Collections whose links carry parameters in the path. */
const withMatrix = /^\/api\/(instances|images)(?:\/|$|\?)/;

/** Puts the parameters of query, path and body together. @throws invalid_request for a malformed body */
export function readParameters(request: FastifyRequest, reading: Reading): void {
  const form = formOf(request, reading);
  const collection = withMatrix.exec(request.url)?.[1];
  const matrix = collection === undefined ? undefined : matrixOf(request.originalUrl, collection);
  reading.parameters = mergeParameters(matrix ?? new Map(), reading.query, form);
}

/** The method that a form or a header asks for instead of POST; null for what is to stay POST. */
export function overriddenMethod(request: FastifyRequest, reading: Reading): string | null {
  const header = request.headers['x-http-method-override'];
  const wanted = (formOf(request, reading).get('_method') ?? (typeof header === 'string' ? header : ''))
    .trim()
    .toUpperCase();
  return methods.includes(wanted) ? wanted : null;
}

const methods = ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'OPTIONS', 'PATCH'];

/**
 * A browser that remembers a password sends it along with another site's form. Over plain HTTP it does not say that the site is
 * another one, but names it.
 * @throws forbidden
 */
export function refuseForeignForms(request: FastifyRequest): void {
  const { origin, 'sec-fetch-site': site } = request.headers;
  refuseForeignSites(request.method, request.headers);
  if (site !== undefined || origin === undefined || request.method === 'GET' || request.method === 'HEAD') return;
  if (URL.parse(origin)?.host === new URL(request.base).host) return;
  throw new CalotypeError('forbidden', 'Changes from another web site are refused.');
}

/** Basic credentials; other schemes count like none. @throws unauthenticated, too_many_logins */
export async function identify(context: DialectContext, request: FastifyRequest): Promise<Identity> {
  const { authorization } = request.headers;
  if (authorization === undefined || !/^basic /i.test(authorization)) {
    throw new CalotypeError('unauthenticated', 'Credentials are missing: this takes Basic authentication.');
  }
  const credentials = readAuthorization(authorization);
  if (credentials.scheme !== 'basic') throw new CalotypeError('unauthenticated');
  return context.authenticator.basic(credentials.user, credentials.password, request.ip);
}

/**
 * The caller: in the project that the provider names, if it is one of the user's, else in his first.
 * @throws unauthenticated, too_many_logins, forbidden for a user of no project
 */
export async function authenticate(
  context: DialectContext,
  request: FastifyRequest,
  reading: Reading,
): Promise<Caller> {
  const identity = await identify(context, request);
  const { provider } = reading;
  const named =
    provider === null
      ? undefined
      : identity.memberships.find(({ projectName }) => projectName.toLowerCase() === provider)?.projectId;
  const choice = { via: 'deltacloud', ...(named === undefined ? {} : { project: named }) };
  const caller = await context.authenticator.callerFor(identity, choice);
  request.dialectCaller = caller;
  return caller;
}

/** What the original's router puts among the parameters of a member's actions. */
const routerNames = ['splat', 'captures', 'id'];

/** @throws invalid_request, as a text */
export function requireParameters(operation: Operation, { parameters, id }: Pick<Call, 'parameters' | 'id'>): void {
  for (const { name, required } of operation.parameters) {
    if (!required || name === 'id' || parameters.has(name)) continue;
    const own = id === '' ? [] : routerNames;
    throw missingParameter(name, [...[...parameters.keys()].filter((key) => !own.includes(key)), ...own]);
  }
}
