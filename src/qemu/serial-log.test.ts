/** The serial log as its readers see it, with a process that appends as QEMU does. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { firstKeptByte, limitedCommand, SerialLog } from './serial-log.ts';

const directory = await mkdtemp(join(tmpdir(), 'calosl-'));
afterAll(() => rm(directory, { recursive: true, force: true }));

const keptBytes = 64 * 1024;
const wordBytes = 8;
let path: string;
let count = 0;
let log: SerialLog;
beforeEach(() => {
  path = join(directory, `serial-${++count}.log`);
  log = new SerialLog(path, { keptBytes });
});

/** Bytes whose values tell where they are. */
const numbered = (from: number, to: number): Buffer =>
  Buffer.from(Array.from({ length: to - from }, (_, at) => (from + at) % 251));

async function take(stream: Readable, bytes: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let got = 0; got < bytes; ) {
    const piece: Buffer | null = stream.read();
    if (piece === null) await once(stream, 'readable');
    else {
      pieces.push(piece);
      got += piece.length;
    }
  }
  return Buffer.concat(pieces);
}

/** Bytes of which each word tells which one it is, from 1 on: no two are equal, and none is zero. */
function words(from: number, to: number): Buffer {
  const bytes = Buffer.alloc(to - from);
  for (let at = 0; at < bytes.length; at += wordBytes) {
    bytes.writeBigUInt64BE(BigInt((from + at) / wordBytes + 1), at);
  }
  return bytes;
}

/** Where a word says that it ends; 0 when it is no word. */
const placeAfter = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64BE(at)) * wordBytes;

/** All that comes until the word that ends at byte `end`. */
async function takeWordsTo(stream: Readable, end: number): Promise<Buffer> {
  let got = await take(stream, wordBytes);
  while (got.length % wordBytes !== 0 || placeAfter(got, got.length - wordBytes) !== end) {
    got = Buffer.concat([got, await take(stream, 1)]);
  }
  return got;
}

interface Stretch {
  from: number;
  to: number;
}

/** What follows on each other, by what the words say. */
function stretchesOf(bytes: Buffer): Stretch[] {
  const found: Stretch[] = [];
  for (let at = 0; at < bytes.length; at += wordBytes) {
    const to = placeAfter(bytes, at);
    const last = found.at(-1);
    if (last?.to === to - wordBytes) last.to = to;
    else found.push({ from: to - wordBytes, to });
  }
  return found;
}

/** From the first byte to the end of a log, skipping only what was not kept any more. */
function expectInPlace(got: readonly Stretch[], size: number): void {
  expect(got[0]?.from).toBe(0);
  expect(got.at(-1)?.to).toBe(size);
  for (const [at, { from }] of got.slice(1).entries()) {
    expect(from).toBeGreaterThan(got[at]?.to ?? 0);
    expect(from % keptBytes).toBe(0);
  }
}

it('keeps the end of every size: at least so much, at most twice that, and never comes back to what is gone', () => {
  let before = 0;
  for (let size = 0; size < 1000; size++) {
    const first = firstKeptByte(size, 10);
    expect(size - first).toBeGreaterThanOrEqual(Math.min(size, 10));
    expect(size - first).toBeLessThanOrEqual(20);
    expect(first).toBeGreaterThanOrEqual(before);
    before = first;
  }
});

describe('reading', () => {
  it('gives from a byte on, or the end, up to what is there', async () => {
    expect(await log.read(5)).toMatchObject({ fromByte: 0, sizeBytes: 0 });
    await writeFile(path, 'hello world');
    const whole = await log.read(0);
    expect(whole).toMatchObject({ fromByte: 0, sizeBytes: 11 });
    expect(await text(whole.stream)).toBe('hello world');
    const end = await log.read(-5);
    expect(end.fromByte).toBe(6);
    expect(await text(end.stream)).toBe('world');
    expect(await text((await log.read(99)).stream)).toBe('');
  });

  it('follows a log that is not there yet, from several readers, each byte once', async () => {
    const early = (await log.read(0, { follow: true })).stream;
    await writeFile(path, numbered(0, 1000));
    const late = (await log.read(-100, { follow: true })).stream;
    expect(await take(early, 1000)).toEqual(numbered(0, 1000));
    await appendFile(path, numbered(1000, 1500));
    expect(await take(early, 500)).toEqual(numbered(1000, 1500));
    expect(await take(late, 600)).toEqual(numbered(900, 1500));
    early.destroy();
    late.destroy();
    await Promise.all([once(early, 'close'), once(late, 'close')]);
  });

  it('ends by itself when it is told to, also while it waits', async () => {
    const stop = new AbortController();
    await writeFile(path, 'x');
    const told = (await log.read(0, { follow: true, signal: stop.signal })).stream;
    expect((await take(told, 1)).toString()).toBe('x');
    stop.abort();
    expect(await text(told)).toBe('');
    const closed = (await log.read(1, { follow: true })).stream;
    log.close();
    expect(await text(closed)).toBe('');
  });

  it('holds little for a reader that does not read, who goes on with what is kept', async () => {
    await writeFile(path, words(0, 1000));
    const slow = (await log.read(0, { follow: true })).stream;
    await once(slow, 'readable');
    const size = 50 * keptBytes;
    for (let at = 1000; at < size; at += keptBytes) await appendFile(path, words(at, Math.min(at + keptBytes, size)));
    await log.punch(process.pid);
    expect(slow.readableLength).toBeLessThanOrEqual(2 * keptBytes);
    const got = stretchesOf(await takeWordsTo(slow, size));
    // It may have taken a piece from the middle while the log grew.
    expectInPlace(got, size);
    expect(got.length).toBeGreaterThan(1);
    expect(got.reduce((bytes, { from, to }) => bytes + to - from, 0)).toBeLessThan(4 * keptBytes);
    slow.destroy();
  });
});

describe('the space', () => {
  it('of what is old is given back, and the numbers of the rest stay', async () => {
    const size = 10 * keptBytes + 77;
    await writeFile(path, numbered(0, size));
    await log.punch(process.pid);
    const found = await stat(path);
    expect(found.size).toBe(size);
    expect(found.blocks * 512).toBeLessThanOrEqual(2 * keptBytes + 4096);
    const { stream, fromByte } = await log.read(0);
    expect(fromByte).toBe(9 * keptBytes);
    expect(Buffer.from(await text(stream.setEncoding('latin1')), 'latin1')).toEqual(numbered(fromByte, size));
  });

  it('is bounded for a process that nobody watches, and it goes on as soon as somebody does', async () => {
    const limit = await log.limit();
    // Says, for each line of input, whether it could write a piece.
    const script = `while read -r line; do dd if=/dev/zero bs=${keptBytes} count=1 2>/dev/null >>"$1" && echo yes || echo no; done`;
    const [file, args] = limitedCommand(limit, ['/bin/bash', '-c', script, 'bash', path]);
    const writer = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const answers = writer.stdout.setEncoding('utf8');
    const write = async (): Promise<string> => {
      writer.stdin.write('\n');
      const [answer]: string[] = await once(answers, 'data');
      return answer?.trim() ?? '';
    };
    for (let at = 0; at < limit; at += keptBytes) expect(await write()).toBe('yes');
    expect(await write()).toBe('no');
    expect(await log.size()).toBe(limit);
    await log.punch(writer.pid ?? 0);
    expect(await write()).toBe('yes');
    writer.stdin.end();
    await once(writer, 'close');
  });
});
