/** Drives: create, import, list, change, look into, download. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import { sumExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, ImageId } from '../../core/ids.ts';
import { imageFormats } from '../../engine/engine.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, checkIfMatch, createOptions, ifVersion, setEtag } from '../preconditions.ts';
import { presentDrive, presentPage, presentTask, presentTree } from '../presenters.ts';
import {
  emptyBody,
  labelFields,
  nameField,
  nameFilterFields,
  orderField,
  pageFields,
  pageRequest,
  sizeField,
  strict,
} from '../requests.ts';
import {
  type DriveBody,
  driveRef,
  driveStates,
  driveTaskAnswer,
  driveUsageRef,
  extentsRef,
  oneOf,
  pageOf,
  type SnapshotNodeBody,
  taskAnswer,
  uuid,
} from '../schemas.ts';
import { downloadMedia, downloadQuery, sendDownload } from '../transfer.ts';
import { settle } from '../wait.ts';

const params = Type.Object({ driveId: uuid<DriveId>() });
export const formatField = oneOf(imageFormats);
const sortField = Type.Optional(oneOf(['created', 'name', 'state', 'number']));
const createErrors = [
  'forbidden',
  'invalid_name',
  'invalid_meta',
  'invalid_tag',
  'name_taken',
  'space_low',
  'space_exhausted',
  'engine_failed',
  'engine_unavailable',
] as const;
export const importErrors = [
  ...createErrors,
  'invalid_size',
  'image_format_unknown',
  'image_format_mismatch',
  'image_truncated',
  'image_has_backing_file',
  'image_has_data_file',
  'image_too_large',
] as const;
const changeErrors = [
  'not_found',
  'forbidden',
  'drive_busy',
  'drive_not_ready',
  'engine_failed',
  'engine_unavailable',
  'cancelled',
] as const;

export function driveRoutes(app: App, context: AppContext): void {
  const { drives, snapshots } = context.service;
  const location = (id: string): string => `/v1/drives/${id}`;

  app.post(
    '/v1/drives',
    {
      schema: {
        ...describe('createDrive', 'drives', 'Create an empty drive, or one from a file of the import directory'),
        body: strict({
          name: nameField,
          sizeBytes: Type.Optional(sizeField),
          import: Type.Optional(strict({ file: Type.String({ minLength: 1, maxLength: 4096 }), format: formatField })),
          ...labelFields,
        }),
        response: { 201: driveTaskAnswer, 202: driveTaskAnswer },
      },
      config: {
        notes: {
          errors: [...importErrors, 'import_path_refused', 'import_not_found'],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { import: source, sizeBytes, ...labels } = request.body;
      if ((source === undefined) === (sizeBytes === undefined)) {
        throw new CalotypeError('invalid_request', 'Give either sizeBytes or import.', {
          field: source === undefined ? 'sizeBytes' : 'import',
        });
      }
      const options = createOptions(request);
      const made =
        source === undefined
          ? await drives.create(caller, { ...labels, sizeBytes: sizeBytes ?? 0 }, options)
          : await drives.import(caller, { ...labels, format: source.format, source: { file: source.file } }, options);
      const task = await settle(context, request, reply, made.task, { status: 201, location: location(made.drive.id) });
      const drive = task === made.task ? made.drive : await drives.get(caller, made.drive.id);
      return { task: presentTask(task), drive: presentDrive(drive) };
    },
  );

  app.get(
    '/v1/drives',
    {
      schema: {
        ...describe('listDrives', 'drives', 'List drives'),
        querystring: strict({
          ...nameFilterFields,
          state: Type.Optional(Type.Array(oneOf(driveStates))),
          tag: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          imageId: Type.Optional({ ...uuid<ImageId>(), description: 'made from this image and not flattened since' }),
          sort: sortField,
          order: orderField,
          ...pageFields,
        }),
        response: { 200: pageOf<DriveBody>('Drive') },
      },
      config: { notes: { errors: ['invalid_sort', 'invalid_cursor', 'invalid_name', 'invalid_tag'] } },
    },
    async (request) => {
      const {
        state,
        sort = 'created',
        order = 'asc',
        name,
        nameContains,
        nameLike,
        tag,
        imageId,
        ...page
      } = request.query;
      const found = await drives.list(
        callerOf(request),
        { name, nameContains, nameLike, tag, imageId, states: state },
        { by: sort, order },
        pageRequest(page),
      );
      return presentPage(found, presentDrive);
    },
  );

  app.get(
    '/v1/drives/:driveId',
    {
      schema: { ...describe('getDrive', 'drives', 'Get a drive'), params, response: { 200: driveRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const drive = await drives.get(callerOf(request), request.params.driveId);
      setEtag(reply, drive);
      return presentDrive(drive);
    },
  );

  app.patch(
    '/v1/drives/:driveId',
    {
      schema: {
        ...describe('updateDrive', 'drives', 'Rename a drive, change its description, metadata or tags'),
        params,
        body: strict({ name: Type.Optional(nameField), ...labelFields }),
        response: { 200: driveRef },
      },
      config: {
        notes: { errors: ['not_found', 'forbidden', 'invalid_name', 'invalid_meta', 'invalid_tag'], versioned: true },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { driveId } = request.params;
      const version = await ifVersion(request, () => drives.get(caller, driveId));
      const drive = await drives.update(caller, driveId, { ...request.body, ...version });
      setEtag(reply, drive);
      return presentDrive(drive);
    },
  );

  app.delete(
    '/v1/drives/:driveId',
    {
      schema: {
        ...describe('deleteDrive', 'drives', 'Delete a drive; its space comes back in the background'),
        params,
        querystring: strict({
          snapshots: Type.Optional(
            oneOf(['refuse', 'keep', 'delete'], { description: 'what to do with its snapshots; default refuse' }),
          ),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...changeErrors, 'drive_has_snapshots', 'drive_exported'],
          idempotent: true,
          versioned: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { driveId } = request.params;
      await checkIfMatch(request, () => drives.get(caller, driveId));
      const begun = await drives.delete(caller, driveId, {
        snapshots: request.query.snapshots ?? 'refuse',
        ...changeOptions(request),
      });
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );

  app.post(
    '/v1/drives/:driveId/resize',
    {
      schema: {
        ...describe('resizeDrive', 'drives', 'Grow a drive'),
        params,
        body: strict({ sizeBytes: sizeField }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...changeErrors, 'invalid_size', 'shrink_not_supported', 'space_low'],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { driveId } = request.params;
      const begun = await drives.resize(callerOf(request), driveId, request.body.sizeBytes, changeOptions(request));
      return {
        task: presentTask(await settle(context, request, reply, begun, { status: 200, location: location(driveId) })),
      };
    },
  );

  app.post(
    '/v1/drives/:driveId/revert',
    {
      schema: {
        ...describe('revertDrive', 'drives', 'Put a drive back to one of its snapshots, in place'),
        params,
        body: strict({
          driveSnapshotId: uuid<DriveSnapshotId>(),
          keepSafety: Type.Optional(Type.Boolean({ description: 'keep the state before as a snapshot; default true' })),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...changeErrors, 'snapshot_not_ready', 'snapshot_of_other_drive', 'space_low'],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { driveId } = request.params;
      const begun = await drives.revert(callerOf(request), driveId, request.body, changeOptions(request));
      return {
        task: presentTask(await settle(context, request, reply, begun, { status: 200, location: location(driveId) })),
      };
    },
  );

  app.post(
    '/v1/drives/:driveId/flatten',
    {
      schema: {
        ...describe('flattenDrive', 'drives', 'Make a drive independent of all it shares data with'),
        params,
        body: emptyBody,
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: { notes: { errors: [...changeErrors, 'space_low', 'space_exhausted'], idempotent: true, waits: true } },
    },
    async (request, reply) => {
      const { driveId } = request.params;
      const begun = await drives.flatten(callerOf(request), driveId, changeOptions(request));
      return {
        task: presentTask(await settle(context, request, reply, begun, { status: 200, location: location(driveId) })),
      };
    },
  );

  app.post(
    '/v1/drives/:driveId/check',
    {
      schema: {
        ...describe(
          'checkDrive',
          'drives',
          'Verify every file a drive is made of; the report is the result of the task',
        ),
        params,
        body: emptyBody,
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: { notes: { errors: [...changeErrors, 'drive_exported', 'layer_damaged'], waits: true } },
    },
    async (request, reply) => {
      const begun = await drives.check(callerOf(request), request.params.driveId);
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );

  app.get(
    '/v1/drives/:driveId/usage',
    {
      schema: {
        ...describe('getDriveUsage', 'drives', 'What a drive holds on disk'),
        params,
        response: { 200: driveUsageRef },
      },
      config: { notes: { errors: ['not_found', 'engine_unavailable'] } },
    },
    (request) => drives.usage(callerOf(request), request.params.driveId),
  );

  app.get(
    '/v1/drives/:driveId/tree',
    {
      schema: {
        ...describe('getDriveTree', 'drives', 'The snapshot tree of a drive, as a flat list in drawing order'),
        params,
        response: {
          200: Type.Object({
            current: Type.Unsafe<string | null>({
              type: ['string', 'null'],
              description: 'the drive snapshot the drive descends from',
            }),
            nodes: Type.Unsafe<readonly SnapshotNodeBody[]>({ type: 'array', items: { $ref: 'SnapshotNode#' } }),
          }),
        },
      },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request) => {
      const { roots, current } = await snapshots.tree(callerOf(request), request.params.driveId);
      return { current, nodes: presentTree(roots) };
    },
  );

  app.get(
    '/v1/drives/:driveId/changes',
    {
      schema: {
        ...describe('getDriveChanges', 'drives', 'Where the present state differs from a snapshot, or holds data'),
        params,
        querystring: strict({ from: Type.Optional(uuid<DriveSnapshotId>()) }),
        response: { 200: extentsRef },
      },
      config: {
        notes: { errors: ['not_found', 'snapshot_of_other_drive', 'snapshot_not_ready', 'engine_unavailable'] },
      },
    },
    async (request) => {
      const extents = await snapshots.changes(callerOf(request), {
        from: request.query.from ?? null,
        to: { drive: request.params.driveId },
      });
      return { extents, totalBytes: sumExtents(extents) };
    },
  );

  app.route({
    method: ['GET', 'HEAD'],
    url: '/v1/drives/:driveId/download',
    exposeHeadRoute: false,
    schema: {
      ...describe('downloadDrive', 'drives', 'The present state of a drive as an image'),
      params,
      querystring: downloadQuery,
    },
    config: {
      notes: {
        errors: ['not_found', 'drive_exported', 'drive_not_ready', 'engine_unavailable'],
        responseMedia: downloadMedia,
      },
    },
    handler: async (request, reply) => {
      const download = await drives.download(callerOf(request), request.params.driveId, request.query.format ?? 'raw');
      return sendDownload(request, reply, download);
    },
  });
}
