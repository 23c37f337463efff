/** Looks tasks up and removes those that have ended. (tasks_controller.rb of ManageIQ/manageiq-api) */
import type { Task } from '../../core/model.ts';
import { isActiveTask } from '../../core/states.ts';
import {
  type Answer,
  answerAll,
  answerOne,
  assertSome,
  attemptInBulk,
  byMethod,
  inOrder,
  lookUp,
  noContent,
  unsupported,
} from './actions.ts';
import type { Env } from './attributes.ts';
import { refuse } from './errors.ts';
import { actionOf, type Body, type Params, referenceOf, resourcesOf } from './parse.ts';
import type { ActionResult } from './present.ts';
import { taskName, taskOf, taskResource } from './tasks.ts';

const active = 'Task is active, delete not allowed';

async function remove(env: Env, task: Task): Promise<ActionResult> {
  const href = `${env.api}/tasks/${task.number}`;
  if (isActiveTask(task.state)) return { success: false, message: active, href };
  await env.context.service.tasks.remove(env.caller, task.id);
  return { success: true, message: `Deleting Task id: ${task.number} name: '${taskName(task)}'`, href };
}

export async function postTask(env: Env, number: number, body: Body): Promise<Answer> {
  const action = actionOf(body);
  if (action !== 'delete') throw unsupported(action, 'tasks', 'resource');
  const task = await taskOf(env, number);
  return answerOne(await attemptInBulk(action, false, () => remove(env, task)));
}

export async function postTasks(env: Env, body: Body, params: Params): Promise<Answer> {
  const action = actionOf(body);
  if (action !== 'query' && action !== 'delete') throw unsupported(action, 'tasks', 'collection');
  const { items, bulk } = resourcesOf(body);
  assertSome({ items, bulk }, 'tasks', action);
  if (action === 'delete') {
    const results = await inOrder(items, (item) =>
      attemptInBulk(action, bulk, async () => remove(env, await taskNamed(env, item))),
    );
    return answerAll(results, bulk);
  }
  return lookUp(taskResource, env, items, params, (item) => taskNamed(env, item));
}

async function taskNamed(env: Env, item: unknown): Promise<Task> {
  const number = referenceOf(item, 'tasks', taskResource.klass);
  if (number === null) throw refuse(`Invalid ${taskResource.klass} id nil specified`);
  return taskOf(env, number);
}

/** @throws invalid_request as long as it has not ended */
export async function deleteTask(env: Env, number: number): Promise<Answer> {
  const task = await taskOf(env, number);
  if (isActiveTask(task.state)) throw refuse(active);
  await byMethod(() => env.context.service.tasks.remove(env.caller, task.id));
  return noContent;
}
