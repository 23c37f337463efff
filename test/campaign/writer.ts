/**
 * A client of one exported drive: writes blocks nobody wrote before at random places, flushes now and then, and tells the
 * oracle what it asked for and what it was answered. It connects again whenever it is cut off, as a guest's host would.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { CalotypeError } from '../../src/core/errors.ts';
import { NbdClient } from '../../src/qemu/nbd-client.ts';
import { blockBytes, dataOf } from './blocks.ts';
import type { Ledger } from './ledger.ts';
import type { Random } from './random.ts';

export interface WriterDeps {
  readonly ledger: Ledger;
  readonly random: Random;
  /** The running daemon's process number; it changes when the daemon died. */
  readonly daemon: () => number;
  readonly daemonIsDead: (pid: number) => boolean;
  readonly counters: WriterCounters;
}

export interface WriterCounters {
  nextNumber: number;
  writes: number;
  flushes: number;
  bytes: number;
  /** Connections lost for no reason that the campaign knows of, while the daemon lived. */
  cuts: string[];
  /** Writes and flushes that the daemon refused. */
  refusals: string[];
}

const lanes = 2;
const largestBlocks = 64;

export class Writer {
  readonly drive: string;
  readonly #deps: WriterDeps;
  readonly #address: { path: string; exportName: string };
  readonly #taken = new Set<number>();
  readonly #running: Promise<void>[] = [];
  #client: NbdClient | undefined;
  #connecting: Promise<NbdClient | undefined> | undefined;
  #daemonPid = 0;
  #busy = 0;
  #paused = true;
  #stopped = false;
  #wake: (() => void)[] = [];
  #idle: (() => void)[] = [];
  #cutsExpected = 0;
  /** Clients that were there when a cut began to be expected: they may come to notice it late. */
  readonly #toBeCut = new WeakSet<NbdClient>();

  constructor(drive: string, address: { path: string; exportName: string }, deps: WriterDeps) {
    this.drive = drive;
    this.#address = address;
    this.#deps = deps;
    this.#daemonPid = deps.daemon();
    for (let lane = 0; lane < lanes; lane++) this.#running.push(this.#run(lane === 0));
  }

