/** `calotype machine …`: virtual machines. Running them is in machine-power.ts, what they write in machine-log.ts. */
import type { Command } from 'commander';
import type { Drive, Machine, MachineBoot, Snapshot } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { resolveDrive, resolveImage, resolveMachine, resolveSnapshotOption } from '../resolve.ts';
import { formatAge, formatDuration, parseInteger } from '../sizes.ts';
import type { Column } from '../table.ts';
import { drawMachineTree } from '../tree.ts';
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
  treeStyle,
} from './common.ts';
import { registerAdoption } from './machine-adoption.ts';
import { registerConsole } from './machine-console.ts';
import { registerLog } from './machine-log.ts';
import { onMachine, registerPower } from './machine-power.ts';

interface BootOptions {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append?: string;
}

interface HardwareOptions {
  readonly cpus?: number;
  readonly memorySize?: number;
}

interface CreateMachineOptions extends CreateOptions, LabelOptions, ChangeOptions, BootOptions {
  readonly image?: string;
  readonly memory?: number;
  readonly cpus?: number;
  readonly kind?: string;
  readonly drive?: readonly string[];
}

const kinds = ['vm', 'instance'];
const cpusArgument = (text: string): number => parseInteger(text, 'number of processors', 1);
const slotArgument = (text: string): number => parseInteger(text, 'slot', 0);

