/**
 * The events of a run in their order, on their way to the oracle. A listener may note each down, before what it announces
 * is sent and after what it reports has come, so that the expectation for any instant can be had by replaying a part.
 */
import { Oracle } from './oracle.ts';
import type { Plan } from './plans.ts';

export type Event = (oracle: Oracle) => void;

export interface LedgerOptions {
  /** One that knows something already. */
  readonly oracle?: Oracle;
  readonly note?: (event: Event) => void;
  /** For people: every change as it begins and ends. */
  readonly log?: (line: string) => void;
}

export class Ledger {
  readonly oracle: Oracle;
  readonly #note: ((event: Event) => void) | undefined;
  readonly #log: ((line: string) => void) | undefined;

  constructor(options: LedgerOptions = {}) {
    this.oracle = options.oracle ?? new Oracle();
    this.#note = options.note;
    this.#log = options.log;
  }

  #say(line: string): void {
    this.#log?.(`${this.oracle.clock} ${line}`);
  }

  #tell(event: Event): void {
    event(this.oracle);
    this.#note?.(event);
  }

  begin(id: number, plan: Plan): void {
    this.#tell((oracle) => oracle.begin(id, plan));
    this.#say(`change ${id} asked: ${JSON.stringify(plan)}`);
  }
  accept(id: number, taskId: string): void {
    this.#tell((oracle) => oracle.accept(id, taskId));
    this.#say(`change ${id} accepted: task ${taskId}`);
  }
  end(id: number, happened: boolean): void {
    this.#tell((oracle) => oracle.end(id, happened));
    this.#say(`change ${id} ${happened ? 'done' : 'has not happened'}`);
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
  crashed(drive: string, at = this.oracle.clock): void {
    this.#tell((oracle) => oracle.crashed(drive, at));
    this.#say(`daemon of ${drive} died`);
  }

  /** A line of the log that is no event. */
  remark(line: string): void {
    this.#say(line);
  }
}
