/** The machines of a campaign: their clients, what is done between two deaths, and the comparison after each. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildGuest } from '../../src/guest/build.ts';
import type { MachineBody } from '../../src/http/schemas.ts';
import type { Api } from './api.ts';
import { driveBytes, fileSystemImage, MachineActor, type MachineWork } from './machine-actor.ts';
import { processesOf, strayMachineFiles } from './machine-eyes.ts';
import { machinePrefix } from './names.ts';
import { Violation } from './operations.ts';
import { Comings, PatientClient, Stopped } from './patience.ts';
import type { Random } from './random.ts';

/** A guard that lost its agent goes on trying for half a minute. */
const helpersEndWithinMs = 45_000;

const usually: Readonly<Record<MachineWork, number>> = {
  snapshot: 3,
  memory: 4,
  revert: 4,
  clone: 2,
  onto: 1.5,
  plug: 2,
  power: 2,
  make: 0.7,
  'delete-snapshot': 1,
};

/** Which work leads past a step; else anything may. */
const leadsTo: Readonly<Record<string, readonly MachineWork[]>> = {
  'machine.created': ['make'],
  'machine.forgotten': ['make', 'clone'],
  'machine.started': ['power'],
  'machine.plugged': ['plug'],
  'machine.unplugged': ['plug'],
  'machine.cloned': ['clone'],
  'machine.kept': ['revert', 'onto'],
  'machine.reverted': ['revert', 'onto'],
  'machine.up': ['revert'],
  'machine.served': ['revert', 'clone'],
  'machine.launched': ['revert', 'clone'],
  'machine.down': ['revert', 'clone', 'power'],
  'machine.held': ['memory'],
  'machine.released': ['memory'],
  'memory.saved': ['memory'],
  'machine.frozen': ['snapshot'],
};

export interface MachineWorldDeps {
  readonly api: Api;
  readonly random: Random;
  readonly data: string;
  readonly label: string;
  readonly count: number;
}

export class MachineWorld {
  /** How often each thing was done, and what was compared. */
  readonly counters = new Map<string, number>();
  readonly #deps: MachineWorldDeps;
  readonly #comings = new Comings();
  readonly #actors: MachineActor[] = [];
  readonly #client: PatientClient;
  readonly #problems: Error[] = [];
  #running: Promise<void>[] = [];
  #goesOn = false;
  #wanted: string | null = null;
  #harmed = false;

  constructor(deps: MachineWorldDeps) {
    this.#deps = deps;
    this.#client = new PatientClient(deps.api, this.#comings, deps.label);
  }

  /** Before the first server starts. */
  async prepare(): Promise<void> {
    const { data } = this.#deps;
    mkdirSync(join(data, 'boot'), { recursive: true });
    await buildGuest(join(data, 'boot'));
    mkdirSync(join(data, 'import'), { recursive: true });
    const image = join(data, 'import', fileSystemImage);
    writeFileSync(image, '');
    truncateSync(image, driveBytes);
    execFileSync('mkfs.ext4', ['-q', '-F', image]);
  }

  /** Makes the machines and starts their guests. */
  async begin(): Promise<void> {
    const { random, data, count } = this.#deps;
    for (let at = 0; at < count; at++) {
      this.#actors.push(
        new MachineActor({
          client: this.#client,
          random: random.fork(),
          data,
          prefix: `${machinePrefix}${at + 1}`,
          isHarmed: () => this.#harmed,
          counters: this.counters,
        }),
      );
    }
    await Promise.all(this.#actors.map((actor) => actor.begin()));
  }

  serverIsBack(): void {
    this.#comings.serverIsBack();
  }

  /** Something was killed that guests or helpers live on. */
  harm(): void {
    this.#harmed = true;
  }

  get isSound(): boolean {
    return this.#problems.length === 0;
  }

  assertSound(): void {
    const [problem] = this.#problems;
    if (problem !== undefined) throw problem;
  }

  resume(wanted: string | null): void {
    this.#wanted = wanted;
    this.#goesOn = true;
    this.#running = this.#actors.map((actor) => this.#keepActing(actor));
  }

  /** Nothing new is begun. */
  pause(): void {
    this.#goesOn = false;
  }

  /** Waits until what was begun has ended; servers must be there for it. */
  async settle(): Promise<void> {
    this.pause();
    await Promise.all(this.#running);
    this.assertSound();
  }

  async #keepActing(actor: MachineActor): Promise<void> {
    const { random } = this.#deps;
    try {
      while (this.#goesOn && this.isSound && !this.#harmed) {
        const likely = leadsTo[this.#wanted ?? ''] ?? [];
        const weights = Object.entries(usually) as [MachineWork, number][];
        const work = random.weighted(weights.map(([kind, base]) => [kind, likely.includes(kind) ? base * 12 : base]));
        if (work !== undefined) await actor.act(work);
      }
    } catch (error) {
      if (error instanceof Stopped) return;
      this.#problems.push(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** @throws Violation */
  async check(): Promise<void> {
    const { api, data } = this.#deps;
    for (const actor of this.#actors) await actor.check(await api.snapshots());
    const { items } = await api.get<{ items: MachineBody[] }>('/v1/machines?limit=500');
    for (const { name, state } of items) {
      if (state !== 'available') throw new Violation(`machine ${name} is ${state}`);
    }
    if (items.length !== 2 * this.#actors.length) {
      throw new Violation(`there are the machines ${items.map((machine) => machine.name).join(' ')}`);
    }
    await this.#nothingIsLeft(data, items);
    this.#harmed = false;
    this.counters.set('checks', (this.counters.get('checks') ?? 0) + 1);
  }

  async #nothingIsLeft(data: string, machines: readonly MachineBody[]): Promise<void> {
    const wanted = machines.flatMap(({ runtime }) => (runtime === null ? [] : [runtime.pid]));
    const problems = (): string[] => {
      const found = processesOf(data);
      const same = found.machines.length === wanted.length && found.machines.every((pid) => wanted.includes(pid));
      return [
        ...(same ? [] : [`QEMU runs as ${found.machines.join(' ')}, machines as ${wanted.join(' ')}`]),
        ...found.writers.map((pid) => `a writer of memory is left over: ${pid}`),
        ...found.guards.map((pid) => `a freeze guard is left over: ${pid}`),
        ...strayMachineFiles(data),
      ];
    };
    for (let waited = 0; waited < helpersEndWithinMs && problems().length > 0; waited += 50) await sleep(50);
    const left = problems();
    if (left.length > 0) throw new Violation(left.join('\n'));
  }

  /** Deletes all machines with all that they have. */
  async end(): Promise<void> {
    const { api, data } = this.#deps;
    const { items } = await api.get<{ items: MachineBody[] }>('/v1/machines?limit=500');
    for (const { id } of items) {
      await this.#client.change('DELETE', `/machines/${id}?drives=delete&snapshots=delete`);
    }
    for (const active of await api.activeTasks()) await api.task(active.id, 60);
    await this.#nothingIsLeft(data, []);
  }

  async stop(): Promise<void> {
    this.pause();
    this.#comings.stop();
    await Promise.all(this.#running);
    for (const pid of processesOf(this.#deps.data).machines) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone already.
      }
    }
  }
}
