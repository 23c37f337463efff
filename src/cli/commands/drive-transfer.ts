/** `calotype drive import` and `download`: whole images, streamed. */
import type { Command } from 'commander';
import type { Change } from '../api-types.ts';
import type { Context } from '../context.ts';
import { InterruptedError, usageError } from '../errors.ts';
import { resolveDrive } from '../resolve.ts';
import { download, importFormat, importFormats, openUpload } from '../transfer.ts';
import { type ChangeOptions, finishChange } from '../wait.ts';
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

interface ImportOptions extends CreateOptions, LabelOptions, ChangeOptions {
  readonly format?: string;
  readonly fromServer?: boolean;
}

export interface DownloadFlags {
  readonly format: 'raw' | 'qcow2';
  readonly force?: boolean;
}

export function addDownloadOptions(command: Command): Command {
  return command
    .argument('<file>', 'where to write it; - for standard output')
    .addOption(choice('--format <format>', 'raw is written sparse', ['raw', 'qcow2']).default('raw'))
    .option('--force', 'replace an existing file, or write to a device');
}

export function registerTransfers(noun: Command, ctx: Context): void {
  const command = noun
    .command('import')
    .description('make a drive from an image')
    .argument('<file>', 'the image; - for standard input')
    .argument('<name>', 'of the new drive')
    .addOption(choice('--format <format>', 'of the image (default: by the ending of its name)', importFormats))
    .option('--from-server', "the file lies in the server's import directory");
  addWaitOption(addIdempotencyOption(addNewNameOption(addLabelOptions(command)))).action(
    async (file: string, name: string, options: ImportOptions) => {
      const format = importFormat(options.format, file);
      const describe = ({ drive }: Change) =>
        drive === undefined ? 'Imported.' : `Imported drive ${drive.name} (${drive.id}), ${ctx.size(drive.sizeBytes)}.`;
      if (options.fromServer === true) {
        const body = { name, import: { file, format }, ...labelsBody(options) };
        await change(ctx, 'POST', '/drives', { body, create: options, wait: options }, describe);
      } else {
        await finishChange(ctx, await upload(ctx, file, name, format, options), options, describe);
      }
    },
  );

  addDownloadOptions(noun.command('download').description('fetch the bytes of a drive').argument('<drive>')).action(
    async (text: string, file: string, options: DownloadFlags) => {
      const drive = await resolveDrive(ctx, text);
      await downloadTo(ctx, `/drives/${drive.id}/download`, drive.name, file, options, undefined);
    },
  );
}

async function upload(
  ctx: Context,
  file: string,
  name: string,
  format: string,
  options: ImportOptions,
): Promise<Change> {
  if (options.meta !== undefined)
    throw usageError('An upload takes no --meta.', 'Set it afterwards: calotype drive set DRIVE KEY=VALUE.');
  const { upload: body, finish } = openUpload(ctx, file);
  try {
    const answer = await ctx.client.request<Change>('POST', '/drives/import', {
      query: { name, format, description: options.description, tag: options.tag },
      upload: body,
      idempotencyKey: options.idempotencyKey,
      headers: options.refuseExistingName === true ? { 'if-none-match': '*' } : {},
    });
    return answer.body;
  } catch (error) {
    if (error instanceof InterruptedError) throw new InterruptedError('The upload was broken off; no drive was made.');
    throw error;
  } finally {
    finish();
  }
}

export async function downloadTo(
  ctx: Context,
  path: string,
  label: string,
  file: string,
  options: DownloadFlags,
  part: string | undefined,
): Promise<void> {
  const { format } = options;
  const bytes = await download(ctx, ctx.client, {
    path,
    query: { format, part },
    target: file,
    label,
    isRaw: format === 'raw',
    force: options.force === true,
  });
  if (file === '-') return;
  if (ctx.json) await ctx.printJson({ file, format, bytes });
  else await ctx.print(`Wrote ${file}, ${ctx.size(bytes)}.\n`);
}
