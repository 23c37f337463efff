/** Tasks: what actions began, with the names that they were given there. (app/models/miq_task.rb of ManageIQ/manageiq) */
import type { UserId } from '../../core/ids.ts';
import { type Task, type TaskKind, taskKinds } from '../../core/model.ts';
import type { TaskState } from '../../core/states.ts';
import { type Attribute, constant, type Env, type Meaning, type SortField } from './attributes.ts';
import { recordNotFound } from './errors.ts';
import { find } from './objects.ts';
import { post, timeOf, timeOrNull } from './present.ts';
import type { Resource } from './resources.ts';

type Field = SortField<'task'>;

export interface TaskView {
  readonly task: Task;
  readonly userName: string | null;
}

const states: Readonly<Record<TaskState, string>> = {
  queued: 'Queued',
  running: 'Active',
  paused: 'Active',
  done: 'Finished',
  failed: 'Finished',
  cancelled: 'Finished',
};

/** Ok as long as nothing has failed, also before anything is done. */
const statuses: Readonly<Record<TaskState, string>> = {
  queued: 'Ok',
  running: 'Ok',
  paused: 'Ok',
  done: 'Ok',
  failed: 'Error',
  cancelled: 'Error',
};

function stateOrStatus(state: TaskState): string {
  return states[state] === 'Finished' ? statuses[state] : states[state];
}

const taskStates = Object.keys(states) as TaskState[];

/** Each word once, for all states that it is said of. */
function wordsOf(wordOf: (state: TaskState) => string): Meaning<Field>[] {
  return [...Map.groupBy(taskStates, wordOf)].map(([word, values]) => ({
    word,
    when: { field: 'state', op: 'in', values },
  }));
}

function inOrder(wordOf: (state: TaskState) => string): readonly string[] {
  return taskStates.toSorted((a, b) => (wordOf(a) < wordOf(b) ? -1 : 1));
}

function ofState(name: string, wordOf: (state: TaskState) => string): Attribute<TaskView, Field> {
  return {
    name,
    present: ({ task }) => wordOf(task.state),
    search: { type: 'words', words: wordsOf(wordOf), sort: { field: 'state', values: inOrder(wordOf) } },
  };
}

/** What tasks are called that other front doors began: by what they do. */
function nameOfKind(kind: TaskKind): string {
  const [object = '', verb = ''] = kind.split('.');
  return `${verb.charAt(0).toUpperCase()}${verb.slice(1)} ${object}`;
}

export function taskName(task: Task): string {
  return task.title ?? nameOfKind(task.kind);
}

function messageOf({ task, userName }: TaskView): string {
  if (task.state === 'done') return 'Task completed successfully';
  if (task.state === 'failed' || task.state === 'cancelled') {
    return task.error?.message ?? 'Task did not complete successfully';
  }
  return `Queued the action: [${taskName(task)}] being run for user: [${userName ?? 'system'}]`;
}

function percentOf({ state, progress }: Task): number | null {
  if (state === 'done') return 100;
  return progress.total > 0 ? Math.min(99, Math.floor((progress.done / progress.total) * 100)) : null;
}

const columns: readonly Attribute<TaskView, Field>[] = [
  { name: 'id', present: ({ task }) => String(task.number), search: { type: 'integer', field: 'number' } },
  {
    name: 'name',
    present: ({ task }) => taskName(task),
    search: {
      type: 'either',
      field: 'title',
      words: taskKinds.map((kind) => ({ word: nameOfKind(kind), when: { field: 'kind', op: 'eq', value: kind } })),
    },
  },
  ofState('state', (state) => states[state]),
  ofState('status', (state) => statuses[state]),
  { name: 'message', present: messageOf },
  { name: 'userid', present: ({ userName }) => userName, search: { type: 'text', field: 'userName' } },
  { name: 'created_on', present: ({ task }) => timeOf(task.createdAt), search: { type: 'time', field: 'createdAt' } },
  {
    name: 'updated_on',
    present: ({ task }) => timeOf(task.finishedAt ?? task.startedAt ?? task.createdAt),
    search: { type: 'time', field: 'updatedAt' },
  },
  {
    name: 'started_on',
    present: ({ task }) => timeOrNull(task.startedAt),
    search: { type: 'time', field: 'startedAt' },
  },
  { name: 'pct_complete', present: ({ task }) => percentOf(task) },
  constant('context_data', null),
  constant('results', null),
  constant('miq_server_id', '1'),
  constant('identifier', null),
  constant('zone', 'default'),
];

async function view(tasks: readonly Task[], { context, caller }: Env): Promise<readonly TaskView[]> {
  const own = (id: UserId | null): boolean => id === null || id === caller.userId;
  const others = tasks.flatMap(({ userId }) => (own(userId) || userId === null ? [] : [userId]));
  const names = others.length === 0 ? undefined : await context.service.tasks.userNames(caller, others);
  return tasks.map((task) => {
    const { userId } = task;
    if (userId === null) return { task, userName: null };
    return { task, userName: userId === caller.userId ? caller.userName : (names?.get(userId) ?? null) };
  });
}

export const taskResource: Resource<'task', TaskView> = {
  name: 'tasks',
  path: 'tasks',
  klass: 'MiqTask',
  kind: 'task',
  where: { all: [] },
  countsOwn: false,
  columns,
  virtuals: [
    {
      name: 'state_or_status',
      prepare:
        async () =>
        ({ task }) =>
          stateOrStatus(task.state),
      search: {
        type: 'words',
        words: wordsOf(stateOrStatus),
        sort: { field: 'state', values: inOrder(stateOrStatus) },
      },
    },
  ],
  subcollections: [],
  actions: post('query', 'delete'),
  subclasses: {},
  numberOf: ({ task }) => task.number,
  view,
  actionsOf: async () => () => post('delete'),
};

/** @throws not_found */
export async function taskOf(env: Env, number: number): Promise<Task> {
  const { service } = env.context;
  const id = await service.numbers.idOf('task', number);
  const task = id === undefined ? undefined : await find(() => service.tasks.get(env.caller, id));
  if (task === undefined) throw recordNotFound(taskResource.klass, number);
  return task;
}
