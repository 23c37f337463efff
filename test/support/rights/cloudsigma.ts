/** Every operation of CloudSigma. */
import { type Answer, basic, MiB } from '../dialect-rig.ts';
import { classByStatus, type List, type Operation, type Table } from './operation.ts';
import type { Class, Need } from './oracle.ts';
import type { Key, Things } from './world.ts';

const root = '/api/2.0';
type Body = (things: Things) => object;

/** @param path below the API, with keys for uuids: `/drives/{free}/action/?do=clone` */
function at(
  method: string,
  path: string,
  needs: readonly Need[],
  more: { body?: Body; isHarmless?: true } = {},
): Operation {
  const { body, isHarmless } = more;
  const [route = ''] = path.split('?');
  return {
    route: `${method} ${root}${route
      .replace(/\{\w+\}/, ':id')
      .replace(/(tags\/:id\/)\w+/, '$1:type')
      .replace(/\/$/, '')}`,
    needs,
    call: (things) => ({
      path: root + path.replace(/\{(\w+)\}/g, (_, key: Key) => things[key].id),
      ...(body === undefined ? {} : { body: body(things) }),
    }),
    ...(isHarmless === undefined ? {} : { isHarmless }),
  };
}

const harmless = { isHarmless: true } as const;
const uuids =
  (...keys: Key[]): Body =>
  (things) => ({ objects: keys.map((key) => ({ uuid: things[key].id })) });

function list(path: string, kind: List['kind'], only?: readonly Key[]): List {
  return {
    route: `GET ${root}${path}`.replace(/\/$/, ''),
    path: `${root}${path}?limit=0`,
    kind,
    ...(only === undefined ? {} : { only }),
    ids: ({ json }) => json.objects.map((item: { uuid: string }) => item.uuid),
    counts: ({ json }) => [json.meta.total_count],
  };
}

/** A flat list of uuids, or one within a list. */
function group(path: string, kind: List['kind']): List {
  return {
    route: `GET ${root}${path}`.replace(/\/$/, ''),
    path: root + path,
    kind,
    ids: ({ json }) => json.flat(),
    counts: () => [],
  };
}

/** A wrong state is 403, too, and what a body's list names is not there with 400. */
function classOf(answer: Answer): Class {
  const { status, text } = answer;
  if (status === 403)
    return /may look at|guest of project|Only an? |no right|may not/.test(text) ? 'forbidden' : 'allowed';
  if (status === 400 && /does not exist/.test(text)) return 'missing';
  return classByStatus(answer);
}

const snapshots: Operation[] = [
  at('GET', '/snapshots/{part1}/', ['read part1']),
  at('GET', '/snapshots/{freePart}/', ['read freePart']),
  at('POST', '/snapshots/', ['write free'], { body: ({ free }) => ({ drive: free.id, name: 'more' }) }),
  at('POST', '/snapshots/', ['write free', 'write drive1'], {
    body: ({ free, drive1 }) => ({ objects: [{ drive: free.id }, { drive: drive1.id }] }),
  }),
  // A name is the whole snapshot's.
  at('PUT', '/snapshots/{part1}/', ['read part1', 'write snapshot'], { body: () => ({ name: 'other' }) }),
  at('PUT', '/snapshots/{freePart}/', ['write freePart'], { body: () => ({ name: 'other' }) }),
  at('DELETE', '/snapshots/{part2}/', ['write part2']),
  at('DELETE', '/snapshots/{freePart}/', ['write freePart']),
  at('DELETE', '/snapshots/', ['write part1', 'write freePart'], { body: uuids('part1', 'freePart') }),
  at('POST', '/snapshots/{part1}/action/?do=clone', ['read part1', 'member'], { body: () => ({ name: 'more' }) }),
  at('POST', '/snapshots/{freePart}/action/?do=clone', ['read freePart', 'member']),
];

const drives: Operation[] = [
  at('GET', '/drives/{drive1}/', ['read drive1']),
  at('GET', '/drives/{free}/', ['read free']),
  at('POST', '/drives/', ['member'], { body: () => ({ name: 'more', size: 512 * MiB, media: 'disk' }) }),
  at('PUT', '/drives/{free}/', ['write free'], { body: () => ({ name: 'other', media: 'cdrom' }) }),
  at('PUT', '/drives/{drive1}/', ['write drive1'], { body: () => ({ allow_multimount: true }) }),
  at('PUT', '/drives/{free}/', ['write free'], { body: () => ({ media: 'cdrom' }) }),
  at('DELETE', '/drives/{free}/', ['write free']),
  at('DELETE', '/drives/{drive1}/', ['write drive1'], harmless),
  at('DELETE', '/drives/', ['write free', 'write drive1'], { body: uuids('free', 'drive1'), ...harmless }),
  at('POST', '/drives/{free}/action/?do=clone', ['read free', 'member'], { body: () => ({}) }),
  at('POST', '/drives/{free}/action/?do=resize', ['write free'], { body: () => ({ size: 512 * MiB }) }),
  at('GET', '/drives/availability_groups/{drive2}/', ['read drive2']),
  at('GET', '/libdrives/{freeImage}/', ['read freeImage']),
  at('POST', '/libdrives/{freeImage}/action/?do=clone', ['read freeImage', 'member'], { body: () => ({}) }),
];

