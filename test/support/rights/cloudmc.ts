/** Every operation of CloudMC. */
import { diskOffering } from '../../../src/dialects/cloudmc/fixed.ts';
import { classByStatus, type List, type Operation, type Table } from './operation.ts';
import type { Need } from './oracle.ts';
import type { Key, Things } from './world.ts';

const root = '/api/v2';
const template = `${root}/services/:code/:environment`;
const inProject = (things: Things, path: string): string => `${root}/services/compute/${things.project.name}${path}`;

type Body = (things: Things) => object;

/** @param path below the environment, with keys for ids: `/volumes/{free}` */
function at(
  method: string,
  path: string,
  needs: readonly Need[],
  more: { body?: Body; isHarmless?: true } = {},
): Operation {
  const { body, isHarmless } = more;
  return {
    route: `${method} ${template}${path.replace(/\{\w+\}/, ':id').replace(/\?.*/, '')}`,
    needs: ['read project', ...needs],
    call: (things) => ({
      path: inProject(
        things,
        path.replace(/\{(\w+)\}/g, (_, key: Key) => things[key].id),
      ),
      ...(body === undefined ? {} : { body: body(things) }),
    }),
    ...(isHarmless === undefined ? {} : { isHarmless }),
  };
}

/** Outside of environments. */
function above(
  route: string,
  needs: readonly Need[],
  body?: object,
  more: Pick<Operation, 'reachesAll'> = {},
): Operation {
  const [, path = ''] = route.split(' ');
  const key: Key = path.includes('tasks') ? 'freeTask' : 'project';
  return {
    route,
    needs,
    call: (things) => ({
      path: path.replace(':id', things[key].id),
      ...(body === undefined ? {} : { body }),
    }),
    ...more,
  };
}

const harmless = { isHarmless: true } as const;
const offering = { diskOfferingId: diskOffering.id, sizeInGb: 1 };

function list(noun: string, kind: List['kind']): (project: string) => List {
  return (project) => ({
    route: `GET ${template}/${noun.replace(/\?.*/, '')}`,
    path: `${root}/services/compute/${project}/${noun}`,
    kind,
    ids: ({ json }) => json.data.map((item: { id: string }) => item.id),
    counts: ({ json }) => [json.metadata.recordCount],
  });
}

