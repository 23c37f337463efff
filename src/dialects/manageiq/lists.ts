/**
 * Lists: filters, order, page, counts and links, all left to the service's lists.
 * (base_controller.rb#index, links_builder.rb, query_counts.rb of ManageIQ/manageiq-api)
 */
import { type Condition, never, type Query, type QueryFields, type QueryKind } from '../../core/query.ts';
import { Kept } from '../kept.ts';
import type { Env } from './attributes.ts';
import { refuse } from './errors.ts';
import { allOf, conditionOf } from './filters.ts';
import { type PageParams, type Params, pageOf } from './parse.ts';
import { actionsAt } from './present.ts';
import { type Resource, searchIn, select, show } from './resources.ts';

const lists = new Kept<string>();

/**
 * Whether what is shown depends on nothing but rows: not on relations, which may hold what only memory knows, and not on grants
 * that are looked up one by one.
 */
export function isKept({ caller }: Env, { attributes, expand }: Params): boolean {
  return caller.role !== 'guest' && attributes.length === 0 && expand.every((name) => name === 'resources');
}

/** The answer's text. @throws invalid_request */
export async function list<K extends QueryKind, T>(
  resource: Resource<K, T>,
  env: Env,
  params: Params,
  url: string,
): Promise<string> {
  const page = pageOf(params);
  const selection = select(resource, params.attributes);
  const { kind, where: own, path, klass } = resource;
  const among = allOf([own, ...taggedWith(resource, params.byTag), subclassOf(resource, params.collectionClass)]);
  const isFiltered = params.filters.length > 0;
  const filter: Condition<QueryFields[K]> = await conditionOf(params.filters, {
    klass,
    searchOf: (attribute) => searchIn(resource, attribute),
  });
  const { queries } = env.context.service;
  const sort = sortOf(resource, params);
  const query: Query<K> = {
    where: allOf([among, filter]),
    sort,
    ...page,
    withTotal: isFiltered,
    withAll: !resource.countsOwn,
  };
  const found = await queries.list(env.caller, kind, query);
  const known = isKept(env, params) ? lists.get(found, url) : undefined;
  if (known !== undefined) return known;
  const { items, total, all } = found;
  const count = all ?? (await queries.list(env.caller, kind, { where: own, limit: 0, withTotal: true })).total ?? 0;
  const counts = { count, subcount: items.length, ...(total === null ? {} : { subquery_count: total }) };
  const matches = total ?? count;
  const views = await resource.view(items, env);
  const resources = params.expand.includes('resources')
    ? await show(resource, views, env, selection, params.expand)
    : views.map((item) => ({ href: `${env.api}/${path}/${resource.numberOf(item)}` }));
  const text = JSON.stringify({
    name: resource.name,
    ...counts,
    pages: Math.ceil(matches / page.limit),
    ...(params.hide.includes('resources') ? {} : { resources }),
    ...actionsAt(`${env.api}/${path}`, resource.actions),
    links: linksOf(url, page, matches),
  });
  return isKept(env, params) ? lists.keep(found, url, text) : text;
}

/** `/department/finance` is looked for as the tag `department/finance`, or as it is written. */
function taggedWith<K extends QueryKind, T>(
  resource: Resource<K, T>,
  tags: readonly string[],
): Condition<QueryFields[K]>[] {
  return tags.map((tag) => resource.tagged?.([tag, tag.replace(/^\//, '')]) ?? never);
}

function subclassOf<K extends QueryKind, T>(resource: Resource<K, T>, asked: string): Condition<QueryFields[K]> {
  const { klass, name, subclasses } = resource;
  if (asked === '' || asked === klass) return { all: [] };
  const found = Object.hasOwn(subclasses, asked) ? subclasses[asked] : undefined;
  if (found === undefined) throw refuse(`Invalid collection_class ${asked} specified for the ${name} collection`);
  return found;
}

type SortKey<K extends QueryKind> = NonNullable<Query<K>['sort']>[number];

function sortOf<K extends QueryKind, T>(resource: Resource<K, T>, params: Params): SortKey<K>[] {
  const ignoreCase = params.sortOptions.some((option) => option.toLowerCase() === 'ignore_case');
  return params.sortBy.flatMap((attribute, place) => {
    const found = searchIn(resource, attribute);
    const isOwn = !attribute.includes('.');
    if (found === undefined || !isOwn) throw refuse(`${attribute} is not a valid attribute for ${resource.klass}`);
    const { search } = found;
    if (search === null || search.type === 'reference') {
      throw refuse(`${resource.klass} cannot be sorted by ${attribute}`);
    }
    const given = params.sortOrder[place]?.toLowerCase() ?? '';
    const order = given === 'desc' || given === 'descending' ? 'desc' : 'asc';
    if (search.type === 'unknownTime') return [];
    if (search.type === 'words') {
      // What all have in common orders nothing.
      if (search.sort === undefined) return [];
      const { field, values } = search.sort;
      return [{ by: field, order, ...(values === undefined ? {} : { ranks: values }) }];
    }
    return [{ by: search.field, order, ...(ignoreCase && given !== '' ? { ignoreCase } : {}) }];
  });
}

interface Links {
  readonly self: string;
  readonly next?: string;
  readonly previous?: string;
  readonly first: string;
  readonly last: string;
}

/** The request's own address with another offset; one page too far where the matches fill the last one. */
export function linksOf(url: string, { offset, limit }: PageParams, matches: number): Links {
  const at = (wanted: number): string => withOffset(url, wanted);
  return {
    self: at(offset),
    ...(offset + limit < matches ? { next: at(offset + limit) } : {}),
    ...(offset > 0 ? { previous: at(Math.max(offset - limit, 0)) } : {}),
    first: at(0),
    last: at(matches - (matches % limit)),
  };
}

const offsetParam = /([?&])offset=[^&]*/;

function withOffset(url: string, offset: number): string {
  if (offsetParam.test(url)) return url.replace(offsetParam, `$1offset=${offset}`);
  return `${url}${url.includes('?') ? '&' : '?'}offset=${offset}`;
}
