/** `calotype space`: what is free where the drives live. */
import type { Command } from 'commander';
import type { Space } from '../api-types.ts';
import type { Context } from '../context.ts';

export function register(noun: Command, ctx: Context): void {
  noun.action(async () => {
    const space = await ctx.client.get<Space>('/space');
    if (ctx.json) return ctx.printJson(space);
    await ctx.printFields([
      ['total', ctx.size(space.totalBytes)],
      ['free', ctx.size(space.freeBytes)],
      ['reserve', `${ctx.size(space.reserveBytes)} (only deletes may use it)`],
      ['state', space.low ? 'low: creates are refused' : 'enough'],
    ]);
  });
}
