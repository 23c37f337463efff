import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import type { Condition } from '../../core/query.ts';
import { said } from './attributes.ts';
import { conditionOf, parseFilter, type Searchable } from './filters.ts';

type Field = 'name' | 'size' | 'at' | 'kind' | 'owner' | 'title';

const target: Searchable<Field> = {
  klass: 'Thing',
  searchOf(attribute) {
    switch (attribute) {
      case 'name':
        return { search: { type: 'text', field: 'name' } };
      case 'note':
        return { search: { type: 'text', field: 'name', emptyIsNull: true } };
      case 'size':
        return { search: { type: 'integer', field: 'size' } };
      case 'at':
        return { search: { type: 'time', field: 'at' } };
      case 'nothing':
        return { search: said(null) };
      case 'kind':
        return {
          search: {
            type: 'words',
            words: [
              { word: 'red', when: { field: 'kind', op: 'eq', value: 'r' } },
              { word: 'green', when: { field: 'kind', op: 'eq', value: 'g' } },
            ],
          },
        };
      case 'hidden':
        return { search: null };
      case 'title':
        return {
          search: {
            type: 'either',
            field: 'title',
            words: [{ word: 'Create', when: { field: 'kind', op: 'eq', value: 'c' } }],
          },
        };
      case 'owner':
        return {
          search: {
            type: 'reference',
            find: async (number) => ({ field: 'owner', op: 'eq', value: `u${number}` }),
            isNull: { field: 'owner', op: 'isNull' },
          },
        };
      default:
        return undefined;
    }
  },
};

const of = (...texts: string[]): Promise<Condition<Field>> => conditionOf(texts, target);

describe('reading', () => {
  test('the first operator after the attribute counts, later ones belong to the value', () => {
    expect(parseFilter('name=a=b')).toMatchObject({ attribute: 'name', operator: '=', operand: { value: 'a=b' } });
    expect(parseFilter("name != '<>'")).toMatchObject({ operator: '!=', operand: { value: '<>', quoted: true } });
    expect(parseFilter('name!==x')).toMatchObject({ operator: '!==' });
    expect(parseFilter('size<=5')).toMatchObject({ operator: '<=', operand: { value: '5' } });
    expect(parseFilter('name<>5')).toMatchObject({ operator: '<', operand: { value: '>5' } });
  });

  test('or in any case, only in front', () => {
    expect(parseFilter('OR name=x')).toMatchObject({ or: true, attribute: 'name' });
    expect(parseFilter('order=x')).toMatchObject({ or: false, attribute: 'order' });
  });

  test('quotes are stripped once, and only in pairs', () => {
    expect(parseFilter(`name="it's"`).operand).toEqual({ kind: 'text', value: "it's", quoted: true });
    expect(parseFilter(`name=''x''`).operand).toMatchObject({ value: "'x'" });
    expect(parseFilter(`name='x`).operand).toMatchObject({ value: "'x", quoted: false });
    expect(parseFilter(`name='`).operand).toMatchObject({ value: "'" });
    expect(parseFilter(`name=''`).operand).toMatchObject({ value: '', quoted: true });
  });

  test('what is special without quotes is text in them', () => {
    expect(parseFilter('name=nil').operand).toEqual({ kind: 'null' });
    expect(parseFilter("name='nil'").operand).toMatchObject({ kind: 'text' });
    expect(parseFilter('name=[a,b ,c]').operand).toEqual({ kind: 'list', values: ['a', 'b ', 'c'] });
    expect(parseFilter("name='[a,b]'").operand).toMatchObject({ kind: 'text' });
    expect(parseFilter('name=%a**b*').operand).toEqual({ kind: 'pattern', value: '*a*b*' });
    expect(parseFilter('name==a*').operand).toMatchObject({ kind: 'text', value: 'a*' });
    expect(parseFilter('name=~/a/b/i').operand).toEqual({ kind: 'expression', value: 'a/b', ignoreCase: true });
  });
});

