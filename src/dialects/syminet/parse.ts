/** From the wire to the model: credentials, numbers in paths, paging, bodies. Nothing here looks anything up. */
import { CalotypeError } from '../../core/errors.ts';
import { readJson } from '../../core/json.ts';
import { readAuthorization } from '../credentials.ts';

/** The page size is not published and cannot be chosen. */
export const pageSize = 25;
/** What is beyond is as empty as this one. */
const lastPage = 2 ** 31;

/**
 * The token of an `Authorization: Bearer` header; the scheme in any case, blanks around it as HTTP allows.
 * @throws unauthenticated
 */
export function readToken(authorization: string | undefined): string {
  if (authorization === undefined) {
    throw new CalotypeError('unauthenticated', 'Send your API token: authorization:bearer TOKEN');
  }
  const credentials = readAuthorization(authorization);
  if (credentials.scheme === 'bearer') return credentials.token;
  throw new CalotypeError('unauthenticated', 'Only API tokens are taken: authorization:bearer TOKEN');
}

/** The number of an object as a path gives it; undefined for what cannot be one. */
export function readNumber(text: string): number | undefined {
  return /^[1-9]\d{0,14}$/.test(text) ? Number(text) : undefined;
}

export interface Paging {
  /** From 1. */
  readonly page: number;
  readonly offset: number;
  /** Part of the name, not empty; undefined for all. */
  readonly query: string | undefined;
}

/** `page` and `query` of a query string. A page that is no positive integer is the first. */
export function readPaging(query: unknown): Paging {
  const given = textOf(query, 'page');
  const page = /^\d+$/.test(given) ? Math.min(Math.max(Number(given), 1), lastPage) : 1;
  const part = textOf(query, 'query');
  return { page, offset: (page - 1) * pageSize, query: part === '' ? undefined : part };
}

/** A parameter that is given twice counts as given first. */
function textOf(query: unknown, key: string): string {
  if (typeof query !== 'object' || query === null) return '';
  const value: unknown = Object.getOwnPropertyDescriptor(query, key)?.value;
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === 'string' ? first : '';
}

/** The property `snapshot_name` of a create or rename. @throws invalid_request */
export function readSnapshotName(body: Buffer): string {
  return requiredText(readObject(body), 'snapshot_name');
}

export interface UserChange {
  readonly username: string;
  readonly admin: boolean | undefined;
}

/** @throws invalid_request */
export function readUserChange(body: Buffer): UserChange {
  const given = readObject(body);
  const { admin } = given;
  if (admin !== undefined && typeof admin !== 'boolean') refuse('admin', 'The property admin must be true or false.');
  return { username: requiredText(given, 'username'), admin };
}

/** The property `os_name` of a rebuild; a password may come with it. @throws invalid_request */
export function readOsName(body: Buffer): string {
  const given = readObject(body);
  if (given.password !== undefined && typeof given.password !== 'string') {
    refuse('password', 'The property password must be text.');
  }
  return requiredText(given, 'os_name');
}

/** Whatever content type it was sent as: curl sends JSON as a form unless it is told otherwise. */
function readObject(body: Buffer): Readonly<Record<string, unknown>> {
  const value = readJson(body) ?? {};
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CalotypeError('invalid_request', 'The body must be a JSON object.');
  }
  return Object.fromEntries(Object.entries(value));
}

function requiredText(given: Readonly<Record<string, unknown>>, key: string): string {
  const value = Object.hasOwn(given, key) ? given[key] : undefined;
  if (value === undefined || value === null) return refuse(key, `The property ${key} is missing.`);
  if (typeof value !== 'string') return refuse(key, `The property ${key} must be text.`);
  if (value.trim() === '') refuse(key, `The property ${key} must not be blank.`);
  return value;
}

function refuse(field: string, message: string): never {
  throw new CalotypeError('invalid_request', message, { field });
}

/** One slash between the parts of a path, and none at its end: base addresses are put together by hand. */
export function tidyUrl(url: string): string {
  const mark = url.indexOf('?');
  const path = mark === -1 ? url : url.slice(0, mark);
  if (!path.endsWith('/') && !path.includes('//')) return url;
  const tidy = path.replace(/\/{2,}/g, '/').replace(/(?<=.)\/$/, '');
  return mark === -1 ? tidy : tidy + url.slice(mark);
}
