/** Speaks to the dialect as its clients do, and holds every answer to the schemas: nothing leaves in a shape that is not one of them. */
import { createHash } from 'node:crypto';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import type { TSchema } from 'typebox';
import Schema from 'typebox/schema';
import { expect } from 'vitest';
import { type Answer, basic, type Call, type DialectRig, type Person } from '../../../../test/support/dialect-rig.ts';
import { jsonDrivers, jsonInstanceStates, jsonSchemas, repeatedElements, xmlSchemas } from '../schemas.ts';

export const form = { 'content-type': 'application/x-www-form-urlencoded' };

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  ignoreDeclaration: true,
  parseTagValue: false,
  parseAttributeValue: false,
  jPath: true,
  isArray: (_name, path) =>
    repeatedElements.some((known) => String(path) === known || String(path).endsWith(`.${known}`)),
});

/** What is in the only root. */
// biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
export function parseXml(text: string): { root: string; value: any; whole: unknown } {
  expect(XMLValidator.validate(text), text).toBe(true);
  const whole: Record<string, unknown> = parser.parse(text);
  const [root = '', ...others] = Object.keys(whole);
  expect(others).toEqual([]);
  return { root, value: whole[root], whole };
}

const compiled = new Map<TSchema, (value: unknown) => readonly string[]>();

function violations(schema: TSchema, value: unknown): readonly string[] {
  const known = compiled.get(schema);
  if (known !== undefined) return known(value);
  const validator = Schema.Compile(schema);
  const check = (given: unknown): readonly string[] =>
    validator.Check(given) ? [] : validator.Errors(given)[1].map((error) => `${error.instancePath} ${error.message}`);
  compiled.set(schema, check);
  return check(value);
}

function assertMeets(schema: TSchema | undefined, value: unknown, text: string): void {
  if (schema === undefined) throw new Error(`no schema for ${text}`);
  expect(violations(schema, value), text).toEqual([]);
}

function assertXml(text: string): void {
  const { root, whole } = parseXml(text);
  assertMeets(xmlSchemas[root], whole, text);
  const isBare = ['api', 'driver', 'drivers', 'states', 'error'].includes(root);
  expect(text.startsWith("<?xml version='1.0' encoding='utf-8' ?>\n")).toBe(!isBare);
}

function assertJson(text: string): void {
  const value: unknown = JSON.parse(text);
  if (Array.isArray(value)) {
    assertMeets(jsonInstanceStates, value, text);
    return;
  }
  const keys = Object.keys(Object(value));
  const known = jsonSchemas[keys.includes('error') ? 'error' : (keys[0] ?? '')];
  assertMeets(keys.length === 1 || keys.includes('error') ? known : jsonDrivers, value, text);
}

/** Headers, type and body belong together in one of the few ways there are. */
export function assertShape(answer: Answer, method = 'GET'): void {
  const { status, headers, text } = answer;
  const type = headers['content-type'];
  if (status === 406) {
    expect([text, type]).toEqual(['', undefined]);
    return;
  }
  expect(headers.server).toBe('Apache-Deltacloud/1.1.3');
  if (method === 'HEAD') return;
  const isTagged = (status === 200 || status === 201) && text !== '' && type !== undefined;
  if (isTagged && headers.etag !== undefined) expect(headers.etag).toBe(createHash('md5').update(text).digest('hex'));
  switch (type) {
    case 'application/xml':
      assertXml(text);
      break;
    case 'application/json':
      assertJson(text);
      break;
    case 'text/html':
      expect(text === '<h1>Not Found</h1>' || text.startsWith('<!DOCTYPE html>\n<html lang="en">'), text).toBe(true);
      expect(headers['content-security-policy']).toContain("default-src 'none'");
      break;
    case 'text/html;charset=utf-8':
      expect([400, 401]).toContain(status);
      expect(text).toMatch(/^(Required parameter '|Authentication failed$|Bad Request$)/);
      break;
    default:
      expect([type, text]).toEqual([undefined, '']);
  }
}

export class DeltacloudClient {
  readonly #rig: DialectRig;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(rig: DialectRig, person: Pick<Person, 'name' | 'password'> | null = rig.admin) {
    this.#rig = rig;
    this.#headers = person === null ? {} : basic(person);
  }

  /** As it is given, with credentials; the answer has one of the shapes. */
  async send(call: Call): Promise<Answer> {
    const answer = await this.#rig.send('deltacloud', { ...call, headers: { ...this.#headers, ...call.headers } });
    assertShape(answer, call.method);
    return answer;
  }

  get(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    return this.send({ path, headers });
  }

  post(path: string, fields: Readonly<Record<string, string>> = {}, headers: Readonly<Record<string, string>> = {}) {
    const body = new URLSearchParams(fields).toString();
    return this.send({ method: 'POST', path, headers: { ...form, ...headers }, body });
  }

  delete(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    return this.send({ method: 'DELETE', path, headers });
  }

  /** The object in a JSON document. @throws for any other answer than the one expected */
  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
  async json(path: string, status = 200): Promise<any> {
    const answer = await this.get(path, { accept: 'application/json' });
    expect(answer.status, answer.text).toBe(status);
    return answer.json;
  }

  /** What is in the root of an XML document. */
  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
  async xml(path: string, status = 200): Promise<any> {
    const answer = await this.get(path, { accept: 'application/xml' });
    expect(answer.status, answer.text).toBe(status);
    return parseXml(answer.text).value;
  }

  async volume(fields: Readonly<Record<string, string>> = {}): Promise<string> {
    const answer = await this.post('/api/storage_volumes?format=json', { capacity: '0.01', ...fields });
    expect(answer.status, answer.text).toBe(201);
    return answer.json.storage_volume.id;
  }

  async snapshot(volumeId: string, fields: Readonly<Record<string, string>> = {}): Promise<string> {
    const answer = await this.post('/api/storage_snapshots?format=json', { volume_id: volumeId, ...fields });
    expect(answer.status, answer.text).toBe(201);
    return answer.json.storage_snapshot.id;
  }
}
