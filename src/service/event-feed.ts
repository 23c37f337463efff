/**
 * Tells subscribers of new events, in the order of their sequence numbers. A commit only wakes the feed; it then reads
 * what is new, once for all subscribers, and each takes from that what its caller may see.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Catalog } from '../catalog/catalog.ts';
import { eventsAfter, lastEventSeq } from '../catalog/events.ts';
import type { EventRow } from '../catalog/schema.ts';
import type { Logger } from './context.ts';

const atOnce = 500;
const keptInMemory = 2000;

export interface Subscriber {
  /** Last event that was looked at. */
  seq: number;
  /** Awaited, one event at a time. */
  deliver(row: EventRow): Promise<void>;
}

interface Entry {
  readonly subscriber: Subscriber;
  pumping: boolean;
  again: boolean;
  stopped: boolean;
}

export class EventFeed {
  readonly #catalog: Catalog;
  readonly #logger: Logger;
  readonly #entries = new Set<Entry>();
  /** The newest events, without gaps. */
  #recent: EventRow[] = [];
  #waking = false;

  constructor(catalog: Catalog, logger: Logger) {
    this.#catalog = catalog;
    this.#logger = logger;
  }

  /** Call after a commit that wrote events. Returns at once. */
  wake = (): void => {
    if (this.#entries.size === 0 || this.#waking) return;
    this.#waking = true;
    void this.#refresh();
  };

  async #refresh(): Promise<void> {
    await nextTurn();
    this.#waking = false;
    try {
      for (;;) {
        const since = this.#recent.at(-1)?.seq;
        if (since === undefined) break;
        const rows = await eventsAfter(this.#catalog.db, since, atOnce);
        // A refresh that overlapped with this one may have brought them already.
        for (const row of rows) if (row.seq > (this.#recent.at(-1)?.seq ?? 0)) this.#recent.push(row);
        if (rows.length < atOnce) break;
      }
      if (this.#recent.length > keptInMemory) this.#recent = this.#recent.slice(-keptInMemory / 2);
    } catch (error) {
      this.#logger.warn({ err: error }, 'new events could not be read');
    }
    for (const entry of this.#entries) this.#pump(entry);
  }

  /** Starts after `subscriber.seq`, or with what comes from now on when that is null. Returns how to stop. */
  async subscribe(subscriber: Omit<Subscriber, 'seq'>, afterSeq: number | null): Promise<() => void> {
    const last = await lastEventSeq(this.#catalog.db);
    const entry: Entry = {
      subscriber: { deliver: subscriber.deliver, seq: afterSeq ?? last },
      pumping: false,
      again: false,
      stopped: false,
    };
    this.#entries.add(entry);
    this.#pump(entry);
    return () => {
      entry.stopped = true;
      this.#entries.delete(entry);
      if (this.#entries.size === 0) this.#recent = [];
    };
  }

  #pump(entry: Entry): void {
    if (entry.pumping) {
      entry.again = true;
      return;
    }
    entry.pumping = true;
    void this.#deliverAll(entry);
  }

  async #deliverAll(entry: Entry): Promise<void> {
    try {
      for (;;) {
        entry.again = false;
        const rows = await this.#next(entry.subscriber.seq);
        for (const row of rows) {
          if (entry.stopped) return;
          entry.subscriber.seq = row.seq;
          await entry.subscriber.deliver(row);
        }
        if (rows.length === 0 && !entry.again) return;
      }
    } catch (error) {
      this.#logger.warn({ err: error }, 'events could not be delivered');
    } finally {
      entry.pumping = false;
    }
  }

  async #next(seq: number): Promise<readonly EventRow[]> {
    const first = this.#recent[0];
    if (first !== undefined && seq >= first.seq - 1) {
      const at = seq - first.seq + 1;
      // Sequence numbers may have gaps: where that is so, look for the place.
      const from = this.#recent[at - 1]?.seq === seq || at === 0 ? at : this.#recent.findIndex((row) => row.seq > seq);
      return from < 0 ? [] : this.#recent.slice(from, from + atOnce);
    }
    const rows = await eventsAfter(this.#catalog.db, seq, atOnce);
    if (this.#recent.length === 0 && rows.length > 0 && rows.length < atOnce) this.#recent = [...rows];
    return rows;
  }
}
