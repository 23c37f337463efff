/** Images: create from snapshots, list, rename, delete; make drives and machines from them. */
import Type from 'typebox';
import type { DriveSnapshotId, ImageId, SnapshotId } from '../../core/ids.ts';
import { imageKinds, machineKinds } from '../../core/model.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, checkIfMatch, createOptions, ifVersion, setEtag } from '../preconditions.ts';
import { presentDrive, presentImage, presentMachine, presentPage, presentTask } from '../presenters.ts';
import {
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
  driveTaskAnswer,
  type ImageBody,
  imageRef,
  imageStates,
  imageTaskAnswer,
  machineTaskAnswer,
  oneOf,
  pageOf,
  taskAnswer,
  uuid,
} from '../schemas.ts';
import { settle } from '../wait.ts';

const params = Type.Object({ imageId: uuid<ImageId>() });
const engineErrors = ['engine_failed', 'engine_unavailable', 'cancelled'] as const;
const labelErrors = ['invalid_name', 'invalid_meta', 'invalid_tag'] as const;
const cloneErrors = [
  ...engineErrors,
  ...labelErrors,
  'not_found',
  'forbidden',
  'invalid_size',
  'name_taken',
  'image_not_ready',
  'space_low',
  'space_exhausted',
] as const;

export function imageRoutes(app: App, context: AppContext): void {
  const { drives, images, machines } = context.service;

  app.post(
    '/v1/images',
    {
      schema: {
        ...describe('createImage', 'images', 'Make an image from a snapshot of a machine, or of a drive'),
        body: strict({
          snapshotId: uuid<SnapshotId>(),
          part: Type.Optional({
            ...uuid<DriveSnapshotId>(),
            description: 'an image of this drive alone; may be left out where the snapshot is of one drive',
          }),
          name: Type.Optional(nameField),
          ...labelFields,
        }),
        response: { 201: imageTaskAnswer, 202: imageTaskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...engineErrors,
            ...labelErrors,
            'not_found',
            'forbidden',
            'name_taken',
            'snapshot_not_ready',
            'snapshot_incomplete',
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await images.create(caller, request.body, createOptions(request));
      const location = `/v1/images/${made.image.id}`;
      const task = await settle(context, request, reply, made.task, { status: 201, location });
      const image = task === made.task ? made.image : await images.get(caller, made.image.id);
      return { task: presentTask(task), image: presentImage(image) };
    },
  );

  app.get(
    '/v1/images',
    {
      schema: {
        ...describe('listImages', 'images', 'List images'),
        querystring: strict({
          ...nameFilterFields,
          kind: Type.Optional(Type.Array(oneOf(imageKinds))),
          state: Type.Optional(Type.Array(oneOf(imageStates))),
          tag: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          sort: Type.Optional(oneOf(['created', 'name', 'state', 'number'])),
          order: orderField,
          ...pageFields,
        }),
        response: { 200: pageOf<ImageBody>('Image') },
      },
      config: { notes: { errors: ['invalid_sort', 'invalid_cursor', 'invalid_name', 'invalid_tag'] } },
    },
    async (request) => {
      const {
        kind,
        state,
        sort = 'created',
        order = 'asc',
        name,
        nameContains,
        nameLike,
        tag,
        ...page
      } = request.query;
      const found = await images.list(
        callerOf(request),
        { name, nameContains, nameLike, tag, kinds: kind, states: state },
        { by: sort, order },
        pageRequest(page),
      );
      return presentPage(found, presentImage);
    },
  );

  app.get(
    '/v1/images/:imageId',
    {
      schema: { ...describe('getImage', 'images', 'Get an image'), params, response: { 200: imageRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const image = await images.get(callerOf(request), request.params.imageId);
      setEtag(reply, image);
      return presentImage(image);
    },
  );

  app.patch(
    '/v1/images/:imageId',
    {
      schema: {
        ...describe('updateImage', 'images', 'Rename an image, change its description, metadata or tags'),
        params,
        body: strict({ name: Type.Optional(nameField), ...labelFields }),
        response: { 200: imageRef },
      },
      config: { notes: { errors: [...labelErrors, 'not_found', 'forbidden'], versioned: true } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { imageId } = request.params;
      const version = await ifVersion(request, () => images.get(caller, imageId));
      const image = await images.update(caller, imageId, { ...request.body, ...version });
      setEtag(reply, image);
      return presentImage(image);
    },
  );

  app.delete(
    '/v1/images/:imageId',
    {
      schema: {
        ...describe('deleteImage', 'images', 'Delete an image that no drive made from it stands on'),
        params,
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...engineErrors, 'not_found', 'forbidden', 'image_in_use'],
          idempotent: true,
          versioned: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { imageId } = request.params;
      await checkIfMatch(request, () => images.get(caller, imageId));
      const begun = await images.delete(caller, imageId, changeOptions(request));
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );

  app.post(
    '/v1/images/:imageId/clone',
    {
      schema: {
        ...describe('cloneImage', 'images', 'Make a drive from an image'),
        params,
        body: strict({
          slot: Type.Optional(
            Type.Integer({ minimum: 0, description: 'which drive of a machine; may be left out where there is one' }),
          ),
          name: Type.Optional(nameField),
          sizeBytes: Type.Optional(sizeField),
          ...labelFields,
        }),
        response: { 201: driveTaskAnswer, 202: driveTaskAnswer },
      },
      config: {
        notes: {
          errors: [...cloneErrors, 'shrink_not_supported'],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await images.clone(caller, request.params.imageId, request.body, createOptions(request));
      const location = `/v1/drives/${made.drive.id}`;
      const task = await settle(context, request, reply, made.task, { status: 201, location });
      const drive = task === made.task ? made.drive : await drives.get(caller, made.drive.id);
      return { task: presentTask(task), drive: presentDrive(drive) };
    },
  );

  app.post(
    '/v1/images/:imageId/clone-machine',
    {
      schema: {
        ...describe('cloneImageMachine', 'images', 'Make a machine from an image of one; it is off'),
        params,
        body: strict({
          name: Type.Optional(nameField),
          kind: Type.Optional(oneOf(machineKinds)),
          cpus: Type.Optional(Type.Integer({ minimum: 1 })),
          memoryBytes: Type.Optional(Type.Integer({ minimum: 1, description: 'whole MiB' })),
          ...labelFields,
        }),
        response: { 201: machineTaskAnswer, 202: machineTaskAnswer },
      },
      config: { notes: { errors: cloneErrors, idempotent: true, refusesExisting: true, waits: true } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await images.cloneMachine(caller, request.params.imageId, request.body, createOptions(request));
      const location = `/v1/machines/${made.machine.id}`;
      const task = await settle(context, request, reply, made.task, { status: 201, location });
      const machine = task === made.task ? made.machine : await machines.get(caller, made.machine.id);
      return { task: presentTask(task), machine: presentMachine(machine) };
    },
  );
}
