/** One small client per front door, as a script would be written: what it shows of the snapshots of one machine, and what it does to them. */
import { setTimeout as delay } from 'node:timers/promises';
import { XMLParser } from 'fast-xml-parser';
import type { DialectName } from '../../src/dialects/dialect.ts';
import type { DriveBody, MachineBody } from '../../src/http/schemas.ts';
import { type Answer, basic, type Call, type DialectRig, type Loose, type Person } from './dialect-rig.ts';

export type Door = DialectName | 'native';

/** A machine and its drives, as they are seen by everybody. */
export interface Target {
  readonly machine: MachineBody;
  /** By slot. */
  readonly drives: readonly DriveBody[];
}

export interface Shown {
  /** The dialect's own. */
  readonly id: string;
  readonly name: string;
  /** Exact; null where the dialect has none or another unit. */
  readonly sizeBytes: number | null;
  /** ms; null where the dialect tells no time. */
  readonly createdMs: number | null;
  readonly ready: boolean;
  /** Whether the person may change it; null where the dialect does not say. */
  readonly writable: boolean | null;
  /** The drive that it is of, by id; null for a whole snapshot. */
  readonly driveId: string | null;
}

/** The front door said no. */
export class Refusal extends Error {
  readonly status: number;
  constructor(call: Call, answer: Answer) {
    super(`${call.method ?? 'GET'} ${call.path}: ${answer.status} ${answer.text}`);
    this.status = answer.status;
  }
}

export interface Face {
  readonly door: Door;
  /** Whether it shows snapshots of machines whole, or their parts drive by drive. */
  readonly shows: 'snapshots' | 'parts';
  list(): Promise<readonly Shown[]>;
  /** Of the machine, or where the dialect knows drives only, of its drive in `slot`. Waits until it is there. */
  create(name: string, slot?: number): Promise<void>;
  /** Waits until it is gone. */
  remove(id: string): Promise<void>;
  /** The machine or the drive goes back, and it is waited for. */
  revert?(id: string): Promise<void>;
  /** Makes a drive of one; its id by the native API. */
  clone?(id: string, name: string): Promise<string>;
}

const patienceMs = 120_000;

/** Asks again until there is an answer. */
async function until<T>(ask: () => Promise<T | undefined>, what: string): Promise<T> {
  for (const end = Date.now() + patienceMs; ; await delay(20)) {
    const found = await ask();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`never seen: ${what}`);
  }
}

export function facesOf(rig: DialectRig, person: Person, target: Target): readonly Face[] {
  return [native, manageiq, cloudsigma, syminet, cloudmc, deltacloud].map((make) => make(rig, person, target));
}

type Maker = (rig: DialectRig, person: Person, target: Target) => Face;

/** @throws Refusal */
function sender(rig: DialectRig, door: Door, headers: Readonly<Record<string, string>>) {
  return async (call: Call): Promise<Answer> => {
    const answer = await rig.send(door, { ...call, headers: { ...headers, ...call.headers } });
    if (answer.status >= 400) throw new Refusal(call, answer);
    return answer;
  };
}

/** Resolves once an address answers 404. */
async function gone(send: (call: Call) => Promise<Answer>, path: string): Promise<void> {
  await until(
    () =>
      send({ path }).then(
        () => undefined,
        (error: unknown) => {
          if (error instanceof Refusal && error.status === 404) return true;
          throw error;
        },
      ),
    `the end of ${path}`,
  );
}

const native: Maker = (rig, person, { machine }) => {
  const send = sender(rig, 'native', { authorization: `Bearer ${person.token}`, prefer: 'wait=60' });
  const done = (answer: Answer): void => {
    const task = answer.json.task ?? answer.json;
    if (task.state !== 'done') throw new Error(`${task.kind}: ${task.state} ${JSON.stringify(task.error)}`);
  };
  return {
    door: 'native',
    shows: 'snapshots',
    async list() {
      const { json } = await send({ path: `/v1/snapshots?machineId=${machine.id}&limit=1000&sort=number` });
      return json.items.map((item: Loose) => ({
        id: item.id,
        name: item.name,
        sizeBytes: item.sizeBytes,
        createdMs: Date.parse(item.createdAt),
        ready: item.state === 'available',
        writable: null,
        driveId: null,
      }));
    },
    create: async (name) =>
      done(await send({ method: 'POST', path: '/v1/snapshots', body: { machineId: machine.id, name } })),
    remove: async (id) => done(await send({ method: 'DELETE', path: `/v1/snapshots/${id}` })),
    revert: async (id) => done(await send({ method: 'POST', path: `/v1/snapshots/${id}/revert`, body: {} })),
    async clone(id, name) {
      const { parts } = (await send({ path: `/v1/snapshots/${id}` })).json;
      const body = { part: parts[0].id, name };
      const answer = await send({ method: 'POST', path: `/v1/snapshots/${id}/clone`, body });
      done(answer);
      return answer.json.drive.id;
    },
  };
};

