/**
 * The crash campaign: changes, writes and deaths at random, and after each death a comparison of everything with what
 * must be true. Owns a data directory, a server, its storage daemon; leaves neither process behind.
 */
import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Api } from './api.ts';
import { isDead, killsDaemon, killsServer, type Victim } from './arm.ts';
import type { Bounds } from './generator.ts';
import { Ledger } from './ledger.ts';
import { killHelpers } from './machine-eyes.ts';
import { MachineWorld } from './machine-world.ts';
import { Names } from './names.ts';
import { Violation } from './operations.ts';
import { Random } from './random.ts';
import { ServerProcess } from './server-process.ts';
import { Workload, type WorkloadTotals } from './workload.ts';

export interface CampaignOptions {
  readonly kills: number;
  readonly seed: number;
  /** Empty; the caller removes it. */
  readonly directory: string;
  readonly say?: (line: string) => void;
  readonly bounds?: Partial<Bounds>;
  /** Only these steps are died at; all when left out. */
  readonly steps?: readonly string[];
  /** Machines with guests that run meanwhile; 0 when left out. */
  readonly machines?: number;
  /** No more deaths after this time, even if fewer than `kills`. */
  readonly minutes?: number;
}

export interface Totals {
  readonly kills: Map<string, number>;
  /** Deaths at each step. */
  readonly steps: Map<string, number>;
  /** Times from the start of a server to its being ready. */
  readonly readyMs: number[];
  readonly work: WorkloadTotals;
  /** What was done with machines, and compared; empty without them. */
  readonly machines: ReadonlyMap<string, number>;
}

const defaultBounds: Bounds = { drives: 6, exports: 3, snapshots: 26, blocks: 1024 };
/** Guests need the processors, too. */
const besideMachines: Bounds = { drives: 3, exports: 1, snapshots: 8, blocks: 256 };
/** How long a step that is to be died at is waited for. */
const stepPatienceMs = 3500;
/** The same for a step of machines, whose guests are slow. */
const machineStepPatienceMs = 60_000;
const unlinkedWithinMs = 20_000;
/** Chances of a death at a step, of one a little later than it, and of one more while the server starts again. */
const chances = { step: 0.65, late: 0.25, atStart: 0.2 };
/** Of deaths in a campaign with machines, so many come at a step of theirs. */
const machineShare = 0.75;
const neverPassed: readonly string[] = [
  'import.planned',
  'import.copied',
  'points.copied',
  'drives.adopted',
  'drives.released',
];

type Manner = 'at a step' | 'at random' | 'none lived';

interface Death {
  readonly victim: Victim;
  readonly step: string | null;
}

/** Every step that the engine names, read from its sources, but for those of imports, images and adoption, which a campaign does not make. */
export const stepsOfEngine = (): string[] => stepsIn('../../src/engine/qcow2/', /\.step\(\s*'([^']+)'/g);

