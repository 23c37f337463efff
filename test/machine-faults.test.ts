/** What goes wrong while something is done to a running machine: a clear error, a guest unharmed, nothing left behind. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { MachineId } from '../src/core/ids.ts';
import type { Snapshot, Task } from '../src/core/model.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { isDead } from './campaign/arm.ts';
import { processesOf, strayMachineFiles } from './campaign/machine-eyes.ts';
import { MachineRig, SerialLine } from './support/machine-rig.ts';

const isLong = process.env.CALOTYPE_LONG === '1';
const MiB = 1024 * 1024;
const timeoutMs = 240_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const failure = (code: string, more: object = {}) => expect.objectContaining({ code, ...more });

describe.skipIf(!hasGuest)('a running machine', { timeout: timeoutMs }, () => {
  let rig: MachineRig;
  let id: MachineId;
  let good: Snapshot;

  beforeAll(async () => {
    rig = await MachineRig.start();
    const drives = [await rig.createDrive('a'), await rig.createDrive('b', 'ext4')];
    id = await rig.createMachine('m', ['disk', 'ext4', 'agent'], drives, { ext4Device: '/dev/vdb' });
    await rig.boot(id);
    await rig.line(id, /^disk [1-9]/m);
    good = await rig.snapshot(id, { memory: true });
  }, timeoutMs);
  afterAll(() => rig[Symbol.asyncDispose]());
  beforeEach(async () => {
    rig.onStep = () => undefined;
    // The one before may have failed half-way.
    if ((await rig.machine(id)).power === 'off') await rig.boot(id);
  }, timeoutMs);

  const begin = (options: object) => rig.service.snapshots.createOfMachine(rig.caller, { machineId: id, ...options });

  /** Counts on, and nothing but what was there before is there. */
  async function isUnharmed(): Promise<void> {
    await rig.line(id, /^disk [1-9]/m, (await rig.serial(id)).length);
    await rig.line(id, /^ext4 [1-9]/m, (await rig.serial(id)).length);
    expect(await rig.machine(id)).toMatchObject({ power: 'running', state: 'available', error: null });
    await nothingIsLeft();
  }

  async function nothingIsLeft(): Promise<void> {
    const shown = await rig.service.snapshots.list(rig.caller, {}, { by: 'created', order: 'asc' }, { limit: 100 });
    expect(shown.items.map((snapshot) => snapshot.name)).toEqual([good.name]);
    await expect.poll(() => strayMachineFiles(rig.directory)).toEqual([]);
    await expect.poll(() => processesOf(rig.directory)).toMatchObject({ writers: [], guards: [] });
  }

  test('whose memory finds no space', async (context) => {
    const place = join(rig.directory, 'memory');
    mkdirSync(place, { recursive: true });
    if (process.getuid?.() !== 0) context.skip('only root can mount a small disk to fill');
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${2 * MiB},mode=700`, 'tmpfs', place]);
    if (mounted.status !== 0) context.skip(`a small disk cannot be mounted here: ${mounted.stderr}`);
    try {
      const made = await begin({ memory: true });
      await expect(rig.done(made.task)).rejects.toEqual(failure('space_exhausted'));
      expect(readdirSync(place)).toEqual([]);
      const gone = rig.service.snapshots.get(rig.caller, made.snapshot.id);
      await expect(gone).rejects.toEqual(failure('not_found'));
    } finally {
      execFileSync('umount', [place]);
    }
    await isUnharmed();
  });

  test('whose snapshot is cancelled while its memory is written', async () => {
    let cancelled: Promise<Task> | undefined;
    const made = await begin({ memory: true });
    rig.atStep('machine.released', () => {
      cancelled = rig.service.tasks.cancel(rig.caller, made.task.id);
    });
    await expect(rig.done(made.task)).rejects.toEqual(failure('cancelled'));
    await cancelled;
    await isUnharmed();
  });

  test.for(['machine.held', 'machine.released'])('whose monitor is cut at %s', async (step) => {
    rig.atStep(step, () => rig.service.processes.get(id).qmp.close());
    const { pid } = (await rig.machine(id)).runtime ?? {};
    const made = await begin({ memory: true });
    const task = await rig.service.tasks.waitFor(rig.caller, made.task.id, timeoutMs);
    // Taken or not, but nothing in between.
    if (task.state === 'done') await rig.done(rig.service.snapshots.delete(rig.caller, made.snapshot.id, {}));
    else expect(task.error).toMatchObject({ code: expect.stringMatching(/^(machine_failed|engine_unavailable)$/) });
    expect((await rig.machine(id)).runtime?.pid).toBe(pid);
    await isUnharmed();
  });

  test('that is to be reverted while another task runs: one after the other', async () => {
    const made = await begin({ memory: true });
    const revert = await rig.service.snapshots.revertMachine(rig.caller, good.id, { keepSafety: false });
    await rig.done(revert);
    const taken = await rig.service.snapshots.get(rig.caller, made.snapshot.id);
    expect(taken).toMatchObject({ state: 'available', consistency: 'memory', machine: { current: false } });
    expect(await rig.machine(id)).toMatchObject({ power: 'running', basedOn: good.id });
    await rig.done(rig.service.snapshots.delete(rig.caller, taken.id, {}));
    await isUnharmed();
  });

  test('whose memory is of a machine type that QEMU has no more', async () => {
    const { hardware } = await rig.machine(id);
    const other = JSON.stringify({ ...hardware, machineType: 'pc-i440fx-0.9' });
    const own = JSON.stringify(hardware);
    const change = async (json: string): Promise<void> => {
      await rig.catalog.db.updateTable('machines').set({ hardware_json: json }).where('id', '=', id).execute();
      await rig.catalog.db.updateTable('machine_snapshots').set({ hardware_json: json }).execute();
    };
    await change(other);
    try {
      const revert = rig.service.snapshots.revertMachine(rig.caller, good.id, {});
      const missing = failure('machine_type_missing', { details: { machineType: 'pc-i440fx-0.9' } });
      await expect(rig.done(revert)).rejects.toEqual(missing);
      const clone = await rig.service.snapshots.cloneMachine(rig.caller, good.id, { name: 'copy', memory: true });
      await expect(rig.done(clone.task)).rejects.toEqual(missing);
      const left = await rig.machine(clone.machine.id);
      expect(left).toMatchObject({ state: 'error', power: 'off', error: { code: 'machine_type_missing' } });
      await rig.done(rig.service.machines.delete(rig.caller, left.id, { drives: 'delete' }));
    } finally {
      await change(own);
    }
    await isUnharmed();
  });

  test('whose drive another one is to get', async () => {
    const other = await rig.createMachine('other', [], []);
    const [drive] = (await rig.machine(id)).drives;
    if (drive === undefined) throw new Error('the machine has no drive');
    const { driveId, slot } = drive;
    const attach = rig.service.machines.attach(rig.caller, other, { driveId });
    await expect(attach).rejects.toEqual(failure('drive_attached', { details: { driveId, machineId: id, slot } }));
    await rig.done(rig.service.machines.delete(rig.caller, other, {}));
    await isUnharmed();
  });

  test('that loses the guard of its frozen file systems', async () => {
    const kill = (): void => {
      for (const pid of processesOf(rig.directory).guards) process.kill(pid, 'SIGKILL');
    };
    rig.atStep('machine.frozen', kill);
    const made = await begin({ quiesce: 'prefer' });
    const outcome = await rig.done(made.task).then(
      () => rig.service.snapshots.get(rig.caller, made.snapshot.id),
      () => null,
    );
    // The server thaws then, and knows whether all was frozen until that thaw.
    expect(outcome?.consistency).toMatch(/^(filesystem|crash)$/);
    await rig.done(rig.service.snapshots.delete(rig.caller, made.snapshot.id, {}));
    await isUnharmed();
  });

  test('that loses the writer of its memory while it stands still', async () => {
    rig.atStep('machine.held', () => {
      for (const pid of processesOf(rig.directory).writers) process.kill(pid, 'SIGKILL');
    });
    const made = await begin({ memory: true });
    const task = await rig.service.tasks.waitFor(rig.caller, made.task.id, timeoutMs);
    // Written by another one if the guest stands still yet, else given up.
    if (task.state === 'done') await rig.done(rig.service.snapshots.delete(rig.caller, made.snapshot.id, {}));
    else expect(task.error).toMatchObject({ code: 'machine_failed', message: expect.not.stringContaining('EEXIST') });
    if ((await rig.machine(id)).power === 'off') await rig.boot(id);
    await isUnharmed();
  });

  test('that loses the writer of its memory', async () => {
    rig.atStep('machine.released', () => {
      for (const pid of processesOf(rig.directory).writers) process.kill(pid, 'SIGKILL');
    });
    const made = await begin({ memory: true });
    const said: unknown = await rig.done(made.task).catch((error: unknown) => error);
    const stored = 'What was to store the memory ended.';
    expect(said).toEqual(failure('machine_failed', { message: expect.stringContaining(stored) }));
    await nothingIsLeft();
    // QEMU may not get over it; then it is off, and says so.
    const from = (await rig.serial(id)).length;
    await expect
      .poll(async () => (await rig.machine(id)).power === 'off' || /^disk/m.test((await rig.serial(id)).slice(from)), {
        timeout: 60_000,
      })
      .toBe(true);
    const { power, error } = await rig.machine(id);
    if (power === 'off') {
      expect(said).toMatchObject({ message: expect.stringContaining('the guest hanging') });
      expect(error).toMatchObject({ code: 'machine_died' });
      await rig.boot(id);
    }
    await isUnharmed();
  });

  test.for(isLong ? ['machine.held', 'machine.released'] : ['machine.held'])('whose QEMU dies at %s', async (step) => {
    const { pid = 0 } = (await rig.machine(id)).runtime ?? {};
    rig.atStep(step, () => process.kill(pid, 'SIGKILL'));
    const made = await begin({ memory: true });
    await expect(rig.done(made.task)).rejects.toEqual(
      failure(expect.stringMatching(/^(machine_failed|machine_died|engine_unavailable)$/)),
    );
    await expect.poll(async () => (await rig.machine(id)).power).toBe('off');
    expect((await rig.machine(id)).error).toMatchObject({ code: 'machine_died' });
    await nothingIsLeft();
    await rig.boot(id);
    await isUnharmed();
  });

  test('that shuts itself down while there is no server', async () => {
    const path = await rig.serialSocket(id);
    const { pid = 0 } = (await rig.machine(id)).runtime ?? {};
    await rig.restart(async () => {
      using line = await SerialLine.open(path);
      line.send('poweroff');
      await expect.poll(() => isDead(pid), { timeout: 60_000 }).toBe(true);
    });
    expect(await rig.machine(id)).toMatchObject({ power: 'off', state: 'available', error: null, runtime: null });
    await nothingIsLeft();
    await rig.boot(id);
  });

  // Each guest that starts takes seconds.
  if (isLong) {
    test('that dies while there is no server', async () => {
      const { pid = 0 } = (await rig.machine(id)).runtime ?? {};
      await rig.restart(async () => {
        process.kill(pid, 'SIGKILL');
        await expect.poll(() => isDead(pid)).toBe(true);
      });
      expect(await rig.machine(id)).toMatchObject({
        power: 'off',
        state: 'available',
        error: { code: 'machine_died' },
      });
      await rig.boot(id);
    });
  }

  test('whose guest has crashed, and its agent with it', async () => {
    await rig.ask(id, 'panic', /Kernel panic/);
    const required = await begin({ quiesce: 'require' });
    await expect(rig.done(required.task)).rejects.toEqual(failure('agent_unavailable'));
    await nothingIsLeft();
    const preferred = await rig.snapshot(id, { quiesce: 'prefer' });
    expect(preferred).toMatchObject({ consistency: 'crash', machine: { reason: expect.stringMatching(/not frozen/) } });
  });
});
