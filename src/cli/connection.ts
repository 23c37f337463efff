/** Finds the server and the token: flags, then the environment, then `access.json` of a data directory. Reads files, nothing else. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { AccessFile } from './api-types.ts';
import { CliError, errorText, usageError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';

export interface ConnectionOptions {
  readonly url?: string;
  readonly token?: string;
  readonly data?: string;
  readonly project?: string;
  readonly cacert?: string;
}

export interface Connection {
  /** Ends in `/v1`, no slash after it. */
  readonly baseUrl: URL;
  readonly token: string;
  readonly project: string | null;
  /** PEM; replaces the system's authorities. */
  readonly ca: string | null;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * A flag beats the environment. A token of an access file is used for the server that the file names, and for another
 * one only when the user gave both `--url` and `--data`: a token does not go to a server it was not made for.
 * @throws CliError with a remedy when something is missing
 */
export function findConnection(options: ConnectionOptions, env: Environment): Connection {
  const project = options.project ?? (env.CALOTYPE_PROJECT || null);
  const ca = readCertificate(options.cacert ?? env.CALOTYPE_CACERT);
  const url = options.url ?? (options.data === undefined ? env.CALOTYPE_URL || undefined : undefined);
  if (url !== undefined) {
    const baseUrl = parseUrl(url);
    const token = options.token ?? (env.CALOTYPE_TOKEN || undefined) ?? tokenFromFile(options, env, baseUrl);
    if (token === undefined) {
      throw new CliError(exitCodes.denied, 'no_token', `There is no token for ${baseUrl.origin}.`, {
        remedy: 'Set CALOTYPE_TOKEN, give --token, or --data for the directory of the server.',
      });
    }
    return { baseUrl, token, project, ca };
  }

  const directory = resolve(options.data ?? (env.CALOTYPE_DATA || './data'));
  const access = readAccess(directory);
  const token = options.token ?? access.token;
  const native = access.endpoints?.native;
  if (native === undefined || token === undefined) {
    throw new CliError(
      exitCodes.failed,
      'access_file_invalid',
      `${join(directory, 'access.json')} names no endpoint or no token.`,
      {
        remedy: 'Restart the server, or give --url and --token.',
      },
    );
  }
  return { baseUrl: parseUrl(native), token, project, ca };
}

function tokenFromFile(options: ConnectionOptions, env: Environment, baseUrl: URL): string | undefined {
  const directory = options.data ?? (env.CALOTYPE_DATA || './data');
  let access: AccessFile;
  try {
    access = readAccess(resolve(directory));
  } catch (error) {
    if (options.data === undefined) return undefined;
    throw error;
  }
  const native = access.endpoints?.native;
  const isItsServer = native !== undefined && URL.canParse(native) && new URL(native).origin === baseUrl.origin;
  return isItsServer || options.data !== undefined ? access.token : undefined;
}

function readAccess(directory: string): AccessFile {
  const file = join(directory, 'access.json');
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new CliError(
        exitCodes.unreachable,
        'no_access_file',
        `There is no ${file}: no server was started there, or the file was removed.`,
        {
          remedy: `Start one (calotype serve --data ${directory}, or npm start), or say where it is: --data DIR, CALOTYPE_DATA, or --url and --token.`,
        },
      );
    }
    if (code === 'EACCES') {
      throw new CliError(exitCodes.denied, 'access_file_unreadable', `${file} may not be read by you.`, {
        remedy: 'Run this as the user who runs the server, or give --url and a token of your own.',
      });
    }
    throw new CliError(exitCodes.failed, 'access_file_invalid', `${file} cannot be read: ${String(error)}`, {
      remedy: 'Restart the server, or give --url and --token.',
    });
  }
}

function readCertificate(file: string | undefined): string | null {
  if (file === undefined || file === '') return null;
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw usageError(`The certificate file ${file} cannot be read: ${errorText(error)}`);
  }
}

function parseUrl(text: string): URL {
  const url = URL.parse(text);
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw usageError(`'${text}' is not an address.`, 'Write it as http://HOST:7400 or https://HOST:7400/v1.');
  }
  url.pathname = `${url.pathname.replace(/\/+$/, '').replace(/\/v1$/, '')}/v1`;
  url.search = '';
  url.hash = '';
  return url;
}
