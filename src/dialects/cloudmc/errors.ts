/**
 * Failures in CloudMC's words: an `errors` array, a number and a string for the code, and only the statuses that are
 * published (400, 403, 404, 405, 500). No answer to a failure holds a `taskId`: a client would take it for success.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  CalotypeError,
  type ErrorCode,
  type ErrorDetails,
  errorCatalogue,
  type StoredError,
} from '../../core/errors.ts';
import type { RawAnswer } from '../dialect.ts';
import type { ErrorBody, ErrorsBody } from './schemas.ts';

export const jsonType = 'application/json; charset=utf-8';

/** Published: a resource in the wrong state. The others are ours, and stay as they are. */
const wrongStateCode = 2012;

const codes: Readonly<Record<ErrorCode, number>> = {
  invalid_request: 1001,
  invalid_name: 1002,
  invalid_size: 1003,
  invalid_meta: 1004,
  invalid_tag: 1005,
  invalid_cursor: 1006,
  invalid_sort: 1007,
  shrink_not_supported: 1008,
  json_too_deep: 1009,
  body_too_large: 1010,
  unsupported_media_type: 1011,
  image_format_unknown: 1101,
  image_format_mismatch: 1102,
  image_truncated: 1103,
  image_has_backing_file: 1104,
  image_has_data_file: 1105,
  image_too_large: 1106,
  import_path_refused: 1107,
  import_not_found: 1108,
  boot_path_refused: 1109,
  boot_file_not_found: 1110,
  unauthenticated: 1201,
  token_expired: 1202,
  token_revoked: 1203,
  too_many_logins: 1204,
  forbidden: 1205,
  not_found: 1301,
  route_not_found: 1302,
  method_not_allowed: 1303,
  name_taken: 1401,
  precondition_failed: 1402,
  idempotency_conflict: 1403,
  idempotency_in_progress: 1404,
  drive_busy: 1405,
  drive_exported: 1406,
  drive_not_ready: wrongStateCode,
  snapshot_not_ready: wrongStateCode,
  snapshot_incomplete: 1407,
  snapshot_of_other_drive: 1408,
  snapshot_in_use: 1409,
  image_not_ready: wrongStateCode,
  image_in_use: 1410,
  drive_has_snapshots: 1411,
  machine_not_ready: wrongStateCode,
  machine_off: wrongStateCode,
  console_full: 1412,
  machine_running: wrongStateCode,
  machine_has_snapshots: 1413,
  machine_adopted: 1414,
  machine_changed: 1415,
  adoption_refused: 1416,
  drive_attached: 1417,
  drive_not_attached: 1418,
  drive_has_clones: 1419,
  drive_too_small: 1420,
  slot_taken: 1421,
  guest_did_not_stop: 1422,
  agent_unavailable: 1423,
  machine_type_missing: 1424,
  memory_not_restorable: 1425,
  project_not_empty: 1426,
  last_admin: 1427,
  task_not_cancellable: 1428,
  task_not_pausable: 1429,
  chain_too_deep: 1430,
  cancelled: 1431,
  space_low: 1501,
  space_exhausted: 1502,
  engine_failed: 1601,
  engine_unavailable: 1602,
  machine_failed: 1603,
  machine_died: 1604,
  memory_damaged: 1605,
  layer_damaged: 1606,
  shutting_down: 1607,
  not_supported: 1608,
  internal: 1609,
  qemu_missing: 1701,
  qemu_too_old: 1702,
  data_in_use: 1703,
  catalog_too_new: 1704,
  catalog_damaged: 1705,
  config_invalid: 1706,
};

/** The catalogue's status in the published set. */
function statusOf(code: ErrorCode): number {
  const { status } = errorCatalogue[code];
  // Nothing is wrong with the server when its disk is full or a feature missing: the request asks for too much.
  if (status === 507 || status === 501) return 400;
  if (status >= 500) return 500;
  if (status === 401 || status === 429) return 403;
  return status === 403 || status === 404 || status === 405 ? status : 400;
}

/** What a thing is called here. */
const nouns: Readonly<Record<string, string>> = {
  drive: 'volume',
  'drive snapshot': 'snapshot',
  machine: 'instance',
  image: 'template',
  project: 'environment',
};

/** What a field is called here. A refused body may name any, `__proto__` too. */
const fields: ReadonlyMap<string, string> = new Map([
  ['sizeBytes', 'sizeInGb'],
  ['memoryBytes', 'memoryInMB'],
  ['cpus', 'cpuCount'],
  ['driveIds', 'volumeId'],
]);

