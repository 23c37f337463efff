/**
 * Filters: `["or "] attribute operator value`, read as the real service reads them and turned into conditions of the
 * service's lists. Words of the dialect are compared here, among themselves and never with rows; a condition on the
 * objects they stand for remains. (lib/api/filter.rb of ManageIQ/manageiq-api)
 */
import { always, type Condition, never } from '../../core/query.ts';
import type { Meaning, Search, Word } from './attributes.ts';
import { refuse } from './errors.ts';

/** The longest first: at the same place it is meant. */
const operators = ['!==', '==', '=~', '!~', '!=', '<=', '>=', '<', '>', '='] as const;
export type Operator = (typeof operators)[number];

export type Operand =
  | { readonly kind: 'null' }
  | { readonly kind: 'list'; readonly values: readonly string[] }
  /** Runs of any characters are `*`. */
  | { readonly kind: 'pattern'; readonly value: string }
  | { readonly kind: 'expression'; readonly value: string; readonly ignoreCase: boolean }
  | { readonly kind: 'text'; readonly value: string; readonly quoted: boolean };

export interface Filter {
  readonly or: boolean;
  readonly attribute: string;
  readonly operator: Operator;
  readonly operand: Operand;
}

/** How attributes are looked for; undefined for those that there are not. */
export interface Searchable<F extends string> {
  /** As messages name it. */
  readonly klass: string;
  searchOf(attribute: string): { readonly search: Search<F> | null } | undefined;
}

/** @throws invalid_request */
export function parseFilter(text: string): Filter {
  const or = /^or /i.test(text);
  const rest = or ? text.slice(3) : text;
  const at = rest.search(/[=<>]|![=~]/);
  const operator = at === -1 ? undefined : operators.find((known) => rest.startsWith(known, at));
  if (operator === undefined) throw refuse(`Unknown operator specified in filter ${rest}`);
  const value = rest.slice(at + operator.length).trim();
  return { or, attribute: rest.slice(0, at).trim(), operator, operand: operandOf(operator, value, rest) };
}

function operandOf(operator: Operator, value: string, filter: string): Operand {
  if (operator === '=~' || operator === '!~') {
    const [, source, flag] = /^\/(.*)\/(i?)$/s.exec(unquote(value) ?? value) ?? [];
    if (source === undefined) throw refuse(`Invalid regular expression specified in filter ${filter}`);
    return { kind: 'expression', value: source, ignoreCase: flag === 'i' };
  }
  const inside = unquote(value);
  if (inside === null) {
    if (/^(null|nil)$/i.test(value)) return { kind: 'null' };
    if (value.startsWith('[') && value.endsWith(']')) {
      if (operator !== '=') throw refuse(`Unsupported operator for arrays: ${operator}`);
      return { kind: 'list', values: value.slice(1, -1).split(',') };
    }
  }
  const text = inside ?? value;
  if ((operator === '=' || operator === '!=') && /[*%]/.test(text)) {
    return { kind: 'pattern', value: text.replace(/[*%]+/g, '*') };
  }
  return { kind: 'text', value: text, quoted: inside !== null };
}

function unquote(value: string): string | null {
  const [quote] = value;
  const isQuoted = value.length > 1 && (quote === "'" || quote === '"') && value.endsWith(quote);
  return isQuoted ? value.slice(1, -1) : null;
}

/**
 * All filters as one condition: those without `or` hold together, or any of the others does.
 * @throws invalid_request for what cannot be read or looked for
 */
export async function conditionOf<F extends string>(
  texts: readonly string[],
  target: Searchable<F>,
): Promise<Condition<F>> {
  const all: Condition<F>[] = [];
  const any: Condition<F>[] = [];
  for (const text of texts) {
    const filter = parseFilter(text);
    const condition = await translate(filter, target);
    (filter.or ? any : all).push(condition);
  }
  if (any.length === 0) return allOf(all);
  return anyOf(all.length === 0 ? any : [allOf(all), ...any]);
}

