/**
 * Objects of every kind in two projects, written straight into the catalog: for tests of lists, which need many of them in
 * states that take long to bring about. What is random comes from a seed.
 */

import type { Catalog, Tx } from '../../catalog/catalog.ts';
import { insertDrive, pointsOfDrive } from '../../catalog/drives.ts';
import { insertExport } from '../../catalog/exports.ts';
import { insertImage } from '../../catalog/images.ts';
import { forgetMachine, insertMachine, insertMachineSnapshot } from '../../catalog/machines.ts';
import { insertSnapshot } from '../../catalog/snapshots.ts';
import { insertTask } from '../../catalog/tasks.ts';
import {
  type DriveId,
  type DriveSnapshotId,
  type ExportId,
  type ImageId,
  type MachineId,
  newId,
  type ProjectId,
  type SnapshotId,
  type TaskId,
  type UserId,
} from '../../core/ids.ts';

const names = ['web', 'Web-1', 'web-2', 'a web in it', 'db[1]*?', 'DB', 'straße', '日本語', 'db%_2', '𝒳', 'a'];
const tagPool = ['nightly', 'keep', 'Web'];
const start = 1_700_000_000_000_000;

/** Mulberry32. */
export function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

export interface Population {
  readonly machineIds: readonly MachineId[];
  /** Deleted, with snapshots. */
  readonly departedId: MachineId;
  readonly driveIds: readonly DriveId[];
  readonly snapshotIds: readonly SnapshotId[];
  readonly partIds: readonly DriveSnapshotId[];
  readonly imageIds: readonly ImageId[];
  readonly taskIds: readonly TaskId[];
}

/** Made by one of `makers`, who are users. */
export function populate(
  catalog: Catalog,
  projectId: ProjectId,
  makers: readonly UserId[],
  options: { seed: number; snapshots: number; tasks?: number },
): Promise<Population> {
  return catalog.write((tx) => new Populating(tx, projectId, makers, options).run());
}

class Populating {
  readonly #tx: Tx;
  readonly #projectId: ProjectId;
  readonly #makers: readonly UserId[];
  readonly #random: (below: number) => number;
  readonly #snapshots: number;
  readonly #tasks: number;
  #at = start;

  constructor(
    tx: Tx,
    projectId: ProjectId,
    makers: readonly UserId[],
    { seed, snapshots, tasks = 30 }: { seed: number; snapshots: number; tasks?: number },
  ) {
    this.#tx = tx;
    this.#projectId = projectId;
    this.#makers = makers;
    this.#random = randomOf(seed);
    this.#snapshots = snapshots;
    this.#tasks = tasks;
  }

  #one<T>(of: readonly [T, ...T[]] | readonly T[]): T {
    const found = of[this.#random(of.length)];
    if (found === undefined) throw new Error('there is nothing to choose from');
    return found;
  }

