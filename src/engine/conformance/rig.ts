/** One engine in a directory of its own, with a catalog and NBD clients: what every test of the suite starts from. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Catalog, type CommitHook } from '../../catalog/catalog.ts';
import { type DriveId, type DriveSnapshotId, type ExportId, newId, type ProjectId } from '../../core/ids.ts';
import type { Finding } from '../../core/model.ts';
import { nowUs } from '../../core/time.ts';
import { NbdClient } from '../../qemu/nbd-client.ts';
import type { Engine, NbdTarget, ReclaimResult, WorkControl } from '../engine.ts';
import { Content, freshValue, grainBytes, grains, MiB } from './content.ts';
import type { EngineHarness, EngineParts } from './harness.ts';

export const noCommit: CommitHook = async () => undefined;
export const driveBytes = 4 * MiB;

export type Place = { drive: DriveId } | { point: DriveSnapshotId };

/** A control whose wishes a test changes as it goes. */
export class TestControl implements WorkControl {
  readonly abort = new AbortController();
  readonly seen: { done: number; total: number }[] = [];
  paused = false;
  bytesPerSecond = 0;
  onProgress: ((done: number) => void) | undefined;

  get signal(): AbortSignal {
    return this.abort.signal;
  }
  progress(done: number, total: number): void {
    this.seen.push({ done, total });
    this.onProgress?.(done);
  }
  wishes(): { paused: boolean; bytesPerSecond: number } {
    return { paused: this.paused, bytesPerSecond: this.bytesPerSecond };
  }
}

/** A served drive or point with one client on it. */
export interface Attachment {
  readonly exportId: ExportId;
  readonly exportName: string;
  readonly target: NbdTarget;
  client: NbdClient;
}

export async function connect(target: NbdTarget): Promise<NbdClient> {
  return NbdClient.connect({ kind: 'unix', path: target.socketPath }, { exportName: target.exportName });
}

export class Rig implements AsyncDisposable {
  readonly harness: EngineHarness;
  readonly directory: string;
  readonly projectId = newId<ProjectId>();
  readonly warnings: string[] = [];
  readonly #options: Partial<EngineParts>;
  readonly #clients = new Set<NbdClient>();
  readonly #ownsDirectory: boolean;
  #catalog: Catalog | undefined;
  #engine: Engine | undefined;

  private constructor(harness: EngineHarness, directory: string, owns: boolean, options: Partial<EngineParts>) {
    this.harness = harness;
    this.directory = directory;
    this.#ownsDirectory = owns;
    this.#options = options;
  }

