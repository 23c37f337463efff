/**
 * The second half of every deletion: giving space back, in the background, with progress in bytes. One at a time per
 * drive, so that each deletion's figures are its own; drives are free for other changes meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { aborted } from '../core/aborted.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId } from '../core/ids.ts';
import type { ActiveTask, TaskResult } from './active-task.ts';
import type { Context } from './context.ts';
import { untilSpace } from './space-wait.ts';

const retryAfterMs = [1000, 5000, 30_000];
const keptBecause =
  'Other snapshots or drives are built on this data, or its layer still serves several; it is freed with the last of them.';

export class Reclaimer {
  readonly #context: Pick<Context, 'engine' | 'runner' | 'logger' | 'config'>;
  readonly #last = new Map<DriveId, Promise<void>>();

  constructor(context: Pick<Context, 'engine' | 'runner' | 'logger' | 'config'>) {
    this.#context = context;
  }

  /** Frees what deleted points and drives held. Returns what the task has to tell. */
  async run(context: Context, task: ActiveTask, driveIds: readonly DriveId[]): Promise<TaskResult> {
    let done = (): void => {};
    const mine = new Promise<void>((resolve) => {
      done = resolve;
    });
    const earlier = driveIds.flatMap((id) => this.#last.get(id) ?? []);
    for (const id of driveIds) this.#last.set(id, mine);
    try {
      if (earlier.length > 0) await Promise.race([Promise.all(earlier), aborted(task.signal)]);
      task.throwIfCancelled();
      const { freedBytes, keptBytes } = await untilSpace(context, task, () => this.#attempt(task, driveIds));
      this.#context.config.observer?.bytesReclaimed?.(freedBytes);
      return { freedBytes, keptBytes, keptBecause: keptBytes > 0 ? keptBecause : null };
    } finally {
      // Whoever came after waits for those before too.
      void Promise.all(earlier).then(() => {
        done();
        for (const id of driveIds) if (this.#last.get(id) === mine) this.#last.delete(id);
      });
    }
  }

  async #attempt(task: ActiveTask, driveIds: readonly DriveId[]): Promise<{ freedBytes: number; keptBytes: number }> {
    const { engine, runner, logger } = this.#context;
    for (const waitMs of retryAfterMs) {
      try {
        return await engine.reclaim(driveIds, task);
      } catch (error) {
        const passing = error instanceof CalotypeError && error.retryable && error.code !== 'space_exhausted';
        if (!passing || task.signal.aborted || runner.closing) throw error;
        logger.warn({ err: error, taskId: task.row.id }, 'space could not be given back; trying again');
        await sleep(waitMs, undefined, { signal: task.signal });
      }
    }
    return engine.reclaim(driveIds, task);
  }
}
