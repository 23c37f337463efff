/**
 * The OpenAPI description, made from the same routes and schemas that serve: a second, idle app with @fastify/swagger in it. Loaded and made
 * when first asked for. Headers and error answers, which the routes only note, are spelled out here.
 */
import swagger from '@fastify/swagger';
import { pino } from 'pino';
import { type ErrorCode, errorCatalogue } from '../core/errors.ts';
import { buildApp } from './app.ts';
import type { AppOptions, OperationNotes } from './context.ts';
import { Metrics } from './metrics.ts';

export const apiVersion = '1.0.0';

const tagTexts: Readonly<Record<string, string>> = {
  system: 'The server itself',
  drives: 'Block volumes',
  snapshots: 'Points in time of drives',
  images: 'Templates for drives and machines',
  exports: 'Drives and snapshots served over NBD',
  tasks: 'Durable pieces of work',
  events: 'Who did what to which object when',
  projects: 'Tenants and their members',
  users: 'Users of the server',
  tokens: 'API keys',
  grants: 'Access of guests to single objects',
};

type Json = Record<string, unknown>;

let text: Promise<string> | undefined;

/** The description as JSON text, as served and as checked in. */
export function openApiText(): Promise<string> {
  text ??= makeOpenApi().then((document) => `${JSON.stringify(document, null, 2)}\n`);
  return text;
}

export async function makeOpenApi(): Promise<Json> {
  const notesByOperation = new Map<string, OperationNotes>();
  const logger = pino({ level: 'silent' });
  const { app } = await buildApp(idleOptions, logger, {
    beforeRoutes: async (instance) => {
      instance.addHook('onRoute', ({ schema, config }) => {
        if (schema?.operationId !== undefined && config?.notes !== undefined)
          notesByOperation.set(schema.operationId, config.notes);
      });
      await instance.register(swagger, {
        openapi: {
          openapi: '3.1.0',
          info: {
            title: 'Calotype API',
            version: apiVersion,
            description:
              'Real point-in-time snapshots of virtual machines and volumes. See docs/api.md for the rules that all operations share.',
            license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
          },
          servers: [{ url: '/' }],
          tags: Object.entries(tagTexts).map(([name, description]) => ({ name, description })),
          components: {
            securitySchemes: { token: { type: 'http', scheme: 'bearer' }, password: { type: 'http', scheme: 'basic' } },
          },
          security: [{ token: [] }, { password: [] }],
        },
        refResolver: {
          buildLocalReference: (json, _baseUri, _fragment, i) =>
            typeof json.$id === 'string' ? json.$id : `schema${i}`,
        },
      });
    },
  });
  await app.ready();
  const document = toJson(app.swagger());
  await app.close();
  for (const [path, item] of Object.entries(recordAt(document, 'paths'))) {
    if (!isRecord(item)) continue;
    delete item.head;
    for (const [method, operation] of Object.entries(item)) {
      if (!isRecord(operation)) continue;
      const notes = notesByOperation.get(String(operation.operationId));
      if (notes === undefined) throw new Error(`${method} ${path} has no notes`);
      addNotes(operation, notes);
    }
  }
  return document;
}

/** Stands in for what routes only call when they serve; nothing is ever called through it. */
function idle<T extends object>(): T {
  const refuse = (): never => {
    throw new Error('this app only describes itself');
  };
  return new Proxy(Object.assign(refuse, Object.create(null)), { get: () => idle() });
}

const idleOptions: AppOptions = {
  service: idle(),
  accounts: idle(),
  authenticator: idle(),
  facts: idle(),
  bootDirectory: '',
  metrics: new Metrics({ version: '', inventory: idle() }),
  maxImportBytes: 0,
  metricsPublic: false,
  trustedProxies: [],
};

