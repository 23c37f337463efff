/**
 * The machines that run now: finds their processes again after a restart, starts and ends them, and writes down what they
 * do on their own. Tasks decide what is to happen; this only knows what is there.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { addEvent, type Catalog } from '../catalog/catalog.ts';
import { findMachineRow, setPower } from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import { CalotypeError, type StoredError, toStoredError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { MachineHardware } from '../core/model.ts';
import { type AcceleratorChoice, chooseAccelerator } from '../qemu/accelerator.ts';
import { type MachineDrive, MachineProcess, type MachineProcessSpec } from '../qemu/machine-process.ts';
import { type MachineTypes, readMachineTypes } from '../qemu/machine-types.ts';
import type { MachineEnd } from '../qemu/running-machine.ts';
import { SerialLog } from '../qemu/serial-log.ts';
import type { Logger } from './context.ts';

/** Shorter pauses, such as for a snapshot, are not worth a record. */
const settleMs = 250;
/** After the start, when the first requests have been answered. */
const prepareMs = 3000;
/** How often old output of guests is given back. */
const punchEveryMs = 1000;

export interface Launch {
  readonly drives: readonly MachineDrive[];
  readonly kernel: MachineProcessSpec['kernel'];
  readonly incoming: boolean;
}

export class MachineProcesses {
  readonly #catalog: Catalog;
  readonly #runDirectory: string;
  readonly #logger: Logger;
  readonly #live = new Map<MachineId, MachineProcess>();
  readonly #serialLogs = new Map<MachineId, SerialLog>();
  readonly #keptSerialBytes: number | undefined;
  readonly #punching: NodeJS.Timeout;
  /** Processes that a task is about to end. */
  readonly #ending = new Set<MachineId>();
  #accelerator: Promise<AcceleratorChoice> | undefined;
  #types: Promise<MachineTypes> | undefined;
  #closed = false;
  /** Called when a machine ended by itself: what it leaves behind is to be cleared up. */
  onEnded: (machine: MachineRow) => void = () => undefined;
  /** Called when a guest has let go of a drive, or may have. */
  onUnplugged: (id: MachineId) => void = () => undefined;
  /** Called when one ended that nobody had told to. */
  onDied: () => void = () => undefined;
  /** Called after events were written. */
  wake: () => void = () => undefined;

  constructor(parts: {
    catalog: Catalog;
    dataDirectory: string;
    logger: Logger;
    keptSerialBytes?: number | undefined;
  }) {
    this.#keptSerialBytes = parts.keptSerialBytes;
    this.#punching = setInterval(() => void this.#punch(), punchEveryMs).unref();
    this.#catalog = parts.catalog;
    this.#runDirectory = join(parts.dataDirectory, 'run');
    this.#logger = parts.logger;
  }

