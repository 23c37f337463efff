/** Counts for the metrics, straight from the catalog: one index scan per table. */
import type { Catalog } from '../catalog/catalog.ts';
import type { Engine } from '../engine/engine.ts';
import type { Inventory } from './metrics.ts';

export function catalogInventory(catalog: Catalog, engine: Engine): Inventory {
  const countStates = async (kind: 'drives' | 'snapshots' | 'images' | 'tasks') => {
    const rows = await catalog.db
      .selectFrom(kind)
      .select((eb) => ['state', eb.fn.countAll<number>().as('count')])
      .groupBy('state')
      .execute();
    return rows.map(({ state, count }) => ({ kind, state, count: Number(count) }));
  };
  return {
    counts: async () =>
      (await Promise.all((['drives', 'snapshots', 'images', 'tasks'] as const).map(countStates))).flat(),
    space: () => engine.space(),
  };
}
