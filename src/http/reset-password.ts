/**
 * `calotype serve --reset-password USER`: the way back in when every secret is lost. Whoever may read the data directory
 * may do it; the server must be stopped, so that it remembers nothing of the old password. Touches the catalog only.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Catalog } from '../catalog/catalog.ts';
import { CalotypeError } from '../core/errors.ts';
import { Authenticator } from '../service/authenticate.ts';
import { localOperator } from '../service/bootstrap.ts';
import { Users } from '../service/users.ts';
import { lockDataDirectory } from './data-lock.ts';

const flag = '--reset-password';

/** Takes the flag out of the command line. @throws `config_invalid` without a user */
export function takeResetFlag(argv: readonly string[]): { user: string | undefined; rest: readonly string[] } {
  const at = argv.findIndex((word) => word === flag || word.startsWith(`${flag}=`));
  if (at === -1) return { user: undefined, rest: argv };
  const isInline = argv[at] !== flag;
  const user = isInline ? argv[at]?.slice(flag.length + 1) : argv[at + 1];
  if (user === undefined || user === '' || (!isInline && user.startsWith('--'))) {
    throw new CalotypeError('config_invalid', `${flag}: a value is missing; it takes a user's name.`, { source: flag });
  }
  return { user, rest: argv.toSpliced(at, isInline ? 1 : 2) };
}

/**
 * Gives a user of a stopped server a new random password, and returns it.
 * @throws `data_in_use`, `config_invalid` when there is no catalog, `not_found` when there is no such user
 */
export async function resetPassword(data: string, user: string): Promise<string> {
  if (!existsSync(join(data, 'catalog.db'))) {
    throw new CalotypeError('config_invalid', `There is no catalog in ${data}; name the directory with --data.`);
  }
  const lock = lockDataDirectory(data);
  try {
    const catalog = await Catalog.open(data);
    try {
      const caller = await localOperator(catalog, 'local');
      if (caller === null) throw new CalotypeError('not_found', 'There is no operator; the first start makes one.');
      const password = randomBytes(18).toString('base64url');
      await new Users(catalog, new Authenticator(catalog)).setPassword(caller, user, password);
      return password;
    } finally {
      await catalog.close();
    }
  } finally {
    lock.release();
  }
}
