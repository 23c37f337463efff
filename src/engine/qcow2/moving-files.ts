/**
 * Reading beside merges: files come and go under whoever looks at several of them in turn. What failed for that reason is
 * read again, from the records as they are then. Content never depends on it, since every step keeps what files read as.
 */
import { CalotypeError } from '../../core/errors.ts';

const attempts = 6;

/** Says that what was read does not fit together, because it changed between two looks. */
export class MovedError extends CalotypeError {
  constructor() {
    super('engine_failed', 'Layers changed while they were read.');
  }
}

export async function whileFilesMove<T>(read: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await read();
    } catch (error) {
      if (attempt === attempts || !mayBeForMoving(error)) throw error;
    }
  }
}

/** A file that is gone, or a node or export that QEMU no longer knows. */
function mayBeForMoving(error: unknown): boolean {
  if (error instanceof CalotypeError) return error.code === 'engine_failed';
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
