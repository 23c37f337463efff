/** A QEMU process as an operator starts one by hand: images of its own, a monitor socket, no guest that runs. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { QmpClient } from '../qmp.ts';

/** One disk, with what it must read as. */
export interface TestDisk {
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
  readonly content: Buffer;
}

export class ForeignMachine implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'calo-foreign-'));
  readonly socket = join(this.directory, 'qmp.sock');
  #child: ChildProcess | undefined;
  #qmp: QmpClient | undefined;

  /** An image of this machine; with `base`, one that stands on another of its images. */
  createDisk(name: string, format: 'qcow2' | 'raw', sizeBytes: number, base?: TestDisk): TestDisk {
    const path = join(this.directory, name);
    const backing = base === undefined ? [] : ['-b', base.path, '-F', base.format];
    execFileSync('qemu-img', ['create', '-q', '-f', format, ...backing, path, String(sizeBytes)]);
    return { path, format, content: base === undefined ? Buffer.alloc(sizeBytes) : Buffer.from(base.content) };
  }

  /** Fills a disk that no process has open. */
  fill(disk: TestDisk, pattern: number, offset: number, length: number): void {
    execFileSync('qemu-io', ['-f', disk.format, '-c', `write -q -P ${pattern} ${offset} ${length}`, disk.path]);
    disk.content.fill(pattern, offset, offset + length);
  }

  /** Starts it on the paths given, one disk each; slot n is `disk<n>`. */
  async start(
    disks: readonly { path: string; format: 'qcow2' | 'raw' }[],
    more: readonly string[] = [],
  ): Promise<void> {
    const drives = disks.flatMap(({ path, format }, at) => [
      '-drive',
      `file=${path},format=${format},if=none,id=drive${at},discard=unmap`,
      '-device',
      `virtio-blk-pci,drive=drive${at},id=disk${at}`,
    ]);
    const monitor = [
      '-chardev',
      `socket,id=q,path=${this.socket},server=on,wait=off`,
      '-mon',
      'chardev=q,mode=control',
    ];
    this.#child = spawn(
      'qemu-system-x86_64',
      ['-nodefaults', '-machine', 'pc,accel=tcg', '-m', '32', '-display', 'none', '-S', ...drives, ...monitor, ...more],
      { cwd: this.directory, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let words = '';
    this.#child.stderr?.on('data', (text: Buffer) => {
      words += text.toString();
    });
    for (;;) {
      if (this.#child.exitCode !== null) throw new Error(`QEMU did not start: ${words}`);
      try {
        readFileSync(`/proc/${this.#child.pid}/cmdline`);
        this.#qmp = await QmpClient.connect(this.socket);
        return;
      } catch {
        await delay(20);
      }
    }
  }

  /** Gives the monitor up, which takes one client at a time. */
  release(): void {
    this.#qmp?.close();
    this.#qmp = undefined;
  }

  /** Writes as the guest would, by whoever has the monitor. */
  static async write(
    qmp: QmpClient,
    at: number,
    disk: TestDisk,
    pattern: number,
    offset: number,
    length: number,
  ): Promise<void> {
    for (const command of [`write -q -P ${pattern} ${offset} ${length}`, 'flush']) {
      const said = await qmp.execute<string>('human-monitor-command', {
        'command-line': `qemu-io drive${at} "${command}"`,
      });
      if (said.trim() !== '') throw new Error(said);
    }
    disk.content.fill(pattern, offset, offset + length);
  }

  async connect(): Promise<QmpClient> {
    this.release();
    return QmpClient.connect(this.socket);
  }

  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
