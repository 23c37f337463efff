/** Snapshots: create, list, change, look into, revert, clone, download. */
import Type from 'typebox';
import { CalotypeError, notFound } from '../../core/errors.ts';
import { sumExtents } from '../../core/extents.ts';
import type { DriveId, DriveSnapshotId, MachineId, SnapshotId } from '../../core/ids.ts';
import { quiesceModes, type Snapshot } from '../../core/model.ts';
import { usFromIso } from '../../core/time.ts';
import { maxGroup } from '../../service/snapshot-create.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, checkIfMatch, createOptions, ifVersion, setEtag } from '../preconditions.ts';
import { presentDrive, presentMachine, presentPage, presentSnapshot, presentTask } from '../presenters.ts';
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
  machineTaskAnswer,
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
const machineErrors = [
  'machine_off',
  'machine_not_ready',
  'machine_failed',
  'machine_died',
  'agent_unavailable',
  'drive_not_attached',
] as const;
const engineErrors = ['engine_failed', 'engine_unavailable', 'cancelled'] as const;

export function snapshotRoutes(app: App, context: AppContext): void {
  const { drives, machines, snapshots } = context.service;

  app.post(
    '/v1/snapshots',
    {
      schema: {
        ...describe('createSnapshot', 'snapshots', 'Take a snapshot of drives, or of a machine, all at one instant'),
        body: strict({
          driveIds: Type.Optional(Type.Array(uuid<DriveId>(), { minItems: 1, maxItems: maxGroup, uniqueItems: true })),
          machineId: Type.Optional(uuid<MachineId>()),
          memory: Type.Optional(Type.Boolean({ description: 'machines only: keep the memory, too; default false' })),
          quiesce: Type.Optional(
            oneOf(quiesceModes, {
              description: 'machines only: file systems frozen by the guest agent; default prefer',
            }),
          ),
          exclude: Type.Optional(
            Type.Array(uuid<DriveId>(), { maxItems: maxGroup, uniqueItems: true, description: 'drives left out' }),
          ),
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
            ...machineErrors,
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { driveIds, machineId, memory, quiesce, exclude, ...labels } = request.body;
      if ((driveIds === undefined) === (machineId === undefined)) {
        throw new CalotypeError('invalid_request', 'Give either driveIds or machineId.', { field: 'driveIds' });
      }
      const extra = Object.entries({ memory, quiesce, exclude }).find(([, value]) => value !== undefined)?.[0];
      if (machineId === undefined && extra !== undefined) {
        throw new CalotypeError('invalid_request', `Only a snapshot of a machine takes ${extra}.`, { field: extra });
      }
      const options = createOptions(request);
      const made =
        machineId === undefined
          ? await snapshots.create(caller, { ...labels, driveIds: driveIds ?? [] }, options)
          : await snapshots.createOfMachine(caller, { ...labels, machineId, memory, quiesce, exclude }, options);
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
          machineId: Type.Optional(uuid<MachineId>()),
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
        machineId,
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
          machineId,
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
        ...describe(
          'revertSnapshot',
          'snapshots',
          'Put all drives of a snapshot, or its machine, back to it, in place',
        ),
        params,
        body: strict({
          keepSafety: Type.Optional(Type.Boolean({ description: 'keep the state before as a snapshot; default true' })),
          machineId: Type.Optional({
            ...uuid<MachineId>(),
            description: 'of a machine: put this other machine onto it, slot by slot',
          }),
          memory: Type.Optional(
            Type.Boolean({ description: 'of a machine: go on from its memory if it holds one; default true' }),
          ),
          paused: Type.Optional(Type.Boolean({ description: 'of a machine: let the guest stand still afterwards' })),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...engineErrors,
            ...machineErrors,
            'not_found',
            'forbidden',
            'drive_attached',
            'drive_too_small',
            'slot_taken',
            'machine_running',
            'machine_type_missing',
            'memory_not_restorable',
            'memory_damaged',
            'not_supported',
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
      const { machineId, memory, paused } = request.body;
      const isPlain = [machineId, memory, paused].every((option) => option === undefined);
      const asked = isPlain ? 'revert' : 'revertMachine';
      const input = request.body;
      const begun = await snapshots[asked](callerOf(request), snapshotId, input, changeOptions(request));
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

  app.post(
    '/v1/snapshots/:snapshotId/clone-machine',
    {
      schema: {
        ...describe('cloneMachine', 'snapshots', 'Make a machine from a snapshot of one'),
        params,
        body: strict({
          name: Type.Optional(nameField),
          memory: Type.Optional(
            Type.Boolean({ description: 'the guest goes on from the memory of the snapshot; default false' }),
          ),
          ...labelFields,
        }),
        response: { 201: machineTaskAnswer, 202: machineTaskAnswer },
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
            'snapshot_not_ready',
            'snapshot_incomplete',
            'memory_not_restorable',
            'memory_damaged',
            'machine_failed',
            'machine_type_missing',
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
      const made = await snapshots.cloneMachine(
        caller,
        request.params.snapshotId,
        request.body,
        createOptions(request),
      );
      const location = `/v1/machines/${made.machine.id}`;
      const task = await settle(context, request, reply, made.task, { status: 201, location });
      const machine = task === made.task ? made.machine : await machines.get(caller, made.machine.id);
      return { task: presentTask(task), machine: presentMachine(machine) };
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
