/** What a full disk looks like to programs, in the catalogue's words. Used wherever files or the catalog are written. */
import { CalotypeError } from './errors.ts';

/** SQLITE_FULL, https://www.sqlite.org/rescode.html#full */
const sqliteFull = 13;

/** A full disk or quota, as the system or SQLite tells it, as `space_exhausted`; any other reason as it is. */
export function asSpaceError(error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const isFull =
    error.code === 'ENOSPC' ||
    error.code === 'EDQUOT' ||
    (error.code === 'ERR_SQLITE_ERROR' && 'errcode' in error && error.errcode === sqliteFull);
  return isFull ? new CalotypeError('space_exhausted', undefined, {}, { cause: error }) : error;
}
