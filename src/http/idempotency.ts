/** `Idempotency-Key`: turns the header into the key and a hash of the request, by which the service finds a first attempt. */
import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../core/errors.ts';
import type { Idempotency } from '../service/interface.ts';
import { callerOf } from './authentication.ts';
import { pathOf } from './problem.ts';

const keyPattern = /^[\x21-\x7e]{1,255}$/;

/**
 * Undefined without the header. An uploaded body is not part of the hash, its length is.
 * @throws CalotypeError `invalid_request`
 */
export function idempotencyOf(request: FastifyRequest): Idempotency | undefined {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return undefined;
  if (typeof key !== 'string' || !keyPattern.test(key)) {
    throw new CalotypeError('invalid_request', 'Idempotency-Key takes 1 to 255 visible ASCII characters.', {
      field: 'Idempotency-Key',
    });
  }
  const isUpload = request.headers['content-type']?.startsWith('application/octet-stream') === true;
  const parts = [
    request.method,
    pathOf(request.url),
    callerOf(request).projectId,
    canonicalJson(request.query),
    isUpload ? `upload:${request.headers['content-length'] ?? ''}` : canonicalJson(request.body),
  ];
  return { key, requestHash: createHash('sha256').update(parts.join('\n')).digest('hex') };
}

/** JSON with sorted keys: the same value always has the same text. */
export function canonicalJson(value: unknown): string {
  return (
    JSON.stringify(value ?? null, (_key, v: unknown) =>
      typeof v === 'object' && v !== null && !Array.isArray(v)
        ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
        : v,
    ) ?? 'null'
  );
}
