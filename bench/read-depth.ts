/**
 * C.8 and H.5: one drive, written and snapshotted a thousand times, all kept: layers to walk, space of skip layers, and
 * random 4 KiB reads at the end against a flat image of the same content.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient } from '../src/qemu/nbd-client.ts';
import { BareDaemon, BenchServer, percentile, type Row, temporaryDirectory } from './support.ts';

const snapshots = Number(process.env.CALOTYPE_BENCH_SNAPSHOTS ?? 1000);
const writesEach = 100;
const sizeBytes = 1024 * 1024 * 1024;
const reads = 8000;

export async function readDepth(): Promise<Row[]> {
  const directory = temporaryDirectory('depth');
  const server = await BenchServer.start(directory);
  const driveId = await server.createDrive('deep', sizeBytes);
  const served = await server.exportDrive(driveId);
  const client = await NbdClient.connect({ kind: 'unix', path: served.socketPath }, { exportName: served.exportName });
  const block = Buffer.alloc(4096, 1);
  let deepest = 0;
  let changedBytes = 0;
  for (let i = 0; i < snapshots; i++) {
    const writes: Promise<void>[] = [];
    for (let k = 0; k < writesEach; k++) {
      block.writeUInt32LE(i * writesEach + k, 0);
      writes.push(client.write(Math.floor(Math.random() * (sizeBytes / 4096)) * 4096, Buffer.from(block)));
    }
    await Promise.all(writes);
    changedBytes += writesEach * 4096;
    await server.done('POST', '/v1/snapshots', { driveIds: [driveId], name: `s${i}` });
    if (i % 20 === 0) deepest = Math.max(deepest, await depth(server, driveId));
  }
  await settled(server, driveId);
  deepest = Math.max(deepest, await depth(server, driveId));
  const onDisk = imageBytes(directory);

  const bare = await BareDaemon.start();
  execFileSync('qemu-img', [
    ...['convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=128k,extended_l2=on'],
    `nbd+unix:///${served.exportName}?socket=${served.socketPath}`,
    join(bare.directory, 'flat.qcow2'),
  ]);
  await bare.add('flat', null);
  await bare.serve('flat', 'flat');
  const flat = await NbdClient.connect({ kind: 'unix', path: bare.daemon.nbdSocketPath }, { exportName: 'flat' });
  const deepRates: number[] = [];
  const flatRates: number[] = [];
  for (let round = 0; round < 5; round++) {
    flatRates.push(await readRate(flat));
    deepRates.push(await readRate(client));
  }
  await flat.close();
  await client.close();
  bare.stop();
  await server.stop();
  const ratio = percentile(deepRates, 0.5) / percentile(flatRates, 0.5);
  const extra = (onDisk - changedBytes) / changedBytes;
  return [
    {
      what: `layers to walk, at most, over ${snapshots} snapshots`,
      value: String(deepest),
      limit: '≤ 24',
      holds: deepest <= 24,
    },
    {
      what: 'space beyond the changed data itself (skip layers and metadata)',
      value: `${((onDisk - changedBytes) / 1048576).toFixed(0)} MiB for ${(changedBytes / 1048576).toFixed(0)} MiB`,
      ratio: `${extra.toFixed(2)}×`,
      limit: '≤ 4×',
      holds: extra <= 4,
    },
    { what: 'random 4 KiB reads, flat image', value: `${percentile(flatRates, 0.5).toFixed(0)}/s` },
    {
      what: `random 4 KiB reads after ${snapshots} snapshots`,
      value: `${percentile(deepRates, 0.5).toFixed(0)}/s`,
      ratio: `${ratio.toFixed(2)}×`,
      limit: '≥ 0.75×',
      holds: ratio >= 0.75,
    },
  ];
}

async function depth(server: BenchServer, driveId: string): Promise<number> {
  const usage = await server.done<{ depth: number }>('GET', `/v1/drives/${driveId}/usage`);
  return usage.depth;
}

async function settled(server: BenchServer, driveId: string): Promise<void> {
  for (;;) {
    const tasks = await server.done<{ items: unknown[] }>(
      'GET',
      `/v1/tasks?driveId=${driveId}&state=running&state=queued`,
    );
    if (tasks.items.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function imageBytes(directory: string): number {
  let bytes = 0;
  for (const name of readdirSync(join(directory, 'images')))
    bytes += statSync(join(directory, 'images', name)).blocks * 512;
  return bytes;
}

/** Random reads of written and unwritten space, one after another. */
async function readRate(client: NbdClient): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < reads; i++) await client.read(Math.floor(Math.random() * (sizeBytes / 4096)) * 4096, 4096);
  return reads / ((performance.now() - start) / 1000);
}
