/**
 * Sets of byte ranges of a guest address space, as sorted, disjoint, non-adjacent extents. Deltas of layers,
 * allocation maps and changed-block lists are all values of this type. Pure functions, linear in the extents.
 */

export interface Extent {
  /** First byte. */
  readonly start: number;
  /** Bytes, above zero. */
  readonly length: number;
}

export type Extents = readonly Extent[];

/** Sorts and joins any list of extents into canonical form. */
export function normalizeExtents(list: readonly Extent[]): Extents {
  const sorted = list.filter((e) => e.length > 0).sort((a, b) => a.start - b.start);
  const out: { start: number; length: number }[] = [];
  for (const e of sorted) {
    const prev = out[out.length - 1];
    if (prev !== undefined && e.start <= prev.start + prev.length) {
      prev.length = Math.max(prev.length, e.start + e.length - prev.start);
    } else out.push({ start: e.start, length: e.length });
  }
  return out;
}

export function sumExtents(list: Extents): number {
  let total = 0;
  for (const e of list) total += e.length;
  return total;
}

/** Union of two canonical lists. */
export function unionExtents(a: Extents, b: Extents): Extents {
  if (a.length === 0) return b;
  if (b.length === 0) return a;
  const out: { start: number; length: number }[] = [];
  let i = 0;
  let j = 0;
  for (;;) {
    const x = a[i];
    const y = b[j];
    const takesX = x !== undefined && (y === undefined || x.start <= y.start);
    const e = takesX ? x : y;
    if (e === undefined) return out;
    if (takesX) i++;
    else j++;
    const prev = out[out.length - 1];
    if (prev !== undefined && e.start <= prev.start + prev.length) {
      prev.length = Math.max(prev.length, e.start + e.length - prev.start);
    } else out.push({ start: e.start, length: e.length });
  }
}

/** Intersection of two canonical lists. */
export function intersectExtents(a: Extents, b: Extents): Extents {
  const out: Extent[] = [];
  let i = 0;
  let j = 0;
  for (let x = a[i], y = b[j]; x !== undefined && y !== undefined; x = a[i], y = b[j]) {
    const start = Math.max(x.start, y.start);
    const end = Math.min(x.start + x.length, y.start + y.length);
    if (end > start) out.push({ start, length: end - start });
    if (x.start + x.length < y.start + y.length) i++;
    else j++;
  }
  return out;
}

/** What is in `a` and not in `b`; both canonical. */
export function subtractExtents(a: Extents, b: Extents): Extents {
  const out: Extent[] = [];
  let j = 0;
  for (const x of a) {
    let start = x.start;
    const end = x.start + x.length;
    for (let y = b[j]; y !== undefined && y.start + y.length <= start; y = b[j]) j++;
    for (let k = j, y = b[k]; y !== undefined && y.start < end; y = b[++k]) {
      if (y.start > start) out.push({ start, length: y.start - start });
      start = Math.max(start, y.start + y.length);
    }
    if (start < end) out.push({ start, length: end - start });
  }
  return out;
}

/** Cuts a list at a size: nothing at or beyond `sizeBytes` stays. */
export function clipExtents(list: Extents, sizeBytes: number): Extents {
  return intersectExtents(list, sizeBytes > 0 ? [{ start: 0, length: sizeBytes }] : []);
}

const unit = 512;

/**
 * Compact form for the catalog: version byte 1, then LEB128 pairs (gap since the previous end, length), both in
 * 512-byte sectors. Starts and lengths that are not whole sectors are refused.
 */
export function encodeExtents(list: Extents): Uint8Array {
  const bytes: number[] = [1];
  const put = (value: number): void => {
    let rest = value;
    while (rest >= 128) {
      bytes.push((rest % 128) | 128);
      rest = Math.floor(rest / 128);
    }
    bytes.push(rest);
  };
  let end = 0;
  for (const e of list) {
    if (e.start % unit !== 0 || e.length % unit !== 0) throw new RangeError('extent is not in whole sectors');
    put((e.start - end) / unit);
    put(e.length / unit);
    end = e.start + e.length;
  }
  return Uint8Array.from(bytes);
}

export function decodeExtents(bytes: Uint8Array): Extents {
  if (bytes[0] !== 1) throw new RangeError('unknown extent list version');
  const out: Extent[] = [];
  let at = 1;
  let end = 0;
  const take = (): number => {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError('extent list is cut short');
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (at < bytes.length) {
    const start = end + take() * unit;
    const length = take() * unit;
    out.push({ start, length });
    end = start + length;
  }
  return out;
}
