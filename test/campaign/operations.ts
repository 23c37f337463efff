/**
 * Carries plans out over the API and finds out how they ended, whatever died meanwhile: by their task when it is known, by
 * asking again with the same Idempotency-Key, or by looking at what is there.
 */
import type { TaskBody } from '../../src/http/schemas.ts';
import { type Answer, type Api, type Call, Refused, Unanswered } from './api.ts';
import { blockBytes } from './blocks.ts';
import type { Ledger } from './ledger.ts';
import type { Names } from './names.ts';
import type { Plan, PlanKind } from './plans.ts';

export interface Operation {
  readonly id: number;
  readonly plan: Plan;
  /** Asked again with the same key when it is not answered; looked up when null. */
  readonly key: string | null;
  /** Waits in the request, or takes the task and asks for it. */
  readonly waits: boolean;
  /** Where it was last heard of. */
  call: Call | undefined;
  taskId: string | null;
}

/** Something happened that must not: the message says what. */
export class Violation extends Error {}

const waitSeconds = 30;
const taskKinds: Partial<Record<PlanKind, readonly string[]>> = {
  revert: ['drive.revert', 'snapshot.revert'],
  resize: ['drive.resize'],
  flatten: ['drive.flatten'],
  'delete-drive': ['drive.delete'],
  'delete-snapshot': ['snapshot.delete'],
  'delete-part': ['snapshot.delete'],
};
const exportKinds = ['drive.export', 'drive.unexport'];

export class Operator {
  readonly #api: Api;
  readonly #names: Names;
  readonly #ledger: Ledger;
  /** Every task of ours that was ever seen. */
  readonly #tasks: Set<string>;

  constructor(api: Api, names: Names, ledger: Ledger, knownTasks: Iterable<string> = []) {
    this.#tasks = new Set(knownTasks);
    this.#api = api;
    this.#names = names;
    this.#ledger = ledger;
  }

  /** @throws Unanswered when the server dies before the end is known, Violation when it may not fail but does */
  async start(operation: Operation): Promise<void> {
    operation.call = this.#callOf(operation);
    this.#ledger.begin(operation.id, operation.plan);
    await this.#send(operation, operation.call);
  }

  /** After a restart: finds out what became of it. @throws as `start` */
  async settle(operation: Operation): Promise<void> {
    if (operation.taskId !== null) return this.#follow(operation, operation.taskId, {});
    if (operation.call === undefined) throw new Error('an operation that was never sent');
    if (operation.key === null) await this.#look(operation);
    else await this.#send(operation, operation.call);
  }

  /** The same request with the same key finds the first attempt. */
  async repeat(operation: Operation): Promise<void> {
    const { call, taskId } = operation;
    if (call?.key === undefined || taskId === null) return;
    const answer = await this.#api.change(call);
    if (answer.task?.id === taskId) return;
    throw new Violation(`a repeated ${operation.plan.kind} got task ${answer.task?.id} instead of ${taskId}`);
  }

