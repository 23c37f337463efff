/**
 * Start-up time: a few libraries come as a thousand small files, which cost more to find and link than the rest of a start together. `scripts/bundle-libraries.ts` joins each into one file; where such files are there and of the versions
 * installed, imports of these names are led to them. Without them everything works the same, only later.
 */
import { existsSync, readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const modules = fileURLToPath(new URL('../../node_modules/', import.meta.url));

export const bundleDirectory = join(modules, '.cache', 'calotype', 'libraries');

/** What is imported, and the file that holds it. */
export const bundledEntries: Readonly<Record<string, string>> = {
  fastify: 'fastify.mjs',
  'fast-json-stringify': 'fast-json-stringify.mjs',
  kysely: 'kysely.mjs',
  typebox: 'typebox.mjs',
  'typebox/schema': 'typebox-schema.mjs',
};

/** Versions of the packages behind the entries, as one text. */
export function installedVersions(): string {
  const packages = [...new Set(Object.keys(bundledEntries).map((name) => name.split('/')[0] ?? name))];
  return packages
    .map((name) => {
      const manifest: { version?: string } = JSON.parse(readFileSync(join(modules, name, 'package.json'), 'utf8'));
      return `${name}@${manifest.version}`;
    })
    .join(' ');
}

export function useBundledLibraries(): boolean {
  try {
    const stamp = join(bundleDirectory, 'versions');
    if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== installedVersions()) return false;
  } catch {
    return false;
  }
  registerHooks({
    resolve: (specifier, context, next) => {
      const file = Object.hasOwn(bundledEntries, specifier) ? bundledEntries[specifier] : undefined;
      if (file === undefined) return next(specifier, context);
      return { url: pathToFileURL(join(bundleDirectory, file)).href, format: 'module', shortCircuit: true };
    },
  });
  return true;
}
