/** Counts for the metrics, straight from the catalog: one index scan per table. */
import type { Catalog } from '../catalog/catalog.ts';
import { machinePowers } from '../core/states.ts';
import type { Engine } from '../engine/engine.ts';
import type { CountedKind, Inventory } from './metrics.ts';

export function catalogInventory(catalog: Catalog, engine: Engine): Inventory {
  const countStates = async (kind: CountedKind) => {
    const rows = await catalog.db
      .selectFrom(kind)
      .select((eb) => ['state', eb.fn.countAll<number>().as('count')])
      .groupBy('state')
      .execute();
    return rows.map(({ state, count }) => ({ kind, state, count: Number(count) }));
  };
  return {
    counts: async () =>
      (await Promise.all((['machines', 'drives', 'snapshots', 'images', 'tasks'] as const).map(countStates))).flat(),
    powers: async () => {
      const rows = await catalog.db
        .selectFrom('machines')
        .select((eb) => ['power', eb.fn.countAll<number>().as('count')])
        .groupBy('power')
        .execute();
      const counts = new Map(rows.map(({ power, count }) => [power, Number(count)]));
      return machinePowers.map((power) => ({ power, count: counts.get(power) ?? 0 }));
    },
    memoryBytes: async () => {
      const row = await catalog.db
        .selectFrom('memory_files')
        .select((eb) => eb.fn.sum<number | null>('stored_bytes').as('bytes'))
        .executeTakeFirst();
      return Number(row?.bytes ?? 0);
    },
    space: () => engine.space(),
  };
}
