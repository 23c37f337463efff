/** A client that does not give up when its server dies: it waits for the next one and asks again, with the same key. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { MachineBody, SnapshotBody, TaskBody } from '../../src/http/schemas.ts';
import { type Api, type Call, Refused, Unanswered } from './api.ts';
import { readNumber } from './machine-eyes.ts';

export interface Made {
  readonly task: TaskBody;
  readonly machine?: MachineBody;
  readonly snapshot?: SnapshotBody;
}

/** The campaign is over. */
export class Stopped extends Error {}

/** Something else than the server was killed, and took what was asked for with it. */
export class Harmed extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const passing: readonly string[] = ['drive_busy', 'idempotency_in_progress'];
const readTries = 100;
const readAgainMs = 200;

/** Servers that come and go, as their clients see it. */
export class Comings {
  #epoch = 0;
  #stopped = false;
  #next = Promise.withResolvers<void>();

  get epoch(): number {
    return this.#epoch;
  }

  serverIsBack(): void {
    this.#epoch++;
    const { resolve } = this.#next;
    this.#next = Promise.withResolvers();
    resolve();
  }

  stop(): void {
    this.#stopped = true;
    this.#next.resolve();
  }

  assertGoingOn(): void {
    if (this.#stopped) throw new Stopped();
  }

  /** Resolves when a later server than that of `epoch` is ready. @throws Stopped */
  async after(epoch: number): Promise<void> {
    while (this.#epoch === epoch) {
      this.assertGoingOn();
      await this.#next.promise;
    }
    this.assertGoingOn();
  }
}

export class PatientClient {
  readonly api: Api;
  readonly #comings: Comings;
  readonly #label: string;
  #count = 0;

  constructor(api: Api, comings: Comings, label: string) {
    this.api = api;
    this.#comings = comings;
    this.#label = label;
  }

  /** Carries something out that may be done twice. */
  async patiently<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const { epoch } = this.#comings;
      this.#comings.assertGoingOn();
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof Unanswered)) throw error;
        await this.#comings.after(epoch);
      }
    }
  }

  get<T>(path: string): Promise<T> {
    return this.patiently(() => this.api.get<T>(path));
  }

  /** The change and the end of its task. @throws Refused, Harmed with the task's error */
  async change(method: 'POST' | 'DELETE', path: string, body?: Readonly<Record<string, unknown>>): Promise<Made> {
    const key = `${this.#label}-${++this.#count}`;
    const call: Call = { method, path: `/v1${path}`, key, ...(body === undefined ? {} : { body }) };
    const made: Made = JSON.parse(await this.patiently(() => this.api.send(call)));
    let { task } = made;
    while (task.finishedAt === null) task = await this.patiently(() => this.api.task(made.task.id, 10));
    if (task.state === 'done') return { ...made, task };
    throw new Harmed(task.error?.code ?? 'none', `${task.kind} ended ${task.state}: ${task.error?.message}`);
  }

  /** The number that a guest wrote at an offset; 0 where nothing is. */
  async numberAt(of: { driveId: string } | { driveSnapshotId: string }, offset: number): Promise<number> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#readNumber(of, offset);
      } catch (error) {
        // The daemon may die under the reader, and other work may hold the drive.
        const isPassing = !(error instanceof Refused) || error.status === 503 || passing.includes(error.code);
        if (error instanceof Stopped || !isPassing || tries === readTries) throw error;
        await sleep(readAgainMs);
      }
    }
  }

  async #readNumber(of: { driveId: string } | { driveSnapshotId: string }, offset: number): Promise<number> {
    const key = `${this.#label}-${++this.#count}`;
    const served = await this.patiently(() => this.api.startExport(of, key));
    try {
      return await readNumber(served, offset);
    } finally {
      await this.patiently(() =>
        this.api.stopExport(served.id).catch((error: unknown) => {
          if (!(error instanceof Refused) || error.status !== 404) throw error;
        }),
      );
    }
  }
}
