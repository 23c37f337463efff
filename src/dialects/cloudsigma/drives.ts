/** `/drives/`: drives, with their machines, snapshots and jobs around them. */
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, ImageId, MachineId } from '../../core/ids.ts';
import type { Drive, DriveSnapshot, Task } from '../../core/model.ts';
import type { Condition, QueryFields } from '../../core/query.ts';
import { isoFromUs, nowUs } from '../../core/time.ts';
import type { Update } from '../../service/interface.ts';
import { bodyOf } from '../dialect.ts';
import { type Answer, type Call, gone, made, ok, parametersOf } from './call.ts';
import { type CloneNaming, cloneName, cloneNamings, countedNames } from './clone-naming.ts';
import { invalidField, wrongState } from './errors.ts';
import { envelope, readFilters, readOrder, readSelection, readWindow, select, text, word } from './filters.ts';
import {
  type Fields,
  given,
  type Parameters,
  readAction,
  readBoolean,
  readFields,
  readId,
  readInteger,
  readName,
  readObjects,
  readUuids,
  requireFields,
} from './parse.ts';
import { type DriveFacts, type PresentedDrive, presentDrive, shortDrive, storageType } from './present.ts';
import { lookAround, readLabels, tagFilter, untilGone } from './surroundings.ts';

/** Smallest size of a new drive, and what odd sizes are rounded up to. [cloudsigma-docs dumps/response_capabilities, request_drive_clone] */
export const minSizeBytes = 536_870_912;
const grainBytes = 16_384;
/** Jobs are shown this long after they ended. [cloudsigma-docs jobs.rst] */
export const jobsKeptUs = 3 * 24 * 3600 * 1_000_000;
/** As the capabilities name it; others are refused. */
const ephemeral = 'local_nvme';
const preferenceOfNaming = 'cloudsigma.clone_naming';

type Field = QueryFields['drive'];
const orders = { name: 'name', uuid: 'id', size: 'sizeBytes', status: 'state' } as const satisfies Record<
  string,
  Field
>;

export async function driveCondition(call: Call, parameters: Parameters): Promise<Condition<Field>> {
  const asked = parameters.some(([name]) => name.startsWith('status'));
  const running = asked ? await runningMachines(call) : [];
  const mounted: Condition<Field> = { field: 'machineId', op: 'in', values: running };
  const available: Condition<Field> = { field: 'state', op: 'eq', value: 'available' };
  const loose: Condition<Field> = { any: [{ field: 'machineId', op: 'isNull' }, { not: mounted }] };
  return readFilters<Field>(parameters, {
    uuid: text('id'),
    name: text('name'),
    status: word<Field>({
      creating: { field: 'state', op: 'eq', value: 'creating' },
      cloning_dst: { field: 'state', op: 'eq', value: 'creating' },
      mounted: { all: [available, mounted] },
      unmounted: { all: [available, loose] },
      deleting: { field: 'state', op: 'eq', value: 'deleting' },
      unavailable: { field: 'state', op: 'eq', value: 'error' },
    }),
    tag: tagFilter(call),
    tag__name: text('tag'),
  });
}

async function runningMachines({ service, caller }: Call): Promise<readonly MachineId[]> {
  const { items } = await service.queries.list(caller, 'machine', {
    where: { field: 'power', op: 'ne', value: 'off' },
    limit: null,
  });
  return items.map((machine) => machine.id);
}

export async function listDrives(call: Call, form: 'short' | 'full'): Promise<Answer> {
  const { service, caller } = call;
  const parameters = parametersOf(call);
  const window = readWindow(parameters);
  const where = await driveCondition(call, parameters);
  const sort = readOrder(parameters, orders) ?? [];
  const page = await service.queries.list(caller, 'drive', { where, sort, ...window, withTotal: true });
  const full = await presentDrives(call, page.items);
  const selection = readSelection(parameters);
  const objects = selection === undefined && form === 'short' ? full.map(shortDrive) : select(full, selection);
  return ok(envelope(objects, window, page.total ?? 0));
}

export async function getDrive(call: Call): Promise<Answer> {
  const drive = await findDrive(call);
  if (drive.state !== 'deleting') return ok(await presentOne(call, drive));
  await untilGone(call, drive.id, 'drive.delete');
  return ok(await presentOne(call, await findDrive(call)));
}

