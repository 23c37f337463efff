/** `calotype image …`: templates. Drives and machines are made from them by `drive create` and `machine create`. */
import type { Command } from 'commander';
import type { Image } from '../api-types.ts';
import type { Context } from '../context.ts';
import { choosePart, resolveImage, resolveSnapshotOption } from '../resolve.ts';
import { formatAge } from '../sizes.ts';
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
  type LabelOptions,
  type ListOptions,
  labelsBody,
  type NameFilterOptions,
  nameFilterQuery,
  printCount,
  rename,
  type SetOptions,
  setLabels,
  stateFormat,
} from './common.ts';
import { bootFields } from './machine.ts';
import { partOfDrive } from './snapshot.ts';

interface OfSnapshot {
  readonly drive?: string;
  readonly machine?: string;
  readonly part?: string;
}

const onImage = (noun: Command, verb: string, description: string): Command =>
  noun.command(verb).description(description).argument('<image>', 'name, id or beginning of an id');

export function register(noun: Command, ctx: Context): void {
  const create = noun
    .command('create')
    .description('make an image from a snapshot: of a machine, or of one drive')
    .argument('<snapshot>', 'name, id or beginning of an id')
    .argument('[name]', 'of the image (default: that of the snapshot)')
    .option('--drive <drive>', 'the snapshot of this drive, where several have the name; an image of it alone')
    .option('--machine <machine>', 'the snapshot of this machine, where several have the name')
    .option('--part <drive>', 'an image of this drive alone, where the snapshot covers several');
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(create)))).action(
    async (
      text: string,
      name: string | undefined,
      options: CreateOptions & LabelOptions & ChangeOptions & OfSnapshot,
    ) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const part = options.part ?? partOfDrive(snapshot, options.drive);
      const isWhole = part === undefined && snapshot.machine !== null;
      const body = {
        snapshotId: snapshot.id,
        ...(isWhole ? {} : { part: choosePart(snapshot, part).id }),
        ...(name === undefined ? {} : { name }),
        ...labelsBody(options),
      };
      await change(ctx, 'POST', '/images', { body, create: options, wait: options }, ({ image }) =>
        image === undefined
          ? 'Created.'
          : `Created image ${image.name} (${image.id}) of a ${image.kind}, ${ctx.size(image.sizeBytes)}.`,
      );
    },
  );

  addNameFilters(noun.command('list').description('list images'), ['creating', 'available', 'error', 'deleting'])
    .addOption(choice('--kind <kind>', 'of machines, or of drives', ['machine', 'drive']))
    .action(async (options: NameFilterOptions & ListOptions & { kind?: string }) => {
      const query = { ...nameFilterQuery(options), kind: options.kind };
      if (options.count === true) return printCount(ctx, '/images', query);
      await ctx.printList(ctx.client.pages<Image>('/images', query, options.limit), listColumns(ctx), 'No images.');
    });

  onImage(noun, 'show', 'show one image and what it holds').action(async (text: string) => {
    await show(ctx, await resolveImage(ctx, text));
  });

  addVersionOption(onImage(noun, 'rename', 'give an image another name').argument('<new-name>')).action(
    async (text: string, name: string, options: { ifVersion?: number }) => {
      const image = await resolveImage(ctx, text);
      await rename<Image>(ctx, `/images/${image.id}`, 'image', name, options.ifVersion);
    },
  );

  addSetOptions(onImage(noun, 'set', 'change description, metadata and tags')).action(
    async (text: string, pairs: readonly string[], options: SetOptions) => {
      const before = await resolveImage(ctx, text);
      await show(ctx, await setLabels<Image>(ctx, `/images/${before.id}`, before, pairs, options));
    },
  );

  const remove = onImage(noun, 'delete', 'delete an image that no drive made from it stands on');
  addWaitOption(addIdempotencyOption(addVersionOption(remove))).action(
    async (text: string, options: CreateOptions & ChangeOptions & { ifVersion?: number }) => {
      const { id, name } = await resolveImage(ctx, text);
      await change(
        ctx,
        'DELETE',
        `/images/${id}`,
        { create: options, wait: options, ifVersion: options.ifVersion },
        ({ task }) => `Deleted image ${name}${freedRemark(task.result)}.`,
      );
    },
  );
}

function listColumns(ctx: Context): readonly Column<Image>[] {
  return [
    idColumn,
    { title: 'NAME', value: (image) => image.name, flexible: true },
    { title: 'OF', value: (image) => image.kind },
    { title: 'SIZE', align: 'right', value: (image) => ctx.size(image.sizeBytes) },
    { title: 'STATE', value: (image) => image.state, format: (image) => stateFormat(image.state) },
    { title: 'CLONES', align: 'right', value: (image) => String(image.cloneCount) },
    ageColumn(ctx),
    { title: 'TAGS', value: (image) => image.tags.join(','), flexible: true },
  ];
}

/** The fields of an image of a machine. */
function machineFields(ctx: Context, { machine }: Image): readonly (readonly [string, string | null])[] {
  if (machine === null) return [];
  const { hardware } = machine;
  return [
    ['machine', machine.name],
    ['machine kind', machine.kind],
    ['processors', String(hardware.cpus)],
    ['memory', ctx.size(hardware.memoryBytes)],
    ['machine type', hardware.machineType],
    ...bootFields(machine.boot),
  ];
}

async function show(ctx: Context, image: Image): Promise<void> {
  if (ctx.json) return ctx.printJson(image);
  await ctx.printFields([
    ['name', image.name],
    ['id', image.id],
    ['number', String(image.number)],
    ['of', image.kind],
    ['state', image.state],
    ['error', formatError(image.error)],
    ['size', ctx.size(image.sizeBytes)],
    ['consistency', image.consistency],
    ...machineFields(ctx, image),
    ['in use by', `${image.cloneCount} drive${image.cloneCount === 1 ? '' : 's'}`],
    ['from snapshot', image.sourceId],
    ['description', image.description === '' ? null : image.description],
    ['meta', formatMeta(image.meta)],
    ['tags', image.tags.length === 0 ? null : image.tags.join(', ')],
    ['project', image.projectId],
    ['created by', image.createdBy],
    ['created', `${image.createdAt} (${formatAge(image.createdAt, ctx.io.now())} ago)`],
    ['version', String(image.version)],
  ]);
  await ctx.print('\n');
  const columns: Column<Image['drives'][number]>[] = [
    { title: 'SLOT', align: 'right', value: (drive) => String(drive.slot) },
    { title: 'DRIVE', value: (drive) => drive.name, flexible: true },
    { title: 'SIZE', align: 'right', value: (drive) => ctx.size(drive.sizeBytes) },
  ];
  await ctx.printList([image.drives], columns, 'No drives.');
}