const manageiq: Maker = (rig, person, { machine }) => {
  const send = sender(rig, 'manageiq', { ...basic(person), accept: 'application/json' });
  const path = `/api/vms/${machine.number}/snapshots`;
  const finished = async (taskId: string): Promise<void> => {
    const task = await until(async () => {
      const { json } = await send({ path: `/api/tasks/${taskId}` });
      return json.state === 'Finished' ? json : undefined;
    }, `the end of task ${taskId}`);
    if (task.status !== 'Ok') throw new Error(`${task.name}: ${task.message}`);
  };
  return {
    door: 'manageiq',
    shows: 'snapshots',
    async list() {
      const { json } = await send({ path: `${path}?expand=resources&limit=1000` });
      return json.resources.map((item: Loose) => ({
        id: item.id,
        name: item.name,
        sizeBytes: item.total_size,
        createdMs: Date.parse(item.create_time),
        ready: true,
        writable: item.actions !== undefined,
        driveId: null,
      }));
    },
    async create(name) {
      const { json } = await send({ method: 'POST', path, body: { name } });
      await finished(json.results[0].task_id);
    },
    async remove(id) {
      const { json } = await send({ method: 'POST', path: `${path}/${id}`, body: { action: 'delete' } });
      await finished(json.task_id);
    },
    async revert(id) {
      const { json } = await send({ method: 'POST', path: `${path}/${id}`, body: { action: 'revert' } });
      await finished(json.task_id);
    },
  };
};

const cloudsigma: Maker = (rig, person, { drives }) => {
  const send = sender(rig, 'cloudsigma', { ...basic({ name: person.email, password: person.password }) });
  const root = '/api/2.0';
  return {
    door: 'cloudsigma',
    shows: 'parts',
    async list() {
      const shown: Shown[] = [];
      for (const drive of drives) {
        const { json } = await send({ path: `${root}/snapshots/detail/?limit=0&drive=${drive.id}` });
        for (const item of json.objects) {
          shown.push({
            id: item.uuid,
            name: item.name,
            sizeBytes: item.allocated_size,
            createdMs: Date.parse(item.timestamp.replace(' ', 'T')),
            ready: item.status === 'available',
            writable: null,
            driveId: item.drive.uuid,
          });
        }
      }
      return shown;
    },
    async create(name, slot = 0) {
      const body = { drive: drives[slot]?.id, name };
      const { json } = await send({ method: 'POST', path: `${root}/snapshots/`, body });
      const { uuid } = json.objects[0];
      await until(async () => {
        const { status } = (await send({ path: `${root}/snapshots/${uuid}/` })).json;
        return status === 'available' ? true : undefined;
      }, `snapshot ${name}`);
    },
    async remove(id) {
      await send({ method: 'DELETE', path: `${root}/snapshots/${id}/` });
      await gone(send, `${root}/snapshots/${id}/`);
    },
    async clone(id, name) {
      const path = `${root}/snapshots/${id}/action/?do=clone`;
      const { uuid } = (await send({ method: 'POST', path, body: { name } })).json;
      await until(async () => {
        const { status } = (await send({ path: `${root}/drives/${uuid}/` })).json;
        return status === 'unmounted' ? true : undefined;
      }, `clone ${name}`);
      return uuid;
    },
  };
};

const syminet: Maker = (rig, person, { machine }) => {
  const send = sender(rig, 'syminet', { authorization: `bearer ${person.token}` });
  const root = '/api/v1/images';
  const all = async (): Promise<Loose[]> => {
    const found: Loose[] = [];
    for (let page = 1; ; page++) {
      const { json } = await send({ path: `${root}?page=${page}` });
      found.push(...json.data);
      if (page >= json.pages) return found;
    }
  };
  return {
    door: 'syminet',
    shows: 'snapshots',
    async list() {
      const images = (await all()).filter((item) => Number(item.vm_id) === machine.number);
      return images.map((item) => ({
        id: String(item.id),
        name: String(item.name),
        sizeBytes: null,
        createdMs: Date.parse(`${String(item.created).replace(' ', 'T')}Z`),
        ready: item.in_progress === null,
        writable: String(item.perms) === 'rw',
        driveId: null,
      }));
    },
    async create(name) {
      await send({ method: 'POST', path: `${root}/snapshots/${machine.number}/create`, body: { snapshot_name: name } });
      await until(async () => {
        const found = (await all()).find((item) => String(item.name) === name);
        return found?.in_progress === null ? true : undefined;
      }, `image ${name}`);
    },
    async remove(id) {
      await send({ method: 'DELETE', path: `${root}/snapshots/${id}/delete` });
      await until(
        async () => ((await all()).some((item) => String(item.id) === id) ? undefined : true),
        `the end of image ${id}`,
      );
    },
    async revert(id) {
      await send({ method: 'POST', path: `${root}/snapshots/${id}/restore/${machine.number}` });
      await until(async () => {
        const { json } = await send({ path: `/api/v1/slices/${machine.number}` });
        return json.in_progress === null ? true : undefined;
      }, `the end of the restore of ${id}`);
    },
  };
};

