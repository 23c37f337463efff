/**
 * What the campaign writes: every 4 KiB block says which write it belongs to and where it lies, so that whatever is read
 * back tells its history. A write's number is never used twice.
 *
 *     0 magic u32 | 4 number of the write u32 | 8 number of the block u32 | 12 check u32, and so on to the block's end
 */
export const blockBytes = 4096;

/** The number of what was never written. */
export const zero = 0;
/** The number of a block that no write of ours looks like: torn, misplaced or foreign. */
export const alien = -1;

const magic = 0xca107e5e;
const stride = 16;
const zeros = Buffer.alloc(blockBytes);

const checkOf = (write: number, block: number): number =>
  (Math.imul(write, 0x9e3779b1) ^ Math.imul(block + 1, 0x85ebca6b)) >>> 0;

/** The data of a write that begins at `firstBlock`. */
export function dataOf(write: number, firstBlock: number, blocks: number): Buffer {
  const data = Buffer.allocUnsafe(blocks * blockBytes);
  for (let at = 0; at < blocks; at++) {
    const block = data.subarray(at * blockBytes, (at + 1) * blockBytes);
    block.writeUInt32LE(magic, 0);
    block.writeUInt32LE(write, 4);
    block.writeUInt32LE(firstBlock + at, 8);
    block.writeUInt32LE(checkOf(write, firstBlock + at), 12);
    for (let filled = stride; filled < blockBytes; filled *= 2) block.copyWithin(filled, 0, filled);
  }
  return data;
}

/** Which write a block read at `block` shows: `zero`, a number, or `alien`. */
export function writeIn(data: Buffer, at: number, block: number): number {
  const bytes = data.subarray(at, at + blockBytes);
  if (bytes.readUInt32LE(0) === 0) return bytes.equals(zeros) ? zero : alien;
  const write = bytes.readUInt32LE(4);
  const sound =
    bytes.readUInt32LE(0) === magic &&
    bytes.readUInt32LE(8) === block &&
    bytes.readUInt32LE(12) === checkOf(write, block) &&
    bytes.subarray(stride).equals(bytes.subarray(0, blockBytes - stride));
  return sound ? write : alien;
}

/** For messages: what an alien block looks like. */
export function describeBlock(data: Buffer, at: number): string {
  const bytes = data.subarray(at, at + blockBytes);
  const own = bytes.readUInt32LE(0) === magic ? `write ${bytes.readUInt32LE(4)} block ${bytes.readUInt32LE(8)}` : '';
  let nonZero = 0;
  for (const byte of bytes) if (byte !== 0) nonZero++;
  return `${own || 'foreign'}, ${nonZero} bytes not zero, begins ${bytes.subarray(0, 16).toString('hex')}`;
}
