/**
 * Saves the memory of a running machine at the instant its drives are taken. A background save is begun while the guest
 * runs, since QEMU first walks through all of its memory; then QEMU stops the guest, which stands at the gate
 * (flush-gate.ts) while the drives are taken, and on until QEMU has written down its devices and protected its pages. It
 * runs on while they are written out. Where QEMU refuses that, the guest stands still until all is written.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Tx } from '../catalog/catalog.ts';
import { insertMemoryFile, keepMemoryFile } from '../catalog/machines.ts';
import type { MemoryFileRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { SnapshotId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { Stillness, WorkControl } from '../engine/engine.ts';
import type { MachineProcess } from '../qemu/machine-process.ts';
import { MemoryWriter, type StoredMemory } from '../qemu/memory-file.ts';
import { QmpError, type QmpEvent } from '../qemu/qmp.ts';
import type { Context } from './context.ts';

type Method = 'background' | 'stopped';

/** As good as no limit, bytes/s. */
const bandwidth = 64 * 1024 ** 3;
const lookAgainMs = 5;
const gateNode = 'gate';
const answerWithinMs = 10_000;
const lookForMonitorMs = 50;

/** For people. */
const hung = 'QEMU left the guest hanging, and was ended.';
const ranOn = 'The guest ran on before its memory could be saved.';

export function memoryDirectory(context: Pick<Context, 'config'>): string {
  return join(context.config.dataDirectory, 'memory');
}

export const memoryName = (id: number): string => `m${id.toString(36)}.zst`;

export function memoryPath(context: Pick<Context, 'config'>, id: number): string {
  return join(memoryDirectory(context), memoryName(id));
}

