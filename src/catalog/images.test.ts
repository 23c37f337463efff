import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { sql } from 'kysely';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type DriveId,
  type DriveSnapshotId,
  type ImageId,
  newId,
  type ProjectId,
  type SnapshotId,
} from '../core/ids.ts';
import type { DriveState } from '../core/states.ts';
import { Catalog } from './catalog.ts';
import { insertDrive, leaveImage } from './drives.ts';
import { findImagePlaces } from './image-list.ts';
import { countUsersOfImage, findImage, forgetImage, imagesByNumber, insertImage, usersOfImage } from './images.ts';
import { migrations } from './migrations.ts';

let directory: string;
let catalog: Catalog;
let projectId: ProjectId;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'cal-'));
  catalog = await Catalog.open(directory);
  projectId = await addProject();
});
afterEach(async () => {
  await catalog.close();
  rmSync(directory, { recursive: true, force: true });
});

async function addProject(): Promise<ProjectId> {
  const id = newId<ProjectId>();
  await catalog.db.insertInto('projects').values({ id, name: id, created_at: 0, version: 1 }).execute();
  return id;
}

async function addImage(name: string, at = 0): Promise<ImageId> {
  const id = newId<ImageId>();
  const part = (slot: number, sizeBytes: number) => ({
    slot,
    driveSnapshotId: newId<DriveSnapshotId>(),
    driveId: newId<DriveId>(),
    driveName: `d${slot}`,
    sizeBytes,
  });
  await insertImage(catalog.db, {
    id,
    projectId,
    name,
    description: '',
    kind: 'machine',
    consistency: 'crash',
    machine: null,
    sourceId: newId<SnapshotId>(),
    meta: '{}',
    tags: ['t'],
    createdBy: null,
    parts: [part(3, 10), part(0, 32)],
    at,
  });
  return id;
}

async function addDrive(imageId: ImageId, state: DriveState): Promise<DriveId> {
  const id = newId<DriveId>();
  const labels = { description: '', meta: '{}', tags: [] };
  await insertDrive(catalog.db, {
    id,
    projectId,
    name: state,
    ...labels,
    sizeBytes: 1,
    sourceId: null,
    imageId,
    at: 0,
  });
  await catalog.db.updateTable('drives').set({ state }).where('id', '=', id).execute();
  return id;
}

describe('rows of images', () => {
  it('are read with parts by slot, tags and what stands on them', async () => {
    const [one, two] = [await addImage('one'), await addImage('two')];
    await addDrive(two, 'available');
    expect(await findImage(catalog.db, one)).toMatchObject({
      size_bytes: 42,
      clone_count: 0,
      tags: ['t'],
      parts: [
        { slot: 0, size_bytes: 32 },
        { slot: 3, size_bytes: 10 },
      ],
    });
    const both = await imagesByNumber(catalog.db, [2, 1, 7]);
    expect(both.map((image) => [image.name, image.clone_count])).toEqual([
      ['two', 1],
      ['one', 0],
    ]);
    await forgetImage(catalog.db, one);
    expect(await findImage(catalog.db, one)).toBeUndefined();
    expect(await catalog.db.selectFrom('tags').selectAll().where('object_id', '=', one).execute()).toEqual([]);
  });

  it('are stood on by drives that are there, being made or going, until these are flattened', async () => {
    const image = await addImage('one');
    const states: DriveState[] = ['creating', 'available', 'deleting', 'error', 'deleted'];
    const drives = [];
    for (const state of states) drives.push(await addDrive(image, state));
    const users = () => usersOfImage(catalog.db, image, sql<boolean>`true`, 10);
    expect((await users()).map((user) => user.name)).toEqual(['creating', 'available', 'deleting']);
    expect(await countUsersOfImage(catalog.db, image)).toBe(3);
    expect(await usersOfImage(catalog.db, image, sql<boolean>`d.name = 'available'`, 10)).toHaveLength(1);
    for (const drive of drives.slice(0, 3)) await leaveImage(catalog.db, drive);
    expect(await users()).toEqual([]);
  });

  it.each([
    ['created', 'created_at', [1, 2, 3]],
    ['name', 'name', [9, 8, 7]],
    ['state', 'state', [1, 2, 3]],
  ] as const)('are listed by %s along an index', async (sort, column, expected) => {
    for (let at = 0; at < 9; at++) await addImage(`image ${9 - at}`, at);
    const visible = sql<boolean>`i.project_id = ${projectId}`;
    const page = { order: 'asc', after: null, limit: 3, offset: 0 } as const;
    const places = await findImagePlaces(catalog.db, { visible }, sort, page);
    expect(places.map((place) => place.number)).toEqual(expected);
    const { rows } = await sql<{ detail: string }>`explain query plan
      select i.number from images as i where ${visible} order by ${sql.ref(`i.${column}`)}, i.number limit 3`.execute(
      catalog.db,
    );
    const plan = rows.map((row) => row.detail).join('\n');
    expect(plan).toMatch(/USING (COVERING )?INDEX images_by_/);
    expect(plan).not.toContain('TEMP B-TREE');
  });
});

it('a catalog from before images is brought up to date with its drives and machines', async () => {
  const old = mkdtempSync(join(tmpdir(), 'cal-'));
  const raw = new DatabaseSync(join(old, 'catalog.db'));
  const words: Record<string, string> = {
    serial: 'integer primary key autoincrement',
    bigint: 'integer',
    blob: 'blob',
    clustered: ' without rowid',
  };
  const before = migrations.findIndex((text) => text.includes('create table images'));
  for (const text of migrations.slice(0, before))
    raw.exec(text.replace(/\{\{(\w+)\}\}/g, (_, word) => words[word] ?? ''));
  raw.exec(`pragma user_version = ${before};
    insert into projects values (1, 'p', 'p', 0, 1);
    insert into drives (id, project_id, name, description, size_bytes, state, meta_json, sizes_stale, created_at,
      updated_at, version) values ('d', 'p', 'old', '', 512, 'available', '{}', 0, 0, 0, 1)`);
  raw.close();
  const opened = await Catalog.open(old);
  expect(await opened.db.selectFrom('drives').select(['name', 'image_id']).execute()).toEqual([
    { name: 'old', image_id: null },
  ]);
  expect(await opened.db.selectFrom('images').selectAll().execute()).toEqual([]);
  await opened.close();
  rmSync(old, { recursive: true });
});
