/**
 * Looks at the bytes of an image that a user brings, before any QEMU tool opens it: which format it really is, whether
 * it refers to another file, how large it claims to be and whether it is all there. Reads that one file and nothing else,
 * with every length bounded; a hostile file can cost an error, never a read elsewhere. Used by image-tools.ts.
 *
 * Sources: QEMU block/{vmdk,vpc,vhdx,vdi}.c and docs/interop/qcow2.txt, VMware "Virtual Disk Format 5.0",
 * Microsoft "Virtual Hard Disk Image Format" and [MS-VHDX].
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { CalotypeError } from '../core/errors.ts';
import { findHostEnd, readHeader } from './qcow2.ts';

export type ImportFormat = 'qcow2' | 'raw' | 'vmdk' | 'vpc' | 'vhdx' | 'vdi';

export interface ImportLimits {
  /** Largest virtual size. */
  readonly maxVirtualBytes: number;
  /** Largest file. */
  readonly maxFileBytes: number;
}

const sector = 512;
const maxDescriptorBytes = 64 * 1024;
const maxTableBytes = 64 * 1024 * 1024;

/** The name of a format as users write it; QEMU calls VHD "vpc". Raises `image_format_unknown`. */
export function parseImportFormat(name: string): ImportFormat {
  switch (name) {
    case 'qcow2':
    case 'raw':
    case 'vmdk':
    case 'vpc':
    case 'vhdx':
    case 'vdi':
      return name;
    case 'vhd':
      return 'vpc';
    default:
      throw new CalotypeError('image_format_unknown', undefined, {
        format: name,
        supported: ['qcow2', 'raw', 'vmdk', 'vpc', 'vhd', 'vhdx', 'vdi'],
      });
  }
}

function truncated(reason: string): CalotypeError {
  return new CalotypeError('image_truncated', `The image is truncated or damaged: ${reason}.`, { reason });
}

function dependsOn(code: 'image_has_backing_file' | 'image_has_data_file', reason: string): CalotypeError {
  return new CalotypeError(code, undefined, { reason, remedy: 'Convert it to one self-contained file first.' });
}

/** Bounded reads of one open file; a read beyond its end means that the image was cut. */
class ImageFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #file: FileHandle;
  constructor(path: string, file: FileHandle, sizeBytes: number) {
    this.path = path;
    this.#file = file;
    this.sizeBytes = sizeBytes;
  }

  async read(offset: number, length: number, what: string): Promise<Buffer> {
    if (!Number.isSafeInteger(offset + length) || offset + length > this.sizeBytes)
      throw truncated(`${what} is cut off`);
    if (length > maxTableBytes) throw truncated(`${what} is larger than any real one`);
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await this.#file.read(bytes, done, length - done, offset + done);
      if (bytesRead === 0) throw truncated(`${what} is cut off`);
      done += bytesRead;
    }
    return bytes;
  }

  /** Up to `length` bytes: fewer at the end of the file, none beyond it. */
  async readUpTo(offset: number, length: number): Promise<Buffer> {
    return this.read(
      Math.min(offset, this.sizeBytes),
      Math.max(0, Math.min(length, this.sizeBytes - offset)),
      'the file',
    );
  }

  need(end: number, what: string): void {
    if (!(end <= this.sizeBytes)) throw truncated(`${what} lies beyond the end of the file`);
  }
}

const u64le = (bytes: Buffer, at: number): number => bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
const u64be = (bytes: Buffer, at: number): number => bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4);

const diskImages = new Set(['qcow2', 'qcow', 'qed', 'vmdk', 'vmdk descriptor', 'vpc', 'vhdx', 'vdi', 'parallels']);

