/** What a guest of a project may do with a machine that it was granted, over HTTP: look with `ro`, run it with `rw`. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { MachineBody, SnapshotBody, TaskBody } from '../src/http/schemas.ts';
import { type LocalServer, startLocalServer } from './support/local-server.ts';

const MiB = 1024 * 1024;
let directory = '';
let server: LocalServer;
let secret = '';
let grantee = '';
let machine = '';
let snapshot = '';
let drive = '';

interface Answer {
  readonly id: string;
  readonly code: string;
  readonly secret: string;
  readonly items: readonly { readonly id: string }[];
  readonly power: string;
  readonly task: TaskBody;
  readonly machine: MachineBody;
  readonly snapshot: SnapshotBody;
}

async function call(
  token: string,
  method: string,
  path: string,
  body?: object,
): Promise<{ status: number; body: Answer }> {
  const response = await fetch(`${server.access.url}/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      prefer: 'wait=60',
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, body: text.startsWith('{') ? JSON.parse(text) : {} };
}
const admin = (method: string, path: string, body?: object) => call(server.access.token, method, path, body);
const guest = (method: string, path: string, body?: object) => call(secret, method, path, body);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calomg-'));
  server = await startLocalServer(join(directory, 'data'), join(directory, 'log'));
  grantee = (await admin('POST', '/users', { name: 'gwen', email: 'gwen@example.net' })).body.id;
  expect((await admin('PUT', `/projects/default/members/${grantee}`, { role: 'guest' })).status).toBe(200);
  secret = (await admin('POST', '/tokens', { name: 'gwen', user: grantee })).body.secret;
  drive = (await admin('POST', '/drives', { name: 'd', sizeBytes: MiB })).body.task.objectId ?? '';
  const made = { name: 'm', memoryBytes: 64 * MiB, drives: [{ driveId: drive }] };
  machine = (await admin('POST', '/machines', made)).body.machine.id;
  await admin('POST', '/machines', { name: 'other', memoryBytes: 64 * MiB });
  snapshot = (await admin('POST', '/snapshots', { machineId: machine, name: 's' })).body.snapshot.id;
});
afterAll(async () => {
  await admin('POST', `/machines/${machine}/stop`, { mode: 'power' });
  await server.destroy();
  await rm(directory, { recursive: true, force: true });
});

const grant = async (access: 'ro' | 'rw'): Promise<string> => {
  const made = await admin('POST', '/grants', { user: grantee, machineId: machine, access });
  expect(made.status).toBe(201);
  return made.body.id;
};

/** Everything that changes a machine or its snapshots. */
const changes = (): readonly (readonly [string, string, object?])[] => [
  ['PATCH', `/machines/${machine}`, { description: 'mine' }],
  ['POST', `/machines/${machine}/start`, {}],
  ['POST', `/machines/${machine}/stop`, { mode: 'power' }],
  ['POST', `/machines/${machine}/drives`, { driveId: drive }],
  ['DELETE', `/machines/${machine}/drives/${drive}`],
  ['POST', '/snapshots', { machineId: machine }],
  ['POST', `/snapshots/${snapshot}/revert`, {}],
  ['DELETE', `/snapshots/${snapshot}`],
  ['DELETE', `/machines/${machine}?snapshots=delete`],
];

test('without a grant a machine is not there', async () => {
  expect((await guest('GET', '/machines')).body.items).toEqual([]);
  for (const [method, path, body] of [['GET', `/machines/${machine}`] as const, ...changes()]) {
    const answer = await guest(method, path, body);
    expect(answer, `${method} ${path}`).toMatchObject({ status: 404, body: { code: 'not_found' } });
  }
});

test('with ro it is seen with its snapshots, and not changed', async () => {
  const id = await grant('ro');
  expect((await guest('GET', '/machines')).body.items).toMatchObject([{ id: machine }]);
  expect((await guest('GET', `/machines/${machine}`)).status).toBe(200);
  expect((await guest('GET', `/machines/${machine}/serial?from=0`)).status).toBe(200);
  expect((await guest('GET', `/snapshots?machineId=${machine}`)).body.items).toMatchObject([{ id: snapshot }]);
  for (const [method, path, body] of changes()) {
    const answer = await guest(method, path, body);
    expect(answer, `${method} ${path}`).toMatchObject({ status: 403, body: { code: 'forbidden' } });
  }
  const clone = await guest('POST', `/snapshots/${snapshot}/clone-machine`, { name: 'mine' });
  expect(clone).toMatchObject({ status: 403, body: { code: 'forbidden' } });
  const unchanged = await admin('GET', `/machines/${machine}`);
  expect(unchanged.body).toMatchObject({ power: 'off', description: '', snapshotCount: 1 });
  expect((await admin('DELETE', `/grants/${id}`)).status).toBe(204);
  expect((await guest('GET', `/machines/${machine}`)).status).toBe(404);
});

test('with rw it is run, and its snapshots are taken and deleted', async () => {
  await grant('rw');
  expect((await guest('POST', `/machines/${machine}/start`, {})).body.task).toMatchObject({ state: 'done' });
  expect((await guest('GET', `/machines/${machine}`)).body.power).toBe('running');
  const taken = await guest('POST', '/snapshots', { machineId: machine, memory: true });
  expect(taken).toMatchObject({ status: 201, body: { snapshot: { state: 'available', consistency: 'memory' } } });
  expect((await guest('DELETE', `/snapshots/${taken.body.snapshot.id}`)).status).toBe(200);
  expect((await guest('POST', `/machines/${machine}/stop`, { mode: 'power' })).status).toBe(200);
  const others = (await admin('GET', '/machines?name=other')).body.items;
  expect((await guest('GET', `/machines/${others[0]?.id}`)).status).toBe(404);
});
