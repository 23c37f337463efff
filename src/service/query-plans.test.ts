/** The ways that lists of snapshots and parts are found by, against what the database finds when left to itself. */
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMatches } from '../catalog/query-list.ts';
import { findPlainly, type ListQuery, type Window } from '../catalog/query-rows.ts';
import { holding, preparePattern } from '../catalog/sql-functions.ts';
import type { ProjectId } from '../core/ids.ts';
import type { Condition, FieldValue } from '../core/query.ts';
import { Harness } from './testing/harness.ts';
import { populate } from './testing/population.ts';
import { patterns, queriesOf, usualQueriesOf, usualTaskQueriesOf } from './testing/random-queries.ts';

let h: Harness;
/** Snapshots of several drives, and of one each. */
let projects: readonly ProjectId[];

beforeAll(async () => {
  h = await Harness.start();
  for (const pattern of patterns) for (const ignoreCase of [false, true]) await preparePattern(pattern, ignoreCase);
  const single = await h.project('single');
  projects = [h.caller.projectId, single];
  for (const [seed, projectId] of projects.entries()) {
    await populate(h.catalog, projectId, [h.caller.userId], { seed, snapshots: 300, tasks: 300 });
  }
  const { db } = h.catalog;
  const of = db.selectFrom('snapshots').select('id').where('project_id', '=', single);
  const first = db.selectFrom('drive_snapshots').select(sql<number>`min(number)`.as('number')).groupBy('snapshot_id');
  await db.deleteFrom('drive_snapshots').where('snapshot_id', 'in', of).where('number', 'not in', first).execute();
  await db.updateTable('snapshots').set({ part_count: 1 }).where('project_id', '=', single).execute();
});
afterAll(() => h.stop());

/** What dialects ask for, and what leads to an index. */
const fields = {
  snapshot: ['number', 'id', 'name', 'state', 'createdAt', 'tag', 'machineId', 'machineNumber', 'description'],
  part: [
    ...['number', 'id', 'name', 'state', 'createdAt', 'tag', 'machineId', 'description', 'snapshotId'],
    ...['snapshotNumber', 'driveId', 'driveNumber', 'virtualBytes'],
  ],
} as const;

async function valuesIn(kind: 'snapshot' | 'part', projectId: ProjectId): Promise<Map<string, FieldValue[]>> {
  const { items } = await h.service.queries.list({ ...h.caller, projectId }, 'part', { limit: null });
  const machines = await h.service.numbers.numbersOf(
    'machine',
    items.flatMap(({ snapshot }) => snapshot.machine?.machineId ?? []),
  );
  const drives = await h.service.numbers.numbersOf(
    'drive',
    items.map(({ part }) => part.driveId),
  );
  const values = new Map<string, Set<FieldValue>>(fields[kind].map((field) => [field, new Set()]));
  const add = (field: string, value: FieldValue | undefined) => value !== undefined && values.get(field)?.add(value);
  for (const { part, snapshot } of items) {
    const own = kind === 'part' ? part : snapshot;
    add('number', own.number);
    add('id', own.id);
    for (const field of ['name', 'state', 'createdAt', 'description'] as const) add(field, snapshot[field]);
    for (const tag of snapshot.tags) add('tag', tag);
    if (snapshot.machine !== null) {
      add('machineId', snapshot.machine.machineId);
      add('machineNumber', machines.get(snapshot.machine.machineId));
    }
    add('snapshotId', snapshot.id);
    add('snapshotNumber', snapshot.number);
    add('driveId', part.driveId);
    add('driveNumber', drives.get(part.driveId));
    add('virtualBytes', part.virtualBytes);
  }
  return new Map([...values].map(([field, found]) => [field, [...found]]));
}

async function expectSame(list: ListQuery, window: Window): Promise<void> {
  const { db } = h.catalog;
  const plain = await findPlainly(db, list, window, true);
  expect(await findMatches(db, list, window, true)).toEqual(plain);
  expect(await findMatches(db, list, window, false)).toEqual({ ...plain, total: null });
  expect(await findMatches(db, list, null, true)).toEqual({ ...plain, numbers: [] });
}

/** What the snapshots of one machine, or the parts of one drive, are asked for, apart from being its. */
const besides: readonly Condition[] = [
  { all: [] },
  { field: 'state', op: 'ne', value: 'creating' },
  { field: 'state', op: 'in', values: ['available', 'error', 'deleting'] },
  { field: 'name', op: 'like', value: 'w*' },
  { field: 'name', op: 'contains', value: 'B' },
  { field: 'description', op: 'ne', value: 'web' },
  { field: 'createdAt', op: 'gt', value: 1_700_000_000_200_000 },
];

