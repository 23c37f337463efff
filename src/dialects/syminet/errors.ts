/** This API's form of every failure: `{"error": "a sentence"}`, one key, and a status that is not 2xx. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';
import type { RawAnswer } from '../dialect.ts';

export const jsonType = 'application/json; charset=utf-8';

/**
 * Statuses: 400 what was sent, 401 who sent it, 403 no right, 404 nothing there, 405 the verb, 409 busy or in a state that
 * forbids it. Where the catalogue says it in a finer way that these scripts do not know, the coarse one is taken; 413, 429,
 * 503 and 507 stay, for proxies and people.
 */
const exceptions: { readonly [C in ErrorCode]?: number } = {
  unsupported_media_type: 400,
  image_format_mismatch: 400,
  image_truncated: 400,
  image_has_backing_file: 400,
  image_has_data_file: 400,
  idempotency_conflict: 400,
  drive_too_small: 400,
  name_taken: 409,
  precondition_failed: 409,
  /** No fault of the server: what is not there yet cannot be had. */
  not_supported: 409,
};

/** In this API's words, where the service speaks of machines and drives. */
const sentences: { readonly [C in ErrorCode]?: string } = {
  forbidden: 'You have no right to do this.',
  drive_busy: 'The slice is busy with another task.',
  drive_not_ready: 'The disk of the slice is not in a state that allows this.',
  drive_attached: 'The volume is attached to a slice already.',
  drive_not_attached: 'The volume is not attached to a slice.',
  drive_exported: 'The volume is exported.',
  machine_not_ready: 'The slice is busy, or not in a state that allows this.',
  machine_adopted: 'This server does not run the slice, and cannot restore or change it.',
  machine_running: 'The slice is running.',
  machine_off: 'The slice is off.',
  machine_type_missing: 'The slice cannot be run here.',
  snapshot_not_ready: 'The snapshot is not finished, or about to go.',
  snapshot_incomplete: 'The snapshot no longer covers every disk of its slice.',
  method_not_allowed: 'This path does not take that verb.',
};

/** For every failure of a code. */
export function statusOf(code: ErrorCode): number {
  const { status } = errorCatalogue[code];
  const exception = exceptions[code];
  if (exception !== undefined) return exception;
  return status >= 500 && status !== 503 && status !== 507 ? 500 : status;
}

/** The sentence: never an id or a path of the server's own, and of its own trouble no more than that there is some. */
export function sentenceOf(error: CalotypeError): string {
  const { code, message, details } = error;
  const status = statusOf(code);
  if (status === 500) return 'Server fault. It was logged; try again later.';
  if (status > 500) return `${errorCatalogue[code].title}.`;
  if (code === 'not_found') return details.noun === undefined ? `${errorCatalogue[code].title}.` : message;
  if (code === 'forbidden' && details.needs === 'rw') return 'You have no read-write right on this.';
  if (code === 'forbidden' && details.needs === undefined) return message;
  return sentences[code] ?? message;
}

export function answerError(error: CalotypeError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const status = statusOf(error.code);
  const { allowed, retryAfterSeconds } = error.details;
  if (status === 401) reply.header('www-authenticate', 'Bearer');
  if (Array.isArray(allowed)) reply.header('allow', allowed.join(', '));
  if (status === 429) reply.header('retry-after', String(Math.ceil(Number(retryAfterSeconds ?? 1))));
  if (status === 503) reply.header('retry-after', '2');
  // The rest of a body that is too large would have to be read only to be thrown away.
  if (error.code === 'body_too_large' && !request.raw.complete) reply.header('connection', 'close');
  return reply
    .code(status)
    .header('content-type', jsonType)
    .header('cache-control', 'no-store')
    .send(JSON.stringify({ error: sentenceOf(error) }));
}

export function answerParserError(error: CalotypeError): RawAnswer {
  return {
    status: statusOf(error.code),
    headers: { 'Content-Type': jsonType },
    body: JSON.stringify({ error: sentenceOf(error) }),
  };
}
