/** Who is asking: Basic or Bearer credentials and the wished project, from headers to a Caller, before anything of the body is read. */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../core/errors.ts';
import { readAuthorization, refuseForeignSites } from '../dialects/credentials.ts';
import type { Caller } from '../service/caller.ts';
import { hashTokenSecret } from '../service/tokens.ts';
import type { AppOptions } from './context.ts';

/** The native API in other hands is told apart, for the audit log only: the CLI by its agent, the console by a header. */
function frontDoor(headers: FastifyRequest['headers']): string {
  if (headers['user-agent']?.startsWith('calotype-cli/') === true) return 'cli';
  return headers['calotype-client'] === 'console' ? 'console' : 'native';
}

/**
 * @throws CalotypeError `unauthenticated`, `token_expired`, `token_revoked`, `too_many_logins`, `not_found` (project), `forbidden`
 */
export async function authenticate(
  request: FastifyRequest,
  authenticator: AppOptions['authenticator'],
): Promise<Caller> {
  const { headers } = request;
  const authorization = headers.authorization;
  if (authorization === undefined)
    throw new CalotypeError('unauthenticated', 'Credentials are missing: send a token or a user name and password.');
  refuseForeignSites(request.method, headers);
  const credentials = readAuthorization(authorization);
  const choice = {
    ...projectChoice(headers['calotype-project']),
    via: frontDoor(headers),
  };
  const identity =
    credentials.scheme === 'bearer'
      ? await authenticator.bearer(credentials.token, hashOf(request, credentials.token))
      : await authenticator.basic(credentials.user, credentials.password, request.ip);
  return authenticator.callerFor(identity, choice);
}

/** The secret that a connection showed last, and its hash, which costs more than all else of a check that is remembered. */
const lastShown = new WeakMap<object, { secret: string; hash: string }>();

function hashOf({ socket }: FastifyRequest, secret: string): string {
  const last = lastShown.get(socket);
  if (last?.secret === secret) return last.hash;
  const hash = hashTokenSecret(secret);
  lastShown.set(socket, { secret, hash });
  return hash;
}

/** Header values arrive as Latin-1; project names are UTF-8. */
function projectChoice(header: string | string[] | undefined): { project?: string } {
  if (typeof header !== 'string' || header === '') return {};
  return { project: Buffer.from(header, 'latin1').toString('utf8') };
}

/** The caller of an authenticated route. */
export function callerOf(request: FastifyRequest): Caller {
  if (request.knownCaller === null) throw new CalotypeError('unauthenticated');
  return request.knownCaller;
}

/**
 * Whether the request comes from this machine itself. One that a proxy passed on does not, though the proxy may be here:
 * such a request is judged by the address that a trusted proxy names.
 */
export function isFromLoopback(request: FastifyRequest): boolean {
  // Fastify lists the addresses on the way only as far as proxies are trusted.
  const isVouchedFor = (request.ips?.length ?? 0) > 1;
  if (request.headers['x-forwarded-for'] !== undefined && !isVouchedFor) return false;
  if (request.headers.forwarded !== undefined) return false;
  const { ip } = request;
  return ip === '::1' || ip.startsWith('127.') || ip.startsWith('::ffff:127.');
}
