import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FreezeGuard, freezeStatus, pingAgent, shutdown, thaw } from '../qemu/guest-agent.ts';
import { buildGuest } from './build.ts';
import { GuestMachine, type GuestMachineSpec, guestFilesOrNull } from './testing/guest-machine.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;
const agentTimeoutMs = 20_000;

const shared = await mkdtemp(join(tmpdir(), 'calotype-guest-test-'));
const files = await guestFilesOrNull(join(shared, 'files'));
afterAll(() => rm(shared, { recursive: true }));

let dir = '';
let cleanup = new AsyncDisposableStack();
beforeEach(async () => {
  dir = await mkdtemp(join(shared, 'test-'));
  cleanup = new AsyncDisposableStack();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await cleanup.disposeAsync();
});

async function makeDrive(name: string, kind: 'empty' | 'ext4' = 'empty'): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, '');
  await truncate(path, 32 * MiB);
  if (kind === 'ext4') await run('mkfs.ext4', ['-q', '-F', path]);
  return path;
}

async function boot(spec: GuestMachineSpec): Promise<GuestMachine> {
  if (files === null) throw new Error('there are no files of a guest');
  const machine = cleanup.use(await GuestMachine.boot(dir, files, spec));
  await machine.line(/^CALOTYPE READY$/);
  return machine;
}

/** The number that the guest wrote to a drive. */
async function numberOn(path: string, offset: number): Promise<number> {
  await using file = await open(path);
  const { buffer } = await file.read(Buffer.alloc(512), 0, 512, offset);
  const text = buffer.toString('latin1');
  expect(text).toMatch(/^\d+ +\n$/);
  return Number.parseInt(text, 10);
}

const numberIn = (found: RegExpExecArray): number => Number(found[1]);

describe.skipIf(files === null)('the test guest', () => {
  test('counts in memory and on disk, tells of drives, freezes, and obeys the power button', async () => {
    const drives = [await makeDrive('a.raw'), await makeDrive('b.raw', 'ext4')] as const;
    const machine = await boot({ modes: ['count', 'disk', 'ext4', 'agent'], drives });
    expect(machine.lines.filter((line) => line.startsWith('drive '))).toEqual(['drive vda', 'drive vdb']);

    const first = numberIn(await machine.line(/^count (\d+)$/));
    expect(numberIn(await machine.nextLine(/^count (\d+)$/))).toBeGreaterThan(first);

    // The memory's number is known at an instant before the disk is read: the disk may be ahead by then, never behind by two.
    for (let round = 0; round < 5; round++) {
      const memory = numberIn(await machine.ask('report', /^disk-report RAM=(\d+)$/));
      expect(await numberOn(drives[0], 0)).toBeGreaterThanOrEqual(memory - 1);
    }
    const later = numberIn(await machine.nextLine(/^disk (\d+)$/));
    expect(later).toBeGreaterThan(0);
    expect(await numberOn(drives[0], 0)).toBeGreaterThanOrEqual(later);

    await machine.plug('hot', await makeDrive('c.raw'));
    await machine.line(/^drive vdc$/);
    await machine.unplug('hot');
    await machine.line(/^gone vdc$/);

    await pingAgent(machine.agentSocketPath, agentTimeoutMs);
    expect(await freezeStatus(machine.agentSocketPath, agentTimeoutMs)).toBe('thawed');
    await machine.line(/^ext4 \d+$/);
    const limits = { limitMs: agentTimeoutMs, timeoutMs: agentTimeoutMs };
    const guard = await FreezeGuard.start({ socketPath: machine.agentSocketPath, ...limits });
    expect((await guard.freeze()).fileSystems).toBe(1);
    expect((await guard.thaw()).outcome).toBe('thawed');
    await guard.close();
    expect(await thaw(machine.agentSocketPath, agentTimeoutMs)).toBe(0);
    await machine.nextLine(/^ext4 \d+$/);

    await machine.qmp.execute('system_powerdown');
    await machine.ended;
    // Shut down in good order: nothing to recover, nothing damaged.
    const { stdout } = await run('dumpe2fs', ['-h', drives[1]]);
    expect(stdout).not.toContain('needs_recovery');
    await run('e2fsck', ['-f', '-n', drives[1]]);
  });

  test('writes pairs in order, dirties memory, measures gaps, and panics when told to', async () => {
    const drives = [await makeDrive('a.raw'), await makeDrive('b.raw')] as const;
    const machine = await boot({ modes: ['pair', 'dirty', 'gap'], dirtyMib: 16, drives });
    await machine.line(/^pair \d+$/);
    for (let round = 0; round < 5; round++) {
      await machine.qmp.execute('stop');
      const [ahead, behind] = [await numberOn(drives[0], MiB), await numberOn(drives[1], MiB)];
      expect([0, 1]).toContain(ahead - behind);
      await machine.qmp.execute('cont');
      await machine.nextLine(/^pair \d+$/);
    }
    const gapMs = numberIn(await machine.ask('gap?', /^gap (\d+\.\d{3})$/));
    expect(gapMs).toBeGreaterThan(0);
    await machine.ask('panic', /Kernel panic/);
  });

  test('counts on every drive that is there, goes on from what they hold, and leaves other drives alone', async () => {
    const drives = [await makeDrive('a.raw'), await makeDrive('b.raw'), await makeDrive('c.raw')] as const;
    for (const [path, text] of [
      [drives[1], `${'calotype demo: counter 41\n'.padEnd(511)}\n`],
      [drives[2], 'mine'],
    ] as const) {
      await using file = await open(path, 'r+');
      await file.write(text, 0);
    }
    const machine = await boot({ modes: ['demo'], drives });
    await machine.line(/^vda is empty$/);
    await machine.line(/^vdb holds counter 41$/);
    await machine.line(/^vdc holds something else$/);
    await machine.line(/^counter 42: in memory, on vda, on vdb, not on vdc$/);
    await machine.line(/^counter 43: /);
    for (const path of drives.slice(0, 2)) {
      const sector = (await readFile(path)).subarray(0, 512).toString('latin1');
      expect(Number(/^calotype demo: counter (\d+)\n +\n$/.exec(sector)?.[1])).toBeGreaterThanOrEqual(42);
    }
    expect((await readFile(drives[2])).subarray(0, 512).toString('latin1')).toMatch(/^mine\0+$/);
    await machine.plug('hot', await makeDrive('d.raw'));
    await machine.line(/^counter \d+: in memory, on vda, on vdb, on vdd, not on vdc$/);
    await machine.unplug('hot');
    await machine.nextLine(/^counter \d+: in memory, on vda, on vdb, not on vdc$/);
  });

  test('says what it lacks, and powers off when told to', async () => {
    const machine = await boot({ modes: ['disk', 'pair', 'ext4', 'agent'] });
    await Promise.all(['disk', 'pair', 'ext4'].map((mode) => machine.line(new RegExp(`^${mode} none$`))));
    await machine.ask('gap?', /^gap\?: mode gap is off$/);
    machine.send('poweroff');
    await machine.ended;
  });

  test('shuts down through its agent', async () => {
    const machine = await boot({
      modes: ['agent', 'ext4'],
      drives: [await makeDrive('a.raw', 'ext4')],
      ext4Device: '/dev/vda',
    });
    await machine.line(/^ext4 \d+$/);
    await shutdown(machine.agentSocketPath, 'powerdown', agentTimeoutMs);
    await machine.ended;
    expect(machine.lines.at(-1)).toContain('Power down');
  });
});

