/** Every failure in Deltacloud's words: an error document in the format of the request, or one of the texts that are none. */
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';

/** Those that clients tell apart; 412, 422, 429, 503 and 504 they take for success. */
export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 406 | 409 | 500 | 501 | 502 | 504;

export const standardTexts: Readonly<Record<ErrorStatus, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  409: 'Resource Conflict',
  500: 'Internal Server Error',
  501: 'Not Supported',
  502: 'Backend Server Error',
  504: 'Gateway Timeout',
};

/** Names of the original's exceptions, as JSON shows them. */
export const exceptionNames: Readonly<Record<ErrorStatus, string>> = {
  400: 'ValidationFailure',
  401: 'AuthenticationFailure',
  403: 'ForbiddenError',
  404: 'ObjectNotFound',
  405: 'MethodNotAllowed',
  406: 'UnknownMediaTypeError',
  409: 'Conflict',
  500: 'BackendError',
  501: 'NotImplemented',
  502: 'ProviderError',
  504: 'ProviderTimeout',
};

/** Codes whose own status is not the one of this dialect. */
const exceptions: Partial<Record<ErrorCode, ErrorStatus>> = {
  // What an instance's state does not allow, for which the client has a class of its own.
  machine_off: 405,
  machine_running: 405,
  machine_not_ready: 405,
};

/** By the catalogue's status where that is none of Deltacloud's. */
const nearest: Readonly<Record<number, ErrorStatus>> = {
  412: 409,
  413: 400,
  415: 400,
  422: 400,
  429: 401,
  503: 502,
  507: 502,
};

function isErrorStatus(status: number): status is ErrorStatus {
  return Object.hasOwn(standardTexts, status);
}

export function statusOf(code: ErrorCode): ErrorStatus {
  const { status } = errorCatalogue[code];
  const known = exceptions[code] ?? nearest[status];
  if (known !== undefined) return known;
  // Trouble of what does the work, not of this server's own.
  if (status === 500) return code === 'internal' ? 500 : 502;
  return isErrorStatus(status) ? status : 500;
}

/** A failure with a status of its own, or with a text instead of a document. */
export class Refusal extends CalotypeError {
  readonly answer: { readonly status: ErrorStatus; readonly message: string; readonly plain: boolean };

  constructor(code: ErrorCode, answer: { status: ErrorStatus; message?: string; plain?: boolean }) {
    const message = answer.message ?? standardTexts[answer.status];
    super(code, message);
    this.answer = { status: answer.status, message, plain: answer.plain ?? false };
  }
}

export interface ErrorAnswer {
  readonly status: ErrorStatus;
  readonly message: string;
  /** Not a document but this text alone, whatever format was asked for. */
  readonly plain: boolean;
}

/** Ids in the service's words, which are not this dialect's. */
const foreignId = /[\da-f]{8}-[\da-f]{4}-[\da-f]{4}/;

/** What the caller is told. Of what is missing no more than that it is; of the server's own trouble what kind it is. */
export function answerOf(error: CalotypeError): ErrorAnswer {
  if (error instanceof Refusal) return error.answer;
  const { code } = error;
  const status = statusOf(code);
  const standard = code === 'internal' || code === 'not_found' || (status < 500 && foreignId.test(error.message));
  const message = standard ? standardTexts[status] : status >= 500 ? `${errorCatalogue[code].title}.` : error.message;
  return { status, message, plain: false };
}

/** Something that a parameter names, or the address does not reach. */
export function missing(what: string, id: string): Refusal {
  return new Refusal('not_found', { status: 404, message: `There is no ${what} ${id}.` });
}

/** `there`: the names of the parameters that there are. */
export function missingParameter(name: string, there: readonly string[]): Refusal {
  const message = `Required parameter '${name}' not found in [${there.join(',')}]`;
  return new Refusal('invalid_request', { status: 400, message, plain: true });
}

/** What a parameter names and the service does not find, or may not show. Other failures stay as they are. */
export function missingInstead(error: unknown, what: string, id: string): unknown {
  return error instanceof CalotypeError && error.code === 'not_found' ? missing(what, id) : error;
}
