/** Points in time are integers: microseconds since the epoch, UTC. They fit a double until the year 2255. */

let last = 0;

/** The current time in microseconds; never returns the same value twice in one process. */
export function nowUs(): number {
  const us = Math.round((performance.timeOrigin + performance.now()) * 1000);
  last = us > last ? us : last + 1;
  return last;
}

/** ISO 8601, UTC, six fraction digits: `2031-04-09T16:20:05.004210Z`. */
export function isoFromUs(us: number): string {
  const iso = new Date(Math.floor(us / 1000)).toISOString();
  return `${iso.slice(0, -1)}${String(us % 1000).padStart(3, '0')}Z`;
}

export function usFromIso(text: string): number | null {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return null;
  const fraction = /\.\d{3}(\d{1,3})/.exec(text)?.[1];
  return ms * 1000 + (fraction === undefined ? 0 : Number(fraction.padEnd(3, '0')));
}
