/** A client for tests: sends as clients do, and holds every answer against the schemas. */
import type { TSchema } from 'typebox';
import { Check, Errors } from 'typebox/schema';
import { expect } from 'vitest';
import { type Answer, basic, type DialectRig, type Person } from '../../../../test/support/dialect-rig.ts';
import * as schemas from '../schemas.ts';

const { listOf, madeOf } = schemas;

/** By method, address without what varies in it, and action; the first that fits. */
const forms: readonly (readonly [pattern: RegExp, schema: TSchema])[] = [
  [/^GET \/(snapshots|drives|jobs|tags|capabilities)\/schema$/, schemas.schemaPage],
  [/^GET \/snapshots(\/detail)?$/, listOf(schemas.snapshot)],
  [/^(GET|PUT) \/snapshots\/[^/]+$/, schemas.snapshot],
  [/^POST \/snapshots$/, madeOf(schemas.snapshot)],
  [/^POST \/snapshots\/[^/]+\/action$/, schemas.clonedDrive],
  [/^GET \/drives$/, listOf(schemas.shortDrive)],
  [/^GET \/drives\/detail$/, listOf(schemas.drive)],
  [/^GET \/(drives|servers)\/availability_groups(\/[^/]+)?$/, schemas.groups],
  [/^(GET|PUT) \/drives\/[^/]+$/, schemas.drive],
  [/^POST \/drives$/, madeOf(schemas.drive)],
  [/^POST \/(drives|libdrives)\/[^/]+\/action$/, madeOf(schemas.drive)],
  [/^GET \/servers$/, listOf(schemas.shortServer)],
  [/^GET \/servers\/detail$/, listOf(schemas.server)],
  [/^(GET|PUT) \/servers\/[^/]+$/, schemas.server],
  [/^POST \/servers$/, madeOf(schemas.server)],
  [/^POST \/servers\/[^/]+\/action$/, schemas.action],
  [/^GET \/libdrives(\/detail)?$/, listOf(schemas.libraryDrive)],
  [/^GET \/libdrives\/[^/]+$/, schemas.libraryDrive],
  [/^GET \/jobs(\/detail)?$/, listOf(schemas.job)],
  [/^GET \/jobs\/[^/]+$/, schemas.job],
  [/^GET \/tags(\/detail)?$/, listOf(schemas.tag)],
  [/^(GET|PUT) \/tags\/[^/]+$/, schemas.tag],
  [/^POST \/tags$/, madeOf(schemas.tag)],
  [/^GET \/tags\/[^/]+\/[^/]+$/, listOf(schemas.tagged)],
  [/^GET \/tags\/[^/]+\/[^/]+\/detail$/, listOf(schemas.drive, schemas.server, schemas.snapshot)],
  [/^GET \/capabilities$/, schemas.capabilities],
  [/^(GET|PUT) \/profile$/, schemas.profile],
  [/^POST \/accounts\/action$/, schemas.nothing],
  [/^GET \/(remotesnapshots|backupschedulers)(\/detail)?$/, listOf()],
];

export interface Sent {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer | object;
}

export class Client {
  readonly #rig: DialectRig;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(rig: DialectRig, person: Pick<Person, 'name' | 'password'> | null) {
    this.#rig = rig;
    this.#headers = person === null ? {} : basic(person);
  }

  /** `path` comes after `/api/2.0`, as it is sent. */
  async send(path: string, { method = 'GET', headers = {}, body }: Sent = {}): Promise<Answer> {
    const sent = { method, path: `/api/2.0${path}`, headers: { ...this.#headers, ...headers } };
    const answer = await this.#rig.send('cloudsigma', { ...sent, ...(body === undefined ? {} : { body }) });
    checkAnswer(method, path, answer);
    return answer;
  }

  get = (path: string): Promise<Answer> => this.send(path);
  post = (path: string, body?: object | string): Promise<Answer> =>
    this.send(path, { method: 'POST', ...bodyOf(body) });
  put = (path: string, body?: object | string): Promise<Answer> => this.send(path, { method: 'PUT', ...bodyOf(body) });
  delete = (path: string, body?: object | string): Promise<Answer> =>
    this.send(path, { method: 'DELETE', ...bodyOf(body) });

  /** A drive that is ready. */
  async drive(name: string, more: object = {}) {
    const answer = await this.post('/drives/', { name, size: 536870912, media: 'disk', ...more });
    expect(answer.status).toBe(201);
    await this.#rig.settled();
    return (await this.get(`/drives/${answer.json.objects[0].uuid}/`)).json;
  }

  /** A snapshot that is available. */
  async snapshot(drive: string, more: object = {}) {
    const answer = await this.post('/snapshots/', { drive, ...more });
    expect(answer.status).toBe(201);
    await this.#rig.settled();
    return (await this.get(`/snapshots/${answer.json.objects[0].uuid}/`)).json;
  }
}

const bodyOf = (body: object | string | undefined) => (body === undefined ? {} : { body });

/** What holds for every answer. */
export function checkAnswer(method: string, path: string, answer: Answer): void {
  const { status, headers, text, reason } = answer;
  expect(headers['x-request-id'], 'X-REQUEST-ID').toMatch(/^[\x21-\x7e]+$/);
  expect(reason).toBe(reason.toUpperCase());
  if (method === 'HEAD') return;
  if (status === 204 || (method === 'OPTIONS' && status === 200)) {
    expect(headers['content-type']).toBe('text/html; charset=utf-8');
    return;
  }
  expect(headers['content-type']).toBe('application/json; charset=utf-8');
  const schema = status >= 400 ? schemas.errors : formOf(method, path);
  const value: unknown = JSON.parse(text);
  if (Check(schema, value)) return;
  const [, wrong] = Errors(schema, value);
  expect.fail(`${method} ${path}: ${status} ${text.slice(0, 2000)}\n${JSON.stringify(wrong.slice(0, 5))}`);
}

function formOf(method: string, path: string): TSchema {
  const [address = '', query = ''] = path.split('?');
  if (address.startsWith('/accounts') && query.includes('do=login')) return schemas.login;
  // A selection has the keys that were asked for.
  if (method === 'GET' && query.includes('fields=')) return listOf(schemas.selected);
  const tidy = `${method} ${address.replace(/\/+/g, '/').replace(/(.)\/$/, '$1')}`;
  const form = forms.find(([pattern]) => pattern.test(tidy));
  if (form === undefined) throw new Error(`no schema for ${tidy}`);
  return form[1];
}
