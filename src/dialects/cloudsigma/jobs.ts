/** `/jobs/`: tasks, while they run and for three days after. */
import { notFound } from '../../core/errors.ts';
import type { TaskId } from '../../core/ids.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { nowUs } from '../../core/time.ts';
import { type Answer, type Call, ok, parametersOf } from './call.ts';
import { jobsKeptUs } from './drives.ts';
import { envelope, readFilters, readSelection, readWindow, select, text, word } from './filters.ts';
import { readId } from './parse.ts';
import { presentJob } from './present.ts';

type Field = QueryFields['task'];

/** What changed last comes first: those under way, then the others by their ends. */
export async function listJobs(call: Call): Promise<Answer> {
  const { service, caller, mount } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const asked = await readFilters<Field>(parameters, {
    uuid: text('id'),
    state: word<Field>({
      started: { field: 'finishedAt', op: 'isNull' },
      success: { field: 'state', op: 'eq', value: 'done' },
      failed: { field: 'state', op: 'in', values: ['failed', 'cancelled'] },
    }),
  });
  const active: Condition<Field> = { all: [{ field: 'finishedAt', op: 'isNull' }, asked] };
  const ended: Condition<Field> = {
    all: [{ field: 'finishedAt', op: 'ge', value: nowUs() - jobsKeptUs }, asked],
  };
  const { offset, limit } = window;
  const first = await service.queries.list(caller, 'task', {
    where: active,
    sort: [{ by: 'number', order: 'desc' }],
    offset,
    limit,
    withTotal: true,
  });
  const before = first.total ?? 0;
  const rest = await service.queries.list(caller, 'task', {
    where: ended,
    sort: [{ by: 'finishedAt', order: 'desc' }],
    offset: Math.max(0, offset - before),
    limit: limit === null ? null : limit - first.items.length,
    withTotal: true,
  });
  const objects = [...first.items, ...rest.items].map((task) => presentJob(mount, task));
  return ok(envelope(select(objects, readSelection(parameters)), window, before + (rest.total ?? 0)));
}

export async function getJob({ service, caller, mount, id }: Call): Promise<Answer> {
  const task = await service.tasks.get(caller, readId<TaskId>('job', id));
  if (task.finishedAt !== null && task.finishedAt < nowUs() - jobsKeptUs) throw notFound('job', id);
  return ok(presentJob(mount, task));
}
