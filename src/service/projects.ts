/**
 * Projects and who belongs to them. Operators make, rename and delete projects; the admins of a project say who its
 * members are. A project that the caller does not belong to looks missing.
 */
import { sql } from 'kysely';
import { addEvent, type Catalog, type Db, type Tx } from '../catalog/catalog.ts';
import type { ProjectRow, Role } from '../catalog/schema.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { newId, type ProjectId, type UserId } from '../core/ids.ts';
import { checkDescription, checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import type { Authenticator } from './authenticate.ts';
import type { Caller } from './caller.ts';
import type { Page, PageRequest } from './interface.ts';
import { makeNumberPage, readNumberPage } from './number-page.ts';
import { assertOperator, assertProjectAdmin } from './rights.ts';
import { assertVersion, findUser } from './users.ts';

export interface Project {
  readonly id: ProjectId;
  readonly number: number;
  readonly name: string;
  readonly description: string;
  readonly createdAt: number;
  readonly version: number;
}

export interface Member {
  readonly projectId: ProjectId;
  readonly userId: UserId;
  readonly userName: string;
  readonly email: string | null;
  readonly role: Role;
}

const roles: readonly string[] = ['admin', 'member', 'guest'] satisfies Role[];

export class Projects {
  readonly #catalog: Catalog;
  readonly #authenticator: Authenticator;

  constructor(catalog: Catalog, authenticator: Authenticator) {
    this.#catalog = catalog;
    this.#authenticator = authenticator;
  }

  /** For operators. @throws `forbidden`, `invalid_name`, `invalid_request`, `name_taken` */
  async create(caller: Caller, input: { name: string; description?: string }): Promise<Project> {
    assertOperator(caller);
    const name = checkName(input.name);
    const description = checkDescription(input.description);
    const row = await this.#catalog.write(async (tx) => {
      const made = await insertProject(tx, name, description);
      await addProjectEvent(tx, caller, 'project.created', made.id, { name });
      return made;
    });
    return presentProject(row);
  }

  /** Operators see every project, others those they belong to. */
  async list(caller: Caller, page: PageRequest = {}): Promise<Page<Project>> {
    const { limit, offset, after } = readNumberPage(page);
    const visible = this.#catalog.db.selectFrom('projects').where(visibleProjects(caller));
    const rows = await visible
      .selectAll()
      .where('number', '>', after)
      .orderBy('number')
      .limit(limit + 1)
      .offset(offset)
      .execute();
    const total =
      page.withTotal === true
        ? await visible.select((eb) => eb.fn.countAll<number>().as('count')).executeTakeFirstOrThrow()
        : null;
    return makeNumberPage(rows, limit, total === null ? null : Number(total.count), presentProject);
  }

  /** By id or name, among those that `list` shows. @throws `not_found` */
  async get(caller: Caller, asked: string): Promise<Project> {
    return presentProject(await findVisibleProject(this.#catalog.db, caller, asked));
  }

  /** For operators. @throws `not_found`, `forbidden`, `invalid_name`, `invalid_request`, `name_taken`, `precondition_failed` */
  async update(
    caller: Caller,
    asked: string,
    update: { name?: string; description?: string; ifVersion?: number },
  ): Promise<Project> {
    const name = update.name === undefined ? undefined : checkName(update.name);
    const description = update.description === undefined ? undefined : checkDescription(update.description);
    return this.#change(caller, asked, async (tx, project) => {
      assertVersion(project, update.ifVersion);
      if (name !== undefined) await assertFree(tx, name, project.id);
      const row = await tx
        .updateTable('projects')
        .set({
          name: name ?? project.name,
          description: description ?? project.description,
          version: project.version + 1,
        })
        .where('number', '=', project.number)
        .returningAll()
        .executeTakeFirstOrThrow();
      await addProjectEvent(tx, caller, 'project.updated', project.id, { name: row.name, oldName: project.name });
      return row;
    });
  }

  /**
   * For operators. Its memberships and grants go too. Its machines, drives, snapshots and images must have gone before,
   * those in deletion included; the last project stays, for every caller acts in one.
   * @throws `not_found`, `forbidden`, `project_not_empty`, `precondition_failed`
   */
  async delete(caller: Caller, asked: string, options: { ifVersion?: number } = {}): Promise<void> {
    await this.#change(caller, asked, async (tx, project) => {
      assertVersion(project, options.ifVersion);
      await assertEmpty(tx, project);
      const other = await tx.selectFrom('projects').select('number').where('id', '!=', project.id).executeTakeFirst();
      if (other === undefined) {
        throw new CalotypeError('forbidden', 'The last project cannot be deleted.', {
          remedy: 'Create another project first.',
        });
      }
      await tx.deleteFrom('grants').where('project_id', '=', project.id).execute();
      await tx.deleteFrom('memberships').where('project_id', '=', project.id).execute();
      await tx.deleteFrom('project_tags').where('project_id', '=', project.id).execute();
      await tx.deleteFrom('projects').where('number', '=', project.number).execute();
      await addProjectEvent(tx, caller, 'project.deleted', project.id, { name: project.name });
      return project;
    });
  }

  /** Who belongs to a project, by name. For its admins and operators. @throws `not_found`, `forbidden` */
  async listMembers(caller: Caller, asked: string): Promise<readonly Member[]> {
    const project = await findVisibleProject(this.#catalog.db, caller, asked);
    assertProjectAdmin(caller, project.id, asked);
    return selectMembers(this.#catalog.db, project.id).orderBy('u.name').execute();
  }

  /**
   * Makes a user, named by id, name or e-mail address, a member of a project, or changes their role in it. With
   * `dropGrants` what was granted to them before goes.
   * @throws `not_found`, `forbidden`, `invalid_request`
   */
  async setMember(
    caller: Caller,
    asked: string,
    input: { user: string; role: Role; dropGrants?: boolean },
  ): Promise<Member> {
    if (!roles.includes(input.role)) {
      throw new CalotypeError('invalid_request', `The role must be one of ${roles.join(', ')}.`, {
        field: 'role',
        known: roles,
      });
    }
    return this.#changeMember(caller, asked, input.user, async (tx, project, userId) => {
      await tx
        .insertInto('memberships')
        .values({ project_id: project.id, user_id: userId, role: input.role })
        .onConflict((c) => c.columns(['project_id', 'user_id']).doUpdateSet({ role: input.role }))
        .execute();
      if (input.dropGrants === true) await deleteGrantsTo(tx, project.id, userId);
      await addProjectEvent(tx, caller, 'member.set', project.id, { user: userId, role: input.role });
      return selectMembers(tx, project.id).where('u.id', '=', userId).executeTakeFirstOrThrow();
    });
  }

  /** The user leaves the project, with all grants in it. @throws `not_found`, `forbidden` */
  async removeMember(caller: Caller, asked: string, user: string): Promise<void> {
    await this.#changeMember(caller, asked, user, async (tx, project, userId) => {
      const removed = await tx
        .deleteFrom('memberships')
        .where('project_id', '=', project.id)
        .where('user_id', '=', userId)
        .executeTakeFirst();
      if (removed.numDeletedRows === 0n) throw notFound('user', user);
      await deleteGrantsTo(tx, project.id, userId);
      await addProjectEvent(tx, caller, 'member.removed', project.id, { user: userId });
    });
  }

  /** One change of one project by an operator, in one commit, after which nothing remembered of it holds. */
  async #change(
    caller: Caller,
    asked: string,
    work: (tx: Tx, project: ProjectRow) => Promise<ProjectRow>,
  ): Promise<Project> {
    let changed: ProjectId | undefined;
    try {
      const row = await this.#catalog.write(async (tx) => {
        const project = await findVisibleProject(tx, caller, asked);
        assertOperator(caller);
        changed = project.id;
        return work(tx, project);
      });
      return presentProject(row);
    } finally {
      if (changed !== undefined) this.#authenticator.forgetProject(changed);
    }
  }

  async #changeMember<T>(
    caller: Caller,
    asked: string,
    user: string,
    work: (tx: Tx, project: ProjectRow, userId: UserId) => Promise<T>,
  ): Promise<T> {
    let changed: UserId | undefined;
    try {
      return await this.#catalog.write(async (tx) => {
        const project = await findVisibleProject(tx, caller, asked);
        assertProjectAdmin(caller, project.id, asked);
        const found = await findUser(tx, user);
        if (found === undefined) throw notFound('user', user);
        changed = found.id;
        return work(tx, project, found.id);
      });
    } finally {
      if (changed !== undefined) this.#authenticator.forgetUser(changed);
    }
  }
}

