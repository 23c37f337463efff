/**
 * The crash campaign: changes, writes and deaths at random, and after each death a comparison of everything with what
 * must be true. Owns a data directory, a server, its storage daemon; leaves neither process behind.
 */
import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { NbdClient } from '../../src/qemu/nbd-client.ts';
import { Api, addressOf } from './api.ts';
import { type Arm, isDead, type Victim } from './arm.ts';
import { type CheckCounters, checkEverything } from './checks.ts';
import { type Bounds, Generator } from './generator.ts';
import { Ledger } from './ledger.ts';
import { Names } from './names.ts';
import { describePlan, type Operation, Operator, Unanswered, Violation } from './operations.ts';
import type { PlanKind } from './plans.ts';
import { Random } from './random.ts';
import { ServerProcess } from './server-process.ts';
import { Writer, type WriterCounters } from './writer.ts';

export interface CampaignOptions {
  readonly kills: number;
  readonly seed: number;
  /** Empty; the caller removes it. */
  readonly directory: string;
  readonly say?: (line: string) => void;
  readonly bounds?: Partial<Bounds>;
  /** Only these steps are died at; all when left out. */
  readonly steps?: readonly string[];
}

export interface Totals {
  readonly kills: Map<string, number>;
  /** Deaths at each step; 0 for those never passed when it was their turn. */
  readonly steps: Map<string, number>;
  readonly operations: Map<PlanKind, number>;
  unanswered: number;
  askedAgain: number;
  lookedUp: number;
  readyMs: number[];
  readonly checks: CheckCounters;
  readonly writer: WriterCounters;
}

const defaultBounds: Bounds = { drives: 6, exports: 3, snapshots: 26, blocks: 1024 };
const atOnce = 4;
const stepPatienceMs = 3500;

interface Death {
  readonly victim: Victim;
  readonly step: string | null;
}

/** Every step that the engine names, read from its sources. */
export function stepsOfEngine(): string[] {
  const directory = fileURLToPath(new URL('../../src/engine/qcow2/', import.meta.url));
  const names = new Set<string>();
  for (const file of readdirSync(directory).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))) {
    for (const [, name] of readFileSync(join(directory, file), 'utf8').matchAll(/\.step\(\s*'([^']+)'/g)) {
      if (name !== undefined) names.add(name);
    }
  }
  return [...names].sort();
}

export class Campaign {
  readonly totals: Totals;
  readonly server: ServerProcess;
  readonly data: string;
  /** What it is at, for messages. */
  stage = 'start';
  readonly #options: CampaignOptions;
  readonly #random: Random;
  readonly #ledger: Ledger;
  readonly #names = new Names();
  readonly #api = new Api({ url: '', token: '' });
  readonly #operator: Operator;
  readonly #generator: Generator;
  readonly #writers = new Map<string, Writer>();
  readonly #inFlight = new Map<Operation, Promise<void>>();
  readonly #unanswered: Operation[] = [];
  readonly #problems: Error[] = [];
  #operations = 0;

  constructor(options: CampaignOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.data = join(options.directory, 'data');
    this.server = new ServerProcess(this.data, options.directory);
    const log = openSync(join(options.directory, 'changes.log'), 'a');
    this.#ledger = new Ledger({ log: (line) => writeSync(log, `${line}\n`) });
    this.#operator = new Operator(this.#api, this.#names, this.#ledger);
    const bounds = { ...defaultBounds, ...options.bounds };
    this.#generator = new Generator(this.#random.fork(), this.#ledger.oracle, this.#names, bounds);
    this.totals = {
      kills: new Map(),
      steps: new Map((options.steps ?? stepsOfEngine()).map((step) => [step, 0])),
      operations: new Map(),
      unanswered: 0,
      askedAgain: 0,
      lookedUp: 0,
      readyMs: [],
      checks: { checks: 0, parts: 0, drives: 0, bytes: 0, sizes: 0, findings: 0 },
      writer: { nextNumber: 1, writes: 0, flushes: 0, bytes: 0, cuts: [], refusals: [] },
    };
  }

  /** @throws Violation, and whatever else goes wrong; the data directory then shows it */
  async run(): Promise<void> {
    try {
      this.stage = 'first start';
      await this.#start(null);
      for (let kill = 1; kill <= this.#options.kills; kill++) {
        const death = this.#chooseDeath();
        const words = `kill ${kill}: ${death.victim}${death.step === null ? '' : ` at ${death.step}`}`;
        this.stage = words;
        this.#ledger.remark(`--- ${words}`);
        const how = await this.#live(death);
        this.#count(this.totals.kills, how);
        if (!this.server.alive) await this.#start(death);
        await this.#settleAll();
        this.stage = `checks after ${words}`;
        this.#ledger.remark('checks');
        await this.#check();
        this.#options.say?.(`${words}${how.includes('step') || death.step === null ? '' : ' (not passed: at random)'}`);
      }
      this.stage = 'the end';
      await this.#end();
    } finally {
      await this.close();
    }
  }

