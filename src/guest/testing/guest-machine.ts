/**
 * Runs the test guest in a QEMU of its own, without the engine: raw files as drives, the serial port on pipes. For tests
 * of the guest itself and of what talks to its agent.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type { Accelerator } from '../../core/model.ts';
import { chooseAccelerator } from '../../qemu/accelerator.ts';
import { QmpClient } from '../../qemu/qmp.ts';
import { buildGuest, type GuestFiles, type GuestMode, type GuestOptions, guestKernelArguments } from '../build.ts';

const lineDeadlineMs = 40_000;
const connectMs = 5;

export interface GuestMachineSpec extends GuestOptions {
  readonly modes: readonly GuestMode[];
  /** Raw files: vda, vdb and so on. */
  readonly drives?: readonly string[];
}

/**
 * The guest's files, in `directory`. Where they cannot be had, null after printing why; with CI set, an error.
 */
export async function guestFilesOrNull(directory: string): Promise<GuestFiles | null> {
  try {
    return await buildGuest(directory);
  } catch (error) {
    if (process.env.CI !== undefined) throw error;
    console.warn(`Tests with a guest are skipped. ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
}

let accelerator: Promise<Accelerator> | undefined;

/**
 * A /dev/kvm without the processor's help behind it (PVM, for instance) runs firmware, but takes minutes to unpack a kernel.
 */
async function accelerate(): Promise<Accelerator> {
  const hasHardware = /^flags.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
  return hasHardware ? (await chooseAccelerator()).accelerator : 'tcg';
}

export class GuestMachine implements AsyncDisposable {
  readonly qmp: QmpClient;
  readonly agentSocketPath: string;
  /** What the serial port said, line by line. */
  readonly lines: string[] = [];
  /** Resolves when the process is gone. */
  readonly ended: Promise<unknown>;
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #listeners = new Set<() => void>();
  #hasEnded = false;
  #errors = '';

  private constructor(child: ChildProcessByStdio<Writable, Readable, Readable>, qmp: QmpClient, directory: string) {
    this.#child = child;
    this.qmp = qmp;
    this.agentSocketPath = join(directory, 'agent.sock');
    this.ended = once(child, 'close').then(() => {
      this.#hasEnded = true;
      this.#wake();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    let rest = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop() ?? '';
      this.lines.push(...parts.map((line) => line.replace(/\r$/, '')));
      this.#wake();
    });
  }

  /** Starts it in an empty directory; `line(/CALOTYPE READY/)` waits for the guest. */
  static async boot(directory: string, files: GuestFiles, spec: GuestMachineSpec): Promise<GuestMachine> {
    accelerator ??= accelerate();
    const monitor = join(directory, 'qmp.sock');
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-machine', `pc,accel=${await accelerator}`, '-m', '256', '-smp', '1', '-nodefaults'],
        ...['-display', 'none', '-no-reboot', '-serial', 'stdio', '-qmp', `unix:${monitor},server=on,wait=off`],
        ...['-kernel', files.kernel, '-initrd', files.initrd, '-append', guestKernelArguments(spec.modes, spec)],
        ...['-device', 'virtio-serial-pci'],
        ...['-chardev', `socket,id=agent,path=${join(directory, 'agent.sock')},server=on,wait=off`],
        ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
        ...['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-pci,netdev=net,romfile='],
        ...(spec.drives ?? []).flatMap((path, index) => [
          ...['-blockdev', JSON.stringify(driveNode(`drive${index}`, path))],
          ...['-device', `virtio-blk-pci,drive=drive${index}`],
        ]),
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    // The guest may power off while a line is on its way.
    child.stdin.on('error', () => undefined);
    try {
      return new GuestMachine(child, await connectMonitor(monitor), directory);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** The first match of all lines, waited for. @throws Error after a time limit, or when QEMU ends */
  line(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#lineFrom(0, pattern);
  }

  /** The first match of the lines from now on. */
  nextLine(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#lineFrom(this.lines.length, pattern);
  }

  /** Sends a line to the serial port and waits for the answer. */
  ask(question: string, answer: RegExp): Promise<RegExpExecArray> {
    const found = this.nextLine(answer);
    this.send(question);
    return found;
  }

  send(text: string): void {
    this.#child.stdin.write(`${text}\n`);
  }

  async plug(id: string, path: string): Promise<void> {
    await this.qmp.execute('blockdev-add', driveNode(id, path));
    await this.qmp.execute('device_add', { driver: 'virtio-blk-pci', drive: id, id: `device-${id}` });
  }

  async unplug(id: string): Promise<void> {
    await this.qmp.execute('device_del', { id: `device-${id}` });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) this.#child.kill('SIGKILL');
    await this.ended;
    this.qmp.close();
  }

  #wake(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  #lineFrom(start: number, pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      let at = start;
      const finish = (settle: () => void): void => {
        clearTimeout(timer);
        this.#listeners.delete(look);
        settle();
      };
      const fail = (why: string): void => {
        const last = [...this.lines.slice(-8), this.#errors].join('\n');
        finish(() => reject(new Error(`${why} before a line matched ${pattern}. The last ones:\n${last}`)));
      };
      const look = (): void => {
        for (; at < this.lines.length; at++) {
          const found = pattern.exec(this.lines[at] ?? '');
          if (found !== null) {
            finish(() => resolve(found));
            return;
          }
        }
        if (this.#hasEnded) fail('QEMU ended');
      };
      const timer = setTimeout(() => fail(`${lineDeadlineMs} ms went by`), lineDeadlineMs);
      this.#listeners.add(look);
      look();
    });
  }
}

function driveNode(id: string, path: string): Record<string, unknown> {
  return { driver: 'raw', 'node-name': id, file: { driver: 'file', filename: path } };
}

async function connectMonitor(path: string): Promise<QmpClient> {
  for (const deadline = Date.now() + lineDeadlineMs; ; ) {
    try {
      return await QmpClient.connect(path);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await delay(connectMs);
    }
  }
}
