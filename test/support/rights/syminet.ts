/** Every operation of Syminet. */
import { classByStatus, type List, type Operation, type Table } from './operation.ts';
import type { Need } from './oracle.ts';
import type { Key, Things } from './world.ts';

const root = '/api/v1';
const n = (things: Things, key: Key): string => (key === 'user' ? things.user.name : String(things[key].number));

/** A path with keys for numbers: `/slices/{machine}`. */
function at(
  route: string,
  path: string,
  needs: readonly Need[],
  more: { body?: object; isHarmless?: true } = {},
): Operation {
  const { body, isHarmless } = more;
  return {
    route,
    needs,
    call: (things) => ({
      path: root + path.replace(/\{(\w+)\}/g, (_, key: Key) => n(things, key)),
      ...(body === undefined ? {} : { body }),
    }),
    ...(isHarmless === undefined ? {} : { isHarmless }),
  };
}

const harmless = { isHarmless: true } as const;
const onMachine: readonly Need[] = ['read machine', 'write machine'];

function list(path: string, kind: List['kind'], only?: readonly Key[]): List {
  return {
    route: `GET ${root}${path}`,
    path: root + path,
    kind,
    ...(only === undefined ? {} : { only }),
    ids: ({ json }) => json.data.map((item: { id: number }) => String(item.id)),
    counts: ({ json }) => [json.results],
  };
}

export const syminet: Table = {
  door: 'syminet',
  credentials: ({ token }) => ({ authorization: `bearer ${token}` }),
  idOf: n,
  classOf: classByStatus,
  listsOf: () => [
    // Only snapshots of machines are images here.
    list('/images', 'snapshot', ['snapshot', 'instanceSnapshot']),
    list('/slices', 'machine'),
    list('/volumes', 'drive'),
  ],
  operations: [
    at(`GET ${root}/images/snapshots/:id`, '/images/snapshots/{machine}', ['read machine']),
    at(`POST ${root}/images/snapshots/:id/create`, '/images/snapshots/{machine}/create', onMachine, {
      body: { snapshot_name: 'more' },
    }),
    at(`POST ${root}/images/snapshots/:id/restore/:slice`, '/images/snapshots/{snapshot}/restore/{machine}', [
      'read snapshot',
      'read machine',
      'write snapshot',
      'write machine',
    ]),
    at(`POST ${root}/images/snapshots/:id/rename`, '/images/snapshots/{snapshot}/rename', ['write snapshot'], {
      body: { snapshot_name: 'other' },
    }),
    at(`DELETE ${root}/images/snapshots/:id/delete`, '/images/snapshots/{snapshot}/delete', ['write snapshot']),
    // Snapshots of single volumes are not served.
    at(`DELETE ${root}/images/snapshots/:id/delete`, '/images/snapshots/{freeSnapshot}/delete', ['absent']),
    at(`GET ${root}/backups/:id`, '/backups/{machine}', ['read machine']),
    at(`GET ${root}/slices/:id/backups`, '/slices/{machine}/backups', ['read machine']),
    ...['backups', 'slices'].flatMap((noun) =>
      ['enable', 'disable'].flatMap((wish) =>
        ['GET', 'POST'].map((method) =>
          at(
            `${method} ${root}/${noun}/:id/backups/${wish}`,
            `/${noun}/{machine}/backups/${wish}`,
            onMachine,
            harmless,
          ),
        ),
      ),
    ),
    at(`POST ${root}/backups/:id/restore/:backup`, '/backups/{machine}/restore/1', [...onMachine, 'absent'], {
      ...harmless,
    }),
    at(`GET ${root}/slices/:id`, '/slices/{machine}', ['read machine']),
    at(`POST ${root}/slices/:id/rebuild`, '/slices/{machine}/rebuild', onMachine, {
      ...harmless,
      body: { os_name: 'x' },
    }),
    at(`GET ${root}/volumes/:id`, '/volumes/{drive1}', ['read drive1']),
    at(`POST ${root}/volumes/:id/attach/:slice`, '/volumes/{free}/attach/{machine}', [
      'read free',
      'read machine',
      'write machine',
      'write free',
    ]),
    at(`POST ${root}/volumes/:id/detach`, '/volumes/{drive1}/detach', ['read drive1', 'write machine', 'write drive1']),
    at(`POST ${root}/volumes/:id/detach`, '/volumes/{free}/detach', ['read free'], harmless),
    at(`GET ${root}/users/:name`, '/users/{user}', ['read user']),
    at(`GET ${root}/users/:name/perms`, '/users/{user}/perms', ['read user']),
    at(`PUT ${root}/users/:name/update`, '/users/{user}/update', ['read user', 'admin'], {
      body: { username: 'renamed' },
    }),
  ],
  exempt: Object.fromEntries(
    ['regions', 'dists', 'sizes'].map((noun) => [`GET ${root}/slices/${noun}`, 'the same for everybody']),
  ),
};
