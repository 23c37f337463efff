/** Every operation of ManageIQ. */
import { type Answer, basic } from '../dialect-rig.ts';
import { classByStatus, type List, type Operation, type Table } from './operation.ts';
import type { Class, Need } from './oracle.ts';
import type { Key, Things } from './world.ts';

const root = '/api';
type Body = (things: Things) => object;

/** @param path below the API, with keys for numbers: `/vms/{machine}/snapshots/{snapshot}` */
function at(
  method: string,
  path: string,
  needs: readonly Need[],
  more: { body?: Body; isHarmless?: true } = {},
): Operation {
  const { body, isHarmless } = more;
  const isBelow = path.split('{').length > 2 || /^\/cloud_volume_snapshots/.test(path);
  const [first, ...rest] = isBelow && !path.startsWith('/cloud_volume_snapshots') ? [':id', ':sid'] : [':sid'];
  const names = isBelow ? [first, ...rest] : [':id'];
  let position = 0;
  return {
    route: `${method} ${root}${path.replace(/\{\w+\}/g, () => names[position++] ?? '')}`,
    needs,
    call: (things) => ({
      path: root + path.replace(/\{(\w+)\}/g, (_, key: Key) => String(things[key].number)),
      ...(body === undefined ? {} : { body: body(things) }),
    }),
    ...(isHarmless === undefined ? {} : { isHarmless }),
  };
}

const harmless = { isHarmless: true } as const;
const act =
  (action: string, key: Key): Body =>
  (things) => ({ action, id: String(things[key].number) });
const actInBulk =
  (action: string, key: Key): Body =>
  (things) => ({ action, resources: [{ id: things[key].number }] });
const plainly =
  (action: string, more: object = {}): Body =>
  () => ({ action, ...more });

/** For both collections of machines. */
function machines(name: 'vms' | 'instances', machine: 'machine' | 'instance', snapshot: Key): Operation[] {
  const readMachine: Need = `read ${machine}`;
  const writeMachine: Need = `write ${machine}`;
  const readSnapshot: Need = `read ${snapshot}`;
  const single = `/${name}/{${machine}}`;
  const below = `${single}/snapshots`;
  const one = `${below}/{${snapshot}}`;
  return [
    at('GET', single, [readMachine]),
    at('POST', `/${name}`, [readMachine], { body: act('query', machine), ...harmless }),
    at('POST', `/${name}`, [writeMachine], { body: act('start', machine) }),
    at('POST', `/${name}`, [writeMachine], { body: actInBulk('start', machine) }),
    at('POST', single, [writeMachine], { body: plainly('start') }),
    // It is off, which is found before the right to change it; whoever gets here may see that it is.
    ...['stop', 'suspend', 'pause', 'reset', 'shutdown_guest'].map((action) =>
      at('POST', single, [readMachine], { body: plainly(action), ...harmless }),
    ),
    at('GET', below, [readMachine]),
    at('GET', one, [readMachine, readSnapshot]),
    at('POST', below, [writeMachine], { body: plainly('create', { name: 'more' }) }),
    at('POST', below, [writeMachine, readSnapshot], { body: act('delete', snapshot) }),
    at('POST', below, [writeMachine, readSnapshot], { body: actInBulk('delete', snapshot) }),
    at('POST', one, [writeMachine, readSnapshot], { body: plainly('delete') }),
    ...(name === 'vms' ? [at('POST', one, [writeMachine, readSnapshot], { body: plainly('revert') })] : []),
    at('DELETE', one, [readMachine, readSnapshot, writeMachine]),
    // What is of another machine is not here; an instance is a virtual machine, too.
    ...(name === 'instances' ? [at('GET', '/instances/{machine}', ['absent'])] : []),
    at('GET', `${below}/{freeSnapshot}`, ['absent']),
  ];
}

