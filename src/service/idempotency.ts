/** A retry with the same key and the same request finds the first attempt; with another request it is refused. */
import type { Tx } from '../catalog/catalog.ts';
import { findKey, insertKey, isUniqueViolation } from '../catalog/idempotency.ts';
import type { Schema } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { TaskId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { CreateOptions } from './interface.ts';

export type FirstAttempt = Schema['idempotency'];

/** Runs `first`, which calls `remember` in its transaction, unless an attempt with this key was made already. */
export async function once<T>(
  context: Context,
  caller: Caller,
  options: CreateOptions | undefined,
  first: () => Promise<T>,
  again: (attempt: FirstAttempt) => Promise<T>,
): Promise<T> {
  const wanted = options?.idempotency;
  if (wanted === undefined) return first();
  const find = async (): Promise<FirstAttempt | undefined> => {
    const found = await findKey(context.catalog.db, caller.userId, wanted.key, nowUs());
    if (found !== undefined && found.request_hash !== wanted.requestHash) {
      throw new CalotypeError('idempotency_conflict', undefined, { key: wanted.key });
    }
    return found;
  };
  const earlier = await find();
  if (earlier !== undefined) return again(earlier);
  try {
    return await first();
  } catch (error) {
    // Another request with this key was faster.
    const winner = isUniqueViolation(error) ? await find() : undefined;
    if (winner === undefined) throw error;
    return again(winner);
  }
}

export async function remember(
  tx: Tx,
  caller: Caller,
  options: CreateOptions | undefined,
  made: { taskId: TaskId; objectKind: string; objectId: string },
): Promise<void> {
  const wanted = options?.idempotency;
  if (wanted === undefined) return;
  await insertKey(tx, { ...wanted, ...made, userId: caller.userId, at: nowUs() });
}
