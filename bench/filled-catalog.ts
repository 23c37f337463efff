/** A catalog with many snapshots, as the service would have written them; their drives have no data. */
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

export interface Filling {
  readonly snapshots: number;
  readonly drives: number;
  /** With machines, every drive is in one of its own and the snapshots are the machine's. */
  readonly withMachines?: boolean;
  /** Default the first there is. */
  readonly project?: string;
  /** Apart from those of other fillings. */
  readonly series?: number;
}

/** Ids that can be computed, by kind and place. */
export function idOf(kind: 'drive' | 'snapshot' | 'part' | 'machine', place: number, series = 0): string {
  const digit = { drive: 1, snapshot: 2, part: 3, machine: 4 }[kind];
  const high = (series * 0x1000_0000 + place).toString(16).padStart(8, '0');
  return `${high}-0000-4000-8${digit}00-000000000000`;
}

/** Fills the catalog of a stopped server. */
export function fillCatalog(directory: string, filling: Filling): void {
  const { snapshots, drives, withMachines = false, series = 0 } = filling;
  const db = new DatabaseSync(join(directory, 'catalog.db'));
  const wanted = filling.project === undefined ? '' : 'where name = ?';
  const found = db
    .prepare(`select id from projects ${wanted} order by number limit 1`)
    .get(...(filling.project === undefined ? [] : [filling.project]));
  const project = found?.id ?? '';
  db.exec('pragma synchronous = off; begin');
  const now = Date.now() * 1000;
  const drive = db.prepare(
    `insert into drives (id, project_id, name, description, size_bytes, state, meta_json, sizes_stale, created_at, updated_at, version)
     values (?, ?, ?, '', 1073741824, 'available', '{}', 0, ?, ?, 1)`,
  );
  const machine = db.prepare(
    `insert into machines (id, project_id, name, description, kind, managed, state, power, hardware_json, boot_json, meta_json, created_at, updated_at, version)
     values (?, ?, ?, '', 'vm', 1, 'available', 'off', ?, '{"from":"drive"}', '{}', ?, ?, 1)`,
  );
  const slot = db.prepare('insert into machine_drives (machine_id, slot, drive_id) values (?, 0, ?)');
  const hardware = { machineType: 'pc-i440fx-7.2', cpus: 1, memoryBytes: 2 ** 28, macAddress: '52:54:00:00:00:01' };
  for (let i = 0; i < drives; i++) {
    drive.run(idOf('drive', i, series), project, `drive-${i}`, now, now);
    if (!withMachines) continue;
    machine.run(idOf('machine', i, series), project, `machine-${i}`, JSON.stringify(hardware), now, now);
    slot.run(idOf('machine', i, series), idOf('drive', i, series));
  }
  const snapshot = db.prepare(
    `insert into snapshots (id, project_id, name, description, state, meta_json, origin, consistency, complete, machine_id, created_at, updated_at, version)
     values (?, ?, ?, '', ?, '{}', 'manual', 'crash', 1, ?, ?, ?, 1)`,
  );
  const ofMachine = db.prepare(
    `insert into machine_snapshots (snapshot_id, machine_id, machine_name, power, kind, boot_json, hardware_json, slots_json, excluded_json, reason)
     values (?, ?, ?, 'off', 'vm', '{"from":"drive"}', ?, ?, '[]', 'The machine was off.')`,
  );
  const part = db.prepare(
    `insert into drive_snapshots (id, snapshot_id, drive_id, parent_id, size_bytes, changed_bytes, created_at)
     values (?, ?, ?, null, 1073741824, 4096, ?)`,
  );
  for (let i = 0; i < snapshots; i++) {
    const at = now - (snapshots - i) * 1_000_000;
    const scattered = (i * 7919) % snapshots;
    const id = idOf('snapshot', i, series);
    const of = i % drives;
    const driveId = idOf('drive', of, series);
    const machineId = withMachines ? idOf('machine', of, series) : null;
    const name = `nightly-${String(scattered).padStart(7, '0')}`;
    snapshot.run(id, project, name, i % 50 === 0 ? 'error' : 'available', machineId, at, at);
    if (machineId !== null) {
      const slots = JSON.stringify([{ slot: 0, driveId }]);
      ofMachine.run(id, machineId, `machine-${of}`, JSON.stringify(hardware), slots);
    }
    part.run(idOf('part', i, series), id, driveId, at);
  }
  db.exec('commit; analyze; pragma wal_checkpoint(truncate)');
  db.close();
}
