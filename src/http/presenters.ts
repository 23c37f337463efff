/** From the model to JSON: times as ISO 8601, optional totals, nothing else. */
import type { StoredError } from '../core/errors.ts';
import type {
  CatalogEvent,
  Drive,
  DriveExport,
  DriveSnapshot,
  Image,
  Machine,
  MachineSnapshot,
  Snapshot,
  Task,
} from '../core/model.ts';
import { isoFromUs, nowUs } from '../core/time.ts';
import type { Page, SnapshotNode } from '../service/interface.ts';
import type {
  DriveBody,
  DriveSnapshotBody,
  EventBody,
  ExportBody,
  ImageBody,
  MachineBody,
  MachineSnapshotBody,
  PageBody,
  SnapshotBody,
  SnapshotNodeBody,
  TaskBody,
  TaskErrorBody,
} from './schemas.ts';

export const isoOrNull = (us: number | null): string | null => (us === null ? null : isoFromUs(us));

/** What is not in the catalogue of errors may quote paths and internals: only the code leaves. */
function presentError(error: StoredError | null): TaskErrorBody | null {
  if (error === null) return null;
  if (error.code === 'internal') return { code: 'internal', message: 'Internal error.', details: {} };
  return { code: error.code, message: error.message, details: error.details };
}

export function presentDrive(drive: Drive): DriveBody {
  return {
    id: drive.id,
    number: drive.number,
    projectId: drive.projectId,
    name: drive.name,
    description: drive.description,
    sizeBytes: drive.sizeBytes,
    state: drive.state,
    meta: drive.meta,
    tags: drive.tags,
    error: presentError(drive.error),
    basedOn: drive.basedOn,
    sourceId: drive.sourceId,
    imageId: drive.imageId,
    snapshotCount: drive.snapshotCount,
    exported: drive.exported,
    attachedTo: drive.attachedTo,
    createdAt: isoFromUs(drive.createdAt),
    updatedAt: isoFromUs(drive.updatedAt),
    version: drive.version,
  };
}

export function presentMachine(machine: Machine): MachineBody {
  const { runtime } = machine;
  return {
    ...machine,
    hardware: { ...machine.hardware },
    boot: machine.boot,
    error: presentError(machine.error),
    runtime:
      runtime === null
        ? null
        : {
            pid: runtime.pid,
            accelerator: runtime.accelerator,
            qemuVersion: runtime.qemuVersion,
            startedAt: isoFromUs(runtime.startedAt),
            uptimeSeconds: Math.max(0, Math.floor((nowUs() - runtime.startedAt) / 1e6)),
          },
    createdAt: isoFromUs(machine.createdAt),
    updatedAt: isoFromUs(machine.updatedAt),
  };
}

const millisecondsOf = (us: number | null): number | null => (us === null ? null : us / 1000);

function presentMachineSnapshot({ frozenUs, pauseUs, ...snapshot }: MachineSnapshot): MachineSnapshotBody {
  return {
    ...snapshot,
    frozenMilliseconds: millisecondsOf(frozenUs),
    pauseMilliseconds: millisecondsOf(pauseUs),
  };
}

export function presentPart(part: DriveSnapshot): DriveSnapshotBody {
  return {
    id: part.id,
    number: part.number,
    snapshotId: part.snapshotId,
    driveId: part.driveId,
    driveName: part.driveName,
    parentId: part.parentId,
    virtualBytes: part.virtualBytes,
    sizeBytes: part.sizeBytes,
    current: part.current,
  };
}

export function presentSnapshot(snapshot: Snapshot): SnapshotBody {
  return {
    id: snapshot.id,
    number: snapshot.number,
    projectId: snapshot.projectId,
    name: snapshot.name,
    description: snapshot.description,
    state: snapshot.state,
    meta: snapshot.meta,
    tags: snapshot.tags,
    error: presentError(snapshot.error),
    origin: snapshot.origin,
    consistency: snapshot.consistency,
    complete: snapshot.complete,
    parts: snapshot.parts.map(presentPart),
    machine: snapshot.machine === null ? null : presentMachineSnapshot(snapshot.machine),
    sizeBytes: snapshot.sizeBytes,
    createdBy: snapshot.createdBy,
    createdAt: isoFromUs(snapshot.createdAt),
    availableAt: isoOrNull(snapshot.availableAt),
    updatedAt: isoFromUs(snapshot.updatedAt),
    version: snapshot.version,
  };
}

export function presentImage(image: Image): ImageBody {
  return {
    ...image,
    error: presentError(image.error),
    createdAt: isoFromUs(image.createdAt),
    updatedAt: isoFromUs(image.updatedAt),
  };
}

/**
 * The tree as a flat list in drawing order: every node comes after its parent and before its parent's next child. A chain of
 * thousands of snapshots would be thousands of levels of nested JSON, which few parsers take.
 */
export function presentTree(roots: readonly SnapshotNode[]): readonly SnapshotNodeBody[] {
  const out: SnapshotNodeBody[] = [];
  const stack = roots.map((node) => ({ node, depth: 0 })).reverse();
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { node, depth } = next;
    out.push({
      depth,
      part: presentPart(node.part),
      snapshot: presentSnapshot(node.snapshot),
      children: node.children.map((child) => child.part.id),
    });
    for (const child of node.children.toReversed()) stack.push({ node: child, depth: depth + 1 });
  }
  return out;
}

export function presentTask(task: Task): TaskBody {
  return {
    id: task.id,
    number: task.number,
    projectId: task.projectId,
    userId: task.userId,
    via: task.via,
    kind: task.kind,
    state: task.state,
    objectKind: task.objectKind,
    objectId: task.objectId,
    driveIds: task.driveIds,
    machineId: task.machineId,
    progress: task.progress,
    result: task.result,
    error: presentError(task.error),
    cancellable: task.cancellable,
    pausable: task.pausable,
    speedLimitBytesPerSecond: task.speedLimitBytesPerSecond,
    createdAt: isoFromUs(task.createdAt),
    startedAt: isoOrNull(task.startedAt),
    finishedAt: isoOrNull(task.finishedAt),
  };
}

export function presentExport(served: DriveExport): ExportBody {
  return {
    id: served.id,
    projectId: served.projectId,
    driveId: served.driveId,
    driveSnapshotId: served.driveSnapshotId,
    writable: served.writable,
    transport: served.transport,
    exportName: served.exportName,
    uri: served.uri,
    ...(served.tlsPsk === undefined ? {} : { tlsPsk: served.tlsPsk }),
    createdAt: isoFromUs(served.createdAt),
  };
}

export function presentEvent(event: CatalogEvent): EventBody {
  return { ...event, at: isoFromUs(event.at) };
}

export function presentPage<T, U>(page: Page<T>, present: (item: T) => U): PageBody<U> {
  return {
    items: page.items.map(present),
    nextCursor: page.nextCursor,
    ...(page.total === null ? {} : { total: page.total }),
  };
}
