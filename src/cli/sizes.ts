/** Sizes, rates, durations and ages, read from and written for people. Pure. */
import { usageError } from './errors.ts';

const factors: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 2 ** 10,
  kib: 2 ** 10,
  kb: 1e3,
  m: 2 ** 20,
  mib: 2 ** 20,
  mb: 1e6,
  g: 2 ** 30,
  gib: 2 ** 30,
  gb: 1e9,
  t: 2 ** 40,
  tib: 2 ** 40,
  tb: 1e12,
  p: 2 ** 50,
  pib: 2 ** 50,
  pb: 1e15,
};

/** `10G`, `512MiB`, `1.5T` (powers of 1024), `10GB` (powers of 1000), `4096`. Whole bytes only. */
export function parseSize(text: string, what = 'size'): number {
  const match = /^(\d+)(?:\.(\d+))?\s*([a-z]*)$/i.exec(text.trim());
  const factor = match === null ? undefined : factors[(match[3] ?? '').toLowerCase()];
  if (match === null || factor === undefined) {
    throw usageError(
      `'${text}' is not a ${what}.`,
      'Write it as 10G, 512MiB, 1.5T (powers of 1024), 10GB (powers of 1000) or in bytes.',
    );
  }
  // In integers: 1.1T as a double would be a fraction of a byte off.
  const fraction = match[2] ?? '';
  const scaled = BigInt(`${match[1]}${fraction}`) * BigInt(factor);
  const divisor = 10n ** BigInt(fraction.length);
  if (factor === 1 && scaled % divisor !== 0n) throw usageError(`'${text}' is not a whole number of bytes.`);
  const bytes = scaled / divisor;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw usageError(`'${text}' is too large a ${what}.`);
  return Number(bytes);
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** About three digits, powers of 1024: `0 B`, `1 GiB`, `1.50 TiB`, `12.3 GiB`, `512 MiB`. */
export function formatSize(bytes: number): string {
  let value = Math.abs(bytes);
  let unit = 0;
  while (unit < units.length - 1 && value >= 1023.5) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || Number.isInteger(value) ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${bytes < 0 ? '-' : ''}${value.toFixed(digits)} ${units[unit] ?? ''}`;
}

export function formatRate(perSecond: number, unit: 'bytes' | 'steps'): string {
  return unit === 'bytes' ? `${formatSize(perSecond)}/s` : `${perSecond.toFixed(1)}/s`;
}

/** `0:07`, `12:30`, `3:04:05`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** How long ago, in its largest unit: `5s`, `12m`, `3h`, `9d`, `8w`, `2y`. A clock ahead of ours gives `0s`. */
export function formatAge(iso: string, now: number): string {
  const seconds = Math.max(0, Math.floor((now - Date.parse(iso)) / 1000));
  if (Number.isNaN(seconds)) return iso;
  const steps: readonly (readonly [number, number, string])[] = [
    [120, 1, 's'],
    [2 * 3600, 60, 'm'],
    [2 * 86400, 3600, 'h'],
    [60 * 86400, 86400, 'd'],
    [2 * 365 * 86400, 7 * 86400, 'w'],
  ];
  for (const [below, divisor, unit] of steps) {
    if (seconds < below) return `${Math.floor(seconds / divisor)}${unit}`;
  }
  return `${Math.floor(seconds / (365.25 * 86400))}y`;
}

/** `90s`, `15m`, `12h`, `30d`, `6w`, `1y`, in seconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+)(s|m|h|d|w|y)$/.exec(text.trim());
  const unit = { s: 1, m: 60, h: 3600, d: 86400, w: 604800, y: 365 * 86400 }[match?.[2] ?? ''];
  if (match === null || unit === undefined)
    throw usageError(`'${text}' is not a duration.`, 'Write it as 90s, 15m, 12h, 30d, 6w or 1y.');
  return Number(match[1]) * unit;
}

/** An ISO time as given, or a duration counted back from now. */
export function parseTime(text: string, now: number, direction: -1 | 1 = -1): string {
  if (/^\d+[smhdwy]$/.test(text)) return new Date(now + direction * parseDuration(text) * 1000).toISOString();
  const time = Date.parse(text);
  if (Number.isNaN(time))
    throw usageError(
      `'${text}' is not a time.`,
      'Write it as 2031-04-09, 2031-04-09T16:20:00Z, or as a duration such as 12h.',
    );
  return /\.\d{4,}Z$/.test(text) ? text : new Date(time).toISOString();
}

export function parseInteger(text: string, what: string, minimum: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value) || value < minimum) {
    throw usageError(`'${text}' is not a valid ${what}.`, `Give a whole number, ${minimum} or more.`);
  }
  return value;
}
