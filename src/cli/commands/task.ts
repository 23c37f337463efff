/** `calotype task …`: the work behind every change. */
import type { Command } from 'commander';
import type { Drive, Task } from '../api-types.ts';
import type { Context } from '../context.ts';
import { CliError, taskError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { resolveDrive, resolveMachine, resolveTask } from '../resolve.ts';
import { formatAge, formatDuration, formatRate, formatSize, parseDuration, parseSize } from '../sizes.ts';
import type { Column } from '../table.ts';
import { isEnded, waitForTask } from '../wait.ts';
import { addListOptions, ageColumn, choice, formatError, idColumn, type ListOptions, stateFormat } from './common.ts';

export function register(noun: Command, ctx: Context): void {
  addListOptions(noun.command('list').description('list tasks'))
    .addOption(
      choice('--state <state>', 'in this state', ['queued', 'running', 'paused', 'done', 'failed', 'cancelled']),
    )
    .option('--drive <drive>', 'of this drive')
    .option('--machine <machine>', 'of this machine')
    .option('--object <id>', 'of the object with this id')
    .action(async (options: ListOptions & { state?: string; drive?: string; machine?: string; object?: string }) => {
      const drive: Drive | undefined = options.drive === undefined ? undefined : await resolveDrive(ctx, options.drive);
      const machine = options.machine === undefined ? undefined : await resolveMachine(ctx, options.machine);
      const query = {
        state: options.state,
        driveId: drive?.id,
        machineId: machine?.id,
        objectId: options.object,
      };
      await ctx.printList(ctx.client.pages<Task>('/tasks', query, options.limit), columnsOf(ctx), 'No tasks.');
    });

  onTask(noun, 'show', 'show one task').action(async (text: string) => {
    await show(ctx, await resolveTask(ctx, text));
  });

  onTask(noun, 'wait', 'wait for the end of a task')
    .option('--timeout <duration>', 'at most so long, such as 90s or 2h', parseDuration)
    .action(async (text: string, options: { timeout?: number }) => {
      const limitMs = options.timeout === undefined ? undefined : options.timeout * 1000;
      const task = await waitForTask(ctx, await resolveTask(ctx, text), limitMs);
      if (!isEnded(task)) {
        throw new CliError(exitCodes.failed, 'wait_timeout', `The task is still ${task.state}; it goes on.`, {
          remedy: `Wait on: calotype task wait ${task.id}`,
        });
      }
      if (task.state !== 'done') throw taskError(task.id, task.error, task.state);
      await show(ctx, task);
    });

  const verbs: readonly (readonly ['cancel' | 'pause' | 'resume', string])[] = [
    ['cancel', 'undo a task, where that can be done'],
    ['pause', 'pause a merge or flatten'],
    ['resume', 'let a paused task go on'],
  ];
  for (const [verb, description] of verbs) {
    onTask(noun, verb, description).action(async (text: string) => {
      const { id } = await resolveTask(ctx, text);
      await show(ctx, (await ctx.client.request<Task>('POST', `/tasks/${id}/${verb}`)).body);
    });
  }

  onTask(noun, 'limit', 'limit the speed of a task')
    .argument('<rate>', 'bytes per second, such as 50M; none for no limit', (text) =>
      text === 'none' ? 0 : parseSize(text, 'rate'),
    )
    .action(async (text: string, speedLimitBytesPerSecond: number) => {
      const { id } = await resolveTask(ctx, text);
      await show(
        ctx,
        (await ctx.client.request<Task>('PATCH', `/tasks/${id}`, { body: { speedLimitBytesPerSecond } })).body,
      );
    });
}

function onTask(noun: Command, verb: string, description: string): Command {
  return noun.command(verb).description(description).argument('<task>', 'id or beginning of an id');
}

/** Progress in a few characters, such as `45%` or `3/7`. */
function formatProgress({ progress, state }: Task): string {
  if (state === 'done') return '100%';
  if (progress.total === 0) return '';
  return progress.unit === 'bytes'
    ? `${Math.floor((100 * progress.done) / progress.total)}%`
    : `${progress.done}/${progress.total}`;
}

function columnsOf(ctx: Context): readonly Column<Task>[] {
  return [
    idColumn,
    { title: 'KIND', value: (task) => task.kind },
    { title: 'STATE', value: (task) => task.state, format: (task) => stateFormat(task.state) },
    { title: 'PROGRESS', align: 'right', value: formatProgress },
    {
      title: 'OBJECT',
      value: (task) => (task.objectKind === null ? '' : `${task.objectKind} ${task.objectId?.slice(0, 8) ?? ''}`),
    },
    ageColumn(ctx),
    { title: 'ERROR', value: (task) => formatError(task.error) ?? '', flexible: true },
  ];
}

async function show(ctx: Context, task: Task): Promise<void> {
  if (ctx.json) return ctx.printJson(task);
  const { progress } = task;
  const amount = (n: number) => (progress.unit === 'bytes' ? ctx.size(n) : String(n));
  const age = (iso: string | null) => (iso === null ? null : `${iso} (${formatAge(iso, ctx.io.now())} ago)`);
  await ctx.printFields([
    ['id', task.id],
    ['kind', task.kind],
    ['state', task.state],
    ['error', formatError(task.error)],
    ['object', task.objectKind === null ? null : `${task.objectKind} ${task.objectId ?? ''}`],
    ['machine', task.machineId],
    ['drives', task.driveIds.length === 0 ? null : task.driveIds.join(', ')],
    [
      'progress',
      progress.total === 0
        ? null
        : `${amount(progress.done)} of ${amount(progress.total)}${progress.unit === 'steps' ? ' steps' : ''}`,
    ],
    ['rate', progress.ratePerSecond === null ? null : formatRate(progress.ratePerSecond, progress.unit)],
    ['left', progress.estimateSeconds === null ? null : formatDuration(progress.estimateSeconds)],
    ['speed limit', task.speedLimitBytesPerSecond === 0 ? null : `${formatSize(task.speedLimitBytesPerSecond)}/s`],
    ['result', task.result === null ? null : JSON.stringify(task.result)],
    ['may be', [task.cancellable ? 'cancelled' : '', task.pausable ? 'paused' : ''].filter(Boolean).join(', ') || null],
    ['via', task.via],
    ['created', age(task.createdAt)],
    ['started', age(task.startedAt)],
    ['finished', age(task.finishedAt)],
  ]);
}