  accelerator(): Promise<AcceleratorChoice> {
    this.#accelerator ??= chooseAccelerator(join(this.#runDirectory, 'accelerator.json'));
    this.#accelerator.catch(() => {
      this.#accelerator = undefined;
    });
    return this.#accelerator;
  }

  /** Finds out what the start of a machine would have to wait for, before one is asked for. */
  prepare(): void {
    const failed = (error: unknown): void => this.#logger.warn({ err: error }, 'no accelerator could be chosen');
    if (!this.#closed) this.accelerator().catch(failed);
  }

  machineTypes(): Promise<MachineTypes> {
    this.#types ??= readMachineTypes();
    this.#types.catch(() => {
      this.#types = undefined;
    });
    return this.#types;
  }

  directoryOf(machine: { number: number }): string {
    return join(this.#runDirectory, `m${machine.number}`);
  }

  serialLogOf(machine: { id: MachineId; number: number }): SerialLog {
    const known = this.#serialLogs.get(machine.id);
    if (known !== undefined) return known;
    const path = MachineProcess.serialLogIn(this.directoryOf(machine));
    const made = new SerialLog(path, this.#keptSerialBytes === undefined ? {} : { keptBytes: this.#keptSerialBytes });
    this.#serialLogs.set(machine.id, made);
    return made;
  }

  /** Guests may write without end. A file system that cannot give back leaves them their limit. */
  async #punch(): Promise<void> {
    for (const [id, running] of this.#live) {
      await this.#serialLogs
        .get(id)
        ?.punch(running.pid)
        .catch((error) =>
          this.#logger.warn({ err: error, machineId: id }, 'old serial output could not be given back'),
        );
    }
  }

  /** A machine is gone for good: nobody follows it any more. */
  forget(id: MachineId): void {
    this.#serialLogs.get(id)?.close();
    this.#serialLogs.delete(id);
  }

  /** All that run now. */
  running(): readonly MachineId[] {
    return [...this.#live.keys()];
  }

  find(id: MachineId): MachineProcess | undefined {
    return this.#live.get(id);
  }

  /** @throws machine_off */
  get(id: MachineId): MachineProcess {
    const found = this.#live.get(id);
    if (found === undefined) throw new CalotypeError('machine_off', undefined, { machineId: id });
    return found;
  }

  /** Finds the processes of an earlier server; machines whose process is gone are off. Call once. */
  async adoptAll(): Promise<void> {
    const rows = await this.#catalog.db.selectFrom('machines').selectAll().where('managed', '=', 1).execute();
    await Promise.all(rows.map((row) => this.#adopt(row)));
    if (rows.length > 0) setTimeout(() => this.prepare(), prepareMs).unref();
    await this.#sweepDirectories(new Set(rows.map((row) => `m${row.number}`)));
  }

  /** Directories of machines that were forgotten by a server that died before it removed them. */
  async #sweepDirectories(known: ReadonlySet<string>): Promise<void> {
    const found = await readdir(this.#runDirectory).catch(() => []);
    for (const name of found) {
      if (!/^m\d+$/.test(name) || known.has(name)) continue;
      await rm(join(this.#runDirectory, name), { recursive: true, force: true });
    }
  }

  async #adopt(row: MachineRow): Promise<void> {
    try {
      const found = await MachineProcess.adopt(this.directoryOf(row), row.id, this.serialLogOf(row));
      if (found !== null) {
        this.#keep(row, found);
        if (found.power !== row.power) await this.#catalog.write((tx) => setPower(tx, row.id, { power: found.power }));
        return;
      }
    } catch (error) {
      this.#logger.error({ err: error, machineId: row.id }, 'a machine could not be found again');
    }
    if (row.power === 'off') return;
    const expected = MachineProcess.endedWell(this.directoryOf(row));
    await this.#ended(row, { expected, lastWords: '' });
  }

  /** @throws machine_failed */
  async launch(row: MachineRow, launch: Launch): Promise<MachineProcess> {
    const hardware: MachineHardware = JSON.parse(row.hardware_json);
    const { accelerator } = await this.accelerator();
    const types = await this.machineTypes();
    if (!types.has(hardware.machineType)) {
      throw new CalotypeError('machine_type_missing', undefined, { machineType: hardware.machineType });
    }
    const spec = { id: row.id, hardware, accelerator, ...launch };
    const started = await MachineProcess.start(this.directoryOf(row), spec, this.serialLogOf(row));
    this.#keep(row, started);
    return started;
  }

  #keep(row: MachineRow, running: MachineProcess): void {
    this.#live.set(row.id, running);
    running.once('end', (end) => void this.#onEnd(row.id, running, end));
    running.on('unplugged', () => {
      if (!this.#closed) this.onUnplugged(row.id);
    });
    let timer: NodeJS.Timeout | undefined;
    running.on('power', () => {
      clearTimeout(timer);
      timer = setTimeout(() => void this.#notePower(row.id, running), settleMs).unref();
    });
  }

  /** What a guest came to do without a task's saying so, such as standing still for a full disk. */
  async #notePower(id: MachineId, running: MachineProcess): Promise<void> {
    try {
      if (this.#closed || running.ended || this.#live.get(id) !== running) return;
      await this.#catalog.write(async (tx) => {
        const row = await findMachineRow(tx, id);
        if (row === undefined || running.ended || row.power === running.power) return;
        await setPower(tx, id, { power: running.power });
      });
    } catch (error) {
      this.#logger.warn({ err: error, machineId: id }, 'what a machine does could not be recorded');
    }
  }

  async #onEnd(id: MachineId, ended: MachineProcess, end: MachineEnd): Promise<void> {
    if (this.#live.get(id) === ended) this.#live.delete(id);
    if (this.#closed || this.#ending.has(id)) return;
    const row = await findMachineRow(this.#catalog.db, id);
    if (row !== undefined) await this.#ended(row, end);
  }

  /** A machine is off that nobody switched off here. */
  async #ended(
    row: MachineRow,
    end: MachineEnd,
    why = "The machine's QEMU process ended unexpectedly.",
  ): Promise<void> {
    const words = end.lastWords === '' ? '' : ` Its last words: ${end.lastWords}`;
    const error: StoredError | null = end.expected
      ? null
      : toStoredError(new CalotypeError('machine_died', `${why}${words}`));
    try {
      await this.#catalog.write(async (tx) => {
        await setPower(tx, row.id, {
          power: 'off',
          startedAt: null,
          error: error === null ? null : JSON.stringify(error),
        });
        await addEvent(tx, {
          projectId: row.project_id,
          userId: null,
          via: 'system',
          kind: end.expected ? 'machine.stopped' : 'machine.died',
          objectKind: 'machine',
          objectId: row.id,
          detail: end.expected ? { by: 'guest' } : { message: error?.message ?? '' },
        });
      });
      if (error !== null) this.onDied();
      this.wake();
      this.onEnded(row);
    } catch (cause) {
      this.#logger.error({ err: cause, machineId: row.id }, 'the end of a machine could not be recorded');
    }
  }

  /**
   * What served the drives died: a guest that went on could lose what it was told is written, without knowing. Its machine
   * ends as by a power failure.
   */
  async loseDrives(): Promise<void> {
    const rows = await this.#catalog.db
      .selectFrom('machines')
      .selectAll()
      .where('id', 'in', (eb) => eb.selectFrom('machine_drives').select('machine_id'))
      .execute();
    const why = 'The storage daemon died; what the guest had not flushed is lost, as in a power failure.';
    for (const row of rows) {
      if (!this.#live.has(row.id)) continue;
      await this.end(row.id);
      await this.#ended(row, { expected: false, lastWords: '' }, why);
    }
  }

  /** Ends the process on purpose, and waits until it is gone. Idempotent. */
  async end(id: MachineId): Promise<void> {
    const running = this.#live.get(id);
    if (running === undefined) return;
    await this.onPurpose(id, () => running.powerOff());
  }

  /** While `work` runs, the end of the machine is what was wanted. */
  async onPurpose<T>(id: MachineId, work: () => Promise<T>): Promise<T> {
    this.#ending.add(id);
    try {
      return await work();
    } finally {
      this.#ending.delete(id);
    }
  }

  /** Lets go of all of them; they run on. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#punching);
    for (const log of this.#serialLogs.values()) log.close();
    for (const running of this.#live.values()) running.release();
  }
}
