/**
 * Fetches Debian packages and unpacks them into a directory without installing anything. Works without root, as long as
 * apt's lists are there or can be fetched.
 */
import { type ExecFileException, execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const parsable = (): NodeJS.ProcessEnv => ({ ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' });
const aptOptions = [
  ...['-q', '-o', 'APT::Sandbox::User=root', '-o', 'Acquire::Retries=2'],
  ...['-o', 'Acquire::http::Timeout=20', '-o', 'Acquire::https::Timeout=20'],
];

/** Downloads packages and unpacks them into `root`. @throws Error that says what the user can do */
export async function unpackPackages(packages: readonly string[], root: string): Promise<void> {
  await mkdir(root, { recursive: true });
  const download = await mkdtemp(`${root}-download-`);
  try {
    await afterUpdateIfNeeded(() =>
      run('apt-get', [...aptOptions, 'download', ...packages], { cwd: download, env: parsable() }),
    );
    for (const file of await readdir(download)) {
      await run('dpkg-deb', ['-x', join(download, file), root]).catch((cause: unknown) => {
        throw new Error(`The test guest cannot be built: ${file} cannot be unpacked. ${wordsOf(cause)}`, { cause });
      });
    }
  } finally {
    await rm(download, { recursive: true });
  }
}

/** The packages these depend on directly, in the order apt has them; of alternatives, the first. */
export async function dependenciesOf(packages: readonly string[]): Promise<string[]> {
  const { stdout } = await afterUpdateIfNeeded(() => run('apt-cache', ['depends', ...packages], { env: parsable() }));
  const found = new Set<string>();
  let alternative = false;
  for (const line of stdout.split('\n')) {
    const match = /^ *(\|?)(?:Pre)?Depends: ([^<\s]+)/.exec(line);
    if (match === null) continue;
    if (!alternative && match[2] !== undefined) found.add(match[2]);
    alternative = match[1] === '|';
  }
  return [...found];
}

/** Lists that are missing or old make the first attempt fail. */
async function afterUpdateIfNeeded<T>(action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (isMissingProgram(error)) throw cannotFetch('apt-get and apt-cache are not installed here', error);
    await updateLists(error);
    return action().catch((cause: unknown) => {
      throw cannotFetch(wordsOf(cause), cause);
    });
  }
}

async function updateLists(reason: unknown): Promise<void> {
  const isRoot = process.getuid?.() === 0;
  const [program, ...args] = [...(isRoot ? [] : ['sudo', '-n']), 'apt-get', ...aptOptions, 'update'] as const;
  try {
    await run(program, args, { env: parsable() });
  } catch (cause) {
    throw cannotFetch(`${wordsOf(reason)}; and \`apt-get update\` failed: ${wordsOf(cause)}`, cause);
  }
}

function cannotFetch(why: string, cause: unknown): Error {
  const remedy =
    'It is made from Debian packages (amd64). Run `apt-get update` as root and look whether the network and ' +
    'the mirror in /etc/apt can be reached; or take the cache directory ~/.cache/calotype from a machine where it was ' +
    'built, and point CALOTYPE_GUEST_CACHE to it.';
  return new Error(`The test guest cannot be built: ${why}. ${remedy}`, { cause });
}

function isMissingProgram(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

/** The errors that apt itself reports (`E: ...`), or else the last lines. */
function wordsOf(error: unknown): string {
  const stderr = (error as ExecFileException | undefined)?.stderr ?? '';
  const lines = stderr.split('\n').filter((line) => line.trim() !== '');
  const errors = lines.filter((line) => line.startsWith('E:'));
  const words = (errors.length > 0 ? errors : lines).slice(-3).join(' ');
  return words !== '' ? words : String(error);
}
