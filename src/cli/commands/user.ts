/** `calotype user …`: accounts of the server; for operators, but for one's own password. */
import type { Command } from 'commander';
import type { ServerInfo, User } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { askPassword, makePassword, readLines, readPasswordFromStdin } from '../password.ts';
import { resolveUser } from '../resolve.ts';
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

interface PasswordOptions {
  readonly passwordStdin?: boolean;
}

interface NewUserOptions extends CreateOptions, PasswordOptions {
  readonly email?: string;
  readonly operator?: boolean;
  /** False with `--no-password`. */
  readonly password: boolean;
}

export function register(noun: Command, ctx: Context): void {
  addIdempotencyOption(noun.command('create').description('make a user').argument('<name>'))
    .option('--email <address>')
    .option('--operator', 'may do everything on this server')
    .option('--password-stdin', 'read the password from standard input (default: ask)')
    .option('--no-password', 'may use tokens only')
    .action(async (name: string, options: NewUserOptions) => {
      const password = options.password ? await newPassword(ctx, options, `Password of ${name}`) : null;
      const body = {
        name,
        ...(options.email === undefined ? {} : { email: options.email }),
        ...(password === null ? {} : { password }),
        ...(options.operator === true ? { isOperator: true } : {}),
      };
      const { body: user } = await ctx.client.request<User>('POST', '/users', {
        body,
        idempotencyKey: options.idempotencyKey,
        once: true,
      });
      if (ctx.json) return ctx.printJson(user);
      await ctx.print(`Created user ${user.name} (${user.id}).\n`);
      ctx.note(`Make it a member of a project: calotype member set PROJECT ${user.name} member`);
    });

  addListOptions(noun.command('list').description('list users')).action(async (options: ListOptions) => {
    await ctx.printList(ctx.client.pages<User>('/users', {}, options.limit), columnsOf(ctx), 'No users.');
  });

  onUser(noun, 'show', 'show one user').action(async (text: string) => show(ctx, await resolveUser(ctx, text)));

  onUser(noun, 'rename', 'give a user another name')
    .argument('<new-name>')
    .action(async (text: string, name: string) => update(ctx, text, { name }));

  onUser(noun, 'set', "change a user's address or rights")
    .option('--email <address>', 'none to remove it')
    .option('--operator', 'may do everything on this server')
    .option('--no-operator', 'is an operator no longer')
    .action(async (text: string, options: { email?: string; operator?: boolean }) => {
      const body = {
        ...(options.email === undefined ? {} : { email: options.email === 'none' ? null : options.email }),
        ...(options.operator === undefined ? {} : { isOperator: options.operator }),
      };
      if (Object.keys(body).length === 0)
        throw usageError('There is nothing to set.', 'Give --email, --operator or --no-operator.');
      await update(ctx, text, body);
    });

  onUser(noun, 'disable', 'refuse every login and token of a user').action((text: string) =>
    update(ctx, text, { disabled: true }),
  );
  onUser(noun, 'enable', 'let a disabled user in again').action((text: string) =>
    update(ctx, text, { disabled: false }),
  );

  onUser(noun, 'delete', 'delete a user, with tokens and grants').action(async (text: string) => {
    const { id, name } = await resolveUser(ctx, text);
    await remove(ctx, `/users/${id}`, `Deleted user ${name}.`);
  });

  noun
    .command('set-password')
    .description("set one's own password or, for operators, another user's")
    .argument('[user]', 'default: yourself')
    .option('--password-stdin', 'read it from standard input; for your own: the old one, then the new one, a line each')
    .action(async (text: string | undefined, options: PasswordOptions) => {
      const own = await ownId(ctx);
      const id = text === undefined ? own : (await resolveUser(ctx, text)).id;
      await ctx.client.request('PUT', `/users/${id}/password`, {
        body: await passwordChange(ctx, options, id === own),
      });
      if (ctx.json) await ctx.printJson(null);
      else await ctx.print('The password was changed.\n');
    });

  onUser(noun, 'reset-password', 'give a user a new random password, shown once; for operators').action(
    async (text: string) => {
      const { id, name } = await resolveUser(ctx, text);
      const password = makePassword();
      await ctx.client.request('PUT', `/users/${id}/password`, { body: { password } });
      if (ctx.json) await ctx.printJson({ userId: id, password });
      else await ctx.print(`${password}\n`);
      ctx.note(`This is the new password of ${name}; it is not shown again.`);
    },
  );
}

function onUser(noun: Command, verb: string, description: string): Command {
  return noun.command(verb).description(description).argument('<user>', 'name, id or beginning of an id');
}

async function newPassword(ctx: Context, options: PasswordOptions, prompt: string): Promise<string> {
  return options.passwordStdin === true ? readPasswordFromStdin(ctx.io) : askPassword(ctx.io, prompt, true);
}

/** One's own needs the old one too. */
async function passwordChange(ctx: Context, options: PasswordOptions, isOwn: boolean): Promise<Record<string, string>> {
  if (!isOwn) return { password: await newPassword(ctx, options, 'New password') };
  if (options.passwordStdin === true) {
    const [oldPassword = '', password] = await readLines(ctx.io, 2);
    if (password === undefined)
      throw usageError('Standard input holds one line; the old and the new password were expected.');
    return { oldPassword, password };
  }
  const oldPassword = await askPassword(ctx.io, 'Old password', false);
  return { oldPassword, password: await askPassword(ctx.io, 'New password', true) };
}

async function ownId(ctx: Context): Promise<string> {
  const info = await ctx.client.get<ServerInfo>('');
  const id = info.caller?.userId;
  if (id === undefined) throw usageError('The server does not say who you are.', 'Name the user.');
  return id;
}

async function update(ctx: Context, text: string, body: Record<string, unknown>): Promise<void> {
  const { id } = await resolveUser(ctx, text);
  await show(ctx, (await ctx.client.request<User>('PATCH', `/users/${id}`, { body })).body);
}

async function show(ctx: Context, user: User): Promise<void> {
  if (ctx.json) return ctx.printJson(user);
  await ctx.printFields([
    ['name', user.name],
    ['id', user.id],
    ['email', user.email],
    ['operator', user.isOperator ? 'yes' : 'no'],
    ['state', user.disabled ? 'disabled' : 'enabled'],
    ['password', user.hasPassword ? 'set' : 'none: tokens only'],
    ['created', user.createdAt],
    ['version', String(user.version)],
  ]);
}

function columnsOf(ctx: Context): readonly Column<User>[] {
  return [
    idColumn,
    { title: 'NAME', value: (user) => user.name, flexible: true },
    { title: 'EMAIL', value: (user) => user.email ?? '', flexible: true },
    { title: 'OPERATOR', value: (user) => (user.isOperator ? 'yes' : '') },
    { title: 'STATE', value: (user) => (user.disabled ? 'disabled' : 'enabled') },
    ageColumn(ctx),
  ];
}
