/** Options and columns that several nouns share. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Change, Drive, Image, Machine, Meta, Snapshot } from '../api-types.ts';
import type { Query } from '../client.ts';
import type { Context } from '../context.ts';
import { CliError, usageError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { paint } from '../io.ts';
import { formatAge, formatSize, parseInteger, parseSize } from '../sizes.ts';
import type { Column } from '../table.ts';
import type { TreeStyle } from '../tree.ts';
import { type ChangeOptions, finishChange, preferWait } from '../wait.ts';

/** A module of src/cli/commands: adds its verbs to the noun. */
export type Register = (noun: Command, ctx: Context) => void;

export interface CreateOptions {
  readonly idempotencyKey?: string;
  readonly refuseExistingName?: boolean;
}

export interface LabelOptions {
  readonly description?: string;
  readonly meta?: readonly string[];
  readonly tag?: readonly string[];
}

export interface ListOptions {
  readonly limit: number;
  readonly count?: boolean;
}

export interface NameFilterOptions {
  readonly name?: string;
  readonly contains?: string;
  readonly like?: string;
  readonly state?: string;
  readonly tag?: string;
  readonly sort?: string;
  readonly order?: string;
}

/** For options that may be given several times. */
export function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}

export const sizeArgument = (text: string): number => parseSize(text);

export function choice(flags: string, description: string, choices: readonly string[]): Option {
  return new Option(flags, description).choices(choices);
}

export function addWaitOption(command: Command): Command {
  return command.option('--no-wait', 'do not wait for the task: print its id');
}

export function addIdempotencyOption(command: Command): Command {
  return command.option(
    '--idempotency-key <key>',
    'find the first attempt when repeated (default: a fresh one)',
    (text) => {
      if (!/^[\x21-\x7e]{1,255}$/.test(text)) throw new InvalidArgumentError('Give 1 to 255 visible ASCII characters.');
      return text;
    },
  );
}

export function addNewNameOption(command: Command): Command {
  return command.option('--refuse-existing-name', 'fail when an object of that name exists');
}

export function addLabelOptions(command: Command): Command {
  return command
    .option('--description <text>', 'what it is for')
    .option('--meta <key=value>', 'metadata, may be repeated', collect)
    .option('--tag <tag>', 'a tag, may be repeated', collect);
}

export function addListOptions(command: Command): Command {
  return command.option(
    '--limit <n>',
    'at most so many (default: all)',
    (text) => parseInteger(text, 'limit', 1),
    Number.POSITIVE_INFINITY,
  );
}

const nameSorts = ['created', 'name', 'state', 'number'];

export function addNameFilters(
  command: Command,
  states: readonly string[],
  moreSorts: readonly string[] = [],
): Command {
  return addListOptions(command)
    .option('--name <name>', 'of exactly this name')
    .option('--contains <text>', 'whose name contains this, in any case')
    .option('--like <pattern>', 'whose name fits: * stands for any characters')
    .addOption(choice('--state <state>', 'in this state', states))
    .option('--tag <tag>', 'with this tag')
    .addOption(choice('--sort <field>', 'sort by', [...nameSorts, ...moreSorts]))
    .addOption(choice('--order <order>', 'sort order', ['asc', 'desc']))
    .option('--count', 'print only how many there are, exactly');
}

export function nameFilterQuery(options: NameFilterOptions): Query {
  return {
    name: options.name,
    nameContains: options.contains,
    nameLike: options.like,
    state: options.state,
    tag: options.tag,
    sort: options.sort,
    order: options.order,
  };
}

/** `--count`. */
export async function printCount(ctx: Context, path: string, query: Query): Promise<void> {
  const page = await ctx.client.get<{ total?: number | null }>(path, { ...query, limit: 1, total: true });
  if (ctx.json) await ctx.printJson({ total: page.total ?? null });
  else await ctx.print(`${page.total ?? 'not known'}\n`);
}

