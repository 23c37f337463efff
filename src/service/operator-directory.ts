/** Files that clients name in a directory of the operator's: nothing they say leads out of it. */
import { lstat, realpath } from 'node:fs/promises';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { CalotypeError, type ErrorCode } from '../core/errors.ts';

export interface OperatorDirectory {
  readonly path: string;
  /** As messages call it, such as `the import directory`. */
  readonly words: string;
  readonly refused: ErrorCode;
  readonly missing: ErrorCode;
}

/** A plain file below the directory, neither it nor a directory on the way a link out of it. @throws `refused`, `missing` */
export async function resolveFile(directory: OperatorDirectory, file: string): Promise<string> {
  const { words } = directory;
  const refused = (why: string): CalotypeError => new CalotypeError(directory.refused, why, { file });
  if (file === '' || file.includes('\0') || isAbsolute(file)) throw refused(`Give a path relative to ${words}.`);
  const root = await realpath(directory.path).catch((cause: unknown) => {
    throw new CalotypeError(directory.missing, `There is no such directory: ${words}.`, { file }, { cause });
  });
  const inside = (path: string): boolean => {
    const way = relative(root, path);
    return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
  };
  const wanted = resolve(root, file);
  if (!inside(wanted)) throw refused(`The path leads out of ${words}.`);
  let real: string;
  try {
    real = await realpath(wanted);
  } catch (cause) {
    throw new CalotypeError(directory.missing, `There is no file '${file}' in ${words}.`, { file }, { cause });
  }
  if (!inside(real)) throw refused(`The path leads out of ${words}.`);
  if (!(await lstat(real)).isFile()) throw refused('This is not a plain file.');
  return real;
}
