import { expect, test } from 'vitest';
import { errorOf, expectError } from './testing/identity.ts';
import { addressKey, LoginThrottle } from './throttle.ts';

function makeThrottle(capacity?: number) {
  const clock = { ms: 0 };
  const throttle = new LoginThrottle({ now: () => clock.ms, ...(capacity === undefined ? {} : { capacity }) });
  return { clock, throttle };
}

test('an account has five failures free, then waits 1, 2, 4 … 60 seconds', async () => {
  const { clock, throttle } = makeThrottle();
  for (let i = 0; i < 4; i++) throttle.failAccount('ann');
  throttle.checkAccount('ann');
  const waits: unknown[] = [];
  for (let i = 0; i < 9; i++) {
    throttle.failAccount('ann');
    const error = await errorOf(() => throttle.checkAccount('ann'));
    expect(error.code).toBe('too_many_logins');
    const seconds = Number(error.details.retryAfterSeconds);
    waits.push(seconds);
    clock.ms += seconds * 1000 - 1;
    await expectError(() => throttle.checkAccount('ann'), 'too_many_logins', { retryAfterSeconds: 1 });
    clock.ms += 1;
    throttle.checkAccount('ann');
  }
  expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
});

test('one account does not slow another', () => {
  const { throttle } = makeThrottle();
  for (let i = 0; i < 20; i++) throttle.failAccount('ann');
  throttle.checkAccount('bob');
});

test('success lets the account start afresh, not the address', async () => {
  const { throttle } = makeThrottle();
  for (let i = 0; i < 5; i++) {
    throttle.failAccount('ann');
    throttle.failAddress('192.0.2.1', `guess ${i}`);
  }
  throttle.succeed('ann');
  throttle.checkAccount('ann');
  await expectError(() => throttle.checkAddress('192.0.2.1'), 'too_many_logins');
  throttle.checkAddress('192.0.2.2');
});

test('the same wrong credentials again are no new guess of the address', async () => {
  const { clock, throttle } = makeThrottle();
  for (let i = 0; i < 100; i++) {
    throttle.failAddress('192.0.2.1', 'stale script');
    clock.ms += 1000;
  }
  throttle.checkAddress('192.0.2.1');
  for (let i = 0; i < 4; i++) throttle.failAddress('192.0.2.1', `guess ${i}`);
  await expectError(() => throttle.checkAddress('192.0.2.1'), 'too_many_logins');
});

test('failures are forgotten after a quarter of an hour', () => {
  const { clock, throttle } = makeThrottle();
  for (let i = 0; i < 5; i++) throttle.failAccount('ann');
  clock.ms += 15 * 60_000;
  for (let i = 0; i < 4; i++) throttle.failAccount('ann');
  throttle.checkAccount('ann');
});

test('memory is bounded; those heard of last are kept', async () => {
  const { throttle } = makeThrottle(100);
  for (let i = 0; i < 10_000; i++) {
    throttle.failAccount('ann');
    throttle.failAccount(`user ${i}`);
  }
  await expectError(() => throttle.checkAccount('ann'), 'too_many_logins');
  throttle.failAccount('user 0');
  throttle.checkAccount('user 0');
});

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:DB8:1:2::9', '2001:db8:1:2'],
  ['2001:0db8:0001:0002::1', '2001:db8:1:2'],
  ['2001:db8::1', '2001:db8:0:0'],
  ['64:ff9b::192.0.2.7', '64:ff9b:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
  ['::1', '0:0:0:0'],
  ['::', '0:0:0:0'],
  ['unix', 'unix'],
])('address %s counts as %s', (address, key) => {
  expect(addressKey(address)).toBe(key);
});
