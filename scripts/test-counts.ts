/** Vitest reporter that writes the counts and the reasons for skips to the file scripts/test.mjs names; it prints nothing. */
import { writeFileSync } from 'node:fs';
import type { Reporter } from 'vitest/node';

export const countsReporter: Reporter = {
  onTestRunEnd(modules, unhandledErrors) {
    const file = process.env.CALOTYPE_TEST_RESULT;
    if (file === undefined) return;
    let passed = 0;
    let failed = unhandledErrors.length;
    const skipped: { name: string; reason: string }[] = [];
    for (const module of modules) {
      failed += module.errors().length; // the file could not be loaded
      for (const suite of module.children.allSuites()) failed += suite.errors().length; // a hook failed
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') passed += 1;
        else if (result.state === 'failed') failed += 1;
        else {
          const reason = result.state === 'skipped' ? result.note : 'it did not run';
          skipped.push({ name: `${module.relativeModuleId} > ${test.fullName}`, reason: reason ?? 'no reason given' });
        }
      }
    }
    writeFileSync(file, JSON.stringify({ passed, failed, skipped }));
  },
};
