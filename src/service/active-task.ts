/** A task that has not ended, in memory: its row, its queue position, its progress, and whoever waits for it. */
import { addEvent, type Tx } from '../catalog/catalog.ts';
import type { TaskRow } from '../catalog/schema.ts';
import { endTask, saveTask } from '../catalog/tasks.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId, MachineId } from '../core/ids.ts';
import type { Task, TaskKind } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import type { WorkControl } from '../engine/engine.ts';
import { ProgressMeter } from './progress.ts';

export type TaskResult = Readonly<Record<string, unknown>>;

/** How an ending shows in the audit log: which event, of which object, with what beside the task's id. */
export interface Outcome {
  readonly event: string;
  readonly detail?: TaskResult;
}

export class ActiveTask implements WorkControl {
  readonly row: TaskRow;
  readonly kind: TaskKind;
  readonly driveIds: readonly DriveId[];
  readonly meter: ProgressMeter;
  readonly abort = new AbortController();
  readonly waiters = new Set<(task: Task) => void>();
  /** Of these, those that wait for its foreground part only. */
  readonly foregroundWaiters = new Set<(task: Task) => void>();
  /** False until the transaction that wrote it is committed. */
  ready = false;
  started = false;
  /** Set by the transaction that ended it; true only if that was committed. */
  concluded: TaskResult | null | undefined;
  /** Wakes work that waits for space, a pause to end, or a cancellation. */
  nudge: (() => void) | undefined;
  saveTimer: NodeJS.Timeout | undefined;
  onProgress: (() => void) | undefined;

  constructor(row: TaskRow, kind: TaskKind, driveIds: readonly DriveId[]) {
    this.row = row;
    this.kind = kind;
    this.driveIds = driveIds;
    this.meter = new ProgressMeter({ done: row.progress_done, total: row.progress_total, unit: row.progress_unit });
    if (row.cancel_requested === 1) this.abort.abort();
  }

  get machineId(): MachineId | null {
    return this.row.machine_id;
  }

  get number(): number {
    return this.row.number;
  }

  get signal(): AbortSignal {
    return this.abort.signal;
  }

  /** Whether the part that other changes of the drives wait for is still to be done. */
  get holdsDrives(): boolean {
    return this.row.holds_drives === 1;
  }

  progress(doneBytes: number, totalBytes: number): void {
    this.meter.unit = 'bytes';
    this.meter.set(doneBytes, totalBytes);
    this.onProgress?.();
  }

  wishes(): { paused: boolean; bytesPerSecond: number } {
    return { paused: this.row.pause_requested === 1, bytesPerSecond: this.row.speed_limit };
  }

  /** @throws cancelled */
  throwIfCancelled(): void {
    if (this.signal.aborted) throw new CalotypeError('cancelled');
  }

  /** Ends the task well, in the transaction that makes its work true. A task ends once: later, only the work is kept. */
  async conclude(tx: Tx, result: TaskResult | null, outcome: Outcome): Promise<void> {
    const bytes = this.meter.unit === 'bytes';
    const total = bytes ? Math.max(this.meter.total, this.meter.done) : Math.max(1, this.meter.total);
    const ended = await endTask(tx, {
      number: this.number,
      state: 'done',
      result: result === null ? null : JSON.stringify(result),
      error: null,
      done: total,
      total,
      unit: this.meter.unit,
      startedAt: this.row.started_at,
      at: nowUs(),
    });
    if (ended) await this.event(tx, outcome);
    this.concluded = result;
  }

  /** The part that holds the drives is done: written with the change; `TaskRunner.release` lets the next ones go. */
  async concludeForeground(tx: Tx, outcome: Outcome): Promise<void> {
    await saveTask(tx, { ...this.row, holds_drives: 0 });
    await this.event(tx, outcome);
  }

  async event(tx: Tx, outcome: Outcome): Promise<void> {
    await addEvent(tx, {
      projectId: this.row.project_id,
      userId: this.row.user_id,
      via: this.row.via,
      kind: outcome.event,
      objectKind: this.row.object_kind ?? 'task',
      objectId: this.row.object_id ?? this.row.id,
      detail: { taskId: this.row.id, ...outcome.detail },
    });
  }
}
