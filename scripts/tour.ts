/**
 * The guided tour: a real file system, real snapshots, and after each step what an independent program finds. Starts a
 * server of its own on a temporary directory, or uses one on this machine: `npm run tour -- --url URL [--token TOKEN]`.
 * Ends with exit code 1 at the first fact that does not hold. Run by scripts/tour.mjs, which sees to the programs.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  type Change,
  Client,
  type Drive,
  type Export,
  type Extent,
  OwnServer,
  type Report,
  type Snapshot,
  type Task,
} from './tour-client.ts';
import { tourMachines } from './tour-machines.ts';
import {
  areIdentical,
  blockBytes,
  blockOf,
  blocksOf,
  chapter,
  check,
  checkedCount,
  firstRing,
  formatMiB,
  MiB,
  Mismatch,
  newestInRing,
  QemuIo,
  RingWriter,
  readFileOf,
  ringBlocks,
  run,
  say,
} from './tour-tools.ts';

const driveBytes = 96 * MiB;
const bulkBytes = 16 * MiB;
/** Names of its own, so that it can visit a server that others use. */
const suffix = randomBytes(3).toString('hex');
const driveName = `tour-${suffix}`;
const cloneName = `tour-clone-${suffix}`;

interface Taken {
  readonly snapshot: Snapshot;
  readonly part: string;
  /** What /notes.txt said then. */
  readonly notes: string;
  /** The last number flushed before it was asked for, and the last one begun when it was answered. */
  readonly flushedBefore: number;
  readonly begunAfter: number;
  /** The drive as `nbdcopy` read it, and the newest number found in it. */
  copy: string;
  newest: number;
}

async function main(): Promise<void> {
  const startedAt = performance.now();
  const values = readOptions();
  const scratch = mkdtempSync(join(tmpdir(), 'calotype-tour-'));
  const own = values.url === undefined ? new OwnServer(join(scratch, 'data')) : null;
  const tidy: (() => Promise<unknown>)[] = [];
  const go = async (): Promise<void> => {
    const given = { url: apiOf(values.url ?? ''), token: values.token ?? process.env.CALOTYPE_TOKEN ?? '' };
    const place = own === null ? given : await own.start();
    await new Tour(new Client(place), own, scratch, tidy).run();
  };
  const interrupted = new Promise<never>((_, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.once(signal, () => reject(new Mismatch('interrupted')));
  });
  let failure: unknown;
  await Promise.race([go(), interrupted]).catch((error: unknown) => {
    failure = error;
    const text = error instanceof Mismatch ? error.message : error instanceof Error ? error.stack : String(error);
    console.log(`  ✗ ${text}`);
  });
  for (const undo of tidy.reverse()) await undo().catch(() => undefined);
  await own?.stop('SIGTERM');
  await own?.stopDaemon();
  rmSync(scratch, { recursive: true, force: true });

  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  if (failure === undefined) console.log(`\n${checkedCount()} facts checked in ${seconds} s. Nothing is left behind.`);
  else console.log(`\nThe tour ended after ${checkedCount()} facts, because the last one did not hold.`);
  process.exit(failure === undefined ? 0 : 1);
}

function readOptions(): { url?: string; token?: string } {
  try {
    return parseArgs({ options: { url: { type: 'string' }, token: { type: 'string' } } }).values;
  } catch (error) {
    console.error(
      `${error instanceof Error ? error.message : error}\nUsage: npm run tour [-- --url URL --token TOKEN]`,
    );
    process.exit(2);
  }
}

function apiOf(url: string): string {
  return `${url.replace(/\/+$/, '').replace(/\/v1$/, '')}/v1`;
}

class Tour {
  readonly #client: Client;
  readonly #own: OwnServer | null;
  readonly #scratch: string;
  readonly #tidy: (() => Promise<unknown>)[];
  #copies = 0;

  constructor(client: Client, own: OwnServer | null, scratch: string, tidy: (() => Promise<unknown>)[]) {
    this.#client = client;
    this.#own = own;
    this.#scratch = scratch;
    this.#tidy = tidy;
  }

