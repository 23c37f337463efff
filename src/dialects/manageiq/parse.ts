/** Reads what requests say: addresses, query strings, bodies, references to resources. Limits are the sheet's. */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import { readJson } from '../../core/json.ts';
import { bodyOf, rawQueryOf } from '../dialect.ts';
import { refuse } from './errors.ts';

export const apiVersion = '4.4.0-pre';
export const maxLimit = 1000;

const versionSegment = /^\/api\/v(\d+(?:\.\w+)*(?:-\w+)?)(?=\/|$)/;

/** Slashes squeezed, none at the end, no version. */
export function rewriteUrl(url: string): string {
  const mark = url.indexOf('?');
  const path = mark === -1 ? url : url.slice(0, mark);
  const squeezed = squeeze(path);
  const plain = squeezed.startsWith('/api/v') ? squeezed.replace(versionSegment, '/api') : squeezed;
  if (plain === path) return url;
  return mark === -1 ? plain : plain + url.slice(mark);
}

function squeeze(path: string): string {
  if (!path.includes('//') && (path.length === 1 || !path.endsWith('/'))) return path;
  const squeezed = path.replace(/\/{2,}/g, '/');
  return squeezed.length > 1 && squeezed.endsWith('/') ? squeezed.slice(0, -1) : squeezed;
}

/** The address as it was asked for, below scheme and host, with single slashes. */
export function addressOf({ originalUrl }: FastifyRequest): string {
  const [path = '', ...query] = originalUrl.split('?');
  return path.includes('//') ? [path.replace(/\/{2,}/g, '/'), ...query].join('?') : originalUrl;
}

/** The version that the address names; null without. */
export function versionOf(request: FastifyRequest): string | null {
  const { originalUrl } = request;
  if (originalUrl === request.url) return null;
  const [path = ''] = originalUrl.split('?', 1);
  return versionSegment.exec(squeeze(path))?.[1] ?? null;
}

export interface Params {
  readonly attributes: readonly string[];
  readonly expand: readonly string[];
  readonly hide: readonly string[];
  readonly filters: readonly string[];
  readonly sortBy: readonly string[];
  readonly sortOrder: readonly string[];
  readonly sortOptions: readonly string[];
  readonly byTag: readonly string[];
  /** As written; checked where lists are paged. */
  readonly offset: string;
  readonly limit: string;
  readonly collectionClass: string;
  readonly requesterType: string;
}

const noParams: Params = {
  attributes: [],
  expand: [],
  hide: [],
  filters: [],
  sortBy: [],
  sortOrder: [],
  sortOptions: [],
  byTag: [],
  offset: '',
  limit: '',
  collectionClass: '',
  requesterType: '',
};

const filterKey = /^filter(\[\d*\])?$/;

/** @throws invalid_request for text that is no UTF-8, or holds what no text of ours can */
export function readParams(request: FastifyRequest): Params {
  const query = rawQueryOf(request);
  return query === '' ? noParams : parseParams(query);
}

export function parseParams(query: string): Params {
  const filters: string[] = [];
  const single = new Map<string, string>();
  for (const pair of query.split('&')) {
    const sign = pair.indexOf('=');
    const key = decode(sign === -1 ? pair : pair.slice(0, sign));
    const value = sign === -1 ? '' : decode(pair.slice(sign + 1));
    if (!filterKey.test(key)) single.set(key, value);
    else if (value.trim() !== '') filters.push(value);
  }
  const text = (key: string): string => single.get(key) ?? '';
  const list = (key: string): string[] =>
    text(key)
      .split(',')
      .filter((part) => part !== '');
  return {
    attributes: [...new Set(list('attributes'))],
    expand: list('expand'),
    hide: list('hide'),
    filters,
    sortBy: list('sort_by'),
    // Pairs go by place, so that what is empty counts.
    sortOrder: text('sort_order').split(','),
    sortOptions: list('sort_options'),
    byTag: list('by_tag'),
    offset: text('offset'),
    limit: text('limit'),
    collectionClass: text('collection_class'),
    requesterType: text('requester_type'),
  };
}

