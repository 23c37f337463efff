/**
 * Finds the kernel modules that the guest needs in an unpacked kernel package, with what they depend on, in the order of
 * loading. `depmod` runs only when a package is installed, so that the modules themselves are asked.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const mostModuleBytes = 64 * 1024 * 1024;

export interface KernelModule {
  readonly name: string;
  /** Not compressed. */
  readonly content: Buffer;
}

/**
 * `directory` is `lib/modules/<version>`. A name that is built in, or is optional and not there, is left out.
 * @param busybox decompresses
 * @throws Error when a required module is missing
 */
export async function findKernelModules(
  directory: string,
  names: { readonly required: readonly string[]; readonly optional: readonly string[] },
  busybox: string,
): Promise<KernelModule[]> {
  const builtin = await readFile(join(directory, 'modules.builtin'), 'utf8');
  const known = new Set(builtin.split('\n').map(moduleName));
  const paths = new Map<string, string>();
  for (const path of await readdir(directory, { recursive: true })) {
    if (/\.ko(\.\w+)?$/.test(path)) paths.set(moduleName(path), join(directory, path));
  }
  const ordered: KernelModule[] = [];
  const add = async (name: string, isRequired: boolean): Promise<void> => {
    if (known.has(name)) return;
    known.add(name);
    const path = paths.get(name);
    if (path === undefined) {
      if (isRequired) throw new Error(`The test guest cannot be built: this kernel has no module ${name}.`);
      return;
    }
    const content = await readModule(path, busybox);
    for (const needed of dependenciesIn(content)) await add(needed, true);
    ordered.push({ name, content });
  };
  for (const name of names.required) await add(name, true);
  for (const name of names.optional) await add(name, false);
  return ordered;
}

/** The kernel takes `-` and `_` in the names of modules for the same. */
function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');
}

/** From the `.modinfo` section: strings that end with NUL. */
function dependenciesIn(content: Buffer): string[] {
  const found = /\0depends=([\w,-]*)\0/.exec(content.toString('latin1'));
  return (found?.[1] ?? '').split(',').filter(Boolean).map(moduleName);
}

async function readModule(path: string, busybox: string): Promise<Buffer> {
  if (path.endsWith('.ko')) return readFile(path);
  if (!path.endsWith('.ko.xz')) throw new Error(`The test guest cannot be built: ${path} is compressed in a new way.`);
  const { stdout } = await run(busybox, ['xzcat', path], { encoding: 'buffer', maxBuffer: mostModuleBytes });
  return stdout;
}
