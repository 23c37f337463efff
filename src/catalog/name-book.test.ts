import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId, type ProjectId, type SnapshotId } from '../core/ids.ts';
import { Catalog, type Tx } from './catalog.ts';
import { namesContaining } from './name-book.ts';
import { likeOf } from './page.ts';

const directory = mkdtempSync(join(tmpdir(), 'calotype-names-'));
let catalog: Catalog;
const projectId = newId<ProjectId>();
const other = newId<ProjectId>();
const small = newId<ProjectId>();
/** Less than there are. */
const many = 2000;
const parts = ['web', 'WEB', '-1', 'Ä', 'ä', 'k', 'none of them', '_', '%', 'x'];

async function add(tx: Tx, to: ProjectId, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const id = newId<SnapshotId>();
    await sql`insert into snapshots (id, project_id, name, description, state, meta_json, origin, consistency, complete,
      created_at, updated_at, version) values (${id}, ${to}, ${name}, '', 'available', '{}', 'manual', 'crash', 1, 1, 1, 1)`.execute(
      tx,
    );
  }
}

const names = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, at) => `${['web', 'Web', 'Ärger', 'K%_'][at % 4]}-${from + at}`);

beforeAll(async () => {
  catalog = await Catalog.open(directory);
  await catalog.write(async (tx) => {
    for (const id of [projectId, other, small]) {
      await tx.insertInto('projects').values({ id, name: id, created_at: 1, version: 1 }).execute();
    }
    await add(tx, projectId, names(0, 2000));
    await add(tx, other, names(0, 2600));
    await add(tx, projectId, names(2000, 2700));
    await add(tx, small, names(0, 10));
  });
});
afterAll(async () => {
  await catalog.close();
  rmSync(directory, { recursive: true, force: true });
});

/** That all searches find what the database finds. */
async function expectRight(): Promise<void> {
  for (const id of [projectId, other]) {
    for (const part of parts) {
      const { rows } = await sql<{ number: number }>`select number from snapshots
        where project_id = ${id} and name like ${likeOf(part)} escape '\\' order by number`.execute(catalog.db);
      const numbers = rows.map((row) => row.number);
      for (const few of [many, Math.floor(rows.length / 2), 0]) {
        const expected = { numbers: rows.length <= few ? numbers : undefined, count: rows.length };
        expect(await namesContaining(catalog.db, id, part, few), part).toEqual(expected);
      }
    }
  }
}

it('finds parts of names as the database does, whatever changes in between', async () => {
  expect(await namesContaining(catalog.db, small, 'web', 10)).toBeUndefined();
  await expectRight();
  await catalog.write((tx) => add(tx, projectId, names(5000, 5010)));
  await expectRight();
  await sql`update snapshots set name = name || 'x' where number % 7 = 0`.execute(catalog.db);
  await sql`delete from snapshots where number % 11 = 0`.execute(catalog.db);
  await expectRight();
  const failed = catalog.write(async (tx) => {
    await add(tx, projectId, names(6000, 6010));
    await sql`update snapshots set name = 'none of them' where number % 5 = 0`.execute(tx);
    await sql`delete from snapshots where number % 3 = 0`.execute(tx);
    throw new Error('not after all');
  });
  await expect(failed).rejects.toThrow('not after all');
  await expectRight();
  await catalog.write((tx) => add(tx, other, names(7000, 7005)));
  await expectRight();
});

it('reads anew when too much has changed to follow', async () => {
  await expectRight();
  for (let round = 0; round < 14; round++) {
    await sql`update snapshots set name = name || ${round % 2 === 0 ? 'x' : 'Y'}`.execute(catalog.db);
  }
  const noted = await sql<{ count: number }>`select count(*) as count from noted_names`.execute(catalog.db);
  expect(noted.rows[0]?.count).toBeLessThan(51_000);
  expect((await sql`select project_id from noted_projects`.execute(catalog.db)).rows).toEqual([]);
  await expectRight();
  await sql`update snapshots set name = 'web' where number % 13 = 0`.execute(catalog.db);
  await expectRight();
});

it('searches that come together read once', async () => {
  const fresh = await Catalog.open(mkdtempSync(join(directory, 'again-')));
  try {
    await fresh.write(async (tx) => {
      await tx.insertInto('projects').values({ id: projectId, name: 'home', created_at: 1, version: 1 }).execute();
      await add(tx, projectId, names(0, 2500));
    });
    const found = await Promise.all(parts.map((part) => namesContaining(fresh.db, projectId, part, 0)));
    expect(found[0]?.count).toBe(1250);
    expect(found[1]).toEqual(found[0]);
  } finally {
    await fresh.close();
  }
});
