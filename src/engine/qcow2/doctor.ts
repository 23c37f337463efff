/**
 * The doctor: compares catalog, directory, image headers and the daemon's graph, both ways. It repairs what it can
 * explain, and deletes nothing: a file without a record is only reported.
 */
import type { Finding } from '../../core/model.ts';
import { checkImage } from '../../qemu/image-tools.ts';
import { readHeader } from '../../qemu/qcow2.ts';
import type { DoctorReport } from '../engine.ts';
import { type FileRow, pinnedAmong } from './records.ts';
import { type Parts, sweepDead } from './reclaim.ts';

const expectedOthers = new Set(['reserve']);

export async function examine(parts: Parts, options: { repair: boolean }): Promise<DoctorReport> {
  const { ctx } = parts;
  const findings: Finding[] = [];
  const files = await ctx.catalog.db.selectFrom('qcow2_files').selectAll().execute();
  const byId = new Map(files.map((file) => [file.id, file]));
  const present = new Set(await ctx.store.list());
  await examineFiles(parts, files, present, options.repair, findings);
  examineStrangers(parts, byId, present, findings);
  await examineReferences(parts, byId, findings);
  await examineGraph(parts, byId, findings);
  const intents = await ctx.catalog.db.selectFrom('qcow2_intents').select('id').execute();
  for (const intent of intents) {
    findings.push({
      code: 'intent_open',
      severity: 'info',
      subject: `intent ${intent.id}`,
      explanation: 'A change of layers is under way; it is finished by itself, at the latest at the next start.',
      repairable: false,
    });
  }
  return { findings, checkedFiles: files.length };
}

async function examineFiles(
  parts: Parts,
  files: readonly FileRow[],
  present: ReadonlySet<string>,
  repair: boolean,
  findings: Finding[],
): Promise<void> {
  const { ctx } = parts;
  let dead = 0;
  for (const file of files) {
    const name = ctx.store.nameOf(file.id);
    if (file.state === 'dead' || file.state === 'planned') {
      dead++;
      continue;
    }
    if (!present.has(name)) {
      findings.push({
        code: 'file_missing',
        severity: 'error',
        subject: name,
        explanation: `The catalog knows this layer of drive ${file.drive_id}, but its file is gone. What stands on it cannot be read.`,
        repairable: false,
      });
      continue;
    }
    await examineHeader(parts, file, repair, findings);
  }
  if (dead > 0) {
    if (repair) await sweepDead(ctx);
    findings.push({
      code: 'files_to_remove',
      severity: 'info',
      subject: `${dead} layer files`,
      explanation: 'They are no longer needed and wait to be unlinked.',
      repairable: true,
      repaired: repair,
    });
  }
}

async function examineHeader(parts: Parts, file: FileRow, repair: boolean, findings: Finding[]): Promise<void> {
  const { ctx } = parts;
  const name = ctx.store.nameOf(file.id);
  try {
    const header = await readHeader(ctx.store.pathOf(file.id));
    const wanted = file.backing_id === null ? null : ctx.store.nameOf(file.backing_id);
    const open = ctx.graph().isOpen(file.id);
    if (header.backing !== wanted && file.state !== 'spare') {
      const fix = repair && !open;
      if (fix) await ctx.store.setBacking(file.id, file.backing_id);
      findings.push({
        code: 'header_disagrees',
        severity: 'warning',
        subject: name,
        explanation: `Its header names ${header.backing ?? 'no backing file'}, the catalog ${wanted ?? 'none'}. Calotype goes by the catalog; other tools would read it wrongly.`,
        repairable: !open,
        repaired: fix,
      });
    }
    if (header.incompatible.corrupt) {
      findings.push({
        code: 'file_corrupt',
        severity: 'error',
        subject: name,
        explanation: 'QEMU has marked this layer as corrupt.',
        repairable: false,
      });
    } else if (!open) await examineContent(parts, file, findings);
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

async function examineContent(parts: Parts, file: FileRow, findings: Finding[]): Promise<void> {
  const { ctx } = parts;
  const result = await checkImage(ctx.store.pathOf(file.id));
  if (result.ok && result.leaks === 0) return;
  findings.push({
    code: result.ok ? 'clusters_leaked' : 'file_damaged',
    severity: result.ok ? 'info' : 'error',
    subject: ctx.store.nameOf(file.id),
    explanation: result.ok
      ? `${result.leaks} clusters are allocated to nothing, as a crash leaves them; the data is whole.`
      : `${result.errors} errors and ${result.corruptions} corruptions in its tables.`,
    repairable: false,
  });
}

function examineStrangers(
  parts: Parts,
  byId: ReadonlyMap<number, FileRow>,
  present: ReadonlySet<string>,
  findings: Finding[],
): void {
  for (const name of present) {
    const id = parts.ctx.store.idOf(name);
    if (id === null ? expectedOthers.has(name) : byId.has(id)) continue;
    findings.push({
      code: 'file_unknown',
      severity: 'warning',
      subject: name,
      explanation: 'This file is in the image directory, but the catalog does not know it. It is left alone.',
      repairable: false,
    });
  }
}

async function examineReferences(
  parts: Parts,
  byId: ReadonlyMap<number, FileRow>,
  findings: Finding[],
): Promise<void> {
  const { db } = parts.ctx.catalog;
  const ids = [...byId.keys()];
  const pinned = await pinnedAmong(db, ids);
  let hidden = 0;
  for (const file of byId.values()) {
    if (file.backing_id !== null && !byId.has(file.backing_id)) {
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

async function examineGraph(parts: Parts, byId: ReadonlyMap<number, FileRow>, findings: Finding[]): Promise<void> {
  const graph = parts.ctx.graph();
  for (const file of byId.values()) {
    if (!graph.isOpen(file.id) || file.state === 'spare') continue;
    const backing = graph.backingOf(file.id);
    if (backing === file.backing_id || file.state === 'dead' || file.state === 'planned') continue;
    findings.push({
      code: 'graph_disagrees',
      severity: 'warning',
      subject: parts.ctx.store.nameOf(file.id),
      explanation: `The storage daemon reads it over layer ${backing ?? 'none'}, the catalog says ${file.backing_id ?? 'none'}.`,
      repairable: false,
    });
  }
}
