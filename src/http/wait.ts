/** `Prefer: wait=SECONDS` (RFC 7240): a change answers when its task has ended, or with the task under way when the time is up. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError } from '../core/errors.ts';
import type { TaskId } from '../core/ids.ts';
import type { Task } from '../core/model.ts';
import { isActiveTask } from '../core/states.ts';
import { callerOf } from './authentication.ts';
import type { AppContext } from './context.ts';
import { errorOfTask } from './problem.ts';

export const maxWaitSeconds = 60;

/** Seconds wished for, at most 60; null without the preference. What cannot be read is ignored, as the RFC says. */
export function preferredWait(header: string | string[] | undefined): number | null {
  if (header === undefined) return null;
  const text = Array.isArray(header) ? header.join(',') : header;
  for (const preference of text.split(',')) {
    const seconds = /^\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:;.*)?$/i.exec(preference)?.[1];
    if (seconds !== undefined) return Math.min(Number(seconds), maxWaitSeconds);
  }
  return null;
}

/** Waits for a task, but never longer than the server lives. */
export async function waitForTask(
  context: AppContext,
  request: FastifyRequest,
  id: TaskId,
  seconds: number,
): Promise<Task> {
  const caller = callerOf(request);
  const { closing, service } = context;
  if (closing.aborted || seconds === 0) return service.tasks.get(caller, id);
  const stop = Promise.withResolvers<null>();
  const onClose = (): void => stop.resolve(null);
  closing.addEventListener('abort', onClose, { once: true });
  try {
    const ended = service.tasks.waitFor(caller, id, seconds * 1000);
    // When closing wins, whatever the wait still comes to is nobody's business.
    ended.catch(() => undefined);
    return (await Promise.race([ended, stop.promise])) ?? (await service.tasks.get(caller, id));
  } finally {
    closing.removeEventListener('abort', onClose);
  }
}

/**
 * The task of a change as it will be answered: waited for when the caller prefers so. Sets status 202, or `doneStatus` once it is
 * done, and `Location` of the object or, while under way, of the task.
 * @throws what the task failed with
 */
export async function settle(
  context: AppContext,
  request: FastifyRequest,
  reply: FastifyReply,
  begun: Task,
  done: { status: 200 | 201; location?: string },
): Promise<Task> {
  let task = begun;
  const seconds = preferredWait(request.headers.prefer);
  if (seconds !== null) {
    reply.header('preference-applied', `wait=${seconds}`);
    if (isActiveTask(task.state)) task = await waitForTask(context, request, task.id, seconds);
  }
  if (task.state === 'failed') {
    throw task.error === null
      ? new CalotypeError('internal', undefined, { taskId: task.id })
      : errorOfTask(task.error, task.id);
  }
  if (task.state === 'cancelled') throw new CalotypeError('cancelled', undefined, { taskId: task.id });
  const isDone = task.state === 'done';
  reply.code(isDone ? done.status : 202);
  if (!isDone) reply.header('location', `/v1/tasks/${task.id}`);
  else if (done.location !== undefined) reply.header('location', done.location);
  return task;
}
