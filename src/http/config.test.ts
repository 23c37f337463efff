import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { flagOf, helpText, readConfig, settings, variableOf } from './config.ts';

const directory = mkdtempSync(join(tmpdir(), 'calotype-config-'));
afterAll(() => rmSync(directory, { recursive: true }));

let files = 0;
function configFile(value: unknown): string {
  const path = join(directory, `c${files++}.json`);
  writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value));
  return path;
}

function failure(argv: string[], environment: Record<string, string> = {}): CalotypeError {
  try {
    readConfig(argv, environment);
  } catch (error) {
    if (error instanceof CalotypeError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

describe('readConfig', () => {
  test('has a default for everything that needs one', () => {
    expect(readConfig([], {})).toMatchObject({
      host: '127.0.0.1',
      portBase: 7400,
      maxImportBytes: 64 * 1024 ** 3,
      metricsPublic: false,
    });
    expect(readConfig([], {}).data).toBe(join(process.cwd(), 'data'));
  });

  test('a flag beats the environment, which beats the file', () => {
    const file = configFile({ portBase: 1000, host: '::1', logLevel: 'warn' });
    const environment = { CALOTYPE_PORT_BASE: '2000', CALOTYPE_HOST: '0.0.0.0', CALOTYPE_CONFIG: file };
    expect(readConfig(['--port-base', '3000'], environment)).toMatchObject({
      portBase: 3000,
      host: '0.0.0.0',
      logLevel: 'warn',
    });
    expect(readConfig(['--config', file], {})).toMatchObject({ portBase: 1000, host: '::1' });
  });

  test('paths in a file count from its directory, others from where the command runs', () => {
    mkdirSync(join(directory, 'sub'));
    const file = join('sub', 'c.json');
    writeFileSync(join(directory, file), '{"data": "there", "importDirectory": "/srv/images"}');
    expect(readConfig(['--config', join(directory, file)], {})).toMatchObject({
      data: join(directory, 'sub', 'there'),
      importDirectory: '/srv/images',
    });
    expect(readConfig([], { CALOTYPE_DATA: 'here' }).data).toBe(join(process.cwd(), 'here'));
  });

  test('sizes take units, lists take commas, a switch may stand alone', () => {
    expect(
      readConfig(['--max-import-bytes', '1.5GiB', '--trusted-proxies=10.0.0.0/8, ::1', '--metrics-public'], {}),
    ).toMatchObject({
      maxImportBytes: 1.5 * 1024 ** 3,
      trustedProxies: ['10.0.0.0/8', '::1'],
      metricsPublic: true,
    });
    expect(readConfig(['--config', configFile({ reserveBytes: '2MiB' })], {}).reserveBytes).toBe(2 * 1024 ** 2);
  });

  test.each([
    [['--port-base', 'many'], {}, '--port-base'],
    [['--port-base', '70000'], {}, '--port-base'],
    [['--port-base'], {}, '--port-base'],
    [['--port-base', '1', '--port-base', '2'], {}, '--port-base'],
    [['--no-such-flag', '1'], {}, '--no-such-flag'],
    [['stray'], {}, 'stray'],
    [[], { CALOTYPE_MAX_IMPORT_BYTES: '64 apples' }, 'CALOTYPE_MAX_IMPORT_BYTES'],
    [[], { CALOTYPE_METRICS_PUBLIC: 'maybe' }, 'CALOTYPE_METRICS_PUBLIC'],
    [[], { CALOTYPE_TRUSTED_PROXIES: '10.0.0.0/33' }, 'CALOTYPE_TRUSTED_PROXIES'],
    [[], { CALOTYPE_HIGH_WATER_PERCENT: '0' }, 'CALOTYPE_HIGH_WATER_PERCENT'],
    [[], { CALOTYPE_LOG_LEVEL: 'loud' }, 'CALOTYPE_LOG_LEVEL'],
    [[], { CALOTYPE_CONFIG: '/no/such/file' }, 'CALOTYPE_CONFIG'],
    [['--tls-cert', 'a.pem'], {}, '--tls-key'],
    [['--host', 'a b'], {}, '--host'],
    [['--cloudmc-service-code', 'connections'], {}, '--cloudmc-service-code'],
    [['--cloudmc-service-code', 'a/b'], {}, '--cloudmc-service-code'],
  ])('%j with %j is refused by name', (argv, environment: Record<string, string>, name) => {
    const error = failure(argv, environment);
    expect(error.code).toBe('config_invalid');
    expect(error.message.startsWith(`${name}: `)).toBe(true);
    expect(error.details.source).toBe(name);
  });

  test.each([
    [{ portBase: '7400' }, '"portBase"'],
    [{ prot: 1 }, '"prot"'],
    [{ trustedProxies: '10.0.0.0/8' }, '"trustedProxies"'],
    ['{', ''],
    ['[]', ''],
  ])('the file %j is refused by key', (value, name) => {
    const file = configFile(value);
    const error = failure(['--config', file]);
    expect(error.code).toBe('config_invalid');
    expect(error.message).toContain(name);
    expect(error.message).toContain(file);
  });

  test('--help names every flag', () => {
    for (const { key } of settings) expect(helpText()).toContain(`${flagOf(key)} `);
    expect(variableOf('portBase')).toBe('CALOTYPE_PORT_BASE');
  });
});
