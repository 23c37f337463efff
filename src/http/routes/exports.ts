/** Exports: drives and drive snapshots served over NBD. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, DriveSnapshotId, ExportId } from '../../core/ids.ts';
import { isLoopback } from '../../core/loopback.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions } from '../preconditions.ts';
import { presentExport } from '../presenters.ts';
import { strict } from '../requests.ts';
import { type ExportBody, exportRef, noContent, oneOf, uuid } from '../schemas.ts';

const params = Type.Object({ exportId: uuid<ExportId>() });

export function exportRoutes(app: App, context: AppContext): void {
  const { exports } = context.service;

  app.post(
    '/v1/exports',
    {
      schema: {
        ...describe('createExport', 'exports', 'Serve a drive, or a drive snapshot (read-only), over NBD'),
        body: strict({
          driveId: Type.Optional(uuid<DriveId>()),
          driveSnapshotId: Type.Optional(uuid<DriveSnapshotId>()),
          writable: Type.Optional(Type.Boolean({ description: 'drives only; default false' })),
          transport: Type.Optional(
            strict({
              kind: oneOf(['unix', 'tcp']),
              host: Type.Optional(Type.String({ minLength: 1, maxLength: 255, description: 'default 127.0.0.1' })),
              port: Type.Optional(Type.Integer({ minimum: 0, maximum: 65_535, description: 'default: a free one' })),
              tls: Type.Optional(
                Type.Boolean({ description: 'TLS with a pre-shared key; default true unless the host is loopback' }),
              ),
            }),
          ),
        }),
        response: { 201: exportRef },
      },
      config: {
        notes: {
          errors: [
            'not_found',
            'forbidden',
            'drive_exported',
            'drive_busy',
            'drive_not_ready',
            'snapshot_not_ready',
            'engine_failed',
            'engine_unavailable',
            'not_supported',
          ],
          idempotent: true,
        },
      },
    },
    async (request, reply) => {
      const { driveId, driveSnapshotId, writable = false, transport = { kind: 'unix' } } = request.body;
      if (transport.kind === 'unix') {
        const extra = (['host', 'port', 'tls'] as const).find((key) => transport[key] !== undefined);
        if (extra !== undefined) throw wrong(`transport.${extra}`, `A unix transport takes no ${extra}.`);
      }
      const served = await exports.create(
        callerOf(request),
        {
          of: whatToServe(driveId, driveSnapshotId, writable),
          transport: transport.kind === 'unix' ? { kind: 'unix' } : tcpTransport(transport),
        },
        changeOptions(request),
      );
      reply.code(201).header('location', `/v1/exports/${served.id}`);
      return presentExport(served);
    },
  );

  app.get(
    '/v1/exports',
    {
      schema: {
        ...describe('listExports', 'exports', 'List exports'),
        querystring: strict({ driveId: Type.Optional(uuid<DriveId>()) }),
        response: {
          200: Type.Object({
            items: Type.Unsafe<readonly ExportBody[]>({ type: 'array', items: { $ref: 'Export#' } }),
          }),
        },
      },
      config: { notes: { errors: [] } },
    },
    async (request) => ({ items: (await exports.list(callerOf(request), request.query)).map(presentExport) }),
  );

  app.get(
    '/v1/exports/:exportId',
    {
      schema: { ...describe('getExport', 'exports', 'Get an export'), params, response: { 200: exportRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request) => presentExport(await exports.get(callerOf(request), request.params.exportId)),
  );

  app.delete(
    '/v1/exports/:exportId',
    {
      schema: {
        ...describe('closeExport', 'exports', 'End an export; clients are cut off'),
        params,
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'engine_failed', 'engine_unavailable'] } },
    },
    async (request, reply) => {
      await exports.close(callerOf(request), request.params.exportId);
      return reply.code(204).send(null);
    },
  );
}

function whatToServe(
  driveId: DriveId | undefined,
  driveSnapshotId: DriveSnapshotId | undefined,
  writable: boolean,
): { drive: DriveId; writable: boolean } | { point: DriveSnapshotId } {
  if (driveId !== undefined && driveSnapshotId === undefined) return { drive: driveId, writable };
  if (driveSnapshotId === undefined || driveId !== undefined)
    throw wrong('driveId', 'Give either driveId or driveSnapshotId.');
  if (writable) throw wrong('writable', 'A snapshot is served read-only.');
  return { point: driveSnapshotId };
}

const wrong = (field: string, message: string): CalotypeError =>
  new CalotypeError('invalid_request', message, { field });

/** Off loopback whoever reaches the port could read along, so that TLS is what goes without saying there. */
function tcpTransport(asked: { host?: string; port?: number; tls?: boolean }) {
  const { host = '127.0.0.1', port, tls = !isLoopback(host) } = asked;
  return { kind: 'tcp' as const, host, port, tls };
}
