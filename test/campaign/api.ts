/** The native API as the campaign uses it: an ordinary client. A request that got no answer is told apart from a refusal. */
import type {
  DriveBody,
  ExportBody,
  PageBody,
  SnapshotBody,
  SnapshotNodeBody,
  TaskBody,
} from '../../src/http/schemas.ts';

export interface Access {
  readonly url: string;
  readonly token: string;
}

/** The server died, or was not there. Whether the request was carried out is not known. */
export class Unanswered extends Error {}

/** The server said no. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface Call {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly key?: string;
  /** Seconds of `Prefer: wait`. */
  readonly wait?: number;
}

/** Longer than anything may take here; a request that runs into it is stuck. */
const stuckMs = 90_000;

export interface Answer {
  readonly task?: TaskBody;
  readonly drive?: DriveBody;
  readonly snapshot?: SnapshotBody;
}

export interface Finding {
  readonly code: string;
  readonly severity: string;
  readonly subject: string;
  readonly explanation: string;
}

export class Api {
  #access: Access;

  constructor(access: Access) {
    this.#access = access;
  }

  /** The server came back elsewhere. */
  moveTo(access: Access): void {
    this.#access = access;
  }

  /** @throws Unanswered, Refused */
  async send(call: Call): Promise<string> {
    const { url, token } = this.#access;
    const headers: Record<string, string> = { authorization: `Bearer ${token}` };
    if (call.body !== undefined) headers['content-type'] = 'application/json';
    if (call.key !== undefined) headers['idempotency-key'] = call.key;
    if (call.wait !== undefined) headers.prefer = `wait=${call.wait}`;
    let status: number;
    let text: string;
    try {
      const response = await fetch(`${url}${call.path}`, {
        method: call.method,
        headers,
        body: call.body === undefined ? undefined : JSON.stringify(call.body),
        signal: AbortSignal.timeout(stuckMs),
      });
      status = response.status;
      text = await response.text();
    } catch (cause) {
      if (cause instanceof Error && cause.name === 'TimeoutError') {
        throw new Error(`${call.method} ${call.path} was not answered within ${stuckMs / 1000} s`);
      }
      throw new Unanswered(`${call.method} ${call.path} got no answer`, { cause });
    }
    if (status < 300) return text;
    const problem: { code?: string; detail?: string } = text.startsWith('{') ? JSON.parse(text) : {};
    throw new Refused(
      status,
      problem.code ?? 'none',
      `${call.method} ${call.path}: ${status} ${problem.detail ?? text}`,
    );
  }

  async get<T>(path: string): Promise<T> {
    const body: T = JSON.parse(await this.send({ method: 'GET', path }));
    return body;
  }

  /** All pages of a list. */
  async all<T>(path: string): Promise<T[]> {
    const items: T[] = [];
    let cursor: string | null = null;
    do {
      const more: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
      const page: PageBody<T> = await this.get(`${path}${path.includes('?') ? '&' : '?'}limit=500${more}`);
      items.push(...page.items);
      cursor = page.nextCursor;
    } while (cursor !== null);
    return items;
  }

  drives(): Promise<DriveBody[]> {
    return this.all('/v1/drives');
  }

  snapshots(): Promise<SnapshotBody[]> {
    return this.all('/v1/snapshots');
  }

  async exports(): Promise<readonly ExportBody[]> {
    const found: { items: readonly ExportBody[] } = await this.get('/v1/exports');
    return found.items;
  }

  async change(call: Call): Promise<Answer> {
    const answer: Answer = JSON.parse(await this.send(call));
    return answer;
  }

  task(id: string, waitSeconds: number): Promise<TaskBody> {
    return this.get(`/v1/tasks/${id}?wait=${waitSeconds}`);
  }

  activeTasks(): Promise<TaskBody[]> {
    return this.all('/v1/tasks?state=queued&state=running&state=paused');
  }

  tasksOf(objectId: string): Promise<TaskBody[]> {
    return this.all(`/v1/tasks?objectId=${objectId}`);
  }

  tree(driveId: string): Promise<{ current: string | null; nodes: readonly SnapshotNodeBody[] }> {
    return this.get(`/v1/drives/${driveId}/tree`);
  }

  snapshotUsage(id: string): Promise<{
    parts: readonly { driveSnapshotId: string; sizeBytes: number; uniqueBytes: number }[];
  }> {
    return this.get(`/v1/snapshots/${id}/usage`);
  }

  changedBytes(driveId: string, from: string): Promise<{ totalBytes: number }> {
    return this.get(`/v1/drives/${driveId}/changes?from=${from}`);
  }

  async startExport(body: Readonly<Record<string, unknown>>, key?: string): Promise<ExportBody> {
    const served: ExportBody = JSON.parse(
      await this.send({ method: 'POST', path: '/v1/exports', body, ...(key === undefined ? {} : { key }) }),
    );
    return served;
  }

  async stopExport(id: string): Promise<void> {
    await this.send({ method: 'DELETE', path: `/v1/exports/${id}` });
  }

  async doctor(): Promise<readonly Finding[]> {
    const report: { findings: readonly Finding[] } = JSON.parse(
      await this.send({ method: 'POST', path: '/v1/doctor', body: {} }),
    );
    return report.findings;
  }
}

/** Where a served export is reached. */
export function addressOf(served: ExportBody): { path: string; exportName: string } {
  const uri = new URL(served.uri);
  return { path: uri.searchParams.get('socket') ?? '', exportName: served.exportName };
}
