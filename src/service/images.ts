/** The use cases of images; what is longer lives beside this file: making them, making things from them, deletion. */
import { sql } from 'kysely';
import { addEvent } from '../catalog/catalog.ts';
import { countImages, findImagePlaces, type ImageQuery } from '../catalog/image-list.ts';
import { findImage, imagesByNumber } from '../catalog/images.ts';
import { replaceTags } from '../catalog/tags.ts';
import { notFound } from '../core/errors.ts';
import { nowUs } from '../core/time.ts';
import { imageRow, readableImage } from './access.ts';
import type { Context } from './context.ts';
import { cloneImage, cloneImageMachine } from './image-clones.ts';
import { createImage } from './image-create.ts';
import { deleteImage } from './image-delete.ts';
import type { ImageUseCases } from './interface.ts';
import { assertVersion, checkUpdate } from './labels.ts';
import { toImage } from './objects.ts';
import { cursorOf, pageOf, readCursor } from './paging.ts';
import { visibleFilter } from './rights.ts';

export function imageUseCases(context: Context): ImageUseCases {
  const { catalog } = context;
  return {
    create: (caller, input, options) => createImage(context, caller, input, options),
    clone: (caller, id, input, options) => cloneImage(context, caller, id, input, options),
    cloneMachine: (caller, id, input, options) => cloneImageMachine(context, caller, id, input, options),
    delete: (caller, id, options) => deleteImage(context, caller, id, options),
    get: async (caller, id) => toImage(await readableImage(catalog.db, caller, id)),

    async list(caller, filter, sort, page) {
      const { db } = catalog;
      const { limit, offset } = pageOf(page);
      const user = caller.role === 'guest' ? caller.userId : '';
      const shape = { of: 'images', filter, project: caller.projectId, user };
      const after = readCursor(page, shape, sort.by, sort.order);
      const query: ImageQuery = { ...filter, visible: visibleFilter(caller, 'image', { table: 'i' }) };
      const places = await findImagePlaces(db, query, sort.by, { order: sort.order, after, limit: limit + 1, offset });
      const shown = places.slice(0, limit);
      const records = await imagesByNumber(
        db,
        shown.map((place) => place.number),
      );
      const last = shown.at(-1);
      return {
        items: records.map(toImage),
        nextCursor: places.length > limit && last !== undefined ? cursorOf(shape, sort.by, sort.order, last) : null,
        total: page.withTotal === true ? await countImages(db, query) : null,
      };
    },

    async update(caller, id, update) {
      const { tags, ...columns } = checkUpdate(update);
      const record = await catalog.write(async (tx) => {
        const image = await imageRow(tx, caller, id);
        assertVersion(image, update.ifVersion);
        await tx
          .updateTable('images')
          .set({ ...columns, updated_at: nowUs(), version: sql`version + 1` })
          .where('id', '=', id)
          .execute();
        if (tags !== undefined) await replaceTags(tx, id, tags);
        await addEvent(tx, {
          projectId: image.project_id,
          userId: caller.userId,
          via: caller.via,
          kind: 'image.updated',
          objectKind: 'image',
          objectId: id,
          detail: {
            name: columns.name ?? image.name,
            fields: Object.keys(update).filter((key) => key !== 'ifVersion'),
          },
        });
        return findImage(tx, id);
      });
      if (record === undefined) throw notFound('image', id);
      context.feed.wake();
      return toImage(record);
    },
  };
}
