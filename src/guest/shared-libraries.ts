/**
 * Finds the shared libraries that programs from unpacked packages load. The dynamic loader out of the packages is asked,
 * as it is the one that decides in the guest; libraries of the host never count.
 */
import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { dependenciesOf, unpackPackages } from './debian-packages.ts';

const run = promisify(execFile);
/** From the programs' packages to libraries, to the libraries' libraries, and so on. */
const mostRounds = 8;

/** With and without merged /usr. */
const directoriesIn = (root: string): string[] =>
  ['lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu'].map((directory) => join(root, directory));

export interface SharedLibraries {
  readonly loader: string;
  /** Paths of the files, by the names under which programs ask for them. */
  readonly libraries: ReadonlyMap<string, string>;
}

/** Fetches library packages into `root`, from those that `packages` depend on outwards, until no library is missing. */
export async function fetchLibraries(
  root: string,
  programs: readonly string[],
  packages: readonly string[],
): Promise<SharedLibraries> {
  const fetched = new Set<string>();
  let frontier = packages;
  let missing: readonly string[] = [];
  for (let round = 0; round < mostRounds; round++) {
    const next = (await dependenciesOf(frontier)).filter((name) => /^(lib|zlib)/.test(name) && !fetched.has(name));
    if (next.length === 0) break;
    for (const name of next) fetched.add(name);
    await unpackPackages(next, root);
    const found = await findLibraries(root, programs);
    missing = found.missing;
    if (missing.length === 0) return found;
    frontier = next;
  }
  throw new Error(`The test guest cannot be built: no package has ${missing.join(', ')}.`);
}

async function findLibraries(
  root: string,
  programs: readonly string[],
): Promise<SharedLibraries & { readonly missing: readonly string[] }> {
  const loader = await firstExisting(directoriesIn(root).map((directory) => join(directory, 'ld-linux-x86-64.so.2')));
  const libraries = new Map<string, string>();
  const missing = new Set<string>();
  for (const program of programs) {
    const args = ['--inhibit-cache', '--library-path', directoriesIn(root).join(':'), '--list', program];
    const { stdout } = await run(loader, args);
    for (const [, name = '', path = ''] of stdout.matchAll(/^\s*([^/\s]+) => (not found|\S+)/gm)) {
      // A library of the host, or none: the package is still to be fetched.
      if (path.startsWith(`${root}/`)) libraries.set(name, path);
      else missing.add(name);
    }
  }
  return { loader, libraries, missing: [...missing] };
}

export async function firstExisting(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const exists = await access(path).then(
      () => true,
      () => false,
    );
    if (exists) return path;
  }
  throw new Error(`The test guest cannot be built: there is none of ${paths.join(', ')}.`);
}