  async run(): Promise<void> {
    const image = await this.#makeFileSystem();
    const ring = await blocksOf(image, '/ring.bin');
    const notesAt = (await blocksOf(image, '/notes.txt'))[0] ?? 0;
    const bulk = joinBlocks(await blocksOf(image, '/bulk.bin'));

    const drive = await this.#importDrive(image);
    const served = await this.#serve(drive);
    const io = new QemuIo(served.uri);
    this.#tidy.push(() => io.close());
    const writer = new RingWriter([{ io, ring }], this.#file('block'));
    writer.start();
    await writer.until(30);
    check(`qemu-io writes to it over NBD: ${writer.flushed - ringBlocks} writes, each flushed`, true);

    chapter('3  Snapshots while it is being written');
    const taken: Taken[] = [];
    const writeNotes = async (text: string): Promise<void> => {
      const file = this.#file('notes');
      writeFileSync(file, blockOf(text));
      await io.write(file, notesAt, blockBytes);
    };
    taken.push(await this.#take(drive, 'first', 'the first state', writer));
    await writeNotes('the second state');
    for (const extent of bulk) {
      const file = this.#file('bulk');
      writeFileSync(file, randomBytes(extent.length));
      await io.write(file, extent.start, extent.length);
    }
    say(`/notes.txt and the ${formatMiB(bulkBytes)} of /bulk.bin were overwritten.`);
    taken.push(await this.#take(drive, 'second', 'the second state', writer));
    await writeNotes('the third state');
    taken.push(await this.#take(drive, 'third', 'the third state', writer));
    await writeNotes('the fourth state');
    await writer.until(10);

    await this.#readAll(taken, writer);
    await writer.pause();
    await this.#sizes(drive, taken, writer, { ring, notesAt, bulk });
    await this.#revert(drive, taken, io, served, notesAt);
    const clone = await this.#clone(drive, taken, notesAt);
    await this.#group([drive, clone.drive], [io, clone.io], ring);
    if (this.#own !== null) await this.#survive(this.#own, drive, writer, served);
    await this.#deleteSnapshots(drive, clone, taken);
    await io.close();
    await tourMachines({ client: this.#client, scratch: this.#scratch, suffix, tidy: this.#tidy });
    await this.#deleteRest(drive, served, clone);
  }

  // ---- 1

  async #makeFileSystem(): Promise<string> {
    chapter('1  A drive with a real file system');
    const tree = join(this.#scratch, 'tree');
    mkdirSync(tree);
    writeFileSync(join(tree, 'notes.txt'), blockOf('the first state'));
    writeFileSync(join(tree, 'ring.bin'), firstRing());
    writeFileSync(join(tree, 'bulk.bin'), randomBytes(bulkBytes));
    const image = this.#file('ext4.raw');
    await run('truncate', '-s', String(driveBytes), image);
    await run('mkfs.ext4', '-q', '-b', String(blockBytes), '-d', tree, image);
    say(`$ mkfs.ext4 -d tree ext4.raw   # notes.txt, ring.bin, bulk.bin; ${formatMiB(driveBytes)}, no root needed`);
    await run('e2fsck', '-fn', image);
    check('e2fsck finds the new file system clean', true);
    return image;
  }

  async #importDrive(image: string): Promise<Drive> {
    const { drive } = await this.#client.cliJson<Change>('drive', 'import', image, driveName);
    this.#tidy.push(() => this.#client.do('DELETE', `/drives/${drive.id}?snapshots=delete`));
    check(`drive ${drive.name} is ${drive.state} and as large as the image`, drive.sizeBytes === driveBytes, drive);
    const copy = this.#file('imported.raw');
    await this.#client.cli('drive', 'download', driveName, copy);
    check('qemu-img compare: its download is identical to the image', await areIdentical(image, copy));
    return drive;
  }

  // ---- 2

  async #serve(drive: Drive): Promise<Export> {
    chapter('2  Served over NBD, and written');
    const served = await this.#client.do<Export>('POST', '/exports', { driveId: drive.id, writable: true });
    this.#tidy.push(() => this.#client.do('DELETE', `/exports/${served.id}`));
    say(`POST /v1/exports → ${served.uri}`);
    const size = Number((await run('nbdinfo', '--size', served.uri)).trim());
    check(`nbdinfo sees ${size} bytes`, size === driveBytes, size);
    return served;
  }

  // ---- 3

  /** The last one through the command line, the others through the API. */
  async #take(drive: Drive, name: string, notes: string, writer: RingWriter): Promise<Taken> {
    await writer.until(10);
    const flushedBefore = writer.flushed;
    const startedAt = performance.now();
    const { snapshot, task } =
      name === 'third'
        ? await this.#client.cliJson<Change>('snapshot', 'create', driveName, '--name', name)
        : await this.#client.change('POST', '/snapshots', { driveIds: [drive.id], name });
    const ms = performance.now() - startedAt;
    const begunAfter = writer.begun;
    const how = name === 'third' ? 'command line, its start included' : 'API';
    check(
      `snapshot "${name}" is available, after ${ms.toFixed(1)} ms (${how})`,
      snapshot.state === 'available' && task.state === 'done',
      snapshot,
    );
    const part = snapshot.parts[0]?.id ?? '';
    return { snapshot, part, notes, flushedBefore, begunAfter, copy: '', newest: 0 };
  }

  // ---- 4

  async #readAll(taken: readonly Taken[], writer: RingWriter): Promise<void> {
    chapter('4  What each snapshot holds, by programs that know nothing of Calotype');
    const before = writer.flushed;
    for (const point of taken) {
      const { name } = point.snapshot;
      point.copy = await this.#copySnapshot(point);
      await run('e2fsck', '-fn', point.copy);
      const notes = (await readFileOf(point.copy, '/notes.txt')).toString().split('\n')[0];
      check(`"${name}": e2fsck finds it clean, debugfs reads "${notes}"`, notes === point.notes, notes);
      point.newest = newestInRing(await readFileOf(point.copy, '/ring.bin'));
      check(
        `"${name}": ends with write ${point.newest}, none torn or missing; ${point.flushedBefore} was flushed before, ${point.begunAfter} begun after`,
        point.newest >= point.flushedBefore && point.newest <= point.begunAfter,
        point.newest,
      );
      const download = this.#file(`${name}.raw`);
      await this.#client.cli('snapshot', 'download', point.snapshot.id, download);
      check(
        `"${name}": qemu-img finds its download identical to the NBD copy`,
        await areIdentical(download, point.copy),
      );
    }
    check(`meanwhile the drive took ${writer.flushed - before} more writes`, writer.flushed > before);
    say(`The longest write so far took ${writer.longestWrite.toFixed(1)} ms, snapshots included.`);
  }

  async #copySnapshot(point: Taken): Promise<string> {
    const served = await this.#client.do<Export>('POST', '/exports', { driveSnapshotId: point.part });
    const copy = await this.#copy(served.uri);
    await this.#client.do('DELETE', `/exports/${served.id}`);
    return copy;
  }

  async #copy(uri: string): Promise<string> {
    const copy = this.#file(`copy-${++this.#copies}.raw`);
    await run('nbdcopy', uri, copy);
    return copy;
  }

  // ---- 5

  async #sizes(
    drive: Drive,
    taken: readonly Taken[],
    writer: RingWriter,
    where: { ring: readonly number[]; notesAt: number; bulk: readonly Extent[] },
  ): Promise<void> {
    chapter('5  Sizes and changed extents, against what the tour itself wrote');
    const [first, second] = taken;
    if (first === undefined || second === undefined) throw new Mismatch('Two snapshots were expected.');
    const written = (from: number, to: number): Extent[] =>
      Array.from({ length: Math.min(ringBlocks, to - from) }, (_, back) => ({
        start: where.ring[(to - back - 1) % ringBlocks] ?? 0,
        length: blockBytes,
      }));
    const notes = { start: where.notesAt, length: blockBytes };
    for (const point of taken) {
      const parts = [notes, ...written(point.newest, writer.flushed), ...(point === first ? where.bulk : [])];
      const expected = joinExtents(parts).reduce((sum, extent) => sum + extent.length, 0);
      const { sizeBytes } = await this.#client.get<Snapshot>(`/snapshots/${point.snapshot.id}`);
      check(
        `"${point.snapshot.name}" holds ${expected} changed bytes, exactly what was written since`,
        sizeBytes === expected,
        {
          expected,
          sizeBytes,
        },
      );
    }
    const changes = await this.#client.cliJson<{ extents: Extent[] }>(
      ...['snapshot', 'changes', second.snapshot.id, '--from', first.snapshot.id],
    );
    const expected = joinExtents([notes, ...where.bulk, ...written(first.newest, second.newest)]);
    check(
      `from "first" to "second" ${changes.extents.length} extents changed, exactly the blocks written between`,
      JSON.stringify(changes.extents) === JSON.stringify(expected),
      { expected, found: changes.extents },
    );
    const { snapshot: idle } = await this.#client.change('POST', '/snapshots', { driveIds: [drive.id], name: 'idle' });
    const { sizeBytes } = await this.#client.get<Snapshot>(`/snapshots/${idle.id}`);
    check('a snapshot after which nothing was written holds 0 bytes', sizeBytes === 0, sizeBytes);
    say((await this.#client.cli('drive', 'usage', driveName)).trimEnd());
  }

  // ---- 6

  async #revert(drive: Drive, taken: readonly Taken[], io: QemuIo, served: Export, notesAt: number): Promise<void> {
    chapter('6  Back to the first state, under a connected client');
    const [first] = taken;
    if (first === undefined) throw new Mismatch('A snapshot was expected.');
    await io.flush();
    const before = await this.#copy(served.uri);
    const startedAt = performance.now();
    await this.#client.change('POST', `/drives/${drive.id}/revert`, { driveSnapshotId: first.part });
    say(`POST /v1/drives/…/revert took ${(performance.now() - startedAt).toFixed(1)} ms.`);
    const notes = await io.readText(notesAt);
    check(`the same NBD connection now reads "${notes}"`, notes === first.notes, notes);
    check('qemu-img: the drive is identical to "first"', await areIdentical(await this.#copy(served.uri), first.copy));
    const { items } = await this.#client.get<{ items: Snapshot[] }>(`/snapshots?driveId=${drive.id}`);
    const safety = items.find((item) => item.origin === 'safety');
    check(
      'the newer snapshots are still there, and a safety snapshot',
      items.length === 5 && safety !== undefined,
      items.length,
    );
    const kept = this.#file('safety.raw');
    await this.#client.cli('snapshot', 'download', safety?.id ?? '', kept);
    check('qemu-img: the safety snapshot is the state before the revert', await areIdentical(kept, before));
    say((await this.#client.cli('snapshot', 'tree', driveName)).trimEnd());
  }

  // ---- 7

  async #clone(
    drive: Drive,
    taken: readonly Taken[],
    notesAt: number,
  ): Promise<{ drive: Drive; io: QemuIo; served: Export }> {
    chapter('7  A clone that goes its own way');
    const second = taken[1];
    if (second === undefined) throw new Mismatch('A snapshot was expected.');
    const { drive: clone } = await this.#client.cliJson<Change>(
      'snapshot',
      'clone',
      'second',
      cloneName,
      '--drive',
      drive.name,
    );
    this.#tidy.push(() => this.#client.do('DELETE', `/drives/${clone.id}?snapshots=delete`));
    const served = await this.#client.do<Export>('POST', '/exports', { driveId: clone.id, writable: true });
    this.#tidy.push(() => this.#client.do('DELETE', `/exports/${served.id}`));
    check(
      'qemu-img: the clone is identical to "second"',
      await areIdentical(await this.#copy(served.uri), second.copy),
    );
    const io = new QemuIo(served.uri);
    this.#tidy.push(() => io.close());
    const file = this.#file('notes');
    writeFileSync(file, blockOf('the state of the clone'));
    await io.write(file, notesAt, blockBytes);
    await io.flush();
    const notes = (await readFileOf(await this.#copy(served.uri), '/notes.txt')).toString().split('\n')[0];
    check(`written to, it reads "${notes}"`, notes === 'the state of the clone', notes);
    check('and "second" is what it was', await areIdentical(await this.#copySnapshot(second), second.copy));
    return { drive: clone, io, served };
  }

  // ---- 8

  async #group(drives: readonly Drive[], clients: readonly QemuIo[], ring: readonly number[]): Promise<void> {
    chapter('8  Two drives at one instant');
    const writer = new RingWriter(
      clients.map((io) => ({ io, ring })),
      this.#file('block'),
    );
    writer.start(10_000);
    await writer.until(ringBlocks);
    const names = drives.map((drive) => drive.name);
    for (const name of ['together-1', 'together-2', 'together-3']) {
      await writer.until(5);
      const { snapshot } =
        name === 'together-1'
          ? await this.#client.cliJson<Change>('snapshot', 'create', ...names, '--name', name)
          : await this.#client.change('POST', '/snapshots', { driveIds: drives.map((drive) => drive.id), name });
      const newest: number[] = [];
      for (const drive of drives) {
        const part = snapshot.parts.find((each) => each.driveId === drive.id)?.id ?? '';
        const served = await this.#client.do<Export>('POST', '/exports', { driveSnapshotId: part });
        newest.push(newestInRing(await readFileOf(await this.#copy(served.uri), '/ring.bin')));
        await this.#client.do('DELETE', `/exports/${served.id}`);
      }
      const [a = 0, b = 0] = newest;
      check(
        `"${name}": each number goes to the first drive, then to the second; they hold ${a} and ${b}`,
        a === b || a === b + 1,
      );
      await this.#client.change('DELETE', `/snapshots/${snapshot.id}`);
    }
    await writer.pause();
  }

  // ---- 9

  async #survive(own: OwnServer, drive: Drive, writer: RingWriter, served: Export): Promise<void> {
    chapter('9  The server is killed; the drive goes on');
    writer.start(20_000);
    await writer.until(ringBlocks);
    const list = async (): Promise<string> => {
      const { items } = await this.#client.get<{ items: Snapshot[] }>(`/snapshots?driveId=${drive.id}`);
      return items.map((item) => `${item.id} ${item.state}`).join('\n');
    };
    const before = await list();
    await own.stop('SIGKILL');
    await writer.until(20);
    check('with the server killed by SIGKILL, qemu-io wrote 20 more blocks over the same connection', true);
    const startedAt = performance.now();
    this.#client.place = await own.start();
    say(`Started again; ready after ${(performance.now() - startedAt).toFixed(0)} ms.`);
    check('every snapshot is there again', (await list()) === before);
    await writer.until(20);
    await writer.pause();
    const newest = newestInRing(await readFileOf(await this.#copy(served.uri), '/ring.bin'));
    check(`the drive ends with write ${newest}, the last one flushed`, newest === writer.flushed, writer.flushed);
  }

  // ---- 10

  async #deleteSnapshots(
    drive: Drive,
    clone: { drive: Drive; served: Export },
    taken: readonly Taken[],
  ): Promise<void> {
    chapter('10  Deleting snapshots, and the space coming back');
    const [first] = taken;
    if (first === undefined) throw new Mismatch('A snapshot was expected.');
    const cloned = await this.#copy(clone.served.uri);
    const { items } = await this.#client.get<{ items: Snapshot[] }>(`/snapshots?driveId=${drive.id}`);
    for (const snapshot of items.filter((item) => item.id !== first.snapshot.id)) {
      const startedAt = performance.now();
      const { task } = await this.#client.do<Change>('DELETE', `/snapshots/${snapshot.id}`);
      const ms = performance.now() - startedAt;
      const ended = await this.#client.get<Task>(`/tasks/${task.id}?wait=60`);
      const { freedBytes = 0, keptBytes = 0 } = ended.result ?? {};
      const held = keptBytes > 0 ? `, ${formatMiB(keptBytes)} held by others` : '';
      check(
        `"${snapshot.name}": answered after ${ms.toFixed(1)} ms; then ${formatMiB(freedBytes)} freed${held}`,
        ended.state === 'done',
        ended,
      );
    }
    check('"first" still reads the same', await areIdentical(await this.#copySnapshot(first), first.copy));
    check(
      'and so does the clone, whose origin is gone',
      await areIdentical(await this.#copy(clone.served.uri), cloned),
    );
  }

  // ---- 12

  async #deleteRest(drive: Drive, served: Export, clone: { drive: Drive; io: QemuIo; served: Export }): Promise<void> {
    chapter('12  Nothing left');
    const onDisk = async (): Promise<number> =>
      (await this.#client.get<{ onDiskBytes: number }>(`/drives/${drive.id}/usage`)).onDiskBytes;
    const before = await onDisk();
    await clone.io.close();
    await this.#client.do('DELETE', `/exports/${clone.served.id}`);
    say((await this.#client.cli('drive', 'delete', clone.drive.name, '--snapshots', 'delete')).trimEnd());
    const after = await onDisk();
    check(
      `with the clone gone, drive ${drive.name} takes ${formatMiB(after)} on disk instead of ${formatMiB(before)}`,
      before - after >= bulkBytes,
      { before, after },
    );
    await this.#client.do('DELETE', `/exports/${served.id}`);
    say((await this.#client.cli('drive', 'check', drive.name)).trimEnd());
    say((await this.#client.cli('drive', 'delete', drive.name, '--snapshots', 'delete')).trimEnd());
    const { items } = await this.#client.get<{ items: Drive[] }>(`/drives?nameContains=${suffix}`);
    check('no drive of the tour is left', items.length === 0, items);
    const report = await this.#client.cliJson<Report>('doctor');
    const bad = report.findings.filter((finding) => finding.severity !== 'info');
    check(`the doctor finds no fault in ${report.checkedFiles} files`, bad.length === 0 || this.#own === null, bad);
    if (this.#own !== null) check('and there is no file left to check', report.checkedFiles === 0, report);
  }

  #file(name: string): string {
    return join(this.#scratch, name);
  }
}

function joinBlocks(offsets: readonly number[]): Extent[] {
  return joinExtents(offsets.map((start) => ({ start, length: blockBytes })));
}

/** Sorted, and joined where they touch. */
function joinExtents(extents: readonly Extent[]): Extent[] {
  const joined: { start: number; length: number }[] = [];
  for (const { start, length } of extents.toSorted((a, b) => a.start - b.start)) {
    const last = joined.at(-1);
    if (last !== undefined && start <= last.start + last.length) {
      last.length = Math.max(last.length, start + length - last.start);
    } else joined.push({ start, length });
  }
  return joined;
}

await main();
