import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CalotypeError } from './errors.ts';
import { checkDescription, checkMeta, checkName, checkSize, checkTags, roundSize } from './names.ts';

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof CalotypeError) return error.code;
    throw error;
  }
  return 'accepted';
}

describe('names', () => {
  test.each([
    ['a', 'accepted'],
    ['x'.repeat(255), 'accepted'],
    ['\u{1F4F7}'.repeat(255), 'accepted'],
    [' nightly, "before" <upgrade> ', 'accepted'],
    ['', 'invalid_name'],
    ['x'.repeat(256), 'invalid_name'],
    ['\u{1F4F7}'.repeat(256), 'invalid_name'],
    ['a\nb', 'invalid_name'],
    ['a\0b', 'invalid_name'],
    ['a\u0085b', 'invalid_name'],
    ['a\u007fb', 'invalid_name'],
    ['a\ud800b', 'invalid_name'],
    [7, 'invalid_name'],
    [null, 'invalid_name'],
    [undefined, 'invalid_name'],
    [['a'], 'invalid_name'],
  ])('%j is %s', (value, code) => {
    expect(codeOf(() => checkName(value))).toBe(code);
  });

  test('a refusal names its field', () => {
    expect(() => checkName('', 'user')).toThrow(
      expect.objectContaining({ details: { field: 'user', maxLength: 255 } }),
    );
  });

  test('what is accepted comes back unchanged', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }), (text) => {
        if (codeOf(() => checkName(text)) === 'accepted') expect(checkName(text)).toBe(text);
      }),
    );
  });
});

describe('descriptions', () => {
  test('may hold lines and may be missing', () => {
    expect(checkDescription('one\n\ttwo')).toBe('one\n\ttwo');
    expect(checkDescription(undefined)).toBe('');
    expect(checkDescription('x'.repeat(4096))).toHaveLength(4096);
  });
  test.each([['x'.repeat(4097)], ['a\0'], [1], [{}]])('refused: %j', (value) => {
    expect(codeOf(() => checkDescription(value))).toBe('invalid_request');
  });
});

describe('metadata', () => {
  test('keeps every key, also those of the prototype', () => {
    const given: unknown = JSON.parse('{"__proto__":"x","constructor":"y","a":""}');
    const meta = checkMeta(given);
    expect(JSON.stringify(meta)).toBe('{"__proto__":"x","constructor":"y","a":""}');
  });
  test.each([
    [{ ['k'.repeat(32)]: 'v'.repeat(4096) }, 'accepted'],
    [Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`k${i}`, ''])), 'accepted'],
    [Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, ''])), 'invalid_meta'],
    [{ ['k'.repeat(33)]: '' }, 'invalid_meta'],
    [{ '': 'v' }, 'invalid_meta'],
    [{ k: 1 }, 'invalid_meta'],
    [{ k: null }, 'invalid_meta'],
    [{ k: { n: 'x' } }, 'invalid_meta'],
    [{ k: 'v'.repeat(4097) }, 'invalid_meta'],
    [{ k: 'a\0' }, 'invalid_meta'],
    [{ 'k\0': 'a' }, 'invalid_meta'],
    [[], 'invalid_meta'],
    ['text', 'invalid_meta'],
  ])('case %#', (value, code) => {
    expect(codeOf(() => checkMeta(value))).toBe(code);
  });
});

describe('tags', () => {
  test('are sorted, each once', () => {
    expect(checkTags(['web', 'db', 'web', 'äpfel'])).toEqual(['db', 'web', 'äpfel']);
    expect(checkTags(undefined)).toEqual([]);
  });
  test.each([
    [Array.from({ length: 64 }, (_, i) => `t${i}`), 'accepted'],
    [Array.from({ length: 65 }, (_, i) => `t${i}`), 'invalid_tag'],
    [Array.from({ length: 200 }, () => 'same'), 'accepted'],
    [['x'.repeat(65)], 'invalid_tag'],
    [[''], 'invalid_tag'],
    [['a,b'], 'invalid_tag'],
    [['a\tb'], 'invalid_tag'],
    [[1], 'invalid_tag'],
    ['web', 'invalid_tag'],
    [{ 0: 'web' }, 'invalid_tag'],
  ])('case %#', (value, code) => {
    expect(codeOf(() => checkTags(value))).toBe(code);
  });
});

describe('sizes', () => {
  test.each([
    [1, 512],
    [512, 512],
    [513, 1024],
    [1024000000, 1024000000],
    [1 << 30, 1 << 30],
  ])('%i becomes %i', (value, size) => {
    expect(checkSize(value, { max: 2 ** 40 })).toBe(size);
    expect(roundSize(value)).toBe(size);
  });
  test.each([[0], [-1], [1.5], [Number.NaN], [Number.POSITIVE_INFINITY], [2 ** 60], ['1024'], [null], [2049], [10n]])(
    'refused: %s',
    (value) => {
      expect(codeOf(() => checkSize(value, { max: 2048 }))).toBe('invalid_size');
    },
  );
});
