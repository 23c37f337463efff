/** `calotype drive …`: volumes. What moves whole images is in drive-transfer.ts. */
import type { Command } from 'commander';
import type { Changes, Drive, DriveUsage, Machine } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { resolveDrive, resolveFrom, resolveImage, resolvePartOfDrive } from '../resolve.ts';
import { formatAge, parseInteger } from '../sizes.ts';
import type { Column } from '../table.ts';
import type { ChangeOptions } from '../wait.ts';
import {
  addIdempotencyOption,
  addLabelOptions,
  addNameFilters,
  addNewNameOption,
  addSetOptions,
  addVersionOption,
  addWaitOption,
  ageColumn,
  type CreateOptions,
  change,
  choice,
  formatError,
  formatMeta,
  freedRemark,
  idColumn,
  ifVisible,
  type LabelOptions,
  type ListOptions,
  labelsBody,
  type NameFilterOptions,
  nameFilterQuery,
  printCount,
  rename,
  type SetOptions,
  setLabels,
  sizeArgument,
  stateFormat,
} from './common.ts';
import { registerTransfers } from './drive-transfer.ts';
import { addExportOptions, createExport, type ExportOptions } from './export.ts';

export function register(noun: Command, ctx: Context): void {
  const create = noun
    .command('create')
    .description('make an empty drive, or one from an image')
    .argument('<name>')
    .argument('[size]', 'such as 10G, 512MiB; default with --image: as in the image', sizeArgument)
    .option('--image <image>', 'starts as this image')
    .option('--slot <n>', 'of an image of a machine: the drive in this slot', (text) => parseInteger(text, 'slot', 0));
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(create)))).action(
    async (
      name: string,
      sizeBytes: number | undefined,
      options: CreateOptions & LabelOptions & ChangeOptions & { image?: string; slot?: number },
    ) => {
      const { image, slot } = options;
      if (image === undefined && slot !== undefined) throw usageError('--slot goes with --image.');
      if (image === undefined && sizeBytes === undefined) throw usageError('Give a size, or --image.');
      const path = image === undefined ? '/drives' : `/images/${(await resolveImage(ctx, image)).id}/clone`;
      const body = {
        name,
        ...(sizeBytes === undefined ? {} : { sizeBytes }),
        ...(slot === undefined ? {} : { slot }),
        ...labelsBody(options),
      };
      await change(ctx, 'POST', path, { body, create: options, wait: options }, ({ drive }) =>
        drive === undefined ? 'Created.' : `Created drive ${drive.name} (${drive.id}), ${ctx.size(drive.sizeBytes)}.`,
      );
    },
  );

  registerTransfers(noun, ctx);

  addNameFilters(noun.command('list').description('list drives'), ['creating', 'available', 'error', 'deleting'])
    .option('--image <image>', 'made from this image and not flattened since')
    .action(async (options: NameFilterOptions & ListOptions & { image?: string }) => {
      const imageId = options.image === undefined ? undefined : (await resolveImage(ctx, options.image)).id;
      const query = { ...nameFilterQuery(options), imageId };
      if (options.count === true) return printCount(ctx, '/drives', query);
      await ctx.printList(ctx.client.pages<Drive>('/drives', query, options.limit), listColumns(ctx), 'No drives.');
    });

  noun
    .command('show')
    .description('show one drive')
    .argument('<drive>', 'name, id or beginning of an id')
    .action(async (text: string) => {
      await show(ctx, await resolveDrive(ctx, text));
    });

  addVersionOption(
    noun.command('rename').description('give a drive another name').argument('<drive>').argument('<new-name>'),
  ).action(async (text: string, name: string, options: { ifVersion?: number }) => {
    const drive = await resolveDrive(ctx, text);
    await rename<Drive>(ctx, `/drives/${drive.id}`, 'drive', name, options.ifVersion);
  });

  addSetOptions(noun.command('set').description('change description, metadata and tags').argument('<drive>')).action(
    async (text: string, pairs: readonly string[], options: SetOptions) => {
      const before = await resolveDrive(ctx, text);
      const drive = await setLabels<Drive>(ctx, `/drives/${before.id}`, before, pairs, options);
      await show(ctx, drive);
    },
  );

  const resize = noun
    .command('resize')
    .description('grow a drive, also while it is exported')
    .argument('<drive>')
    .argument('<size>', 'its new size', sizeArgument);
  addWaitOption(addIdempotencyOption(resize)).action(
    async (text: string, sizeBytes: number, options: CreateOptions & ChangeOptions) => {
      const drive = await resolveDrive(ctx, text);
      await change(
        ctx,
        'POST',
        `/drives/${drive.id}/resize`,
        { body: { sizeBytes }, create: options, wait: options },
        () => `Drive ${drive.name} now has ${ctx.size(sizeBytes)}.`,
      );
    },
  );

  const remove = noun
    .command('delete')
    .description('delete a drive')
    .argument('<drive>')
    .addOption(
      choice('--snapshots <what>', 'what becomes of its snapshots', ['refuse', 'keep', 'delete']).default('refuse'),
    );
  addWaitOption(addIdempotencyOption(addVersionOption(remove))).action(
    async (text: string, options: CreateOptions & ChangeOptions & { snapshots: string; ifVersion?: number }) => {
      const drive = await resolveDrive(ctx, text);
      const query = { snapshots: options.snapshots };
      await change(
        ctx,
        'DELETE',
        `/drives/${drive.id}`,
        { query, create: options, wait: options, ifVersion: options.ifVersion },
        ({ task }) => `Deleted drive ${drive.name}${freedRemark(task.result)}.`,
      );
    },
  );

  noun
    .command('usage')
    .description('what a drive and its snapshots take')
    .argument('<drive>')
    .action(async (text: string) => {
      const drive = await resolveDrive(ctx, text);
      const usage = await ctx.client.get<DriveUsage>(`/drives/${drive.id}/usage`);
      if (ctx.json) return ctx.printJson(usage);
      await ctx.printFields([
        ['virtual', ctx.size(usage.virtualBytes)],
        ['live', ctx.size(usage.liveBytes)],
        ['held by snapshots', ctx.size(usage.snapshotBytes)],
        ['on disk', ctx.size(usage.onDiskBytes)],
        ['read depth', `${usage.depth} layers`],
      ]);
    });

  addWaitOption(noun.command('check').description("check a drive's whole chain of files").argument('<drive>')).action(
    async (text: string, options: ChangeOptions) => {
      const drive = await resolveDrive(ctx, text);
      await change(ctx, 'POST', `/drives/${drive.id}/check`, { wait: options }, ({ task }) => {
        const report = task.result ?? {};
        const counts = ['files', 'errors', 'corruptions', 'leaks'].flatMap((key) =>
          typeof report[key] === 'number' ? [`${key} ${report[key]}`] : [],
        );
        if (report.ok === false) ctx.exitCode = 1;
        return `Drive ${drive.name} is ${report.ok === false ? 'DAMAGED' : 'sound'}${counts.length > 0 ? ` (${counts.join(', ')})` : ''}.`;
      });
    },
  );

  addWaitOption(
    addIdempotencyOption(
      noun.command('flatten').description('make a clone independent of what it was cloned from').argument('<drive>'),
    ),
  ).action(async (text: string, options: CreateOptions & ChangeOptions) => {
    const drive = await resolveDrive(ctx, text);
    await change(
      ctx,
      'POST',
      `/drives/${drive.id}/flatten`,
      { create: options, wait: options },
      () => `Drive ${drive.name} stands by itself.`,
    );
  });

  const revert = noun
    .command('revert')
    .description('take a drive back to a snapshot, in place; newer snapshots stay')
    .argument('<drive>')
    .argument('<snapshot>', 'of this drive: name, id, or id of a drive snapshot')
    .option('--no-safety', 'do not keep the state before as a snapshot');
  addWaitOption(addIdempotencyOption(revert)).action(
    async (text: string, point: string, options: CreateOptions & ChangeOptions & { safety: boolean }) => {
      const drive = await resolveDrive(ctx, text);
      const part = await resolvePartOfDrive(ctx, point, drive.id);
      const body = { driveSnapshotId: part.id, keepSafety: options.safety };
      await change(
        ctx,
        'POST',
        `/drives/${drive.id}/revert`,
        { body, create: options, wait: options },
        () =>
          `Drive ${drive.name} is back at ${point}${options.safety ? '; its state before is kept as a snapshot' : ''}.`,
      );
    },
  );

  noun
    .command('changes')
    .description('the data of a drive, or where it differs from a snapshot')
    .argument('<drive>')
    .option('--from <snapshot>', 'compare with this one (default: all data)')
    .action(async (text: string, options: { from?: string }) => {
      const drive = await resolveDrive(ctx, text);
      const from = options.from === undefined ? undefined : await resolveFrom(ctx, options.from, drive.id);
      await printChanges(ctx, await ctx.client.get<Changes>(`/drives/${drive.id}/changes`, { from: from?.id }));
    });

  addExportOptions(
    noun.command('export').description('serve a drive over NBD (as: export create)').argument('<drive>'),
    'drive',
  ).action(async (text: string, options: ExportOptions) => createExport(ctx, text, options));
}

