/** For tests of the service: a catalog in a directory of its own, an authenticator on a clock the test moves, people. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { Catalog } from '../../catalog/catalog.ts';
import type { EventRow, Role } from '../../catalog/schema.ts';
import { CalotypeError, type ErrorCode, type ErrorDetails } from '../../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId, type ProjectId, type SnapshotId } from '../../core/ids.ts';
import { nowUs } from '../../core/time.ts';
import { Authenticator } from '../authenticate.ts';
import { localOperator } from '../bootstrap.ts';
import type { Caller, CallerRole } from '../caller.ts';
import { Grants } from '../grants.ts';
import { hashPassword } from '../passwords.ts';
import { insertProject, Projects } from '../projects.ts';
import { Tokens } from '../tokens.ts';
import { insertUser, Users } from '../users.ts';

export const operatorPassword = 'operator password';

const hashes = new Map<string, Promise<string>>();

/** The stored form of a password; the same for all tests of a file, since each costs a tenth of a second. */
function hashOnce(password: string): Promise<string> {
  const known = hashes.get(password) ?? hashPassword(password);
  hashes.set(password, known);
  return known;
}

export class IdentityFixture implements AsyncDisposable {
  readonly directory: string;
  readonly catalog: Catalog;
  readonly authenticator: Authenticator;
  readonly users: Users;
  readonly projects: Projects;
  readonly grants: Grants;
  readonly tokens: Tokens;
  /** Operator `root` in project `home`. */
  readonly operator: Caller;
  readonly #clock: { ms: number };

  private constructor(
    directory: string,
    catalog: Catalog,
    operator: Caller,
    clock: { ms: number },
    wallClockUs: () => number,
  ) {
    this.directory = directory;
    this.catalog = catalog;
    this.#clock = clock;
    this.authenticator = new Authenticator(catalog, { now: () => clock.ms, wallClockUs });
    this.users = new Users(catalog, this.authenticator);
    this.projects = new Projects(catalog, this.authenticator);
    this.grants = new Grants(catalog);
    this.tokens = new Tokens(catalog, this.authenticator);
    this.operator = operator;
  }

  static async open(): Promise<IdentityFixture> {
    const directory = await mkdtemp(join(tmpdir(), 'calotype-identity-'));
    const catalog = await Catalog.open(directory);
    const passwordHash = await hashOnce(operatorPassword);
    await catalog.write(async (tx) => {
      const project = await insertProject(tx, 'home');
      const user = await insertUser(tx, { name: 'root', email: 'root@example.net', passwordHash, isOperator: true });
      await tx.insertInto('memberships').values({ project_id: project.id, user_id: user.id, role: 'admin' }).execute();
    });
    const operator = await localOperator(catalog, 'test');
    if (operator === null) throw new Error('no operator');
    const clock = { ms: 1000 };
    const startedAt = Date.now() * 1000;
    return new IdentityFixture(directory, catalog, operator, clock, () => startedAt + clock.ms * 1000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.catalog.close();
    await rm(this.directory, { recursive: true, force: true });
  }

  /** Moves the authenticator's clocks. */
  pass(seconds: number): void {
    this.#clock.ms += seconds * 1000;
  }

  /** A new user in a project (made if there is none of that name), as a caller. */
  async person(name: string, role: Role, options: { project?: string; password?: string } = {}): Promise<Caller> {
    const { project = 'home', password } = options;
    const user = await this.users.create(this.operator, { name, email: `${name}@example.net` });
    if (password !== undefined) {
      await this.catalog.db
        .updateTable('users')
        .set({ password_hash: await hashOnce(password) })
        .where('id', '=', user.id)
        .execute();
    }
    const page = await this.projects.list(this.operator, { limit: 1000 });
    const place =
      page.items.find((p) => p.name === project) ?? (await this.projects.create(this.operator, { name: project }));
    await this.projects.setMember(this.operator, project, { user: user.id, role });
    const callerRole: CallerRole = role;
    return {
      userId: user.id,
      userName: name,
      projectId: place.id,
      projectName: place.name,
      role: callerRole,
      via: 'test',
    };
  }

  async addDrive(projectId: ProjectId, name = 'drive'): Promise<DriveId> {
    const id = newId<DriveId>();
    const at = nowUs();
    await this.catalog.db
      .insertInto('drives')
      .values({
        id,
        project_id: projectId,
        name,
        description: '',
        size_bytes: 1 << 20,
        state: 'available',
        meta_json: '{}',
        error_json: null,
        based_on: null,
        source_id: null,
        sizes_stale: 0,
        created_at: at,
        updated_at: at,
        deleted_at: null,
        version: 1,
      })
      .execute();
    return id;
  }

  /** A snapshot of the drives; of none, one still being made. */
  async addSnapshot(
    maker: Caller,
    driveIds: readonly DriveId[],
  ): Promise<{ id: SnapshotId; parts: DriveSnapshotId[] }> {
    const id = newId<SnapshotId>();
    const at = nowUs();
    await this.catalog.db
      .insertInto('snapshots')
      .values({
        id,
        project_id: maker.projectId,
        name: 'snapshot',
        description: '',
        state: driveIds.length === 0 ? 'creating' : 'available',
        meta_json: '{}',
        error_json: null,
        origin: 'manual',
        consistency: 'crash',
        complete: 1,
        created_by: maker.userId,
        created_at: at,
        part_count: driveIds.length,
        updated_at: at,
        version: 1,
      })
      .execute();
    const parts: DriveSnapshotId[] = [];
    for (const driveId of driveIds) {
      const part = newId<DriveSnapshotId>();
      parts.push(part);
      await this.catalog.db
        .insertInto('drive_snapshots')
        .values({
          id: part,
          snapshot_id: id,
          drive_id: driveId,
          parent_id: null,
          size_bytes: 1 << 20,
          changed_bytes: 0,
          created_at: at,
        })
        .execute();
    }
    return { id, parts };
  }

  /** The audit log about an object, oldest first. */
  async eventsOf(objectId: string): Promise<EventRow[]> {
    return this.catalog.db.selectFrom('events').selectAll().where('object_id', '=', objectId).orderBy('seq').execute();
  }

  /** Every text of the audit log in one, to look for what must not be in it. */
  async auditText(): Promise<string> {
    return JSON.stringify(await this.catalog.db.selectFrom('events').selectAll().execute());
  }
}

/** The error a piece of work fails with; the test fails if it does not. */
export async function errorOf(work: Promise<unknown> | (() => unknown)): Promise<CalotypeError> {
  try {
    await (typeof work === 'function' ? work() : work);
  } catch (error) {
    if (error instanceof CalotypeError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

export async function expectError(
  work: Promise<unknown> | (() => unknown),
  code: ErrorCode,
  details: ErrorDetails = {},
): Promise<void> {
  const error = await errorOf(work);
  expect({ code: error.code, ...error.details }).toMatchObject({ code, ...details });
}
