/** Machines that somebody else started: adopted with a guest that runs, snapshotted, cloned, and let go of. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { MachineId } from '../src/core/ids.ts';
import { newId } from '../src/core/ids.ts';
import { type GuestMode, guestKernelArguments } from '../src/guest/build.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { ForeignMachine, type TestDisk } from '../src/qemu/testing/foreign-machine.ts';
import type { Caller } from '../src/service/caller.ts';
import { MachineRig } from './support/machine-rig.ts';

const MiB = 1024 * 1024;
const timeoutMs = 180_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const operator = (rig: MachineRig): Caller => ({ ...rig.caller, role: 'operator' });

class ForeignGuest implements AsyncDisposable {
  readonly machine = new ForeignMachine();
  readonly serial = join(this.machine.directory, 'serial.log');
  disks: TestDisk[] = [];

  static async start(rig: MachineRig, modes: readonly GuestMode[]): Promise<ForeignGuest> {
    const it = new ForeignGuest();
    it.disks = [it.machine.createDisk('a.qcow2', 'qcow2', 32 * MiB), it.machine.createDisk('b.img', 'raw', 32 * MiB)];
    await it.boot(rig, it.disks, modes);
    return it;
  }

  async boot(
    rig: MachineRig,
    disks: readonly { path: string; format: 'qcow2' | 'raw' }[],
    modes: readonly GuestMode[],
  ) {
    const kernel = ['-kernel', rig.files.kernel, '-initrd', rig.files.initrd, '-append', guestKernelArguments(modes)];
    const serial = ['-chardev', `file,id=s,path=${this.serial},append=on`, '-serial', 'chardev:s'];
    await this.machine.start(disks, ['-m', '256', '-cpu', 'max', ...kernel, ...serial]);
    this.machine.release();
  }

  said(): string {
    return existsSync(this.serial) ? readFileSync(this.serial, 'utf8').replaceAll('\r', '') : '';
  }

  async line(pattern: RegExp, from = 0): Promise<void> {
    await expect.poll(() => pattern.test(this.said().slice(from)), { timeout: 100_000 }).toBe(true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine[Symbol.asyncDispose]();
  }
}

async function adopt(rig: MachineRig, guest: ForeignGuest): Promise<MachineId> {
  const made = await rig.service.machines.adopt(operator(rig), { name: 'web', qmpSocket: guest.machine.socket });
  await rig.done(made.task);
  return made.machine.id;
}

describe.skipIf(!hasGuest)('a machine that somebody else runs', () => {
  test(
    'is snapshotted live at one instant, over restarts of the server, and let go of while it runs',
    async () => {
      await using rig = await MachineRig.start();
      await using guest = await ForeignGuest.start(rig, ['pair']);
      const id = await adopt(rig, guest);
      expect(await rig.machine(id)).toMatchObject({
        managed: false,
        power: 'paused',
        hardware: { memoryBytes: 256 * MiB, cpus: 1 },
        runtime: { pid: guest.machine.pid },
      });
      await rig.done(rig.service.machines.resume(rig.caller, id));
      await guest.line(/^pair \d+$/m);
      const taken = [];
      for (let round = 0; round < 4; round++) {
        const from = guest.said().length;
        await guest.line(/^pair \d+\n/m, from);
        const snapshot = await rig.snapshot(id);
        expect(snapshot).toMatchObject({ consistency: 'crash', parts: [{}, {}] });
        const [a, b] = snapshot.parts;
        if (a === undefined || b === undefined) throw new Error('two parts were expected');
        const first = await rig.numberAt(a.id, MiB);
        const second = await rig.numberAt(b.id, MiB);
        expect(first).toBeGreaterThan(0);
        expect([0, 1], `${first} and ${second}`).toContain(first - second);
        taken.push(snapshot);
        if (round === 1) await rig.restart();
      }
      const [, second, third] = taken;
      if (second === undefined || third === undefined) throw new Error('four snapshots were expected');
      const begun = await rig.service.snapshots.delete(rig.caller, second.id, {});
      await rig.done(begun);
      const part = third.parts[0];
      expect(await rig.numberAt(part?.id ?? newId(), MiB)).toBeGreaterThan(0);

      const made = await rig.service.snapshots.cloneMachine(rig.caller, third.id, { name: 'copy' });
      await rig.done(made.task);
      const copy = await rig.machine(made.machine.id);
      expect(copy).toMatchObject({ managed: true, power: 'off' });

      const disown = rig.service.machines.disown(rig.caller, id, { snapshots: 'forget' });
      await expect(rig.done(disown)).rejects.toMatchObject({ code: 'drive_has_clones' });
      await rig.done(rig.service.machines.delete(rig.caller, copy.id, { drives: 'delete' }));
      await expect
        .poll(
          async () => (await rig.service.drives.list(rig.caller, {}, { by: 'created', order: 'asc' }, {})).items.length,
        )
        .toBe(2);
      await expect(rig.service.machines.disown(rig.caller, id, {})).rejects.toMatchObject({
        code: 'machine_has_snapshots',
      });
      const task = await rig.done(rig.service.machines.disown(rig.caller, id, { snapshots: 'forget' }));
      expect(task.result).toMatchObject({ drives: [{ name: 'web-0' }, { name: 'web-1' }] });
      await expect(rig.machine(id)).rejects.toMatchObject({ code: 'not_found' });
      await guest.line(/^pair \d+\n/m, guest.said().length);
    },
    timeoutMs,
  );

  test(
    'is off when its process is, is found again with its present files, and is not touched with others',
    async () => {
      await using rig = await MachineRig.start();
      await using guest = await ForeignGuest.start(rig, ['pair']);
      const id = await adopt(rig, guest);
      await rig.done(rig.service.machines.resume(rig.caller, id));
      await guest.line(/^pair \d+$/m);
      const snapshot = await rig.snapshot(id);
      await guest.machine.kill();
      await expect.poll(async () => (await rig.machine(id)).power).toBe('off');
      await expect(rig.snapshot(id)).rejects.toMatchObject({ code: 'machine_off' });
      expect(await rig.numberAt(snapshot.parts[0]?.id ?? newId(), MiB)).toBeGreaterThan(0);

      const drives = await rig.service.machines.files(operator(rig), id);
      const present = drives.flatMap(({ files: [top] }) => (top === undefined ? [] : [top]));
      await guest.boot(rig, [...present.slice(0, 1), ...guest.disks.slice(1)], ['pair']);
      await expect.poll(async () => (await rig.machine(id)).error?.code).toBe('machine_changed');
      await guest.machine.kill();
      await guest.boot(rig, present, ['pair']);
      await expect.poll(async () => (await rig.machine(id)).power).toBe('paused');
      expect((await rig.machine(id)).error).toBeNull();
      await rig.done(rig.service.machines.resume(rig.caller, id));
      await guest.line(/^pair \d+\n/m, guest.said().length);
      await rig.snapshot(id);
    },
    timeoutMs,
  );
});

test('what cannot be adopted is named, and left as it is', async () => {
  await using rig = await MachineRig.start();
  const ask = (qmpSocket: string) => rig.service.machines.adopt(operator(rig), { name: 'x', qmpSocket });
  await expect(rig.service.machines.adopt(rig.caller, { name: 'x', qmpSocket: '/x' })).rejects.toMatchObject({
    code: 'forbidden',
  });
  await expect(ask('relative.sock')).rejects.toMatchObject({ code: 'invalid_request' });
  await expect(ask('/nowhere/qmp.sock')).rejects.toMatchObject({ code: 'adoption_refused' });

  const liar = join(rig.directory, 'liar.sock');
  await using server = createServer(
    (socket) => void socket.on('error', () => undefined).end('HTTP/1.1 400 Bad Request\r\n\r\n'),
  );
  await new Promise<void>((resolve) => server.listen(liar, resolve));
  await expect(ask(liar)).rejects.toMatchObject({ code: 'adoption_refused' });

  await using inside = new ForeignMachine();
  const disk = inside.createDisk('a.qcow2', 'qcow2', 4 * MiB);
  execFileSync('qemu-img', ['snapshot', '-c', 'inside', disk.path]);
  mkdirSync(join(inside.directory, 'more'));
  const other = join(inside.directory, 'b.vmdk');
  execFileSync('qemu-img', ['create', '-q', '-f', 'vmdk', other, '4M']);
  await inside.start([disk], ['-drive', `file=${other},format=vmdk,if=virtio`]);
  inside.release();
  const before = readFileSync(disk.path);
  const refused = ask(inside.socket);
  await expect(refused).rejects.toMatchObject({ code: 'adoption_refused', details: { disks: [{}, {}] } });
  await expect(refused).rejects.toThrow(/internal snapshots.*vmdk/);
  expect(readFileSync(disk.path).equals(before)).toBe(true);
  expect((await rig.service.machines.list(rig.caller, {}, { by: 'created', order: 'asc' }, {})).items).toEqual([]);
});

test('a monitor that says its disk is a file nobody writes is not believed', async () => {
  await using rig = await MachineRig.start();
  const victim = join(rig.directory, 'secret.raw');
  writeFileSync(victim, Buffer.alloc(MiB, 7));
  const path = join(rig.directory, 'liar.sock');
  const answers: Record<string, unknown> = {
    qmp_capabilities: {},
    'query-version': { qemu: { major: 8, minor: 0, micro: 0 } },
    'query-kvm': { enabled: true, present: true },
    'query-memory-size-summary': { 'base-memory': 256 * MiB },
    'query-cpus-fast': [{}],
    'qom-get': 'pc-machine',
    'query-status': { running: true },
    'query-block': [{ device: 'd', qdev: '/d', removable: false, inserted: { 'node-name': 'n', ro: false } }],
    'query-named-block-nodes': [
      {
        'node-name': 'n',
        drv: 'raw',
        ro: false,
        cache: { direct: false },
        image: { filename: victim, 'virtual-size': MiB },
      },
    ],
    'query-block-jobs': [],
    'x-debug-query-block-graph': { nodes: [], edges: [] },
  };
  await using server = createServer((socket) => {
    socket.on('error', () => undefined).write('{"QMP": {}}\n');
    socket.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) {
        const { execute, id } = JSON.parse(line);
        socket.write(`${JSON.stringify({ id, return: answers[execute] ?? {} })}\n`);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const asked = rig.service.machines.adopt(operator(rig), { name: 'x', qmpSocket: path });
  await expect(asked).rejects.toThrow(/nobody has .*secret\.raw open for writing/);
});
