/** What all collections have in common: which attributes of a resource are asked for, and how they are shown. */
import type { Condition, QueryFields, QueryKind } from '../../core/query.ts';
import type { QueriedObjects } from '../../service/interface.ts';
import type { Attribute, Env, Search, SortField, Virtual } from './attributes.ts';
import { refuse } from './errors.ts';
import { type ActionSpec, actionsAt } from './present.ts';

/** A collection as it is asked for. `T`: what its objects are shown from. */
export interface Resource<K extends QueryKind, T> {
  /** Its own name: `snapshots`. */
  readonly name: string;
  /** Below the API, without slashes around: `vms/7/snapshots`. */
  readonly path: string;
  /** As messages name it: `Snapshot`. */
  readonly klass: string;
  readonly kind: K;
  /** Which objects of the kind belong to it. */
  readonly where: Condition<QueryFields[K]>;
  /** `count` is of these only, and not of all of the kind that the caller may see. */
  readonly countsOwn: boolean;
  readonly columns: readonly Attribute<T, SortField<K>>[];
  readonly virtuals: readonly Virtual<T, SortField<K>>[];
  /** Shown with references when `expand` names them. */
  readonly subcollections: readonly Virtual<T>[];
  readonly actions: readonly ActionSpec[];
  /** Attributes beyond the columns and virtuals, such as those of associations. */
  searchOf?(attribute: string): { readonly search: Search<SortField<K>> | null } | undefined;
  /** What carries any of these tags; without it nothing carries tags. */
  tagged?(tags: readonly string[]): Condition<QueryFields[K]>;
  /** `collection_class`: the conditions of its subclasses by name. */
  readonly subclasses: Readonly<Record<string, Condition<QueryFields[K]>>>;
  numberOf(item: T): number;
  /** What is shown of objects, with what else must be looked up for it. */
  view(objects: readonly QueriedObjects[K][], env: Env): Promise<readonly T[]>;
  /** What the caller may do with each. */
  actionsOf(items: readonly T[], env: Env): Promise<(item: T) => readonly ActionSpec[]>;
}

const identifiers = ['href', 'id'];

/** What `attributes` asks for. */
export interface Selection<T> {
  readonly columns: readonly Attribute<T, string>[];
  /** Named virtual attributes, each with what is asked for below it; an empty path is all of it. */
  readonly virtuals: ReadonlyMap<Virtual<T, string>, readonly string[]>;
  readonly withActions: boolean;
  readonly withSlug: boolean;
}

/**
 * Columns alone leave out the rest; virtual attributes alone come beside all columns.
 * @throws invalid_request for names that there are not
 */
export function select<K extends QueryKind, T>(resource: Resource<K, T>, named: readonly string[]): Selection<T> {
  const attributes = named.filter((name) => name !== 'all');
  const all = { columns: resource.columns, virtuals: new Map(), withActions: true, withSlug: false };
  if (attributes.length === 0) return all;
  const columns = new Map<string, Attribute<T, string>>();
  const virtuals = new Map<Virtual<T, string>, string[]>();
  const unknown: string[] = [];
  for (const attribute of attributes) {
    if (identifiers.includes(attribute) || attribute === 'actions' || attribute === 'href_slug') continue;
    const [first = '', ...rest] = attribute.replaceAll('/', '.').split('.');
    const column = rest.length === 0 ? resource.columns.find(({ name }) => name === first) : undefined;
    const virtual = resource.virtuals.find(({ name }) => name === first);
    if (column !== undefined) columns.set(first, column);
    else if (virtual !== undefined) virtuals.set(virtual, [...(virtuals.get(virtual) ?? []), rest.join('.')]);
    else unknown.push(attribute);
  }
  if (unknown.length > 0) throw refuse(`Invalid attributes specified: ${unknown.join(',')}`);
  const withSlug = attributes.includes('href_slug');
  const namesActions = attributes.includes('actions');
  const onlyVirtual = columns.size === 0 && !namesActions && (virtuals.size > 0 || withSlug);
  if (onlyVirtual) return { ...all, virtuals, withSlug };
  const id = resource.columns.filter(({ name }) => name === 'id');
  return { columns: [...id, ...columns.values()], virtuals, withActions: namesActions, withSlug };
}

export type Shown = Record<string, unknown>;

/** Resources in full, as far as they were asked for. @throws invalid_request */
export async function show<K extends QueryKind, T>(
  resource: Resource<K, T>,
  items: readonly T[],
  env: Env,
  selection: Selection<T>,
  expand: readonly string[],
): Promise<Shown[]> {
  const { path, name } = resource;
  const subcollections = resource.subcollections.filter((known) => expand.includes(known.name));
  for (const { name: sub } of subcollections) {
    if ([...selection.virtuals.keys()].some((virtual) => virtual.name === sub)) {
      throw refuse(`Cannot expand subcollection ${sub} by name and virtual attribute`);
    }
  }
  const wanted = [...selection.virtuals, ...subcollections.map((virtual) => [virtual, ['']] as const)];
  const prepared = await Promise.all(
    wanted.map(async ([virtual, paths]) => ({ name: virtual.name, paths, value: await virtual.prepare(items, env) })),
  );
  const actionsOf = selection.withActions ? await resource.actionsOf(items, env) : undefined;
  return items.map((item) => {
    const number = resource.numberOf(item);
    const href = `${env.api}/${path}/${number}`;
    const shown: Shown = { href };
    for (const column of selection.columns) shown[column.name] = column.present(item);
    for (const { name: virtual, paths, value } of prepared) addVirtual(shown, virtual, paths, value(item));
    if (selection.withSlug) shown.href_slug = `${name}/${number}`;
    if (actionsOf !== undefined) Object.assign(shown, actionsAt(href, actionsOf(item)));
    return shown;
  });
}

/** What is not there below an association is left out. */
function addVirtual(shown: Shown, name: string, paths: readonly string[], value: unknown): void {
  if (paths.includes('')) {
    shown[name] = value;
    return;
  }
  if (typeof value !== 'object' || value === null) return;
  const entries = Object.entries(value).filter(([key]) => paths.includes(key));
  if (entries.length > 0) shown[name] = Object.fromEntries(entries);
}

/** All columns of a related object, without a reference. */
export function columnsOf<T>(columns: readonly Attribute<T, string>[], item: T): Shown {
  return Object.fromEntries(columns.map((column) => [column.name, column.present(item)]));
}

export function searchIn<K extends QueryKind, T>(
  resource: Resource<K, T>,
  attribute: string,
): { readonly search: Search<SortField<K>> | null } | undefined {
  const own = [...resource.columns, ...resource.virtuals].find(({ name }) => name === attribute);
  if (own !== undefined) return { search: own.search ?? null };
  return resource.searchOf?.(attribute);
}
