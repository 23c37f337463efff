/**
 * A machine's QEMU process. It is started detached and outlives the server, who finds it again by its monitor socket. Its
 * drives are NBD exports of the storage daemon, so that everything the engine does to an exported drive, from snapshots to
 * merges, goes on under a running guest without its process having to know.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import type { Accelerator, MachineHardware } from '../core/model.ts';
import { ProcessLog } from './process-log.ts';
import { QmpClient, type QmpCommand, type QmpEvent } from './qmp.ts';
import { RunningMachine } from './running-machine.ts';
import { SerialInput } from './serial-input.ts';
import { limitedCommand, type SerialLog } from './serial-log.ts';

export interface MachineDrive {
  readonly slot: number;
  readonly exportName: string;
  readonly socketPath: string;
  /** What the guest sees as the disk's serial number; at most 20 characters. */
  readonly serial: string;
}

export interface MachineProcessSpec {
  /** UUID: what the firmware tells the guest, and how the process is known again. */
  readonly id: string;
  readonly hardware: MachineHardware;
  readonly accelerator: Accelerator;
  /** Absolute paths. */
  readonly kernel: { readonly kernel: string; readonly initrd: string | null; readonly append: string } | null;
  readonly drives: readonly MachineDrive[];
  /** Waits for a stream of memory instead of starting. */
  readonly incoming: boolean;
}

/** PCI addresses are fixed, so that a machine that comes back has every device where its guest knows it. */
const firstDriveAddress = 0x10;
export const maxSlots = 15;
const startDeadlineMs = 30_000;
const connectMs = 5;
const exitDeadlineMs = 10_000;
const reconnectMs = 50;

export const nodeOfSlot = (slot: number): string => `d${slot}`;
const deviceOfSlot = (slot: number): string => `disk${slot}`;

interface Facts {
  readonly pid: number;
  readonly version: string;
  readonly accelerator: Accelerator;
  readonly said: ProcessLog;
}

export class MachineProcess extends RunningMachine {
  readonly directory: string;
  readonly pid: number;
  readonly qemuVersion: string;
  readonly accelerator: Accelerator;
  readonly serialInput: SerialInput;
  #qmp: QmpClient;
  #ended = false;
  #released = false;
  readonly #said: ProcessLog;

  private constructor(directory: string, qmp: QmpClient, log: SerialLog, facts: Facts) {
    super();
    this.directory = directory;
    this.pid = facts.pid;
    this.qemuVersion = facts.version;
    this.accelerator = facts.accelerator;
    this.#said = facts.said;
    this.#qmp = qmp;
    this.serialInput = new SerialInput(MachineProcess.serialSocketIn(directory), () => log.wake());
    this.#listen(qmp);
  }

  /** The agent's socket, whether or not a guest answers on it. */
  static agentSocketIn = (directory: string): string => join(directory, 'agent.sock');
  static serialLogIn = (directory: string): string => join(directory, 'serial.log');
  /** Of a process that is gone: QEMU takes its pid file away when it ends in good order. */
  static endedWell = (directory: string): boolean => !existsSync(join(directory, 'qemu.pid'));
  static serialSocketIn = (directory: string): string => join(directory, 'serial.sock');

  /** Starts a process, its guest not running yet. @throws machine_failed, qemu_missing */
  static async start(directory: string, spec: MachineProcessSpec, serialLog: SerialLog): Promise<MachineProcess> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    for (const name of ['qmp.sock', 'agent.sock', 'serial.sock']) rmSync(join(directory, name), { force: true });
    const said = new ProcessLog(join(directory, 'qemu.log'));
    const log = openSync(said.path, 'a', 0o600);
    const command = ['qemu-system-x86_64', ...argumentsOf(directory, spec)];
    const child = spawn(...limitedCommand(await serialLog.limit(), command), {
      cwd: directory,
      detached: true,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    let failure: string | undefined;
    child.once('error', (error) => {
      failure = error.message;
    });
    child.once('exit', (code, signal) => {
      failure ??= code === 127 ? 'qemu-system-x86_64 is not installed' : `it ended with ${signal ?? `code ${code}`}`;
    });
    child.unref();
    for (const deadline = Date.now() + startDeadlineMs; failure === undefined && Date.now() < deadline; ) {
      const qmp = await connectIfListening(join(directory, 'qmp.sock'));
      if (qmp !== null) return await MachineProcess.#greet(directory, qmp, serialLog, said);
      await delay(connectMs);
    }
    if (child.pid !== undefined) killIfThere(child.pid);
    throw new CalotypeError(
      'machine_failed',
      `QEMU did not start: ${[failure ?? 'no answer', said.lastWords()].filter((part) => part !== '').join('. ')}`,
    );
  }

  /** The process that runs in a directory, if one does and is of this machine. */
  static async adopt(directory: string, id: string, serialLog: SerialLog): Promise<MachineProcess | null> {
    const qmp = await connectIfListening(join(directory, 'qmp.sock'));
    if (qmp === null) return null;
    const { UUID: uuid } = await qmp.execute<{ UUID: string }>('query-uuid');
    if (uuid !== id) {
      qmp.close();
      throw new CalotypeError('machine_failed', `Another machine (${uuid}) runs in ${directory}.`);
    }
    const found = await MachineProcess.#greet(directory, qmp, serialLog, new ProcessLog(join(directory, 'qemu.log')));
    await found.refresh();
    return found;
  }

  static async #greet(
    directory: string,
    qmp: QmpClient,
    serialLog: SerialLog,
    said: ProcessLog,
  ): Promise<MachineProcess> {
    const { qemu } = await qmp.execute<{ qemu: { major: number; minor: number; micro: number } }>('query-version');
    const version = `${qemu.major}.${qemu.minor}.${qemu.micro}`;
    const pid = Number.parseInt(readFileSync(join(directory, 'qemu.pid'), 'utf8'), 10);
    const { enabled } = await qmp.execute<{ enabled: boolean }>('query-kvm');
    return new MachineProcess(directory, qmp, serialLog, {
      pid,
      version,
      accelerator: enabled ? 'kvm' : 'tcg',
      said,
    });
  }

