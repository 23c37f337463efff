/**
 * Our own reader and writer of qcow2 metadata (never of guest data): creates empty overlays, reads headers and
 * allocation maps, and rewrites backing names. Touches only the file it is given; used by the qcow2 engine and by the
 * import checks. Source: QEMU docs/interop/qcow2.txt. All integers are big-endian.
 *
 *     header, first cluster                                  an overlay of ours (C = 128 KiB)
 *       0 magic "QFI\xfb"       72 incompatible features       0    header | extensions | end | backing name
 *       4 version               80 compatible features         1 C  refcount table: one entry, -> 2 C
 *       8 backing name offset   88 autoclear features          2 C  refcount block: 16-bit ones, one per cluster
 *      16 backing name length   96 refcount order              3 C  L1 table, all zero (a hole), whole clusters
 *      20 cluster bits         100 header length
 *      24 virtual size         104 compression type            L1 entry   63 copied | 55..9 offset of L2 table
 *      32 encryption                                           L2 entry   63 copied | 62 compressed | 55..9 offset | 0 zero
 *      36 L1 entries           extension: type u32,            extended   + 64 bits: 63..32 subcluster n reads as zero,
 *      40 L1 offset            length u32, data,               L2 entry             31..0  subcluster n is allocated
 *      48 refcount table       padded to 8; type 0 ends
 *      56 its clusters
 *      60 snapshots
 *      64 snapshot table
 */
import { constants } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { CalotypeError } from '../core/errors.ts';
import type { Extent, Extents } from '../core/extents.ts';
import { asSpaceError } from '../core/space-error.ts';

const magic = 0x514649fb;
const extensionEnd = 0;
const extensionBackingFormat = 0xe2792aca;
const extensionDataFile = 0x44415441;

const incompatibleDirty = 1;
const incompatibleCorrupt = 2;
const incompatibleDataFile = 4;
const incompatibleCompression = 8;
const incompatibleExtendedL2 = 16;
const incompatibleKnown = 31;

/** QEMU's own limits; a file beyond them does not open there either. */
const maxBackingNameBytes = 1023;
const maxBackingFormatBytes = 15;
const maxL1Bytes = 32 * 1024 * 1024;
const maxRefcountTableBytes = 8 * 1024 * 1024;
const maxSnapshots = 65536;
const maxExtensions = 64;

const ourClusterBytes = 128 * 1024;
const ourHeaderBytes = 112;
const ourBytesPerL1Entry = (ourClusterBytes / 16) * ourClusterBytes;
const sectorBytes = 512;
const twoTo32 = 2 ** 32;

/**
 * What a malformed file is reported as: `layer_damaged` for files we keep (the default), `image_truncated` for a file
 * that a user brings.
 */
export type DamageCode = 'layer_damaged' | 'image_truncated';

export interface Qcow2Extension {
  readonly type: number;
  readonly bytes: Buffer;
}

export interface Qcow2Header {
  readonly magic: 'qcow2';
  readonly version: 2 | 3;
  /** Virtual size. */
  readonly sizeBytes: number;
  readonly clusterBytes: number;
  /** What one allocation bit stands for: the cluster, or a 32nd of it with extended L2. */
  readonly subclusterBytes: number;
  /** The backing name exactly as written, or null. */
  readonly backing: string | null;
  readonly backingFormat: string | null;
  /** Name of the external data file when the header carries one. */
  readonly dataFile: string | null;
  readonly encrypted: boolean;
  readonly incompatible: {
    readonly dirty: boolean;
    readonly corrupt: boolean;
    readonly externalData: boolean;
    readonly compressionType: boolean;
    readonly extendedL2: boolean;
    /** A feature bit this reader does not know: nothing beyond the header may be interpreted. */
    readonly unknown: boolean;
  };
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly refcountTableOffset: number;
  readonly refcountTableBytes: number;
  readonly snapshotCount: number;
  readonly headerBytes: number;
  readonly extensions: readonly Qcow2Extension[];
  /** Where the extensions end: the first byte a backing name may take. */
  readonly extensionsEnd: number;
}

const align8 = (n: number): number => Math.ceil(n / 8) * 8;

