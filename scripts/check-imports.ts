/**
 * Part of `npm run check`. Holds the sources to the import direction of DESIGN section 1 and a few rules of the house;
 * prints `file:line: what` for each violation and exits with code 1. Long files are a warning only.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** What each part may import besides itself. A part that is not listed (test, bench, scripts) may import anything. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  'src/core': [],
  'src/catalog': ['src/core'],
  'src/qemu': ['src/core'],
  'src/vault': ['src/core'],
  'src/engine': ['src/core', 'src/catalog', 'src/qemu', 'src/vault'],
  'src/service': ['src/core', 'src/catalog', 'src/qemu', 'src/vault', 'src/engine'],
  // A dialect maps; it reaches neither the catalog nor QEMU, nor another dialect (see below).
  'src/dialects': ['src/core', 'src/service'],
  // The server is put together here, out of all the rest.
  'src/http': ['src/core', 'src/catalog', 'src/qemu', 'src/vault', 'src/engine', 'src/service', 'src/dialects'],
  // A guest for trying things out: needs nothing of the server, and only its tests run one.
  'src/guest': ['src/core', 'src/qemu'],
  'src/cli': ['src/guest'],
  console: [],
  bin: ['src/http', 'src/cli', 'scripts'],
};

/** Packages a part must do without, and why. */
const bannedPackages: Readonly<Record<string, { readonly pattern: RegExp; readonly why: string }>> = {
  'src/core': {
    pattern: /^node:(?!crypto$|util$|buffer$|assert|url$|path|string_decoder$)/,
    why: 'core does no I/O',
  },
  'src/dialects': { pattern: /^(kysely|pg|node:sqlite|node:child_process|node:net)$/, why: 'a dialect only maps' },
};

const testTools = /^(vitest|fast-check|playwright-core)(\/|$)/;
const longestFile = 450;
// In pieces, so that this file does not report itself.
const unfinished = new RegExp(
  `\\b(${['TO', 'FIX', 'X'].map((start, i) => start + ['DO', 'ME', 'XX'][i]).join('|')})\\b`,
);
const onlyCall = /\.only\(/;

const importPatterns = [
  /^(?:import|export)\b[^;'"]*?\bfrom\s*['"]([^'"]+)['"]/gm, // statements start a line: Biome sees to it
  /^import\s*['"]([^'"]+)['"]/gm,
  /\bimport\(\s*['"]([^'"]+)['"]/g,
];

const problems: string[] = [];
const warnings: string[] = [];

for (const folder of ['src', 'bin', 'console', 'scripts', 'test', 'bench']) {
  for (const file of sourceFilesIn(folder)) checkFile(file);
}
for (const line of warnings) console.log(`warning: ${line}`);
for (const line of problems) console.log(line);
if (problems.length > 0) process.exitCode = 1;

function checkFile(file: string): void {
  const text = readFileSync(join(root, file), 'utf8');
  const lines = text.split('\n');
  const isTest = isForTests(file);

  const lineCount = lines.at(-1) === '' ? lines.length - 1 : lines.length;
  if (file.startsWith('src/') && lineCount > longestFile) {
    warnings.push(`${file}:${lineCount}: over ${longestFile} lines`);
  }
  lines.forEach((line, index) => {
    const word = unfinished.exec(line);
    if (word !== null) problems.push(`${file}:${index + 1}: unfinished work is marked ${word[1]}`);
    if (file.endsWith('.test.ts') && onlyCall.test(line)) {
      problems.push(`${file}:${index + 1}: .only( leaves the other tests out`);
    }
  });

  for (const pattern of importPatterns) {
    for (const match of text.matchAll(pattern)) {
      const specifier = match[1] ?? '';
      const before = text.slice(0, match.index + match[0].indexOf(specifier)).split('\n');
      if (/^\s*(\/\/|\/?\*)/.test(lines[before.length - 1] ?? '')) continue;
      const reason = refusal(file, specifier, isTest);
      if (reason !== undefined) problems.push(`${file}:${before.length}: imports ${specifier}: ${reason}`);
    }
  }
}

/** Why `file` must not import `specifier`; undefined when it may. */
function refusal(file: string, specifier: string, isTest: boolean): string | undefined {
  const part = partOf(file);
  const allowed = mayImport[part];
  if (allowed === undefined) return undefined;

  if (!specifier.startsWith('.')) {
    if (isTest) return undefined;
    if (testTools.test(specifier)) return 'only tests use test tools';
    const banned = bannedPackages[part];
    return banned?.pattern.test(specifier) ? banned.why : undefined;
  }
  const target = posix.join(posix.dirname(file), specifier);
  const targetPart = partOf(target);
  if (!isTest && isForTests(target)) return 'that is for tests only';
  if (targetPart === part) {
    if (part !== 'src/dialects') return undefined;
    const [from, to] = [dialectOf(file), dialectOf(target)];
    // What is no dialect's own may know them all: the list of them.
    return from === undefined || to === undefined || from === to ? undefined : 'a dialect knows no other dialect';
  }
  if (allowed.includes(targetPart) || (isTest && ['test', 'src/guest'].includes(targetPart))) return undefined;
  return `${part} may import ${allowed.length === 0 ? 'nothing else of ours' : allowed.join(', ')}`;
}

/** Tests, the engines' conformance suite, and helpers of tests in a folder `testing`. */
function isForTests(file: string): boolean {
  return file.endsWith('.test.ts') || file.includes('conformance') || file.includes('/testing/');
}

/** `src/<part>` below src, else the top folder. */
function partOf(file: string): string {
  const [top = '', second = ''] = file.split('/');
  return top === 'src' ? `src/${second}` : top;
}

/** The dialect a file belongs to; undefined for files shared by all of them, directly in src/dialects. */
function dialectOf(file: string): string | undefined {
  const segments = file.split('/');
  return segments.length > 3 ? segments[2] : undefined;
}

function sourceFilesIn(folder: string): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return ['node_modules', 'dist'].includes(entry.name) ? [] : sourceFilesIn(path);
    return /\.(m?[jt]s|[jt]sx)$/.test(entry.name) || folder === 'bin' ? [path] : [];
  });
}