/** Every step of what is done with machines. */
export const stepsOfMachines = (): string[] =>
  stepsIn('../../src/service/', /(?:[#.\s]step\(|onStep\?\.\()\s*'(m[^']+)'/g);

function stepsIn(place: string, pattern: RegExp): string[] {
  const directory = fileURLToPath(new URL(place, import.meta.url));
  const names = new Set<string>();
  for (const file of readdirSync(directory).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))) {
    for (const [, name] of readFileSync(join(directory, file), 'utf8').matchAll(pattern)) {
      if (name !== undefined && !neverPassed.includes(name)) names.add(name);
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
  readonly #api = new Api({ url: '', token: '' });
  readonly #work: Workload;
  readonly #machines: MachineWorld | null;

  constructor(options: CampaignOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.data = join(options.directory, 'data');
    const importing = ['--import-directory', join(this.data, 'import')];
    this.server = new ServerProcess(this.data, options.directory, options.machines ? importing : []);
    const log = openSync(join(options.directory, 'changes.log'), 'a');
    this.#ledger = new Ledger({ log: (line) => writeSync(log, `${line}\n`) });
    this.#work = new Workload({
      api: this.#api,
      ledger: this.#ledger,
      names: new Names(),
      random: this.#random.fork(),
      data: this.data,
      bounds: { ...defaultBounds, ...(options.machines ? besideMachines : {}), ...options.bounds },
      label: `campaign-${options.seed}`,
      serverIsAlive: () => this.server.alive,
      daemonPid: () => this.server.daemonPid(),
    });
    this.#machines = options.machines
      ? new MachineWorld({
          api: this.#api,
          random: this.#random.fork(),
          data: this.data,
          label: `machines-${options.seed}`,
          count: options.machines,
        })
      : null;
    const known = [...stepsOfEngine(), ...(this.#machines === null ? [] : stepsOfMachines())];
    this.totals = {
      kills: new Map(),
      steps: new Map((options.steps ?? known).map((step) => [step, 0])),
      readyMs: [],
      work: this.#work.totals,
      machines: this.#machines?.counters ?? new Map(),
    };
  }

  /** @throws Violation, and whatever else goes wrong; the data directory then shows it */
  async run(): Promise<void> {
    try {
      this.stage = 'first start';
      await this.#machines?.prepare();
      await this.#start();
      await this.#machines?.begin();
      const until = performance.now() + (this.#options.minutes ?? Number.POSITIVE_INFINITY) * 60_000;
      for (let kill = 1; kill <= this.#options.kills && performance.now() < until; kill++) {
        const death = this.#chooseDeath();
        const words = `kill ${kill}: ${death.victim}${death.step === null ? '' : ` at ${death.step}`}`;
        this.#enter(words);
        const manner = await this.#live(death);
        if (manner !== 'none lived') count(this.totals.kills, `${death.victim} ${manner}`);
        if (!this.server.alive) await this.#startAgain();
        await this.#work.settle();
        await this.#machines?.settle();
        this.#enter(`checks after ${words}`);
        await this.#work.check();
        await this.#machines?.check();
        this.#options.say?.(
          `${words}${manner === 'at a step' || death.step === null ? '' : ` (not passed: ${manner})`}`,
        );
      }
      this.#enter('the end');
      await this.#end();
    } finally {
      await this.close();
    }
  }

  async close(): Promise<void> {
    await this.server.kill();
    await this.#work.stop();
    await this.#machines?.stop();
    await this.server.killDaemon();
    this.server.closeLog();
  }

  #enter(stage: string): void {
    this.stage = stage;
    this.#ledger.remark(`--- ${stage}`);
  }

  /** Steps that were died at least often come first. */
  #chooseDeath(): Death {
    const random = this.#random;
    const ofMachines = this.#machines !== null && random.chance(machineShare);
    const victims: readonly (readonly [Victim, number])[] = ofMachines
      ? [
          ['server', 6],
          ['qemu', 3],
          ['daemon', 1],
          ['both', 1],
          ['writer', 1],
          ['guard', 1],
        ]
      : [
          ['server', 5],
          ['daemon', 3],
          ['both', 3],
        ];
    const victim = random.weighted(victims) ?? 'server';
    // Each lives for as long as there is something to do for it.
    if (victim === 'writer') return { victim, step: 'machine.released' };
    if (victim === 'guard') return { victim, step: 'machine.frozen' };
    if (!random.chance(chances.step)) return { victim, step: null };
    const wanted = [...this.totals.steps].filter(([step]) => !ofMachines || isOfMachines(step));
    const steps = wanted.length > 0 ? wanted : [...this.totals.steps];
    const least = Math.min(...steps.map(([, deaths]) => deaths));
    const fewest = steps.filter(([, deaths]) => deaths <= least + 1).map(([step]) => step);
    return { victim, step: random.pick(fewest) ?? null };
  }

  async #start(): Promise<void> {
    const startedAt = performance.now();
    const access = await this.server.start();
    if (access === null) throw new Violation('the server ended by itself while it started');
    this.totals.readyMs.push(performance.now() - startedAt);
    this.#api.moveTo(access);
    this.#machines?.serverIsBack();
  }

  /** Sometimes the server, or all, is killed while it starts, and started again. */
  async #startAgain(): Promise<void> {
    if (this.#random.chance(chances.atStart)) {
      const killed = sleep(this.#random.between(50, 1200)).then(async () => {
        if (this.#random.chance(0.3)) {
          this.#machines?.harm();
          await this.server.killDaemon();
        }
        await this.server.kill();
      });
      await this.server.start();
      await killed;
      count(this.totals.kills, 'server while it starts');
    }
    await this.#start();
  }

  /** Lets everything run until death comes. Returns whether it came at the step that was chosen, later, or found nobody. */
  async #live({ victim, step }: Death): Promise<Manner> {
    const random = this.#random;
    const daemonPid = this.server.daemonPid();
    let hit = false;
    let isKilled = true;
    const harm = (): void => {
      if (victim !== 'server') this.#machines?.harm();
    };
    this.server.onHit = () => {
      hit = true;
      harm();
    };
    this.#work.resume(step);
    this.#machines?.resume(step);
    if (step !== null) {
      const delayMs = random.chance(chances.late) ? random.between(1, 12) : 0;
      const nth = isOfMachines(step) ? 1 : random.between(1, 3);
      this.server.arm({ step, nth, victim, delayMs });
    }
    const patienceMs = step !== null && isOfMachines(step) ? machineStepPatienceMs : stepPatienceMs;
    const shortest = this.#machines === null ? 250 : 1000;
    await this.#work.runFor(
      step === null ? random.between(shortest, shortest * 6) : patienceMs,
      () => hit || this.#machines?.isSound === false,
    );
    if (!hit && !this.server.alive) {
      // A server that kills itself may be gone before its word of it comes.
      if (!this.server.lastStep().includes(' kill ')) throw new Violation('the server ended by itself');
      hit = true;
    }
    if (hit && step !== null) {
      const gone = (): boolean =>
        (!killsServer(victim) || !this.server.alive) && (!killsDaemon(victim) || isDead(daemonPid));
      for (let waited = 0; !gone() && waited < 2000; waited += 2) await sleep(2);
      count(this.totals.steps, step);
    } else {
      this.server.arm(null);
      harm();
      isKilled = await this.#killNow(victim);
    }
    // A server that lives is expected to bring its daemon back by itself, and to go on.
    if (!killsServer(victim)) await this.#work.runFor(random.between(0, 700));
    this.#machines?.pause();
    this.#machines?.assertSound();
    await this.#work.drain();
    return hit ? 'at a step' : isKilled ? 'at random' : 'none lived';
  }

  /** @returns whether there was anything to kill */
  async #killNow(victim: Victim): Promise<boolean> {
    const random = this.#random;
    if (!killsServer(victim) && !killsDaemon(victim) && killHelpers(this.data, victim) === 0) return false;
    const first = victim === 'both' && random.chance(0.5) ? 'server' : 'daemon';
    const pause = random.chance(0.5) ? random.between(1, 40) : 0;
    if (first === 'server') await this.server.kill();
    if (first === 'server' && pause > 0) await sleep(pause);
    if (killsDaemon(victim)) await this.server.killDaemon();
    if (victim === 'both' && first === 'daemon' && pause > 0) await sleep(pause);
    if (killsServer(victim)) await this.server.kill();
    return true;
  }

  /** Everything is deleted, and nothing is left behind. */
  async #end(): Promise<void> {
    await this.#work.stop();
    await this.#machines?.end();
    for (const served of await this.#api.exports()) await this.#api.stopExport(served.id);
    for (const drive of await this.#api.drives()) {
      await this.#api.send({ method: 'DELETE', path: `/v1/drives/${drive.id}?snapshots=delete`, wait: 60 });
    }
    for (const snapshot of await this.#api.snapshots()) {
      await this.#api.send({ method: 'DELETE', path: `/v1/snapshots/${snapshot.id}`, wait: 60 });
    }
    // Unlinking goes on behind the answers.
    const filesLeft = (): string[] => readdirSync(join(this.data, 'images'));
    for (let waited = 0; filesLeft().length > 0 && waited < unlinkedWithinMs; waited += 20) await sleep(20);
    const left = filesLeft();
    if (left.length > 0) throw new Violation(`files left after everything was deleted: ${left.join(' ')}`);
  }
}

const isOfMachines = (step: string): boolean => step.startsWith('machine.') || step.startsWith('memory.');

function count<K>(counts: Map<K, number>, key: K): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