/** One migration of a process, watched from before it starts. */
class Migration {
  readonly #running: MachineProcess;
  readonly #ended = Promise.withResolvers<'completed' | 'failed'>();
  readonly #stopped = Promise.withResolvers<number>();
  readonly #resumed = Promise.withResolvers<number>();
  readonly #onEvent = (event: QmpEvent): void => {
    if (event.event === 'STOP') this.#stopped.resolve(event.atUs);
    if (event.event === 'RESUME') this.#resumed.resolve(event.atUs);
    if (event.event !== 'MIGRATION') return;
    const status = event.data?.status;
    if (status === 'completed') this.#ended.resolve('completed');
    else if (status === 'failed' || status === 'cancelled') this.#ended.resolve('failed');
  };
  readonly #onGone = (): void => this.#ended.resolve('failed');

  constructor(running: MachineProcess) {
    this.#running = running;
    running.on('qmp', this.#onEvent);
    running.once('end', this.#onGone);
  }

  get ended(): Promise<'completed' | 'failed'> {
    return this.#ended.promise;
  }

  /** When the guest stopped, and when it ran again, as QEMU says: µs; undefined when the migration failed before. */
  stopped(): Promise<number | undefined> {
    return Promise.race([this.#stopped.promise, this.#ended.promise.then(() => undefined)]);
  }

  resumed(): Promise<number | undefined> {
    return Promise.race([this.#resumed.promise, this.#ended.promise.then(() => undefined)]);
  }

  stop(): void {
    this.#running.off('qmp', this.#onEvent);
    this.#running.off('end', this.#onGone);
  }
}

export interface SavedMemory extends StoredMemory {
  readonly id: number;
  readonly method: Method;
  /** How long the guest stood still, µs; null when it was not running. */
  readonly pauseUs: number | null;
}

export class MemorySave implements Stillness {
  readonly #step: (name: string) => void;
  readonly #running: MachineProcess;
  readonly #id: number;
  readonly #openWriter: () => Promise<MemoryWriter>;
  #writer: MemoryWriter;
  readonly #wasRunning: boolean;
  /** The guest stays as it was at the instant. */
  readonly #stayStill: boolean;
  #method: Method;
  #migration: Migration | undefined;
  /** µs since 1970. */
  #stoppedAtUs = 0;
  #pauseUs: number | null = null;
  /** The stream of a background save broke: the guest's processors may wait for a page for good. */
  #mayHang = false;

  private constructor(parts: {
    step: (name: string) => void;
    running: MachineProcess;
    id: number;
    openWriter: () => Promise<MemoryWriter>;
    writer: MemoryWriter;
    method: Method;
    stayStill: boolean;
    wasRunning: boolean;
  }) {
    this.#step = parts.step;
    this.#running = parts.running;
    this.#id = parts.id;
    this.#openWriter = parts.openWriter;
    this.#writer = parts.writer;
    this.#method = parts.method;
    this.#stayStill = parts.stayStill;
    this.#wasRunning = parts.wasRunning;
  }

  /** Everything that can be done while the guest still runs. `stayStill`: it is not to run on afterwards. */
  static async prepare(
    context: Context,
    running: MachineProcess,
    snapshotId: SnapshotId,
    options: { stayStill: boolean; wasRunning: boolean; control: WorkControl; memoryBytes: number },
  ): Promise<MemorySave> {
    const { stayStill, wasRunning, control, memoryBytes } = options;
    const { qmp } = running;
    await mkdir(memoryDirectory(context), { recursive: true, mode: 0o700 });
    // A background save always sets the guest going again.
    const wanted = !stayStill && wasRunning;
    const method: Method = wanted && (await takesBackground(running, true)) ? 'background' : 'stopped';
    if (method === 'stopped') await takesBackground(running, false);
    await removeGate(running);
    if (!wasRunning) await leavePostmigrate(running);
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': bandwidth });
    const id = await context.catalog.write((tx) =>
      insertMemoryFile(tx, {
        snapshot_id: snapshotId,
        method,
        accelerator: running.accelerator,
        qemu_version: running.qemuVersion,
        created_at: nowUs(),
      }),
    );
    const path = memoryPath(context, id);
    const sockets = {
      socketPath: join(running.directory, 'memory.sock'),
      gatePath: join(running.directory, 'gate.sock'),
    };
    const openWriter = (): Promise<MemoryWriter> =>
      MemoryWriter.open(path, sockets, {
        onBytes: (bytes) => control.progress(bytes, Math.max(bytes, memoryBytes)),
      });
    return new MemorySave({
      step: (name) => context.config.onStep?.(name),
      running,
      id,
      openWriter,
      writer: await openWriter(),
      method,
      stayStill,
      wasRunning,
    });
  }

  async hold(): Promise<void> {
    if (this.#migration !== undefined) await this.#startOver();
    if (this.#method === 'background' && !(await this.#stopAtGate())) {
      // Refused for this guest, before anything was taken.
      await this.#standStill();
    }
    if (this.#method === 'stopped') {
      this.#stoppedAtUs = nowUs();
      if (this.#running.power === 'running') await this.#running.qmp.execute('stop');
    }
    this.#step('machine.held');
  }

  /** @returns false when QEMU refused, or could not; the guest may stand still then, or not */
  async #stopAtGate(): Promise<boolean> {
    const { qmp } = this.#running;
    const migration = new Migration(this.#running);
    this.#migration = migration;
    if (this.#running.power !== 'running') return false;
    try {
      await qmp.execute('blockdev-add', {
        driver: 'nbd',
        'node-name': gateNode,
        server: { type: 'unix', path: this.#writer.gatePath },
        export: '',
      });
      await qmp.execute('migrate', { uri: `unix:${this.#writer.socketPath}` });
    } catch (error) {
      if (error instanceof QmpError) return false;
      throw error;
    }
    const stoppedAtUs = await migration.stopped();
    if (stoppedAtUs === undefined) return false;
    this.#stoppedAtUs = stoppedAtUs;
    return Promise.race([this.#writer.held.then(() => true), migration.ended.then(() => false)]);
  }

  async release(taken: boolean): Promise<void> {
    const migration = this.#migration;
    if (this.#method === 'background' && migration !== undefined) {
      this.#writer.openGate();
      const resumedAtUs = await migration.resumed();
      if (resumedAtUs !== undefined) this.#pauseUs = resumedAtUs - this.#stoppedAtUs;
      this.#mayHang = resumedAtUs === undefined;
      if (resumedAtUs === undefined && taken) {
        await this.#standStill();
        // The stream broke after the guest was let go: its memory is past the instant.
        if (this.#running.power === 'running') throw new CalotypeError('machine_failed', ranOn);
      }
    }
    if (this.#method === 'stopped' && taken) await this.#migrateStopped();
    if (!taken) await this.#goOn();
    this.#step('machine.released');
  }

  /** From here on, the guest is to stand still until all is written. @throws machine_failed */
  async #standStill(): Promise<void> {
    if (!(await this.#running.answers([{ execute: 'query-status' }], answerWithinMs))) {
      throw new CalotypeError('machine_failed', `The memory could not be saved. ${hung}`);
    }
    this.#method = 'stopped';
    await this.#startOver();
    await takesBackground(this.#running, false);
  }

  /** Gives up what was begun. */
  async #startOver(): Promise<void> {
    await this.#writer.abort();
    this.#migration?.stop();
    this.#migration = undefined;
    await removeGate(this.#running);
    this.#writer = await this.#openWriter();
  }

  async #migrateStopped(): Promise<void> {
    this.#migration = new Migration(this.#running);
    try {
      await this.#running.qmp.execute('migrate', { uri: `unix:${this.#writer.socketPath}` });
    } catch (error) {
      await this.#goOn();
      throw error;
    }
  }

  /** Waits until all of it is written, and durable. @throws machine_failed, space_exhausted, cancelled */
  async finish(signal: AbortSignal): Promise<SavedMemory> {
    const migration = this.#migration;
    if (migration === undefined) throw new CalotypeError('internal', 'No memory is being saved.');
    // The stream of a background save must not break (memory-writer-process.ts): what comes is thrown away.
    const cancel = (): void => void this.#writer.abort();
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      const how = await Promise.race([migration.ended, this.#lost(migration)]);
      this.#mayHang = how === 'failed' && this.#method === 'background';
      if (signal.aborted) throw new CalotypeError('cancelled');
      if (how === 'failed') throw await this.#failure();
      if (!this.#stayStill) await this.#goOn();
      await removeGate(this.#running);
      const stored = await this.#writer.finished();
      this.#step('memory.saved');
      // Giving up takes the file away, also a whole one.
      if (signal.aborted) throw new CalotypeError('cancelled');
      return { id: this.#id, method: this.#method, pauseUs: this.#pauseUs, ...stored };
    } finally {
      signal.removeEventListener('abort', cancel);
      migration.stop();
    }
  }

  /** Resolves when QEMU does not say how it ended, though nothing reads its stream any more. */
  async #lost(migration: Migration): Promise<'completed' | 'failed'> {
    try {
      await this.#writer.finished();
      return await migration.ended;
    } catch {
      return delay(answerWithinMs, 'failed', { ref: false });
    }
  }

  /** Why nothing came of it. A guest that hangs is ended. */
  async #failure(): Promise<CalotypeError> {
    if (this.#running.ended) return new CalotypeError('machine_failed', 'QEMU ended while it saved the memory.');
    const why = await whyFailed(this.#running);
    const wasEnded = await this.#endIfHanging();
    await this.#writer.abort();
    // QEMU says only that its stream broke, when it was what reads it that did.
    const cause: unknown = await this.#writer.finished().catch((error: unknown) => error);
    const known = cause instanceof CalotypeError && cause.code !== 'cancelled' ? cause : undefined;
    const message = known?.message ?? `QEMU could not save the memory: ${why}`;
    return new CalotypeError(known?.code ?? 'machine_failed', wasEnded ? `${message} ${hung}` : message);
  }

  /** @returns whether the guest hung, and its process is gone */
  async #endIfHanging(): Promise<boolean> {
    if (!this.#mayHang || this.#running.ended) return false;
    this.#mayHang = false;
    return !(await this.#running.answers([{ execute: 'stop' }, { execute: 'cont' }], answerWithinMs));
  }

  /** Lets the guest run that ran before. */
  async #goOn(): Promise<void> {
    if (!this.#wasRunning || this.#running.ended) return;
    if (this.#running.power !== 'running') await goOnAfterMigration(this.#running);
    this.#notePause();
  }

  #notePause(): void {
    if (this.#wasRunning) this.#pauseUs ??= nowUs() - this.#stoppedAtUs;
  }

  /** Gives up: the guest runs as before, unless it hangs, and nothing stays of the file. */
  async abort(context: Context): Promise<void> {
    await this.#endIfHanging();
    if (!this.#running.ended && this.#method === 'stopped') {
      await this.#running.qmp.execute('migrate_cancel').catch(() => undefined);
    }
    await this.#writer.abort();
    this.#migration?.stop();
    try {
      await this.#letGo();
    } finally {
      await removeMemoryFiles(context, [{ id: this.#id }]);
    }
  }

  /** Over a connection that is made again, if need be. @throws engine_unavailable, engine_failed */
  async #letGo(): Promise<void> {
    for (const deadline = Date.now() + answerWithinMs; !this.#running.ended; ) {
      try {
        if (!this.#stayStill) await this.#goOn();
        return await removeGate(this.#running);
      } catch (error) {
        const isLost = error instanceof CalotypeError && error.code === 'engine_unavailable';
        if (!isLost || Date.now() > deadline) throw error;
        await this.#running.whenEnded(lookForMonitorMs);
      }
    }
  }
}

/**
 * Waits for the end of a save whose server died; its writer reads on, for nothing. The guest then does what it did before,
 * if it may.
 */
export async function endInterrupted(running: MachineProcess, options: { goOn: boolean }): Promise<void> {
  if (!(await savesInBackground(running))) await running.qmp.execute('migrate_cancel');
  for (;;) {
    const { status } = await running.qmp.execute<{ status?: string }>('query-migrate');
    if (!['setup', 'active', 'cancelling', 'device', 'pre-switchover'].includes(status ?? 'none')) break;
    await delay(lookAgainMs);
  }
  await running.refresh();
  if (options.goOn && running.power !== 'running') await goOnAfterMigration(running);
}

/** QEMU says that a migration is over a moment before it lets the guest go on. */
async function goOnAfterMigration(running: MachineProcess): Promise<void> {
  for (const deadline = Date.now() + answerWithinMs; ; ) {
    try {
      await running.qmp.execute('cont');
      return;
    } catch (error) {
      const early = error instanceof QmpError && /not finalized/.test(error.message);
      if (!early || Date.now() > deadline) throw error;
      await delay(lookAgainMs);
    }
  }
}

/**
 * QEMU saves a guest that stood still for one save a second time only after it ran again: it runs for the time between two
 * commands.
 */
async function leavePostmigrate(running: MachineProcess): Promise<void> {
  if ((await running.status()) !== 'postmigrate') return;
  await running.qmp.executeAll([{ execute: 'cont' }, { execute: 'stop' }]);
}

async function savesInBackground(running: MachineProcess): Promise<boolean> {
  const capabilities =
    await running.qmp.execute<{ capability: string; state: boolean }[]>('query-migrate-capabilities');
  return capabilities.some(({ capability, state }) => capability === 'background-snapshot' && state);
}

/** It may not be there. */
async function removeGate(running: MachineProcess): Promise<void> {
  await running.qmp.execute('blockdev-del', { 'node-name': gateNode }).catch((error: unknown) => {
    if (!(error instanceof QmpError)) throw error;
  });
}

/** Switches background saves on or off. @returns whether QEMU agreed; not every host and kernel can */
async function takesBackground(running: MachineProcess, wanted: boolean): Promise<boolean> {
  try {
    await running.qmp.execute('migrate-set-capabilities', {
      capabilities: [
        { capability: 'events', state: true },
        { capability: 'background-snapshot', state: wanted },
      ],
    });
    return true;
  } catch (error) {
    if (!wanted || !(error instanceof QmpError)) throw error;
    return false;
  }
}

/** A QEMU that hangs says nothing. */
async function whyFailed(running: MachineProcess): Promise<string> {
  const asked = running.qmp.execute<{ 'error-desc'?: string }>('query-migrate').catch(() => undefined);
  const info = await Promise.race([asked, delay(answerWithinMs, undefined, { ref: false })]);
  return info?.['error-desc'] ?? 'no reason given.';
}

export function recordMemory(tx: Tx, saved: SavedMemory): Promise<void> {
  return keepMemoryFile(tx, saved.id, saved);
}

export async function removeMemoryFiles(context: Context, files: readonly Pick<MemoryFileRow, 'id'>[]): Promise<void> {
  for (const { id } of files) {
    await rm(memoryPath(context, id), { force: true });
    await context.catalog.write((tx) => tx.deleteFrom('memory_files').where('id', '=', id).execute());
  }
}

/** Unlinks the memory of snapshots that are gone. */
export async function sweepMemory(context: Context): Promise<void> {
  const dead = await context.catalog.db.selectFrom('memory_files').select('id').where('state', '=', 'dead').execute();
  await removeMemoryFiles(context, dead);
}
