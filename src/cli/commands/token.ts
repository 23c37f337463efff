/** `calotype token …`: API keys. */
import type { Command } from 'commander';
import type { NewToken, Token } from '../api-types.ts';
import type { Context } from '../context.ts';
import { resolveToken, resolveUser } from '../resolve.ts';
import { parseTime } from '../sizes.ts';
import type { Column } from '../table.ts';
import {
  addIdempotencyOption,
  addListOptions,
  ageColumn,
  type CreateOptions,
  idColumn,
  type ListOptions,
  remove,
} from './common.ts';

export function register(noun: Command, ctx: Context): void {
  addIdempotencyOption(noun.command('create').description('make a token; its secret is shown once').argument('<name>'))
    .option('--expires <when>', 'a duration such as 30d, or an ISO 8601 time (default: never)')
    .option('--user <user>', 'for another user; for operators')
    .action(async (name: string, options: CreateOptions & { expires?: string; user?: string }) => {
      const body = {
        name,
        ...(options.expires === undefined ? {} : { expiresAt: parseTime(options.expires, ctx.io.now(), 1) }),
        ...(options.user === undefined ? {} : { user: (await resolveUser(ctx, options.user)).id }),
      };
      const { body: made } = await ctx.client.request<NewToken>('POST', '/tokens', {
        body,
        idempotencyKey: options.idempotencyKey,
        once: true,
      });
      if (ctx.json) return ctx.printJson(made);
      await ctx.print(`${made.secret}\n`);
      ctx.note(`This is the secret of token ${made.token.name} (${made.token.id}); it is not shown again.`);
    });

  addListOptions(noun.command('list').description('list your tokens'))
    .option('--user <user>', 'of another user; for operators')
    .action(async (options: ListOptions & { user?: string }) => {
      const user = options.user === undefined ? undefined : (await resolveUser(ctx, options.user)).id;
      await ctx.printList(ctx.client.pages<Token>('/tokens', { user }, options.limit), columnsOf(ctx), 'No tokens.');
    });

  noun
    .command('show')
    .description('show one token, without its secret')
    .argument('<token>', 'name, id or beginning of an id')
    .option('--user <user>', 'of another user; for operators')
    .action(async (text: string, options: { user?: string }) => {
      const user = options.user === undefined ? undefined : (await resolveUser(ctx, options.user)).id;
      const token = await resolveToken(ctx, text, user);
      if (ctx.json) return ctx.printJson(token);
      await ctx.printFields([
        ['name', token.name],
        ['id', token.id],
        ['user', token.userId],
        ['secret', `${token.prefix}…`],
        ['created', token.createdAt],
        ['expires', token.expiresAt ?? 'never'],
        ['revoked', token.revokedAt],
      ]);
    });

  noun
    .command('revoke')
    .description('end a token at once')
    .argument('<token>', 'name, id or beginning of an id')
    .option('--user <user>', 'of another user; for operators')
    .action(async (text: string, options: { user?: string }) => {
      const user = options.user === undefined ? undefined : (await resolveUser(ctx, options.user)).id;
      const token = await resolveToken(ctx, text, user);
      await remove(ctx, `/tokens/${token.id}`, `Revoked token ${token.name} (${token.id}).`);
    });
}

function columnsOf(ctx: Context): readonly Column<Token>[] {
  const now = ctx.io.now();
  const state = (token: Token): string => {
    if (token.revokedAt !== null) return 'revoked';
    return token.expiresAt !== null && Date.parse(token.expiresAt) <= now ? 'expired' : 'valid';
  };
  return [
    idColumn,
    { title: 'NAME', value: (token) => token.name, flexible: true },
    { title: 'SECRET', value: (token) => `${token.prefix}…` },
    { title: 'STATE', value: state },
    { title: 'EXPIRES', value: (token) => token.expiresAt ?? 'never' },
    ageColumn(ctx),
  ];
}