const servers: Operation[] = [
  at('GET', '/servers/{machine}/', ['read machine']),
  at('POST', '/servers/', ['member', 'write free'], {
    body: ({ free }) => ({ name: 'more', cpu: 1000, mem: 64 * MiB, vnc_password: '', drives: [{ drive: free.id }] }),
  }),
  at('PUT', '/servers/{machine}/', ['write machine'], { body: () => ({ name: 'other' }) }),
  at('PUT', '/servers/{machine}/', ['read machine', 'read free', 'write free', 'write machine'], {
    body: ({ drive1, drive2, free }) => ({
      name: 'machine',
      drives: [{ drive: drive1.id }, { drive: drive2.id }, { drive: free.id }],
    }),
  }),
  at('PUT', '/servers/{machine}/', ['read machine', 'read drive1', 'write drive1', 'write machine'], {
    body: ({ drive2 }) => ({ name: 'machine', drives: [{ drive: drive2.id }] }),
  }),
  at('DELETE', '/servers/{machine}/', ['write machine']),
  at('DELETE', '/servers/{machine}/?recurse=all_drives', ['write machine', 'touch drive1', 'touch drive2']),
  at('POST', '/servers/{machine}/action/?do=start', ['write machine']),
  // It is off, which is found before the right to change it; whoever gets here may see that it is.
  at('POST', '/servers/{machine}/action/?do=stop', ['read machine'], harmless),
  at('POST', '/servers/{machine}/action/?do=shutdown', ['read machine'], harmless),
  at('GET', '/servers/availability_groups/{machine}/', ['read machine']),
];

const tags: Operation[] = [
  at('GET', '/tags/{tag}/', ['read tag']),
  at('POST', '/tags/', ['member', 'read machine'], {
    body: ({ machine }) => ({ name: 'more', resources: [machine.id] }),
  }),
  at('PUT', '/tags/{tag}/', ['read tag', 'member', 'read machine', 'read part1', 'read image'], {
    body: ({ machine, part1, image }) => ({ name: 'kept', resources: [machine.id, part1.id, image.id] }),
  }),
  at('DELETE', '/tags/{tag}/', ['read tag', 'member']),
  ...['drives', 'servers', 'snapshots', 'ips', 'vlans'].flatMap((type) => [
    at('GET', `/tags/{tag}/${type}/`, ['read tag']),
    at('GET', `/tags/{tag}/${type}/detail/`, ['read tag']),
  ]),
];

export const cloudsigma: Table = {
  door: 'cloudsigma',
  credentials: (person) => basic({ name: person.email, password: person.password }),
  idOf: (things, key) => things[key].id,
  classOf,
  listsOf: () => [
    list('/snapshots/', 'part'),
    list('/snapshots/detail/', 'part'),
    list('/drives/', 'drive'),
    list('/drives/detail/', 'drive'),
    list('/servers/', 'machine'),
    list('/servers/detail/', 'machine'),
    list('/libdrives/', 'image', ['freeImage']),
    list('/libdrives/detail/', 'image', ['freeImage']),
    list('/jobs/', 'task'),
    list('/jobs/detail/', 'task'),
    list('/tags/', 'tag'),
    list('/tags/detail/', 'tag'),
    group('/drives/availability_groups/', 'drive'),
    group('/servers/availability_groups/', 'machine'),
    {
      route: `GET ${root}/capabilities`,
      path: `${root}/capabilities/`,
      kind: 'part',
      ids: ({ json }) => Array.from({ length: json.snapshots.current }, () => ''),
      counts: () => [],
    },
  ],
  operations: [
    ...snapshots,
    ...drives,
    ...servers,
    ...tags,
    at('GET', '/jobs/{freeTask}/', ['read freeTask']),
    at('GET', '/jobs/{machineTask}/', ['read machineTask']),
  ],
  exempt: {
    [`GET ${root}/profile`]: 'of the caller',
    [`PUT ${root}/profile`]: 'of the caller',
    [`POST ${root}/accounts/action`]: 'sessions of the caller',
    ...Object.fromEntries(
      ['remotesnapshots', 'backupschedulers'].flatMap((noun) =>
        [`GET ${root}/${noun}`, `GET ${root}/${noun}/detail`, `POST ${root}/${noun}`, `GET ${root}/${noun}/:id`].map(
          (route) => [route, 'there are none'],
        ),
      ),
    ),
    ...Object.fromEntries(
      ['snapshots', 'drives', 'jobs', 'tags', 'capabilities'].map((noun) => [
        `GET ${root}/${noun}/schema`,
        'the same for everybody',
      ]),
    ),
  },
};
