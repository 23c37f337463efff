/**
 * What failures look like here: a body of `error` with kind, message and the class that the real service would name, which
 * clients match on; for addresses that are none a body of another shape. Answers to actions that failed are no errors in
 * this sense (see present.ts).
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';
import type { RawAnswer } from '../dialect.ts';

interface Face {
  readonly status: number;
  readonly kind: string;
  readonly klass: string;
}

const badRequest: Face = { status: 400, kind: 'bad_request', klass: 'Api::BadRequestError' };
const unauthorized: Face = {
  status: 401,
  kind: 'unauthorized',
  klass: 'Api::BaseController::Authentication::AuthenticationError',
};
const unavailable: Face = { status: 503, kind: 'service_unavailable', klass: 'RuntimeError' };
const serverError: Face = { status: 500, kind: 'internal_server_error', klass: 'RuntimeError' };

/** By the catalogue's status. */
const faces: Readonly<Record<number, Face>> = {
  400: badRequest,
  401: unauthorized,
  403: { status: 403, kind: 'forbidden', klass: 'Api::ForbiddenError' },
  404: { status: 404, kind: 'not_found', klass: 'ActiveRecord::RecordNotFound' },
  409: badRequest,
  412: badRequest,
  413: { status: 413, kind: 'payload_too_large', klass: 'Api::BadRequestError' },
  415: { status: 415, kind: 'unsupported_media_type', klass: 'Api::UnsupportedMediaTypeError' },
  422: badRequest,
  429: { ...unauthorized, status: 429, kind: 'too_many_requests' },
  500: serverError,
  501: { ...serverError, status: 501, kind: 'not_implemented' },
  503: unavailable,
  507: { ...unavailable, status: 507, kind: 'insufficient_storage' },
};

export function faceOf(code: ErrorCode): Face {
  return faces[errorCatalogue[code].status] ?? serverError;
}

/** The real service never gets to see these. */
const unroutable: readonly ErrorCode[] = ['route_not_found', 'method_not_allowed'];
const unroutableBody = JSON.stringify({ status: 404, error: 'Not Found' });

export const jsonType = 'application/json; charset=utf-8';

export const corsHeaders: Readonly<Record<string, string>> = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': 'origin, content-type, authorization, x-auth-token',
  'access-control-allow-methods': 'GET, POST, PUT, DELETE, PATCH, OPTIONS',
};

/** `details.klass` outranks the class of the code. */
function bodyOf(error: CalotypeError): string {
  const { kind, klass } = faceOf(error.code);
  const { klass: own } = error.details;
  // What went wrong inside is for the log.
  const message = error.status === 500 ? 'Internal server error' : error.message;
  return JSON.stringify({ error: { kind, message, klass: typeof own === 'string' ? own : klass } });
}

export function answerError(error: CalotypeError, _request: FastifyRequest, reply: FastifyReply): FastifyReply {
  reply.headers(corsHeaders).type(jsonType);
  if (unroutable.includes(error.code)) return reply.code(404).send(unroutableBody);
  const { retryAfterSeconds } = error.details;
  if (typeof retryAfterSeconds === 'number') reply.header('retry-after', String(Math.ceil(retryAfterSeconds)));
  return reply.code(faceOf(error.code).status).send(bodyOf(error));
}

export function answerParserError(error: CalotypeError): RawAnswer {
  return {
    status: faceOf(error.code).status,
    headers: { ...corsHeaders, 'content-type': jsonType },
    body: bodyOf(error),
  };
}

export function refuse(message: string, klass = badRequest.klass): CalotypeError {
  return new CalotypeError('invalid_request', message, { klass });
}

/** `id` as the client wrote it. */
export function recordNotFound(klass: string, id: number | string): CalotypeError {
  return new CalotypeError('not_found', `Couldn't find ${klass} with 'id'=${id}`);
}

/** Without a message the class stands for it, as in Ruby. */
export function notAuthenticated(message: string = unauthorized.klass): CalotypeError {
  return new CalotypeError('unauthenticated', message);
}

/**
 * Whether a failure is one of what was asked for, which an action's answer tells, and not of the request or the server.
 */
export function isRefusal(error: CalotypeError): boolean {
  return ![401, 403, 404, 413, 429, 500, 503].includes(error.status);
}
