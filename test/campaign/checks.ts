/**
 * After a death: compares everything the server shows with what the oracle says. Nothing may be changing meanwhile. What was
 * uncertain is certain afterwards, since it was read.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DriveBody, SnapshotBody } from '../../src/http/schemas.ts';
import { NbdClient } from '../../src/qemu/nbd-client.ts';
import { type Api, addressOf } from './api.ts';
import { alien, blockBytes, describeBlock, writeIn } from './blocks.ts';
import { machinePrefix, type Names } from './names.ts';
import { Violation } from './operations.ts';
import { type DriveModel, followsOrder, type Oracle, type SnapshotModel } from './oracle.ts';
import type { Random } from './random.ts';

export interface CheckCounters {
  checks: number;
  parts: number;
  drives: number;
  bytes: number;
  sizes: number;
  findings: number;
}

export interface CheckContext {
  readonly api: Api;
  readonly oracle: Oracle;
  readonly names: Names;
  readonly random: Random;
  readonly data: string;
  readonly counters: CheckCounters;
  /** Connections of the drives that are exported, flushed and quiet. */
  readonly clients: ReadonlyMap<string, NbdClient>;
  /** Whether sizes can be told from contents: not where blocks may have been allocated without their data. */
  readonly sizes: boolean;
}

const taskDeadlineMs = 60_000;
const filesDeadlineMs = 20_000;
const readBytes = 1024 * 1024;
const sizesPerCheck = 4;

/** @throws Violation with all that is wrong, one line each */
export async function checkEverything(ctx: CheckContext): Promise<void> {
  await noTaskIsStuck(ctx);
  const problems: string[] = [];
  const drives = await compareDrives(ctx, problems);
  const snapshots = await compareSnapshots(ctx, problems);
  if (problems.length > 0) throw new Violation(problems.join('\n'));
  for (const model of ctx.oracle.snapshots.values()) problems.push(...(await checkSnapshot(ctx, model)));
  for (const model of ctx.oracle.drives.values()) problems.push(...(await checkDrive(ctx, model)));
  for (const model of ctx.oracle.drives.values()) problems.push(...(await checkTree(ctx, model, drives, snapshots)));
  if (ctx.sizes && problems.length === 0) await checkSizes(ctx, problems);
  await checkFindings(ctx, problems);
  await checkFiles(ctx, problems);
  ctx.counters.checks++;
  if (problems.length > 0) throw new Violation(problems.join('\n'));
}

async function noTaskIsStuck({ api }: CheckContext): Promise<void> {
  const deadline = Date.now() + taskDeadlineMs;
  for (;;) {
    const active = await api.activeTasks();
    if (active.length === 0) break;
    if (Date.now() > deadline) {
      throw new Violation(active.map((task) => `task ${task.id} (${task.kind}) is stuck in ${task.state}`).join('\n'));
    }
    const [first] = active;
    if (first !== undefined) await api.task(first.id, 5);
    await sleep(5);
  }
  const failed = await api.all<{ id: string; kind: string; error: { code: string; message: string } | null }>(
    '/v1/tasks?state=failed',
  );
  // Those of machines may fail when more than the server is killed; their clients judge them.
  const [one] = failed.filter((task) => !task.kind.startsWith('machine.'));
  if (one !== undefined)
    throw new Violation(`task ${one.id} (${one.kind}) failed: ${one.error?.code} ${one.error?.message}`);
}

async function compareDrives(
  { api, oracle, names }: CheckContext,
  problems: string[],
): Promise<Map<string, DriveBody>> {
  const found = new Map<string, DriveBody>();
  for (const drive of await api.drives()) {
    if (drive.name.startsWith(machinePrefix)) continue;
    const model = oracle.drives.get(drive.name);
    if (model === undefined || names.drives.get(drive.name) !== drive.id) {
      problems.push(`there is a drive ${drive.name} (${drive.id}) too many`);
      continue;
    }
    if (found.has(drive.name)) problems.push(`there are two drives ${drive.name}`);
    found.set(drive.name, drive);
    if (drive.state !== 'available') problems.push(`drive ${drive.name} is ${drive.state}`);
    if (drive.sizeBytes !== model.live.blocks * blockBytes) {
      problems.push(`drive ${drive.name} has ${drive.sizeBytes} bytes instead of ${model.live.blocks * blockBytes}`);
    }
    if (drive.exported !== model.exported) problems.push(`drive ${drive.name}: exported is ${drive.exported}`);
  }
  for (const name of oracle.drives.keys()) if (!found.has(name)) problems.push(`drive ${name} is gone`);
  return found;
}

