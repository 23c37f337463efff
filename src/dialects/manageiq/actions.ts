/** What the actions of all collections share: single and bulk requests, their answers, and what they are called. */
import { CalotypeError } from '../../core/errors.ts';
import type { QueryKind } from '../../core/query.ts';
import type { QueriedObjects } from '../../service/interface.ts';
import type { Env } from './attributes.ts';
import { isRefusal, refuse } from './errors.ts';
import { isBlank, type Params, type Resources } from './parse.ts';
import { type ActionResult, refused } from './present.ts';
import { type Resource, select, show } from './resources.ts';

export interface Answer {
  readonly status: number;
  /** Null for none at all. */
  readonly body: unknown;
}

/** An answer whose text was made before. */
export interface MadeAnswer {
  readonly status: 200;
  readonly text: string;
}

export const noContent: Answer = { status: 204, body: null };

export function ok(body: unknown): Answer {
  return { status: 200, body };
}

/** The answer to an action on one resource at its own address. */
export function answerOne(result: ActionResult): Answer {
  return { status: result.success ? 200 : 400, body: result };
}

/** The answer at a collection: in bulk, failures show only inside. */
export function answerAll(results: readonly (ActionResult | null)[], bulk: boolean): Answer {
  const [first] = results;
  return { status: bulk || first?.success !== false ? 200 : 400, body: { results } };
}

/** @throws invalid_request when there is nothing to do it to */
export function assertSome({ items }: Resources, collection: string, action: string): void {
  if (items.every(isBlank)) throw refuse(`No ${collection} resources were specified for the ${action} action`);
}

export function unsupported(action: string, name: string, target: 'collection' | 'resource'): CalotypeError {
  return refuse(`Unsupported Action ${action} for the ${name} ${target} specified`);
}

/** What the role or the rights of the caller do not allow. */
export function forbiddenAction(action: string): CalotypeError {
  return new CalotypeError('forbidden', `Use of Action ${action} is forbidden`);
}

/** Deletes as the method says, and no action: that it is not allowed is told in other words. */
export async function byMethod<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isForbidden = error instanceof CalotypeError && error.code === 'forbidden';
    throw isForbidden ? new CalotypeError('forbidden', 'Use of the delete action is forbidden') : error;
  }
}

/** A refusal is the answer. Whatever else fails is the request's failure. */
export async function attempt(action: string, work: () => Promise<ActionResult>): Promise<ActionResult> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CalotypeError)) throw error;
    if (isRefusal(error)) return refused(error.message);
    throw error.code === 'forbidden' ? forbiddenAction(action) : error;
  }
}

/** One after the other, in the order of the request; blank entries stay blank. */
export async function inOrder<T>(
  items: readonly T[],
  work: (item: T) => Promise<ActionResult>,
): Promise<(ActionResult | null)[]> {
  const results: (ActionResult | null)[] = [];
  for (const item of items) results.push(isBlank(item) ? null : await work(item));
  return results;
}

/** As `attempt`, for one of many: that it is missing or not the caller's to change is told for it alone. */
export async function attemptInBulk(
  action: string,
  bulk: boolean,
  work: () => Promise<ActionResult>,
): Promise<ActionResult> {
  try {
    return await attempt(action, work);
  } catch (error) {
    const isOfOne = error instanceof CalotypeError && (error.status === 403 || error.status === 404);
    if (bulk && isOfOne) return refused(error.message);
    throw error;
  }
}

/** The caller, with what the work is called in the list of tasks. */
export function titled({ caller }: Env, taskTitle: string): Env['caller'] {
  return { ...caller, taskTitle };
}

/** Text, or a number written as text. @throws invalid_request */
export function textOf(field: string, value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  throw refuse(`The ${field} must be text`);
}

/** @throws invalid_request */
export function flagOf(field: string, value: unknown): boolean {
  if (value === true || value === 'true') return true;
  if (value === false || value === 'false' || isBlank(value)) return false;
  throw refuse(`The ${field} must be true or false`);
}

/** `query`: several resources in full, in the order of the request. @throws not_found when `find` finds one missing */
export async function lookUp<K extends QueryKind, T>(
  resource: Resource<K, T>,
  env: Env,
  items: readonly unknown[],
  params: Params,
  find: (item: unknown) => Promise<QueriedObjects[K]>,
): Promise<Answer> {
  const selection = select(resource, params.attributes);
  const objects: QueriedObjects[K][] = [];
  for (const item of items) if (!isBlank(item)) objects.push(await find(item));
  const views = await resource.view(objects, env);
  return ok({ results: await show(resource, views, env, selection, params.expand) });
}
