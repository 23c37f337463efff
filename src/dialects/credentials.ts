/** What request headers say of who asks, in the forms that HTTP APIs share. */
import type { IncomingHttpHeaders } from 'node:http';
import { CalotypeError } from '../core/errors.ts';

export type Credentials =
  | { readonly scheme: 'basic'; readonly user: string; readonly password: string }
  | { readonly scheme: 'bearer'; readonly token: string };

/**
 * Reads an `Authorization` header (RFC 7617, RFC 6750); the scheme in any case.
 * @throws unauthenticated when it is malformed or of another scheme
 */
export function readAuthorization(authorization: string): Credentials {
  const space = authorization.indexOf(' ');
  const scheme = authorization.slice(0, space).toLowerCase();
  const credentials = authorization.slice(space + 1).trim();
  if (scheme === 'bearer') return { scheme, token: credentials };
  if (scheme !== 'basic') throw new CalotypeError('unauthenticated', 'Use Bearer or Basic credentials.');
  const text = Buffer.from(credentials, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  if (colon === -1) throw new CalotypeError('unauthenticated', 'The Basic credentials are malformed.');
  return { scheme, user: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** A browser that remembers Basic credentials or a cookie would send them along with another site's form. @throws forbidden */
export function refuseForeignSites(method: string, headers: IncomingHttpHeaders): void {
  const site = headers['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return;
  if (method === 'GET' || method === 'HEAD') return;
  throw new CalotypeError('forbidden', 'Changes from another web site are refused.');
}
