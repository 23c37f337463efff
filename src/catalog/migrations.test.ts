import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Catalog, migrate } from './catalog.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'calotype-migrations-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

it('a catalog of before keeps its snapshots, counts their parts, and numbers the machines that are gone', async () => {
  const raw = new DatabaseSync(join(directory, 'catalog.db'));
  migrate(raw, 0, 4);
  const machine = `(id, project_id, name, description, kind, managed, state, power, hardware_json, boot_json, meta_json,
    created_at, updated_at, version)`;
  const snapshot = `(id, project_id, name, description, state, meta_json, origin, consistency, complete, machine_id,
    created_at, updated_at, version)`;
  raw.exec(`
    insert into projects (id, name, created_at, version) values ('p', 'home', 1, 1);
    insert into machines ${machine} values ('m1', 'p', 'here', '', 'vm', 1, 'available', 'off', '{}', '{}', '{}', 1, 1, 1);
    insert into machines ${machine} values ('m2', 'p', 'gone', '', 'vm', 1, 'available', 'off', '{}', '{}', '{}', 1, 1, 1);
    delete from machines where id = 'm2';
    insert into drives (id, project_id, name, description, size_bytes, state, meta_json, sizes_stale, created_at,
      updated_at, version) values ('d', 'p', 'disk', '', 512, 'available', '{}', 0, 1, 1, 1);
  `);
  const made = [
    ['s1', 'm1', 1],
    ['s2', 'm2', 2],
    ['s3', 'm2', 1],
    ['s4', null, 0],
  ] as const;
  for (const [id, machineId, parts] of made) {
    const of = machineId === null ? 'null' : `'${machineId}'`;
    raw.exec(`insert into snapshots ${snapshot} values ('${id}', 'p', '${id}', '', 'available', '{}', 'manual', 'crash', 1,
      ${of}, 10, 20, 1)`);
    for (let part = 0; part < parts; part++) {
      raw.exec(`insert into drive_snapshots (id, snapshot_id, drive_id, size_bytes, created_at)
        values ('${id}-${part}', '${id}', 'd', 512, 10)`);
    }
    if (machineId === null) continue;
    raw.exec(`insert into machine_snapshots (snapshot_id, machine_id, machine_name, power, kind, boot_json, hardware_json,
      slots_json, excluded_json, reason) values ('${id}', '${machineId}', 'as it was', 'off', 'instance', '{}', '{}', '[]',
      '[]', '')`);
  }
  raw.close();

  const catalog = await Catalog.open(directory);
  try {
    const snapshots = await catalog.db.selectFrom('snapshots').selectAll().orderBy('number').execute();
    expect(snapshots.map((row) => [row.id, row.part_count, row.available_at])).toEqual([
      ['s1', 1, null],
      ['s2', 2, null],
      ['s3', 1, null],
      ['s4', 0, null],
    ]);
    const departed = await catalog.db.selectFrom('departed_machines').selectAll().execute();
    const about = { project_id: 'p', name: 'as it was', kind: 'instance', created_at: 10, deleted_at: 20 };
    expect(departed).toEqual([{ number: 3, id: 'm2', ...about }]);
    expect(await catalog.db.selectFrom('machines').select(['id', 'number']).execute()).toEqual([
      { id: 'm1', number: 1 },
    ]);
  } finally {
    await catalog.close();
  }
});

it('tags of before become objects of their projects, each with an id', async () => {
  const raw = new DatabaseSync(join(directory, 'catalog.db'));
  migrate(raw, 0, 5);
  raw.exec(`
    insert into projects (id, name, created_at, version) values ('p', 'home', 1, 1), ('q', 'away', 1, 1);
    insert into drives (id, project_id, name, description, size_bytes, state, meta_json, sizes_stale, created_at,
      updated_at, version) values ('d', 'p', 'disk', '', 512, 'available', '{}', 0, 7, 7, 1),
      ('e', 'p', 'disk', '', 512, 'available', '{}', 0, 8, 8, 1), ('f', 'q', 'disk', '', 512, 'available', '{}', 0, 9, 9, 1);
    insert into tags (object_id, tag) values ('d', 'a'), ('e', 'a'), ('e', 'b'), ('f', 'a');
  `);
  raw.close();
  const catalog = await Catalog.open(directory);
  try {
    const tags = await catalog.db
      .selectFrom('project_tags')
      .selectAll()
      .orderBy('project_id')
      .orderBy('name')
      .execute();
    expect(tags.map((tag) => [tag.project_id, tag.name, tag.created_at])).toEqual([
      ['p', 'a', 7],
      ['p', 'b', 8],
      ['q', 'a', 9],
    ]);
    expect(new Set(tags.map((tag) => tag.id)).size).toBe(3);
    for (const tag of tags) {
      expect(tag.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    }
  } finally {
    await catalog.close();
  }
});
