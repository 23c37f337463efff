/** `calotype snapshot …`: points in time of machines and drives. */
import type { Command } from 'commander';
import type { Changes, DriveSnapshot, Snapshot, SnapshotTree, SnapshotUsage } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { choosePart, resolveDrive, resolveFrom, resolveMachine, resolveSnapshotOption } from '../resolve.ts';
import { formatAge, parseTime } from '../sizes.ts';
import type { Column } from '../table.ts';
import { drawTree } from '../tree.ts';
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
  collect,
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
  sizeArgument,
  stateFormat,
  treeStyle,
} from './common.ts';
import { printChanges } from './drive.ts';
import { addDownloadOptions, type DownloadFlags, downloadTo } from './drive-transfer.ts';
import { addExportOptions, createExport, type ExportOptions } from './export.ts';

interface Whose {
  readonly drive?: string;
  readonly machine?: string;
}

interface OfMachine {
  readonly machine?: string;
  readonly memory?: boolean;
  readonly quiesce?: string;
  readonly exclude?: readonly string[];
}

interface RevertOptions {
  readonly safety: boolean;
  readonly onto?: string;
  readonly withoutMemory?: boolean;
  readonly paused?: boolean;
}

interface OfPart extends Whose {
  readonly part?: string;
}

/** A verb on one snapshot; `--drive` and `--machine` tell those of one name apart. */
function onSnapshot(noun: Command, verb: string, description: string): Command {
  return noun
    .command(verb)
    .description(description)
    .argument('<snapshot>', 'name, id or beginning of an id')
    .option('--drive <drive>', 'the snapshot of this drive, where several have the name')
    .option('--machine <machine>', 'the snapshot of this machine, where several have the name');
}

const addPartOption = (command: Command): Command =>
  command.option('--part <drive>', 'which drive, where it covers several');

