/** `calotype member …`: who belongs to a project, and as what. */
import type { Command } from 'commander';
import { Argument } from 'commander';
import type { Member } from '../api-types.ts';
import type { Context } from '../context.ts';
import { resolveProject, resolveUser } from '../resolve.ts';
import type { Column } from '../table.ts';
import { remove } from './common.ts';

export function register(noun: Command, ctx: Context): void {
  noun
    .command('set')
    .description('make a user a member, or change the role')
    .argument('<project>')
    .argument('<user>')
    .addArgument(
      new Argument('<role>', 'admin: everything; member: everything but its users; guest: what is granted').choices([
        'admin',
        'member',
        'guest',
      ]),
    )
    .action(async (projectText: string, userText: string, role: string) => {
      const { project, user, path } = await locate(ctx, projectText, userText);
      const { body } = await ctx.client.request<Member>('PUT', path, { body: { role } });
      if (ctx.json) await ctx.printJson(body);
      else await ctx.print(`${user.name} is now ${role} of ${project.name}.\n`);
    });

  noun
    .command('list')
    .description('list the members of a project')
    .argument('<project>')
    .action(async (text: string) => {
      const { id } = await resolveProject(ctx, text);
      const { items } = await ctx.client.get<{ items: readonly Member[] }>(`/projects/${id}/members`);
      await ctx.printList([items], columns, 'No members.');
    });

  noun
    .command('show')
    .description('show the role of a user')
    .argument('<project>')
    .argument('<user>')
    .action(async (projectText: string, userText: string) => {
      const { project, user, path } = await locate(ctx, projectText, userText);
      const member = await ctx.client.get<Member>(path);
      if (ctx.json) await ctx.printJson(member);
      else
        await ctx.printFields([
          ['project', project.name],
          ['user', user.name],
          ['role', member.role],
        ]);
    });

  noun
    .command('remove')
    .description('take a user out of a project')
    .argument('<project>')
    .argument('<user>')
    .action(async (projectText: string, userText: string) => {
      const { project, user, path } = await locate(ctx, projectText, userText);
      await remove(ctx, path, `${user.name} no longer belongs to ${project.name}.`);
    });
}

const columns: readonly Column<Member>[] = [
  { title: 'USER', value: (member) => member.userName, flexible: true },
  { title: 'ROLE', value: (member) => member.role },
  { title: 'EMAIL', value: (member) => member.email ?? '', flexible: true },
  { title: 'ID', value: (member) => member.userId },
];

async function locate(ctx: Context, projectText: string, userText: string) {
  const project = await resolveProject(ctx, projectText);
  const user = await resolveUser(ctx, userText);
  return { project, user, path: `/projects/${project.id}/members/${user.id}` };
}
