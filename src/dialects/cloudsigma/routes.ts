/** CloudSigma API 2.0: its addresses, and what every request to it goes through. */
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import type { Dialect, DialectContext, RawAnswer } from '../dialect.ts';
import { bodyOf, rawQueryOf } from '../dialect.ts';
import { getCapabilities, getProfile, readLogin, updateProfile } from './account.ts';
import { authenticate, closeSession, openSession } from './authentication.ts';
import { type Answer, type Call, type Handler, mountOf, ok, parametersOf, send } from './call.ts';
import {
  actOnDrive,
  createDrives,
  deleteDrive,
  deleteDrives,
  getDrive,
  listDriveGroups,
  listDrives,
  updateDrive,
} from './drives.ts';
import { jsonType, methodList, notAcceptable, presentError, reasonOf, sendError } from './errors.ts';
import { envelope, readWindow } from './filters.ts';
import { getJob, listJobs } from './jobs.ts';
import { getLibraryDrive, listLibrary } from './library.ts';
import { isAcceptable, parameter, readAction, readFields, readParameters, tidyUrl } from './parse.ts';
import { schemaPages } from './schema-pages.ts';
import {
  actOnServer,
  createServers,
  deleteServer,
  getServer,
  listServerGroups,
  listServers,
  updateServer,
} from './servers.ts';
import {
  cloneSnapshot,
  createSnapshots,
  deleteSnapshot,
  deleteSnapshots,
  getSnapshot,
  listSnapshots,
  updateSnapshot,
} from './snapshots.ts';
import { createTags, deleteTag, getTag, listTagged, listTags, updateTag } from './tags.ts';

const path = '/api/2.0';

type Table = readonly (readonly [method: HTTPMethods, url: string, handler: Handler])[];

/** Features that come with a vault and schedules: what there is of them is nothing. */
const none: Handler = async (call) => ok(envelope([], readWindow(parametersOf(call)), 0));
const absent: Handler = async ({ id }) => {
  throw new CalotypeError('not_found', undefined, { id });
};
const unsupported =
  (what: string): Handler =>
  async () => {
    throw new CalotypeError('not_supported', `This server has no ${what}.`);
  };
const noVault = unsupported('vault for remote snapshots');
const noSchedules = unsupported('schedules for backups');

const table: Table = [
  ['GET', '/snapshots', listSnapshots],
  ['GET', '/snapshots/detail', listSnapshots],
  ['POST', '/snapshots', createSnapshots],
  ['DELETE', '/snapshots', deleteSnapshots],
  ['GET', '/snapshots/:id', getSnapshot],
  ['PUT', '/snapshots/:id', updateSnapshot],
  ['DELETE', '/snapshots/:id', deleteSnapshot],
  ['POST', '/snapshots/:id/action', cloneSnapshot],
  ['GET', '/drives', (call) => listDrives(call, 'short')],
  ['GET', '/drives/detail', (call) => listDrives(call, 'full')],
  ['POST', '/drives', createDrives],
  ['DELETE', '/drives', deleteDrives],
  ['GET', '/drives/:id', getDrive],
  ['PUT', '/drives/:id', updateDrive],
  ['DELETE', '/drives/:id', deleteDrive],
  ['POST', '/drives/:id/action', actOnDrive],
  ['GET', '/drives/availability_groups', listDriveGroups],
  ['GET', '/drives/availability_groups/:id', listDriveGroups],
  ['GET', '/servers', (call) => listServers(call, 'short')],
  ['GET', '/servers/detail', (call) => listServers(call, 'full')],
  ['POST', '/servers', createServers],
  ['GET', '/servers/:id', getServer],
  ['PUT', '/servers/:id', updateServer],
  ['DELETE', '/servers/:id', deleteServer],
  ['POST', '/servers/:id/action', actOnServer],
  ['GET', '/servers/availability_groups', listServerGroups],
  ['GET', '/servers/availability_groups/:id', listServerGroups],
  ['GET', '/libdrives', listLibrary],
  ['GET', '/libdrives/detail', listLibrary],
  ['GET', '/libdrives/:id', getLibraryDrive],
  ['POST', '/libdrives/:id/action', actOnDrive],
  ['GET', '/jobs', listJobs],
  ['GET', '/jobs/detail', listJobs],
  ['GET', '/jobs/:id', getJob],
  ['GET', '/tags', listTags],
  ['GET', '/tags/detail', listTags],
  ['POST', '/tags', createTags],
  ['GET', '/tags/:id', getTag],
  ['PUT', '/tags/:id', updateTag],
  ['DELETE', '/tags/:id', deleteTag],
  ['GET', '/tags/:id/:type', (call) => listTagged(call, typeOf(call), 'short')],
  ['GET', '/tags/:id/:type/detail', (call) => listTagged(call, typeOf(call), 'full')],
  ['GET', '/capabilities', getCapabilities],
  ['GET', '/profile', getProfile],
  ['PUT', '/profile', updateProfile],
  ['GET', '/remotesnapshots', none],
  ['GET', '/remotesnapshots/detail', none],
  ['POST', '/remotesnapshots', noVault],
  ['GET', '/remotesnapshots/:id', absent],
  ['GET', '/backupschedulers', none],
  ['GET', '/backupschedulers/detail', none],
  ['POST', '/backupschedulers', noSchedules],
  ['GET', '/backupschedulers/:id', absent],
  ...Object.entries(schemaPages).map(([name, page]) => ['GET', `/${name}/schema`, async () => ok(page)] as const),
];

