/** A running machine of a benchmark's server, with the test guest in it, driven over HTTP. */
import { join } from 'node:path';
import { buildGuest, type GuestMode, guestKernelArguments } from '../src/guest/build.ts';
import type { MachineBody, SnapshotBody } from '../src/http/schemas.ts';
import { SerialPort } from './serial-port.ts';
import { BenchServer, temporaryDirectory } from './support.ts';

const MiB = 1024 * 1024;
const driveBytes = 1024 * MiB;

export interface MachineShape {
  readonly name: string;
  readonly memoryMiB: number;
  readonly modes: readonly GuestMode[];
  readonly drives: number;
}

/** A server whose machines can boot the test guest. @throws Error that says what to do, when the guest cannot be had */
export async function startServer(name: string): Promise<BenchServer> {
  const directory = temporaryDirectory(name);
  await buildGuest(join(directory, 'boot'));
  return BenchServer.start(directory);
}

export class BenchMachine {
  readonly id: string;
  readonly serial: SerialPort;
  readonly #server: BenchServer;

  private constructor(server: BenchServer, machine: MachineBody) {
    const run = join(server.directory, 'run', `m${machine.number}`);
    this.id = machine.id;
    this.serial = new SerialPort(join(run, 'serial.log'), join(run, 'serial.sock'));
    this.#server = server;
  }

  /** Its guest is ready. */
  static async start(server: BenchServer, shape: MachineShape): Promise<BenchMachine> {
    const drives: { driveId: string }[] = [];
    for (let i = 0; i < shape.drives; i++) {
      drives.push({ driveId: await server.createDrive(`${shape.name}-${i}`, driveBytes) });
    }
    const { machine } = await server.done<{ machine: MachineBody }>('POST', '/v1/machines', {
      name: shape.name,
      memoryBytes: shape.memoryMiB * MiB,
      drives,
      boot: {
        from: 'kernel',
        kernel: 'guest-vmlinuz',
        initrd: 'guest-initrd.img',
        append: guestKernelArguments(shape.modes),
      },
    });
    const started = new BenchMachine(server, machine);
    await server.done('POST', `/v1/machines/${machine.id}/start`, {});
    await started.serial.line(/^CALOTYPE READY$/m);
    return started;
  }

  async snapshot(options: { memory?: boolean; quiesce?: 'never' } = {}): Promise<SnapshotBody> {
    const body = { machineId: this.id, ...options };
    const { snapshot } = await this.#server.done<{ snapshot: SnapshotBody }>('POST', '/v1/snapshots', body);
    return snapshot;
  }

  /** How long the guest stood still for a snapshot, by the times of QEMU's events, ms. */
  async pauseMs(snapshot: SnapshotBody): Promise<number> {
    const { body } = await this.#server.call('GET', `/v1/snapshots/${snapshot.id}`);
    const { machine } = body as SnapshotBody;
    if (machine?.pauseMilliseconds == null) throw new Error('the snapshot does not say how long the guest stood still');
    return machine.pauseMilliseconds;
  }

  async revert(snapshot: SnapshotBody, options: { keepSafety: boolean }): Promise<void> {
    await this.#server.done('POST', `/v1/snapshots/${snapshot.id}/revert`, options);
  }

  async powerOff(): Promise<void> {
    await this.#server.done('POST', `/v1/machines/${this.id}/stop`, { mode: 'power' });
  }
}
