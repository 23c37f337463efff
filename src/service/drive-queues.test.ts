import { describe, expect, it } from 'vitest';
import { type DriveId, newId } from '../core/ids.ts';
import type { TaskKind } from '../core/model.ts';
import { DriveQueues, type Queued } from './drive-queues.ts';

const a = newId<DriveId>();
const b = newId<DriveId>();
let number = 0;
const task = (kind: TaskKind, ...driveIds: DriveId[]): Queued => ({
  kind,
  driveIds,
  machineId: null,
  number: ++number,
});

describe('drive queues', () => {
  it('let one change at a time have a drive, in order', () => {
    const queues = new DriveQueues();
    const [first, second, third] = [
      task('snapshot.create', a),
      task('drive.revert', a),
      task('snapshot.create', a),
    ] as const;
    for (const one of [first, second, third]) queues.add(one);
    expect([first, second, third].map((one) => queues.mayRun(one))).toEqual([true, false, false]);
    expect(queues.blockers(third)).toEqual([first, second]);
    expect(queues.remove(first)).toEqual([second]);
    expect(queues.mayRun(second)).toBe(true);
    expect(queues.mayRun(third)).toBe(false);
  });

  it('let other drives go on', () => {
    const queues = new DriveQueues();
    const [first, other] = [task('drive.flatten', a), task('snapshot.create', b)];
    for (const one of [first, other]) queues.add(one);
    expect(queues.mayRun(other)).toBe(true);
  });

  it('make a task over several drives wait for all of them, and others for it', () => {
    const queues = new DriveQueues();
    const first = task('snapshot.create', a);
    const both = task('snapshot.create', a, b);
    const after = task('snapshot.create', b);
    for (const one of [first, both, after]) queues.add(one);
    expect(queues.mayRun(both)).toBe(false);
    expect(queues.mayRun(after)).toBe(false);
    queues.remove(first);
    expect(queues.mayRun(both)).toBe(true);
    expect(queues.remove(both)).toEqual([after]);
  });

  it('let snapshots be deleted beside a long check or flatten, and nothing else', () => {
    const queues = new DriveQueues();
    const long = task('drive.flatten', a);
    const deletion = task('snapshot.delete', a);
    const second = task('snapshot.delete', a);
    const snapshot = task('snapshot.create', a);
    for (const one of [long, deletion, second, snapshot]) queues.add(one);
    expect([deletion, second, snapshot].map((one) => queues.mayRun(one))).toEqual([true, false, false]);
    queues.remove(deletion);
    expect(queues.mayRun(second)).toBe(true);
    queues.remove(second);
    expect(queues.mayRun(snapshot)).toBe(false);
  });
});