/** All of them, or none. */
export async function createDrives(call: Call): Promise<Answer> {
  const { service, caller, request } = call;
  const objects = readObjects(bodyOf(request));
  requireFields(objects, ['media', 'name', 'size']);
  const inputs = [];
  for (const fields of objects) {
    const name = readName(fields);
    const size = readInteger(fields, 'size');
    if (name === undefined || size === undefined) throw new CalotypeError('internal');
    const traits = { media: 'disk', ...traitsIn(fields) };
    inputs.push({ name, sizeBytes: newSize(call, size), traits, ...(await readLabels(call, fields)) });
    checkStorageType(fields);
  }
  const created = await service.drives.createEach(caller, inputs);
  return made(
    await presentDrives(
      call,
      created.map(({ drive }) => drive),
    ),
  );
}

/**
 * Everything that may change, of all that a client sends back. What a drive on a running server cannot change is passed over in
 * silence; the `resize` action fails instead.
 */
export async function updateDrive(call: Call): Promise<Answer> {
  return ok(await change(call, readFields(bodyOf(call.request)), { strict: false }));
}

export async function actOnDrive(call: Call): Promise<Answer> {
  const action = readAction(parametersOf(call), ['clone', 'resize']);
  const fields = readFields(bodyOf(call.request));
  if (action === 'resize') return made([await change(call, fields, { strict: true })], 202);
  return made([await clone(call, fields)], 202);
}

export async function deleteDrive({ service, caller, id }: Call): Promise<Answer> {
  await service.drives.deleteEach(caller, [readId<DriveId>('drive', id)], { snapshots: 'delete' });
  return gone;
}

export async function deleteDrives({ service, caller, request }: Call): Promise<Answer> {
  const ids = readUuids(bodyOf(request)).map((uuid) => readId<DriveId>('drive', uuid));
  await service.drives.deleteEach(caller, ids, { snapshots: 'delete' });
  return gone;
}

/** There is one host, so that all drives share it. */
export async function listDriveGroups({ service, caller, id }: Call): Promise<Answer> {
  if (id !== '') await service.drives.get(caller, readId<DriveId>('drive', id));
  const { items } = await service.queries.list(caller, 'drive', { limit: null });
  const uuids = items.map((drive) => drive.id);
  return ok(id !== '' || uuids.length === 0 ? uuids : [uuids]);
}

async function findDrive({ service, caller, id }: Call): Promise<Drive> {
  return service.drives.get(caller, readId<DriveId>('drive', id));
}

async function change(call: Call, fields: Fields, { strict }: { strict: boolean }): Promise<PresentedDrive> {
  const { service, caller } = call;
  const drive = await findDrive(call);
  const name = readName(fields);
  const asked = readInteger(fields, 'size');
  const labels = await readLabels(call, fields);
  const traits = traitsIn(fields);
  const [before] = await factsOf(call, [drive]);
  const isMounted = before?.isMounted ?? false;
  if (strict && asked === undefined) throw invalidField('size', 'This field is required');
  const other = asked !== undefined && isOtherSize(drive, asked) ? asked : undefined;
  const changesMedia = traits.media !== undefined && traits.media !== before?.media;
  if (isMounted && strict && (other !== undefined || changesMedia)) {
    throw wrongState('resize', 'drive', 'mounted', 'unmounted');
  }
  if (isMounted) delete traits.media;
  const size = other === undefined || isMounted ? undefined : grownSize(call, drive, other);
  const resizes = size !== undefined;
  if (resizes) await service.drives.resize(caller, drive.id, size);
  const update: Update = { ...(name === undefined ? {} : { name }), ...labels };
  const changed = Object.keys(update).length === 0 ? drive : await service.drives.update(caller, drive.id, update);
  if (Object.keys(traits).length > 0) await service.traits.set(caller, drive.id, traits);
  // The size that the drive had, whatever it has come to meanwhile.
  const [facts] = await factsOf(call, [changed]);
  if (facts === undefined) throw new CalotypeError('internal');
  const shown = { ...changed, sizeBytes: drive.sizeBytes };
  return presentWith(call, shown, { ...facts, isResizing: facts.isResizing || resizes });
}

