/** What serves the data is killed while everything goes on; the engine starts it again by itself. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import { type DriveSnapshotId, newId } from '../../core/ids.ts';
import type { NbdClient } from '../../qemu/nbd-client.ts';
import type { NbdTarget } from '../engine.ts';
import { Content, difference, expectContent, freshValue, grainBytes, grains, MiB, valuesOf } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { connect, type LiveDrive, liveDrive, noCommit, Rig, TestControl, writeFresh } from './rig.ts';

const reconnectDeadlineMs = 20_000;

async function reconnect(target: NbdTarget): Promise<NbdClient> {
  for (const until = Date.now() + reconnectDeadlineMs; ; await delay(20)) {
    try {
      return await connect(target);
    } catch (error) {
      if (Date.now() > until) throw error;
    }
  }
}

/** Writes and flushes in turn, and connects again whenever it is cut off. Remembers what was flushed, and what may be there. */
class Guest {
  readonly #live: LiveDrive;
  readonly flushed: Uint32Array;
  /** Numbers sent since the last flush that was answered. */
  readonly unsure = new Map<number, Set<number>>();
  readonly running: Promise<void>;
  flushes = 0;
  #client: NbdClient;
  stopping = false;

  constructor(live: LiveDrive) {
    this.#live = live;
    this.#client = live.attachment.client;
    this.flushed = live.content.values.slice();
    this.running = this.#run();
  }

  async #run(): Promise<void> {
    for (let round = 0; !this.stopping; round++) {
      try {
        for (let i = 0; i < 4; i++) {
          const grain = (round * 37 + i * 211) % 200;
          const value = freshValue();
          const known = this.unsure.get(grain) ?? new Set();
          this.unsure.set(grain, known.add(value));
          await this.#client.write(grain * grainBytes, grains(value));
        }
        await this.#client.flush();
        this.flushes++;
        for (const [grain, values] of this.unsure) this.flushed[grain] = [...values].at(-1) ?? 0;
        this.unsure.clear();
      } catch {
        await this.#client.close();
        this.#client = await reconnect(this.#live.attachment.target);
        await this.#settle();
      }
    }
    this.#live.attachment.client = this.#client;
  }

  /** After a crash: every flushed number is there, or one sent after it; that is then what is there. */
  async #settle(): Promise<void> {
    const found = valuesOf(await this.#client.read(0, 200 * grainBytes));
    for (let grain = 0; grain < 200; grain++) {
      const value = found[grain] ?? -1;
      if (value !== this.flushed[grain] && this.unsure.get(grain)?.has(value) !== true) {
        throw new Error(`grain ${grain} holds ${value}; ${this.flushed[grain]} was flushed`);
      }
      this.flushed[grain] = value;
    }
    this.unsure.clear();
  }

  async stop(): Promise<Content> {
    this.stopping = true;
    await this.running;
    return new Content(this.#live.content.sizeBytes, this.flushed);
  }
}