export function register(noun: Command, ctx: Context): void {
  const create = noun
    .command('create')
    .description('take a snapshot of drives, or of a machine, all at one instant')
    .argument('[drive...]', 'or --machine')
    .option('--machine <machine>', 'of this machine: all its drives')
    .option('--memory', 'with its memory, so that its guest can go on from there')
    .addOption(choice('--quiesce <how>', 'its file systems, by the guest agent', ['require', 'prefer', 'never']))
    .option('--exclude <drive>', 'leave this drive of the machine out, may be repeated', collect)
    .option('--name <name>', 'default: from the drive or machine and the time');
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(create)))).action(
    async (
      texts: readonly string[],
      options: CreateOptions & LabelOptions & ChangeOptions & OfMachine & { name?: string },
    ) => {
      const body = {
        ...(await whatToTake(ctx, texts, options)),
        ...(options.name === undefined ? {} : { name: options.name }),
        ...labelsBody(options),
      };
      await change(ctx, 'POST', '/snapshots', { body, create: options, wait: options }, ({ snapshot }) =>
        snapshot === undefined
          ? 'Created.'
          : `Created snapshot ${snapshot.name} (${snapshot.id})${snapshot.machine === null ? '' : `, ${consistencyOf(snapshot)}`}.`,
      );
    },
  );

  addNameFilters(noun.command('list').description('list snapshots'), ['creating', 'available', 'error', 'deleting'])
    .option('--drive <drive>', 'of this drive')
    .option('--machine <machine>', 'of this machine')
    .option('--since <time>', 'taken at this time or later: ISO 8601, or an age such as 12h')
    .option('--before <time>', 'taken before this time')
    .action(async (options: NameFilterOptions & ListOptions & Whose & { since?: string; before?: string }) => {
      const query = {
        ...nameFilterQuery(options),
        driveId: options.drive === undefined ? undefined : (await resolveDrive(ctx, options.drive)).id,
        machineId: options.machine === undefined ? undefined : (await resolveMachine(ctx, options.machine)).id,
        createdFrom: options.since === undefined ? undefined : parseTime(options.since, ctx.io.now()),
        createdBefore: options.before === undefined ? undefined : parseTime(options.before, ctx.io.now()),
      };
      if (options.count === true) return printCount(ctx, '/snapshots', query);
      await ctx.printList(
        ctx.client.pages<Snapshot>('/snapshots', query, options.limit),
        listColumns(ctx),
        'No snapshots.',
      );
    });

  onSnapshot(noun, 'show', 'show one snapshot and its parts').action(async (text: string, options: Whose) => {
    await show(ctx, await resolveSnapshotOption(ctx, text, options));
  });

  noun
    .command('tree')
    .description('draw the snapshots of a drive as a tree')
    .argument('<drive>')
    .action(async (text: string) => {
      const drive = await resolveDrive(ctx, text);
      const tree = await ctx.client.get<SnapshotTree>(`/drives/${drive.id}/tree`);
      if (ctx.json) return ctx.printJson(tree);
      await ctx.print(`${drawTree(drive.name, tree, treeStyle(ctx)).join('\n')}\n`);
    });

  addVersionOption(onSnapshot(noun, 'rename', 'give a snapshot another name').argument('<new-name>')).action(
    async (text: string, name: string, options: Whose & { ifVersion?: number }) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      await rename<Snapshot>(ctx, `/snapshots/${snapshot.id}`, 'snapshot', name, options.ifVersion);
    },
  );

  addSetOptions(onSnapshot(noun, 'set', 'change description, metadata and tags')).action(
    async (text: string, pairs: readonly string[], options: SetOptions & Whose) => {
      const before = await resolveSnapshotOption(ctx, text, options);
      await show(ctx, await setLabels<Snapshot>(ctx, `/snapshots/${before.id}`, before, pairs, options));
    },
  );

  const remove = addWaitOption(addIdempotencyOption(addVersionOption(onSnapshot(noun, 'delete', 'delete a snapshot'))));
  remove
    .option('--part <drive>', 'only the part of this drive, may be repeated', collect)
    .action(
      async (
        text: string,
        options: CreateOptions & ChangeOptions & Whose & { part?: readonly string[]; ifVersion?: number },
      ) => {
        const snapshot = await resolveSnapshotOption(ctx, text, options);
        const parts = (options.part ?? []).map((part) => choosePart(snapshot, part));
        const names = parts.map((part) => part.driveName).join(', ');
        const what =
          parts.length === 0 ? `snapshot ${snapshot.name}` : `the part of ${names} of snapshot ${snapshot.name}`;
        await change(
          ctx,
          'DELETE',
          `/snapshots/${snapshot.id}`,
          {
            query: { part: parts.map((part) => part.id) },
            create: options,
            wait: options,
            ifVersion: options.ifVersion,
          },
          ({ task }) => `Deleted ${what}${freedRemark(task.result)}.`,
        );
      },
    );

  addWaitOption(
    addIdempotencyOption(onSnapshot(noun, 'revert', 'take its machine, or all its drives, back to it, in place')),
  )
    .option('--no-safety', 'do not keep the state before as a snapshot')
    .option('--onto <machine>', 'put this other machine onto it, slot by slot')
    .option('--without-memory', 'start the guest afresh, though its memory was kept')
    .option('--paused', 'let the guest stand still afterwards')
    .action(async (text: string, options: CreateOptions & ChangeOptions & Whose & RevertOptions) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const onto = options.onto === undefined ? undefined : await resolveMachine(ctx, options.onto);
      const body = {
        keepSafety: options.safety,
        ...(onto === undefined ? {} : { machineId: onto.id }),
        ...(options.withoutMemory === true ? { memory: false } : {}),
        ...(options.paused === true ? { paused: true } : {}),
      };
      const names = snapshot.parts.map((part) => part.driveName).join(', ');
      await change(
        ctx,
        'POST',
        `/snapshots/${snapshot.id}/revert`,
        { body, create: options, wait: options },
        ({ task }) => {
          const what =
            snapshot.machine === null ? names : describeRevert(onto?.name ?? snapshot.machine.machineName, task.result);
          return `Back at ${snapshot.name}: ${what}${options.safety ? '; the state before is kept as a snapshot' : ''}.`;
        },
      );
    });

  const clone = addPartOption(onSnapshot(noun, 'clone', 'make a new drive from a snapshot'))
    .argument('[name]', 'of the new drive')
    .option('--size <size>', 'larger than the snapshot', sizeArgument);
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(clone)))).action(
    async (
      text: string,
      name: string | undefined,
      options: CreateOptions & LabelOptions & ChangeOptions & OfPart & { size?: number },
    ) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const body = {
        part: choosePart(snapshot, options.part ?? partOfDrive(snapshot, options.drive)).id,
        ...(name === undefined ? {} : { name }),
        ...(options.size === undefined ? {} : { sizeBytes: options.size }),
        ...labelsBody(options),
      };
      await change(
        ctx,
        'POST',
        `/snapshots/${snapshot.id}/clone`,
        { body, create: options, wait: options },
        ({ drive }) =>
          drive === undefined ? 'Cloned.' : `Created drive ${drive.name} (${drive.id}) from ${snapshot.name}.`,
      );
    },
  );

  onSnapshot(noun, 'usage', 'what a snapshot takes, part by part').action(async (text: string, options: Whose) => {
    const snapshot = await resolveSnapshotOption(ctx, text, options);
    const usage = await ctx.client.get<SnapshotUsage>(`/snapshots/${snapshot.id}/usage`);
    if (ctx.json) return ctx.printJson(usage);
    const nameOf = (id: string) => snapshot.parts.find((part) => part.id === id)?.driveName ?? id;
    const columns: Column<SnapshotUsage['parts'][number]>[] = [
      { title: 'DRIVE', value: (part) => nameOf(part.driveSnapshotId), flexible: true },
      { title: 'CHANGED SINCE', align: 'right', value: (part) => ctx.size(part.sizeBytes) },
      { title: 'FREED IF DELETED', align: 'right', value: (part) => ctx.size(part.uniqueBytes) },
    ];
    await ctx.printList([usage.parts], columns, 'No parts.');
  });

  addPartOption(onSnapshot(noun, 'changes', 'the data of a snapshot, or where it differs from another'))
    .option('--from <snapshot>', 'compare with this one (default: all data)')
    .action(async (text: string, options: OfPart & { from?: string }) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const part = choosePart(snapshot, options.part ?? partOfDrive(snapshot, options.drive));
      const from = options.from === undefined ? undefined : await resolveFrom(ctx, options.from, part.driveId);
      const query = { part: part.id, from: from?.id };
      await printChanges(ctx, await ctx.client.get<Changes>(`/snapshots/${snapshot.id}/changes`, query));
    });

  addDownloadOptions(addPartOption(onSnapshot(noun, 'download', 'fetch the bytes of a snapshot'))).action(
    async (text: string, file: string, options: DownloadFlags & OfPart) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const part = choosePart(snapshot, options.part ?? partOfDrive(snapshot, options.drive));
      await downloadTo(ctx, `/snapshots/${snapshot.id}/download`, snapshot.name, file, options, part.id);
    },
  );

  addExportOptions(
    onSnapshot(noun, 'export', 'serve a snapshot over NBD (as: export create --snapshot)'),
    'snapshot',
  ).action(async (text: string, options: ExportOptions & OfPart) => {
    const snapshot = await resolveSnapshotOption(ctx, text, options);
    const part = options.part ?? partOfDrive(snapshot, options.drive);
    await createExport(ctx, undefined, { ...options, snapshot: snapshot.id, ...(part === undefined ? {} : { part }) });
  });
}

