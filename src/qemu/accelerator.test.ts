import { access, constants, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { bootsWith, chooseAccelerator } from './accelerator.ts';
import { circumstances, recordRefusal, wasRefused } from './accelerator-record.ts';

let directory = '';
let record = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calotype-accelerator-'));
  record = join(directory, 'accelerator.json');
});
afterEach(async () => {
  vi.useRealTimers();
  await rm(directory, { recursive: true });
});

test('the guest of the proof comes to life under emulation', async () => {
  expect(await bootsWith('tcg')).toBe(true);
});

test('what is chosen runs guests', async () => {
  const { accelerator, reason } = await chooseAccelerator();
  expect(reason).not.toBe('');
  expect(await bootsWith(accelerator)).toBe(true);
});

test('a refusal is remembered for a day, under the same circumstances', async () => {
  const now = 'boot-1 QEMU 7.2 kvm-1';
  expect(await wasRefused(record, now)).toBe(false);
  await recordRefusal(record, now);
  expect(await wasRefused(record, now)).toBe(true);
  expect(await wasRefused(record, 'boot-2 QEMU 7.2 kvm-1')).toBe(false);
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 25 * 3600 * 1000 });
  expect(await wasRefused(record, now)).toBe(false);
  vi.setSystemTime(0);
  expect(await wasRefused(record, now)).toBe(false);
});

test('a record that is damaged, or of another form, counts as none; one that cannot be written is done without', async () => {
  for (const text of [
    '',
    '{',
    'null',
    '[]',
    '{"circumstances": "x"}',
    '{"format": "other", "circumstances": "x", "at": 1}',
  ]) {
    await writeFile(record, text);
    expect(await wasRefused(record, 'x')).toBe(false);
  }
  await recordRefusal(join(directory, 'none', 'accelerator.json'), 'x');
});

test('a choice takes the record for the proof, and writes one when the proof fails', async () => {
  const usable = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!usable) return expect(await chooseAccelerator(record)).toMatchObject({ accelerator: 'tcg' });
  const { accelerator } = await chooseAccelerator(record);
  const written = await stat(record).catch(() => null);
  expect(written === null).toBe(accelerator === 'kvm');
  await recordRefusal(record, await circumstances());
  const before = await readFile(record, 'utf8');
  expect(await chooseAccelerator(record)).toMatchObject({
    accelerator: 'tcg',
    reason: expect.stringMatching(/earlier/),
  });
  expect(await readFile(record, 'utf8')).toBe(before);
});
