/** `/snapshots/`: one drive's part of a snapshot each, also of those that cover several drives. */
import { notFound } from '../../core/errors.ts';
import type { DriveId, DriveSnapshotId } from '../../core/ids.ts';
import type { DriveSnapshot, Snapshot } from '../../core/model.ts';
import type { QueryFields } from '../../core/query.ts';
import { nowUs } from '../../core/time.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import { bodyOf } from '../dialect.ts';
import { Kept } from '../kept.ts';
import { type Answer, type Call, gone, made, ok, parametersOf } from './call.ts';
import { nameOfClone, presentNewDrive, traitsOf } from './drives.ts';
import { invalidField } from './errors.ts';
import { envelope, readFilters, readOrder, readSelection, readWindow, select, text, word } from './filters.ts';
import {
  type Fields,
  given,
  isFields,
  type Parameters,
  readAction,
  readFields,
  readId,
  readName,
  readObjects,
  readUuids,
  referenceOf,
  requireFields,
} from './parse.ts';
import { defaultSnapshotName, presentSnapshot, snapshotStatus, withNestedUri } from './present.ts';
import { lookAround, readLabels, sharedBy, tagFilter, untilGone } from './surroundings.ts';

type Field = QueryFields['part'];

const statusFilter = word<Field>(
  Object.fromEntries(
    (['creating', 'available', 'deleting', 'error'] as const).map((state) => [
      snapshotStatus[state],
      { field: 'state', op: 'eq', value: state } as const,
    ]),
  ),
);

const orders = { name: 'name', timestamp: 'createdAt', uuid: 'id', status: 'state' } as const satisfies Record<
  string,
  Field
>;

export function snapshotCondition(call: Call, parameters: Parameters) {
  const tag = tagFilter(call);
  return readFilters<Field>(parameters, {
    uuid: text('id'),
    name: text('name'),
    drive: text('driveId'),
    status: statusFilter,
    tag,
    tag__name: text('tag'),
  });
}

export async function listSnapshots(call: Call): Promise<Answer> {
  const { service, caller } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const where = await snapshotCondition(call, parameters);
  const sort = readOrder(parameters, orders) ?? [];
  const page = await service.queries.list(caller, 'part', { where, sort, ...window, withTotal: true });
  return kept(call, page, async () => {
    const objects = await presentParts(call, page.items);
    return envelope(select(objects, readSelection(parameters)), window, page.total ?? 0);
  });
}

export async function getSnapshot(call: Call): Promise<Answer> {
  let found = await findPart(call);
  if (found.snapshot.state === 'deleting') {
    await untilGone(call, found.part.driveId, 'snapshot.delete', 'drive.delete');
    found = await findPart(call);
  }
  const { snapshot } = found;
  return kept(call, snapshot, () => presentOne(call, found));
}

const texts = new Kept<string>();

/** What users see of an object differs by what was granted to whom. */
async function kept(call: Call, madeOf: object, make: () => Promise<unknown>): Promise<Answer> {
  const form = `${call.caller.userId} ${call.mount} ${call.request.url}`;
  const text = texts.get(madeOf, form) ?? texts.keep(madeOf, form, JSON.stringify(await make()));
  return { status: 200, text };
}

/** All of them, or none: each an instant of its own. */
export async function createSnapshots(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const objects = readObjects(bodyOf(request));
  requireFields(objects, ['drive']);
  const inputs = [];
  for (const fields of objects) {
    const drive = driveOf(fields);
    inputs.push({
      driveIds: [drive],
      name: readName(fields) ?? defaultSnapshotName(drive, nowUs()),
      ...(await readLabels(call, fields)),
    });
  }
  const created = await service.snapshots.createEach(caller, inputs);
  const parts = created.flatMap(({ snapshot }) => snapshot.parts.map((part) => ({ part, snapshot })));
  return made(await presentParts(call, parts));
}

