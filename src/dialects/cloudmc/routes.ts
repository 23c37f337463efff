/** CloudMC's HTTP surface: administration directly below the base, entities below `/services/{code}/{environment}`. */
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import { CalotypeError, notFound } from '../../core/errors.ts';
import type { TaskId } from '../../core/ids.ts';
import type { Task } from '../../core/model.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import type { Dialect, DialectContext } from '../dialect.ts';
import { Administration, via } from './administration.ts';
import { answerError, answerParserError, jsonType } from './errors.ts';
import { computeOffering, connectionOf, diskOffering, network, organization, zone } from './fixed.ts';
import {
  changeComputeOffering,
  createInstance,
  deleteInstance,
  getInstance,
  instanceOperations,
  listInstances,
} from './instances.ts';
import { basePath, type Fields, idOf, operationOf, queryText, readBody, rewriteUrl } from './parse.ts';
import { presentList } from './present.ts';
import type { Scope } from './scope.ts';
import { createSnapshot, deleteSnapshot, getSnapshot, listSnapshots, snapshotOperations } from './snapshots.ts';
import { ImmediateTasks, showTask, taskReference } from './tasks.ts';
import { deleteTemplate, getTemplate, listTemplates } from './templates.ts';
import { createVolume, deleteVolume, findVolume, getVolume, listVolumes, volumeOperations } from './volumes.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose key the request shows; set before any handler runs. */
    cloudmcIdentity: Identity | null;
  }
}

type Operate = (scope: Scope, id: string, fields: Fields) => Promise<Task>;

/** What can be done with the objects of one kind. */
interface Entity {
  readonly list: (scope: Scope) => Promise<object>;
  readonly get: (scope: Scope, id: string) => Promise<object>;
  readonly create?: (scope: Scope, fields: Fields) => Promise<Task>;
  readonly delete?: (scope: Scope, id: string, fields: Fields) => Promise<Task>;
  readonly operations?: Readonly<Record<string, Operate>>;
}

const onVolume = Object.fromEntries(
  Object.entries(volumeOperations).map(([name, operate]): [string, Operate] => [
    name,
    async (scope, id, fields) => operate(scope, await findVolume(scope, id), fields),
  ]),
);

const entities: Readonly<Record<string, Entity>> = {
  snapshots: {
    list: listSnapshots,
    get: getSnapshot,
    create: async (scope, fields) => createSnapshot(scope, fields, fields.requiredText('volumeId')),
    delete: deleteSnapshot,
    operations: snapshotOperations,
  },
  volumes: {
    list: listVolumes,
    get: getVolume,
    create: createVolume,
    delete: deleteVolume,
    operations: {
      ...onVolume,
      createSnapshotFromVolume: (scope, id, fields) => createSnapshot(scope, fields.nested('snapshot'), id),
    },
  },
  instances: {
    list: listInstances,
    get: getInstance,
    create: createInstance,
    delete: deleteInstance,
    operations: instanceOperations,
  },
  templates: { list: listTemplates, get: getTemplate, delete: deleteTemplate },
  zones: fixed('zone', [zone]),
  diskofferings: fixed('disk offering', [diskOffering]),
  computeofferings: fixed('compute offering', [computeOffering]),
  networks: fixed('network', [network]),
  // A client looks here for what an instance may belong to.
  affinitygroups: fixed('affinity group', []),
};

function fixed(kind: string, items: readonly { readonly id: string }[]): Entity {
  return {
    list: async () => presentList(items),
    get: async (_scope, id) => {
      const found = items.find((item) => item.id === id);
      if (found === undefined) throw notFound(kind, id);
      return { data: found };
    },
  };
}

function send(reply: FastifyReply, body: object): FastifyReply {
  return reply.header('content-type', jsonType).send(JSON.stringify(body));
}

function identityOf(request: FastifyRequest): Identity {
  if (request.cloudmcIdentity === null) throw new CalotypeError('unauthenticated');
  return request.cloudmcIdentity;
}

interface EntityParams {
  readonly code: string;
  readonly environment: string;
  readonly id: string;
}