describe.skipIf(files === null)('building the guest', () => {
  test('many at once into one directory all get whole files', async () => {
    const built = await Promise.all(Array.from({ length: 8 }, () => buildGuest(join(dir, 'many'))));
    for (const { kernel, initrd } of built) {
      expect((await stat(kernel)).size).toBeGreaterThan(5 * MiB);
      expect((await stat(initrd)).size).toBeGreaterThan(5 * MiB);
    }
    expect((await run('ls', ['-A', join(dir, 'many')])).stdout.split('\n').filter(Boolean)).toHaveLength(2);
  });
});

describe('packages that cannot be had', () => {
  /** An apt that fails, ahead of the real one. */
  async function withPrograms(script: string | null): Promise<Error> {
    const programs = join(dir, 'programs');
    await mkdir(programs);
    for (const name of script === null ? [] : ['apt-get', 'apt-cache', 'sudo']) {
      await writeFile(join(programs, name), `#!/bin/sh\n${script}\n`);
      await chmod(join(programs, name), 0o755);
    }
    vi.stubEnv('PATH', programs);
    vi.stubEnv('CALOTYPE_GUEST_CACHE', join(dir, 'cache'));
    const error: unknown = await buildGuest(join(dir, 'out')).catch((reason: unknown) => reason);
    if (!(error instanceof Error)) throw new Error('it was built');
    return error;
  }

  test('an error says what apt said and what to do', async () => {
    const { message } = await withPrograms('echo "E: Unable to locate package nonsense" >&2; exit 100');
    expect(message).toContain('E: Unable to locate package nonsense');
    expect(message).toContain('apt-get update');
    expect(message).toContain('CALOTYPE_GUEST_CACHE');
  });

  test('an error says that there is no apt', async () => {
    const { message } = await withPrograms(null);
    expect(message).toContain('apt-get and apt-cache are not installed here');
  });

  test('nothing is left behind', async () => {
    await withPrograms('exit 1');
    expect((await run('/bin/ls', ['-A', join(dir, 'cache')])).stdout).toBe('');
  });
});
