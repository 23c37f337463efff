/**
 * Conditions of lists: whether they are in bounds, and what they are in SQL. Values are bound, never part of the text. A
 * value of another type than its field's meets nothing; compared with null it is, as everything, neither true nor false.
 */
import { type RawBuilder, type SqlBool, sql } from 'kysely';
import { CalotypeError } from '../core/errors.ts';
import type { Comparison, Condition, FieldValue, Query, QueryKind } from '../core/query.ts';
import { allOf, globOf, inList, likeOf, type Condition as SqlCondition } from './page.ts';
import { type Field, type FieldType, type LiveHandles, queryFields, taggedId } from './query-fields.ts';

const maxTests = 200;
const maxDepth = 20;
/** Tests and what binds them together. */
const maxNodes = 1000;
const maxValues = 10_000;
const maxSortKeys = 20;
/** No text of ours is longer, and the database takes no longer patterns. */
const maxPatternLength = 10_000;

function refuse(message: string, details: Record<string, unknown> = {}): never {
  throw new CalotypeError('invalid_request', message, details);
}

const tagField: Field = { type: 'text', column: () => sql`g.tag` };

/** @throws invalid_request */
export function fieldOf(kind: QueryKind, name: string): Field {
  if (name === 'tag' && taggedId[kind] !== null) return tagField;
  const found = Object.hasOwn(queryFields[kind], name) ? queryFields[kind][name] : undefined;
  return found ?? refuse(`There is no field ${name}.`, { field: name });
}

/** The tests of a condition, each once for every time it stands there. */
export function* testsOf<F extends string>(condition: Condition<F>): Generator<{ field: F } & Comparison> {
  if ('all' in condition) for (const one of condition.all) yield* testsOf(one);
  else if ('any' in condition) for (const one of condition.any) yield* testsOf(one);
  else if ('not' in condition) yield* testsOf(condition.not);
  else yield condition;
}

/** @throws invalid_request */
function checkSize(condition: Condition): void {
  let nodes = 0;
  const visit = (one: Condition, level: number): void => {
    nodes += 1;
    if (level > maxDepth) refuse(`A condition is at most ${maxDepth} levels deep.`, { max: maxDepth });
    if (nodes > maxNodes) refuse(`A condition has at most ${maxTests} tests.`, { max: maxTests });
    if ('all' in one) for (const part of one.all) visit(part, level + 1);
    else if ('any' in one) for (const part of one.any) visit(part, level + 1);
    else if ('not' in one) visit(one.not, level + 1);
  };
  visit(condition, 1);
}

function checkWhole(name: 'offset' | 'limit', value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  refuse(`The ${name} must be a whole number, 0 or more.`, { field: name });
}

/** Everything about a query that can be told without the catalog. @throws invalid_request */
export function checkQuery(kind: QueryKind, query: Query): void {
  const { where, sort = [], offset, limit } = query;
  if (offset !== undefined) checkWhole('offset', offset);
  if (limit !== undefined && limit !== null) checkWhole('limit', limit);
  if (sort.length > maxSortKeys) refuse(`There may be at most ${maxSortKeys} sort keys.`, { max: maxSortKeys });
  for (const { by } of sort) {
    const name: string = by;
    if (name === 'tag') refuse('Tags have no order.', { field: name });
    fieldOf(kind, name);
  }
  if (where === undefined) return;
  checkSize(where);
  let tests = 0;
  let values = 0;
  for (const test of testsOf<string>(where)) {
    fieldOf(kind, test.field);
    tests += 1;
    if (test.op === 'in') values += test.values.length;
    if (tests > maxTests) refuse(`A condition has at most ${maxTests} tests.`, { max: maxTests });
    if (values > maxValues) refuse(`A condition names at most ${maxValues} values.`, { max: maxValues });
  }
}

/** The condition over the rows of a list of one kind. */
export function toSql(kind: QueryKind, condition: Condition, live: LiveHandles): RawBuilder<SqlBool> {
  if ('all' in condition) {
    const parts = condition.all.map((part) => toSql(kind, part, live));
    return parts.length === 0 ? sql<SqlBool>`true` : sql<SqlBool>`(${allOf(parts)})`;
  }
  if ('any' in condition) {
    const parts = condition.any.map((part) => toSql(kind, part, live));
    return parts.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`(${sql.join(parts, sql` or `)})`;
  }
  if ('not' in condition) return sql<SqlBool>`(not ${toSql(kind, condition.not, live)})`;
  const field = fieldOf(kind, condition.field);
  const test = testOf(field.column(live), field.type, condition);
  if (condition.field !== 'tag') return test;
  return sql<SqlBool>`exists (select 1 from tags g where g.object_id = ${taggedId[kind]} and ${test})`;
}

const operators = { eq: sql`=`, ne: sql`<>`, lt: sql`<`, le: sql`<=`, gt: sql`>`, ge: sql`>=` } as const;

function testOf(column: RawBuilder<unknown>, type: FieldType, test: Comparison): SqlCondition {
  switch (test.op) {
    case 'isNull':
      return sql<SqlBool>`(${column} is null)`;
    case 'isNotNull':
      return sql<SqlBool>`(${column} is not null)`;
    case 'in': {
      if (test.values.length === 0) return sql<SqlBool>`false`;
      const values = possibleValues(type, test.values);
      return values.length === 0 ? sameForAll(column, false) : sql<SqlBool>`(${inList(column, values)})`;
    }
    case 'like':
      if (type !== 'text' || isBeyondText(test.value)) return sameForAll(column, false);
      return sql<SqlBool>`(${column} glob ${globOf(test.value.toWellFormed())})`;
    case 'contains':
      if (type !== 'text' || isBeyondText(test.value)) return sameForAll(column, false);
      return sql<SqlBool>`(${column} like ${likeOf(test.value.toWellFormed())} escape '\\')`;
    case 'matches':
      if (type !== 'text') return sameForAll(column, false);
      return sql<SqlBool>`re2(${test.value}, ${test.ignoreCase ? 1 : 0}, ${column})`;
    default:
      if (!fits(type, test.value)) return sameForAll(column, test.op === 'ne');
      return sql<SqlBool>`(${column} ${operators[test.op]} ${bound(test.value)})`;
  }
}

/** The same for every value but null. */
function sameForAll(column: RawBuilder<unknown>, met: boolean): SqlCondition {
  return sql<SqlBool>`(case when ${column} is not null then ${met ? 1 : 0} end)`;
}

export function fits(type: FieldType, value: FieldValue): boolean {
  return typeof value === (type === 'text' ? 'string' : type) && !Number.isNaN(value);
}

/** Of these, the ones that a field of the type can have. */
export function possibleValues(type: FieldType, values: readonly FieldValue[]): (string | number)[] {
  return values.filter((value) => fits(type, value) && (type !== 'number' || Number.isFinite(value))).map(bound);
}

/** The database has no booleans, and no halves of surrogate pairs. */
export function bound(value: FieldValue): string | number {
  if (typeof value === 'string') return value.toWellFormed();
  return typeof value === 'number' ? value : value ? 1 : 0;
}

export function isBeyondText(pattern: string): boolean {
  return pattern.length > maxPatternLength || pattern.includes('\0');
}
