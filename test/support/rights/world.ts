/** What there is to be kept from people: a project with one object of every kind and state of attachment, and its like elsewhere. */
import type { SnapshotBody } from '../../../src/http/schemas.ts';
import { type DialectRig, type Loose, MiB } from '../dialect-rig.ts';

export type Kind = 'machine' | 'drive' | 'snapshot' | 'part' | 'image' | 'task' | 'tag' | 'user' | 'project';

export interface Thing {
  readonly kind: Kind;
  readonly id: string;
  /** 0 for what has none. */
  readonly number: number;
  readonly name: string;
}

/**
 * `machine` with `drive1` and `drive2`, its `snapshot` with `part1` and `part2`; `instance` likewise with one drive;
 * `free` is a drive on no machine, `freeSnapshot` of it has `freePart`; `image` is of the machine, `freeImage` of the drive.
 */
const keys = {
  machine: 'machine',
  drive1: 'drive',
  drive2: 'drive',
  snapshot: 'snapshot',
  part1: 'part',
  part2: 'part',
  instance: 'machine',
  instanceDrive: 'drive',
  instanceSnapshot: 'snapshot',
  instancePart: 'part',
  free: 'drive',
  freeSnapshot: 'snapshot',
  freePart: 'part',
  image: 'image',
  freeImage: 'image',
  machineTask: 'task',
  freeTask: 'task',
  tag: 'tag',
  user: 'user',
  project: 'project',
} as const satisfies Record<string, Kind>;

export type Key = keyof typeof keys;
export type Things = Readonly<Record<Key, Thing>>;

export interface World {
  readonly project: string;
  readonly token: string;
  readonly things: Things;
  /** All tasks of the project, as the native API has them. */
  readonly tasks: readonly Loose[];
}

/** Objects that are nowhere. */
export const nothing: Things = Object.fromEntries(
  Object.entries(keys).map(([key, kind], at): [string, Thing] => [
    key,
    {
      kind,
      id: `00000000-0000-7000-8000-${String(900_001 + at).padStart(12, '0')}`,
      number: 900_001 + at,
      name: `nothing-${at}`,
    },
  ]),
) as Things;

/** @param token of a member of the project */
export async function makeWorld(rig: DialectRig, project: string, token: string): Promise<World> {
  const native = (method: string, path: string, body?: object): Promise<Loose> => rig.native(method, path, body, token);
  const snap = async (of: object, name: string): Promise<{ snapshot: SnapshotBody; task: Loose }> =>
    (await native('POST', '/snapshots', { ...of, name })) as { snapshot: SnapshotBody; task: Loose };
  const [drive1, drive2, instanceDrive, free] = await Promise.all(
    ['drive1', 'drive2', 'instance-drive', 'free'].map((name) => rig.drive(name, MiB, token)),
  );
  if (drive1 === undefined || drive2 === undefined || instanceDrive === undefined || free === undefined) {
    throw new Error('there are four drives');
  }
  await native('PATCH', `/drives/${free.id}`, { tags: ['kept'] });
  const machine = await rig.machine('machine', [drive1.id, drive2.id], {}, token);
  const instance = await rig.machine('instance', [instanceDrive.id], { kind: 'instance' }, token);
  const whole = await snap({ machineId: machine.id }, 'snapshot');
  const ofInstance = await snap({ machineId: instance.id }, 'instance-snapshot');
  const single = await snap({ driveIds: [free.id] }, 'free-snapshot');
  const { image } = await native('POST', '/images', { snapshotId: whole.snapshot.id, name: 'image' });
  const { image: freeImage } = await native('POST', '/images', { snapshotId: single.snapshot.id, name: 'free-image' });
  const tag = await rig.catalog.db
    .selectFrom('project_tags as t')
    .innerJoin('projects as p', 'p.id', 't.project_id')
    .select(['t.id', 't.number', 't.name', 'p.id as projectId', 'p.number as projectNumber'])
    .where('p.name', '=', project)
    .executeTakeFirstOrThrow();
  const user = await rig.person(`user-of-${project}`, 'member', project);
  const { items: tasks } = await native('GET', '/tasks?limit=1000');
  const made: Record<Key, Omit<Loose, 'kind'>> = {
    machine,
    drive1,
    drive2,
    snapshot: whole.snapshot,
    part1: partOf(whole.snapshot, drive1.id),
    part2: partOf(whole.snapshot, drive2.id),
    instance,
    instanceDrive,
    instanceSnapshot: ofInstance.snapshot,
    instancePart: partOf(ofInstance.snapshot, instanceDrive.id),
    free,
    freeSnapshot: single.snapshot,
    freePart: partOf(single.snapshot, free.id),
    image,
    freeImage,
    machineTask: whole.task,
    freeTask: single.task,
    tag,
    user: { ...user, number: 0 },
    project: { id: tag.projectId, number: tag.projectNumber, name: project },
  };
  const things = Object.fromEntries(
    Object.entries(made).map(([key, { id, number, name }]): [string, Thing] => [
      key,
      { kind: keys[key as Key], id, number: number ?? 0, name: name ?? '' },
    ]),
  ) as Things;
  return { project, token, things, tasks };
}

function partOf({ parts }: SnapshotBody, driveId: string): Loose {
  const part = parts.find((known) => known.driveId === driveId);
  if (part === undefined) throw new Error('each drive has a part');
  return part;
}