async function translate<F extends string>(filter: Filter, target: Searchable<F>): Promise<Condition<F>> {
  const { attribute } = filter;
  const steps = attribute.split('.');
  if (steps.length > 2) {
    throw refuse('Filtering of attributes with more than one association away is not supported');
  }
  const found = target.searchOf(attribute);
  if (found === undefined) {
    const name = [target.klass, ...steps.slice(0, -1)].join('.');
    throw refuse(`attribute ${name}-${steps.at(-1) ?? ''} does not exist`);
  }
  const { search } = found;
  if (search === null) throw refuse(`Filtering by ${attribute} is not supported`);
  switch (search.type) {
    case 'text':
      return ofText(search.field, search.emptyIsNull === true, filter);
    case 'integer':
      return ofInteger(search.field, filter);
    case 'time':
      return ofTime(search.field, filter);
    case 'unknownTime':
      return ofUnknownTime(filter);
    case 'words':
      return ofWords(search.words, filter);
    case 'reference':
      return ofReference(search, filter);
    case 'either':
      return anyOf([
        { all: [{ field: search.field, op: 'isNotNull' }, ofText(search.field, false, filter)] },
        { all: [{ field: search.field, op: 'isNull' }, await ofWords(search.words, filter)] },
      ]);
  }
}

/** One condition for several that all hold. */
export function allOf<F extends string>(parts: readonly Condition<F>[]): Condition<F> {
  if (parts.includes(never)) return never;
  const rest = parts.filter((part) => !isAlways(part));
  const [first] = rest;
  return rest.length === 1 && first !== undefined ? first : { all: rest };
}

function anyOf<F extends string>(parts: readonly Condition<F>[]): Condition<F> {
  if (parts.some(isAlways)) return always;
  const rest = parts.filter((part) => part !== never);
  const [first] = rest;
  if (first === undefined) return never;
  return rest.length === 1 ? first : { any: rest };
}

function isAlways(condition: Condition): boolean {
  return 'all' in condition && condition.all.length === 0;
}

const comparisons = {
  '=': 'eq',
  '==': 'eq',
  '!=': 'ne',
  '!==': 'ne',
  '<': 'lt',
  '<=': 'le',
  '>': 'gt',
  '>=': 'ge',
} as const;

function isNegated(operator: Operator): boolean {
  return operator.startsWith('!');
}

function unsupported(kind: string, { operator }: Filter): never {
  throw refuse(`Unsupported operator for ${kind}: ${operator}`);
}

function ofText<F extends string>(field: F, emptyIsNull: boolean, filter: Filter): Condition<F> {
  const { operator, operand } = filter;
  const isNull: Condition<F> = emptyIsNull ? { field, op: 'eq', value: '' } : { field, op: 'isNull' };
  const isNotNull: Condition<F> = emptyIsNull ? { field, op: 'ne', value: '' } : { field, op: 'isNotNull' };
  const known = (condition: Condition<F>): Condition<F> => (emptyIsNull ? { all: [condition, isNotNull] } : condition);
  switch (operand.kind) {
    case 'null':
      return ofNull(isNull, isNotNull, filter);
    case 'list':
      return { field, op: 'in', values: operand.values };
    case 'pattern':
    case 'expression': {
      const met = known(patternOf(field, operand));
      // What is unknown does not match.
      return isNegated(operator) ? { any: [{ not: met }, isNull] } : met;
    }
    case 'text': {
      if (operator === '=~' || operator === '!~') return unsupported('text', filter);
      const condition: Condition<F> = { field, op: comparisons[operator], value: operand.value };
      return operator === '=' || operator === '==' ? condition : known(condition);
    }
  }
}

function patternOf<F extends string>(field: F, operand: Operand & { kind: 'pattern' | 'expression' }): Condition<F> {
  if (operand.kind === 'expression') {
    return { field, op: 'matches', value: operand.value, ignoreCase: operand.ignoreCase };
  }
  return { field, op: 'like', value: operand.value };
}

function ofNull<F extends string>(isNull: Condition<F>, isNotNull: Condition<F>, { operator }: Filter): Condition<F> {
  if (operator === '=' || operator === '==') return isNull;
  // Nothing is before or after what is not known.
  return isNegated(operator) ? isNotNull : never;
}

