import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { sendMemory } from './memory-file.ts';

const stream = randomBytes(3 * 1024 * 1024 + 17);
const stored = zstdCompressSync(stream);
const checksum = crc32(stored);
let directory = '';
let path = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calotype-memory-'));
  path = join(directory, 'memory');
  await writeFile(path, stored);
});
afterEach(() => rm(directory, { recursive: true }));

/** Sends to a listener that hears `take` and then closes, as QEMU does once it has all that it wants. */
async function send(take: number, expected = checksum): Promise<number> {
  const socketPath = join(directory, 'incoming.sock');
  let heard = 0;
  const server = createServer({ pauseOnConnect: true }, (socket: Socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (piece) => {
      heard += piece.length;
      if (heard >= take) socket.destroy();
    });
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  try {
    await sendMemory(path, socketPath, { checksum: expected });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
  return heard;
}

test('all of a memory is sent', async () => {
  expect(await send(Number.POSITIVE_INFINITY)).toBe(stream.length);
});

test.each([1, 1024 * 1024, stream.length])('a QEMU that closes after %d bytes is the one to say why', async (take) => {
  for (let round = 0; round < 5; round++) await send(take);
});

test.each([1, Number.POSITIVE_INFINITY])(
  'a file that is not what was stored is noticed, also when QEMU closes after %d bytes',
  async (take) => {
    await expect(send(take, checksum + 1)).rejects.toMatchObject({ code: 'memory_damaged' });
    await writeFile(path, stored.subarray(0, stored.length - 1000));
    await expect(send(take)).rejects.toMatchObject({ code: 'memory_damaged' });
    await rm(path);
    await expect(send(take)).rejects.toMatchObject({ code: 'memory_damaged' });
  },
);
