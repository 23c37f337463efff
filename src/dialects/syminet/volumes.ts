/** Volumes: all drives, attached or free. They have no snapshots of their own here. */
import { CalotypeError } from '../../core/errors.ts';
import type { Drive } from '../../core/model.ts';
import { findSlice, findVolume, ownerNumberOf, type Scope } from './find.ts';
import { type Paging, pageSize } from './parse.ts';
import { type PageAnswer, presentPage, presentVolume } from './present.ts';

export async function listVolumes(scope: Scope, paging: Paging): Promise<PageAnswer<ReturnType<typeof presentVolume>>> {
  const { query: value, offset } = paging;
  const { items, total } = await scope.service.queries.list(scope.caller, 'drive', {
    ...(value === undefined ? {} : { where: { field: 'name', op: 'contains', value } }),
    offset,
    limit: pageSize,
    withTotal: true,
  });
  return presentPage(await presentVolumes(scope, items), total ?? items.length, paging);
}

/** @throws not_found */
export async function getVolume(scope: Scope, asked: string) {
  const [volume] = await presentVolumes(scope, [await findVolume(scope, asked)]);
  return volume;
}

async function presentVolumes(scope: Scope, drives: readonly Drive[]) {
  const { service, caller } = scope;
  const tasks = service.tasks.underWay(
    caller,
    drives.map(({ id }) => id),
  );
  const slices = await service.numbers.numbersOf(
    'machine',
    drives.flatMap(({ attachedTo }) => (attachedTo === null ? [] : [attachedTo.machineId])),
  );
  const askers = await service.numbers.numbersOf(
    'user',
    [...tasks.values()].flat().flatMap(({ userId }) => (userId === null ? [] : [userId])),
  );
  const ownerNumber = await ownerNumberOf(scope);
  return drives.map((drive) => {
    const task = tasks.get(drive.id)?.[0];
    return presentVolume(drive, {
      sliceNumber: drive.attachedTo === null ? null : (slices.get(drive.attachedTo.machineId) ?? null),
      ownerNumber,
      task,
      askerNumber: task?.userId == null ? null : (askers.get(task.userId) ?? null),
    });
  });
}

/** @throws not_found, forbidden, drive_attached, drive_busy */
export async function attachVolume(scope: Scope, volume: string, slice: string): Promise<void> {
  const { id: driveId } = await findVolume(scope, volume);
  const { id } = await findSlice(scope, slice);
  await scope.service.machines.attach(scope.caller, id, { driveId }, { refuseBusy: true });
}

/** @throws not_found, forbidden, drive_not_attached, drive_busy */
export async function detachVolume(scope: Scope, volume: string): Promise<void> {
  const { id, attachedTo } = await findVolume(scope, volume);
  if (attachedTo === null) throw new CalotypeError('drive_not_attached', 'The volume is not attached to a slice.');
  await scope.service.machines.detach(scope.caller, attachedTo.machineId, id, { refuseBusy: true });
}
