/** H.6: deleting is answered at once, merges cost what the bare job costs, a live revert what the bare graph change costs. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient } from '../src/qemu/nbd-client.ts';
import type { QmpEvent } from '../src/qemu/qmp.ts';
import { BareDaemon, BenchServer, percentile, type Row, ratioRow, temporaryDirectory, timed } from './support.ts';

const sizeBytes = 1024 * 1024 * 1024;
const mergeBytes = 64 * 1024 * 1024;

export async function deleteAndRevert(): Promise<Row[]> {
  const directory = temporaryDirectory('del');
  const server = await BenchServer.start(directory);
  const bare = await BareDaemon.start();
  const rows = [
    ...(await answers(server, directory)),
    ...(await merges(server, bare)),
    ...(await reverts(server, bare)),
  ];
  bare.stop();
  await server.stop();
  return rows;
}

async function answers(server: BenchServer, directory: string): Promise<Row[]> {
  const driveId = await server.createDrive('answers', sizeBytes);
  const ids: string[] = [];
  for (let i = 0; i < 60; i++) {
    const made = await server.done<{ snapshot: { id: string } }>('POST', '/v1/snapshots', {
      driveIds: [driveId],
      name: `s${i}`,
    });
    ids.push(made.snapshot.id);
  }
  await delay(1000);
  const db = new DatabaseSync(join(directory, 'floor.db'));
  db.exec('pragma journal_mode=wal; pragma synchronous=full; create table s(id integer primary key, name text)');
  const ours: number[] = [];
  const floor: number[] = [];
  for (const id of ids) {
    const trip = await timed(() => server.call('GET', '/healthz'));
    const commit = await timed(async () => db.exec("begin immediate; insert into s(name) values ('x'); commit"));
    floor.push(trip.ms + commit.ms);
    ours.push((await timed(() => server.call('DELETE', `/v1/snapshots/${id}`))).ms);
    await delay(60);
  }
  db.close();
  return [
    ratioRow(
      'delete answered, p50, against one commit and a round trip',
      percentile(ours, 0.5),
      percentile(floor, 0.5),
      2,
      'atMost',
    ),
  ];
}

async function fill(client: NbdClient, value: number): Promise<void> {
  const piece = Buffer.alloc(1024 * 1024, value);
  for (let at = 0; at < mergeBytes; at += piece.length) await client.write(at, piece);
  await client.flush();
}

async function merges(server: BenchServer, bare: BareDaemon): Promise<Row[]> {
  const ours: number[] = [];
  const floor: number[] = [];
  for (let round = 0; round < 5; round++) {
    ours.push(await ourMerge(server, round));
    floor.push(await bareMerge(bare, round));
  }
  return [
    ratioRow(
      'merge of 64 MiB, live, against the bare commit job and unlink',
      percentile(ours, 0.5),
      percentile(floor, 0.5),
      1.3,
      'atMost',
    ),
  ];
}

/** Two points, 64 MiB changed between them; the older one goes, so that 64 MiB are committed down. */
async function ourMerge(server: BenchServer, round: number): Promise<number> {
  const driveId = await server.createDrive(`merge-${round}`, sizeBytes);
  const served = await server.exportDrive(driveId);
  const client = await NbdClient.connect({ kind: 'unix', path: served.socketPath }, { exportName: served.exportName });
  await fill(client, 1);
  const first = await server.done<{ snapshot: { id: string } }>('POST', '/v1/snapshots', {
    driveIds: [driveId],
    name: 'a',
  });
  await fill(client, 2);
  await server.done('POST', '/v1/snapshots', { driveIds: [driveId], name: 'b' });
  await client.write(0, Buffer.alloc(4096, 3));
  await delay(300);
  const one = await timed(() => server.done('DELETE', `/v1/snapshots/${first.snapshot.id}`));
  await client.close();
  await server.done('DELETE', `/v1/exports/${served.id}`);
  return one.ms;
}

