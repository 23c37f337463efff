/** Templates: images of volumes and of whole machines. */
import type { ImageId } from '../../core/ids.ts';
import type { Image, Task } from '../../core/model.ts';
import type { QueryFields } from '../../core/query.ts';
import { idOf } from './parse.ts';
import { presentList, presentTemplate } from './present.ts';
import { readList, type Scope } from './scope.ts';

const sortable = {
  id: 'id',
  name: 'name',
  description: 'description',
  size: 'sizeBytes',
  created: 'createdAt',
} as const satisfies Record<string, QueryFields['image']>;

function findTemplate({ service, caller }: Scope, text: string): Promise<Image> {
  return service.images.get(caller, idOf<ImageId>('image', text));
}

export async function listTemplates(scope: Scope): Promise<object> {
  const { items, metadata } = await readList(scope, 'image', sortable);
  return presentList(items.map(presentTemplate), metadata);
}

export async function getTemplate(scope: Scope, id: string): Promise<object> {
  return { data: presentTemplate(await findTemplate(scope, id)) };
}

export async function deleteTemplate(scope: Scope, id: string): Promise<Task> {
  const image = await findTemplate(scope, id);
  return scope.service.images.delete(scope.caller, image.id);
}
