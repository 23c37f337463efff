import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeApi, problem, type Recorded, runCli } from '../../test/fake-native-api.ts';
import { parseEventStream } from './events.ts';

async function parse(...chunks: string[]): Promise<unknown[]> {
  async function* bytes() {
    for (const chunk of chunks) yield Buffer.from(chunk);
  }
  return eventsOf(bytes());
}

async function eventsOf(chunks: AsyncIterable<Uint8Array>): Promise<unknown[]> {
  const events: unknown[] = [];
  for await (const event of parseEventStream(chunks)) events.push(event);
  return events;
}

describe('parseEventStream', () => {
  it('reads events, joins data lines, skips comments, remembers the id', async () => {
    expect(await parse('retry: 2000\n\n: hello\n\nid: 7\nevent: x\ndata: {"a":\ndata: 1}\n\ndata: b\n\n')).toEqual([
      { id: '7', data: '{"a":\n1}' },
      { id: '7', data: 'b' },
    ]);
  });

  it('does not mind how the bytes are cut, nor the kind of line end', async () => {
    const text = 'id: 1\r\ndata: é日\r\n\r\nid: 2\r\ndata: x\r\n\r\n';
    const bytes = Buffer.from(text);
    async function* singly() {
      for (const byte of bytes) yield Buffer.from([byte]);
    }
    expect(await eventsOf(singly())).toEqual([
      { id: '1', data: 'é日' },
      { id: '2', data: 'x' },
    ]);
  });

  it('does not give out an event that was broken off', async () => {
    expect(await parse('id: 1\ndata: x\n')).toEqual([]);
  });
});

describe('event', () => {
  let api: FakeApi;
  beforeEach(async () => {
    api = await FakeApi.start();
  });
  afterEach(async () => {
    await api[Symbol.asyncDispose]();
  });
  const event = (seq: number) => ({
    seq,
    at: '2031-04-09T16:20:05.004210Z',
    projectId: null,
    userId: null,
    via: 'cli',
    kind: 'snapshot.created',
    objectKind: 'snapshot',
    objectId: 's1',
    detail: { name: 'a' },
  });

  it('list goes on after the last one of a page', async () => {
    api.on('GET /events', ({ query }: Recorded) => {
      const after = Number(query.get('after'));
      const items = Array.from({ length: Math.min(1000, 1500 - after) }, (_, i) => event(after + i + 1));
      return { items, lastSeq: items.at(-1)?.seq };
    });
    const { stdout } = await runCli(['event', 'list', '--json'], { api });
    expect(JSON.parse(stdout)).toHaveLength(1500);
    expect(api.requests[0]?.headers.accept).toBe('application/json');
  });

  it('follow comes back with Last-Event-ID and ends with Ctrl-C', async () => {
    const controller = new AbortController();
    api.on('GET /events', (_request: Recorded, response: ServerResponse) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const seq = api.requests.length;
      response.write(`id: ${seq}\nevent: snapshot.created\ndata: ${JSON.stringify(event(seq))}\n\n`, () => {
        if (seq === 1) response.end();
        else setTimeout(() => controller.abort('SIGINT'), 50);
      });
      return undefined;
    });
    const outcome = await runCli(['event', 'follow', '--json', '--after', '0'], { api, signal: controller.signal });
    expect(outcome.code).toBe(130);
    expect(
      outcome.stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual([event(1), event(2)]);
    expect(api.requests.map((request) => request.headers['last-event-id'])).toEqual(['0', '1']);
    expect(api.requests[0]?.headers.accept).toBe('text/event-stream');
  });

  it('follow reports a refusal', async () => {
    api.on('GET /events', (_request: Recorded, response: ServerResponse) =>
      problem(response, 401, 'token_expired', 'Expired.'),
    );
    expect((await runCli(['event', 'follow'], { api })).code).toBe(5);
  });
});
