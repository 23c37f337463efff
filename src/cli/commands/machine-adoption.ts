/** `calotype machine adopt`, `disown`: machines that somebody else runs. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Context } from '../context.ts';
import { resolveMachine } from '../resolve.ts';
import type { Column } from '../table.ts';
import type { ChangeOptions } from '../wait.ts';
import {
  addIdempotencyOption,
  addLabelOptions,
  addNewNameOption,
  addWaitOption,
  type CreateOptions,
  change,
  choice,
  type LabelOptions,
  labelsBody,
} from './common.ts';
import { onMachine } from './machine-power.ts';

interface AdoptOptions extends CreateOptions, LabelOptions, ChangeOptions {
  readonly qmp: string;
  readonly name: string;
  readonly agent?: string;
  readonly kind?: string;
}

interface DriveFiles {
  readonly driveId: string;
  readonly files: readonly { readonly path: string; readonly format: string }[];
}

interface ReleasedDrive {
  readonly name: string;
  readonly files: readonly string[];
}

export function registerAdoption(noun: Command, ctx: Context): void {
  const adopt = noun
    .command('adopt')
    .description('take snapshots of a machine that somebody else runs')
    .requiredOption('--qmp <socket>', 'its monitor (QMP), one that nobody else uses')
    .requiredOption('--name <name>', 'what it is called here')
    .option('--agent <socket>', "its guest agent's socket, if nobody else uses it")
    .addOption(choice('--kind <kind>', 'what clients of other APIs take it for (default: vm)', ['vm', 'instance']));
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(adopt)))).action(
    async (options: AdoptOptions) => {
      const body = {
        name: options.name,
        qmpSocket: resolve(options.qmp),
        ...(options.agent === undefined ? {} : { agentSocket: resolve(options.agent) }),
        ...(options.kind === undefined ? {} : { kind: options.kind }),
        ...labelsBody(options),
      };
      await change(ctx, 'POST', '/machines/adopt', { body, create: options, wait: options }, ({ machine }) =>
        machine === undefined
          ? 'Adopted.'
          : `Adopted machine ${machine.name} (${machine.id}) with ${machine.drives.length} drives.`,
      );
    },
  );

  onMachine(
    noun,
    'files',
    'show where the drives of an adopted machine are; the first file is the present state',
  ).action(async (text: string) => {
    const machine = await resolveMachine(ctx, text);
    const { drives } = await ctx.client.get<{ drives: readonly DriveFiles[] }>(`/machines/${machine.id}/files`);
    if (ctx.json) return ctx.printJson(drives);
    const rows = drives.flatMap(({ driveId, files }) =>
      files.map(({ path, format }, at) => ({
        slot: at === 0 ? String(machine.drives.find((drive) => drive.driveId === driveId)?.slot ?? '') : '',
        format,
        path,
      })),
    );
    const columns: Column<(typeof rows)[number]>[] = [
      { title: 'SLOT', align: 'right', value: (row) => row.slot },
      { title: 'FORMAT', value: (row) => row.format },
      { title: 'FILE', value: (row) => row.path, flexible: true },
    ];
    await ctx.printList([rows], columns, 'No drives.');
  });

  const disown = onMachine(noun, 'disown', 'forget a machine that somebody else runs; it runs on').addOption(
    choice('--snapshots <what>', 'what becomes of its snapshots', ['refuse', 'forget']).default('refuse'),
  );
  addWaitOption(addIdempotencyOption(disown)).action(
    async (text: string, options: CreateOptions & ChangeOptions & { snapshots: string }) => {
      const { id, name } = await resolveMachine(ctx, text);
      const body = { snapshots: options.snapshots };
      await change(ctx, 'POST', `/machines/${id}/disown`, { body, create: options, wait: options }, ({ task }) => {
        const drives = (task.result?.drives ?? []) as readonly ReleasedDrive[];
        const lines = drives.map((drive) => `  ${drive.name} is in ${drive.files.join(', on ')}`);
        return [`Disowned machine ${name}; it runs on.`, ...lines].join('\n');
      });
    },
  );
}
