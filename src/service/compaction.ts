/** Keeps read depth bounded: after a snapshot or revert, in the background, at most one task per drive. */
import { findDriveRow } from '../catalog/drives.ts';
import type { DriveId } from '../core/ids.ts';
import type { Context } from './context.ts';
import { untilSpace } from './space-wait.ts';

const askAfterMs = 25;

export class Compaction {
  readonly #context: Context;
  readonly #pending = new Set<DriveId>();
  readonly #active = new Set<DriveId>();
  #timer: NodeJS.Timeout | undefined;

  constructor(context: Context) {
    this.#context = context;
    context.runner.register('drive.compact', {
      cancellable: true,
      pausable: true,
      run: async (task) => {
        const [driveId] = task.driveIds;
        if (driveId === undefined) return undefined;
        this.#active.add(driveId);
        let passes = 0;
        await untilSpace(context, task, async () => {
          while (await context.engine.compact(driveId, task)) {
            passes++;
            if (!(await context.engine.needsCompaction(driveId))) break;
          }
        });
        return { passes };
      },
      after: async (task) => {
        for (const driveId of task.driveIds) this.#active.delete(driveId);
        if (task.row.state === 'done') this.consider(task.driveIds);
      },
    });
  }

  /** Looks at the drives soon. Returns at once. */
  consider(driveIds: readonly DriveId[]): void {
    if (this.#context.runner.closing) return;
    for (const id of driveIds) this.#pending.add(id);
    this.#timer ??= setTimeout(() => void this.#look(), askAfterMs);
  }

  async #look(): Promise<void> {
    this.#timer = undefined;
    const { engine, runner, catalog, logger } = this.#context;
    const driveIds = [...this.#pending];
    this.#pending.clear();
    for (const driveId of driveIds) {
      if (this.#active.has(driveId) || runner.closing) continue;
      try {
        if (!(await engine.needsCompaction(driveId))) continue;
        const drive = await findDriveRow(catalog.db, driveId);
        if (drive === undefined || drive.state !== 'available') continue;
        this.#active.add(driveId);
        await runner.change(async (_tx, add) =>
          add({
            kind: 'drive.compact',
            input: {},
            driveIds: [driveId],
            objectKind: 'drive',
            objectId: driveId,
            owner: { projectId: drive.project_id, userId: null, via: 'system' },
            holdsDrives: false,
            event: null,
          }),
        );
      } catch (error) {
        this.#active.delete(driveId);
        if (!runner.closing) logger.warn({ err: error, driveId }, 'compaction could not be started');
      }
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#pending.clear();
  }
}
