/** Storage snapshots: the parts of snapshots, one for each drive. A part is deleted by itself; others of its snapshot stay. */
import { notFound } from '../../core/errors.ts';
import { always, type Condition, never, type QueryFields } from '../../core/query.ts';
import type { Caller } from '../../service/caller.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import type { DialectContext } from '../dialect.ts';
import type { Call } from './calls.ts';
import { type Answer, listDocument, madeBefore, memberDocument } from './documents.ts';
import { missing, missingInstead } from './errors.ts';
import { listAll, notThere, objectId } from './lookup.ts';
import { newSnapshotPage } from './pages.ts';
import { filled, numberIn, optional, wireId } from './parse.ts';
import { type SnapshotView, snapshotView } from './present.ts';
import * as resources from './resources.ts';
import type { Routes } from './routing.ts';
import { settled } from './waiting.ts';

const plural = 'storage_snapshots';

export function snapshotRoutes(context: DialectContext): Routes {
  const { service } = context;

  async function views(items: readonly PartOfSnapshot[]): Promise<SnapshotView[]> {
    const driveIds = [...new Set(items.map(({ part }) => part.driveId))];
    const numbers = await service.numbers.numbersOf('drive', driveIds);
    return items.map((item) => snapshotView(item, numbers.get(item.part.driveId) ?? 0));
  }

  async function find(caller: Caller, id: string): Promise<PartOfSnapshot> {
    const partId = await objectId(service, 'part', id);
    const snapshot = await service.snapshots.getByPart(caller, partId);
    const part = snapshot.parts.find((known) => known.id === partId);
    // Answered as deleted already.
    if (part === undefined || snapshot.state === 'deleting') throw notThere();
    return { part, snapshot };
  }

  async function list(call: Call, caller: Caller): Promise<Answer> {
    const wanted = call.parameters.get('id') ?? undefined;
    const number = wanted === undefined ? undefined : numberIn('part', wanted);
    const named: Condition<QueryFields['part']> =
      wanted === undefined ? always : number === undefined ? never : { field: 'number', op: 'eq', value: number };
    const where: Condition<QueryFields['part']> = { all: [named, { field: 'state', op: 'ne', value: 'deleting' }] };
    const items = named === never ? [] : await listAll(service, caller, 'part', where);
    const rendering = madeBefore(items, call);
    if (rendering !== undefined) return { is: 'made', rendering };
    const document = listDocument(resources.snapshots, await views(items), call);
    return { is: 'document', status: 200, document, madeOf: items };
  }

  async function show(call: Call, caller: Caller): Promise<Answer> {
    const { id, links } = call;
    const found = await find(caller, id);
    const rendering = madeBefore(found.snapshot, call);
    if (rendering !== undefined) return { is: 'made', rendering };
    const [view] = await views([found]);
    if (view === undefined) throw notThere();
    const document = memberDocument(resources.snapshots, view, links.member(plural, id), links);
    return { is: 'document', status: 200, document, madeOf: found.snapshot };
  }

  async function create({ parameters, links }: Call, caller: Caller): Promise<Answer> {
    const volumeId = filled(parameters, 'volume_id');
    const driveId = await objectId(service, 'drive', volumeId, () => missing('storage volume', volumeId));
    const name = optional(parameters, 'name');
    const description = optional(parameters, 'description');
    const drive = await service.drives.get(caller, driveId).catch((error: unknown) => {
      throw missingInstead(error, 'storage volume', volumeId);
    });
    const { snapshot, task } = await service.snapshots.create(caller, {
      driveIds: [driveId],
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
    });
    await settled(context, caller, task);
    const [part] = snapshot.parts;
    if (part === undefined) throw notFound('drive snapshot', snapshot.id);
    const id = wireId('part', part.number);
    const made =
      name === undefined
        ? await service.snapshots.update(caller, snapshot.id, { name: id })
        : await service.snapshots.getJustTaken(caller, snapshot.id);
    const view = snapshotView({ part, snapshot: made }, drive.number);
    const location = links.member(plural, id);
    return {
      is: 'document',
      status: 201,
      document: memberDocument(resources.snapshots, view, location, links),
      location,
    };
  }

  async function destroy({ id, links }: Call, caller: Caller): Promise<Answer> {
    const { part, snapshot } = await find(caller, id);
    const task = await service.snapshots.delete(caller, snapshot.id, { parts: [part.id] });
    await settled(context, caller, task, 'foreground');
    return { is: 'gone', seeOther: links.collection(plural) };
  }

  return {
    [`/api/${plural}`]: { GET: { run: list }, POST: { run: create, operation: 'create' } },
    [`/api/${plural}/new`]: {
      GET: {
        isOpen: true,
        onlyHtml: true,
        run: ({ parameters, links }) => {
          const body = newSnapshotPage(optional(parameters, 'volume_id') ?? '', links);
          return { is: 'page', page: { ...body, collection: plural, self: links.collection(plural) } };
        },
      },
    },
    [`/api/${plural}/:id`]: { GET: { run: show }, DELETE: { run: destroy } },
  };
}
