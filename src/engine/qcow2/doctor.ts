/**
 * The doctor: compares catalog, directory, image headers and the daemon's graph, both ways. It repairs what it can
 * explain, and deletes nothing: a file without a record is only reported.
 */
import { CalotypeError } from '../../core/errors.ts';
import type { Finding } from '../../core/model.ts';
import { checkImage } from '../../qemu/image-tools.ts';
import { readHeader } from '../../qemu/qcow2.ts';
import type { DoctorReport } from '../engine.ts';
import { type Context, graphsWith, withTree } from './context.ts';
import { type Parts, sweepDead } from './reclaim.ts';
import { type FileRow, findFile, type Intent, listIntents, pinnedAmong } from './records.ts';
import { relinkOne } from './relink.ts';

/** Files in the image directory that are ours and no layers. */
const expectedOthers = /^(reserve|\.direct-\d+)$/;

export async function examine(parts: Parts, options: { repair: boolean }): Promise<DoctorReport> {
  const { ctx } = parts;
  const findings: Finding[] = [];
  // Under `links` no header and no backing changes; pivots go on, and make rows before files.
  const files = await ctx.links.run(async () => {
    const present = new Set(await ctx.store.list());
    const rows = await ctx.catalog.db.selectFrom('qcow2_files').selectAll().execute();
    const intents = await listIntents(ctx.catalog.db);
    const changing = new Set(intents.flatMap(({ intent }) => filesUnder(intent)));
    const byId = new Map(rows.map((file) => [file.id, file]));
    for (const file of rows) {
      if (await isMissing(ctx, file, present)) findings.push(missingFile(ctx, file));
      else if (file.origin === 'own' && !changing.has(file.id))
        await examineHeader(ctx, file, options.repair, findings);
    }
    await examineStrangers(ctx, byId, present, findings);
    await examineReferences(parts, byId, findings);
    examineGraph(ctx, byId, findings);
    for (const { id, intent } of intents) findings.push(openIntent(id, intent));
    return rows;
  });
  for (const file of files) await examineContent(ctx, file, findings);
  await examineDead(ctx, options.repair, findings);
  return { findings, checkedFiles: files.length };
}

function filesUnder(intent: Intent): number[] {
  if (intent.kind === 'headers') return intent.plan.files;
  if (intent.kind === 'merge') return [intent.plan.upper];
  return intent.kind === 'relink' ? intent.plan.children : intent.plan.targets.map((target) => target.overlay);
}

function openIntent(id: number, intent: Intent): Finding {
  return {
    code: 'intent_open',
    severity: 'info',
    subject: `intent ${id}`,
    explanation: `A change of layers (${intent.kind}) is under way; it is finished by itself, at the latest at the next start.`,
    repairable: false,
  };
}

function isInUse(file: FileRow): boolean {
  return file.state === 'active' || file.state === 'frozen';
}

async function isMissing(ctx: Context, file: FileRow, present: ReadonlySet<string>): Promise<boolean> {
  if (!isInUse(file) || present.has(ctx.store.nameOf(file.id))) return false;
  // It may be newer than the list of the directory.
  return (await ctx.store.modifiedMs(file.id)) === 0;
}

function missingFile(ctx: Context, file: FileRow): Finding {
  return {
    code: 'file_missing',
    severity: 'error',
    subject: ctx.store.nameOf(file.id),
    explanation: `The catalog knows this layer of drive ${file.drive_id}, but its file is gone. What stands on it cannot be read.`,
    repairable: false,
  };
}

async function examineDead(ctx: Context, repair: boolean, findings: Finding[]): Promise<void> {
  const rows = await ctx.catalog.db.selectFrom('qcow2_files').select('id').where('state', '=', 'dead').execute();
  if (rows.length === 0) return;
  if (repair) await sweepDead(ctx);
  findings.push({
    code: 'files_to_remove',
    severity: 'info',
    subject: `${rows.length} layer files`,
    explanation: 'They are no longer needed and wait to be unlinked.',
    repairable: true,
    repaired: repair,
  });
}

