import { expect, test } from 'vitest';
import { bootsWith, chooseAccelerator } from './accelerator.ts';

test('the guest of the proof comes to life under emulation', async () => {
  expect(await bootsWith('tcg')).toBe(true);
});

test('what is chosen runs guests', async () => {
  const { accelerator, reason } = await chooseAccelerator();
  expect(reason).not.toBe('');
  expect(await bootsWith(accelerator)).toBe(true);
});