function damaged(code: DamageCode, reason: string, path?: string): CalotypeError {
  return new CalotypeError(
    code,
    `The qcow2 file is damaged: ${reason}.`,
    path === undefined ? { reason } : { reason, path },
  );
}

function encodeExtension(type: number, bytes: Buffer): Buffer {
  const out = Buffer.alloc(8 + align8(bytes.length));
  out.writeUInt32BE(type, 0);
  out.writeUInt32BE(bytes.length, 4);
  bytes.copy(out, 8);
  return out;
}

function encodeName(name: string): Buffer {
  const bytes = Buffer.from(name, 'utf8');
  if (bytes.length === 0 || bytes.length > maxBackingNameBytes || bytes.includes(0)) {
    throw new CalotypeError('engine_failed', `A backing name has 1 to ${maxBackingNameBytes} bytes and no zero byte.`);
  }
  return bytes;
}

/**
 * Creates an empty v3 overlay (128 KiB clusters, extended L2) of `sizeBytes`, a multiple of 512, and makes its content
 * durable. The name of `backing` is stored as given, with its format (default `qcow2`).
 *
 * Refuses an existing path (EEXIST, as Node raises it). The directory entry is NOT durable: the caller fsyncs the
 * directory. A crash leaves no file, or a file that is short or empty and that nothing refers to; an error removes it.
 */
export async function createOverlayFile(
  path: string,
  options: { sizeBytes: number; backing: string | null; backingFormat?: string },
): Promise<void> {
  const { sizeBytes, backing, backingFormat = 'qcow2' } = options;
  const l1Entries = Math.ceil(sizeBytes / ourBytesPerL1Entry);
  if (
    !Number.isSafeInteger(sizeBytes) ||
    sizeBytes <= 0 ||
    sizeBytes % sectorBytes !== 0 ||
    l1Entries * 8 > maxL1Bytes
  ) {
    throw new CalotypeError('invalid_size', `An image cannot have ${sizeBytes} bytes.`, { sizeBytes });
  }
  const clusters = 3 + Math.ceil((l1Entries * 8) / ourClusterBytes);

  const name = backing === null ? null : encodeName(backing);
  const extensions = [
    ...(name === null ? [] : [encodeExtension(extensionBackingFormat, Buffer.from(backingFormat))]),
    encodeExtension(extensionEnd, Buffer.alloc(0)),
  ];
  const fixed = Buffer.alloc(ourHeaderBytes);
  fixed.writeUInt32BE(magic, 0);
  fixed.writeUInt32BE(3, 4);
  if (name !== null) {
    fixed.writeUInt32BE(ourHeaderBytes + extensions.reduce((sum, e) => sum + e.length, 0), 12);
    fixed.writeUInt32BE(name.length, 16);
  }
  fixed.writeUInt32BE(Math.log2(ourClusterBytes), 20);
  fixed.writeBigUInt64BE(BigInt(sizeBytes), 24);
  fixed.writeUInt32BE(l1Entries, 36);
  fixed.writeUInt32BE(3 * ourClusterBytes, 44);
  fixed.writeUInt32BE(ourClusterBytes, 52);
  fixed.writeUInt32BE(1, 56);
  fixed.writeUInt32BE(incompatibleExtendedL2, 76);
  fixed.writeUInt32BE(4, 96);
  fixed.writeUInt32BE(ourHeaderBytes, 100);
  const header = Buffer.concat([fixed, ...extensions, ...(name === null ? [] : [name])]);

  const refcountTable = Buffer.alloc(8);
  refcountTable.writeUInt32BE(2 * ourClusterBytes, 4);
  const refcountBlock = Buffer.alloc(clusters * 2);
  for (let i = 0; i < clusters; i++) refcountBlock.writeUInt16BE(1, i * 2);

  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  const file = await open(path, flags, 0o600).catch((cause: unknown) => {
    throw asSpaceError(cause);
  });
  try {
    // Size first: the rest then fills holes, and no write can leave a file that looks whole and is too short.
    await file.truncate(clusters * ourClusterBytes);
    await writeFully(file, refcountBlock, 2 * ourClusterBytes);
    await writeFully(file, refcountTable, ourClusterBytes);
    await writeFully(file, header, 0);
    await file.datasync();
    await file.close();
  } catch (cause) {
    await file.close().catch(() => undefined);
    await unlink(path).catch(() => undefined);
    throw asSpaceError(cause);
  }
}

