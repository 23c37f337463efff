/**
 * A full disk, end to end: a tmpfs of its own, a real server on it, a writer over NBD, and a file that takes the rest of the space.
 * Needs root for the mount. What is refused leaves everything as it was, what frees space works, and no byte changes.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, type TestContext, test, vi } from 'vitest';

const MiB = 1024 ** 2;
const reserveBytes = 32 * MiB;
const minFreeBytes = 16 * MiB;
const command = join(import.meta.dirname, '../bin/calotype');

let disk: string;
let data: string;
let server: ChildProcess | undefined;
let access: { token: string; endpoints: { native: string } };

beforeEach(() => {
  disk = mkdtempSync(join(tmpdir(), 'calotype-full-'));
  data = join(disk, 'd');
});
afterEach(async () => {
  if (server !== undefined && server.exitCode === null && server.signalCode === null) {
    server.kill('SIGKILL');
    await once(server, 'exit');
  }
  server = undefined;
  killDaemon('SIGKILL');
  if (isMounted()) {
    // Busy until the daemon is quite gone.
    await vi.waitFor(() => execFileSync('umount', [disk], { stdio: 'pipe' }), { timeout: 20_000, interval: 50 });
  }
  rmSync(disk, { recursive: true, force: true });
});

function isMounted(): boolean {
  return readFileSync('/proc/mounts', 'utf8').includes(` ${disk} `);
}

function mountDisk(context: TestContext, bytes: number): void {
  if (process.getuid?.() !== 0) context.skip('only root can mount a small disk to fill');
  const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes},mode=700`, 'tmpfs', disk], {
    encoding: 'utf8',
  });
  if (status !== 0) context.skip(`a small disk cannot be mounted here: ${stderr.trim()}`);
}

async function startServer(...flags: readonly string[]): Promise<void> {
  mkdirSync(data);
  const args = ['serve', '--data', data, '--port-base', '0', '--log-level', 'error', '--high-water-percent', '100'];
  const child = spawn(process.execPath, [command, ...args, ...flags], { stdio: ['ignore', 'pipe', 'inherit'] });
  server = child;
  let said = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) {
    said += chunk;
    if (said.includes('credentials ')) break;
  }
  access = JSON.parse(readFileSync(join(data, 'access.json'), 'utf8'));
}

function killDaemon(signal: NodeJS.Signals): number {
  try {
    const pid = Number(readFileSync(join(data, 'run/storage-daemon.pid'), 'utf8'));
    process.kill(pid, signal);
    return pid;
  } catch {
    return 0; // None was started, or it has ended.
  }
}

interface Answer {
  readonly status: number;
  readonly body: {
    readonly drive: { readonly id: string };
    readonly snapshot: { readonly id: string; readonly parts: readonly { readonly id: string }[] };
    readonly uri: string;
    readonly low: boolean;
    readonly items: readonly Readonly<Record<string, unknown>>[];
    readonly findings: readonly { readonly severity: string }[];
  };
}

async function call(method: string, path: string, body?: unknown): Promise<Answer> {
  const response = await fetch(`${access.endpoints.native}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${access.token}`,
      prefer: 'wait=30',
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: JSON.parse(await response.text()) };
}

/** Runs qemu-io commands on an export; the last is a flush where it may be written. */
function qemuIo(uri: string, ...commands: readonly string[]): { status: number | null; output: string } {
  const words = commands.flatMap((one) => ['-c', one]);
  const isWriting = commands.some((one) => one.startsWith('write'));
  const args = ['-f', 'raw', ...(isWriting ? [] : ['-r']), ...words, ...(isWriting ? ['-c', 'flush'] : []), uri];
  const { status, stdout, stderr } = spawnSync('qemu-io', args, { encoding: 'utf8' });
  return { status, output: `${stdout}${stderr}` };
}

const freeBytes = (): number => {
  const found = statfsSync(disk);
  return found.bavail * found.bsize;
};

/** Takes space with a file of somebody else's, until so many bytes are free. */
function fillUpTo(leaveBytes: number): void {
  const file = openSync(join(disk, 'filler'), 'a');
  const block = Buffer.alloc(MiB, 1);
  try {
    for (let left = freeBytes() - leaveBytes; left > 0; left = freeBytes() - leaveBytes) {
      writeSync(file, block, 0, Math.min(left, MiB));
    }
  } finally {
    closeSync(file);
  }
}

const images = (): string[] => readdirSync(join(data, 'images')).sort();
const reserve = () => statSync(join(data, 'images/reserve'));
const listOf = async (noun: string) => (await call('GET', `/${noun}`)).body.items;

interface Setting {
  readonly uri: string;
  readonly driveId: string;
  readonly first: string;
  readonly secondPart: string;
}

/** A drive under a writer, with two snapshots: 32 MiB of ones, overwritten with twos, and 32 MiB of threes since. */
async function makeHistory(): Promise<Setting> {
  const made = await call('POST', '/drives', { name: 'a', sizeBytes: 1024 * MiB });
  expect(made.status).toBe(201);
  const driveId = made.body.drive.id;
  const { uri } = (await call('POST', '/exports', { driveId, writable: true })).body;
  const snapshots: Answer['body']['snapshot'][] = [];
  for (const pattern of [1, 2]) {
    expect(qemuIo(uri, `write -P ${pattern} 0 32M`)).toMatchObject({ status: 0 });
    const taken = await call('POST', '/snapshots', { driveIds: [driveId], name: `s${pattern}` });
    expect(taken.status).toBe(201);
    snapshots.push(taken.body.snapshot);
  }
  expect(qemuIo(uri, 'write -P 3 100M 32M')).toMatchObject({ status: 0 });
  const [first, second] = snapshots;
  return { uri, driveId, first: first?.id ?? '', secondPart: second?.parts[0]?.id ?? '' };
}

