/** The server dies at every step of what it does with a running machine; whoever starts next brings it to its end. */
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { buildGuest, guestKernelArguments } from '../src/guest/build.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import type { MachineBody, SnapshotBody, TaskBody } from '../src/http/schemas.ts';
import { type Access, Api, type Finding } from './campaign/api.ts';
import { ServerProcess } from './campaign/server-process.ts';

const MiB = 1024 * 1024;
const waitMs = 120_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const directory = await mkdtemp(join(tmpdir(), 'calomc-'));
afterAll(() => rm(directory, { recursive: true, force: true }));

interface Made {
  readonly task: TaskBody;
  readonly machine?: MachineBody;
  readonly snapshot?: SnapshotBody;
}

class Subject implements AsyncDisposable {
  readonly server: ServerProcess;
  readonly api: Api;
  machineId = '';

  constructor(server: ServerProcess, access: Access) {
    this.server = server;
    this.api = new Api(access);
  }

  static async start(): Promise<Subject> {
    const data = join(directory, 'data');
    await mkdir(join(data, 'boot'), { recursive: true });
    await buildGuest(join(data, 'boot'));
    const server = new ServerProcess(data, directory);
    const access = await server.start();
    if (access === null) throw new Error('the server did not start');
    const subject = new Subject(server, access);
    const drive = await subject.post('/drives', { name: 'a', sizeBytes: 32 * MiB }, 30);
    const { machine } = await subject.post(
      '/machines',
      {
        name: 'm',
        memoryBytes: 256 * MiB,
        drives: [{ driveId: drive.task.objectId }],
        boot: {
          from: 'kernel',
          kernel: 'guest-vmlinuz',
          initrd: 'guest-initrd.img',
          append: guestKernelArguments(['count', 'disk']),
        },
      },
      30,
    );
    subject.machineId = machine?.id ?? '';
    await subject.post(`/machines/${subject.machineId}/start`, {}, 30);
    await subject.says(/^disk [1-9]/m);
    return subject;
  }

  async post(path: string, body: object, wait: number): Promise<Made> {
    return JSON.parse(await this.api.send({ method: 'POST', path: `/v1${path}`, body: { ...body }, wait }));
  }

  async serial(): Promise<string> {
    return (await readFile(join(this.server.data, 'run', 'm1', 'serial.log'), 'utf8')).replaceAll('\r', '');
  }

  async says(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    for (const until = Date.now() + waitMs; Date.now() < until; await delay(20)) {
      const found = pattern.exec((await this.serial()).slice(from));
      if (found !== null) return found;
    }
    throw new Error(`the guest never said ${pattern}: ${(await this.serial()).slice(-300)}`);
  }

  /** Asks for something, with death at a step; starts again, and returns how the task ended. */
  async dyingAt(step: string, path: string, body: object, meanwhile = async () => {}): Promise<TaskBody> {
    this.server.arm({ step, nth: 1, victim: 'server', delayMs: 0 });
    const { task } = await this.post(path, body, 0);
    await this.server.exited;
    await meanwhile();
    const access = await this.server.start();
    if (access === null) throw new Error('the server did not start again');
    this.api.moveTo(access);
    return this.api.task(task.id, 60);
  }

  async runsOn(): Promise<void> {
    await this.says(/^disk [1-9]/m, (await this.serial()).length);
  }

  /** The guest runs, drives and memory are as the catalog says, nothing hangs. */
  async isWell(what: string): Promise<void> {
    await this.runsOn();
    const machine = await this.api.get<MachineBody>(`/v1/machines/${this.machineId}`);
    expect(machine, what).toMatchObject({ power: 'running', state: 'available', error: null });
    const report = await this.api.send({ method: 'POST', path: '/v1/doctor', body: {} });
    const { findings }: { findings: Finding[] } = JSON.parse(report);
    expect(
      findings.filter((finding) => finding.severity !== 'info'),
      what,
    ).toEqual([]);
    const snapshots = await this.api.snapshots();
    expect(
      snapshots.filter((snapshot) => snapshot.state !== 'available'),
      what,
    ).toEqual([]);
    const kept = snapshots.filter((snapshot) => snapshot.machine?.memory != null).length;
    expect((await readdir(join(this.server.data, 'memory'))).length, what).toBe(kept);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { items } = await this.api.get<{ items: MachineBody[] }>('/v1/machines');
    for (const { runtime } of items) if (runtime !== null) process.kill(runtime.pid, 'SIGKILL');
    await this.server.kill();
    await this.server.killDaemon();
    this.server.closeLog();
  }
}

const whileTaken = [
  'pivot.before',
  'machine.held',
  'pivot.done',
  'machine.released',
  'pivot.committed',
  'memory.saved',
];
const whileReverted = [
  'machine.kept',
  'machine.down',
  'revert.intended',
  'revert.done',
  'machine.reverted',
  'machine.up',
];

/** All of them takes minutes: a few at random, unless there is time. */
function some(steps: readonly string[]): readonly string[] {
  if (process.env.CALOTYPE_LONG === '1') return steps;
  const left = [...steps];
  return Array.from({ length: Math.min(3, steps.length) }, () =>
    left.splice(Math.floor(Math.random() * left.length), 1),
  ).flat();
}

describe.skipIf(!hasGuest)('a running machine', () => {
  test('comes through the death of the server at every step of a snapshot and of a revert', async () => {
    await using subject = await Subject.start();
    const { snapshot } = await subject.post('/snapshots', { machineId: subject.machineId, memory: true }, 60);
    const { machine } = await subject.api.get<SnapshotBody>(`/v1/snapshots/${snapshot?.id}`);
    // Where QEMU saves the memory of a running guest, nobody has to come back for it to run on.
    const meanwhile = /ran on/.test(machine?.reason ?? '') ? () => subject.runsOn() : undefined;
    for (const step of some(whileTaken)) {
      const body = { machineId: subject.machineId, memory: true, name: step };
      const task = await subject.dyingAt(step, '/snapshots', body, meanwhile);
      expect(task, step).toMatchObject({ state: 'done', error: null });
      await subject.isWell(`a snapshot, dying at ${step}`);
    }
    for (const step of some([...whileTaken.slice(1), ...whileReverted])) {
      const task = await subject.dyingAt(step, `/snapshots/${snapshot?.id}/revert`, {});
      expect(task, step).toMatchObject({ state: 'done', error: null });
      await subject.isWell(`a revert, dying at ${step}`);
      const { basedOn } = await subject.api.get<MachineBody>(`/v1/machines/${subject.machineId}`);
      expect(basedOn, step).toBe(snapshot?.id);
    }
  }, 600_000);
});