async function writeFully(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** Reads into the whole of `into`; returns the bytes read, less only at the end of the file. */
async function readFully(file: FileHandle, into: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/**
 * Reads and checks the header, its extensions and the backing name, of a file or of its first bytes. Every length is
 * held against QEMU's limits. Reads no other file. A file that is no sound qcow2 raises `options.damageCode`.
 */
export async function readHeader(
  source: string | Buffer,
  options: { damageCode?: DamageCode } = {},
): Promise<Qcow2Header> {
  const code = options.damageCode ?? 'layer_damaged';
  if (typeof source !== 'string') return parseHeader(source, code);
  const file = await open(source, constants.O_RDONLY);
  try {
    return await readHeaderOf(file, code, source);
  } finally {
    await file.close();
  }
}

async function readHeaderOf(file: FileHandle, code: DamageCode, path: string): Promise<Qcow2Header> {
  return parseHeader(await readHeaderBytes(file), code, path);
}

/** The first page, or the whole first cluster where extensions or backing name reach beyond the page. */
async function readHeaderBytes(file: FileHandle): Promise<Buffer> {
  const page = Buffer.alloc(4096);
  const first = page.subarray(0, await readFully(file, page, 0));
  const clusterBits = first.length >= 24 ? first.readUInt32BE(20) : 0;
  if (first.length < 4096 || clusterBits <= 12 || clusterBits > 21 || headerEnd(first) !== null) return first;
  const whole = Buffer.alloc(2 ** clusterBits);
  return whole.subarray(0, await readFully(file, whole, 0));
}

/** Where the backing name, or else the extension list, ends; null when that is not within `bytes`. */
function headerEnd(bytes: Buffer): number | null {
  const nameOffset = readU64(bytes, 8);
  const end = nameOffset + bytes.readUInt32BE(16);
  if (nameOffset !== 0) return end <= bytes.length ? end : null;
  let at = bytes.readUInt32BE(4) >= 3 ? bytes.readUInt32BE(100) : 72;
  while (at + 8 <= bytes.length) {
    const length = bytes.readUInt32BE(at + 4);
    if (bytes.readUInt32BE(at) === extensionEnd) return at + 8;
    at += 8 + align8(length);
  }
  return null;
}

/** Values above 2^53 lose their low bits: they stay far above every limit they are compared with. */
function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * twoTo32 + bytes.readUInt32BE(at + 4);
}

function parseHeader(bytes: Buffer, code: DamageCode, path?: string): Qcow2Header {
  const check = (sound: boolean, reason: string): void => {
    if (!sound) throw damaged(code, reason, path);
  };
  check(bytes.length >= 72, 'it is shorter than a header');
  check(bytes.readUInt32BE(0) === magic, 'the magic is wrong');
  const rawVersion = bytes.readUInt32BE(4);
  check(rawVersion === 2 || rawVersion === 3, `version ${rawVersion} is not known`);
  const version = rawVersion === 2 ? 2 : 3;
  check(version === 2 || bytes.length >= 104, 'it is shorter than a header');

  const features = version === 3 ? { high: bytes.readUInt32BE(72), low: bytes.readUInt32BE(76) } : { high: 0, low: 0 };
  const has = (bit: number): boolean => (features.low & bit) !== 0;
  const extendedL2 = has(incompatibleExtendedL2);

  const clusterBits = bytes.readUInt32BE(20);
  check(clusterBits >= (extendedL2 ? 14 : 9) && clusterBits <= 21, `cluster bits are ${clusterBits}`);
  const clusterBytes = 2 ** clusterBits;
  const sizeBytes = readU64(bytes, 24);
  check(Number.isSafeInteger(sizeBytes), 'the virtual size is out of range');
  const encryption = bytes.readUInt32BE(32);
  check(encryption <= 2, `encryption ${encryption} is not known`);

  const l1Entries = bytes.readUInt32BE(36);
  const l1Offset = readU64(bytes, 40);
  const bytesPerL1Entry = (clusterBytes / (extendedL2 ? 16 : 8)) * clusterBytes;
  check(l1Entries * 8 <= maxL1Bytes, 'the L1 table is too large');
  check(l1Entries >= Math.ceil(sizeBytes / bytesPerL1Entry), 'the L1 table is smaller than the virtual size needs');
  check(Number.isSafeInteger(l1Offset + maxL1Bytes) && l1Offset % clusterBytes === 0, 'the L1 table is misplaced');
  check(l1Entries === 0 || l1Offset >= clusterBytes, 'the L1 table is misplaced');

  const refcountTableOffset = readU64(bytes, 48);
  const refcountTableBytes = bytes.readUInt32BE(56) * clusterBytes;
  check(refcountTableBytes <= maxRefcountTableBytes, 'the refcount table is too large');
  check(refcountTableOffset % clusterBytes === 0, 'the refcount table is misplaced');
  check(Number.isSafeInteger(refcountTableOffset + maxRefcountTableBytes), 'the refcount table is misplaced');
  const snapshotCount = bytes.readUInt32BE(60);
  check(snapshotCount <= maxSnapshots, 'it claims too many internal snapshots');
  check(version === 2 || bytes.readUInt32BE(96) <= 6, 'the refcount width is out of range');
  const headerBytes = version === 3 ? bytes.readUInt32BE(100) : 72;
  check(version === 2 || (headerBytes >= 104 && headerBytes % 8 === 0), `the header length is ${headerBytes}`);
  check(headerBytes <= clusterBytes && headerBytes <= bytes.length, 'the header is longer than the file or cluster');

  const nameOffset = readU64(bytes, 8);
  const nameLength = bytes.readUInt32BE(16);
  if (nameOffset !== 0) {
    check(nameLength <= maxBackingNameBytes, 'the backing name is too long');
    check(nameOffset >= headerBytes && nameOffset + nameLength <= clusterBytes, 'the backing name is misplaced');
    check(nameOffset + nameLength <= bytes.length, 'the backing name is cut short');
  }

  const extensions: Qcow2Extension[] = [];
  const areaEnd = Math.min(nameOffset === 0 ? clusterBytes : nameOffset, bytes.length);
  let at = headerBytes;
  while (at + 8 <= areaEnd) {
    const type = bytes.readUInt32BE(at);
    const length = bytes.readUInt32BE(at + 4);
    at += 8;
    if (type === extensionEnd) break;
    check(at + length <= areaEnd, 'a header extension is cut short');
    check(extensions.length < maxExtensions, 'it has too many header extensions');
    extensions.push({ type, bytes: Buffer.from(bytes.subarray(at, at + length)) });
    at = Math.min(at + align8(length), areaEnd);
  }
  const text = (raw: Buffer): string => {
    check(raw.length > 0 && !raw.includes(0), 'a name in the header is empty or holds a zero byte');
    return raw.toString('utf8');
  };
  const extensionText = (type: number, limit: number): string | null => {
    const found = extensions.find((e) => e.type === type);
    check(found === undefined || found.bytes.length <= limit, 'a name in the header is too long');
    return found === undefined ? null : text(found.bytes);
  };
  const backing =
    nameOffset === 0 || nameLength === 0 ? null : text(bytes.subarray(nameOffset, nameOffset + nameLength));

  return {
    magic: 'qcow2',
    version,
    sizeBytes,
    clusterBytes,
    subclusterBytes: extendedL2 ? clusterBytes / 32 : clusterBytes,
    backing,
    backingFormat: extensionText(extensionBackingFormat, maxBackingFormatBytes),
    dataFile: extensionText(extensionDataFile, maxBackingNameBytes),
    encrypted: encryption !== 0,
    incompatible: {
      dirty: has(incompatibleDirty),
      corrupt: has(incompatibleCorrupt),
      externalData: has(incompatibleDataFile),
      compressionType: has(incompatibleCompression),
      extendedL2,
      unknown: features.high !== 0 || (features.low & ~incompatibleKnown) !== 0,
    },
    l1Offset,
    l1Entries,
    refcountTableOffset,
    refcountTableBytes,
    snapshotCount,
    headerBytes,
    extensions,
    extensionsEnd: at,
  };
}

/**
 * Rewrites the backing name in place, or removes it with `null`, and makes that durable. One write that begins at byte
 * 0 and ends with the longer of both names: one sector for our own overlays with names below 370 bytes, which a crash
 * leaves whole, old or new. The format extension says `format` then.
 *
 * Only for files that NO process has open: a running QEMU holds the header in memory and would write the old name
 * back; it is told with `change-backing-file` instead. Guest data is not looked at: the new backing must read the same.
 */
export async function setBackingName(path: string, name: string | null, format = 'qcow2'): Promise<void> {
  const nameBytes = name === null ? Buffer.alloc(0) : encodeName(name);
  const file = await open(path, constants.O_RDWR);
  try {
    const bytes = await readHeaderBytes(file);
    const header = parseHeader(bytes, 'layer_damaged', path);
    if (header.backing === name) return;

    const kept = header.extensions.filter((e) => e.type !== extensionBackingFormat);
    if (name !== null) kept.unshift({ type: extensionBackingFormat, bytes: Buffer.from(format) });
    const fixed = Buffer.from(bytes.subarray(0, header.headerBytes));
    const extensions = [...kept, { type: extensionEnd, bytes: Buffer.alloc(0) }].map((e) =>
      encodeExtension(e.type, e.bytes),
    );
    const nameOffset = fixed.length + extensions.reduce((sum, e) => sum + e.length, 0);
    if (nameOffset + nameBytes.length > header.clusterBytes) {
      throw new CalotypeError('engine_failed', 'The backing name does not fit into the header cluster.', { path });
    }
    fixed.writeBigUInt64BE(name === null ? 0n : BigInt(nameOffset), 8);
    fixed.writeUInt32BE(nameBytes.length, 16);
    const oldEnd = header.backing === null ? header.extensionsEnd : readU64(bytes, 8) + bytes.readUInt32BE(16);
    const fresh = Buffer.concat([fixed, ...extensions, nameBytes]);
    const whole = Buffer.alloc(Math.max(fresh.length, oldEnd));
    fresh.copy(whole);
    await writeFully(file, whole, 0);
    await file.datasync();
  } finally {
    await file.close();
  }
}

const offsetHighMask = 0x00ffffff;
const offsetLowMask = 0xfffffe00;

/** Memory held by tables in flight. */
const tableBudgetBytes = 4 * 1024 * 1024;

/** One L2 table: its entries from `at` on, and the guest address of the first. */
interface L2Table {
  readonly view: DataView;
  readonly guestStart: number;
}

/** Reads the L1 table in pieces and every L2 table it names, a few at a time, and hands them over in guest order. */
async function walkTables(
  file: FileHandle,
  header: Qcow2Header,
  fail: (reason: string) => CalotypeError,
  visit: (table: L2Table, tableOffset: number) => void,
): Promise<void> {
  const { clusterBytes } = header;
  const bytesPerL1Entry = (clusterBytes / (header.incompatible.extendedL2 ? 16 : 8)) * clusterBytes;
  const entries = Math.ceil(header.sizeBytes / bytesPerL1Entry);
  const l1 = Buffer.alloc(Math.min(entries * 8, 1024 * 1024));
  const lanes = Math.max(1, Math.min(8, Math.floor(tableBudgetBytes / clusterBytes)));
  const buffers: Buffer[] = [];
  const fileBytes = (await file.stat()).size;
  let tables = 0;
  for (let done = 0; done < entries * 8; done += l1.length) {
    const piece = l1.subarray(0, Math.min(l1.length, entries * 8 - done));
    if ((await readFully(file, piece, header.l1Offset + done)) < piece.length) throw fail('the L1 table is cut short');
    let batch: { offset: number; guestStart: number }[] = [];
    const flush = async (): Promise<void> => {
      const read = await Promise.all(
        batch.map(async ({ offset, guestStart }, lane) => {
          const buffer = buffers[lane] ?? Buffer.allocUnsafeSlow(clusterBytes);
          buffers[lane] = buffer;
          if ((await readFully(file, buffer, offset)) < clusterBytes) throw fail('an L2 table is cut short');
          const view = new DataView(buffer.buffer, buffer.byteOffset, clusterBytes);
          return { offset, table: { view, guestStart } };
        }),
      );
      for (const { offset, table } of read) visit(table, offset);
      batch = [];
    };
    for (let at = 0; at < piece.length; at += 8) {
      const low = piece.readUInt32BE(at + 4);
      const high = piece.readUInt32BE(at);
      if (high === 0 && low === 0) continue;
      const offset = (high & offsetHighMask) * twoTo32 + ((low & offsetLowMask) >>> 0);
      if (offset === 0) continue;
      if (offset % clusterBytes !== 0 || offset < clusterBytes) throw fail('an L1 entry is misplaced');
      // Tables never share a place, so there are fewer than the file has clusters: a forged L1 cannot keep us reading.
      if (++tables * clusterBytes > fileBytes) throw fail('there are more L2 tables than the file can hold');
      batch.push({ offset, guestStart: ((done + at) / 8) * bytesPerL1Entry });
      if (batch.length === lanes) await flush();
    }
    await flush();
  }
}

async function withTables<T>(
  path: string,
  code: DamageCode,
  use: (file: FileHandle, header: Qcow2Header, fail: (reason: string) => CalotypeError) => Promise<T>,
): Promise<T> {
  const file = await open(path, constants.O_RDONLY);
  try {
    const header = await readHeaderOf(file, code, path);
    const fail = (reason: string): CalotypeError => damaged(code, reason, path);
    if (header.incompatible.unknown) throw fail('it uses a feature that is not known');
    if (header.incompatible.externalData) throw fail('its data is in another file');
    return await use(file, header, fail);
  } finally {
    await file.close();
  }
}

/** Collects extents that come in ascending order, joined and cut at the virtual size. */
class ExtentList {
  readonly list: Extent[] = [];
  readonly #limit: number;
  #start = 0;
  #end = 0;
  constructor(limit: number) {
    this.#limit = limit;
  }
  add(start: number, length: number): void {
    if (start === this.#end) this.#end = start + length;
    else {
      this.finish();
      this.#start = start;
      this.#end = start + length;
    }
  }
  finish(): Extents {
    const end = Math.min(this.#end, this.#limit);
    if (end > this.#start) this.list.push({ start: this.#start, length: end - this.#start });
    this.#start = this.#end;
    return this.list;
  }
}

/** Adds each run of set bits of a subcluster bitmap. */
function addRuns(into: ExtentList, bits: number, start: number, subclusterBytes: number): void {
  let rest = bits >>> 0;
  let at = 0;
  while (rest !== 0) {
    const skip = 31 - Math.clz32(rest & -rest);
    rest = rest >>> skip;
    at += skip;
    const run = rest === 0xffffffff ? 32 : 31 - Math.clz32(~rest & -~rest);
    into.add(start + at * subclusterBytes, run * subclusterBytes);
    at += run;
    rest = run === 32 ? 0 : rest >>> run;
  }
}

/**
 * What this one file holds, in guest addresses: `data` has bytes stored here (compressed clusters too), `zero` is
 * marked to read as zeros here, all else comes from the backing. Exact to the subcluster, cut at the virtual size.
 *
 * Reads only tables, in whole pieces of a cluster, with a few MiB of memory beside the result. Takes no lock, so it
 * works beside a process that has the file open for reading; of a file open for WRITING it sees only what that
 * process has flushed. Raises `layer_damaged` for tables that QEMU would refuse as well.
 */
export async function readAllocation(path: string): Promise<{ data: Extents; zero: Extents }> {
  return withTables(path, 'layer_damaged', async (file, header, fail) => {
    const { clusterBytes, subclusterBytes, sizeBytes } = header;
    const data = new ExtentList(sizeBytes);
    const zero = new ExtentList(sizeBytes);
    const zeroFlag = header.version === 3 ? 1 : 0;
    const misplaced = (clusterBytes - 1) & offsetLowMask;

    const visitStandard = ({ view, guestStart }: L2Table): void => {
      for (let at = 0, guest = guestStart; at < clusterBytes; at += 8, guest += clusterBytes) {
        const high = view.getUint32(at);
        const low = view.getUint32(at + 4);
        if (high === 0 && low === 0) continue;
        if ((high & 0x40000000) !== 0) data.add(guest, clusterBytes);
        else if ((low & zeroFlag) !== 0) zero.add(guest, clusterBytes);
        else if ((high & offsetHighMask) !== 0 || (low & offsetLowMask) !== 0) {
          if ((low & misplaced) !== 0) throw fail('a cluster is misplaced');
          data.add(guest, clusterBytes);
        }
      }
    };
    const visitExtended = ({ view, guestStart }: L2Table): void => {
      for (let at = 0, guest = guestStart; at < clusterBytes; at += 16, guest += clusterBytes) {
        const high = view.getUint32(at);
        const zeroBits = view.getUint32(at + 8);
        const dataBits = view.getUint32(at + 12);
        if ((high & 0x40000000) !== 0) data.add(guest, clusterBytes);
        else if (zeroBits !== 0 || dataBits !== 0) {
          if ((zeroBits & dataBits) !== 0) throw fail('a subcluster is both allocated and zero');
          if (dataBits !== 0) {
            const low = view.getUint32(at + 4);
            if ((high & offsetHighMask) === 0 && (low & offsetLowMask) === 0) {
              throw fail('a subcluster is allocated and has no place');
            }
            if ((low & misplaced) !== 0) throw fail('a cluster is misplaced');
            if (dataBits === 0xffffffff) data.add(guest, clusterBytes);
            else addRuns(data, dataBits, guest, subclusterBytes);
          }
          if (zeroBits === 0xffffffff) zero.add(guest, clusterBytes);
          else if (zeroBits !== 0) addRuns(zero, zeroBits, guest, subclusterBytes);
        }
      }
    };
    await walkTables(file, header, fail, header.incompatible.extendedL2 ? visitExtended : visitStandard);
    return { data: data.finish(), zero: zero.finish() };
  });
}

/**
 * The first byte after everything that the active state of the file refers to: a file shorter than that was cut.
 * Counts tables in full and guest data up to the virtual size; a last sector may be short. Meant for imports.
 */
export async function findHostEnd(path: string, options: { damageCode?: DamageCode } = {}): Promise<number> {
  return withTables(path, options.damageCode ?? 'layer_damaged', async (file, header, fail) => {
    const { clusterBytes, subclusterBytes, sizeBytes } = header;
    const extended = header.incompatible.extendedL2;
    const entryBytes = extended ? 16 : 8;
    const offsetBits = 62 - (Math.log2(clusterBytes) - 8);
    let end = Math.max(header.l1Offset + header.l1Entries * 8, header.refcountTableOffset + header.refcountTableBytes);
    const need = (offset: number, length: number): void => {
      if (offset + length > end) end = offset + length;
    };
    await walkTables(file, header, fail, ({ view, guestStart }, tableOffset) => {
      need(tableOffset, clusterBytes);
      for (let at = 0, guest = guestStart; at < clusterBytes; at += entryBytes, guest += clusterBytes) {
        const high = view.getUint32(at);
        const low = view.getUint32(at + 4);
        if ((high === 0 && low === 0) || guest >= sizeBytes) continue;
        if ((high & 0x40000000) !== 0) {
          // Compressed: host offset in the low bits, above it the number of further sectors. Only its first byte is sure.
          const offset = BigInt.asUintN(offsetBits, view.getBigUint64(at));
          need(Number(offset), 1);
          continue;
        }
        const offset = (high & offsetHighMask) * twoTo32 + ((low & offsetLowMask) >>> 0);
        if (offset === 0) continue;
        if (offset % clusterBytes !== 0) throw fail('a cluster is misplaced');
        const dataBits = extended ? view.getUint32(at + 12) : (low & 1) !== 0 && header.version === 3 ? 0 : 0xffffffff;
        if (dataBits === 0) continue;
        const used = extended ? (32 - Math.clz32(dataBits)) * subclusterBytes : clusterBytes;
        need(offset, Math.min(used, sizeBytes - guest));
      }
    });
    return end;
  });
}

/** True when the file holds nothing of its own: no L1 entry is set, so every read goes to the backing. */
export async function isEmptyOverlay(path: string): Promise<boolean> {
  return withTables(path, 'layer_damaged', async (file, header, fail) => {
    const total = header.l1Entries * 8;
    const piece = Buffer.alloc(Math.min(total, 256 * 1024));
    const zeros = Buffer.alloc(piece.length);
    for (let done = 0; done < total; done += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, total - done));
      if ((await readFully(file, part, header.l1Offset + done)) < part.length) throw fail('the L1 table is cut short');
      if (!part.equals(zeros.subarray(0, part.length))) return false;
    }
    return true;
  });
}