async function bareMerge(bare: BareDaemon, round: number): Promise<number> {
  const { qmp, nbdSocketPath } = bare.daemon;
  const base = bare.image(sizeBytes);
  const middle = bare.image(sizeBytes, base);
  const top = bare.image(sizeBytes, middle);
  await bare.add(base, null);
  const exportName = `m${round}`;
  await bare.serve(base, exportName);
  const client = await NbdClient.connect({ kind: 'unix', path: nbdSocketPath }, { exportName });
  await fill(client, 1);
  await bare.add(middle, null);
  await qmp.execute('blockdev-snapshot', { node: base, overlay: middle });
  await fill(client, 2);
  await bare.add(top, null);
  await qmp.execute('blockdev-snapshot', { node: middle, overlay: top });
  await client.write(0, Buffer.alloc(4096, 3));
  await delay(300);
  const job = `job-${round}`;
  const one = await timed(async () => {
    const ended = new Promise<void>((resolve) => {
      const onEvent = (event: QmpEvent): void => {
        if (event.event !== 'BLOCK_JOB_COMPLETED' || event.data?.device !== job) return;
        qmp.off('event', onEvent);
        resolve();
      };
      qmp.on('event', onEvent);
    });
    await qmp.execute('block-commit', { 'job-id': job, device: top, 'top-node': middle, 'base-node': base });
    await ended;
    await qmp.execute('blockdev-del', { 'node-name': middle });
    await rm(join(bare.directory, `${middle}.qcow2`));
  });
  await client.close();
  await qmp.execute('block-export-del', { id: exportName, mode: 'hard' });
  return one.ms;
}

/**
 * With the safety snapshot that is kept by default. First to a point that the drive stands on, whose files the daemon has
 * open, as it has the floor's target; then to and fro between branches, where the point's file is opened first on both sides.
 */
async function reverts(server: BenchServer, bare: BareDaemon): Promise<Row[]> {
  const driveId = await server.createDrive('reverts', sizeBytes);
  await server.exportDrive(driveId);
  const snapshot = async (name: string): Promise<string> => {
    const made = await server.done<{ snapshot: { parts: { id: string }[] } }>('POST', '/v1/snapshots', {
      driveIds: [driveId],
      name,
    });
    return made.snapshot.parts[0]?.id ?? '';
  };
  const revert = async (driveSnapshotId: string): Promise<number> =>
    (await timed(() => server.done('POST', `/v1/drives/${driveId}/revert`, { driveSnapshotId }))).ms;

  const floor = new BareReverts(bare);
  await floor.start();
  const same: number[] = [];
  const sameFloor: number[] = [];
  const below = await snapshot('below');
  for (let i = 0; i < 30; i++) {
    await delay(150);
    same.push(await revert(below));
    await delay(50);
    sameFloor.push(await floor.change());
  }

  const left = await snapshot('left');
  await revert(below);
  const right = await snapshot('right');
  const across: number[] = [];
  const acrossFloor: number[] = [];
  for (let i = 0; i < 30; i++) {
    await delay(150);
    across.push(await revert(i % 2 === 0 ? left : right));
    await delay(50);
    acrossFloor.push(await floor.changeToClosed());
  }
  const row = (what: string, ours: readonly number[], bareMs: readonly number[]): Row =>
    ratioRow(what, percentile(ours, 0.5), percentile(bareMs, 0.5), 3, 'atMost');
  return [
    row('revert of an exported drive, p50, against the bare graph change', same, sameFloor),
    row('revert to another branch, p50, against opening it and the bare change', across, acrossFloor),
  ];
}

/** The floor of a revert: a new overlay, made and opened beforehand, takes the top's place and gets another backing. */
class BareReverts {
  readonly #bare: BareDaemon;
  #top = '';
  #target = '';

  constructor(bare: BareDaemon) {
    this.#bare = bare;
  }

  async start(): Promise<void> {
    this.#top = this.#bare.image(sizeBytes);
    this.#target = this.#bare.image(sizeBytes);
    await this.#bare.add(this.#top, null);
    await this.#bare.add(this.#target, null, true);
    await this.#bare.serve(this.#top, 'reverts');
  }

  async change(): Promise<number> {
    const overlay = await this.#overlay();
    return (await timed(() => this.#exchange(overlay, this.#target))).ms;
  }

  async changeToClosed(): Promise<number> {
    const overlay = await this.#overlay();
    const target = this.#bare.image(sizeBytes);
    const one = await timed(async () => {
      await this.#bare.add(target, null, true);
      await this.#exchange(overlay, target);
    });
    return one.ms;
  }

  async #overlay(): Promise<string> {
    const overlay = this.#bare.image(sizeBytes, this.#top);
    await this.#bare.add(overlay, null);
    return overlay;
  }

  async #exchange(overlay: string, target: string): Promise<void> {
    const { qmp } = this.#bare.daemon;
    await qmp.execute('blockdev-snapshot', { node: this.#top, overlay });
    await qmp.execute('blockdev-reopen', {
      options: [{ ...this.#bare.node(overlay, target), file: `${overlay}f` }],
    });
    this.#top = overlay;
  }
}