function typeOf({ request }: Call): string {
  const { params } = request;
  return textOf(params, 'type');
}

function textOf(params: unknown, name: string): string {
  const value: unknown = typeof params === 'object' && params !== null ? Reflect.get(params, name) : undefined;
  return typeof value === 'string' ? value : '';
}

/** `?format=json` outranks the header. */
function checkAccept(request: FastifyRequest): void {
  const query = rawQueryOf(request);
  if (query.includes('format=')) {
    const format = parameter(readParameters(query), 'format');
    if (format === 'json') return;
    if (format !== undefined) throw notAcceptable();
  }
  if (!isAcceptable(request.headers.accept)) throw notAcceptable();
}

function addRoutes(app: FastifyInstance, context: DialectContext): void {
  const methods = new Map<string, string[]>();
  const add = (
    method: HTTPMethods,
    url: string,
    handler: (request: FastifyRequest, reply: FastifyReply) => unknown,
  ) => {
    const full = `${path}${url}`;
    methods.set(full, [...(methods.get(full) ?? []), String(method)]);
    app.route({ method, url: full, handler });
  };
  const callOf = async (request: FastifyRequest, reply: FastifyReply): Promise<Call> => {
    const caller = await authenticate(context, request);
    request.dialectCaller = caller;
    checkAccept(request);
    const { service } = context;
    return { context, service, caller, request, reply, mount: mountOf(request.base), id: textOf(request.params, 'id') };
  };

  for (const [method, url, handler] of table) {
    add(method, url, async (request, reply) => {
      const call = await callOf(request, reply);
      return send(call, await handler(call));
    });
  }
  add('POST', '/accounts/action', async (request, reply) => {
    const action = readAction(readParameters(rawQueryOf(request)), ['login', 'logout', 'check_login']);
    if (action === 'login') {
      const identity = await openSession(context, { request, reply }, readLogin(readFields(bodyOf(request))));
      return answer(reply, ok({ uuid: identity.userId }));
    }
    const call = await callOf(request, reply);
    if (action === 'logout') closeSession(context, request, reply);
    return send(call, ok({}));
  });
  for (const [url, allowed] of methods) {
    app.options(url, async (_request, reply) => {
      const list = methodList(allowed);
      reply.raw.statusMessage = reasonOf(200);
      return reply.code(200).headers({ allow: list, 'content-type': 'text/html; charset=utf-8' }).send(list);
    });
  }
}

function answer(reply: FastifyReply, { status, body }: Answer): FastifyReply {
  reply.raw.statusMessage = reasonOf(status);
  return reply.code(status).header('content-type', jsonType).send(JSON.stringify(body));
}

function answerParserError(error: CalotypeError): RawAnswer {
  const { status, body } = presentError(error);
  return {
    status,
    reason: reasonOf(status),
    headers: { 'Content-Type': jsonType, 'X-Request-ID': 'none' },
    body: JSON.stringify(body),
  };
}

export const cloudsigma: Dialect = {
  name: 'cloudsigma',
  path,
  addRoutes,
  answerError: (error, _request, reply) => sendError(error, reply),
  answerParserError,
  rewriteUrl: tidyUrl,
};
