/**
 * Failures in CloudSigma's words: always a list, of one entry per field that is wrong, with the three keys that clients index.
 * This API knows no 409, 410, 413, 429 and 501: a state that does not fit is 403, a race or a lack of room 503.
 */
import { STATUS_CODES } from 'node:http';
import type { FastifyReply } from 'fastify';
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';

export type ErrorType = 'validation' | 'permission' | 'notexist' | 'backend' | 'database' | 'concurrency';

interface Answer {
  readonly status: number;
  readonly type: ErrorType;
}

const invalid: Answer = { status: 400, type: 'validation' };
const unknown: Answer = { status: 401, type: 'permission' };
const refused: Answer = { status: 403, type: 'permission' };
const missing: Answer = { status: 404, type: 'notexist' };
const busy: Answer = { status: 503, type: 'concurrency' };
const broken: Answer = { status: 500, type: 'backend' };
const damaged: Answer = { status: 500, type: 'database' };

const answers: Readonly<Record<ErrorCode, Answer>> = {
  invalid_request: invalid,
  invalid_name: invalid,
  invalid_size: invalid,
  invalid_meta: invalid,
  invalid_tag: invalid,
  invalid_cursor: invalid,
  invalid_sort: invalid,
  shrink_not_supported: invalid,
  json_too_deep: invalid,
  body_too_large: invalid,
  unsupported_media_type: invalid,
  image_format_unknown: invalid,
  image_format_mismatch: invalid,
  image_truncated: invalid,
  image_has_backing_file: invalid,
  image_has_data_file: invalid,
  image_too_large: invalid,
  import_path_refused: invalid,
  import_not_found: missing,
  boot_path_refused: invalid,
  boot_file_not_found: missing,
  unauthenticated: unknown,
  token_expired: unknown,
  token_revoked: unknown,
  too_many_logins: busy,
  forbidden: refused,
  not_found: missing,
  route_not_found: missing,
  method_not_allowed: { status: 405, type: 'validation' },
  name_taken: invalid,
  precondition_failed: busy,
  idempotency_conflict: invalid,
  idempotency_in_progress: busy,
  drive_busy: busy,
  drive_exported: refused,
  drive_not_ready: refused,
  snapshot_not_ready: refused,
  snapshot_incomplete: refused,
  snapshot_of_other_drive: refused,
  snapshot_in_use: refused,
  image_not_ready: refused,
  image_in_use: refused,
  drive_has_snapshots: refused,
  machine_not_ready: refused,
  machine_off: refused,
  console_full: busy,
  machine_running: refused,
  machine_has_snapshots: refused,
  machine_adopted: refused,
  machine_changed: refused,
  adoption_refused: refused,
  drive_attached: refused,
  drive_not_attached: refused,
  drive_has_clones: refused,
  drive_too_small: refused,
  slot_taken: refused,
  guest_did_not_stop: busy,
  agent_unavailable: busy,
  machine_type_missing: refused,
  memory_not_restorable: refused,
  project_not_empty: refused,
  last_admin: refused,
  task_not_cancellable: refused,
  task_not_pausable: refused,
  chain_too_deep: busy,
  cancelled: refused,
  space_low: busy,
  space_exhausted: busy,
  engine_failed: broken,
  engine_unavailable: busy,
  machine_failed: broken,
  machine_died: broken,
  memory_damaged: broken,
  layer_damaged: broken,
  shutting_down: busy,
  not_supported: refused,
  internal: broken,
  qemu_missing: broken,
  qemu_too_old: broken,
  data_in_use: broken,
  catalog_too_new: damaged,
  catalog_damaged: damaged,
  config_invalid: broken,
};

/** What is wrong with one field; null when it is none's. */
export interface Wrong {
  readonly point: string | null;
  readonly message: string;
}

/** A request that says something it may not, in one or several places. */
export function invalidFields(wrong: readonly Wrong[]): CalotypeError {
  return new CalotypeError('invalid_request', wrong[0]?.message, { wrong });
}

export function invalidField(point: string | null, message: string): CalotypeError {
  return invalidFields([{ point, message }]);
}

export const required = 'This field is required';

/** An `Accept` that cannot be served. */
export function notAcceptable(): CalotypeError {
  return new CalotypeError('invalid_request', 'Only application/json is served.', { notAcceptable: true });
}

