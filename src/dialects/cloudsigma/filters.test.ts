import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readFilters, readSelection, readWindow, select, splitValue, text, word } from './filters.ts';
import { readParameters } from './parse.ts';

test.each([
  ['a', ['a']],
  ['', ['']],
  ['a,b', ['a', 'b']],
  ['a,', ['a', '']],
  ['a\\,b', ['a,b']],
  ['a\\\\,b', ['a\\', 'b']],
  ['a\\\\\\,b', ['a\\,b']],
  ['a\\b,c', ['a\\b', 'c']],
  ['a,b\\', ['a', 'b\\']],
  ['a\\\\', ['a\\\\']],
])('%s holds the alternatives %j', (value, expected) => expect(splitValue(value)).toEqual(expected));

test('any list of texts can be written so that it is read back', () => {
  const withCommas = (part: string) => part.replace(/(\\*),/g, (_, run: string) => `${run}${run}\\,`);
  const beforeComma = (part: string) => withCommas(part).replace(/\\+$/, (run) => run + run);
  const part = fc.string({ unit: fc.constantFrom('a', ',', '\\') });
  fc.assert(
    fc.property(fc.array(part, { maxLength: 3 }), part, (parts, last) => {
      // Behind the last one there is no comma, so that backslashes there stand for themselves.
      const value = [...parts.map(beforeComma), withCommas(last)].join(',');
      expect(splitValue(value)).toEqual([...parts, last]);
    }),
  );
});

test('different parameters, and one that is repeated, all have to hold; others are passed over', async () => {
  const filters = { name: text<'name'>('name'), state: word<'name'>({ on: { field: 'name', op: 'isNull' } }) };
  const parameters = readParameters('name=a,b&name__contains=C&colour=red&__proto__=x&constructor=y&state=off');
  expect(await readFilters(parameters, filters)).toEqual({
    all: [
      { field: 'name', op: 'in', values: ['a', 'b'] },
      { any: [{ field: 'name', op: 'contains', value: 'C' }] },
      { any: [] },
    ],
  });
});

test('windows and selections', () => {
  expect(readWindow(readParameters(''))).toEqual({ limit: 20, offset: 0 });
  expect(readWindow(readParameters('limit=0&offset=7'))).toEqual({ limit: null, offset: 7 });
  expect(() => readWindow(readParameters('limit=-1'))).toThrow('whole number');
  const selection = readSelection(readParameters('fields=a,c'));
  expect(select([{ a: 1, b: 2 }], selection)).toEqual([{ a: 1 }]);
});
