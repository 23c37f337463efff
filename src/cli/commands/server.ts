/** `calotype server …`: what the server says of itself. */
import type { Command } from 'commander';
import type { ServerInfo } from '../api-types.ts';
import type { Context } from '../context.ts';
import { exitCodes } from '../exit-codes.ts';

export function register(noun: Command, ctx: Context): void {
  noun
    .command('info')
    .description('name, version, engine, capabilities, and who you are to it')
    .action(async () => {
      const info = await ctx.client.get<ServerInfo>('');
      if (ctx.json) return ctx.printJson(info);
      const flat = Object.entries(info).flatMap(([key, value]: [string, unknown]) => flatten(key, value));
      await ctx.printFields(flat);
    });

  const texts: readonly (readonly [string, string, string])[] = [
    ['health', '../healthz', 'whether it is alive'],
    ['ready', '../readyz', 'whether it is ready to work'],
    ['metrics', '../metrics', 'its metrics, in the text format of Prometheus'],
    ['openapi', '/openapi.json', 'the OpenAPI description of its API'],
  ];
  for (const [verb, path, description] of texts) {
    noun
      .command(verb)
      .description(description)
      .action(async () => {
        // Not ready is an answer, too.
        const response = await ctx.client.stream(path, { headers: { accept: '*/*' }, anyStatus: verb === 'ready' });
        if ((response.statusCode ?? 500) >= 400) ctx.exitCode = exitCodes.failed;
        let text = '';
        response.setEncoding('utf8');
        for await (const chunk of response) text += chunk;
        await ctx.print(text.endsWith('\n') ? text : `${text}\n`);
      });
  }
}

function flatten(key: string, value: unknown): [string, string | null][] {
  if (typeof value !== 'object' || value === null) return [[key, value === null ? null : String(value)]];
  return Object.entries(value).flatMap(([inner, child]: [string, unknown]) => flatten(`${key}.${inner}`, child));
}
