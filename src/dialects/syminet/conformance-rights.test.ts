/** The table of rights: what users of every kind may see and do, on slices and snapshots of every kind. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Person } from '../../../test/support/dialect-rig.ts';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
let panel: Panel;
let web: Slice;
let spare: Slice;
let point: number;
let snapshotId: string;
beforeAll(async () => {
  panel = await Panel.start();
  web = await panel.slice('web', [MiB]);
  spare = await panel.slice('spare', [MiB]);
  point = await panel.snapshot(web, 'point');
  snapshotId = (await panel.native(point)).id;
});
afterAll(() => panel[Symbol.asyncDispose]());

type Access = 'none' | 'ro' | 'rw';

/** A regular user with these rights. */
async function regular(name: string, rights: { slice: Access; snapshot: Access; spare?: Access }): Promise<Person> {
  const { rig } = panel;
  const person = await rig.person(name, 'guest');
  if (rights.slice !== 'none') await rig.grant(name, { machineId: web.machineId }, rights.slice);
  if (rights.snapshot !== 'none') await rig.grant(name, { snapshotId }, rights.snapshot);
  if (rights.spare !== undefined) await rig.grant(name, { machineId: spare.machineId }, rights.spare);
  return person;
}

const status = async (method: string, path: string, token: string, body?: object): Promise<number> => {
  const answer = await panel.call(method, path, { token, ...(body === undefined ? {} : { body }) });
  await panel.rig.settled();
  return answer.status;
};

const levels: readonly Access[] = ['none', 'ro', 'rw'];
const combined = levels.flatMap((slice) => levels.map((snapshot) => ({ slice, snapshot })));
const most = (a: Access, b: Access): Access => (levels.indexOf(a) > levels.indexOf(b) ? a : b);
/** What is answered to who has a right, where `rw` is needed. */
const statusFor: Readonly<Record<Access, number>> = { none: 404, ro: 403, rw: 202 };

describe.each(combined)('a regular user with $slice on the slice and $snapshot on the snapshot', (rights) => {
  let person: Person;
  const onSlice = rights.slice;
  // A right on the slice goes for its snapshots.
  const onSnapshot = most(rights.slice, rights.snapshot);
  beforeAll(async () => {
    person = await regular(`user-${rights.slice}-${rights.snapshot}`, rights);
  });

  test('lists what there is any right on', async () => {
    const { data, results } = await panel.get('/images?query=point', person.token);
    const vmPerms = onSlice === 'none' ? null : onSlice;
    expect(data.map(({ id, perms, vm_perms }: Record<string, unknown>) => ({ id, perms, vm_perms }))).toEqual(
      onSnapshot === 'none' ? [] : [{ id: point, perms: onSnapshot, vm_perms: vmPerms }],
    );
    expect(results).toBe(data.length);
    expect((await panel.get('/slices', person.token)).data).toMatchObject(
      onSlice === 'none' ? [] : [{ id: web.id, perms: onSlice }],
    );
    for (const path of [`/images/snapshots/${web.id}`, `/slices/${web.id}`, `/backups/${web.id}`]) {
      expect(await status('GET', path, person.token), path).toBe(onSlice === 'none' ? 404 : 200);
    }
  });

  test('creates with rw on the slice, and may do everything with what was made', async () => {
    const snapshot_name = `by ${person.name}`;
    const made = await status('POST', `/images/snapshots/${web.id}/create`, person.token, { snapshot_name });
    expect(made).toBe(statusFor[onSlice]);
    if (made !== 202) return;
    const id = await panel.finished(snapshot_name, person.token);
    expect((await panel.get(`/images?query=${person.name}`, person.token)).data).toMatchObject([{ perms: 'rw' }]);
    expect(await status('DELETE', `/images/snapshots/${id}/delete`, person.token)).toBe(202);
  });

  test('renames with rw on the snapshot', async () => {
    const body = { snapshot_name: 'point' };
    expect(await status('POST', `/images/snapshots/${point}/rename`, person.token, body)).toBe(statusFor[onSnapshot]);
  });

  test('restores with rw on both', async () => {
    const weakest = onSnapshot === 'none' || onSlice === 'none' ? 'none' : onSlice === 'rw' ? onSnapshot : 'ro';
    expect(await status('POST', `/images/snapshots/${point}/restore/${web.id}`, person.token)).toBe(statusFor[weakest]);
  });

  test('switches and restores backups with rw on the slice', async () => {
    const expected = onSlice === 'rw' ? 409 : statusFor[onSlice];
    expect(await status('GET', `/backups/${web.id}/backups/enable`, person.token)).toBe(expected);
    expect(await status('POST', `/slices/${web.id}/backups/disable`, person.token)).toBe(expected);
    const restore = await status('POST', `/backups/${web.id}/restore/1`, person.token);
    expect(restore).toBe(onSlice === 'ro' ? 403 : 404);
    const rebuild = await status('POST', `/slices/${web.id}/rebuild`, person.token, { os_name: 'x' });
    expect(rebuild).toBe(onSlice === 'rw' ? 400 : statusFor[onSlice]);
  });
});

