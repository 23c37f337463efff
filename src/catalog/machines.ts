/** Rows of machines, of the drives in their slots, and of what snapshots of them hold beside their parts. */
import { sql } from 'kysely';
import type { DriveId, ImageId, MachineId, ProjectId, SnapshotId } from '../core/ids.ts';
import type { MachineBoot, MachineHardware, MachineKind } from '../core/model.ts';
import type { MachinePower, MachineState } from '../core/states.ts';
import type { Db } from './catalog.ts';
import { noteDeparted } from './departed-machines.ts';
import { countExpression, keepCounts } from './object-counts.ts';
import { inList } from './page.ts';
import type { MachineRow, MachineSnapshotRow, MemoryFileRow } from './schema.ts';
import { addTags, deleteTags, tagsOf } from './tags.ts';

export interface Slot {
  readonly slot: number;
  readonly driveId: DriveId;
}

/** A machine with what its presentation needs. */
export interface MachineRecord extends MachineRow {
  snapshot_count: number;
  slots: readonly Slot[];
  tags: readonly string[];
}

export async function findMachineRow(db: Db, id: MachineId): Promise<MachineRow | undefined> {
  return db.selectFrom('machines').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function findMachine(db: Db, id: MachineId): Promise<MachineRecord | undefined> {
  const row = await findMachineRow(db, id);
  return row === undefined ? undefined : (await completed(db, [row]))[0];
}

/** Machines by number, with what a list shows, in the order of `numbers`. */
export async function machinesByNumber(db: Db, numbers: readonly number[]): Promise<MachineRecord[]> {
  if (numbers.length === 0) return [];
  const rows = await db
    .selectFrom('machines')
    .selectAll()
    .where(inList(sql`number`, sql<string>`${JSON.stringify(numbers)}`))
    .execute();
  const byNumber = new Map((await completed(db, rows)).map((row) => [row.number, row]));
  return numbers.flatMap((number) => byNumber.get(number) ?? []);
}

async function completed(db: Db, rows: readonly MachineRow[]): Promise<MachineRecord[]> {
  const ids = rows.map((row) => row.id);
  if (ids.length === 0) return [];
  const tags = await tagsOf(db, ids);
  const slots = new Map<MachineId, Slot[]>(ids.map((id) => [id, []]));
  const attached = await db
    .selectFrom('machine_drives')
    .selectAll()
    .where('machine_id', 'in', ids)
    .orderBy('slot')
    .execute();
  for (const row of attached) slots.get(row.machine_id)?.push({ slot: row.slot, driveId: row.drive_id });
  const counted = await db
    .selectFrom('machines')
    .select(['id', countExpression('machine', sql`machines.id`).as('count')])
    .where('id', 'in', ids)
    .execute();
  const counts = new Map(counted.map((row) => [row.id, row.count]));
  await keepCounts(db, 'machine', counts);
  return rows.map((row) => ({
    ...row,
    snapshot_count: counts.get(row.id) ?? 0,
    slots: slots.get(row.id) ?? [],
    tags: tags.get(row.id) ?? [],
  }));
}

export interface NewMachineRow {
  id: MachineId;
  projectId: ProjectId;
  name: string;
  description: string;
  kind: MachineKind;
  managed: boolean;
  hardware: MachineHardware;
  boot: MachineBoot;
  meta: string;
  sourceId: SnapshotId | null;
  imageId?: ImageId | null;
  tags: readonly string[];
  slots: readonly Slot[];
  /** Sockets of an adopted one. */
  qmpPath?: string;
  agentPath?: string | null;
  at: number;
}

/** Writes a machine that is being made, off, with its drives in their slots. */
export async function insertMachine(tx: Db, machine: NewMachineRow): Promise<MachineRecord> {
  const row = {
    id: machine.id,
    project_id: machine.projectId,
    name: machine.name,
    description: machine.description,
    kind: machine.kind,
    managed: machine.managed ? 1 : 0,
    state: 'creating' as const,
    power: 'off' as const,
    hardware_json: JSON.stringify(machine.hardware),
    boot_json: JSON.stringify(machine.boot),
    meta_json: machine.meta,
    error_json: null,
    based_on: null,
    source_id: machine.sourceId,
    image_id: machine.imageId ?? null,
    started_at: null,
    qmp_path: machine.qmpPath ?? null,
    agent_path: machine.agentPath ?? null,
    created_at: machine.at,
    updated_at: machine.at,
    version: 1,
  };
  const { number } = await tx.insertInto('machines').values(row).returning('number').executeTakeFirstOrThrow();
  await addTags(tx, machine.id, machine.tags);
  for (const slot of machine.slots) await attachDrive(tx, machine.id, slot);
  return { ...row, number, snapshot_count: 0, slots: machine.slots, tags: machine.tags };
}

export async function attachDrive(tx: Db, machineId: MachineId, slot: Slot): Promise<void> {
  await tx
    .insertInto('machine_drives')
    .values({ machine_id: machineId, slot: slot.slot, drive_id: slot.driveId })
    .onConflict((conflict) => conflict.column('drive_id').doUpdateSet({ machine_id: machineId, slot: slot.slot }))
    .execute();
}

export async function detachDrive(tx: Db, driveId: DriveId): Promise<void> {
  await tx.deleteFrom('machine_drives').where('drive_id', '=', driveId).execute();
}

/** The drives of machines that somebody else runs. */
export async function drivesOfAdopted(db: Db): Promise<DriveId[]> {
  const rows = await db
    .selectFrom('machine_drives')
    .innerJoin('machines', 'machines.id', 'machine_drives.machine_id')
    .select('machine_drives.drive_id')
    .where('machines.managed', '=', 0)
    .execute();
  return rows.map((row) => row.drive_id);
}

/** The machine a drive is attached to, and where. */
export async function attachmentOf(
  db: Db,
  driveId: DriveId,
): Promise<{ machine: MachineRow; slot: number } | undefined> {
  const found = await db.selectFrom('machine_drives').selectAll().where('drive_id', '=', driveId).executeTakeFirst();
  const machine = found === undefined ? undefined : await findMachineRow(db, found.machine_id);
  return found === undefined || machine === undefined ? undefined : { machine, slot: found.slot };
}

export async function slotsOf(db: Db, machineId: MachineId): Promise<Slot[]> {
  const rows = await db
    .selectFrom('machine_drives')
    .select(['slot', 'drive_id'])
    .where('machine_id', '=', machineId)
    .orderBy('slot')
    .execute();
  return rows.map((row) => ({ slot: row.slot, driveId: row.drive_id }));
}

/** Changes columns of a machine; with `from`, only where it is in one of these states. */
export async function updateMachine(
  tx: Db,
  id: MachineId,
  change: Partial<Omit<MachineRow, 'id' | 'number' | 'version'>>,
  from?: readonly MachineState[],
): Promise<void> {
  let query = tx
    .updateTable('machines')
    .set({ ...change, version: sql`version + 1` })
    .where('id', '=', id);
  if (from !== undefined) query = query.where('state', 'in', from);
  await query.execute();
}

/** What a machine was seen to do; no new version, since nobody changed it. */
export async function setPower(
  tx: Db,
  id: MachineId,
  seen: { power: MachinePower; startedAt?: number | null; error?: string | null },
): Promise<void> {
  await tx
    .updateTable('machines')
    .set({
      power: seen.power,
      ...(seen.startedAt === undefined ? {} : { started_at: seen.startedAt }),
      ...(seen.error === undefined ? {} : { error_json: seen.error }),
    })
    .where('id', '=', id)
    .execute();
}

/** What the rows of some machines say. */
export async function powersOf(db: Db, ids: readonly MachineId[]): Promise<Map<MachineId, MachinePower>> {
  if (ids.length === 0) return new Map();
  const rows = await db.selectFrom('machines').select(['id', 'power']).where(inList(sql`id`, ids)).execute();
  return new Map(rows.map((row) => [row.id, row.power]));
}

export async function machineNameExists(db: Db, projectId: ProjectId, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('machines')
    .select('number')
    .where('project_id', '=', projectId)
    .where('name', '=', name)
    .where('state', '!=', 'deleting')
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

/**
 * Takes a machine out of the catalog. Its snapshots stay, as snapshots of a machine that is gone; as long as there are any,
 * its number and the grants on it stay too.
 */
export async function forgetMachine(tx: Db, id: MachineId, at: number): Promise<void> {
  await deleteTags(tx, [id]);
  if (!(await noteDeparted(tx, id, at))) await tx.deleteFrom('grants').where('object_id', '=', id).execute();
  await tx.deleteFrom('machine_drives').where('machine_id', '=', id).execute();
  await tx.deleteFrom('machines').where('id', '=', id).execute();
}

export async function snapshotsOfMachine(db: Db, id: MachineId): Promise<SnapshotId[]> {
  const rows = await db.selectFrom('snapshots').select('id').where('machine_id', '=', id).orderBy('number').execute();
  return rows.map((row) => row.id);
}

/** Snapshots of machines beside their rows in `snapshots`, with their memory. */
export interface MachineSnapshotRecord extends MachineSnapshotRow {
  memory: MemoryFileRow | null;
  current: boolean;
}

export async function machineSnapshotsOf(
  db: Db,
  ids: readonly SnapshotId[],
): Promise<Map<SnapshotId, MachineSnapshotRecord>> {
  const found = new Map<SnapshotId, MachineSnapshotRecord>();
  if (ids.length === 0) return found;
  const list = sql<string>`${JSON.stringify(ids)}`;
  const rows = await db
    .selectFrom('machine_snapshots')
    .leftJoin('machines', 'machines.id', 'machine_snapshots.machine_id')
    .selectAll('machine_snapshots')
    .select('machines.based_on')
    .where(inList(sql`snapshot_id`, list))
    .execute();
  const files = await db
    .selectFrom('memory_files')
    .selectAll()
    .where(inList(sql`snapshot_id`, list))
    .where('state', '!=', 'dead')
    .execute();
  const memories = new Map(files.map((file) => [file.snapshot_id, file]));
  for (const { based_on: basedOn, ...row } of rows) {
    const memory = memories.get(row.snapshot_id) ?? null;
    found.set(row.snapshot_id, { ...row, memory, current: basedOn === row.snapshot_id });
  }
  return found;
}

export async function insertMachineSnapshot(tx: Db, row: MachineSnapshotRow): Promise<void> {
  await tx
    .insertInto('machine_snapshots')
    .values(row)
    .onConflict((conflict) => conflict.column('snapshot_id').doUpdateSet(row))
    .execute();
}

/**
 * Takes a machine snapshot out of the tree: what was taken after it follows its parent, and so does the current marker. Its
 * memory is marked for removal. To be called before its row in `snapshots` goes.
 */
export async function removeMachineSnapshot(tx: Db, id: SnapshotId): Promise<void> {
  const row = await tx.selectFrom('machine_snapshots').selectAll().where('snapshot_id', '=', id).executeTakeFirst();
  if (row === undefined) return;
  await tx.updateTable('machine_snapshots').set({ parent_id: row.parent_id }).where('parent_id', '=', id).execute();
  await tx
    .updateTable('machines')
    .set({ based_on: row.parent_id })
    .where('id', '=', row.machine_id)
    .where('based_on', '=', id)
    .execute();
  await markMemoryDead(tx, id);
  await tx.deleteFrom('machine_snapshots').where('snapshot_id', '=', id).execute();
}

export async function insertMemoryFile(
  tx: Db,
  file: Pick<MemoryFileRow, 'snapshot_id' | 'method' | 'accelerator' | 'qemu_version' | 'created_at'>,
): Promise<number> {
  const { id } = await tx
    .insertInto('memory_files')
    .values({ ...file, state: 'planned', stream_bytes: null, stored_bytes: null, checksum: null })
    .returning('id')
    .executeTakeFirstOrThrow();
  return id;
}

export async function keepMemoryFile(
  tx: Db,
  id: number,
  kept: { method: MemoryFileRow['method']; streamBytes: number; storedBytes: number; checksum: number },
): Promise<void> {
  await tx
    .updateTable('memory_files')
    .set({
      state: 'kept',
      method: kept.method,
      stream_bytes: kept.streamBytes,
      stored_bytes: kept.storedBytes,
      checksum: kept.checksum,
    })
    .where('id', '=', id)
    .execute();
}

export async function keptMemoryOf(db: Db, snapshotId: SnapshotId): Promise<MemoryFileRow | undefined> {
  return db
    .selectFrom('memory_files')
    .selectAll()
    .where('snapshot_id', '=', snapshotId)
    .where('state', '=', 'kept')
    .executeTakeFirst();
}

export async function markMemoryDead(tx: Db, snapshotId: SnapshotId): Promise<void> {
  await tx.updateTable('memory_files').set({ state: 'dead' }).where('snapshot_id', '=', snapshotId).execute();
}
