/** Reads what CloudMC clients send: paths as they spell them, bodies with fields we do not know, lists with paging and sorting. */
import type { FastifyRequest } from 'fastify';
import { CalotypeError, notFound } from '../../core/errors.ts';
import { isUuid } from '../../core/ids.ts';
import { readJson } from '../../core/json.ts';
import { bodyOf } from '../dialect.ts';

/** What the other spellings of the base are served as. */
export const basePath = '/api/v2';

const aliases = ['/api/v1', '/v1'];
const slashes = /\/{2,}/g;

/**
 * The path as the routes have it: one slash between parts and none at the end, the base in its newest spelling. The
 * clients double slashes and end addresses in a bare question mark; none of them follows a redirect with its body.
 */
export function rewriteUrl(url: string): string {
  const mark = url.indexOf('?');
  let path = mark === -1 ? url : url.slice(0, mark);
  if (path.includes('//')) path = path.replace(slashes, '/');
  if (path.length > 1 && path.endsWith('/')) path = path.slice(0, -1);
  for (const alias of aliases) {
    if (path.startsWith(alias) && (path.length === alias.length || path[alias.length] === '/')) {
      path = basePath + path.slice(alias.length);
      break;
    }
  }
  return mark === -1 || mark === url.length - 1 ? path : path + url.slice(mark);
}

function invalid(field: string, message: string): CalotypeError {
  return new CalotypeError('invalid_request', message, { field });
}

/** A branded id of what a request names. @throws not_found, as for one that is missing */
export function idOf<T extends string>(kind: string, text: string): T {
  if (!isUuid(text)) throw notFound(kind, text);
  return text as T;
}

/** One value of the query string, the first if there are several; undefined for an empty one. */
export function queryText(request: FastifyRequest, name: string): string | undefined {
  const { query } = request;
  if (typeof query !== 'object' || query === null) return undefined;
  const value: unknown = Object.getOwnPropertyDescriptor(query, name)?.value;
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === 'string' && first !== '' ? first : undefined;
}

export function operationOf(request: FastifyRequest): string | undefined {
  return queryText(request, 'operation');
}

/** The object that a body is; fields that nobody asks for are ignored, and null stands for a field left out. */
export class Fields {
  readonly #values: object;

  constructor(values: object) {
    this.#values = values;
  }

  #get(name: string): unknown {
    return Object.getOwnPropertyDescriptor(this.#values, name)?.value ?? undefined;
  }

  /** @throws invalid_request */
  text(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'string') return value;
    throw invalid(name, `The field ${name} must be text.`);
  }

  /** @throws invalid_request when it is missing, too */
  requiredText(name: string): string {
    const value = this.text(name);
    if (value === undefined || value === '') throw invalid(name, `The field ${name} is missing.`);
    return value;
  }

  /** @throws invalid_request */
  flag(name: string): boolean | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'boolean') return value;
    throw invalid(name, `The field ${name} must be true or false.`);
  }

  /** A whole number of at least zero; typed clients send zero for a field that they leave out. @throws invalid_request */
  integer(name: string): number | undefined {
    const value = this.#get(name);
    if (value === undefined || value === 0) return undefined;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value;
    throw invalid(name, `The field ${name} must be a whole number above zero.`);
  }

  /** @throws invalid_request */
  texts(name: string): readonly string[] {
    const value = this.#get(name);
    if (value === undefined) return [];
    if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
    throw invalid(name, `The field ${name} must be a list of texts.`);
  }

  /** What is nested under a name; empty when there is nothing. @throws invalid_request */
  nested(name: string): Fields {
    const value = this.#get(name) ?? {};
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw invalid(name, `The field ${name} must be an object.`);
    }
    return new Fields(value);
  }
}

/** @throws invalid_request, json_too_deep for what is no JSON object; nothing at all is an empty one */
export function readBody(request: FastifyRequest): Fields {
  const value = readJson(bodyOf(request)) ?? {};
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return new Fields(value);
  throw new CalotypeError('invalid_request', 'The body must be a JSON object.');
}

/** Which part of a list is asked for, and in which order. */
export interface ListRequest<Field extends string> {
  /** Null: everything, as no client that is known pages. */
  readonly page: { readonly size: number; readonly number: number } | null;
  readonly sort: { readonly name: string; readonly by: Field; readonly order: 'asc' | 'desc' } | null;
}

const defaultPageSize = 100;
const maxPageSize = 10_000;
const maxPageNumber = 1_000_000;

function pageNumberOf(request: FastifyRequest, name: string, max: number): number | undefined {
  const text = queryText(request, name);
  if (text === undefined) return undefined;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= max) return value;
  throw invalid(name, `The parameter ${name} must be a whole number from 1 to ${max}.`);
}

/**
 * `page_number` (from 1), `page_size`, `sort_by` and `sort_order` (ASC, DESC).
 * @param sortable what may be sorted by: the name that is shown, and the field that it is
 * @throws invalid_request
 */
export function readListRequest<Field extends string>(
  request: FastifyRequest,
  sortable: Readonly<Record<string, Field>>,
): ListRequest<Field> {
  const size = pageNumberOf(request, 'page_size', maxPageSize);
  const number = pageNumberOf(request, 'page_number', maxPageNumber);
  const name = queryText(request, 'sort_by');
  const order = queryText(request, 'sort_order')?.toUpperCase() ?? 'ASC';
  if (order !== 'ASC' && order !== 'DESC') throw invalid('sort_order', 'The parameter sort_order is ASC or DESC.');
  const by = name !== undefined && Object.hasOwn(sortable, name) ? sortable[name] : undefined;
  if (name !== undefined && by === undefined) {
    throw invalid('sort_by', `The parameter sort_by is one of ${Object.keys(sortable).join(', ')}.`);
  }
  return {
    page: size === undefined && number === undefined ? null : { size: size ?? defaultPageSize, number: number ?? 1 },
    sort: name === undefined || by === undefined ? null : { name, by, order: order === 'ASC' ? 'asc' : 'desc' },
  };
}
