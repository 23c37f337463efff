/** Images with a real engine: of a running guest, for guests of their own; and a server that dies at every step. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Snapshot } from '../src/core/model.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import type { DriveBody, ImageBody, SnapshotBody, TaskBody } from '../src/http/schemas.ts';
import { type Access, Api, type Finding } from './campaign/api.ts';
import { ServerProcess } from './campaign/server-process.ts';
import { MachineRig } from './support/machine-rig.ts';

const MiB = 1024 * 1024;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const failure = (code: string) => expect.objectContaining({ code });
const partAt = (snapshot: Snapshot, at: number) => {
  const part = snapshot.parts[at];
  if (part === undefined) throw new Error(`the snapshot has no part ${at}`);
  return part;
};

describe.skipIf(!hasGuest)('an image of a machine', () => {
  test('taken while its guest writes starts guests of its own, long after the machine is gone', async () => {
    await using rig = await MachineRig.start();
    const { drives, images, machines, snapshots } = rig.service;
    const id = await rig.createMachine(
      'busy',
      ['count', 'disk'],
      [await rig.createDrive('a'), await rig.createDrive('b')],
    );
    await rig.boot(id);
    await rig.line(id, /^disk [1-9]\d*$/m);
    const golden = await rig.snapshot(id, { memory: true });
    const then = await rig.numberAt(partAt(golden, 0).id, 0);
    expect(then).toBeGreaterThan(0);
    const creation = await images.create(rig.caller, { snapshotId: golden.id, name: 'golden' });
    await rig.done(creation.task);
    const image = await images.get(rig.caller, creation.image.id);
    expect(image).toMatchObject({ kind: 'machine', state: 'available', consistency: 'crash', cloneCount: 0 });

    // The guest writes on; then everything goes but the image.
    await rig.line(id, /^disk [1-9]\d*$/m, (await rig.serial(id)).length);
    await rig.done(machines.delete(rig.caller, id, { drives: 'delete', snapshots: 'delete' }));
    const left = async () => (await rig.service.tasks.list(rig.caller, { states: ['queued', 'running'] }, {})).items;
    for (const task of await left()) await rig.done(task);
    expect((await drives.list(rig.caller, {}, { by: 'created', order: 'asc' }, {})).items).toEqual([]);
    await expect(snapshots.get(rig.caller, golden.id)).rejects.toEqual(failure('not_found'));
    await rig.restart();

    const clone = async (name: string) => {
      const { task, machine } = await rig.service.images.cloneMachine(rig.caller, image.id, { name });
      await rig.done(task);
      return machine.id;
    };
    const [one, two] = [await clone('one'), await clone('two')];
    await rig.boot(one);
    await rig.line(one, /^disk [1-9]\d*$/m);
    const ofOne = await rig.snapshot(one, { quiesce: 'never' });
    expect(await rig.machine(one)).toMatchObject({ power: 'running', imageId: image.id });
    const ofTwo = await rig.snapshot(two);
    expect(await rig.numberAt(partAt(ofTwo, 0).id, 0), 'the other one is as the image').toBe(then);
    expect(await rig.numberAt(partAt(ofOne, 0).id, 0)).not.toBe(then);

    const refused = rig.service.images.delete(rig.caller, image.id);
    await expect(refused).rejects.toThrow('in use by one-0, one-1, two-0, two-1, in one, two');
    await expect(refused).rejects.toEqual(failure('image_in_use'));
    await rig.done(rig.service.machines.delete(rig.caller, two, { drives: 'delete', snapshots: 'delete' }));
    for (const task of await left()) await rig.done(task);
    for (const { driveId } of (await rig.machine(one)).drives)
      await rig.done(rig.service.drives.flatten(rig.caller, driveId));
    await rig.done(rig.service.images.delete(rig.caller, image.id));
    const from = (await rig.serial(one)).length;
    await rig.line(one, /^disk [1-9]\d*$/m, from);
    expect(await rig.numberAt(partAt(ofOne, 0).id, 0), 'what stood on the image stands').toBeGreaterThan(0);
    const { findings } = await rig.engine.doctor({ repair: false });
    expect(findings.filter((finding) => finding.severity !== 'info')).toEqual([]);
  }, 240_000);
});

interface Made {
  readonly task: TaskBody;
  readonly drive?: DriveBody;
  readonly snapshot?: SnapshotBody;
  readonly image?: ImageBody;
}

test('a server that dies at any step of making, using and deleting images finishes it when it starts again', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'caloim-'));
  const server = new ServerProcess(join(directory, 'data'), directory);
  try {
    const access = await server.start();
    if (access === null) throw new Error('the server did not start');
    const api = new Api(access);
    const send = async (method: 'POST' | 'DELETE', path: string, body: object | null, wait: number): Promise<Made> =>
      JSON.parse(await api.send({ method, path: `/v1${path}`, wait, ...(body === null ? {} : { body: { ...body } }) }));
    const dyingAt = async (
      step: string,
      method: 'POST' | 'DELETE',
      path: string,
      body: object | null,
    ): Promise<Made> => {
      server.arm({ step, nth: 1, victim: 'server', delayMs: 0 });
      const made = await send(method, path, body, 0);
      await server.exited;
      const again: Access | null = await server.start();
      if (again === null) throw new Error('the server did not start again');
      api.moveTo(again);
      expect(await api.task(made.task.id, 60), step).toMatchObject({ state: 'done', error: null });
      const report: { findings: Finding[] } = JSON.parse(
        await api.send({ method: 'POST', path: '/v1/doctor', body: {} }),
      );
      expect(
        report.findings.filter((finding) => finding.severity !== 'info'),
        step,
      ).toEqual([]);
      return made;
    };

    const { drive } = await send('POST', '/drives', { name: 'a', sizeBytes: 32 * MiB }, 30);
    const { snapshot } = await send('POST', '/snapshots', { driveIds: [drive?.id] }, 30);
    const images: ImageBody[] = [];
    for (const step of ['image.begun', 'points.copied', 'image.made']) {
      const { image } = await dyingAt(step, 'POST', '/images', { snapshotId: snapshot?.id, name: step });
      images.push(await api.get(`/v1/images/${image?.id}`));
    }
    expect(images.map((image) => image.state)).toEqual(images.map(() => 'available'));
    await send('DELETE', `/drives/${drive?.id}?snapshots=delete`, null, 30);

    const [first, second, third] = images;
    const { drive: clone } = await dyingAt('drive.adopted', 'POST', `/images/${first?.id}/clone`, { name: 'clone' });
    const found = await api.get<DriveBody>(`/v1/drives/${clone?.id}`);
    expect(found).toMatchObject({ state: 'available', imageId: first?.id });
    await expect(send('DELETE', `/images/${first?.id}`, null, 0)).rejects.toMatchObject({ code: 'image_in_use' });
    await send('DELETE', `/drives/${clone?.id}`, null, 30);
    for (const [step, image] of [
      ['image.dropping', first],
      ['points.deleted', second],
      ['image.dropped', third],
    ] as const)
      await dyingAt(step, 'DELETE', `/images/${image?.id}`, null);
    expect(await api.get('/v1/images')).toMatchObject({ items: [] });
  } finally {
    await server.kill();
    await server.killDaemon();
    server.closeLog();
    await rm(directory, { recursive: true, force: true });
  }
}, 240_000);
