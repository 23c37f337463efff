/** Starts child processes that carry out one operation and may die in the middle (child.ts), always one ahead. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Order, Report } from './child.ts';
import type { EngineHarness } from './harness.ts';

/** What became of an order: it was done, or its process died at the step asked for. */
export type Outcome = { died: true } | { died: false; steps: string[]; failure: string | null };

export class Victims implements AsyncDisposable {
  readonly #harness: EngineHarness;
  #next: ChildProcess;

  constructor(harness: EngineHarness) {
    this.#harness = harness;
    this.#next = this.#start();
  }

  #start(): ChildProcess {
    return fork(join(import.meta.dirname, 'child.ts'), [this.#harness.module], {
      execArgv: ['--disable-warning=ExperimentalWarning'],
      env: { ...process.env, NODE_COMPILE_CACHE: join(tmpdir(), 'calotype-compile-cache') },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
  }

  async run(order: Order): Promise<Outcome> {
    const child = this.#next;
    this.#next = this.#start();
    let outcome: Outcome = { died: true };
    const gone = once(child, 'exit');
    child.on('message', (report: Report) => {
      if (report.kind === 'ready') child.send(order);
      else outcome = { died: false, steps: report.steps, failure: report.failure };
    });
    await gone;
    return outcome;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.#next, 'exit');
    this.#next.kill('SIGKILL');
    await gone;
  }
}
