/**
 * The connections to machines that somebody else runs. Each is tried for as long as the machine is known here: a machine
 * that was switched off, or a monitor that was closed, is found again when it is back.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { addEvent, type Catalog } from '../catalog/catalog.ts';
import { findMachineRow, setPower } from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import { CalotypeError, toStoredError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { MachinePower } from '../core/states.ts';
import { nowUs } from '../core/time.ts';
import type { Engine } from '../engine/engine.ts';
import { AdoptedProcess } from '../qemu/adopted-process.ts';
import type { Logger } from './context.ts';

/** A monitor that was lost is looked for again at once, and then at this pace. */
const retryMs = 1000;
/** For so long a lost monitor is not yet a machine that is off. */
const graceMs = 500;
const graceStepMs = 50;

export class AdoptedMachines {
  readonly #catalog: Catalog;
  readonly #engine: Engine;
  readonly #logger: Logger;
  readonly #live = new Map<MachineId, AdoptedProcess>();
  /** Ends the watch of each machine that is known. */
  readonly #watches = new Map<MachineId, AbortController>();
  /** Called after events were written. */
  wake: () => void = () => undefined;

  constructor(parts: { catalog: Catalog; engine: Engine; logger: Logger }) {
    this.#catalog = parts.catalog;
    this.#engine = parts.engine;
    this.#logger = parts.logger;
  }

  running(): readonly MachineId[] {
    return [...this.#live.keys()];
  }

  find(id: MachineId): AdoptedProcess | undefined {
    return this.#live.get(id);
  }

  /** Begins to look for every adopted machine; those that answer at once are there when it resolves. */
  async watchAll(): Promise<void> {
    const rows = await this.#catalog.db
      .selectFrom('machines')
      .selectAll()
      .where('managed', '=', 0)
      .where('state', '!=', 'creating')
      .execute();
    await Promise.all(rows.map((row) => this.watch(row)));
  }

  /** Keeps up the connection to a machine from now on. Resolves when the first attempt has ended, either way. */
  watch(row: MachineRow): Promise<void> {
    const stop = new AbortController();
    this.#watches.get(row.id)?.abort();
    this.#watches.set(row.id, stop);
    return new Promise<void>((resolve) => {
      void this.#keepUp(row, stop.signal, resolve).finally(resolve);
    });
  }

  /** The machine is known no more, or the server ends: it runs on. */
  forget(id: MachineId): void {
    this.#watches.get(id)?.abort();
    this.#watches.delete(id);
    this.#live.get(id)?.release();
    this.#live.delete(id);
  }

  close(): void {
    for (const id of [...this.#watches.keys()]) this.forget(id);
  }

  /** @throws adoption_refused, machine_changed */
  async #join(row: MachineRow): Promise<AdoptedProcess> {
    const found = await AdoptedProcess.connect(row.qmp_path ?? '', row.agent_path);
    try {
      const { workingDirectory } = found.facts;
      const report = await this.#engine.joinProcess({ id: row.id, qmp: found.qmp, workingDirectory });
      for (const line of report) this.#logger.warn({ machineId: row.id }, line);
      return found;
    } catch (error) {
      found.release();
      throw error;
    }
  }

  async #keepUp(row: MachineRow, signal: AbortSignal, tried: () => void): Promise<void> {
    let lostAt = 0;
    while (!signal.aborted) {
      try {
        const found = await this.#join(row);
        if (signal.aborted) {
          found.release();
          return;
        }
        this.#live.set(row.id, found);
        const ended = found.whenEnded(2 ** 31 - 1);
        found.on('power', (power) => void this.#note(row.id, { power }));
        await this.#note(row.id, { power: found.power });
        tried();
        await ended;
        if (this.#live.get(row.id) === found) this.#live.delete(row.id);
        lostAt = Date.now();
      } catch (error) {
        if (Date.now() - lostAt >= graceMs) await this.#note(row.id, { power: 'off', error });
        tried();
      }
      await delay(Date.now() - lostAt < graceMs ? graceStepMs : retryMs, undefined, { signal, ref: false }).catch(
        () => undefined,
      );
    }
  }

  /** Writes down what a machine was seen to do, where that is news. */
  async #note(id: MachineId, seen: { power: MachinePower; error?: unknown }): Promise<void> {
    const changed = seen.error instanceof CalotypeError && seen.error.code === 'machine_changed' ? seen.error : null;
    const error = changed === null ? null : JSON.stringify(toStoredError(changed));
    try {
      await this.#catalog.write(async (tx) => {
        const row = await findMachineRow(tx, id);
        if (row === undefined || row.state === 'creating') return;
        if (row.power === seen.power && row.error_json === error) return;
        const startedAt = seen.power === 'off' ? null : (row.started_at ?? nowUs());
        await setPower(tx, id, { power: seen.power, startedAt, error });
        const was = row.power;
        const kind =
          changed !== null ? 'machine.changed' : seen.power === 'off' ? 'machine.stopped' : 'machine.started';
        if (changed === null && was !== 'off' && seen.power !== 'off') return;
        await addEvent(tx, {
          projectId: row.project_id,
          userId: null,
          via: 'system',
          kind,
          objectKind: 'machine',
          objectId: id,
          detail: changed === null ? { by: 'others' } : { message: changed.message },
        });
      });
      this.wake();
    } catch (cause) {
      this.#logger.warn({ err: cause, machineId: id }, 'what an adopted machine does could not be recorded');
    }
  }
}
