/** A whole server with a real engine and all dialects, for tests that speak to it over HTTP as clients do. */
import { mkdtemp, rm } from 'node:fs/promises';
import { type IncomingHttpHeaders, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Catalog } from '../../src/catalog/catalog.ts';
import type { DialectName } from '../../src/dialects/dialect.ts';
import type { DriveBody, MachineBody, SnapshotBody } from '../../src/http/schemas.ts';
import { NbdClient } from '../../src/qemu/nbd-client.ts';
import { type LocalServer, startLocalServer } from './local-server.ts';

export const MiB = 1024 * 1024;

/** JSON of which a test says what it expects. */
// biome-ignore lint/suspicious/noExplicitAny: it is looked into at will
export type Loose = Record<string, any>;

export interface Answer {
  readonly status: number;
  /** The reason phrase. */
  readonly reason: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The body as JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
  readonly json: any;
}

export interface Call {
  readonly method?: string;
  /** Raw, from the root of the listener: sent as it is. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** An object is sent as JSON. */
  readonly body?: string | Buffer | object;
}

export interface Person {
  readonly id: string;
  readonly name: string;
  readonly email: string;
  readonly password: string;
  readonly token: string;
}

export class DialectRig implements AsyncDisposable {
  readonly #directory: string;
  readonly #server: LocalServer;
  readonly admin: Person;

  private constructor(directory: string, server: LocalServer) {
    this.#directory = directory;
    this.#server = server;
    const { token } = server.access;
    this.admin = { id: 'me', name: 'admin', email: 'admin@localhost', password: server.password, token };
  }

  /** Every route of a dialect. */
  routesOf(door: DialectName): readonly { readonly method: string; readonly url: string }[] {
    return this.#server.server.dialects.find(({ dialect }) => dialect.name === door)?.routes ?? [];
  }

  /** The catalog of the server, to look at. */
  get catalog(): Catalog {
    return this.#server.server.catalog;
  }

  static async start(): Promise<DialectRig> {
    const directory = await mkdtemp(join(tmpdir(), 'calotype-dialect-'));
    return new DialectRig(directory, await startLocalServer(join(directory, 'data'), join(directory, 'log')));
  }

  /** Where the server looks for kernels. */
  get bootDirectory(): string {
    return join(this.#directory, 'data', 'boot');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.destroy();
    await rm(this.#directory, { recursive: true, force: true });
  }

  /** Where a front door listens, without a path: `http://127.0.0.1:40123`. */
  origin(door: DialectName | 'native'): string {
    return new URL(this.#server.endpoints[door] ?? '').origin;
  }

  /** Sends a request as it is: no path is tidied up, no header added but Host and Content-Length. */
  async send(door: DialectName | 'native', call: Call): Promise<Answer> {
    const { hostname, port } = new URL(this.origin(door));
    const isData = call.body === undefined || typeof call.body === 'string' || Buffer.isBuffer(call.body);
    const body = isData ? (call.body as string | Buffer | undefined) : JSON.stringify(call.body);
    const headers: Record<string, string> = {
      ...(isData ? {} : { 'content-type': 'application/json' }),
      ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
      ...call.headers,
    };
    return new Promise((resolve, reject) => {
      const sent = request({ hostname, port, method: call.method ?? 'GET', path: call.path, headers }, (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('error', reject);
        answer.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          const { statusCode = 0, statusMessage = '' } = answer;
          resolve({
            status: statusCode,
            reason: statusMessage,
            headers: answer.headers,
            text,
            get json() {
              return JSON.parse(text);
            },
          });
        });
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }

  /** The native API, by default as the operator; changes are waited for. @throws what was refused, or failed */
  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
  async native(method: string, path: string, body?: object, token: string = this.admin.token): Promise<any> {
    const answer = await this.send('native', {
      method,
      path: `/v1${path}`,
      headers: { authorization: `Bearer ${token}`, prefer: 'wait=60' },
      ...(body === undefined ? {} : { body }),
    });
    if (answer.status >= 400) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    return answer.text === '' ? undefined : answer.json;
  }

  async drive(name: string, sizeBytes = 16 * MiB, token?: string): Promise<DriveBody> {
    const { drive } = await this.native('POST', '/drives', { name, sizeBytes }, token);
    return this.native('GET', `/drives/${drive.id}`, undefined, token);
  }

  /** A machine that is off, with these drives. */
  async machine(
    name: string,
    driveIds: readonly string[],
    options: { kind?: 'vm' | 'instance'; memoryBytes?: number } = {},
    token?: string,
  ): Promise<MachineBody> {
    const drives = driveIds.map((driveId) => ({ driveId }));
    const input = { name, memoryBytes: 64 * MiB, drives, ...options };
    const { machine } = await this.native('POST', '/machines', input, token);
    return this.native('GET', `/machines/${machine.id}`, undefined, token);
  }

  /** Of drives or of a machine. */
  async snapshot(of: { driveIds: readonly string[] } | { machineId: string }, name?: string): Promise<SnapshotBody> {
    const { snapshot } = await this.native('POST', '/snapshots', { ...of, ...(name === undefined ? {} : { name }) });
    return this.native('GET', `/snapshots/${snapshot.id}`);
  }

  /** Writes to a drive that no machine runs on, as an NBD client does. */
  async write(driveId: string, offset: number, data: Buffer): Promise<void> {
    const made = await this.native('POST', '/exports', { driveId, writable: true });
    try {
      const uri = new URL(made.uri);
      const address = { kind: 'unix' as const, path: uri.searchParams.get('socket') ?? '' };
      const client = await NbdClient.connect(address, { exportName: made.exportName });
      await client.write(offset, data);
      await client.flush();
      await client.close();
    } finally {
      await this.native('DELETE', `/exports/${made.id}`);
    }
  }

  /** All of a drive that no machine runs on. */
  async read(driveId: string): Promise<Buffer> {
    const answer = await fetch(`${this.origin('native')}/v1/drives/${driveId}/download?format=raw`, {
      headers: { authorization: `Bearer ${this.admin.token}` },
    });
    if (!answer.ok) throw new Error(await answer.text());
    return Buffer.from(await answer.arrayBuffer());
  }

  /** A user of a project, with a password and a token. */
  async person(name: string, role: 'admin' | 'member' | 'guest', project = 'default'): Promise<Person> {
    const password = `secret of ${name}`;
    const email = `${name}@example.net`;
    const user = await this.native('POST', '/users', { name, email, password });
    await this.native('PUT', `/projects/${project}/members/${name}`, { role });
    const { secret } = await this.native('POST', '/tokens', { name: 'test', user: name });
    return { id: user.id, name, email, password, token: secret };
  }

  async grant(user: string, on: { machineId: string } | { driveId: string } | { snapshotId: string }, access = 'rw') {
    await this.native('POST', '/grants', { user, access, ...on });
  }

  /** Waits until no task is under way. */
  async settled(): Promise<void> {
    for (;;) {
      const { items } = await this.native('GET', '/tasks?state=queued&state=running&state=paused');
      if (items.length === 0) return;
      await delay(10);
    }
  }
}

export function basic(person: Pick<Person, 'name' | 'password'>): Record<string, string> {
  return { authorization: `Basic ${Buffer.from(`${person.name}:${person.password}`).toString('base64')}` };
}
