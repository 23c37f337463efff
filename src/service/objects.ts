/** Catalog rows as objects of the model. */
import type { DriveRecord } from '../catalog/drives.ts';
import type { ImageRecord } from '../catalog/images.ts';
import type { MachineRecord, MachineSnapshotRecord } from '../catalog/machines.ts';
import type { DepartedMachineRow, EventRow } from '../catalog/schema.ts';
import type { SnapshotRecord } from '../catalog/snapshots.ts';
import type { DriveSnapshotId } from '../core/ids.ts';
import type {
  CatalogEvent,
  Drive,
  DriveSnapshot,
  Image,
  Machine,
  MachineRuntime,
  MachineSnapshot,
  Meta,
  Snapshot,
} from '../core/model.ts';
import type { DepartedMachine } from './interface.ts';
import { parseStoredError } from './task-view.ts';

const noMeta: Meta = {};
const noSizes: ReadonlyMap<DriveSnapshotId, number> = new Map();

export function parseMeta(json: string): Meta {
  return json === '{}' ? noMeta : JSON.parse(json);
}

export function toDrive(row: DriveRecord): Drive {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    name: row.name,
    description: row.description,
    sizeBytes: row.size_bytes,
    state: row.state,
    meta: parseMeta(row.meta_json),
    tags: row.tags,
    error: parseStoredError(row.error_json),
    basedOn: row.based_on,
    sourceId: row.source_id,
    imageId: row.image_id,
    snapshotCount: row.snapshot_count,
    exported: row.export_count > 0,
    attachedTo:
      row.machine_id === null || row.machine_slot === null
        ? null
        : { machineId: row.machine_id, slot: row.machine_slot },
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  };
}

/** `fresh` outranks the sizes stored with the parts. */
export function toSnapshot(row: SnapshotRecord, fresh: ReadonlyMap<DriveSnapshotId, number> = noSizes): Snapshot {
  let total: number | null = 0;
  const parts: DriveSnapshot[] = [];
  for (const part of row.parts) {
    const sizeBytes = row.state === 'creating' ? null : (fresh.get(part.id) ?? part.changed_bytes);
    total = total === null || sizeBytes === null ? null : total + sizeBytes;
    parts.push({
      id: part.id,
      number: part.number,
      snapshotId: part.snapshot_id,
      driveId: part.drive_id,
      driveName: part.drive_name,
      parentId: part.parent_id,
      virtualBytes: part.size_bytes,
      sizeBytes,
      current: part.drive_based_on === part.id,
    });
  }
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    name: row.name,
    description: row.description,
    state: row.state,
    meta: parseMeta(row.meta_json),
    tags: row.tags,
    error: parseStoredError(row.error_json),
    origin: row.origin,
    consistency: row.consistency,
    complete: row.complete === 1,
    parts,
    machine: row.machine === null ? null : toMachineSnapshot(row.machine),
    sizeBytes: total,
    createdBy: row.created_by,
    createdAt: row.created_at,
    availableAt: row.available_at,
    updatedAt: row.updated_at,
    version: row.version,
  };
}

function toMachineSnapshot(row: MachineSnapshotRecord): MachineSnapshot {
  const { memory } = row;
  return {
    machineId: row.machine_id,
    machineName: row.machine_name,
    parentId: row.parent_id,
    current: row.current,
    power: row.power,
    hardware: JSON.parse(row.hardware_json),
    slots: JSON.parse(row.slots_json),
    excluded: JSON.parse(row.excluded_json),
    reason: row.reason,
    frozenUs: row.frozen_us,
    pauseUs: row.pause_us,
    memory:
      memory === null
        ? null
        : { method: memory.method, streamBytes: memory.stream_bytes, storedBytes: memory.stored_bytes },
  };
}

/** `runtime` is what is known of its process now. */
export function toMachine(row: MachineRecord, runtime: MachineRuntime | null): Machine {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    name: row.name,
    description: row.description,
    kind: row.kind,
    managed: row.managed === 1,
    state: row.state,
    power: runtime?.power ?? row.power,
    hardware: JSON.parse(row.hardware_json),
    boot: JSON.parse(row.boot_json),
    drives: row.slots,
    meta: parseMeta(row.meta_json),
    tags: row.tags,
    error: parseStoredError(row.error_json),
    basedOn: row.based_on,
    sourceId: row.source_id,
    imageId: row.image_id,
    snapshotCount: row.snapshot_count,
    runtime,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  };
}

export function toDepartedMachine(row: DepartedMachineRow): DepartedMachine {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    name: row.name,
    kind: row.kind,
    createdAt: row.created_at,
    deletedAt: row.deleted_at,
  };
}

export function toImage(row: ImageRecord): Image {
  return {
    id: row.id,
    number: row.number,
    projectId: row.project_id,
    name: row.name,
    description: row.description,
    kind: row.kind,
    state: row.state,
    meta: parseMeta(row.meta_json),
    tags: row.tags,
    error: parseStoredError(row.error_json),
    sizeBytes: row.size_bytes,
    consistency: row.consistency,
    drives: row.parts.map((part) => ({ slot: part.slot, name: part.drive_name, sizeBytes: part.size_bytes })),
    machine: row.machine_json === null ? null : JSON.parse(row.machine_json),
    sourceId: row.source_id,
    cloneCount: row.clone_count,
    createdBy: row.created_by,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  };
}

export function toEvent(row: EventRow): CatalogEvent {
  return {
    seq: row.seq,
    at: row.at,
    projectId: row.project_id,
    userId: row.user_id,
    via: row.via,
    kind: row.kind,
    objectKind: row.object_kind,
    objectId: row.object_id,
    detail: JSON.parse(row.detail_json),
  };
}
