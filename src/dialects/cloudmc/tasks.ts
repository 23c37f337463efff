/**
 * Tasks as CloudMC has them: three states, a result that is an object or is not there, and half an hour to look at it.
 * What the service's own task is about becomes the resource that a client takes for the result.
 */
import { notFound } from '../../core/errors.ts';
import {
  type DriveId,
  type ImageId,
  type MachineId,
  newId,
  type ProjectId,
  type SnapshotId,
  type TaskId,
  type UserId,
} from '../../core/ids.ts';
import type { Task } from '../../core/model.ts';
import { nowUs } from '../../core/time.ts';
import { BoundedMap } from '../../service/bounded-map.ts';
import type { Caller } from '../../service/caller.ts';
import { presentError } from './errors.ts';
import { showInstance } from './instances.ts';
import { idOf } from './parse.ts';
import { presentTemplate, zonedTime } from './present.ts';
import type { TaskStatus } from './schemas.ts';
import { orUndefined, type Scope } from './scope.ts';
import { showSnapshot } from './snapshots.ts';
import { showVolume } from './volumes.ts';

/** How long a task can be looked at after it has ended. */
const keptUs = 30 * 60 * 1_000_000;

export function hasExpired(finishedAt: number | null, atUs: number): boolean {
  return finishedAt !== null && atUs - finishedAt > keptUs;
}

/** What goes on when the object is there, or gone, only gives space back: no client waits for that. */
export function statusOf(task: Pick<Task, 'state' | 'settled' | 'kind'>): TaskStatus {
  if (task.state === 'failed' || task.state === 'cancelled') return 'FAILED';
  return task.settled ? 'SUCCESS' : 'PENDING';
}

/** What a change answers: the task, and the result if it has ended already. */
export async function taskReference(scope: Scope, task: Task): Promise<object> {
  const taskStatus = statusOf(task);
  const reference = { taskId: task.id, taskStatus };
  return taskStatus === 'SUCCESS' ? { ...reference, data: await resultOf(scope, task) } : reference;
}

export async function showTask(scope: Scope, task: Task): Promise<object> {
  // The wall clock, as clients have it.
  if (hasExpired(task.finishedAt, Date.now() * 1000)) throw notFound('task', task.id);
  const status = statusOf(task);
  const data = { id: task.id, status, created: zonedTime(task.createdAt) };
  switch (status) {
    case 'PENDING':
      return { data };
    case 'SUCCESS':
      return { data: { ...data, result: await resultOf(scope, task) } };
    case 'FAILED':
      return { data: { ...data, ...(task.error === null ? {} : { result: presentError(task.error) }) } };
  }
}

/** The resource as it is now; of one that is gone, its id. */
async function resultOf(scope: Scope, task: Task): Promise<object> {
  return (await orUndefined(resourceOf(scope, task))) ?? gone(task);
}

function gone({ kind, objectId }: Task): object {
  // The task of a deletion knows the whole snapshot, whose id is not the part's.
  return objectId === null || kind.startsWith('snapshot.') ? {} : { id: objectId };
}

async function resourceOf(scope: Scope, task: Task): Promise<object | undefined> {
  const { service, caller } = scope;
  const { kind, objectId, driveIds, machineId } = task;
  if (objectId === null) return undefined;
  switch (kind) {
    case 'snapshot.delete':
    case 'drive.delete':
    case 'machine.delete':
    case 'machine.disown':
    case 'image.delete':
      return undefined;
    case 'image.create':
      return presentTemplate(await service.images.get(caller, idOf<ImageId>('image', objectId)));
    case 'snapshot.create': {
      const snapshot = await service.snapshots.get(caller, idOf<SnapshotId>('snapshot', objectId));
      const part = snapshot.parts.find((known) => driveIds.includes(known.driveId));
      return part === undefined ? undefined : showSnapshot(scope, { part, snapshot });
    }
    case 'machine.snapshot': {
      const point = await service.snapshots.get(caller, idOf<SnapshotId>('snapshot', objectId));
      const { id, name, description } = point;
      const instance = machineId === null ? undefined : await showMachine(scope, machineId);
      return instance === undefined ? undefined : { ...instance, recoveryPoint: { id, name, description } };
    }
    case 'machine.attach':
    case 'machine.detach': {
      const driveId = task.result?.driveId;
      return typeof driveId === 'string' ? showDrive(scope, idOf<DriveId>('drive', driveId)) : undefined;
    }
    case 'snapshot.revert': {
      const [driveId] = driveIds;
      return driveId === undefined ? undefined : showDrive(scope, driveId);
    }
    default:
      return task.objectKind === 'machine'
        ? showMachine(scope, idOf<MachineId>('machine', objectId))
        : showDrive(scope, idOf<DriveId>('drive', objectId));
  }
}

async function showDrive(scope: Scope, id: DriveId): Promise<object> {
  return showVolume(scope, await scope.service.drives.get(scope.caller, id));
}

async function showMachine(scope: Scope, id: MachineId): Promise<object> {
  return showInstance(scope, await scope.service.machines.get(scope.caller, id));
}

interface EndedTask {
  readonly projectId: ProjectId;
  readonly userId: UserId;
  readonly createdAt: number;
  readonly result: object;
}

/** Changes that are done when they are answered, as tasks that have ended: clients ask for the task of every change. */
export class ImmediateTasks {
  readonly #ended = new BoundedMap<TaskId, EndedTask>(1000);

  reference({ projectId, userId }: Caller, result: object): object {
    const id = newId<TaskId>();
    this.#ended.set(id, { projectId, userId, createdAt: nowUs(), result });
    return { taskId: id, taskStatus: 'SUCCESS', data: result };
  }

  /** The environment that a task belongs to. */
  projectOf(id: TaskId): ProjectId | undefined {
    return this.#ended.get(id)?.projectId;
  }

  /** As other tasks, it is a guest's only if the guest began it. @throws not_found */
  show(caller: Caller, id: TaskId): object {
    const task = this.#ended.get(id);
    const isHidden = task !== undefined && caller.role === 'guest' && task.userId !== caller.userId;
    if (task === undefined || isHidden || hasExpired(task.createdAt, Date.now() * 1000)) throw notFound('task', id);
    return { data: { id, status: 'SUCCESS', created: zonedTime(task.createdAt), result: task.result } };
  }
}