/** Writes the record of a new project. @throws `name_taken` */
export async function insertProject(tx: Tx, name: string, description = ''): Promise<ProjectRow> {
  await assertFree(tx, name, null);
  return tx
    .insertInto('projects')
    .values({ id: newId<ProjectId>(), name, description, created_at: nowUs(), version: 1 })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The project of an id or name, the id first, if the caller may see it. @throws `not_found` */
export async function findVisibleProject(db: Db, caller: Caller, asked: string): Promise<ProjectRow> {
  const rows = await db
    .selectFrom('projects')
    .selectAll()
    .where((eb) => eb.or([eb('id', '=', sql<ProjectId>`${asked}`), eb('name', '=', asked)]))
    .where(visibleProjects(caller))
    .execute();
  const row = rows.find((project) => project.id === asked) ?? rows[0];
  if (row === undefined) throw notFound('project', asked);
  return row;
}

async function deleteGrantsTo(tx: Tx, projectId: ProjectId, userId: UserId): Promise<void> {
  await tx.deleteFrom('grants').where('project_id', '=', projectId).where('user_id', '=', userId).execute();
}

function visibleProjects(caller: Caller) {
  if (caller.role === 'operator') return sql<boolean>`1 = 1`;
  return sql<boolean>`projects.id in (select m.project_id from memberships m where m.user_id = ${caller.userId})`;
}

function presentProject(row: ProjectRow): Project {
  const { id, number, name, description, version } = row;
  return { id, number, name, description, createdAt: row.created_at, version };
}

function selectMembers(db: Db, projectId: ProjectId) {
  return db
    .selectFrom('memberships as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(['m.project_id as projectId', 'u.id as userId', 'u.name as userName', 'u.email', 'm.role'])
    .where('m.project_id', '=', projectId);
}

async function assertFree(tx: Tx, name: string, except: ProjectId | null): Promise<void> {
  const taken = await tx.selectFrom('projects').select('id').where('name', '=', name).executeTakeFirst();
  if (taken !== undefined && taken.id !== except) {
    throw new CalotypeError('name_taken', `There is a project ${name} already.`, {
      field: 'name',
      blocking: [taken.id],
    });
  }
}

async function assertEmpty(tx: Tx, project: ProjectRow): Promise<void> {
  const count = async (table: 'machines' | 'drives' | 'snapshots' | 'images'): Promise<number> => {
    const row = await tx
      .selectFrom(table)
      .select((eb) => eb.fn.countAll<number>().as('count'))
      .where('project_id', '=', project.id)
      .executeTakeFirstOrThrow();
    return Number(row.count);
  };
  const drives = await count('drives');
  const snapshots = await count('snapshots');
  const machines = await count('machines');
  const images = await count('images');
  if (machines + drives + snapshots + images > 0) {
    throw new CalotypeError('project_not_empty', `Project ${project.name} still holds objects.`, {
      machines,
      drives,
      snapshots,
      images,
      remedy: 'Delete its machines, drives, snapshots and images first.',
    });
  }
}

async function addProjectEvent(
  tx: Tx,
  caller: Caller,
  kind: string,
  projectId: ProjectId,
  detail: Readonly<Record<string, unknown>>,
): Promise<void> {
  await addEvent(tx, {
    projectId,
    userId: caller.userId,
    via: caller.via,
    kind,
    objectKind: 'project',
    objectId: projectId,
    detail,
  });
}
