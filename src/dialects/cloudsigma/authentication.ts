/**
 * Who is asking: Basic or Bearer credentials, or the cookie of a session together with the token that keeps other sites from
 * using it. Digest is not served: passwords are stored hashed, and it needs them as they are.
 */
import { randomBytes } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import { readAuthorization, refuseForeignSites } from '../credentials.ts';
import type { DialectContext } from '../dialect.ts';

const via = 'cloudsigma';
const sessionCookie = 'sessionid';
const csrfCookie = 'csrftoken';
/** 14 days, and 364. [cloudsigma-docs general.rst] */
const sessionSeconds = 14 * 24 * 3600;
const csrfSeconds = 364 * 24 * 3600;

/** @throws unauthenticated, forbidden without the token of the session, too_many_logins */
export async function authenticate(context: DialectContext, request: FastifyRequest): Promise<Caller> {
  const { authenticator, sessions } = context;
  const { authorization } = request.headers;
  let caller: Caller;
  if (authorization !== undefined) {
    const shown = readAuthorization(authorization);
    if (shown.scheme === 'bearer') return authenticator.callerFor(await authenticator.bearer(shown.token), { via });
    caller = await authenticator.callerFor(await authenticator.basic(shown.user, shown.password, request.ip), { via });
  } else {
    const cookies = cookiesOf(request);
    const session = sessions.use(cookies.get(sessionCookie) ?? '', { renew: false });
    if (session === undefined) throw new CalotypeError('unauthenticated');
    const token = cookies.get(csrfCookie);
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    if (!isRead && (token === undefined || token === '' || request.headers['x-csrftoken'] !== token)) {
      throw new CalotypeError('forbidden', 'CSRF verification failed: X-CSRFToken must be the csrftoken cookie.');
    }
    caller = await authenticator.callerFor(await authenticator.identityOf(session.userId), { via });
  }
  refuseForeignSites(request.method, request.headers);
  return caller;
}

/** Opens a session for a name or e-mail address and a password. @throws unauthenticated, too_many_logins */
export async function openSession(
  { authenticator, sessions }: DialectContext,
  { request, reply }: { request: FastifyRequest; reply: FastifyReply },
  login: { username: string; password: string },
): Promise<Identity> {
  refuseForeignSites(request.method, request.headers);
  const identity = await authenticator.basic(login.username, login.password, request.ip);
  const secret = sessions.open(identity.userId, { ttlMs: sessionSeconds * 1000 });
  const shared = `Path=/; SameSite=Lax${request.base.startsWith('https:') ? '; Secure' : ''}`;
  reply.header('set-cookie', [
    `${sessionCookie}=${secret}; Max-Age=${sessionSeconds}; HttpOnly; ${shared}`,
    `${csrfCookie}=${randomBytes(24).toString('base64url')}; Max-Age=${csrfSeconds}; ${shared}`,
  ]);
  return identity;
}

/** Ends the session of the cookie, if there is one. */
export function closeSession({ sessions }: DialectContext, request: FastifyRequest, reply: FastifyReply): void {
  const secret = cookiesOf(request).get(sessionCookie);
  if (secret === undefined) return;
  sessions.close(secret);
  reply.header('set-cookie', [`${sessionCookie}=; Max-Age=0; HttpOnly; Path=/`, `${csrfCookie}=; Max-Age=0; Path=/`]);
}

function cookiesOf({ headers }: FastifyRequest): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const pair of headers.cookie?.split(';') ?? []) {
    const equals = pair.indexOf('=');
    if (equals !== -1) found.set(pair.slice(0, equals).trim(), pair.slice(equals + 1).trim());
  }
  return found;
}
