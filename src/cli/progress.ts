/**
 * The progress bar on stderr: one line, redrawn at most ten times a second, only on a terminal. Own code: the known
 * library has had no release since 2023, and this is all we need of it.
 */

import { cut, displayWidth } from './display-width.ts';
import type { Io } from './io.ts';
import { formatDuration, formatRate, formatSize } from './sizes.ts';

export interface ProgressState {
  readonly done: number;
  /** 0 when not known. */
  readonly total: number;
  readonly unit: 'bytes' | 'steps';
  /** Null: measured here from the calls. */
  readonly ratePerSecond: number | null;
  readonly estimateSeconds: number | null;
  /** Such as `queued` or `paused`, in place of the rate. */
  readonly remark?: string;
}

const redrawMs = 100;
const barWidth = 24;
const leastBarWidth = 5;
const leastLabelWidth = 12;

export class ProgressBar {
  private readonly stream: Io['stderr'];
  private readonly now: () => number;
  private readonly label: string;
  private readonly isShown: boolean;
  private drawnAt = Number.NEGATIVE_INFINITY;
  private readonly samples: { at: number; done: number }[] = [];

  constructor(io: Io, label: string, isWanted: boolean) {
    this.stream = io.stderr;
    this.now = io.now;
    this.label = label;
    this.isShown = isWanted && io.stderr.isTTY === true && io.env.TERM !== 'dumb';
  }

  update(state: ProgressState): void {
    if (!this.isShown) return;
    const at = this.now();
    if (at - this.drawnAt < redrawMs) return;
    this.drawnAt = at;
    const rate = state.ratePerSecond ?? this.measureRate(at, state.done);
    const line = drawProgress(this.label, { ...state, ratePerSecond: rate }, (this.stream.columns ?? 80) - 1);
    this.stream.write(`\r${line}\x1b[K`);
  }

  /** Takes the line away; what comes next starts on a clean one. */
  clear(): void {
    if (this.isShown && this.drawnAt !== Number.NEGATIVE_INFINITY) this.stream.write('\r\x1b[K');
  }

  /** Over the last five seconds. */
  private measureRate(at: number, done: number): number | null {
    this.samples.push({ at, done });
    while ((this.samples[0]?.at ?? at) < at - 5000) this.samples.shift();
    const first = this.samples[0];
    if (first === undefined || at - first.at < 500) return null;
    return ((done - first.done) * 1000) / (at - first.at);
  }
}

/** The bar takes what the rest of the line leaves of `width`, and stays away when that is too little. */
export function drawProgress(label: string, state: ProgressState, width: number): string {
  const { done, total, unit, ratePerSecond: rate } = state;
  const amount = (n: number) => (unit === 'bytes' ? formatSize(n) : String(n));
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : 0;
  const rest: string[] = [];
  if (total > 0) {
    // Never 100 % before the end.
    rest.push(`${String(Math.floor(share * 100)).padStart(3)}%`, `${amount(done)}/${amount(total)}`);
  } else if (done > 0) {
    rest.push(amount(done));
  }
  if (state.remark !== undefined) {
    rest.push(state.remark);
  } else if (rate !== null && rate > 0) {
    rest.push(formatRate(rate, unit));
    const seconds = state.estimateSeconds ?? (total > done ? (total - done) / rate : null);
    if (seconds !== null && total > 0) rest.push(`ETA ${formatDuration(seconds)}`);
  }
  const about = rest.join(' ');
  const name = cut(label, Math.max(leastLabelWidth, width - (about === '' ? 0 : about.length + 1)));
  const room = Math.min(barWidth, width - displayWidth(name) - about.length - 4);
  const filled = Math.floor(share * room);
  const bar = total > 0 && room >= leastBarWidth ? `[${'█'.repeat(filled)}${'░'.repeat(room - filled)}]` : '';
  return cut([name, bar, about].filter((part) => part !== '').join(' '), width);
}
