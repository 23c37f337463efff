/** docs/errors.md, made from the error catalogue. */
import { errorCatalogue } from '../core/errors.ts';

export function errorsPage(): string {
  const rows = Object.entries(errorCatalogue).map(
    ([code, { status, title, retryable, changed }]) =>
      `| \`${code}\` | ${status} | ${title} | ${retryable ? 'yes' : 'no'} | ${changed} |`,
  );
  return [
    '# Error codes',
    '',
    'Made by `npm run openapi` from `src/core/errors.ts`; not edited by hand.',
    '',
    'Every error answer is `application/problem+json` (RFC 9457) with one of these codes. Codes are stable; titles may be reworded.',
    '**Retry** says whether the same request may succeed later. **Changed** says what the failed request left behind: nothing (`no`),',
    'everything undone (`rolledBack`), or a part (`partly`, and the body says which).',
    '',
    '| Code | Status | Meaning | Retry | Changed |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
    '',
    'The last six are met only at start-up, as one sentence on standard error and an exit code: 2 for `config_invalid`, 3 for',
    '`qemu_missing` and `qemu_too_old`, 4 for `data_in_use`, 5 for `catalog_too_new` and `catalog_damaged`.',
    '',
  ].join('\n');
}
