/** The mirror of the daemon's graph, against a real daemon. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { reachStorageDaemon, stopStorageDaemon } from '../../qemu/storage-daemon.ts';
import { FileStore } from './file-store.ts';
import { DaemonGraph } from './graph.ts';

async function openGraph(): Promise<DaemonGraph> {
  const directory = mkdtempSync(join(tmpdir(), 'calotype-graph-'));
  const daemon = await reachStorageDaemon({ runDirectory: join(directory, 'run'), imageDirectory: directory });
  onTestFinished(async () => {
    await stopStorageDaemon(daemon);
    rmSync(directory, { recursive: true, force: true });
  });
  const store = new FileStore(directory);
  await store.createOverlay(1, 1024 * 1024, null);
  return new DaemonGraph(store, daemon, { direct: false });
}

test('a node is not closed under work that borrows it, and not lent once it is being closed', async () => {
  const graph = await openGraph();
  await graph.open('drive:a', [{ id: 1, backing_id: null }], { writable: true });
  let isAsking = true;
  const asked = graph.whileOpen(1, async () => {
    await delay(50);
    await graph.addExport('map', 'map', 1, false);
    await graph.removeExport('map');
    isAsking = false;
    return 'answer';
  });
  await delay(5);
  const released = graph.release('drive:a').then(() => isAsking);
  const late = graph.whileOpen(1, async () => 'answer');
  expect(await asked).toBe('answer');
  expect(await released).toBe(false);
  expect(await late).toBeUndefined();
  expect(graph.isOpen(1)).toBe(false);
});
