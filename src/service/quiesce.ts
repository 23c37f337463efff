/** Makes a guest's file systems quiet for an instant, as far as asked for and possible, and says what came of it. */
import type { MachineRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { QuiesceMode } from '../core/model.ts';
import type { Stillness } from '../engine/engine.ts';
import { FreezeGuard } from '../qemu/freeze-guard.ts';
import type { RunningMachine } from '../qemu/running-machine.ts';

/** A guest must not stand still longer than this, whatever happens here. */
const frozenLimitMs = 10_000;
const agentTimeoutMs = 5000;

interface Outcome {
  readonly consistency: 'filesystem' | 'crash';
  readonly reason: string;
  /** µs; null when nothing was frozen. */
  readonly frozenUs: number | null;
}

export class Quiescence implements Stillness {
  readonly #guard: FreezeGuard | undefined;
  readonly #mode: QuiesceMode;
  readonly #onFrozen: () => void;
  #outcome: Outcome;

  constructor(mode: QuiesceMode, outcome: Outcome, guard?: FreezeGuard, onFrozen: () => void = () => undefined) {
    this.#mode = mode;
    this.#outcome = outcome;
    this.#guard = guard;
    this.#onFrozen = onFrozen;
  }

  async hold(): Promise<void> {
    if (this.#guard === undefined) return;
    try {
      const { fileSystems } = await this.#guard.freeze();
      if (fileSystems === 0) throw new CalotypeError('agent_unavailable', 'The guest has no file system to freeze.');
      this.#outcome = {
        consistency: 'filesystem',
        reason: `The guest agent had ${fileSystems} file system${fileSystems === 1 ? '' : 's'} frozen at that instant.`,
        frozenUs: null,
      };
      this.#onFrozen();
    } catch (error) {
      if (this.#mode === 'require') throw error;
      this.#outcome = crash(`The file systems could not be frozen: ${reasonOf(error)}`);
    }
  }

  async release(taken: boolean): Promise<void> {
    if (this.#guard === undefined) return;
    const { outcome, frozenMs } = await this.#guard.thaw();
    if (this.#outcome.consistency !== 'filesystem') return;
    if (outcome === 'thawed') {
      this.#outcome = { ...this.#outcome, frozenUs: frozenMs * 1000 };
      return;
    }
    this.#outcome = crash('The file systems may have been thawed before the instant.');
    if (taken && this.#mode === 'require') {
      throw new CalotypeError('agent_unavailable', 'The file systems may have been thawed before the instant.');
    }
  }

  outcome(): Outcome {
    return this.#outcome;
  }

  async close(): Promise<void> {
    await this.#guard?.close();
  }
}

const paused = 'The machine was paused: what its guest had not written yet is not in it.';
const notShutDown = 'The machine was off, and had not been shut down in good order.';

/**
 * Whether file systems can be quiet at all in what the machine does now. Before anything is begun, and again when its turn
 * has come. @throws agent_unavailable
 */
export function assertQuiescible(running: RunningMachine | undefined, machine: MachineRow): void {
  if (running === undefined && machine.error_json !== null) {
    throw new CalotypeError('agent_unavailable', 'The machine is off, and was not shut down in good order.', {
      machineId: machine.id,
      remedy: 'Start it, so that it repairs its file systems, or take the snapshot without `require`.',
    });
  }
  if (running !== undefined && running.power !== 'running') {
    throw new CalotypeError('agent_unavailable', 'The guest stands still: its agent cannot freeze file systems.', {
      machineId: machine.id,
      remedy: 'Resume the machine, or take the snapshot without `require`.',
    });
  }
}

const crash = (reason: string): Outcome => ({ consistency: 'crash', reason, frozenUs: null });
const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Everything that can be done beforehand. @throws agent_unavailable when quiet is required and cannot be had */
export async function quiesce(
  running: RunningMachine | undefined,
  machine: MachineRow,
  mode: QuiesceMode,
  onFrozen?: () => void,
): Promise<Quiescence> {
  if (mode === 'require') assertQuiescible(running, machine);
  if (running === undefined) {
    const clean = machine.error_json === null;
    return new Quiescence(
      mode,
      clean ? { consistency: 'filesystem', reason: 'The machine was off.', frozenUs: null } : crash(notShutDown),
    );
  }
  if (running.power !== 'running') {
    return new Quiescence(mode, crash(paused));
  }
  if (mode === 'never') return new Quiescence(mode, crash('No quiescing was asked for.'));
  try {
    const { agentSocket: socketPath } = running;
    if (socketPath === null || !(await running.hasAgent())) {
      throw new CalotypeError('agent_unavailable', 'No agent runs in the guest.');
    }
    const guard = await FreezeGuard.start({ socketPath, limitMs: frozenLimitMs, timeoutMs: agentTimeoutMs });
    return new Quiescence(mode, crash('Nothing was frozen.'), guard, onFrozen);
  } catch (error) {
    if (mode === 'require') throw error;
    return new Quiescence(mode, crash(`The file systems were not frozen: ${reasonOf(error)}`));
  }
}
