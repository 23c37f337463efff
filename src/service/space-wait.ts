/** Long work that meets a full disk pauses, says so, and goes on when there is space again. */
import { CalotypeError, toStoredError } from '../core/errors.ts';
import type { ActiveTask } from './active-task.ts';
import type { Context } from './context.ts';

const lookEveryMs = 10_000;

/** Runs `work`, again after each `space_exhausted`, until it resolves, fails otherwise, or the task is cancelled. */
export async function untilSpace<T>(
  context: Context,
  task: ActiveTask,
  work: () => Promise<T>,
  everyMs = lookEveryMs,
): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof CalotypeError) || error.code !== 'space_exhausted' || task.signal.aborted) throw error;
      context.runner.setState(task, 'paused', toStoredError(error));
      await spaceOrNudge(context, task, everyMs);
      task.throwIfCancelled();
      context.runner.setState(task, task.row.pause_requested === 1 ? 'paused' : 'running', null);
    }
  }
}

/** Resolves when there is space, the task is resumed or cancelled, or the server closes. */
function spaceOrNudge(context: Context, task: ActiveTask, everyMs: number): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearInterval(timer);
      task.nudge = undefined;
      resolve();
    };
    const timer = setInterval(() => {
      context.engine.space().then(
        (space) => {
          if (!space.low) done();
        },
        (error: unknown) => context.logger.warn({ err: error }, 'free space could not be read'),
      );
    }, everyMs);
    task.nudge = done;
  });
}