test('restoring onto another slice takes rw on it and on the snapshot', async () => {
  for (const snapshot of ['ro', 'rw'] as const) {
    for (const onSpare of levels) {
      const rights = { slice: 'none', snapshot, ...(onSpare === 'none' ? {} : { spare: onSpare }) } as const;
      const { token } = await regular(`mover-${snapshot}-${onSpare}`, rights);
      const answered = await status('POST', `/images/snapshots/${point}/restore/${spare.id}`, token);
      const expected = onSpare === 'none' ? 404 : snapshot === 'ro' || onSpare === 'ro' ? 403 : 202;
      expect(answered, `${snapshot} and ${onSpare}`).toBe(expected);
    }
  }
});

test('delete takes rw on the snapshot, and what was deleted is gone for everybody', async () => {
  const id = await panel.snapshot(web, 'to go');
  const { id: nativeId } = await panel.native(id);
  const reader = await panel.rig.person('reader', 'guest');
  await panel.rig.grant('reader', { snapshotId: nativeId }, 'ro');
  expect(await status('DELETE', `/images/snapshots/${id}/delete`, reader.token)).toBe(403);
  const writer = await panel.rig.person('writer', 'guest');
  await panel.rig.grant('writer', { snapshotId: nativeId }, 'rw');
  expect(await status('DELETE', `/images/snapshots/${id}/delete`, writer.token)).toBe(202);
  expect(await status('DELETE', `/images/snapshots/${id}/delete`, writer.token)).toBe(404);
});

test('whoever sees a snapshot sees that its slice was deleted', async () => {
  const gone = await panel.slice('gone', [MiB]);
  const id = await panel.snapshot(gone, 'of a slice that is gone');
  const { token } = await panel.rig.person('keeper', 'guest');
  await panel.rig.grant('keeper', { snapshotId: (await panel.native(id)).id }, 'ro');
  const seen = async (by?: string) => (await panel.get('/images?query=of+a+slice+that', by)).data;
  expect(await seen(token)).toMatchObject([{ id, vm_id: gone.id, vm_perms: null, vm_deleted: null }]);
  // A name of which the guest knows nothing.
  await panel.rig.native('PATCH', `/machines/${gone.machineId}`, { name: 'private' });
  await panel.rig.native('DELETE', `/machines/${gone.machineId}?snapshots=keep`);
  const [{ vm_deleted }] = await seen();
  expect(vm_deleted).not.toBeNull();
  expect(await seen(token)).toMatchObject([{ id, vm_id: gone.id, vmname: 'gone', vm_perms: null, vm_deleted }]);
  for (const path of [`/slices/${gone.id}`, `/images/snapshots/${gone.id}`]) {
    expect(await status('GET', path, token)).toBe(404);
  }
});

test('members and admins may do everything, without grants', async () => {
  for (const role of ['member', 'admin'] as const) {
    const { token } = await panel.rig.person(`a-${role}`, role);
    const id = await panel.snapshot(web, `by a ${role}`, token);
    expect(await status('POST', `/images/snapshots/${id}/restore/${web.id}`, token)).toBe(202);
    expect(await status('DELETE', `/images/snapshots/${id}/delete`, token)).toBe(202);
  }
});

test('what belongs to another account answers like what does not exist', async () => {
  await panel.rig.native('POST', '/projects', { name: 'other' });
  const { token } = await panel.rig.person('stranger', 'admin', 'other');
  const body = { snapshot_name: 'x' };
  const volume = web.volumeIds[0];
  const calls = (slice: number, snapshot: number, drive: number | undefined) =>
    [
      ['GET', `/slices/${slice}`],
      ['GET', `/images/snapshots/${slice}`],
      ['GET', `/backups/${slice}`],
      ['GET', `/backups/${slice}/backups/enable`],
      ['POST', `/backups/${slice}/restore/1`],
      ['POST', `/images/snapshots/${slice}/create`, body],
      ['POST', `/images/snapshots/${snapshot}/rename`, body],
      ['POST', `/images/snapshots/${snapshot}/restore/${slice}`],
      ['DELETE', `/images/snapshots/${snapshot}/delete`],
      ['GET', `/volumes/${drive}`],
      ['POST', `/volumes/${drive}/attach/${slice}`],
      ['POST', `/volumes/${drive}/detach`],
    ] as const;
  const unknown = calls(900_001, 900_002, 900_003);
  for (const [at, [method, path, sent]] of calls(web.id, point, volume).entries()) {
    const [, other] = unknown[at] ?? ['', ''];
    const options = { token, ...(sent === undefined ? {} : { body: sent }) };
    const foreign = await panel.call(method, path, options);
    const missing = await panel.call(method, other, options);
    expect(foreign.status, path).toBe(404);
    const plain = (text: string) => text.replace(/\d+/g, 'N');
    expect(plain(foreign.text), path).toBe(plain(missing.text));
    expect({ ...foreign.headers, 'x-request-id': '', 'content-length': '', date: '' }).toEqual({
      ...missing.headers,
      'x-request-id': '',
      'content-length': '',
      date: '',
    });
  }
  for (const path of ['/images', '/slices', '/volumes']) {
    expect(await panel.get(path, token)).toEqual({ data: [], page: 0, pages: 0, results: 0 });
  }
  expect((await panel.native(point)).name).toBe('point');
});

test('a user of no account has no right', async () => {
  const user = await panel.rig.native('POST', '/users', { name: 'nowhere' });
  const { secret } = await panel.rig.native('POST', '/tokens', { name: 'test', user: user.id });
  expect(await status('GET', '/slices', secret)).toBe(403);
});
