/** `calotype version`: of this program and, when one answers, of the server. */
import type { Command } from 'commander';
import type { ServerInfo } from '../api-types.ts';
import type { Context } from '../context.ts';
import { CliError } from '../errors.ts';
import { cliVersion } from '../version.ts';

export function register(noun: Command, ctx: Context): void {
  noun.action(async () => {
    const server = await serverInfo(ctx);
    if (ctx.json) return ctx.printJson({ cli: cliVersion(), node: process.versions.node, server });
    await ctx.printFields([
      ['calotype', cliVersion()],
      ['node', process.versions.node],
      ['server', server === null ? 'none answers' : `${server.version} at ${ctx.client.connection.baseUrl.href}`],
    ]);
  });
}

async function serverInfo(ctx: Context): Promise<ServerInfo | null> {
  try {
    return await ctx.client.get<ServerInfo>('');
  } catch (error) {
    if (error instanceof CliError) return null;
    throw error;
  }
}