/** What a snapshot is to hold. */
async function whatToTake(
  ctx: Context,
  texts: readonly string[],
  options: OfMachine,
): Promise<Readonly<Record<string, unknown>>> {
  const { machine, memory, quiesce, exclude } = options;
  if ((texts.length === 0) === (machine === undefined)) throw usageError('Name either drives or a --machine.');
  if (machine === undefined) {
    if (memory === true || quiesce !== undefined || exclude !== undefined)
      throw usageError('--memory, --quiesce and --exclude go with --machine.');
    return { driveIds: await idsOfDrives(ctx, texts) };
  }
  return {
    machineId: (await resolveMachine(ctx, machine)).id,
    ...(memory === true ? { memory } : {}),
    ...(quiesce === undefined ? {} : { quiesce }),
    ...(exclude === undefined ? {} : { exclude: await idsOfDrives(ctx, exclude) }),
  };
}

async function idsOfDrives(ctx: Context, texts: readonly string[]): Promise<readonly string[]> {
  const ids: string[] = [];
  for (const text of texts) ids.push((await resolveDrive(ctx, text)).id);
  return ids;
}

const consistencyOf = ({ consistency, machine }: Snapshot): string =>
  machine === null || machine.reason === '' ? consistency : `${consistency}: ${machine.reason.replace(/\.$/, '')}`;

