import { inspect } from 'node:util';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DriveId, MachineId, UserId } from '../core/ids.ts';
import type { FieldValue, Query, QueryKind } from '../core/query.ts';
import type { Caller } from './caller.ts';
import type { QueriedObjects } from './interface.ts';
import { can } from './rights.ts';
import { codeOf, Harness } from './testing/harness.ts';
import { type Population, populate } from './testing/population.ts';
import { queriesOf } from './testing/random-queries.ts';
import { compareValues, type Getters, listInMemory, type Value } from './testing/reference-query.ts';

let h: Harness;
let people: Population;
let guest: Caller;
let callers: readonly Caller[];
/** What the project has, as a member lists it without any condition. */
let world: { [K in QueryKind]: readonly QueriedObjects[K][] };
let getters: { [K in QueryKind]: Getters<QueriedObjects[K]> };

const seed = 7;

beforeAll(async () => {
  h = await Harness.start();
  guest = await h.person('gus', 'guest');
  const makers: UserId[] = [h.caller.userId, guest.userId];
  people = await populate(h.catalog, h.caller.projectId, makers, { seed, snapshots: 60 });
  const other = await h.project('other');
  await populate(h.catalog, other, makers, { seed: seed + 1, snapshots: 10 });
  const [firstDrive, secondDrive] = people.driveIds;
  const [machineId] = people.machineIds;
  const [snapshotId, secondSnapshot] = people.snapshotIds;
  const [imageId] = people.imageIds;
  const grant = (id: string | undefined, access: 'ro' | 'rw', kind: 'machine' | 'drive' | 'snapshot' | 'image') =>
    h.grant(guest, id as DriveId | MachineId, access, kind);
  await grant(firstDrive, 'ro', 'drive');
  await grant(secondDrive, 'rw', 'drive');
  await grant(machineId, 'ro', 'machine');
  await grant(people.departedId, 'rw', 'machine');
  await grant(snapshotId, 'rw', 'snapshot');
  await grant(secondSnapshot, 'ro', 'snapshot');
  await grant(imageId, 'ro', 'image');
  // A snapshot that never got its parts.
  const bare = people.snapshotIds[5];
  if (bare !== undefined) {
    await h.catalog.db.deleteFrom('drive_snapshots').where('snapshot_id', '=', bare).execute();
    const state = { state: 'error', part_count: 0, created_by: guest.userId } as const;
    await h.catalog.db.updateTable('snapshots').set(state).where('id', '=', bare).execute();
  }
  const all = async <K extends QueryKind>(kind: K) =>
    (await h.service.queries.list(h.caller, kind, { limit: null })).items;
  world = {
    machine: await all('machine'),
    snapshot: await all('snapshot'),
    part: await all('part'),
    drive: await all('drive'),
    image: await all('image'),
    task: await all('task'),
  };
  getters = await makeGetters();
  const member = h.caller;
  callers = [member, guest, { ...member, role: 'operator' }];
});
afterAll(() => h.stop());

