/** What a campaign came to, as text: for the terminal and for docs/reliability.md. */
import type { Totals } from './campaign.ts';

export function summaryOf(totals: Totals, seconds: number): string {
  const { work } = totals;
  const { checks, writer } = work;
  const sum = (counts: ReadonlyMap<unknown, number>): number => [...counts.values()].reduce((a, b) => a + b, 0);
  const list = (counts: ReadonlyMap<string, number>): string =>
    [...counts]
      .sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
      .map(([name, count]) => `${name} ${count}`)
      .join(', ');
  const ready = [...totals.readyMs].sort((a, b) => a - b);
  const slowest = ready.at(-1) ?? 0;
  const median = ready[Math.floor(ready.length / 2)] ?? 0;
  const rows: [string, string][] = [
    ['kills', `${sum(totals.kills)}: ${list(totals.kills)}`],
    ['kills by step', list(totals.steps)],
    ['changes', `${sum(work.operations)}: ${list(work.operations)}`],
    [
      'without answer',
      `${work.unanswered}; ${work.askedAgain} asked again with their key, ${work.lookedUp} looked up, the rest followed by task`,
    ],
    ['writes', `${writer.writes} (${mebibytes(writer.bytes)} MiB), ${writer.flushes} flushes`],
    ['restarts', `${ready.length}, ready after ${median.toFixed(0)} ms (median), ${slowest.toFixed(0)} ms (longest)`],
    [
      'checks',
      `${checks.checks}: ${checks.parts} snapshots and ${checks.drives} drives read whole, ${mebibytes(checks.bytes)} MiB compared, ${checks.sizes} sizes`,
    ],
    ...(totals.machines.size === 0 ? [] : [['machines', list(totals.machines)] satisfies [string, string]]),
    ['time', `${seconds.toFixed(0)} s`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, text]) => `${name.padEnd(width)}  ${text}`).join('\n');
}

const mebibytes = (bytes: number): string => (bytes / 1024 ** 2).toFixed(0);
