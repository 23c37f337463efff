import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';
import { presentError } from './errors.ts';
import {
  isAcceptable,
  readAction,
  readFields,
  readInteger,
  readMeta,
  readName,
  readObjects,
  readParameters,
  readReferences,
  readUuids,
  referenceOf,
  tidyUrl,
} from './parse.ts';

test.each([
  ['/api/2.0/drives', '/api/2.0/drives'],
  ['/api/2.0/drives/', '/api/2.0/drives'],
  ['/api/2.0/drives//?a=//b/', '/api/2.0/drives?a=//b/'],
  ['//api//2.0/', '/api/2.0'],
  ['/', '/'],
  ['//', '/'],
  ['', ''],
])('%s is served as %s', (url, expected) => expect(tidyUrl(url)).toBe(expected));

test.each([
  ['u', 'u'],
  ['/api/2.0/drives/u/', 'u'],
  [{ uuid: 'u' }, 'u'],
  [{ resource_uri: '/api/2.0/drives/u/' }, 'u'],
  [{ resource_uri: { resource_uri: '/x/u/', uuid: 'u' } }, 'u'],
  [{ uuid: null, resource_uri: '/x/u' }, 'u'],
  ['', undefined],
  ['/', undefined],
  [{}, undefined],
  [7, undefined],
  [[], undefined],
])('%j refers to %s', (value, expected) => expect(referenceOf(value)).toBe(expected));

test.each([
  [undefined, true],
  ['', true],
  ['*/*', true],
  ['text/html, application/json;q=0.5', true],
  ['APPLICATION/JSON', true],
  ['application/json;q=0', false],
  ['text/html', false],
])('Accept: %s is served: %s', (accept, expected) => expect(isAcceptable(accept)).toBe(expected));

test('sizes come as numbers or decimal texts', () => {
  expect(readInteger({ size: '1024' }, 'size')).toBe(1024);
  for (const size of ['1e3', '-1', 1.5, -1, true, {}, '99999999999999999999', Number.NaN]) {
    expect(() => readInteger({ size }, 'size'), String(size)).toThrow('whole number');
  }
});

/** JSON that may hold anything, prototype keys included. */
const anyJson = fc.oneof(
  fc.json({ maxDepth: 4 }),
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '{"objects":[{"__proto__":{"drive":"x"}}]}',
    '{"constructor":{"prototype":1}}',
    '{"objects":{"length":1}}',
    '[[[[]]]]',
    '{"drive":{"uuid":{"uuid":1}},"name":"\\ud800","meta":{"\\u0000":"x"}}',
    '{"size":1e999}',
    `${'['.repeat(70)}`,
  ),
);

test('whatever a body or query holds is read, or refused as wrong', () => {
  const readers = [
    (bytes: Buffer) => readObjects(bytes),
    (bytes: Buffer) => readUuids(bytes),
    (bytes: Buffer) => {
      const fields = readFields(bytes);
      readName(fields);
      readMeta(fields);
      readReferences(fields, 'tags');
      readInteger(fields, 'size');
    },
    (bytes: Buffer) => readAction(readParameters(bytes.toString('latin1')), ['clone']),
  ];
  fc.assert(
    fc.property(anyJson, (body) => {
      for (const read of readers) {
        try {
          read(Buffer.from(body));
        } catch (error) {
          expect(error).toBeInstanceOf(CalotypeError);
          if (error instanceof CalotypeError) expect(presentError(error).status).toBe(400);
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test('every failure has words of this API, and those inside tell nothing', () => {
  for (const code of Object.keys(errorCatalogue) as ErrorCode[]) {
    const { status, body } = presentError(new CalotypeError(code, 'secret /var/lib/x'));
    expect([400, 401, 403, 404, 405, 500, 503], code).toContain(status);
    expect(Object.keys(body[0] ?? {})).toEqual(['error_message', 'error_point', 'error_type']);
    if (status === 500) expect(body[0]?.error_message).not.toContain('secret');
  }
});
