import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { lockDataDirectory } from './data-lock.ts';

const data = mkdtempSync(join(tmpdir(), 'calotype-lock-'));
afterAll(() => rmSync(data, { recursive: true }));

test('one server at a time; the holder is named; after release it is free', () => {
  const lock = lockDataDirectory(data);
  lock.describe({ url: 'http://127.0.0.1:7400/v1' });
  expect(() => lockDataDirectory(data)).toThrow(
    expect.objectContaining({
      code: 'data_in_use',
      message: expect.stringContaining(`process ${process.pid}, http://127.0.0.1:7400/v1`),
    }),
  );
  lock.release();
  lock.release();
  lockDataDirectory(data).release();
});

test('a killed server leaves nothing that needs a hand', async () => {
  const module = new URL('./data-lock.ts', import.meta.url);
  const code = `const { lockDataDirectory } = await import(${JSON.stringify(module)});
    const lock = lockDataDirectory(${JSON.stringify(data)}); lock.describe({}); console.log('held'); setInterval(() => lock, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  expect(() => lockDataDirectory(data)).toThrow(expect.objectContaining({ code: 'data_in_use' }));
  child.kill('SIGKILL');
  await once(child, 'exit');
  lockDataDirectory(data).release();
});