function addRoutes(app: FastifyInstance, context: DialectContext): void {
  const { service, authenticator } = context;
  const connection = connectionOf(context.cloudmcServiceCode);
  const administration = new Administration(context, connection);
  const immediate = new ImmediateTasks();

  app.decorateRequest('cloudmcIdentity', null);
  app.addHook('onRequest', async (request) => {
    const key = request.headers['mc-api-key'];
    if (typeof key !== 'string' || key === '') {
      throw new CalotypeError('unauthenticated', 'The header MC-Api-Key is missing.');
    }
    request.cloudmcIdentity = await authenticator.bearer(key);
    const asked = queryText(request, 'org_id');
    if (asked !== undefined && asked !== organization.id) throw notFound('organization', asked);
  });

  async function scopeOf(request: FastifyRequest<{ Params: EntityParams }>): Promise<Scope> {
    const { code, environment } = request.params;
    if (code !== connection.serviceCode) throw notFound('service', code);
    const caller: Caller = await authenticator.callerFor(identityOf(request), { project: environment, via });
    request.dialectCaller = caller;
    return { service, caller, request };
  }

  for (const [name, entity] of Object.entries(entities)) {
    const list = `${basePath}/services/:code/:environment/${name}`;
    const single = `${list}/:id`;
    const { operations = {} } = entity;

    app.get<{ Params: EntityParams }>(list, async (request, reply) =>
      send(reply, await entity.list(await scopeOf(request))),
    );
    app.get<{ Params: EntityParams }>(single, async (request, reply) =>
      send(reply, await entity.get(await scopeOf(request), request.params.id)),
    );

    const { create, delete: remove } = entity;
    if (create !== undefined) {
      app.post<{ Params: EntityParams }>(list, async (request, reply) => {
        const scope = await scopeOf(request);
        const operation = operationOf(request);
        if (operation !== undefined && operation !== 'create') throw unknownOperation(operation);
        return send(reply, await taskReference(scope, await create(scope, readBody(request))));
      });
    }
    if (remove !== undefined) {
      app.delete<{ Params: EntityParams }>(single, async (request, reply) => {
        const scope = await scopeOf(request);
        return send(reply, await taskReference(scope, await remove(scope, request.params.id, readBody(request))));
      });
    }
    if (entity.operations !== undefined) {
      app.post<{ Params: EntityParams }>(single, async (request, reply) => {
        const scope = await scopeOf(request);
        const { id } = request.params;
        const operation = operationOf(request);
        if (name === 'instances' && operation === 'changeComputeOffering') {
          const result = await changeComputeOffering(scope, id, readBody(request));
          return send(reply, immediate.reference(scope.caller, result));
        }
        const operate =
          operation !== undefined && Object.hasOwn(operations, operation) ? operations[operation] : undefined;
        if (operate === undefined) throw unknownOperation(operation);
        return send(reply, await taskReference(scope, await operate(scope, id, readBody(request))));
      });
    }
  }

  const readTask = async (request: FastifyRequest<{ Params: { id: string } }>, reply: FastifyReply) => {
    const identity = identityOf(request);
    const id = idOf<TaskId>('task', request.params.id);
    const known = immediate.projectOf(id);
    const project = known ?? (await service.projectIdOf({ kind: 'task', id }));
    if (project === null) throw notFound('task', id);
    const caller = await callerIn(identity, project, id);
    request.dialectCaller = caller;
    if (known !== undefined) return send(reply, immediate.show(caller, id));
    return send(reply, await showTask({ service, caller, request }, await service.tasks.get(caller, id)));
  };

  /** @throws not_found of the task, whatever keeps the caller from it */
  async function callerIn(identity: Identity, project: string, id: TaskId): Promise<Caller> {
    try {
      return await authenticator.callerFor(identity, { project, via });
    } catch (error) {
      if (error instanceof CalotypeError && error.code === 'not_found') throw notFound('task', id);
      throw error;
    }
  }
  app.get<{ Params: { id: string } }>(`${basePath}/tasks/:id`, readTask);
  app.post<{ Params: { id: string } }>(`${basePath}/tasks/:id`, readTask);

  /** What is answered at once, without a task and outside of any environment. */
  const at = (
    method: HTTPMethods,
    path: string,
    handle: (identity: Identity, request: FastifyRequest<{ Params: { id: string } }>) => object | Promise<object>,
  ): void => {
    app.route<{ Params: { id: string } }>({
      method,
      url: `${basePath}/${path}`,
      handler: async (request, reply) => send(reply, await handle(identityOf(request), request)),
    });
  };
  at('GET', 'environments', (identity) => administration.listEnvironments(identity));
  at('POST', 'environments', (identity, request) => administration.createEnvironment(identity, readBody(request)));
  at('GET', 'environments/:id', (identity, { params }) => administration.getEnvironment(identity, params.id));
  at('PUT', 'environments/:id', (identity, request) =>
    administration.updateEnvironment(identity, request.params.id, readBody(request)),
  );
  at('DELETE', 'environments/:id', (identity, { params }) => administration.deleteEnvironment(identity, params.id));
  at('GET', 'services/connections', (_identity, request) =>
    administration.listConnections(queryText(request, 'organizationId')),
  );
  at('GET', 'services/connections/:id', (_identity, { params }) => administration.getConnection(params.id));
  at('GET', 'organizations', (identity) => administration.listOrganizations(identity));
  at('GET', 'organizations/:id', (identity, { params }) => administration.getOrganization(identity, params.id));
}

function unknownOperation(operation: string | undefined): CalotypeError {
  const message = operation === undefined ? 'The parameter operation is missing.' : 'There is no such operation.';
  return new CalotypeError('invalid_request', message, { field: 'operation' });
}

export const cloudmc: Dialect = {
  name: 'cloudmc',
  path: basePath,
  addRoutes,
  answerError,
  answerParserError,
  rewriteUrl,
};
