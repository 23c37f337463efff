/**
 * Joins the libraries of many files into one file each, for the start-up time of the server (src/http/bundled-libraries.ts). Run after
 * packages were installed. Without the bundler, which comes with the test tools, it does nothing.
 */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { bundleDirectory, bundledEntries, installedVersions } from '../src/http/bundled-libraries.ts';

interface Bundler {
  rolldown(options: object): Promise<{ write(options: object): Promise<unknown> }>;
}

async function loadBundler(): Promise<Bundler | null> {
  try {
    // Not a dependency of our own: vite brings it along.
    const name: string = 'rolldown';
    const bundler: Bundler = await import(name);
    return bundler;
  } catch {
    return null;
  }
}

const bundler = await loadBundler();
if (bundler !== null) {
  // Fastify is CommonJS: a bundler does not see the names that Node finds in it.
  const named = 'names-of-fastify';
  const fastify = {
    name: named,
    resolveId: (id: string) => (id === named ? id : null),
    load: (id: string) =>
      id === named
        ? "import fastify from 'fastify'; export default fastify; export const { LogController } = fastify;"
        : null,
  };
  const input = Object.fromEntries(
    Object.entries(bundledEntries).map(([name, file]) => [
      file.replace(/\.mjs$/, ''),
      name === 'fastify' ? named : name,
    ]),
  );
  const fresh = `${bundleDirectory}.${process.pid}`;
  mkdirSync(dirname(bundleDirectory), { recursive: true });
  const bundle = await bundler.rolldown({ input, plugins: [fastify], platform: 'node', logLevel: 'silent' });
  await bundle.write({ dir: fresh, format: 'esm', entryFileNames: '[name].mjs', chunkFileNames: '[name]-[hash].mjs' });
  writeFileSync(join(fresh, 'versions'), installedVersions());
  // A server that starts in between finds nothing, and does without.
  rmSync(bundleDirectory, { recursive: true, force: true });
  renameSync(fresh, bundleDirectory);
}