export async function printChanges(ctx: Context, changes: Changes): Promise<void> {
  if (ctx.json) return ctx.printJson(changes);
  const columns: Column<Changes['extents'][number]>[] = [
    { title: 'START', align: 'right', value: (extent) => String(extent.start) },
    { title: 'LENGTH', align: 'right', value: (extent) => String(extent.length) },
  ];
  await ctx.printList([changes.extents], columns, 'No difference.');
  ctx.note(`${changes.extents.length} extents, ${ctx.size(changes.totalBytes)} in total.`);
}

function listColumns(ctx: Context): readonly Column<Drive>[] {
  return [
    idColumn,
    { title: 'NAME', value: (drive) => drive.name, flexible: true },
    { title: 'SIZE', align: 'right', value: (drive) => ctx.size(drive.sizeBytes) },
    { title: 'STATE', value: (drive) => drive.state, format: (drive) => stateFormat(drive.state) },
    { title: 'SNAPSHOTS', align: 'right', value: (drive) => String(drive.snapshotCount) },
    { title: 'EXPORTED', value: (drive) => (drive.exported ? 'yes' : '') },
    {
      title: 'MACHINE:SLOT',
      value: ({ attachedTo }) => (attachedTo === null ? '' : `${attachedTo.machineId.slice(0, 8)}:${attachedTo.slot}`),
    },
    ageColumn(ctx),
    { title: 'TAGS', value: (drive) => drive.tags.join(','), flexible: true },
  ];
}

