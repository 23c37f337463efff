/**
 * Settings of the server: a flag beats the environment, which beats the configuration file, which beats the default.
 * Each setting is one row of `settings` below; --help, docs and parsing follow from it. Reads the environment it is given and one file.
 */
import { readFileSync } from 'node:fs';
import { BlockList, isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import Type, { type Static, type TSchema } from 'typebox';
import { Check } from 'typebox/schema';
import { CalotypeError } from '../core/errors.ts';
import { dialectNames } from '../dialects/dialect.ts';

const GiB = 1024 ** 3;
const bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const path = Type.String({ minLength: 1, pattern: '^[^\\u0000]+$' });

const configSchema = Type.Object({
  data: path,
  host: Type.String({ minLength: 1, maxLength: 255, pattern: '^[0-9A-Za-z.:_%-]+$' }),
  portBase: Type.Integer({ minimum: 0, maximum: 65_530 }),
  tlsCert: Type.Optional(path),
  tlsKey: Type.Optional(path),
  importDirectory: Type.Optional(path),
  bootDirectory: Type.Optional(path),
  maxImportBytes: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }),
  maxDriveBytes: Type.Integer({ minimum: 1024 ** 2, maximum: Number.MAX_SAFE_INTEGER }),
  highWaterPercent: Type.Number({ exclusiveMinimum: 0, maximum: 100 }),
  minFreeBytes: bytes,
  reserveBytes: bytes,
  trustedProxies: Type.Array(Type.String({ minLength: 1 })),
  dialects: Type.Array(Type.Enum([...dialectNames])),
  // In a path beside `connections`, which is the list of them.
  cloudmcServiceCode: Type.String({ pattern: '^(?!connections$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}$' }),
  logLevel: Type.Enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']),
  metricsPublic: Type.Boolean(),
});

export type Config = Readonly<Static<typeof configSchema>>;
type Key = keyof Config;

interface Setting {
  readonly key: Key;
  readonly kind: 'text' | 'path' | 'integer' | 'number' | 'bytes' | 'boolean' | 'list';
  /** What a valid value is, for error messages and help. */
  readonly takes: string;
  readonly help: string;
  readonly fallback?: Config[Key];
}

export const settings: readonly Setting[] = [
  { key: 'data', kind: 'path', takes: 'a directory', help: 'where everything is kept', fallback: './data' },
  { key: 'host', kind: 'text', takes: 'a host name or address', help: 'address to listen on', fallback: '127.0.0.1' },
  {
    key: 'portBase',
    kind: 'integer',
    takes: 'a whole number from 0 to 65530',
    help: 'first port; 0 picks free ones',
    fallback: 7400,
  },
  { key: 'tlsCert', kind: 'path', takes: 'a file', help: 'certificate chain (PEM); read again on SIGHUP' },
  { key: 'tlsKey', kind: 'path', takes: 'a file', help: 'private key of the certificate (PEM)' },
  {
    key: 'importDirectory',
    kind: 'path',
    takes: 'a directory',
    help: 'images in it may be imported by name; none when not set',
  },
  {
    key: 'bootDirectory',
    kind: 'path',
    takes: 'a directory',
    help: 'kernels in it may be named by machines; default DATA/boot',
  },
  {
    key: 'maxImportBytes',
    kind: 'bytes',
    takes: 'a size such as 64GiB',
    help: 'largest image accepted',
    fallback: 64 * GiB,
  },
  {
    key: 'maxDriveBytes',
    kind: 'bytes',
    takes: 'a size of at least 1MiB',
    help: 'largest drive',
    fallback: 64 * 1024 * GiB,
  },
  {
    key: 'highWaterPercent',
    kind: 'number',
    takes: 'a number above 0, up to 100',
    help: 'creates are refused when the disk is fuller',
    fallback: 99,
  },
  {
    key: 'minFreeBytes',
    kind: 'bytes',
    takes: 'a size such as 1GiB',
    help: 'creates are refused when less is free',
    fallback: GiB / 2,
  },
  {
    key: 'reserveBytes',
    kind: 'bytes',
    takes: 'a size such as 128MiB',
    help: 'set aside on disk; only deletes may use it',
    fallback: GiB / 8,
  },
  {
    key: 'trustedProxies',
    kind: 'list',
    takes: 'addresses or networks (10.0.0.0/8), separated by commas',
    help: 'whose X-Forwarded-* headers are believed',
    fallback: [],
  },
  {
    key: 'dialects',
    kind: 'list',
    takes: `some of ${dialectNames.join(', ')}, separated by commas, or none`,
    help: 'the APIs of other systems to serve, each on its port',
    fallback: [...dialectNames],
  },
  {
    key: 'cloudmcServiceCode',
    kind: 'text',
    takes: 'letters, digits, dashes and underscores, but not connections',
    help: 'service code in the paths of CloudMC',
    fallback: 'compute',
  },
  {
    key: 'logLevel',
    kind: 'text',
    takes: 'trace, debug, info, warn, error or silent',
    help: 'least level that is logged',
    fallback: 'info',
  },
  {
    key: 'metricsPublic',
    kind: 'boolean',
    takes: 'true or false',
    help: 'serve /metrics to anybody, not only to loopback and operators',
    fallback: false,
  },
];

