/** Volumes: drives, with the instance that they are attached to. */
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, MachineId } from '../../core/ids.ts';
import type { Drive, Task } from '../../core/model.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { wrongState } from './errors.ts';
import { diskOffering, zone } from './fixed.ts';
import { type Fields, idOf, queryText } from './parse.ts';
import { GiB, presentList, presentVolume, volumeState } from './present.ts';
import type { VolumeBody } from './schemas.ts';
import { distinct, findMachines, instanceNameOf, readList, type Scope, withId } from './scope.ts';

const sortable = {
  id: 'id',
  name: 'name',
  state: 'state',
  sizeInGb: 'sizeBytes',
  creationDate: 'createdAt',
  instanceId: 'machineId',
  instanceName: 'machineName',
} as const satisfies Record<string, QueryFields['drive']>;

export function findVolume({ service, caller }: Scope, text: string): Promise<Drive> {
  return service.drives.get(caller, idOf<DriveId>('drive', text));
}

export async function listVolumes(scope: Scope): Promise<object> {
  const { request, service } = scope;
  const conditions: Condition<QueryFields['drive']>[] = [];
  const type = queryText(request, 'type')?.toLowerCase();
  if (type === 'os') conditions.push({ field: 'slot', op: 'eq', value: 0 });
  else if (type === 'data') {
    conditions.push({
      any: [
        { field: 'slot', op: 'ne', value: 0 },
        { field: 'slot', op: 'isNull' },
      ],
    });
  } else if (type !== undefined) {
    throw new CalotypeError('invalid_request', 'The parameter type is os or data.', { field: 'type' });
  }
  const instanceId = queryText(request, 'instance_id');
  if (instanceId !== undefined) conditions.push(withId('machineId', instanceId));
  const { items, metadata } = await readList(scope, 'drive', sortable, { all: conditions });
  const instances = await findMachines(scope, distinct<MachineId>(items.map((drive) => drive.attachedTo?.machineId)));
  const work = service.tasks.underWay(
    scope.caller,
    items.map((drive) => drive.id),
  );
  const nameOf = ({ attachedTo }: Drive) =>
    attachedTo === null ? undefined : instances.get(attachedTo.machineId)?.name;
  return presentList(
    items.map((drive) => presentVolume(drive, work.get(drive.id), nameOf(drive))),
    metadata,
  );
}

export async function showVolume(scope: Scope, drive: Drive): Promise<VolumeBody> {
  const work = scope.service.tasks.underWay(scope.caller, [drive.id]).get(drive.id);
  return presentVolume(drive, work, await instanceNameOf(scope, drive));
}

export async function getVolume(scope: Scope, id: string): Promise<object> {
  return { data: await showVolume(scope, await findVolume(scope, id)) };
}

/** @throws drive_not_ready as the one published error has it */
export function assertVolumeReady({ service, caller }: Scope, drive: Drive): void {
  const currentState = volumeState(drive, service.tasks.underWay(caller, [drive.id]).get(drive.id));
  if (currentState === 'Ready') return;
  const state = { type: 'volumes', id: drive.id, currentState, expectedStates: ['Ready'] } as const;
  throw wrongState('The volume must be ready', state);
}

/** Whole GB, as bytes. @throws invalid_request, invalid_size */
export function sizeOf(fields: Fields): number | undefined {
  const sizeInGb = fields.integer('sizeInGb');
  if (sizeInGb === undefined) return undefined;
  if (Number.isSafeInteger(sizeInGb * GiB)) return sizeInGb * GiB;
  throw new CalotypeError('invalid_size', 'The size is too large.', { field: 'sizeInGb' });
}

/** There is one offering, for any size. @throws not_found, invalid_request */
export function checkOffering(fields: Fields): void {
  const offering = fields.text('diskOfferingId');
  if (offering !== undefined && offering !== diskOffering.id) {
    throw new CalotypeError('not_found', undefined, { kind: 'disk offering', id: offering, field: 'diskOfferingId' });
  }
  if (fields.integer('iops') !== undefined) {
    throw new CalotypeError('invalid_request', 'The disk offering has no custom IOPS.', { field: 'iops' });
  }
}

/** @throws not_found */
function checkZone(fields: Fields): void {
  const zoneId = fields.text('zoneId');
  if (zoneId === undefined || zoneId === '' || zoneId === zone.id) return;
  throw new CalotypeError('not_found', undefined, { kind: 'zone', id: zoneId });
}

/** @throws not_found for an instance that is none, so that nothing is begun */
export async function findInstanceId({ service, caller }: Scope, text: string): Promise<MachineId> {
  return (await service.machines.get(caller, idOf<MachineId>('machine', text))).id;
}

export async function createVolume(scope: Scope, fields: Fields): Promise<Task> {
  const { service, caller } = scope;
  const name = fields.requiredText('name');
  fields.requiredText('diskOfferingId');
  const instance = fields.requiredText('instanceId');
  checkOffering(fields);
  checkZone(fields);
  const sizeBytes = sizeOf(fields);
  if (sizeBytes === undefined) {
    throw new CalotypeError('invalid_request', 'The field sizeInGb is missing; the disk offering has a custom size.', {
      field: 'sizeInGb',
    });
  }
  const attachTo = await findInstanceId(scope, instance);
  return (await service.drives.create(caller, { name, sizeBytes, attachTo })).task;
}

export async function deleteVolume(scope: Scope, id: string): Promise<Task> {
  const drive = await findVolume(scope, id);
  // Snapshots outlive their volume.
  return scope.service.drives.delete(scope.caller, drive.id, { snapshots: 'keep' });
}

async function attachToInstance(scope: Scope, drive: Drive, fields: Fields): Promise<Task> {
  const machineId = await findInstanceId(scope, fields.requiredText('instanceId'));
  assertVolumeReady(scope, drive);
  return scope.service.machines.attach(scope.caller, machineId, { driveId: drive.id });
}

async function detachFromInstance(scope: Scope, drive: Drive): Promise<Task> {
  assertVolumeReady(scope, drive);
  if (drive.attachedTo === null) {
    throw new CalotypeError('drive_not_attached', 'The volume is not attached to an instance.', { driveId: drive.id });
  }
  return scope.service.machines.detach(scope.caller, drive.attachedTo.machineId, drive.id);
}

async function resize(scope: Scope, drive: Drive, fields: Fields): Promise<Task> {
  checkOffering(fields);
  const sizeBytes = sizeOf(fields);
  if (sizeBytes === undefined) {
    throw new CalotypeError('invalid_request', 'The field sizeInGb is missing.', { field: 'sizeInGb' });
  }
  assertVolumeReady(scope, drive);
  return scope.service.drives.resize(scope.caller, drive.id, sizeBytes);
}

export const volumeOperations = { attachToInstance, detachFromInstance, resize };
