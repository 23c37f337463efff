/** Grants: what a guest of a project may see or change. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, ImageId, MachineId, SnapshotId } from '../../core/ids.ts';
import { isoFromUs } from '../../core/time.ts';
import type { Grant } from '../../service/grants.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { presentPage } from '../presenters.ts';
import { pageFields, pageRequest, strict } from '../requests.ts';
import { type GrantBody, grantRef, noContent, oneOf, pageOf, uuid } from '../schemas.ts';

const params = Type.Object({ grantId: Type.String() });
const userField = Type.String({ minLength: 1, maxLength: 255, description: 'id, name or e-mail address' });
const accessField = oneOf(['ro', 'rw']);

const presentGrant = (grant: Grant): GrantBody => ({
  id: grant.id,
  projectId: grant.projectId,
  userId: grant.userId,
  objectKind: grant.objectKind,
  objectId: grant.objectId,
  access: grant.access,
  createdAt: isoFromUs(grant.createdAt),
});

export function grantRoutes(app: App, context: AppContext): void {
  const { grants } = context.accounts;

  app.get(
    '/v1/grants',
    {
      schema: {
        ...describe('listGrants', 'grants', 'List grants of the project; your own unless you are its admin'),
        querystring: strict({
          user: Type.Optional(userField),
          objectId: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          ...pageFields,
        }),
        response: { 200: pageOf<GrantBody>('Grant') },
      },
      config: { notes: { errors: ['invalid_cursor'] } },
    },
    async (request) => {
      const { user, objectId, ...page } = request.query;
      return presentPage(await grants.list(callerOf(request), { user, objectId }, pageRequest(page)), presentGrant);
    },
  );

  app.post(
    '/v1/grants',
    {
      schema: {
        ...describe(
          'createGrant',
          'grants',
          'Give a member of the project access to a machine, drive, snapshot or image (admins)',
        ),
        body: strict({
          user: userField,
          machineId: Type.Optional(uuid<MachineId>()),
          driveId: Type.Optional(uuid<DriveId>()),
          snapshotId: Type.Optional(uuid<SnapshotId>()),
          imageId: Type.Optional(uuid<ImageId>()),
          access: accessField,
        }),
        response: { 201: grantRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request, reply) => {
      const { machineId, driveId, snapshotId, imageId, user, access } = request.body;
      const named = [
        { objectKind: 'machine', objectId: machineId },
        { objectKind: 'drive', objectId: driveId },
        { objectKind: 'snapshot', objectId: snapshotId },
        { objectKind: 'image', objectId: imageId },
      ] as const;
      const [object, another] = named.flatMap(({ objectKind, objectId }) =>
        objectId === undefined ? [] : { objectKind, objectId },
      );
      if (object === undefined || another !== undefined) {
        throw new CalotypeError('invalid_request', 'Give one of machineId, driveId, snapshotId and imageId.', {
          field: 'driveId',
        });
      }
      const grant = await grants.create(callerOf(request), { user, access, ...object });
      reply.code(201).header('location', `/v1/grants/${grant.id}`);
      return presentGrant(grant);
    },
  );

  app.get(
    '/v1/grants/:grantId',
    {
      schema: { ...describe('getGrant', 'grants', 'Get a grant'), params, response: { 200: grantRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request) => presentGrant(await grants.get(callerOf(request), request.params.grantId)),
  );

  app.patch(
    '/v1/grants/:grantId',
    {
      schema: {
        ...describe('updateGrant', 'grants', 'Change a grant (admins)'),
        params,
        body: strict({ access: accessField }),
        response: { 200: grantRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request) => presentGrant(await grants.update(callerOf(request), request.params.grantId, request.body)),
  );

  app.delete(
    '/v1/grants/:grantId',
    {
      schema: {
        ...describe('deleteGrant', 'grants', 'Take a grant back (admins)'),
        params,
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request, reply) => {
      await grants.delete(callerOf(request), request.params.grantId);
      return reply.code(204).send(null);
    },
  );
}
