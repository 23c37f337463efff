/** Who may do what, written down a second time: from src/service/rights.ts as it says it at its top, not from how it does it. */
import type { Person } from '../dialect-rig.ts';
import type { Key, Kind, Things, World } from './world.ts';

export type Access = 'none' | 'ro' | 'rw';

export interface Somebody {
  readonly person: Person;
  readonly role: 'operator' | 'admin' | 'member' | 'guest';
  /** Where he is at home. */
  readonly world: World;
  /** What he was granted there. */
  readonly grants: Readonly<Partial<Record<Key, Access>>>;
}

/**
 * What an operation takes; one after the other, the first that fails is answered. `absent` is never there; to write is to
 * read first; what is touched comes along with an object that shows it, so that it is known to be there.
 */
export type Need = `read ${Key}` | `write ${Key}` | `touch ${Key}` | 'member' | 'admin' | 'operator' | 'absent';
export type Class = 'allowed' | 'forbidden' | 'missing';

const order: readonly Access[] = ['none', 'ro', 'rw'];
const most = (...all: Access[]): Access => order[Math.max(...all.map((each) => order.indexOf(each)))] ?? 'none';
const least = (...all: Access[]): Access => order[Math.min(...all.map((each) => order.indexOf(each)))] ?? 'none';

/** On an object of one's own project. */
export function accessTo({ role, grants, person, world }: Somebody, key: Key): Access {
  if (key === 'user')
    return role === 'operator' || role === 'admin' || person.id === world.things.user.id ? 'ro' : 'none';
  if (key === 'project') return role === 'operator' || role === 'admin' ? 'rw' : 'ro';
  if (role !== 'guest') return 'rw';
  const on = (granted: Key): Access => grants[granted] ?? 'none';
  /** Any of its drives shows a snapshot, all of them make it changeable. */
  const throughDrives = (...drives: Access[]): Access => {
    const all = least(...drives);
    return all === 'rw' ? 'rw' : most(...drives) === 'none' ? 'none' : 'ro';
  };
  switch (key) {
    case 'snapshot':
      return most(on('snapshot'), on('machine'), throughDrives(on('drive1'), on('drive2')));
    case 'part1':
      return most(on('snapshot'), on('machine'), on('drive1'));
    case 'part2':
      return most(on('snapshot'), on('machine'), on('drive2'));
    case 'instanceSnapshot':
    case 'instancePart':
      return most(on('instanceSnapshot'), on('instance'), on('instanceDrive'));
    case 'freeSnapshot':
    case 'freePart':
      return most(on('freeSnapshot'), on('free'));
    case 'freeTask':
      return on('free');
    case 'machineTask':
      return most(on('machine'), throughDrives(on('drive1'), on('drive2')));
    case 'tag':
      // Tags belong to the project: who sees what carries one sees it.
      return least('ro', accessTo({ role, grants, person, world }, 'free'));
    default:
      return on(key);
  }
}

export function expected(somebody: Somebody, needs: readonly Need[]): Class {
  const { role } = somebody;
  for (const need of needs) {
    const [action = '', key] = need.split(' ');
    if (key !== undefined) {
      const access = accessTo(somebody, key as Key);
      if (access === 'none' && action !== 'touch') return 'missing';
      if (action !== 'read' && access !== 'rw') return 'forbidden';
    } else if (need === 'absent') return 'missing';
    else if (!isAtLeast(role, action)) return 'forbidden';
  }
  return 'allowed';
}

function isAtLeast(role: Somebody['role'], wanted: string): boolean {
  const roles = ['guest', 'member', 'admin', 'operator'];
  return roles.indexOf(role) >= roles.indexOf(wanted);
}

/** All that somebody sees of a kind, as ids. */
export function visibleOf(somebody: Somebody, kind: Kind): string[] {
  const { world } = somebody;
  if (kind === 'task') return world.tasks.filter((task) => seesTask(somebody, task)).map((task) => task.id);
  const things = Object.entries(world.things) as [Key, Things[Key]][];
  const seen = things.filter(([key, thing]) => thing.kind === kind && accessTo(somebody, key) !== 'none');
  return seen.map(([, { id }]) => id);
}

/** A guest sees what is done to a machine or a drive that he was granted. */
function seesTask(somebody: Somebody, task: { machineId?: string | null; driveIds?: readonly string[] }): boolean {
  if (somebody.role !== 'guest') return true;
  const granted = Object.entries(somebody.grants).flatMap(([key, access]) =>
    access === 'none' ? [] : [somebody.world.things[key as Key].id],
  );
  return [task.machineId, ...(task.driveIds ?? [])].some((id) => typeof id === 'string' && granted.includes(id));
}
