/** Serves drives and points over NBD: by the engine on a unix socket, and from there by the gateway over TCP when asked. */
import { randomBytes } from 'node:crypto';
import type { Db } from '../catalog/catalog.ts';
import { markSizesStale } from '../catalog/drives.ts';
import {
  allExports,
  deleteExport,
  exportsOfDrive,
  findExport,
  insertExport,
  liveExportsOf,
  setExportDetail,
} from '../catalog/exports.ts';
import type { ExportRow } from '../catalog/schema.ts';
import { findPart } from '../catalog/snapshots.ts';
import { findTask } from '../catalog/tasks.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type ExportId, newId, type ProjectId } from '../core/ids.ts';
import { isLoopback } from '../core/loopback.ts';
import type { DriveExport } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import { assertDriveReady, assertSnapshotReady, driveRow, ownerOf, partRow } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import type { Caller } from './caller.ts';
import type { Context, Gateway, TlsPsk } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { ExportUseCases } from './interface.ts';
import { type Action, assertReadable, assertWritable, can } from './rights.ts';
import { parseStoredError } from './task-view.ts';

interface TcpDetail {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  /** Kept so that a restarted gateway takes the key its clients hold. */
  readonly psk?: TlsPsk;
}

/** Work on a drive that an export does not wait for: it may take hours. */
const longKinds: ReadonlySet<string> = new Set(['drive.import', 'drive.flatten', 'drive.check']);
const waitMs = 10 * 60_000;

/** 128 random bits in lower-case base 32: who does not know the name cannot open the export. */
function secretName(): string {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  return Array.from(randomBytes(26), (byte) => alphabet[byte % 32]).join('');
}

/** @throws forbidden */
function assertMayBePlain(caller: Caller, { host, tls }: { host: string; tls: boolean }): void {
  if (tls || isLoopback(host) || caller.role === 'operator') return;
  throw new CalotypeError('forbidden', `Only an operator may export on ${host} without TLS.`, {
    remedy: 'Leave `tls` out, or export on a loopback address.',
  });
}

