/** `calotype export …`: drives and snapshots served over NBD. */
import type { Command } from 'commander';
import type { Drive, DriveExport } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { choosePart, resolveDrive, resolveExport, resolveSnapshot } from '../resolve.ts';
import { formatAge, parseInteger } from '../sizes.ts';
import type { Column } from '../table.ts';
import { addIdempotencyOption, ageColumn, type CreateOptions, idColumn, remove } from './common.ts';

export interface ExportOptions extends CreateOptions {
  readonly snapshot?: string;
  readonly part?: string;
  readonly writable?: boolean;
  readonly tcp?: boolean;
  readonly host?: string;
  readonly port?: number;
  readonly tls?: boolean;
}

export function addExportOptions(command: Command, of: 'drive' | 'snapshot' | 'either'): Command {
  if (of !== 'snapshot') command.option('--writable', 'allow writing (of a drive)');
  if (of === 'either') command.option('--snapshot <snapshot>', 'serve this snapshot instead of a drive');
  if (of !== 'drive') command.option('--part <drive>', 'which drive of a snapshot that covers several');
  return addIdempotencyOption(
    command
      .option('--tcp', 'over TCP instead of a unix socket')
      .option('--host <address>', 'listen on this address of the server (with --tcp)')
      .option('--port <n>', 'listen on this port (with --tcp; default: a free one)', (text) =>
        parseInteger(text, 'port', 1),
      )
      .option('--tls', 'TLS with a pre-shared key, shown once (with --tcp); off loopback it goes without saying'),
  );
}

export function register(noun: Command, ctx: Context): void {
  addExportOptions(
    noun.command('create').description('serve a drive or a snapshot over NBD').argument('[drive]', 'or --snapshot'),
    'either',
  ).action(async (text: string | undefined, options: ExportOptions) => createExport(ctx, text, options));

  noun
    .command('list')
    .description('list exports')
    .option('--drive <drive>', 'of this drive only')
    .action(async (options: { drive?: string }) => {
      const driveId = options.drive === undefined ? undefined : (await resolveDrive(ctx, options.drive)).id;
      const { items } = await ctx.client.get<{ items: readonly DriveExport[] }>('/exports', { driveId });
      await ctx.printList([items], columnsOf(ctx), 'No exports.');
    });

  noun
    .command('show')
    .description('show one export')
    .argument('<export>', 'id, beginning of an id, or name of its drive')
    .action(async (text: string) => {
      const served = await resolveExport(ctx, text);
      if (ctx.json) return ctx.printJson(served);
      await ctx.printFields([
        ['id', served.id],
        ['drive', served.driveId],
        ['drive snapshot', served.driveSnapshotId],
        ['writable', served.writable ? 'yes' : 'no'],
        ['transport', served.transport],
        ['export name', served.exportName],
        ['uri', served.uri],
        ['created', `${served.createdAt} (${formatAge(served.createdAt, ctx.io.now())} ago)`],
      ]);
    });

  noun
    .command('close')
    .description('stop serving')
    .argument('<export>')
    .action(async (text: string) => {
      const served = await resolveExport(ctx, text);
      await remove(ctx, `/exports/${served.id}`, `Closed export ${served.id}.`);
    });
}

export async function createExport(ctx: Context, drive: string | undefined, options: ExportOptions): Promise<void> {
  if ((drive === undefined) === (options.snapshot === undefined))
    throw usageError('Name either a drive or a --snapshot.');
  if (options.tcp !== true && (options.host !== undefined || options.port !== undefined || options.tls === true)) {
    throw usageError('--host, --port and --tls go with --tcp.');
  }
  const transport =
    options.tcp === true
      ? {
          kind: 'tcp',
          ...(options.host === undefined ? {} : { host: options.host }),
          ...(options.port === undefined ? {} : { port: options.port }),
          ...(options.tls === true ? { tls: true } : {}),
        }
      : { kind: 'unix' };
  const body = { ...(await subject(ctx, drive, options)), transport };
  const { body: served } = await ctx.client.request<DriveExport>('POST', '/exports', {
    body,
    idempotencyKey: options.idempotencyKey,
  });
  if (ctx.json) return ctx.printJson(served);
  await ctx.print(`${served.uri}\n`);
  if (served.tlsPsk !== undefined) {
    const { identity, keyHex } = served.tlsPsk;
    await ctx.print(`key file (keys.psk), shown once:\n  ${identity}:${keyHex}\n`);
    ctx.note(
      `Try: qemu-img info --object tls-creds-psk,id=tls0,dir=DIR_OF_KEYS_PSK,endpoint=client,username=${identity} --image-opts driver=nbd,…,tls-creds=tls0`,
    );
  } else {
    ctx.note(`Try: qemu-img info '${served.uri}'   or: nbdinfo '${served.uri}'`);
  }
  ctx.note(`Close it: calotype export close ${served.id}`);
}

async function subject(
  ctx: Context,
  drive: string | undefined,
  options: ExportOptions,
): Promise<Record<string, unknown>> {
  if (drive !== undefined) {
    const { id }: Drive = await resolveDrive(ctx, drive);
    return { driveId: id, ...(options.writable === true ? { writable: true } : {}) };
  }
  if (options.writable === true)
    throw usageError('A snapshot is never writable.', 'Clone it: calotype snapshot clone SNAPSHOT.');
  const snapshot = await resolveSnapshot(ctx, options.snapshot ?? '');
  return { driveSnapshotId: choosePart(snapshot, options.part).id };
}

function columnsOf(ctx: Context): readonly Column<DriveExport>[] {
  return [
    idColumn,
    {
      title: 'OF',
      value: (row) =>
        row.driveId === null
          ? `snapshot ${row.driveSnapshotId?.slice(0, 8) ?? ''}`
          : `drive ${row.driveId.slice(0, 8)}`,
    },
    { title: 'MODE', value: (row) => (row.writable ? 'rw' : 'ro') },
    ageColumn(ctx),
    { title: 'URI', value: (row) => row.uri },
  ];
}
