/** Bytes in and out: uploads from files or standard input, downloads into sparse files that appear whole or not at all. */
import { createReadStream, statSync } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { basename, dirname, extname, join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Client, errorCodeOf, type Upload } from './client.ts';
import type { Context } from './context.ts';
import { CliError, errorText, InterruptedError, usageError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';
import { ProgressBar } from './progress.ts';
import { formatSize } from './sizes.ts';

/** The server's names; `vhd` is QEMU's `vpc`. */
export const importFormats = ['qcow2', 'raw', 'vmdk', 'vhd', 'vpc', 'vhdx', 'vdi'] as const;

const formatOfExtension: Readonly<Record<string, string>> = {
  '.qcow2': 'qcow2',
  '.raw': 'raw',
  '.img': 'raw',
  '.vmdk': 'vmdk',
  '.vhd': 'vpc',
  '.vpc': 'vpc',
  '.vhdx': 'vhdx',
  '.vdi': 'vdi',
};

/** What `--format` says, else what the file name says. */
export function importFormat(given: string | undefined, fileName: string): string {
  if (given !== undefined) return given === 'vhd' ? 'vpc' : given;
  const format = formatOfExtension[extname(fileName).toLowerCase()];
  if (format === undefined) {
    throw usageError(
      `The format of ${fileName === '-' ? 'standard input' : fileName} is not known.`,
      `Give it: --format ${importFormats.join('|')}.`,
    );
  }
  return format;
}

/** @returns the upload, and how to take the progress bar away */
export function openUpload(ctx: Context, file: string): { upload: Upload; finish: () => void } {
  const length = file === '-' ? undefined : fileSize(file);
  const bar = new ProgressBar(ctx.io, file === '-' ? 'upload' : basename(file), ctx.options.quiet !== true);
  const openStream = (): Readable => {
    let done = 0;
    const source = file === '-' ? ctx.io.stdin : createReadStream(file, { highWaterMark: 1024 * 1024 });
    const count = new Transform({
      transform(chunk: Buffer, _encoding, callback) {
        done += chunk.length;
        bar.update({ done, total: length ?? 0, unit: 'bytes', ratePerSecond: null, estimateSeconds: null });
        callback(null, chunk);
      },
    });
    // Errors of the source reach whoever reads the result.
    pipeline(source, count).catch((error: unknown) => count.destroy(error instanceof Error ? error : undefined));
    return count;
  };
  return {
    upload: { open: openStream, length, repeatable: file !== '-' && length !== undefined },
    finish: () => bar.clear(),
  };
}

/** Undefined for what has no size of its own, such as a pipe. */
function fileSize(file: string): number | undefined {
  try {
    const stats = statSync(file);
    if (stats.isDirectory()) throw usageError(`${file} is a directory.`);
    return stats.isFile() ? stats.size : undefined;
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw fileError(file, error);
  }
}

export interface DownloadOptions {
  readonly path: string;
  readonly query: Readonly<Record<string, string | undefined>>;
  /** A file, or `-` for standard output. */
  readonly target: string;
  readonly label: string;
  /** Zero blocks become holes. */
  readonly isRaw: boolean;
  readonly force: boolean;
}

/** @returns how many bytes came */
export async function download(ctx: Context, client: Client, options: DownloadOptions): Promise<number> {
  const { target } = options;
  if (target === '-' && ctx.io.stdout.isTTY === true) {
    throw usageError('An image does not go to a terminal.', 'Name a file, or send the output elsewhere.');
  }
  const kind = target === '-' ? 'stream' : await kindOfTarget(target, options.force);
  const response = await client.stream(options.path, { query: options.query });
  const length = Number(response.headers['content-length'] ?? 0);
  const bar = new ProgressBar(ctx.io, options.label, ctx.options.quiet !== true);
  let done = 0;
  const count = (bytes: number) => {
    done += bytes;
    bar.update({ done, total: length, unit: 'bytes', ratePerSecond: null, estimateSeconds: null });
  };
  try {
    if (kind === 'stream') await copyToStdout(ctx, response, count);
    else if (kind === 'device') await saveToDevice(ctx, response, target, count);
    else await saveToFile(ctx, response, options, count);
  } catch (error) {
    response.destroy();
    if (ctx.io.interrupted.aborted)
      throw new InterruptedError(target === '-' ? undefined : `${target} was not written.`);
    throw downloadError(client, error, target, done);
  } finally {
    bar.clear();
  }
  return done;
}

function downloadError(client: Client, error: unknown, target: string, done: number): unknown {
  const code = errorCodeOf(error);
  if (code === 'EPIPE' && target === '-')
    return new CliError(exitCodes.outputClosed, 'output_closed', 'The reader of the output went away.');
  if (code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE') {
    return new CliError(
      exitCodes.unreachable,
      'connection_lost',
      `The connection was lost after ${formatSize(done)}; nothing was kept.`,
      {
        remedy: 'Try again.',
        cause: error,
      },
    );
  }
  return /^E[A-Z]+$/.test(code) && target !== '-' ? fileError(target, error) : client.connectionError(error);
}

function fileError(file: string, error: unknown): CliError {
  const code = errorCodeOf(error);
  const what = errorText(error);
  const exitCode =
    code === 'ENOSPC' || code === 'EDQUOT'
      ? exitCodes.space
      : code === 'ENOENT'
        ? exitCodes.notFound
        : exitCodes.failed;
  return new CliError(exitCode, 'local_file', `${file}: ${what}`, { cause: error });
}

/** A device or pipe is written in place; it cannot appear at once. */
async function kindOfTarget(target: string, force: boolean): Promise<'file' | 'device'> {
  let stats: Awaited<ReturnType<typeof stat>>;
  try {
    stats = await stat(target);
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return 'file';
    throw fileError(target, error);
  }
  if (stats.isDirectory()) throw usageError(`${target} is a directory.`, 'Name a file in it.');
  if (!force)
    throw new CliError(exitCodes.conflict, 'file_exists', `${target} exists.`, {
      remedy: 'Give --force to replace it.',
    });
  return stats.isFile() ? 'file' : 'device';
}

async function copyToStdout(ctx: Context, response: IncomingMessage, count: (bytes: number) => void): Promise<void> {
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      count(chunk.length);
      callback(null, chunk);
    },
  });
  await pipeline(response, counter, ctx.io.stdout, { end: false, signal: ctx.io.interrupted });
}

