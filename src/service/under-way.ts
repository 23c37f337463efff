/**
 * What is being done to objects at this moment. Clients that wait ask for it with every list, so that it comes from memory.
 * It shows no more than that something the caller has in hand is busy: the ids must be of objects that he may see.
 */
import type { Task } from '../core/model.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { MachineRevertInput } from './machine-reverts.ts';
import type { TaskRunner } from './runner.ts';

export function tasksUnderWay(
  runner: Pick<TaskRunner, 'active' | 'view'>,
  caller: Caller,
  ids: readonly string[],
): ReadonlyMap<string, readonly Task[]> {
  const found = new Map<string, Task[]>();
  const wanted = new Set(ids);
  for (const task of runner.active()) {
    if (!task.ready || task.row.project_id !== caller.projectId) continue;
    for (const id of new Set(subjectsOf(task))) {
      if (!wanted.has(id)) continue;
      const known = found.get(id);
      if (known === undefined) found.set(id, [runner.view(task)]);
      else known.push(runner.view(task));
    }
  }
  return found;
}

/** What a task is about. Merging layers is housekeeping: nobody waits for it. */
function* subjectsOf(task: ActiveTask): Generator<string> {
  const { row, kind } = task;
  if (kind === 'drive.compact') return;
  if (row.object_id !== null) yield row.object_id;
  if (row.machine_id !== null) yield row.machine_id;
  if (task.holdsDrives) yield* task.driveIds;
  if (kind !== 'machine.revert') return;
  const { snapshotId }: MachineRevertInput = JSON.parse(row.input_json);
  yield snapshotId;
}