/** Names the format by its magic: an import format, another one that people have, or `unknown`. */
async function sniff(image: ImageFile): Promise<string> {
  const head = await image.readUpTo(0, 4096);
  const text = head.toString('latin1');
  if (text.startsWith('QFI\xfb')) return head.length >= 8 && head.readUInt32BE(4) === 1 ? 'qcow' : 'qcow2';
  if (text.startsWith('QED\0')) return 'qed';
  if (text.startsWith('KDMV') || text.startsWith('COWD')) return 'vmdk';
  if (/^(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*version[ \t]*=[ \t]*\d/i.test(text)) return 'vmdk descriptor';
  if (/^#\s*Disk\s*DescriptorFile/i.test(text)) return 'vmdk descriptor';
  if (text.startsWith('vhdxfile')) return 'vhdx';
  if (head.length >= 68 && head.readUInt32LE(64) === 0xbeda107f) return 'vdi';
  if (text.startsWith('WithoutFreeSpace') || text.startsWith('WithouFreSpacExt')) return 'parallels';
  if (text.startsWith('conectix')) return 'vpc';
  if ((await readVhdFooter(image)) !== null) return 'vpc';
  if (text.startsWith('\x1f\x8b\x08')) return 'gzip';
  if (text.startsWith('\xfd7zXZ\0')) return 'xz';
  if (text.startsWith('\x28\xb5\x2f\xfd')) return 'zstd';
  if (text.startsWith('BZh')) return 'bzip2';
  if (text.startsWith('PK\x03\x04')) return 'zip';
  if (text.slice(257, 262) === 'ustar') return 'tar';
  return 'unknown';
}

/**
 * Checks a file against the format it claims and the limits, by its own bytes. Raises `image_format_mismatch`,
 * `image_has_backing_file`, `image_has_data_file`, `image_too_large`, `image_truncated` or `image_format_unknown`.
 * Internal snapshots of a qcow2 are fine: only its active state is read. The caller makes sure that nobody else writes
 * the file meanwhile.
 */
export async function inspectBytes(
  path: string,
  claimed: ImportFormat,
  limits: ImportLimits,
): Promise<{ virtualBytes: number }> {
  // O_NONBLOCK: a FIFO in the import directory must not hold us.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const file = await open(path, flags).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') throw new CalotypeError('import_not_found', undefined, {}, { cause });
    throw new CalotypeError('import_path_refused', 'The file cannot be opened for import.', {}, { cause });
  });
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new CalotypeError('import_path_refused', 'Only a regular file can be imported.');
    if (stat.size > limits.maxFileBytes) throw tooLarge('fileBytes', stat.size, limits.maxFileBytes);
    const image = new ImageFile(path, file, stat.size);
    const found = await sniff(image);
    if (claimed === 'raw') {
      // Content that merely looks like an archive may well be a disk; content that is a disk image may not.
      if (diskImages.has(found) || (found !== 'unknown' && stat.size % sector !== 0)) throw mismatch(claimed, found);
    } else if (found === 'vmdk descriptor' && claimed === 'vmdk') {
      throw dependsOn('image_has_data_file', 'This is only the descriptor of a disk whose data is in other files.');
    } else if (found !== claimed) {
      if (stat.size < sector) throw truncated('the file is shorter than any header');
      throw mismatch(claimed, found);
    }
    const virtualBytes = await inspectors[claimed](image, (bytes) => {
      if (!(bytes <= limits.maxVirtualBytes)) throw tooLarge('virtualBytes', bytes, limits.maxVirtualBytes);
      if (bytes <= 0) throw truncated('the disk has no bytes');
    });
    return { virtualBytes };
  } finally {
    await file.close();
  }
}

export function tooLarge(what: 'fileBytes' | 'virtualBytes', actual: number, limit: number): CalotypeError {
  return new CalotypeError('image_too_large', undefined, { [what]: actual, limit });
}

function mismatch(claimed: ImportFormat, found: string): CalotypeError {
  const known = diskImages.has(found);
  return new CalotypeError('image_format_mismatch', `The image claims to be ${claimed} and is ${found}.`, {
    claimed,
    found,
    remedy: known
      ? `Name the format it has: ${found}.`
      : found === 'unknown'
        ? 'Check the file: a disk without any image format is raw.'
        : 'Unpack the file first.',
  });
}