/** Clients send back all that they read: what cannot be changed is passed over. */
export async function updateSnapshot(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const fields = readFields(bodyOf(request));
  const { part, snapshot } = await findPart(call);
  if (namesDrive(fields) && driveOf(fields) !== part.driveId) {
    throw invalidField('drive', 'A snapshot cannot move to another drive.');
  }
  const name = readName(fields);
  const labels = await readLabels(call, fields);
  if (name === undefined && Object.keys(labels).length === 0) return ok(await presentOne(call, { part, snapshot }));
  const changed = await service.snapshots.update(caller, snapshot.id, {
    ...(name === undefined ? {} : { name }),
    ...labels,
  });
  return ok(await presentOne(call, { part: partIn(changed, part.id), snapshot: changed }));
}

export async function deleteSnapshot({ service, caller, id }: Call): Promise<Answer> {
  await service.snapshots.deleteParts(caller, [readId<DriveSnapshotId>('snapshot', id)]);
  return gone;
}

export async function deleteSnapshots({ service, caller, request }: Call): Promise<Answer> {
  const ids = readUuids(bodyOf(request)).map((uuid) => readId<DriveSnapshotId>('snapshot', uuid));
  await service.snapshots.deleteParts(caller, ids);
  return gone;
}

/** A bare drive, whose `resource_uri` is a link: both unlike everything else here, and both relied on. */
export async function cloneSnapshot(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  readAction(parametersOf(call), ['clone']);
  const fields = readFields(bodyOf(request));
  const { part, snapshot } = await findPart(call);
  const name = readName(fields) ?? (await nameOfClone(call, snapshot.name));
  const { drive, task } = await service.snapshots.clone(caller, snapshot.id, {
    part: part.id,
    name,
    meta: snapshot.meta,
    traits: await traitsOf(call, part.driveId, fields),
    evenCreating: true,
  });
  return { status: 202, body: withNestedUri(await presentNewDrive(call, drive, task)) };
}

async function findPart({ service, caller, id }: Call): Promise<PartOfSnapshot> {
  const partId = readId<DriveSnapshotId>('snapshot', id);
  const snapshot = await service.snapshots.getByPart(caller, partId);
  return { part: partIn(snapshot, partId), snapshot };
}

function partIn(snapshot: Snapshot, id: DriveSnapshotId): DriveSnapshot {
  const part = snapshot.parts.find((known) => known.id === id);
  if (part === undefined) throw notFound('snapshot', id);
  return part;
}

export async function presentParts(call: Call, found: readonly PartOfSnapshot[]) {
  const subjects = found.map(({ part, snapshot }) => subjectOf(part, snapshot));
  const around = await lookAround(call, 'part', subjects);
  return found.map(({ part, snapshot }) => presentSnapshot(part, snapshot, around(subjectOf(part, snapshot))));
}

async function presentOne(call: Call, { part, snapshot }: PartOfSnapshot) {
  const subject = subjectOf(part, snapshot);
  const around = await lookAround(call, 'part', [subject]);
  return presentSnapshot(part, snapshot, around(subject));
}

function subjectOf(part: DriveSnapshot, snapshot: Snapshot) {
  return {
    id: part.id,
    sharedBy: sharedBy(snapshot.id, part.driveId, snapshot.machine?.machineId),
    tags: snapshot.tags,
    madeBy: snapshot.createdBy,
  };
}

/** A change need not name it: the Go client then sends an object that names none. [cloudsigma-sdk-go snapshots.go] */
function namesDrive(fields: Fields): boolean {
  const drive = given(fields, 'drive');
  if (!isFields(drive)) return drive !== undefined;
  return given(drive, 'uuid') !== undefined || given(drive, 'resource_uri') !== undefined;
}

/** @throws invalid_request for what is no reference, not_found for what cannot be a drive */
function driveOf(fields: Fields): DriveId {
  const reference = referenceOf(given(fields, 'drive'));
  if (reference === undefined) throw invalidField('drive', 'A uuid of a drive is expected.');
  return readId<DriveId>('drive', reference);
}
