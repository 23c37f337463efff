/** Every code of the catalogue has a status that these scripts take for a failure, and a sentence that tells nothing internal. */
import { describe, expect, test } from 'vitest';
import { CalotypeError, errorCatalogue, isErrorCode, notFound } from '../../core/errors.ts';
import { answerParserError, sentenceOf, statusOf } from './errors.ts';
import { missing } from './find.ts';

const statuses = [400, 401, 403, 404, 405, 409, 413, 429, 500, 503, 507];

describe.each(Object.keys(errorCatalogue))('%s', (code) => {
  test('has a status of this API and a sentence', () => {
    if (!isErrorCode(code)) throw new Error('not in the catalogue');
    const error = new CalotypeError(code, 'pool-7 at /var/lib/calotype is gone');
    expect(statuses).toContain(statusOf(code));
    expect(sentenceOf(error)).toMatch(/^\S.*[.]$|gone$/);
    if (statusOf(code) >= 500) expect(sentenceOf(error)).not.toContain('pool-7');
  });
});

test('what the service does not find has no id in its answer', () => {
  expect(sentenceOf(notFound('machine', '0f0f'))).toBe('There is no such object.');
  expect(sentenceOf(missing('slice', '7'))).toBe('There is no slice 7.');
});

test('what is no HTTP is answered in the same form', () => {
  expect(answerParserError(new CalotypeError('invalid_request'))).toMatchObject({
    status: 400,
    body: '{"error":"The request is not valid."}',
  });
});
