/** Progress of one task: exact in memory, with a rate over the last seconds and an estimate from it. */
import type { TaskProgress } from '../core/model.ts';

const windowMs = 5000;
const sampleMs = 250;

export class ProgressMeter {
  #done: number;
  #total: number;
  unit: 'bytes' | 'steps';
  readonly #now: () => number;
  #samples: { at: number; done: number }[] = [];

  constructor(
    start: { done: number; total: number; unit: 'bytes' | 'steps' },
    now: () => number = () => performance.now(),
  ) {
    this.#done = start.done;
    this.#total = start.total;
    this.unit = start.unit;
    this.#now = now;
  }

  get done(): number {
    return this.#done;
  }

  get total(): number {
    return this.#total;
  }

  /** A total below what is done grows to it; a figure that goes back starts a new rate. */
  set(done: number, total: number): void {
    const at = this.#now();
    if (done < this.#done) this.#samples = [];
    this.#done = Math.max(0, done);
    this.#total = Math.max(total, this.#done);
    const last = this.#samples.at(-1);
    if (last === undefined || at - last.at >= sampleMs) this.#samples.push({ at, done: this.#done });
    while ((this.#samples[0]?.at ?? at) < at - windowMs) this.#samples.shift();
  }

  /** Forgets the rate: what follows is other work, or the same after a pause. */
  restart(): void {
    this.#samples = [];
  }

  read(): TaskProgress {
    const at = this.#now();
    const first = this.#samples.find((sample) => sample.at >= at - windowMs);
    let rate: number | null = null;
    if (first !== undefined && at - first.at >= sampleMs) rate = ((this.#done - first.done) / (at - first.at)) * 1000;
    const left = this.#total - this.#done;
    return {
      done: this.#done,
      total: this.#total,
      unit: this.unit,
      ratePerSecond: rate === null ? null : Math.round(rate),
      estimateSeconds: rate === null || rate <= 0 || left <= 0 ? null : Math.ceil(left / rate),
    };
  }
}