export function testCrashes(harness: EngineHarness): void {
  test('killed at random while clients write: served again under the same names, everything flushed is there', async () => {
    await using rig = await Rig.start(harness);
    const lives = [await liveDrive(rig, MiB), await liveDrive(rig, MiB)];
    const guests = lives.map((live) => new Guest(live));
    const points: { id: DriveSnapshotId; content: Content | null }[] = [];
    let stopping = false;
    const failures: unknown[] = [];
    const working = (async () => {
      for (let round = 0; !stopping; round++) {
        const live = lives[round % 2];
        if (live === undefined) return;
        try {
          const id = newId<DriveSnapshotId>();
          await rig.engine.snapshot([{ driveId: live.driveId, driveSnapshotId: id }], noCommit);
          points.push({ id, content: null });
          if (round % 3 === 2) {
            const [gone] = points.splice(round % points.length, 1);
            if (gone !== undefined) await rig.deletePoints(gone.id);
            await rig.engine.reclaim([live.driveId], new TestControl());
          }
          if (await rig.engine.needsCompaction(live.driveId)) {
            await rig.engine.compact(live.driveId, new TestControl());
          }
        } catch (error) {
          failures.push(error);
        }
      }
    })();
    for (let kill = 0; kill < 8; kill++) {
      await delay(40 + ((kill * 97) % 160));
      await rig.kill();
      // Both clients have come back and flushed something.
      const before = guests.map((guest) => guest.flushes);
      for (const [at, guest] of guests.entries()) {
        for (const until = Date.now() + reconnectDeadlineMs; guest.flushes === before[at]; await delay(5)) {
          if (Date.now() > until) throw new Error('a client was not served again');
        }
      }
    }
    stopping = true;
    await working;
    // A call may fail cleanly: it says that what it needs was not there.
    for (const failure of failures) expect(failure).toBeInstanceOf(CalotypeError);
    for (const [at, guest] of guests.entries()) {
      const content = await guest.stop();
      const client = lives[at]?.attachment.client;
      if (client === undefined) throw new Error('no client');
      expect(difference(await client.read(0, client.sizeBytes), content)).toBeUndefined();
      await client.close();
    }
    for (const point of points) expect((await rig.read({ point: point.id })).length).toBe(MiB);
    expect(await rig.complaints()).toEqual([]);
  }, 120_000);

  test('points of before a crash read the same after it', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    const points: { id: DriveSnapshotId; content: Content }[] = [];
    for (let i = 0; i < 5; i++) {
      await writeFresh(live.attachment.client, live.content, [{ grain: i * 100, count: 150 }]);
      points.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
      await rig.kill();
      live.attachment.client = await reconnect(live.attachment.target);
    }
    expectContent(await live.attachment.client.read(0, live.content.sizeBytes), live.content);
    for (const point of points) expectContent(await rig.read({ point: point.id }), point.content);
    await live.attachment.client.close();
  });

  test('calls in flight when it dies come to their end or fail cleanly, and leave nothing half done', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, 16 * MiB);
    const { driveId, content } = live;
    await writeFresh(live.attachment.client, content, [{ grain: 0, count: 2048 }]);
    const base = await rig.snapshot(driveId);
    const then = content.copy();
    const free = await rig.clone(base, 16 * MiB);
    for (let round = 0; round < 5; round++) {
      const control = new TestControl();
      const calls = {
        snapshot: rig.engine.snapshot([{ driveId: free, driveSnapshotId: newId() }], noCommit),
        clone: rig.engine.clone({ driveSnapshotId: base, driveId: newId(), sizeBytes: 16 * MiB }, noCommit),
        usage: rig.engine.usage(driveId),
        extents: rig.engine.changedExtents(base, { drive: driveId }),
        reclaim: rig.engine.reclaim([driveId, free], control),
        create: rig.engine.createDrive({ driveId: newId(), sizeBytes: MiB }, noCommit),
        reader: rig.read({ point: base }),
      };
      const settled = Promise.allSettled(Object.values(calls));
      await delay(round * 3);
      await rig.kill();
      const results = await settled;
      for (const [at, result] of results.entries()) {
        if (result.status === 'rejected') expect(result.reason, Object.keys(calls)[at]).toBeInstanceOf(CalotypeError);
      }
      live.attachment.client = await reconnect(live.attachment.target);
      expectContent(await live.attachment.client.read(0, content.sizeBytes), content);
      expectContent(await rig.read({ point: base }), then);
      expectContent(await rig.read({ drive: free }), then);
      await live.attachment.client.close();
    }
    expect(await rig.complaints()).toEqual([]);
  });

  test('a revert that the death interrupts ends in one state or the other', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig, MiB);
    const { driveId, content } = live;
    for (let round = 0; round < 8; round++) {
      await writeFresh(live.attachment.client, content, [{ grain: round * 10, count: 30 }]);
      const point = await rig.snapshot(driveId);
      const old = content.copy();
      await writeFresh(live.attachment.client, content, [{ grain: round * 10, count: 60 }]);
      const kept = newId<DriveSnapshotId>();
      const targets = [{ driveId, driveSnapshotId: point, keepAs: kept }];
      const reverting = rig.engine.revert(`r${round}`, targets, noCommit).then(
        () => true,
        (error: unknown) => {
          expect(error).toBeInstanceOf(CalotypeError);
          return false;
        },
      );
      await delay(round);
      await rig.kill();
      const reverted = await reverting;
      live.attachment.client = await reconnect(live.attachment.target);
      if (!reverted) await rig.engine.revert(`r${round}`, targets, noCommit);
      expectContent(await live.attachment.client.read(0, content.sizeBytes), old);
      expectContent(await rig.read({ point: kept }), content);
      content.values.set(old.values);
    }
    await live.attachment.client.close();
    expect(await rig.complaints()).toEqual([]);
  });

  test('it is killed, and killed again while it recovers', async () => {
    await using rig = await Rig.start(harness);
    const live = await liveDrive(rig);
    await writeFresh(live.attachment.client, live.content, [{ grain: 0, count: 500 }]);
    const point = await rig.snapshot(live.driveId);
    const then = live.content.copy();
    await writeFresh(live.attachment.client, live.content, [{ grain: 200, count: 500 }]);
    for (let i = 0; i < 6; i++) {
      await rig.kill();
      await delay(i * 8);
    }
    live.attachment.client = await reconnect(live.attachment.target);
    expectContent(await live.attachment.client.read(0, live.content.sizeBytes), live.content);
    expectContent(await rig.read({ point }), then);
    await rig.engine.ping();
    await live.attachment.client.close();
    expect(await rig.complaints()).toEqual([]);
  });
}