/** Each reads the format's own tables, calls `admit` with the virtual size before any long walk, and returns it. */
const inspectors: Record<ImportFormat, (image: ImageFile, admit: (bytes: number) => void) => Promise<number>> = {
  async raw(image, admit) {
    if (image.sizeBytes % sector !== 0) throw truncated('a raw disk has whole sectors of 512 bytes');
    admit(image.sizeBytes);
    return image.sizeBytes;
  },

  async qcow2(image, admit) {
    const options = { damageCode: 'image_truncated' } as const;
    const header = await readHeader(image.path, options);
    const { incompatible } = header;
    if (header.backing !== null) throw dependsOn('image_has_backing_file', 'It names a backing file.');
    if (incompatible.externalData || header.dataFile !== null) {
      throw dependsOn('image_has_data_file', 'It names an external data file.');
    }
    if (incompatible.unknown || header.encrypted) {
      const reason = header.encrypted ? 'It is encrypted.' : 'It uses features that this program does not know.';
      throw new CalotypeError('image_format_unknown', undefined, { format: 'qcow2', reason });
    }
    if (incompatible.corrupt || incompatible.dirty) {
      throw new CalotypeError('image_truncated', undefined, {
        reason: incompatible.corrupt ? 'It is marked corrupt.' : 'It was not closed cleanly.',
        remedy: 'qemu-img check -r all FILE',
      });
    }
    admit(header.sizeBytes);
    const roundUp = Math.ceil(image.sizeBytes / sector) * sector;
    if ((await findHostEnd(image.path, options)) > roundUp) throw truncated('its data lies beyond the end of the file');
    return header.sizeBytes;
  },

  async vmdk(image, admit) {
    let header = await image.read(0, sector, 'the header');
    if (header.toString('latin1', 0, 4) !== 'KDMV') {
      throw new CalotypeError('image_format_unknown', undefined, { format: 'vmdk', reason: 'It is an ESX COWD file.' });
    }
    // With capacity 0 QEMU takes the embedded text for a descriptor and opens the files that it names.
    if (u64le(header, 12) === 0) throw dependsOn('image_has_data_file', 'It has no capacity of its own.');
    await checkVmdkDescriptor(image, u64le(header, 28), u64le(header, 36));

    const tablesAtEnd = 2 ** 64;
    if (u64le(header, 56) === tablesAtEnd) {
      // A streamed file: marker, footer and end marker of one sector each; the footer is the header that counts.
      const whole = image.sizeBytes - (image.sizeBytes % sector);
      const tail = await image.read(Math.max(0, whole - 3 * sector), 3 * sector, 'the footer');
      const sound =
        tail.readUInt32LE(12) === 3 &&
        tail.toString('latin1', sector, sector + 4) === 'KDMV' &&
        tail.readUInt32LE(2 * sector + 12) === 0;
      if (!sound) throw truncated('the footer is missing');
      header = tail.subarray(sector, 2 * sector);
    }
    const version = header.readUInt32LE(4);
    if (version < 1 || version > 3) {
      throw new CalotypeError('image_format_unknown', undefined, { format: 'vmdk', reason: `Version ${version}.` });
    }
    const capacityBytes = u64le(header, 12) * sector;
    admit(capacityBytes);
    const grainBytes = u64le(header, 20) * sector;
    const entriesPerTable = header.readUInt32LE(44);
    if (grainBytes < sector || grainBytes > 2 ** 30 || entriesPerTable < 1 || entriesPerTable > 512) {
      throw truncated('the grain size is out of range');
    }
    image.need(u64le(header, 64) * sector, 'the first grain');
    const compressed = header.readUInt16LE(77) !== 0;
    const tableCount = Math.ceil(capacityBytes / (grainBytes * entriesPerTable));
    const directory = await image.read(u64le(header, 56) * sector, tableCount * 4, 'the grain directory');
    let last = 0;
    let lastGrain = 0;
    let tables = 0;
    for (let i = 0; i < tableCount; i++) {
      const tableAt = directory.readUInt32LE(i * 4) * sector;
      if (tableAt === 0) continue;
      // Tables never share a place: a forged directory cannot keep us reading.
      image.need(++tables * entriesPerTable * 4, 'a grain table');
      const table = await image.read(tableAt, entriesPerTable * 4, 'a grain table');
      for (let j = 0; j < entriesPerTable; j++) {
        const grainAt = table.readUInt32LE(j * 4) * sector;
        const guest = (i * entriesPerTable + j) * grainBytes;
        if (grainAt <= sector || guest >= capacityBytes) continue;
        if (grainAt > lastGrain) lastGrain = grainAt;
        last = Math.max(last, grainAt + (compressed ? 12 : Math.min(grainBytes, capacityBytes - guest)));
      }
    }
    image.need(last, 'a grain');
    if (compressed && lastGrain !== 0) {
      const marker = await image.read(lastGrain, 12, 'a grain');
      image.need(lastGrain + 12 + marker.readUInt32LE(8), 'a grain');
    }
    return capacityBytes;
  },

  async vpc(image, admit) {
    const front = await image.read(0, sector, 'the header');
    const footer = await readVhdFooter(image);
    const isVhd = (bytes: Buffer): boolean => bytes.toString('latin1', 0, 8) === 'conectix';
    const main = isVhd(front) ? front : footer;
    if (main === null) throw truncated('the footer is missing');
    for (const copy of [main, footer ?? main]) {
      if (copy.readUInt32BE(60) === 4) throw dependsOn('image_has_backing_file', 'It is a differencing disk.');
    }
    const type = main.readUInt32BE(60);
    const currentBytes = u64be(main, 48);
    admit(currentBytes);
    if (type === 2 && main === footer) {
      if (image.sizeBytes - sector < currentBytes) throw truncated('it is shorter than the disk');
      return currentBytes;
    }
    if (type !== 3 || main !== front) throw truncated(`disk type ${type} is not known`);
    if (footer === null) throw truncated('the footer at its end is missing');

    const header = await image.read(u64be(front, 16), 1024, 'the dynamic header');
    if (header.toString('latin1', 0, 8) !== 'cxsparse') throw truncated('the dynamic header is missing');
    const entries = header.readUInt32BE(28);
    const blockBytes = header.readUInt32BE(32);
    if (blockBytes < sector || blockBytes % sector !== 0) throw truncated('the block size is out of range');
    const table = await image.read(u64be(header, 16), entries * 4, 'the block table');
    const bitmapBytes = Math.ceil(blockBytes / sector / 8 / sector) * sector;
    for (let i = 0; i < entries; i++) {
      const at = table.readUInt32BE(i * 4);
      if (at !== 0xffffffff) image.need(at * sector + bitmapBytes + blockBytes, 'a block');
    }
    return currentBytes;
  },

  async vhdx(image, admit) {
    const oneMiB = 1024 * 1024;
    let virtualBytes: number | null = null;
    // Two copies of the region table: QEMU may use either, so both are checked, and the first sound one is walked.
    for (const at of [192 * 1024, 256 * 1024]) {
      const regions = await image.read(at, 64 * 1024, 'the region table');
      if (regions.toString('latin1', 0, 4) !== 'regi') continue;
      const region = (id: string): { offset: number; length: number } => {
        for (let i = 0; i < Math.min(regions.readUInt32LE(8), 2047); i++) {
          const entry = regions.subarray(16 + i * 32, 48 + i * 32);
          if (guid(entry) === id) return { offset: u64le(entry, 16), length: entry.readUInt32LE(24) };
        }
        throw truncated('the region table is not complete');
      };
      const metadata = region('8b7ca206-4790-4b9a-b8fe-575f050f886e');
      const blocks = region('2dc27766-f623-4200-9d64-115e9bfd4a08');
      const items = await image.read(metadata.offset, 64 * 1024, 'the metadata');
      if (items.toString('latin1', 0, 8) !== 'metadata') throw truncated('the metadata is missing');
      const values = new Map<string, Buffer>();
      for (let i = 0; i < Math.min(items.readUInt16LE(10), 1023); i++) {
        const entry = items.subarray(32 + i * 32, 64 + i * 32);
        values.set(guid(entry), await image.readUpTo(metadata.offset + entry.readUInt32LE(16), 8));
      }
      const value = (id: string, length: number): Buffer => {
        const bytes = values.get(id);
        if (bytes === undefined || bytes.length < length) throw truncated('the metadata is not complete');
        return bytes;
      };
      const parameters = value('caa16737-fa36-4d43-b3b6-33f0aa44e76b', 8);
      if ((parameters.readUInt32LE(4) & 2) !== 0 || values.has('a8d35f2d-b30b-454d-abf7-d3d84834ab0c')) {
        throw dependsOn('image_has_backing_file', 'It is a differencing disk.');
      }
      const sizeBytes = u64le(value('2fa54224-cd1b-4876-b211-5dbed83bf4b8', 8), 0);
      admit(sizeBytes);
      if (virtualBytes !== null) continue;
      virtualBytes = sizeBytes;

      const blockBytes = parameters.readUInt32LE(0);
      const sectorBytes = value('8141bf1d-a96f-4709-ba47-f233a8faab5f', 4).readUInt32LE(0);
      if (blockBytes < oneMiB || blockBytes > 256 * oneMiB || (sectorBytes !== 512 && sectorBytes !== 4096)) {
        throw truncated('the block size is out of range');
      }
      // After each run of payload entries stands one for a sector bitmap, which only differencing disks use.
      const ratio = Math.floor((2 ** 23 * sectorBytes) / blockBytes);
      const payloads = Math.ceil(sizeBytes / blockBytes);
      const table = await image.read(
        blocks.offset,
        (payloads + Math.floor((payloads - 1) / ratio)) * 8,
        'the block table',
      );
      for (let i = 0; i < payloads; i++) {
        const entry = (i + Math.floor(i / ratio)) * 8;
        const state = table.readUInt32LE(entry) & 7;
        if (state !== 6 && state !== 7) continue;
        const start = Math.floor(u64le(table, entry) / oneMiB) * oneMiB;
        image.need(start + blockBytes, 'a block');
      }
    }
    if (virtualBytes === null) throw truncated('the region table is missing');
    return virtualBytes;
  },

  async vdi(image, admit) {
    const header = await image.read(0, sector, 'the header');
    const type = header.readUInt32LE(76);
    const isNull = (at: number): boolean => header.subarray(at, at + 16).every((byte) => byte === 0);
    // Link and parent ids stand for another file, which only VirtualBox's registry could find.
    if (type === 3 || type === 4 || !isNull(424) || !isNull(440)) {
      throw dependsOn('image_has_backing_file', 'It is a differencing disk.');
    }
    if (type !== 1 && type !== 2) throw truncated(`disk type ${type} is not known`);
    const sizeBytes = u64le(header, 368);
    admit(sizeBytes);
    const blockBytes = header.readUInt32LE(376);
    const blocks = header.readUInt32LE(384);
    const dataAt = header.readUInt32LE(344);
    if (blockBytes < sector || sizeBytes > blocks * blockBytes) throw truncated('the block count is out of range');
    const table = await image.read(header.readUInt32LE(340), blocks * 4, 'the block table');
    for (let i = 0; i < blocks; i++) {
      const at = table.readUInt32LE(i * 4);
      if (at < 0xfffffffe) image.need(dataAt + (at + 1) * blockBytes, 'a block');
    }
    return sizeBytes;
  },
};

