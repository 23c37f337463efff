/**
 * Lists by any condition, in any order: found as numbers, counted exactly; the rows are read after. Of most kinds there are
 * thousands, and the database finds its own way. Of snapshots and their parts there are millions, and whoever sees those of
 * a whole project is answered along its indexes.
 */
import type { Db } from './catalog.ts';
import { findDrives } from './query-drives.ts';
import { findParts } from './query-parts.ts';
import { type Found, findPlainly, type ListQuery, type Window } from './query-rows.ts';
import { findSnapshots } from './query-snapshots.ts';
import { findTasks } from './query-tasks.ts';

/** Without a window only the total is wanted. */
export async function findMatches(db: Db, query: ListQuery, window: Window | null, withTotal: boolean): Promise<Found> {
  const { kind, projectId } = query;
  if (projectId !== null && kind === 'snapshot')
    return findSnapshots(db, { ...query, kind, projectId }, window, withTotal);
  if (projectId !== null && kind === 'part') return findParts(db, { ...query, kind, projectId }, window, withTotal);
  if (projectId !== null && kind === 'task') return findTasks(db, { ...query, projectId }, window, withTotal);
  if (kind === 'drive') return findDrives(db, query, window, withTotal);
  return findPlainly(db, query, window, withTotal);
}