/** The ids that most of some values are. */
function mostOf<T>(values: readonly T[]): T | undefined {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}

const runs = Number(process.env.CALOTYPE_QUERY_RUNS ?? 400);

describe.each(['snapshot', 'part'] as const)('lists of the kind %s', (kind) => {
  for (const [project, shape] of ['several drives', 'one drive each'].entries()) {
    it(`do not depend on how they are found, where snapshots are of ${shape}`, async () => {
      const projectId = projects[project] ?? h.caller.projectId;
      const values = await valuesIn(kind, projectId);
      const queries = fc.oneof(queriesOf(values), { weight: 3, arbitrary: usualQueriesOf(values) });
      const asked = fc.tuple(queries, fc.constantFrom(0, 3, 30, 90, 120));
      await fc.assert(
        fc.asyncProperty(asked, async ([{ where, sort, offset = 0, limit = 100 }, few]) => {
          const visible = sql<boolean>`s.project_id = ${projectId}`;
          await expectSame({ kind, visible, projectId, live: {}, where, sort, few }, { offset, limit });
        }),
        { numRuns: runs, seed: 99 },
      );
    });
  }

  it('of one owner do not depend on what counts as few', async () => {
    for (const projectId of projects) {
      const { items } = await h.service.queries.list({ ...h.caller, projectId }, 'part', { limit: null });
      const owner = mostOf(
        items.map(({ part, snapshot }) => (kind === 'part' ? part.driveId : snapshot.machine?.machineId)),
      );
      const own: Condition = { field: kind === 'part' ? 'driveId' : 'machineId', op: 'eq', value: owner ?? '' };
      const visible = sql<boolean>`s.project_id = ${projectId}`;
      for (const besidesIt of besides) {
        for (const by of ['number', 'createdAt', 'name', 'state']) {
          for (const order of ['asc', 'desc'] as const) {
            for (const few of [0, 25, 75, 150, 250]) {
              const where = { all: [own, besidesIt] };
              await expectSame(
                { kind, visible, projectId, live: {}, where, sort: [{ by, order }], few },
                { offset: few / 5, limit: 20 },
              );
            }
          }
        }
      }
    }
  });
});

describe('lists of tasks', () => {
  it('do not depend on how they are found', async () => {
    const { projectId } = h.caller;
    const { items } = await h.service.queries.list({ ...h.caller, projectId }, 'task', { limit: null });
    const users = await h.catalog.db.selectFrom('users').select('name').execute();
    const values = new Map<string, FieldValue[]>([['userName', users.map((user) => user.name)]]);
    for (const field of ['number', 'id', 'state', 'userId', 'machineId', 'objectId', 'kind', 'createdAt'] as const) {
      values.set(field, [...new Set(items.flatMap((task) => task[field] ?? []))]);
    }
    // Some have not ended, and memory knows better than their rows.
    const active = items.filter((_, at) => at % 29 === 0);
    const rows = { state: 'queued' } as const;
    const ids = active.map((task) => task.id);
    await h.catalog.db.updateTable('tasks').set(rows).where('id', 'in', ids.slice(0, 5)).execute();
    const states = ['queued', 'running', 'paused', 'done', 'failed'];
    const inMemory = new Map(ids.map((id, at) => [id, states[at % states.length] ?? 'queued']));
    const visible = sql<boolean>`t.project_id = ${projectId}`;
    const byOperator = sql<boolean>`(t.project_id = ${projectId} or t.project_id is null)`;
    await holding(inMemory, async (taskStates) => {
      const live = { taskStates, activeTasks: active.map((task) => task.number) };
      const asked = fc.tuple(
        fc.oneof(queriesOf(values), usualTaskQueriesOf(values)),
        fc.constantFrom(0, 20, 100, 200),
        fc.constantFrom(visible, byOperator),
      );
      await fc.assert(
        fc.asyncProperty(asked, async ([{ where, sort, offset = 0, limit = 100 }, few, seen]) => {
          const list: ListQuery = { kind: 'task', visible: seen, projectId, live, where, sort, few };
          await expectSame(list, { offset, limit });
        }),
        { numRuns: 2 * runs, seed: 5 },
      );
    });
  });
});
