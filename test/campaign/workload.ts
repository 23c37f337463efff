/**
 * Everything that happens to a server between two deaths: changes over the API, several at once, and writers on the drives that are
 * exported; and, once it stands again, finding out what became of what was not answered, and comparing.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NbdClient } from '../../src/qemu/nbd-client.ts';
import { type Api, addressOf } from './api.ts';
import { isDead } from './arm.ts';
import { type CheckCounters, checkEverything } from './checks.ts';
import { type Bounds, Generator } from './generator.ts';
import type { Ledger } from './ledger.ts';
import type { Names } from './names.ts';
import { describePlan, type Operation, Operator, Unanswered, Violation } from './operations.ts';
import type { PlanKind } from './plans.ts';
import type { Random } from './random.ts';
import { Writer, type WriterCounters } from './writer.ts';

export interface WorkloadDeps {
  readonly api: Api;
  readonly ledger: Ledger;
  readonly names: Names;
  readonly random: Random;
  readonly data: string;
  readonly bounds: Bounds;
  /** Makes idempotency keys of one run differ from those of another. */
  readonly label: string;
  readonly serverIsAlive: () => boolean;
  readonly daemonPid: () => number;
}

export interface WorkloadTotals {
  readonly operations: Map<PlanKind, number>;
  unanswered: number;
  askedAgain: number;
  lookedUp: number;
  readonly checks: CheckCounters;
  readonly writer: WriterCounters;
}

export const emptyChecks = (): CheckCounters => ({ checks: 0, parts: 0, drives: 0, bytes: 0, sizes: 0, findings: 0 });

const atOnce = 4;
/** How long after the answer a client that was to be cut off may notice it. */
const cutDelayMs = 200;

export class Workload {
  readonly totals: WorkloadTotals;
  /** Every change that was asked for, by its number. */
  readonly operations = new Map<number, Operation>();
  readonly #deps: WorkloadDeps;
  readonly #operator: Operator;
  readonly #generator: Generator;
  readonly #writers = new Map<string, Writer>();
  readonly #inFlight = new Map<Operation, Promise<void>>();
  readonly #unanswered: Operation[] = [];
  readonly #problems: Error[] = [];
  #count = 0;

  constructor(deps: WorkloadDeps) {
    this.#deps = deps;
    const { api, names, ledger, random, bounds } = deps;
    this.#operator = new Operator(api, names, ledger);
    this.#generator = new Generator(random.fork(), ledger.oracle, names, bounds);
    this.totals = {
      operations: new Map(),
      unanswered: 0,
      askedAgain: 0,
      lookedUp: 0,
      checks: emptyChecks(),
      writer: { nextNumber: 1, writes: 0, flushes: 0, bytes: 0, cuts: [], refusals: [] },
    };
  }

  /** Nothing has gone wrong so far. */
  get isSound(): boolean {
    return this.#problems.length === 0 && this.totals.writer.refusals.length === 0;
  }

  /** @throws Violation with what went wrong since */
  assertSound(): void {
    const [problem] = this.#problems;
    if (problem !== undefined) throw problem;
    const [refusal] = this.totals.writer.refusals;
    if (refusal !== undefined) throw new Violation(`a client's request failed: ${refusal}`);
    const [cut] = this.totals.writer.cuts;
    if (cut !== undefined) throw new Violation(`a client was cut off while the daemon lived: ${cut}`);
  }

