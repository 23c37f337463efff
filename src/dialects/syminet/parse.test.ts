/** What comes from outside, in every form that it can have. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import {
  pageSize,
  readNumber,
  readOsName,
  readPaging,
  readSnapshotName,
  readToken,
  readUserChange,
  tidyUrl,
} from './parse.ts';

/** What a function makes of an input: its value, or the code of its error. */
function outcome<T>(read: () => T): T | { code: string } {
  try {
    return read();
  } catch (error) {
    if (error instanceof CalotypeError) return { code: error.code };
    throw error;
  }
}

const body = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
const anyText = fc.oneof(fc.string({ unit: 'binary' }), fc.string(), fc.constantFrom('\ud800', '\0', '', ' '));

describe('tokens', () => {
  test('the scheme in any case, blanks around the token', () => {
    expect(readToken('bearer abc')).toBe('abc');
    expect(readToken('BEARER   abc  ')).toBe('abc');
    for (const wrong of [undefined, 'Basic YTpi', 'Basic ', 'abc', 'bearerabc', '']) {
      expect(outcome(() => readToken(wrong))).toEqual({ code: 'unauthenticated' });
    }
  });

  test('any header is a token or refused', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const read = outcome(() => readToken(text));
        return typeof read === 'string' || read.code === 'unauthenticated';
      }),
    );
  });
});

describe('numbers', () => {
  test('only as they are printed', () => {
    expect(readNumber('1')).toBe(1);
    expect(readNumber('999999999999999')).toBe(999_999_999_999_999);
    for (const wrong of ['0', '01', '-1', '+1', '1.0', '1e3', ' 1', '1 ', '', 'x', '１', '1'.repeat(16)]) {
      expect(readNumber(wrong), wrong).toBeUndefined();
    }
  });

  test('any text is undefined or a number that prints as it', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const number = readNumber(text);
        return number === undefined || (String(number) === text && Number.isSafeInteger(number) && number > 0);
      }),
    );
  });
});

describe('paging', () => {
  test('a page that is no positive integer is the first; of two the first counts', () => {
    const pageOf = (page: unknown) => readPaging({ page }).page;
    expect(['0', '-1', 'x', '', '1.5', undefined, {}, ['2', '3']].map(pageOf)).toEqual([1, 1, 1, 1, 1, 1, 1, 2]);
    expect(readPaging({ page: '3', query: 'web' })).toEqual({ page: 3, offset: 2 * pageSize, query: 'web' });
    expect(readPaging({ query: '' }).query).toBeUndefined();
    expect(readPaging(undefined)).toEqual({ page: 1, offset: 0, query: undefined });
    expect(Number.isSafeInteger(readPaging({ page: '9'.repeat(5000) }).offset)).toBe(true);
  });

  test('any query gives a page and an offset that databases take', () => {
    fc.assert(
      fc.property(fc.anything(), anyText, (query, page) => {
        for (const given of [query, { page, query: page }]) {
          const { page: read, offset } = readPaging(given);
          expect(Number.isSafeInteger(read) && read >= 1 && Number.isSafeInteger(offset) && offset >= 0).toBe(true);
        }
      }),
    );
  });
});

describe('bodies', () => {
  test('blank lines around them are no part of the name', () => {
    expect(readSnapshotName(body('\r\n\n  {"snapshot_name": " web 1 "}\n\n'))).toBe(' web 1 ');
  });

  test('a property must be there, text and not blank', () => {
    const wrong = [
      '',
      '{}',
      '[]',
      'null',
      '1',
      { snapshot_name: null },
      { snapshot_name: '\u2003' },
      { snapshot_name: [] },
    ];
    for (const value of wrong) {
      expect(outcome(() => readSnapshotName(body(value)))).toEqual({ code: 'invalid_request' });
    }
    expect(outcome(() => readSnapshotName(body('{"__proto__":{"snapshot_name":"x"}}')))).toEqual({
      code: 'invalid_request',
    });
  });

  test('changes of users', () => {
    expect(readUserChange(body({ username: 'ada', admin: true }))).toEqual({ username: 'ada', admin: true });
    expect(readUserChange(body({ username: 'ada' }))).toEqual({ username: 'ada', admin: undefined });
    for (const value of [{ admin: true }, { username: 'ada', admin: null }, { username: 'ada', admin: 1 }]) {
      expect(outcome(() => readUserChange(body(value)))).toEqual({ code: 'invalid_request' });
    }
  });

  test('any bytes are read or refused as the request that they are', () => {
    const values = fc.oneof(
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
      fc.json().map((text) => Buffer.from(text)),
      fc.record({ snapshot_name: fc.anything(), username: fc.anything(), os_name: fc.anything() }).map((value) => {
        try {
          return Buffer.from(JSON.stringify(value));
        } catch {
          return Buffer.from('1n');
        }
      }),
    );
    fc.assert(
      fc.property(values, (bytes) => {
        for (const read of [readSnapshotName, readOsName, readUserChange]) {
          const value = outcome<unknown>(() => read(bytes));
          if (typeof value === 'string') expect(value.trim()).not.toBe('');
          else expect(value).toSatisfy((other: object) => 'username' in other || 'code' in other);
        }
      }),
    );
  });
});

describe('addresses', () => {
  test('one slash between the parts, none at the end, the query as it was', () => {
    expect(tidyUrl('/api/v1/images/')).toBe('/api/v1/images');
    expect(tidyUrl('//api//v1///images//?query=a//b/')).toBe('/api/v1/images?query=a//b/');
    for (const same of ['/', '/api/v1/images', '/api/v1/images?x=//', '*']) expect(tidyUrl(same)).toBe(same);
    expect(tidyUrl('//')).toBe('/');
  });

  test('tidy stays tidy', () => {
    fc.assert(fc.property(fc.webPath(), (path) => tidyUrl(tidyUrl(path)) === tidyUrl(path)));
  });
});