async function show(ctx: Context, drive: Drive): Promise<void> {
  if (ctx.json) return ctx.printJson(drive);
  const { attachedTo } = drive;
  const machine = attachedTo === null ? null : await ifVisible<Machine>(ctx, `/machines/${attachedTo.machineId}`);
  await ctx.printFields([
    ['name', drive.name],
    ['id', drive.id],
    ['number', String(drive.number)],
    ['state', drive.state],
    ['error', formatError(drive.error)],
    ['size', ctx.size(drive.sizeBytes)],
    ['snapshots', String(drive.snapshotCount)],
    ['exported', drive.exported ? 'yes' : 'no'],
    ['attached to', attachedTo === null ? null : `${machine?.name ?? attachedTo.machineId}, slot ${attachedTo.slot}`],
    ['based on', drive.basedOn],
    ['cloned from', drive.sourceId],
    ['from image', drive.imageId],
    ['description', drive.description === '' ? null : drive.description],
    ['meta', formatMeta(drive.meta)],
    ['tags', drive.tags.length === 0 ? null : drive.tags.join(', ')],
    ['project', drive.projectId],
    ['created', `${drive.createdAt} (${formatAge(drive.createdAt, ctx.io.now())} ago)`],
    ['updated', drive.updatedAt],
    ['version', String(drive.version)],
  ]);
}
