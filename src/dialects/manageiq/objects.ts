/** Small things that all collections ask of the service. */
import { CalotypeError } from '../../core/errors.ts';
import type { Condition, QueryFields, QueryKind } from '../../core/query.ts';
import type { Access, QueriedObjects, SharedKind } from '../../service/interface.ts';
import type { Env } from './attributes.ts';

/** What is there, or undefined for what is missing or not the caller's. */
export async function find<T>(get: () => Promise<T>): Promise<T | undefined> {
  try {
    return await get();
  } catch (error) {
    if (error instanceof CalotypeError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** All that meet a condition, in the order of their numbers. */
export async function listAll<K extends QueryKind>(
  env: Env,
  kind: K,
  where: Condition<QueryFields[K]>,
): Promise<readonly QueriedObjects[K][]> {
  const query = { where, limit: null };
  return (await env.context.service.queries.list(env.caller, kind, query)).items;
}

/** The caller's own right on each object that he sees: all but guests may change all of them. */
export async function accessOf(env: Env, kind: SharedKind, ids: readonly string[]): Promise<(id: string) => Access> {
  if (env.caller.role !== 'guest') return () => 'rw';
  const known = await env.context.service.sharing.accessTo(env.caller, kind, ids);
  return (id) => known.get(id) ?? 'ro';
}
