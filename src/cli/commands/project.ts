/** `calotype project …`: tenants; for operators. */
import type { Command } from 'commander';
import type { Project } from '../api-types.ts';
import type { Context } from '../context.ts';
import { resolveProject } from '../resolve.ts';
import type { Column } from '../table.ts';
import {
  addIdempotencyOption,
  addListOptions,
  ageColumn,
  type CreateOptions,
  idColumn,
  type ListOptions,
  remove,
  rename,
} from './common.ts';

export function register(noun: Command, ctx: Context): void {
  addIdempotencyOption(noun.command('create').description('make a project').argument('<name>')).action(
    async (name: string, options: CreateOptions) => {
      const { body } = await ctx.client.request<Project>('POST', '/projects', {
        body: { name },
        idempotencyKey: options.idempotencyKey,
        once: true,
      });
      if (ctx.json) await ctx.printJson(body);
      else await ctx.print(`Created project ${body.name} (${body.id}).\n`);
    },
  );

  addListOptions(noun.command('list').description('list projects')).action(async (options: ListOptions) => {
    const columns: readonly Column<Project>[] = [
      idColumn,
      { title: 'NAME', value: (row) => row.name, flexible: true },
      ageColumn(ctx),
    ];
    await ctx.printList(ctx.client.pages<Project>('/projects', {}, options.limit), columns, 'No projects.');
  });

  noun
    .command('show')
    .description('show one project')
    .argument('<project>')
    .action(async (text: string) => {
      const project = await resolveProject(ctx, text);
      if (ctx.json) await ctx.printJson(project);
      else
        await ctx.printFields([
          ['name', project.name],
          ['id', project.id],
          ['created', project.createdAt],
          ['version', String(project.version)],
        ]);
    });

  noun
    .command('rename')
    .description('give a project another name')
    .argument('<project>')
    .argument('<new-name>')
    .action(async (text: string, name: string) => {
      const { id } = await resolveProject(ctx, text);
      await rename<Project>(ctx, `/projects/${id}`, 'project', name, undefined);
    });

  noun
    .command('delete')
    .description('delete an empty project')
    .argument('<project>')
    .action(async (text: string) => {
      const { id, name } = await resolveProject(ctx, text);
      await remove(ctx, `/projects/${id}`, `Deleted project ${name}.`);
    });
}
