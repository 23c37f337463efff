/**
 * Lists: paging, selection of fields, order, and filters. Different parameters, and the same one repeated, all have to hold;
 * commas within one value are alternatives. [cloudsigma-docs general.rst, pagination.rst]
 */
import { type Condition, never } from '../../core/query.ts';
import { invalidField } from './errors.ts';
import { type Parameters, parameter } from './parse.ts';

export const defaultLimit = 20;

/** The alternatives in a value: `\,` is a comma, and `\\` before a comma a backslash. */
export function splitValue(value: string): readonly string[] {
  if (!value.includes(',')) return [value];
  const values: string[] = [];
  let text = '';
  let backslashes = 0;
  for (const letter of value) {
    if (letter === '\\') {
      backslashes++;
      continue;
    }
    if (letter !== ',') text += '\\'.repeat(backslashes) + letter;
    else {
      text += '\\'.repeat(Math.floor(backslashes / 2));
      if (backslashes % 2 === 1) text += ',';
      else {
        values.push(text);
        text = '';
      }
    }
    backslashes = 0;
  }
  values.push(text + '\\'.repeat(backslashes));
  return values;
}

export interface Window {
  readonly offset: number;
  /** Null for everything there is. */
  readonly limit: number | null;
}

/** @throws invalid_request */
export function readWindow(parameters: Parameters): Window {
  const limit = readCount(parameters, 'limit', defaultLimit);
  return { offset: readCount(parameters, 'offset', 0), limit: limit === 0 ? null : limit };
}

function readCount(parameters: Parameters, name: string, fallback: number): number {
  const value = parameter(parameters, name);
  if (value === undefined || value === '') return fallback;
  if (!/^\d{1,15}$/.test(value)) throw invalidField(name, `The ${name} must be a whole number, 0 or more.`);
  return Number(value);
}

/** The keys to answer with; undefined for all. */
export function readSelection(parameters: Parameters): ReadonlySet<string> | undefined {
  const value = parameter(parameters, 'fields');
  if (value === undefined || value === '') return undefined;
  return new Set(value.split(',').map((name) => name.trim()));
}

export function select(objects: readonly object[], selection: ReadonlySet<string> | undefined): readonly object[] {
  if (selection === undefined) return objects;
  return objects.map((object) => Object.fromEntries(Object.entries(object).filter(([key]) => selection.has(key))));
}

/** What a parameter asks of a field: one of these values, or one of these as a part of it without regard to case. */
export interface Wish {
  readonly values: readonly string[];
  readonly contains: boolean;
}

/** What each filter comes to; others are ignored. */
export type Filters<Field extends string> = Readonly<
  Record<string, (wish: Wish) => Condition<Field> | Promise<Condition<Field>>>
>;

const containsEnd = '__contains';

export async function readFilters<Field extends string>(
  parameters: Parameters,
  filters: Filters<Field>,
): Promise<Condition<Field>> {
  const all: Condition<Field>[] = [];
  for (const [name, value] of parameters) {
    const contains = name.endsWith(containsEnd);
    const field = contains ? name.slice(0, -containsEnd.length) : name;
    const filter = Object.hasOwn(filters, field) ? filters[field] : undefined;
    if (filter !== undefined) all.push(await filter({ values: splitValue(value), contains }));
  }
  return { all };
}

/** A field of the model that is what the client sees. */
export function text<Field extends string>(field: Field): (wish: Wish) => Condition<Field> {
  return ({ values, contains }) => {
    if (!contains) return { field, op: 'in', values };
    return { any: values.map((value): Condition<Field> => ({ field, op: 'contains', value })) };
  };
}

/** A word of the dialect that stands for a condition on the model. */
export function word<Field extends string>(
  words: Readonly<Record<string, Condition<Field>>>,
): (wish: Wish) => Condition<Field> {
  return ({ values, contains }) => {
    const meant = Object.entries(words).filter(([known]) =>
      values.some((value) => (contains ? known.includes(value.toLowerCase()) : known === value)),
    );
    return meant.length === 0 ? never : { any: meant.map(([, condition]) => condition) };
  };
}

/** `order_by=[-]field` for the fields that are known; undefined for the order of creation. */
export function readOrder<Field extends string>(
  parameters: Parameters,
  fields: Readonly<Record<string, Field>>,
): readonly { by: Field; order: 'asc' | 'desc' }[] | undefined {
  const value = parameter(parameters, 'order_by');
  if (value === undefined) return undefined;
  const name = value.replace(/^-/, '');
  const by = Object.hasOwn(fields, name) ? fields[name] : undefined;
  return by === undefined ? undefined : [{ by, order: value.startsWith('-') ? 'desc' : 'asc' }];
}

/** `meta.limit` is 0 when everything was asked for. */
export function envelope(objects: readonly object[], { limit, offset }: Window, total: number): object {
  return { meta: { limit: limit ?? 0, offset, total_count: total }, objects };
}
