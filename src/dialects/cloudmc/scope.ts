/** What a request acts in, and what several entities need of it: lists, names of other objects, objects that may be gone. */
import type { FastifyRequest } from 'fastify';
import { CalotypeError } from '../../core/errors.ts';
import { type DriveId, type ImageId, isUuid, type MachineId } from '../../core/ids.ts';
import type { Drive, Image, Machine } from '../../core/model.ts';
import { type Condition, never, type QueryFields, type QueryKind } from '../../core/query.ts';
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

/** Single objects are remembered by the service, so that few of them are quicker had one by one than by a list. */
const fewObjects = 100;

async function foundOf<T extends { readonly id: Id }, Id extends string>(
  ids: readonly Id[],
  get: (id: Id) => Promise<T>,
  list: () => Promise<{ readonly items: readonly T[] }>,
): Promise<ReadonlyMap<Id, T>> {
  const found = new Map<Id, T>();
  if (ids.length > fewObjects) {
    for (const item of (await list()).items) found.set(item.id, item);
    return found;
  }
  for (const item of await Promise.all(ids.map((id) => orUndefined(get(id))))) {
    if (item !== undefined) found.set(item.id, item);
  }
  return found;
}

/** Those that are there, and the caller's to see. */
export function findDrives({ service, caller }: Scope, ids: readonly DriveId[]): Promise<ReadonlyMap<DriveId, Drive>> {
  return foundOf(
    ids,
    (id) => service.drives.get(caller, id),
    () => service.queries.list(caller, 'drive', { limit: null }),
  );
}

export function findMachines(
  { service, caller }: Scope,
  ids: readonly MachineId[],
): Promise<ReadonlyMap<MachineId, Machine>> {
  return foundOf(
    ids,
    (id) => service.machines.get(caller, id),
    () => service.queries.list(caller, 'machine', { limit: null }),
  );
}

export function findImages({ service, caller }: Scope, ids: readonly ImageId[]): Promise<ReadonlyMap<ImageId, Image>> {
  return foundOf(
    ids,
    (id) => service.images.get(caller, id),
    () => service.queries.list(caller, 'image', { limit: null }),
  );
}

export function distinct<T extends DriveId | MachineId | ImageId>(ids: readonly (T | null | undefined)[]): T[] {
  return [...new Set(ids.filter((id) => id !== null && id !== undefined))];
}