export function register(noun: Command, ctx: Context): void {
  const create = noun
    .command('create')
    .description('make a machine; it is off')
    .argument('<name>')
    .option('--image <image>', 'of this image of a machine: its drives and, where not said otherwise, the rest')
    .option('--memory <size>', 'such as 256MiB, 4G', sizeArgument)
    .option('--cpus <n>', 'processors (default: 1)', cpusArgument)
    .addOption(choice('--kind <kind>', 'what clients of other APIs take it for (default: vm)', kinds))
    .option('--drive <drive>', 'attach it: DRIVE, or DRIVE:SLOT; may be repeated', collect)
    .option('--kernel <path>', 'start this kernel of the boot directory instead of the first drive')
    .option('--initrd <path>', 'with this initial RAM disk of the boot directory')
    .option('--append <text>', 'with these kernel arguments');
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(create)))).action(
    async (name: string, options: CreateMachineOptions) => {
      const { image } = options;
      if (image === undefined && options.memory === undefined) throw usageError('Give --memory, or --image.');
      const boot = bootBody(options);
      if (image !== undefined && (boot !== undefined || options.drive !== undefined))
        throw usageError('--drive and --kernel do not go with --image.');
      const drives = [];
      for (const text of options.drive ?? []) drives.push(await driveAndSlot(ctx, text));
      const body = {
        name,
        ...(options.memory === undefined ? {} : { memoryBytes: options.memory }),
        ...(options.cpus === undefined ? {} : { cpus: options.cpus }),
        ...(options.kind === undefined ? {} : { kind: options.kind }),
        ...(drives.length === 0 ? {} : { drives }),
        ...(boot === undefined ? {} : { boot }),
        ...labelsBody(options),
      };
      const path = image === undefined ? '/machines' : `/images/${(await resolveImage(ctx, image)).id}/clone-machine`;
      await change(ctx, 'POST', path, { body, create: options, wait: options }, ({ machine }) =>
        machine === undefined ? 'Created.' : `Created machine ${machine.name} (${machine.id}).`,
      );
    },
  );

  addNameFilters(
    noun.command('list').description('list machines'),
    ['creating', 'available', 'error', 'deleting'],
    ['power'],
  )
    .addOption(choice('--power <power>', 'that are', ['off', 'running', 'paused']))
    .addOption(choice('--kind <kind>', 'of this kind', kinds))
    .action(async (options: NameFilterOptions & ListOptions & { power?: string; kind?: string }) => {
      const query = { ...nameFilterQuery(options), power: options.power, kind: options.kind };
      if (options.count === true) return printCount(ctx, '/machines', query);
      await ctx.printList(
        ctx.client.pages<Machine>('/machines', query, options.limit),
        listColumns(ctx),
        'No machines.',
      );
    });

  onMachine(noun, 'show', 'show one machine and its drives').action(async (text: string) => {
    await show(ctx, await resolveMachine(ctx, text));
  });

  addVersionOption(onMachine(noun, 'rename', 'give a machine another name').argument('<new-name>')).action(
    async (text: string, name: string, options: { ifVersion?: number }) => {
      const machine = await resolveMachine(ctx, text);
      await rename<Machine>(ctx, `/machines/${machine.id}`, 'machine', name, options.ifVersion);
    },
  );

  addSetOptions(onMachine(noun, 'set', 'change labels and, while it is off, processors and memory'))
    .option('--cpus <n>', 'processors', cpusArgument)
    .option('--memory-size <size>', 'memory', sizeArgument)
    .action(async (text: string, pairs: readonly string[], options: SetOptions & HardwareOptions) => {
      const before = await resolveMachine(ctx, text);
      const hardware = {
        ...(options.cpus === undefined ? {} : { cpus: options.cpus }),
        ...(options.memorySize === undefined ? {} : { memoryBytes: options.memorySize }),
      };
      await show(ctx, await setLabels<Machine>(ctx, `/machines/${before.id}`, before, pairs, options, hardware));
    });

  const remove = onMachine(noun, 'delete', 'delete a machine; one that runs is switched off')
    .addOption(choice('--drives <what>', 'what becomes of its drives', ['keep', 'delete']).default('keep'))
    .addOption(
      choice('--snapshots <what>', 'what becomes of its snapshots', ['refuse', 'keep', 'delete']).default('refuse'),
    );
  addWaitOption(addIdempotencyOption(addVersionOption(remove))).action(
    async (
      text: string,
      options: CreateOptions & ChangeOptions & { drives: string; snapshots: string; ifVersion?: number },
    ) => {
      const { id, name } = await resolveMachine(ctx, text);
      const query = { drives: options.drives, snapshots: options.snapshots };
      await change(
        ctx,
        'DELETE',
        `/machines/${id}`,
        { query, create: options, wait: options, ifVersion: options.ifVersion },
        () => `Deleted machine ${name}${options.drives === 'delete' ? '; its drives follow' : ''}.`,
      );
    },
  );

  registerAdoption(noun, ctx);
  registerPower(noun, ctx);

  const attach = onMachine(noun, 'attach', 'attach a drive, also while the machine runs')
    .argument('<drive>')
    .option('--slot <n>', 'default: the next free one', slotArgument);
  addWaitOption(addIdempotencyOption(attach)).action(
    async (text: string, driveText: string, options: CreateOptions & ChangeOptions & { slot?: number }) => {
      const machine = await resolveMachine(ctx, text);
      const drive = await resolveDrive(ctx, driveText);
      const body = { driveId: drive.id, ...(options.slot === undefined ? {} : { slot: options.slot }) };
      await change(
        ctx,
        'POST',
        `/machines/${machine.id}/drives`,
        { body, create: options, wait: options },
        ({ task }) => `Drive ${drive.name} is attached to ${machine.name}${slotRemark(task.result)}.`,
      );
    },
  );

  const detach = onMachine(noun, 'detach', 'detach a drive, also while the machine runs').argument('<drive>');
  addWaitOption(addIdempotencyOption(detach)).action(
    async (text: string, driveText: string, options: CreateOptions & ChangeOptions) => {
      const machine = await resolveMachine(ctx, text);
      const drive = await resolveDrive(ctx, driveText);
      await change(
        ctx,
        'DELETE',
        `/machines/${machine.id}/drives/${drive.id}`,
        { create: options, wait: options },
        () => `Drive ${drive.name} is detached from ${machine.name}.`,
      );
    },
  );

  registerLog(noun, ctx);
  registerConsole(noun, ctx);

  const clone = noun
    .command('clone')
    .description('make a machine from a snapshot of one')
    .argument('<snapshot>', 'name, id or beginning of an id')
    .argument('<new-name>', 'of the new machine')
    .option('--machine <machine>', 'the snapshot of this machine, where several have the name')
    .option('--memory', 'its guest goes on from the memory of the snapshot (default: it is off)');
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(clone)))).action(
    async (
      text: string,
      name: string,
      options: CreateOptions & LabelOptions & ChangeOptions & { machine?: string; memory?: boolean },
    ) => {
      const snapshot = await resolveSnapshotOption(ctx, text, options);
      const body = { name, ...(options.memory === true ? { memory: true } : {}), ...labelsBody(options) };
      await change(
        ctx,
        'POST',
        `/snapshots/${snapshot.id}/clone-machine`,
        { body, create: options, wait: options },
        ({ machine }) =>
          machine === undefined
            ? 'Cloned.'
            : `Created machine ${machine.name} (${machine.id}) from ${snapshot.name}; it is ${machine.power}.`,
      );
    },
  );

  onMachine(noun, 'tree', 'draw the snapshots of a machine as a tree').action(async (text: string) => {
    const machine = await resolveMachine(ctx, text);
    const pages = ctx.client.pages<Snapshot>('/snapshots', { machineId: machine.id }, Number.POSITIVE_INFINITY);
    const snapshots: Snapshot[] = [];
    for await (const items of pages) snapshots.push(...items);
    if (ctx.json) return ctx.printJson(snapshots);
    await ctx.print(`${drawMachineTree(machine.name, snapshots, treeStyle(ctx)).join('\n')}\n`);
  });
}

