/**
 * `npm test`: set-up, static checks, then every test. Arguments go to vitest: `npm test -- src/core -t extents`.
 * The last line is `N passed, N failed, N skipped`; the exit code is not 0 when anything failed, the static checks
 * included, and with CI=true also when anything was skipped.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runInForeground } from './child.mjs';
import { childEnvironment, root, setup } from './setup.mjs';

setup({ forTests: true });

const selection = process.argv.slice(2);
const isCi = /^(1|true)$/i.test(process.env.CI ?? '');
const scratch = mkdtempSync(join(tmpdir(), 'calotype-test-'));
const resultFile = join(scratch, 'result.json');
const env = { ...childEnvironment(), CALOTYPE_TEST_RESULT: resultFile, ...(isCi ? { CALOTYPE_CI: '1' } : {}) };

const stopIfInterrupted = (code) => {
  if (code <= 128) return;
  rmSync(scratch, { recursive: true, force: true });
  process.exit(code);
};

const checkCode = await runInForeground('npm', ['run', '--silent', 'check'], { cwd: root, env });
stopIfInterrupted(checkCode);
const vitestCode = await runInForeground('vitest', ['run', ...selection], { cwd: root, env });
stopIfInterrupted(vitestCode);

const result = existsSync(resultFile)
  ? JSON.parse(readFileSync(resultFile, 'utf8'))
  : { passed: 0, failed: 0, skipped: [] };
rmSync(scratch, { recursive: true, force: true });

let failed = result.failed;
if (vitestCode !== 0 && failed === 0) failed = 1; // it broke outside any test
if (checkCode !== 0) {
  console.log('The static checks (npm run check) failed; they count as one failure.');
  failed += 1;
}
const isWholeRun = selection.length === 0; // a selection by name skips the rest
if (isWholeRun) {
  for (const { name, reason } of result.skipped) console.log(`skipped: ${name}: ${reason}`);
}
const skipsFail = isCi && isWholeRun && result.skipped.length > 0;
if (skipsFail) console.log('CI=true: a skipped test is an error.');

const skipped = result.skipped.length > 0 ? `, ${result.skipped.length} skipped` : '';
console.log(`${result.passed} passed, ${failed} failed${skipped}`);
process.exitCode = failed > 0 || skipsFail ? 1 : 0;
