/** How values and the answers to actions are written. (results.rb, normalizer.rb of ManageIQ/manageiq-api) */
import type { Task } from '../../core/model.ts';

/** µs as the dialect writes times: ISO 8601 in UTC, whole seconds. */
export function timeOf(us: number): string {
  return `${new Date(us / 1000).toISOString().slice(0, 19)}Z`;
}

export function timeOrNull(us: number | null): string | null {
  return us === null ? null : timeOf(us);
}

export function idOrNull(number: number | null | undefined): string | null {
  return number === null || number === undefined ? null : String(number);
}

export function textOrNull(text: string): string | null {
  return text === '' ? null : text;
}

/** What an action answers. One that failed has status 400, and still no `error`: clients tell the two apart by it. */
export interface ActionResult {
  readonly success: boolean;
  readonly message: string;
  readonly task_id?: string;
  readonly task_href?: string;
  readonly href?: string;
}

/** The work is under way. */
export function begun(api: string, message: string, task: Task, href?: string): ActionResult {
  const result = {
    success: true,
    message,
    task_id: String(task.number),
    task_href: `${api}/tasks/${task.number}`,
  };
  return href === undefined ? result : { ...result, href };
}

export function refused(message: string): ActionResult {
  return { success: false, message };
}

export interface ActionSpec {
  readonly name: string;
  /** Lower case: clients dispatch on it. */
  readonly method: 'post' | 'delete';
}

export function post(...names: string[]): readonly ActionSpec[] {
  return names.map((name) => ({ name, method: 'post' }));
}

/** With none there is no key. */
export function actionsAt(href: string, specs: readonly ActionSpec[]): { actions?: unknown } {
  if (specs.length === 0) return {};
  return { actions: specs.map(({ name, method }) => ({ name, method, href })) };
}
