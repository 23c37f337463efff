/**
 * Finds what a request names by number. What the caller may not see is answered in the same words as what is not there, so
 * that the service's own words, which name ids, do not get out.
 */
import { CalotypeError } from '../../core/errors.ts';
import type { Drive, Machine, Snapshot } from '../../core/model.ts';
import type { Caller } from '../../service/caller.ts';
import type { DepartedMachine, NumberedIds, Service } from '../../service/interface.ts';
import { readNumber } from './parse.ts';

/** Who asks, and of whom. */
export interface Scope {
  readonly service: Service;
  readonly caller: Caller;
}

export function missing(noun: 'slice' | 'snapshot' | 'backup' | 'volume' | 'user', asked: string): CalotypeError {
  return new CalotypeError('not_found', `There is no ${noun} ${asked}.`, { noun });
}

async function idOf<K extends keyof NumberedIds>(
  { service }: Scope,
  kind: K,
  asked: string,
): Promise<NumberedIds[K] | undefined> {
  const number = readNumber(asked);
  return number === undefined ? undefined : service.numbers.idOf(kind, number);
}

/** Undefined instead of `not_found`. */
async function ifThere<T>(getting: Promise<T>): Promise<T | undefined> {
  try {
    return await getting;
  } catch (error) {
    if (error instanceof CalotypeError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** @throws not_found */
export async function findSlice(scope: Scope, asked: string): Promise<Machine> {
  const id = await idOf(scope, 'machine', asked);
  const machine = id === undefined ? undefined : await ifThere(scope.service.machines.get(scope.caller, id));
  if (machine === undefined) throw missing('slice', asked);
  return machine;
}

/** One that was deleted is there as long as there are snapshots of it. @throws not_found */
export async function findSliceOrDeparted(
  scope: Scope,
  asked: string,
): Promise<{ there: Machine } | { departed: DepartedMachine }> {
  const { service, caller } = scope;
  const id = await idOf(scope, 'machine', asked);
  if (id === undefined) throw missing('slice', asked);
  const there = await ifThere(service.machines.get(caller, id));
  if (there !== undefined) return { there };
  const departed = (await service.machines.departed(caller, [id])).get(id);
  if (departed === undefined) throw missing('slice', asked);
  return { departed };
}

/** A snapshot of a slice; one that is being deleted is gone. @throws not_found */
export async function findSnapshot(scope: Scope, asked: string): Promise<Snapshot> {
  const id = await idOf(scope, 'snapshot', asked);
  const snapshot = id === undefined ? undefined : await ifThere(scope.service.snapshots.get(scope.caller, id));
  if (snapshot === undefined || snapshot.machine === null || snapshot.state === 'deleting') {
    throw missing('snapshot', asked);
  }
  return snapshot;
}

/** @throws not_found */
export async function findVolume(scope: Scope, asked: string): Promise<Drive> {
  const id = await idOf(scope, 'drive', asked);
  const drive = id === undefined ? undefined : await ifThere(scope.service.drives.get(scope.caller, id));
  if (drive === undefined) throw missing('volume', asked);
  return drive;
}

/** @throws forbidden */
export async function assertWritable(
  { service, caller }: Scope,
  kind: 'machine' | 'snapshot',
  id: string,
): Promise<void> {
  if ((await service.sharing.accessToShown(caller, kind, [id])).get(id) === 'rw') return;
  throw new CalotypeError('forbidden', undefined, { needs: 'rw' });
}

/** Slices, snapshots and volumes belong to the account, not to one of its users: what stands for it is the project's number. */
export async function ownerNumberOf({ service, caller }: Scope): Promise<number | null> {
  const { projectId } = caller;
  return (await service.numbers.numbersOf('project', [projectId])).get(projectId) ?? null;
}
