/** `/tags/`: tags with a uuid and metadata, and what carries them. */
import { CalotypeError } from '../../core/errors.ts';
import type { TagId } from '../../core/ids.ts';
import type { Condition } from '../../core/query.ts';
import type { NewTag, Tag } from '../../service/tags.ts';
import { bodyOf } from '../dialect.ts';
import { type Answer, type Call, gone, made, ok, parametersOf } from './call.ts';
import { presentDrives } from './drives.ts';
import { invalidField } from './errors.ts';
import { envelope, readSelection, readWindow, select, splitValue } from './filters.ts';
import {
  type Fields,
  given,
  type Parameters,
  readFields,
  readId,
  readMeta,
  readName,
  readObjects,
  readReferences,
  requireFields,
} from './parse.ts';
import { link, shortDrive, uriOf, withNestedUri } from './present.ts';
import { presentServers, shortServer } from './servers.ts';
import { presentParts } from './snapshots.ts';

/** Upstream's names for what can carry a tag. */
const resourceTypes = { machine: 'servers', drive: 'drives', part: 'snapshots', image: 'libdrives' } as const;

export async function listTags(call: Call): Promise<Answer> {
  const { service, caller } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const { items, total } = await service.tags.list(caller, readFilter(parameters), window);
  const objects = items.map((tag) => presentTag(call, tag));
  return ok(envelope(select(objects, readSelection(parameters)), window, total));
}

function readFilter(parameters: Parameters) {
  const wanted = (name: string): readonly string[] | undefined => {
    const values = parameters.filter(([known]) => known === name).map(([, value]) => splitValue(value));
    // All have to hold: what is in every one of them.
    return values.length === 0 ? undefined : values.reduce((a, b) => a.filter((value) => b.includes(value)));
  };
  const ids = wanted('uuid');
  const names = wanted('name');
  const contains = wanted('name__contains');
  return {
    ...(ids === undefined ? {} : { ids: ids.map((id) => id as TagId) }),
    ...(names === undefined ? {} : { names }),
    ...(contains === undefined ? {} : { nameContains: contains }),
  };
}

export async function getTag(call: Call): Promise<Answer> {
  return ok(presentTag(call, await findTag(call)));
}

export async function createTags(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const objects = readObjects(bodyOf(request));
  requireFields(objects, ['name']);
  const inputs = objects.map((fields) => {
    const { name, ...input } = readTag(fields);
    if (name === undefined) throw new CalotypeError('internal');
    return { name, ...input };
  });
  const created = await naming('resources', () => service.tags.create(caller, inputs));
  return made(created.map((tag) => presentTag(call, tag)));
}

export async function updateTag(call: Call): Promise<Answer> {
  const { service, caller, request, id } = call;
  const input = readTag(readFields(bodyOf(request)));
  const tagId = readId<TagId>('tag', id);
  await service.tags.get(caller, tagId);
  return ok(presentTag(call, await naming('resources', () => service.tags.update(caller, tagId, input))));
}

export async function deleteTag({ service, caller, id }: Call): Promise<Answer> {
  await service.tags.delete(caller, readId<TagId>('tag', id));
  return gone;
}

/** Short entries with a nested `resource_uri`, or whole ones. */
export async function listTagged(call: Call, type: string, form: 'short' | 'full'): Promise<Answer> {
  const { service, caller } = call;
  const tag = await findTag(call);
  const window = readWindow(parametersOf(call));
  const where: Condition<'tag'> = { field: 'tag', op: 'eq', value: tag.name };
  const query = { where, ...window, withTotal: true };
  switch (type) {
    case 'drives': {
      const { items, total } = await service.queries.list(caller, 'drive', query);
      const full = await presentDrives(call, items);
      const short = full.map((drive) => withNestedUri({ ...shortDrive(drive), name: drive.name }));
      return ok(envelope(form === 'full' ? full : short, window, total ?? 0));
    }
    case 'servers': {
      const { items, total } = await service.queries.list(caller, 'machine', query);
      const full = await presentServers(call, items);
      const short = full.map((server) => withNestedUri(shortServer(server)));
      return ok(envelope(form === 'full' ? full : short, window, total ?? 0));
    }
    case 'snapshots': {
      const { items, total } = await service.queries.list(caller, 'part', query);
      const full = await presentParts(call, items);
      const short = full.map(({ name, owner, resource_uri, status, uuid }) =>
        withNestedUri({ name, owner, resource_uri, status, uuid }),
      );
      return ok(envelope(form === 'full' ? full : short, window, total ?? 0));
    }
    case 'ips':
    case 'vlans':
      return ok(envelope([], window, 0));
    default:
      throw new CalotypeError('route_not_found');
  }
}

function findTag({ service, caller, id }: Call): Promise<Tag> {
  return service.tags.get(caller, readId<TagId>('tag', id));
}

function readTag(fields: Fields): Partial<NewTag> {
  const name = readName(fields);
  const meta = readMeta(fields);
  const carriers = readReferences(fields, 'resources');
  if (given(fields, 'name') === '') throw invalidField('name', 'A tag needs a name.');
  return {
    ...(name === undefined ? {} : { name }),
    ...(meta === undefined ? {} : { meta }),
    ...(carriers === undefined ? {} : { carriers }),
  };
}

/** What a list in a body names and is not there makes the body wrong, not the address. */
async function naming<T>(point: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CalotypeError) || error.code !== 'not_found' || error.details.kind !== 'object') throw error;
    throw invalidField(point, `Object with uuid ${String(error.details.id)} does not exist`);
  }
}

function presentTag({ mount, caller }: Call, tag: Tag) {
  const owner = link(mount, 'user', tag.createdBy ?? (caller.role === 'guest' ? caller.projectId : caller.userId));
  return {
    meta: tag.meta,
    name: tag.name,
    owner,
    resource_uri: uriOf(mount, 'tags', tag.id),
    resources: tag.carriers.map(({ kind, id }) => ({
      owner,
      res_type: resourceTypes[kind],
      ...link(mount, resourceTypes[kind], id),
    })),
    uuid: tag.id,
  };
}
