/** The one route that takes a raw body: an image, never buffered; the service reads it as it comes. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { createOptions } from '../preconditions.ts';
import { presentDrive, presentTask } from '../presenters.ts';
import { nameField, strict } from '../requests.ts';
import { driveTaskAnswer } from '../schemas.ts';
import { settle } from '../wait.ts';
import { formatField, importErrors } from './drives.ts';

export function importRoute(app: App, context: AppContext): void {
  const { drives } = context.service;
  app.register(async (scope: App) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (request, payload, done) => {
      const type = request.headers['content-type'];
      if (type !== undefined && !type.startsWith('application/octet-stream')) {
        done(new CalotypeError('unsupported_media_type', 'Send the image as application/octet-stream.'));
      } else done(null, payload);
    });
    scope.post(
      '/v1/drives/import',
      {
        schema: {
          ...describe('importDrive', 'drives', 'Create a drive from an uploaded image'),
          querystring: strict({
            name: nameField,
            format: formatField,
            description: Type.Optional(Type.String({ maxLength: 4096 })),
            tag: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 64 }))),
          }),
          response: { 201: driveTaskAnswer, 202: driveTaskAnswer },
        },
        config: {
          notes: {
            errors: [...importErrors, 'unsupported_media_type'],
            idempotent: true,
            refusesExisting: true,
            waits: true,
            requestMedia: 'application/octet-stream',
          },
        },
      },
      async (request, reply) => {
        const caller = callerOf(request);
        const length = Number(request.headers['content-length'] ?? 0);
        if (length > context.maxImportBytes) {
          throw new CalotypeError('image_too_large', `An image may have at most ${context.maxImportBytes} bytes.`, {
            limitBytes: context.maxImportBytes,
          });
        }
        const { tag, ...query } = request.query;
        const made = await drives.import(
          caller,
          { ...query, ...(tag === undefined ? {} : { tags: tag }), source: { stream: request.raw } },
          createOptions(request),
        );
        const task = await settle(context, request, reply, made.task, {
          status: 201,
          location: `/v1/drives/${made.drive.id}`,
        });
        const drive = task === made.task ? made.drive : await drives.get(caller, made.drive.id);
        return { task: presentTask(task), drive: presentDrive(drive) };
      },
    );
  });
}
