/** The baseline for memory: the same guest in a QEMU of its own, qcow2 drives attached directly, saved by QEMU's `snapshot-save`. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { buildGuest, guestKernelArguments } from '../src/guest/build.ts';
import { chooseAccelerator } from '../src/qemu/accelerator.ts';
import { QmpClient, type QmpEvent } from '../src/qemu/qmp.ts';
import type { MachineShape } from './bench-machine.ts';
import { SerialPort } from './serial-port.ts';
import { temporaryDirectory } from './support.ts';

export class PlainQemu {
  readonly serial: SerialPort;
  readonly #qmp: QmpClient;
  readonly #child: ChildProcess;
  readonly #directory: string;
  readonly #nodes: readonly string[];
  #saved = 0;

  private constructor(parts: { directory: string; child: ChildProcess; qmp: QmpClient; nodes: readonly string[] }) {
    this.#directory = parts.directory;
    this.#child = parts.child;
    this.#qmp = parts.qmp;
    this.#nodes = parts.nodes;
    this.serial = new SerialPort(join(parts.directory, 'serial.log'), join(parts.directory, 'serial.sock'));
  }

  /** Its guest is ready. */
  static async start(shape: MachineShape): Promise<PlainQemu> {
    const directory = temporaryDirectory('plain');
    const guest = await buildGuest(directory);
    const { accelerator } = await chooseAccelerator();
    const nodes = Array.from({ length: shape.drives }, (_, index) => `d${index}`);
    for (const node of nodes) {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, `${node}.qcow2`), '1G']);
    }
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-machine', `pc,accel=${accelerator}`, '-cpu', accelerator === 'kvm' ? 'host' : 'max'],
        ...['-m', `${shape.memoryMiB}M`, '-nodefaults', '-no-user-config', '-display', 'none'],
        ...['-qmp', `unix:${join(directory, 'qmp.sock')},server=on,wait=off`],
        ...['-chardev', `socket,id=serial,path=${join(directory, 'serial.sock')},server=on,wait=off`],
        ...['-set', `chardev.serial.logfile=${join(directory, 'serial.log')}`, '-serial', 'chardev:serial'],
        ...['-device', 'virtio-serial-pci', '-device', 'virtio-rng-pci'],
        ...['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-pci,netdev=net,romfile='],
        ...['-kernel', guest.kernel, '-initrd', guest.initrd, '-append', guestKernelArguments(shape.modes)],
        ...nodes.flatMap((node) => [
          '-blockdev',
          JSON.stringify({
            driver: 'qcow2',
            'node-name': node,
            cache: { direct: true },
            file: { driver: 'file', filename: join(directory, `${node}.qcow2`), cache: { direct: true } },
          }),
          ...['-device', `virtio-blk-pci,drive=${node}`],
        ]),
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const qmp = await connect(join(directory, 'qmp.sock'), child);
    const started = new PlainQemu({ directory, child, qmp, nodes });
    await started.serial.line(/^CALOTYPE READY$/m);
    return started;
  }

  /** Saves drives and memory by QEMU's own job. @returns how long the guest stood still, by the times of QEMU's events, ms */
  async snapshotSave(): Promise<number> {
    const times = new Map<string, number>();
    const ended = Promise.withResolvers<void>();
    const id = `save${this.#saved++}`;
    const onEvent = (event: QmpEvent): void => {
      times.set(event.event, event.atUs);
      if (event.event === 'JOB_STATUS_CHANGE' && event.data?.status === 'concluded') ended.resolve();
    };
    this.#qmp.on('event', onEvent);
    await this.#qmp.execute('snapshot-save', {
      'job-id': id,
      tag: id,
      vmstate: this.#nodes[0],
      devices: this.#nodes,
    });
    await ended.promise;
    this.#qmp.off('event', onEvent);
    const jobs = await this.#qmp.execute<{ id: string; error?: string }[]>('query-jobs');
    const failure = jobs.find((job) => job.id === id)?.error;
    if (failure !== undefined) throw new Error(`snapshot-save: ${failure}`);
    await this.#qmp.execute('job-dismiss', { id });
    return ((times.get('RESUME') ?? Number.NaN) - (times.get('STOP') ?? Number.NaN)) / 1000;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
    this.#qmp.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

async function connect(path: string, child: ChildProcess): Promise<QmpClient> {
  for (;;) {
    try {
      return await QmpClient.connect(path);
    } catch (error) {
      if (child.exitCode !== null) throw error;
      await delay(5);
    }
  }
}
