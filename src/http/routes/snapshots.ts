/** Snapshots: create, list, change, look into, revert, clone, download. */
import Type from 'typebox';
import { CalotypeError, notFound } from '../../core/errors.ts';
import { sumExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, SnapshotId } from '../../core/ids.ts';
import type { Snapshot } from '../../core/model.ts';
import { usFromIso } from '../../core/time.ts';
import { maxGroup } from '../../service/snapshots.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, checkIfMatch, createOptions, ifVersion, setEtag } from '../preconditions.ts';
import { presentDrive, presentPage, presentSnapshot, presentTask } from '../presenters.ts';
import {
  labelFields,
  nameField,
  nameFilterFields,
  orderField,
  pageFields,
  pageRequest,
  sizeField,
  strict,
  timeField,
} from '../requests.ts';
import {
  driveTaskAnswer,
  extentsRef,
  oneOf,
  pageOf,
  type SnapshotBody,
  snapshotRef,
  snapshotStates,
  snapshotTaskAnswer,
  taskAnswer,
  uuid,
} from '../schemas.ts';
import { downloadMedia, downloadQuery, sendDownload } from '../transfer.ts';
import { settle } from '../wait.ts';

const params = Type.Object({ snapshotId: uuid<SnapshotId>() });
const partField = uuid<DriveSnapshotId>();
const engineErrors = ['engine_failed', 'engine_unavailable', 'cancelled'] as const;

