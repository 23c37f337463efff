import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isoFromUs, nowUs, usFromIso } from './time.ts';

test('writes every point in time as Date does, with three more digits', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 9_000_000_000_000_000 }), (us) => {
      const date = new Date(Math.floor(us / 1000)).toISOString();
      expect(isoFromUs(us)).toBe(`${date.slice(0, -1)}${String(us % 1000).padStart(3, '0')}Z`);
      expect(usFromIso(isoFromUs(us))).toBe(us);
    }),
    { numRuns: 2000, examples: [[0], [951_782_399_999_999], [951_868_799_999_999], [4_107_542_399_999_999]] },
  );
});

test('never says the same time twice', () => {
  expect(nowUs()).toBeLessThan(nowUs());
});