function addNotes(operation: Json, notes: OperationNotes): void {
  const hasJsonBody = isRecord(operation.requestBody);
  if (isRecord(operation.requestBody)) {
    const media = recordAt(recordAt(operation.requestBody, 'content'), 'application/json');
    operation.requestBody.required = Array.isArray(recordAt(media, 'schema').required);
  }
  const responses = recordAt(operation, 'responses');
  if (notes.requestMedia !== undefined) {
    operation.requestBody = {
      required: true,
      content: { [notes.requestMedia]: { schema: { type: 'string', format: 'binary' } } },
    };
  }
  if (notes.responseMedia !== undefined) {
    const content = Object.fromEntries(notes.responseMedia.map((media) => [media, {}]));
    responses['200'] = { description: 'Success', content };
  }
  for (const [status, response] of Object.entries(responses)) {
    if (isRecord(response)) response.description = statusTexts[status] ?? 'Success';
  }
  const parameters: unknown[] = Array.isArray(operation.parameters) ? operation.parameters : [];
  const header = (name: string, schema: Json, description: string): void => {
    parameters.push({ name, in: 'header', required: false, schema, description });
  };
  const codes = new Set<ErrorCode>(notes.errors);
  if (notes.isPublic === true) operation.security = [];
  else {
    for (const code of [
      'unauthenticated',
      'token_expired',
      'token_revoked',
      'too_many_logins',
      'forbidden',
      'not_found',
    ] as const)
      codes.add(code);
    header('Calotype-Project', { type: 'string' }, 'project, by name or id; default: your first');
  }
  if (notes.idempotent === true) {
    header(
      'Idempotency-Key',
      { type: 'string', minLength: 1, maxLength: 255 },
      'a retry with the same key finds the first attempt',
    );
    codes.add('idempotency_conflict').add('idempotency_in_progress');
  }
  if (notes.versioned === true) {
    header('If-Match', { type: 'string' }, 'the ETag that the object must still have');
    codes.add('precondition_failed');
  }
  if (notes.refusesExisting === true) {
    header('If-None-Match', { type: 'string', enum: ['*'] }, 'refuse when an object of that name exists');
    codes.add('name_taken');
  }
  if (notes.waits === true)
    header(
      'Prefer',
      { type: 'string', examples: ['wait=10'] },
      'wait=SECONDS, up to 60: answer when the task has ended',
    );
  if (parameters.length > 0) operation.parameters = parameters;
  if (parameters.length > 0 || hasJsonBody) codes.add('invalid_request');
  if (hasJsonBody && notes.requestMedia === undefined) {
    codes.add('json_too_deep').add('body_too_large').add('unsupported_media_type');
  }
  codes.add('internal').add('shutting_down');
  for (const [status, list] of byStatus(codes)) {
    const description = list.map((code) => `\`${code}\`: ${errorCatalogue[code].title}`).join('; ');
    const problem = { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } };
    const known = responses[status];
    responses[status] = isRecord(known)
      ? {
          ...known,
          description: `${String(known.description)}, or ${description}`,
          content: { ...recordAt(known, 'content'), ...problem },
        }
      : { description, content: problem };
  }
}

const statusTexts: Readonly<Record<string, string>> = {
  '200': 'Done',
  '201': 'Made',
  '202': 'Under way: the task tells how far',
  '204': 'Done',
  '503': 'Not ready',
};

function byStatus(codes: ReadonlySet<ErrorCode>): [string, ErrorCode[]][] {
  const groups = new Map<string, ErrorCode[]>();
  for (const code of [...codes].sort()) {
    const status = String(errorCatalogue[code].status);
    groups.set(status, [...(groups.get(status) ?? []), code]);
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b));
}

function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function recordAt(value: Json, key: string): Json {
  const found = value[key];
  return isRecord(found) ? found : {};
}

function toJson(value: unknown): Json {
  const copy: unknown = JSON.parse(JSON.stringify(value));
  if (!isRecord(copy)) throw new Error('not an object');
  return copy;
}
