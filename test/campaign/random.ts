/** Seeded random numbers (sfc32): the same seed gives the same campaign, as far as processes keep their timing. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 2 ** 32) >>> 0;
    this.#c = 0x9e3779b9;
    for (let warm = 0; warm < 12; warm++) this.#next();
  }

  #next(): number {
    const t = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + t) | 0;
    return t >>> 0;
  }

  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor((this.#next() / 2 ** 32) * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.#next() / 2 ** 32 < probability;
  }

  /** Undefined only for an empty list. */
  pick<T>(items: readonly T[]): T | undefined {
    return items[this.between(0, items.length - 1)];
  }

  /** Like `pick`, by weight; undefined when all weights are 0. */
  weighted<T>(items: readonly (readonly [T, number])[]): T | undefined {
    const total = items.reduce((sum, [, weight]) => sum + weight, 0);
    let at = (this.#next() / 2 ** 32) * total;
    for (const [item, weight] of items) {
      if (weight > 0 && at < weight) return item;
      at -= weight;
    }
    return undefined;
  }

  /** A generator of its own, so that what one part draws does not shift what another gets. */
  fork(): Random {
    return new Random(this.#next() * 2 ** 21 + this.between(0, 2 ** 21 - 1));
  }
}