export function snapshotRoutes(app: App, context: AppContext): void {
  const { drives, snapshots } = context.service;

  app.post(
    '/v1/snapshots',
    {
      schema: {
        ...describe('createSnapshot', 'snapshots', 'Take a snapshot of drives, all at one instant'),
        body: strict({
          driveIds: Type.Array(uuid<DriveId>(), { minItems: 1, maxItems: maxGroup, uniqueItems: true }),
          name: Type.Optional(nameField),
          ...labelFields,
        }),
        response: { 201: snapshotTaskAnswer, 202: snapshotTaskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...engineErrors,
            'not_found',
            'forbidden',
            'invalid_name',
            'invalid_meta',
            'invalid_tag',
            'name_taken',
            'drive_busy',
            'drive_not_ready',
            'chain_too_deep',
            'space_low',
            'space_exhausted',
            'not_supported',
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await snapshots.create(caller, request.body, createOptions(request));
      const location = `/v1/snapshots/${made.snapshot.id}`;
      const task = await settle(context, request, reply, made.task, { status: 201, location });
      const snapshot = task === made.task ? made.snapshot : await snapshots.getJustTaken(caller, made.snapshot.id);
      return { task: presentTask(task), snapshot: presentSnapshot(snapshot) };
    },
  );

  app.get(
    '/v1/snapshots',
    {
      schema: {
        ...describe('listSnapshots', 'snapshots', 'List snapshots'),
        querystring: strict({
          driveId: Type.Optional(uuid<DriveId>()),
          ...nameFilterFields,
          state: Type.Optional(Type.Array(oneOf(snapshotStates))),
          tag: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          createdFrom: Type.Optional(timeField),
          createdBefore: Type.Optional(timeField),
          sort: Type.Optional(oneOf(['created', 'name', 'state', 'number'])),
          order: orderField,
          ...pageFields,
        }),
        response: { 200: pageOf<SnapshotBody>('Snapshot') },
      },
      config: { notes: { errors: ['invalid_sort', 'invalid_cursor', 'invalid_name', 'invalid_tag'] } },
    },
    async (request) => {
      const {
        driveId,
        name,
        nameContains,
        nameLike,
        tag,
        state,
        createdFrom,
        createdBefore,
        sort = 'created',
        order = 'asc',
        ...page
      } = request.query;
      const found = await snapshots.list(
        callerOf(request),
        {
          driveId,
          name,
          nameContains,
          nameLike,
          tag,
          states: state,
          createdFrom: readTime('createdFrom', createdFrom),
          createdBefore: readTime('createdBefore', createdBefore),
        },
        { by: sort, order },
        pageRequest(page),
      );
      return presentPage(found, presentSnapshot);
    },
  );

  app.get(
    '/v1/snapshots/:snapshotId',
    {
      schema: { ...describe('getSnapshot', 'snapshots', 'Get a snapshot'), params, response: { 200: snapshotRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const snapshot = await snapshots.get(callerOf(request), request.params.snapshotId);
      setEtag(reply, snapshot);
      return presentSnapshot(snapshot);
    },
  );

  app.patch(
    '/v1/snapshots/:snapshotId',
    {
      schema: {
        ...describe('updateSnapshot', 'snapshots', 'Rename a snapshot, change its description, metadata or tags'),
        params,
        body: strict({ name: Type.Optional(nameField), ...labelFields }),
        response: { 200: snapshotRef },
      },
      config: {
        notes: { errors: ['not_found', 'forbidden', 'invalid_name', 'invalid_meta', 'invalid_tag'], versioned: true },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { snapshotId } = request.params;
      const version = await ifVersion(request, () => snapshots.get(caller, snapshotId));
      const snapshot = await snapshots.update(caller, snapshotId, { ...request.body, ...version });
      setEtag(reply, snapshot);
      return presentSnapshot(snapshot);
    },
  );

  app.delete(
    '/v1/snapshots/:snapshotId',
    {
      schema: {
        ...describe(
          'deleteSnapshot',
          'snapshots',
          'Delete a snapshot, or only some of its parts; space comes back in the background',
        ),
        params,
        querystring: strict({
          part: Type.Optional(Type.Array(partField, { description: 'only these drive snapshots' })),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...engineErrors, 'not_found', 'forbidden', 'snapshot_in_use', 'drive_busy'],
          idempotent: true,
          versioned: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { snapshotId } = request.params;
      const { part } = request.query;
      await checkIfMatch(request, () => snapshots.get(caller, snapshotId));
      const begun = await snapshots.delete(caller, snapshotId, {
        ...(part === undefined ? {} : { parts: part }),
        ...changeOptions(request),
      });
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );

  app.post(
    '/v1/snapshots/:snapshotId/revert',
    {
      schema: {
        ...describe('revertSnapshot', 'snapshots', 'Put all drives of a snapshot back to it, in place'),
        params,
        body: strict({
          keepSafety: Type.Optional(Type.Boolean({ description: 'keep the state before as a snapshot; default true' })),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...engineErrors,
            'not_found',
            'forbidden',
            'snapshot_not_ready',
            'snapshot_incomplete',
            'drive_not_ready',
            'drive_busy',
            'space_low',
          ],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { snapshotId } = request.params;
      const begun = await snapshots.revert(callerOf(request), snapshotId, request.body, changeOptions(request));
      const location = `/v1/snapshots/${snapshotId}`;
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200, location })) };
    },
  );

  app.post(
    '/v1/snapshots/:snapshotId/clone',
    {
      schema: {
        ...describe('cloneSnapshot', 'snapshots', 'Make a drive from a part of a snapshot'),
        params,
        body: strict({
          part: Type.Optional(partField),
          name: Type.Optional(nameField),
          sizeBytes: Type.Optional(sizeField),
          ...labelFields,
        }),
        response: { 201: driveTaskAnswer, 202: driveTaskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...engineErrors,
            'not_found',
            'forbidden',
            'invalid_name',
            'invalid_size',
            'invalid_meta',
            'invalid_tag',
            'shrink_not_supported',
            'name_taken',
            'snapshot_not_ready',
            'space_low',
            'space_exhausted',
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await snapshots.clone(caller, request.params.snapshotId, request.body, createOptions(request));
      const task = await settle(context, request, reply, made.task, {
        status: 201,
        location: `/v1/drives/${made.drive.id}`,
      });
      const drive = task === made.task ? made.drive : await drives.get(caller, made.drive.id);
      return { task: presentTask(task), drive: presentDrive(drive) };
    },
  );

  app.get(
    '/v1/snapshots/:snapshotId/usage',
    {
      schema: {
        ...describe('getSnapshotUsage', 'snapshots', 'Bytes changed since, and bytes freed if it were deleted'),
        params,
        response: {
          200: Type.Object({
            parts: Type.Unsafe<readonly { driveSnapshotId: string; sizeBytes: number; uniqueBytes: number }[]>({
              type: 'array',
              items: {
                type: 'object',
                required: ['driveSnapshotId', 'sizeBytes', 'uniqueBytes'],
                properties: {
                  driveSnapshotId: { type: 'string' },
                  sizeBytes: { type: 'integer' },
                  uniqueBytes: { type: 'integer' },
                },
              },
            }),
          }),
        },
      },
      config: { notes: { errors: ['not_found', 'snapshot_not_ready', 'engine_unavailable'] } },
    },
    async (request) => ({ parts: await snapshots.usage(callerOf(request), request.params.snapshotId) }),
  );

  app.get(
    '/v1/snapshots/:snapshotId/changes',
    {
      schema: {
        ...describe(
          'getSnapshotChanges',
          'snapshots',
          'Where a part of a snapshot differs from an earlier one, or holds data',
        ),
        params,
        querystring: strict({
          part: Type.Optional(partField),
          from: Type.Optional(uuid<DriveSnapshotId>()),
        }),
        response: { 200: extentsRef },
      },
      config: {
        notes: { errors: ['not_found', 'snapshot_of_other_drive', 'snapshot_not_ready', 'engine_unavailable'] },
      },
    },
    async (request) => {
      const caller = callerOf(request);
      const snapshot = await snapshots.get(caller, request.params.snapshotId);
      const point = choosePart(snapshot, request.query.part);
      const extents = await snapshots.changes(caller, { from: request.query.from ?? null, to: { point } });
      return { extents, totalBytes: sumExtents(extents) };
    },
  );

  app.route({
    method: ['GET', 'HEAD'],
    url: '/v1/snapshots/:snapshotId/download',
    exposeHeadRoute: false,
    schema: {
      ...describe('downloadSnapshot', 'snapshots', 'A part of a snapshot as an image'),
      params,
      querystring: strict({ ...downloadQuery.properties, part: Type.Optional(partField) }),
    },
    config: {
      notes: { errors: ['not_found', 'snapshot_not_ready', 'engine_unavailable'], responseMedia: downloadMedia },
    },
    handler: async (request, reply) => {
      const { format = 'raw', part } = request.query;
      const download = await snapshots.download(callerOf(request), request.params.snapshotId, format, part);
      return sendDownload(request, reply, download);
    },
  });
}

/** @throws CalotypeError `not_found`; `invalid_request` when there are several and none was named */
function choosePart(snapshot: Snapshot, asked: DriveSnapshotId | undefined): DriveSnapshotId {
  const { parts } = snapshot;
  if (asked !== undefined) {
    const part = parts.find((p) => p.id === asked);
    if (part === undefined) throw notFound('driveSnapshot', asked);
    return part.id;
  }
  const [only] = parts;
  if (only === undefined || parts.length > 1) {
    throw new CalotypeError('invalid_request', 'The snapshot covers several drives: say which part.', {
      field: 'part',
      parts: parts.map((p) => p.id),
    });
  }
  return only.id;
}

function readTime(field: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const us = usFromIso(text);
  if (us === null) throw new CalotypeError('invalid_request', `${field} is not an ISO 8601 time.`, { field });
  return us;
}
