/** `/libdrives/`: images, as the drives of the library that clients clone from. */
import type { ImageId } from '../../core/ids.ts';
import type { Image } from '../../core/model.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { type Answer, type Call, ok, parametersOf } from './call.ts';
import { envelope, readFilters, readOrder, readSelection, readWindow, select, text } from './filters.ts';
import { readId } from './parse.ts';
import { presentLibraryDrive } from './present.ts';
import { lookAround, tagFilter } from './surroundings.ts';

type Field = QueryFields['image'];
const orders = { name: 'name', uuid: 'id', size: 'sizeBytes' } as const satisfies Record<string, Field>;

/** Images of one drive; those of whole machines are no drives. */
const ofDrives: Condition<Field> = { field: 'kind', op: 'eq', value: 'drive' };

export async function listLibrary(call: Call): Promise<Answer> {
  const { service, caller } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const asked = await readFilters<Field>(parameters, {
    uuid: text('id'),
    name: text('name'),
    tag: tagFilter(call),
    tag__name: text('tag'),
  });
  const where: Condition<Field> = { all: [ofDrives, asked] };
  const sort = readOrder(parameters, orders) ?? [];
  const page = await service.queries.list(caller, 'image', { where, sort, ...window, withTotal: true });
  const around = await lookAround(call, 'image', page.items.map(subjectOf));
  const objects = page.items.map((image) => presentLibraryDrive(image, around(subjectOf(image))));
  return ok(envelope(select(objects, readSelection(parameters)), window, page.total ?? 0));
}

export async function getLibraryDrive(call: Call): Promise<Answer> {
  const image = await call.service.images.get(call.caller, readId<ImageId>('libdrive', call.id));
  const subject = subjectOf(image);
  const around = await lookAround(call, 'image', [subject]);
  return ok(presentLibraryDrive(image, around(subject)));
}

function subjectOf(image: Image) {
  return { id: image.id, sharedBy: [image.id], tags: image.tags, madeBy: image.createdBy };
}
