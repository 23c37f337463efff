import { expect, test } from 'vitest';
import { type CloneNaming, cloneName, countedNames } from './clone-naming.ts';

const now = '2031-04-09T16:20:05.004210Z';

test.each<[CloneNaming, string, readonly string[], string]>([
  ['NONE', 'x_3', [], 'x_3'],
  ['COUNTER', 'x', [], 'x_1'],
  ['COUNTER', 'x', ['x_1', 'x_9', 'x_y', 'xx_20'], 'x_10'],
  ['COUNTER', 'x_4', [], 'x_5'],
  ['COUNTER', 'x-2030-01-01', [], 'x_1'],
  ['COUNTER', '_1', [], '_1_1'],
  ['DATE', 'x', [], 'x-2031-04-09'],
  ['DATE', 'x_2', [], 'x-2031-04-09'],
  ['DATE', 'x-2030-12-31', [], 'x-2031-04-09'],
  ['DATE', 'x-2031-04-09', [], 'x-2031-04-09_1'],
  ['DATE', 'x-2031-04-09_1', ['x-2031-04-09_4'], 'x-2031-04-09_5'],
  ['TIMESTAMP', 'x', [], 'x-2031-04-09 16:20:05'],
  ['TIMESTAMP', 'x-2030-12-31 00:00:00', [], 'x-2031-04-09 16:20:05'],
  ['TIMESTAMP', 'x-2031-04-09 16:20:05', [], 'x-2031-04-09 16:20:05_1'],
])('%s of %s beside %j is %s', (naming, source, taken, expected) => {
  expect(cloneName(source, naming, now, taken)).toBe(expected);
});

test('a counter is compared with names of the same start', () => {
  expect(countedNames('x-2030-01-01_7')).toBe('x');
  expect(countedNames('_1')).toBe('_1');
});