export const cloudmc: Table = {
  door: 'cloudmc',
  credentials: ({ token }) => ({ 'mc-api-key': token }),
  idOf: (things, key) => (key === 'project' ? things.project.name : things[key].id),
  classOf: classByStatus,
  listsOf: (project) =>
    [
      list('snapshots', 'part'),
      list('snapshots?page_size=100&page_number=1', 'part'),
      list('volumes', 'drive'),
      list('instances', 'machine'),
      list('templates', 'image'),
    ].map((make) => make(project)),
  operations: [
    at('GET', '/snapshots', []),
    at('GET', '/snapshots/{part1}', ['read part1']),
    at('GET', '/snapshots/{freePart}', ['read freePart']),
    at('POST', '/snapshots', ['write free'], {
      body: ({ free }) => ({ volumeId: free.id, name: 'more', rapid: true }),
    }),
    at('DELETE', '/snapshots/{part2}', ['write part2']),
    at('DELETE', '/snapshots/{freePart}', ['write freePart']),
    at('POST', '/snapshots/{freePart}?operation=revert', ['read freePart', 'read free', 'write free']),
    at('POST', '/snapshots/{part1}?operation=revert', ['read part1', 'read drive1', 'write drive1']),
    at('POST', '/snapshots/{part1}?operation=createVolume', ['read part1', 'member'], {
      body: () => ({ name: 'more' }),
    }),
    at('POST', '/snapshots/{part1}?operation=createVolume', ['read part1', 'read machine', 'member', 'write machine'], {
      body: ({ machine }) => ({ name: 'more', instanceId: machine.id }),
    }),
    at('POST', '/snapshots/{part1}?operation=createTemplate', ['read part1', 'member'], {
      body: () => ({ name: 'more' }),
    }),
    at('GET', '/volumes', []),
    at('GET', '/volumes/{drive1}', ['read drive1']),
    at('POST', '/volumes', ['read machine', 'member', 'write machine'], {
      body: ({ machine }) => ({ ...offering, name: 'more', instanceId: machine.id }),
    }),
    at('DELETE', '/volumes/{free}', ['write free']),
    at('DELETE', '/volumes/{drive1}', ['write drive1'], harmless),
    at(
      'POST',
      '/volumes/{free}?operation=attachToInstance',
      ['read free', 'read machine', 'write machine', 'write free'],
      {
        body: ({ machine }) => ({ instanceId: machine.id }),
      },
    ),
    at('POST', '/volumes/{drive1}?operation=detachFromInstance', ['read drive1', 'write machine', 'write drive1']),
    at('POST', '/volumes/{free}?operation=resize', ['write free'], { body: () => ({ sizeInGb: 1 }) }),
    at('POST', '/volumes/{free}?operation=createSnapshotFromVolume', ['write free'], {
      body: () => ({ snapshot: { name: 'more' } }),
    }),
    at('GET', '/instances', []),
    at('GET', '/instances/{machine}', ['read machine']),
    at('POST', '/instances', ['member', 'read image'], {
      body: ({ image }) => ({ name: 'more', templateId: image.id }),
    }),
    at('DELETE', '/instances/{machine}', ['write machine', 'touch drive1', 'touch drive2'], {
      body: () => ({ deleteSnapshots: true }),
    }),
    at('POST', '/instances/{machine}?operation=start', ['write machine']),
    // It is off, which is found before the right to change it; whoever gets here may see that it is.
    ...[
      'stop',
      'reboot',
      'purge',
      'recover',
      'resetPassword',
      'changeNetwork',
      'associateSSHKey',
      'attachIso',
      'detachIso',
    ].map((operation) => at('POST', `/instances/{machine}?operation=${operation}`, ['read machine'], harmless)),
    at('POST', '/instances/{machine}?operation=createRecoveryPoint', ['write machine'], {
      body: () => ({ recoveryPoint: { name: 'more' } }),
    }),
    at('POST', '/instances/{machine}?operation=changeComputeOffering', ['write machine'], {
      body: () => ({ cpuCount: 2 }),
    }),
    at('GET', '/templates', []),
    at('GET', '/templates/{image}', ['read image']),
    at('DELETE', '/templates/{image}', ['write image']),
    ...['zones', 'diskofferings', 'computeofferings', 'networks', 'affinitygroups'].map((noun) =>
      at('GET', `/${noun}`, []),
    ),
    above(`GET ${root}/tasks/:id`, ['read freeTask'], undefined, { reachesAll: true }),
    above(`POST ${root}/tasks/:id`, ['read freeTask'], {}, { reachesAll: true }),
    above(`POST ${root}/environments`, ['operator'], { name: 'more', description: 'x' }),
    above(`GET ${root}/environments/:id`, ['read project'], undefined, { reachesAll: true }),
    above(`PUT ${root}/environments/:id`, ['read project', 'admin'], { description: 'other' }, { reachesAll: true }),
    above(`DELETE ${root}/environments/:id`, ['read project', 'operator'], undefined, { reachesAll: true }),
  ],
  exempt: {
    ...Object.fromEntries(
      ['zones', 'diskofferings', 'computeofferings', 'networks', 'affinitygroups'].map((noun) => [
        `GET ${template}/${noun}/:id`,
        'the same in every environment, whose own rights its list is held to',
      ]),
    ),
    [`GET ${root}/environments`]: 'looked at by itself',
    [`GET ${root}/organizations`]: 'looked at by itself',
    [`GET ${root}/organizations/:id`]: 'looked at by itself',
    [`GET ${root}/services/connections`]: 'the same for everybody',
    [`GET ${root}/services/connections/:id`]: 'the same for everybody',
  },
};