async function compareSnapshots(ctx: CheckContext, problems: string[]): Promise<Map<string, SnapshotBody>> {
  const { api, oracle, names } = ctx;
  const others = (snapshot: SnapshotBody): boolean =>
    !snapshot.parts.some((part) => part.driveName.startsWith(machinePrefix));
  const byId = new Map((await api.snapshots()).filter(others).map((snapshot) => [snapshot.id, snapshot]));
  const found = new Map<string, SnapshotBody>();
  for (const model of oracle.snapshots.values()) {
    const known = names.snapshots.get(model.name);
    const snapshot = known === undefined ? undefined : byId.get(known.id);
    if (known === undefined || snapshot === undefined) {
      problems.push(`snapshot ${model.name} is gone`);
      continue;
    }
    byId.delete(known.id);
    found.set(model.name, snapshot);
    if (snapshot.state !== 'available') problems.push(`snapshot ${model.name} is ${snapshot.state}`);
    const present = [...model.parts].filter(([, part]) => part.present).map(([drive]) => known.parts.get(drive));
    const listed = snapshot.parts.map((part) => part.id);
    if (present.length !== listed.length || !present.every((id) => id !== undefined && listed.includes(id))) {
      problems.push(`snapshot ${model.name} has parts ${listed.join(' ')} instead of ${present.join(' ')}`);
    }
    if (snapshot.complete !== (present.length === model.parts.size)) {
      problems.push(`snapshot ${model.name}: complete is ${snapshot.complete}`);
    }
  }
  for (const snapshot of byId.values()) problems.push(`there is a snapshot ${snapshot.name} (${snapshot.id}) too many`);
  return found;
}

/** Reads all of an export and tells the write seen in each block. */
async function readBlocks(
  client: NbdClient,
  each: (block: number, write: number, say: () => string) => void,
): Promise<void> {
  for (let at = 0; at < client.sizeBytes; at += readBytes) {
    const data = await client.read(at, Math.min(readBytes, client.sizeBytes - at));
    for (let offset = 0; offset < data.length; offset += blockBytes) {
      const block = (at + offset) / blockBytes;
      each(block, writeIn(data, offset, block), () => describeBlock(data, offset));
    }
  }
}

/** Serves something for reading, for as long as it takes. */
async function whileServed<T>(
  api: Api,
  body: Record<string, unknown>,
  use: (client: NbdClient) => Promise<T>,
): Promise<T> {
  const served = await api.startExport(body);
  const { path, exportName } = addressOf(served);
  const client = await NbdClient.connect({ kind: 'unix', path }, { exportName });
  try {
    return await use(client);
  } finally {
    await client.close();
    await api.stopExport(served.id);
  }
}

class Mismatches {
  readonly #what: string;
  readonly #oracle: Oracle;
  readonly #lines: string[] = [];
  #count = 0;

  constructor(what: string, oracle: Oracle) {
    this.#what = what;
    this.#oracle = oracle;
  }

