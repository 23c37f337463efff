/**
 * Power failures: a server works on a file system whose disk logs every write and flush. From the log come the disks that
 * power failures at many moments would have left, with everything flushed and any part of the rest. On each of them a server
 * must come up by itself with every acknowledged change, every snapshot byte-exact and every flushed write.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { NbdClient } from '../src/qemu/nbd-client.ts';
import { Api, addressOf } from './campaign/api.ts';
import { daemonPidOf } from './campaign/arm.ts';
import { checkEverything } from './campaign/checks.ts';
import { type Event, Ledger } from './campaign/ledger.ts';
import { Names } from './campaign/names.ts';
import { type Operation, Operator } from './campaign/operations.ts';
import { Oracle } from './campaign/oracle.ts';
import { Random } from './campaign/random.ts';
import { emptyChecks, Workload } from './campaign/workload.ts';
import { type LocalServer, startLocalServer } from './support/local-server.ts';
import { LoggedDisk, reasonAgainst, type WriteLog } from './support/logged-disk.ts';

const MiB = 1024 ** 2;
const seed = Number(process.env.CALOTYPE_POWER_SEED ?? Math.floor(Math.random() * 1e6));
const cuts = Number(process.env.CALOTYPE_POWER_CUTS ?? 55);
const runMs = 5000;
/** How much of what was not flushed may be there: nothing, a part, nearly all, all. */
const keeps = [0, 0.5, 0.9, 1];

/** The last moment to fail at: what follows are the run's own checks. */
const theEnd = 'the end';

type Mark = { readonly events: number } | { readonly step: string };

/** What a run left behind: the disk's log, and what was known at each mark in it. */
interface Run {
  readonly log: WriteLog;
  readonly marks: readonly Mark[];
  readonly events: readonly Event[];
  readonly operations: ReadonlyMap<number, Operation>;
  readonly names: Names;
}

/** Works on a logged disk for some seconds. */
async function record(directory: string, random: Random): Promise<Run> {
  const disk = await LoggedDisk.create(directory, 320 * MiB);
  let noted: Omit<Run, 'log'>;
  try {
    noted = await workOn(disk, directory, random);
  } catch (error) {
    console.error(`seed ${seed}, while it was recorded: ${error instanceof Error ? error.stack : String(error)}`);
    (await disk.stop()).close();
    throw error;
  }
  return { log: await disk.stop(), ...noted };
}

async function workOn(disk: LoggedDisk, directory: string, random: Random): Promise<Omit<Run, 'log'>> {
  const data = join(disk.mountPoint, 'd');
  const marks: Mark[] = [];
  const mark = (what: Mark): void => {
    marks.push(what);
    disk.mark(marks.length);
  };
  const events: Event[] = [];
  const ledger = new Ledger({
    note: (event) => {
      events.push(event);
      mark({ events: events.length });
    },
  });
  const names = new Names();
  let server: LocalServer | undefined;
  let work: Workload | undefined;
  try {
    server = await startLocalServer(data, join(directory, 'run.log'), (step) => mark({ step }));
    mark({ events: 0 });
    work = new Workload({
      api: new Api(server.access),
      ledger,
      names,
      random,
      data,
      bounds: { drives: 5, exports: 3, snapshots: 22, blocks: 512 },
      label: `power-${seed}`,
      serverIsAlive: () => true,
      daemonPid: () => daemonPidOf(data),
    });
    for (const wanted of [null, 'merge', 'revert', 'twin', 'merge', 'flat']) {
      work.resume(wanted);
      await work.runFor(runMs / 6);
    }
    await work.drain();
    mark({ step: theEnd });
    await work.check();
    return { marks, events, operations: work.operations, names };
  } finally {
    await work?.stop();
    await server?.destroy();
  }
}

