/**
 * A client that writes without pause and remembers what it was told: for each grain the last acknowledged number, and
 * the one in flight. What a point taken meanwhile may hold is checked against that.
 */
import type { NbdClient } from '../../qemu/nbd-client.ts';
import { type Content, freshValue, grainBytes, grains } from './content.ts';

export class Writer {
  readonly #client: NbdClient;
  readonly #content: Content;
  readonly #grains: readonly number[];
  /** Numbers of each grain in the order they were sent; the first of them was acknowledged. */
  readonly history = new Map<number, number[]>();
  #stopping = false;
  #wanted = 0;
  #wake: (() => void) | undefined;
  #running: Promise<void>;
  /** Writes answered so far. */
  acknowledged = 0;
  /** Set once a request failed: the connection was lost. */
  failure: unknown;

  /** Writes only to these grains; one write in flight at a time. */
  constructor(client: NbdClient, content: Content, only: readonly number[]) {
    this.#client = client;
    this.#content = content;
    this.#grains = only;
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    try {
      for (let at = 0; !this.#stopping; at++) {
        const grain = this.#grains[(at * 7) % this.#grains.length] ?? 0;
        const value = freshValue();
        const before = this.history.get(grain) ?? [this.#content.values[grain] ?? 0];
        this.history.set(grain, [...before, value]);
        await this.#client.write(grain * grainBytes, grains(value));
        this.#content.set(grain, 1, value);
        this.history.set(grain, [value]);
        this.acknowledged++;
        if (this.acknowledged === this.#wanted) this.#wake?.();
      }
    } catch (error) {
      this.failure = error;
      this.#wake?.();
    }
  }

  /** What each of its grains may read as now: acknowledged, or still in flight. */
  possible(): Map<number, readonly number[]> {
    return new Map([...this.history].map(([grain, values]) => [grain, [...values]]));
  }

  /** Everything that was sent is answered when this resolves. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  /** Resolves after so many more writes were answered. */
  async progress(writes: number): Promise<void> {
    if (this.failure !== undefined) return;
    await new Promise<void>((resolve) => {
      this.#wanted = this.acknowledged + writes;
      this.#wake = resolve;
    });
  }
}
