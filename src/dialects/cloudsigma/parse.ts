/** What clients send: query strings, bodies in their three spellings, references to drives and tags in their many. */
import { notFound } from '../../core/errors.ts';
import { isUuid } from '../../core/ids.ts';
import { readJson } from '../../core/json.ts';
import type { Meta } from '../../core/model.ts';
import { checkMeta, checkName } from '../../core/names.ts';
import { invalidField, invalidFields, required, type Wrong } from './errors.ts';

/** Of a query string, in order; names may come more than once. */
export type Parameters = readonly (readonly [name: string, value: string])[];

const none: Parameters = [];

/** @throws invalid_request for what is not validly encoded */
export function readParameters(query: string): Parameters {
  if (query === '') return none;
  return query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const equals = pair.indexOf('=');
      return equals === -1 ? [decode(pair), ''] : [decode(pair.slice(0, equals)), decode(pair.slice(equals + 1))];
    });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw invalidField(null, 'The query string is not validly encoded.');
  }
}

/** The last one of that name. */
export function parameter(parameters: Parameters, name: string): string | undefined {
  return parameters.findLast(([known]) => known === name)?.[1];
}

export type Fields = Readonly<Record<string, unknown>>;

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The fields of a body that may be absent, empty or null. @throws invalid_request, json_too_deep */
export function readFields(body: Uint8Array): Fields {
  const value = readJson(body);
  if (value === undefined || value === null) return {};
  if (!isFields(value)) throw invalidField(null, 'The body must be an object.');
  return value;
}

/** A single field's value; null stands for absent. */
export function given(fields: Fields, name: string): unknown {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  return value === null ? undefined : value;
}

/**
 * What is to be made: `{"objects": [...]}`, a bare object, or a bare list.
 * @throws invalid_request for anything else, or nothing
 */
export function readObjects(body: Uint8Array): readonly Fields[] {
  const value = readJson(body);
  const list = Array.isArray(value) ? value : isFields(value) ? (given(value, 'objects') ?? [value]) : undefined;
  if (!Array.isArray(list) || list.length === 0 || !list.every(isFields)) {
    throw invalidField('objects', 'Send an object, or a list of objects.');
  }
  return list;
}

/** The uuids of `{"objects": [{"uuid": ...}]}`. @throws invalid_request without a usable list */
export function readUuids(body: Uint8Array): readonly string[] {
  const value = readJson(body);
  const list = isFields(value) ? given(value, 'objects') : value;
  if (!Array.isArray(list) || list.length === 0) throw invalidField('objects', required);
  const items: readonly unknown[] = list;
  return [...new Set(items.map((item) => referenceOf(item) ?? refuseUuid()))];
}

function refuseUuid(): never {
  throw invalidField('uuid', required);
}

/** The uuid in a uuid, a URI, `{"uuid"}`, `{"resource_uri"}` or both; undefined for anything else. */
export function referenceOf(value: unknown): string | undefined {
  if (typeof value === 'string') {
    const [last] = value
      .split('/')
      .filter((part) => part !== '')
      .slice(-1);
    return last;
  }
  if (!isFields(value)) return undefined;
  const uuid = given(value, 'uuid');
  if (typeof uuid === 'string') return uuid === '' ? undefined : uuid;
  const uri = given(value, 'resource_uri');
  return typeof uri === 'string' || isFields(uri) ? referenceOf(uri) : undefined;
}

/** A list of references; undefined when it is absent. */
export function readReferences(fields: Fields, name: string): readonly string[] | undefined {
  const value = given(fields, name);
  if (value === undefined) return undefined;
  if (!Array.isArray(value)) throw invalidField(name, 'A list is expected.');
  const items: readonly unknown[] = value;
  return items.map((item) => {
    const reference = referenceOf(item);
    if (reference === undefined) throw invalidField(name, 'A uuid is expected.');
    return reference;
  });
}

/** NUL ends a text, as it does upstream. */
function untilNul(text: string): string {
  const end = text.indexOf('\0');
  return end === -1 ? text : text.slice(0, end);
}

/** @throws invalid_name */
export function readName(fields: Fields): string | undefined {
  const value = given(fields, 'name');
  return value === undefined ? undefined : checkName(typeof value === 'string' ? untilNul(value) : value);
}

/** @throws invalid_meta */
export function readMeta(fields: Fields): Meta | undefined {
  const value = given(fields, 'meta');
  if (value === undefined) return undefined;
  if (!isFields(value)) return checkMeta(value);
  const texts = Object.entries(value).map(([key, text]) => [
    untilNul(key),
    typeof text === 'string' ? untilNul(text) : text,
  ]);
  return checkMeta(Object.fromEntries(texts));
}

/** A whole number, also as a decimal string; undefined when it is absent. @throws invalid_request */
export function readInteger(fields: Fields, name: string): number | undefined {
  const value = given(fields, name);
  if (value === undefined) return undefined;
  const number = typeof value === 'string' && /^\d{1,16}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < 0) {
    throw invalidField(name, 'A whole number is expected.');
  }
  return number;
}

/** @throws invalid_request */
export function readBoolean(fields: Fields, name: string): boolean | undefined {
  const value = given(fields, name);
  if (value === undefined) return undefined;
  if (typeof value !== 'boolean') throw invalidField(name, 'true or false is expected.');
  return value;
}

/** One entry per field that is absent, over all objects. @throws invalid_request */
export function requireFields(objects: readonly Fields[], names: readonly string[]): void {
  const wrong: Wrong[] = [];
  for (const object of objects) {
    for (const name of names) if (given(object, name) === undefined) wrong.push({ point: name, message: required });
  }
  if (wrong.length > 0) throw invalidFields(wrong);
}

/** `do=NAME` of an action. @throws invalid_request for one that is not among them */
export function readAction<const Name extends string>(parameters: Parameters, names: readonly Name[]): Name {
  const asked = parameter(parameters, 'do');
  const known = names.find((name) => name === asked);
  if (known !== undefined) return known;
  throw invalidField('do', asked === undefined ? required : `Unknown action. It should be one of: ${names.join(', ')}`);
}

/** The upstream answers in JSON or XML; JSON only here. A client that takes either, or anything, is served. */
export function isAcceptable(accept: string | undefined): boolean {
  if (accept === undefined || accept === '' || accept === '*/*' || accept === 'application/json') return true;
  return accept.split(',').some((range) => {
    const [type = '', ...rest] = range.split(';').map((text) => text.trim().toLowerCase());
    const taken = ['application/json', 'application/xml', 'application/*', '*/*'].includes(type);
    return taken && !rest.some((text) => /^q=0(\.0*)?$/.test(text));
  });
}

/** One slash between the parts of a path and none at the end, whatever spelling a client has; the query stays. */
export function tidyUrl(url: string): string {
  const mark = url.indexOf('?');
  const path = mark === -1 ? url : url.slice(0, mark);
  const query = mark === -1 ? '' : url.slice(mark);
  let tidy = path.includes('//') ? path.replace(/\/{2,}/g, '/') : path;
  if (tidy.length > 1 && tidy.endsWith('/')) tidy = tidy.slice(0, -1);
  return tidy + query;
}

/**
 * An id that a client named; whether it is one of such an object, the catalog says.
 * @throws not_found for what can be none
 */
export function readId<Id extends string>(kind: string, uuid: string): Id {
  if (!isUuid(uuid)) throw notFound(kind, uuid);
  return uuid as Id;
}