  static async start(
    harness: EngineHarness,
    options: Partial<EngineParts> & { directory?: string } = {},
  ): Promise<Rig> {
    const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'calo-')));
    const rig = new Rig(harness, directory, options.directory === undefined, options);
    await rig.open();
    await rig.catalog.write(async (tx) => {
      await tx
        .insertInto('projects')
        .values({ id: rig.projectId, name: 'p', created_at: nowUs(), version: 1 })
        .execute();
    });
    return rig;
  }

  get engine(): Engine {
    if (this.#engine === undefined) throw new Error('the engine is not open');
    return this.#engine;
  }

  get catalog(): Catalog {
    if (this.#catalog === undefined) throw new Error('the catalog is not open');
    return this.#catalog;
  }

  /** @returns what recovery said */
  async open(): Promise<readonly string[]> {
    this.#catalog = await Catalog.open(this.directory);
    this.#engine = this.harness.make({
      minFreeBytes: 0,
      ...this.#options,
      catalog: this.#catalog,
      dataDirectory: this.directory,
      logger: { info: () => undefined, warn: (message) => void this.warnings.push(message) },
    });
    return this.#engine.open();
  }

  /** Lets go of everything, as a server that ends; what serves exports lives on unless `stopProcesses`. */
  async detach(options: { stopProcesses?: boolean } = {}): Promise<void> {
    await this.#engine?.close(options);
    await this.#catalog?.close();
    this.#engine = undefined;
    this.#catalog = undefined;
  }

  async reopen(options: { stopProcesses?: boolean } = {}): Promise<readonly string[]> {
    await this.detach(options);
    return this.open();
  }

  async kill(): Promise<void> {
    await this.harness.killProcesses(this.directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) await client.close();
    await this.detach({ stopProcesses: true }).catch(() => undefined);
    await this.kill();
    if (this.#ownsDirectory) await rm(this.directory, { recursive: true, force: true });
  }

  async createDrive(sizeBytes = driveBytes): Promise<DriveId> {
    const driveId = newId<DriveId>();
    await this.engine.createDrive({ driveId, sizeBytes }, noCommit);
    return driveId;
  }

  async snapshot(...drives: DriveId[]): Promise<DriveSnapshotId> {
    const points = drives.map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
    await this.engine.snapshot(points, noCommit);
    const [first] = points;
    if (first === undefined) throw new Error('no drive named');
    return first.driveSnapshotId;
  }

  async clone(point: DriveSnapshotId, sizeBytes = driveBytes): Promise<DriveId> {
    const driveId = newId<DriveId>();
    await this.engine.clone({ driveSnapshotId: point, driveId, sizeBytes }, noCommit);
    return driveId;
  }

  /** Another name of a point. */
  async copyPoint(from: DriveSnapshotId): Promise<DriveSnapshotId> {
    const to = newId<DriveSnapshotId>();
    await this.engine.copyPoints([{ from, to }], noCommit);
    return to;
  }

  async revert(driveId: DriveId, point: DriveSnapshotId, keepAs: DriveSnapshotId | null = null): Promise<void> {
    await this.engine.revert(newId<ExportId>(), [{ driveId, driveSnapshotId: point, keepAs }], noCommit);
  }

  async deletePoints(...points: DriveSnapshotId[]): Promise<void> {
    await this.engine.deleteSnapshots(points, noCommit);
  }

  reclaim(...drives: DriveId[]): Promise<ReclaimResult> {
    return this.engine.reclaim(drives, new TestControl());
  }

  /** The row that the service would write with the export. */
  exportCommit(exportId: ExportId, name: string, of: Place, writable: boolean): CommitHook {
    return async (tx) => {
      await tx
        .insertInto('exports')
        .values({
          id: exportId,
          project_id: this.projectId,
          drive_id: 'drive' in of ? of.drive : null,
          drive_snapshot_id: 'point' in of ? of.point : null,
          writable: writable ? 1 : 0,
          transport: 'unix',
          name,
          detail_json: '{}',
          created_at: nowUs(),
        })
        .execute();
    };
  }

  async attach(of: Place, options: { writable?: boolean } = {}): Promise<Attachment> {
    const writable = options.writable ?? 'drive' in of;
    const exportId = newId<ExportId>();
    const exportName = `x-${exportId}`;
    const served = 'drive' in of ? { drive: of.drive, writable } : of;
    const commit = this.exportCommit(exportId, exportName, of, writable);
    const target = await this.engine.startExport({ exportId, exportName, of: served }, commit);
    return { exportId, exportName, target, client: await this.connect(target) };
  }

  async connect(target: NbdTarget): Promise<NbdClient> {
    const client = await connect(target);
    this.#clients.add(client);
    return client;
  }

  stopCommit(exportId: ExportId): CommitHook {
    return async (tx) => {
      await tx.deleteFrom('exports').where('id', '=', exportId).execute();
    };
  }

  async end(attachment: Attachment): Promise<void> {
    await attachment.client.close();
    this.#clients.delete(attachment.client);
    await this.engine.stopExport(attachment.exportId, this.stopCommit(attachment.exportId));
  }

  /** All bytes of a point, or of a drive that nobody writes. */
  async read(of: Place): Promise<Buffer> {
    return this.engine.withReader(of, async (target) => {
      const client = await connect(target);
      try {
        return await client.read(0, client.sizeBytes);
      } finally {
        await client.close();
      }
    });
  }

  /** Writes through a temporary export. */
  async write(driveId: DriveId, content: Content, writes: readonly { grain: number; count: number }[]): Promise<void> {
    const attachment = await this.attach({ drive: driveId });
    await writeFresh(attachment.client, content, writes);
    await this.end(attachment);
  }

  /** What a doctor would call wrong; info is not. */
  async complaints(): Promise<Finding[]> {
    const { findings } = await this.engine.doctor({ repair: false });
    return findings.filter((finding) => finding.severity !== 'info');
  }

  usedBytes(): Promise<number> {
    return this.harness.usedBytes(this.directory);
  }
}

/** Writes new numbers and flushes; the oracle follows. */
export async function writeFresh(
  client: NbdClient,
  content: Content,
  writes: readonly { grain: number; count: number }[],
): Promise<void> {
  for (const { grain, count } of writes) {
    const value = freshValue();
    await client.write(grain * grainBytes, grains(value, count));
    content.set(grain, count, value);
  }
  await client.flush();
}

/** A drive that is served to a writer, and what it must read as. */
export interface LiveDrive {
  readonly driveId: DriveId;
  readonly content: Content;
  readonly attachment: Attachment;
}

export async function liveDrive(rig: Rig, sizeBytes = driveBytes): Promise<LiveDrive> {
  const driveId = await rig.createDrive(sizeBytes);
  return { driveId, content: new Content(sizeBytes), attachment: await rig.attach({ drive: driveId }) };
}

/** All bytes as its client sees them. */
export function readLive(drive: { attachment: Attachment }): Promise<Buffer> {
  const { client } = drive.attachment;
  return client.read(0, client.sizeBytes);
}
