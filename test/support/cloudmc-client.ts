/** A CloudMC client for tests: sends its key, holds every answer to its schema and to what holds for all of them. */
import type { TSchema } from 'typebox';
import { Errors } from 'typebox/schema';
import { expect } from 'vitest';
import { rewriteUrl } from '../../src/dialects/cloudmc/parse.ts';
import {
  computeOfferingSchema,
  connectionSchema,
  diskOfferingSchema,
  environmentSchema,
  errorsSchema,
  instanceSchema,
  listOf,
  networkSchema,
  oneOf,
  organizationSchema,
  singleEnvironmentSchema,
  singleInstanceSchema,
  snapshotSchema,
  taskReferenceSchema,
  taskSchema,
  templateSchema,
  volumeSchema,
  zoneSchema,
} from '../../src/dialects/cloudmc/schemas.ts';
import { type Answer, type Call, type DialectRig, MiB } from './dialect-rig.ts';

const entitySchemas: Readonly<Record<string, readonly [list: TSchema, single: TSchema]>> = {
  snapshots: [snapshotSchema, snapshotSchema],
  volumes: [volumeSchema, volumeSchema],
  instances: [instanceSchema, singleInstanceSchema],
  templates: [templateSchema, templateSchema],
  zones: [zoneSchema, zoneSchema],
  diskofferings: [diskOfferingSchema, diskOfferingSchema],
  computeofferings: [computeOfferingSchema, computeOfferingSchema],
  networks: [networkSchema, networkSchema],
  affinitygroups: [zoneSchema, zoneSchema],
};

/** What an answer to this must look like. */
export function schemaOf(method: string, url: string, status: number): TSchema {
  if (status !== 200) return errorsSchema;
  const [path = ''] = rewriteUrl(url).split('?');
  const [first = '', ...rest] = path.replace(/^\/api\/v2\//, '').split('/');
  const isList = method === 'GET' && rest.length === 0;
  if (first === 'tasks') return oneOf(taskSchema);
  if (first === 'environments') return isList ? listOf(environmentSchema) : oneOf(singleEnvironmentSchema);
  if (first === 'organizations') return isList ? listOf(organizationSchema) : oneOf(organizationSchema);
  if (rest[0] === 'connections') return rest.length === 1 ? listOf(connectionSchema) : oneOf(connectionSchema);
  if (method !== 'GET') return taskReferenceSchema;
  const [list, single] = entitySchemas[rest[2] ?? ''] ?? [];
  if (list === undefined || single === undefined) throw new Error(`no schema for ${url}`);
  return rest.length === 3 ? listOf(list) : oneOf(single);
}

/** @throws what is wrong with an answer, whatever it is about */
export function checkAnswer(method: string, url: string, answer: Answer): void {
  expect(answer.headers['content-type'], url).toBe('application/json; charset=utf-8');
  expect([200, 400, 403, 404, 405, 500], `${method} ${url}: ${answer.text}`).toContain(answer.status);
  if (method === 'HEAD') return;
  expect(answer.text, 'a null crashes a client').not.toMatch(/:null|\[null|,null/);
  const [, errors] = Errors(schemaOf(method, url, answer.status), answer.json);
  expect(errors, `${method} ${url} ${answer.status}: ${answer.text}`).toEqual([]);
  if (answer.status !== 200) expect(answer.json).not.toHaveProperty('taskId');
}

// biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
type Json = any;

export class CloudmcClient {
  readonly #rig: DialectRig;
  readonly #key: string;
  readonly environment: string;

  constructor(rig: DialectRig, key: string = rig.admin.token, environment = 'default') {
    this.#rig = rig;
    this.#key = key;
    this.environment = environment;
  }

  /** A path below the base, or, with a slash, the whole. */
  async send(method: string, path: string, body?: Call['body'], headers: Record<string, string> = {}): Promise<Answer> {
    const url = path.startsWith('/') ? path : `/api/v2/${path}`;
    const answer = await this.#rig.send('cloudmc', {
      method,
      path: url,
      headers: { 'mc-api-key': this.#key, ...headers },
      ...(body === undefined ? {} : { body }),
    });
    checkAnswer(method, url, answer);
    return answer;
  }

  path(entity: string): string {
    return `services/compute/${this.environment}/${entity}`;
  }

  /** Of an entity: `snapshots`, `volumes/ID?operation=resize`. */
  on(method: string, entity: string, body?: Call['body']): Promise<Answer> {
    return this.send(method, this.path(entity), body);
  }

  /** The `data` of a list or of one object. */
  async get(entity: string): Promise<Json> {
    const answer = await this.on('GET', entity);
    expect(answer.status, answer.text).toBe(200);
    return answer.json.data;
  }

  /** A change, polled until its task has ended. @returns the task */
  async change(method: string, entity: string, body?: Call['body']): Promise<Json> {
    const answer = await this.on(method, entity, body);
    expect(answer.status, answer.text).toBe(200);
    return this.ended(answer.json.taskId);
  }

  /** Like `change`, of a task that succeeds. @returns its result */
  async done(method: string, entity: string, body?: Call['body']): Promise<Json> {
    const task = await this.change(method, entity, body);
    expect(task.status, JSON.stringify(task)).toBe('SUCCESS');
    return task.result;
  }

  async ended(taskId: string): Promise<Json> {
    const read = async (): Promise<Json> => (await this.send('GET', `tasks/${taskId}`)).json.data;
    await expect.poll(async () => (await read()).status, { interval: 20 }).not.toBe('PENDING');
    return read();
  }

  /** A refusal: its status and its only error. */
  async refused(method: string, entity: string, body?: Call['body']): Promise<{ status: number; error: Json }> {
    const { status, json } = await this.on(method, entity, body);
    return { status, error: json.errors?.[0] };
  }
}

/** A drive behind whose task everything waits: it is being flattened, and stopped in that. */
export async function holdDrive(rig: DialectRig, name: string) {
  const source = await rig.drive(`${name}-source`, 64 * MiB);
  await rig.write(source.id, 0, Buffer.alloc(48 * MiB, 7));
  const snapshot = await rig.snapshot({ driveIds: [source.id] });
  const { drive } = await rig.native('POST', `/snapshots/${snapshot.id}/clone`, { name: name });
  const own = await rig.snapshot({ driveIds: [drive.id] });
  const begun = await rig.send('native', {
    method: 'POST',
    path: `/v1/drives/${drive.id}/flatten`,
    headers: { authorization: `Bearer ${rig.admin.token}` },
  });
  const taskId = begun.json.task?.id ?? begun.json.id;
  await rig.native('POST', `/tasks/${taskId}/pause`);
  return {
    driveId: String(drive.id),
    /** Of a snapshot of it, taken before. */
    snapshotId: own.parts[0]?.id ?? '',
    release: () => rig.native('POST', `/tasks/${taskId}/resume`),
    async [Symbol.asyncDispose]() {
      await rig.native('POST', `/tasks/${taskId}/cancel`).catch(() => undefined);
      await rig.settled();
    },
  };
}
