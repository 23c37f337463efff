/** What a QEMU process that runs a machine is to everybody else, whoever started it: what its guest does, and its end. */
import { EventEmitter } from 'node:events';
import type { Accelerator } from '../core/model.ts';
import type { MachinePower } from '../core/states.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';

/** Why a process ended. */
export interface MachineEnd {
  /** The guest or an operator shut it down in good order. */
  readonly expected: boolean;
  /** What QEMU wrote last, for people. */
  readonly lastWords: string;
}

interface MachineEvents {
  /** The guest begins, pauses or goes on. */
  power: [MachinePower];
  /** The guest has let go of a drive, or may have while the connection was cut. */
  unplugged: [];
  /** Once, when the process is gone, or cannot be reached any more where somebody else runs it. */
  end: [MachineEnd];
  qmp: [QmpEvent];
}

export abstract class RunningMachine extends EventEmitter<MachineEvents> {
  #power: MachinePower = 'paused';
  /** It was asked to end, or said that it does. */
  protected shutdown = false;

  constructor() {
    super();
    this.setMaxListeners(0);
  }

  /** The present connection to its monitor. */
  abstract get qmp(): QmpClient;
  abstract get ended(): boolean;
  /** 0 where it cannot be seen from here. */
  abstract get pid(): number;
  abstract get qemuVersion(): string;
  abstract get accelerator(): Accelerator;
  /** The socket of the guest's agent; null where none is known. */
  abstract get agentSocket(): string | null;

  /** Whether an agent can be asked. */
  abstract hasAgent(): Promise<boolean>;

  /** Ends the process, as pulling the plug does, and waits until it is gone. */
  abstract powerOff(): Promise<void>;

  get power(): MachinePower {
    return this.ended ? 'off' : this.#power;
  }

  /** QEMU's own word for what it does, such as `running`, `paused`, `io-error`. */
  async status(): Promise<string> {
    return (await this.qmp.execute<{ status: string }>('query-status')).status;
  }

  /** Asks what the guest does by now. */
  async refresh(): Promise<void> {
    this.#see((await this.status()) === 'running' ? 'running' : 'paused');
  }

  /** Presses the power button. Whether the guest obeys shows in `whenEnded`. */
  async pressPowerButton(): Promise<void> {
    await this.qmp.execute('system_powerdown');
  }

  /** Resolves at its end, or with false after `timeoutMs`. */
  async whenEnded(timeoutMs: number): Promise<boolean> {
    if (this.ended) return true;
    return new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => finish(false), timeoutMs);
      const onEnd = (): void => finish(true);
      const finish = (ended: boolean): void => {
        clearTimeout(timer);
        this.off('end', onEnd);
        resolve(ended);
      };
      this.once('end', onEnd);
    });
  }

  protected follow(qmp: QmpClient): void {
    qmp.setMaxListeners(0);
    qmp.on('event', (event) => this.#take(event));
  }

  #take(event: QmpEvent): void {
    if (event.event === 'RESUME') this.#see('running');
    else if (event.event === 'STOP') this.#see('paused');
    else if (event.event === 'SHUTDOWN') this.shutdown = true;
    else if (event.event === 'DEVICE_DELETED') this.emit('unplugged');
    this.emit('qmp', event);
  }

  #see(power: MachinePower): void {
    if (this.#power === power) return;
    this.#power = power;
    this.emit('power', power);
  }
}
