import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Caller } from './caller.ts';
import type { SharedKind } from './interface.ts';
import { can } from './rights.ts';
import { sharingUseCases } from './sharing.ts';
import { Harness } from './testing/harness.ts';
import { type Population, populate } from './testing/population.ts';

let h: Harness;
let population: Population;
let foreign: Population;
let gus: Caller;
let gil: Caller;
let admin: Caller;

const tables = {
  machine: 'machines',
  drive: 'drives',
  snapshot: 'snapshots',
  part: 'drive_snapshots',
  image: 'images',
} as const;
const kinds: readonly SharedKind[] = ['machine', 'drive', 'snapshot', 'part', 'image'];

function idsOf(of: Population, kind: SharedKind): readonly string[] {
  const ids = {
    machine: of.machineIds,
    drive: of.driveIds,
    snapshot: of.snapshotIds,
    part: of.partIds,
    image: of.imageIds,
  };
  return ids[kind];
}

beforeAll(async () => {
  h = await Harness.start();
  gus = await h.person('gus', 'guest');
  gil = await h.person('gil', 'guest');
  admin = await h.person('ada', 'admin');
  const makers = [h.caller.userId, gus.userId];
  population = await populate(h.catalog, h.caller.projectId, makers, { seed: 11, snapshots: 80 });
  foreign = await populate(h.catalog, await h.project('other'), makers, { seed: 12, snapshots: 10 });
  for (const [turn, guest] of [gus, gil].entries()) {
    for (const kind of ['machine', 'drive', 'snapshot', 'image'] as const) {
      for (const [at, id] of idsOf(population, kind).entries()) {
        const access = ([null, 'ro', 'rw'] as const)[(at + turn) % 3] ?? null;
        if (access !== null) await h.grant(guest, id, access, kind);
      }
    }
  }
  // As when the drive was deleted.
  const gone = population.driveIds.slice(-1);
  await h.catalog.db.deleteFrom('grants').where('object_id', 'in', gone).execute();
  // Some never got their parts.
  const bare = population.snapshotIds.slice(0, 20);
  await h.catalog.db.deleteFrom('drive_snapshots').where('snapshot_id', 'in', bare).execute();
});
afterAll(() => h.stop());

describe('access to many objects', () => {
  for (const kind of kinds) {
    it(`to each ${kind} is what one may do with it alone`, async () => {
      const ids = [...idsOf(population, kind), ...idsOf(foreign, kind), 'nothing', ''];
      const rows = await h.catalog.db.selectFrom(tables[kind]).select('id').execute();
      const hidden: readonly string[] = population.driveIds.slice(-1);
      const listed = idsOf(population, kind).filter((id) => !hidden.includes(id));
      const there = new Set<string>(rows.map((row) => row.id).filter((id) => listed.includes(id)));
      for (const caller of [gus, gil, h.caller, admin]) {
        const access = await h.service.sharing.accessTo(caller, kind, ids);
        const seen = new Set<string>();
        for (const id of ids) {
          const object = { projectId: caller.projectId, kind: kind === 'part' ? 'driveSnapshot' : kind, id } as const;
          const may = async (action: 'read' | 'write') =>
            there.has(id) && (await can(caller, action, object, h.catalog.db));
          const expected = (await may('write')) ? 'rw' : (await may('read')) ? 'ro' : undefined;
          expect(access.get(id), `${caller.userName} ${id}`).toBe(expected);
          seen.add(expected ?? 'none');
        }
        if (caller.role === 'guest') expect(seen).toEqual(new Set(['rw', 'ro', 'none']));
        const shown = ids.filter((id) => access.has(id));
        expect(await h.service.sharing.accessToShown(caller, kind, shown)).toEqual(access);
      }
    });
  }

  it('costs the same number of queries for one and for many', async () => {
    const count = async (ids: readonly string[]): Promise<number> => {
      let queries = 0;
      const counted = h.catalog.db.withPlugin({
        transformQuery({ node }) {
          queries += 1;
          return node;
        },
        transformResult: async ({ result }) => result,
      });
      const sharing = sharingUseCases({ catalog: { db: counted } });
      for (const kind of kinds) await sharing.accessTo(gus, kind, ids);
      await sharing.grantees(gus, ids);
      return queries;
    };
    expect(await count(population.snapshotIds)).toBe(await count(population.snapshotIds.slice(0, 1)));
    expect(await count(population.snapshotIds.slice(0, 1))).toBe(kinds.length + 1);
  });
});

