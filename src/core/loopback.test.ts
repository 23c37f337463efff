import { expect, test } from 'vitest';
import { isLoopback } from './loopback.ts';

test('only addresses of this machine alone are loopback', () => {
  for (const host of ['localhost', '::1', '127.0.0.1', '127.9.0.1']) expect(isLoopback(host)).toBe(true);
  for (const host of ['0.0.0.0', '::', '192.0.2.10', '127.evil.example', 'example.org', '']) {
    expect(isLoopback(host)).toBe(false);
  }
});
