import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { FlushGate } from './flush-gate.ts';
import { NbdClient } from './nbd-client.ts';
import { reachStorageDaemon, stopStorageDaemon } from './storage-daemon.ts';

const directory = await mkdtemp(join(tmpdir(), 'calog-'));
afterAll(() => rm(directory, { recursive: true, force: true }));
let count = 0;
const socketPath = (): string => join(directory, `${count++}.sock`);
const connect = (path: string): Promise<NbdClient> =>
  NbdClient.connect({ kind: 'unix', path }, { exportName: '', metaContexts: [] });

describe('the gate', () => {
  test('holds a flush until it opens, and tells of it; later ones pass', async () => {
    const path = socketPath();
    const held = Promise.withResolvers<void>();
    let times = 0;
    const gate = await FlushGate.listen(path, () => {
      times++;
      held.resolve();
    });
    await using client = await connect(path);
    let passed = false;
    const flushed = client.flush().then(() => {
      passed = true;
    });
    await held.promise;
    expect(passed).toBe(false);
    gate.open();
    await flushed;
    await client.flush();
    expect(times).toBe(1);
  });

  test('refuses what is no flush', async () => {
    const path = socketPath();
    await FlushGate.listen(path, () => undefined);
    await using client = await connect(path);
    await expect(client.read(0, 512)).rejects.toMatchObject({ code: 'engine_failed' });
  });

  test('is a block node to QEMU', async () => {
    const path = socketPath();
    const gate = await FlushGate.listen(path, () => undefined);
    const daemon = await reachStorageDaemon({ runDirectory: directory, imageDirectory: directory });
    try {
      const server = { type: 'unix', path };
      await daemon.qmp.execute('blockdev-add', { driver: 'nbd', 'node-name': 'gate', server, export: '' });
      gate.open();
      await daemon.qmp.execute('blockdev-del', { 'node-name': 'gate' });
    } finally {
      await stopStorageDaemon(daemon);
    }
  });
});
