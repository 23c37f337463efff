/** Fair, in-process mutual exclusion: by one lock, or by key. Waiters run in the order they came. */

export class Mutex {
  #tail: Promise<void> = Promise.resolve();
  #waiting = 0;

  /** Whether somebody holds it or waits for it. */
  get busy(): boolean {
    return this.#waiting > 0;
  }

  /** Runs `work` when all earlier work has ended. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#tail;
    let release: () => void = () => undefined;
    this.#tail = new Promise((resolve) => {
      release = resolve;
    });
    this.#waiting++;
    try {
      await before;
      return await work();
    } finally {
      this.#waiting--;
      release();
    }
  }
}

export class KeyedMutex<K> {
  readonly #locks = new Map<K, Mutex>();

  /** Holds the locks of all keys, which must be of one total order so that two callers cannot wait for each other. */
  run<T>(keys: readonly K[], work: () => Promise<T>): Promise<T> {
    const sorted = [...new Set(keys)].sort();
    const step = (at: number): Promise<T> => {
      const key = sorted[at];
      if (key === undefined) return work();
      const lock = this.#locks.get(key) ?? new Mutex();
      this.#locks.set(key, lock);
      return lock
        .run(() => step(at + 1))
        .finally(() => {
          if (!lock.busy && this.#locks.get(key) === lock) this.#locks.delete(key);
        });
    };
    return step(0);
  }

  isBusy(key: K): boolean {
    return this.#locks.get(key)?.busy ?? false;
  }
}