function bootBody({ kernel, initrd, append }: BootOptions): Readonly<Record<string, unknown>> | undefined {
  if (kernel === undefined) {
    if (initrd !== undefined || append !== undefined) throw usageError('--initrd and --append go with --kernel.');
    return undefined;
  }
  return {
    from: 'kernel',
    kernel,
    ...(initrd === undefined ? {} : { initrd }),
    ...(append === undefined ? {} : { append }),
  };
}

/** `DRIVE` or `DRIVE:SLOT`. */
async function driveAndSlot(ctx: Context, text: string): Promise<Readonly<Record<string, unknown>>> {
  const [, name = text, slot] = /^(.+):(\d+)$/.exec(text) ?? [];
  const { id } = await resolveDrive(ctx, name);
  return { driveId: id, ...(slot === undefined ? {} : { slot: slotArgument(slot) }) };
}

/** What `show` says of how a machine starts. */
export function bootFields(boot: MachineBoot): readonly (readonly [string, string | null])[] {
  return [
    ['starts from', boot.from === 'drive' ? 'its first drive' : `kernel ${boot.kernel ?? ''}`],
    ['initrd', boot.initrd ?? null],
    ['kernel arguments', boot.append === undefined || boot.append === '' ? null : boot.append],
  ];
}

const slotRemark = (result: Readonly<Record<string, unknown>> | null): string =>
  typeof result?.slot === 'number' ? `, slot ${result.slot}` : '';

const powerFormat = (power: string): 'green' | 'yellow' | null =>
  power === 'running' ? 'green' : power === 'paused' ? 'yellow' : null;

function listColumns(ctx: Context): readonly Column<Machine>[] {
  return [
    idColumn,
    { title: 'NAME', value: (machine) => machine.name, flexible: true },
    { title: 'POWER', value: (machine) => machine.power, format: (machine) => powerFormat(machine.power) },
    { title: 'STATE', value: (machine) => machine.state, format: (machine) => stateFormat(machine.state) },
    { title: 'CPUS', align: 'right', value: (machine) => String(machine.hardware.cpus) },
    { title: 'MEMORY', align: 'right', value: (machine) => ctx.size(machine.hardware.memoryBytes) },
    { title: 'DRIVES', align: 'right', value: (machine) => String(machine.drives.length) },
    { title: 'SNAPSHOTS', align: 'right', value: (machine) => String(machine.snapshotCount) },
    ageColumn(ctx),
    { title: 'TAGS', value: (machine) => machine.tags.join(','), flexible: true },
  ];
}

async function show(ctx: Context, machine: Machine): Promise<void> {
  if (ctx.json) return ctx.printJson(machine);
  const { hardware, boot, runtime } = machine;
  await ctx.printFields([
    ['name', machine.name],
    ['id', machine.id],
    ['number', String(machine.number)],
    ['kind', machine.kind],
    ['managed', machine.managed ? 'yes' : 'no: somebody else runs it'],
    ['state', machine.state],
    ['power', machine.power],
    ['error', formatError(machine.error)],
    ['processors', String(hardware.cpus)],
    ['memory', ctx.size(hardware.memoryBytes)],
    ['machine type', hardware.machineType],
    ['MAC address', hardware.macAddress === '' ? null : hardware.macAddress],
    ...bootFields(boot),
    ['process', runtime === null ? null : `${runtime.pid}, QEMU ${runtime.qemuVersion} with ${runtime.accelerator}`],
    ['up for', runtime === null ? null : formatDuration(runtime.uptimeSeconds)],
    ['snapshots', String(machine.snapshotCount)],
    ['based on', machine.basedOn],
    ['cloned from', machine.sourceId],
    ['from image', machine.imageId],
    ['description', machine.description === '' ? null : machine.description],
    ['meta', formatMeta(machine.meta)],
    ['tags', machine.tags.length === 0 ? null : machine.tags.join(', ')],
    ['project', machine.projectId],
    ['created', `${machine.createdAt} (${formatAge(machine.createdAt, ctx.io.now())} ago)`],
    ['updated', machine.updatedAt],
    ['version', String(machine.version)],
  ]);
  if (machine.drives.length === 0) return;
  await ctx.print('\n');
  const rows: { slot: number; id: string; drive: Drive | null }[] = [];
  for (const { slot, driveId } of machine.drives)
    rows.push({ slot, id: driveId, drive: await ifVisible<Drive>(ctx, `/drives/${driveId}`) });
  const columns: Column<(typeof rows)[number]>[] = [
    { title: 'SLOT', align: 'right', value: (row) => String(row.slot) },
    { title: 'DRIVE', value: (row) => row.id },
    { title: 'NAME', value: (row) => row.drive?.name ?? '', flexible: true },
    { title: 'SIZE', align: 'right', value: (row) => ctx.size(row.drive?.sizeBytes) },
  ];
  await ctx.printList([rows], columns, 'No drives.');
}
