/** Server-sent events, read from a stream; comes back by itself with Last-Event-ID, so that no event is missed. */
import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { CatalogEvent } from './api-types.ts';
import type { Client } from './client.ts';
import { CliError, InterruptedError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';

/** The server says something every 15 s. */
const silenceLimitMs = 60_000;
const returnPauseMs = 2000;

export interface ServerSentEvent {
  readonly id: string | null;
  readonly data: string;
}

/** The `text/event-stream` format of the HTML standard, section 9.2.6, as far as we use it. */
export async function* parseEventStream(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ServerSentEvent> {
  const decoder = new TextDecoder();
  let rest = '';
  let id: string | null = null;
  let data: string[] = [];
  for await (const chunk of chunks) {
    rest += decoder.decode(chunk, { stream: true });
    // A CR at the end may be the first half of a CRLF.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') {
        if (data.length > 0) yield { id, data: data.join('\n') };
        data = [];
        continue;
      }
      const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
      if (field === 'data') data.push(value);
      else if (field === 'id') id = value;
    }
  }
}

/** Never ends by itself. @throws what the first connection fails with, and any refusal later */
export async function* followEvents(
  client: Client,
  options: { readonly after?: number; readonly object?: string },
  interrupted: AbortSignal,
): AsyncGenerator<CatalogEvent> {
  let last = options.after === undefined ? null : String(options.after);
  let wasConnected = false;
  for (;;) {
    let response: IncomingMessage | null = null;
    try {
      response = await client.stream('/events', {
        query: { objectId: options.object },
        headers: { accept: 'text/event-stream', ...(last === null ? {} : { 'last-event-id': last }) },
      });
      wasConnected = true;
      response.setTimeout(silenceLimitMs, () => response?.destroy());
      for await (const event of parseEventStream(response)) {
        last = event.id ?? last;
        const parsed: CatalogEvent = JSON.parse(event.data);
        yield parsed;
      }
    } catch (error) {
      if (interrupted.aborted) throw new InterruptedError();
      const isRefusal = error instanceof CliError && error.exitCode !== exitCodes.unreachable;
      if (!wasConnected || isRefusal || error instanceof SyntaxError) throw error;
    } finally {
      response?.destroy();
    }
    try {
      await delay(returnPauseMs, undefined, { signal: interrupted });
    } catch {
      throw new InterruptedError();
    }
  }
}
