/** Lists as one would write them in memory: what the catalog's answers are compared with. Slow, plain, three-valued. */
import type { Comparison, Condition, FieldValue, Query } from '../../core/query.ts';

export type Value = FieldValue | null;

/** How a field is read from an object; a list of texts for tags. */
export type Getters<T> = Readonly<Record<string, (object: T) => Value | readonly string[]>>;

/** As SQL has it: null is neither. */
type Truth = boolean | null;

const lower = (text: string): string => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

/** Texts by their bytes, null first. */
export function compareValues(a: Value, b: Value, ignoreCase = false): number {
  if (a === null || b === null) return (a === null ? 0 : 1) - (b === null ? 0 : 1);
  if (typeof a === 'string' && typeof b === 'string') {
    const bytes = (text: string) => Buffer.from(ignoreCase ? lower(text) : text);
    return Buffer.compare(bytes(a), bytes(b));
  }
  return Number(a) - Number(b);
}

function isLike(text: string, pattern: string): boolean {
  const pieces = pattern.split('*').map((piece) => piece.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${pieces.join('.*')}$`, 'su').test(text);
}

function meets(value: Value, test: Comparison): Truth {
  if (!('value' in test || 'values' in test)) return (value === null) === (test.op === 'isNull');
  if (test.op === 'in') {
    if (test.values.length === 0) return false;
    return value === null ? null : test.values.some((one) => typeof one === typeof value && one === value);
  }
  if (value === null) return null;
  if (test.op === 'like') return typeof value === 'string' && isLike(value, test.value);
  if (test.op === 'contains') return typeof value === 'string' && lower(value).includes(lower(test.value));
  if (test.op === 'matches') {
    return typeof value === 'string' && new RegExp(test.value, test.ignoreCase ? 'iu' : 'u').test(value);
  }
  if (typeof value !== typeof test.value || Number.isNaN(test.value)) return test.op === 'ne';
  const order = compareValues(value, test.value);
  return { eq: order === 0, ne: order !== 0, lt: order < 0, le: order <= 0, gt: order > 0, ge: order >= 0 }[test.op];
}

export function holds<T>(condition: Condition, object: T, getters: Getters<T>): Truth {
  if ('all' in condition) {
    const parts = condition.all.map((part) => holds(part, object, getters));
    return parts.includes(false) ? false : parts.includes(null) ? null : true;
  }
  if ('any' in condition) {
    const parts = condition.any.map((part) => holds(part, object, getters));
    return parts.includes(true) ? true : parts.includes(null) ? null : false;
  }
  if ('not' in condition) {
    const inner = holds(condition.not, object, getters);
    return inner === null ? null : !inner;
  }
  const value = readField(condition.field, object, getters);
  if (typeof value === 'object' && value !== null) return value.some((one) => meets(one, condition) === true);
  return meets(value, condition);
}

function readField<T>(field: string, object: T, getters: Getters<T>): Value | readonly string[] {
  const getter = getters[field];
  if (getter === undefined) throw new Error(`the reference does not know the field ${field}`);
  return getter(object);
}

export function listInMemory<T>(
  objects: readonly T[],
  query: Query,
  getters: Getters<T>,
): { page: T[]; total: number } {
  const found = objects.filter((object) => holds(query.where ?? { all: [] }, object, getters) === true);
  const keys = [...(query.sort ?? [])];
  found.sort((a, b) => {
    for (const { by, order, ignoreCase } of [...keys, { by: 'number', order: keys.at(-1)?.order, ignoreCase: false }]) {
      const [left, right] = [readField(by, a, getters), readField(by, b, getters)];
      if (typeof left === 'object' || typeof right === 'object') {
        const rank = (value: typeof left) => (value === null ? 0 : 1);
        if (left !== null && right !== null) throw new Error(`the reference cannot sort by ${by}`);
        const difference = rank(left) - rank(right);
        if (difference !== 0) return order === 'desc' ? -difference : difference;
        continue;
      }
      const difference = compareValues(left, right, ignoreCase);
      if (difference !== 0) return order === 'desc' ? -difference : difference;
    }
    return 0;
  });
  const offset = query.offset ?? 0;
  const limit = query.limit === undefined ? 100 : (query.limit ?? found.length);
  return { page: found.slice(offset, offset + limit), total: found.length };
}
