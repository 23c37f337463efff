/**
 * H.1: a live snapshot through the API, from the HTTP request to the task's end, against the floor: a bare pivot onto a
 * prepared overlay and one durable SQLite commit. Samples alternate, so that noise meets both.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { startLibvirtGuest } from './libvirt.ts';
import {
  BareDaemon,
  BenchServer,
  ms,
  percentile,
  type Row,
  ratioRow,
  startWriter,
  temporaryDirectory,
  timed,
} from './support.ts';

const rounds = 10;
const perRound = 21;
const sizeBytes = 1024 * 1024 * 1024;

class Floor {
  readonly bare: BareDaemon;
  readonly #db: DatabaseSync;
  #top = '';
  #spare = '';

  private constructor(bare: BareDaemon) {
    this.bare = bare;
    this.#db = new DatabaseSync(join(bare.directory, 'floor.db'));
    this.#db.exec(
      'pragma journal_mode=wal; pragma synchronous=full; create table s(id integer primary key, name text)',
    );
  }

  static async start(): Promise<Floor> {
    const floor = new Floor(await BareDaemon.start());
    floor.#top = floor.bare.image(sizeBytes);
    await floor.bare.add(floor.#top, null);
    await floor.bare.serve(floor.#top, 'floor');
    await floor.prepare();
    return floor;
  }

  async prepare(): Promise<void> {
    this.#spare = this.bare.image(sizeBytes, this.#top);
    await this.bare.add(this.#spare, null);
  }

  async snapshot(): Promise<void> {
    await this.pivot();
    this.#db.exec('begin immediate');
    this.#db.prepare('insert into s(name) values (?)').run(this.#top);
    this.#db.exec('commit');
  }

  async pivot(): Promise<void> {
    await this.bare.daemon.qmp.execute('blockdev-snapshot', { node: this.#top, overlay: this.#spare });
    this.#top = this.#spare;
  }

  /** The way of most scripts: a qemu-img process for the overlay, then QMP. */
  async byProcess(): Promise<void> {
    await this.prepare();
    await this.pivot();
  }

  stop(): void {
    this.#db.close();
    this.bare.stop();
  }
}

interface Samples {
  readonly ours: number[];
  readonly bare: number[];
  readonly ourStalls: number[];
  readonly bareStalls: number[];
  readonly ourWrites: number[];
  readonly bareWrites: number[];
}

async function sampleRound(
  server: BenchServer,
  driveId: string,
  served: { socketPath: string; exportName: string },
  floor: Floor,
  load: boolean,
  found: Samples,
): Promise<void> {
  const options = { perSecond: 1000, spanBytes: sizeBytes };
  const ourWriter = load ? await startWriter(served.socketPath, served.exportName, options) : null;
  const bareWriter = load ? await startWriter(floor.bare.daemon.nbdSocketPath, 'floor', options) : null;
  await delay(load ? 1000 : 200);
  for (let i = 0; i < perRound; i++) {
    await delay(25);
    await ourWriter?.longest();
    const one = await timed(() => server.done('POST', '/v1/snapshots', { driveIds: [driveId], name: `s${i}` }));
    await delay(15);
    if (ourWriter !== null) found.ourStalls.push(await ourWriter.longest());
    await bareWriter?.longest();
    const two = await timed(() => floor.snapshot());
    await delay(15);
    if (bareWriter !== null) found.bareStalls.push(await bareWriter.longest());
    await floor.prepare();
    if (i > 0) {
      found.ours.push(one.ms);
      found.bare.push(two.ms);
    }
  }
  if (ourWriter !== null) found.ourWrites.push((await ourWriter.stop()).perSecond);
  if (bareWriter !== null) found.bareWrites.push((await bareWriter.stop()).perSecond);
}

async function compare(label: string, load: boolean, limits: { p50: number; p99: number }): Promise<Row[]> {
  const directory = temporaryDirectory('snap');
  const server = await BenchServer.start(directory);
  const found: Samples = { ours: [], bare: [], ourStalls: [], bareStalls: [], ourWrites: [], bareWrites: [] };
  for (let round = 0; round < rounds; round++) {
    // Both start over each time: a chain that only grows would weigh on the floor's, which nobody bounds.
    const floor = await Floor.start();
    const driveId = await server.createDrive(`bench-${round}`, sizeBytes);
    const served = await server.exportDrive(driveId);
    await sampleRound(server, driveId, served, floor, load, found);
    await server.done('DELETE', `/v1/exports/${served.id}`);
    floor.stop();
  }
  const { ours, bare } = found;
  const base = percentile(bare, 0.5);
  const rows: Row[] = [
    { what: `${label}: floor (pivot and commit) p50 / p99`, value: `${ms(base)} / ${ms(percentile(bare, 0.99))}` },
    ratioRow(`${label}: snapshot through the API, p50`, percentile(ours, 0.5), base, limits.p50, 'atMost'),
    ratioRow(`${label}: snapshot through the API, p99`, percentile(ours, 0.99), base, limits.p99, 'atMost'),
  ];
  if (load) {
    rows.push(
      ratioRow(
        `${label}: longest stall of a writer around a snapshot, p95`,
        percentile(found.ourStalls, 0.95),
        percentile(found.bareStalls, 0.95),
        2,
        'atMost',
      ),
    );
    const mean = (list: readonly number[]): string =>
      (list.reduce((sum, value) => sum + value, 0) / list.length).toFixed(0);
    rows.push({
      what: `${label}: writes per second, ours and the floor's`,
      value: `${mean(found.ourWrites)} / ${mean(found.bareWrites)}`,
    });
  } else {
    const floor = await Floor.start();
    rows.push(...(await comparePeers(floor, percentile(ours, 0.5))));
    floor.stop();
  }
  await server.stop();
  return rows;
}

async function comparePeers(floor: Floor, ours: number): Promise<Row[]> {
  const rows: Row[] = [];
  const scripted: number[] = [];
  for (let i = 0; i < 20; i++) scripted.push((await timed(() => floor.byProcess())).ms);
  rows.push(ratioRow('peer: qemu-img create and QMP, p50', percentile(scripted, 0.5), ours, 3, 'atLeast'));
  const guest = await startLibvirtGuest();
  if (guest === null)
    rows.push({ what: 'peer: virsh snapshot-create-as --disk-only', value: 'libvirt is not installed' });
  else {
    const virsh: number[] = [];
    for (let i = 0; i < 10; i++) {
      const start = performance.now();
      execFileSync('virsh', [
        ...['-q', '-c', 'qemu:///system', 'snapshot-create-as', guest.name, `s${i}`],
        ...['--disk-only', '--no-metadata', '--atomic'],
      ]);
      virsh.push(performance.now() - start);
    }
    guest.stop();
    rows.push(ratioRow('peer: virsh snapshot-create-as --disk-only, p50', percentile(virsh, 0.5), ours, 10, 'atLeast'));
  }
  return rows;
}

export async function liveSnapshot(): Promise<Row[]> {
  return [
    ...(await compare('idle', false, { p50: 3, p99: 6 })),
    ...(await compare('1,000 writes/s', true, { p50: 2.5, p99: 6 })),
  ];
}
