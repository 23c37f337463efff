/**
 * The HTTP client of the CLI. node:http rather than fetch: an authority per connection, uploads with back pressure and
 * no time limit on long answers. A request that may safely be repeated is repeated when its connection is lost.
 */
import { randomUUID } from 'node:crypto';
import type * as http from 'node:http';
import type * as https from 'node:https';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Page, Problem } from './api-types.ts';
import type { Connection } from './connection.ts';
import { CliError, InterruptedError, problemError, usageError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';
import { cliVersion } from './version.ts';

type QueryValue = string | number | boolean | readonly string[] | undefined;
export type Query = Readonly<Record<string, QueryValue>>;

export interface Upload {
  readonly open: () => Readable;
  /** Known for files. */
  readonly length: number | undefined;
  /** A file can be sent again from its start, standard input cannot. */
  readonly repeatable: boolean;
}

interface RequestOptions {
  readonly query?: Query | undefined;
  readonly body?: unknown;
  /** A small body that is no JSON. */
  readonly bytes?: Uint8Array;
  readonly upload?: Upload;
  readonly headers?: Readonly<Record<string, string>>;
  /** Of a POST; a fresh one is made when there is none. */
  readonly idempotencyKey?: string | undefined;
  /** Not repeated after a lost connection: the server keeps no idempotency key for it. */
  readonly once?: boolean;
  /** An error status is an answer as any other. */
  readonly anyStatus?: boolean;
  readonly signal?: AbortSignal;
}

export interface Answer<T> {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: T;
  /** True when an earlier attempt was sent and its answer lost. */
  readonly repeated: boolean;
}

const lostConnection = new Set(['ECONNRESET', 'EPIPE', 'ECONNABORTED', 'ERR_STREAM_PREMATURE_CLOSE']);
const unreachable = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'EADDRNOTAVAIL',
]);
const retryPausesMs = [250, 1000, 3000];
/** How long an upload waits for `100 Continue`, as curl does, and for a refusal behind it. */
const continueLimitMs = 1000;
const refusalGraceMs = 30;
const quietLimitMs = 150_000;
const inProgressLimitMs = 60_000;

export class Client {
  readonly connection: Connection;
  private readonly interrupted: AbortSignal;
  private readonly agent: http.Agent;
  private readonly begin: (url: URL, options: https.RequestOptions) => http.ClientRequest;

  constructor(connection: Connection, interrupted: AbortSignal) {
    if (connection.project !== null && !/^[\x20-\x7e]+$/.test(connection.project)) {
      throw usageError('A project name with other than ASCII characters cannot be sent in a header.', 'Give its id.');
    }
    this.connection = connection;
    this.interrupted = interrupted;
    if (connection.baseUrl.protocol === 'https:') {
      const https = process.getBuiltinModule('node:https');
      this.agent = new https.Agent({ keepAlive: true, ...(connection.ca === null ? {} : { ca: connection.ca }) });
      this.begin = https.request;
    } else {
      // An import statement would evaluate every export, and with `WebSocket` load all of undici: 35 ms at each start.
      const plainHttp = process.getBuiltinModule('node:http');
      this.agent = new plainHttp.Agent({ keepAlive: true });
      this.begin = plainHttp.request;
    }
  }

  close(): void {
    this.agent.destroy();
  }

  async get<T>(path: string, query?: Query, headers?: Record<string, string>, signal?: AbortSignal): Promise<T> {
    const answer = await this.request<T>('GET', path, {
      query,
      ...(headers === undefined ? {} : { headers }),
      ...(signal === undefined ? {} : { signal }),
    });
    return answer.body;
  }

  /** Follows pages until `limit` items were seen; `limit` may be Infinity. */
  async *pages<T>(path: string, query: Query, limit: number): AsyncGenerator<readonly T[]> {
    let left = limit;
    let cursor: string | undefined;
    do {
      const page: Page<T> = await this.get(path, { ...query, limit: Math.min(left, 1000), cursor });
      const items = page.items.length > left ? page.items.slice(0, left) : page.items;
      left -= items.length;
      cursor = page.nextCursor ?? undefined;
      yield items;
    } while (cursor !== undefined && left > 0);
  }

