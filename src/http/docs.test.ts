import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { errorCatalogue } from '../core/errors.ts';
import { errorsPage } from './errors-page.ts';
import { openApiText } from './openapi.ts';

const docs = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'docs');
const read = (name: string): string => readFileSync(join(docs, name), 'utf8');
const atStartOnly = new Set([
  'qemu_missing',
  'qemu_too_old',
  'data_in_use',
  'catalog_too_new',
  'catalog_damaged',
  'config_invalid',
]);
/** Answered to addresses and methods that are no operation. */
const noOperation = new Set(['route_not_found', 'method_not_allowed']);

test('docs/openapi.json is what the routes say (npm run openapi writes it)', async () => {
  expect(read('openapi.json')).toBe(await openApiText());
});

test('docs/errors.md is what the catalogue says (npm run openapi writes it)', () => {
  expect(read('errors.md')).toBe(errorsPage());
});

test('every error of the catalogue is named by some operation, and no other', async () => {
  const { paths } = JSON.parse(await openApiText());
  const named = new Set([...JSON.stringify(paths).matchAll(/`([a-z_]+)`: /g)].map((match) => match[1]));
  const expected = Object.keys(errorCatalogue).filter((code) => !atStartOnly.has(code) && !noOperation.has(code));
  expect([...named].sort()).toEqual(expected.sort());
});

test('docs/api.md names every operation', async () => {
  const { paths } = JSON.parse(await openApiText());
  const page = read('api.md');
  for (const path of Object.keys(paths)) {
    const [, , noun = ''] = path.split('/');
    const tail = path.split('/').at(-1) ?? '';
    expect(page, path).toContain(tail.startsWith('{') ? `/v1/${noun}` : tail);
  }
});
