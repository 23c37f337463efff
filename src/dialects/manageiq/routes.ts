/** The HTTP surface: what is at which address. Everything but OPTIONS, ping and product_info asks for credentials first. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Machine } from '../../core/model.ts';
import type { QueryKind } from '../../core/query.ts';
import type { QueriedObjects } from '../../service/interface.ts';
import type { Dialect, DialectContext } from '../dialect.ts';
import { Kept } from '../kept.ts';
import { type Answer, type MadeAnswer, noContent, ok } from './actions.ts';
import type { Env } from './attributes.ts';
import { authenticate, issueToken, type Known, tokenOf } from './authentication.ts';
import { entryPoint, productInfo } from './entry.ts';
import { answerError, answerParserError, corsHeaders, jsonType, refuse } from './errors.ts';
import { isKept, list } from './lists.ts';
import { postMachine, postMachines } from './machine-actions.ts';
import { machineOf, machineResources } from './machines.ts';
import { accessOf } from './objects.ts';
import { noOptions, optionsOf, snapshotForm } from './options.ts';
import { addressOf, apiVersion, type Params, readBody, readId, readParams, rewriteUrl, versionOf } from './parse.ts';
import { type Resource, select, show } from './resources.ts';
import { deleteSnapshot, postSnapshot, postSnapshots } from './snapshot-actions.ts';
import { type MachinesName, snapshotOf, snapshotsOf } from './snapshots.ts';
import { deleteTask, postTask, postTasks } from './task-actions.ts';
import { taskOf, taskResource } from './tasks.ts';
import { deleteVolumeSnapshot, postVolumeSnapshot, postVolumeSnapshots, postVolumes } from './volume-actions.ts';
import { snapshotsOfVolume, volumeOf, volumeResource, volumeSnapshotOf, volumeSnapshotResource } from './volumes.ts';

/** A request whose caller is known. */
interface Call {
  readonly env: Env;
  readonly known: Known;
  readonly request: FastifyRequest;
  readonly params: Params;
  /** The number in the address under this name. @throws invalid_request */
  number(name: string, klass: string): number;
}

type Handler = (call: Call) => Promise<Answer | MadeAnswer>;

function addRoutes(app: FastifyInstance, context: DialectContext): void {
  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers(corsHeaders);
    done();
  });

  const route = (method: 'GET' | 'POST' | 'DELETE', path: string, handler: Handler): void => {
    app.route({
      method,
      url: `/api${path}`,
      handler: async (request, reply) => {
        const known = await authenticate(context, request);
        const call = callOf(context, request, known);
        if (method !== 'DELETE') assertAcceptable(request);
        return send(reply, await handler(call));
      },
    });
  };
  const options = (path: string, handler: (request: FastifyRequest) => unknown): void => {
    app.options(`/api${path}`, async (request, reply) => {
      assertKnownVersion(request);
      assertAcceptable(request);
      return send(reply, ok(await handler(request)));
    });
  };

  app.get('/api/ping', (_request, reply) => reply.type('text/plain; charset=utf-8').send('pong'));
  app.get('/api/product_info', (request, reply) => {
    assertAcceptable(request);
    send(reply, ok(productInfo()));
  });
  app.options('/api', (request, reply) => {
    assertKnownVersion(request);
    assertAcceptable(request);
    reply.type(jsonType).send('');
  });

  route('GET', '', async ({ env, known, request, params }) =>
    ok(await entryPoint(env, known.identity, request.base, params)),
  );
  route('GET', '/auth', async ({ env, params }) => ok(issueToken(context, env.caller, params.requesterType)));
  route('DELETE', '/auth', async ({ request }) => {
    const token = tokenOf(request);
    if (token !== undefined) context.sessions.close(token);
    return noContent;
  });
  options('/auth', () => noOptions);

  for (const name of ['vms', 'instances'] as const) addMachines(context, name, route, options);

  const task = taskResource.klass;
  route('GET', '/tasks', listing(taskResource));
  route('GET', '/tasks/:id', async (call) => one(call, taskResource, await taskOf(call.env, call.number('id', task))));
  route('POST', '/tasks', ({ env, request, params }) => postTasks(env, readBody(request), params));
  route('POST', '/tasks/:id', ({ env, request, number }) => postTask(env, number('id', task), readBody(request)));
  route('DELETE', '/tasks/:id', ({ env, number }) => deleteTask(env, number('id', task)));
  for (const path of ['/tasks', '/tasks/:id']) options(path, () => optionsOf(taskResource));

  addVolumes(route, options);
}

