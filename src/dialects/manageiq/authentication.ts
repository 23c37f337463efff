/**
 * Who asks. One mechanism is taken, the first of which there is a sign, and no other if it fails: tokens before Basic. There
 * is never a challenge. (authentication.rb, user_token_service.rb of ManageIQ/manageiq-api; lib/token_manager.rb of
 * ManageIQ/manageiq)
 */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import { readAuthorization, refuseForeignSites } from '../credentials.ts';
import type { DialectContext } from '../dialect.ts';
import { notAuthenticated, refuse } from './errors.ts';
import { timeOf } from './present.ts';

export interface Known {
  readonly identity: Identity;
  readonly caller: Caller;
}

/** @throws unauthenticated, too_many_logins; forbidden for a change that another web site asks for */
export async function authenticate(context: DialectContext, request: FastifyRequest): Promise<Known> {
  const identity = await identify(context, request);
  const group = groupOf(request);
  let caller: Caller;
  try {
    caller = await context.authenticator.callerFor(identity, {
      ...(group === undefined ? {} : { project: group }),
      via: 'manageiq',
    });
  } catch (error) {
    if (!(error instanceof CalotypeError)) throw error;
    if (error.code === 'not_found') throw notAuthenticated(`Invalid Authorization Group ${group} specified`);
    if (error.code !== 'forbidden') throw error;
    throw notAuthenticated(`Invalid User ${identity.userName} specified, User's Role is missing`);
  }
  request.dialectCaller = caller;
  return { identity, caller };
}

function identify(context: DialectContext, request: FastifyRequest): Promise<Identity> {
  const { authorization, 'x-miq-token': system } = request.headers;
  if (system !== undefined) throw notAuthenticated('Invalid System Authentication Token specified');
  const token = tokenOf(request);
  if (token !== undefined) return withToken(context, request, token);
  if (authorization === undefined) throw notAuthenticated();
  return withHeader(context, request, authorization);
}

export function tokenOf(request: FastifyRequest): string | undefined {
  const { 'x-auth-token': token } = request.headers;
  return Array.isArray(token) ? token.join(',') : token;
}

/** A token of the dialect, or one of the native API, which lasts longer. */
async function withToken(context: DialectContext, request: FastifyRequest, token: string): Promise<Identity> {
  if (token.trim() === '') throw notAuthenticated('Empty Authentication Token (HTTP_X_AUTH_TOKEN)');
  const renew = request.headers['x-auth-skip-token-renewal'] !== 'true';
  const session = context.sessions.use(token, { renew });
  return knownBy(`Invalid Authentication Token ${token} specified`, () =>
    session === undefined ? context.authenticator.bearer(token) : context.authenticator.identityOf(session.userId),
  );
}

async function withHeader(context: DialectContext, request: FastifyRequest, header: string): Promise<Identity> {
  const { authenticator } = context;
  const credentials = await knownBy(undefined, async () => readAuthorization(header));
  if (credentials.scheme === 'bearer') {
    return knownBy('Failed to Authenticate with JWT', () => authenticator.bearer(credentials.token));
  }
  refuseForeignSites(request.method, request.headers);
  const { user, password } = credentials;
  return knownBy('The username or password you entered is incorrect.', () =>
    authenticator.basic(user, password, request.ip),
  );
}

/** In the dialect's words, if the credentials are no good. */
async function knownBy<T>(message: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof CalotypeError && error.status === 401) throw notAuthenticated(message);
    throw error;
  }
}

/** A group is a project, and its description the project's name. */
function groupOf(request: FastifyRequest): string | undefined {
  const { 'x-miq-group': header } = request.headers;
  const given = Array.isArray(header) ? header[0] : header;
  if (given === undefined || given.trim() === '') return undefined;
  try {
    return decodeURIComponent(given.replaceAll('+', ' '));
  } catch {
    return given;
  }
}

const secondsOf: Readonly<Record<string, number>> = { api: 600, ui: 3600, ws: 3600 };

/** Tokens for web sockets open nothing here: there are none. @throws invalid_request */
export function issueToken(context: DialectContext, { userId }: Caller, requesterType: string): unknown {
  const type = requesterType === '' ? 'api' : requesterType;
  const seconds = Object.hasOwn(secondsOf, type) ? secondsOf[type] : undefined;
  if (seconds === undefined) {
    throw refuse(`Invalid requester_type ${requesterType} specified, valid types are: api, ui, ws`);
  }
  const ttlMs = seconds * 1000;
  const token = context.sessions.open(userId, { ttlMs, hex: true });
  if (type === 'ws') context.sessions.close(token);
  return {
    auth_token: token,
    token_ttl: seconds,
    expires_on: timeOf((Date.now() + ttlMs) * 1000),
    ...(requesterType === '' ? {} : { requester_type: requesterType }),
  };
}