  async close(): Promise<void> {
    await this.server.kill();
    await Promise.all([...this.#writers.values()].map((writer) => writer.stop()));
    await this.server.killDaemon();
    this.server.closeLog();
  }

  #chooseDeath(): Death {
    const random = this.#random;
    const victim = random.weighted<Victim>([
      ['server', 5],
      ['daemon', 3],
      ['both', 3],
    ]);
    const steps = [...this.totals.steps];
    if (!random.chance(0.65) || steps.length === 0) return { victim: victim ?? 'server', step: null };
    const least = Math.min(...steps.map(([, count]) => count));
    const fewest = steps.filter(([, count]) => count <= least + 1).map(([step]) => step);
    return { victim: victim ?? 'server', step: random.pick(fewest) ?? null };
  }

  /** Starts the server; sometimes it is killed while it starts, and started again. */
  async #start(after: Death | null): Promise<void> {
    if (after !== null && this.#random.chance(0.2)) {
      const killed = sleep(this.#random.between(50, 900)).then(async () => {
        if (this.#random.chance(0.3)) await this.server.killDaemon();
        await this.server.kill();
      });
      await this.server.start();
      await killed;
      this.#count(this.totals.kills, 'server while it starts');
    }
    const startedAt = performance.now();
    const access = await this.server.start();
    if (access === null) throw new Violation('the server ended by itself while it started');
    this.totals.readyMs.push(performance.now() - startedAt);
    this.#api.moveTo(access);
  }

