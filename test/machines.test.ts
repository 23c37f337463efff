/** Machines with a real guest: what a snapshot of a running one holds, and what a revert brings back. */
import { execFile } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { MachineId } from '../src/core/ids.ts';
import type { Snapshot } from '../src/core/model.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { MachineRig } from './support/machine-rig.ts';

const isLong = process.env.CALOTYPE_LONG === '1';
const MiB = 1024 * 1024;
const timeoutMs = isLong ? 1_800_000 : 180_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;

const partAt = (snapshot: Snapshot, at: number) => {
  const part = snapshot.parts[at];
  if (part === undefined) throw new Error(`the snapshot has no part ${at}`);
  return part;
};
const counterIn = (found: RegExpExecArray): number => Number(found[1]);

/** What it says. @throws when it finds more than it can put right */
async function e2fsck(args: readonly string[]): Promise<string> {
  try {
    return (await promisify(execFile)('e2fsck', ['-f', ...args])).stdout;
  } catch (error) {
    // Exit code 1: all is well now.
    if (error instanceof Error && 'code' in error && error.code === 1 && 'stdout' in error) return String(error.stdout);
    throw error;
  }
}

describe.skipIf(!hasGuest)('a running machine', () => {
  // One guest that does everything at once: each test finds it running and leaves it so.
  let rig: MachineRig;
  let id: MachineId;
  beforeAll(async () => {
    rig = await MachineRig.start();
    const drives = [await rig.createDrive('a'), await rig.createDrive('b'), await rig.createDrive('c', 'ext4')];
    const options = { ext4Device: '/dev/vdc', busy: true };
    id = await rig.createMachine('busy', ['count', 'disk', 'pair', 'ext4', 'agent'], drives, options);
    await rig.boot(id);
  }, timeoutMs);
  afterAll(() => rig[Symbol.asyncDispose]());

  test(
    'memory and disk of a snapshot are of one instant, and the guest goes on from there',
    async () => {
      await rig.line(id, /^disk \d+$/m);
      for (let round = 0; round < (isLong ? 20 : 3); round++) {
        await delay(Math.random() * 500);
        const snapshot = await rig.snapshot(id, { memory: true });
        expect(snapshot).toMatchObject({ consistency: 'memory', state: 'available', machine: { current: true } });
        const onDisk = await rig.numberAt(partAt(snapshot, 0).id, 0);
        const from = (await rig.serial(id)).length;
        const later = counterIn(await rig.line(id, /^disk (\d+)$/m, from));
        expect(later, 'the guest ran on').toBeGreaterThan(onDisk);

        const input = { paused: true, keepSafety: round === 0 };
        await rig.done(rig.service.snapshots.revertMachine(rig.caller, snapshot.id, input));
        expect(await rig.machine(id)).toMatchObject({ power: 'paused', basedOn: snapshot.id });
        const inMemory = await rig.counterInMemory(id);
        expect([0, 1], `memory ${inMemory}, disk ${onDisk}`).toContain(inMemory - onDisk);

        const again = (await rig.serial(id)).length;
        await rig.done(rig.service.machines.resume(rig.caller, id));
        const next = counterIn(await rig.line(id, /^disk (\d+)$/m, again));
        expect(next).toBeGreaterThanOrEqual(onDisk);
      }
    },
    timeoutMs,
  );

  test(
    'the guest stands still from before its drives are taken until they are, and then runs on',
    async () => {
      const running = rig.service.processes.get(id);
      const seen: string[] = [];
      const take = rig.engine.snapshot.bind(rig.engine);
      rig.engine.snapshot = (points, commit, stillness) =>
        take(points, commit, {
          hold: async () => {
            await stillness?.hold();
            // Time enough to run on, if nothing held it.
            for (let i = 0; i < 300; i++) await rig.engine.ping();
            seen.push(running.power);
          },
          release: async (taken) => {
            await stillness?.release(taken);
            seen.push(running.power);
          },
        });
      const { machine } = await rig.snapshot(id, { memory: true });
      rig.engine.snapshot = take;
      expect(seen).toEqual(['paused', /ran on/.test(machine?.reason ?? '') ? 'running' : 'paused']);
      await rig.line(id, /^count \d+$/m, (await rig.serial(id)).length);
    },
    timeoutMs,
  );

  test(
    'two drives are of one instant in a snapshot that was not quiesced, and after a revert to it',
    async () => {
      const alive = await rig.snapshot(id, { memory: true });
      const sequences = async (snapshot: Snapshot): Promise<readonly [number, number]> => {
        const first = await rig.numberAt(partAt(snapshot, 0).id, MiB);
        const second = await rig.numberAt(partAt(snapshot, 1).id, MiB);
        expect(first).toBeGreaterThan(0);
        expect([0, 1], `${first} and ${second}`).toContain(first - second);
        return [first, second];
      };
      let ahead = 0;
      const rounds = isLong ? 50 : 3;
      for (let round = 0; round < rounds; round++) {
        const begun = (await rig.serial(id)).length;
        await rig.line(id, /^pair [1-9]\d*$/m, begun);
        await delay(Math.random() * 200);
        const snapshot = await rig.snapshot(id, { quiesce: 'never' });
        expect(snapshot).toMatchObject({ consistency: 'crash', complete: true });
        const taken = await sequences(snapshot);
        if (taken[0] !== taken[1]) ahead++;
        await rig.line(id, /^pair \d+$/m, (await rig.serial(id)).length);

        // A guest without its memory would boot and write from 1 again: its drives are looked at while it stands still.
        const input = { paused: true, keepSafety: false };
        await rig.done(rig.service.snapshots.revertMachine(rig.caller, snapshot.id, input));
        expect(await rig.machine(id)).toMatchObject({ power: 'paused', basedOn: snapshot.id });
        const now = await rig.snapshot(id, { quiesce: 'never' });
        expect(await sequences(now)).toEqual(taken);
        await rig.done(rig.service.snapshots.revertMachine(rig.caller, alive.id, { keepSafety: false }));
      }
      if (isLong)
        console.log(`${rounds} reverts of two drives; in ${ahead} the first drive was ahead by its one write`);
    },
    timeoutMs,
  );

  test(
    'file systems are clean in a snapshot that the agent made quiet, and can be repaired in one that it did not',
    async () => {
      await rig.line(id, /^ext4 [1-9]\d*$/m);
      const quiet = await rig.snapshot(id, { quiesce: 'require' });
      expect(quiet).toMatchObject({ consistency: 'filesystem', machine: { reason: expect.stringMatching(/frozen/) } });
      expect(quiet.machine?.frozenUs).toBeGreaterThan(0);
      const rough = await rig.snapshot(id, { quiesce: 'never' });
      expect(rough.consistency).toBe('crash');
      const from = (await rig.serial(id)).length;
      await rig.line(id, /^ext4 \d+$/m, from);

      const check = async (snapshot: Snapshot, ...flags: string[]): Promise<string> => {
        const path = join(rig.directory, `${snapshot.id}.raw`);
        const part = partAt(snapshot, 2);
        const download = await rig.service.snapshots.download(rig.caller, snapshot.id, 'raw', part.id);
        await pipeline(download.stream, createWriteStream(path));
        return e2fsck([...flags, path]);
      };
      expect(await check(quiet, '-n')).not.toMatch(/recover|journal|error/i);
      await check(rough, '-p');
    },
    timeoutMs,
  );
});