export const flagOf = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
export const variableOf = (key: string): string => `CALOTYPE_${key.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase()}`;

const units: Readonly<Record<string, number>> = { '': 1, kib: 1024, mib: 1024 ** 2, gib: GiB, tib: 1024 * GiB };

/** What a text means for a kind of setting; undefined when it cannot be read as one. */
function readText(kind: Setting['kind'], text: string): unknown {
  switch (kind) {
    case 'text':
    case 'path':
      return text;
    case 'integer':
      return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
    case 'number':
      return /^\d{1,15}(\.\d+)?$/.test(text) ? Number(text) : undefined;
    case 'bytes': {
      const match = /^(\d{1,15}(?:\.\d+)?)\s*([kmgt]ib)?$/i.exec(text);
      return match === null ? undefined : Math.round(Number(match[1]) * (units[(match[2] ?? '').toLowerCase()] ?? 1));
    }
    case 'boolean':
      return /^(true|yes|1)$/i.test(text) ? true : /^(false|no|0)$/i.test(text) ? false : undefined;
    case 'list':
      return text
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== '' && item !== 'none');
  }
}

function invalid(source: string, message: string): CalotypeError {
  return new CalotypeError('config_invalid', `${source}: ${message}`, { source });
}

function checkSetting(setting: Setting, value: unknown, source: string, shown: unknown): void {
  const schema: TSchema = configSchema.properties[setting.key];
  if (value === undefined || !Check(schema, value)) {
    throw invalid(source, `${JSON.stringify(shown)} is not valid; it takes ${setting.takes}.`);
  }
  if (setting.key === 'trustedProxies' && Array.isArray(value)) {
    for (const item of value)
      if (!isNetwork(String(item))) throw invalid(source, `"${item}" is not an IP address or network.`);
  }
}

function isNetwork(text: string): boolean {
  const [address = '', prefix, more] = text.split('/');
  const family = isIP(address);
  if (family === 0 || more !== undefined) return false;
  if (prefix === undefined) return true;
  try {
    if (!/^\d{1,3}$/.test(prefix)) return false;
    new BlockList().addSubnet(address, Number(prefix), family === 6 ? 'ipv6' : 'ipv4');
    return true;
  } catch {
    return false;
  }
}

/** Flags as key and text. A flag may be given as `--flag value` or `--flag=value`; a boolean one may stand alone. */
function readFlags(argv: readonly string[]): Map<string, string> {
  const known = new Map(settings.map((s) => [flagOf(s.key), s]));
  const found = new Map<string, string>();
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? '';
    const [flag = '', ...rest] = word.split('=');
    const inline = rest.length > 0 ? rest.join('=') : undefined;
    const setting = known.get(flag);
    if (setting === undefined && flag !== '--config') {
      throw invalid(flag.startsWith('-') ? flag : word, 'there is no such flag; `calotype serve --help` lists them.');
    }
    let value = inline;
    if (value === undefined) {
      const next = argv[i + 1];
      if (next !== undefined && !next.startsWith('--')) {
        value = next;
        i++;
      } else if (setting?.kind === 'boolean') value = 'true';
      else throw invalid(flag, `a value is missing; it takes ${setting?.takes ?? 'a file'}.`);
    }
    const key = setting?.key ?? 'config';
    if (found.has(key) && setting?.kind !== 'list') throw invalid(flag, 'it is given twice.');
    found.set(key, found.has(key) ? `${found.get(key)},${value}` : value);
  }
  return found;
}

