/** Storage volumes: drives, free or in the slot of a machine. */
import { CalotypeError } from '../../core/errors.ts';
import type { MachineId } from '../../core/ids.ts';
import type { Drive } from '../../core/model.ts';
import { always, type Condition, never, type QueryFields } from '../../core/query.ts';
import type { Caller } from '../../service/caller.ts';
import type { DialectContext } from '../dialect.ts';
import type { Call } from './calls.ts';
import { type Answer, listDocument, memberDocument } from './documents.ts';
import { missing, missingInstead } from './errors.ts';
import { instanceViews } from './instances.ts';
import { listAll, notThere, objectId } from './lookup.ts';
import { attachPage, newVolumePage } from './pages.ts';
import { capacityBytes, deviceName, filled, GiB, numberIn, optional, wireId } from './parse.ts';
import { deviceKey, deviceMeta, deviceOf, realm, type VolumeView, volumeView } from './present.ts';
import * as resources from './resources.ts';
import type { Routes } from './routing.ts';
import { settled } from './waiting.ts';

const plural = 'storage_volumes';
/** Until its own name is known. */
const unnamed = 'volume';

export function volumeRoutes(context: DialectContext): Routes {
  const { service } = context;

  async function views(drives: readonly Drive[]): Promise<VolumeView[]> {
    const machineIds = drives.flatMap(({ attachedTo }) => (attachedTo === null ? [] : [attachedTo.machineId]));
    const numbers =
      machineIds.length === 0
        ? new Map<MachineId, number>()
        : await service.numbers.numbersOf('machine', [...new Set(machineIds)]);
    return drives.map((drive) =>
      volumeView(drive, drive.attachedTo === null ? undefined : numbers.get(drive.attachedTo.machineId)),
    );
  }

  async function find(caller: Caller, id: string): Promise<Drive> {
    const drive = await service.drives.get(caller, await objectId(service, 'drive', id));
    // Answered as deleted already.
    if (drive.state === 'deleting') throw notThere();
    return drive;
  }

  async function list(call: Call, caller: Caller): Promise<Answer> {
    const wanted = call.parameters.get('id') ?? undefined;
    const number = wanted === undefined ? undefined : numberIn('drive', wanted);
    const named: Condition<QueryFields['drive']> =
      wanted === undefined ? always : number === undefined ? never : { field: 'number', op: 'eq', value: number };
    const where: Condition<QueryFields['drive']> = { all: [named, { field: 'state', op: 'ne', value: 'deleting' }] };
    const shown = named === never ? [] : await views(await listAll(service, caller, 'drive', where));
    return { is: 'document', status: 200, document: listDocument(resources.volumes, shown, call) };
  }

  async function answer(drive: Drive, status: 200 | 201 | 202, { links }: Call): Promise<Answer> {
    const [view] = await views([drive]);
    if (view === undefined) throw notThere();
    const location = links.member(plural, view.id);
    const document = memberDocument(resources.volumes, view, location, links);
    return {
      is: 'document',
      status,
      document,
      ...(status === 201 ? { location } : {}),
      ...(status === 202 ? { seeOther: location } : {}),
    };
  }

  async function create(call: Call, caller: Caller): Promise<Answer> {
    const { parameters } = call;
    const sizeBytes = capacityBytes(parameters);
    const realmId = optional(parameters, 'realm_id') ?? realm.id;
    if (realmId !== realm.id) throw missing('realm', realmId);
    const name = optional(parameters, 'name');
    const description = optional(parameters, 'description');
    const snapshotId = optional(parameters, 'snapshot_id');
    const labels = { name: name ?? unnamed, ...(description === undefined ? {} : { description }) };
    const { drive, task } =
      snapshotId === undefined
        ? await service.drives.create(caller, { ...labels, sizeBytes: sizeBytes ?? GiB })
        : await fromSnapshot(caller, snapshotId, { ...labels, ...(sizeBytes === undefined ? {} : { sizeBytes }) });
    await settled(context, caller, task);
    const made =
      name === undefined
        ? await service.drives.update(caller, drive.id, { name: wireId('drive', drive.number) })
        : await service.drives.get(caller, drive.id);
    return answer(made, 201, call);
  }

  async function fromSnapshot(
    caller: Caller,
    id: string,
    input: { name: string; description?: string; sizeBytes?: number },
  ) {
    const part = await objectId(service, 'part', id, () => missing('storage snapshot', id));
    const snapshot = await service.snapshots.getByPart(caller, part).catch((error: unknown) => {
      throw missingInstead(error, 'storage snapshot', id);
    });
    return service.snapshots.clone(caller, snapshot.id, { part, ...input });
  }

  async function destroy({ id, links }: Call, caller: Caller): Promise<Answer> {
    const drive = await find(caller, id);
    const task = await service.drives.delete(caller, drive.id, { snapshots: 'keep' });
    await settled(context, caller, task, 'foreground');
    return { is: 'gone', seeOther: links.collection(plural) };
  }

  async function attach(call: Call, caller: Caller): Promise<Answer> {
    const { id, parameters } = call;
    const drive = await find(caller, id);
    const instanceId = filled(parameters, 'instance_id');
    const device = deviceName(parameters);
    const machineId = await objectId(service, 'machine', instanceId, () => missing('instance', instanceId));
    await service.machines.get(caller, machineId).catch((error: unknown) => {
      throw missingInstead(error, 'instance', instanceId);
    });
    await settled(context, caller, await service.machines.attach(caller, machineId, { driveId: drive.id }));
    const attached = await service.drives.get(caller, drive.id);
    const { attachedTo } = attached;
    const asAsked =
      device === undefined || attachedTo === null || deviceOf(attached, attachedTo) === device
        ? attached
        : await remember(caller, attached, deviceMeta(attachedTo.machineId, device));
    return answer(asAsked, 202, call);
  }

  /** What it was called at its attachment, or null to forget that. What others write meanwhile is kept. */
  async function remember(caller: Caller, drive: Drive, device: string | null): Promise<Drive> {
    for (let known = drive; ; known = await service.drives.get(caller, drive.id)) {
      const { [deviceKey]: _, ...meta } = known.meta;
      const next = device === null ? meta : { ...meta, [deviceKey]: device };
      try {
        return await service.drives.update(caller, drive.id, { meta: next, ifVersion: known.version });
      } catch (error) {
        if (!(error instanceof CalotypeError)) throw error;
        // A drive with all the metadata it can have keeps the name that it has anyway.
        if (error.code === 'invalid_meta') return known;
        if (error.code !== 'precondition_failed') throw error;
      }
    }
  }

  async function detach(call: Call, caller: Caller): Promise<Answer> {
    const drive = await find(caller, call.id);
    if (drive.attachedTo === null) {
      throw new CalotypeError('drive_not_attached', `The storage volume ${call.id} is not attached.`);
    }
    await settled(context, caller, await service.machines.detach(caller, drive.attachedTo.machineId, drive.id));
    const detached = await service.drives.get(caller, drive.id);
    const isRemembered = Object.hasOwn(detached.meta, deviceKey);
    return answer(isRemembered ? await remember(caller, detached, null) : detached, 202, call);
  }

  return {
    [`/api/${plural}`]: { GET: { run: list }, POST: { run: create, operation: 'create' } },
    [`/api/${plural}/new`]: {
      GET: {
        onlyHtml: true,
        run: ({ parameters, links }: Call): Answer => {
          const body = newVolumePage(optional(parameters, 'snapshot_id') ?? '', links);
          return { is: 'page', page: { ...body, collection: plural, self: links.collection(plural) } };
        },
      },
    },
    [`/api/${plural}/:id`]: {
      GET: { run: async (call, caller) => answer(await find(caller, call.id), 200, call) },
      DELETE: { run: destroy },
    },
    [`/api/${plural}/:id/attach`]: { POST: { run: attach, operation: 'attach' } },
    [`/api/${plural}/:id/detach`]: { POST: { run: detach } },
    [`/api/${plural}/:id/attach_instance`]: {
      GET: {
        onlyHtml: true,
        run: async ({ id, links }, caller) => {
          const [view] = await views([await find(caller, id)]);
          if (view === undefined) throw notThere();
          const instances = await instanceViews(context, caller, { field: 'state', op: 'eq', value: 'available' });
          const self = links.member(plural, id);
          return { is: 'page', page: { ...attachPage(view, instances, links), collection: plural, self } };
        },
      },
    },
  };
}
