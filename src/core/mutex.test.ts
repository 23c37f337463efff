import { describe, expect, test } from 'vitest';
import { KeyedMutex, Mutex } from './mutex.ts';

/** Work that ends when told to. */
function gate(): { promise: Promise<void>; open: () => void } {
  let open: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

const soon = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Mutex', () => {
  test('lets one in at a time, in the order they came', async () => {
    const lock = new Mutex();
    const log: string[] = [];
    const first = gate();
    const all = ['a', 'b', 'c'].map((name) =>
      lock.run(async () => {
        log.push(`${name} in`);
        if (name === 'a') await first.promise;
        log.push(`${name} out`);
      }),
    );
    await soon();
    expect(log).toEqual(['a in']);
    expect(lock.busy).toBe(true);
    first.open();
    await Promise.all(all);
    expect(log).toEqual(['a in', 'a out', 'b in', 'b out', 'c in', 'c out']);
    expect(lock.busy).toBe(false);
  });

  test('is released by work that throws, also at once', async () => {
    const lock = new Mutex();
    await expect(lock.run(async () => Promise.reject(new Error('late')))).rejects.toThrow('late');
    await expect(
      lock.run(() => {
        throw new Error('at once');
      }),
    ).rejects.toThrow('at once');
    expect(await lock.run(async () => 7)).toBe(7);
  });
});

describe('KeyedMutex', () => {
  test('keeps callers of a common key apart, and no others', async () => {
    const locks = new KeyedMutex<string>();
    const log: string[] = [];
    const hold = gate();
    const first = locks.run(['a', 'b'], () => hold.promise);
    await soon();
    const second = locks.run(['b', 'c'], async () => void log.push('bc'));
    const third = locks.run(['d'], async () => void log.push('d'));
    await third;
    expect(log).toEqual(['d']);
    expect(locks.isBusy('a')).toBe(true);
    hold.open();
    await Promise.all([first, second]);
    expect(log).toEqual(['d', 'bc']);
    expect(locks.isBusy('a')).toBe(false);
  });

  test('many callers of many keys in any order never lock each other up, and never meet', async () => {
    const locks = new KeyedMutex<number>();
    const inside = new Map<number, number>();
    let met = 0;
    const calls = Array.from({ length: 500 }, (_, i) =>
      locks.run([i % 7, (i * 3) % 11, (i * 5) % 7], async () => {
        const keys = new Set([i % 7, (i * 3) % 11, (i * 5) % 7]);
        for (const key of keys) {
          if ((inside.get(key) ?? 0) > 0) met++;
          inside.set(key, (inside.get(key) ?? 0) + 1);
        }
        if (i % 3 === 0) await soon();
        for (const key of keys) inside.set(key, (inside.get(key) ?? 0) - 1);
      }),
    );
    await Promise.all(calls);
    expect(met).toBe(0);
  });

  test('no keys, no lock', async () => {
    expect(await new KeyedMutex<string>().run([], async () => 1)).toBe(1);
  });
});
