/**
 * Recovery: brings catalog, files and daemon to agree after any death. It rolls forward from intents, believes what the
 * daemon's graph and the files say, and unlinks only files whose row says planned, spare or dead. Runs with nothing else
 * running, at start and whenever the daemon was lost.
 */
import type { ExportRow } from '../../catalog/schema.ts';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, MachineId } from '../../core/ids.ts';
import { asSpaceError } from '../../core/space-error.ts';
import { NbdClient } from '../../qemu/nbd-client.ts';
import { isEmptyOverlay } from '../../qemu/qcow2.ts';
import { type Context, graphsWith, removeDead } from './context.ts';
import type { JobInfo } from './graph.ts';
import { restoreHeaders, settleMerge } from './merge.ts';
import { adoptTop, assertSettled, dropSpare, prepareSpare } from './pivot.ts';
import {
  chainOf,
  childrenOf,
  deleteIntent,
  findFile,
  findHead,
  findPoint,
  type Intent,
  listIntents,
  type RevertPlan,
} from './records.ts';
import { finishRelink } from './relink.ts';
import { finishHeaders, finishRevert } from './revert.ts';

const noCommit = async (): Promise<void> => undefined;

/** @returns what was found and done, one line each */
export async function recover(ctx: Context, daemonAdopted: boolean): Promise<string[]> {
  const report: string[] = [];
  await keepNumbersAhead(ctx, report);
  const exports = await ctx.catalog.db.selectFrom('exports').selectAll().execute();
  const jobs = daemonAdopted ? await relearn(ctx, exports, report) : [];
  const intents = inOrder(await intentsOf(ctx, null));
  const reverting = new Set<DriveId>();
  for (const { intent } of intents) {
    if (intent.kind === 'revert') for (const target of intent.plan.targets) reverting.add(target.driveId);
  }
  await adoptTops(ctx, reverting, report);
  ctx.stuck.clear();
  await finishIntents(ctx, intents, jobs, report);
  if (daemonAdopted) await ctx.graph().tidy();
  await dropLeftovers(ctx, report);
  await openExports(ctx, exports, report);
  return report;
}

/** Changes under way of the daemon's own files, or of those that a process of somebody else's has a part in. */
export async function intentsOf(ctx: Context, processId: MachineId | null): Promise<{ id: number; intent: Intent }[]> {
  const { db } = ctx.catalog;
  const foreign = await db.selectFrom('qcow2_drives').selectAll().where('process_id', 'is not', null).execute();
  const processes = new Map<DriveId, MachineId | null>(foreign.map((head) => [head.drive_id, head.process_id]));
  const intents = await listIntents(db);
  if (processes.size === 0) return processId === null ? intents : [];
  const mine: { id: number; intent: Intent }[] = [];
  for (const item of intents) {
    const files = await db
      .selectFrom('qcow2_files')
      .select('drive_id')
      .where('id', 'in', [-1, ...filesOf(item.intent)])
      .execute();
    const owner = files.map((file) => processes.get(file.drive_id) ?? null).find((id) => id !== null) ?? null;
    if (owner === processId) mine.push(item);
  }
  return mine;
}

/** Changes that cannot be finished are reported; what depends on them is served no more. */
export async function finishIntents(
  ctx: Context,
  intents: readonly { id: number; intent: Intent }[],
  jobs: readonly JobInfo[],
  report: string[],
): Promise<void> {
  for (const { id, intent } of intents) {
    try {
      await finishIntent(ctx, id, intent, jobs, report);
    } catch (error) {
      if (mayPass(ctx, error)) throw error;
      if (intent.kind === 'revert') for (const target of intent.plan.targets) ctx.stuck.add(target.driveId);
      report.push(`Change ${id} of layers (${intent.kind}) could not be finished: ${reasonOf(error)}`);
    }
  }
}

/** Headers follow the catalog, so they come after all that may still change what it says. */
function inOrder<T extends { intent: Intent }>(intents: readonly T[]): T[] {
  const isLast = (one: T): number => (one.intent.kind === 'headers' ? 1 : 0);
  return intents.toSorted((a, b) => isLast(a) - isLast(b));
}

