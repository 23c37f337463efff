import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  clipExtents,
  decodeExtents,
  type Extent,
  type Extents,
  encodeExtents,
  intersectExtents,
  normalizeExtents,
  subtractExtents,
  sumExtents,
  unionExtents,
} from './extents.ts';

const size = 64;

/** The same sets as bits, to compare with. */
function bitsOf(list: readonly Extent[]): boolean[] {
  const bits = Array.from({ length: size }, () => false);
  for (const { start, length } of list) bits.fill(true, start, start + length);
  return bits;
}

function isCanonical(list: Extents): boolean {
  return list.every((extent, at) => {
    const before = list[at - 1];
    return extent.length > 0 && (before === undefined || before.start + before.length < extent.start);
  });
}

const anyList = fc.array(
  fc.tuple(fc.nat(size - 1), fc.nat(12)).map(([start, length]) => ({ start, length: Math.min(length, size - start) })),
  { maxLength: 12 },
);
const canonical = anyList.map(normalizeExtents);

describe('sets of extents', () => {
  test('any list comes into canonical form', () => {
    fc.assert(
      fc.property(anyList, (list) => {
        const normal = normalizeExtents(list);
        expect(isCanonical(normal)).toBe(true);
        expect(bitsOf(normal)).toEqual(bitsOf(list));
        expect(sumExtents(normal)).toBe(bitsOf(list).filter(Boolean).length);
      }),
    );
  });

  test.each([
    ['union', unionExtents, (a: boolean, b: boolean) => a || b],
    ['intersection', intersectExtents, (a: boolean, b: boolean) => a && b],
    ['difference', subtractExtents, (a: boolean, b: boolean) => a && !b],
  ])('%s is that of the bytes', (_, operate, ofBits) => {
    fc.assert(
      fc.property(canonical, canonical, (a, b) => {
        const result = operate(a, b);
        const [bitsA, bitsB] = [bitsOf(a), bitsOf(b)];
        expect(isCanonical(result)).toBe(true);
        expect(bitsOf(result)).toEqual(bitsA.map((bit, at) => ofBits(bit, bitsB[at] ?? false)));
      }),
    );
  });

  test('a list is cut at a size', () => {
    fc.assert(
      fc.property(canonical, fc.nat(size), (list, at) => {
        expect(bitsOf(clipExtents(list, at))).toEqual(bitsOf(list).map((bit, i) => bit && i < at));
      }),
    );
  });
});

describe('the stored form', () => {
  const sectors = fc
    .array(fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 33 })), { maxLength: 50 })
    .map((list) => normalizeExtents(list.map(([start, length]) => ({ start: start * 512, length: length * 512 }))));

  test('reads back as what was written', () => {
    fc.assert(
      fc.property(sectors, (list) => {
        expect(decodeExtents(encodeExtents(list))).toEqual(list);
      }),
    );
  });

  test('is what it was', () => {
    const list = [
      { start: 0, length: 4096 },
      { start: 1_048_576, length: 512 },
      { start: 2 ** 41, length: 2 ** 32 },
    ];
    expect(Buffer.from(encodeExtents(list)).toString('hex')).toBe('010008f80f01ffefffff0f80808004');
    expect(decodeExtents(Buffer.from('010008f80f01ffefffff0f80808004', 'hex'))).toEqual(list);
  });

  test('refuses what is not whole sectors, cut short, or of another version', () => {
    expect(() => encodeExtents([{ start: 100, length: 512 }])).toThrow(RangeError);
    expect(() => encodeExtents([{ start: 0, length: 100 }])).toThrow(RangeError);
    expect(() => decodeExtents(Uint8Array.from([2, 0, 8]))).toThrow(RangeError);
    expect(() => decodeExtents(Uint8Array.from([1, 0]))).toThrow(RangeError);
    expect(() => decodeExtents(Uint8Array.from([1, 128]))).toThrow(RangeError);
    expect(() => decodeExtents(new Uint8Array())).toThrow(RangeError);
  });
});
