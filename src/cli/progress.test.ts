import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { Io } from './io.ts';
import { drawProgress, ProgressBar } from './progress.ts';

const state = { done: 0, total: 0, unit: 'bytes', ratePerSecond: null, estimateSeconds: null } as const;

function terminal(isTTY: boolean): { io: Io; text: () => string; clock: { now: number } } {
  let text = '';
  const clock = { now: 0 };
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  const screen = Object.assign(stream, { isTTY, columns: 60 });
  const io: Io = {
    stdin: process.stdin,
    stdout: screen,
    stderr: screen,
    env: {},
    now: () => clock.now,
    interrupted: new AbortController().signal,
  };
  return { io, text: () => text, clock };
}

describe('drawProgress', () => {
  it('shows bar, share, amounts, rate and what is left', () => {
    const line = drawProgress(
      'drive.flatten',
      { ...state, done: 2 ** 30, total: 4 * 2 ** 30, ratePerSecond: 100 * 2 ** 20, estimateSeconds: 31 },
      100,
    );
    expect(line).toBe('drive.flatten [██████░░░░░░░░░░░░░░░░░░]  25% 1 GiB/4 GiB 100 MiB/s ETA 0:31');
  });

  it('reckons what is left when the server does not say', () => {
    expect(drawProgress('x', { ...state, done: 50, total: 150, unit: 'steps', ratePerSecond: 10 }, 100)).toContain(
      '50/150 10.0/s ETA 0:10',
    );
  });

  it('does not say 100 % before the end, nor more than that', () => {
    expect(drawProgress('x', { ...state, done: 999, total: 1000 }, 80)).toContain(' 99%');
    expect(drawProgress('x', { ...state, done: 2000, total: 1000 }, 80)).toContain('100%');
  });

  it('gives up the bar before anything else', () => {
    const busy = { ...state, done: 2 ** 29, total: 2 ** 30, ratePerSecond: 2 ** 20 };
    expect(drawProgress('drive.flatten', busy, 60)).toBe(
      'drive.flatten [████░░░░]  50% 512 MiB/1 GiB 1 MiB/s ETA 8:32',
    );
    expect(drawProgress('drive.flatten', busy, 50)).toBe('drive.flatten  50% 512 MiB/1 GiB 1 MiB/s ETA 8:32');
  });

  it('does without a total, and shows a remark in place of the rate', () => {
    expect(drawProgress('x', { ...state, done: 2 ** 20, ratePerSecond: 2 ** 20 }, 80)).toBe('x 1 MiB 1 MiB/s');
    expect(drawProgress('x', { ...state, remark: 'queued' }, 80)).toBe('x queued');
  });
});

describe('ProgressBar', () => {
  it('draws at most ten times a second, measures the rate, and cleans up', () => {
    const { io, text, clock } = terminal(true);
    const bar = new ProgressBar(io, 'upload', true);
    for (let i = 0; i <= 100; i++) {
      clock.now = i * 10;
      bar.update({ ...state, done: i * 10_000, total: 2_000_000 });
    }
    expect(text().match(/\r/g)).toHaveLength(11);
    expect(text()).toContain('977 KiB/s');
    bar.clear();
    expect(text().endsWith('\r\x1b[K')).toBe(true);
  });

  it('keeps to one line of the terminal', () => {
    const { io, text } = terminal(true);
    new ProgressBar(io, 'x'.repeat(200), true).update(state);
    expect(text()).toBe(`\r${'x'.repeat(58)}…\x1b[K`);
  });

  it.each([
    ['where stderr is not a terminal', false, true],
    ['when it is not wanted', true, false],
  ])('says nothing %s', (_when, isTTY, isWanted) => {
    const { io, text } = terminal(isTTY);
    const bar = new ProgressBar(io, 'x', isWanted);
    bar.update({ ...state, done: 1 });
    bar.clear();
    expect(text()).toBe('');
  });
});
