/** The HTTP surface of the Syminet API: below `/api/v1`, the action is in the path, on top of the verb. */
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import { bodyOf, type Dialect, type DialectContext } from '../dialect.ts';
import { answerError, answerParserError, jsonType } from './errors.ts';
import { readPaging, readToken, tidyUrl } from './parse.ts';
import { accepted, dists, regions, sizes } from './present.ts';
import { getSlice, listBackups, listSlices, rebuildSlice, restoreBackup, switchBackups } from './slices.ts';
import {
  createSnapshot,
  deleteSnapshot,
  listImages,
  listImagesOfSlice,
  renameSnapshot,
  restoreSnapshot,
} from './snapshots.ts';
import { getPerms, getUser, type UserScope, updateUser } from './users.ts';
import { attachVolume, detachVolume, getVolume, listVolumes } from './volumes.ts';

interface Ask {
  readonly scope: UserScope;
  /** A parameter of the path. */
  readonly path: (name: string) => string;
  readonly request: FastifyRequest;
}

type Read = (ask: Ask) => Promise<unknown>;
type Change = (ask: Ask) => Promise<void>;

const acceptedText = JSON.stringify(accepted);

export const syminet: Dialect = {
  name: 'syminet',
  path: '/api/v1',
  addRoutes,
  answerError,
  answerParserError,
  rewriteUrl: tidyUrl,
};

function addRoutes(app: FastifyInstance, context: DialectContext): void {
  const onRequest = authenticateWith(context);
  const at = (path: string): string => `${syminet.path}${path}`;

  function read(path: string, answer: Read): void {
    app.get(at(path), { onRequest }, async (request, reply) =>
      sendText(reply, 200, JSON.stringify(await answer(askOf(request, context)))),
    );
  }

  /** What needs no credentials, and never changes. */
  function constant(path: string, value: unknown): void {
    const text = JSON.stringify(value);
    app.get(at(path), (_request, reply) => sendText(reply, 200, text));
  }

  /** `exposeHeadRoute`: a GET that changes something is not to be tried out with HEAD. */
  function change(method: HTTPMethods | HTTPMethods[], path: string, work: Change): void {
    app.route({
      method,
      url: at(path),
      onRequest,
      exposeHeadRoute: false,
      handler: async (request, reply) => {
        await work(askOf(request, context));
        return sendText(reply, 202, acceptedText);
      },
    });
  }

  read('/images', ({ scope, request }) => listImages(scope, readPaging(request.query)));
  read('/images/snapshots/:id', ({ scope, path }) => listImagesOfSlice(scope, path('id')));
  change('POST', '/images/snapshots/:id/create', ({ scope, path, request }) =>
    createSnapshot(scope, path('id'), bodyOf(request)),
  );
  change('POST', '/images/snapshots/:id/restore/:slice', ({ scope, path }) =>
    restoreSnapshot(scope, path('id'), path('slice')),
  );
  change('POST', '/images/snapshots/:id/rename', ({ scope, path, request }) =>
    renameSnapshot(scope, path('id'), bodyOf(request)),
  );
  change('DELETE', '/images/snapshots/:id/delete', ({ scope, path }) => deleteSnapshot(scope, path('id')));

  read('/backups/:id', ({ scope, path }) => listBackups(scope, path('id')));
  read('/slices/:id/backups', ({ scope, path }) => listBackups(scope, path('id')));
  change('POST', '/backups/:id/restore/:backup', ({ scope, path }) => restoreBackup(scope, path('id'), path('backup')));
  for (const spelling of ['/backups/:id/backups', '/slices/:id/backups']) {
    for (const wish of ['enable', 'disable']) {
      change(['GET', 'POST'], `${spelling}/${wish}`, ({ scope, path }) => switchBackups(scope, path('id')));
    }
  }

  constant('/slices/regions', regions);
  constant('/slices/dists', dists);
  constant('/slices/sizes', sizes);
  read('/slices', ({ scope, request }) => listSlices(scope, readPaging(request.query)));
  read('/slices/:id', ({ scope, path }) => getSlice(scope, path('id')));
  change('POST', '/slices/:id/rebuild', ({ scope, path, request }) => rebuildSlice(scope, path('id'), bodyOf(request)));

  read('/volumes', ({ scope, request }) => listVolumes(scope, readPaging(request.query)));
  read('/volumes/:id', ({ scope, path }) => getVolume(scope, path('id')));
  change('POST', '/volumes/:id/attach/:slice', ({ scope, path }) => attachVolume(scope, path('id'), path('slice')));
  change('POST', '/volumes/:id/detach', ({ scope, path }) => detachVolume(scope, path('id')));

  read('/users/:name', ({ scope, path }) => getUser(scope, path('name')));
  read('/users/:name/perms', ({ scope, path }) => getPerms(scope, path('name')));
  change('PUT', '/users/:name/update', ({ scope, path, request }) => updateUser(scope, path('name'), bodyOf(request)));
}

/** Before anything is read or said: whose token it is. */
function authenticateWith({ authenticator }: DialectContext) {
  return async (request: FastifyRequest): Promise<void> => {
    const identity = await authenticator.bearer(readToken(request.headers.authorization));
    request.dialectCaller = await authenticator.callerFor(identity, { via: syminet.name });
  };
}

function askOf(request: FastifyRequest, { service, users, projects }: DialectContext): Ask {
  const { dialectCaller: caller, params } = request;
  if (caller === null) throw new CalotypeError('unauthenticated');
  return {
    scope: { service, users, projects, caller },
    path: (name) => String(Object.getOwnPropertyDescriptor(params, name)?.value),
    request,
  };
}

function sendText(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply.code(status).header('content-type', jsonType).header('cache-control', 'no-store').send(text);
}