function ofInteger<F extends string>(field: F, filter: Filter): Condition<F> {
  const { operator, operand } = filter;
  switch (operand.kind) {
    case 'null':
      return ofNull({ field, op: 'isNull' }, { field, op: 'isNotNull' }, filter);
    case 'list':
      return { field, op: 'in', values: operand.values.map(numberOf).filter((value) => value !== null) };
    case 'text': {
      if (operator === '=~' || operator === '!~') return unsupported('numbers', filter);
      const value = numberOf(operand.value);
      if (value !== null) return { field, op: comparisons[operator], value };
      return isNegated(operator) ? { field, op: 'isNotNull' } : never;
    }
    default:
      throw refuse(`Patterns are not supported for numbers: ${filter.attribute}`);
  }
}

function numberOf(text: string): number | null {
  return /^[+-]?\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : null;
}

function ofTime<F extends string>(field: F, filter: Filter): Condition<F> {
  const { operator, operand } = filter;
  switch (operand.kind) {
    case 'null':
      return ofNull({ field, op: 'isNull' }, { field, op: 'isNotNull' }, filter);
    case 'list':
      return anyOf(operand.values.map((value) => during(field, spanOf(value))));
    case 'text':
      if (!operand.quoted && !['=', '<', '>'].includes(operator)) return unsupported('datetime', filter);
      return besides(field, spanOf(operand.value), filter);
    case 'pattern':
      throw refuse(`Bad format for datetime: ${operand.value}`);
    case 'expression':
      return unsupported('datetime', filter);
  }
}

/** @throws invalid_request as other times do */
function ofUnknownTime(filter: Filter): Condition<never> {
  if (filter.operand.kind === 'null') return ofNull(always, never, filter);
  ofTime('unknown', filter);
  return never;
}

/** In µs: from the first, up to and without the second. */
interface Span {
  readonly from: number;
  readonly to: number;
}

function during<F extends string>(field: F, { from, to }: Span): Condition<F> {
  return {
    all: [
      { field, op: 'ge', value: from },
      { field, op: 'lt', value: to },
    ],
  };
}

function besides<F extends string>(field: F, span: Span, filter: Filter): Condition<F> {
  const { from, to } = span;
  switch (filter.operator) {
    case '=':
    case '==':
      return during(field, span);
    case '!=':
    case '!==':
      return {
        any: [
          { field, op: 'lt', value: from },
          { field, op: 'ge', value: to },
        ],
      };
    case '<':
      return { field, op: 'lt', value: from };
    case '<=':
      return { field, op: 'lt', value: to };
    case '>':
      return { field, op: 'ge', value: to };
    case '>=':
      return { field, op: 'ge', value: from };
    default:
      return unsupported('datetime', filter);
  }
}

const datePattern =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(\.\d{1,9})?)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?$/i;
const secondUs = 1_000_000;
const dayUs = 86_400 * secondUs;

/**
 * The time that a text names: a day in UTC, a second (times are shown in whole ones), or less where a fraction is given.
 * @throws invalid_request
 */
function spanOf(text: string): Span {
  const [, year, month, day, hour, minute = '00', second = '00', fraction, zone = 'Z'] =
    datePattern.exec(text.trim()) ?? [];
  const isDay = hour === undefined;
  const offset = /^[+-]/.test(zone) ? `${zone.slice(0, 3)}:${zone.slice(-2)}` : 'Z';
  const date = `${year}-${month}-${day}`;
  const at = Date.parse(`${date}T${isDay ? '00:00:00' : `${hour}:${minute}:${second}`}${offset}`);
  // February has no 30th, though Date takes one.
  const isReal = !Number.isNaN(at) && new Date(`${date}T00:00:00Z`).getUTCDate() === Number(day);
  if (year === undefined || !isReal) throw refuse(`Bad format for datetime: ${text}`);
  if (isDay) return { from: at * 1000, to: at * 1000 + dayUs };
  if (fraction === undefined) return { from: at * 1000, to: at * 1000 + secondUs };
  const from = at * 1000 + Math.floor(Number(fraction) * secondUs);
  return { from, to: from + 1 };
}