type AddRoute = (method: 'GET' | 'POST' | 'DELETE', path: string, handler: Handler) => void;
type AddOptions = (path: string, handler: (request: FastifyRequest) => unknown) => void;

function addMachines(context: DialectContext, name: MachinesName, route: AddRoute, options: AddOptions): void {
  const resource = machineResources[name];
  const { klass } = resource;
  const parentOf = ({ env, number }: Call): Promise<Machine> => machineOf(env, name, number('id', klass));
  const numbersOf = ({ number }: Call) => ({ machine: number('id', klass), snapshot: number('sid', 'Snapshot') });
  const below = async ({ env }: Call, machine: Machine) => {
    const access = await accessOf(env, 'machine', [machine.id]);
    return snapshotsOf(name, machine, access(machine.id) === 'rw');
  };

  route('GET', `/${name}`, listing(resource));
  route('GET', `/${name}/:id`, async (call) => one(call, resource, await parentOf(call)));
  route('POST', `/${name}`, ({ env, request, params }) => postMachines(env, name, readBody(request), params));
  route('POST', `/${name}/:id`, ({ env, request, number }) =>
    postMachine(env, name, number('id', klass), readBody(request)),
  );
  for (const path of [`/${name}`, `/${name}/:id`]) options(path, () => optionsOf(resource));

  const snapshots = `/${name}/:id/snapshots`;
  route('GET', snapshots, async (call) => listing(await below(call, await parentOf(call)))(call));
  route('GET', `${snapshots}/:sid`, async (call) => {
    const numbers = numbersOf(call);
    const machine = await machineOf(call.env, name, numbers.machine);
    return one(call, await below(call, machine), await snapshotOf(call.env, machine, numbers.snapshot));
  });
  route('POST', snapshots, ({ env, request, number }) =>
    postSnapshots(env, name, number('id', klass), readBody(request)),
  );
  route('POST', `${snapshots}/:sid`, (call) => postSnapshot(call.env, name, numbersOf(call), readBody(call.request)));
  route('DELETE', `${snapshots}/:sid`, (call) => deleteSnapshot(call.env, name, numbersOf(call)));
  options(`${snapshots}/:sid`, () => optionsOf(resource));
  options(snapshots, async (request) => {
    const number = numberIn(request, 'id', klass);
    const known = await recognise(context, request);
    // Who is not known is not told which machines there are.
    if (known !== undefined) await machineOf(envOf(context, request, known), name, number);
    return optionsOf(resource, snapshotForm);
  });
}

function addVolumes(route: AddRoute, options: AddOptions): void {
  const { klass } = volumeResource;
  const { klass: part } = volumeSnapshotResource;
  const numbersOf = ({ number }: Call) => ({ volume: number('id', klass), snapshot: number('sid', part) });

  route('GET', '/cloud_volumes', listing(volumeResource));
  route('GET', '/cloud_volumes/:id', async (call) =>
    one(call, volumeResource, await volumeOf(call.env, call.number('id', klass))),
  );
  route('POST', '/cloud_volumes', ({ env, request, params }) => postVolumes(env, readBody(request), params));
  for (const path of ['/cloud_volumes', '/cloud_volumes/:id']) options(path, () => optionsOf(volumeResource));

  const below = '/cloud_volumes/:id/cloud_volume_snapshots';
  const resourceOf = async (call: Call) => {
    const drive = await volumeOf(call.env, call.number('id', klass));
    const access = await accessOf(call.env, 'drive', [drive.id]);
    return { drive, resource: snapshotsOfVolume(drive, access(drive.id) === 'rw') };
  };
  route('GET', below, async (call) => listing((await resourceOf(call)).resource)(call));
  route('GET', `${below}/:sid`, async (call) => {
    const { snapshot } = numbersOf(call);
    const { drive, resource } = await resourceOf(call);
    return one(call, resource, await volumeSnapshotOf(call.env, snapshot, drive));
  });
  route('POST', below, ({ env, request, params, number }) =>
    postVolumeSnapshots(env, number('id', klass), readBody(request), params),
  );
  route('POST', `${below}/:sid`, (call) => postVolumeSnapshot(call.env, numbersOf(call), readBody(call.request)));
  route('DELETE', `${below}/:sid`, (call) => deleteVolumeSnapshot(call.env, numbersOf(call)));

  const all = '/cloud_volume_snapshots';
  route('GET', all, listing(volumeSnapshotResource));
  route('GET', `${all}/:sid`, async (call) =>
    one(call, volumeSnapshotResource, await volumeSnapshotOf(call.env, call.number('sid', part))),
  );
  route('POST', all, ({ env, request, params }) => postVolumeSnapshots(env, undefined, readBody(request), params));
  route('POST', `${all}/:sid`, ({ env, request, number }) =>
    postVolumeSnapshot(env, { snapshot: number('sid', part) }, readBody(request)),
  );
  route('DELETE', `${all}/:sid`, ({ env, number }) => deleteVolumeSnapshot(env, { snapshot: number('sid', part) }));
  for (const path of [below, `${below}/:sid`, all, `${all}/:sid`])
    options(path, () => optionsOf(volumeSnapshotResource));
}