  add(block: number, write: number, possible: readonly number[], say: () => string): void {
    this.#count++;
    if (this.#lines.length >= 4) return;
    const tell = (number: number): string => {
      const record = this.#oracle.writes.get(number);
      if (record === undefined) return String(number);
      return `${number} (${record.drive}, asked ${record.issuedAt}, answered ${record.ackedAt ?? 'never'})`;
    };
    const seen = write === alien ? say() : tell(write);
    this.#lines.push(`  block ${block} shows ${seen}, may show ${possible.map(tell).join(' or ')}`);
  }

  report(): string[] {
    return this.#count === 0 ? [] : [`${this.#what} differs in ${this.#count} blocks`, ...this.#lines];
  }
}

async function checkSnapshot(ctx: CheckContext, model: SnapshotModel): Promise<string[]> {
  const { api, oracle, names, counters } = ctx;
  const problems: string[] = [];
  const seenParts: {
    content: SnapshotModel['parts'] extends Map<string, infer P> ? P : never;
    seen: Map<number, number>;
  }[] = [];
  for (const [drive, part] of model.parts) {
    if (!part.present) continue;
    const what = `snapshot ${model.name} of ${drive}`;
    const wrong = new Mismatches(what, oracle);
    const seen = new Map<number, number>();
    await whileServed(api, { driveSnapshotId: names.partId(model.name, drive) }, async (client) => {
      if (client.sizeBytes !== part.content.blocks * blockBytes) problems.push(`${what} has ${client.sizeBytes} bytes`);
      await readBlocks(client, (block, write, say) => {
        const possible = part.content.possible(block);
        if (!possible.includes(write)) wrong.add(block, write, possible, say);
        if (part.content.loose.has(block)) seen.set(block, write);
      });
      counters.bytes += client.sizeBytes;
    });
    counters.parts++;
    problems.push(...wrong.report());
    seenParts.push({ content: part, seen });
  }
  const parts = seenParts.map(({ content, seen }) => ({ content: content.content, seen }));
  if (!followsOrder(oracle.writes, parts)) {
    problems.push(
      `snapshot ${model.name} is not one instant: it holds a write, but not one that was answered before it`,
    );
  }
  for (const { content, seen } of parts) {
    for (const [block, write] of seen) content.values[block] = write;
    content.loose.clear();
  }
  return problems;
}

async function checkDrive(ctx: CheckContext, model: DriveModel): Promise<string[]> {
  const { api, oracle, names, counters, clients } = ctx;
  const wrong = new Mismatches(`drive ${model.name}`, oracle);
  const problems: string[] = [];
  const read = async (client: NbdClient): Promise<void> => {
    if (client.sizeBytes !== model.live.blocks * blockBytes) {
      problems.push(
        `drive ${model.name} is served with ${client.sizeBytes} bytes, not ${model.live.blocks * blockBytes}`,
      );
    }
    await readBlocks(client, (block, write, say) => {
      const possible = model.live.possible(block);
      if (!possible.includes(write)) wrong.add(block, write, possible, say);
      else if (block < model.live.blocks) model.live.observe(block, write);
    });
    counters.bytes += client.sizeBytes;
  };
  const client = clients.get(model.name);
  if (client !== undefined) await read(client);
  else await whileServed(api, { driveId: names.driveId(model.name) }, read);
  counters.drives++;
  return [...problems, ...wrong.report()];
}

async function checkTree(
  { api, oracle, names }: CheckContext,
  model: DriveModel,
  drives: ReadonlyMap<string, DriveBody>,
  snapshots: ReadonlyMap<string, SnapshotBody>,
): Promise<string[]> {
  const problems: string[] = [];
  const tree = await api.tree(names.driveId(model.name));
  const idOf = (snapshot: string | null): string | null =>
    snapshot === null ? null : names.partId(snapshot, model.name);
  const current = idOf(oracle.currentOf(model.name));
  if (tree.current !== current)
    problems.push(`tree of ${model.name}: current is ${tree.current} instead of ${current}`);
  if (drives.get(model.name)?.basedOn !== current) problems.push(`drive ${model.name} is not based on ${current}`);
  const left = new Map(tree.nodes.map((node) => [node.part.id, node]));
  for (const snapshot of oracle.snapshotsOf(model.name)) {
    const id = names.partId(snapshot.name, model.name);
    const node = left.get(id);
    left.delete(id);
    if (node === undefined) problems.push(`tree of ${model.name}: ${snapshot.name} is missing`);
    const parent = idOf(oracle.parentOf(model.name, snapshot.name));
    if (node !== undefined && node.part.parentId !== parent) {
      problems.push(`tree of ${model.name}: ${snapshot.name} stands on ${node.part.parentId} instead of ${parent}`);
    }
    if (node !== undefined && node.part.current !== (id === current)) {
      problems.push(`tree of ${model.name}: the mark on ${snapshot.name} is ${node.part.current}`);
    }
    if (snapshots.get(snapshot.name)?.parts.some((part) => part.id === id) !== true) {
      problems.push(`tree of ${model.name}: ${snapshot.name} is in no list`);
    }
  }
  for (const node of left.values()) problems.push(`tree of ${model.name}: ${node.snapshot.name} is too many`);
  return problems;
}

/** Sizes are exact: the blocks in which a snapshot differs from its drive, since no write repeats another. */
async function checkSizes({ api, oracle, names, random, counters }: CheckContext, problems: string[]): Promise<void> {
  const candidates = [...oracle.snapshots.values()].flatMap((snapshot) =>
    [...snapshot.parts].flatMap(([name, part]) => {
      const drive = oracle.drives.get(name);
      return part.present && drive !== undefined ? [{ snapshot, part, drive }] : [];
    }),
  );
  for (let taken = 0; taken < sizesPerCheck && candidates.length > 0; taken++) {
    const chosen = random.pick(candidates);
    if (chosen === undefined) return;
    const { snapshot, part, drive } = chosen;
    let changed = 0;
    for (let block = 0; block < drive.live.blocks; block++) {
      if ((drive.live.values[block] ?? 0) !== (part.content.values[block] ?? 0)) changed++;
    }
    const id = names.partId(snapshot.name, drive.name);
    const usage = await api.snapshotUsage(names.snapshotId(snapshot.name));
    const said = usage.parts.find((item) => item.driveSnapshotId === id)?.sizeBytes;
    const { totalBytes } = await api.changedBytes(names.driveId(drive.name), id);
    for (const [what, bytes] of [
      ['size', said],
      ['changed extents', totalBytes],
    ] as const) {
      if (bytes === changed * blockBytes) continue;
      problems.push(`${what} of ${snapshot.name} of ${drive.name}: ${bytes} bytes instead of ${changed * blockBytes}`);
    }
    counters.sizes++;
  }
}

async function checkFindings({ api, counters }: CheckContext, problems: string[]): Promise<void> {
  for (const finding of await api.doctor()) {
    counters.findings++;
    if (finding.severity === 'info') continue;
    problems.push(`doctor: ${finding.severity} ${finding.code}: ${finding.subject}: ${finding.explanation}`);
  }
}

/**
 * The same by other eyes: the directory against the catalog's tables, without the engine. Compaction goes on by itself, so
 * that something under way may be found; what is still found after a while is left over.
 */
async function checkFiles({ data }: CheckContext, problems: string[]): Promise<void> {
  const deadline = Date.now() + filesDeadlineMs;
  let found = leftOver(data);
  while (found.length > 0 && Date.now() < deadline) {
    await sleep(100);
    found = leftOver(data);
  }
  problems.push(...found);
}

function leftOver(data: string): string[] {
  const problems: string[] = [];
  const catalog = new DatabaseSync(join(data, 'catalog.db'), { readOnly: true });
  try {
    const rows = catalog.prepare('select id, state from qcow2_files').all();
    const known = new Map(rows.map((row) => [`l${Number(row.id).toString(36)}.qcow2`, String(row.state)]));
    const files = new Set(readdirSync(join(data, 'images')));
    for (const file of files) if (!known.has(file)) problems.push(`images/${file} has no record`);
    for (const [file, state] of known) {
      const needed = state === 'active' || state === 'frozen' || state === 'spare';
      if (needed && !files.has(file)) problems.push(`images/${file} (${state}) is missing`);
      if (state === 'planned') problems.push(`images/${file} is still planned`);
    }
    const intents = catalog.prepare('select kind, plan_json from qcow2_intents').all();
    for (const intent of intents) problems.push(`an intent is open: ${intent.kind} ${intent.plan_json}`);
  } finally {
    catalog.close();
  }
  return problems;
}
