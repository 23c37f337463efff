/**
 * The tour's chapter of machines: a real guest that counts in memory and on a drive, and writes files to another. What it
 * says, and what nbdcopy, qemu-img and e2fsck find on its drives, is held against what snapshots promise.
 */
import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { buildGuest, type GuestFiles, guestKernelArguments } from '../src/guest/build.ts';
import type { Change, Client, Drive, Export, Machine, Snapshot } from './tour-client.ts';
import { areIdentical, chapter, check, MiB, Mismatch, readFileOf, run, say } from './tour-tools.ts';

const lineDeadlineMs = 120_000;
const lookMs = 50;

export interface Visit {
  readonly client: Client;
  readonly scratch: string;
  /** At the end of every name. */
  readonly suffix: string;
  readonly tidy: (() => Promise<unknown>)[];
}

export async function tourMachines(visit: Visit): Promise<void> {
  chapter('11  A running machine, with its memory');
  const folder = `tour-${visit.suffix}`;
  const boot = await placeGuest(visit, folder);
  if (boot === null) return;
  const tour = new MachineTour(visit);
  const machine = await tour.start(folder);
  const live = await tour.memoryAndBack(machine);
  await tour.cleanClone(machine);
  await tour.cloneThatCountsOn(live);
  await tour.deleteAll();
  await rm(boot, { recursive: true });
}

