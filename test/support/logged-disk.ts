/**
 * A disk that remembers every write and flush in their order, with a file system on it: ext4 on a loop device, on a file that
 * QEMU's storage daemon provides through FUSE, over its `blklogwrites` filter. From the log the disk can be had as it
 * would be after a power failure at any moment: all that was flushed, and any part of what was not.
 *
 *     ext4 -> /dev/loopN -> FUSE file -> blklogwrites -> disk (a sparse file)
 *                                             \-> log (the format of Linux' dm-log-writes, sectors of 512 bytes)
 *       0 magic u64 "jsfwshr" | 8 version u64 | 16 entries u64 | 24 sector size u32, then per entry a sector
 *       0 sector u64 | 8 sectors u64 | 16 flags u64 (1 flush, 2 FUA, 4 discard, 8 mark) | 24 data length u64, then its data
 *
 * Needs root, /dev/fuse and a free loop device.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../campaign/random.ts';

const sectorBytes = 512;
const pieceBytes = 4096;
const entryHeaderBytes = 32;
const flushFlag = 1;
const discardFlag = 4;
/** The disk's last bytes, behind the file system, take the marks. */
const markAreaBytes = 1024 * 1024;
const markMagic = 0xca11ab1e;

interface Place {
  readonly base: string;
  readonly disk: string;
  readonly log: string;
  readonly device: string;
  readonly mountPoint: string;
}

/** Why there can be no such disk here; null when there can. */
export function reasonAgainst(): string | null {
  if (process.getuid?.() !== 0) return 'only root can mount a disk to cut the power of';
  for (const path of ['/dev/fuse', '/dev/loop-control']) {
    try {
      statSync(path);
    } catch {
      return `there is no ${path} here`;
    }
  }
  const help = execFileSync('qemu-storage-daemon', ['--help'], { encoding: 'utf8' });
  if (!help.includes('[type=]fuse')) return 'this QEMU has no FUSE exports';
  return null;
}

export class LoggedDisk {
  readonly fileSystemBytes: number;
  readonly #place: Place;
  readonly #daemon: ChildProcess;
  readonly #loop: string;
  readonly #marks: number;
  #stopped = false;

  private constructor(fileSystemBytes: number, place: Place, daemon: ChildProcess, loop: string) {
    this.fileSystemBytes = fileSystemBytes;
    this.#place = place;
    this.#daemon = daemon;
    this.#loop = loop;
    this.#marks = openSync(place.device, 'r+');
  }

  /** Where its file system is mounted. */
  get mountPoint(): string {
    return this.#place.mountPoint;
  }