/** Under a volume, and by itself. */
const volumeSnapshots: Operation[] = (
  [
    ['free', 'freePart'],
    ['drive1', 'part1'],
  ] as const
).flatMap(([drive, part]) => {
  const below = `/cloud_volumes/{${drive}}/cloud_volume_snapshots`;
  const single = `/cloud_volume_snapshots/{${part}}`;
  const readDrive: Need = `read ${drive}`;
  const writePart: Need = `write ${part}`;
  return [
    at('GET', `/cloud_volumes/{${drive}}`, [readDrive]),
    at('POST', '/cloud_volumes', [readDrive], { body: act('query', drive), ...harmless }),
    at('GET', below, [readDrive]),
    at('GET', `${below}/{${part}}`, [readDrive, `read ${part}`]),
    at('POST', below, [`write ${drive}`], { body: plainly('create', { name: 'more' }) }),
    at('POST', below, [readDrive, writePart], { body: act('delete', part) }),
    at('POST', below, [readDrive, writePart], { body: actInBulk('delete', part) }),
    at('POST', `${below}/{${part}}`, [readDrive, writePart], { body: plainly('delete') }),
    at('DELETE', `${below}/{${part}}`, [readDrive, writePart]),
    at('GET', single, [`read ${part}`]),
    at('POST', '/cloud_volume_snapshots', [`read ${part}`], { body: act('query', part), ...harmless }),
    at('POST', '/cloud_volume_snapshots', [writePart], { body: act('delete', part) }),
    at('POST', '/cloud_volume_snapshots', [writePart], { body: actInBulk('delete', part) }),
    at('POST', single, [writePart], { body: plainly('delete') }),
    at('DELETE', single, [writePart]),
  ];
});

const tasks: Operation[] = (['freeTask', 'machineTask'] as const).flatMap((task) => {
  const single = `/tasks/{${task}}`;
  return [
    at('GET', single, [`read ${task}`]),
    at('POST', '/tasks', [`read ${task}`], { body: act('query', task), ...harmless }),
    at('POST', '/tasks', [`write ${task}`], { body: act('delete', task) }),
    at('POST', '/tasks', [`write ${task}`], { body: actInBulk('delete', task) }),
    at('POST', single, [`write ${task}`], { body: plainly('delete') }),
    at('DELETE', single, [`write ${task}`]),
  ];
});

function list(path: string, kind: List['kind'], only?: readonly Key[]): List {
  return {
    route: `GET ${root}${path}`,
    path: `${root}${path}?expand=resources`,
    kind,
    ...(only === undefined ? {} : { only }),
    ids: ({ json }) => json.resources.map((item: { href: string }) => item.href.slice(item.href.lastIndexOf('/') + 1)),
    counts: ({ json }) => [json.count, json.subcount],
  };
}

/** In bulk, and where an action answers for itself, the words tell. */
function classOf(answer: Answer): Class {
  if (answer.text === '' || answer.status > 400) return classByStatus(answer);
  const { json } = answer;
  const { success, message } = json.results?.[0] ?? json;
  if (success !== false) return 'allowed';
  if (/^Couldn't find/.test(message)) return 'missing';
  return /forbidden/.test(message) ? 'forbidden' : 'allowed';
}

export const manageiq: Table = {
  door: 'manageiq',
  credentials: basic,
  idOf: (things, key) => String(things[key].number),
  classOf,
  listsOf: () => [
    list('/vms', 'machine'),
    list('/instances', 'machine', ['instance']),
    list('/cloud_volumes', 'drive'),
    list('/cloud_volume_snapshots', 'part'),
    list('/tasks', 'task'),
  ],
  operations: [
    ...machines('vms', 'machine', 'snapshot'),
    ...machines('instances', 'instance', 'instanceSnapshot'),
    ...volumeSnapshots,
    ...tasks,
  ],
  exempt: {
    'GET /api/ping': 'the same for everybody',
    'GET /api/product_info': 'the same for everybody',
    'GET /api': 'tells who the caller is',
    'GET /api/auth': 'a session of the caller',
    'DELETE /api/auth': 'a session of the caller',
  },
};