async function saveToDevice(
  ctx: Context,
  response: IncomingMessage,
  target: string,
  count: (bytes: number) => void,
): Promise<void> {
  await using handle = await open(target, 'r+');
  await writeAll(ctx, response, handle, { sparse: false, count });
  await handle.sync();
}

/** Into a file beside the target, which takes its name once it is complete and on disk. What is interrupted leaves nothing. */
async function saveToFile(
  ctx: Context,
  response: IncomingMessage,
  options: DownloadOptions,
  count: (bytes: number) => void,
): Promise<void> {
  const { target } = options;
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.part`);
  try {
    const handle = await open(temporary, 'wx');
    try {
      const size = await writeAll(ctx, response, handle, { sparse: options.isRaw, count });
      await handle.truncate(size);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, target);
  } catch (error) {
    if (errorCodeOf(error) !== 'EEXIST') await rm(temporary, { force: true });
    throw error;
  }
}

const blockSize = 4096;
const zeroBlock = Buffer.alloc(blockSize);

/** A pipe has no positions; a fresh file reads as zeros where nothing was written. */
async function writeAll(
  ctx: Context,
  response: IncomingMessage,
  handle: FileHandle,
  options: { sparse: boolean; count: (bytes: number) => void },
): Promise<number> {
  let position = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    ctx.io.interrupted.throwIfAborted();
    if (options.sparse) {
      for (const run of dataRuns(chunk)) {
        await writeFully(handle, chunk.subarray(run.start, run.end), position + run.start);
      }
    } else {
      await writeFully(handle, chunk, null);
    }
    position += chunk.length;
    options.count(chunk.length);
  }
  return position;
}

async function writeFully(handle: FileHandle, data: Buffer, position: number | null): Promise<void> {
  let done = 0;
  while (done < data.length) {
    const { bytesWritten } = await handle.write(
      data,
      done,
      data.length - done,
      position === null ? null : position + done,
    );
    done += bytesWritten;
  }
}

/** The stretches of a chunk that are not zero, in steps of 4 KiB from its start. */
export function dataRuns(chunk: Buffer): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = [];
  for (let start = 0; start < chunk.length; start += blockSize) {
    const end = Math.min(start + blockSize, chunk.length);
    if (chunk.compare(zeroBlock, 0, end - start, start, end) === 0) continue;
    const last = runs.at(-1);
    if (last?.end === start) last.end = end;
    else runs.push({ start, end });
  }
  return runs;
}