const cloudmc: Maker = (rig, person, { drives }) => {
  const send = sender(rig, 'cloudmc', { 'mc-api-key': person.token });
  const root = '/api/v2/services/compute/default';
  const finished = async (taskId: string): Promise<Loose> => {
    const task = await until(async () => {
      const { data } = (await send({ path: `/api/v2/tasks/${taskId}` })).json;
      return data.status === 'PENDING' ? undefined : data;
    }, `the end of task ${taskId}`);
    if (task.status !== 'SUCCESS') throw new Error(JSON.stringify(task));
    return task.result;
  };
  const change = async (call: Call): Promise<Loose> => finished((await send(call)).json.taskId);
  return {
    door: 'cloudmc',
    shows: 'parts',
    async list() {
      const shown: Shown[] = [];
      for (const drive of drives) {
        const { json } = await send({ path: `${root}/snapshots?volume_id=${drive.id}` });
        for (const item of json.data) {
          shown.push({
            id: item.id,
            name: item.name,
            sizeBytes: null,
            createdMs: null,
            ready: item.state === 'BackedUp',
            writable: null,
            driveId: item.volumeId,
          });
        }
      }
      return shown;
    },
    async create(name, slot = 0) {
      const body = { volumeId: drives[slot]?.id, name, rapid: true };
      await change({ method: 'POST', path: `${root}/snapshots?operation=create`, body });
    },
    remove: async (id) => void (await change({ method: 'DELETE', path: `${root}/snapshots/${id}` })),
    revert: async (id) => void (await change({ method: 'POST', path: `${root}/snapshots/${id}?operation=revert` })),
    async clone(id, name) {
      const made = await change({
        method: 'POST',
        path: `${root}/snapshots/${id}?operation=createVolume`,
        body: { name },
      });
      return String(made.id);
    },
  };
};

const xml = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  isArray: (name, path) => name === 'storage_snapshot' && path === 'storage_snapshots.storage_snapshot',
});

const deltacloud: Maker = (rig, person, { drives }) => {
  const send = sender(rig, 'deltacloud', { ...basic(person), accept: 'application/xml' });
  const volumes = new Map(drives.map((drive) => [`vol-${drive.number.toString(16)}`, drive]));
  return {
    door: 'deltacloud',
    shows: 'parts',
    async list() {
      const { storage_snapshots: root } = xml.parse((await send({ path: '/api/storage_snapshots' })).text);
      const items: Loose[] = root?.storage_snapshot ?? [];
      return items.flatMap((item) => {
        const drive = volumes.get(Object(item.storage_volume).id);
        if (drive === undefined) return [];
        return [
          {
            id: String(item.id),
            name: String(item.name),
            sizeBytes: null,
            createdMs: Date.parse(String(item.created)),
            ready: String(item.state) === 'COMPLETED',
            writable: null,
            driveId: drive.id,
          },
        ];
      });
    },
    async create(name, slot = 0) {
      const volume = [...volumes.keys()][slot];
      const path = `/api/storage_snapshots?volume_id=${volume}&name=${encodeURIComponent(name)}`;
      const made = xml.parse((await send({ method: 'POST', path })).text).storage_snapshot;
      await until(async () => {
        const { storage_snapshot: now } = xml.parse((await send({ path: `/api/storage_snapshots/${made.id}` })).text);
        return now.state === 'COMPLETED' ? true : undefined;
      }, `snapshot ${name}`);
    },
    async remove(id) {
      await send({ method: 'DELETE', path: `/api/storage_snapshots/${id}` });
      await gone(send, `/api/storage_snapshots/${id}`);
    },
    async clone(id, name) {
      const path = `/api/storage_volumes?snapshot_id=${id}&name=${encodeURIComponent(name)}`;
      const made = xml.parse((await send({ method: 'POST', path })).text).storage_volume;
      await until(async () => {
        const { storage_volume: now } = xml.parse((await send({ path: `/api/storage_volumes/${made.id}` })).text);
        return now.state === 'AVAILABLE' ? true : undefined;
      }, `volume ${name}`);
      const { items } = await rig.native('GET', `/drives?name=${encodeURIComponent(name)}`);
      return items[0].id;
    },
  };
};
