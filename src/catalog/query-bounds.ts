/**
 * What a condition says about one field: intervals outside of which nothing meets it. They lead to an index; whether what
 * is found there meets the whole condition is tested after, so intervals may be wider than the truth, never narrower.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Comparison, Condition } from '../core/query.ts';
import { endOfPrefix, inList, patternPrefix, type Condition as SqlCondition } from './page.ts';
import { bound, fits, possibleValues } from './query-condition.ts';
import type { FieldType } from './query-fields.ts';

type Value = string | number;

/** Ends included; null is no end. */
export interface Interval {
  readonly from: Value | null;
  readonly to: Value | null;
}

/** Null: anything, null among it. */
export type Bounds = readonly Interval[] | null;

const maxIntervals = 1000;
/** Pairs that two lists of intervals are worth comparing for. */
const maxPairs = 10_000;
/** Ranges that are looked for one by one. */
export const maxRanges = 40;

/** With `many`, an object has several values, and each test may be met by another one. */
export function boundsOf(condition: Condition, field: string, type: FieldType, many = false): Bounds {
  if ('all' in condition) {
    let all: Bounds = null;
    for (const part of condition.all) {
      const bounds = boundsOf(part, field, type, many);
      if (all === null) all = bounds;
      else if (bounds !== null) all = many ? shorter(all, bounds) : intersection(all, bounds);
    }
    return all;
  }
  if ('any' in condition) {
    const any: Interval[] = [];
    for (const part of condition.any) {
      const bounds = boundsOf(part, field, type, many);
      if (bounds === null) return null;
      any.push(...bounds);
    }
    return any.length > maxIntervals ? null : any;
  }
  if ('not' in condition || condition.field !== field) return null;
  return boundsOfTest(condition, type);
}

function boundsOfTest(test: Comparison, type: FieldType): Bounds {
  switch (test.op) {
    case 'ne':
    case 'isNull':
    case 'isNotNull':
    case 'contains':
    case 'matches':
      return null;
    case 'in': {
      if (test.values.length > maxIntervals) return null;
      return possibleValues(type, test.values).map((value) => ({ from: value, to: value }));
    }
    case 'like': {
      if (type !== 'text') return [];
      const { prefix, exact } = patternPrefix(test.value.toWellFormed());
      return [{ from: prefix, to: exact ? prefix : endOfPrefix(prefix) }];
    }
    default: {
      if (!fits(type, test.value)) return [];
      const value = bound(test.value);
      const above = test.op === 'gt' || test.op === 'ge' || test.op === 'eq';
      const below = test.op === 'lt' || test.op === 'le' || test.op === 'eq';
      return [{ from: above ? value : null, to: below ? value : null }];
    }
  }
}

function shorter(a: readonly Interval[], b: readonly Interval[]): readonly Interval[] {
  return b.length < a.length ? b : a;
}

/** By bytes, as the indexes are. */
function isAbove(a: Value, b: Value): boolean {
  if (typeof a === 'number' && typeof b === 'number') return a > b;
  return Buffer.compare(Buffer.from(String(a)), Buffer.from(String(b))) > 0;
}

function intersection(a: readonly Interval[], b: readonly Interval[]): readonly Interval[] {
  if (a.length * b.length > maxPairs) return shorter(a, b);
  const both: Interval[] = [];
  for (const one of a) {
    for (const other of b) {
      const from = one.from === null || (other.from !== null && isAbove(other.from, one.from)) ? other.from : one.from;
      const to = one.to === null || (other.to !== null && isAbove(one.to, other.to)) ? other.to : one.to;
      if (from === null || to === null || !isAbove(from, to)) both.push({ from, to });
    }
  }
  return both;
}

/** The single value that the bounds leave, if it is one. */
export function onlyValue(bounds: Bounds): Value | undefined {
  const [only, ...others] = bounds ?? [];
  if (only === undefined || others.length > 0 || only.from === null || only.from !== only.to) return undefined;
  return only.from;
}

/** A column within bounds, as searches of an index that can each be made by itself; undefined when there are too many. */
export function searchesOf(column: RawBuilder<unknown>, bounds: readonly Interval[]): SqlCondition[] | undefined {
  const points = new Set<Value>();
  const searches: SqlCondition[] = [];
  for (const { from, to } of bounds) {
    if (from !== null && from === to) points.add(from);
    else if (from === null && to === null) return undefined;
    else if (from === null) searches.push(sql<SqlBool>`${column} <= ${to}`);
    else if (to === null) searches.push(sql<SqlBool>`${column} >= ${from}`);
    else searches.push(sql<SqlBool>`${column} >= ${from} and ${column} <= ${to}`);
  }
  if (searches.length > maxRanges) return undefined;
  const [only] = points;
  if (points.size === 1) searches.push(sql<SqlBool>`${column} = ${only}`);
  else if (points.size > 1) searches.push(inList(column, [...points]));
  return searches;
}
