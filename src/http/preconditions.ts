/** `ETag`, `If-Match` and `If-None-Match: *`. An object's ETag is its version in quotes. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError } from '../core/errors.ts';
import type { CreateOptions } from '../service/interface.ts';
import { idempotencyOf } from './idempotency.ts';

export function setEtag(reply: FastifyReply, object: { readonly version: number }): void {
  reply.header('etag', `"${object.version}"`);
}

const tagList = /^\s*(?:W\/)?"[\x21\x23-\x7e]*"(?:\s*,\s*(?:W\/)?"[\x21\x23-\x7e]*")*\s*$/;

/**
 * The versions that `If-Match` allows; null when any will do. A weak tag never matches (RFC 9110, 13.1.1).
 * @throws CalotypeError `invalid_request`
 */
function allowedVersions(request: FastifyRequest): readonly number[] | null {
  const header = request.headers['if-match'];
  if (header === undefined || header.trim() === '*') return null;
  if (!tagList.test(header)) {
    throw new CalotypeError('invalid_request', 'If-Match takes an ETag in double quotes, as it was received.', {
      field: 'If-Match',
    });
  }
  const tags = header.split(',').map((tag) => tag.trim());
  return tags.flatMap((tag) => (/^"\d{1,15}"$/.test(tag) ? [Number(tag.slice(1, -1))] : []));
}

/**
 * The version to hand to an update, which compares it in the same transaction. Of several tags, the one the object has now.
 * @throws CalotypeError `precondition_failed`, `invalid_request`
 */
export async function ifVersion(
  request: FastifyRequest,
  get: () => Promise<{ readonly version: number }>,
): Promise<{ ifVersion?: number }> {
  const versions = allowedVersions(request);
  if (versions === null) return {};
  const [only] = versions;
  if (only !== undefined && versions.length === 1) return { ifVersion: only };
  const { version } = await get();
  if (!versions.includes(version)) throw new CalotypeError('precondition_failed', undefined, { version });
  return { ifVersion: version };
}

/** For calls that take no version themselves: compares before they are made. @throws CalotypeError `precondition_failed` */
export async function checkIfMatch(
  request: FastifyRequest,
  get: () => Promise<{ readonly version: number }>,
): Promise<void> {
  const versions = allowedVersions(request);
  if (versions === null) return;
  const { version } = await get();
  if (!versions.includes(version)) throw new CalotypeError('precondition_failed', undefined, { version });
}

/** Options of a create, from its headers. @throws CalotypeError `invalid_request` */
export function createOptions(request: FastifyRequest): CreateOptions {
  const idempotency = idempotencyOf(request);
  const ifNoneMatch = request.headers['if-none-match'];
  if (ifNoneMatch !== undefined && ifNoneMatch.trim() !== '*') {
    throw new CalotypeError('invalid_request', 'On a create, If-None-Match takes only *.', { field: 'If-None-Match' });
  }
  return {
    ...(idempotency === undefined ? {} : { idempotency }),
    ...(ifNoneMatch === undefined ? {} : { refuseExistingName: true }),
  };
}

/** Options of any other change. @throws CalotypeError `invalid_request` */
export function changeOptions(request: FastifyRequest): CreateOptions {
  const idempotency = idempotencyOf(request);
  return idempotency === undefined ? {} : { idempotency };
}
