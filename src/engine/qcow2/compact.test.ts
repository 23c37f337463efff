import { describe, expect, test } from 'vitest';
import type { DriveId } from '../../core/ids.ts';
import { findRun, findRunFor } from './compact.ts';
import { maxDepth } from './pivot.ts';
import { baseLevel, type FileRow } from './records.ts';

let ids = 0;

function file(level: number): FileRow {
  return {
    id: ++ids,
    backing_id: null,
    state: 'frozen',
    drive_id: '' as DriveId,
    size_bytes: 4096,
    level,
    data_bytes: null,
    path: null,
    origin: 'own',
    format: 'qcow2',
    created_at: 0,
  };
}

/** A chain, top first, from levels written base first; the top comes on top of them. */
function chainOf(levels: readonly number[]): FileRow[] {
  return [file(0), ...levels.map(file).reverse()];
}

describe('runs worth folding', () => {
  test('six files of one level above the base, the oldest first', () => {
    expect(findRun(chainOf([baseLevel, 0, 0, 0, 0, 0]))).toBeUndefined();
    const chain = chainOf([baseLevel, 0, 0, 0, 0, 0, 0, 0]);
    const run = findRun(chain);
    expect(run?.level).toBe(0);
    expect(run?.below).toBe(chain.at(-1));
    expect(run?.newest).toBe(chain.at(-7));
  });

  test('the deepest run goes first, so that levels fall from the base to the top', () => {
    const chain = chainOf([baseLevel, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    expect(findRun(chain)).toMatchObject({ level: 1, below: { level: baseLevel } });
  });

  test('neither the base nor the top is part of a run', () => {
    expect(findRun(chainOf([0, 0, 0, 0, 0, 0]))).toBeUndefined();
    expect(findRun(chainOf([]))).toBeUndefined();
    expect(
      findRun(chainOf([baseLevel, baseLevel, baseLevel, baseLevel, baseLevel, baseLevel, baseLevel])),
    ).toBeUndefined();
  });
});

/** What taking and folding does to the levels of a chain. */
function play(snapshots: number): { deepest: number; copies: Map<number, number> } {
  let levels: { level: number; changes: number[] }[] = [];
  let deepest = 0;
  const copies = new Map<number, number>();
  for (let taken = 0; taken < snapshots; taken++) {
    levels.push({ level: taken === 0 ? baseLevel : 0, changes: [taken] });
    for (;;) {
      const chain = chainOf(levels.map(({ level }) => level));
      const run = findRunFor(chain);
      if (run === undefined) break;
      const last = chain.length - 1 - chain.indexOf(run.newest);
      const first = chain.length - chain.indexOf(run.below);
      const folded = levels.slice(first, last + 1);
      const changes = folded.flatMap((one) => one.changes);
      for (const change of changes) copies.set(change, (copies.get(change) ?? 0) + 1);
      levels = [...levels.slice(0, first), { level: run.level + 1, changes }, ...levels.slice(last + 1)];
    }
    deepest = Math.max(deepest, levels.length + 1);
  }
  return { deepest, copies };
}

test('a thousand snapshots stay within the depth, and each change is copied at most three times', () => {
  const { deepest, copies } = play(1000);
  expect(deepest).toBeLessThanOrEqual(maxDepth);
  expect(Math.max(...copies.values())).toBeLessThanOrEqual(3);
});

test('so does any number: where six of a level are too many, fewer are folded', () => {
  const { deepest, copies } = play(10_000);
  expect(deepest).toBeLessThanOrEqual(maxDepth);
  expect(Math.max(...copies.values())).toBeLessThanOrEqual(6);
}, 60_000);
