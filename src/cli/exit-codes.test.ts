import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { exitCodeForProblem, exitCodeForTask, exitCodes } from './exit-codes.ts';

/** Read as text: the CLI knows nothing of the server's modules. */
const catalogue = [
  ...readFileSync(new URL('../core/errors.ts', import.meta.url), 'utf8').matchAll(/^ {2}(\w+): entry\((\d{3}),/gm),
].map(([, code = '', status]) => ({ code, status: Number(status) }));

it('finds the catalogue', () => {
  expect(catalogue.length).toBeGreaterThan(50);
});

it.each(catalogue)('$code fails with the same exit code from a task as at once, or as failed', ({ code, status }) => {
  const fromTask = exitCodeForTask(code);
  if (fromTask !== exitCodes.failed) expect(fromTask).toBe(exitCodeForProblem(status, code));
});

it.each([
  ['invalid_name', 2],
  ['shrink_not_supported', 2],
  ['unauthenticated', 5],
  ['forbidden', 5],
  ['too_many_logins', 5],
  ['not_found', 3],
  ['import_not_found', 3],
  ['name_taken', 4],
  ['drive_has_snapshots', 4],
  ['precondition_failed', 4],
  ['idempotency_conflict', 4],
  ['space_low', 7],
  ['space_exhausted', 7],
  ['image_truncated', 1],
  ['cancelled', 1],
  ['engine_failed', 1],
  ['internal', 1],
  ['shutting_down', 6],
])('%s exits with %i', (code, exitCode) => {
  const status = catalogue.find((entry) => entry.code === code)?.status;
  expect(status).toBeDefined();
  expect(exitCodeForProblem(status ?? 0, code)).toBe(exitCode);
});

it('takes a proxy without a server for an unreachable one', () => {
  expect(exitCodeForProblem(502, '')).toBe(6);
});
