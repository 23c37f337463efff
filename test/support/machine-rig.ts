/** The service with a real engine and a real guest, inside the test's process. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Catalog } from '../../src/catalog/catalog.ts';
import { CalotypeError } from '../../src/core/errors.ts';
import { type DriveId, type DriveSnapshotId, type MachineId, newId, type ProjectId } from '../../src/core/ids.ts';
import type { Machine, Snapshot, Task } from '../../src/core/model.ts';
import { Qcow2Engine } from '../../src/engine/qcow2/engine.ts';
import {
  buildGuest,
  type GuestFiles,
  type GuestMode,
  type GuestOptions,
  guestKernelArguments,
} from '../../src/guest/build.ts';
import { MachineProcess } from '../../src/qemu/machine-process.ts';
import { NbdClient } from '../../src/qemu/nbd-client.ts';
import type { Caller } from '../../src/service/caller.ts';
import type { ServiceConfig } from '../../src/service/context.ts';
import { createService, type RunningService } from '../../src/service/service.ts';
import { addPerson, addProject } from '../../src/service/testing/harness.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;
const waitMs = 120_000;
const lookMs = 20;
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

export const driveBytes = 32 * MiB;

export type RigOptions = Pick<ServiceConfig, 'keptSerialBytes' | 'unplugTimeoutMs'>;

export class MachineRig implements AsyncDisposable {
  readonly directory: string;
  readonly files: GuestFiles;
  readonly options: RigOptions;
  caller: Caller;
  catalog: Catalog;
  engine: Qcow2Engine;
  service: RunningService;
  /** Called at every named step of engine and service. */
  onStep: (name: string) => void = () => undefined;

  private constructor(
    parts: Pick<MachineRig, 'directory' | 'files' | 'options' | 'caller' | 'catalog' | 'engine' | 'service'>,
  ) {
    this.directory = parts.directory;
    this.options = parts.options;
    this.files = parts.files;
    this.caller = parts.caller;
    this.catalog = parts.catalog;
    this.engine = parts.engine;
    this.service = parts.service;
  }

  static async start(options: RigOptions = {}): Promise<MachineRig> {
    const directory = await mkdtemp(join(tmpdir(), 'calom-'));
    await mkdir(join(directory, 'boot'));
    await mkdir(join(directory, 'images-in'));
    const files = await buildGuest(join(directory, 'boot'));
    const steps = { on: (_name: string): void => undefined };
    const parts = await open(directory, options, (name) => steps.on(name));
    const projectId: ProjectId = await addProject(parts.catalog, 'default');
    const caller = await addPerson(parts.catalog, 'alice', projectId, 'member');
    const rig = new MachineRig({ directory, files, caller, options, ...parts });
    steps.on = (name) => rig.onStep(name);
    return rig;
  }

  /** A server that ends and starts again; machines and storage daemon go on. `between`: while there is none. */
  async restart(between: () => Promise<void> = async () => undefined): Promise<void> {
    await this.service.close(0);
    await this.engine.close();
    await this.catalog.close();
    try {
      await between();
    } finally {
      Object.assign(this, await open(this.directory, this.options, (name) => this.onStep(name)));
    }
  }

  /** Runs `act` when the step is passed next. */
  atStep(step: string, act: () => void): void {
    this.onStep = (name) => {
      if (name !== step) return;
      this.onStep = () => undefined;
      act();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { items } = await this.service.machines.list(
      this.caller,
      {},
      { by: 'created', order: 'asc' },
      { limit: 1000 },
    );
    for (const machine of items) if (machine.runtime !== null) killIfThere(machine.runtime.pid);
    await this.service.close(0);
    await this.engine.close({ stopProcesses: true });
    await this.catalog.close();
    await rm(this.directory, { recursive: true, force: true });
  }

  /** The task's end. @throws CalotypeError as it failed */
  async done(begun: Task | Promise<Task> | Promise<{ task: Task }>): Promise<Task> {
    const given = await begun;
    const { id } = 'task' in given ? given.task : given;
    const task = await this.service.tasks.waitFor(this.caller, id, waitMs);
    if (task.state === 'done') return task;
    if (task.error !== null) throw new CalotypeError(task.error.code, task.error.message, task.error.details);
    throw new Error(`the task is ${task.state}`);
  }

  async createDrive(name: string, kind: 'empty' | 'ext4' = 'empty', sizeBytes = driveBytes): Promise<DriveId> {
    if (kind === 'empty') {
      const made = await this.service.drives.create(this.caller, { name, sizeBytes });
      await this.done(made.task);
      return made.drive.id;
    }
    const file = `${newId<DriveId>()}.raw`;
    const path = join(this.directory, 'images-in', file);
    await writeFile(path, '');
    await truncate(path, sizeBytes);
    await run('mkfs.ext4', ['-q', '-F', path]);
    const made = await this.service.drives.import(this.caller, { name, format: 'raw', source: { file } });
    await this.done(made.task);
    return made.drive.id;
  }

  async createMachine(
    name: string,
    modes: readonly GuestMode[],
    drives: readonly DriveId[],
    options: GuestOptions & { memoryMiB?: number } = {},
  ): Promise<MachineId> {
    const { memoryMiB = 128, ...more } = options;
    const made = await this.service.machines.create(this.caller, {
      name,
      memoryBytes: memoryMiB * MiB,
      drives: drives.map((driveId) => ({ driveId })),
      boot: {
        from: 'kernel',
        kernel: 'guest-vmlinuz',
        initrd: 'guest-initrd.img',
        append: guestKernelArguments(modes, more),
      },
    });
    await this.done(made.task);
    return made.machine.id;
  }

  machine(id: MachineId): Promise<Machine> {
    return this.service.machines.get(this.caller, id);
  }

  /** Starts it and waits until its guest is ready. */
  async boot(id: MachineId): Promise<void> {
    const from = (await this.serial(id)).length;
    await this.done(this.service.machines.start(this.caller, id, {}));
    await this.line(id, /^CALOTYPE READY$/m, from);
  }

  async snapshot(
    machineId: MachineId,
    options: { memory?: boolean; quiesce?: 'require' | 'prefer' | 'never'; exclude?: readonly DriveId[] } = {},
  ): Promise<Snapshot> {
    const made = await this.service.snapshots.createOfMachine(this.caller, { machineId, ...options });
    await this.done(made.task);
    return this.service.snapshots.get(this.caller, made.snapshot.id);
  }

  async directoryOf(id: MachineId): Promise<string> {
    return join(this.directory, 'run', `m${(await this.machine(id)).number}`);
  }

  /** All that the guest has said. */
  async serial(id: MachineId): Promise<string> {
    const path = MachineProcess.serialLogIn(await this.directoryOf(id));
    return (await readFile(path, 'utf8').catch(() => '')).replaceAll('\r', '');
  }

  /** The first match of what the guest says from character `from` on. */
  async line(id: MachineId, pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    for (const until = Date.now() + waitMs; Date.now() < until; await delay(lookMs)) {
      const found = pattern.exec((await this.serial(id)).slice(from));
      if (found !== null) return found;
    }
    throw new Error(`the guest never said ${pattern}: ${(await this.serial(id)).slice(-500)}`);
  }

  /** Sends a line to the guest and waits for what it says to that. */
  async ask(id: MachineId, question: string, answer: RegExp): Promise<RegExpExecArray> {
    const from = (await this.serial(id)).length;
    await this.service.machines.typeOnConsole(this.caller, id, Buffer.from(`${question}\n`));
    return this.line(id, answer, from);
  }

  async serialSocket(id: MachineId): Promise<string> {
    return MachineProcess.serialSocketIn(await this.directoryOf(id));
  }

  /** The counter in the memory of a guest that stands still: the greatest mark in it. */
  async counterInMemory(id: MachineId): Promise<number> {
    const directory = await this.directoryOf(id);
    const path = join(directory, 'memory.dump');
    const { hardware } = await this.machine(id);
    const { pid, qmp } = this.service.processes.get(id);
    await run('prlimit', ['--pid', String(pid), '--fsize=unlimited:']);
    await qmp.execute('pmemsave', { val: 0, size: hardware.memoryBytes, filename: path });
    const memory = await readFile(path, 'latin1');
    await rm(path);
    let greatest = 0;
    for (const [, digits] of memory.matchAll(/calotype-counter:(\d{20});/g))
      greatest = Math.max(greatest, Number(digits));
    return greatest;
  }

  /** Bytes of a drive snapshot. */
  async read(point: DriveSnapshotId, offset: number, length: number): Promise<Buffer> {
    return this.engine.withReader({ point }, async (target) => {
      const client = await NbdClient.connect(
        { kind: 'unix', path: target.socketPath },
        { exportName: target.exportName },
      );
      try {
        return await client.read(offset, length);
      } finally {
        await client.close();
      }
    });
  }

  /** The number that the guest wrote at an offset of a drive snapshot; 0 where nothing is. */
  async numberAt(point: DriveSnapshotId, offset: number): Promise<number> {
    const text = (await this.read(point, offset, 512)).toString('latin1');
    return Number.parseInt(text, 10) || 0;
  }
}

/** The serial port of a guest, for talking to it also while there is no server. */
export class SerialLine implements Disposable {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  static async open(path: string): Promise<SerialLine> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.on('error', () => undefined).resume();
    return new SerialLine(socket);
  }

  send(text: string): void {
    this.#socket.write(`${text}\n`);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

async function open(
  directory: string,
  options: RigOptions,
  onStep: (name: string) => void,
): Promise<Pick<MachineRig, 'catalog' | 'engine' | 'service'>> {
  const catalog = await Catalog.open(directory);
  const engine = new Qcow2Engine({ catalog, dataDirectory: directory, logger: silent, minFreeBytes: 0, onStep });
  await engine.open();
  const service = await createService({
    catalog,
    engine,
    config: {
      dataDirectory: directory,
      importDirectory: join(directory, 'images-in'),
      bootDirectory: join(directory, 'boot'),
      maxImportBytes: 1024 * MiB,
      maxDriveBytes: 1024 * 1024 * MiB,
      ...options,
      onStep,
    },
    logger: silent,
  });
  return { catalog, engine, service };
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