function listing<K extends QueryKind, T>(resource: Resource<K, T>): Handler {
  return async ({ env, params, request }) => {
    const url = request.base + addressOf(request);
    return { status: 200, text: await list(resource, env, params, url) };
  };
}

async function one<K extends QueryKind, T>(
  { env, params }: Call,
  resource: Resource<K, T>,
  object: QueriedObjects[K],
): Promise<MadeAnswer> {
  const form = isKept(env, params) ? `${env.api} ${resource.path}` : undefined;
  const known = form === undefined ? undefined : ones.get(object, form);
  if (known !== undefined) return { status: 200, text: known };
  const selection = select(resource, params.attributes);
  const views = await resource.view([object], env);
  const [shown] = await show(resource, views, env, selection, params.expand);
  const text = JSON.stringify(shown);
  return { status: 200, text: form === undefined ? text : ones.keep(object, form, text) };
}

const ones = new Kept<string>();

function callOf(context: DialectContext, request: FastifyRequest, known: Known): Call {
  return {
    env: envOf(context, request, known),
    known,
    request,
    params: readParams(request),
    number: (name, klass) => numberIn(request, name, klass),
  };
}

function numberIn(request: FastifyRequest, name: string, klass: string): number {
  const params: unknown = request.params;
  const text: unknown = typeof params === 'object' && params !== null ? Reflect.get(params, name) : undefined;
  return readId(typeof text === 'string' ? text : undefined, klass);
}

/** The version that the address names. @throws invalid_request for another than the one that there is */
function assertKnownVersion(request: FastifyRequest): string | null {
  const version = versionOf(request);
  if (version !== null && version !== apiVersion) throw refuse(`Unsupported API Version ${version} specified`);
  return version;
}

/** @throws invalid_request */
function envOf(context: DialectContext, request: FastifyRequest, { caller }: Known): Env {
  const version = assertKnownVersion(request);
  return { context, caller, api: `${request.base}/api${version === null ? '' : `/v${version}`}` };
}

/** Credentials may be left out, and bad ones count as none. */
async function recognise(context: DialectContext, request: FastifyRequest): Promise<Known | undefined> {
  try {
    return await authenticate(context, request);
  } catch (error) {
    if (error instanceof CalotypeError && error.status < 500) return undefined;
    throw error;
  }
}

/** @throws unsupported_media_type */
function assertAcceptable(request: FastifyRequest): void {
  const { accept } = request.headers;
  if (accept === undefined || accept.trim() === '' || accept.includes('json') || accept.includes('*/*')) return;
  throw new CalotypeError('unsupported_media_type', `Invalid Response Format ${accept} requested`);
}

function send(reply: FastifyReply, answer: Answer | MadeAnswer): FastifyReply {
  if ('text' in answer) return reply.code(answer.status).type(jsonType).send(answer.text);
  const { status, body } = answer;
  if (body === null) return reply.code(status).send();
  return reply.code(status).type(jsonType).send(JSON.stringify(body));
}

export const manageiq: Dialect = {
  name: 'manageiq',
  path: '/api',
  addRoutes,
  answerError,
  answerParserError,
  rewriteUrl,
};
