/** Lists of snapshots and parts by what is within their names: found among the names that are kept in memory. */
import type { ProjectId } from '../core/ids.ts';
import type { Condition } from '../core/query.ts';
import type { Db } from './catalog.ts';
import { namesContaining } from './name-book.ts';
import { isBeyondText } from './query-condition.ts';

/** Each costs some milliseconds. */
const maxSearches = 6;

/** Numbers of all snapshots that can meet the condition by their names, if they are at most `few`. */
export async function namedCandidates(
  db: Db,
  where: Condition,
  projectId: ProjectId,
  few: number,
): Promise<readonly number[] | undefined> {
  const parts = partsIn(where);
  if (parts === undefined || parts.length > maxSearches) return undefined;
  const numbers = new Set<number>();
  for (const part of parts) {
    const found = await namesContaining(db, projectId, part, few);
    if (found?.numbers === undefined) return undefined;
    for (const number of found.numbers) numbers.add(number);
  }
  return numbers.size > few ? undefined : [...numbers];
}

/** Parts one of which is in every name that meets the condition; undefined when an index knows better, or nothing does. */
function partsIn(condition: Condition): string[] | undefined {
  if (!searchesWithin(condition)) return undefined;
  return partsOf(condition);
}

function partsOf(condition: Condition): string[] | undefined {
  if ('all' in condition) {
    const each = condition.all.flatMap((part) => {
      const parts = partsOf(part);
      return parts === undefined ? [] : [parts];
    });
    // The fewer and longer, the rarer.
    return each.sort((a, b) => a.length - b.length || shortest(b) - shortest(a))[0];
  }
  if ('any' in condition) {
    const each = condition.any.map(partsOf);
    return each.includes(undefined) ? undefined : each.flatMap((parts) => parts ?? []);
  }
  if ('not' in condition || condition.field !== 'name') return undefined;
  switch (condition.op) {
    case 'eq':
      return typeof condition.value === 'string' ? [condition.value] : [];
    case 'contains':
      return isBeyondText(condition.value) ? [] : condition.value === '' ? undefined : [condition.value];
    case 'like': {
      if (isBeyondText(condition.value)) return [];
      const longest = condition.value.split('*').reduce((a, b) => (b.length > a.length ? b : a));
      return longest === '' ? undefined : [longest];
    }
    default:
      return undefined;
  }
}

function shortest(parts: readonly string[]): number {
  return parts.reduce((least, part) => Math.min(least, part.length), Number.POSITIVE_INFINITY);
}

/** Whether anything is looked for that is not at the beginning of a name. */
function searchesWithin(condition: Condition): boolean {
  if ('all' in condition || 'any' in condition)
    return ('all' in condition ? condition.all : condition.any).some(searchesWithin);
  if ('not' in condition || condition.field !== 'name') return false;
  return condition.op === 'contains' || (condition.op === 'like' && condition.value.startsWith('*'));
}