  /** @throws CliError of the problem body, or one of code `unreachable`, `connection_lost` or `tls_refused` */
  async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<Answer<T>> {
    const headers: Record<string, string> = { ...options.headers };
    // On DELETE too: it makes a task, and a repeated one must find the first.
    if (method === 'POST' || method === 'DELETE') headers['idempotency-key'] = options.idempotencyKey ?? randomUUID();
    const mayRepeat = (options.upload?.repeatable ?? true) && options.once !== true;
    const startedAt = performance.now();
    let lost = 0;
    for (;;) {
      try {
        const response = await this.send(method, path, { ...options, headers });
        const text = await readText(response);
        const status = response.statusCode ?? 0;
        if (status >= 400) throw problemError(parseProblem(status, text, response));
        const body: T = text === '' ? null : parseJson(text, this.connection.baseUrl);
        return { status, headers: response.headers, body, repeated: lost > 0 };
      } catch (error) {
        if (this.interrupted.aborted) throw new InterruptedError();
        if (error instanceof CliError) {
          if (lost > 0 && method === 'DELETE' && error.code === 'not_found') {
            throw new CliError(error.exitCode, error.code, error.message, {
              remedy: 'The connection was lost after a first attempt, which may have removed it.',
            });
          }
          // The first attempt arrived and is still at work.
          const firstIsRunning = lost > 0 && error.code === 'idempotency_in_progress';
          if (!firstIsRunning || performance.now() - startedAt > inProgressLimitMs) throw error;
          await this.pause(500);
          continue;
        }
        const code = errorCodeOf(error);
        const isLost = lostConnection.has(code) || (lost > 0 && unreachable.has(code));
        if (!isLost || !mayRepeat || lost >= retryPausesMs.length) throw this.connectionError(error);
        await this.pause(retryPausesMs[lost] ?? 0);
        lost++;
      }
    }
  }

  /** The body as it comes; the caller reads it to its end or destroys it. */
  async stream(path: string, options: RequestOptions = {}): Promise<http.IncomingMessage> {
    for (let lost = 0; ; lost++) {
      try {
        const response = await this.send('GET', path, options, true);
        const status = response.statusCode ?? 0;
        if (status >= 400 && options.anyStatus !== true) {
          throw problemError(parseProblem(status, await readText(response), response));
        }
        return response;
      } catch (error) {
        if (this.interrupted.aborted) throw new InterruptedError();
        if (error instanceof CliError) throw error;
        if (!lostConnection.has(errorCodeOf(error)) || lost >= retryPausesMs.length) throw this.connectionError(error);
        await this.pause(retryPausesMs[lost] ?? 0);
      }
    }
  }

  /** A failed request without an answer, in words. */
  connectionError(error: unknown): unknown {
    const code = errorCodeOf(error);
    const where = this.connection.baseUrl.href;
    const tlsRemedy = 'If it is your own certificate, give it with --cacert FILE or CALOTYPE_CACERT.';
    if (unreachable.has(code)) {
      return new CliError(exitCodes.unreachable, 'unreachable', `No server answers at ${where} (${code}).`, {
        remedy:
          'Start it (calotype serve --data DIR, or npm start), or say where it is: --data DIR, --url, CALOTYPE_URL.',
        cause: error,
      });
    }
    if (lostConnection.has(code)) {
      return new CliError(exitCodes.unreachable, 'connection_lost', `The connection to ${where} was lost.`, {
        remedy: 'See whether the server runs and what it is doing: calotype task list.',
        cause: error,
      });
    }
    if (/CERT|TLS|SSL|SELF_SIGNED|UNABLE_TO/.test(code)) {
      const detail = error instanceof Error ? error.message : code;
      return new CliError(exitCodes.unreachable, 'tls_refused', `No safe connection to ${where}: ${detail}.`, {
        remedy: tlsRemedy,
        cause: error,
      });
    }
    if (code.startsWith('HPE_')) {
      return new CliError(
        exitCodes.unreachable,
        'not_http',
        `What answers at ${where} does not speak HTTP (${code}).`,
        {
          remedy: 'Check the address; with TLS it begins with https://.',
          cause: error,
        },
      );
    }
    return error;
  }

