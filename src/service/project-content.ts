/** Deletes a project with everything in it: machines, drives, snapshots and images, and at last the project. For operators. */
import { CalotypeError } from '../core/errors.ts';
import type { Task } from '../core/model.ts';
import { isActiveTask } from '../core/states.ts';
import type { Caller } from './caller.ts';
import type { Service } from './interface.ts';
import type { Projects } from './projects.ts';
import { assertOperator } from './rights.ts';

const waitMs = 60_000;
/** What others make meanwhile is deleted, too, but not for ever. */
const maxRounds = 5;

/**
 * @param caller in the project that is to go
 * @throws forbidden, and drive_exported, machine_adopted before anything is deleted; later whatever keeps an object from going
 */
export async function deleteProjectWithContent(
  service: Service,
  projects: Pick<Projects, 'list' | 'delete'>,
  caller: Caller,
): Promise<void> {
  assertOperator(caller);
  const { items: some } = await projects.list(caller, { limit: 2 });
  if (some.length < 2) {
    throw new CalotypeError('forbidden', 'The last project cannot be deleted.', {
      remedy: 'Create another project first.',
    });
  }
  const all = { limit: null } as const;
  const machinesOf = async () => (await service.queries.list(caller, 'machine', all)).items;
  await assertFree(service, caller, await machinesOf());
  for (let round = 1; round <= maxRounds; round++) {
    const machines = await machinesOf();
    const wholly = { drives: 'delete', snapshots: 'delete' } as const;
    await finish(service, caller, machines, ({ id }) => service.machines.delete(caller, id, wholly));
    const { items: drives } = await service.queries.list(caller, 'drive', all);
    await finish(service, caller, drives, ({ id }) => service.drives.delete(caller, id, { snapshots: 'delete' }));
    const { items: snapshots } = await service.queries.list(caller, 'snapshot', all);
    await finish(service, caller, snapshots, ({ id }) => service.snapshots.delete(caller, id));
    const { items: images } = await service.queries.list(caller, 'image', all);
    await finish(service, caller, images, ({ id }) => service.images.delete(caller, id));
    if (machines.length + drives.length + snapshots.length + images.length === 0) break;
  }
  await projects.delete(caller, caller.projectId);
}

/** @throws machine_adopted, drive_exported */
async function assertFree(
  service: Service,
  caller: Caller,
  machines: readonly { id: string; name: string; managed: boolean }[],
): Promise<void> {
  const adopted = machines.find((machine) => !machine.managed);
  if (adopted !== undefined) {
    throw new CalotypeError('machine_adopted', `Somebody else runs the machine ${adopted.name}: disown it first.`, {
      machineId: adopted.id,
    });
  }
  const exports = await service.exports.list(caller, {});
  if (exports.length > 0) {
    throw new CalotypeError('drive_exported', 'Drives of the project are exported.', {
      blocking: exports.map((served) => served.id),
      remedy: 'Close these exports first.',
    });
  }
}

/** Begins all, then waits for each. What went by itself meanwhile is as good. */
async function finish<T>(
  service: Service,
  caller: Caller,
  objects: readonly T[],
  begin: (object: T) => Promise<Task>,
): Promise<void> {
  const begun: Task[] = [];
  for (const object of objects) {
    try {
      begun.push(await begin(object));
    } catch (error) {
      if (!(error instanceof CalotypeError && error.code === 'not_found')) throw error;
    }
  }
  for (let task of begun) {
    while (isActiveTask(task.state) && task.error?.code !== 'shutting_down') {
      task = await service.tasks.waitFor(caller, task.id, waitMs);
    }
    if (task.error !== null) throw new CalotypeError(task.error.code, task.error.message, task.error.details);
  }
}
