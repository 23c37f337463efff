import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Catalog } from '../catalog/catalog.ts';
import { Authenticator } from './authenticate.ts';
import { bootstrap, localOperator } from './bootstrap.ts';
import { Users } from './users.ts';

const endpoints = { native: 'http://127.0.0.1:7400/v1', cloudsigma: 'http://127.0.0.1:7402/api/2.0' };

let directory: string;
let catalog: Catalog;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calotype-bootstrap-'));
  catalog = await Catalog.open(directory);
});
afterEach(async () => {
  await catalog.close();
  await rm(directory, { recursive: true, force: true });
});

const path = (name = 'access.json'): string => join(directory, name);

async function readAccess(): Promise<unknown> {
  return JSON.parse(await readFile(path(), 'utf8'));
}

async function expectLogin(access: { user: string; password: string; token: string } | null): Promise<void> {
  const authenticator = new Authenticator(catalog);
  for (const name of [access?.user ?? '', 'admin@localhost']) {
    const identity = await authenticator.basic(name, access?.password ?? '', '127.0.0.1');
    expect(identity).toMatchObject({ userName: 'admin', isOperator: true });
    expect(await authenticator.callerFor(identity, { via: 'native' })).toMatchObject({
      projectName: 'default',
      role: 'operator',
    });
  }
  expect(await authenticator.bearer(access?.token ?? '')).toMatchObject({
    userName: 'admin',
    memberships: [{ projectName: 'default', role: 'admin' }],
  });
}

/** Fails the next commit, as a crash before it would. */
function failingCommit(): Catalog {
  return new Proxy(catalog, {
    get(target, property) {
      if (property === 'write') return () => Promise.reject(new Error('power cut'));
      return Reflect.get(target, property, target);
    },
  });
}

test('the first start makes an operator who can log in, and tells how in access.json', async () => {
  const result = await bootstrap(catalog, directory, endpoints);
  expect(result).toMatchObject({ firstStart: true, path: path() });
  expect(await readAccess()).toEqual({
    user: 'admin',
    password: expect.stringMatching(/^[\w-]{24}$/),
    token: expect.stringMatching(/^cal_[\w-]{43}$/),
    project: 'default',
    endpoints,
    cloudmc: { serviceCode: 'compute', environment: 'default' },
  });
  expect(await readAccess()).toEqual(result.access);
  expect((await stat(path())).mode & 0o777).toBe(0o600);
  expect((await readdir(directory)).filter((name) => name.startsWith('access'))).toEqual(['access.json']);
  await expectLogin(result.access);
  const audit = JSON.stringify(await catalog.db.selectFrom('events').selectAll().execute());
  for (const kind of ['project.created', 'user.created', 'member.set', 'token.created']) expect(audit).toContain(kind);
  expect(audit).not.toContain(result.access?.password);
  expect(audit).not.toContain(result.access?.token);
});

test('later starts keep the secrets and bring the endpoints up to date', async () => {
  const first = await bootstrap(catalog, directory, endpoints);
  const before = await stat(path());
  expect(await bootstrap(catalog, directory, endpoints)).toEqual({ ...first, firstStart: false });
  expect((await stat(path())).ino).toBe(before.ino);

  const text = await readFile(path(), 'utf8');
  await writeFile(path(), JSON.stringify({ ...JSON.parse(text), note: 'mine' }), { mode: 0o600 });
  const moved = { native: 'http://127.0.0.1:9400/v1' };
  const later = await bootstrap(catalog, directory, moved);
  expect(later.access).toEqual({ ...first.access, endpoints: moved });
  expect(await readAccess()).toEqual({ ...first.access, endpoints: moved, note: 'mine' });
  expect((await stat(path())).mode & 0o777).toBe(0o600);
  await expectLogin(later.access);
  const named = await bootstrap(catalog, directory, moved, 'edge-services');
  expect(named.access?.cloudmc).toEqual({ serviceCode: 'edge-services', environment: 'default' });
  expect(await readAccess()).toMatchObject({ cloudmc: { serviceCode: 'edge-services' }, note: 'mine' });
});

test('secrets that were deleted are not made again; the operator at the machine resets them', async () => {
  await bootstrap(catalog, directory, endpoints);
  await rm(path());
  expect(await bootstrap(catalog, directory, endpoints)).toEqual({ firstStart: false, path: path(), access: null });
  expect(await readdir(directory)).not.toContain('access.json');
  const authenticator = new Authenticator(catalog);
  const operator = await localOperator(catalog, 'cli');
  if (operator === null) throw new Error('no operator');
  await new Users(catalog, authenticator).setPassword(operator, 'admin', 'another password');
  await authenticator.basic('admin', 'another password', '127.0.0.1');
});

test('a file that is not ours is left alone', async () => {
  await bootstrap(catalog, directory, endpoints);
  for (const text of ['', '{', '"missing"', '[]', '{"user":"admin"}']) {
    await writeFile(path(), text);
    expect((await bootstrap(catalog, directory, { native: 'x' })).access).toBeNull();
    expect(await readFile(path(), 'utf8')).toBe(text);
  }
});

test('a crash before the commit leaves nothing that the next start minds', async () => {
  await expect(bootstrap(failingCommit(), directory, endpoints)).rejects.toThrow('power cut');
  expect(await readdir(directory)).toContain('access.json.pending');
  const result = await bootstrap(catalog, directory, endpoints);
  expect(result.firstStart).toBe(true);
  await expectLogin(result.access);
});

test('a crash between the commit and the rename does not lock the operator out', async () => {
  const first = await bootstrap(catalog, directory, endpoints);
  const text = await readFile(path(), 'utf8');
  await writeFile(path('access.json.pending'), text, { mode: 0o600 });
  // What an earlier catalog in the same place left behind.
  await writeFile(path(), text.replace(first.access?.token ?? '', 'cal_of_another_catalog'));
  const result = await bootstrap(catalog, directory, endpoints);
  expect(result).toEqual({ ...first, firstStart: false });
  expect(await readdir(directory)).not.toContain('access.json.pending');
  await expectLogin(result.access);
});

test('a pending file that was never committed is void', async () => {
  const first = await bootstrap(catalog, directory, endpoints);
  for (const text of ['', '{"user":', JSON.stringify({ ...first.access, token: 'cal_other' })]) {
    await writeFile(path('access.json.pending'), text);
    expect((await bootstrap(catalog, directory, endpoints)).access).toEqual(first.access);
    expect(await readdir(directory)).not.toContain('access.json.pending');
  }
});

test('an empty catalog beside an old access.json is a first start', async () => {
  await writeFile(path(), '{"user":"admin","password":"of another catalog"}', { mode: 0o644 });
  const result = await bootstrap(catalog, directory, endpoints);
  expect(await readAccess()).toEqual(result.access);
  expect((await stat(path())).mode & 0o777).toBe(0o600);
  await expectLogin(result.access);
});