async function makeGetters(): Promise<typeof getters> {
  const { db } = h.catalog;
  const machines = new Map(world.machine.map((machine) => [machine.id, machine]));
  const snapshots = new Map(world.snapshot.map((snapshot) => [snapshot.id, snapshot]));
  const parts = new Map(world.part.map(({ part }) => [part.id, part]));
  const drives = new Map((await db.selectFrom('drives').selectAll().execute()).map((drive) => [drive.id, drive]));
  const departed = await h.service.machines.departed(h.caller, [people.departedId]);
  const users = new Map((await db.selectFrom('users').selectAll().execute()).map((user) => [user.id, user.name]));
  const numberOfMachine = (id: MachineId | null): Value =>
    id === null ? null : (machines.get(id)?.number ?? departed.get(id)?.number ?? null);
  const timesOf = (id: MachineId): number[] =>
    world.snapshot.filter((one) => one.machine?.machineId === id).map((one) => one.createdAt);
  const common = {
    number: (one: { number: number }) => one.number,
    id: (one: { id: string }) => one.id,
    name: (one: { name: string }) => one.name,
    description: (one: { description: string }) => one.description,
    state: (one: { state: string }) => one.state,
    createdAt: (one: { createdAt: number }) => one.createdAt,
    updatedAt: (one: { updatedAt: number }) => one.updatedAt,
    tag: (one: { tags: readonly string[] }) => one.tags,
  };
  const snapshot: Getters<QueriedObjects['snapshot']> = {
    ...common,
    origin: (one) => one.origin,
    consistency: (one) => one.consistency,
    complete: (one) => one.complete,
    availableAt: (one) => one.availableAt,
    createdBy: (one) => one.createdBy,
    sizeBytes: (one) => one.sizeBytes,
    partCount: (one) => one.parts.length,
    machineId: (one) => one.machine?.machineId ?? null,
    machineNumber: (one) => numberOfMachine(one.machine?.machineId ?? null),
    machineName: (one) => one.machine?.machineName ?? null,
    machinePower: (one) => (one.machine === null ? null : (machines.get(one.machine.machineId)?.power ?? null)),
    machineKind: (one) => (one.machine === null ? null : (machines.get(one.machine.machineId)?.kind ?? null)),
    parentNumber: (one) =>
      one.machine?.parentId == null ? null : (snapshots.get(one.machine.parentId)?.number ?? null),
    parentName: (one) => (one.machine?.parentId == null ? null : (snapshots.get(one.machine.parentId)?.name ?? null)),
    current: (one) => one.machine?.current ?? null,
    hasMemory: (one) => (one.machine?.memory ?? null) !== null,
  };
  const ofSnapshot = (field: string) => {
    const getter = snapshot[field];
    if (getter === undefined) throw new Error(field);
    return (one: QueriedObjects['part']) => getter(one.snapshot);
  };
  return {
    machine: {
      ...common,
      kind: (one) => one.kind,
      power: (one) => one.power,
      managed: (one) => one.managed,
      // What the row has; there is no process here.
      startedAt: (one) => startedAt.get(one.id) ?? null,
      cpus: (one) => one.hardware.cpus,
      memoryBytes: (one) => one.hardware.memoryBytes,
      snapshotCount: (one) => one.snapshotCount,
      oldestSnapshotAt: (one) => timesOf(one.id).sort((a, b) => a - b)[0] ?? null,
      newestSnapshotAt: (one) => timesOf(one.id).sort((a, b) => b - a)[0] ?? null,
    },
    snapshot,
    part: {
      number: ({ part }) => part.number,
      id: ({ part }) => part.id,
      name: ofSnapshot('name'),
      description: ofSnapshot('description'),
      state: ofSnapshot('state'),
      createdAt: ofSnapshot('createdAt'),
      updatedAt: ofSnapshot('updatedAt'),
      tag: ofSnapshot('tag'),
      snapshotId: ({ part }) => part.snapshotId,
      snapshotNumber: ofSnapshot('number'),
      driveId: ({ part }) => part.driveId,
      driveNumber: ({ part }) => drives.get(part.driveId)?.number ?? null,
      driveName: ({ part }) => part.driveName,
      availableAt: ofSnapshot('availableAt'),
      createdBy: ofSnapshot('createdBy'),
      sizeBytes: ({ part }) => part.sizeBytes,
      virtualBytes: ({ part }) => part.virtualBytes,
      parentNumber: ({ part }) => (part.parentId === null ? null : (parts.get(part.parentId)?.number ?? null)),
      current: ({ part }) => part.current,
      machineId: ofSnapshot('machineId'),
    },
    drive: {
      ...common,
      sizeBytes: (one) => one.sizeBytes,
      snapshotCount: (one) => one.snapshotCount,
      exported: (one) => one.exported,
      imageId: (one) => one.imageId,
      sourceId: (one) => one.sourceId,
      machineId: (one) => one.attachedTo?.machineId ?? null,
      machineNumber: (one) => numberOfMachine(one.attachedTo?.machineId ?? null),
      machineName: (one) => (one.attachedTo === null ? null : (machines.get(one.attachedTo.machineId)?.name ?? null)),
    },
    image: {
      ...common,
      kind: (one) => one.kind,
      sizeBytes: (one) => one.sizeBytes,
      createdBy: (one) => one.createdBy,
    },
    task: {
      number: common.number,
      id: common.id,
      state: common.state,
      createdAt: common.createdAt,
      kind: (one) => one.kind,
      via: (one) => one.via,
      objectKind: (one) => one.objectKind,
      objectId: (one) => one.objectId,
      machineId: (one) => one.machineId,
      startedAt: (one) => one.startedAt,
      finishedAt: (one) => one.finishedAt,
      userId: (one) => one.userId,
      userName: (one) => (one.userId === null ? null : (users.get(one.userId) ?? null)),
    },
  };
}

let startedAt: ReadonlyMap<MachineId, number | null>;
beforeAll(async () => {
  const rows = await h.catalog.db.selectFrom('machines').select(['id', 'started_at']).execute();
  startedAt = new Map(rows.map((row) => [row.id, row.started_at]));
});

/** What a caller sees, object by object, by the rights of each. */
async function seenBy<K extends QueryKind>(caller: Caller, kind: K): Promise<QueriedObjects[K][]> {
  const seen: QueriedObjects[K][] = [];
  for (const object of world[kind]) {
    if (await sees(caller, kind, 'part' in object ? object.part.id : object.id)) seen.push(object);
  }
  return seen;
}

