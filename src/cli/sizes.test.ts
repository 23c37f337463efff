import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CliError } from './errors.ts';
import { formatAge, formatDuration, formatSize, parseDuration, parseSize, parseTime } from './sizes.ts';

describe('parseSize', () => {
  it.each([
    ['0', 0],
    ['4096', 4096],
    ['10G', 10 * 2 ** 30],
    ['10 GiB', 10 * 2 ** 30],
    ['512MiB', 512 * 2 ** 20],
    ['512m', 512 * 2 ** 20],
    ['1.5T', 1.5 * 2 ** 40],
    ['1KB', 1000],
    ['10GB', 10e9],
    ['1.1T', Math.floor((11 * 2 ** 40) / 10)],
    ['3B', 3],
  ])('%s is %i', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(['', 'G', '-1G', '1,5G', '10Q', '1.5', '1e3', '0x10', '9999999P', '1G1M', 'NaN'])(
    'refuses %s as a usage error',
    (text) => {
      expect(() => parseSize(text)).toThrow(CliError);
      expect(() => parseSize(text)).toThrow(expect.objectContaining({ exitCode: 2 }));
    },
  );

  it('reads whole units back exactly', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1023 }), fc.constantFrom('KiB', 'MiB', 'GiB', 'TiB'), (n, unit) => {
        expect(formatSize(parseSize(`${n}${unit}`))).toBe(`${n} ${unit}`);
      }),
    );
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.50 KiB'],
    [12.34 * 2 ** 30, '12.3 GiB'],
    [123.4 * 2 ** 20, '123 MiB'],
    [2 ** 20 - 1, '1.00 MiB'],
    [1.5 * 2 ** 40, '1.50 TiB'],
    [-4096, '-4 KiB'],
  ])('%d is %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });

  it('never needs more than eight characters, nor shows 1024 of a unit', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }), (bytes) => {
        expect(formatSize(bytes).length).toBeLessThanOrEqual(8);
        expect(formatSize(bytes)).not.toMatch(/^1024/);
      }),
    );
  });
});

describe('times', () => {
  const now = Date.parse('2031-04-09T16:20:05Z');
  it.each([
    [5, '5s'],
    [119, '119s'],
    [120, '2m'],
    [7199, '119m'],
    [7200, '2h'],
    [3 * 86400, '3d'],
    [70 * 86400, '10w'],
    [800 * 86400, '2y'],
    [-60, '0s'],
  ])('%i seconds ago is %s', (seconds, text) => {
    expect(formatAge(new Date(now - seconds * 1000).toISOString(), now)).toBe(text);
  });

  it('writes durations', () => {
    expect([0, 7, 750, 11045].map(formatDuration)).toEqual(['0:00', '0:07', '12:30', '3:04:05']);
  });

  it('reads durations and times', () => {
    expect(parseDuration('12h')).toBe(43_200);
    expect(() => parseDuration('12')).toThrow(CliError);
    expect(parseTime('2h', now)).toBe('2031-04-09T14:20:05.000Z');
    expect(parseTime('1d', now, 1)).toBe('2031-04-10T16:20:05.000Z');
    expect(parseTime('2031-04-09', now)).toBe('2031-04-09T00:00:00.000Z');
    // Microseconds are not lost.
    expect(parseTime('2031-04-09T16:20:05.004210Z', now)).toBe('2031-04-09T16:20:05.004210Z');
    expect(() => parseTime('yesterday', now)).toThrow(CliError);
  });
});
