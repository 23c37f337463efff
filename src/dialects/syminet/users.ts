/**
 * Users of the account. An operator is its primary user, an admin of the project an admin subuser, everybody else a
 * regular one, whose rights are the role and the grants in the project.
 */
import { CalotypeError } from '../../core/errors.ts';
import type { QueryKind } from '../../core/query.ts';
import type { Caller, CallerRole } from '../../service/caller.ts';
import type { Projects } from '../../service/projects.ts';
import type { User, Users } from '../../service/users.ts';
import { missing, type Scope } from './find.ts';
import { readUserChange } from './parse.ts';
import { type Perms, presentPerms, presentUser } from './present.ts';

export interface UserScope extends Scope {
  readonly users: Pick<Users, 'get' | 'update'>;
  readonly projects: Pick<Projects, 'listMembers' | 'setMember'>;
}

interface Subuser {
  readonly user: User;
  readonly role: CallerRole;
}

const isAdmin = (role: CallerRole): boolean => role === 'operator' || role === 'admin';

/** Of the caller's account. Only its admins see others than themselves. @throws not_found */
async function findSubuser(scope: UserScope, asked: string): Promise<Subuser> {
  const { caller, users, projects } = scope;
  let user: User;
  try {
    user = await users.get(caller, asked);
  } catch (error) {
    if (error instanceof CalotypeError && error.code === 'not_found') throw missing('user', asked);
    throw error;
  }
  if (user.id === caller.userId) return { user, role: caller.role };
  if (user.isOperator) return { user, role: 'operator' };
  const members = await projects.listMembers(caller, caller.projectId);
  const role = members.find((member) => member.userId === user.id)?.role;
  if (role === undefined) throw missing('user', asked);
  return { user, role };
}

/** @throws not_found */
export async function getUser(scope: UserScope, asked: string) {
  const { user, role } = await findSubuser(scope, asked);
  return presentUser(user, isAdmin(role));
}

/** What the user could see and change, in full. @throws not_found */
export async function getPerms(scope: UserScope, asked: string) {
  const { user, role } = await findSubuser(scope, asked);
  const { projectId, projectName, via } = scope.caller;
  const subject: Caller = { userId: user.id, userName: user.name, projectId, projectName, role, via };
  const held = async (kind: 'machine' | 'snapshot' | 'drive') => heldBy({ ...scope, caller: subject }, kind);
  return presentPerms(user, {
    admin: isAdmin(role),
    mayCreate: role !== 'guest',
    mayUseApi: !user.disabled,
    slices: await held('machine'),
    snapshots: await held('snapshot'),
    volumes: await held('drive'),
  });
}

interface Held {
  readonly number: number;
  readonly name: string;
  readonly perms: Perms;
}

async function heldBy(
  { service, caller }: Scope,
  kind: QueryKind & ('machine' | 'snapshot' | 'drive'),
): Promise<Held[]> {
  const items = await visibleTo({ service, caller }, kind);
  const access = await service.sharing.accessToShown(
    caller,
    kind,
    items.map(({ id }) => id),
  );
  return items.flatMap(({ id, number, name }) => {
    const perms = access.get(id);
    return perms === undefined ? [] : [{ number, name, perms }];
  });
}

interface Named {
  readonly id: string;
  readonly number: number;
  readonly name: string;
}

async function visibleTo(
  { service, caller }: Scope,
  kind: 'machine' | 'snapshot' | 'drive',
): Promise<readonly Named[]> {
  if (kind !== 'snapshot') return (await service.queries.list(caller, kind, { limit: null })).items;
  const where = {
    all: [
      { field: 'machineId', op: 'isNotNull' },
      { field: 'state', op: 'ne', value: 'deleting' },
    ],
  } as const;
  return (await service.queries.list(caller, kind, { where, limit: null })).items;
}

/**
 * Another name, and whether the user is an admin. Who is admin no more has no right left until some are granted.
 * @throws invalid_request, not_found, forbidden, name_taken
 */
export async function updateUser(scope: UserScope, asked: string, body: Buffer): Promise<void> {
  const { caller, users, projects } = scope;
  const { user, role } = await findSubuser(scope, asked);
  const { username, admin } = readUserChange(body);
  if (!isAdmin(caller.role)) throw new CalotypeError('forbidden', 'Only admins may change users.');
  if (role === 'operator' && admin === false) {
    throw new CalotypeError('forbidden', `${user.name} is a primary user, and stays admin.`);
  }
  if (username !== user.name) await users.update(caller, user.id, { name: username });
  if (admin === undefined || admin === isAdmin(role)) return;
  await projects.setMember(caller, caller.projectId, {
    user: user.id,
    ...(admin ? { role: 'admin' } : { role: 'guest', dropGrants: true }),
  });
}
