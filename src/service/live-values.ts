/** What lists are filtered and sorted by that only memory knows: powers of machines, states of tasks, sizes under a writer. */

import { powersOf } from '../catalog/machines.ts';
import type { LiveHandles } from '../catalog/query-fields.ts';
import { unsettledParts } from '../catalog/sizes.ts';
import { type HeldValues, holding } from '../catalog/sql-functions.ts';
import type { QueryKind } from '../core/query.ts';
import type { Caller } from './caller.ts';
import { type Context, runningMachine } from './context.ts';

const liveFields: { readonly [K in QueryKind]?: readonly string[] } = {
  machine: ['power'],
  snapshot: ['machinePower', 'sizeBytes'],
  part: ['sizeBytes'],
  task: ['state', 'startedAt'],
};

/** Whether the value of a field can change without any row's changing. */
export function isLive(kind: QueryKind, field: string): boolean {
  return liveFields[kind]?.includes(field) ?? false;
}

/** Runs `work` with handles of what outranks the rows in the named fields. */
export async function withLiveValues<T>(
  context: Context,
  caller: Caller,
  kind: QueryKind,
  fields: ReadonlySet<string>,
  work: (live: LiveHandles) => Promise<T>,
): Promise<T> {
  if (kind === 'task') {
    if (!['state', 'startedAt', 'updatedAt'].some((field) => fields.has(field))) return work({});
    const states = new Map<string, string>();
    const starts = new Map<string, number>();
    const activeTasks: number[] = [];
    for (const { row } of context.runner.active()) {
      activeTasks.push(row.number);
      states.set(row.id, row.state);
      if (row.started_at !== null) starts.set(row.id, row.started_at);
    }
    return holding(states, (taskStates) =>
      holding(starts, (taskStarts) => work({ taskStates, taskStarts, activeTasks })),
    );
  }
  if (fields.has('power') || fields.has('machinePower')) {
    const powers = await changedPowers(context);
    const others = new Set([...fields].filter((field) => field !== 'power' && field !== 'machinePower'));
    const rest = (live: LiveHandles) =>
      withLiveValues(context, caller, kind, others, (more) => work({ ...live, ...more }));
    return powers.size === 0 ? rest({}) : holding(powers, (handle) => rest({ powers: handle }));
  }
  if (fields.has('sizeBytes') && (kind === 'snapshot' || kind === 'part')) {
    const sizes = await changedSizes(context, caller);
    return sizes.size === 0 ? work({}) : holding(sizes, (handle) => work({ sizes: handle }));
  }
  return work({});
}

/** Of machines that run, where their rows do not say it yet. */
async function changedPowers(context: Context): Promise<HeldValues> {
  const running = [...context.machines.running(), ...context.adopted.running()];
  const stored = await powersOf(context.catalog.db, running);
  const changed = new Map<string, string>();
  for (const [id, power] of stored) {
    const now = runningMachine(context, id)?.power;
    if (now !== undefined && now !== power) changed.set(id, now);
  }
  return changed;
}

async function changedSizes(context: Context, caller: Caller): Promise<HeldValues> {
  const parts = await unsettledParts(context.catalog.db, caller.projectId, context.exports.writable());
  return context.sizes.fresh([{ state: 'available', parts }]);
}
