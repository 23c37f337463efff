/** Environments, organisations and service connections: the projects of the server, under the one service that it is. */
import { CalotypeError, notFound } from '../../core/errors.ts';
import { nowUs } from '../../core/time.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import { deleteProjectWithContent } from '../../service/project-content.ts';
import type { Member, Project } from '../../service/projects.ts';
import type { DialectContext } from '../dialect.ts';
import { type Connection, namedId, organization } from './fixed.ts';
import type { Fields } from './parse.ts';
import { presentList, zonedTime } from './present.ts';
import type {
  ConnectionBody,
  EnvironmentBody,
  OrganizationBody,
  RoleBody,
  SingleEnvironmentBody,
  UserBody,
} from './schemas.ts';

export const via = 'cloudmc';

/** What an environment is named in paths without being encoded. */
const environmentName = /^[a-z0-9_-]{1,64}$/;
const pageLimit = 1000;

/** Nothing costs anything; the mode and the day are CloudMC's defaults. Without a first day that is billed there is none to parse. */
const notBilled = { isBillable: false, billingMode: 'MANUAL', billingDay: 1 } as const;

/** Our roles in the words of the portal. A guest reads what was granted, and no more unless that was granted, too. */
const roles = [
  { role: 'admin', name: 'Environment Admin', isDefault: false },
  { role: 'member', name: 'User', isDefault: true },
  { role: 'guest', name: 'Read-only', isDefault: false },
] as const;

export class Administration {
  readonly #context: DialectContext;
  readonly #connection: Connection;
  readonly #startedAt = nowUs();

  constructor(context: DialectContext, connection: Connection) {
    this.#context = context;
    this.#connection = connection;
  }

  async listEnvironments(identity: Identity): Promise<object> {
    const projects = await this.#projects(identity);
    return presentList(await Promise.all(projects.map((project) => this.#present(identity, project))));
  }

  async getEnvironment(identity: Identity, id: string): Promise<object> {
    return { data: await this.#presentSingle(identity, await this.#find(identity, id)) };
  }

  async createEnvironment(identity: Identity, fields: Fields): Promise<object> {
    const name = checkName(fields.requiredText('name'));
    const description = fields.text('description') ?? '';
    this.#checkReferences(fields);
    const project = await this.#context.projects.create(await this.#caller(identity), { name, description });
    return { data: await this.#presentSingle(identity, project) };
  }

  async updateEnvironment(identity: Identity, id: string, fields: Fields): Promise<object> {
    const before = await this.#find(identity, id);
    const name = fields.text('name');
    const description = fields.text('description');
    this.#checkReferences(fields);
    const project = await this.#context.projects.update(await this.#caller(identity), before.id, {
      ...(name === undefined || name === before.name ? {} : { name: checkName(name) }),
      ...(description === undefined ? {} : { description }),
    });
    return { data: await this.#presentSingle(identity, project) };
  }

  /** With everything in it. */
  async deleteEnvironment(identity: Identity, id: string): Promise<object> {
    const project = await this.#find(identity, id);
    const data = await this.#presentSingle(identity, project);
    const { service, projects } = this.#context;
    await deleteProjectWithContent(service, projects, await this.#caller(identity, project.id));
    return { data };
  }

  listConnections(organizationId: string | undefined): object {
    return presentList(
      organizationId === undefined || organizationId === organization.id ? [this.#presentConnection()] : [],
    );
  }

  getConnection(id: string): object {
    if (id !== this.#connection.id) throw notFound('service connection', id);
    return { data: this.#presentConnection() };
  }

  async listOrganizations(identity: Identity): Promise<object> {
    return presentList([await this.#presentOrganization(identity)]);
  }

  async getOrganization(identity: Identity, id: string): Promise<object> {
    if (id !== organization.id) throw notFound('organization', id);
    return { data: await this.#presentOrganization(identity) };
  }

  #caller(identity: Identity, project?: string): Promise<Caller> {
    return this.#context.authenticator.callerFor(identity, { via, ...(project === undefined ? {} : { project }) });
  }

  /** A user who belongs to no project sees no environment. */
  async #projects(identity: Identity): Promise<readonly Project[]> {
    if (identity.memberships.length === 0 && !identity.isOperator) return [];
    const caller = await this.#caller(identity);
    const found: Project[] = [];
    for (let cursor: string | undefined; ; ) {
      const page = await this.#context.projects.list(caller, {
        limit: pageLimit,
        ...(cursor === undefined ? {} : { cursor }),
      });
      found.push(...page.items);
      if (page.nextCursor === null) return found;
      cursor = page.nextCursor;
    }
  }

  /** By id only: a name is no address here. @throws not_found */
  async #find(identity: Identity, id: string): Promise<Project> {
    const caller = await this.#caller(identity, id);
    if (caller.projectId !== id) throw notFound('project', id);
    return this.#context.projects.get(caller, caller.projectId);
  }

  async #present(identity: Identity, project: Project): Promise<EnvironmentBody> {
    return this.#presentWith(project, await this.#members(identity, project));
  }

  async #presentSingle(identity: Identity, project: Project): Promise<SingleEnvironmentBody> {
    const members = await this.#members(identity, project);
    return { ...this.#presentWith(project, members), users: members.map(presentMember) };
  }

  /** Who is in it, as far as the caller may know: others than admins know of themselves. */
  async #members(identity: Identity, project: Project): Promise<readonly Member[]> {
    const caller = await this.#caller(identity, project.id);
    if (caller.role === 'operator' || caller.role === 'admin') {
      return this.#context.projects.listMembers(caller, project.id);
    }
    const { userId, userName, role } = caller;
    return [{ projectId: project.id, userId, userName, email: null, role }];
  }

  #presentWith(project: Project, members: readonly Member[]): EnvironmentBody {
    return {
      id: project.id,
      name: project.name,
      description: project.description,
      membership: 'MANY_USERS',
      creationDate: zonedTime(project.createdAt),
      organization,
      serviceConnection: this.#connection,
      roles: roles.map(
        ({ role, name, isDefault }): RoleBody => ({
          id: namedId(`role ${role} of ${project.id}`),
          name,
          isDefault,
          users: members.filter((member) => member.role === role).map(presentMember),
        }),
      ),
    };
  }

  #presentConnection(): ConnectionBody {
    return {
      ...this.#connection,
      type: 'CloudCA',
      status: { lastUpdated: zonedTime(this.#startedAt), reachable: true },
    };
  }

  async #presentOrganization(identity: Identity): Promise<OrganizationBody> {
    const { id, serviceCode } = this.#connection;
    const projects = await this.#projects(identity);
    return {
      ...organization,
      ...notBilled,
      environments: projects.map((project) => ({ id: project.id, name: project.name })),
      roles: [],
      serviceConnections: [{ id, serviceCode }],
      users: [{ id: identity.userId, username: identity.userName }],
    };
  }

  /** @throws not_found when the body names another organisation or service */
  #checkReferences(fields: Fields): void {
    const named = fields.nested('organization').text('id');
    if (named !== undefined && named !== organization.id) throw notFound('organization', named);
    const connection = fields.nested('serviceConnection').text('id');
    if (connection !== undefined && connection !== this.#connection.id)
      throw notFound('service connection', connection);
  }
}

function presentMember({ userId, userName, email }: Member): UserBody {
  return { id: userId, username: userName, ...(email === null ? {} : { email }) };
}

/** @throws invalid_name */
function checkName(name: string): string {
  if (environmentName.test(name)) return name;
  throw new CalotypeError(
    'invalid_name',
    'The name of an environment has 1 to 64 lower case letters, digits, dashes and underscores.',
    { field: 'name' },
  );
}
