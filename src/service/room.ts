/** Refuses what takes space before anything of it is recorded. The engine looks again when it carries it out. */
import { CalotypeError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';

/** As `engine.space()` says, for a look inside a transaction, after everything else was checked. @throws space_low */
export function assertRoom(space: Awaited<ReturnType<Engine['space']>>): void {
  if (!space.low) return;
  throw new CalotypeError('space_low', `Only ${space.freeBytes} bytes are free; that is below the mark.`, {
    freeBytes: space.freeBytes,
    remedy: 'Delete snapshots or drives, or give the file system more room.',
  });
}