/** Whether trying again can help: then recovery as a whole is tried again. Else the rest is served, and the doctor tells. */
function mayPass(ctx: Context, error: unknown): boolean {
  const full = asSpaceError(error);
  return !ctx.graph().alive || (full instanceof CalotypeError && full.code === 'space_exhausted');
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A catalog restored from an older copy must not hand out the number of a file that exists. */
async function keepNumbersAhead(ctx: Context, report: string[]): Promise<void> {
  let highest = 0;
  for (const name of await ctx.store.list()) highest = Math.max(highest, ctx.store.idOf(name) ?? 0);
  const row = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .select(({ fn }) => fn.max('id').as('id'))
    .executeTakeFirst();
  if (highest <= (row?.id ?? 0)) return;
  await ctx.catalog.write(async (tx) => {
    await tx
      .insertInto('qcow2_files')
      .values({
        id: highest,
        backing_id: null,
        state: 'dead',
        drive_id: '' as DriveId,
        size_bytes: 0,
        level: 0,
        data_bytes: null,
        created_at: 0,
      })
      .execute();
    await tx.deleteFrom('qcow2_files').where('id', '=', highest).execute();
  });
  report.push(`Layer numbers continue above ${highest}, the highest file found.`);
}

/**
 * The daemon is still there: which drives are open, and on what. A job that had not taken effect is cancelled, since what it
 * merged may be what a revert stands on by now.
 * @returns the jobs that had ended; all are gone
 */
async function relearn(ctx: Context, exports: readonly ExportRow[], report: string[]): Promise<JobInfo[]> {
  const graph = ctx.graph();
  const jobs = await graph.jobs();
  for (const job of jobs) await graph.endJob(job.id);
  await graph.learn();
  const known = new Map<string, ExportRow>(exports.map((row) => [row.id, row]));
  for (const found of await graph.exports()) {
    const row = known.get(found.id);
    if (row === undefined || found.fileId === null) {
      await graph.removeExport(found.id);
      report.push(`Closed export ${found.id}, which was never acknowledged or is no longer wanted.`);
      continue;
    }
    graph.setRoot(`export:${row.id}`, found.fileId);
    if (row.drive_id !== null) graph.setRoot(`drive:${row.drive_id}`, found.fileId);
  }
  return jobs.filter((job) => job.status === 'concluded');
}

/** Overlays that a drive moved onto without the catalog learning of it. */
async function adoptTops(ctx: Context, reverting: ReadonlySet<DriveId>, report: string[]): Promise<void> {
  const graph = ctx.graph();
  const candidates = await ctx.catalog.db
    .selectFrom('qcow2_files as f')
    .innerJoin('qcow2_drives as d', 'd.file_id', 'f.backing_id')
    .select(['f.id as overlay', 'd.drive_id as driveId'])
    .where('f.state', 'in', ['planned', 'spare'])
    .where('d.process_id', 'is', null)
    .execute();
  for (const { overlay, driveId } of candidates) {
    if (reverting.has(driveId)) continue;
    const root = graph.rootNamed(`drive:${driveId}`);
    const pivoted = root === undefined ? await holdsData(ctx, overlay) : root === overlay;
    const head = await findHead(ctx.catalog.db, driveId);
    if (!pivoted || head === undefined) continue;
    await adoptTop(ctx, head, overlay);
    report.push(`Adopted the layer that drive ${driveId} was writing when a process died.`);
  }
}

async function holdsData(ctx: Context, id: number): Promise<boolean> {
  try {
    return !(await isEmptyOverlay(ctx.store.pathOf(id)));
  } catch {
    return false;
  }
}

async function finishIntent(
  ctx: Context,
  id: number,
  intent: Intent,
  jobs: readonly JobInfo[],
  report: string[],
): Promise<void> {
  if (intent.kind === 'relink') {
    await finishRelink(ctx, id, intent.plan, noCommit);
    report.push('Finished the exchange of a layer.');
  } else if (intent.kind === 'revert') {
    await finishRevertIntent(ctx, id, intent.plan);
    report.push('Finished a revert.');
  } else if (intent.kind === 'headers') await finishHeaders(ctx, id, intent.plan.files);
  else await finishMergeIntent(ctx, id, intent.plan, jobs, report);
}

/** An overlay that was cut short, or that nothing was written to, is made afresh; one with data is what clients wrote since. */
async function finishRevertIntent(ctx: Context, id: number, plan: RevertPlan): Promise<void> {
  for (const target of plan.targets) {
    if (ctx.graph().isOpen(target.overlay) || (await holdsData(ctx, target.overlay))) continue;
    await ctx.store.remove([target.overlay]);
    await ctx.store.createOverlay(target.overlay, target.sizeBytes, target.backing);
  }
  await finishRevert(ctx, id, plan, noCommit);
}

async function finishMergeIntent(
  ctx: Context,
  id: number,
  plan: { upper: number; lower: number },
  jobs: readonly JobInfo[],
  report: string[],
): Promise<void> {
  const upper = await findFile(ctx.catalog.db, plan.upper);
  const lower = await findFile(ctx.catalog.db, plan.lower);
  const job = jobs.find((item) => ctx.graphs().some((graph) => graph.jobName(id) === item.id));
  const children = upper === undefined ? [] : await childrenOf(ctx.catalog.db, upper.id);
  const carriedOut =
    (job !== undefined && job.error === undefined) ||
    children.some((child) => graphsWith(ctx, child.id).some((graph) => graph.backingOf(child.id) === lower?.id));
  if (upper !== undefined && lower !== undefined && carriedOut) {
    await settleMerge(ctx, id, lower, upper);
    report.push('Finished a merge.');
    return;
  }
  if (upper !== undefined) await restoreHeaders(ctx, upper);
  await ctx.catalog.write((tx) => deleteIntent(tx, id));
  report.push('Put an interrupted merge back; it will be done again.');
}

/** Files that were planned and never used, spares of drives that are not open, and the dead. */
async function dropLeftovers(ctx: Context, report: string[]): Promise<void> {
  const heads = await ctx.catalog.db
    .selectFrom('qcow2_drives')
    .selectAll()
    .where('spare_id', 'is not', null)
    .where('process_id', 'is', null)
    .execute();
  for (const head of heads) {
    const spare = head.spare_id;
    const open = ctx.graph().rootNamed(`drive:${head.drive_id}`) === head.file_id;
    if (spare !== null && open && ctx.graph().isOpen(spare)) ctx.graph().setRoot(`spare:${head.drive_id}`, spare);
    else await dropSpare(ctx, head);
  }
  await ctx.graph().tidy();
  await removeLeftovers(ctx, null, report);
}

/** Planned files and dead ones that nothing has a use for any more. */
export async function removeLeftovers(ctx: Context, processId: MachineId | null, report: string[]): Promise<void> {
  const rows = await ctx.catalog.db
    .selectFrom('qcow2_files')
    .leftJoin('qcow2_drives as owner', 'owner.drive_id', 'qcow2_files.drive_id')
    .select('qcow2_files.id')
    .where('owner.process_id', 'is', processId)
    .where(({ or, eb, and, not, exists, selectFrom }) =>
      or([
        eb('qcow2_files.state', 'in', ['planned', 'dead']),
        and([
          eb('qcow2_files.state', '=', 'spare'),
          not(
            exists(selectFrom('qcow2_drives as d').select('d.spare_id').whereRef('d.spare_id', '=', 'qcow2_files.id')),
          ),
        ]),
      ]),
    )
    .execute();
  const kept = new Set((await listIntents(ctx.catalog.db)).flatMap(({ intent }) => filesOf(intent)));
  const ids = rows.map((row) => row.id).filter((id) => graphsWith(ctx, id).length === 0 && !kept.has(id));
  await removeDead(ctx, ids);
  if (ids.length > 0) report.push(`Removed ${ids.length} unused layer files.`);
}

/** The files of a change that could not be finished: they may hold the only copy of something. */
function filesOf(intent: Intent): number[] {
  if (intent.kind === 'merge') return [intent.plan.upper, intent.plan.lower];
  if (intent.kind === 'headers') return intent.plan.files;
  if (intent.kind === 'revert') return intent.plan.targets.flatMap((target) => [target.top, target.overlay]);
  return [...intent.plan.children, ...intent.plan.dead, ...(intent.plan.to === null ? [] : [intent.plan.to])];
}

/** Every recorded export is served again, at the size its drive has by now; but none of a drive whose state is in doubt. */
async function openExports(ctx: Context, exports: readonly ExportRow[], report: string[]): Promise<void> {
  for (const row of exports) {
    try {
      if (row.drive_id !== null && ctx.stuck.has(row.drive_id)) throw new CalotypeError('layer_damaged');
      if (ctx.graph().rootNamed(`export:${row.id}`) !== undefined) {
        if (row.drive_id !== null) await keepServing(ctx, row, row.drive_id, report);
        continue;
      }
      await openExport(ctx, row);
      report.push(`Serves export ${row.name} again.`);
    } catch (error) {
      if (!ctx.graph().alive) throw error;
      ctx.logger.warn(`Export ${row.id} could not be served again: ${reasonOf(error)}`);
      report.push(`Export ${row.name} could not be served again: ${reasonOf(error)}`);
    }
  }
}

async function keepServing(ctx: Context, row: ExportRow, driveId: DriveId, report: string[]): Promise<void> {
  if (await serveAtSize(ctx, row, driveId))
    report.push(`Serves export ${row.name} at the size its drive has grown to.`);
  if (row.writable === 1) ctx.background(() => prepareSpare(ctx, driveId));
}

/** An export keeps the size it began with: after growth it begins again, and its clients connect again. @returns whether it had to */
export async function serveAtSize(ctx: Context, row: ExportRow, driveId: DriveId): Promise<boolean> {
  const graph = ctx.graph();
  const top = graph.rootNamed(`drive:${driveId}`);
  const file = top === undefined ? undefined : await findFile(ctx.catalog.db, top);
  if (file === undefined) return false;
  const served = await servedBytes(graph.daemon.nbdSocketPath, row.name);
  if (served === file.size_bytes) return false;
  await graph.removeExport(row.id);
  await graph.addExport(row.id, row.name, file.id, row.writable === 1);
  return true;
}

/** Null when nothing is served under that name. */
async function servedBytes(socketPath: string, exportName: string): Promise<number | null> {
  const client = await NbdClient.connect({ kind: 'unix', path: socketPath }, { exportName }).catch(() => null);
  if (client === null) return null;
  await client.close();
  return client.sizeBytes;
}

async function openExport(ctx: Context, row: ExportRow): Promise<void> {
  if (row.drive_id !== null) {
    await openDriveExport(ctx, { id: row.id, name: row.name, driveId: row.drive_id, writable: row.writable === 1 });
  } else if (row.drive_snapshot_id !== null) {
    const point = await findPoint(ctx.catalog.db, row.drive_snapshot_id);
    if (point === undefined) throw new CalotypeError('not_found', 'Its snapshot is gone.');
    await openFileExport(ctx, { id: row.id, name: row.name, fileId: point.file_id, kind: 'export' });
  }
}

/** Opens a drive's chain and serves its top. */
export async function openDriveExport(
  ctx: Context,
  request: { id: string; name: string; driveId: DriveId; writable: boolean },
): Promise<void> {
  const graph = ctx.graph();
  const head = await findHead(ctx.catalog.db, request.driveId);
  if (head === undefined) throw new CalotypeError('not_found', 'Its drive is gone.');
  assertSettled(ctx, head);
  const chain = await chainOf(ctx.catalog.db, head.file_id);
  const root = `drive:${request.driveId}`;
  const wasOpen = graph.rootNamed(root) === head.file_id;
  if (!wasOpen) await graph.open(root, chain, { writable: request.writable });
  try {
    await graph.addExport(request.id, request.name, head.file_id, request.writable);
    graph.setRoot(`export:${request.id}`, head.file_id);
  } catch (error) {
    if (!wasOpen) await graph.release(root);
    throw error;
  }
  if (request.writable) ctx.background(() => prepareSpare(ctx, request.driveId));
}

/** Opens a frozen file's chain and serves it, readers only. */
export async function openFileExport(
  ctx: Context,
  request: { id: string; name: string; fileId: number; kind: 'export' | 'reader' },
): Promise<void> {
  const graph = ctx.graph();
  const root = `${request.kind}:${request.id}`;
  await graph.open(root, await chainOf(ctx.catalog.db, request.fileId), { writable: false });
  try {
    await graph.addExport(request.id, request.name, request.fileId, false);
  } catch (error) {
    await graph.release(root);
    throw error;
  }
}
