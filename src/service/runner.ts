/**
 * Runs tasks. A use case writes a task together with what it changes; once that is committed the runner carries it out
 * when its drives are free, and the engine's commit ends it. A task outlives the process: `recover` takes up every one
 * that had not ended, oldest first, and handlers find what they did before.
 */
import type { Catalog, Tx } from '../catalog/catalog.ts';
import { activeTasks, drivesOfTasks, endTask, insertTask, saveTask, setTaskInput } from '../catalog/tasks.ts';
import { CalotypeError, type StoredError, toStoredError } from '../core/errors.ts';
import { type DriveId, type MachineId, newId, type ProjectId, type TaskId, type UserId } from '../core/ids.ts';
import type { Task, TaskKind } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { ActiveTask, type TaskResult } from './active-task.ts';
import type { Logger } from './context.ts';
import { DriveQueues } from './drive-queues.ts';
import type { Observer } from './observer.ts';
import type { TaskInputs } from './task-inputs.ts';
import { isTaskKind, type TaskAbilities, toTask } from './task-view.ts';

/** What carries out tasks of one kind. */
export interface TaskHandler<Input> {
  /** Whether it can be undone once it runs; a task that still waits can always be cancelled. */
  readonly cancellable: boolean | 'background';
  /** Whether it moves bytes, and so can be paused and slowed down. */
  readonly pausable: boolean | 'background';
  /** Whether the answer is all that most clients wait for, so that the work leaves them the processor first. */
  readonly atLeisure?: boolean;
  /**
   * Does the work, from wherever an earlier attempt left it. Ends the task by `task.conclude` in the engine's commit, or
   * by returning its result.
   */
  run(task: ActiveTask, input: Input): Promise<TaskResult | undefined>;
  /** Puts the objects into the state that a failed or cancelled task leaves them in. */
  abandon?(tx: Tx, task: ActiveTask, input: Input, error: StoredError, cancelled: boolean): Promise<void>;
  /** After it ended, however it ended. */
  after?(task: ActiveTask, input: Input): Promise<void>;
}

type AnyHandler = TaskHandler<string>;

/** Whose task it is, and what that one calls it. */
export interface TaskOwner {
  readonly projectId: ProjectId | null;
  readonly userId: UserId | null;
  readonly via: string;
  readonly title?: string | undefined;
}

export interface TaskSpec<K extends TaskKind> {
  readonly kind: K;
  readonly input: TaskInputs[K];
  /** Made beforehand where the input or the object needs it. */
  readonly id?: TaskId;
  readonly driveIds: readonly DriveId[];
  readonly machineId?: MachineId;
  readonly objectKind: string | null;
  readonly objectId: string | null;
  readonly owner: TaskOwner;
  readonly holdsDrives?: boolean;
  readonly event?: { readonly detail: TaskResult } | null;
}

export type AddTask = <K extends TaskKind>(spec: TaskSpec<K>) => Promise<ActiveTask>;

type EndState = 'done' | 'failed' | 'cancelled';

const firstSaveMs = 200;
const saveMs = 1000;

export class TaskRunner {
  readonly #catalog: Catalog;
  readonly #logger: Logger;
  readonly #observer: Observer;
  readonly #wake: () => void;
  readonly #handlers = new Map<TaskKind, AnyHandler>();
  readonly #active = new Map<TaskId, ActiveTask>();
  readonly #queues = new DriveQueues<ActiveTask>();
  readonly #running = new Set<Promise<void>>();
  readonly #recovered = Promise.withResolvers<void>();
  #closing = false;

  /** `wake` is called after every commit that wrote events. */
  constructor(deps: { catalog: Catalog; logger: Logger; observer: Observer; wake: () => void }) {
    this.#catalog = deps.catalog;
    this.#logger = deps.logger;
    this.#observer = deps.observer;
    this.#wake = deps.wake;
  }

  get closing(): boolean {
    return this.#closing;
  }

