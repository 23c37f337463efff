/** Changes of several objects that all happen or none, in one commit. */
import { CalotypeError } from '../core/errors.ts';

/** Objects in one change, at most: a commit holds up every other one. */
export const maxBatch = 256;

/** @throws invalid_request */
export function checkBatch(objects: readonly unknown[]): void {
  if (objects.length > 0 && objects.length <= maxBatch) return;
  throw new CalotypeError('invalid_request', `Name 1 to ${maxBatch} objects.`, { field: 'objects', max: maxBatch });
}