async function clone(call: Call, fields: Fields): Promise<PresentedDrive> {
  const { service, caller } = call;
  const id = readId<DriveId>('drive', call.id);
  const image = await imageOf(call);
  const source = image ?? (await service.drives.get(caller, id));
  checkStorageType(fields);
  const size = readInteger(fields, 'size');
  const labels = await readLabels(call, fields);
  const input = {
    name: readName(fields) ?? (await nameOfClone(call, source.name)),
    meta: source.meta,
    ...labels,
    ...(size === undefined || size === source.sizeBytes ? {} : { sizeBytes: roundUp(call, size) }),
  };
  if (image !== undefined) {
    const { drive, task } = await service.images.clone(caller, image.id, input);
    return presentNewDrive(call, drive, task);
  }
  // Nothing else in the model says that it is one.
  const traits = { ...(await traitsOf(call, id, fields)), made: 'clone' };
  const { drive, task } = await service.drives.clone(caller, id, { ...input, traits });
  return presentNewDrive(call, drive, task);
}

/** Clients clone what is in the library as they clone their own drives. */
async function imageOf(call: Call) {
  try {
    return await call.service.images.get(call.caller, readId<ImageId>('drive', call.id));
  } catch (error) {
    if (error instanceof CalotypeError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** The answer to a clone: its one job is the one that makes it. */
export async function presentNewDrive(call: Call, drive: Drive, task: Task): Promise<PresentedDrive> {
  const [facts] = await factsOf(call, [drive]);
  if (facts === undefined) throw new CalotypeError('internal');
  return presentWith(call, drive, { ...facts, isClone: true, jobs: [task.id] });
}

async function presentOne(call: Call, drive: Drive): Promise<PresentedDrive> {
  const [facts] = await factsOf(call, [drive]);
  if (facts === undefined) throw new CalotypeError('internal');
  return presentWith(call, drive, facts);
}

async function presentWith(call: Call, drive: Drive, facts: DriveFacts): Promise<PresentedDrive> {
  const subject = subjectOf(drive);
  const around = await lookAround(call, 'drive', [subject]);
  return presentDrive(drive, facts, around(subject));
}

export async function presentDrives(call: Call, drives: readonly Drive[]): Promise<readonly PresentedDrive[]> {
  const around = await lookAround(call, 'drive', drives.map(subjectOf));
  const facts = await factsOf(call, drives);
  return drives.flatMap((drive, at) => {
    const known = facts[at];
    return known === undefined ? [] : [presentDrive(drive, known, around(subjectOf(drive)))];
  });
}

function subjectOf(drive: Drive) {
  return { id: drive.id, sharedBy: [drive.id], tags: drive.tags, madeBy: null };
}

/** In the order of the drives; as many questions for many as for one. */
async function factsOf({ service, caller }: Call, drives: readonly Drive[]): Promise<readonly DriveFacts[]> {
  if (drives.length === 0) return [];
  const ids = drives.map((drive) => drive.id);
  const withSnapshots = drives.filter((drive) => drive.snapshotCount > 0).map((drive) => drive.id);
  const recent = nowUs() - jobsKeptUs;
  const traits = await service.traits.of(ids);
  const isMadeOf = (drive: Drive): boolean =>
    drive.sourceId !== null || drive.imageId !== null || traits.get(drive.id)?.made === 'clone';
  const young = drives.filter((drive) => drive.createdAt > recent && isMadeOf(drive)).map((drive) => drive.id);
  const machineIds = new Set(
    drives.flatMap((drive) => (drive.attachedTo === null ? [] : [drive.attachedTo.machineId])),
  );
  const [parts, clones, machines, underWay] = await Promise.all([
    withSnapshots.length === 0
      ? []
      : service.queries
          .list(caller, 'part', { where: { field: 'driveId', op: 'in', values: withSnapshots }, limit: null })
          .then((page) => page.items),
    young.length === 0 ? [] : cloneTasks({ service, caller }, young),
    machineIds.size === 0
      ? []
      : service.queries
          .list(caller, 'machine', { where: { field: 'id', op: 'in', values: [...machineIds] }, limit: null })
          .then((page) => page.items),
    service.tasks.underWay(caller, ids),
  ]);
  const snapshots = new Map<DriveId, DriveSnapshot[]>(ids.map((id) => [id, []]));
  for (const { part } of parts) snapshots.get(part.driveId)?.push(part);
  const powers = new Map(machines.map((machine) => [machine.id, machine.power]));
  return drives.map((drive) => {
    const machineId = drive.attachedTo?.machineId ?? null;
    const power = machineId === null ? undefined : powers.get(machineId);
    const kinds = (underWay.get(drive.id) ?? []).map((task) => task.kind);
    const jobs = clones.filter((task) => task.objectId === drive.id).map((task) => task.id);
    return {
      isMounted: power !== undefined && power !== 'off',
      isResizing: kinds.includes('drive.resize'),
      isClone: jobs.length > 0,
      machineId: power === undefined ? null : machineId,
      snapshots: snapshots.get(drive.id) ?? [],
      jobs,
      media: traits.get(drive.id)?.media ?? 'disk',
      allowMultimount: traits.get(drive.id)?.allow_multimount === 'true',
    };
  });
}

async function cloneTasks({ service, caller }: Pick<Call, 'service' | 'caller'>, ids: readonly DriveId[]) {
  const where = {
    all: [
      { field: 'objectId', op: 'in', values: ids },
      { field: 'kind', op: 'eq', value: 'drive.clone' },
    ],
  } as const;
  return (await service.queries.list(caller, 'task', { where, limit: null })).items;
}

/** The name of a clone that was given none. */
export async function nameOfClone(call: Call, source: string): Promise<string> {
  const naming = await cloneNamingOf(call);
  if (naming === 'NONE') return source;
  const start = countedNames(source);
  const { items } = await call.service.queries.list(call.caller, 'drive', {
    where: { field: 'name', op: 'contains', value: start },
    limit: null,
  });
  return cloneName(
    source,
    naming,
    isoFromUs(nowUs()),
    items.map((drive) => drive.name),
  );
}

export async function cloneNamingOf({ service, caller }: Call): Promise<CloneNaming> {
  const stored = await service.preferences.get(caller, preferenceOfNaming);
  return cloneNamings.find((naming) => naming === stored) ?? 'NONE';
}

export async function setCloneNaming({ service, caller }: Call, naming: CloneNaming): Promise<void> {
  await service.preferences.set(caller, preferenceOfNaming, naming);
}

/** What is kept of a drive for this dialect alone, as a body has it. @throws invalid_request */
function traitsIn(fields: Fields): { media?: string; allow_multimount?: string } {
  const media = given(fields, 'media');
  if (media !== undefined && media !== 'disk' && media !== 'cdrom') {
    throw invalidField('media', 'The media should be one of: cdrom, disk');
  }
  const multimount = readBoolean(fields, 'allow_multimount');
  return {
    ...(media === undefined ? {} : { media }),
    ...(multimount === undefined ? {} : { allow_multimount: String(multimount) }),
  };
}

/** Of a clone: as its source, unless the body says otherwise. */
export async function traitsOf({ service }: Call, source: DriveId, fields: Fields): Promise<Record<string, string>> {
  const { media } = traitsIn(fields);
  const inherited = (await service.traits.of([source])).get(source)?.media;
  return { media: media ?? inherited ?? 'disk' };
}

function checkStorageType(fields: Fields): void {
  const asked = given(fields, 'storage_type');
  if (asked === undefined || asked === storageType) return;
  const why = asked === ephemeral ? 'There are no ephemeral drives here' : 'The storage type is not known';
  throw invalidField('storage_type', `${why}. It should be: ${storageType}`);
}

/** @throws invalid_request */
function newSize(call: Call, size: number): number {
  if (size < minSizeBytes) throw invalidField('size', `The size should be at least ${minSizeBytes}`);
  return roundUp(call, size);
}

/** Not for what the drive's size was rounded up from: clients send again what they once asked for. */
function isOtherSize({ sizeBytes }: Drive, asked: number): boolean {
  return asked > sizeBytes || roundedUp(asked) < sizeBytes;
}

/** @throws invalid_request */
function grownSize(call: Call, drive: Drive, size: number): number {
  if (size < drive.sizeBytes) throw invalidField('size', `A drive cannot shrink; its size is ${drive.sizeBytes}`);
  return roundUp(call, size);
}

const roundedUp = (size: number): number => Math.ceil(size / grainBytes) * grainBytes;

/** @throws invalid_request */
function roundUp({ service }: Call, size: number): number {
  const { maxDriveBytes } = service.limits;
  const rounded = roundedUp(size);
  if (rounded > maxDriveBytes) throw invalidField('size', `The size should be at most ${maxDriveBytes}`);
  return rounded;
}
