/** The model's objects as CloudMC shows them. Sizes in GB (2^30 bytes), rounded up; a key without a value is left out. */
import type { Drive, Image, Machine, Task, TaskKind } from '../../core/model.ts';
import { isoFromUs } from '../../core/time.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import { computeOffering, diskOffering, network, zone } from './fixed.ts';
import type { InstanceBody, Metadata, SingleInstanceBody, SnapshotBody, TemplateBody, VolumeBody } from './schemas.ts';

export const GiB = 1024 ** 3;
export const MiB = 1024 ** 2;

/** `2031-04-09T16:20:05.004210+00:00` */
export function zonedTime(us: number): string {
  return `${isoFromUs(us).slice(0, -1)}+00:00`;
}

/** `2031-04-09T16:20:05+0000` */
export function compactZonedTime(us: number): string {
  return `${isoFromUs(us).slice(0, 19)}+0000`;
}

/** `20310409162005`, as it ends the names that are made up. */
export function nameTime(us: number): string {
  return isoFromUs(us).slice(0, 19).replace(/[-:T]/g, '');
}

/** The drive that a machine starts from is its root volume. */
const rootSlot = 0;

export function isRoot(drive: Pick<Drive, 'attachedTo'>): boolean {
  return drive.attachedTo?.slot === rootSlot;
}

export function rootOf(machine: Machine) {
  return machine.drives.find((drive) => drive.slot === rootSlot)?.driveId;
}

type Work = readonly Pick<Task, 'kind' | 'objectId' | 'progress'>[];
const noWork: Work = [];

const volumeStateOfWork: Partial<Record<TaskKind, VolumeBody['state']>> = {
  'snapshot.create': 'Snapshotting',
  'machine.snapshot': 'Snapshotting',
  'drive.revert': 'RevertSnapshotting',
  'snapshot.revert': 'RevertSnapshotting',
  'machine.revert': 'RevertSnapshotting',
  'drive.resize': 'Resizing',
};

export function volumeState(drive: Drive, work: Work = noWork): VolumeBody['state'] {
  if (drive.state === 'creating') return 'Creating';
  if (drive.state === 'deleting' || drive.state === 'deleted') return 'Destroying';
  // CloudStack has no state for one that could not be made; such a one stays allocated and can only be deleted.
  if (drive.state === 'error') return 'Allocated';
  for (const { kind } of work) {
    const state = volumeStateOfWork[kind];
    if (state !== undefined) return state;
    // The drives that are in the machine already have part in the task, too.
    if (kind === 'machine.attach' && drive.attachedTo === null) return 'Attaching';
  }
  return 'Ready';
}

/** @param instanceName of the machine that it is attached to, as far as the caller may know it */
export function presentVolume(drive: Drive, work: Work | undefined, instanceName: string | undefined): VolumeBody {
  const { attachedTo } = drive;
  return {
    id: drive.id,
    name: drive.name,
    type: isRoot(drive) ? 'os' : 'data',
    creationDate: compactZonedTime(drive.createdAt),
    state: volumeState(drive, work),
    sizeInGb: Math.max(1, Math.ceil(drive.sizeBytes / GiB)),
    ...(attachedTo === null || instanceName === undefined ? {} : { instanceId: attachedTo.machineId, instanceName }),
    zoneId: zone.id,
    zoneName: zone.name,
    diskOfferingId: diskOffering.id,
    diskOfferingName: diskOffering.name,
  };
}

export function snapshotState({ snapshot }: PartOfSnapshot, work: Work = noWork): SnapshotBody['state'] {
  switch (snapshot.state) {
    case 'available':
      return 'BackedUp';
    case 'error':
      return 'Error';
    case 'deleting':
      return 'Destroying';
    case 'creating':
      // The instant is taken; what is left is to bring the memory that belongs to it to the disk.
      return work.some((task) => task.objectId === snapshot.id && task.progress.unit === 'bytes')
        ? 'BackingUp'
        : 'Creating';
  }
}

/** Kept with a snapshot of a root volume alone, which outlives the instance that made the volume one. */
export const rootMeta = { volumeType: 'ROOT' } as const;

/**
 * The root volume of the instance that a snapshot is of, or of the instance that the volume was in when the snapshot was
 * taken here; for one that was taken elsewhere, of the instance that the volume is in now.
 */
