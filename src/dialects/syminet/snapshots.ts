/** Snapshots of slices: listed for the account or for one slice, taken, restored, renamed, deleted. */
import { CalotypeError } from '../../core/errors.ts';
import type { MachineId } from '../../core/ids.ts';
import type { Snapshot } from '../../core/model.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { assertWritable, findSlice, findSliceOrDeparted, findSnapshot, ownerNumberOf, type Scope } from './find.ts';
import { type Paging, pageSize, readSnapshotName } from './parse.ts';
import { type PageAnswer, presentImage, presentImageOfSlice, presentPage, type SourceSlice } from './present.ts';

type SnapshotCondition = Condition<QueryFields['snapshot']>;

/** Of a slice, and not about to go: to this API, deleted is deleted. */
const shown: readonly SnapshotCondition[] = [
  { field: 'machineId', op: 'isNotNull' },
  { field: 'state', op: 'ne', value: 'deleting' },
];

/** All that the caller may see, the oldest first: pages stay as they are while snapshots are taken. */
export async function listImages(scope: Scope, paging: Paging): Promise<PageAnswer<ReturnType<typeof presentImage>>> {
  const { service, caller } = scope;
  const { query: value, offset } = paging;
  const named: SnapshotCondition[] =
    value === undefined
      ? []
      : [
          {
            any: [
              { field: 'name', op: 'contains', value },
              { field: 'machineName', op: 'contains', value },
            ],
          },
        ];
  const where = { all: [...shown, ...named] };
  const { items, total } = await service.queries.list(caller, 'snapshot', {
    where,
    offset,
    limit: pageSize,
    withTotal: true,
  });
  return presentPage(await presentImages(scope, items), total ?? items.length, paging);
}

async function presentImages(scope: Scope, snapshots: readonly Snapshot[]) {
  if (snapshots.length === 0) return [];
  const { service, caller } = scope;
  const ids = snapshots.map(({ id }) => id);
  const access = await service.sharing.accessToShown(caller, 'snapshot', ids);
  const tasks = service.tasks.underWay(caller, ids);
  const slices = await slicesOf(scope, snapshots);
  const ownerNumber = await ownerNumberOf(scope);
  return snapshots.flatMap((snapshot) => {
    const perms = access.get(snapshot.id);
    const slice = snapshot.machine === null ? undefined : slices.get(snapshot.machine.machineId);
    // It went between two questions.
    if (perms === undefined || slice === undefined) return [];
    return [presentImage(snapshot, { perms, slice, ownerNumber, task: tasks.get(snapshot.id)?.[0] })];
  });
}

/** The slices that snapshots were taken of, as they are now, gone ones included. */
async function slicesOf(
  { service, caller }: Scope,
  snapshots: readonly Snapshot[],
): Promise<ReadonlyMap<MachineId, SourceSlice>> {
  const names = new Map<MachineId, string>();
  for (const { machine } of snapshots) if (machine !== null) names.set(machine.machineId, machine.machineName);
  const ids = [...names.keys()];
  const found = await service.queries.list(caller, 'machine', {
    where: { field: 'id', op: 'in', values: ids },
    limit: ids.length,
  });
  const there = new Map(found.items.map((machine) => [machine.id, machine]));
  const access = await service.sharing.accessToShown(caller, 'machine', [...there.keys()]);
  const others = ids.filter((id) => !there.has(id));
  const departed = others.length === 0 ? undefined : await service.machines.departed(caller, others);
  // That its slice is gone is a part of what a snapshot shows, also to who has no right on the slice: so that much is asked
  // for as by a member of the account.
  const asMember = { ...caller, role: 'member' } as const;
  const isGuest = caller.role === 'guest' && others.length > 0;
  const deletions = isGuest ? await service.machines.departed(asMember, others) : departed;
  const numbers = await service.numbers.numbersOf('machine', ids);
  return new Map(
    ids.map((id): [MachineId, SourceSlice] => [
      id,
      {
        number: numbers.get(id) ?? null,
        name: there.get(id)?.name ?? departed?.get(id)?.name ?? names.get(id) ?? '',
        deletedAt: deletions?.get(id)?.deletedAt ?? null,
        perms: access.get(id) ?? null,
      },
    ]),
  );
}

/** @throws not_found */
export async function listImagesOfSlice(scope: Scope, slice: string) {
  const { service, caller } = scope;
  const found = await findSliceOrDeparted(scope, slice);
  const { id } = 'there' in found ? found.there : found.departed;
  const where = { all: [{ field: 'machineId', op: 'eq', value: id }, ...shown] } as const;
  const { items } = await service.queries.list(caller, 'snapshot', { where, limit: null });
  return { data: items.map(presentImageOfSlice) };
}

/** @throws invalid_request, not_found, forbidden, drive_busy */
export async function createSnapshot(scope: Scope, slice: string, body: Buffer): Promise<void> {
  const { service, caller } = scope;
  const { id: machineId } = await findSlice(scope, slice);
  const name = readSnapshotName(body);
  await service.snapshots.createOfMachine(caller, { machineId, name }, { refuseBusy: true });
}

/**
 * Replaces all data of the slice, irrevocably: no snapshot of the state before is kept, as none is asked for.
 * @throws not_found, forbidden, drive_busy, snapshot_not_ready, snapshot_incomplete, drive_too_small
 */
export async function restoreSnapshot(scope: Scope, snapshot: string, slice: string): Promise<void> {
  const { service, caller } = scope;
  const { id } = await findSnapshot(scope, snapshot);
  const { id: machineId, name } = await findSlice(scope, slice);
  await assertWritable(scope, 'snapshot', id);
  try {
    await service.snapshots.revertMachine(caller, id, { machineId, keepSafety: false }, { refuseBusy: true });
  } catch (error) {
    if (!(error instanceof CalotypeError) || error.code !== 'drive_not_attached') throw error;
    throw new CalotypeError('drive_too_small', `The slice ${name} has no disk for all that the snapshot holds.`);
  }
}

/** @throws invalid_request, invalid_name, not_found, forbidden */
export async function renameSnapshot(scope: Scope, snapshot: string, body: Buffer): Promise<void> {
  const { id } = await findSnapshot(scope, snapshot);
  const name = readSnapshotName(body);
  await scope.service.snapshots.update(scope.caller, id, { name });
}

/** @throws not_found, forbidden, snapshot_in_use */
export async function deleteSnapshot(scope: Scope, snapshot: string): Promise<void> {
  const { id } = await findSnapshot(scope, snapshot);
  await scope.service.snapshots.delete(scope.caller, id);
}
