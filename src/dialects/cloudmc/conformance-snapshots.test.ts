/** CloudMC's snapshots: each row of the facts as a test, over HTTP against a real engine. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CloudmcClient, holdDrive } from '../../../test/support/cloudmc-client.ts';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';

const missing = '00000000-0000-4000-8000-000000000000';
let rig: DialectRig;
let client: CloudmcClient;
let count = 0;

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new CloudmcClient(rig);
});
afterAll(async () => rig[Symbol.asyncDispose]());

const freshName = (what: string): string => `${what}-${++count}`;

describe('snapshots', () => {
  test('POST snapshots, with and without operation=create, and createSnapshotFromVolume', async () => {
    const drive = await rig.drive(freshName('spelled'));
    const names = [freshName('a'), freshName('b'), freshName('c')];
    await client.done('POST', 'snapshots?operation=create', { volumeId: drive.id, name: names[0], rapid: true });
    await client.done('POST', 'snapshots', { volumeId: drive.id, name: names[1] });
    const nested = { snapshot: { name: names[2], rapid: true } };
    await client.done('POST', `volumes/${drive.id}?operation=createSnapshotFromVolume`, nested);
    const listed = await client.get(`snapshots?volume_id=${drive.id}`);
    expect(listed.map(({ name }: { name: string }) => name)).toEqual(names);
  });

  test('an object has exactly seven texts', async () => {
    const drive = await rig.drive(freshName('seven'));
    const name = freshName('seven-snapshot');
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id, name });
    expect(made).toEqual({
      id: expect.any(String),
      name,
      state: 'BackedUp',
      intervalType: 'MANUAL',
      volumeId: drive.id,
      volume: drive.name,
      volumeType: 'DATADISK',
    });
    expect(await client.get(`snapshots/${made.id}`)).toEqual(made);
    expect(await client.get(`snapshots?volume_id=${drive.id}`)).toEqual([made]);
  });

  test('it is a real point in time', async () => {
    const drive = await rig.drive(freshName('bytes'));
    await rig.write(drive.id, 0, Buffer.from('before'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    await rig.write(drive.id, 0, Buffer.from('after!'));
    const copy = await client.done('POST', `snapshots/${made.id}?operation=createVolume`, { name: freshName('copy') });
    expect((await rig.read(copy.id)).subarray(0, 6).toString()).toBe('before');
    expect((await rig.read(drive.id)).subarray(0, 6).toString()).toBe('after!');
  });

  test('volumeType is ROOT for the first volume of an instance, also in a snapshot of the whole', async () => {
    const [root, data] = [await rig.drive(freshName('root')), await rig.drive(freshName('data'))];
    const machine = await rig.machine(freshName('typed'), [root.id, data.id]);
    const ofVolume = await client.done('POST', 'snapshots', { volumeId: root.id });
    expect(ofVolume.volumeType).toBe('ROOT');
    expect((await client.done('POST', 'snapshots', { volumeId: data.id })).volumeType).toBe('DATADISK');
    await rig.snapshot({ machineId: machine.id }, freshName('whole'));
    const types = async (id: string) =>
      (await client.get(`snapshots?volume_id=${id}`)).map((s: { volumeType: string }) => s.volumeType);
    expect(await types(root.id)).toEqual(['ROOT', 'ROOT']);
    expect(await types(data.id)).toEqual(['DATADISK', 'DATADISK']);
  });

  test('a snapshot of a root volume stays ROOT when instance and volume are gone', async () => {
    const [root, data] = [await rig.drive(freshName('root')), await rig.drive(freshName('data'))];
    const machine = await rig.machine(freshName('gone'), [root.id, data.id]);
    const ofRoot = await client.done('POST', 'snapshots', { volumeId: root.id });
    const ofData = await client.done('POST', 'snapshots', { volumeId: data.id });
    await client.done('DELETE', `instances/${machine.id}`, { purgeImmediately: true, deleteSnapshots: false });
    expect(await client.get(`snapshots/${ofRoot.id}`)).toEqual({ ...ofRoot, volumeType: 'ROOT' });
    expect(await client.get(`snapshots?volume_id=${root.id}`)).toEqual([ofRoot]);
    expect(await client.get(`snapshots/${ofData.id}`)).toEqual({ ...ofData, volumeType: 'DATADISK' });
  });

  test('the default name is instance, volume and time; without an instance volume and time', async () => {
    const drive = await rig.drive(freshName('vol'));
    const alone = await client.done('POST', 'snapshots', { volumeId: drive.id });
    expect(alone.name).toMatch(new RegExp(`^${drive.name}_\\d{14}$`));
    const machine = await rig.machine(freshName('vm'), [drive.id]);
    const attached = await client.done('POST', 'snapshots', { volumeId: drive.id, name: null });
    expect(attached.name).toMatch(new RegExp(`^${machine.name}_${drive.name}_\\d{14}$`));
    const again = await client.done('POST', 'snapshots', { volumeId: drive.id });
    expect(again.name).not.toBe(attached.name);
    expect(again.name).toMatch(new RegExp(`^${machine.name}_${drive.name}_\\d{14}$`));
  });

  test('a name is unique within the environment', async () => {
    const [one, two] = [await rig.drive(freshName('one')), await rig.drive(freshName('two'))];
    const name = freshName('taken');
    await client.done('POST', 'snapshots', { volumeId: one.id, name });
    const refused = await client.refused('POST', 'snapshots', { volumeId: two.id, name });
    expect(refused).toMatchObject({ status: 400, error: { code: 1401 } });
    expect(await client.get(`snapshots?volume_id=${two.id}`)).toEqual([]);
    await rig.native('POST', '/projects', { name: 'namesake' });
    const elsewhere = new CloudmcClient(rig, rig.admin.token, 'namesake');
    const { drive } = await native('namesake', 'POST', '/drives', { name: 'd', sizeBytes: MiB });
    await elsewhere.done('POST', 'snapshots', { volumeId: drive.id, name });
  });

  test('two of one name at once: one is made', async () => {
    const [one, two] = [await rig.drive(freshName('one')), await rig.drive(freshName('two'))];
    const name = freshName('race');
    const answers = await Promise.all([one, two].map((d) => client.on('POST', 'snapshots', { volumeId: d.id, name })));
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 400]);
  });

  test('rapid false is refused, as there is no secondary storage; rapid is true or false', async () => {
    const drive = await rig.drive(freshName('slow'));
    for (const body of [{ rapid: false }, { rapid: 'yes' }, { rapid: 1 }]) {
      const flat = await client.refused('POST', 'snapshots', { volumeId: drive.id, ...body });
      expect(flat).toMatchObject({ status: 400, error: { context: { field: 'rapid' } } });
      const path = `volumes/${drive.id}?operation=createSnapshotFromVolume`;
      expect((await client.refused('POST', path, { snapshot: body })).status).toBe(400);
    }
    expect(await client.get(`snapshots?volume_id=${drive.id}`)).toEqual([]);
  });

  test('a missing volumeId is 400, an unknown one 404, a wrong type or name 400', async () => {
    expect((await client.refused('POST', 'snapshots', {})).status).toBe(400);
    expect((await client.refused('POST', 'snapshots')).status).toBe(400);
    expect((await client.refused('POST', 'snapshots', { volumeId: missing })).status).toBe(404);
    expect((await client.refused('POST', 'snapshots', { volumeId: 'x' })).status).toBe(404);
    const drive = await rig.drive(freshName('named'));
    for (const body of [{ volumeId: 7 }, { volumeId: [drive.id] }, { volumeId: drive.id, name: 7 }]) {
      expect((await client.refused('POST', 'snapshots', body)).status).toBe(400);
    }
    for (const name of ['', 'x'.repeat(256), 'a\nb', '\ud800', 'a\0']) {
      expect((await client.refused('POST', 'snapshots', { volumeId: drive.id, name })).status).toBe(400);
    }
    expect(await client.get(`snapshots?volume_id=${drive.id}`)).toEqual([]);
  });

  test('unknown fields are ignored', async () => {
    const drive = await rig.drive(freshName('fields'));
    const body = { volumeId: drive.id, id: 'x', recoveryPoint: {}, constructor: 1, toString: 2 };
    expect((await client.change('POST', 'snapshots', body)).status).toBe('SUCCESS');
  });

  test('the states: Creating while the volume is Snapshotting, then BackedUp and Ready', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    const { taskId } = (await client.on('POST', 'snapshots', { volumeId: held.driveId })).json;
    const [, made] = await client.get(`snapshots?volume_id=${held.driveId}`);
    expect(made.state).toBe('Creating');
    expect((await client.get(`snapshots/${made.id}`)).state).toBe('Creating');
    expect((await client.get(`volumes/${held.driveId}`)).state).toBe('Snapshotting');
    const inList = (await client.get('volumes')).find((volume: { id: string }) => volume.id === held.driveId);
    expect(inList.state).toBe('Snapshotting');
    await held.release();
    expect((await client.ended(taskId)).status).toBe('SUCCESS');
    expect((await client.get(`snapshots/${made.id}`)).state).toBe('BackedUp');
    expect((await client.get(`volumes/${held.driveId}`)).state).toBe('Ready');
  });

  test('a volume that is not Ready is refused with code 2012, in number and text, and its context', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    await client.on('POST', 'snapshots', { volumeId: held.driveId });
    const refused = await client.refused('POST', 'snapshots', { volumeId: held.driveId, name: freshName('second') });
    expect(refused).toEqual({
      status: 400,
      error: {
        code: 2012,
        errorCode: '2012',
        message: 'The volume must be ready',
        context: { id: held.driveId, type: 'volumes', currentState: 'Snapshotting', expectedStates: ['Ready'] },
      },
    });
    expect(await client.get(`snapshots?volume_id=${held.driveId}`)).toHaveLength(2);
  });

  test('a snapshot that is being deleted is Destroying, then 404', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    const made = await client.on('POST', 'snapshots', { volumeId: held.driveId });
    const [, { id }] = await client.get(`snapshots?volume_id=${held.driveId}`);
    const gone = await client.on('DELETE', `snapshots/${id}`);
    expect((await client.get(`snapshots/${id}`)).state).toBe('Destroying');
    await held.release();
    await client.ended(made.json.taskId);
    expect((await client.ended(gone.json.taskId)).status).toBe('SUCCESS');
    expect((await client.on('GET', `snapshots/${id}`)).status).toBe(404);
    expect((await client.on('DELETE', `snapshots/${id}`)).status).toBe(404);
  });

  test('the filter volume_id of an unknown volume, or of none, is an empty list', async () => {
    for (const id of [missing, 'x', '%00', '*']) {
      const answer = await client.on('GET', `snapshots?volume_id=${id}`);
      expect(answer.json).toEqual({ data: [], metadata: { recordCount: 0 } });
    }
  });

  test('of a snapshot of an instance each volume has its part, and deleting one leaves the others', async () => {
    const drives = [await rig.drive(freshName('p')), await rig.drive(freshName('p'))];
    const machine = await rig.machine(
      freshName('parts'),
      drives.map((d) => d.id),
    );
    const whole = await rig.snapshot({ machineId: machine.id }, freshName('whole'));
    const [first, second] = whole.parts;
    expect((await client.get(`snapshots/${first?.id}`)).name).toBe(whole.name);
    await client.done('DELETE', `snapshots/${first?.id}`);
    expect((await client.on('GET', `snapshots/${first?.id}`)).status).toBe(404);
    expect((await client.get(`snapshots/${second?.id}`)).state).toBe('BackedUp');
    expect(await rig.native('GET', `/snapshots/${whole.id}`)).toMatchObject({ complete: false });
  });

  test('snapshots outlive their volume', async () => {
    const drive = await rig.drive(freshName('short'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    await client.done('DELETE', `volumes/${drive.id}`);
    expect(await client.get(`snapshots/${made.id}`)).toEqual(made);
    expect(await client.get(`snapshots?volume_id=${drive.id}`)).toEqual([made]);
    expect((await client.refused('POST', `snapshots/${made.id}?operation=revert`)).status).toBe(404);
  });
});

describe('what can be made of a snapshot', () => {
  test('revert puts the volume back, detached or in a stopped instance', async () => {
    const drive = await rig.drive(freshName('back'));
    await rig.write(drive.id, 0, Buffer.from('before'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    await rig.write(drive.id, 0, Buffer.from('after!'));
    const result = await client.done('POST', `snapshots/${made.id}?operation=revert`);
    expect(result).toMatchObject({ id: drive.id, state: 'Ready', type: 'data' });
    expect((await rig.read(drive.id)).subarray(0, 6).toString()).toBe('before');
    await rig.machine(freshName('stopped'), [drive.id]);
    expect(await client.done('POST', `snapshots/${made.id}?operation=revert`, {})).toMatchObject({ type: 'os' });
  });

  test('the volume shows RevertSnapshotting meanwhile', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    const { taskId } = (await client.on('POST', `snapshots/${held.snapshotId}?operation=revert`)).json;
    expect((await client.get(`volumes/${held.driveId}`)).state).toBe('RevertSnapshotting');
    await held.release();
    expect((await client.ended(taskId)).result).toMatchObject({ id: held.driveId, state: 'Ready' });
  });

  test('createVolume with a size, and in an instance', async () => {
    const drive = await rig.drive(freshName('origin'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    const [offering] = await client.get('diskofferings');
    const [root] = [await rig.drive(freshName('root'))];
    const machine = await rig.machine(freshName('target'), [root.id]);
    const volume = await client.done('POST', `snapshots/${made.id}?operation=createVolume`, {
      name: 'restored',
      sizeInGb: 2,
      diskOfferingId: offering.id,
      instanceId: machine.id,
    });
    expect(volume).toMatchObject({ name: 'restored', sizeInGb: 2, instanceId: machine.id, instanceName: machine.name });
    const plain = await client.done('POST', `snapshots/${made.id}?operation=createVolume`, { name: 'plain' });
    expect(plain).toMatchObject({ name: 'plain', sizeInGb: 1, type: 'data' });
    expect(plain).not.toHaveProperty('instanceId');
    const path = `snapshots/${made.id}?operation=createVolume`;
    expect((await client.refused('POST', path, { name: 'n', instanceId: missing })).status).toBe(404);
    expect((await client.refused('POST', path, { name: 'n', diskOfferingId: missing })).status).toBe(404);
    expect((await client.refused('POST', path, { name: 'n', iops: 100 })).status).toBe(400);
    expect((await client.refused('POST', path, { name: 'n', sizeInGb: '2' })).status).toBe(400);
  });

  test('createTemplate, with what it says of the system', async () => {
    const drive = await rig.drive(freshName('gold'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    const template = await client.done('POST', `snapshots/${made.id}?operation=createTemplate`, {
      name: 'gold',
      description: 'for all',
      osTypeId: 'os-7',
      sshKeyEnabled: true,
      extractable: false,
    });
    expect(template).toMatchObject({ name: 'gold', description: 'for all', osTypeId: 'os-7', sshKeyEnabled: true });
    expect(template).toMatchObject({ size: 16 * MiB, ready: true, extractable: false, hypervisor: 'KVM' });
    expect(await client.get(`templates/${template.id}`)).toEqual(template);
    const path = `snapshots/${made.id}?operation=createTemplate`;
    expect((await client.refused('POST', path, { name: 'g', availablePublicly: true })).status).toBe(400);
  });

  test('nothing can be made of a snapshot that is not BackedUp: code 2012 with its id and state', async () => {
    await using held = await holdDrive(rig, freshName('held'));
    await client.on('POST', 'snapshots', { volumeId: held.driveId });
    const [, { id }] = await client.get(`snapshots?volume_id=${held.driveId}`);
    const expectRefusals = async (currentState: string) => {
      for (const operation of ['revert', 'createVolume', 'createTemplate']) {
        expect(await client.refused('POST', `snapshots/${id}?operation=${operation}`, { name: 'n' })).toEqual({
          status: 400,
          error: {
            code: 2012,
            errorCode: '2012',
            message: 'The snapshot must be backed up',
            context: { id, type: 'snapshots', currentState, expectedStates: ['BackedUp'] },
          },
        });
      }
    };
    await expectRefusals('Creating');
    await client.on('DELETE', `snapshots/${id}`);
    await expectRefusals('Destroying');
  });

  test('an unknown operation, or none, is 400', async () => {
    const drive = await rig.drive(freshName('odd'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    for (const operation of [
      '?operation=nothing',
      '?operation=',
      '',
      '?operation=constructor',
      '?operation=toString',
    ]) {
      const refused = await client.refused('POST', `snapshots/${made.id}${operation}`, {});
      expect(refused).toMatchObject({ status: 400, error: { context: { field: 'operation' } } });
    }
    expect((await client.refused('POST', 'snapshots?operation=nothing', { volumeId: drive.id })).status).toBe(400);
  });
});

describe('rights', () => {
  test('a reader of a volume sees its snapshots and changes nothing', async () => {
    const [shared, secret] = [await rig.drive(freshName('shared')), await rig.drive(freshName('secret'))];
    const made = await client.done('POST', 'snapshots', { volumeId: shared.id });
    const hidden = await client.done('POST', 'snapshots', { volumeId: secret.id });
    const person = await rig.person('reader', 'guest');
    await rig.grant('reader', { driveId: shared.id }, 'ro');
    const reader = new CloudmcClient(rig, person.token);
    expect(await reader.get('snapshots')).toEqual([made]);
    expect(await reader.get('volumes')).toHaveLength(1);
    expect((await reader.refused('POST', 'snapshots', { volumeId: shared.id })).status).toBe(403);
    expect((await reader.refused('DELETE', `snapshots/${made.id}`)).status).toBe(403);
    expect((await reader.refused('GET', `snapshots/${hidden.id}`)).status).toBe(404);
    expect((await reader.refused('POST', 'snapshots', { volumeId: secret.id })).status).toBe(404);
    expect((await client.get(`snapshots/${made.id}`)).state).toBe('BackedUp');
  });

  test('another environment and its objects look missing', async () => {
    const drive = await rig.drive(freshName('ours'));
    const made = await client.done('POST', 'snapshots', { volumeId: drive.id });
    await rig.native('POST', '/projects', { name: 'apart' });
    const person = await rig.person('outsider', 'admin', 'apart');
    const outsider = new CloudmcClient(rig, person.token, 'apart');
    expect((await outsider.refused('GET', `snapshots/${made.id}`)).status).toBe(404);
    expect((await outsider.refused('DELETE', `snapshots/${made.id}`)).status).toBe(404);
    const wrong = await outsider.send('GET', 'services/compute/default/volumes');
    const unknown = await outsider.send('GET', 'services/compute/defaulx/volumes');
    expect([wrong.status, unknown.status]).toEqual([404, 404]);
    expect(wrong.text.replace('default', 'defaulx')).toBe(unknown.text);
  });
});

// biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
async function native(project: string, method: string, path: string, body: object): Promise<any> {
  const answer = await rig.send('native', {
    method,
    path: `/v1${path}`,
    headers: { authorization: `Bearer ${rig.admin.token}`, prefer: 'wait=60', 'calotype-project': project },
    body,
  });
  return answer.json;
}
