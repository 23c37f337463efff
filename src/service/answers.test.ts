import { expect, it } from 'vitest';
import { Answers } from './answers.ts';

it('asks again for another key, and once the catalog has changed, also meanwhile', async () => {
  const catalog = { generation: 1 };
  const answers = new Answers<number>(catalog, 10);
  let asked = 0;
  const ask = async () => ++asked;
  expect([await answers.get('a', ask), await answers.get('a', ask), await answers.get('b', ask)]).toEqual([1, 1, 2]);
  catalog.generation++;
  expect(await answers.get('a', ask)).toBe(3);
  const late = answers.get('c', async () => {
    catalog.generation++;
    return ask();
  });
  expect([await late, await answers.get('c', ask)]).toEqual([4, 5]);
});