/** The entries to fail before: one right after each step that was passed, and one right before a flush here and there; the rest anywhere. */
function chooseCuts({ log, marks }: Run, random: Random): number[] {
  const first = log.marks.find(({ number }) => 'events' in (marks[number - 1] ?? {}))?.entry ?? 0;
  const isEnd = (mark: Mark | undefined): boolean => mark !== undefined && 'step' in mark && mark.step === theEnd;
  const last = log.marks.find(({ number }) => isEnd(marks[number - 1]))?.entry ?? log.entries.length;
  const bySteps = new Map<string, number[]>();
  for (const { number, entry } of log.marks) {
    const mark = marks[number - 1];
    if (mark !== undefined && 'step' in mark && entry > first) {
      bySteps.set(mark.step, [...(bySteps.get(mark.step) ?? []), entry]);
    }
  }
  const chosen = new Set<number>();
  for (const entries of bySteps.values()) chosen.add((random.pick(entries) ?? first) + random.between(1, 8));
  const flushes = log.entries.flatMap((_, at) => (at > first && at < last && log.isFlush(at) ? [at] : []));
  while (chosen.size < cuts) {
    chosen.add(random.chance(0.4) ? (random.pick(flushes) ?? last) : random.between(first + 1, last));
  }
  return [...chosen].filter((at) => at <= last).sort((a, b) => a - b);
}

/** What a client knew when the power failed. */
function knownAt({ log, marks, events }: Run, before: number): { oracle: Oracle; lastStep: string } {
  let seen = 0;
  let lastStep = 'none';
  for (const { number, entry } of log.marks) {
    const mark = marks[number - 1];
    if (entry >= before || mark === undefined) break;
    if ('events' in mark) seen = mark.events;
    else lastStep = mark.step;
  }
  const oracle = new Oracle();
  for (const event of events.slice(0, seen)) event(oracle);
  return { oracle, lastStep };
}

/** Starts a server on the disk that is left, lets it finish what was begun, and compares everything. */
async function checkCut(data: string, logPath: string, oracle: Oracle, run: Run, random: Random): Promise<void> {
  oracle.lostPower();
  const server = await startLocalServer(data, logPath);
  const clients = new Map<string, NbdClient>();
  try {
    const api = new Api(server.access);
    const names = run.names.copy();
    const ledger = new Ledger({ oracle });
    names.learnExports(await api.exports());
    const operator = new Operator(api, names, ledger, oracle.accepted.values());
    for (const id of [...oracle.begun.keys()]) {
      const operation = run.operations.get(id);
      if (operation === undefined) throw new Error(`change ${id} was never made`);
      await operator.settle({ ...operation, taskId: oracle.accepted.get(id) ?? null });
    }
    for (const drive of oracle.drives.values()) {
      const served = names.exports.get(drive.name);
      if (!drive.exported || served === undefined) continue;
      const { path, exportName } = addressOf(served);
      clients.set(drive.name, await NbdClient.connect({ kind: 'unix', path }, { exportName }));
    }
    await checkEverything({ api, oracle, names, random, data, counters: emptyChecks(), clients, sizes: false });
  } finally {
    for (const client of clients.values()) await client.close();
    await server.destroy();
  }
}

test('every acknowledged change survives a power failure at any moment', { timeout: 400_000 }, async (context) => {
  const reason = reasonAgainst();
  if (reason !== null) context.skip(reason);
  const directory = mkdtempSync(join(tmpdir(), 'calotype-power-'));
  const random = new Random(seed);
  try {
    const run = await record(directory, random.fork());
    const chosen = chooseCuts(run, random);
    const failures: string[] = [];
    for (const before of chosen) {
      const keep = random.pick(keeps) ?? 0;
      const disk = await run.log.cut(before, keep, random, directory);
      const { oracle, lastStep } = knownAt(run, before);
      try {
        await checkCut(join(disk.mountPoint, 'd'), join(directory, 'cut.log'), oracle, run, random);
      } catch (error) {
        const words = error instanceof Error ? (error.stack ?? error.message) : String(error);
        failures.push(
          `power failed before write ${before}, after step ${lastStep}, ${keep} of what was not flushed kept:\n${words}`,
        );
      } finally {
        await disk.remove();
      }
      if (failures.length >= 3) break;
    }
    run.log.close();
    console.log(
      `power failure: seed ${seed}, ${chosen.length} cuts in ${run.log.entries.length} writes and flushes, ${run.operations.size} changes`,
    );
    expect(failures, `seed ${seed}`).toEqual([]);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
