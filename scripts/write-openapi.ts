/** `npm run openapi`: writes docs/openapi.json and docs/errors.md from the sources; tests hold them equal. */
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { errorsPage } from '../src/http/errors-page.ts';
import { openApiText } from '../src/http/openapi.ts';

const docs = join(dirname(dirname(fileURLToPath(import.meta.url))), 'docs');
writeFileSync(join(docs, 'openapi.json'), await openApiText());
writeFileSync(join(docs, 'errors.md'), errorsPage());