test('below the mark creates are refused; at 0 bytes free a delete works and gives space back', {
  timeout: 180_000,
}, async (context) => {
  mountDisk(context, 200 * MiB);
  await startServer('--min-free-bytes', String(minFreeBytes), '--reserve-bytes', String(reserveBytes));
  const { uri, driveId, first, secondPart } = await makeHistory();
  const before = {
    images: images(),
    drives: await listOf('drives'),
    snapshots: await listOf('snapshots'),
    tasks: await listOf('tasks'),
  };
  const firstReserve = reserve();
  expect(firstReserve.blocks * 512).toBe(reserveBytes);

  // Below the mark.
  fillUpTo(minFreeBytes / 2);
  // The server looks at most once a second.
  await expect.poll(async () => (await call('GET', '/space')).body.low).toBe(true);
  const lowSnapshot = await call('POST', '/snapshots', { driveIds: [driveId], name: 's3' });
  expect(lowSnapshot).toMatchObject({ status: 507, body: { code: 'space_low', changed: 'no', retryable: true } });
  expect(images()).toEqual(before.images);
  expect(await listOf('drives')).toEqual(before.drives);
  expect(await listOf('snapshots')).toEqual(before.snapshots);
  expect(await listOf('tasks')).toEqual(before.tasks);

  // Not a byte left: the writer is told, creates are refused.
  fillUpTo(0);
  expect(freeBytes()).toBe(0);
  const refused = qemuIo(uri, 'write -P 9 300M 8M');
  expect(refused.status).not.toBe(0);
  expect(refused.output).toContain('No space left on device');
  const drive = await call('POST', '/drives', { name: 'b', sizeBytes: MiB });
  expect(drive).toMatchObject({ status: 507, body: { code: expect.stringMatching(/^space_(low|exhausted)$/) } });
  const snapshot = await call('POST', '/snapshots', { driveIds: [driveId] });
  expect(snapshot).toMatchObject({ status: 507, body: { code: expect.stringMatching(/^space_(low|exhausted)$/) } });
  expect(reserve().ino).toBe(firstReserve.ino);

  // A delete uses the reserve, frees space, and the reserve is taken again.
  expect((await call('DELETE', `/snapshots/${first}`)).status).toBe(200);
  await expect
    .poll(() => images().includes('reserve') && reserve().blocks * 512, { timeout: 30_000 })
    .toBe(reserveBytes);
  expect(reserve().ino).not.toBe(firstReserve.ino);
  expect(freeBytes()).toBeGreaterThan(minFreeBytes);
  expect(await listOf('snapshots')).toMatchObject([{ name: 's2' }]);

  // Byte-exact, and all is as it should be.
  expect(qemuIo(uri, 'read -P 2 0 32M', 'read -P 0 32M 68M', 'read -P 3 100M 32M')).toMatchObject({ status: 0 });
  const reading = await call('POST', '/exports', { driveSnapshotId: secondPart });
  expect(reading.status).toBe(201);
  expect(qemuIo(reading.body.uri, 'read -P 2 0 32M', 'read -P 0 32M 992M')).toMatchObject({ status: 0 });
  expect((await call('POST', '/snapshots', { driveIds: [driveId], name: 's3' })).status).toBe(201);
  const findings = (await call('POST', '/doctor', {})).body.findings;
  expect(findings.filter((one) => one.severity !== 'info')).toEqual([]);
  const isEnded = (state: unknown): boolean => state === 'done' || state === 'failed' || state === 'cancelled';
  await expect.poll(async () => (await listOf('tasks')).filter((one) => !isEnded(one.state))).toEqual([]);

  await stopEverything();
  for (const name of images().filter((one) => one.endsWith('.qcow2'))) {
    const { stdout } = spawnSync('qemu-img', ['check', '--output=json', join(data, 'images', name)], {
      encoding: 'utf8',
    });
    const { 'check-errors': checkErrors, corruptions = 0 } = JSON.parse(stdout);
    expect({ name, checkErrors, corruptions }).toEqual({ name, checkErrors: 0, corruptions: 0 });
  }
});

test('without a mark, a create on a full disk is told that the disk is full', async (context) => {
  mountDisk(context, 32 * MiB);
  await startServer('--min-free-bytes', '0', '--reserve-bytes', '0');
  const before = images();
  fillUpTo(0);
  const drive = await call('POST', '/drives', { name: 'b', sizeBytes: 1024 * MiB });
  expect(drive).toMatchObject({
    status: 507,
    body: { code: 'space_exhausted', changed: 'rolledBack', retryable: true },
  });
  expect(images()).toEqual(before);
  expect(await listOf('drives')).toEqual([]);
  rmSync(join(disk, 'filler'));
  expect((await call('POST', '/drives', { name: 'b', sizeBytes: 1024 * MiB })).status).toBe(201);
});

/** In good order, so that what stays behind is what the programs meant to leave. */
async function stopEverything(): Promise<void> {
  if (server !== undefined) {
    server.kill('SIGTERM');
    await once(server, 'exit');
  }
  const pid = killDaemon('SIGTERM');
  await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow(), { timeout: 20_000, interval: 50 });
}
