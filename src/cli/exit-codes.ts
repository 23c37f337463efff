/** What the exit code of a command says. The table is printed by `calotype --help` and in docs/cli.md. */

export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  denied: 5,
  unreachable: 6,
  space: 7,
  interrupted: 130,
  outputClosed: 141,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export const exitCodeMeanings: readonly (readonly [ExitCode, string])[] = [
  [exitCodes.ok, 'done'],
  [exitCodes.failed, 'failed: the task failed, or the server had an error'],
  [exitCodes.usage, 'usage: the command line or a value in it is not valid'],
  [exitCodes.notFound, 'not found'],
  [exitCodes.conflict, 'conflict: state, precondition, name taken or ambiguous'],
  [exitCodes.denied, 'authentication or rights'],
  [exitCodes.unreachable, 'server unreachable or not found'],
  [exitCodes.space, 'not enough space'],
  [exitCodes.interrupted, 'interrupted'],
  [exitCodes.outputClosed, 'the reader of the output went away'],
];

/** Codes of the server's catalogue (docs/errors.md) whose exit code does not follow from the HTTP status. */
const exceptions: Readonly<Record<string, ExitCode>> = {
  cancelled: exitCodes.failed,
  image_format_mismatch: exitCodes.failed,
  image_truncated: exitCodes.failed,
  image_has_backing_file: exitCodes.failed,
  image_has_data_file: exitCodes.failed,
  image_too_large: exitCodes.failed,
  shutting_down: exitCodes.unreachable,
};

/** Codes that a task may end with: there is no HTTP status beside them. */
const taskCodes: Readonly<Record<string, ExitCode>> = {
  space_low: exitCodes.space,
  space_exhausted: exitCodes.space,
  not_found: exitCodes.notFound,
  drive_busy: exitCodes.conflict,
  drive_exported: exitCodes.conflict,
  drive_not_ready: exitCodes.conflict,
  snapshot_not_ready: exitCodes.conflict,
  snapshot_incomplete: exitCodes.conflict,
  snapshot_of_other_drive: exitCodes.conflict,
  snapshot_in_use: exitCodes.conflict,
  image_not_ready: exitCodes.conflict,
  image_in_use: exitCodes.conflict,
  drive_has_snapshots: exitCodes.conflict,
  drive_attached: exitCodes.conflict,
  drive_not_attached: exitCodes.conflict,
  drive_too_small: exitCodes.conflict,
  slot_taken: exitCodes.conflict,
  machine_not_ready: exitCodes.conflict,
  machine_off: exitCodes.conflict,
  machine_running: exitCodes.conflict,
  machine_has_snapshots: exitCodes.conflict,
  machine_adopted: exitCodes.conflict,
  machine_changed: exitCodes.conflict,
  adoption_refused: exitCodes.conflict,
  drive_has_clones: exitCodes.conflict,
  machine_type_missing: exitCodes.conflict,
  guest_did_not_stop: exitCodes.conflict,
  agent_unavailable: exitCodes.conflict,
  memory_not_restorable: exitCodes.conflict,
  boot_file_not_found: exitCodes.notFound,
  chain_too_deep: exitCodes.conflict,
  forbidden: exitCodes.denied,
};

export function exitCodeForProblem(status: number, code: string): ExitCode {
  const exception = exceptions[code];
  if (exception !== undefined) return exception;
  if (status === 401 || status === 403 || status === 429) return exitCodes.denied;
  if (status === 404) return exitCodes.notFound;
  if (status === 409 || status === 412 || code === 'idempotency_conflict') return exitCodes.conflict;
  if (status === 507) return exitCodes.space;
  if (status === 400 || status === 413 || status === 415 || status === 422) return exitCodes.usage;
  // A reverse proxy without a server behind it answers so, in words of its own.
  if ((status === 502 || status === 503 || status === 504) && code === '') return exitCodes.unreachable;
  return exitCodes.failed;
}

export function exitCodeForTask(code: string): ExitCode {
  return taskCodes[code] ?? exitCodes.failed;
}
