/** Conditions on snapshots that say no more than the plain filters do, for which there are ways of their own. */
import type { Comparison, Condition, FieldValue } from '../core/query.ts';
import { isBeyondText } from './query-condition.ts';
import type { SortKey } from './query-rows.ts';
import { allStates, type SnapshotQuery } from './snapshot-filters.ts';
import type { SnapshotSort } from './snapshot-list.ts';

type Filters = Omit<SnapshotQuery, 'visible' | 'projectId' | 'driveId' | 'machineId' | 'totalToo' | 'few'>;
type Draft = { -readonly [K in keyof Filters]: Filters[K] };

/** The filters that a condition comes to; undefined when there is more to it. */
export function filtersOfCondition(where: Condition | undefined): Filters | undefined {
  const draft: Draft = {};
  return where === undefined || add(draft, where) ? draft : undefined;
}

/** @returns false when there is no filter for it */
function add(draft: Draft, condition: Condition): boolean {
  if ('all' in condition) return condition.all.every((part) => add(draft, part));
  const states = statesMeeting(condition, allStates);
  if (states !== undefined) {
    const { states: before = allStates } = draft;
    draft.states = before.filter((state) => states.includes(state));
    return true;
  }
  if ('any' in condition || 'not' in condition) return false;
  const { field, op } = condition;
  if (field === 'createdAt') return addTime(draft, condition);
  if (op === 'eq' && typeof condition.value === 'string') {
    const value = condition.value.toWellFormed();
    if (field === 'name' && draft.name === undefined) draft.name = value;
    else if (field === 'tag' && draft.tag === undefined) draft.tag = value;
    else return false;
    return true;
  }
  if (field !== 'name' || (op !== 'like' && op !== 'contains') || isBeyondText(condition.value)) return false;
  const key = op === 'like' ? 'nameLike' : 'nameContains';
  if (draft[key] !== undefined) return false;
  draft[key] = condition.value.toWellFormed();
  return true;
}

function addTime(draft: Draft, test: Comparison): boolean {
  const value = 'value' in test ? test.value : undefined;
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) return false;
  const { createdFrom = Number.NEGATIVE_INFINITY, createdBefore = Number.POSITIVE_INFINITY } = draft;
  const from = test.op === 'ge' || test.op === 'eq' ? value : test.op === 'gt' ? value + 1 : undefined;
  const before = test.op === 'lt' ? value : test.op === 'le' || test.op === 'eq' ? value + 1 : undefined;
  if (from === undefined && before === undefined) return false;
  if (from !== undefined) draft.createdFrom = Math.max(createdFrom, from);
  if (before !== undefined) draft.createdBefore = Math.min(createdBefore, before);
  return true;
}

/** The states, of all there are, that meet a condition on nothing but the state; undefined when it looks at anything else. */
export function statesMeeting<State extends string>(
  condition: Condition,
  states: readonly State[],
): readonly State[] | undefined {
  const met: State[] = [];
  for (const state of states) {
    const holds = holdsFor(state, condition);
    if (holds === undefined) return undefined;
    if (holds) met.push(state);
  }
  return met;
}

/** A state is never null. */
function holdsFor(state: string, condition: Condition): boolean | undefined {
  if ('not' in condition) {
    const inner = holdsFor(state, condition.not);
    return inner === undefined ? undefined : !inner;
  }
  if ('all' in condition || 'any' in condition) {
    const parts = ('all' in condition ? condition.all : condition.any).map((part) => holdsFor(state, part));
    if (parts.includes(undefined)) return undefined;
    return 'all' in condition ? !parts.includes(false) : parts.includes(true);
  }
  if (condition.field !== 'state') return undefined;
  if (condition.op === 'eq') return condition.value === state;
  if (condition.op === 'ne') return condition.value !== state;
  if (condition.op === 'in') return condition.values.some((value: FieldValue) => value === state);
  return undefined;
}

const byNumberKey: SortKey = { by: 'number' };
const indexed: readonly string[] = ['number', 'name', 'createdAt', 'state'];

/** The one field of an order that an index has; ties go by number, in its direction. */
export function plainOrder(sort: readonly SortKey[] = []): { by: SnapshotSort; order: 'asc' | 'desc' } | undefined {
  const [key = byNumberKey, ...others] = sort;
  const { by, order = 'asc', ignoreCase = false, ranks } = key;
  const byNumber = others.every((other) => other.by === 'number' && (other.order ?? 'asc') === order);
  if (ranks !== undefined || !indexed.includes(by) || !byNumber || (ignoreCase && (by === 'name' || by === 'state')))
    return undefined;
  return { by: by === 'createdAt' ? 'created' : by === 'name' || by === 'state' ? by : 'number', order };
}
