/**
 * Streams the bytes of a drive or of one part of a snapshot. Raw comes straight from the engine's private export, holes
 * made up here; qcow2 is converted into a file of ours first. The export lives as long as the stream does.
 */
import { mkdir, open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { liveExportsOf } from '../catalog/exports.ts';
import { CalotypeError } from '../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId, type SnapshotId } from '../core/ids.ts';
import type { NbdTarget } from '../engine/engine.ts';
import { convertToQcow2 } from '../qemu/image-tools.ts';
import { NbdClient } from '../qemu/nbd-client.ts';
import { assertDriveReady, assertSnapshotReady, driveRow, readableSnapshot } from './access.ts';
import type { Caller } from './caller.ts';
import { choosePart } from './clones.ts';
import type { Context } from './context.ts';
import { temporaryDirectory } from './imports.ts';
import { assertRoom } from './room.ts';

export interface Download {
  readonly stream: Readable;
  readonly sizeBytes: number | null;
  readonly fileName: string;
}

type ReadFrom = { drive: DriveId } | { point: DriveSnapshotId };

const pieceBytes = 1024 * 1024;
const zeros = Buffer.alloc(pieceBytes);

export async function downloadDrive(
  context: Context,
  caller: Caller,
  id: DriveId,
  format: 'raw' | 'qcow2',
): Promise<Download> {
  const { db } = context.catalog;
  const drive = await driveRow(db, caller, 'read', id);
  assertDriveReady(context, drive);
  const writers = (await liveExportsOf(db, id)).filter((row) => row.writable === 1);
  if (writers.length > 0) {
    throw new CalotypeError('drive_exported', 'The drive is exported for writing.', {
      blocking: writers.map((row) => row.id),
      remedy: 'Take a snapshot and download that.',
    });
  }
  return download(context, { drive: id }, format, drive.name);
}

export async function downloadSnapshot(
  context: Context,
  caller: Caller,
  id: SnapshotId,
  format: 'raw' | 'qcow2',
  wanted?: DriveSnapshotId,
): Promise<Download> {
  const snapshot = await readableSnapshot(context.catalog.db, caller, id);
  const part = choosePart(snapshot, wanted);
  assertSnapshotReady(context, snapshot);
  const name = snapshot.parts.length === 1 ? snapshot.name : `${snapshot.name}-${part.drive_name}`;
  return download(context, { point: part.id }, format, name);
}

async function download(context: Context, of: ReadFrom, format: 'raw' | 'qcow2', name: string): Promise<Download> {
  const safeName = name.replace(/[^\p{L}\p{N}._ -]/gu, '_');
  if (format === 'qcow2') return { ...(await converted(context, of)), fileName: `${safeName}.qcow2` };
  return { ...(await rawBytes(context, of)), fileName: `${safeName}.img` };
}

/** Opens a reader and keeps it until `release` is called. */
async function openReader(
  context: Context,
  of: ReadFrom,
): Promise<{ target: NbdTarget; release: () => Promise<void> }> {
  let release = (): void => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const opened = Promise.withResolvers<NbdTarget>();
  const use = context.engine.withReader(of, async (target) => {
    opened.resolve(target);
    await held;
  });
  use.catch(opened.reject);
  const target = await opened.promise;
  return {
    target,
    release: async () => {
      release();
      await use.catch((error) => context.logger.warn({ err: error }, 'a reader could not be closed'));
    },
  };
}

async function rawBytes(context: Context, of: ReadFrom): Promise<{ stream: Readable; sizeBytes: number }> {
  const { target, release } = await openReader(context, of);
  let client: NbdClient;
  try {
    client = await NbdClient.connect(
      { kind: 'unix', path: target.socketPath },
      { exportName: target.exportName, metaContexts: ['base:allocation'] },
    );
  } catch (error) {
    await release();
    throw error;
  }
  const stream = Readable.from(readSparse(client), { objectMode: false, highWaterMark: pieceBytes });
  stream.once('close', () => {
    void client
      .close()
      .catch(() => undefined)
      .then(release);
  });
  return { stream, sizeBytes: client.sizeBytes };
}

/** All bytes in order; only ranges that hold data are read, one piece ahead of the consumer. */
async function* readSparse(client: NbdClient): AsyncGenerator<Buffer> {
  let at = 0;
  for await (const extent of client.dataExtents()) {
    yield* zeroBytes(extent.start - at);
    const end = extent.start + extent.length;
    at = extent.start;
    let next = client.read(at, Math.min(pieceBytes, end - at));
    while (at < end) {
      const piece = await next;
      at += piece.length;
      if (at < end) {
        next = client.read(at, Math.min(pieceBytes, end - at));
        // Awaited in the next round; if the consumer leaves before, nobody does.
        next.catch(() => undefined);
      }
      yield piece;
    }
  }
  yield* zeroBytes(client.sizeBytes - at);
}

function* zeroBytes(length: number): Generator<Buffer> {
  for (let left = length; left > 0; left -= pieceBytes) yield left >= pieceBytes ? zeros : zeros.subarray(0, left);
}

async function converted(context: Context, of: ReadFrom): Promise<{ stream: Readable; sizeBytes: number }> {
  const directory = temporaryDirectory(context);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  assertRoom(await context.engine.space());
  const path = join(directory, `download-${newId<DriveId>()}`);
  try {
    await context.engine.withReader(of, (target) =>
      convertToQcow2({ kind: 'nbd', socketPath: target.socketPath, exportName: target.exportName }, path),
    );
    const { size } = await stat(path);
    const file = await open(path, 'r');
    // Its name can go while it is open.
    await rm(path, { force: true });
    return { stream: file.createReadStream({ highWaterMark: pieceBytes }), sizeBytes: size };
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}
