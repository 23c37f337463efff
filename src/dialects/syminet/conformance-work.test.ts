/** What the API says while work is under way, held up by a paused task on the disk of the slice. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
let panel: Panel;
beforeAll(async () => {
  panel = await Panel.start();
});
afterAll(() => panel[Symbol.asyncDispose]());

/** A slice whose disk is in the hands of a task that stands still, until `goOn`. */
async function heldSlice(name: string): Promise<Slice & { goOn: () => Promise<void> }> {
  const { rig } = panel;
  const base = await rig.drive(`${name}-base`, 64 * MiB);
  await rig.write(base.id, 0, Buffer.alloc(48 * MiB, name));
  const { id: snapshotId } = await rig.snapshot({ driveIds: [base.id] });
  for (;;) {
    const { drive } = await rig.native('POST', `/snapshots/${snapshotId}/clone`, { name });
    const headers = { authorization: `Bearer ${rig.admin.token}`, 'content-type': 'application/json' };
    const machine = await rig.machine(name, [drive.id]);
    const begun = await rig.send('native', {
      method: 'POST',
      path: `/v1/drives/${drive.id}/flatten`,
      headers,
      body: '{}',
    });
    const { id: taskId } = begun.json.task ?? begun.json;
    const paused = await rig.send('native', { method: 'POST', path: `/v1/tasks/${taskId}/pause`, headers, body: '{}' });
    const slice = { id: machine.number, machineId: machine.id, driveIds: [drive.id], volumeIds: [drive.number] };
    if (paused.status < 300) return { ...slice, goOn: () => rig.native('POST', `/tasks/${taskId}/resume`, {}) };
    // It was done before it could be stopped.
    await rig.native('DELETE', `/machines/${machine.id}?drives=delete`);
  }
}

const named = async (name: string) => (await panel.get(`/images?query=${name}`)).data[0];

describe('3. while a snapshot is being made', () => {
  test('it is listed, in progress, without duration and size; another one may be asked for', async () => {
    const slice = await heldSlice('making');
    await panel.change('POST', `/images/snapshots/${slice.id}/create`, { snapshot_name: 'made-1' });
    const making = { in_progress: true, progress: 0, duration: null, snapshot_size: null, vm_deleted: null };
    expect(await named('made-1')).toMatchObject(making);
    expect((await panel.get(`/images/snapshots/${slice.id}`)).data).toMatchObject([{ name: 'made-1', duration: null }]);
    expect(await panel.get(`/slices/${slice.id}`)).toMatchObject({ in_progress: true, progress: 0 });
    await panel.change('POST', `/images/snapshots/${slice.id}/create`, { snapshot_name: 'made-2' });
    const id = (await named('made-1')).id;
    expect((await panel.call('POST', `/images/snapshots/${id}/restore/${slice.id}`)).status).toBe(409);
    await slice.goOn();
    await panel.finished('made-1');
    await panel.finished('made-2');
    expect(await named('made-1')).toMatchObject({ duration: expect.any(String), snapshot_size: 1 });
    await panel.rig.settled();
    expect(await panel.get(`/slices/${slice.id}`)).toMatchObject({ in_progress: null, progress: null });
  });

  test('deleting it takes it back', async () => {
    const slice = await heldSlice('taking-back');
    await panel.change('POST', `/images/snapshots/${slice.id}/create`, { snapshot_name: 'unwanted' });
    await panel.change('DELETE', `/images/snapshots/${(await named('unwanted')).id}/delete`);
    expect(await named('unwanted')).toBeUndefined();
    await slice.goOn();
    await panel.rig.settled();
    expect(await panel.get(`/images/snapshots/${slice.id}`)).toEqual({ data: [] });
  });
});

describe('3. while a slice is being restored', () => {
  test('snapshot and slice are in progress, and a second action on the slice is 409', async () => {
    const slice = await heldSlice('restoring');
    await panel.change('POST', `/images/snapshots/${slice.id}/create`, { snapshot_name: 'restored' });
    await slice.goOn();
    const id = await panel.finished('restored');
    await panel.rig.settled();
    const other = await heldSlice('onto');
    await panel.change('POST', `/images/snapshots/${id}/restore/${other.id}`);
    expect(await named('restored')).toMatchObject({ in_progress: true, progress: 0, snapshot_size: 1 });
    expect(await panel.get(`/slices/${other.id}`)).toMatchObject({ in_progress: true, progress: 0 });
    expect(await panel.get(`/slices/${slice.id}`)).toMatchObject({ in_progress: null });
    expect(await panel.get(`/volumes/${other.volumeIds[0]}`)).toMatchObject({ in_progress: true });

    const busy = { status: 409, json: { error: 'The slice is busy with another task.' } };
    const free = await panel.rig.drive('free', MiB);
    const body = { snapshot_name: 'too early' };
    const calls = [
      () => panel.call('POST', `/images/snapshots/${id}/restore/${other.id}`),
      () => panel.call('POST', `/images/snapshots/${other.id}/create`, { body }),
      () => panel.call('POST', `/volumes/${free.number}/attach/${other.id}`),
      () => panel.call('POST', `/volumes/${other.volumeIds[0]}/detach`),
    ];
    for (const call of calls) expect(await call()).toMatchObject(busy);
    expect((await panel.get(`/images/snapshots/${other.id}`)).data).toEqual([]);
    // What was accepted comes first.
    await panel.change('DELETE', `/images/snapshots/${id}/delete`);
    await other.goOn();
    await panel.rig.settled();
    expect((await panel.rig.read(other.driveIds[0] ?? '')).subarray(0, 9).toString()).toBe('restoring');
  });

  test('a snapshot that is being restored onto its own slice is deleted when that is done', async () => {
    const slice = await heldSlice('behind');
    await slice.goOn();
    await panel.rig.settled();
    const id = await panel.snapshot(slice, 'used-once');
    await panel.rig.write(slice.driveIds[0] ?? '', 0, Buffer.from('newer'));
    await panel.change('POST', `/images/snapshots/${id}/restore/${slice.id}`);
    await panel.change('DELETE', `/images/snapshots/${id}/delete`);
    await panel.rig.settled();
    expect((await panel.rig.read(slice.driveIds[0] ?? '')).subarray(0, 6).toString()).toBe('behind');
    expect(await panel.get(`/images/snapshots/${slice.id}`)).toEqual({ data: [] });
  });
});
