/** What the service tells whoever keeps metrics. Called after the fact, must not throw, must return at once. */
import type { TaskKind } from '../core/model.ts';

export interface Observer {
  /** A task ended, `seconds` after it started (0 when it never did). */
  taskFinished?(kind: TaskKind, state: 'done' | 'failed' | 'cancelled', seconds: number): void;
  /** How many tasks have not ended. */
  activeTasks?(count: number): void;
  snapshotTaken?(drives: number): void;
  bytesReclaimed?(bytes: number): void;
  /** A running guest stood still for its memory to be taken. */
  guestPaused?(seconds: number): void;
  /** The file systems of a guest were frozen for a snapshot. */
  guestFrozen?(seconds: number): void;
  /** The process of a machine ended that nobody had told to. */
  machineDied?(): void;
}
