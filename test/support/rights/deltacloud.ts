/** Every operation of Deltacloud. */
import { XMLParser } from 'fast-xml-parser';
import { basic } from '../dialect-rig.ts';
import { classByStatus, type List, type Operation, type Table } from './operation.ts';
import type { Need } from './oracle.ts';
import type { Key, Kind, Things } from './world.ts';

const root = '/api';
const prefixes: Partial<Record<Kind, string>> = { machine: 'inst', drive: 'vol', part: 'snap', image: 'img' };

function idOf(things: Things, key: Key): string {
  const { kind, number } = things[key];
  return `${prefixes[kind] ?? kind}-${number.toString(16)}`;
}

/** @param path with keys for ids: `/storage_volumes/{free}` */
function at(
  method: string,
  path: string,
  needs: readonly Need[],
  more: Pick<Operation, 'isHarmless' | 'blurs'> = {},
  overriding = false,
): Operation {
  const [route = ''] = path.split('?');
  const sent = overriding ? 'POST' : method;
  const filled = (things: Things): string => root + path.replace(/\{(\w+)\}/g, (_, key: Key) => idOf(things, key));
  return {
    route: `${sent} ${root}${route.replace(/\{\w+\}/, ':id')}`,
    needs,
    call: (things) => ({
      path: filled(things),
      ...(overriding ? { body: `_method=${method}` } : {}),
    }),
    ...more,
  };
}

/** As itself, and as a POST that stands for it. */
function both(...[method, path, needs, more]: Parameters<typeof at>): Operation[] {
  return [at(method, path, needs, more), at(method, path, needs, more, true)];
}

const harmless = { isHarmless: true } as const;
/** An action on an instance that is not there is forbidden, not missing: clients rely on it. */
const blurred = { blurs: true } as const;

const xml = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  isArray: (_name, path) => String(path).split('.').length === 2,
});

function list(noun: string, kind: List['kind'], only?: readonly Key[]): List[] {
  const plural = `${noun}s`;
  const shown: Pick<List, 'kind' | 'only' | 'counts' | 'path'> = {
    path: `${root}/${plural}`,
    kind,
    ...(only === undefined ? {} : { only }),
    counts: () => [],
  };
  const ofXml: List['ids'] = ({ text }) => {
    const items = xml.parse(text)[plural]?.[noun] ?? [];
    return items.map((item: { id: string }) => item.id);
  };
  return [{ ...shown, route: `GET ${root}/${plural}`, ids: ofXml }];
}

const open = ['realms', 'hardware_profiles', 'drivers'];

export const deltacloud: Table = {
  door: 'deltacloud',
  credentials: (person) => ({ ...basic(person), accept: 'application/xml' }),
  idOf,
  classOf: classByStatus,
  listsOf: () => [
    ...list('image', 'image', ['image']),
    ...list('instance', 'machine'),
    ...list('storage_snapshot', 'part'),
    ...list('storage_volume', 'drive'),
  ],
  operations: [
    at('GET', '/images', [], {}, true),
    ...both('GET', '/images/{image}', ['read image']),
    at('POST', '/instances?image_id={image}&name=more', ['read image', 'member']),
    ...both('GET', '/instances/{machine}', ['read machine']),
    ...both('DELETE', '/instances/{machine}', ['write machine'], blurred),
    at('POST', '/instances/{machine}/start', ['write machine'], blurred),
    // It is off, which is found before the right to change it; whoever gets here may see that it is.
    at('POST', '/instances/{machine}/stop', ['read machine'], { ...blurred, ...harmless }),
    at('POST', '/instances/{machine}/reboot', ['read machine'], { ...blurred, ...harmless }),
    at('POST', '/storage_snapshots?volume_id={free}&name=more', ['write free']),
    at('POST', '/storage_snapshots?volume_id={drive1}&name=more', ['write drive1']),
    ...both('GET', '/storage_snapshots/{part1}', ['read part1']),
    ...both('DELETE', '/storage_snapshots/{part1}', ['write part1']),
    ...both('DELETE', '/storage_snapshots/{freePart}', ['write freePart']),
    at('POST', '/storage_volumes?capacity=1&name=more', ['member']),
    at('POST', '/storage_volumes?snapshot_id={part1}&name=more', ['read part1', 'member']),
    ...both('GET', '/storage_volumes/{drive1}', ['read drive1']),
    ...both('GET', '/storage_volumes/{free}', ['read free']),
    ...both('DELETE', '/storage_volumes/{free}', ['write free']),
    at('POST', '/storage_volumes/{free}/attach?instance_id={machine}&device=vdx', [
      'read free',
      'read machine',
      'write machine',
      'write free',
    ]),
    at('POST', '/storage_volumes/{free}/detach', ['read free'], harmless),
    at('POST', '/storage_volumes/{drive1}/detach', ['read drive1', 'write machine', 'write drive1']),
    ...both('GET', '/storage_volumes/{drive1}/attach_instance?format=html', ['read drive1']),
  ],
  exempt: {
    'GET /': 'the same for everybody',
    ...Object.fromEntries(
      [
        '',
        '/',
        ...open,
        ...open.map((noun) => `${noun}/:id`),
        'instance_states',
        'docs',
        'docs/:id',
        'docs/:id/:operation',
        'storage_snapshots/new',
        'storage_volumes/new',
      ].flatMap((path) => {
        const url = path === '' || path === '/' ? root + path : `${root}/${path}`;
        return ['GET', 'POST'].map((method) => [`${method} ${url}`, 'the same for everybody']);
      }),
    ),
  },
};
