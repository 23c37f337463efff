/** Figures and words as scripts read them. */
import { expect, test } from 'vitest';
import { newId } from '../../core/ids.ts';
import type { Snapshot, Task } from '../../core/model.ts';
import { dateOf, durationOf, gbOf, httpDateOf, presentImage, presentPage } from './present.ts';

const second = 1_000_000;
const GiB = 1024 ** 3;

test('durations: two digits of seconds, longer ones with minutes and hours, begun seconds counted', () => {
  const given = [0, 1, second, 1.2 * second, 51 * second, 59.1 * second, 200 * second, 3725 * second, -second];
  expect(given.map(durationOf)).toEqual(['00s', '01s', '01s', '02s', '51s', '1m00s', '3m20s', '1h02m05s', '00s']);
});

test('dates: six fraction digits without zone; the HTTP form for volumes and users', () => {
  const at = Date.UTC(2024, 10, 20, 22, 1, 30) * 1000 + 104_233;
  expect(dateOf(at)).toBe('2024-11-20 22:01:30.104233');
  expect(httpDateOf(at)).toBe('Wed, 20 Nov 2024 22:01:30 GMT');
});

test('GB are begun ones of 2^30 bytes', () => {
  expect([0, 1, GiB, GiB + 1, 50 * GiB].map(gbOf)).toEqual([0, 1, 1, 2, 50]);
});

test('pages are counted from 1, but nothing is page 0 of 0', () => {
  const paging = (page: number) => ({ page, offset: 0, query: undefined });
  expect(presentPage([], 0, paging(1))).toEqual({ data: [], page: 0, pages: 0, results: 0 });
  expect(presentPage([1], 1, paging(1))).toEqual({ data: [1], page: 1, pages: 1, results: 1 });
  expect(presentPage([], 50, paging(3))).toEqual({ data: [], page: 3, pages: 2, results: 50 });
});

test('a snapshot says what it holds and how far its work is', () => {
  const snapshot: Snapshot = {
    id: newId(),
    number: 7,
    projectId: newId(),
    name: 'point',
    description: '',
    state: 'available',
    meta: {},
    tags: [],
    error: null,
    origin: 'manual',
    consistency: 'crash',
    complete: true,
    parts: [],
    machine: null,
    sizeBytes: 2 * GiB,
    createdBy: null,
    createdAt: 0,
    availableAt: 3 * second,
    updatedAt: 0,
    version: 1,
  };
  const slice = { number: 1, name: 'web', deletedAt: null, perms: null };
  const show = (change: Partial<Snapshot>, progress?: { done: number; total: number }) => {
    const task = progress === undefined ? undefined : taskAt(progress);
    return presentImage({ ...snapshot, ...change }, { perms: 'rw', slice, ownerNumber: 1, task });
  };
  expect(show({})).toMatchObject({ duration: '03s', snapshot_size: 2, in_progress: null, progress: null });
  expect(show({ sizeBytes: 2 * GiB + 1 })).toMatchObject({ snapshot_size: 3 });
  expect(show({ sizeBytes: 0 })).toMatchObject({ snapshot_size: 1 });
  expect(show({ availableAt: null })).toMatchObject({ duration: null });
  const making = { state: 'creating', sizeBytes: null, availableAt: null } as const;
  expect(show(making)).toMatchObject({ duration: null, snapshot_size: null, in_progress: true, progress: 0 });
  expect(show(making, { done: 2, total: 3 })).toMatchObject({ in_progress: true, progress: 66 });
  expect(show({}, { done: 0, total: 0 })).toMatchObject({ snapshot_size: 2, in_progress: true, progress: 0 });
});

function taskAt({ done, total }: { done: number; total: number }): Task {
  return {
    id: newId(),
    number: 1,
    projectId: null,
    userId: null,
    via: 'syminet',
    kind: 'machine.revert',
    title: null,
    settled: false,
    state: 'running',
    objectKind: null,
    objectId: null,
    driveIds: [],
    machineId: null,
    progress: { done, total, unit: 'bytes', ratePerSecond: null, estimateSeconds: null },
    result: null,
    error: null,
    cancellable: false,
    pausable: false,
    speedLimitBytesPerSecond: 0,
    createdAt: 0,
    startedAt: null,
    finishedAt: null,
  };
}
