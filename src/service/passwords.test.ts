import { scryptSync } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { checkNewPassword, hashPassword, needsRehash, verifyPassword } from './passwords.ts';
import { expectError } from './testing/identity.ts';

test('a password verifies against its hash, another one does not', async () => {
  const stored = await hashPassword('correct horse');
  expect(stored).toMatch(/^scrypt\$32768\$8\$1\$[\w-]{22}\$[\w-]{43}$/);
  expect(await verifyPassword('correct horse', stored)).toBe(true);
  expect(await verifyPassword('correct horsf', stored)).toBe(false);
  expect(await verifyPassword('', stored)).toBe(false);
  expect(await hashPassword('correct horse')).not.toBe(stored);
});

test('the same letters typed another way are the same password', async () => {
  const stored = await hashPassword('caf\u00e9 noir');
  expect(await verifyPassword('cafe\u0301 noir', stored)).toBe(true);
});

test('hashes made at another cost verify and ask to be made again', async () => {
  const salt = Buffer.from('0123456789abcdef');
  const hash = scryptSync('old password', salt, 32, { N: 1024, r: 8, p: 1 });
  const stored = `scrypt$1024$8$1$${salt.toString('base64url')}$${hash.toString('base64url')}`;
  expect(await verifyPassword('old password', stored)).toBe(true);
  expect(await verifyPassword('new password', stored)).toBe(false);
  expect(needsRehash(stored)).toBe(true);
  expect(needsRehash(await hashPassword('old password'))).toBe(false);
});

test.each([[''], ['scrypt'], ['plain:secret password'], ['scrypt$1024$8$1$$'], ['scrypt$99999999$8$1$AAAA$AAAA']])(
  'a stored text that is no hash of ours lets nobody in: %j',
  async (stored) => {
    expect(await verifyPassword('secret password', stored)).toBe(false);
    expect(needsRehash(stored)).toBe(true);
  },
);

test('without a user it says no after the same work', async () => {
  const stored = await hashPassword('correct horse');
  const time = async (against: string | null): Promise<number> => {
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      expect(await verifyPassword('guess number one', against)).toBe(false);
      times.push(performance.now() - start);
    }
    return Math.min(...times);
  };
  const known = await time(stored);
  const unknown = await time(null);
  expect(unknown).toBeGreaterThan(known / 2);
  expect(unknown).toBeLessThan(known * 2);
});

test('hashes are compared in constant time', async () => {
  const source = await readFile(new URL('./passwords.ts', import.meta.url), 'utf8');
  expect(source).toContain('timingSafeEqual(hash, against.hash)');
  expect(source).not.toMatch(/\.equals\(|hash ===/);
});

test('a new password has 8 characters to 1024 bytes', async () => {
  expect(checkNewPassword('12345678')).toBe('12345678');
  expect(checkNewPassword('x'.repeat(1024))).toHaveLength(1024);
  for (const bad of [
    '',
    '1234567',
    '\u{1F4F7}'.repeat(7),
    'x'.repeat(1025),
    '\u20ac'.repeat(342),
    'abcdefg\ud800',
    12345678,
  ]) {
    await expectError(() => checkNewPassword(bad), 'invalid_request', { field: 'password' });
  }
});

test('a password beyond the limit is refused without being hashed', async () => {
  const stored = await hashPassword('correct horse');
  const start = performance.now();
  for (let i = 0; i < 100; i++) expect(await verifyPassword('x'.repeat(100_000), stored)).toBe(false);
  expect(performance.now() - start).toBeLessThan(1000);
});