type Context = Readonly<Record<string, string | number | boolean | string[]>>;

/** The shape that is published with code 2012. */
export interface WrongState {
  readonly type: 'volumes' | 'snapshots' | 'instances' | 'templates';
  readonly id: string;
  readonly currentState: string;
  readonly expectedStates: readonly string[];
}

const codeOfType = {
  volumes: 'drive_not_ready',
  snapshots: 'snapshot_not_ready',
  instances: 'machine_not_ready',
  templates: 'image_not_ready',
} as const;

/** A refusal before anything is asked of the service, in the words of this dialect. */
export function wrongState(message: string, state: WrongState): CalotypeError {
  return new CalotypeError(codeOfType[state.type], message, { wrongState: state });
}

/** What of the service's own refusals says which object is in which state. */
function stateContext(code: ErrorCode, details: ErrorDetails): Context | undefined {
  const { wrongState: known, state, driveId, machineId, imageId } = details;
  if (isWrongState(known)) return { ...known, expectedStates: [...known.expectedStates] };
  const now = typeof state === 'string' ? stateWords[state] : undefined;
  const instanceNow = typeof state === 'string' ? instanceWords[state] : undefined;
  const words = (
    type: WrongState['type'],
    id: unknown,
    currentState: string,
    ...expectedStates: string[]
  ): Context => ({
    ...(typeof id === 'string' ? { id } : {}),
    type,
    currentState,
    expectedStates,
  });
  switch (code) {
    case 'machine_running':
      return words('instances', machineId, 'Running', 'Stopped');
    case 'machine_off':
      return words('instances', machineId, 'Stopped', 'Running');
    case 'machine_not_ready':
      return words('instances', machineId, instanceNow ?? 'Error', 'Running', 'Stopped');
    case 'drive_not_ready':
      return words('volumes', driveId, now ?? 'Allocated', 'Ready');
    case 'snapshot_not_ready':
      // The service names the whole snapshot, whose id is none of a snapshot here.
      return words('snapshots', undefined, now ?? 'Error', 'BackedUp');
    case 'image_not_ready':
      return words('templates', imageId, now ?? 'Error', 'Ready');
    default:
      return undefined;
  }
}

const stateWords: Readonly<Record<string, string>> = {
  creating: 'Creating',
  deleting: 'Destroying',
  deleted: 'Destroyed',
};

/** As an instance shows them. */
const instanceWords: Readonly<Record<string, string>> = {
  creating: 'Starting',
  deleting: 'Destroyed',
};

function isWrongState(value: unknown): value is WrongState {
  return typeof value === 'object' && value !== null && 'expectedStates' in value;
}

function contextOf(code: ErrorCode, details: ErrorDetails): Context | undefined {
  const found = stateContext(code, details);
  if (found !== undefined) return found;
  const { field, allowed } = details;
  if (typeof field === 'string') return { field: fields.get(field) ?? field };
  if (Array.isArray(allowed)) return { allowed: allowed.map(String) };
  return undefined;
}

function messageOf(code: ErrorCode, message: string, details: ErrorDetails): string {
  // What went wrong inside is for the log.
  if (statusOf(code) === 500) return `${errorCatalogue[code].title}.`;
  const { kind, id } = details;
  if (code === 'not_found' && typeof kind === 'string' && typeof id === 'string') {
    return `There is no ${nouns[kind] ?? kind} ${id}.`;
  }
  return message;
}

export function presentError({
  code,
  message,
  details,
}: Pick<StoredError, 'code' | 'message' | 'details'>): ErrorsBody {
  const context = contextOf(code, details);
  const error: ErrorBody = {
    code: codes[code],
    errorCode: String(codes[code]),
    message: messageOf(code, message, details),
    ...(context === undefined ? {} : { context }),
  };
  return { errors: [error] };
}

export function answerError(error: CalotypeError, _request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { allowed, retryAfterSeconds } = error.details;
  if (Array.isArray(allowed)) reply.header('allow', allowed.join(', '));
  if (typeof retryAfterSeconds === 'number') reply.header('retry-after', String(Math.ceil(retryAfterSeconds)));
  return reply
    .code(statusOf(error.code))
    .header('content-type', jsonType)
    .send(JSON.stringify(presentError(error)));
}

export function answerParserError(error: CalotypeError): RawAnswer {
  return {
    status: statusOf(error.code),
    headers: { 'Content-Type': jsonType },
    body: JSON.stringify(presentError(error)),
  };
}
