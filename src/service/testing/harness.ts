/** A service on a catalog of its own and the engine double, for tests: with people to call as, crashes and restarts. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Catalog } from '../../catalog/catalog.ts';
import type { GrantedKind, Role } from '../../catalog/schema.ts';
import { CalotypeError, type ErrorCode } from '../../core/errors.ts';
import { type DriveId, type GrantId, newId, type ProjectId, type TaskId, type UserId } from '../../core/ids.ts';
import type { Drive, Snapshot, Task } from '../../core/model.ts';
import { nowUs } from '../../core/time.ts';
import type { Caller, CallerRole } from '../caller.ts';
import type { Logger, ServiceConfig } from '../context.ts';
import { createService, type RunningService } from '../service.ts';
import { MemoryEngine } from './memory-engine.ts';

export const mib = 1024 * 1024;

const silent: Logger = { info() {}, warn() {}, error() {} };

export class Harness {
  readonly directory: string;
  catalog: Catalog;
  service: RunningService;
  readonly engine: MemoryEngine;
  readonly caller: Caller;
  #config: ServiceConfig;

  private constructor(parts: {
    directory: string;
    catalog: Catalog;
    service: RunningService;
    engine: MemoryEngine;
    caller: Caller;
    config: ServiceConfig;
  }) {
    this.directory = parts.directory;
    this.catalog = parts.catalog;
    this.service = parts.service;
    this.engine = parts.engine;
    this.caller = parts.caller;
    this.#config = parts.config;
  }

  static async start(options: Partial<ServiceConfig> = {}): Promise<Harness> {
    const directory = mkdtempSync(join(tmpdir(), 'calotype-service-'));
    const catalog = await Catalog.open(directory);
    const engine = new MemoryEngine(catalog);
    const config: ServiceConfig = {
      dataDirectory: directory,
      importDirectory: null,
      bootDirectory: join(directory, 'boot'),
      maxImportBytes: 64 * mib,
      maxDriveBytes: 1024 ** 4,
      ...options,
    };
    const caller = await addPerson(catalog, 'alice', await addProject(catalog, 'default'), 'member');
    const service = await createService({ catalog, engine, config, logger: silent });
    return new Harness({ directory, catalog, service, engine, caller, config });
  }

  /** A process killed and started again: nothing of the old one reaches the catalog any more. */
  async crash(): Promise<void> {
    const old = this.service;
    await this.catalog.close();
    this.engine.gate = () => {};
    this.catalog = await Catalog.open(this.directory);
    this.engine.catalog = this.catalog;
    await old.close(0).catch(() => undefined);
    this.service = await this.#create();
  }

  async reconfigure(options: Partial<ServiceConfig>): Promise<void> {
    this.#config = { ...this.#config, ...options };
    await this.restart();
  }

  async restart(): Promise<void> {
    await this.service.close(0);
    this.service = await this.#create();
  }

  #create(): Promise<RunningService> {
    return createService({ catalog: this.catalog, engine: this.engine, config: this.#config, logger: silent });
  }

  async stop(): Promise<void> {
    await this.service.close(0);
    await this.catalog.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async ended(task: { readonly id: TaskId }): Promise<Task> {
    return this.service.tasks.waitFor(this.caller, task.id, 10_000);
  }

  /** @throws the error the task failed with */
  async done(task: { readonly id: TaskId }): Promise<Task> {
    const end = await this.ended(task);
    if (end.error !== null) throw new CalotypeError(end.error.code, end.error.message, end.error.details);
    if (end.state !== 'done') throw new Error(`task ${end.kind} is ${end.state}`);
    return end;
  }

  async drive(name = 'disk', sizeBytes = mib): Promise<Drive> {
    const { task, drive } = await this.service.drives.create(this.caller, { name, sizeBytes });
    await this.done(task);
    return this.service.drives.get(this.caller, drive.id);
  }

  async snapshot(driveIds: readonly DriveId[], name?: string): Promise<Snapshot> {
    const { task, snapshot } = await this.service.snapshots.create(this.caller, {
      driveIds,
      ...(name === undefined ? {} : { name }),
    });
    await this.done(task);
    return this.service.snapshots.get(this.caller, snapshot.id);
  }

  person(name: string, role: CallerRole & Role, projectId: ProjectId = this.caller.projectId): Promise<Caller> {
    return addPerson(this.catalog, name, projectId, role);
  }

  async grant(to: Caller, id: string, access: 'ro' | 'rw', kind: GrantedKind = 'drive'): Promise<void> {
    await this.catalog.db
      .insertInto('grants')
      .values({
        id: newId<GrantId>(),
        project_id: to.projectId,
        user_id: to.userId,
        object_kind: kind,
        object_id: id,
        access,
        created_at: nowUs(),
      })
      .execute();
  }

  project(name: string): Promise<ProjectId> {
    return addProject(this.catalog, name);
  }

  /** Holds the engine at a place until the returned function is called; `reached` resolves when it got there. */
  hold(place: string): { reached: Promise<void>; release: () => void } {
    const reached = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    const before = this.engine.gate;
    this.engine.gate = async (at) => {
      await before(at);
      if (at !== place) return;
      reached.resolve();
      await held.promise;
    };
    const release = (): void => {
      this.engine.gate = before;
      held.resolve();
    };
    return { reached: reached.promise, release };
  }
}

export async function addProject(catalog: Catalog, name: string): Promise<ProjectId> {
  const id = newId<ProjectId>();
  await catalog.db.insertInto('projects').values({ id, name, created_at: nowUs(), version: 1 }).execute();
  return id;
}

export async function addPerson(
  catalog: Catalog,
  name: string,
  projectId: ProjectId,
  role: CallerRole & Role,
): Promise<Caller> {
  const id = newId<UserId>();
  await catalog.db
    .insertInto('users')
    .values({
      id,
      name,
      email: null,
      password_hash: null,
      is_operator: 0,
      disabled: 0,
      created_at: nowUs(),
      version: 1,
    })
    .execute();
  await catalog.db.insertInto('memberships').values({ project_id: projectId, user_id: id, role }).execute();
  return { userId: id, userName: name, projectId, projectName: 'default', role, via: 'native' };
}

/** The code of the error that a promise rejects with. */
export async function codeOf(promise: Promise<unknown>): Promise<{ code: ErrorCode | null; details: object }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof CalotypeError) return { code: error.code, details: error.details };
    throw error;
  }
  return { code: null, details: {} };
}