async function examineHeader(ctx: Context, file: FileRow, repair: boolean, findings: Finding[]): Promise<void> {
  if (!isInUse(file)) return;
  const name = ctx.store.nameOf(file.id);
  try {
    const header = await readHeader(ctx.store.pathOf(file.id));
    const wanted = file.backing_id === null ? null : ctx.store.nameOf(file.backing_id);
    if (header.incompatible.corrupt) {
      findings.push({
        code: 'file_corrupt',
        severity: 'error',
        subject: name,
        explanation: 'QEMU has marked this layer as corrupt.',
        repairable: false,
      });
    }
    if (header.backing === wanted) return;
    if (repair) await relinkOne(ctx, file.id, file.backing_id);
    findings.push({
      code: 'header_disagrees',
      severity: 'warning',
      subject: name,
      explanation: `Its header names ${header.backing ?? 'no backing file'}, the catalog ${wanted ?? 'none'}. Calotype goes by the catalog; other tools would read it wrongly.`,
      repairable: true,
      repaired: repair,
    });
  } catch (error) {
    findings.push({
      code: 'file_unreadable',
      severity: 'error',
      subject: name,
      explanation: `Its header cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      repairable: false,
    });
  }
}

/** With its tree to itself, so that no merge writes the file meanwhile. Files that QEMU has open are its own to watch. */
async function examineContent(ctx: Context, file: FileRow, findings: Finding[]): Promise<void> {
  const subject = ctx.store.nameOf(file.id);
  if (findings.some((finding) => finding.subject === subject && finding.severity === 'error')) return;
  const explanation = await withTree(
    ctx,
    async () => file.id,
    () => contentTrouble(ctx, file.id),
  );
  if (explanation === undefined) return;
  findings.push({
    code: explanation.isDamage ? 'file_damaged' : 'clusters_leaked',
    severity: explanation.isDamage ? 'error' : 'info',
    subject,
    explanation: explanation.text,
    repairable: false,
  });
}

async function contentTrouble(ctx: Context, id: number): Promise<{ isDamage: boolean; text: string } | undefined> {
  const now = await findFile(ctx.catalog.db, id);
  if (now === undefined || now.origin !== 'own' || !isInUse(now) || graphsWith(ctx, id).length > 0) return undefined;
  try {
    const { ok, leaks, errors, corruptions } = await checkImage(ctx.store.pathOf(id));
    if (!ok) return { isDamage: true, text: `${errors} errors and ${corruptions} corruptions in its tables.` };
    if (leaks === 0) return undefined;
    return {
      isDamage: false,
      text: `${leaks} clusters are allocated to nothing, as a crash leaves them; the data is whole.`,
    };
  } catch (error) {
    if (graphsWith(ctx, id).length > 0) return undefined; // Opened since.
    if (!(error instanceof CalotypeError) || error.code !== 'engine_failed') throw error;
    return { isDamage: true, text: `It cannot be checked: ${error.message}` };
  }
}

async function examineStrangers(
  ctx: Context,
  byId: ReadonlyMap<number, FileRow>,
  present: ReadonlySet<string>,
  findings: Finding[],
): Promise<void> {
  for (const name of present) {
    const id = ctx.store.idOf(name);
    if (id === null ? expectedOthers.test(name) : byId.has(id)) continue;
    // Files go before their rows: one of the list may be gone by now.
    if (id !== null && (await ctx.store.modifiedMs(id)) === 0) continue;
    findings.push({
      code: 'file_unknown',
      severity: 'warning',
      subject: name,
      explanation: 'This file is in the image directory, but the catalog does not know it. It is left alone.',
      repairable: false,
    });
  }
}

async function examineReferences(parts: Parts, byId: ReadonlyMap<number, FileRow>, findings: Finding[]): Promise<void> {
  const { db } = parts.ctx.catalog;
  const ids = [...byId.keys()];
  const pinned = await pinnedAmong(db, ids);
  let hidden = 0;
  for (const file of byId.values()) {
    if (isInUse(file) && file.backing_id !== null && !byId.has(file.backing_id)) {
      findings.push({
        code: 'backing_unknown',
        severity: 'error',
        subject: parts.ctx.store.nameOf(file.id),
        explanation: `It stands on layer ${file.backing_id}, which the catalog does not know.`,
        repairable: false,
      });
    }
    if (file.state === 'frozen' && !pinned.has(file.id)) hidden++;
  }
  if (hidden > 0) {
    findings.push({
      code: 'layers_hidden',
      severity: 'info',
      subject: `${hidden} layer files`,
      explanation: 'No snapshot or drive needs them themselves, but others stand on them; they merge when one is left.',
      repairable: false,
    });
  }
  const orphans = await db
    .selectFrom('drive_snapshots as s')
    .leftJoin('qcow2_points as p', 'p.drive_snapshot_id', 's.id')
    .innerJoin('snapshots as n', 'n.id', 's.snapshot_id')
    .select('s.id')
    .where('p.drive_snapshot_id', 'is', null)
    .where('n.state', '=', 'available')
    .execute();
  for (const row of orphans) {
    findings.push({
      code: 'snapshot_without_data',
      severity: 'error',
      subject: `drive snapshot ${row.id}`,
      explanation: 'It is listed as available, but the engine has no layer for it.',
      repairable: false,
    });
  }
}

function examineGraph(ctx: Context, byId: ReadonlyMap<number, FileRow>, findings: Finding[]): void {
  for (const file of byId.values()) {
    if (!isInUse(file)) continue;
    const backing = graphsWith(ctx, file.id)
      .map((graph) => graph.backingOf(file.id))
      .find((id) => id !== file.backing_id);
    if (backing === undefined) continue;
    findings.push({
      code: 'graph_disagrees',
      severity: 'warning',
      subject: ctx.store.nameOf(file.id),
      explanation: `The process that has it open reads it over layer ${backing ?? 'none'}, the catalog says ${file.backing_id ?? 'none'}.`,
      repairable: false,
    });
  }
}
