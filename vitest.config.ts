import { defineConfig } from 'vitest/config';
import { countsReporter } from './scripts/test-counts.ts';
import { LongestFirst } from './scripts/test-order.ts';

// Tests run real QEMU: few workers, generous time limits. Each test owns its directory, ports and database.
export default defineConfig({
  test: {
    environment: 'node',
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    globalSetup: ['test/require-qemu.ts'],
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    execArgv: ['--disable-warning=ExperimentalWarning'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // What is waited for comes soon; how soon on a busy machine is not what is tested.
    expect: { poll: { timeout: 20_000 } },
    bail: 0,
    reporters: ['default', countsReporter],
  },
});
