/** Lists of every kind by any condition: who may see what, and the objects in the order the catalog found them. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { drivesByNumber } from '../catalog/drives.ts';
import { imagesByNumber } from '../catalog/images.ts';
import { machinesByNumber } from '../catalog/machines.ts';
import type { Condition } from '../catalog/page.ts';
import { checkQuery, testsOf } from '../catalog/query-condition.ts';
import { findMatches } from '../catalog/query-list.ts';
import type { ListQuery, Window } from '../catalog/query-rows.ts';
import { partsByNumber, snapshotsByNumber } from '../catalog/snapshots.ts';
import { preparePattern } from '../catalog/sql-functions.ts';
import { drivesOfTasks, tasksByNumber } from '../catalog/tasks.ts';
import { CalotypeError } from '../core/errors.ts';
import type { Query, QueryKind } from '../core/query.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import { type Context, runtimeOf } from './context.ts';
import type { PartOfSnapshot, QueriedObjects, QueryUseCases } from './interface.ts';
import { isLive, withLiveValues } from './live-values.ts';
import { toDrive, toImage, toMachine, toSnapshot } from './objects.ts';
import { visibleFilter, visibleTasks } from './rights.ts';
import { toStoredTask } from './task-view.ts';

const defaultLimit = 100;
const readAtOnce = 500;
const rememberedTotals = 500;
const maxKeyLength = 4000;

type Loaders = { readonly [K in QueryKind]: (numbers: readonly number[]) => Promise<QueriedObjects[K][]> };

export function queryUseCases(context: Context): QueryUseCases {
  const { db } = context.catalog;
  const { runner, sizes } = context;

  const loaders: Loaders = {
    async machine(numbers) {
      const records = await machinesByNumber(db, numbers);
      return records.map((record) => toMachine(record, runtimeOf(context, record)));
    },
    async snapshot(numbers) {
      const records = await snapshotsByNumber(db, numbers);
      const fresh = await sizes.fresh(records);
      return records.map((record) => toSnapshot(record, fresh));
    },
    async part(numbers) {
      const found = await partsByNumber(db, numbers);
      const records = [...new Set(found.map(({ snapshot }) => snapshot))];
      const fresh = await sizes.fresh(records);
      const snapshots = new Map(records.map((record) => [record.id, toSnapshot(record, fresh)]));
      return found.map(({ part, snapshot: { id } }): PartOfSnapshot => {
        const snapshot = snapshots.get(id);
        const own = snapshot?.parts.find((known) => known.id === part.id);
        if (snapshot === undefined || own === undefined) throw new CalotypeError('internal');
        return { part: own, snapshot };
      });
    },
    drive: async (numbers) => (await drivesByNumber(db, numbers)).map(toDrive),
    image: async (numbers) => (await imagesByNumber(db, numbers)).map(toImage),
    async task(numbers) {
      const rows = await tasksByNumber(db, numbers);
      const drives = await drivesOfTasks(
        db,
        rows.map((row) => row.id),
      );
      return rows.map((row) => {
        const active = runner.find(row.id);
        return active === undefined ? toStoredTask(row, drives.get(row.id) ?? []) : runner.view(active);
      });
    },
  };

  /** In batches, so that others get their turn. */
  async function load<K extends QueryKind>(kind: K, numbers: readonly number[]): Promise<QueriedObjects[K][]> {
    const loader: Loaders[K] = loaders[kind];
    if (numbers.length <= readAtOnce) return loader(numbers);
    const all: QueriedObjects[K][] = [];
    for (let from = 0; from < numbers.length; from += readAtOnce) {
      if (from > 0) await nextTurn();
      all.push(...(await loader(numbers.slice(from, from + readAtOnce))));
    }
    return all;
  }

  /** Totals hold as long as no row changes; they are what a client that goes from page to page asks for again. */
  const totals = new BoundedMap<string, { generation: number; total: number }>(rememberedTotals);

  async function find(
    query: ListQuery,
    window: Window | null,
    withTotal: boolean,
    key: string | undefined,
  ): Promise<{ numbers: readonly number[]; total: number | null }> {
    const { generation } = context.catalog;
    const known = withTotal && key !== undefined ? totals.get(key) : undefined;
    if (known?.generation !== generation) {
      const found = await findMatches(db, query, window, withTotal);
      if (key !== undefined && found.total !== null) totals.set(key, { generation, total: found.total });
      return found;
    }
    const { numbers } = window === null ? { numbers: [] } : await findMatches(db, query, window, false);
    return { numbers, total: known.total };
  }

  return {
    async list<K extends QueryKind>(caller: Caller, kind: K, query: Query<K>) {
      checkQuery(kind, query);
      await preparePatterns(query);
      const { where, sort, offset = 0, limit = defaultLimit } = query;
      const visible = visibleOf(caller, kind);
      return withLiveValues(context, caller, kind, fieldsIn(query), async (live) => {
        const projectId = caller.role === 'guest' ? null : caller.projectId;
        const list: ListQuery = { kind, visible, projectId, live, where, sort };
        const window = limit === 0 ? null : { offset, limit };
        const keyOf = (condition: Query['where']) => totalKey(caller, kind, condition);
        const { numbers, total } = await find(list, window, query.withTotal === true, keyOf(where));
        const everything = { ...list, live: {}, where: undefined };
        const all = query.withAll === true ? (await find(everything, null, true, keyOf(undefined))).total : null;
        return { items: await load(kind, numbers), total, all };
      });
    },
  };
}

/** What a total depends on, but for the rows; undefined when it depends on memory, too, or is too long to keep. */
function totalKey(caller: Caller, kind: QueryKind, where: Query['where']): string | undefined {
  for (const test of testsOf<string>(where ?? { all: [] })) if (isLive(kind, test.field)) return undefined;
  const user = caller.role === 'guest' ? caller.userId : '';
  // JSON knows neither NaN nor Infinity.
  const exact = (_: string, value: unknown) => (typeof value === 'number' ? { number: `${value}` } : value);
  const key = `${kind} ${caller.projectId} ${caller.role} ${user} ${JSON.stringify(where, exact) ?? ''}`;
  return key.length > maxKeyLength ? undefined : key;
}

/** The condition on the rows of a list, over its alias. */
function visibleOf(caller: Caller, kind: QueryKind): Condition {
  switch (kind) {
    case 'machine':
      return visibleFilter(caller, 'machine', { table: 'm' });
    case 'snapshot':
      return visibleFilter(caller, 'snapshot', { table: 's' });
    case 'part':
      return visibleFilter(caller, 'driveSnapshot', { table: 'p', snapshots: 's' });
    case 'drive':
      return visibleFilter(caller, 'drive', { table: 'd' });
    case 'image':
      return visibleFilter(caller, 'image', { table: 'i' });
    case 'task':
      return visibleTasks(caller, 't');
  }
}

function fieldsIn(query: Query): ReadonlySet<string> {
  const fields = new Set<string>();
  for (const { by } of query.sort ?? []) fields.add(by);
  for (const test of testsOf<string>(query.where ?? { all: [] })) fields.add(test.field);
  return fields;
}

/** @throws invalid_request */
async function preparePatterns(query: Query): Promise<void> {
  for (const test of testsOf<string>(query.where ?? { all: [] })) {
    if (test.op === 'matches') await preparePattern(test.value, test.ignoreCase);
  }
}