function readFile(file: string, source: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw invalid(
      source,
      `the file ${file} cannot be read (${cause instanceof Error ? cause.message : String(cause)}).`,
    );
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw invalid(file, `it is not valid JSON (${cause instanceof Error ? cause.message : String(cause)}).`);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw invalid(file, 'it must hold a JSON object.');
  const keys = new Set<string>(settings.map((s) => s.key));
  const values: Record<string, unknown> = { ...parsed };
  for (const key of Object.keys(values)) {
    if (!keys.has(key)) throw invalid(`"${key}" in ${file}`, 'there is no such setting.');
  }
  return values;
}

/**
 * @param environment usually process.env
 * @throws CalotypeError `config_invalid`, naming the flag, variable or key
 */
export function readConfig(argv: readonly string[], environment: Readonly<Record<string, string | undefined>>): Config {
  const flags = readFlags(argv);
  const fromEnvironment = (key: string): string | undefined => environment[variableOf(key)] || undefined;
  const file = flags.get('config') ?? fromEnvironment('config');
  const fileValues =
    file === undefined ? {} : readFile(resolve(file), flags.has('config') ? '--config' : variableOf('config'));
  const fileDirectory = file === undefined ? '' : dirname(resolve(file));

  const values: Record<string, unknown> = {};
  for (const setting of settings) {
    const { key, kind } = setting;
    const text = flags.get(key) ?? fromEnvironment(key);
    let value: unknown;
    let base = process.cwd();
    if (text !== undefined) {
      value = readText(kind, text);
      checkSetting(setting, value, flags.has(key) ? flagOf(key) : variableOf(key), text);
    } else if (Object.hasOwn(fileValues, key)) {
      const given = fileValues[key];
      value = kind === 'bytes' && typeof given === 'string' ? readText(kind, given) : given;
      checkSetting(setting, value, `"${key}" in ${file}`, given);
      base = fileDirectory;
    } else value = setting.fallback;
    if (value === undefined) continue;
    values[key] = kind === 'path' && typeof value === 'string' ? resolve(base, value) : value;
  }
  if (!isConfig(values)) throw invalid('configuration', 'it is not complete.');
  if ((values.tlsCert === undefined) !== (values.tlsKey === undefined)) {
    const missing = values.tlsCert === undefined ? 'tlsCert' : 'tlsKey';
    throw invalid(flagOf(missing), 'a certificate and its key go together; this one is missing.');
  }
  return values;
}

function isConfig(values: unknown): values is Config {
  return Check(configSchema, values);
}

export function helpText(): string {
  const rows = [
    ['--config FILE', 'settings as a JSON object, keys as listed (portBase, …); paths in it count from its directory'],
    [
      '--reset-password USER',
      'instead of starting: gives a user a new password, prints it and ends; for a stopped server',
    ],
    ...settings.map((s) => [
      `${flagOf(s.key)} ${valueWord(s.kind)}`,
      `${s.help}${s.fallback === undefined || (Array.isArray(s.fallback) && s.fallback.length === 0) ? '' : ` (${showFallback(s)})`}`,
    ]),
  ];
  const width = Math.max(...rows.map(([left = '']) => left.length)) + 2;
  return [
    'calotype serve: starts the server',
    '',
    'A flag beats the environment (CALOTYPE_DATA, CALOTYPE_PORT_BASE, …), which beats the configuration file.',
    '',
    ...rows.map(([left = '', right = '']) => `  ${left.padEnd(width)}${right}`),
    '',
    'Exit codes: 0 stopped on request, 1 unexpected failure, 2 configuration, 3 environment (QEMU missing or too',
    'old, no space, no permission), 4 data directory in use, 5 catalog too new or damaged.',
    '',
  ].join('\n');
}

function valueWord(kind: Setting['kind']): string {
  return {
    text: 'TEXT',
    path: 'PATH',
    integer: 'N',
    number: 'N',
    bytes: 'SIZE',
    boolean: '[true|false]',
    list: 'LIST',
  }[kind];
}

function showFallback(setting: Setting): string {
  const value = setting.fallback;
  if (setting.kind !== 'bytes' || typeof value !== 'number') return String(value);
  const unit = (['tib', 'gib', 'mib'] as const).find((u) => value % (units[u] ?? 1) === 0) ?? '';
  return `${value / (units[unit] ?? 1)}${unit === '' ? '' : `${unit[0]?.toUpperCase()}iB`}`;
}