/** As upstream words a state that does not fit: `Cannot start guest in state "started". Guest should be in state "stopped"`. */
function stateMessage(verb: string, kind: string, state: string, wanted: string): string {
  const subject = `${kind.charAt(0).toUpperCase()}${kind.slice(1)}`;
  return `Cannot ${verb} ${kind} in state "${state}". ${subject} should be in state "${wanted}"`;
}

export function wrongState(verb: string, kind: string, state: string, wanted: string): CalotypeError {
  return new CalotypeError('forbidden', stateMessage(verb, kind, state, wanted));
}

/** Refusals for the state of an object, in this dialect's words for states. */
const stateKinds: Partial<
  Record<ErrorCode, { kind: string; wanted: string; words: Readonly<Record<string, string>> }>
> = {
  drive_not_ready: { kind: 'drive', wanted: 'unmounted', words: { error: 'unavailable' } },
  snapshot_not_ready: { kind: 'snapshot', wanted: 'available', words: { error: 'unavailable' } },
  image_not_ready: { kind: 'drive', wanted: 'unmounted', words: { error: 'unavailable' } },
  machine_not_ready: { kind: 'guest', wanted: 'stopped', words: { error: 'unavailable' } },
};

/** The names that the service has for fields, in CloudSigma's words. */
const points: ReadonlyMap<string, string> = new Map([
  ['sizeBytes', 'size'],
  ['driveIds', 'drive'],
  ['memoryBytes', 'mem'],
  ['cpus', 'cpu'],
]);

function pointOf({ code, details }: CalotypeError): string | null {
  const { field } = details;
  if (typeof field === 'string') return points.get(field) ?? field;
  return code === 'shrink_not_supported' ? 'size' : code === 'name_taken' ? 'name' : null;
}

function messageOf(error: CalotypeError, status: number): string {
  const { id, state } = error.details;
  if (error.code === 'not_found' && typeof id === 'string') return `Object with uuid ${id} does not exist`;
  if (error.code === 'route_not_found') return 'There is no such resource';
  const kind = stateKinds[error.code];
  if (kind !== undefined && typeof state === 'string')
    return stateMessage('change', kind.kind, kind.words[state] ?? state, kind.wanted);
  // What broke inside is for the log.
  return status >= 500 && status !== 503 ? `${errorCatalogue[error.code].title}.` : error.message;
}

export interface ErrorEntry {
  readonly error_message: string;
  readonly error_point: string | null;
  readonly error_type: ErrorType;
}

export function presentError(error: CalotypeError): { status: number; body: readonly ErrorEntry[] } {
  const { status, type } = answers[error.code];
  const { wrong } = error.details;
  if (error.details.notAcceptable === true) {
    return { status: 406, body: [{ error_message: error.message, error_point: null, error_type: type }] };
  }
  if (isWrong(wrong)) {
    return {
      status,
      body: wrong.map(({ point, message }) => ({ error_message: message, error_point: point, error_type: type })),
    };
  }
  return {
    status,
    body: [{ error_message: messageOf(error, status), error_point: pointOf(error), error_type: type }],
  };
}

function isWrong(value: unknown): value is readonly Wrong[] {
  return Array.isArray(value) && value.length > 0;
}

/** `201 CREATED`: this API's reason phrases are upper case. */
export function reasonOf(status: number): string {
  return (STATUS_CODES[status] ?? 'ERROR').toUpperCase();
}

export const jsonType = 'application/json; charset=utf-8';
const methodOrder = ['GET', 'PUT', 'DELETE', 'POST'];

/** The methods of an address as this API lists them. */
export function methodList(methods: readonly string[]): string {
  return methodOrder.filter((method) => methods.includes(method)).join(',');
}

export function sendError(error: CalotypeError, reply: FastifyReply): FastifyReply {
  const { status, body } = presentError(error);
  if (status === 401)
    reply.header('www-authenticate', ['Basic realm="users", charset="UTF-8"', 'Bearer realm="users"']);
  if (status === 503) {
    const { retryAfterSeconds } = error.details;
    reply.header('retry-after', typeof retryAfterSeconds === 'number' ? String(Math.ceil(retryAfterSeconds)) : '2');
  }
  const { allowed } = error.details;
  if (status === 405 && Array.isArray(allowed)) reply.header('allow', methodList(allowed));
  reply.removeHeader('content-length');
  reply.raw.statusMessage = reasonOf(status);
  return reply.code(status).header('content-type', jsonType).send(JSON.stringify(body));
}