  private async pause(ms: number): Promise<void> {
    try {
      await delay(ms, undefined, { signal: this.interrupted });
    } catch {
      throw new InterruptedError();
    }
  }

  /** Resolves with the head of the answer. */
  private send(method: string, path: string, options: RequestOptions, endless = false): Promise<http.IncomingMessage> {
    const { baseUrl, token, project } = this.connection;
    const url = new URL(baseUrl);
    // Health and metrics lie beside /v1, not below it.
    url.pathname = path.startsWith('../') ? url.pathname.replace(/v1$/, path.slice(3)) : `${url.pathname}${path}`;
    for (const [key, value] of Object.entries(options.query ?? {})) {
      if (value === undefined) continue;
      for (const each of Array.isArray(value) ? value : [value]) url.searchParams.append(key, String(each));
    }
    const json = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const body = options.bytes ?? json;
    const headers: Record<string, string> = {
      accept: 'application/json',
      'user-agent': `calotype-cli/${cliVersion()}`,
      authorization: `Bearer ${token}`,
      ...(project === null ? {} : { 'calotype-project': project }),
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
      ...(options.bytes === undefined ? {} : { 'content-type': 'application/octet-stream' }),
      ...(body === undefined ? {} : { 'content-length': String(body.length) }),
      ...(options.upload === undefined ? {} : { 'content-type': 'application/octet-stream', expect: '100-continue' }),
      ...(options.upload?.length === undefined ? {} : { 'content-length': String(options.upload.length) }),
      ...options.headers,
    };
    const signal =
      options.signal === undefined ? this.interrupted : AbortSignal.any([this.interrupted, options.signal]);

    const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
    const request = this.begin(url, { method, headers, agent: this.agent, signal });
    request.on('response', resolve);
    request.on('error', reject);
    if (!endless && options.upload === undefined) {
      request.setTimeout(quietLimitMs, () =>
        request.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })),
      );
    }
    if (options.upload === undefined) request.end(body);
    else sendUpload(options.upload, request).catch(reject);
    return promise;
  }
}

/**
 * A server that refuses an upload by its head answers and closes, and what then is still being written takes the answer
 * away with it. So the body waits for `100 Continue` (RFC 9110, section 10.1.1), and a moment more, as some servers send that
 * before they look at the request.
 */
async function sendUpload(upload: Upload, request: http.ClientRequest): Promise<void> {
  const { promise: mayStart, resolve: start } = Promise.withResolvers<boolean>();
  request.once('continue', () => setTimeout(start, refusalGraceMs, true));
  request.once('close', () => start(false));
  request.once('response', (response) => {
    start(false);
    // The rest of the body is of no use to anyone.
    response.once('close', () => request.destroy());
  });
  const timer = setTimeout(start, continueLimitMs, true);
  request.flushHeaders();
  const mustSend = await mayStart;
  clearTimeout(timer);
  if (mustSend) await pipeline(upload.open(), request);
}

export function errorCodeOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  if ('code' in error && typeof error.code === 'string') return error.code;
  // Several addresses were tried.
  return error instanceof AggregateError ? errorCodeOf(error.errors[0]) : '';
}

async function readText(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

function parseJson(text: string, url: URL): ReturnType<typeof JSON.parse> {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CliError(exitCodes.failed, 'not_json', `What answers at ${url.href} is not Calotype: no JSON came.`, {
      remedy: 'Check the address: --url, CALOTYPE_URL or --data.',
      cause,
    });
  }
}

function parseProblem(status: number, text: string, response: http.IncomingMessage): Problem {
  const none: Problem = {
    type: 'about:blank',
    status,
    code: '',
    title: response.statusMessage ?? '',
    detail: `The server answered ${status} ${response.statusMessage ?? ''}.`,
  };
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body !== 'object' || body === null || Array.isArray(body)) return none;
    return { ...none, ...body, status };
  } catch {
    return none;
  }
}
