/** Debian's python3-libcloud, unmodified, against a server with TLS: what scripts for CloudSigma do. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeSelfSigned } from '../src/cli/self-signed.ts';
import { type LocalServer, startLocalServer } from './support/local-server.ts';

const run = promisify(execFile);
/** Debian's own: its packages are not those of another one that may come first. */
const python = '/usr/bin/python3';

let directory: string;
let server: LocalServer;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'calotype-libcloud-'));
  const { certificatePem, keyPem } = await makeSelfSigned(['127.0.0.1'], 1, Date.now());
  const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
  await writeFile(cert, certificatePem);
  await writeFile(key, keyPem, { mode: 0o600 });
  const flags = ['--tls-cert', cert, '--tls-key', key];
  server = await startLocalServer(join(directory, 'data'), join(directory, 'log'), undefined, flags);
});

afterAll(async () => {
  await server.destroy();
  await rm(directory, { recursive: true, force: true });
});

/** Drives polls every five seconds unless told otherwise. */
const preamble = `
import json, sys, time
import libcloud.security
from libcloud.common.types import InvalidCredsError
from libcloud.compute.types import Provider
from libcloud.compute.providers import get_driver
cert, host, port, password = sys.argv[1:]
libcloud.security.CA_CERTS_PATH = cert
Driver = get_driver(Provider.CLOUDSIGMA)
def connect(user, secret):
    driver = Driver(user, secret, host=host, port=int(port), api_version='2.0')
    driver.DRIVE_TRANSITION_SLEEP_INTERVAL = 0.05
    return driver
driver = connect('admin', password)
def settle(drive, state='unmounted'):
    return driver._wait_for_drive_state_transition(drive=drive, state=state, timeout=50)
def call(action, method='GET', data=None, params=None):
    return driver.connection.request(action, method=method, data=data, params=params).object
def until(condition):
    end = time.time() + 50
    while not condition():
        assert time.time() < end, 'timed out'
        time.sleep(0.05)
result = {}
`;

/** Runs a script, which leaves what is to be looked at in `result`. */
// biome-ignore lint/suspicious/noExplicitAny: tests say what they expect in it
async function libcloud(script: string): Promise<any> {
  const { hostname, port, protocol } = new URL(server.endpoints.cloudsigma ?? '');
  expect(protocol).toBe('https:');
  const file = join(directory, 'script.py');
  await writeFile(file, `${preamble}${script}\nprint(json.dumps(result))\n`);
  const { stdout } = await run(python, [file, join(directory, 'cert.pem'), hostname, port, server.password]);
  return JSON.parse(stdout);
}

test('lists nothing on a new server, and says so when the password is wrong', async () => {
  const result = await libcloud(`
result['nodes'] = len(driver.list_nodes())
result['drives'] = len(driver.ex_list_user_drives())
result['images'] = len(driver.list_images())
result['tags'] = len(driver.ex_list_tags())
result['groups'] = driver.ex_list_drives_availability_groups()
result['capabilities'] = driver.ex_list_capabilities()['snapshots']['current']
try:
    connect('admin', 'wrong').list_volumes()
except InvalidCredsError as error:
    result['refused'] = str(error)
`);
  const expected = { nodes: 0, drives: 0, images: 0, tags: 0, groups: [], capabilities: 0 };
  expect(result).toMatchObject({ ...expected, refused: expect.stringContaining('Invalid credentials') });
});

test('makes, clones, resizes, snapshots and deletes drives', async () => {
  const result = await libcloud(`
drive = settle(driver.ex_create_drive(name='disk', size=1))
result['made'] = [drive.name, drive.size, drive.media, drive.status]
snapshot = call('/snapshots/', 'POST', {'drive': drive.id, 'name': 'first', 'meta': {'why': 'libcloud'}})['objects'][0]
until(lambda: call('/snapshots/%s/' % snapshot['uuid'])['status'] == 'available')
result['snapshots'] = [one['name'] for one in call('/snapshots/detail/', params={'drive': drive.id})['objects']]
restored = call('/snapshots/%s/action/' % snapshot['uuid'], 'POST', {}, {'do': 'clone'})
restored = settle(driver.ex_get_drive(restored['uuid']))
result['restored'] = [restored.name, restored.size]
clone = settle(driver.ex_clone_drive(drive, name='copy'))
result['clone'] = [clone.name, clone.status]
grown = settle(driver.ex_resize_drive(clone, 2))
result['grown'] = grown.size
tag = driver.ex_create_tag('libcloud')
# The driver's own ex_tag_resource forgets what it is given.
call('/tags/%s/' % tag.id, 'PUT', {'name': tag.name, 'resources': [clone.id]})
result['tagged'] = driver.ex_get_tag(tag.id).resources == [clone.id]
result['untagged'] = driver.ex_delete_tag(tag)
result['all'] = sorted(one.name for one in driver.list_volumes())
for one in (drive, clone):
    assert driver.ex_destroy_drive(one)
until(lambda: [one.name for one in driver.list_volumes()] == ['first'])
try:
    driver.ex_get_drive(drive.id)
except Exception as error:
    result['gone'] = [error.http_code, error.error_type, drive.id in error.error_msg]
result['left'] = call('/snapshots/', params={'drive': drive.id})['objects']
assert driver.ex_destroy_drive(restored)
`);
  expect(result).toEqual({
    made: ['disk', 1, 'disk', 'unmounted'],
    snapshots: ['first'],
    restored: ['first', 1],
    clone: ['copy', 'unmounted'],
    grown: 2,
    tagged: true,
    untagged: true,
    all: ['copy', 'disk', 'first'],
    gone: [404, 'notexist', true],
    left: [],
  });
});

test('runs a server with a drive, and refuses in words that the driver understands', async () => {
  const result = await libcloud(`
drive = settle(driver.ex_create_drive(name='boot', size=1))
body = {'name': 'srv', 'cpu': 2000, 'mem': 64 * 1024 * 1024, 'vnc_password': 'x', 'nics': [],
        'drives': [{'boot_order': 1, 'dev_channel': '0:0', 'device': 'virtio', 'drive': drive.id}]}
uuid = call('/servers/', 'POST', body)['objects'][0]['uuid']
node = driver.list_nodes()[0]
result['node'] = [node.name, node.state, node.extra['cpus'], node.extra['memory'], node.id == uuid]
extra = settle(driver.ex_create_drive(name='extra', size=1))
result['attached'] = [driver.attach_volume(node, extra), len(driver.ex_get_node(node.id).extra['drives'])]
result['detached'] = [driver.detach_volume(node, extra), len(driver.ex_get_node(node.id).extra['drives'])]
result['started'] = driver.ex_start_node(node)
until(lambda: driver.ex_get_node(node.id).state == 'running')
result['mounted'] = driver.ex_get_drive(drive.id).status
try:
    driver.ex_start_node(node)
except Exception as error:
    result['again'] = [error.http_code, error.error_type, error.error_msg]
result['stopped'] = driver.ex_stop_node(node)
until(lambda: driver.ex_get_node(node.id).state == 'stopped')
result['destroyed'] = driver.destroy_node(node, ex_delete_drives=True)
until(lambda: [one.name for one in driver.list_volumes()] == ['extra'])
result['nodes'] = len(driver.list_nodes())
`);
  expect(result).toEqual({
    node: ['srv', 'stopped', 1, 64, true],
    attached: [true, 2],
    detached: [true, 1],
    started: true,
    mounted: 'mounted',
    again: [403, 'permission', 'Cannot start guest in state "started". Guest should be in state "stopped"'],
    stopped: true,
    destroyed: true,
    nodes: 0,
  });
});
