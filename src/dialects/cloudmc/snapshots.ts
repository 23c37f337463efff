/**
 * Snapshots of volumes. One is a drive snapshot, whether it was taken of the volume alone or of a whole machine: its id is
 * the part's, and deleting it removes this part only.
 */
import { CalotypeError, notFound } from '../../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { Task } from '../../core/model.ts';
import { always, type Condition, type QueryFields } from '../../core/query.ts';
import { nowUs } from '../../core/time.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import { fitName } from '../../service/labels.ts';
import { wrongState } from './errors.ts';
import { type Fields, idOf, queryText } from './parse.ts';
import {
  isRoot,
  nameTime,
  presentList,
  presentSnapshot,
  rootMeta,
  snapshotState,
  templateFlags,
  templateTexts,
  volumeTypeOf,
} from './present.ts';
import type { SnapshotBody } from './schemas.ts';
import { distinct, findDrives, instanceNameOf, orUndefined, readList, type Scope, withId } from './scope.ts';
import { assertVolumeReady, checkOffering, findInstanceId, findVolume, sizeOf } from './volumes.ts';

const sortable = {
  id: 'id',
  name: 'name',
  state: 'state',
  volumeId: 'driveId',
  volume: 'driveName',
} as const satisfies Record<string, QueryFields['part']>;

async function findSnapshot({ service, caller }: Scope, text: string): Promise<PartOfSnapshot> {
  const id = idOf<DriveSnapshotId>('drive snapshot', text);
  const snapshot = await service.snapshots.getByPart(caller, id);
  const part = snapshot.parts.find((known) => known.id === id);
  if (part === undefined) throw notFound('drive snapshot', id);
  return { part, snapshot };
}

export async function showSnapshot({ service, caller }: Scope, found: PartOfSnapshot): Promise<SnapshotBody> {
  const { part, snapshot } = found;
  const { driveId } = part;
  const work = snapshot.state === 'creating' ? service.tasks.underWay(caller, [driveId]).get(driveId) : undefined;
  const drive = snapshot.machine === null ? await orUndefined(service.drives.get(caller, driveId)) : undefined;
  return presentSnapshot(found, work, volumeTypeOf(found, drive));
}

export async function getSnapshot(scope: Scope, id: string): Promise<object> {
  return { data: await showSnapshot(scope, await findSnapshot(scope, id)) };
}

export async function listSnapshots(scope: Scope): Promise<object> {
  const { request, service } = scope;
  const volumeId = queryText(request, 'volume_id');
  const where: Condition<QueryFields['part']> = volumeId === undefined ? always : withId('driveId', volumeId);
  const { items, metadata } = await readList(scope, 'part', sortable, where);
  // A snapshot of a machine knows the slot of its volume.
  const alone = items.filter(({ snapshot }) => snapshot.machine === null);
  const drives = await findDrives(scope, distinct<DriveId>(alone.map(({ part }) => part.driveId)));
  const work = service.tasks.underWay(scope.caller, distinct<DriveId>(items.map(({ part }) => part.driveId)));
  return presentList(
    items.map((found) => {
      const { driveId } = found.part;
      return presentSnapshot(found, work.get(driveId), volumeTypeOf(found, drives.get(driveId)));
    }),
    metadata,
  );
}

/** How often a made-up name may be taken by another that was made up in the same second. */
const nameAttempts = 60;
const secondUs = 1_000_000;

/** @param fields those of the snapshot, at the top of the body or nested */
export async function createSnapshot(scope: Scope, fields: Fields, volumeId: string): Promise<Task> {
  const { service, caller } = scope;
  const name = fields.text('name');
  // Snapshots are kept beside their volume; there is no other storage that one could be put on.
  if (fields.flag('rapid') === false) {
    throw new CalotypeError('not_supported', 'There is no secondary storage here: take a rapid snapshot.', {
      field: 'rapid',
    });
  }
  const drive = await findVolume(scope, volumeId);
  assertVolumeReady(scope, drive);
  const create = async (named: string): Promise<Task> => {
    const input = { driveIds: [drive.id], name: named, ...(isRoot(drive) ? { meta: rootMeta } : {}) };
    return (await service.snapshots.create(caller, input, { refuseExistingName: true })).task;
  };
  if (name !== undefined) return create(name);
  const instanceName = await instanceNameOf(scope, drive);
  const start = instanceName === undefined ? drive.name : `${instanceName}_${drive.name}`;
  for (let at = nowUs(), attempt = 1; ; at += secondUs, attempt++) {
    try {
      return await create(fitName(start, `_${nameTime(at)}`));
    } catch (error) {
      const taken = error instanceof CalotypeError && error.code === 'name_taken';
      if (!taken || attempt === nameAttempts) throw error;
    }
  }
}

export async function deleteSnapshot(scope: Scope, id: string): Promise<Task> {
  const { part, snapshot } = await findSnapshot(scope, id);
  return scope.service.snapshots.delete(scope.caller, snapshot.id, { parts: [part.id] });
}

/** @throws snapshot_not_ready as the one published error has it, with the id that the snapshot has here */
function assertBackedUp({ service, caller }: Scope, found: PartOfSnapshot): void {
  const { id, driveId } = found.part;
  const currentState = snapshotState(found, service.tasks.underWay(caller, [driveId]).get(driveId));
  if (currentState === 'BackedUp') return;
  const state = { type: 'snapshots', id, currentState, expectedStates: ['BackedUp'] } as const;
  throw wrongState('The snapshot must be backed up', state);
}

async function revert(scope: Scope, { part }: PartOfSnapshot): Promise<Task> {
  const { service, caller } = scope;
  assertVolumeReady(scope, await service.drives.get(caller, part.driveId));
  return service.drives.revert(caller, part.driveId, { driveSnapshotId: part.id });
}

async function createVolume(scope: Scope, { part, snapshot }: PartOfSnapshot, fields: Fields): Promise<Task> {
  const { service, caller } = scope;
  checkOffering(fields);
  const name = fields.text('name');
  const sizeBytes = sizeOf(fields);
  const instance = fields.text('instanceId');
  const attachTo = instance === undefined ? undefined : await findInstanceId(scope, instance);
  const { task } = await service.snapshots.clone(caller, snapshot.id, {
    part: part.id,
    ...(name === undefined ? {} : { name }),
    ...(sizeBytes === undefined ? {} : { sizeBytes }),
    ...(attachTo === undefined ? {} : { attachTo }),
  });
  return task;
}

async function createTemplate(scope: Scope, { part, snapshot }: PartOfSnapshot, fields: Fields): Promise<Task> {
  const { service, caller } = scope;
  if (fields.flag('availablePublicly') === true) {
    throw new CalotypeError('not_supported', 'A template belongs to its environment.', { field: 'availablePublicly' });
  }
  const meta: Record<string, string> = {};
  for (const name of templateTexts) {
    const value = fields.text(name);
    if (value !== undefined) meta[name] = value;
  }
  for (const name of templateFlags) {
    const value = fields.flag(name);
    if (value !== undefined) meta[name] = String(value);
  }
  const name = fields.text('name');
  const description = fields.text('description');
  const { task } = await service.images.create(caller, {
    snapshotId: snapshot.id,
    part: part.id,
    meta,
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
  });
  return task;
}

const operations = { revert, createVolume, createTemplate };

export const snapshotOperations = Object.fromEntries(
  Object.entries(operations).map(([name, operate]) => [
    name,
    async (scope: Scope, id: string, fields: Fields) => {
      const found = await findSnapshot(scope, id);
      assertBackedUp(scope, found);
      return operate(scope, found, fields);
    },
  ]),
);