  /** Lets everything run until death comes. Returns what died how. */
  async #live(death: Death): Promise<string> {
    const random = this.#random;
    for (const writer of this.#writers.values()) writer.resume();
    let hit = false;
    const daemonPid = this.server.daemonPid();
    this.server.onHit = () => {
      hit = true;
    };
    this.#generator.wanted = death.step ?? undefined;
    if (death.step !== null) {
      const delayMs = random.chance(0.25) ? random.between(1, 12) : 0;
      const arm: Arm = { step: death.step, nth: random.between(1, 3), victim: death.victim, delayMs };
      this.server.arm(arm);
    }
    const patience = death.step === null ? random.between(250, 1600) : stepPatienceMs;
    const until = performance.now() + patience;
    while (performance.now() < until && !hit && this.server.alive && this.#isSound) {
      this.#fill();
      await Promise.race([sleep(random.between(3, 30)), ...this.#inFlight.values()]);
    }
    if (hit) {
      // It dies now or some milliseconds later.
      const gone = (): boolean =>
        (death.victim === 'daemon' || !this.server.alive) && (death.victim === 'server' || isDead(daemonPid));
      for (let waited = 0; !gone() && waited < 2000; waited += 2) await sleep(2);
      if (death.step !== null) this.#count(this.totals.steps, death.step);
    } else {
      this.server.arm(null);
      await this.#killNow(death.victim);
    }
    if (death.victim === 'daemon') await this.#liveOn();
    await Promise.all(this.#inFlight.values());
    if (this.server.alive && this.#unanswered.length > 0) {
      throw new Violation(
        `${this.#unanswered.map((item) => describePlan(item.plan)).join(', ')}: no answer from a living server`,
      );
    }
    this.#throwProblems();
    return `${death.victim} ${hit ? 'at a step' : 'at random'}`;
  }

  /** The server is expected to bring its daemon back by itself, and to go on. */
  async #liveOn(): Promise<void> {
    const until = performance.now() + this.#random.between(0, 700);
    while (performance.now() < until && this.server.alive && this.#isSound) {
      this.#fill();
      await sleep(this.#random.between(3, 30));
    }
  }

  async #killNow(victim: Victim): Promise<void> {
    if (victim === 'both' && this.#random.chance(0.5)) {
      await this.server.kill();
      if (this.#random.chance(0.5)) await sleep(this.#random.between(0, 40));
      await this.server.killDaemon();
      return;
    }
    if (victim !== 'server') await this.server.killDaemon();
    if (victim === 'both' && this.#random.chance(0.5)) await sleep(this.#random.between(0, 40));
    if (victim !== 'daemon') await this.server.kill();
  }

  #fill(): void {
    while (this.#inFlight.size < atOnce && this.server.alive && this.#isSound) {
      const plan = this.#generator.next();
      if (plan === undefined) return;
      const id = ++this.#operations;
      const operation: Operation = {
        id,
        plan,
        key: this.#random.chance(0.7) ? `campaign-${this.#options.seed}-${id}` : null,
        waits: this.#random.chance(0.5),
        call: undefined,
        taskId: null,
      };
      this.#track(operation, () => this.#operator.start(operation));
    }
  }

  #track(operation: Operation, work: () => Promise<void>): void {
    const running = this.#carryOut(operation, work).finally(() => this.#inFlight.delete(operation));
    this.#inFlight.set(operation, running);
  }

  async #carryOut(operation: Operation, work: () => Promise<void>): Promise<void> {
    const { plan } = operation;
    const writer = 'drive' in plan ? this.#writers.get(plan.drive) : undefined;
    const cuts = plan.kind === 'unexport' || plan.kind === 'resize';
    try {
      if (cuts && writer !== undefined) {
        if (this.#random.chance(0.3)) await writer.pause();
        writer.expectsCut = true;
      }
      await work();
      if (this.#random.chance(0.1) && this.server.alive) {
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
    this.#count(this.totals.operations, plan.kind);
    this.#generator.done(plan);
    const { drives } = this.#ledger.oracle;
    if (plan.kind === 'export' || plan.kind === 'unexport') {
      const served = this.#names.exports.get(plan.drive);
      const exported = drives.get(plan.drive)?.exported === true;
      const known = this.#writers.get(plan.drive);
      if (exported && served !== undefined && known === undefined) {
        const writer = new Writer(plan.drive, addressOf(served), {
          ledger: this.#ledger,
          random: this.#random.fork(),
          daemon: () => this.server.daemonPid(),
          daemonIsDead: isDead,
          counters: this.totals.writer,
        });
        this.#writers.set(plan.drive, writer);
        if (this.server.alive) writer.resume();
      } else if (!exported && known !== undefined) {
        this.#writers.delete(plan.drive);
        await known.stop();
      }
    }
    const writer = 'drive' in plan ? this.#writers.get(plan.drive) : undefined;
    if (writer !== undefined && (plan.kind === 'resize' || plan.kind === 'unexport')) {
      // Its socket may say so a little later than the answer.
      setTimeout(() => {
        writer.expectsCut = false;
      }, 200).unref();
      writer.resume();
    }
  }

  /** Finds out what became of all that was asked for. */
  async #settleAll(): Promise<void> {
    for (const operation of this.#unanswered.splice(0)) {
      if (operation.taskId === null && operation.call !== undefined) {
        if (operation.key === null) this.totals.lookedUp++;
        else this.totals.askedAgain++;
      }
      this.#track(operation, () => this.#operator.settle(operation));
    }
    await Promise.all(this.#inFlight.values());
    this.#throwProblems();
    const [open] = this.#unanswered;
    if (open !== undefined) throw new Violation(`${describePlan(open.plan)} got no answer from a server that stands`);
  }

  async #check(): Promise<void> {
    this.#throwProblems();
    const clients = new Map<string, NbdClient>();
    for (const writer of this.#writers.values()) clients.set(writer.drive, await writer.settle());
    await checkEverything({
      api: this.#api,
      oracle: this.#ledger.oracle,
      names: this.#names,
      random: this.#random,
      data: this.data,
      counters: this.totals.checks,
      clients,
    });
  }

  #throwProblems(): void {
    const [problem] = this.#problems;
    if (problem !== undefined) throw problem;
    const [refusal] = this.totals.writer.refusals;
    if (refusal !== undefined) throw new Violation(`a client's request failed: ${refusal}`);
    const [cut] = this.totals.writer.cuts;
    if (cut !== undefined) throw new Violation(`a client was cut off while the daemon lived: ${cut}`);
  }

  get #isSound(): boolean {
    return this.#problems.length === 0 && this.totals.writer.refusals.length === 0;
  }

  /** Everything is deleted, and nothing is left behind. */
  async #end(): Promise<void> {
    for (const served of await this.#api.exports()) await this.#api.stopExport(served.id);
    for (const writer of this.#writers.values()) {
      writer.expectsCut = true;
      await writer.stop();
    }
    this.#writers.clear();
    for (const drive of await this.#api.drives()) {
      await this.#api.send({ method: 'DELETE', path: `/v1/drives/${drive.id}?snapshots=delete`, wait: 60 });
    }
    for (const snapshot of await this.#api.snapshots()) {
      await this.#api.send({ method: 'DELETE', path: `/v1/snapshots/${snapshot.id}`, wait: 60 });
    }
    const left = readdirSync(join(this.data, 'images'));
    if (left.length > 0) throw new Violation(`files left after everything was deleted: ${left.join(' ')}`);
  }

  #count<K>(counts: Map<K, number>, key: K): void {
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
}