function decode(text: string): string {
  if (!/[%+]/.test(text)) return text;
  let decoded: string;
  try {
    decoded = decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw refuse('Invalid query parameters: invalid %-encoding');
  }
  if (decoded.includes('\0')) throw refuse('Invalid query parameters: null bytes');
  return decoded;
}

export interface PageParams {
  readonly offset: number;
  readonly limit: number;
}

/** @throws invalid_request */
export function pageOf({ offset, limit }: Pick<Params, 'offset' | 'limit'>): PageParams {
  const page = { offset: wholeOf('offset', offset, 0), limit: Math.min(wholeOf('limit', limit, maxLimit), maxLimit) };
  if (page.limit === 0) throw refuse('Limit must be greater than zero if offset is specified');
  return page;
}

function wholeOf(name: 'offset' | 'limit', text: string, absent: number): number {
  if (text === '') return absent;
  if (!/^\d+$/.test(text)) throw refuse(`Non numeric parameter: ${name}`);
  return Math.min(Number(text), Number.MAX_SAFE_INTEGER);
}

/** A number from an address; one that is too large for any object stays too large. @throws invalid_request */
export function readId(text: string | undefined, klass: string): number {
  if (text === undefined || !/^\d+$/.test(text)) throw refuse(`Invalid ${klass} id ${text ?? ''} specified`);
  return Number(text);
}

export type Body = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is Body {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An empty body and `null` are `{}`; the content type does not count. @throws invalid_request */
export function readBody(request: FastifyRequest): Body {
  const body = bodyOf(request);
  if (body.length === 0) return {};
  let value: unknown;
  try {
    value = isBlankText(body) ? {} : (readJson(body) ?? {});
  } catch (error) {
    if (error instanceof CalotypeError) throw refuse(error.message, 'JSON::ParserError');
    throw error;
  }
  if (!isObject(value)) throw refuse('The request body must be a JSON object');
  return value;
}

function isBlankText(body: Buffer): boolean {
  return body.length < 64 && body.toString('latin1').trim() === '';
}

/** Nothing is a creation. */
export function actionOf(body: Body): string {
  const { action } = body;
  if (action === undefined || action === null || action === '') return 'create';
  return typeof action === 'string' ? action : JSON.stringify(action);
}

export interface Resources {
  readonly items: readonly unknown[];
  /** `resources` was given, even as an empty list. */
  readonly bulk: boolean;
}

/** What an action is to be done to, or with. @throws invalid_request */
export function resourcesOf(body: Body): Resources {
  if (Object.hasOwn(body, 'resources')) {
    const { resources } = body;
    if (resources !== null && !Array.isArray(resources)) throw refuse('Resources must be specified as an array');
    return { items: resources ?? [], bulk: true };
  }
  return { items: [resourceOf(body)], bulk: false };
}

/** The data of an action on one: `resource`, or all but the action. */
export function resourceOf(body: Body): unknown {
  if (Object.hasOwn(body, 'resource')) return body.resource;
  const { action: _, ...rest } = body;
  return rest;
}

/** As Ruby on Rails has it. */
export function isBlank(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true;
  if (typeof value === 'string') return value.trim() === '';
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/**
 * The number that a reference names: `href` if it ends in the collection and digits, else `id`; null without either.
 * Whatever comes before the collection does not count.
 * @throws invalid_request for an id that is no number
 */
export function referenceOf(resource: unknown, collection: string, klass: string): number | null {
  if (!isObject(resource)) return null;
  const { href, id } = resource;
  if (typeof href === 'string') {
    const [, before = '', digits] = /^(.*)\/(\d+)\/?$/s.exec(href) ?? [];
    if (digits !== undefined && before.endsWith(`/${collection}`)) return Number(digits);
  }
  if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return id;
  if (typeof id === 'string' && /^\d+$/.test(id)) return Number(id);
  if (id === undefined || id === null || id === '') return null;
  throw refuse(`Invalid ${klass} id ${typeof id === 'string' ? id : JSON.stringify(id)} specified`);
}