  register<K extends TaskKind>(kind: K, handler: TaskHandler<TaskInputs[K]>): void {
    const parse = (json: string): TaskInputs[K] => JSON.parse(json);
    this.#handlers.set(kind, {
      cancellable: handler.cancellable,
      pausable: handler.pausable,
      atLeisure: handler.atLeisure ?? false,
      run: (task, json) => handler.run(task, parse(json)),
      abandon: async (tx, task, json, error, cancelled) => handler.abandon?.(tx, task, parse(json), error, cancelled),
      after: async (task, json) => handler.after?.(task, parse(json)),
    });
  }

  #handlerOf(kind: TaskKind): AnyHandler {
    const handler = this.#handlers.get(kind);
    if (handler === undefined) throw new CalotypeError('internal', `There is no handler for tasks of kind ${kind}.`);
    return handler;
  }

  /**
   * Runs `work` in one transaction that may add tasks; once it is durable they are carried out. Queue positions are taken
   * inside the transaction, so that they follow the tasks' numbers; before `recover` is done none can be. `mayUseReserve` is
   * for what gives space back.
   */
  async change<T>(work: (tx: Tx, add: AddTask) => Promise<T>, options: { mayUseReserve?: boolean } = {}): Promise<T> {
    await this.#recovered.promise;
    if (this.#closing) throw new CalotypeError('shutting_down');
    const added: ActiveTask[] = [];
    let result: T;
    try {
      result = await this.#catalog.write(async (tx) => {
        for (const task of added.splice(0)) this.#forget(task);
        return work(tx, async (spec) => {
          const task = await this.#insert(tx, spec);
          added.push(task);
          return task;
        });
      }, options);
    } catch (error) {
      for (const task of added) this.#forget(task);
      throw error;
    }
    for (const task of added) {
      task.ready = true;
      this.#startBehindAnswer(task);
    }
    this.#wake();
    return result;
  }

  async #insert<K extends TaskKind>(tx: Tx, spec: TaskSpec<K>): Promise<ActiveTask> {
    const row = await insertTask(tx, {
      id: spec.id ?? newId(),
      projectId: spec.owner.projectId,
      userId: spec.owner.userId,
      via: spec.owner.via,
      kind: spec.kind,
      objectKind: spec.objectKind,
      objectId: spec.objectId,
      input: spec.input,
      total: 1,
      unit: 'steps',
      holdsDrives: spec.holdsDrives ?? true,
      driveIds: spec.driveIds,
      machineId: spec.machineId ?? null,
      title: spec.owner.title ?? null,
      at: nowUs(),
    });
    const task = new ActiveTask(row, spec.kind, spec.driveIds);
    if (spec.event !== null) await task.event(tx, { event: `${spec.kind}.requested`, ...spec.event });
    this.#enter(task);
    return task;
  }

  #enter(task: ActiveTask): void {
    this.#active.set(task.row.id, task);
    if (task.holdsDrives) this.#queues.add(task);
    this.#observer.activeTasks?.(this.#active.size);
  }

  #forget(task: ActiveTask): void {
    this.#active.delete(task.row.id);
    const next = this.#queues.remove(task);
    this.#observer.activeTasks?.(this.#active.size);
    for (const other of next) this.#startIfFree(other);
  }

  /** Takes up the tasks of an earlier process. Call once, after all handlers are registered. */
  async recover(): Promise<number> {
    const rows = await activeTasks(this.#catalog.db);
    const drives = await drivesOfTasks(
      this.#catalog.db,
      rows.map((row) => row.id),
    );
    const tasks: ActiveTask[] = [];
    for (const row of rows) {
      if (isTaskKind(row.kind)) {
        row.state = 'queued';
        tasks.push(new ActiveTask(row, row.kind, drives.get(row.id) ?? []));
        continue;
      }
      const error = toStoredError(new CalotypeError('internal', `Tasks of kind ${row.kind} are not known any more.`));
      await endTask(this.#catalog.db, {
        number: row.number,
        state: 'failed',
        result: null,
        error: JSON.stringify(error),
        done: row.progress_done,
        total: row.progress_total,
        unit: row.progress_unit,
        startedAt: row.started_at,
        at: nowUs(),
      });
    }
    for (const task of tasks) this.#enter(task);
    this.#recovered.resolve();
    for (const task of tasks) task.ready = true;
    for (const task of tasks) this.#startIfFree(task);
    return tasks.length;
  }

  /**
   * Work begins behind the answer to whoever asked, which the task's own commits would hold up. A client that is woken by
   * its answer may have to share the server's processor, so that what has leisure waits for that, too.
   */
  #startBehindAnswer(task: ActiveTask): void {
    const start = (): void => this.#startIfFree(task);
    if (this.#handlers.get(task.kind)?.atLeisure === true) setTimeout(start, 1);
    else setImmediate(start);
  }

  #startIfFree(task: ActiveTask): void {
    if (task.started || !task.ready || this.#closing) return;
    if (task.holdsDrives && !this.#queues.mayRun(task)) return;
    task.started = true;
    const run = this.#run(task);
    this.#running.add(run);
    void run.finally(() => this.#running.delete(run));
  }

  async #run(task: ActiveTask): Promise<void> {
    const handler = this.#handlerOf(task.kind);
    task.row.state = task.row.pause_requested === 1 ? 'paused' : 'running';
    task.row.started_at ??= nowUs();
    task.saveTimer = setTimeout(() => this.#saveNow(task), firstSaveMs);
    task.onProgress = () => this.#saveSoon(task);
    let state: EndState;
    try {
      if (task.signal.aborted && task.holdsDrives) throw new CalotypeError('cancelled');
      const result = await handler.run(task, task.row.input_json);
      if (task.concluded === undefined) {
        await this.#catalog.write((tx) => task.conclude(tx, result ?? null, { event: `${task.kind}.done` }));
      }
      task.row.result_json = task.concluded === null ? null : JSON.stringify(task.concluded ?? null);
      task.row.error_json = null;
      state = 'done';
    } catch (error) {
      if (this.#closing && !(error instanceof CalotypeError && task.row.cancel_requested === 1)) {
        clearTimeout(task.saveTimer);
        return;
      }
      state = await this.#fail(task, handler, error);
    }
    await this.#end(task, handler, state);
  }

  /** Writes the failure, however long that takes: an object must not stay in between states. */
  async #fail(task: ActiveTask, handler: AnyHandler, error: unknown): Promise<EndState> {
    const cancelled = task.signal.aborted;
    const stored = cancelled ? toStoredError(new CalotypeError('cancelled')) : toStoredError(error);
    if (stored.code === 'internal')
      this.#logger.error({ err: error, taskId: task.row.id, kind: task.kind }, 'task failed');
    const state = cancelled ? 'cancelled' : 'failed';
    const json = JSON.stringify(stored);
    let ended = false;
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, 5000)) {
      try {
        await this.#catalog.write(async (tx) => {
          ended = !(await endTask(tx, {
            number: task.number,
            state,
            result: null,
            error: json,
            done: task.meter.done,
            total: task.meter.total,
            unit: task.meter.unit,
            startedAt: task.row.started_at,
            at: nowUs(),
          }));
          // The engine failed after its commit: the work stands.
          if (ended) return;
          await handler.abandon?.(tx, task, task.row.input_json, stored, cancelled);
          await task.event(tx, {
            event: `${task.kind}.${state}`,
            detail: cancelled ? {} : { code: stored.code, message: stored.message },
          });
        });
        break;
      } catch (cause) {
        this.#logger.error({ err: cause, taskId: task.row.id }, 'the end of a task could not be written; trying again');
        await new Promise((resolve) => setTimeout(resolve, waitMs));
        if (this.#closing) return state;
      }
    }
    if (ended) return 'done';
    task.row.error_json = json;
    return state;
  }

  async #end(task: ActiveTask, handler: AnyHandler, state: EndState): Promise<void> {
    clearTimeout(task.saveTimer);
    task.onProgress = undefined;
    const { row } = task;
    row.state = state;
    row.finished_at = nowUs();
    if (state === 'done') {
      const { done, total, unit } = task.meter;
      task.meter.set(unit === 'bytes' ? Math.max(done, total) : Math.max(1, total), unit === 'bytes' ? total : 1);
    }
    this.#forget(task);
    this.#wake();
    const view = this.view(task);
    for (const waiter of task.waiters) waiter(view);
    task.waiters.clear();
    this.#observer.taskFinished?.(task.kind, state, (row.finished_at - (row.started_at ?? row.finished_at)) / 1e6);
    try {
      await handler.after?.(task, row.input_json);
    } catch (error) {
      this.#logger.error({ err: error, taskId: row.id }, 'clean-up after a task failed');
    }
  }

  /** Writes down what a task found out and needs to know again after a crash. */
  async keepInput(task: ActiveTask, input: object): Promise<void> {
    const json = JSON.stringify(input);
    await this.#catalog.write((tx) => setTaskInput(tx, task.number, json));
    task.row.input_json = json;
  }

  /** The foreground part of a task is durable: the next changes of its drives may go. */
  release(task: ActiveTask): void {
    if (!task.holdsDrives) return;
    task.row.holds_drives = 0;
    for (const next of this.#queues.remove(task)) this.#startIfFree(next);
    this.#wake();
    for (const waiter of task.foregroundWaiters) waiter(this.view(task));
  }

  #saveSoon(task: ActiveTask): void {
    task.saveTimer ??= setTimeout(() => this.#saveNow(task), saveMs);
  }

  #saveNow(task: ActiveTask): void {
    clearTimeout(task.saveTimer);
    task.saveTimer = undefined;
    if (!this.#active.has(task.row.id) || this.#closing) return;
    task.row.progress_done = task.meter.done;
    task.row.progress_total = task.meter.total;
    task.row.progress_unit = task.meter.unit;
    saveTask(this.#catalog.db, task.row).catch((error) =>
      this.#logger.warn({ err: error, taskId: task.row.id }, 'progress could not be written'),
    );
  }

  find(id: TaskId): ActiveTask | undefined {
    return this.#active.get(id);
  }

  active(): IterableIterator<ActiveTask> {
    return this.#active.values();
  }

  /** What holds or waits for a drive or machine, in order. */
  queueOf(id: DriveId | MachineId): readonly ActiveTask[] {
    return this.#queues.of(id);
  }

  abilities(task: ActiveTask): TaskAbilities {
    if (task.row.finished_at !== null) return { cancellable: false, pausable: false };
    const handler = this.#handlerOf(task.kind);
    const able = (ability: boolean | 'background'): boolean => (ability === 'background' ? !task.holdsDrives : ability);
    return {
      cancellable: !task.started || able(handler.cancellable),
      pausable: task.started && able(handler.pausable),
    };
  }

  view(task: ActiveTask): Task {
    return toTask(task.row, task.kind, task.driveIds, task.meter.read(), this.abilities(task));
  }

  /** The tasks that one waits for. */
  blockers(task: ActiveTask): readonly ActiveTask[] {
    return task.started || !task.holdsDrives ? [] : this.#queues.blockers(task);
  }

  /** Resolves when the task, or the foreground part of it, has ended, or with what it is at after `timeoutMs`. */
  wait(task: ActiveTask, timeoutMs: number, part: 'all' | 'foreground' = 'all'): Promise<Task> {
    if (part === 'foreground' && !task.holdsDrives) return Promise.resolve(this.view(task));
    return new Promise((resolve) => {
      const timer = setTimeout(() => done(this.view(task)), Math.min(timeoutMs, 2 ** 31 - 1));
      const done = (view: Task): void => {
        clearTimeout(timer);
        task.waiters.delete(done);
        task.foregroundWaiters.delete(done);
        resolve(view);
      };
      task.waiters.add(done);
      if (part === 'foreground') task.foregroundWaiters.add(done);
    });
  }

  /** @throws task_not_cancellable */
  async cancel(task: ActiveTask): Promise<void> {
    if (!this.abilities(task).cancellable) {
      throw new CalotypeError('task_not_cancellable', undefined, { taskId: task.row.id, kind: task.kind });
    }
    const wasStarted = task.started;
    task.row.cancel_requested = 1;
    task.started = true;
    task.abort.abort();
    task.nudge?.();
    if (wasStarted) {
      await saveTask(this.#catalog.db, task.row);
      return;
    }
    const handler = this.#handlerOf(task.kind);
    const state = await this.#fail(task, handler, new CalotypeError('cancelled'));
    await this.#end(task, handler, state);
  }

  /** @throws task_not_pausable */
  async setPaused(task: ActiveTask, paused: boolean): Promise<void> {
    if (!this.abilities(task).pausable) {
      throw new CalotypeError('task_not_pausable', undefined, { taskId: task.row.id, kind: task.kind });
    }
    task.row.pause_requested = paused ? 1 : 0;
    this.setState(task, paused ? 'paused' : 'running', null);
    await saveTask(this.#catalog.db, task.row);
    if (!paused) task.nudge?.();
  }

  async setSpeedLimit(task: ActiveTask, bytesPerSecond: number): Promise<void> {
    task.row.speed_limit = bytesPerSecond;
    await saveTask(this.#catalog.db, task.row);
  }

  /** Between running and paused, with the reason if it is not the user's wish. */
  setState(task: ActiveTask, state: 'running' | 'paused', error: StoredError | null): void {
    task.row.state = state;
    task.row.error_json = error === null ? null : JSON.stringify(error);
    task.meter.restart();
    this.#saveSoon(task);
  }

  /** Lets short work finish for up to `graceMs`; what is left goes on at the next start. */
  async close(graceMs = 5000): Promise<void> {
    this.#closing = true;
    for (const task of this.#active.values()) {
      clearTimeout(task.saveTimer);
      if (!task.started) continue;
      const handler = this.#handlerOf(task.kind);
      if (handler.pausable === true || (handler.pausable === 'background' && !task.holdsDrives)) task.abort.abort();
      task.nudge?.();
    }
    const grace = new Promise<void>((resolve) => setTimeout(resolve, graceMs).unref());
    await Promise.race([Promise.allSettled([...this.#running]), grace]);
    const error = new CalotypeError('shutting_down');
    for (const task of this.#active.values()) {
      const view = { ...this.view(task), error: toStoredError(error) };
      for (const waiter of task.waiters) waiter(view);
      task.waiters.clear();
    }
  }
}
