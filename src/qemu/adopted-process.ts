/**
 * A QEMU process that somebody else started, by its monitor socket. Others may have monitors of their own: nothing is
 * taken for known that was not asked, events that nobody here caused are as good as any, and a connection that ends is
 * the end of this object, not of the machine.
 */
import { EventEmitter } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import type { Accelerator } from '../core/model.ts';
import type { MachinePower } from '../core/states.ts';
import type { MachineEnd } from './machine-process.ts';
import { QmpClient, type QmpEvent } from './qmp.ts';

/** What a process says of itself. */
export interface AdoptedFacts {
  /** 0 where it cannot be seen from here. */
  readonly pid: number;
  readonly qemuVersion: string;
  readonly accelerator: Accelerator;
  readonly machineType: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  /** What its relative paths begin with; null where it cannot be seen from here. */
  readonly workingDirectory: string | null;
}

const greetingMs = 5000;
const oldestVersion = [7, 2] as const;

/** Emits `power` when the guest pauses or goes on, and `end` once the monitor is closed. */
export class AdoptedProcess extends EventEmitter<{ power: [MachinePower]; end: [MachineEnd]; qmp: [QmpEvent] }> {
  readonly qmp: QmpClient;
  readonly facts: AdoptedFacts;
  readonly agentSocket: string | null;
  #power: MachinePower = 'paused';
  #shutdown = false;

  private constructor(qmp: QmpClient, facts: AdoptedFacts, agentSocket: string | null) {
    super();
    this.qmp = qmp;
    this.facts = facts;
    this.agentSocket = agentSocket;
    this.setMaxListeners(0);
    qmp.setMaxListeners(0);
    qmp.on('event', (event) => this.#take(event));
    qmp.once('close', () => this.emit('end', { expected: this.#shutdown, lastWords: '' }));
  }

  /** @throws adoption_refused when nobody listens, somebody else has the monitor, or it is no QEMU that can be worked with */
  static async connect(socketPath: string, agentSocket: string | null): Promise<AdoptedProcess> {
    const qmp = await greet(socketPath);
    try {
      const facts = await ask(qmp, socketPath);
      const found = new AdoptedProcess(qmp, facts, agentSocket);
      found.#power = await found.#ask();
      return found;
    } catch (error) {
      qmp.close();
      if (error instanceof CalotypeError && error.code === 'adoption_refused') throw error;
      throw refused(`What listens on ${socketPath} does not answer as QEMU does.`, { cause: error });
    }
  }

  get pid(): number {
    return this.facts.pid;
  }

  get qemuVersion(): string {
    return this.facts.qemuVersion;
  }

  get accelerator(): Accelerator {
    return this.facts.accelerator;
  }

  get ended(): boolean {
    return this.qmp.closed;
  }

  get power(): MachinePower {
    return this.ended ? 'off' : this.#power;
  }

  /** Whether an agent can be asked: where its socket was named, asking tells. */
  async hasAgent(): Promise<boolean> {
    return this.agentSocket !== null;
  }

  async pressPowerButton(): Promise<void> {
    await this.qmp.execute('system_powerdown');
  }

  /** Ends the process, as pulling the plug does, and waits until the monitor is closed. */
  async powerOff(): Promise<void> {
    this.#shutdown = true;
    const gone = this.whenEnded(greetingMs);
    await this.qmp.execute('quit').catch(() => undefined);
    await gone;
  }

  /** Resolves once the monitor is closed, or with false after `timeoutMs`. */
  async whenEnded(timeoutMs: number): Promise<boolean> {
    if (this.ended) return true;
    return new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => finish(false), timeoutMs).unref();
      const onEnd = (): void => finish(true);
      const finish = (ended: boolean): void => {
        clearTimeout(timer);
        this.off('end', onEnd);
        resolve(ended);
      };
      this.once('end', onEnd);
    });
  }

  /** Lets go of the process, which runs on. */
  release(): void {
    this.qmp.close();
  }

  async #ask(): Promise<MachinePower> {
    const { running } = await this.qmp.execute<{ running: boolean }>('query-status');
    return running ? 'running' : 'paused';
  }

  #take(event: QmpEvent): void {
    if (event.event === 'RESUME') this.#see('running');
    else if (event.event === 'STOP') this.#see('paused');
    else if (event.event === 'SHUTDOWN') this.#shutdown = true;
    this.emit('qmp', event);
  }

  #see(power: MachinePower): void {
    if (this.#power === power) return;
    this.#power = power;
    this.emit('power', power);
  }
}

function refused(reason: string, options: { cause?: unknown; remedy?: string } = {}): CalotypeError {
  const { cause, remedy } = options;
  return new CalotypeError('adoption_refused', reason, remedy === undefined ? {} : { remedy }, { cause });
}

/** QEMU greets one client at a time; the others wait without a word. */
async function greet(socketPath: string): Promise<QmpClient> {
  const connecting = QmpClient.connect(socketPath).catch((cause: unknown) => {
    throw refused(`No QEMU monitor answers on ${socketPath}.`, { cause });
  });
  const silence = delay(greetingMs).then(() => null);
  const qmp = await Promise.race([connecting, silence]);
  if (qmp !== null) return qmp;
  connecting.then(
    (late) => late.close(),
    () => undefined,
  );
  throw refused(`What listens on ${socketPath} says nothing.`, {
    remedy: 'A monitor takes one client at a time: give the machine one for this server.',
  });
}

async function ask(qmp: QmpClient, socketPath: string): Promise<AdoptedFacts> {
  const { qemu } = await qmp.execute<{ qemu: { major: number; minor: number; micro: number } }>('query-version');
  const qemuVersion = `${qemu.major}.${qemu.minor}.${qemu.micro}`;
  const [major, minor] = oldestVersion;
  if (qemu.major < major || (qemu.major === major && qemu.minor < minor)) {
    throw refused(`The machine runs QEMU ${qemuVersion}; ${major}.${minor} and newer can be adopted.`);
  }
  const { enabled } = await qmp.execute<{ enabled: boolean }>('query-kvm');
  const memory = await qmp.execute<{ 'base-memory': number; 'plugged-memory'?: number }>('query-memory-size-summary');
  const cpus = await qmp.execute<unknown[]>('query-cpus-fast');
  const type = await qmp.execute<string>('qom-get', { path: '/machine', property: 'type' });
  const pid = processListeningOn(socketPath);
  return {
    pid,
    qemuVersion,
    accelerator: enabled ? 'kvm' : 'tcg',
    machineType: type.replace(/-machine$/, ''),
    cpus: cpus.length,
    memoryBytes: memory['base-memory'] + (memory['plugged-memory'] ?? 0),
    workingDirectory: workingDirectoryOf(pid),
  };
}

/** The process that has a unix socket open; 0 where that cannot be seen. */
function processListeningOn(socketPath: string): number {
  try {
    const line = readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .find((candidate) => candidate.endsWith(` ${socketPath}`) && candidate.split(/\s+/)[3] === '00010000');
    const socket = `socket:[${line?.trim().split(/\s+/)[6]}]`;
    if (line === undefined) return 0;
    for (const name of readdirSync('/proc')) {
      if (/^\d+$/.test(name) && opensOf(name).includes(socket)) return Number(name);
    }
  } catch {
    // A system without that table.
  }
  return 0;
}

function opensOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`) ?? '');
  } catch {
    return [];
  }
}

const workingDirectoryOf = (pid: number): string | null => (pid === 0 ? null : linkOf(`/proc/${pid}/cwd`));

function linkOf(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}
