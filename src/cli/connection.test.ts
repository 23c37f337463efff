import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { findConnection } from './connection.ts';

const directory = mkdtempSync(join(tmpdir(), 'calotype-cli-'));
afterAll(() => rmSync(directory, { recursive: true }));
writeFileSync(
  join(directory, 'access.json'),
  JSON.stringify({ token: 'from-file', project: 'default', endpoints: { native: 'http://127.0.0.1:7400/v1' } }),
);
const inEnvironment = { CALOTYPE_URL: 'http://env:1', CALOTYPE_TOKEN: 'from-env' };
const summary = (...args: Parameters<typeof findConnection>) => {
  const { baseUrl, token } = findConnection(...args);
  return `${baseUrl.href} ${token}`;
};

describe('findConnection', () => {
  it('reads the access file of a data directory, by flag or environment', () => {
    expect(summary({ data: directory }, {})).toBe('http://127.0.0.1:7400/v1 from-file');
    expect(summary({}, { CALOTYPE_DATA: directory })).toBe('http://127.0.0.1:7400/v1 from-file');
  });

  it('takes the environment before the default, and flags before the environment', () => {
    expect(summary({}, inEnvironment)).toBe('http://env:1/v1 from-env');
    expect(summary({ data: directory }, inEnvironment)).toBe('http://127.0.0.1:7400/v1 from-file');
    expect(summary({ url: 'https://flag:2/', token: 't' }, inEnvironment)).toBe('https://flag:2/v1 t');
    expect(summary({ url: 'http://flag:2/v1/' }, inEnvironment)).toBe('http://flag:2/v1 from-env');
    expect(summary({ data: directory, token: 't' }, {})).toBe('http://127.0.0.1:7400/v1 t');
    expect(summary({ url: 'http://flag/below/' }, inEnvironment)).toBe('http://flag/below/v1 from-env');
  });

  it('sends the token of a file only to the server of that file, or where the user says so', () => {
    const env = { CALOTYPE_DATA: directory };
    expect(summary({ url: 'http://127.0.0.1:7400' }, env)).toBe('http://127.0.0.1:7400/v1 from-file');
    expect(() => findConnection({ url: 'http://elsewhere' }, env)).toThrow(
      expect.objectContaining({ code: 'no_token', exitCode: 5 }),
    );
    expect(summary({ url: 'http://elsewhere', data: directory }, {})).toBe('http://elsewhere/v1 from-file');
  });

  it('says what to do when there is no access file', () => {
    const call = () => findConnection({ data: join(directory, 'none') }, {});
    expect(call).toThrow(
      expect.objectContaining({ code: 'no_access_file', exitCode: 6, remedy: expect.stringContaining('--data') }),
    );
  });

  it('refuses a damaged access file, a wrong address and a missing certificate', () => {
    const damaged = mkdtempSync(join(directory, 'damaged-'));
    writeFileSync(join(damaged, 'access.json'), '{');
    expect(() => findConnection({ data: damaged }, {})).toThrow(
      expect.objectContaining({ code: 'access_file_invalid' }),
    );
    expect(() => findConnection({ url: 'host:7400', token: 't' }, {})).toThrow(
      expect.objectContaining({ exitCode: 2 }),
    );
    expect(() => findConnection({ data: directory, cacert: '/nowhere.pem' }, {})).toThrow(
      expect.objectContaining({ exitCode: 2 }),
    );
  });

  it('knows the project by flag or environment', () => {
    expect(findConnection({ data: directory }, {}).project).toBe(null);
    expect(findConnection({ data: directory }, { CALOTYPE_PROJECT: 'a' }).project).toBe('a');
    expect(findConnection({ data: directory, project: 'b' }, { CALOTYPE_PROJECT: 'a' }).project).toBe('b');
  });
});
