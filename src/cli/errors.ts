/** Failures as the CLI reports them: one class for its own, one for the server's problem bodies; both carry the exit code. */
import type { Problem, StoredError } from './api-types.ts';
import { type ExitCode, exitCodeForProblem, exitCodeForTask, exitCodes } from './exit-codes.ts';

/** `detail` is a sentence for people, `remedy` what to do about it. */
export class CliError extends Error {
  readonly exitCode: ExitCode;
  readonly code: string;
  readonly remedy: string | undefined;
  readonly problem: Problem | undefined;
  constructor(
    exitCode: ExitCode,
    code: string,
    detail: string,
    options: { remedy?: string | undefined; problem?: Problem; cause?: unknown } = {},
  ) {
    super(detail, { cause: options.cause });
    this.name = 'CliError';
    this.exitCode = exitCode;
    this.code = code;
    this.remedy = options.remedy;
    this.problem = options.problem;
  }
}

export const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export function usageError(detail: string, remedy?: string): CliError {
  return new CliError(exitCodes.usage, 'usage', detail, { remedy });
}

/** Ctrl-C and its like. `note` says what goes on without us. */
export class InterruptedError extends Error {
  readonly note: string | undefined;
  constructor(note?: string) {
    super('interrupted');
    this.name = 'InterruptedError';
    this.note = note;
  }
}

/** In the words of this program; for other codes the server's own remedy is said. */
const remedies: Readonly<Record<string, string>> = {
  drive_has_snapshots: 'Say what becomes of them: --snapshots keep, or --snapshots delete.',
  drive_attached: 'Detach it first: calotype machine detach MACHINE DRIVE.',
  image_in_use:
    'See who uses it: calotype drive list --image IMAGE; delete these drives, or make them independent: calotype drive flatten DRIVE.',
  machine_has_snapshots: 'Say what becomes of them: see --snapshots.',
  guest_did_not_stop: 'Pull its plug: calotype machine stop MACHINE --mode power.',
  agent_unavailable: 'Do without it: --quiesce prefer, or --quiesce never.',
  memory_not_restorable: 'Leave the memory out: revert with --without-memory, clone without --memory.',
  drive_exported: 'See who has it open: calotype export list; end that: calotype export close EXPORT.',
  snapshot_incomplete: 'Revert each drive by itself: calotype drive revert DRIVE SNAPSHOT.',
  unauthenticated: 'Give a valid token: --token or CALOTYPE_TOKEN, or --data for the directory of the server.',
  token_expired: 'Have a new one made: calotype token create NAME.',
  token_revoked: 'Have a new one made: calotype token create NAME.',
  precondition_failed: 'Read it again and repeat the change.',
};

/** For where the server has none. */
const lastRemedies: Readonly<Record<string, string>> = {
  drive_busy: 'Wait for the task that holds it: calotype task wait TASK.',
};
const remedyFor = (code: string, said: string | undefined): string | undefined =>
  remedies[code] ?? said ?? lastRemedies[code];

export function problemError(problem: Problem): CliError {
  return new CliError(
    exitCodeForProblem(problem.status, problem.code),
    problem.code,
    problem.detail ?? problem.title ?? `The server answered ${problem.status}.`,
    { remedy: remedyFor(problem.code, problem.remedy), problem },
  );
}

export function taskError(taskId: string, error: StoredError | null, state: string): CliError {
  const code = error?.code ?? state;
  const said = error?.details.remedy;
  const remedy = remedyFor(code, typeof said === 'string' ? said : undefined);
  return new CliError(exitCodeForTask(code), code, error?.message ?? `The task was ${state}.`, {
    remedy,
    problem: {
      ...error?.details,
      type: 'about:blank',
      title: `Task ${state}`,
      status: 0,
      detail: error?.message ?? `The task was ${state}.`,
      code,
      taskId,
    },
  });
}

/** The lines for people, on stderr. */
export function describeError(error: CliError): string {
  const lines = [`error: ${error.message}`];
  const { problem } = error;
  if (problem?.field !== undefined) lines.push(`field: ${problem.field}`);
  const blocking = problem?.blocking;
  if (Array.isArray(blocking) && blocking.length > 0) {
    const names = blocking.map((item) => (typeof item === 'string' ? item : JSON.stringify(item)));
    lines.push(
      `blocking: ${names.slice(0, 10).join(', ')}${names.length > 10 ? `, and ${names.length - 10} more` : ''}`,
    );
  }
  if (problem?.taskId !== undefined) lines.push(`task: ${problem.taskId}`);
  if (problem?.changed === 'partly' || problem?.changed === 'rolledBack') {
    lines.push(`changed: ${problem.changed === 'partly' ? 'partly' : 'no (rolled back)'}`);
  }
  if (error.remedy !== undefined) lines.push(`remedy: ${error.remedy}`);
  lines.push(`code: ${error.code}`);
  return `${lines.join('\n')}\n`;
}

/** The server's problem body unchanged, or one of the same form for a failure of our own. */
export function errorAsJson(error: CliError): Problem {
  if (error.problem !== undefined && error.problem.status !== 0) return error.problem;
  return {
    ...error.problem,
    type: 'about:blank',
    title: error.problem?.title ?? 'The command failed',
    status: 0,
    detail: error.message,
    code: error.code,
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
  };
}