  get qmp(): QmpClient {
    return this.#qmp;
  }

  get ended(): boolean {
    return this.#ended;
  }

  get agentSocket(): string {
    return MachineProcess.agentSocketIn(this.directory);
  }

  /** Whether an agent in the guest has its port open. */
  async hasAgent(): Promise<boolean> {
    const devices = await this.#qmp.execute<{ label: string; 'frontend-open': boolean }[]>('query-chardev');
    return devices.some((device) => device.label === 'agent' && device['frontend-open']);
  }

  /** Ends the process, as pulling the plug does, and waits until it is gone. */
  async powerOff(): Promise<void> {
    if (this.#ended) return;
    this.shutdown = true;
    const gone = this.whenEnded(exitDeadlineMs);
    // A QEMU that hangs never answers.
    this.#qmp.execute('quit').catch(() => undefined);
    if (await gone) return;
    killIfThere(this.pid);
    await this.whenEnded(exitDeadlineMs);
  }

  /** Whether these commands are answered in time, be it with a refusal; the process is killed, and gone, if they are not. */
  async answers(commands: readonly QmpCommand[], timeoutMs: number): Promise<boolean> {
    const answered = this.#qmp.executeEach(commands).then(() => true);
    if (await Promise.race([answered, delay(timeoutMs, false, { ref: false })])) return true;
    killIfThere(this.pid);
    await this.whenEnded(exitDeadlineMs);
    return false;
  }

  /** Lets go of the process, which runs on. */
  release(): void {
    this.#released = true;
    this.serialInput.close();
    this.#qmp.close();
  }

  /** Plugs a drive into a free slot. @throws engine_failed */
  async plug(drive: MachineDrive): Promise<void> {
    if ((await this.slots()).has(drive.slot)) return;
    await this.#qmp.execute('blockdev-add', blockNode(drive));
    try {
      await this.#qmp.execute('device_add', { driver: 'virtio-blk-pci', ...diskDevice(drive) });
    } catch (error) {
      await this.#qmp.execute('blockdev-del', { 'node-name': nodeOfSlot(drive.slot) }).catch(() => undefined);
      throw error;
    }
  }

  /**
   * Unplugs a drive. The guest has to let go of it.
   * @returns whether it did in time; else the drive may yet go, later
   */
  async unplug(slot: number, timeoutMs: number): Promise<boolean> {
    if ((await this.slots()).has(slot) && !(await this.#deviceGone(deviceOfSlot(slot), timeoutMs))) return false;
    await this.#qmp.execute('blockdev-del', { 'node-name': nodeOfSlot(slot) }).catch((error: unknown) => {
      if (!/Failed to find node/.test(String(error))) throw error;
    });
    return true;
  }

  /** The slots whose drives the guest has. */
  async slots(): Promise<ReadonlySet<number>> {
    const blocks = await this.#qmp.execute<{ qdev?: string }[]>('query-block');
    const found = blocks.map(({ qdev }) => /\/disk(\d+)(\/|$)/.exec(`/${qdev ?? ''}`)?.[1]);
    return new Set(found.flatMap((slot) => (slot === undefined ? [] : Number(slot))));
  }

  #deviceGone(device: string, timeoutMs: number): Promise<boolean> {
    return new Promise<boolean>((resolve, reject) => {
      const finish = (gone: boolean): void => {
        clearTimeout(timer);
        this.off('qmp', onEvent);
        this.off('end', onEnd);
        resolve(gone);
      };
      const onEnd = (): void => finish(false);
      const onEvent = (event: QmpEvent): void => {
        if (event.event === 'DEVICE_DELETED' && event.data?.device === device) finish(true);
      };
      const timer = setTimeout(() => finish(false), timeoutMs);
      this.on('qmp', onEvent);
      this.once('end', onEnd);
      this.#qmp.execute('device_del', { id: device }).catch((error: unknown) => {
        // The guest was asked before, and has yet to answer.
        if (/already in the process of unplug/.test(String(error))) return;
        finish(false);
        reject(error);
      });
    });
  }

  #listen(qmp: QmpClient): void {
    this.follow(qmp);
    qmp.once('close', () => void this.#onLost());
  }

  /** The monitor closed: the process is gone, or somebody cut the connection and it is made again. */
  async #onLost(): Promise<void> {
    while (!this.#released && isThere(this.pid)) {
      const qmp = await connectIfListening(join(this.directory, 'qmp.sock'));
      if (qmp !== null) {
        this.#qmp = qmp;
        this.#listen(qmp);
        await this.refresh().catch(() => undefined);
        this.emit('unplugged');
        return;
      }
      await delay(this.shutdown ? connectMs : reconnectMs);
    }
    if (this.#released || this.#ended) return;
    this.#ended = true;
    this.emit('end', { expected: this.shutdown, lastWords: this.#said.lastWords() });
  }
}

function argumentsOf(directory: string, spec: MachineProcessSpec): string[] {
  const { hardware, accelerator, kernel } = spec;
  const socket = (id: string, name: string, more = ''): string[] => [
    '-chardev',
    `socket,id=${id},path=${escaped(join(directory, name))},server=on,wait=off${more}`,
  ];
  return [
    ...['-name', `calotype-${spec.id},process=calotype-machine`, '-uuid', spec.id],
    // What takes long to write down while the guest stands still, and is not needed: VMware's mouse, hotplug on bridges,
    // and the queues of virtio 1.0, 1024 a device, where the older protocol does as well.
    ...['-machine', `${hardware.machineType},accel=${accelerator},vmport=off`],
    ...['-global', 'PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off'],
    ...['-cpu', accelerator === 'kvm' ? 'host' : 'max'],
    ...['-smp', String(hardware.cpus), '-m', `${hardware.memoryBytes / 1024}k`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-S'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-pidfile', join(directory, 'qemu.pid')],
    ...socket('monitor', 'qmp.sock'),
    ...['-mon', 'chardev=monitor,mode=control'],
    ...socket('serial', 'serial.sock', `,logfile=${escaped(MachineProcess.serialLogIn(directory))},logappend=on`),
    ...['-serial', 'chardev:serial'],
    ...socket('agent', 'agent.sock'),
    ...['-device', 'virtio-serial-pci,id=ports,addr=0x4,disable-modern=on'],
    ...['-device', 'virtserialport,bus=ports.0,chardev=agent,name=org.qemu.guest_agent.0'],
    ...['-device', 'virtio-rng-pci,addr=0x5,disable-modern=on'],
    // The guest has a network card, but no way out of the machine.
    ...['-netdev', 'user,id=net,restrict=on'],
    ...['-device', `virtio-net-pci,netdev=net,mac=${hardware.macAddress},addr=0x3,romfile=,disable-modern=on`],
    ...(kernel === null ? [] : kernelArguments(kernel)),
    ...(spec.incoming ? ['-incoming', 'defer'] : []),
    ...spec.drives.flatMap((drive) => [
      ...['-blockdev', JSON.stringify(blockNode(drive))],
      ...['-device', JSON.stringify({ driver: 'virtio-blk-pci', ...diskDevice(drive), bootindex: drive.slot + 1 })],
    ]),
  ];
}

function kernelArguments(kernel: { kernel: string; initrd: string | null; append: string }): string[] {
  return [
    ...['-kernel', kernel.kernel],
    ...(kernel.initrd === null ? [] : ['-initrd', kernel.initrd]),
    ...(kernel.append === '' ? [] : ['-append', kernel.append]),
  ];
}

/**
 * No reconnecting: a storage daemon that died may have forgotten writes that the guest was told are done and had not
 * flushed, which only a guest that starts afresh can bear.
 */
function blockNode(drive: MachineDrive): Record<string, unknown> {
  return {
    driver: 'nbd',
    'node-name': nodeOfSlot(drive.slot),
    server: { type: 'unix', path: drive.socketPath },
    export: drive.exportName,
    discard: 'unmap',
  };
}

function diskDevice(drive: MachineDrive): Record<string, unknown> {
  return {
    id: deviceOfSlot(drive.slot),
    drive: nodeOfSlot(drive.slot),
    addr: `0x${(firstDriveAddress + drive.slot).toString(16)}`,
    serial: drive.serial,
    'write-cache': 'on',
    werror: 'stop',
    rerror: 'stop',
  };
}

/** A comma in an option value is written twice. */
function escaped(path: string): string {
  return path.replaceAll(',', ',,');
}

async function connectIfListening(path: string): Promise<QmpClient | null> {
  if (!existsSync(path)) return null;
  try {
    return await QmpClient.connect(path);
  } catch {
    return null;
  }
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
