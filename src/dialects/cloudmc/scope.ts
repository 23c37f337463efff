/** What a request acts in, and what several entities need of it: lists, names of other objects, objects that may be gone. */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import { type DriveId, type ImageId, isUuid, type MachineId } from '../../core/ids.ts';
import type { Drive } from '../../core/model.ts';
import { always, type Condition, never, type QueryFields, type QueryKind } from '../../core/query.ts';
import type { Caller } from '../../service/caller.ts';
import type { QueriedObjects, Service } from '../../service/interface.ts';
import { readListRequest } from './parse.ts';
import type { Metadata } from './schemas.ts';

export interface Scope {
  readonly service: Service;
  /** In the environment that the path names. */
  readonly caller: Caller;
  readonly request: FastifyRequest;
}

/** Above so many ids all objects are asked for: that is cheaper, and a database takes only so many values. */
const maxIds = 500;

export function oneOf<F extends 'id' | 'driveId' | 'machineId'>(field: F, ids: readonly string[]): Condition<F> {
  return ids.length > maxIds ? always : { field, op: 'in', values: ids };
}

/** What refers to one object; nothing does to what is no id. */
export function withId<F extends 'driveId' | 'machineId'>(field: F, id: string): Condition<F> {
  return isUuid(id) ? { field, op: 'eq', value: id } : never;
}

/** A list as the query string wants it. @throws invalid_request */
export async function readList<K extends QueryKind>(
  scope: Scope,
  kind: K,
  sortable: Readonly<Record<string, Exclude<QueryFields[K], 'tag'>>>,
  where?: Condition<QueryFields[K]>,
): Promise<{ items: readonly QueriedObjects[K][]; metadata: Metadata }> {
  const { page, sort } = readListRequest(scope.request, sortable);
  const { items, total } = await scope.service.queries.list(scope.caller, kind, {
    ...(where === undefined ? {} : { where }),
    ...(sort === null ? {} : { sort: [{ by: sort.by, order: sort.order }] }),
    offset: page === null ? 0 : (page.number - 1) * page.size,
    limit: page?.size ?? null,
    withTotal: page !== null,
  });
  return {
    items,
    metadata: {
      recordCount: total ?? items.length,
      ...(page === null ? {} : { pageSize: page.size, pageCurrent: page.number }),
      ...(sort === null ? {} : { sortField: sort.name, sortOrder: sort.order === 'asc' ? 'ASC' : 'DESC' }),
    },
  };
}

/** Undefined for what is gone, or not the caller's to see. */
export async function orUndefined<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof CalotypeError && error.code === 'not_found') return undefined;
    throw error;
  }
}

export async function instanceNameOf({ service, caller }: Scope, drive: Drive): Promise<string | undefined> {
  const { attachedTo } = drive;
  if (attachedTo === null) return undefined;
  return (await orUndefined(service.machines.get(caller, attachedTo.machineId)))?.name;
}

export async function instanceNames(
  { service, caller }: Scope,
  ids: readonly MachineId[],
): Promise<ReadonlyMap<MachineId, string>> {
  if (ids.length === 0) return new Map();
  const found = await service.queries.list(caller, 'machine', { where: oneOf('id', ids), limit: null });
  return new Map(found.items.map((machine) => [machine.id, machine.name]));
}

export async function imageNames(
  { service, caller }: Scope,
  ids: readonly ImageId[],
): Promise<ReadonlyMap<ImageId, string>> {
  if (ids.length === 0) return new Map();
  const found = await service.queries.list(caller, 'image', { where: oneOf('id', ids), limit: null });
  return new Map(found.items.map((image) => [image.id, image.name]));
}

export function distinct<T extends DriveId | MachineId | ImageId>(ids: readonly (T | null | undefined)[]): T[] {
  return [...new Set(ids.filter((id) => id !== null && id !== undefined))];
}