async function sees(caller: Caller, kind: QueryKind, id: string): Promise<boolean> {
  if (kind === 'task') {
    const task = h.service.tasks.get(caller, id as Parameters<typeof h.service.tasks.get>[1]);
    return (await codeOf(task)).code === null;
  }
  const object = { projectId: h.caller.projectId, kind: kind === 'part' ? 'driveSnapshot' : kind, id } as const;
  return can(caller, 'read', object, h.catalog.db);
}

/** The values that some object has in each field. */
function valuesIn(kind: QueryKind): Map<string, FieldValue[]> {
  return new Map(
    Object.entries(getters[kind]).map(([field, getter]) => {
      const found = new Set<FieldValue>();
      for (const object of world[kind]) {
        for (const value of [getter(object as never)].flat()) if (value !== null) found.add(value);
      }
      return [field, [...found]];
    }),
  );
}

const kinds: readonly QueryKind[] = ['machine', 'snapshot', 'part', 'drive', 'image', 'task'];
const runs = Number(process.env.CALOTYPE_QUERY_RUNS ?? 150);

describe('a list by any condition', () => {
  for (const kind of kinds) {
    it(`of the kind ${kind} is what one finds object by object`, async () => {
      for (const caller of callers) {
        const seen = await seenBy(caller, kind);
        expect(seen.length, `${caller.role} sees some`).toBeGreaterThan(0);
        await fc.assert(
          fc.asyncProperty(queriesOf(valuesIn(kind)), async (query) => {
            const list = await h.service.queries.list(caller, kind, { ...query, withTotal: true, withAll: true });
            const { page, total } = listInMemory<QueriedObjects[typeof kind]>(
              seen,
              query,
              getters[kind] as Getters<QueriedObjects[typeof kind]>,
            );
            expect(list.items).toEqual(page);
            expect(list.total).toBe(total);
            expect(list.all).toBe(seen.length);
          }),
          { numRuns: runs, seed: 42 },
        );
      }
    });
  }

  it('knows every field of every kind', () => {
    for (const kind of kinds) {
      for (const field of Object.keys(getters[kind])) {
        const distinct = new Set(world[kind].map((object) => JSON.stringify(getters[kind][field]?.(object as never))));
        expect(distinct.size, `${kind}.${field} has more than one value`).toBeGreaterThan(1);
      }
    }
  });

  it('says nothing of other projects', async () => {
    for (const kind of kinds) {
      for (const { projectId } of world[kind].map((one) => ('part' in one ? one.snapshot : one))) {
        expect(projectId).toBe(h.caller.projectId);
      }
    }
    const stranger = await h.person('stan', 'guest', await h.project('empty'));
    for (const kind of kinds) {
      const list = await h.service.queries.list(stranger, kind, { withTotal: true, withAll: true });
      expect(list).toEqual({ items: [], total: 0, all: 0 });
    }
  });

  it('sorts by number if by nothing else, and shows a hundred', async () => {
    const numbers = world.snapshot.map((snapshot) => snapshot.number);
    expect(numbers).toEqual([...numbers].sort(compareValues));
    const list = await h.service.queries.list(h.caller, 'snapshot', {});
    expect(list).toEqual({ items: world.snapshot.slice(0, 100), total: null, all: null });
    expect((await h.service.queries.list(h.caller, 'snapshot', { limit: 0, withTotal: true })).items).toEqual([]);
  });

  it('is refused when it cannot be meant', async () => {
    const refused = async (query: unknown) =>
      (await codeOf(h.service.queries.list(h.caller, 'snapshot', query as Query<'snapshot'>))).code;
    const test = { field: 'name', op: 'eq', value: 'web' };
    const nested = (depth: number): unknown => {
      let condition: unknown = test;
      for (let level = 1; level < depth; level++) condition = { not: condition };
      return condition;
    };
    const nameOf = (query: unknown): string => inspect(query).slice(0, 200);
    const bad: unknown[] = [
      { where: { field: 'nothing', op: 'eq', value: 1 } },
      { where: { field: '__proto__', op: 'eq', value: 1 } },
      { where: { field: 'constructor', op: 'isNull' } },
      { where: { field: 'name', op: 'matches', value: '(', ignoreCase: false } },
      { where: { field: 'name', op: 'matches', value: '(?=a)', ignoreCase: false } },
      { where: { field: 'name', op: 'matches', value: 'a'.repeat(1001), ignoreCase: false } },
      { where: { field: 'name', op: 'matches', value: '(a{500}){4}(b{500}){4}', ignoreCase: false } },
      { where: { any: Array.from({ length: 201 }, () => test) } },
      { where: { any: Array.from({ length: 1000 }, () => ({ all: [] })) } },
      { where: nested(21) },
      { where: nested(100_000) },
      { where: { field: 'number', op: 'in', values: Array.from({ length: 10_001 }, (_, at) => at) } },
      { sort: [{ by: 'tag' }] },
      { sort: [{ by: 'toString' }] },
      { sort: Array.from({ length: 21 }, () => ({ by: 'name' })) },
      { offset: -1 },
      { offset: 1.5 },
      { limit: -1 },
      { limit: Number.NaN },
    ];
    for (const query of bad) expect(await refused(query), nameOf(query)).toBe('invalid_request');
    const good: unknown[] = [
      { where: nested(20) },
      { where: { any: Array.from({ length: 200 }, () => test) } },
      { where: { field: 'name', op: 'like', value: '*a'.repeat(20_000) } },
      { where: { field: 'name', op: 'contains', value: '%'.repeat(100_000) } },
      { where: { field: 'description', op: 'like', value: '[*?'.repeat(3000) } },
      { where: { field: 'name', op: 'in', values: Array.from({ length: 10_000 }, () => '\0\ud800') } },
      { offset: Number.MAX_SAFE_INTEGER },
    ];
    for (const query of good) expect(await refused(query), nameOf(query)).toBeNull();
  });

  it('reads more than one batch, and others get their turn meanwhile', async () => {
    const own = await Harness.start();
    try {
      await populate(own.catalog, own.caller.projectId, [own.caller.userId], { seed: 3, snapshots: 1200 });
      let turns = 0;
      const counting = setImmediate(function count() {
        turns += 1;
        pending = setImmediate(count);
      });
      let pending = counting;
      const list = await own.service.queries.list(own.caller, 'snapshot', { limit: null, withTotal: true });
      clearImmediate(pending);
      expect(list.items.map((one) => one.number)).toEqual(Array.from({ length: 1200 }, (_, at) => at + 1));
      expect(list.total).toBe(1200);
      expect(turns).toBeGreaterThan(1);
    } finally {
      await own.stop();
    }
  });

  it('counts again when something has changed, and for each caller', async () => {
    const own = await Harness.start();
    try {
      const drive = await own.drive();
      await own.snapshot([drive.id], '5');
      const count = async (value: string | number, caller = own.caller) =>
        (
          await own.service.queries.list(caller, 'snapshot', {
            where: { field: 'name', op: 'eq', value },
            withTotal: true,
          })
        ).total;
      const stranger = await own.person('stan', 'admin', await own.project('other'));
      const someone = await own.person('gus', 'guest');
      for (const round of ['counted', 'remembered']) {
        expect(await count('5'), round).toBe(1);
        expect(await count(5), round).toBe(0);
        expect(await count('5', stranger), round).toBe(0);
        expect(await count('5', someone), round).toBe(0);
      }
      await own.snapshot([drive.id], '5');
      expect(await count('5')).toBe(2);
      await own.grant(someone, drive.id, 'ro');
      expect(await count('5', someone)).toBe(2);
    } finally {
      await own.stop();
    }
  });

  it('filters by what only memory knows: sizes under a writer, states of tasks', async () => {
    const own = await Harness.start();
    try {
      const drive = await own.drive();
      const first = await own.snapshot([drive.id], 'first');
      const second = await own.snapshot([drive.id], 'second');
      own.engine.write(drive.id, 1, 1);
      await sql`update drives set sizes_stale = sizes_stale + 1`.execute(own.catalog.db);
      const sized = await own.service.queries.list(own.caller, 'snapshot', {
        where: { field: 'sizeBytes', op: 'gt', value: 0 },
        sort: [{ by: 'sizeBytes', order: 'desc' }],
      });
      expect(sized.items.map((one) => [one.id, one.sizeBytes])).toEqual([
        [second.id, 4096],
        [first.id, 4096],
      ]);
      const parts = await own.service.queries.list(own.caller, 'part', {
        where: { field: 'sizeBytes', op: 'eq', value: 4096 },
        withTotal: true,
      });
      expect(parts).toMatchObject({ total: 2 });
      const held = own.hold('before:snapshot');
      const { task } = await own.service.snapshots.create(own.caller, { driveIds: [drive.id] });
      await held.reached;
      const running = await own.service.queries.list(own.caller, 'task', {
        where: { field: 'state', op: 'eq', value: 'running' },
        withTotal: true,
      });
      expect(running).toMatchObject({ items: [{ id: task.id, state: 'running' }], total: 1 });
      const [stored] = await own.catalog.db.selectFrom('tasks').select('state').where('id', '=', task.id).execute();
      expect(stored?.state).toBe('queued');
      held.release();
      await own.done(task);
    } finally {
      await own.stop();
    }
  });
});
