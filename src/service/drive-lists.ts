/** Lists of drives. */
import { countDrives, type DriveQuery, findDrivePlaces } from '../catalog/drive-list.ts';
import { drivesByNumber } from '../catalog/drives.ts';
import type { Drive } from '../core/model.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { DriveFilter, DriveSort, Page, PageRequest, SortOrder } from './interface.ts';
import { toDrive } from './objects.ts';
import { cursorOf, pageOf, readCursor } from './paging.ts';
import { visibleFilter } from './rights.ts';

export async function listDrives(
  context: Context,
  caller: Caller,
  filter: DriveFilter,
  sort: { by: DriveSort; order: SortOrder },
  page: PageRequest,
): Promise<Page<Drive>> {
  const { db } = context.catalog;
  const { limit, offset } = pageOf(page);
  const shape = { of: 'drives', filter, project: caller.projectId, user: caller.role === 'guest' ? caller.userId : '' };
  const after = readCursor(page, shape, sort.by, sort.order);
  const query: DriveQuery = { ...filter, visible: visibleFilter(caller, 'drive', { table: 'd' }) };
  const places = await findDrivePlaces(db, query, sort.by, { order: sort.order, after, limit: limit + 1, offset });
  const shown = places.slice(0, limit);
  const records = await drivesByNumber(
    db,
    shown.map((place) => place.number),
  );
  const last = shown.at(-1);
  return {
    items: records.map(toDrive),
    nextCursor: places.length > limit && last !== undefined ? cursorOf(shape, sort.by, sort.order, last) : null,
    total: page.withTotal === true ? await countDrives(db, query) : null,
  };
}