/** From the result of a revert's task. */
function describeRevert(machineName: string, result: Readonly<Record<string, unknown>> | null): string {
  const words = [machineName];
  if (typeof result?.power === 'string') words.push(result.power);
  if (result?.memory === true) words.push('with its memory');
  const untouched = Array.isArray(result?.untouchedDriveIds) ? result.untouchedDriveIds.length : 0;
  const left = `${untouched} drive${untouched === 1 ? '' : 's'} that the snapshot does not cover ${untouched === 1 ? 'stayed as it is' : 'stayed as they are'}`;
  return [words.join(', '), ...(untouched === 0 ? [] : [left])].join('; ');
}

const milliseconds = (ms: number | null): string | null => (ms === null ? null : `${ms} ms`);

/** The fields of a snapshot of a machine. */
function machineFields(ctx: Context, { machine }: Snapshot): readonly (readonly [string, string | null])[] {
  if (machine === null) return [];
  const { memory } = machine;
  return [
    ['machine', `${machine.machineName} (${machine.machineId})`],
    ['power', machine.power],
    ['guest stood still', milliseconds(machine.pauseMilliseconds)],
    ['file systems frozen', milliseconds(machine.frozenMilliseconds)],
    [
      'memory',
      memory === null ? null : `${ctx.size(memory.storedBytes)} stored of ${ctx.size(memory.streamBytes)} saved`,
    ],
    ['left out', machine.excluded.length === 0 ? null : machine.excluded.join(', ')],
    ['after', machine.parentId],
    ['current', machine.current ? 'yes' : 'no'],
  ];
}

/** `--drive` also says which part, if it says it as the snapshot does. */
export function partOfDrive(snapshot: Snapshot, drive: string | undefined): string | undefined {
  if (drive === undefined) return undefined;
  if (snapshot.parts.some((part) => part.driveName === drive || part.driveId.startsWith(drive.toLowerCase())))
    return drive;
  throw usageError(`Snapshot '${snapshot.name}' does not name '${drive}' among its drives.`, 'Say it with --part.');
}

function listColumns(ctx: Context): readonly Column<Snapshot>[] {
  return [
    idColumn,
    { title: 'NAME', value: (row) => row.name, flexible: true },
    { title: 'MACHINE', value: (row) => row.machine?.machineName ?? '', flexible: true },
    { title: 'DRIVES', value: (row) => row.parts.map((part) => part.driveName).join(','), flexible: true },
    { title: 'CHANGED', align: 'right', value: (row) => ctx.size(row.sizeBytes) },
    {
      title: 'STATE',
      value: (row) => (row.complete ? row.state : `${row.state}, incomplete`),
      format: (row) => stateFormat(row.state),
    },
    ageColumn(ctx),
    { title: 'TAGS', value: (row) => row.tags.join(','), flexible: true },
  ];
}

async function show(ctx: Context, snapshot: Snapshot): Promise<void> {
  if (ctx.json) return ctx.printJson(snapshot);
  await ctx.printFields([
    ['name', snapshot.name],
    ['id', snapshot.id],
    ['number', String(snapshot.number)],
    ['state', snapshot.state],
    ['error', formatError(snapshot.error)],
    ['changed since', ctx.size(snapshot.sizeBytes)],
    ['consistency', consistencyOf(snapshot)],
    ...machineFields(ctx, snapshot),
    ['complete', snapshot.complete ? 'yes' : 'no: a part was deleted, it cannot be reverted to as a whole'],
    ['origin', snapshot.origin],
    ['description', snapshot.description === '' ? null : snapshot.description],
    ['meta', formatMeta(snapshot.meta)],
    ['tags', snapshot.tags.length === 0 ? null : snapshot.tags.join(', ')],
    ['project', snapshot.projectId],
    ['created', `${snapshot.createdAt} (${formatAge(snapshot.createdAt, ctx.io.now())} ago)`],
    ['version', String(snapshot.version)],
  ]);
  await ctx.print('\n');
  const columns: Column<DriveSnapshot>[] = [
    { title: 'PART', value: (part) => part.id },
    { title: 'DRIVE', value: (part) => part.driveName, flexible: true },
    { title: 'SIZE', align: 'right', value: (part) => ctx.size(part.virtualBytes) },
    { title: 'CHANGED', align: 'right', value: (part) => ctx.size(part.sizeBytes) },
    { title: '', value: (part) => (part.current ? '← current' : '') },
  ];
  await ctx.printList([snapshot.parts], columns, 'No parts.');
}
