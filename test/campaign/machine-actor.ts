/**
 * One machine with a guest that counts in its memory and on its disk, and a client that does one thing after another to
 * it. The client knows what must be true after each answer, however often the server died before it came.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type GuestMode, guestKernelArguments } from '../../src/guest/build.ts';
import type { MachineBody, SnapshotBody, TaskBody } from '../../src/http/schemas.ts';
import { Refused } from './api.ts';
import { counterInMemoryFile, memoryFileOf, serialOf } from './machine-eyes.ts';
import { Violation } from './operations.ts';
import { Harmed, type Made, type PatientClient, Stopped } from './patience.ts';
import type { Random } from './random.ts';

const MiB = 1024 * 1024;
export const driveBytes = 16 * MiB;
/** A file of the import directory, of that size. */
export const fileSystemImage = 'ext4.raw';
const memoryBytes = 160 * MiB;
const lineWithinMs = 120_000;
const lookMs = 20;
const harmWithinMs = 5000;
/** Where mode pair writes. */
const pairOffset = MiB;
/** Two drives that it writes to in turn, and one with a file system to freeze. */
const modes: readonly GuestMode[] = ['disk', 'pair', 'ext4', 'agent'];
const drivesOfMachine = 3;
const fileSystem = { slot: 2, device: '/dev/vdc' };
const mostSnapshots = 6;
const deadWithinMs = 3000;

export type MachineWork =
  | 'snapshot'
  | 'memory'
  | 'revert'
  | 'clone'
  | 'onto'
  | 'plug'
  | 'power'
  | 'make'
  | 'delete-snapshot';

export interface SnapshotFacts {
  readonly name: string;
  readonly id: string;
  readonly memory: boolean;
  /** Whether the guest was to run on after a revert with memory. */
  readonly wasRunning: boolean;
  /** Drive to its part. */
  readonly parts: ReadonlyMap<string, string>;
  readonly slots: number;
  /** What the guest had written on its first drive, and in memory; null until it was read. */
  onDisk: number | null;
  inMemory: number | null;
}

/** `run`: the guest may have begun anew. `other`: nothing that it wrote may be missing. */
type Unsure = 'run' | 'other' | { readonly target: SnapshotFacts; readonly memory: boolean };

export interface ActorDeps {
  readonly client: PatientClient;
  readonly random: Random;
  readonly data: string;
  readonly prefix: string;
  /** Whether something else than the server was killed since the last check. */
  readonly isHarmed: () => boolean;
  readonly counters: Map<string, number>;
}

export class MachineActor {
  readonly snapshots = new Map<string, SnapshotFacts>();
  id = '';
  number = 0;
  power: 'off' | 'running' | 'paused' = 'off';
  basedOn: string | null = null;
  /** Drives by slot. */
  slots = new Map<number, string>();
  /** A change failed that something else had been killed under: what it left is to be looked at. */
  #unsure: Unsure | null = null;
  readonly #deps: ActorDeps;
  #spare = '';
  #spareDrive = '';
  #scratch = '';
  #count = 0;
  /** Where in the serial log the present run of the guest begins, and what it had written by then. */
  #life = { from: 0, base: 0 };
  /** What its first drive holds exactly, where nobody wrote since it was known. */
  #exact: number | null = null;

  constructor(deps: ActorDeps) {
    this.#deps = deps;
  }

  /** Makes the machine, a spare one, and starts the guest. */
  async begin(): Promise<void> {
    const { prefix } = this.#deps;
    const main = await this.#make(prefix, drivesOfMachine);
    this.id = main.id;
    this.number = main.number;
    this.slots = new Map(main.drives.map(({ slot, driveId }) => [slot, driveId]));
    const spare = await this.#make(`${prefix}-spare`, drivesOfMachine);
    this.#spare = spare.id;
    this.#spareDrive = spare.drives[0]?.driveId ?? '';
    this.#scratch = await this.#makeDrive(`${prefix}-scratch`);
    await this.#power();
  }

  /** Does one thing to its end. @throws Violation, Stopped */
  async act(work: MachineWork): Promise<void> {
    if (this.snapshots.size > mostSnapshots) await this.#attempt('delete-snapshot');
    // Little can happen to a machine that is off.
    if (this.power === 'off' && this.#deps.random.chance(0.7)) await this.#attempt('power');
    await this.#attempt(work);
  }

  async #attempt(work: MachineWork): Promise<void> {
    const { counters } = this.#deps;
    try {
      await this.#doers[work]();
      counters.set(work, (counters.get(work) ?? 0) + 1);
    } catch (error) {
      if (error instanceof Stopped || error instanceof Violation) throw error;
      const isPassing = error instanceof Harmed || error instanceof Refused;
      if (isPassing && error.code === 'drive_busy' && work === 'plug') return;
      if (!isPassing) throw error;
      await this.#mustBeHarmed(`${this.#deps.prefix}: ${work}: ${error.message} (${error.code})`);
      this.#unsure ??= work === 'power' ? 'run' : 'other';
      counters.set(`${work} harmed`, (counters.get(`${work} harmed`) ?? 0) + 1);
    }
  }

