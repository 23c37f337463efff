/**
 * Drives of adopted machines: taken over as they are, found again when their process can be reached, let go of. Their
 * images and what those stand on stay where they are; new layers are made beside them, so that a machine that is let
 * go of needs nothing of this server.
 *
 * Crash: adoption is one commit and touches no image. A process outlives the server, and may have gone on with a layer that
 * the catalog has not heard of, or with one that somebody else put there; joining believes what the process says where that
 * fits what is known, and refuses the process where it does not.
 */
import { basename, dirname, extname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { CommitHook, Tx } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, MachineId } from '../../core/ids.ts';
import { nowUs } from '../../core/time.ts';
import { type ForeignDrive, type ForeignLayer, inspectDrives } from '../../qemu/foreign-drives.ts';
import type { QmpClient } from '../../qemu/qmp.ts';
import type { DriveFiles, ForeignProcess } from '../engine.ts';
import { type Context, markDead, removeDead } from './context.ts';
import { ForeignGraph } from './foreign-graph.ts';
import type { JobInfo } from './graph.ts';
import { adoptTop, dropSpare, prepareSpare, reachable } from './pivot.ts';
import {
  baseLevel,
  chainOf,
  childrenOf,
  deleteFileRows,
  type FileRow,
  findHead,
  getHead,
  type HeadRow,
  insertLayer,
} from './records.ts';
import { finishIntents, intentsOf, removeLeftovers } from './recover.ts';

/**
 * Records the drives of a process as they are. Idempotent by drive.
 * @throws adoption_refused when one of them cannot be taken over: nothing is recorded then
 */
export async function adoptDrives(
  ctx: Context,
  process: ForeignProcess,
  drives: readonly { driveId: DriveId; device: string }[],
  commit: CommitHook,
): Promise<void> {
  const found = await inspectDrives(process.qmp, process.workingDirectory);
  await ctx.catalog.write(async (tx) => {
    for (const { driveId, device } of drives) {
      const foreign = found.find((item) => item.device === device);
      if (foreign === undefined) throw refused(device, 'it is not there any more');
      if (foreign.problem !== null) throw refused(device, foreign.problem);
      await recordDrive(ctx, tx, process.id, driveId, foreign);
    }
    await commit(tx);
  });
  ctx.step('drives.adopted');
}

export function refused(device: string, problem: string): CalotypeError {
  return new CalotypeError('adoption_refused', `The disk ${device} cannot be taken over: ${problem}.`, {
    device,
    problem,
  });
}

async function recordDrive(
  ctx: Context,
  tx: Tx,
  processId: MachineId,
  driveId: DriveId,
  foreign: ForeignDrive,
): Promise<void> {
  const [top] = foreign.chain;
  if (top === undefined) throw refused(foreign.device, 'it has no image');
  let below: FileRow | undefined;
  for (const layer of foreign.chain.toReversed()) {
    const isTop = layer === top;
    const known = await fileAt(tx, layer.path);
    const insideOurs: boolean = dirname(layer.path) === ctx.store.directory;
    if (insideOurs || (known !== undefined && (isTop || known.origin !== 'fixed'))) {
      throw refused(foreign.device, `${layer.path} belongs to a drive of this server already`);
    }
    const belowId: number | null = below?.id ?? null;
    if (known !== undefined && known.backing_id !== belowId) {
      throw refused(foreign.device, `${layer.path} stands on another file than another machine says`);
    }
    below = known ?? (await insertForeign(ctx, tx, driveId, layer, belowId, isTop ? 'adopted' : 'fixed'));
  }
  if (below === undefined) return;
  const layerId = await insertLayer(tx, driveId, null);
  await tx
    .insertInto('qcow2_drives')
    .values({
      drive_id: driveId,
      file_id: below.id,
      layer_id: layerId,
      spare_id: null,
      last_operation: null,
      process_id: processId,
      device: foreign.device,
      place: placeBeside(top.path),
    })
    .execute();
}

/** New layers of `/disks/web.qcow2` are `/disks/web.calotype-N.qcow2`. */
function placeBeside(path: string): string {
  return join(dirname(path), basename(path, extname(path)));
}

async function fileAt(tx: Tx, path: string): Promise<FileRow | undefined> {
  return tx.selectFrom('qcow2_files').selectAll().where('path', '=', path).executeTakeFirst();
}

