import { describe, expect, it } from 'vitest';
import { ProgressMeter } from './progress.ts';

function meter(total = 1000): { meter: ProgressMeter; at: (ms: number) => void } {
  let now = 0;
  const made = new ProgressMeter({ done: 0, total, unit: 'bytes' }, () => now);
  return {
    meter: made,
    at: (ms) => {
      now = ms;
    },
  };
}

describe('progress', () => {
  it('tells rate and estimate over the last seconds', () => {
    const { meter: m, at } = meter();
    m.set(0, 1000);
    at(1000);
    m.set(100, 1000);
    at(2000);
    m.set(200, 1000);
    expect(m.read()).toEqual({ done: 200, total: 1000, unit: 'bytes', ratePerSecond: 100, estimateSeconds: 8 });
  });

  it('forgets what was long ago', () => {
    const { meter: m, at } = meter(100_000);
    for (let s = 0; s <= 20; s++) {
      at(s * 1000);
      m.set(s <= 10 ? s * 1000 : 10_000 + (s - 10) * 10, 100_000);
    }
    expect(m.read().ratePerSecond).toBe(10);
  });

  it('knows no rate at first, and none after a pause', () => {
    const { meter: m, at } = meter();
    m.set(0, 1000);
    expect(m.read()).toMatchObject({ ratePerSecond: null, estimateSeconds: null });
    at(1000);
    m.set(500, 1000);
    m.restart();
    expect(m.read().ratePerSecond).toBeNull();
  });

  it('stands totals of nothing, and totals that turn out too small', () => {
    const { meter: m, at } = meter(0);
    at(1000);
    m.set(0, 0);
    expect(m.read()).toMatchObject({ done: 0, total: 0, estimateSeconds: null });
    m.set(50, 10);
    expect(m.read()).toMatchObject({ done: 50, total: 50 });
  });
});