export function parseMeta(pairs: readonly string[]): Meta {
  const meta: Record<string, string> = {};
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    if (at < 1) throw usageError(`'${pair}' is not a KEY=VALUE pair.`);
    meta[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return meta;
}

/** Only what was given. */
export function labelsBody(options: LabelOptions): Record<string, unknown> {
  return {
    ...(options.description === undefined ? {} : { description: options.description }),
    ...(options.meta === undefined ? {} : { meta: parseMeta(options.meta) }),
    ...(options.tag === undefined ? {} : { tags: options.tag }),
  };
}

/** Sends a change that makes a task. */
export async function change(
  ctx: Context,
  method: 'POST' | 'DELETE',
  path: string,
  options: {
    body?: unknown;
    query?: Query;
    create?: CreateOptions;
    wait: ChangeOptions;
    ifVersion?: number | undefined;
  },
  describe: (outcome: Change) => string,
): Promise<void> {
  const answer = await ctx.client.request<Change>(method, path, {
    ...(options.query === undefined ? {} : { query: options.query }),
    ...(options.body === undefined ? {} : { body: options.body }),
    idempotencyKey: options.create?.idempotencyKey,
    headers: {
      ...(options.wait.wait === false ? {} : preferWait),
      ...(options.create?.refuseExistingName === true ? { 'if-none-match': '*' } : {}),
      ...ifMatch(options.ifVersion),
    },
  });
  await finishChange(ctx, answer.body, options.wait, describe);
}

export function ifMatch(version: number | undefined): Record<string, string> {
  return version === undefined ? {} : { 'if-match': `"${version}"` };
}

export function addVersionOption(command: Command): Command {
  return command.option('--if-version <n>', 'only if the object is still at this version', (text) =>
    parseInteger(text, 'version', 0),
  );
}

export interface SetOptions {
  readonly description?: string;
  readonly tag?: readonly string[];
  readonly untag?: readonly string[];
  readonly unset?: readonly string[];
  readonly ifVersion?: number;
}

export function addSetOptions(command: Command): Command {
  return addVersionOption(
    command
      .argument('[key=value...]', 'metadata to set')
      .option('--description <text>', 'replace the description')
      .option('--unset <key>', 'remove this metadata key, may be repeated', collect)
      .option('--tag <tag>', 'add this tag, may be repeated', collect)
      .option('--untag <tag>', 'remove this tag, may be repeated', collect),
  );
}

/**
 * Changes labels, and with `more` other fields, of the object as it was read, and only if nobody else changed it since: the API replaces `meta` and
 * `tags` as wholes. Repeated on the fresh object when somebody was faster.
 */
export async function setLabels<T extends Drive | Machine | Snapshot | Image>(
  ctx: Context,
  path: string,
  first: T,
  pairs: readonly string[],
  options: SetOptions,
  more: Readonly<Record<string, unknown>> = {},
): Promise<T> {
  const given = parseMeta(pairs);
  const { tag, untag, unset, description } = options;
  if (
    pairs.length === 0 &&
    tag === undefined &&
    untag === undefined &&
    unset === undefined &&
    description === undefined &&
    Object.keys(more).length === 0
  ) {
    throw usageError('There is nothing to set.', 'Give KEY=VALUE, or one of the options that --help names.');
  }
  let object = first;
  for (let attempt = 1; ; attempt++) {
    const meta = Object.fromEntries(
      Object.entries({ ...object.meta, ...given }).filter(([key]) => unset?.includes(key) !== true),
    );
    const tags = [...new Set([...object.tags, ...(tag ?? [])])].filter((name) => untag?.includes(name) !== true);
    const body = {
      ...more,
      ...(description === undefined ? {} : { description }),
      ...(pairs.length === 0 && unset === undefined ? {} : { meta }),
      ...(tag === undefined && untag === undefined ? {} : { tags }),
    };
    try {
      const headers = ifMatch(options.ifVersion ?? object.version);
      return (await ctx.client.request<T>('PATCH', path, { body, headers })).body;
    } catch (error) {
      const isStale = error instanceof CliError && error.code === 'precondition_failed';
      if (!isStale || options.ifVersion !== undefined || attempt === 5) throw error;
      object = await ctx.client.get<T>(path);
    }
  }
}

export async function rename<T extends { readonly name: string; readonly id: string }>(
  ctx: Context,
  path: string,
  noun: string,
  name: string,
  ifVersion: number | undefined,
): Promise<void> {
  const { body } = await ctx.client.request<T>('PATCH', path, { body: { name }, headers: ifMatch(ifVersion) });
  if (ctx.json) await ctx.printJson(body);
  else await ctx.print(`Renamed ${noun} ${body.id} to ${body.name}.\n`);
}

/** A DELETE without a task. One that was repeated after a lost answer may find that the first attempt did it. */
export async function remove(ctx: Context, path: string, sentence: string): Promise<void> {
  const { body } = await ctx.client.request<unknown>('DELETE', path);
  if (ctx.json) await ctx.printJson(body);
  else await ctx.print(`${sentence}\n`);
}

export const idColumn: Column<{ readonly id: string }> = { title: 'ID', value: (row) => row.id.slice(0, 8) };

export function ageColumn(ctx: Context): Column<{ readonly createdAt: string }> {
  return { title: 'AGE', align: 'right', value: (row) => formatAge(row.createdAt, ctx.io.now()) };
}

export function treeStyle(ctx: Context): TreeStyle {
  return {
    size: (bytes) => ctx.size(bytes),
    age: (iso) => formatAge(iso, ctx.io.now()),
    dim: (line) => paint(ctx.io, 'dim', line),
    current: (line) => paint(ctx.io, 'green', line),
  };
}

export function stateFormat(state: string): 'green' | 'yellow' | 'red' | null {
  if (state === 'available' || state === 'done') return 'green';
  if (state === 'error' || state === 'failed') return 'red';
  return state === 'cancelled' ? null : 'yellow';
}

export function formatMeta(meta: Meta): string | null {
  const pairs = Object.entries(meta).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? null : pairs.join(', ');
}

export function formatError(error: { code: string; message: string } | null): string | null {
  return error === null ? null : `${error.message} (${error.code})`;
}

/** Null for what the caller may not see: a grant on one object shows no other. */
export async function ifVisible<T>(ctx: Context, path: string): Promise<T | null> {
  try {
    return await ctx.client.get<T>(path);
  } catch (error) {
    if (error instanceof CliError && error.exitCode === exitCodes.notFound) return null;
    throw error;
  }
}

/** What reclaiming came to, from the result of a deletion's task. */
export function freedRemark(result: Readonly<Record<string, unknown>> | null): string {
  const freed = result?.freedBytes;
  const kept = result?.keptBytes;
  const parts = [];
  if (typeof freed === 'number' && freed > 0) parts.push(`${formatSize(freed)} freed`);
  if (typeof kept === 'number' && kept > 0) parts.push(`${formatSize(kept)} still held by others`);
  return parts.length === 0 ? '' : ` (${parts.join(', ')})`;
}

export function notFoundError(detail: string, remedy?: string): CliError {
  return new CliError(exitCodes.notFound, 'not_found', detail, { remedy });
}
