/** Waits for the task behind a change and reports its end. The task runs in the server: leaving here never stops it. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Change, Drive, Image, Machine, Snapshot, Task } from './api-types.ts';
import type { Context } from './context.ts';
import { CliError, InterruptedError, taskError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';
import { ProgressBar } from './progress.ts';

/** A server that is away for so long, such as for a restart, does not end the waiting: its tasks go on. */
const outageLimitMs = 60_000;
const leastPollMs = 200;

/** Lets short changes answer in one round trip. */
export const preferWait = { prefer: 'wait=1' };

export function isEnded(task: Task): boolean {
  return task.state === 'done' || task.state === 'failed' || task.state === 'cancelled';
}

/** @returns the task at its end, whatever that is */
export async function waitForTask(ctx: Context, first: Task, deadlineMs = Number.POSITIVE_INFINITY): Promise<Task> {
  const bar = new ProgressBar(ctx.io, first.kind, ctx.options.quiet !== true);
  const startedAt = performance.now();
  let task = first;
  let outageSince: number | null = null;
  try {
    while (!isEnded(task)) {
      bar.update({ ...task.progress, ...(task.state === 'running' ? {} : { remark: task.state }) });
      const left = deadlineMs - (performance.now() - startedAt);
      if (left <= 0) break;
      // Long polls; short ones when someone is watching.
      const seconds = Math.min(ctx.io.stderr.isTTY === true ? 1 : 20, Math.max(1, Math.ceil(left / 1000)));
      const askedAt = performance.now();
      try {
        task = await ctx.client.get<Task>(`/tasks/${task.id}`, { wait: seconds });
        outageSince = null;
      } catch (error) {
        if (!(error instanceof CliError) || error.exitCode !== exitCodes.unreachable) throw error;
        outageSince ??= askedAt;
        if (performance.now() - outageSince > outageLimitMs) throw error;
        bar.update({ ...task.progress, remark: 'waiting for the server' });
      }
      const pauseMs = leastPollMs - (performance.now() - askedAt);
      if (!isEnded(task) && pauseMs > 0) await delay(pauseMs, undefined, { signal: ctx.io.interrupted });
    }
  } catch (error) {
    if (ctx.io.interrupted.aborted) {
      throw new InterruptedError(
        `The task goes on. Follow it: calotype task wait ${first.id}\nStop it: calotype task cancel ${first.id}`,
      );
    }
    throw error;
  } finally {
    bar.clear();
  }
  return task;
}

export interface ChangeOptions {
  /** False with `--no-wait`. */
  readonly wait?: boolean;
}

/**
 * Brings a change to its end: waits unless told not to, fails when the task failed, and prints. `describe` gives the
 * sentence for people; it gets the object as it is after the change.
 */
export async function finishChange(
  ctx: Context,
  change: Change,
  options: ChangeOptions,
  describe: (outcome: Change) => string,
): Promise<void> {
  if (options.wait === false) {
    if (ctx.json) await ctx.printJson(change);
    else await ctx.print(`${change.task.id}\n`);
    return;
  }
  const outcome = await endOf(ctx, change);
  if (ctx.json) await ctx.printJson(outcome);
  else await ctx.print(`${describe(outcome)}\n`);
}

/** Waits for the end of a change, and reads its object again if that took a while. @throws CliError when the task failed */
export async function endOf(ctx: Context, change: Change): Promise<Change> {
  const waited = !isEnded(change.task);
  const task = waited ? await waitForTask(ctx, change.task) : change.task;
  if (task.state !== 'done') throw taskError(task.id, task.error, task.state);
  return waited ? withFreshObject(ctx, { ...change, task }) : change;
}

/** The answer held the object as it was before the task ended. A deleted one is left as it was. */
async function withFreshObject(ctx: Context, change: Change): Promise<Change> {
  try {
    if (change.drive !== undefined)
      return { ...change, drive: await ctx.client.get<Drive>(`/drives/${change.drive.id}`) };
    if (change.machine !== undefined)
      return { ...change, machine: await ctx.client.get<Machine>(`/machines/${change.machine.id}`) };
    if (change.image !== undefined)
      return { ...change, image: await ctx.client.get<Image>(`/images/${change.image.id}`) };
    if (change.snapshot !== undefined) {
      return { ...change, snapshot: await ctx.client.get<Snapshot>(`/snapshots/${change.snapshot.id}`) };
    }
  } catch (error) {
    if (!(error instanceof CliError) || error.exitCode !== exitCodes.notFound) throw error;
  }
  return change;
}