async function insertForeign(
  ctx: Context,
  tx: Tx,
  driveId: DriveId,
  layer: ForeignLayer,
  backingId: number | null,
  origin: 'adopted' | 'fixed',
): Promise<FileRow> {
  const row = await tx
    .insertInto('qcow2_files')
    .values({
      backing_id: backingId,
      state: origin === 'adopted' ? 'active' : 'frozen',
      drive_id: driveId,
      size_bytes: layer.sizeBytes,
      level: baseLevel,
      data_bytes: null,
      path: layer.path,
      origin,
      format: layer.format,
      created_at: nowUs(),
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  ctx.store.place(row);
  return row;
}

/**
 * The process can be reached: its graph is learnt, and what a lost connection or a died server left half done is finished.
 * @returns the graph, and what was found and done, one line each. @throws machine_changed when it has other files open than its drives'
 */
export async function joinProcess(
  ctx: Context,
  process: ForeignProcess,
): Promise<{ graph: ForeignGraph; report: string[] }> {
  const { db } = ctx.catalog;
  const report: string[] = [];
  const jobs = await endJobs(ctx, process.qmp);
  const drives = await inspectDrives(process.qmp, process.workingDirectory);
  const heads = await db.selectFrom('qcow2_drives').selectAll().where('process_id', '=', process.id).execute();
  const graph = new ForeignGraph(ctx.store, process.qmp, drives);
  const own: Context = {
    ...ctx,
    graphOf: (head) => (head.process_id === process.id ? graph : ctx.graphOf(head)),
    graphs: () => [...ctx.graphs(), graph],
  };
  for (const head of heads) {
    const drive = drives.find((item) => item.device === head.device);
    if (drive === undefined) throw changed(`it has no disk ${head.device} any more`);
    await followTop(own, head, drive, report);
  }
  const files = await db.selectFrom('qcow2_files').selectAll().where('path', 'is not', null).execute();
  await graph.learnFiles(drives, files);
  const tops = await db.selectFrom('qcow2_drives').selectAll().where('process_id', '=', process.id).execute();
  for (const head of tops) {
    graph.setRoot(`drive:${head.drive_id}`, head.file_id);
    if (head.spare_id !== null && graph.isOpen(head.spare_id)) graph.setRoot(`spare:${head.drive_id}`, head.spare_id);
  }
  await finishIntents(own, await intentsOf(ctx, process.id), jobs, report);
  for (const head of tops) if (head.spare_id !== null && !graph.isOpen(head.spare_id)) await dropSpare(own, head);
  await graph.tidy();
  await removeLeftovers(own, process.id, report);
  for (const head of tops) ctx.background(() => prepareSpare(ctx, head.drive_id));
  return { graph, report };
}

/** Jobs of ours that a lost connection left. @returns those that had ended */
async function endJobs(ctx: Context, qmp: QmpClient): Promise<JobInfo[]> {
  const graph = new ForeignGraph(ctx.store, qmp, []);
  const ours = (await graph.jobs()).filter((job) => graph.isOurJob(job.id));
  for (const job of ours) await graph.endJob(job.id);
  return ours.filter((job) => job.status === 'concluded');
}

function changed(why: string): CalotypeError {
  return new CalotypeError('machine_changed', `The machine is not as it was left: ${why}.`, {
    remedy: 'Start it with the files that its drives have now, or disown it and adopt it anew.',
  });
}

/** Brings the catalog to the top that the process has, if that fits what is known. */
async function followTop(ctx: Context, head: HeadRow, drive: ForeignDrive, report: string[]): Promise<void> {
  const { db } = ctx.catalog;
  const rows = new Map<string, FileRow>();
  const known = await db
    .selectFrom('qcow2_files')
    .selectAll()
    .where('path', 'in', ['', ...drive.chain.map((layer) => layer.path)])
    .execute();
  for (const row of known) if (row.path !== null) rows.set(row.path, row);
  const at = drive.chain.findIndex((layer) => rows.get(layer.path)?.id === head.file_id);
  const state = ctx.store.pathOf(head.file_id);
  const runsOn = drive.chain[0]?.path ?? 'nothing';
  if (at < 0) throw changed(`its disk ${drive.device} runs on ${runsOn}, its state is in ${state}`);
  const below = drive.chain.slice(at).map((layer) => rows.get(layer.path)?.id);
  const expected = (await chainOf(db, head.file_id)).map((file) => file.id);
  const pending = (await intentsOf(ctx, head.process_id)).length > 0;
  if (!pending && below.join() !== expected.join()) {
    throw changed(`what its disk ${drive.device} stands on is not what was recorded`);
  }
  let top = head;
  for (const layer of drive.chain.slice(0, at).toReversed()) {
    const row = rows.get(layer.path);
    if (row !== undefined && (row.drive_id !== head.drive_id || !['planned', 'spare'].includes(row.state))) {
      throw changed(`its disk ${drive.device} runs on ${layer.path}, its state is in ${state}`);
    }
    const overlay =
      row ?? (await ctx.catalog.write((tx) => insertForeign(ctx, tx, head.drive_id, layer, top.file_id, 'adopted')));
    await adoptTop(ctx, top, overlay.id);
    report.push(
      row === undefined
        ? `Somebody else put ${layer.path} on drive ${head.drive_id}; it is its state now.`
        : `Adopted the layer that drive ${head.drive_id} was writing when a connection was lost.`,
    );
    top = { ...top, ...(await getHead(ctx.catalog.db, head.drive_id)) };
  }
}

const guardOf = (driveId: DriveId): string => `guard:${driveId}`;

/** Files that somebody has open cannot be held; asked again at this pace. */
const guardRetryMs = 1000;

/**
 * While a process cannot be reached its machine may be started from a file of its past, and would write over it. The daemon
 * holds those files open: QEMU's own locks then keep every other QEMU from writing them. Goes on until all are held, their
 * process is joined again, or `signal`. A raw file cannot be held. `processId` null: of every process that is not joined.
 */
export async function guardPast(ctx: Context, processId: MachineId | null, signal: AbortSignal): Promise<void> {
  let warn = true;
  while (!signal.aborted && !(await holdPast(ctx, processId, warn))) {
    warn = false;
    await delay(guardRetryMs, undefined, { signal }).catch(() => undefined);
  }
}

/** @returns whether everything is held that should be */
async function holdPast(ctx: Context, processId: MachineId | null, warn: boolean): Promise<boolean> {
  let held = true;
  let query = ctx.catalog.db.selectFrom('qcow2_drives').selectAll().where('process_id', 'is not', null);
  if (processId !== null) query = query.where('process_id', '=', processId);
  for (const { drive_id: driveId } of await query.execute()) {
    await ctx.driveLocks.run([driveId], async () => {
      const head = await findHead(ctx.catalog.db, driveId);
      if (head === undefined || reachable(ctx, head) !== undefined) return;
      if (ctx.graph().rootNamed(guardOf(driveId)) !== undefined) return;
      const past = (await chainOf(ctx.catalog.db, head.file_id)).slice(1);
      if (past[0]?.format !== 'qcow2') return;
      try {
        await ctx.graph().open(guardOf(driveId), past, { writable: false });
      } catch (error) {
        held = false;
        if (warn) ctx.logger.warn(`The past of drive ${driveId} cannot be held yet: ${String(error)}`);
      }
    });
  }
  return held;
}

export async function unguard(ctx: Context, driveIds: readonly DriveId[]): Promise<void> {
  const held = driveIds.map(guardOf).filter((root) => ctx.graph().rootNamed(root) !== undefined);
  if (held.length > 0) await ctx.graph().release(...held);
}

export async function filesOf(ctx: Context, driveIds: readonly DriveId[]): Promise<DriveFiles[]> {
  const { db } = ctx.catalog;
  const found: DriveFiles[] = [];
  for (const driveId of driveIds) {
    const head = await findHead(db, driveId);
    if (head === undefined) continue;
    const chain = await chainOf(db, head.file_id);
    found.push({ driveId, files: chain.map((file) => ({ path: ctx.store.pathOf(file.id), format: file.format })) });
  }
  return found;
}

/**
 * Forgets the drives with all their points. The files stay, since the process runs on them; a spare goes.
 * @throws drive_has_clones when drives of others stand on them
 */
export async function releaseDrives(
  ctx: Context,
  driveIds: readonly DriveId[],
  commit: (released: readonly DriveFiles[]) => CommitHook,
): Promise<void> {
  const { db } = ctx.catalog;
  const released = await filesOf(ctx, driveIds);
  const heads: HeadRow[] = [];
  for (const driveId of driveIds) {
    const head = await findHead(db, driveId);
    if (head === undefined) continue;
    await dropSpare(ctx, head);
    heads.push(head);
  }
  await unguard(ctx, driveIds);
  const unused = await ctx.catalog.write(async (tx) => {
    const clones = await dependants(tx, driveIds);
    if (clones.length > 0) {
      throw new CalotypeError('drive_has_clones', undefined, {
        blocking: clones,
        remedy: 'Flatten or delete these drives first.',
      });
    }
    const kept = new Set<number>();
    for (const head of heads) for (const file of await chainOf(tx, head.file_id)) kept.add(file.id);
    const rows = await tx.selectFrom('qcow2_files').selectAll().where('drive_id', 'in', driveIds).execute();
    await tx.deleteFrom('qcow2_points').where('drive_id', 'in', driveIds).execute();
    await tx.deleteFrom('qcow2_layers').where('drive_id', 'in', driveIds).execute();
    await tx.deleteFrom('qcow2_drives').where('drive_id', 'in', driveIds).execute();
    const gone = rows.filter((row) => !kept.has(row.id) && row.origin === 'own').map((row) => row.id);
    await markDead(tx, gone);
    for (const row of rows.filter((item) => !gone.includes(item.id)).toSorted((a, b) => b.id - a.id)) {
      // What other machines stand on as well is theirs now.
      const [child] = (await childrenOf(tx, row.id)).filter((item) => !driveIds.includes(item.drive_id));
      if (child === undefined) await deleteFileRows(tx, [row.id]);
      else await tx.updateTable('qcow2_files').set({ drive_id: child.drive_id }).where('id', '=', row.id).execute();
    }
    await commit(released)(tx);
    return gone;
  });
  ctx.step('drives.released');
  await removeDead(ctx, unused);
}

/** Drives of this server whose files stand on files of these. */
async function dependants(tx: Tx, driveIds: readonly DriveId[]): Promise<DriveId[]> {
  const rows = await tx
    .selectFrom('qcow2_files as f')
    .innerJoin('qcow2_files as b', 'b.id', 'f.backing_id')
    .select('f.drive_id')
    .distinct()
    .where('b.drive_id', 'in', driveIds)
    .where('f.drive_id', 'not in', driveIds)
    .where('b.origin', '!=', 'fixed')
    .where('f.state', '!=', 'dead')
    .execute();
  return rows.map((row) => row.drive_id);
}
