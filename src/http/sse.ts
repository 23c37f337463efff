/**
 * Server-sent events: replay from the catalog at the client's own pace, then the live feed. A client that does not read is dropped
 * once a bounded backlog is full; it comes back with Last-Event-ID and misses nothing.
 */
import type { ServerResponse } from 'node:http';
import type { CatalogEvent } from '../core/model.ts';
import type { Caller } from '../service/caller.ts';
import type { EventUseCases } from '../service/interface.ts';
import { presentEvent } from './presenters.ts';

const heartbeatMs = 15_000;
const maxBacklogBytes = 1024 ** 2;
const replayPage = 500;

export interface StreamOptions {
  readonly response: ServerResponse;
  readonly headers: Readonly<Record<string, number | string | string[] | undefined>>;
  readonly events: EventUseCases;
  readonly caller: Caller;
  /** Last event the client has; null for live events only. */
  readonly afterSeq: number | null;
  readonly objectId?: string;
  /** Asked at every heartbeat: rejects once the credentials no longer hold. */
  readonly recheck: () => Promise<unknown>;
  readonly onError: (error: unknown) => void;
}

interface Client {
  readonly response: ServerResponse;
  readonly beat: () => void;
}

export function formatEvent(event: CatalogEvent): string {
  // JSON text holds no line break, so one data line is enough.
  return `id: ${event.seq}\nevent: ${event.kind}\ndata: ${JSON.stringify(presentEvent(event))}\n\n`;
}

/** All streams of one server. */
export class EventStreams {
  readonly #clients = new Set<Client>();
  readonly #heartbeatMs: number;
  readonly #maxBacklogBytes: number;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: { heartbeatMs?: number; maxBacklogBytes?: number } = {}) {
    this.#heartbeatMs = options.heartbeatMs ?? heartbeatMs;
    this.#maxBacklogBytes = options.maxBacklogBytes ?? maxBacklogBytes;
  }

  get size(): number {
    return this.#clients.size;
  }

  /** Serves one client until it goes, is dropped, or the server closes. The response must not have been begun. */
  async serve(options: StreamOptions): Promise<void> {
    const { response, events, caller, objectId } = options;
    if (this.#closed) {
      response.destroy();
      return;
    }
    response.writeHead(200, {
      ...options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
    response.write('retry: 2000\n\n');

    let stop: (() => void) | undefined;
    let checking = false;
    const client: Client = {
      response,
      beat: () => {
        response.write(': still here\n\n');
        this.#dropIfSlow(response);
        if (checking) return;
        checking = true;
        options.recheck().then(
          () => {
            checking = false;
          },
          () => response.end(),
        );
      },
    };
    this.#clients.add(client);
    this.#timer ??= setInterval(() => {
      for (const each of this.#clients) each.beat();
    }, this.#heartbeatMs).unref();
    const gone = new Promise<void>((resolve) => {
      response.once('close', () => {
        this.#clients.delete(client);
        stop?.();
        resolve();
      });
    });

    const isOpen = (): boolean => !response.destroyed && !response.writableEnded;
    try {
      let last = options.afterSeq;
      while (last !== null && isOpen()) {
        const page = await events.list(caller, {
          afterSeq: last,
          limit: replayPage,
          ...(objectId === undefined ? {} : { objectId }),
        });
        for (const event of page) {
          if (!isOpen()) break;
          last = event.seq;
          if (!response.write(formatEvent(event))) await Promise.race([drained(response), gone]);
        }
        if (page.length < replayPage) break;
      }
      if (isOpen()) {
        const unsubscribe = await events.subscribe(caller, last, (event) => {
          if (!isOpen() || (objectId !== undefined && event.objectId !== objectId)) return;
          response.write(formatEvent(event));
          this.#dropIfSlow(response);
        });
        if (isOpen()) stop = unsubscribe;
        else unsubscribe();
      }
    } catch (error) {
      // The head is out: the client learns by the end of the stream, and comes back.
      options.onError(error);
      response.destroy();
    }
    await gone;
  }

  /** Ends every stream; clients come back to the next server with Last-Event-ID. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const { response } of this.#clients) response.end();
  }

  #dropIfSlow(response: ServerResponse): void {
    if (response.writableLength > this.#maxBacklogBytes) response.destroy();
  }
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => response.once('drain', () => resolve()));
}
