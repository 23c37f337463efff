/**
 * The oracle: what drives and points must read as. Content is a number per grain of 4 KiB, zero for zeros; no number is
 * used twice, so that what differs in content differs in numbers.
 */
import { expect } from 'vitest';
import { type Extents, normalizeExtents } from '../../core/extents.ts';

export const grainBytes = 4096;
export const MiB = 1024 * 1024;

let lastValue = 0;

/** A number never used before in this process. */
export function freshValue(): number {
  return ++lastValue;
}

export class Content {
  readonly values: Uint32Array;

  constructor(sizeBytes: number, values?: Uint32Array) {
    this.values = new Uint32Array(sizeBytes / grainBytes);
    if (values !== undefined) this.values.set(values.subarray(0, this.values.length));
  }

  get sizeBytes(): number {
    return this.values.length * grainBytes;
  }

  /** A copy, larger if asked for. */
  copy(sizeBytes = this.sizeBytes): Content {
    return new Content(sizeBytes, this.values);
  }

  set(grain: number, count: number, value: number): void {
    this.values.fill(value, grain, grain + count);
  }

  bytes(): Buffer {
    const out = Buffer.alloc(this.sizeBytes);
    const words = new Uint32Array(out.buffer, out.byteOffset, out.length / 4);
    for (let grain = 0; grain < this.values.length; grain++) {
      const value = this.values[grain] ?? 0;
      if (value !== 0) words.fill(value, (grain * grainBytes) / 4, ((grain + 1) * grainBytes) / 4);
    }
    return out;
  }
}

/** The bytes of `count` grains of one number. */
export function grains(value: number, count = 1): Buffer {
  const out = Buffer.alloc(count * grainBytes);
  new Uint32Array(out.buffer, out.byteOffset, out.length / 4).fill(value);
  return out;
}

/** The number that fills each grain; -1 for a grain that is not filled by one. */
export function valuesOf(bytes: Buffer): Int32Array {
  const values = new Int32Array(bytes.length / grainBytes);
  const words = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const perGrain = grainBytes / 4;
  for (let grain = 0; grain < values.length; grain++) {
    const first = words[grain * perGrain] ?? 0;
    const whole = words.subarray(grain * perGrain, (grain + 1) * perGrain).every((word) => word === first);
    values[grain] = whole ? first : -1;
  }
  return values;
}

/** Why bytes are not the content, in grains; undefined when they are. */
export function difference(bytes: Buffer, content: Content): string | undefined {
  if (bytes.length !== content.sizeBytes) return `${bytes.length} bytes instead of ${content.sizeBytes}`;
  if (bytes.equals(content.bytes())) return undefined;
  const found = valuesOf(bytes);
  const wrong: string[] = [];
  for (let grain = 0; grain < found.length && wrong.length < 8; grain++) {
    const wanted = content.values[grain] ?? 0;
    if (found[grain] !== wanted) wrong.push(`grain ${grain}: ${found[grain]} instead of ${wanted}`);
  }
  return wrong.join(', ');
}

export function expectContent(bytes: Buffer, content: Content, what = ''): void {
  expect(difference(bytes, content), what).toBeUndefined();
}

/** Where two contents differ; beyond its end a content reads as zeros. */
export function changedGrains(from: Content, to: Content): Extents {
  const found: { start: number; length: number }[] = [];
  for (let grain = 0; grain < to.values.length; grain++) {
    if ((from.values[grain] ?? 0) !== (to.values[grain] ?? 0)) {
      found.push({ start: grain * grainBytes, length: grainBytes });
    }
  }
  return normalizeExtents(found);
}

/** Grains that read as zeros in both: rewriting those may be reported as a change. */
export function zeroGrains(from: Content, to: Content): Extents {
  const found: { start: number; length: number }[] = [];
  for (let grain = 0; grain < to.values.length; grain++) {
    if ((from.values[grain] ?? 0) === 0 && (to.values[grain] ?? 0) === 0) {
      found.push({ start: grain * grainBytes, length: grainBytes });
    }
  }
  return normalizeExtents(found);
}
