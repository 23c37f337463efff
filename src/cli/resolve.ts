/** From what people type to an object: a full id, an exact name, or the beginning of an id (6 characters or more). */
import type {
  Drive,
  DriveExport,
  DriveSnapshot,
  Grant,
  Image,
  Machine,
  Project,
  Snapshot,
  Task,
  Token,
  User,
} from './api-types.ts';
import type { Query } from './client.ts';
import type { Context } from './context.ts';
import { CliError, usageError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';

interface Kind {
  readonly noun: string;
  readonly path: string;
  /** The list takes `name=`. */
  readonly hasNameFilter?: true;
  /** GET of one object takes a name as well as an id. */
  readonly getsByName?: true;
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const prefixPattern = /^[0-9a-f][0-9a-f-]{5,34}$/i;

interface Found {
  readonly id: string;
  readonly name?: string;
  readonly createdAt?: string;
  readonly parts?: readonly DriveSnapshot[];
}

async function resolve<T extends Found>(ctx: Context, kind: Kind, text: string, narrow: Query = {}): Promise<T> {
  if (text === '') throw usageError(`The ${kind.noun} is empty.`, 'Give its name or id.');
  if (uuidPattern.test(text) && Object.keys(narrow).length === 0) {
    return ctx.client.get<T>(`${kind.path}/${text.toLowerCase()}`);
  }
  if (kind.getsByName) {
    try {
      return await ctx.client.get<T>(`${kind.path}/${encodeURIComponent(text)}`);
    } catch (error) {
      if (!(error instanceof CliError) || error.exitCode !== exitCodes.notFound) throw error;
      if (!prefixPattern.test(text)) throw notFound(kind, text);
    }
  }
  const matches = await findMatches<T>(ctx, kind, text, narrow);
  const [first] = matches;
  if (first === undefined) throw notFound(kind, text);
  if (matches.length > 1) throw ambiguous(kind, text, matches);
  return first;
}

/** A name comes before an id prefix: it is what was typed, to the letter. */
async function findMatches<T extends Found>(
  ctx: Context,
  kind: Kind,
  text: string,
  narrow: Query,
): Promise<readonly T[]> {
  const isPrefix = prefixPattern.test(text) || uuidPattern.test(text);
  if (kind.hasNameFilter && !uuidPattern.test(text)) {
    for await (const items of ctx.client.pages<T>(kind.path, { ...narrow, name: text }, 20)) {
      if (items.length > 0) return items;
      break;
    }
    if (!isPrefix) return [];
  }
  const prefix = text.toLowerCase();
  const named: T[] = [];
  const prefixed: T[] = [];
  for await (const items of ctx.client.pages<T>(kind.path, narrow, Number.POSITIVE_INFINITY)) {
    for (const item of items) {
      if (item.name === text) named.push(item);
      const ids = [item.id, ...(item.parts ?? []).map((part) => part.id)];
      if (isPrefix && ids.some((id) => id.startsWith(prefix))) prefixed.push(item);
    }
  }
  return named.length > 0 ? named : prefixed;
}

function notFound(kind: Kind, text: string): CliError {
  return new CliError(exitCodes.notFound, 'not_found', `There is no ${kind.noun} '${text}'.`, {
    remedy: `See what there is: calotype ${kind.noun} list.`,
  });
}

function ambiguous(kind: Kind, text: string, matches: readonly Found[]): CliError {
  const shown = matches.slice(0, 10).map((match) => {
    const drives = match.parts?.map((part) => part.driveName).join(', ');
    const about = [match.name, drives === undefined ? undefined : `of ${drives}`, match.createdAt].filter(Boolean);
    return `  ${match.id}  ${about.join('  ')}`;
  });
  if (matches.length > shown.length) shown.push('  …');
  return new CliError(
    exitCodes.conflict,
    'ambiguous',
    `'${text}' stands for more than one ${kind.noun}:\n${shown.join('\n')}`,
    {
      remedy: kind.noun === 'snapshot' ? 'Give the id, or narrow it down with --drive or --machine.' : 'Give the id.',
    },
  );
}

const drives: Kind = { noun: 'drive', path: '/drives', hasNameFilter: true };
const machines: Kind = { noun: 'machine', path: '/machines', hasNameFilter: true };
const images: Kind = { noun: 'image', path: '/images', hasNameFilter: true };
const snapshots: Kind = { noun: 'snapshot', path: '/snapshots', hasNameFilter: true };

export const resolveDrive = (ctx: Context, text: string) => resolve<Drive>(ctx, drives, text);
export const resolveMachine = (ctx: Context, text: string) => resolve<Machine>(ctx, machines, text);
export const resolveImage = (ctx: Context, text: string) => resolve<Image>(ctx, images, text);
export const resolveTask = (ctx: Context, text: string) => resolve<Task>(ctx, { noun: 'task', path: '/tasks' }, text);
export const resolveProject = (ctx: Context, text: string) =>
  resolve<Project>(ctx, { noun: 'project', path: '/projects', getsByName: true }, text);
export const resolveUser = (ctx: Context, text: string) =>
  resolve<User>(ctx, { noun: 'user', path: '/users', getsByName: true }, text);
export const resolveToken = (ctx: Context, text: string, user?: string) =>
  resolve<Token>(ctx, { noun: 'token', path: '/tokens' }, text, user === undefined ? {} : { user });
export const resolveGrant = (ctx: Context, text: string) =>
  resolve<Grant>(ctx, { noun: 'grant', path: '/grants' }, text);

/** Also by the name of its drive, when that has only one export. */
export async function resolveExport(ctx: Context, text: string): Promise<DriveExport> {
  const kind: Kind = { noun: 'export', path: '/exports' };
  if (uuidPattern.test(text)) return resolve(ctx, kind, text);
  const { items } = await ctx.client.get<{ items: readonly DriveExport[] }>('/exports');
  let matches = prefixPattern.test(text) ? items.filter((item) => item.id.startsWith(text.toLowerCase())) : [];
  if (matches.length === 0) {
    const drives = await ctx.client.get<{ items: readonly Drive[] }>('/drives', { name: text });
    matches = items.filter((item) => drives.items.some((drive) => drive.id === item.driveId));
  }
  const [only] = matches;
  if (only === undefined) throw notFound(kind, text);
  if (matches.length > 1) throw ambiguous(kind, text, matches);
  return only;
}

/** `narrow`: only snapshots that cover that drive, or are of that machine; the id of a drive snapshot is then understood too. */
export function resolveSnapshot(
  ctx: Context,
  text: string,
  narrow: { readonly driveId?: string; readonly machineId?: string } = {},
): Promise<Snapshot> {
  return resolve<Snapshot>(ctx, snapshots, text, narrow);
}

/** With `--drive` and `--machine`. */
export async function resolveSnapshotOption(
  ctx: Context,
  text: string,
  options: { readonly drive?: string; readonly machine?: string },
): Promise<Snapshot> {
  const { drive, machine } = options;
  return resolveSnapshot(ctx, text, {
    ...(drive === undefined ? {} : { driveId: (await resolveDrive(ctx, drive)).id }),
    ...(machine === undefined ? {} : { machineId: (await resolveMachine(ctx, machine)).id }),
  });
}

/** The part that `text` names (its id, or its drive's id or name); the only one when `text` is left out. */
export function choosePart(snapshot: Snapshot, text: string | undefined): DriveSnapshot {
  const { parts } = snapshot;
  const list = parts.map((part) => `  ${part.id}  ${part.driveName}`).join('\n');
  if (text === undefined) {
    const [only] = parts;
    if (only !== undefined && parts.length === 1) return only;
    throw usageError(`Snapshot '${snapshot.name}' has ${parts.length} parts:\n${list}`, 'Name one with --part DRIVE.');
  }
  const prefix = prefixPattern.test(text) ? text.toLowerCase() : text;
  const named = parts.filter((part) => part.driveName === text);
  const matches =
    named.length > 0 ? named : parts.filter((part) => part.id.startsWith(prefix) || part.driveId.startsWith(prefix));
  const [first] = matches;
  if (first !== undefined && matches.length === 1) return first;
  throw new CliError(
    first === undefined ? exitCodes.notFound : exitCodes.conflict,
    first === undefined ? 'not_found' : 'ambiguous',
    `'${text}' names ${first === undefined ? 'no part' : 'more than one part'} of snapshot '${snapshot.name}':\n${list}`,
    { remedy: 'Give the id of one.' },
  );
}

/** The point in time of one drive that `text` names: a snapshot covering it, or one of its drive snapshots. */
export async function resolvePartOfDrive(ctx: Context, text: string, driveId: string): Promise<DriveSnapshot> {
  const snapshot = await resolveSnapshot(ctx, text, { driveId });
  const prefix = text.toLowerCase();
  const part =
    snapshot.parts.find(
      (candidate) => prefixPattern.test(text) && candidate.id.startsWith(prefix) && candidate.driveId === driveId,
    ) ?? snapshot.parts.find((candidate) => candidate.driveId === driveId);
  if (part === undefined) throw notFound(snapshots, text);
  return part;
}

/** Where a comparison starts: a point of the same drive or, for a clone, of the drive it came from. */
export async function resolveFrom(ctx: Context, text: string, driveId: string): Promise<DriveSnapshot> {
  try {
    return await resolvePartOfDrive(ctx, text, driveId);
  } catch (error) {
    if (!(error instanceof CliError) || error.exitCode !== exitCodes.notFound) throw error;
    return choosePart(await resolveSnapshot(ctx, text), undefined);
  }
}
