/**
 * Drives from images. An upload goes to a file of ours first, a file of the operator's import directory is read where it
 * is; both are looked at by `inspectImport` before anything is made, since an image may point outside itself.
 */
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { insertDrive, moveDrive, setDriveSize } from '../catalog/drives.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, newId } from '../core/ids.ts';
import type { Drive } from '../core/model.ts';
import { checkName, roundSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import type { ImageFormat } from '../engine/engine.ts';
import { inspectImport } from '../qemu/image-tools.ts';
import { ownerOf } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { abandonDrive, driveOf } from './drive-tasks.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask } from './interface.ts';
import { assertNameFree, checkLabels } from './labels.ts';
import { toDrive } from './objects.ts';
import { resolveFile } from './operator-directory.ts';
import { replayDrive } from './replay.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';

const uploadPrefix = 'upload-';

export function temporaryDirectory(context: Pick<Context, 'config'>): string {
  return join(context.config.dataDirectory, 'tmp');
}

export type ImportSource = { readonly stream: Readable } | { readonly file: string };

export function importDrive(
  context: Context,
  caller: Caller,
  input: Labels & { name: string; format: ImageFormat; source: ImportSource },
  options?: CreateOptions,
): Promise<WithTask<'drive', Drive>> {
  const { runner, config } = context;
  const first = async () => {
    assertMayCreate(caller);
    const name = checkName(input.name);
    const labels = checkLabels(input);
    const driveId = newId<DriveId>();
    const { source } = input;
    const upload = 'stream' in source;
    const path = upload
      ? await receive(context, source.stream, driveId)
      : await resolveImportPath(config.importDirectory, source.file);
    try {
      const limits = { maxVirtualBytes: config.maxDriveBytes, maxFileBytes: config.maxImportBytes };
      const { virtualBytes } = await inspectImport(path, input.format, limits);
      const { size: fileBytes } = await stat(path);
      const sizeBytes = roundSize(virtualBytes);
      const space = await context.engine.space();
      const { task, record } = await runner.change(async (tx, add) => {
        await assertNameFree(tx, options, 'drive', caller.projectId, name);
        assertRoom(space);
        const made = await insertDrive(tx, {
          id: driveId,
          projectId: caller.projectId,
          name,
          ...labels,
          sizeBytes,
          sourceId: null,
          at: nowUs(),
        });
        const added = await add({
          kind: 'drive.import',
          input: { path, format: input.format, upload, fileBytes },
          driveIds: [driveId],
          objectKind: 'drive',
          objectId: driveId,
          owner: ownerOf(caller, caller.projectId),
          event: {
            detail: { name, format: input.format, sizeBytes, ...('file' in source ? { file: source.file } : {}) },
          },
        });
        await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'drive', objectId: driveId });
        return { task: added, record: made };
      });
      return { task: runner.view(task), drive: toDrive(record) };
    } catch (error) {
      if (upload) await rm(path, { force: true });
      throw error;
    }
  };
  return once(context, caller, options, first, (attempt) => {
    if ('stream' in input.source) input.source.stream.resume();
    return replayDrive(context, attempt);
  });
}

/** Writes an upload to a file of ours. @throws image_too_large, space_low */
async function receive(context: Context, stream: Readable, driveId: DriveId): Promise<string> {
  const { config, engine } = context;
  const directory = temporaryDirectory(context);
  const path = join(directory, `${uploadPrefix}${driveId}`);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  assertRoom(await engine.space());
  let received = 0;
  const limit = new Transform({
    transform(chunk: Buffer, _encoding, next) {
      received += chunk.length;
      if (received > config.maxImportBytes) {
        next(
          new CalotypeError('image_too_large', `Images may have at most ${config.maxImportBytes} bytes.`, {
            maxBytes: config.maxImportBytes,
          }),
        );
      } else next(null, chunk);
    },
  });
  try {
    await pipeline(stream, limit, createWriteStream(path, { flags: 'wx', mode: 0o600 }));
  } catch (error) {
    await rm(path, { force: true });
    if (isErrno(error, 'ENOSPC')) throw new CalotypeError('space_exhausted', undefined, {}, { cause: error });
    if (isErrno(error, 'ERR_STREAM_PREMATURE_CLOSE') || isErrno(error, 'ECONNRESET')) {
      throw new CalotypeError('image_truncated', 'The upload broke off.', {}, { cause: error });
    }
    throw error;
  }
  return path;
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

/**
 * A plain file below the import directory, neither it nor a directory on the way a link out of it.
 * @throws import_path_refused, import_not_found
 */
export async function resolveImportPath(directory: string | null, file: string): Promise<string> {
  if (directory === null) {
    throw new CalotypeError('import_path_refused', 'This server has no import directory.', {
      remedy: 'The operator can name one in the configuration.',
    });
  }
  const imports = {
    path: directory,
    words: 'the import directory',
    refused: 'import_path_refused',
    missing: 'import_not_found',
  } as const;
  return resolveFile(imports, file);
}

export function registerImports(context: Context): void {
  const { engine, runner } = context;
  runner.register('drive.import', {
    cancellable: true,
    pausable: false,
    async run(task, input) {
      const driveId = driveOf(task);
      const { size } = await stat(input.path).catch((cause: unknown) => {
        throw new CalotypeError('import_not_found', 'The image is gone.', {}, { cause });
      });
      if (size !== input.fileBytes) {
        throw new CalotypeError('image_truncated', 'The image changed since it was looked at.', {
          expectedBytes: input.fileBytes,
          bytes: size,
        });
      }
      const source = { path: input.path, format: input.format };
      await engine.importDrive({ driveId, source }, task, (sizeBytes) => async (tx) => {
        const at = nowUs();
        await setDriveSize(tx, driveId, sizeBytes, at);
        await moveDrive(tx, { id: driveId, from: 'creating', to: 'available', error: null, at });
        await task.conclude(tx, { driveId, sizeBytes }, { event: 'drive.imported', detail: { sizeBytes } });
      });
      return undefined;
    },
    abandon: (tx, task, _input, error, cancelled) => abandonDrive(tx, task, error, cancelled),
    after: async (_task, input) => {
      if (input.upload) await rm(input.path, { force: true });
    },
  });
}

/** Removes what an earlier process left in the temporary directory, but for uploads that tasks still need. */
export async function cleanTemporary(context: Context): Promise<void> {
  const directory = temporaryDirectory(context);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const needed = new Set<string>();
  for (const task of context.runner.active()) {
    if (task.kind === 'drive.import') needed.add(`${uploadPrefix}${task.row.object_id}`);
  }
  for (const name of await readdir(directory)) {
    const ours = name.startsWith(uploadPrefix) || name.startsWith('download-');
    if (ours && !needed.has(name)) await rm(join(directory, name), { force: true });
  }
}