  /** Writers begin again; the generator does what leads to the step, if one is wanted. */
  resume(wanted: string | null): void {
    this.#generator.wanted = wanted ?? undefined;
    for (const writer of this.#writers.values()) writer.resume();
  }

  /** Keeps changes coming until the time is up, something is wrong, the server is gone, or `enough` says so. */
  async runFor(milliseconds: number, enough: () => boolean = () => false): Promise<void> {
    const { random, serverIsAlive } = this.#deps;
    const until = performance.now() + milliseconds;
    while (performance.now() < until && !enough() && serverIsAlive() && this.isSound) {
      this.#fill();
      await Promise.race([sleep(random.between(3, 30)), ...this.#inFlight.values()]);
    }
  }

  /** Waits for the answers due. @throws Violation when a living server gave none */
  async drain(): Promise<void> {
    await Promise.all(this.#inFlight.values());
    this.assertSound();
    if (!this.#deps.serverIsAlive() || this.#unanswered.length === 0) return;
    const plans = this.#unanswered.map((item) => describePlan(item.plan));
    throw new Violation(`no answer from a living server: ${plans.join(', ')}`);
  }

  /** After a restart: finds out what became of all that was asked for. */
  async settle(): Promise<void> {
    for (const writer of this.#writers.values()) writer.lookForDeath();
    for (const operation of this.#unanswered.splice(0)) {
      if (operation.taskId === null && operation.call !== undefined) {
        if (operation.key === null) this.totals.lookedUp++;
        else this.totals.askedAgain++;
      }
      this.#track(operation, () => this.#operator.settle(operation));
    }
    await this.drain();
  }

  /** Compares everything. Writers pause, and stay so until `resume`. */
  async check(): Promise<void> {
    const { api, ledger, names, random, data } = this.#deps;
    this.assertSound();
    const clients = new Map<string, NbdClient>();
    for (const writer of this.#writers.values()) clients.set(writer.drive, await writer.settle());
    const { oracle } = ledger;
    await checkEverything({ api, oracle, names, random, data, counters: this.totals.checks, clients, sizes: true });
    this.assertSound();
  }

  /** Ends the writers. */
  async stop(): Promise<void> {
    const writers = [...this.#writers.values()];
    this.#writers.clear();
    for (const writer of writers) writer.expectCut();
    await Promise.all(writers.map((writer) => writer.stop()));
  }

  #fill(): void {
    const { random, label, serverIsAlive } = this.#deps;
    while (this.#inFlight.size < atOnce && serverIsAlive() && this.isSound) {
      const plan = this.#generator.next();
      if (plan === undefined) return;
      const id = ++this.#count;
      const key = random.chance(0.7) ? `${label}-${id}` : null;
      const operation: Operation = { id, plan, key, waits: random.chance(0.5), call: undefined, taskId: null };
      this.operations.set(id, operation);
      this.#track(operation, () => this.#operator.start(operation));
    }
  }

  #track(operation: Operation, work: () => Promise<void>): void {
    const running = this.#carryOut(operation, work).finally(() => this.#inFlight.delete(operation));
    this.#inFlight.set(operation, running);
  }

  async #carryOut(operation: Operation, work: () => Promise<void>): Promise<void> {
    const { plan } = operation;
    const { random, serverIsAlive } = this.#deps;
    const writer = 'drive' in plan ? this.#writers.get(plan.drive) : undefined;
    try {
      if (writer !== undefined && (plan.kind === 'unexport' || plan.kind === 'resize')) {
        if (random.chance(0.3)) await writer.pause();
        writer.expectCut();
      }
      await work();
      if (random.chance(0.1) && serverIsAlive()) {
        await this.#operator.repeat(operation).catch((error: unknown) => {
          if (!(error instanceof Unanswered)) throw error;
        });
      }
      await this.#ended(operation);
    } catch (error) {
      if (error instanceof Unanswered) {
        this.totals.unanswered++;
        this.#unanswered.push(operation);
      } else this.#problems.push(error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #ended({ plan }: Operation): Promise<void> {
    const { operations } = this.totals;
    operations.set(plan.kind, (operations.get(plan.kind) ?? 0) + 1);
    this.#generator.done(plan);
    if (plan.kind === 'export' || plan.kind === 'unexport') await this.#matchWriter(plan.drive);
    if (plan.kind !== 'resize' && plan.kind !== 'unexport') return;
    const writer = this.#writers.get(plan.drive);
    if (writer === undefined) return;
    setTimeout(() => {
      writer.cutIsOver();
    }, cutDelayMs).unref();
    writer.resume();
  }

  /** An exported drive has a writer, others have none. */
  async #matchWriter(drive: string): Promise<void> {
    const { ledger, names, random, daemonPid, serverIsAlive } = this.#deps;
    const served = names.exports.get(drive);
    const exported = ledger.oracle.drives.get(drive)?.exported === true;
    const known = this.#writers.get(drive);
    if (exported && served !== undefined && known === undefined) {
      const writer = new Writer(drive, addressOf(served), {
        ledger,
        random: random.fork(),
        daemon: daemonPid,
        daemonIsDead: isDead,
        counters: this.totals.writer,
      });
      this.#writers.set(drive, writer);
      if (serverIsAlive()) writer.resume();
    } else if (!exported && known !== undefined) {
      this.#writers.delete(drive);
      await known.stop();
    }
  }
}
