/**
 * The first start: a project, an operator with a random password and token, and `<data>/access.json` that tells them.
 * The file is written as `access.json.pending` before the catalog commits and renamed after, so that a crash between
 * the two leaves the secrets where the next start finds them. Later starts only keep the endpoints up to date.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { addEvent, type Catalog } from '../catalog/catalog.ts';
import type { Caller } from './caller.ts';
import { hashPassword } from './passwords.ts';
import { insertProject } from './projects.ts';
import { hashTokenSecret, insertToken, newTokenSecret } from './tokens.ts';
import { insertUser } from './users.ts';

/** Front door to URL: `native`, `console` and the dialects, only those there are. */
export type Endpoints = Readonly<Record<string, string>>;

/** What access.json holds (DESIGN.md, section 6). */
export interface Access {
  readonly user: string;
  readonly password: string;
  readonly token: string;
  readonly project: string;
  readonly endpoints: Endpoints;
  readonly cloudmc: { readonly serviceCode: string; readonly environment: string };
}

export interface BootstrapResult {
  /** True when this start made the project and the operator. */
  readonly firstStart: boolean;
  readonly path: string;
  /** Null when the file is gone or is not ours to read: its secrets are not made again. */
  readonly access: Access | null;
}

const projectName = 'default';
const operatorName = 'admin';
const operatorEmail = 'admin@localhost';

/**
 * Brings a data directory to where someone can log in; to be called once per start, by the only server of the directory.
 * A crash at any point leaves either nothing, or an operator whose secrets are in access.json after the next start.
 */
export async function bootstrap(
  catalog: Catalog,
  dataDirectory: string,
  endpoints: Endpoints,
  cloudmcServiceCode = 'compute',
): Promise<BootstrapResult> {
  const path = join(dataDirectory, 'access.json');
  const pending = `${path}.pending`;
  const user = await catalog.db.selectFrom('users').select('id').limit(1).executeTakeFirst();
  if (user === undefined) {
    const access = makeAccess(endpoints, cloudmcServiceCode);
    await writeDurably(dataDirectory, pending, access);
    await createOperator(catalog, access);
    await renameDurably(dataDirectory, pending, path);
    return { firstStart: true, path, access };
  }
  await finishPending(catalog, dataDirectory, pending, path);
  return { firstStart: false, path, access: await updateEndpoints(dataDirectory, path, endpoints, cloudmcServiceCode) };
}

/**
 * An operator acting at the machine itself, with access to its files: the way back in when every secret is lost
 * (`calotype serve --reset-password`). Null when there is none, which only a first start can be.
 */
export async function localOperator(catalog: Catalog, via: string): Promise<Caller | null> {
  const user = await catalog.db
    .selectFrom('users')
    .select(['id', 'name'])
    .where('is_operator', '=', 1)
    .where('disabled', '=', 0)
    .orderBy('number')
    .limit(1)
    .executeTakeFirst();
  const project = await catalog.db
    .selectFrom('projects')
    .select(['id', 'name'])
    .orderBy('number')
    .limit(1)
    .executeTakeFirst();
  if (user === undefined || project === undefined) return null;
  return {
    userId: user.id,
    userName: user.name,
    projectId: project.id,
    projectName: project.name,
    role: 'operator',
    via,
  };
}

function makeAccess(endpoints: Endpoints, serviceCode: string): Access {
  return {
    user: operatorName,
    password: randomBytes(18).toString('base64url'),
    token: newTokenSecret(),
    project: projectName,
    endpoints,
    cloudmc: { serviceCode, environment: projectName },
  };
}

async function createOperator(catalog: Catalog, access: Access): Promise<void> {
  const passwordHash = await hashPassword(access.password);
  await catalog.write(async (tx) => {
    const project = await insertProject(tx, access.project);
    const user = await insertUser(tx, { name: access.user, email: operatorEmail, passwordHash, isOperator: true });
    await tx.insertInto('memberships').values({ project_id: project.id, user_id: user.id, role: 'admin' }).execute();
    const token = await insertToken(tx, {
      userId: user.id,
      name: 'access.json',
      secret: access.token,
      expiresAt: null,
    });
    const actor = { userId: null, via: 'bootstrap' };
    await addEvent(tx, {
      ...actor,
      projectId: project.id,
      kind: 'project.created',
      objectKind: 'project',
      objectId: project.id,
      detail: { name: project.name },
    });
    await addEvent(tx, {
      ...actor,
      projectId: null,
      kind: 'user.created',
      objectKind: 'user',
      objectId: user.id,
      detail: { name: user.name, email: user.email, isOperator: true },
    });
    await addEvent(tx, {
      ...actor,
      projectId: project.id,
      kind: 'member.set',
      objectKind: 'project',
      objectId: project.id,
      detail: { user: user.id, role: 'admin' },
    });
    await addEvent(tx, {
      ...actor,
      projectId: null,
      kind: 'token.created',
      objectKind: 'token',
      objectId: token.id,
      detail: { name: token.name, prefix: token.prefix, expiresAt: null, ofUser: user.id },
    });
  });
}

/** A pending file whose token the catalog knows was committed: the crash came before the rename. Any other is void. */
async function finishPending(catalog: Catalog, directory: string, pending: string, path: string): Promise<void> {
  const found = await readJson(pending);
  if (found === 'missing') return;
  const token = isRecord(found) && typeof found.token === 'string' ? found.token : '';
  const row = await catalog.db
    .selectFrom('tokens')
    .select('id')
    .where('hash', '=', hashTokenSecret(token))
    .executeTakeFirst();
  if (row === undefined) await rm(pending, { force: true });
  else await renameDurably(directory, pending, path);
}

/** Reads access.json and, if the endpoints or CloudMC's service code have changed, writes it again with only them changed. */
async function updateEndpoints(
  directory: string,
  path: string,
  endpoints: Endpoints,
  serviceCode: string,
): Promise<Access | null> {
  const found = await readJson(path);
  if (!isRecord(found)) return null;
  const access = parseAccess(found, endpoints);
  if (access === null) return null;
  const cloudmc = { ...access.cloudmc, serviceCode };
  const moved = JSON.stringify(found.endpoints) !== JSON.stringify(endpoints);
  if (moved || access.cloudmc.serviceCode !== serviceCode) {
    const next = `${path}.tmp`;
    await writeDurably(directory, next, { ...found, endpoints, cloudmc });
    await renameDurably(directory, next, path);
  }
  return { ...access, cloudmc };
}

function parseAccess(found: Readonly<Record<string, unknown>>, endpoints: Endpoints): Access | null {
  const { user, password, token, project, cloudmc } = found;
  if (typeof user !== 'string' || typeof password !== 'string') return null;
  if (typeof token !== 'string' || typeof project !== 'string') return null;
  if (!isRecord(cloudmc)) return null;
  const { serviceCode, environment } = cloudmc;
  if (typeof serviceCode !== 'string' || typeof environment !== 'string') return null;
  return { user, password, token, project, endpoints, cloudmc: { serviceCode, environment } };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The file's value; undefined when it is no JSON, for instance cut short by a crash. */
async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 'missing';
    throw error;
  }
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A new file that only its owner can read, on disk when this resolves. */
async function writeDurably(directory: string, path: string, value: unknown): Promise<void> {
  await rm(path, { force: true });
  const file = await open(path, 'wx', 0o600);
  try {
    await file.chmod(0o600);
    await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await syncDirectory(directory);
}

async function renameDurably(directory: string, from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncDirectory(directory);
}

async function syncDirectory(path: string): Promise<void> {
  const directory: FileHandle = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
