/**
 * Writes an initrd: a cpio archive of the "newc" kind, as Linux unpacks it at boot. Everything belongs to root and has
 * no time, so that the same entries give the same bytes.
 * Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
 */

export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'file'; readonly path: string; readonly content: Buffer; readonly executable: boolean }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | { readonly kind: 'characterDevice'; readonly path: string; readonly major: number; readonly minor: number };

/** `path` without a leading slash. A directory comes before what is in it. */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => record(index + 1, entry));
  return Buffer.concat([...parts, ...fields('TRAILER!!!', { links: 1 }, Buffer.alloc(0))]);
}

const fileType = { directory: 0o040000, file: 0o100000, symlink: 0o120000, characterDevice: 0o020000 } as const;

function record(inode: number, entry: CpioEntry): Buffer[] {
  const type = fileType[entry.kind];
  switch (entry.kind) {
    case 'directory':
      return fields(entry.path, { inode, mode: type | 0o755, links: 2 }, Buffer.alloc(0));
    case 'file':
      return fields(entry.path, { inode, mode: type | (entry.executable ? 0o755 : 0o644), links: 1 }, entry.content);
    case 'symlink':
      return fields(entry.path, { inode, mode: type | 0o777, links: 1 }, Buffer.from(entry.target));
    case 'characterDevice': {
      const { major, minor } = entry;
      return fields(entry.path, { inode, mode: type | 0o600, links: 1, major, minor }, Buffer.alloc(0));
    }
  }
}

interface Header {
  readonly inode?: number;
  readonly mode?: number;
  readonly links: number;
  readonly major?: number;
  readonly minor?: number;
}

/** Magic, 13 numbers of 8 hex digits, then name and content, each padded to 4 bytes. */
function fields(path: string, header: Header, content: Buffer): Buffer[] {
  const { inode = 0, mode = 0, links, major = 0, minor = 0 } = header;
  const name = Buffer.from(`${path}\0`);
  const numbers = [inode, mode, 0, 0, links, 0, content.length, 0, 0, major, minor, name.length, 0];
  const head = Buffer.from(`070701${numbers.map((one) => one.toString(16).padStart(8, '0')).join('')}`);
  return [head, name, padding(head.length + name.length), content, padding(content.length)];
}

function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
