/** The server dies at every step of what it does with a running machine; whoever starts next brings it to its end. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildGuest, guestKernelArguments } from '../src/guest/build.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import type { MachineBody, SnapshotBody, TaskBody } from '../src/http/schemas.ts';
import { type Access, Api, type Call, type Finding, Unanswered } from './campaign/api.ts';
import { numberAt, processesOf, serialOf, strayMachineFiles } from './campaign/machine-eyes.ts';
import { ServerProcess } from './campaign/server-process.ts';

const MiB = 1024 * 1024;
const waitMs = 120_000;
const isLong = process.env.CALOTYPE_LONG === '1';
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const scratch = await mkdtemp(join(tmpdir(), 'calomc-'));
afterAll(() => rm(scratch, { recursive: true, force: true }));

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

  /** A server with a machine that runs and counts. */
  static async start(): Promise<Subject> {
    const directory = await mkdtemp(join(scratch, 's-'));
    const data = join(directory, 'data');
    await mkdir(join(data, 'boot'), { recursive: true });
    await buildGuest(join(data, 'boot'));
    const server = new ServerProcess(data, directory);
    const access = await server.start();
    if (access === null) throw new Error('the server did not start');
    const subject = new Subject(server, access);
    subject.machineId = await subject.createMachine('m');
    await subject.post(`/machines/${subject.machineId}/start`, {}, 30);
    await subject.says(1, /^disk [1-9]/m);
    return subject;
  }

  async createMachine(name: string): Promise<string> {
    const drive = await this.post('/drives', { name: `${name}-a`, sizeBytes: 32 * MiB }, 30);
    const append = guestKernelArguments(['count', 'disk']);
    const { machine } = await this.post(
      '/machines',
      {
        name,
        memoryBytes: 128 * MiB,
        drives: [{ driveId: drive.task.objectId }],
        boot: { from: 'kernel', kernel: 'guest-vmlinuz', initrd: 'guest-initrd.img', append },
      },
      30,
    );
    return machine?.id ?? '';
  }

  async post(path: string, body: object, wait: number): Promise<Made> {
    return JSON.parse(await this.api.send({ method: 'POST', path: `/v1${path}`, body: { ...body }, wait }));
  }

  machine(id: string): Promise<MachineBody> {
    return this.api.get<MachineBody>(`/v1/machines/${id}`);
  }

  async says(machineNumber: number, pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    const said = (): string => serialOf(this.server.data, machineNumber);
    for (const until = Date.now() + waitMs; Date.now() < until; await delay(20)) {
      const found = pattern.exec(said().slice(from));
      if (found !== null) return found;
    }
    throw new Error(`the guest never said ${pattern}: ${said().slice(-300)}`);
  }

  /** The steps that the server passes during `work`, each once, in order. */
  async stepsOf(work: () => Promise<unknown>): Promise<string[]> {
    const passed = (): string[] => readFileSync(this.server.tracePath, 'utf8').trimEnd().split('\n');
    const before = passed().length;
    await work();
    const names = passed()
      .slice(before)
      .map((line) => line.split(' ')[1] ?? '');
    return [...new Set(names)];
  }

  async startAgain(): Promise<void> {
    const access = await this.server.start();
    if (access === null) throw new Error('the server did not start again');
    this.api.moveTo(access);
  }

  /** Asks for something, with death at a step, or when it is done; starts again, and returns how the task ended. */
  async dyingAt(step: string, path: string, body: object, meanwhile = async () => {}): Promise<TaskBody> {
    this.server.arm({ step, nth: 1, victim: 'server', delayMs: 0 });
    const { task } = await this.post(path, body, 0);
    await Promise.race([this.server.exited, this.api.task(task.id, 60).catch(() => undefined)]);
    await this.server.kill();
    await meanwhile();
    await this.startAgain();
    return this.api.task(task.id, 60);
  }

  async runsOn(): Promise<void> {
    await this.says(1, /^disk [1-9]/m, serialOf(this.server.data, 1).length);
  }

  /** The same for a request that is asked again when it got no answer. */
  async dyingWhile(step: string, call: Call): Promise<void> {
    this.server.arm({ step, nth: 1, victim: 'server', delayMs: 0 });
    const keyed = { ...call, key: randomUUID() };
    await this.api.send(keyed).catch((error: unknown) => {
      if (!(error instanceof Unanswered)) throw error;
    });
    await this.server.kill();
    await this.startAgain();
    const { task }: Made = JSON.parse(await this.api.send(keyed));
    expect(await this.api.task(task.id, 60), step).toMatchObject({ state: 'done' });
  }

  /** The guest runs, drives and memory are as the catalog says, nothing hangs and nothing is left over. */
  async isWell(what: string): Promise<void> {
    await this.runsOn();
    expect(await this.machine(this.machineId), what).toMatchObject({
      power: 'running',
      state: 'available',
      error: null,
    });
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
    // What is removed goes behind the answer.
    await expect.poll(() => strayMachineFiles(this.server.data), { message: what }).toEqual([]);
    const { items } = await this.api.get<{ items: MachineBody[] }>('/v1/machines');
    const running = items.flatMap(({ runtime }) => (runtime === null ? [] : [runtime.pid]));
    await expect
      .poll(() => processesOf(this.server.data), { message: what })
      .toEqual({ machines: expect.toSatisfy(sameAs(running)), writers: [], guards: [] });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.kill();
    for (const pid of processesOf(this.server.data).machines) process.kill(pid, 'SIGKILL');
    await this.server.killDaemon();
    this.server.closeLog();
  }
}