describe('whom objects are shared with', () => {
  it('is for admins and operators to see; others see themselves', async () => {
    const ids = [...population.driveIds, ...population.imageIds, ...foreign.driveIds];
    await h.catalog.db.updateTable('users').set({ email: 'gil@example.net' }).where('id', '=', gil.userId).execute();
    const rows = await h.catalog.db.selectFrom('grants').selectAll().where('object_id', 'in', ids).execute();
    for (const caller of [admin, { ...h.caller, role: 'operator' as const }, h.caller, gus, gil]) {
      const grantees = await h.service.sharing.grantees(caller, ids);
      for (const id of ids) {
        const expected = [gil, gus].flatMap((guest) => {
          const grant = rows.find((row) => row.object_id === id && row.user_id === guest.userId);
          const shown = caller.role === 'admin' || caller.role === 'operator' || caller.userId === guest.userId;
          if (grant === undefined || !shown) return [];
          const email = guest === gil ? 'gil@example.net' : null;
          return { userId: guest.userId, userName: guest.userName, email, access: grant.access };
        });
        expect(grantees.get(id) ?? []).toEqual(expected);
      }
    }
    expect((await h.service.sharing.grantees(admin, population.driveIds)).size).toBeGreaterThan(1);
  });

  it('is not told to people of other projects', async () => {
    const stranger = await h.person('stan', 'admin', await h.project('third'));
    expect(await h.service.sharing.grantees(stranger, population.driveIds)).toEqual(new Map());
    for (const kind of kinds) {
      expect(await h.service.sharing.accessTo(stranger, kind, idsOf(population, kind))).toEqual(new Map());
    }
  });
});

describe('numbers', () => {
  it('and ids stand for each other, for objects of all kinds and projects', async () => {
    const { numbers } = h.service;
    for (const kind of kinds) {
      const rows = await h.catalog.db.selectFrom(tables[kind]).select(['id', 'number']).execute();
      const expected = new Map(rows.map((row) => [row.id as string, row.number]));
      for (const round of ['asked', 'remembered']) {
        const found = await numbers.numbersOf(kind, [...expected.keys(), 'nothing'] as never[]);
        expect(new Map(found), round).toEqual(expected);
        for (const [id, number] of expected) expect(await numbers.idOf(kind, number), round).toBe(id);
      }
      for (const none of [0, -1, 1.5, 1e9, Number.NaN, Infinity])
        expect(await numbers.idOf(kind, none)).toBeUndefined();
    }
    const [task] = population.taskIds;
    if (task === undefined) throw new Error('there is no task');
    const { number } = await h.service.tasks.get(h.caller, task);
    expect(await numbers.idOf('task', number)).toBe(task);
    expect(await numbers.numbersOf('user', [gus.userId])).toEqual(new Map([[gus.userId, 2]]));
    expect(await numbers.idOf('user', 2)).toBe(gus.userId);
    expect(await numbers.idOf('project', 1)).toBe(h.caller.projectId);
    expect(await numbers.numbersOf('project', [h.caller.projectId])).toEqual(new Map([[h.caller.projectId, 1]]));
  });

  it('that nobody has may be given later', async () => {
    const next = (await h.service.queries.list(h.caller, 'drive', { limit: null })).items.at(-1)?.number ?? 0;
    const last = await h.catalog.db.selectFrom('drives').select('number').orderBy('number', 'desc').executeTakeFirst();
    const number = Math.max(next, last?.number ?? 0) + 1;
    expect(await h.service.numbers.idOf('drive', number)).toBeUndefined();
    const drive = await h.drive('later');
    expect(drive.number).toBe(number);
    expect(await h.service.numbers.idOf('drive', number)).toBe(drive.id);
  });

  it('of machines that are gone and of drives that are only kept for snapshots are known', async () => {
    const { departedId } = population;
    const departed = (await h.service.machines.departed(h.caller, [departedId])).get(departedId);
    const number = departed?.number ?? 0;
    expect(await h.service.numbers.idOf('machine', number)).toBe(departedId);
    expect(await h.service.numbers.numbersOf('machine', [departedId])).toEqual(new Map([[departedId, number]]));
    const hidden = population.driveIds.at(-1);
    if (hidden === undefined) throw new Error('there is no drive');
    expect((await h.service.numbers.numbersOf('drive', [hidden])).size).toBe(1);
  });
});
