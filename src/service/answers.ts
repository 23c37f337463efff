/** Answers to small questions that polling clients have asked again and again, each valid as long as no row changes. */
import type { Catalog } from '../catalog/catalog.ts';
import { BoundedMap } from './bounded-map.ts';

export class Answers<V> {
  readonly #catalog: Pick<Catalog, 'generation'>;
  readonly #known: BoundedMap<string, { generation: number; value: V }>;

  constructor(catalog: Pick<Catalog, 'generation'>, capacity: number) {
    this.#catalog = catalog;
    this.#known = new BoundedMap(capacity);
  }

  /** `key` names all that the answer depends on beside the catalog. */
  async get(key: string, ask: () => Promise<V>): Promise<V> {
    const { generation } = this.#catalog;
    const known = this.#known.get(key);
    if (known?.generation === generation) return known.value;
    const value = await ask();
    this.#known.set(key, { generation, value });
    return value;
  }
}
