/** From ids in addresses and parameters to objects, and whole lists: this dialect has no pages. */
import type { Condition, QueryFields, QueryKind } from '../../core/query.ts';
import type { Caller } from '../../service/caller.ts';
import type { NumberedIds, QueriedObjects, Service } from '../../service/interface.ts';
import { Refusal } from './errors.ts';
import { type IdKind, numberIn } from './parse.ts';

/** The text is that of what is not there at all, whatever the reason. */
export function notThere(): Refusal {
  return new Refusal('not_found', { status: 404 });
}

/** @throws the refusal for an id that is none, or of nothing */
export async function objectId<K extends IdKind>(
  service: Service,
  kind: K,
  id: string,
  refusal: () => Refusal = notThere,
): Promise<NumberedIds[K]> {
  const number = numberIn(kind, id);
  const found = number === undefined ? undefined : await service.numbers.idOf(kind, number);
  if (found === undefined) throw refusal();
  return found;
}

/** All that meet a condition, in the order of their numbers. */
export async function listAll<K extends QueryKind>(
  service: Service,
  caller: Caller,
  kind: K,
  where: Condition<QueryFields[K]>,
): Promise<readonly QueriedObjects[K][]> {
  return (await service.queries.list(caller, kind, { where, limit: null })).items;
}