export function volumeTypeOf({ part, snapshot }: PartOfSnapshot, drive: Drive | undefined): SnapshotBody['volumeType'] {
  if (snapshot.machine === null && snapshot.meta.volumeType === rootMeta.volumeType) return 'ROOT';
  const slot = snapshot.machine?.slots.find((known) => known.driveId === part.driveId)?.slot ?? drive?.attachedTo?.slot;
  return slot === rootSlot ? 'ROOT' : 'DATADISK';
}

export function presentSnapshot(
  found: PartOfSnapshot,
  work: Work | undefined,
  volumeType: SnapshotBody['volumeType'],
): SnapshotBody {
  const { part, snapshot } = found;
  return {
    id: part.id,
    name: snapshot.name,
    state: snapshotState(found, work),
    intervalType: 'MANUAL',
    volumeId: part.driveId,
    volume: part.driveName,
    volumeType,
  };
}

export function instanceState(machine: Machine, work: Work = noWork): InstanceBody['state'] {
  if (machine.state === 'creating') return 'Starting';
  if (machine.state === 'deleting') return 'Destroyed';
  if (machine.state === 'error') return 'Error';
  for (const { kind } of work) {
    if (kind === 'machine.stop') return 'Stopping';
    if (kind === 'machine.start') return 'Starting';
  }
  // A guest that stands still has its process, memory and drives as one that runs.
  return machine.power === 'off' ? 'Stopped' : 'Running';
}

/** @param imageName of the template that it was made from, if that is still there for the caller */
export function presentInstance(machine: Machine, work: Work | undefined, imageName: string | undefined): InstanceBody {
  const { imageId, hardware } = machine;
  const image =
    imageId === null || imageName === undefined
      ? {}
      : { imageId, imageName, templateId: imageId, templateName: imageName };
  return {
    id: machine.id,
    name: machine.name,
    state: instanceState(machine, work),
    hostname: machine.name,
    ...image,
    cpuCount: hardware.cpus,
    memoryInMB: Math.round(hardware.memoryBytes / MiB),
    computeOfferingId: computeOffering.id,
    computeOfferingName: computeOffering.name,
    macAddress: hardware.macAddress,
    networkId: network.id,
    networkName: network.name,
    zoneId: zone.id,
    zoneName: zone.name,
    isPasswordEnabled: false,
    isSshKeyEnabled: false,
    affinityGroupIds: [],
  };
}

/** With what only a single read shows. */
export function presentSingleInstance(...given: Parameters<typeof presentInstance>): SingleInstanceBody {
  const instance = presentInstance(...given);
  const { macAddress, networkId, networkName } = instance;
  return { ...instance, userData: '', publicIps: [], nics: [{ macAddress, networkId, networkName, isDefault: true }] };
}

/** What a template says of the system in it. Kept with the image; nothing here depends on it. */
export const templateTexts = ['osTypeId', 'osTypeName', 'defaultUsername'] as const;
export const templateFlags = ['dynamicallyScalable', 'extractable', 'sshKeyEnabled'] as const;

export function presentTemplate(image: Image): TemplateBody {
  const { meta } = image;
  const texts: Partial<Record<(typeof templateTexts)[number], string>> = {};
  for (const name of templateTexts) {
    const value = Object.hasOwn(meta, name) ? meta[name] : undefined;
    if (value !== undefined) texts[name] = value;
  }
  const isSet = (name: (typeof templateFlags)[number]): boolean => Object.hasOwn(meta, name) && meta[name] === 'true';
  return {
    id: image.id,
    name: image.name,
    description: image.description,
    size: image.sizeBytes,
    ready: image.state === 'available',
    availablePublicly: false,
    created: compactZonedTime(image.createdAt),
    ...texts,
    zoneId: zone.id,
    zoneName: zone.name,
    availableInZones: [zone.id],
    hypervisor: 'KVM',
    format: 'QCOW2',
    dynamicallyScalable: isSet('dynamicallyScalable'),
    extractable: isSet('extractable'),
    sshKeyEnabled: isSet('sshKeyEnabled'),
  };
}

export function presentList(data: readonly object[], metadata: Metadata = { recordCount: data.length }) {
  return { data, metadata };
}