  /** Makes the disk in an empty directory and mounts it. */
  static async create(directory: string, fileSystemBytes: number): Promise<LoggedDisk> {
    const at = (name: string): string => join(directory, name);
    const place = {
      base: at('base.raw'),
      disk: at('disk.raw'),
      log: at('log'),
      device: at('device'),
      mountPoint: at('m'),
    };
    closeSync(openSync(place.base, 'w'));
    truncateSync(place.base, fileSystemBytes);
    // Blocks of 4 KiB, so that one of ours is never in two parts of a disk.
    const options = 'lazy_itable_init=0,lazy_journal_init=0,nodiscard';
    execFileSync('mkfs.ext4', ['-q', '-F', '-b', '4096', '-N', '4096', '-J', 'size=8', '-E', options, place.base]);
    truncateSync(place.base, fileSystemBytes + markAreaBytes);
    copySparse(place.base, place.disk);
    for (const path of [place.log, place.device]) closeSync(openSync(path, 'w'));
    truncateSync(place.log, 16 * 1024 ** 3);
    mkdirSync(place.mountPoint);
    const node = {
      driver: 'blklogwrites',
      'node-name': 'logged',
      file: { driver: 'file', filename: place.disk },
      log: { driver: 'file', filename: place.log },
      'log-sector-size': sectorBytes,
    };
    const daemon = spawn(
      'qemu-storage-daemon',
      [
        ...['--blockdev', JSON.stringify(node)],
        ...['--export', `type=fuse,id=e,node-name=logged,mountpoint=${place.device},writable=on`],
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const size = fileSystemBytes + markAreaBytes;
    for (let waited = 0; statSync(place.device).size !== size; waited += 10) {
      if (daemon.exitCode !== null || waited > 10_000) throw new Error('QEMU did not provide the disk');
      await sleep(10);
    }
    const loop = attach(place.device, fileSystemBytes);
    execFileSync('mount', ['-o', 'noatime', loop, place.mountPoint]);
    return new LoggedDisk(fileSystemBytes, place, daemon, loop);
  }

  /** Puts a number between what was written before and what is written after. Flushes nothing. */
  mark(number: number): void {
    const block = Buffer.alloc(pieceBytes);
    block.writeUInt32LE(markMagic, 0);
    block.writeUInt32LE(number, 4);
    writeSync(this.#marks, block, 0, block.length, this.fileSystemBytes);
  }

  /** Takes it all down; nothing may use it any more. The log stays. */
  async stop(): Promise<WriteLog> {
    if (!this.#stopped) {
      this.#stopped = true;
      closeSync(this.#marks);
      await unmount(this.#place.mountPoint, this.#loop);
      const gone = new Promise<void>((resolve) => this.#daemon.once('exit', () => resolve()));
      this.#daemon.kill('SIGTERM');
      await gone;
    }
    return new WriteLog(this.#place.base, this.#place.log, this.fileSystemBytes);
  }
}

function attach(file: string, bytes: number): string {
  const loop = execFileSync('losetup', ['--find', '--show', '--sizelimit', String(bytes), file], { encoding: 'utf8' });
  return loop.trim();
}

/** Busy until the last process that used it is quite gone. */
async function unmount(mountPoint: string, loop: string): Promise<void> {
  for (let waited = 0; ; waited += 20) {
    try {
      execFileSync('umount', [mountPoint], { stdio: 'pipe' });
      break;
    } catch (error) {
      if (waited > 10_000) throw error;
      await sleep(20);
    }
  }
  execFileSync('losetup', ['--detach', loop]);
}

function copySparse(from: string, to: string): void {
  execFileSync('cp', ['--sparse=always', '--reflink=auto', from, to]);
}

interface Entry {
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  /** Where its data lies in the log. */
  readonly dataAt: number;
}

/** A disk as it was left by a power failure, mounted. */
export interface CutDisk {
  readonly mountPoint: string;
  remove(): Promise<void>;
}

/** What was written to a disk, and the disk at any moment of it. Moments must be asked for in their order. */
export class WriteLog {
  readonly entries: readonly Entry[];
  /** Per mark, in order: its number and the entry it is. */
  readonly marks: readonly { readonly number: number; readonly entry: number }[];
  readonly #log: number;
  readonly #base: string;
  readonly #fileSystemBytes: number;
  #done = 0;

  constructor(base: string, logPath: string, fileSystemBytes: number) {
    this.#base = base;
    this.#fileSystemBytes = fileSystemBytes;
    this.#log = openSync(logPath, 'r');
    const entries: Entry[] = [];
    const marks: { number: number; entry: number }[] = [];
    const header = Buffer.alloc(entryHeaderBytes);
    const head = Buffer.alloc(8);
    for (let at = sectorBytes; readSync(this.#log, header, 0, header.length, at) === header.length; ) {
      const offset = Number(header.readBigUInt64LE(0)) * sectorBytes;
      const length = Number(header.readBigUInt64LE(8)) * sectorBytes;
      const flags = Number(header.readBigUInt64LE(16));
      if (length === 0 && flags === 0) break;
      const dataAt = at + sectorBytes;
      if (offset >= fileSystemBytes && length > 0) {
        readSync(this.#log, head, 0, head.length, dataAt);
        if (head.readUInt32LE(0) === markMagic) marks.push({ number: head.readUInt32LE(4), entry: entries.length });
      }
      entries.push({ offset, length, flags, dataAt });
      at = dataAt + ((flags & discardFlag) === 0 ? length : 0);
    }
    this.entries = entries;
    this.marks = marks;
  }

  isFlush(entry: number): boolean {
    return ((this.entries[entry]?.flags ?? 0) & flushFlag) !== 0;
  }

  /**
   * The disk when the power failed right before entry `before`: everything up to the last flush, and of what came after it
   * each 4 KiB with the probability given.
   */
  async cut(before: number, keep: number, random: Random, directory: string): Promise<CutDisk> {
    let flushed = before;
    while (flushed > 0 && !this.isFlush(flushed - 1)) flushed--;
    const base = openSync(this.#base, 'r+');
    for (; this.#done < flushed; this.#done++) this.#apply(base, this.#done, () => true);
    closeSync(base);
    const image = join(directory, 'cut.raw');
    const mountPoint = join(directory, 'cut');
    copySparse(this.#base, image);
    const cut = openSync(image, 'r+');
    for (let entry = flushed; entry < before; entry++) this.#apply(cut, entry, () => random.chance(keep));
    closeSync(cut);
    mkdirSync(mountPoint, { recursive: true });
    const loop = attach(image, this.#fileSystemBytes);
    execFileSync('mount', ['-o', 'noatime', loop, mountPoint]);
    return {
      mountPoint,
      remove: async () => {
        await unmount(mountPoint, loop);
        rmSync(image);
      },
    };
  }

  #apply(file: number, index: number, wanted: () => boolean): void {
    const entry = this.entries[index];
    if (entry === undefined || entry.length === 0) return;
    const piece = Buffer.alloc(pieceBytes);
    const end = entry.offset + entry.length;
    for (let at = entry.offset, next = at; at < end; at = next) {
      // A disk keeps or loses its own blocks, wherever a write begins.
      next = Math.min(end, at - (at % pieceBytes) + pieceBytes);
      if (!wanted()) continue;
      const length = next - at;
      if ((entry.flags & discardFlag) === 0) readSync(this.#log, piece, 0, length, entry.dataAt + at - entry.offset);
      else piece.fill(0);
      writeSync(file, piece, 0, length, at);
    }
  }

  close(): void {
    closeSync(this.#log);
  }
}
