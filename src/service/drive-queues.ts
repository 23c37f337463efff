/**
 * One change at a time per drive and per machine: a first-in-first-out queue for each, in memory, rebuilt from the task
 * rows at start. A task over several waits for all of them; since it enters all queues in one step, no two wait for each other.
 */
import type { DriveId, MachineId } from '../core/ids.ts';
import type { TaskKind } from '../core/model.ts';

export interface Queued {
  readonly kind: TaskKind;
  readonly number: number;
  readonly driveIds: readonly DriveId[];
  readonly machineId: MachineId | null;
}

/** What it changes, and so waits for. */
function keysOf(task: Queued): readonly string[] {
  return task.machineId === null ? task.driveIds : [...task.driveIds, task.machineId];
}

/** Work that may take hours and leaves the drive's points in time alone: forgetting one of those need not wait for it. */
const longKinds: ReadonlySet<TaskKind> = new Set(['drive.check', 'drive.flatten']);

function mayOverlap(earlier: TaskKind, later: TaskKind): boolean {
  if (earlier === 'drive.check' && later === 'drive.check') return true;
  return (
    (longKinds.has(earlier) && later === 'snapshot.delete') || (earlier === 'snapshot.delete' && longKinds.has(later))
  );
}

export class DriveQueues<T extends Queued> {
  readonly #queues = new Map<string, T[]>();

  add(task: T): void {
    for (const id of keysOf(task)) {
      const queue = this.#queues.get(id);
      if (queue === undefined) this.#queues.set(id, [task]);
      else queue.push(task);
    }
  }

  /** Takes a task out and names those that may be able to run now, oldest first. */
  remove(task: T): T[] {
    const candidates = new Set<T>();
    for (const id of keysOf(task)) {
      const queue = this.#queues.get(id);
      if (queue === undefined) continue;
      const at = queue.indexOf(task);
      if (at >= 0) queue.splice(at, 1);
      if (queue.length === 0) this.#queues.delete(id);
      for (const next of queue) {
        candidates.add(next);
        if (!longKinds.has(next.kind)) break;
      }
    }
    return [...candidates].sort((a, b) => a.number - b.number);
  }

  /** The tasks that this one has to wait for. */
  blockers(task: T): T[] {
    const found = new Set<T>();
    for (const id of keysOf(task)) {
      for (const earlier of this.#queues.get(id) ?? []) {
        if (earlier === task) break;
        if (!mayOverlap(earlier.kind, task.kind)) found.add(earlier);
      }
    }
    return [...found];
  }

  mayRun(task: T): boolean {
    return keysOf(task).every((id) => {
      for (const earlier of this.#queues.get(id) ?? []) {
        if (earlier === task) return true;
        if (!mayOverlap(earlier.kind, task.kind)) return false;
      }
      return true;
    });
  }

  /** What holds or waits for a drive or machine, in order. */
  of(id: DriveId | MachineId): readonly T[] {
    return this.#queues.get(id) ?? [];
  }
}
