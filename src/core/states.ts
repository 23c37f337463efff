/** The one table of states and allowed transitions, used by code, docs/states.md and tests. */

export const driveTransitions = {
  creating: ['available', 'error', 'deleting'],
  available: ['deleting', 'error'],
  error: ['deleting', 'available'],
  /** Back again when the deletion could not be carried out. */
  deleting: ['deleted', 'available', 'error'],
  /** Only kept while snapshots of it remain; invisible otherwise. */
  deleted: [],
} as const;
export type DriveState = keyof typeof driveTransitions;

export const machineTransitions = {
  creating: ['available', 'error', 'deleting'],
  available: ['deleting', 'error'],
  error: ['deleting', 'available'],
  deleting: ['available', 'error'],
} as const;
export type MachineState = keyof typeof machineTransitions;

/** Whether a machine runs: what it was last seen to do. */
export const machinePowers = ['off', 'running', 'paused'] as const;
export type MachinePower = (typeof machinePowers)[number];

export const snapshotTransitions = {
  creating: ['available', 'error', 'deleting'],
  available: ['deleting', 'error'],
  error: ['deleting'],
  deleting: ['available', 'error'],
} as const;
export type SnapshotState = keyof typeof snapshotTransitions;

export const imageTransitions = {
  creating: ['available', 'error', 'deleting'],
  available: ['deleting'],
  error: ['deleting'],
  deleting: ['available', 'error'],
} as const;
export type ImageState = keyof typeof imageTransitions;

export const taskTransitions = {
  queued: ['running', 'cancelled', 'failed'],
  running: ['queued', 'paused', 'done', 'failed', 'cancelled'],
  paused: ['running', 'queued', 'cancelled', 'failed'],
  done: [],
  failed: [],
  cancelled: [],
} as const;
export type TaskState = keyof typeof taskTransitions;

export const activeTaskStates = ['queued', 'running', 'paused'] as const satisfies readonly TaskState[];

export function isActiveTask(state: TaskState): boolean {
  return state === 'queued' || state === 'running' || state === 'paused';
}