const sameAs = (wanted: readonly number[]) => (found: readonly number[]) =>
  found.length === wanted.length && found.every((pid) => wanted.includes(pid));

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

const random = (steps: readonly string[]): string => steps[Math.floor(Math.random() * steps.length)] ?? '';

/** All of them takes minutes: a few at random, unless there is time. */
function some<T>(all: readonly T[], count = 2): readonly T[] {
  if (isLong) return all;
  const left = [...all];
  return Array.from({ length: Math.min(count, all.length) }, () =>
    left.splice(Math.floor(Math.random() * left.length), 1),
  ).flat();
}

describe.skipIf(!hasGuest)('a running machine', () => {
  let subject: Subject;
  beforeAll(async () => {
    subject = await Subject.start();
  }, waitMs);
  afterAll(() => subject[Symbol.asyncDispose]());

  test('does not notice that the server is killed and started again, over and over', async () => {
    const { runtime, number } = await subject.machine(subject.machineId);
    let last = 0;
    for (let round = 0; round < (isLong ? 20 : 3); round++) {
      await subject.server.kill();
      // It counts while there is no server, too.
      const [, alone] = await subject.says(number, /^disk (\d+)$/m, serialOf(subject.server.data, number).length);
      expect(Number(alone)).toBeGreaterThan(last);
      await subject.startAgain();
      const machine = await subject.machine(subject.machineId);
      expect(machine).toMatchObject({ power: 'running', error: null });
      expect(machine.runtime).toMatchObject({ pid: runtime?.pid, startedAt: runtime?.startedAt });
      const [, later] = await subject.says(number, /^disk (\d+)$/m, serialOf(subject.server.data, number).length);
      expect(Number(later)).toBeGreaterThan(Number(alone));
      last = Number(later);
    }
    expect(serialOf(subject.server.data, number)).not.toMatch(/error/);
  }, 600_000);

  test('comes through the death of the server at every step of a snapshot and of a revert', async () => {
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
      const { basedOn } = await subject.machine(subject.machineId);
      expect(basedOn, step).toBe(snapshot?.id);
    }
  }, 600_000);

  test('is set back once, also when the server dies as soon as the guest goes on', async () => {
    const { snapshot } = await subject.post('/snapshots', { machineId: subject.machineId, memory: true }, 60);
    subject.server.arm({ step: 'machine.let-go', nth: 1, victim: 'server', delayMs: 0 });
    const { task } = await subject.post(`/snapshots/${snapshot?.id}/revert`, { keepSafety: false }, 0);
    await subject.server.exited;
    const said = (): string => serialOf(subject.server.data, 1);
    const from = said().length;
    await subject.says(1, /^disk \d+$/m, from);
    await subject.startAgain();
    expect(await subject.api.task(task.id, 60)).toMatchObject({ state: 'done', result: { power: 'running' } });
    await subject.says(1, /^disk \d+$/m, said().length);
    const numbers = [
      ...said()
        .slice(from)
        .matchAll(/^disk (\d+)\n/gm),
    ].map(([, number]) => Number(number));
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
    await subject.isWell('a revert, dying when the guest was let go');
  }, 600_000);

  test('comes through the death of the server at every step of its clones, and of their deletion', async () => {
    const { snapshot } = await subject.post('/snapshots', { machineId: subject.machineId, memory: true }, 60);
    const onDisk = await numberAt(subject.api, { driveSnapshotId: snapshot?.parts[0]?.id ?? '' }, 0);
    const path = `/snapshots/${snapshot?.id}/clone-machine`;
    const remove = async (id: string | null, step?: string): Promise<void> => {
      const call = { method: 'DELETE', path: `/v1/machines/${id}?drives=delete`, wait: 60 } as const;
      if (step === undefined) await subject.api.send(call);
      else await subject.dyingWhile(step, call);
    };
    for (const memory of some([true, false], 1)) {
      let cloned = '';
      const steps = await subject.stepsOf(async () => {
        cloned = (await subject.post(path, { memory }, 60)).machine?.id ?? '';
      });
      expect(steps).toContain('machine.cloned');
      const deleted = await subject.stepsOf(() => remove(cloned));
      for (const step of some(steps, 1)) {
        const what = `a clone ${memory ? 'with' : 'without'} its memory, dying at ${step}`;
        const task = await subject.dyingAt(step, path, { memory, name: 'copy' });
        expect(task, what).toMatchObject({ state: 'done', error: null });
        const clone = await subject.machine(task.objectId ?? '');
        expect(clone, what).toMatchObject({ power: memory ? 'running' : 'off', state: 'available', error: null });
        if (memory) {
          const [, number] = await subject.says(clone.number, /^disk (\d+)$/m);
          expect(Number(number), what).toBeGreaterThanOrEqual(onDisk);
        } else expect(await numberAt(subject.api, { driveId: clone.drives[0]?.driveId ?? '' }, 0), what).toBe(onDisk);
        await subject.isWell(what);
        await remove(clone.id, random(deleted));
        await subject.isWell(`${what}, and deleted`);
      }
    }
    await expect.poll(async () => (await subject.api.drives()).map((drive) => drive.name)).toEqual(['m-a']);
  }, 1_200_000);

  test('comes through the death of the server at every step of another one’s being put onto its snapshot', async () => {
    const { snapshot } = await subject.post('/snapshots', { machineId: subject.machineId, memory: true }, 60);
    const onDisk = await numberAt(subject.api, { driveSnapshotId: snapshot?.parts[0]?.id ?? '' }, 0);
    const other = await subject.createMachine('other');
    const path = `/snapshots/${snapshot?.id}/revert`;
    for (const power of some(['off', 'paused'], 1)) {
      if (power === 'paused') await subject.post(`/machines/${other}/start`, {}, 60);
      const onto = { machineId: other, paused: true };
      const steps = await subject.stepsOf(() => subject.post(path, onto, 60));
      expect(steps).toContain('machine.reverted');
      for (const step of some(steps, 1)) {
        const what = `put onto a snapshot while ${power}, dying at ${step}`;
        const task = await subject.dyingAt(step, path, onto);
        expect(task, what).toMatchObject({ state: 'done', error: null });
        const machine = await subject.machine(other);
        expect(machine, what).toMatchObject({ power, state: 'available', error: null, basedOn: null });
        const taken = await subject.post('/snapshots', { machineId: other }, 60);
        const part = taken.snapshot?.parts[0]?.id ?? '';
        expect(await numberAt(subject.api, { driveSnapshotId: part }, 0), what).toBe(onDisk);
        await subject.isWell(what);
      }
    }
  }, 1_200_000);
});