async function ofReference<F extends string>(
  search: Search<F> & { type: 'reference' },
  filter: Filter,
): Promise<Condition<F>> {
  const { operator, operand } = filter;
  const { isNull } = search;
  const find = async (text: string): Promise<Condition<F>> => {
    const number = numberOf(text);
    return number === null ? never : search.find(number);
  };
  if (operand.kind === 'null') return ofNull(isNull, { not: isNull }, filter);
  if (operand.kind === 'list') return anyOf(await Promise.all(operand.values.map(find)));
  if (operand.kind !== 'text' || !['=', '==', '!=', '!=='].includes(operator)) return unsupported('references', filter);
  const found = await find(operand.value);
  return isNegated(operator) ? { all: [{ not: found }, { not: isNull }] } : found;
}

/** Of all that the words are said of, those of which one is said that meets the filter. */
async function ofWords<F extends string>(words: readonly Meaning<F>[], filter: Filter): Promise<Condition<F>> {
  const { operand } = filter;
  const matches = operand.kind === 'expression' ? await testerOf(operand) : undefined;
  return anyOf(words.filter(({ word }) => isMet(word, filter, matches)).map(({ when }) => when));
}

const maxExpressionLength = 1000;

/** An expression of the kind that the catalog takes: linear in time, whatever it is. @throws invalid_request */
async function testerOf(operand: Operand & { kind: 'expression' }): Promise<(text: string) => boolean> {
  const { RE2JS } = await import('re2js');
  const { value, ignoreCase } = operand;
  if (value.length > maxExpressionLength) {
    throw refuse(`A regular expression has at most ${maxExpressionLength} characters`);
  }
  try {
    const expression = RE2JS.compile(value, ignoreCase ? RE2JS.CASE_INSENSITIVE : 0);
    return (text) => expression.test(text);
  } catch {
    throw refuse(`Invalid regular expression: ${value}`);
  }
}

/** Whether a word of the dialect meets a filter, as a value in the database would. */
function isMet(word: Word, filter: Filter, matches: ((text: string) => boolean) | undefined): boolean {
  const { operator, operand } = filter;
  switch (operand.kind) {
    case 'null':
      return isNegated(operator) ? word !== null : (operator === '=' || operator === '==') && word === null;
    case 'list':
      return word !== null && operand.values.some((value) => compare(word, value) === 0);
    case 'pattern':
      return (word !== null && isLike(String(word), operand.value)) !== isNegated(operator);
    case 'expression':
      return (word !== null && matches?.(String(word)) === true) !== isNegated(operator);
    case 'text': {
      const order = word === null ? null : compare(word, operand.value);
      if (order === null) return false;
      switch (comparisons[operator as keyof typeof comparisons]) {
        case 'eq':
          return order === 0;
        case 'ne':
          return order !== 0;
        case 'lt':
          return order < 0;
        case 'le':
          return order <= 0;
        case 'gt':
          return order > 0;
        case 'ge':
          return order >= 0;
      }
    }
  }
}

const booleans: Readonly<Record<string, boolean>> = {
  true: true,
  t: true,
  '1': true,
  false: false,
  f: false,
  '0': false,
};

/** Below, at or above zero as the word is before, at or after a value; NaN when they cannot be compared. */
function compare(word: Exclude<Word, null>, value: string): number {
  if (typeof word === 'string') return word === value ? 0 : word < value ? -1 : 1;
  if (typeof word === 'number') return word - (numberOf(value) ?? Number.NaN);
  const other = Object.hasOwn(booleans, value.toLowerCase()) ? booleans[value.toLowerCase()] : undefined;
  return other === undefined ? Number.NaN : Number(word) - Number(other);
}

/** A pattern with `*` as the only special character, without backtracking over more than the words of the dialect. */
function isLike(text: string, pattern: string): boolean {
  const pieces = pattern.split('*');
  const first = pieces[0] ?? '';
  const last = pieces.at(-1) ?? '';
  if (pieces.length === 1) return text === pattern;
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
  let at = first.length;
  for (const piece of pieces.slice(1, -1)) {
    const found = text.indexOf(piece, at);
    if (found === -1) return false;
    at = found + piece.length;
  }
  return at <= text.length - last.length;
}
