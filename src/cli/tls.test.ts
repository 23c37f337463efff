import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runCli } from '../../test/fake-native-api.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'calotype-tls-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

it('makes a certificate for the hosts named and a key that only its owner can read', async () => {
  const out = join(directory, 'new', 'tls');
  const outcome = await runCli([
    'tls',
    'self-signed',
    '--out',
    out,
    '--host',
    'example.test',
    '--host',
    '192.0.2.7',
    '--host',
    '2001:db8::7',
    '--days',
    '30',
    '--json',
  ]);
  expect(outcome.code).toBe(0);
  const certificate = new X509Certificate(readFileSync(join(out, 'cert.pem')));
  expect(JSON.parse(outcome.stdout)).toMatchObject({
    hosts: ['example.test', '192.0.2.7', '2001:db8::7'],
    fingerprint: certificate.fingerprint256,
  });
  expect(certificate.checkHost('example.test')).toBe('example.test');
  expect(certificate.checkHost('other.test')).toBe(undefined);
  expect(certificate.checkIP('192.0.2.7')).toBe('192.0.2.7');
  expect(certificate.checkIP('2001:db8::7')).toBe('2001:db8::7');
  expect(certificate.verify(certificate.publicKey)).toBe(true);
  const days = (Date.parse(certificate.validTo) - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(29.9);
  expect(days).toBeLessThan(30.1);
  expect(statSync(join(out, 'key.pem')).mode & 0o777).toBe(0o600);
});

it('covers this machine and localhost by default, and replaces nothing unless told to', async () => {
  expect((await runCli(['tls', 'self-signed', '--out', directory])).code).toBe(0);
  const before = readFileSync(join(directory, 'cert.pem'), 'utf8');
  expect(new X509Certificate(before).checkIP('127.0.0.1')).toBe('127.0.0.1');
  expect(new X509Certificate(before).checkHost('localhost')).toBe('localhost');
  expect(await runCli(['tls', 'self-signed', '--out', directory])).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('--force'),
  });
  expect(readFileSync(join(directory, 'cert.pem'), 'utf8')).toBe(before);
  expect((await runCli(['tls', 'self-signed', '--out', directory, '--force'])).code).toBe(0);
  expect(readFileSync(join(directory, 'cert.pem'), 'utf8')).not.toBe(before);
  expect(readdirSync(directory).sort()).toEqual(['cert.pem', 'key.pem']);
});