  #chance(percent: number): boolean {
    return this.#random(100) < percent;
  }

  #labels() {
    return {
      name: this.#one(names),
      description: this.#chance(60) ? this.#one(names) : '',
      meta: '{}',
      tags: tagPool.filter(() => this.#chance(30)),
    };
  }

  /** Later than the one before, but for some; some are at once. */
  #time(): number {
    if (this.#chance(15)) return this.#at;
    this.#at += 1000 + this.#random(50);
    return this.#chance(20) ? this.#at - this.#random(20_000) : this.#at;
  }

  async run(): Promise<Population> {
    const tx = this.#tx;
    const driveIds: DriveId[] = [];
    for (let at = 0; at < 8; at++) driveIds.push(await this.#drive());
    const machineIds: MachineId[] = [];
    for (let at = 0; at < 6; at++) machineIds.push(await this.#machine(driveIds.slice(at, at + 1)));
    const snapshotIds: SnapshotId[] = [];
    const partIds: DriveSnapshotId[] = [];
    for (let at = 0; at < this.#snapshots; at++) {
      const made = await this.#snapshot(driveIds, machineIds, snapshotIds);
      snapshotIds.push(made.id);
      partIds.push(...made.parts);
    }
    await this.#mark(driveIds, machineIds, snapshotIds, partIds);
    const departedId = this.#one(machineIds.slice(0, 2));
    await forgetMachine(tx, departedId, this.#time());
    const imageIds: ImageId[] = [];
    for (let at = 0; at < 8; at++) imageIds.push(await this.#image(driveIds, snapshotIds));
    const taskIds: TaskId[] = [];
    for (let at = 0; at < this.#tasks; at++) taskIds.push(await this.#task(driveIds, machineIds));
    for (const driveId of driveIds.slice(3, 5)) {
      const projectId = this.#projectId;
      const id = newId<ExportId>();
      const about = { id, projectId, driveId, driveSnapshotId: null, writable: false, transport: 'unix' } as const;
      await insertExport(tx, { ...about, name: id, detail: {}, at: 1 });
    }
    return {
      machineIds: machineIds.filter((id) => id !== departedId),
      departedId,
      driveIds,
      snapshotIds,
      partIds,
      imageIds,
      taskIds,
    };
  }

  async #drive(): Promise<DriveId> {
    const id = newId<DriveId>();
    const sizeBytes = 512 * (1 + this.#random(4));
    const at = this.#time();
    await insertDrive(this.#tx, { id, projectId: this.#projectId, ...this.#labels(), sizeBytes, sourceId: null, at });
    const state = this.#one(['available', 'available', 'error', 'deleting'] as const);
    await this.#tx.updateTable('drives').set({ state }).where('id', '=', id).execute();
    return id;
  }

  async #machine(driveIds: readonly DriveId[]): Promise<MachineId> {
    const id = newId<MachineId>();
    const cpus = 1 + this.#random(3);
    await insertMachine(this.#tx, {
      id,
      projectId: this.#projectId,
      ...this.#labels(),
      kind: this.#one(['vm', 'instance']),
      managed: this.#chance(70),
      hardware: { machineType: 'pc', cpus, memoryBytes: cpus * 2 ** 28, macAddress: '52:54:00:00:00:01' },
      boot: { from: 'drive' },
      sourceId: null,
      slots: driveIds.map((driveId, slot) => ({ slot, driveId })),
      at: this.#time(),
    });
    const power = this.#one(['off', 'running', 'paused'] as const);
    const state = this.#one(['available', 'error'] as const);
    const change = { state, power, started_at: power === 'off' ? null : this.#time() } as const;
    await this.#tx.updateTable('machines').set(change).where('id', '=', id).execute();
    return id;
  }

  async #snapshot(
    driveIds: readonly DriveId[],
    machineIds: readonly MachineId[],
    earlier: readonly SnapshotId[],
  ): Promise<{ id: SnapshotId; parts: DriveSnapshotId[] }> {
    const id = newId<SnapshotId>();
    const machineId = this.#chance(50) ? this.#one(machineIds) : null;
    // One drive has more than the others.
    const covered = driveIds.filter((_, at) => this.#chance(at === 0 ? 60 : 20));
    const at = this.#time();
    const parts = (covered.length === 0 ? [this.#one(driveIds)] : covered).map((driveId) => ({
      id: newId<DriveSnapshotId>(),
      driveId,
      driveName: '',
      parentId: null,
      sizeBytes: 512 * (1 + this.#random(3)),
      changedBytes: this.#chance(90) ? 4096 * this.#random(4) : null,
    }));
    await insertSnapshot(this.#tx, {
      id,
      projectId: this.#projectId,
      ...this.#labels(),
      state: this.#chance(50) ? 'available' : 'creating',
      origin: this.#one(['manual', 'safety']),
      createdBy: this.#chance(80) ? this.#one(this.#makers) : null,
      machineId,
      parts,
      at,
    });
    if (machineId !== null) {
      const kind = this.#one(['vm', 'instance'] as const);
      await insertMachineSnapshot(this.#tx, {
        snapshot_id: id,
        machine_id: machineId,
        machine_name: this.#one(names),
        parent_id: earlier.length > 0 && this.#chance(50) ? this.#one(earlier) : null,
        power: 'off',
        kind,
        boot_json: '{"from":"drive"}',
        hardware_json: '{}',
        slots_json: '[]',
        excluded_json: '[]',
        reason: '',
        frozen_us: null,
        pause_us: null,
      });
      if (this.#chance(40)) {
        const state = this.#one(['kept', 'planned', 'dead'] as const);
        const about = {
          snapshot_id: id,
          state,
          method: 'background',
          accelerator: 'tcg',
          qemu_version: '7.2',
        } as const;
        const sizes = { stream_bytes: null, stored_bytes: null, checksum: null };
        await this.#tx
          .insertInto('memory_files')
          .values({ ...about, ...sizes, created_at: at })
          .execute();
      }
    }
    return { id, parts: parts.map((part) => part.id) };
  }

  /** States, markers and parents that come about later than the rows. */
  async #mark(
    driveIds: readonly DriveId[],
    machineIds: readonly MachineId[],
    snapshotIds: readonly SnapshotId[],
    partIds: readonly DriveSnapshotId[],
  ): Promise<void> {
    const tx = this.#tx;
    for (const id of snapshotIds) {
      const state = this.#one(['creating', 'available', 'available', 'error', 'deleting'] as const);
      const availableAt = this.#chance(50) ? this.#time() : null;
      await tx
        .updateTable('snapshots')
        .set({
          state,
          available_at: availableAt,
          updated_at: this.#time(),
          complete: this.#chance(80) ? 1 : 0,
          consistency: this.#one(['crash', 'filesystem', 'memory']),
        })
        .where('id', '=', id)
        .execute();
    }
    for (const id of partIds) {
      if (!this.#chance(50)) continue;
      await tx
        .updateTable('drive_snapshots')
        .set({ parent_id: this.#one(partIds) })
        .where('id', '=', id)
        .execute();
    }
    for (const id of driveIds) {
      const parts = await pointsOfDrive(tx, id);
      const change = {
        based_on: parts.length === 0 ? null : this.#one(parts),
        source_id: this.#chance(50) ? this.#one(partIds) : null,
      };
      await tx.updateTable('drives').set(change).where('id', '=', id).execute();
    }
    for (const id of machineIds) {
      await tx
        .updateTable('machines')
        .set({ based_on: this.#one(snapshotIds) })
        .where('id', '=', id)
        .execute();
    }
    const gone = driveIds.at(-1);
    if (gone !== undefined) {
      await tx.updateTable('drives').set({ state: 'deleted', deleted_at: 1 }).where('id', '=', gone).execute();
    }
  }

  async #image(driveIds: readonly DriveId[], snapshotIds: readonly SnapshotId[]): Promise<ImageId> {
    const id = newId<ImageId>();
    const driveId = this.#one(driveIds);
    const sizeBytes = 512 * (1 + this.#random(3));
    const part = { slot: 0, driveSnapshotId: newId<DriveSnapshotId>(), driveId, driveName: 'disk', sizeBytes };
    await insertImage(this.#tx, {
      id,
      projectId: this.#projectId,
      ...this.#labels(),
      kind: this.#one(['drive', 'machine']),
      consistency: 'crash',
      machine: null,
      sourceId: this.#one(snapshotIds),
      createdBy: this.#chance(70) ? this.#one(this.#makers) : null,
      parts: [part],
      at: this.#time(),
    });
    const state = this.#one(['available', 'error'] as const);
    await this.#tx.updateTable('images').set({ state }).where('id', '=', id).execute();
    if (this.#chance(50)) {
      await this.#tx.updateTable('drives').set({ image_id: id }).where('id', '=', driveId).execute();
    }
    return id;
  }

  async #task(driveIds: readonly DriveId[], machineIds: readonly MachineId[]): Promise<TaskId> {
    const id = newId<TaskId>();
    const driveId = this.#one(driveIds);
    const row = await insertTask(this.#tx, {
      id,
      projectId: this.#projectId,
      userId: this.#chance(80) ? this.#one(this.#makers) : null,
      via: this.#one(['native', 'cli']),
      kind: this.#one(['drive.create', 'snapshot.create', 'drive.resize']),
      ...this.#one([
        { objectKind: 'drive', objectId: driveId },
        { objectKind: 'machine', objectId: this.#one(machineIds) },
        { objectKind: null, objectId: null },
      ]),
      input: {},
      total: 1,
      unit: 'steps',
      holdsDrives: false,
      driveIds: this.#chance(50) ? [driveId] : [],
      machineId: this.#chance(30) ? this.#one(machineIds) : null,
      at: this.#time(),
    });
    const finished = this.#time();
    const change = { state: this.#one(['done', 'failed', 'cancelled'] as const), finished_at: finished };
    const started = this.#chance(80) ? finished - 10 : null;
    await this.#tx
      .updateTable('tasks')
      .set({ ...change, started_at: started })
      .where('number', '=', row.number)
      .execute();
    return id;
  }
}