/**
 * QEMU reads the descriptor's parent at byte 512 whatever the header says, and by plain text search; so both places
 * are searched, more loosely than QEMU does.
 */
async function checkVmdkDescriptor(image: ImageFile, startSector: number, sectors: number): Promise<void> {
  const declared = await image.readUpTo(startSector * sector, Math.min(sectors * sector, maxDescriptorBytes));
  const fixed = await image.readUpTo(sector, 20 * sector);
  for (const part of [declared, fixed]) {
    const text = part.toString('latin1');
    if (/parentFileNameHint/i.test(text)) throw dependsOn('image_has_backing_file', 'It names a parent disk.');
    for (const [, id] of text.matchAll(/parentCID\s*=\s*([0-9a-fx]*)/gi)) {
      if (id?.toLowerCase() !== 'ffffffff') throw dependsOn('image_has_backing_file', 'It has a parent disk.');
    }
  }
  const [text = ''] = declared.toString('latin1').split('\0', 1);
  const kind = /^\s*createType\s*=\s*"([^"]*)"/im.exec(startSector === 0 ? '' : text)?.[1];
  if (kind !== 'monolithicSparse' && kind !== 'streamOptimized') {
    throw dependsOn('image_has_data_file', `Its type is ${kind ?? 'not given'}: one part of a disk in several files.`);
  }
}

/** The last sector when it is a VHD footer (cookie and checksum), else null. */
async function readVhdFooter(image: ImageFile): Promise<Buffer | null> {
  const footer = await image.readUpTo(Math.max(0, image.sizeBytes - sector), sector);
  if (footer.length < sector || footer.toString('latin1', 0, 8) !== 'conectix') return null;
  let sum = 0;
  for (let i = 0; i < sector; i++) if (i < 64 || i >= 68) sum += footer.readUInt8(i);
  return ~sum >>> 0 === footer.readUInt32BE(64) ? footer : null;
}

/** A GUID as text: its first three fields are little-endian on disk. */
function guid(bytes: Buffer): string {
  const hex = (...order: number[]): string =>
    order.map((i) => bytes.readUInt8(i).toString(16).padStart(2, '0')).join('');
  return [hex(3, 2, 1, 0), hex(5, 4), hex(7, 6), hex(8, 9), hex(10, 11, 12, 13, 14, 15)].join('-');
}