  resume(): void {
    this.#paused = false;
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** Being cut off is expected from now on: its export ends or is made anew. */
  expectCut(): void {
    if (this.#client !== undefined) this.#toBeCut.add(this.#client);
    this.#cutsExpected++;
  }

  /** One of the reasons to expect it is over. */
  cutIsOver(): void {
    this.#cutsExpected--;
  }

  get expectsCut(): boolean {
    return this.#cutsExpected > 0;
  }

  /** Waits for the answers due. */
  async pause(): Promise<void> {
    this.#paused = true;
    while (this.#busy > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Stops writing, flushes, and gives the connection for reading. @throws when the drive is not served within 20 s */
  async settle(): Promise<NbdClient> {
    await this.pause();
    const deadline = Date.now() + 20_000;
    while (Date.now() < deadline) {
      const client = await this.#connected();
      if (client === undefined) {
        await sleep(20);
        continue;
      }
      if (await this.#flush(client)) return client;
    }
    throw new Error(`the export of drive ${this.drive} was not served within 20 s`);
  }

  /** One that rests does not notice by itself that the daemon died under it. */
  lookForDeath(): void {
    const pid = this.#deps.daemon();
    if (pid === this.#daemonPid) return;
    this.#daemonPid = pid;
    this.#deps.ledger.crashed(this.drive);
    void this.#client?.close();
    this.#client = undefined;
  }

  /** Also finds out whether the daemon died while the drive's export was being closed, which nobody else would notice. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.resume();
    await Promise.all(this.#running);
    const client = this.#client;
    await client?.close();
    if (client !== undefined) await this.#judge(this.#deps.ledger.oracle.clock, this.#daemonPid, true, undefined);
  }

  async #run(flushes: boolean): Promise<void> {
    const { random } = this.#deps;
    while (!this.#stopped) {
      if (this.#paused) {
        await new Promise<void>((resolve) => this.#wake.push(resolve));
        continue;
      }
      this.#busy++;
      const client = await this.#connected();
      if (client !== undefined && !this.#paused && !this.#stopped) {
        if (flushes && random.chance(0.12)) await this.#flush(client);
        else await this.#write(client);
      }
      if (--this.#busy === 0) for (const idle of this.#idle.splice(0)) idle();
      await sleep(client === undefined ? 20 : random.between(1, 18));
    }
  }

  async #write(client: NbdClient): Promise<void> {
    const { ledger, random, counters } = this.#deps;
    const blocks = Math.min(client.sizeBytes / blockBytes, ledger.oracle.drives.get(this.drive)?.live.blocks ?? 0);
    const size = random.chance(0.7) ? random.between(1, 4) : random.between(1, random.chance(0.8) ? 16 : largestBlocks);
    const count = Math.min(size, blocks);
    // A quarter of the writes go to the first blocks, so that blocks are written again and again.
    const block = random.between(0, random.chance(0.25) ? Math.min(32, blocks - count) : blocks - count);
    for (let at = block; at < block + count; at++) if (this.#taken.has(at)) return;
    for (let at = block; at < block + count; at++) this.#taken.add(at);
    const write = counters.nextNumber++;
    const fua = random.chance(0.06);
    ledger.writeIssued(write, this.drive, block, count);
    try {
      await client.write(block * blockBytes, dataOf(write, block, count), { fua });
      ledger.writeAcked(write, fua);
      counters.writes++;
      counters.bytes += count * blockBytes;
    } catch (error) {
      this.#lost(client, error);
    } finally {
      for (let at = block; at < block + count; at++) this.#taken.delete(at);
    }
  }

  async #flush(client: NbdClient): Promise<boolean> {
    const { ledger, counters } = this.#deps;
    const flush = counters.nextNumber++;
    ledger.flushIssued(flush, this.drive);
    try {
      await client.flush();
      ledger.flushAcked(flush);
      counters.flushes++;
      return true;
    } catch (error) {
      this.#lost(client, error);
      return false;
    }
  }

  #lost(client: NbdClient, error: unknown): void {
    if (this.#client !== client) return;
    this.#client = undefined;
    void client.close();
    if (error instanceof CalotypeError && error.details.errno !== undefined) {
      this.#deps.counters.refusals.push(`${this.drive}: ${error.message}`);
    }
    const { ledger } = this.#deps;
    const at = ledger.oracle.clock;
    const expected = this.expectsCut || this.#toBeCut.has(client);
    if (!expected) ledger.crashed(this.drive, at);
    void this.#judge(at, this.#daemonPid, expected, error);
  }

  /** Why the connection was lost. A process that is being killed closes its sockets a little before it is gone. */
  async #judge(at: number, pid: number, expected: boolean, error: unknown): Promise<void> {
    const { daemonIsDead, daemon, ledger, counters } = this.#deps;
    for (let waited = 0; waited < 300; waited += 5) {
      if (daemonIsDead(pid) || daemon() !== pid) {
        if (expected) ledger.crashed(this.drive, at);
        return;
      }
      await sleep(5);
    }
    if (!expected) counters.cuts.push(`${this.drive}: ${error instanceof Error ? error.message : String(error)}`);
  }

  async #connected(): Promise<NbdClient | undefined> {
    if (this.#client !== undefined) return this.#client;
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #connect(): Promise<NbdClient | undefined> {
    try {
      const { path, exportName } = this.#address;
      const client = await NbdClient.connect({ kind: 'unix', path }, { exportName, timeoutMs: 5000 });
      this.lookForDeath();
      this.#client = client;
      return client;
    } catch {
      return undefined;
    }
  }
}
