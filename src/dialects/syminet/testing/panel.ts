/** Speaks to the Syminet API as scripts do, and holds every answer to its schema, failures included. */

import { setTimeout as delay } from 'node:timers/promises';
import type { TSchema } from 'typebox';
import { Compile, type Validator } from 'typebox/schema';
import { expect } from 'vitest';
import { type Answer, type Call, DialectRig } from '../../../../test/support/dialect-rig.ts';
import { tidyUrl } from '../parse.ts';
import {
  acceptedAnswer,
  backup,
  distEntry,
  errorAnswer,
  image,
  imageOfSlice,
  listOf,
  pageOf,
  regionEntry,
  sizeGroups,
  slice,
  user,
  userPerms,
  volume,
} from '../schemas.ts';

const compiled = (schema: TSchema) => Compile(schema);

/** By what was asked for, the first that fits. */
const answers: readonly (readonly [RegExp, Validator])[] = [
  [/^\/images$/, compiled(pageOf(image))],
  [/^\/images\/snapshots\/[^/]+$/, compiled(listOf(imageOfSlice))],
  [/^\/(backups\/[^/]+|slices\/[^/]+\/backups)$/, compiled(listOf(backup))],
  [/^\/slices\/regions$/, compiled(listOf(regionEntry))],
  [/^\/slices\/dists$/, compiled(listOf(distEntry))],
  [/^\/slices\/sizes$/, compiled(sizeGroups)],
  [/^\/slices$/, compiled(pageOf(slice))],
  [/^\/slices\/[^/]+$/, compiled(slice)],
  [/^\/volumes$/, compiled(pageOf(volume))],
  [/^\/volumes\/[^/]+$/, compiled(volume)],
  [/^\/users\/[^/]+$/, compiled(user)],
  [/^\/users\/[^/]+\/perms$/, compiled(userPerms)],
];
const accepted = compiled(acceptedAnswer);
const failed = compiled(errorAnswer);

/** @throws when the answer is not of the published form */
export function checkAnswer(method: string, path: string, answer: Answer): void {
  const what = `${method} ${path}: ${answer.status} ${answer.text}`;
  expect(answer.headers['content-type'], what).toBe('application/json; charset=utf-8');
  if (method === 'HEAD') return;
  const plain = tidyUrl(path).replace(/\?.*$/s, '');
  const known = answers.find(([pattern]) => pattern.test(plain))?.[1];
  const validator = answer.status >= 400 ? failed : answer.status === 202 ? accepted : known;
  if (validator === undefined) throw new Error(`No schema for ${what}`);
  const [isValid, problems] = validator.Errors(answer.json);
  expect(isValid ? [] : problems, what).toEqual([]);
}

type SnapshotBody = Awaited<ReturnType<DialectRig['snapshot']>>;

export class Panel implements AsyncDisposable {
  readonly rig: DialectRig;
  #token: string;

  private constructor(rig: DialectRig) {
    this.rig = rig;
    this.#token = rig.admin.token;
  }

  static async start(): Promise<Panel> {
    return new Panel(await DialectRig.start());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
  }

  /** A path below `/api/v1`, by default with the operator's token; `null` sends none. */
  async call(
    method: string,
    path: string,
    options: { token?: string | null; body?: Call['body']; headers?: Call['headers'] } = {},
  ): Promise<Answer> {
    const { token = this.#token, body, headers } = options;
    const answer = await this.rig.send('syminet', {
      method,
      path: `/api/v1${path}`,
      headers: { ...(token === null ? {} : { authorization: `bearer ${token}` }), ...headers },
      ...(body === undefined ? {} : { body }),
    });
    checkAnswer(method, path, answer);
    return answer;
  }

  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
  async get(path: string, token?: string | null): Promise<any> {
    const answer = await this.call('GET', path, token === undefined ? {} : { token });
    expect(answer.status, `${path}: ${answer.text}`).toBe(200);
    return answer.json;
  }

  /** A change that is accepted. */
  async change(method: string, path: string, body?: Call['body'], token?: string): Promise<void> {
    const options = { ...(body === undefined ? {} : { body }), ...(token === undefined ? {} : { token }) };
    const answer = await this.call(method, path, options);
    expect({ status: answer.status, body: answer.text }, path).toEqual({ status: 202, body: '{"status":"OK"}' });
  }

  /** A slice that is off, with one disk per size. */
  async slice(name: string, diskBytes: readonly number[], token?: string): Promise<Slice> {
    const drives = [];
    for (const [at, sizeBytes] of diskBytes.entries()) {
      drives.push(await this.rig.drive(`${name}-${at}`, sizeBytes, token));
    }
    const ids = drives.map((drive) => drive.id);
    const machine = await this.rig.machine(name, ids, {}, token);
    return { id: machine.number, machineId: machine.id, driveIds: ids, volumeIds: drives.map((drive) => drive.number) };
  }

  /** Takes a snapshot as scripts do: asks, then looks for it by name until nothing is in progress. */
  async snapshot(slice: Slice, name: string, token?: string): Promise<number> {
    await this.change('POST', `/images/snapshots/${slice.id}/create`, { snapshot_name: name }, token);
    return this.finished(name, token);
  }

  /** Waits as scripts do for the only snapshot of a name. @returns its id */
  async finished(name: string, token?: string): Promise<number> {
    for (;;) {
      const { data } = await this.get(`/images?query=${encodeURIComponent(name)}`, token);
      const entry = data.find((known: { name: string }) => known.name === name);
      if (entry?.in_progress === null) return entry.id;
      await delay(10);
    }
  }

  /** The same snapshot on the native API. */
  async native(number: number): Promise<SnapshotBody> {
    const { items } = await this.rig.native('GET', '/snapshots?limit=1000');
    return items.find((item: SnapshotBody) => item.number === number);
  }
}

export interface Slice {
  readonly id: number;
  readonly machineId: string;
  readonly driveIds: readonly string[];
  readonly volumeIds: readonly number[];
}
