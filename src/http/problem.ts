/**
 * Every failure leaves as an RFC 9457 problem body made from the error catalogue: errors of the service, of validation, of the HTTP
 * framework and of Node's parser. Whatever is not in the catalogue becomes `internal`, which tells the caller nothing but the request id.
 */
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError, type ErrorCode, errorCatalogue, isErrorCode, type StoredError } from '../core/errors.ts';

export const problemType = 'application/problem+json; charset=utf-8';

export interface ProblemBody {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly changed: string;
  readonly requestId: string;
  readonly [detail: string]: unknown;
}

export function problemBody(error: CalotypeError, requestId: string): ProblemBody {
  const { status, title, retryable, changed } = errorCatalogue[error.code];
  return {
    ...error.details,
    type: `urn:calotype:error:${error.code}`,
    title,
    status,
    detail: error.message,
    code: error.code,
    retryable,
    changed,
    requestId,
  };
}

/** The error that a failed or cancelled task left, as its own caller would have met it. */
export function errorOfTask(stored: StoredError, taskId: string): CalotypeError {
  const code = isErrorCode(stored.code) ? stored.code : 'internal';
  return code === 'internal'
    ? new CalotypeError('internal', undefined, { taskId })
    : new CalotypeError(code, stored.message, { ...stored.details, taskId });
}

/** What Fastify throws by itself, in our words. */
const frameworkErrors: Readonly<
  Record<string, { code: ErrorCode; message: string; details?: Record<string, unknown> }>
> = {
  FST_ERR_CTP_INVALID_JSON_BODY: { code: 'invalid_request', message: 'The body is not valid JSON.' },
  FST_ERR_CTP_EMPTY_JSON_BODY: { code: 'invalid_request', message: 'The body is empty.' },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    code: 'invalid_request',
    message: 'The body is not as long as Content-Length says.',
  },
  FST_ERR_CTP_BODY_TOO_LARGE: {
    code: 'body_too_large',
    message: 'A JSON body may have at most 1 MiB.',
    details: { limitBytes: 1024 ** 2 },
  },
  FST_ERR_BAD_URL: { code: 'invalid_request', message: 'The address is not validly encoded.' },
  FST_ERR_MAX_PARAM_LENGTH: { code: 'route_not_found', message: 'There is no such address.' },
};

function textProperty(error: object, key: string): string | undefined {
  const value: unknown = Object.getOwnPropertyDescriptor(error, key)?.value;
  return typeof value === 'string' ? value : undefined;
}

/** Any thrown value as an error of the catalogue. The original stays as `cause`, for the log only. */
export function toCalotypeError(error: unknown): CalotypeError {
  if (error instanceof CalotypeError) return error;
  if (error instanceof Error) {
    const code = textProperty(error, 'code') ?? '';
    const known = frameworkErrors[code];
    if (known !== undefined) return new CalotypeError(known.code, known.message, known.details, { cause: error });
    if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE' || code === 'FST_ERR_CTP_EMPTY_TYPE') {
      return new CalotypeError('unsupported_media_type', 'Send the body as application/json.', {}, { cause: error });
    }
    if (code.startsWith('FST_ERR_CTP_')) return new CalotypeError('invalid_request', undefined, {}, { cause: error });
    if (code === 'ENOSPC' || code === 'EDQUOT' || isSqliteFull(error)) {
      return new CalotypeError(
        'space_exhausted',
        'The disk is full; nothing was changed.',
        { remedy: 'Free space on the data directory; deletes go on working.' },
        { cause: error },
      );
    }
  }
  return new CalotypeError('internal', undefined, {}, { cause: error });
}

function isSqliteFull(error: Error): boolean {
  return 'errcode' in error && error.errcode === 13;
}

const challenges = ['Bearer realm="calotype"', 'Basic realm="calotype", charset="UTF-8"'];

/** Sends any error as a problem body, with the headers that its code calls for. */
export function sendProblem(thrown: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const error = toCalotypeError(thrown);
  const status = error.status;
  if (status === 401) {
    reply.header('www-authenticate', challenges);
  } else if (error.code === 'too_many_logins') {
    const wait = error.details.retryAfterSeconds;
    reply.header('retry-after', typeof wait === 'number' ? String(Math.ceil(wait)) : '1');
  } else if (status === 503) {
    reply.header('retry-after', '2');
  }
  // Where the rest of a large upload would have to be read only to be thrown away, the connection goes instead.
  if (!request.raw.complete && isLargeBody(request)) reply.header('connection', 'close');
  if (error.code === 'internal' || (status >= 500 && error.cause !== undefined)) {
    request.log.error(
      { requestId: request.id, method: request.method, url: pathOf(request.url), err: error.cause ?? error },
      error.message,
    );
  }
  reply.removeHeader('content-length');
  reply.removeHeader('content-disposition');
  reply.removeHeader('etag');
  const body = JSON.stringify(problemBody(error, request.id));
  return reply.code(status).header('content-type', problemType).serializer(asIs).send(body);
}

const asIs = (payload: unknown): string => String(payload);

/** Query strings stay out of logs: people put secrets there. */
export function pathOf(url: string): string {
  const mark = url.indexOf('?');
  return mark === -1 ? url : url.slice(0, mark);
}

function isLargeBody(request: FastifyRequest): boolean {
  const length = request.headers['content-length'];
  return length === undefined ? request.headers['transfer-encoding'] !== undefined : Number(length) > 1024 ** 2;
}

/** What Node's HTTP parser refused before there was a request. */
export function parserErrorOf(error: Error): CalotypeError {
  const code = textProperty(error, 'code') ?? '';
  const message =
    code === 'HPE_HEADER_OVERFLOW'
      ? 'The request headers are too large.'
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? 'The request took too long to arrive.'
        : 'This is not a valid HTTP request.';
  return new CalotypeError('invalid_request', message);
}

/** Sends a whole answer where there is no request, if there is still somebody to send it to. */
export function answerSocket(error: Error, socket: Socket, answer: () => string): void {
  if (textProperty(error, 'code') === 'ECONNRESET' || socket.destroyed || !socket.writable) socket.destroy();
  else socket.end(answer(), () => socket.destroy());
}

export function answerParserError(error: Error, socket: Socket): void {
  answerSocket(error, socket, () => {
    const body = JSON.stringify(problemBody(parserErrorOf(error), 'none'));
    const head = [
      'HTTP/1.1 400 Bad Request',
      `Content-Type: ${problemType}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
    ];
    return `${head.join('\r\n')}\r\n\r\n${body}`;
  });
}