  /** The word of a kill comes a little behind its effects. */
  async #mustBeHarmed(what: string): Promise<void> {
    for (let waited = 0; waited < harmWithinMs; waited += lookMs) {
      if (this.#deps.isHarmed()) return;
      await sleep(lookMs);
    }
    throw new Violation(`${what}, though nothing but the server was killed`);
  }

  readonly #doers: Readonly<Record<MachineWork, () => Promise<void>>> = {
    snapshot: () => this.#snapshot(false).then(() => undefined),
    memory: () => this.#snapshot(true).then(() => undefined),
    revert: () => this.#revert(),
    clone: () => this.#clone(),
    onto: () => this.#onto(),
    plug: () => this.#plug(),
    power: () => this.#power(),
    make: () => this.#makeAndDelete(),
    'delete-snapshot': () => this.#deleteSnapshot(),
  };

  // What it does

  async #snapshot(memory: boolean): Promise<SnapshotFacts> {
    const { client, random, prefix } = this.#deps;
    const isRunning = this.power === 'running';
    const takesMemory = memory && this.power !== 'off';
    const quiesce = random.pick(['prefer', 'never'] as const) ?? 'never';
    const before = isRunning ? await this.#line() : null;
    const name = `${prefix}-s${++this.#count}`;
    const body = { machineId: this.id, name, memory: takesMemory, quiesce };
    const { task } = await client.change('POST', '/snapshots', body);
    const facts = this.#learn(await client.get<SnapshotBody>(`/v1/snapshots/${task.objectId}`));
    this.basedOn = facts.id;
    await this.read(facts);
    const after = isRunning && this.power === 'running' ? await this.#line() : null;
    const { onDisk } = facts;
    if (onDisk === null) return facts;
    if (before !== null && onDisk < before) {
      throw new Violation(`${name} holds ${onDisk}, though ${before} was written before it was asked for`);
    }
    if (after !== null && onDisk > after) throw new Violation(`${name} holds ${onDisk}, though ${after} came after it`);
    // For a second memory a guest that stands still has to run for an instant.
    if (this.#exact !== null && (takesMemory ? onDisk < this.#exact : onDisk !== this.#exact)) {
      throw new Violation(`${name} holds ${onDisk} of a guest that stood still at ${this.#exact}`);
    }
    if (!isRunning) this.#exact = takesMemory ? null : onDisk;
    return facts;
  }

  async #revert(): Promise<void> {
    const { client, random } = this.#deps;
    const target = random.pick([...this.snapshots.values()].filter((one) => one.onDisk !== null));
    if (target === undefined) return void (await this.#snapshot(true));
    const withMemory = target.memory && random.chance(0.7);
    const paused = random.chance(0.5);
    const wasOff = this.power === 'off';
    const input = { memory: withMemory, paused, keepSafety: random.chance(0.3) };
    this.#unsure = { target, memory: withMemory };
    const { task } = await client.change('POST', `/snapshots/${target.id}/revert`, input);
    this.#unsure = null;
    await this.#learnSafety(task);
    this.basedOn = target.id;
    if (withMemory) this.power = target.wasRunning && !paused ? 'running' : 'paused';
    else this.power = wasOff ? 'off' : paused ? 'paused' : 'running';
    await this.#learnSlots();
    this.#begins(withMemory ? (target.onDisk ?? 0) : 0);
    this.#exact = this.power === 'running' ? null : target.onDisk;
    if (this.power === 'off') return;
    if (this.power === 'running') {
      const said = await this.#line();
      if (withMemory && said < (target.onDisk ?? 0)) {
        throw new Violation(`the guest went on at ${said} from ${target.name}, which holds ${target.onDisk}`);
      }
      return;
    }
    // It stands still at the instant: what is taken of it now is the same.
    const again = await this.#snapshot(withMemory);
    if (withMemory && (again.inMemory ?? 0) < (target.inMemory ?? 0)) {
      throw new Violation(
        `memory holds ${again.inMemory} after a revert to ${target.name}, which has ${target.inMemory}`,
      );
    }
    await this.#remove(again);
    await client.change('POST', `/machines/${this.id}/resume`, {});
    this.power = 'running';
    this.#exact = null;
    await this.#line();
  }

  async #clone(): Promise<void> {
    const { client, random, prefix } = this.#deps;
    const source = random.pick([...this.snapshots.values()].filter((one) => one.onDisk !== null));
    if (source === undefined) return void (await this.#snapshot(true));
    const memory = source.memory && random.chance(0.6);
    const name = `${prefix}-c${++this.#count}`;
    const { task } = await client.change('POST', `/snapshots/${source.id}/clone-machine`, { memory, name });
    const id = task.objectId ?? '';
    const clone = await client.get<MachineBody>(`/v1/machines/${id}`);
    const wanted = !memory ? 'off' : source.wasRunning ? 'running' : 'paused';
    if (clone.power !== wanted) await this.#mustBeHarmed(`the clone ${name} is ${clone.power} instead of ${wanted}`);
    if (clone.power === 'running') {
      const said = await this.#line(clone);
      if (said < (source.onDisk ?? 0)) throw new Violation(`the clone ${name} went on at ${said}`);
    } else if (clone.power === 'off' && !memory) {
      const number = await client.numberAt({ driveId: clone.drives[0]?.driveId ?? '' }, 0);
      if (number !== source.onDisk) throw new Violation(`the clone ${name} holds ${number} of ${source.onDisk}`);
    }
    await this.#delete(id);
  }

  async #onto(): Promise<void> {
    const { client, random } = this.#deps;
    const fitting = [...this.snapshots.values()].filter((one) => one.onDisk !== null && one.slots === drivesOfMachine);
    const source = random.pick(fitting);
    if (source === undefined) return void (await this.#snapshot(false));
    const input = { machineId: this.#spare, keepSafety: false };
    await client.change('POST', `/snapshots/${source.id}/revert`, input);
    const number = await client.numberAt({ driveId: this.#spareDrive }, 0);
    if (number !== source.onDisk)
      throw new Violation(`the spare machine holds ${number} instead of ${source.onDisk} of ${source.name}`);
  }

  async #plug(): Promise<void> {
    const { client } = this.#deps;
    const isThere = [...this.slots.values()].includes(this.#scratch);
    if (isThere) await client.change('DELETE', `/machines/${this.id}/drives/${this.#scratch}`);
    else await client.change('POST', `/machines/${this.id}/drives`, { driveId: this.#scratch });
    await this.#learnSlots();
    if ([...this.slots.values()].includes(this.#scratch) === isThere) {
      throw new Violation('a drive was not attached or detached, though it is said that it was');
    }
  }

  async #power(): Promise<void> {
    const { client, random } = this.#deps;
    const path = `/machines/${this.id}`;
    if (this.power === 'off') {
      await client.change('POST', `${path}/start`, {});
      this.power = 'running';
      this.#begins(0);
      await this.#line();
    } else if (this.power === 'paused') {
      await client.change('POST', `${path}/resume`, {});
      this.power = 'running';
      this.#exact = null;
      await this.#line();
    } else if (random.chance(0.6)) {
      await client.change('POST', `${path}/pause`, {});
      this.power = 'paused';
    } else {
      await client.change('POST', `${path}/stop`, { mode: 'power' });
      this.power = 'off';
    }
  }

  async #makeAndDelete(): Promise<void> {
    const made = await this.#make(`${this.#deps.prefix}-m${++this.#count}`, 1);
    await this.#delete(made.id);
  }

  async #deleteSnapshot(): Promise<void> {
    const facts = this.#deps.random.pick([...this.snapshots.values()]);
    if (facts !== undefined) await this.#remove(facts);
  }

  async #remove(facts: SnapshotFacts): Promise<void> {
    const { client } = this.#deps;
    await client.change('DELETE', `/snapshots/${facts.id}`);
    this.snapshots.delete(facts.id);
    if (this.basedOn === facts.id) this.basedOn = (await this.#machine()).basedOn;
  }

  async #delete(id: string): Promise<void> {
    await this.#deps.client.change('DELETE', `/machines/${id}?drives=delete&snapshots=delete`);
  }

  async #make(name: string, drives: number): Promise<MachineBody> {
    const ids: string[] = [];
    for (let at = 0; at < drives; at++) {
      ids.push(await this.#makeDrive(`${name}-d${at}`, at === fileSystem.slot));
    }
    const { task } = await this.#deps.client.change('POST', '/machines', {
      name,
      memoryBytes,
      drives: ids.map((driveId) => ({ driveId })),
      boot: {
        from: 'kernel',
        kernel: 'guest-vmlinuz',
        initrd: 'guest-initrd.img',
        append: guestKernelArguments(modes, { ext4Device: fileSystem.device }),
      },
    });
    return this.#deps.client.get(`/v1/machines/${task.objectId}`);
  }

  async #makeDrive(name: string, hasFileSystem = false): Promise<string> {
    const content = hasFileSystem ? { import: { file: fileSystemImage, format: 'raw' } } : { sizeBytes: driveBytes };
    const made: Made = await this.#deps.client.change('POST', '/drives', { name, ...content });
    return made.task.objectId ?? '';
  }

  // What it knows

  #learn(body: SnapshotBody): SnapshotFacts {
    const facts: SnapshotFacts = {
      name: body.name,
      id: body.id,
      memory: body.consistency === 'memory',
      wasRunning: body.machine?.power === 'running',
      parts: new Map(body.parts.map((part) => [part.driveId, part.id])),
      slots: body.parts.length,
      onDisk: null,
      inMemory: null,
    };
    this.snapshots.set(body.id, facts);
    return facts;
  }

  async #learnSafety(task: TaskBody): Promise<void> {
    const id = task.result?.safetySnapshotId;
    if (typeof id !== 'string') return;
    const body = await this.#deps.client.get<SnapshotBody>(`/v1/snapshots/${id}`);
    await this.read(this.#learn(body));
  }

  async #learnSlots(): Promise<void> {
    const { drives } = await this.#machine();
    const lost = [...this.slots.values()].filter(
      (driveId) => driveId !== this.#scratch && !drives.some((drive) => drive.driveId === driveId),
    );
    if (lost.length > 0) throw new Violation(`the machine lost its drives ${lost.join(' ')}`);
    this.slots = new Map(drives.map(({ slot, driveId }) => [slot, driveId]));
  }

  #machine(): Promise<MachineBody> {
    return this.#deps.client.get(`/v1/machines/${this.id}`);
  }

  /** A run of the guest begins. */
  #begins(base: number): void {
    this.#life = { from: serialOf(this.#deps.data, this.number).length, base };
    this.#exact = null;
  }

  /** The last number that the guest said was written, in its present run. */
  #said(): number {
    const said = [
      ...serialOf(this.#deps.data, this.number)
        .slice(this.#life.from)
        .matchAll(/^disk (\d+)\n/gm),
    ];
    return Number(said.at(-1)?.[1] ?? this.#life.base);
  }

  /** What the guest says next. @throws Harmed when it is dead */
  async #line(machine: { id: string; number: number } = this): Promise<number> {
    const said = (): string => serialOf(this.#deps.data, machine.number);
    const from = said().length;
    for (const until = Date.now() + lineWithinMs; Date.now() < until; await sleep(lookMs)) {
      const found = /^disk (\d+)\n/m.exec(said().slice(from));
      if (found !== null) return Number(found[1]);
      if (!this.#deps.isHarmed()) continue;
      const { power } = await this.#deps.client.get<MachineBody>(`/v1/machines/${machine.id}`);
      if (power !== 'running') throw new Harmed('guest_dead', `the machine is ${power}`);
    }
    throw new Violation(`the guest of machine ${machine.number} says nothing more: ${said().slice(-200)}`);
  }

  /** Reads what a snapshot holds, and compares it with what was read of it before. */
  async read(facts: SnapshotFacts): Promise<void> {
    const { client, data, counters } = this.#deps;
    const first = this.slots.get(0) ?? '';
    const part = facts.parts.get(first);
    if (part === undefined) throw new Violation(`snapshot ${facts.name} has no part of the first drive`);
    const onDisk = await client.numberAt({ driveSnapshotId: part }, 0);
    if (facts.onDisk !== null && facts.onDisk !== onDisk) {
      throw new Violation(`snapshot ${facts.name} held ${facts.onDisk} and holds ${onDisk}`);
    }
    facts.onDisk = onDisk;
    const ahead = await client.numberAt({ driveSnapshotId: part }, pairOffset);
    const behind = await client.numberAt(
      { driveSnapshotId: facts.parts.get(this.slots.get(1) ?? '') ?? '' },
      pairOffset,
    );
    // A guest that starts afresh begins at 1 on the first drive, where both had more.
    if (ahead !== 1 && ahead - behind !== 0 && ahead - behind !== 1) {
      throw new Violation(`the drives of ${facts.name} hold ${ahead} and ${behind}`);
    }
    counters.set('pairs compared', (counters.get('pairs compared') ?? 0) + 1);
    if (!facts.memory) return;
    const path = memoryFileOf(data, facts.id);
    if (path === null) throw new Violation(`snapshot ${facts.name} has lost its memory`);
    const inMemory = await counterInMemoryFile(path);
    if (inMemory - onDisk !== 0 && inMemory - onDisk !== 1) {
      throw new Violation(`snapshot ${facts.name} holds ${inMemory} in memory and ${onDisk} on disk`);
    }
    facts.inMemory = inMemory;
    counters.set('memories compared', (counters.get('memories compared') ?? 0) + 1);
  }

  // After a death, while nothing changes

  /** Compares the machine with what is known of it. @throws Violation */
  async check(all: readonly SnapshotBody[]): Promise<void> {
    const { isHarmed, random, prefix } = this.#deps;
    await this.#removeHalfMade();
    const machine = await this.#settled();
    if (machine.state !== 'available') throw new Violation(`machine ${prefix} is ${machine.state}`);
    const mayDiffer = isHarmed() && (machine.power === 'off' || this.#unsure !== null);
    if (machine.power !== this.power && !mayDiffer) {
      throw new Violation(`machine ${prefix} is ${machine.power} instead of ${this.power}`);
    }
    await this.#learnSlots();
    await this.#checkSnapshots(all.filter((one) => one.machine?.machineId === this.id));
    await this.#checkDrives(machine);
    this.#unsure = null;
    this.power = machine.power;
    this.basedOn = machine.basedOn;
    const chosen = random.pick([...this.snapshots.values()]);
    if (chosen !== undefined) await this.read(chosen);
  }

  /** A guest that runs says something; one that is dead is soon known to be off. */
  async #settled(): Promise<MachineBody> {
    const { isHarmed } = this.#deps;
    if ((await this.#machine()).power === 'running') {
      await this.#line().catch((error: unknown) => {
        if (!(error instanceof Harmed)) throw error;
      });
    }
    for (let waited = 0; isHarmed() && waited < deadWithinMs; waited += lookMs) {
      if ((await this.#machine()).power !== 'paused') break;
      await sleep(lookMs);
    }
    return this.#machine();
  }

  /** What a failed clone or creation left is deleted as its client would do it. */
  async #removeHalfMade(): Promise<void> {
    const { client, prefix } = this.#deps;
    const { items } = await client.get<{ items: MachineBody[] }>('/v1/machines?limit=500');
    for (const { id, name } of items) {
      if (name.startsWith(`${prefix}-`) && id !== this.#spare) await this.#delete(id);
    }
    const made = (await client.patiently(() => client.api.drives())).filter((one) => one.state === 'error');
    for (const { id, name } of made) {
      if (name.startsWith(`${prefix}-`)) await client.change('DELETE', `/drives/${id}?snapshots=delete`);
    }
  }

  async #checkSnapshots(found: readonly SnapshotBody[]): Promise<void> {
    for (const facts of this.snapshots.values()) {
      const body = found.find((one) => one.id === facts.id);
      if (body?.state === 'available' && body.complete) continue;
      throw new Violation(`snapshot ${facts.name} is ${body?.state ?? 'gone'}`);
    }
    for (const body of found) {
      if (this.snapshots.has(body.id)) continue;
      // The change that it was taken for may have failed later, or its answer was thrown away.
      if (body.state !== 'available' || this.#unsure === null) {
        throw new Violation(`there is a snapshot ${body.name} (${body.state}) too many`);
      }
      await this.read(this.#learn(body));
    }
  }

  /** It is at what it was put back to, wholly or not at all, and holds what was flushed. */
  async #checkDrives(machine: MachineBody): Promise<void> {
    const { client, prefix } = this.#deps;
    const unsure = this.#unsure;
    const target = unsure !== null && typeof unsure !== 'string' ? unsure : null;
    const isReverted = target !== null && machine.basedOn === target.target.id;
    if (machine.basedOn !== this.basedOn && !isReverted && unsure === null) {
      throw new Violation(`machine ${prefix} descends from ${machine.basedOn} instead of ${this.basedOn}`);
    }
    if (machine.power !== 'off') return;
    const number = await client.numberAt({ driveId: this.slots.get(0) ?? '' }, 0);
    const base = target?.memory === true ? (target.target.onDisk ?? 0) : 0;
    const least = isReverted || unsure === 'run' ? base : (this.#exact ?? this.#said());
    if (number < least) throw new Violation(`machine ${prefix} holds ${number} on its disk; ${least} was flushed`);
    this.#exact = number;
  }
}
