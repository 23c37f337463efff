/**
 * The events of a run in their order, on their way to the oracle. A listener may note each down, before what it announces
 * is sent and after what it reports has come, so that the expectation for any instant can be had by replaying a part.
 */
import { Oracle } from './oracle.ts';
import type { Plan } from './plans.ts';

export type Event = (oracle: Oracle) => void;

export class Ledger {
  readonly oracle = new Oracle();
  readonly #note: ((event: Event) => void) | undefined;

  constructor(note?: (event: Event) => void) {
    this.#note = note;
  }

  #tell(event: Event): void {
    event(this.oracle);
    this.#note?.(event);
  }

  begin(id: number, plan: Plan): void {
    this.#tell((oracle) => oracle.begin(id, plan));
  }
  accept(id: number, taskId: string): void {
    this.#tell((oracle) => oracle.accept(id, taskId));
  }
  end(id: number, happened: boolean): void {
    this.#tell((oracle) => oracle.end(id, happened));
  }
  writeIssued(write: number, drive: string, block: number, count: number): void {
    this.#tell((oracle) => oracle.writeIssued(write, drive, block, count));
  }
  writeAcked(write: number, durable: boolean): void {
    this.#tell((oracle) => oracle.writeAcked(write, durable));
  }
  flushIssued(flush: number, drive: string): void {
    this.#tell((oracle) => oracle.flushIssued(flush, drive));
  }
  flushAcked(flush: number): void {
    this.#tell((oracle) => oracle.flushAcked(flush));
  }
  crashed(drive: string): void {
    this.#tell((oracle) => oracle.crashed(drive));
  }
}