/** The directory that the guest's files are in; null where none can be had, after saying why. */
async function placeGuest({ client, scratch, tidy }: Visit, folder: string): Promise<string | null> {
  let files: GuestFiles;
  try {
    files = await buildGuest(join(scratch, 'guest'));
  } catch (error) {
    say(`Left out. ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
  const { bootDirectory } = await client.get<{ bootDirectory: string | null }>('');
  if (bootDirectory === null) {
    say('Left out: only an operator may put a kernel into the boot directory.');
    return null;
  }
  const directory = join(bootDirectory, folder);
  tidy.push(() => rm(directory, { recursive: true, force: true }));
  await buildGuest(directory);
  say(`$ cp ${files.kernel} ${files.initrd} ${directory}   # Debian's kernel, busybox, Perl, qemu-ga`);
  return directory;
}

class MachineTour {
  readonly #visit: Visit;
  readonly #machines: string[] = [];
  #copies = 0;

  constructor(visit: Visit) {
    this.#visit = visit;
  }

  async start(folder: string): Promise<Machine> {
    const { client, scratch, suffix } = this.#visit;
    const image = join(scratch, 'files.raw');
    await writeFile(image, '');
    await run('truncate', '-s', String(32 * MiB), image);
    await run('mkfs.ext4', '-q', image);
    const numbers = `tour-numbers-${suffix}`;
    const files = `tour-files-${suffix}`;
    for (const { drive } of [
      await client.cliJson<Change>('drive', 'create', numbers, '16MiB'),
      await client.cliJson<Change>('drive', 'import', image, files),
    ]) {
      this.#visit.tidy.push(() => client.do('DELETE', `/drives/${drive.id}?snapshots=delete`));
    }
    const append = guestKernelArguments(['disk', 'ext4', 'agent'], { ext4Device: '/dev/vdb' });
    const kernel = [
      '--kernel',
      `${folder}/guest-vmlinuz`,
      '--initrd',
      `${folder}/guest-initrd.img`,
      '--append',
      append,
    ];
    const drives = ['--drive', numbers, '--drive', files];
    const { machine } = await client.cliJson<Change>(
      ...['machine', 'create', this.#name('machine'), '--memory', '256MiB', ...drives, ...kernel],
    );
    this.#machines.push(machine.id);
    this.#visit.tidy.push(() => this.deleteAll());
    await client.cli('machine', 'start', machine.name);
    const { runtime } = await client.get<Machine>(`/machines/${machine.id}`);
    await this.#line(machine, /^CALOTYPE READY$/m);
    const [, number] = await this.#line(machine, /^disk ([1-9]\d*)$/m);
    await this.#line(machine, /^ext4 [1-9]\d*$/m);
    check(
      `a guest runs in QEMU ${runtime?.qemuVersion} with ${runtime?.accelerator}; it has counted to ${number}`,
      true,
    );
    return machine;
  }

  /** @returns the memory snapshot, and the number on its drive */
  async memoryAndBack(machine: Machine): Promise<{ snapshot: Snapshot; onDisk: number }> {
    const { client } = this.#visit;
    const { snapshot } = await client.cliJson<Change>(
      ...['snapshot', 'create', '--machine', machine.name, '--name', this.#name('live'), '--memory'],
    );
    const pauseMs = snapshot.machine?.pauseMilliseconds ?? 0;
    check(
      `a snapshot with memory is taken while it counts; it stood still for ${pauseMs.toFixed(1)} ms`,
      snapshot.consistency === 'memory' && snapshot.state === 'available',
      snapshot,
    );
    const onDisk = numberIn(await readStart(await this.#copyOfPart(snapshot, 0)));
    const later = Number((await this.#line(machine, /^disk (\d+)$/m, { from: 'now', above: onDisk }))[1]);
    check(`nbdcopy finds ${onDisk} on its drive; the guest has counted on to ${later}`, onDisk > 0);

    const from = await this.#sizeOfLog(machine);
    await client.cli('snapshot', 'revert', snapshot.id);
    const again = Number((await this.#line(machine, /^disk (\d+)$/m, { from }))[1]);
    const rest = await this.#text(machine, from);
    check(
      `taken back, the guest does not start afresh, and goes on from its memory with ${again}`,
      again >= onDisk && !rest.includes('CALOTYPE READY'),
      { again, onDisk },
    );
    return { snapshot, onDisk };
  }

  async cleanClone(machine: Machine): Promise<void> {
    const { client } = this.#visit;
    await this.#line(machine, /^ext4 \d+$/m, { from: 'now' });
    const name = this.#name('quiet');
    const { snapshot } = await client.cliJson<Change>(
      ...['snapshot', 'create', '--machine', machine.name, '--name', name, '--quiesce', 'require'],
    );
    check(
      `a snapshot with quiet file systems: ${snapshot.machine?.reason}`,
      snapshot.consistency === 'filesystem',
      snapshot,
    );
    const clone = await this.#clone(snapshot, 'quiet-clone');
    const drives = clone.drives.toSorted((a, b) => a.slot - b.slot);
    const files = await this.#copy({ driveId: drives[1]?.driveId ?? '' });
    const before = await this.#copyOfPart(snapshot, 1);
    check('qemu-img: the drive of a clone is identical to the snapshot', await areIdentical(files, before));
    const { stdout } = await promisify(execFile)('dumpe2fs', ['-h', files]);
    check('dumpe2fs: no journal is left to be replayed', !stdout.includes('needs_recovery'));
    await run('e2fsck', '-fn', files);
    const lines = (await readFileOf(files, '/file-1')).toString().trim().split('\n');
    check(
      `e2fsck finds it clean; debugfs reads ${lines.length} whole lines of /file-1`,
      lines.length > 0 && lines.every((line) => line === lines[0]),
      lines.slice(0, 3),
    );
  }

  async cloneThatCountsOn({ snapshot, onDisk }: { snapshot: Snapshot; onDisk: number }): Promise<void> {
    const clone = await this.#clone(snapshot, 'live-clone', '--memory');
    const first = Number((await this.#line(clone, /^disk (\d+)$/m))[1]);
    check(`a clone with memory runs beside it, and goes on with ${first}, too`, first >= onDisk, { first, onDisk });
  }

  /** Newest first, with all that is theirs. */
  async deleteAll(): Promise<void> {
    const { client } = this.#visit;
    for (let id = this.#machines.pop(); id !== undefined; id = this.#machines.pop()) {
      await client.change('DELETE', `/machines/${id}?drives=delete&snapshots=delete`);
    }
    const left = await client.get<{ items: Drive[] }>(`/drives?nameContains=${this.#visit.suffix}&state=deleting`);
    for (const { id } of left.items) await client.change('DELETE', `/drives/${id}?snapshots=delete`).catch(ifGone);
  }

  async #clone(snapshot: Snapshot, name: string, ...flags: readonly string[]): Promise<Machine> {
    const { client } = this.#visit;
    const { machine } = await client.cliJson<Change>('machine', 'clone', snapshot.id, this.#name(name), ...flags);
    this.#machines.push(machine.id);
    return machine;
  }

  #name(what: string): string {
    return `tour-${what}-${this.#visit.suffix}`;
  }

  #copyOfPart(snapshot: Snapshot, at: number): Promise<string> {
    return this.#copy({ driveSnapshotId: snapshot.parts[at]?.id ?? '' });
  }

  async #copy(of: { driveId: string } | { driveSnapshotId: string }): Promise<string> {
    const { client, scratch } = this.#visit;
    const served = await client.do<Export>('POST', '/exports', of);
    const copy = join(scratch, `machine-${++this.#copies}.raw`);
    await run('nbdcopy', served.uri, copy);
    await client.do('DELETE', `/exports/${served.id}`);
    return copy;
  }

  // ---- what the guest says

  async #text(machine: Machine, from: number): Promise<string> {
    return (await this.#visit.client.text(`/machines/${machine.id}/serial?from=${from}`)).replaceAll('\r', '');
  }

  async #sizeOfLog(machine: Machine): Promise<number> {
    return Buffer.byteLength(await this.#visit.client.text(`/machines/${machine.id}/serial?from=0`));
  }

  /** The first whole line that fits, its number `above` a limit. */
  async #line(
    machine: Machine,
    pattern: RegExp,
    { from = 0, above = 0 }: { from?: number | 'now'; above?: number } = {},
  ): Promise<RegExpMatchArray> {
    const start = from === 'now' ? await this.#sizeOfLog(machine) : from;
    for (const until = Date.now() + lineDeadlineMs; Date.now() < until; await delay(lookMs)) {
      const text = await this.#text(machine, start);
      const whole = text.slice(text.search(/^/m), text.lastIndexOf('\n') + 1);
      const all = [...whole.matchAll(new RegExp(pattern, 'gm'))];
      const found = all.find(([, number]) => number === undefined || Number(number) > above);
      if (found !== undefined) return found;
    }
    throw new Mismatch(`The guest of ${machine.name} never said ${pattern}.`);
  }
}

async function readStart(path: string): Promise<string> {
  return (await run('head', '-c', '512', path)).trim();
}

const numberIn = (text: string): number => Number(/^\d+/.exec(text)?.[0] ?? 0);

function ifGone(error: unknown): void {
  if (!(error instanceof Mismatch) || !error.message.includes('404')) throw error;
}
