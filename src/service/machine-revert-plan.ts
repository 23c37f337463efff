/** What a revert of a machine would change: which drives go back to which points, and where each of them is now. */
import type { Tx } from '../catalog/catalog.ts';
import { findDriveRow, findDriveRows } from '../catalog/drives.ts';
import { attachmentOf, slotsOf } from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import type { SnapshotRecord } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../core/ids.ts';
import { assertDriveReady, driveRow } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';

/** @throws snapshot_incomplete */
export function assertWhole(snapshot: SnapshotRecord): void {
  if (snapshot.complete === 1 && snapshot.parts.length > 0) return;
  throw new CalotypeError('snapshot_incomplete', undefined, {
    snapshotId: snapshot.id,
    driveSnapshotIds: snapshot.parts.map((part) => part.id),
    remedy: 'Revert its drives one by one.',
  });
}

export interface RevertPlan {
  targets: { driveId: DriveId; driveSnapshotId: DriveSnapshotId }[];
  attach: { slot: number; driveId: DriveId }[];
  untouched: DriveId[];
}

/** @throws drive_attached, drive_not_ready, slot_taken: what a drive that was detached since came to */
export async function planOwn(
  context: Context,
  tx: Tx,
  caller: Caller,
  snapshot: SnapshotRecord,
  machine: MachineRow,
): Promise<RevertPlan> {
  const now = await slotsOf(tx, machine.id);
  const then: { slot: number; driveId: DriveId }[] = JSON.parse(snapshot.machine?.slots_json ?? '[]');
  const plan: RevertPlan = { targets: [], attach: [], untouched: [] };
  for (const part of snapshot.parts) {
    const attached = await attachmentOf(tx, part.drive_id);
    const isOwn = attached?.machine.id === machine.id;
    // Who may change the machine may change what it holds; what comes back to it takes a right of its own.
    const drive =
      (isOwn ? await findDriveRow(tx, part.drive_id) : undefined) ??
      (await driveRow(tx, caller, 'write', part.drive_id, { hidden: true }));
    if (drive.state === 'deleted') {
      throw new CalotypeError('drive_not_ready', `The drive ${drive.name} was deleted; clone the snapshot instead.`, {
        driveId: drive.id,
        state: drive.state,
      });
    }
    assertDriveReady(context, drive);
    plan.targets.push({ driveId: part.drive_id, driveSnapshotId: part.id });
    if (isOwn) continue;
    if (attached !== undefined) {
      throw new CalotypeError(
        'drive_attached',
        `The drive ${drive.name} is attached to ${attached.machine.name} now.`,
        {
          driveId: drive.id,
          machineId: attached.machine.id,
        },
      );
    }
    const slot = then.find((known) => known.driveId === part.drive_id)?.slot ?? 0;
    if (now.some((known) => known.slot === slot)) {
      throw new CalotypeError('slot_taken', `The slot ${slot} of the drive ${drive.name} holds another drive now.`, {
        slot,
        driveId: drive.id,
      });
    }
    plan.attach.push({ slot, driveId: part.drive_id });
  }
  const covered = new Set(plan.targets.map((target) => target.driveId));
  plan.untouched = now.map((slot) => slot.driveId).filter((driveId) => !covered.has(driveId));
  return plan;
}

/** Slot by slot. @throws drive_not_attached, drive_not_ready, drive_too_small */
export async function planOther(
  context: Context,
  tx: Tx,
  snapshot: SnapshotRecord,
  machine: MachineRow,
): Promise<RevertPlan> {
  const now = await slotsOf(tx, machine.id);
  const then: { slot: number; driveId: DriveId }[] = JSON.parse(snapshot.machine?.slots_json ?? '[]');
  const drives = await findDriveRows(
    tx,
    now.map((slot) => slot.driveId),
  );
  const plan: RevertPlan = { targets: [], attach: [], untouched: [] };
  for (const part of snapshot.parts) {
    const slot = then.find((known) => known.driveId === part.drive_id)?.slot ?? 0;
    const driveId = now.find((known) => known.slot === slot)?.driveId;
    const drive = driveId === undefined ? undefined : drives.get(driveId);
    if (drive === undefined) {
      throw new CalotypeError('drive_not_attached', `The machine ${machine.name} has no drive in slot ${slot}.`, {
        slot,
      });
    }
    assertDriveReady(context, drive);
    if (drive.size_bytes < part.size_bytes) {
      throw new CalotypeError(
        'drive_too_small',
        `The drive ${drive.name} in slot ${slot} is smaller than the snapshot.`,
        {
          slot,
          driveId: drive.id,
          sizeBytes: drive.size_bytes,
          neededBytes: part.size_bytes,
        },
      );
    }
    plan.targets.push({ driveId: drive.id, driveSnapshotId: part.id });
  }
  const covered = new Set(plan.targets.map((target) => target.driveId));
  plan.untouched = now.map((slot) => slot.driveId).filter((driveId) => !covered.has(driveId));
  return plan;
}
