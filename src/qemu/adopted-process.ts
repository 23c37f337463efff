/**
 * A QEMU process that somebody else started, by its monitor socket. Others may have monitors of their own: nothing is
 * taken for known that was not asked, events that nobody here caused are as good as any, and a connection that ends is
 * the end of this object, not of the machine.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import type { Accelerator } from '../core/model.ts';
import { QmpClient } from './qmp.ts';
import { RunningMachine } from './running-machine.ts';

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

/** Ends for us when the monitor is closed. */
export class AdoptedProcess extends RunningMachine {
  readonly qmp: QmpClient;
  readonly facts: AdoptedFacts;
  readonly agentSocket: string | null;

  private constructor(qmp: QmpClient, facts: AdoptedFacts, agentSocket: string | null) {
    super();
    this.qmp = qmp;
    this.facts = facts;
    this.agentSocket = agentSocket;
    this.follow(qmp);
    qmp.once('close', () => this.emit('end', { expected: this.shutdown, lastWords: '' }));
  }

  /** @throws adoption_refused when nobody listens, somebody else has the monitor, or it is no QEMU that can be worked with */
  static async connect(socketPath: string, agentSocket: string | null): Promise<AdoptedProcess> {
    const qmp = await greet(socketPath);
    try {
      const facts = await ask(qmp, socketPath);
      const found = new AdoptedProcess(qmp, facts, agentSocket);
      await found.refresh();
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

  /** Whether an agent can be asked: where its socket was named, asking tells. */
  async hasAgent(): Promise<boolean> {
    return this.agentSocket !== null;
  }

  /** Ends the process, as pulling the plug does, and waits until the monitor is closed. */
  async powerOff(): Promise<void> {
    this.shutdown = true;
    const gone = this.whenEnded(greetingMs);
    await this.qmp.execute('quit').catch(() => undefined);
    await gone;
  }

  /** Lets go of the process, which runs on. */
  release(): void {
    this.qmp.close();
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