  #callOf({ plan, key, waits }: Operation): Call {
    const more = { ...(key === null ? {} : { key }), ...(waits ? { wait: waitSeconds } : {}) };
    const names = this.#names;
    const post = (path: string, body: Record<string, unknown> = {}): Call => ({ method: 'POST', path, body, ...more });
    const remove = (path: string): Call => ({ method: 'DELETE', path, ...more });
    switch (plan.kind) {
      case 'create':
        return post('/v1/drives', { name: plan.drive, sizeBytes: plan.blocks * blockBytes });
      case 'snapshot':
        return post('/v1/snapshots', { name: plan.snapshot, driveIds: plan.drives.map((name) => names.driveId(name)) });
      case 'revert': {
        const keepSafety = plan.safety !== null;
        const [drive] = plan.drives;
        if (plan.whole || drive === undefined) {
          return post(`/v1/snapshots/${names.snapshotId(plan.snapshot)}/revert`, { keepSafety });
        }
        const driveSnapshotId = names.partId(plan.snapshot, drive);
        return post(`/v1/drives/${names.driveId(drive)}/revert`, { driveSnapshotId, keepSafety });
      }
      case 'clone':
        return post(`/v1/snapshots/${names.snapshotId(plan.snapshot)}/clone`, {
          part: names.partId(plan.snapshot, plan.part),
          name: plan.drive,
          sizeBytes: plan.blocks * blockBytes,
        });
      case 'delete-snapshot':
        return remove(`/v1/snapshots/${names.snapshotId(plan.snapshot)}`);
      case 'delete-part':
        return remove(
          `/v1/snapshots/${names.snapshotId(plan.snapshot)}?part=${names.partId(plan.snapshot, plan.part)}`,
        );
      case 'delete-drive':
        return remove(`/v1/drives/${names.driveId(plan.drive)}?snapshots=${plan.snapshots}`);
      case 'resize':
        return post(`/v1/drives/${names.driveId(plan.drive)}/resize`, { sizeBytes: plan.blocks * blockBytes });
      case 'flatten':
        return post(`/v1/drives/${names.driveId(plan.drive)}/flatten`);
      case 'export':
        return {
          method: 'POST',
          path: '/v1/exports',
          body: { driveId: names.driveId(plan.drive), writable: true },
          ...(key === null ? {} : { key }),
        };
      case 'unexport':
        return { method: 'DELETE', path: `/v1/exports/${names.exports.get(plan.drive)?.id ?? ''}` };
    }
  }

  async #send(operation: Operation, call: Call): Promise<void> {
    const { plan, id } = operation;
    if (plan.kind === 'export') return this.#sendExport(operation, plan.drive, call);
    if (plan.kind === 'unexport') {
      // A repetition may find it gone already.
      await this.#api.send(call).catch((error: unknown) => {
        if (!(error instanceof Refused) || error.status !== 404) throw error;
      });
      this.#names.exports.delete(plan.drive);
      this.#ledger.end(id, true);
      return;
    }
    let answer: Answer;
    try {
      answer = await this.#api.change(call);
    } catch (error) {
      if (error instanceof Refused)
        throw new Violation(`${describePlan(plan)} was refused: ${error.message} (${error.code})`);
      throw error;
    }
    if (answer.task === undefined) throw new Violation(`${describePlan(plan)} was answered without a task`);
    operation.taskId = answer.task.id;
    this.#tasks.add(answer.task.id);
    this.#ledger.accept(id, answer.task.id);
    await this.#follow(operation, answer.task.id, answer);
  }

  async #sendExport({ id }: Operation, drive: string, call: Call): Promise<void> {
    try {
      this.#names.exports.set(drive, await this.#api.startExport(call.body ?? {}, call.key));
      this.#ledger.end(id, true);
    } catch (error) {
      // Exports do not queue: while other work holds the drive they are refused.
      if (!(error instanceof Refused) || error.code !== 'drive_busy') throw error;
      this.#ledger.end(id, false);
    }
  }

  async #follow(operation: Operation, taskId: string, answer: Answer): Promise<void> {
    const { plan, id } = operation;
    let task: TaskBody = answer.task ?? (await this.#taskOf(operation, taskId));
    const deadline = Date.now() + 120_000;
    while (task.finishedAt === null) {
      if (Date.now() > deadline) throw new Violation(`${describePlan(plan)}: task ${taskId} is stuck in ${task.state}`);
      task = await this.#api.task(taskId, 10);
    }
    if (task.state !== 'done') {
      throw new Violation(
        `${describePlan(plan)}: task ${taskId} ended ${task.state}: ${task.error?.code} ${task.error?.message}`,
      );
    }
    // Ids are asked for before the end is told, so that nobody picks a thing that has none.
    await this.#learn(plan, task, answer);
    this.#ledger.end(id, true);
  }

  async #taskOf(operation: Operation, taskId: string): Promise<TaskBody> {
    try {
      return await this.#api.task(taskId, 10);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      throw new Violation(`${describePlan(operation.plan)} was accepted as task ${taskId}, which is gone`);
    }
  }

  async #learn(plan: Plan, task: TaskBody, answer: Answer): Promise<void> {
    const names = this.#names;
    if (plan.kind === 'create' || plan.kind === 'clone') {
      names.learnDrive(plan.drive, answer.drive ?? (await this.#api.get(`/v1/drives/${task.objectId}`)));
    } else if (plan.kind === 'snapshot') {
      names.learnSnapshot(plan.snapshot, answer.snapshot ?? (await this.#api.get(`/v1/snapshots/${task.objectId}`)));
    } else if (plan.kind === 'revert' && plan.safety !== null) {
      const made = task.result?.safetySnapshotId;
      if (typeof made !== 'string') throw new Violation(`task ${task.id} kept no safety snapshot`);
      names.learnSnapshot(plan.safety, await this.#api.get(`/v1/snapshots/${made}`));
    }
  }

  /** It may have happened or not; the server's own lists say. */
  async #look(operation: Operation): Promise<void> {
    const { plan, id } = operation;
    const task = await this.#findTask(plan);
    if (task !== undefined) {
      operation.taskId = task.id;
      this.#tasks.add(task.id);
      return this.#follow(operation, task.id, {});
    }
    if (plan.kind === 'export' || plan.kind === 'unexport') await this.#exportsRest(this.#names.driveId(plan.drive));
    if (plan.kind === 'export') {
      const driveId = this.#names.driveId(plan.drive);
      const served = (await this.#api.exports()).find((item) => item.driveId === driveId);
      if (served !== undefined) this.#names.exports.set(plan.drive, served);
      return this.#ledger.end(id, served !== undefined);
    }
    if (plan.kind === 'unexport') {
      const known = this.#names.exports.get(plan.drive);
      const there = (await this.#api.exports()).some((item) => item.id === known?.id);
      if (!there) this.#names.exports.delete(plan.drive);
      return this.#ledger.end(id, !there);
    }
    this.#ledger.end(id, false);
  }

  /** What a server took up again may be opening or closing an export still. */
  async #exportsRest(driveId: string): Promise<void> {
    for (const task of await this.#api.tasksOf(driveId)) {
      if (exportKinds.includes(task.kind) && task.finishedAt === null) await this.#api.task(task.id, waitSeconds);
    }
  }

  async #findTask(plan: Plan): Promise<TaskBody | undefined> {
    if (plan.kind === 'create' || plan.kind === 'clone') {
      const [drive] = (await this.#api.drives()).filter((item) => item.name === plan.drive);
      return drive === undefined ? undefined : this.#newTask(drive.id, ['drive.create', 'drive.clone']);
    }
    if (plan.kind === 'snapshot') {
      const [snapshot] = (await this.#api.snapshots()).filter((item) => item.name === plan.snapshot);
      return snapshot === undefined ? undefined : this.#newTask(snapshot.id, ['snapshot.create']);
    }
    const kinds = taskKinds[plan.kind];
    if (kinds === undefined) return undefined;
    const ofSnapshot =
      plan.kind === 'delete-snapshot' || plan.kind === 'delete-part' || (plan.kind === 'revert' && plan.whole);
    if (ofSnapshot) return this.#newTask(this.#names.snapshotId(plan.snapshot), kinds);
    const drive = 'drive' in plan ? plan.drive : plan.kind === 'revert' ? plan.drives[0] : undefined;
    return drive === undefined ? undefined : this.#newTask(this.#names.driveId(drive), kinds);
  }

  async #newTask(objectId: string, kinds: readonly string[]): Promise<TaskBody | undefined> {
    const found = await this.#api.tasksOf(objectId);
    return found.find((task) => kinds.includes(task.kind) && !this.#tasks.has(task.id));
  }
}

export function describePlan(plan: Plan): string {
  const { kind, ...rest } = plan;
  return `${kind} ${JSON.stringify(rest)}`;
}

export { Refused, Unanswered };
