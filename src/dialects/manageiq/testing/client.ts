/** A client for tests: every answer is held against the headers and the schema that it must have. */
import type { TSchema } from 'typebox';
import { Compile, type Validator } from 'typebox/schema';
import { expect } from 'vitest';
import { type Answer, basic, DialectRig, type Person } from '../../../../test/support/dialect-rig.ts';
import {
  actionResultSchema,
  entrySchema,
  errorSchema,
  foundSchema,
  listSchema,
  optionsSchema,
  productSchema,
  resourceSchema,
  resultsSchema,
  tokenSchema,
} from '../schemas.ts';

const compiled = new Map<string, Validator>();

function hold(key: string, schema: () => TSchema, answer: Answer, what: string): void {
  const validator = compiled.get(key) ?? Compile(schema());
  compiled.set(key, validator);
  const [isValid, errors] = validator.Errors(answer.json);
  expect(isValid ? [] : errors, `${what}: ${answer.text.slice(0, 600)}`).toEqual([]);
}

const collections = ['vms', 'instances', 'tasks', 'snapshots', 'cloud_volumes', 'cloud_volume_snapshots'];

/** What an answer must be, beside its schema. */
function check(method: string, path: string, body: unknown, answer: Answer): void {
  const what = `${method} ${path} -> ${answer.status}`;
  expect(answer.headers, what).toMatchObject({
    'access-control-allow-origin': '*',
    'access-control-allow-headers': 'origin, content-type, authorization, x-auth-token',
    'access-control-allow-methods': 'GET, POST, PUT, DELETE, PATCH, OPTIONS',
  });
  expect(answer.headers['www-authenticate'], what).toBeUndefined();
  if (answer.text === '') {
    expect(method === 'HEAD' || answer.status === 204 || method === 'OPTIONS', what).toBe(true);
    return;
  }
  if (path === '/api/ping') return;
  expect(answer.headers['content-type'], what).toBe('application/json; charset=utf-8');
  const [key, schema] = schemaOf(method, path, body, answer);
  hold(key, schema, answer, what);
}

/** Which schema an answer must meet, by a name that is its own. */
function schemaOf(method: string, path: string, body: unknown, { status, json }: Answer): [string, () => TSchema] {
  const [address = '', query = ''] = path.split('?');
  const segments = address.split('/').filter((part) => part !== '' && part !== 'api' && !/^v\d/.test(part));
  const collection = segments.findLast((segment) => collections.includes(segment)) ?? '';
  const chosen = /(^|&)attributes=[^&]/.test(query);
  const isAction = json.success !== undefined || (json.results !== undefined && method === 'POST');
  if (status >= 400 && !isAction) return ['error', () => errorSchema];
  if (method === 'OPTIONS') return ['options', () => optionsSchema];
  if (segments.length === 0) return ['entry', () => entrySchema];
  if (address.endsWith('/auth')) return ['token', () => tokenSchema];
  if (address.endsWith('/product_info')) return ['product', () => productSchema];
  const key = `${collection}${chosen ? '?' : ''}`;
  if (method === 'POST') {
    const isQuery = typeof body === 'object' && body !== null && Reflect.get(body, 'action') === 'query';
    if (isQuery) return [`found ${key}`, () => foundSchema(collection, chosen)];
    return json.results === undefined ? ['result', () => actionResultSchema] : ['results', () => resultsSchema];
  }
  if (segments.at(-1) === collection) return [`list ${key}`, () => listSchema(collection, chosen)];
  return [`one ${key}`, () => resourceSchema(collection, chosen)];
}

export class TestClient implements AsyncDisposable {
  readonly rig: DialectRig;
  readonly #headers: Readonly<Record<string, string>>;

  private constructor(rig: DialectRig, headers: Readonly<Record<string, string>>) {
    this.rig = rig;
    this.#headers = headers;
  }

  static async start(): Promise<TestClient> {
    const rig = await DialectRig.start();
    return new TestClient(rig, basic(rig.admin));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.rig[Symbol.asyncDispose]();
  }

  as(person: Pick<Person, 'name' | 'password'>, headers: Readonly<Record<string, string>> = {}): TestClient {
    return new TestClient(this.rig, { ...basic(person), ...headers });
  }

  with(headers: Readonly<Record<string, string>>): TestClient {
    return new TestClient(this.rig, headers);
  }

  get root(): string {
    return `${this.rig.origin('manageiq')}/api`;
  }

  async send(
    method: string,
    path: string,
    body?: string | Buffer | object,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const answer = await this.rig.send('manageiq', {
      method,
      path,
      headers: { ...this.#headers, ...headers },
      ...(body === undefined ? {} : { body }),
    });
    check(method, path, body, answer);
    return answer;
  }

  get(path: string, headers?: Readonly<Record<string, string>>): Promise<Answer> {
    return this.send('GET', path, undefined, headers);
  }

  post(path: string, body: string | Buffer | object): Promise<Answer> {
    return this.send('POST', path, body);
  }

  /** A task at its end. */
  async finished(taskId: string): Promise<{ status: string; message: string; name: string; state: string }> {
    await this.rig.settled();
    const { json } = await this.get(`/api/tasks/${taskId}`);
    expect(json.state).toBe('Finished');
    return json;
  }

  /** What is asked for is done. */
  async done(path: string, body: object): Promise<void> {
    const { json, text } = await this.post(path, body);
    const results: { success: boolean; task_id: string }[] = json.results ?? [json];
    for (const { success, task_id: taskId } of results) {
      expect(success, text).toBe(true);
      expect(await this.finished(taskId)).toMatchObject({ status: 'Ok' });
    }
  }

  /** Names in a list. */
  async names(path: string): Promise<string[]> {
    const { json, status, text } = await this.get(path);
    expect(status, text).toBe(200);
    return json.resources.map((resource: { name: string }) => resource.name);
  }

  /** A drive in a machine that is off. */
  async machine(name: string, kind: 'vm' | 'instance' = 'vm') {
    const drive = await this.rig.drive(`${name}-disk`);
    const machine = await this.rig.machine(name, [drive.id], { kind });
    return { ...machine, drive };
  }
}

/** The message of an error, with its status. */
export function told(answer: Answer): [number, string] {
  const { json, status } = answer;
  return [status, json.error?.message ?? json.message ?? json.results?.[0]?.message];
}