export function exportUseCases(context: Context): ExportUseCases {
  const { catalog, engine, runner, config } = context;

  function gatewayOf(): Gateway {
    if (config.gateway === undefined) {
      throw new CalotypeError('not_supported', 'This server does not export over TCP.', {
        remedy: 'Use a unix export on the server itself.',
      });
    }
    return config.gateway;
  }

  function toExport(row: ExportRow, psk?: TlsPsk): DriveExport {
    let uri: string;
    if (row.transport === 'tcp') {
      const detail: TcpDetail = JSON.parse(row.detail_json);
      const host = detail.host.includes(':') ? `[${detail.host}]` : detail.host;
      uri = `${detail.tls ? 'nbds' : 'nbd'}://${host}:${detail.port}/${encodeURIComponent(row.name)}`;
    } else {
      uri = `nbd+unix:///${encodeURIComponent(row.name)}?socket=${encodeURI(engine.socketPathOf(row.id))}`;
    }
    return {
      id: row.id,
      projectId: row.project_id,
      driveId: row.drive_id,
      driveSnapshotId: row.drive_snapshot_id,
      writable: row.writable === 1,
      transport: row.transport,
      exportName: row.name,
      uri,
      ...(psk === undefined ? {} : { tlsPsk: psk }),
      createdAt: row.created_at,
    };
  }

  function kindOf(row: ExportRow): { projectId: ProjectId; kind: 'drive' | 'driveSnapshot'; id: string } {
    const kind = row.drive_id !== null ? 'drive' : 'driveSnapshot';
    return { projectId: row.project_id, kind, id: row.drive_id ?? row.drive_snapshot_id ?? '' };
  }

  async function rowFor(caller: Caller, action: Action, id: ExportId): Promise<ExportRow> {
    const found = await findExport(catalog.db, id);
    const row = found?.machine_id === null ? found : undefined;
    const object = row && kindOf(row);
    const asked = { kind: 'export', id };
    // Reading a drive takes an export, and so does ending that.
    if (action === 'write' && row?.writable === 1) await assertWritable(caller, object, catalog.db, asked);
    else await assertReadable(caller, object, catalog.db, asked);
    if (row === undefined) throw notFound('export', id);
    return row;
  }

  /** Waits for a task of ours. @throws what the task failed with, drive_busy when it does not get its turn */
  async function finished(task: ActiveTask): Promise<void> {
    const stored = runner.find(task.row.id) === undefined ? undefined : await runner.wait(task, waitMs);
    const row = stored === undefined ? await findTask(catalog.db, task.row.id) : undefined;
    const state = stored?.state ?? row?.state;
    const error = stored?.error ?? parseStoredError(row?.error_json ?? null);
    if (state === 'done') return;
    if (error !== null) throw new CalotypeError(error.code, error.message, error.details);
    throw new CalotypeError('drive_busy', undefined, { taskId: task.row.id });
  }

  function assertNotBusy(driveId: DriveId): void {
    const holder = runner.queueOf(driveId).find((queued) => longKinds.has(queued.kind));
    if (holder === undefined) return;
    throw new CalotypeError('drive_busy', `The drive is busy: ${holder.kind}.`, {
      driveId,
      taskId: holder.row.id,
      kind: holder.kind,
    });
  }

  runner.register('drive.export', {
    cancellable: false,
    pausable: false,
    async run(task, input) {
      const { exportId, exportName, of, transport } = input;
      const projectId = task.row.project_id;
      if (projectId === null) throw new CalotypeError('internal', 'An export belongs to no project.');
      if ('point' in of && (await findPart(catalog.db, of.point)) === undefined) {
        throw notFound('drive snapshot', of.point);
      }
      const row = {
        id: exportId,
        projectId,
        driveId: 'drive' in of ? of.drive : null,
        driveSnapshotId: 'point' in of ? of.point : null,
        writable: 'drive' in of && of.writable,
        transport: transport.kind,
        name: exportName,
        at: nowUs(),
      };
      if (transport.kind === 'unix') {
        await engine.startExport({ exportId, exportName, of }, async (tx) => {
          await insertExport(tx, { ...row, detail: {} });
          await task.conclude(tx, { exportId }, { event: 'export.opened', detail: { exportId, transport: 'unix' } });
        });
      } else {
        const { host, tls } = transport;
        const detail: TcpDetail = { host, port: transport.port ?? 0, tls };
        const target = await engine.startExport({ exportId, exportName, of }, (tx) =>
          insertExport(tx, { ...row, detail }),
        );
        try {
          const opened = await gatewayOf().startGateway({ exportId, target, host, port: transport.port ?? 0, tls });
          await catalog.write(async (tx) => {
            await setExportDetail(tx, exportId, { ...detail, ...opened });
            await task.conclude(
              tx,
              { exportId },
              { event: 'export.opened', detail: { exportId, transport: 'tcp', host } },
            );
          });
        } catch (error) {
          await engine.stopExport(exportId, (tx) => deleteExport(tx, exportId));
          throw error;
        }
      }
      if ('drive' in of && of.writable) context.exports.opened(of.drive, exportId);
      return undefined;
    },
  });

  runner.register('drive.unexport', {
    cancellable: false,
    pausable: false,
    async run(task, { exportId }) {
      const row = await findExport(catalog.db, exportId);
      if (row === undefined) return undefined;
      if (row.transport === 'tcp') await config.gateway?.stopGateway(exportId);
      await engine.stopExport(exportId, async (tx) => {
        await deleteExport(tx, exportId);
        if (row.drive_id !== null && row.writable === 1) await markSizesStale(tx, row.drive_id);
        await task.conclude(tx, null, { event: 'export.closed', detail: { exportId } });
      });
      if (row.drive_id !== null) context.exports.closed(row.drive_id, exportId);
      return undefined;
    },
  });

  return {
    create(caller, input, options) {
      const { of, transport } = input;
      const first = async (): Promise<DriveExport> => {
        if (transport.kind === 'tcp') {
          gatewayOf();
          assertMayBePlain(caller, transport);
        }
        const exportId = newId<ExportId>();
        const task = await runner.change(async (tx, add) => {
          let drive: { id: DriveId; number: number; projectId: ProjectId };
          if ('drive' in of) {
            const row = await driveRow(tx, caller, of.writable ? 'write' : 'read', of.drive);
            assertNotBusy(row.id);
            assertDriveReady(context, row);
            await assertExportable(tx, row.id, of.writable);
            drive = { id: row.id, number: row.number, projectId: row.project_id };
          } else {
            const { part, snapshot } = await partRow(tx, caller, 'read', of.point);
            assertNotBusy(part.drive_id);
            assertSnapshotReady(context, snapshot);
            drive = { id: part.drive_id, number: part.number, projectId: snapshot.project_id };
          }
          const open = transport.kind === 'tcp' && !transport.tls;
          const prefix = 'drive' in of ? '' : 's';
          const added = await add({
            kind: 'drive.export',
            input: {
              exportId,
              exportName: open ? secretName() : `${prefix}${drive.number}-${secretName().slice(0, 6)}`,
              of,
              transport,
            },
            driveIds: [drive.id],
            objectKind: 'drive',
            objectId: drive.id,
            owner: ownerOf(caller, drive.projectId),
            event: { detail: { exportId, of, transport: transport.kind } },
          });
          await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'export', objectId: exportId });
          return added;
        });
        await finished(task);
        return shown(exportId);
      };
      return once(context, caller, options, first, async (attempt) => {
        const active = attempt.task_id === null ? undefined : runner.find(attempt.task_id);
        if (active !== undefined) await finished(active);
        const row = (await allExports(catalog.db)).find((known) => known.id === attempt.object_id);
        if (row !== undefined) return toExport(row);
        const task = attempt.task_id === null ? undefined : await findTask(catalog.db, attempt.task_id);
        const error = parseStoredError(task?.error_json ?? null);
        if (error !== null) throw new CalotypeError(error.code, error.message, error.details);
        throw notFound('export', attempt.object_id ?? '');
      });
    },

    async list(caller, filter) {
      const rows =
        filter.driveId === undefined ? await allExports(catalog.db) : await exportsOfDrive(catalog.db, filter.driveId);
      const found: DriveExport[] = [];
      for (const row of rows) {
        if (row.machine_id !== null) continue;
        if (await can(caller, 'read', kindOf(row), catalog.db)) found.push(toExport(row));
      }
      return found;
    },

    get: async (caller, id) => toExport(await rowFor(caller, 'read', id)),

    async close(caller, id) {
      const row = await rowFor(caller, 'write', id);
      const driveId = row.drive_id ?? (await findPart(catalog.db, row.drive_snapshot_id ?? newId()))?.drive_id ?? null;
      const task = await runner.change((_tx, add) =>
        add({
          kind: 'drive.unexport',
          input: { exportId: id },
          driveIds: driveId === null ? [] : [driveId],
          objectKind: 'drive',
          objectId: driveId ?? id,
          owner: ownerOf(caller, row.project_id),
          event: { detail: { exportId: id } },
        }),
      );
      await finished(task);
    },
  };

  /** One writer, or several readers. @throws drive_exported */
  async function assertExportable(db: Db, driveId: DriveId, writable: boolean): Promise<void> {
    const others = await liveExportsOf(db, driveId);
    const blocking = writable ? others : others.filter((row) => row.writable === 1);
    const machineId = blocking.find((row) => row.machine_id !== null)?.machine_id;
    if (machineId !== undefined) {
      throw new CalotypeError('machine_running', 'The drive is in use by a machine.', { driveId, machineId });
    }
    if (blocking.length === 0) return;
    throw new CalotypeError('drive_exported', 'The drive is exported: it can have one writer or several readers.', {
      blocking: blocking.map((row) => row.id),
    });
  }

  async function shown(id: ExportId): Promise<DriveExport> {
    const row = await findExport(catalog.db, id);
    if (row === undefined) throw notFound('export', id);
    const detail: Partial<TcpDetail> = JSON.parse(row.detail_json);
    return toExport(row, detail.psk);
  }
}

/** Serves over TCP again what was served before a restart. */
export async function reopenGateways(context: Context): Promise<void> {
  const { catalog, engine, config, logger } = context;
  for (const row of await allExports(catalog.db)) {
    if (row.transport !== 'tcp' || config.gateway === undefined) continue;
    try {
      const target = { exportName: row.name, socketPath: engine.socketPathOf(row.id) };
      const detail: TcpDetail = JSON.parse(row.detail_json);
      const opened = await config.gateway.startGateway({ ...detail, exportId: row.id, target });
      await setExportDetail(catalog.db, row.id, { ...detail, ...opened });
    } catch (error) {
      logger.error({ err: error, exportId: row.id }, 'an export could not be served over TCP again');
    }
  }
}
