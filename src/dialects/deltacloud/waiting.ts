/** Waits for tasks where this dialect answers with what they did: it has no object for work under way. */
import { CalotypeError, isErrorCode } from '../../core/errors.ts';
import type { Task } from '../../core/model.ts';
import { isActiveTask } from '../../core/states.ts';
import type { Caller } from '../../service/caller.ts';
import type { DialectContext } from '../dialect.ts';

/** Clients give up after a minute. */
const deadlineMs = 45_000;

/**
 * The task when it has ended; when the time is up or the server closes, as it is then.
 * @param part of deletions `foreground`: until the object is gone
 * @throws what it failed with
 */
export async function settled(
  context: DialectContext,
  caller: Caller,
  begun: Task,
  part: 'all' | 'foreground' = 'all',
): Promise<Task> {
  const { closing, service } = context;
  const task = isActiveTask(begun.state)
    ? await untilClosing(closing, service.tasks.waitFor(caller, begun.id, deadlineMs, part), begun)
    : begun;
  if (task.error === null || (task.state !== 'failed' && task.state !== 'cancelled')) return task;
  const { code, message, details } = task.error;
  throw isErrorCode(code) && code !== 'internal'
    ? new CalotypeError(code, message, details)
    : new CalotypeError('internal');
}

async function untilClosing(closing: AbortSignal, waiting: Promise<Task>, begun: Task): Promise<Task> {
  if (closing.aborted) return begun;
  const stop = Promise.withResolvers<Task>();
  const onClose = (): void => stop.resolve(begun);
  closing.addEventListener('abort', onClose, { once: true });
  // When closing wins, whatever the wait still comes to is nobody's business.
  waiting.catch(() => undefined);
  try {
    return await Promise.race([waiting, stop.promise]);
  } finally {
    closing.removeEventListener('abort', onClose);
  }
}
