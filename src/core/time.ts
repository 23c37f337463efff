/** Points in time are integers: microseconds since the epoch, UTC. They fit a double until the year 2255. */

let last = 0;

/** The current time in microseconds; never returns the same value twice in one process. */
export function nowUs(): number {
  const us = Math.round((performance.timeOrigin + performance.now()) * 1000);
  last = us > last ? us : last + 1;
  return last;
}

const two = Array.from({ length: 60 }, (_, i) => String(i).padStart(2, '0'));
const three = Array.from({ length: 1000 }, (_, i) => String(i).padStart(3, '0'));

/**
 * ISO 8601, UTC, six fraction digits: `2031-04-09T16:20:05.004210Z`. Every object that leaves the server carries several, so
 * this does without Date: days since the epoch become a date by Hinnant's `civil_from_days`, which counts years from March.
 */
export function isoFromUs(us: number): string {
  const seconds = Math.floor(us / 1_000_000);
  const fraction = us - seconds * 1_000_000;
  const days = Math.floor(seconds / 86_400);
  const second = seconds - days * 86_400;
  const hour = Math.floor(second / 3600);
  const minute = Math.floor(second / 60) - hour * 60;

  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const fromMarch = Math.floor((5 * dayOfYear + 2) / 153);
  const day = dayOfYear - Math.floor((153 * fromMarch + 2) / 5) + 1;
  const month = fromMarch < 10 ? fromMarch + 3 : fromMarch - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  const clock = `${two[hour]}:${two[minute]}:${two[second % 60]}`;
  return `${year}-${two[month]}-${two[day]}T${clock}.${three[Math.floor(fraction / 1000)]}${three[fraction % 1000]}Z`;
}

export function usFromIso(text: string): number | null {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return null;
  const fraction = /\.\d{3}(\d{1,3})/.exec(text)?.[1];
  return ms * 1000 + (fraction === undefined ? 0 : Number(fraction.padEnd(3, '0')));
}
