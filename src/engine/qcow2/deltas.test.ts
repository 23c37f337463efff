import fc from 'fast-check';
import { expect, test } from 'vitest';
import { normalizeExtents } from '../../core/extents.ts';
import { bytesByNewest } from './deltas.ts';

const size = 48;
const list = fc.array(
  fc
    .tuple(fc.nat(size - 1), fc.integer({ min: 1, max: 16 }))
    .map(([start, length]) => ({ start, length: Math.min(length, size - start) })),
  { maxLength: 6 },
);

test('each byte counts for the newest list that covers it', () => {
  fc.assert(
    fc.property(fc.array(list, { maxLength: 8 }), (lists) => {
      const wanted = lists.map(() => 0);
      for (let at = 0; at < size; at++) {
        const newest = lists.findIndex((one) => one.some((e) => at >= e.start && at < e.start + e.length));
        if (newest >= 0) wanted[newest] = (wanted[newest] ?? 0) + 1;
      }
      expect(bytesByNewest(lists.map(normalizeExtents))).toEqual(wanted);
    }),
  );
});
