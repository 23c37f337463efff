/**
 * The one catalogue of errors. Every failure a user can meet has a stable code here, with its HTTP status, whether a
 * retry can help, and whether the world changed. Dialects map from these codes; docs/errors.md and the OpenAPI list are held equal to it.
 */

/** What a failed operation left behind: nothing, everything undone, or a part (details say which). */
export type WorldChange = 'no' | 'rolledBack' | 'partly';

interface ErrorEntry {
  readonly status: number;
  readonly title: string;
  readonly retryable: boolean;
  readonly changed: WorldChange;
}

const entry = (status: number, title: string, retryable = false, changed: WorldChange = 'no'): ErrorEntry => ({
  status,
  title,
  retryable,
  changed,
});

export const errorCatalogue = {
  // What the caller sent
  invalid_request: entry(400, 'The request is not valid'),
  invalid_name: entry(400, 'The name is not valid'),
  invalid_size: entry(400, 'The size is not valid'),
  invalid_meta: entry(400, 'Metadata must map short keys to strings'),
  invalid_tag: entry(400, 'The tag is not valid'),
  invalid_cursor: entry(400, 'The page cursor is not valid'),
  invalid_sort: entry(400, 'The sort field is not known'),
  shrink_not_supported: entry(400, 'A drive cannot shrink'),
  json_too_deep: entry(400, 'The JSON body is nested too deeply'),
  body_too_large: entry(413, 'The request body is too large'),
  unsupported_media_type: entry(415, 'The content type is not supported'),
  // Image files from outside
  image_format_unknown: entry(400, 'The image format is not supported'),
  image_format_mismatch: entry(422, 'The image is not of the format it claims'),
  image_truncated: entry(422, 'The image is truncated or damaged'),
  image_has_backing_file: entry(422, 'The image depends on a backing file'),
  image_has_data_file: entry(422, 'The image keeps its data in another file'),
  image_too_large: entry(413, 'The image is larger than this server accepts'),
  import_path_refused: entry(400, 'The import path is outside the import directory'),
  import_not_found: entry(404, 'There is no such file in the import directory'),
  boot_path_refused: entry(400, 'The path is outside the boot directory'),
  boot_file_not_found: entry(404, 'There is no such file in the boot directory'),
  // Who the caller is
  unauthenticated: entry(401, 'Credentials are missing or wrong'),
  token_expired: entry(401, 'The token has expired'),
  token_revoked: entry(401, 'The token was revoked'),
  too_many_logins: entry(429, 'Too many failed logins', true),
  forbidden: entry(403, 'Your role does not allow this'),
  // What the request names
  not_found: entry(404, 'There is no such object'),
  route_not_found: entry(404, 'There is no such address'),
  method_not_allowed: entry(405, 'This address does not take that method'),
  // State conflicts
  name_taken: entry(412, 'An object of that name exists'),
  precondition_failed: entry(412, 'The object has changed since you read it'),
  idempotency_conflict: entry(422, 'This idempotency key was used with another request'),
  idempotency_in_progress: entry(409, 'The first request with this idempotency key is still running', true),
  drive_busy: entry(409, 'The drive is busy with another task', true),
  drive_exported: entry(409, 'The drive is exported'),
  drive_not_ready: entry(409, 'The drive is not in a state that allows this'),
  snapshot_not_ready: entry(409, 'The snapshot is not in a state that allows this'),
  snapshot_incomplete: entry(409, 'The snapshot no longer covers every drive'),
  snapshot_of_other_drive: entry(409, 'The snapshot belongs to another drive'),
  snapshot_in_use: entry(409, 'The snapshot is in use'),
  image_not_ready: entry(409, 'The image is not in a state that allows this'),
  image_in_use: entry(409, 'The image is in use'),
  drive_has_snapshots: entry(409, 'The drive has snapshots'),
  machine_not_ready: entry(409, 'The machine is not in a state that allows this'),
  machine_off: entry(409, 'The machine is off'),
  console_full: entry(409, 'The guest does not take the input of its console', true),
  machine_running: entry(409, 'The machine is running'),
  machine_has_snapshots: entry(409, 'The machine has snapshots'),
  machine_adopted: entry(409, 'This server does not run the process of this machine'),
  machine_changed: entry(409, 'The adopted machine is not as it was left'),
  adoption_refused: entry(409, 'The machine cannot be adopted as it is'),
  drive_attached: entry(409, 'The drive is attached to a machine'),
  drive_not_attached: entry(409, 'The drive is not attached to this machine'),
  drive_has_clones: entry(409, 'Other drives stand on the drive'),
  drive_too_small: entry(409, 'The drive is too small'),
  slot_taken: entry(409, 'The slot is taken'),
  guest_did_not_stop: entry(409, 'The guest did not stop in time', true),
  agent_unavailable: entry(409, 'The guest agent does not answer', true, 'rolledBack'),
  machine_type_missing: entry(409, 'This QEMU does not know the machine type'),
  memory_not_restorable: entry(409, 'The memory of the snapshot cannot be used here'),
  project_not_empty: entry(409, 'The project still holds objects'),
  last_admin: entry(409, 'This is the last administrator'),
  task_not_cancellable: entry(409, 'The task can no longer be cancelled'),
  task_not_pausable: entry(409, 'The task cannot be paused or resumed now'),
  chain_too_deep: entry(409, 'The drive has too many layers; compaction must catch up first', true),
  cancelled: entry(409, 'The task was cancelled', false, 'rolledBack'),
  // Space
  space_low: entry(507, 'Free space is below the high-water mark', true),
  space_exhausted: entry(507, 'The disk is full', true, 'rolledBack'),
  // The server's own trouble
  engine_failed: entry(500, 'The storage engine failed', true, 'rolledBack'),
  engine_unavailable: entry(503, 'The storage daemon is not running', true),
  machine_failed: entry(500, 'The machine could not be run', true, 'rolledBack'),
  machine_died: entry(500, 'The machine ended unexpectedly', true),
  memory_damaged: entry(500, 'The stored memory is damaged'),
  layer_damaged: entry(500, 'A layer is damaged or missing', false),
  shutting_down: entry(503, 'The server is shutting down', true),
  not_supported: entry(501, 'This engine does not support that'),
  internal: entry(500, 'Internal error', true, 'partly'),
  // Start-up
  qemu_missing: entry(500, 'QEMU is not installed'),
  qemu_too_old: entry(500, 'QEMU is too old'),
  data_in_use: entry(500, 'The data directory is in use by another server'),
  catalog_too_new: entry(500, 'The catalog was written by a newer program'),
  catalog_damaged: entry(500, 'The catalog cannot be read'),
  config_invalid: entry(500, 'The configuration is not valid'),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorCatalogue;

/** Details the caller needs to act: `field`, `blocking` (ids), `taskId`, `remedy`, limits. JSON-safe values only. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/** The only error class that crosses module borders. `message` is a sentence for people. */
export class CalotypeError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  constructor(code: ErrorCode, message?: string, details: ErrorDetails = {}, options?: { cause?: unknown }) {
    super(message ?? `${errorCatalogue[code].title}.`, options);
    this.name = 'CalotypeError';
    this.code = code;
    this.details = details;
  }
  get status(): number {
    return errorCatalogue[this.code].status;
  }
  get retryable(): boolean {
    return errorCatalogue[this.code].retryable;
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorCatalogue, value);
}

export function notFound(kind: string, id: string): CalotypeError {
  return new CalotypeError('not_found', `There is no ${kind} ${id}.`, { kind, id });
}

/** The stored form of an error, as kept with a task. */
export interface StoredError {
  code: ErrorCode;
  message: string;
  details: ErrorDetails;
}

export function toStoredError(error: unknown): StoredError {
  if (error instanceof CalotypeError) return { code: error.code, message: error.message, details: error.details };
  return { code: 'internal', message: error instanceof Error ? error.message : String(error), details: {} };
}
