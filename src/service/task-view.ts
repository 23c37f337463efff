/** A task as the model shows it, from its row and, while it has not ended, from memory. */
import type { TaskRow } from '../catalog/schema.ts';
import { isErrorCode, type StoredError } from '../core/errors.ts';
import type { DriveId } from '../core/ids.ts';
import { type Task, type TaskKind, type TaskProgress, taskKinds } from '../core/model.ts';
import { isActiveTask } from '../core/states.ts';

const known: ReadonlySet<string> = new Set(taskKinds);

export function isTaskKind(kind: string): kind is TaskKind {
  return known.has(kind);
}

export function parseStoredError(json: string | null): StoredError | null {
  if (json === null) return null;
  const stored: { code: unknown; message: string; details?: StoredError['details'] } = JSON.parse(json);
  return {
    code: isErrorCode(stored.code) ? stored.code : 'internal',
    message: stored.message,
    details: stored.details ?? {},
  };
}

export interface TaskAbilities {
  readonly cancellable: boolean;
  readonly pausable: boolean;
}

export function toTask(
  row: TaskRow,
  kind: TaskKind,
  driveIds: readonly DriveId[],
  progress: TaskProgress,
  abilities: TaskAbilities,
): Task {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    userId: row.user_id,
    via: row.via,
    kind,
    state: row.state,
    objectKind: row.object_kind,
    objectId: row.object_id,
    driveIds,
    machineId: row.machine_id,
    title: row.title,
    progress,
    result: row.result_json === null ? null : JSON.parse(row.result_json),
    error: parseStoredError(row.error_json),
    settled: row.state === 'done' || (row.holds_drives === 0 && isActiveTask(row.state)),
    cancellable: abilities.cancellable,
    pausable: abilities.pausable,
    speedLimitBytesPerSecond: row.speed_limit,
    createdAt: row.created_at,
    startedAt: row.started_at,
    finishedAt: row.finished_at,
  };
}

/** Of a row that has ended, or of one of which nothing better is known. */
export function toStoredTask(row: TaskRow, driveIds: readonly DriveId[]): Task {
  const kind = isTaskKind(row.kind) ? row.kind : 'drive.check';
  const progress: TaskProgress = {
    done: row.progress_done,
    total: row.progress_total,
    unit: row.progress_unit,
    ratePerSecond: null,
    estimateSeconds: null,
  };
  return toTask(row, kind, driveIds, progress, { cancellable: false, pausable: false });
}