describe('translation', () => {
  test('words of the dialect become what they stand for', async () => {
    expect(await of('kind=red')).toEqual({ field: 'kind', op: 'eq', value: 'r' });
    expect(await of("kind='*e*'")).toEqual({
      any: [
        { field: 'kind', op: 'eq', value: 'r' },
        { field: 'kind', op: 'eq', value: 'g' },
      ],
    });
    expect(await of('kind>green')).toEqual({ field: 'kind', op: 'eq', value: 'r' });
    expect(await of('kind=~/^G/i')).toEqual({ field: 'kind', op: 'eq', value: 'g' });
    expect(await of('kind=blue')).toEqual({ any: [] });
    expect(await of('nothing=NULL')).toEqual({ all: [] });
    expect(await of('nothing!=x')).toEqual({ any: [] });
    expect(await of("nothing!='x*'")).toEqual({ all: [] });
  });

  test('what holds always or never leaves nothing behind', async () => {
    const name = { field: 'name', op: 'eq', value: 'x' };
    expect(await of('name=x', 'nothing=NULL')).toEqual(name);
    expect(await of('name=x', 'kind=blue')).toEqual({ any: [] });
    expect(await of('name=x', 'or kind=blue')).toEqual(name);
    expect(await of('name=x', 'or nothing=NULL')).toEqual({ all: [] });
    expect(await of()).toEqual({ all: [] });
  });

  test('one alone stays a test that an index can serve', async () => {
    expect(await of("name='nightly-*'")).toEqual({ field: 'name', op: 'like', value: 'nightly-*' });
    expect(await of('size=5')).toEqual({ field: 'size', op: 'eq', value: 5 });
    expect(await of('size=[1,x,2]')).toEqual({ field: 'size', op: 'in', values: [1, 2] });
  });

  test('the empty text stands for null where it is shown as null', async () => {
    expect(await of('note=NULL')).toEqual({ field: 'name', op: 'eq', value: '' });
    expect(await of('note!=x')).toEqual({
      all: [
        { field: 'name', op: 'ne', value: 'x' },
        { field: 'name', op: 'ne', value: '' },
      ],
    });
  });

  test('times are spans: a day, a second, a microsecond', async () => {
    const day = Date.UTC(2026, 1, 3) * 1000;
    const within = (from: number, to: number) => ({
      all: [
        { field: 'at', op: 'ge', value: from },
        { field: 'at', op: 'lt', value: to },
      ],
    });
    expect(await of('at=2026-02-03')).toEqual(within(day, day + 86_400_000_000));
    expect(await of('at>2026-02-03')).toEqual({ field: 'at', op: 'ge', value: day + 86_400_000_000 });
    expect(await of('at<2026-02-03')).toEqual({ field: 'at', op: 'lt', value: day });
    const second = day + 3_600_000_000;
    for (const same of [
      '2026-02-03T01:00:00Z',
      '2026-02-03 01:00',
      '2026-02-03T03:00:00+02:00',
      '2026-02-03 01:00:00 UTC',
    ]) {
      expect(await of(`at=${same}`), same).toEqual(within(second, second + 1_000_000));
    }
    expect(await of("at<='2026-02-03T01:00:00.5Z'")).toEqual({ field: 'at', op: 'lt', value: second + 500_001 });
  });

  test('references are looked up', async () => {
    expect(await of('owner=7')).toEqual({ field: 'owner', op: 'eq', value: 'u7' });
    expect(await of('owner=nil')).toEqual({ field: 'owner', op: 'isNull' });
    await expect(of('owner>7')).rejects.toThrow('Unsupported operator for references: >');
  });

  test('a title of its own, or the words for those without', async () => {
    expect(await of('title=Create')).toEqual({
      any: [
        {
          all: [
            { field: 'title', op: 'isNotNull' },
            { field: 'title', op: 'eq', value: 'Create' },
          ],
        },
        {
          all: [
            { field: 'title', op: 'isNull' },
            { field: 'kind', op: 'eq', value: 'c' },
          ],
        },
      ],
    });
  });

  test('what cannot be looked for says so', async () => {
    await expect(of('hidden=1')).rejects.toThrow('Filtering by hidden is not supported');
    await expect(of('a.b.c=1')).rejects.toThrow('more than one association away');
    await expect(of('a.b=1')).rejects.toThrow('attribute Thing.a-b does not exist');
    await expect(of("size='1*'")).rejects.toThrow('Patterns are not supported for numbers');
    await expect(of('kind=~/(/')).rejects.toThrow('Invalid regular expression');
  });
});

test('whatever is asked, it is a condition or a refusal', async () => {
  const attribute = fc.constantFrom(
    'name',
    'note',
    'size',
    'at',
    'nothing',
    'kind',
    'title',
    'owner',
    'bogus',
    'a.b',
    '',
  );
  const operator = fc.constantFrom('=', '!=', '==', '!==', '<', '<=', '>', '>=', '=~', '!~', '<>', '!', '');
  const value = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom(
      'NULL',
      "'*'",
      '[1,2]',
      '[',
      '/a/',
      '/(/i',
      '2026-02-03',
      '9'.repeat(400),
      '-1e9',
      "''",
      'x%',
      '/a{9}/',
    ),
  );
  const text = fc.oneof(
    fc.tuple(fc.constantFrom('', 'or '), attribute, operator, value).map((parts) => parts.join('')),
    fc.string({ unit: 'binary' }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(text, { maxLength: 4 }), async (texts) => {
      try {
        const condition = await of(...texts);
        expect(Object.keys(condition).length).toBeGreaterThan(0);
      } catch (error) {
        expect(error).toBeInstanceOf(CalotypeError);
        expect(error).toMatchObject({ code: 'invalid_request' });
      }
    }),
    { numRuns: 500 },
  );
});
