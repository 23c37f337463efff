/** Random trees of drives and points against the oracle: whatever is done in whatever order, every byte is accounted for. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Extents, subtractExtents, sumExtents } from '../../core/extents.ts';
import { type DriveId, type DriveSnapshotId, type ExportId, newId } from '../../core/ids.ts';
import { Content, changedGrains, difference, freshValue, grainBytes, grains, MiB, zeroGrains } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { type Attachment, noCommit, Rig, TestControl } from './rig.ts';

const driveBytes = 2 * MiB;

const kinds = [
  'create',
  'write',
  'write',
  'write',
  'zero',
  'snapshot',
  'snapshot',
  'snapshot',
  'group',
  'revert',
  'revert',
  'clone',
  'copyPoint',
  'deletePoint',
  'deletePoint',
  'deleteDrive',
  'flatten',
  'resize',
  'compact',
  'reclaim',
  'reclaim',
  'serve',
  'reopen',
  'kill',
] as const;

/** One thing to do; the numbers choose among what there is, so that any sequence makes sense. */
interface Action {
  kind: (typeof kinds)[number];
  a: number;
  b: number;
}

interface Drive {
  content: Content;
  attachment: Attachment | undefined;
}

class Play {
  readonly #rig: Rig;
  readonly drives = new Map<DriveId, Drive>();
  readonly points = new Map<DriveSnapshotId, { driveId: DriveId; content: Content }>();
  /** Drives that ever were: their points may outlive them. */
  readonly everyDrive = new Set<DriveId>();
  readonly behind = new Set<Promise<void>>();

  constructor(rig: Rig) {
    this.#rig = rig;
  }

  async act(action: Action): Promise<void> {
    const { a, b } = action;
    const driveId = pick([...this.drives.keys()], a);
    const drive = driveId === undefined ? undefined : this.drives.get(driveId);
    if (action.kind === 'create' || driveId === undefined || drive === undefined) {
      if (this.drives.size < 4) this.#add(await this.#rig.createDrive(driveBytes), new Content(driveBytes));
      return;
    }
    const point = pick([...this.points.keys()], b);
    switch (action.kind) {
      case 'write':
      case 'zero':
        return this.#write(driveId, drive, a, b, action.kind === 'zero');
      case 'snapshot':
        return this.#snapshot([driveId]);
      case 'group':
        return this.#snapshot([...this.drives.keys()].slice(0, 2 + (b % 2)));
      case 'revert':
        return this.#revert(driveId, drive, b);
      case 'clone':
        return point === undefined ? undefined : this.#clone(point, a);
      case 'copyPoint': {
        const copied = point === undefined ? undefined : this.points.get(point);
        if (point !== undefined && copied !== undefined) this.points.set(await this.#rig.copyPoint(point), copied);
        return;
      }
      case 'deletePoint':
        if (point !== undefined) {
          await this.#rig.deletePoints(point);
          this.points.delete(point);
        }
        return;
      case 'deleteDrive':
        return this.#deleteDrive(driveId, drive, b % 2 === 0);
      case 'flatten':
        return this.#rig.engine.flatten(driveId, new TestControl(), noCommit);
      case 'resize':
        return this.#resize(driveId, drive);
      case 'compact':
        this.#begin(this.#rig.engine.compact(driveId, new TestControl()), b);
        return;
      case 'reclaim':
        this.#begin(this.#rig.engine.reclaim([...this.everyDrive], new TestControl()), b);
        return;
      case 'serve':
        return this.#serve(driveId, drive);
      case 'reopen':
        await this.settle();
        await this.#rig.reopen({ stopProcesses: a % 2 === 0 });
        if (a % 2 === 0) await this.#connectAgain();
        return;
      case 'kill':
        await this.settle();
        await this.#rig.kill();
        await this.#rig.engine.ping().catch(() => undefined);
        await this.#rig.engine.ping();
        await this.#connectAgain();
        return;
    }
  }

  #add(driveId: DriveId, content: Content): void {
    this.drives.set(driveId, { content, attachment: undefined });
    this.everyDrive.add(driveId);
  }

  /** Some of the long work goes on while the next things are done. */
  #begin(work: Promise<unknown>, b: number): void {
    const tracked: Promise<void> = work
      .then(
        () => undefined,
        (error: unknown) => {
          this.#failure ??= error;
        },
      )
      .finally(() => this.behind.delete(tracked));
    this.behind.add(tracked);
    if (b % 2 === 0) this.#awaited = tracked;
  }
  #awaited: Promise<void> | undefined;
  #failure: unknown;

  /** What was begun and is to be over before the next action. */
  async between(): Promise<void> {
    await this.#awaited;
    this.#awaited = undefined;
    if (this.#failure !== undefined) throw this.#failure;
  }

  async settle(): Promise<void> {
    while (this.behind.size > 0) await Promise.all(this.behind);
    await this.between();
  }

  async #connectAgain(): Promise<void> {
    for (const { attachment } of this.drives.values()) {
      if (attachment === undefined) continue;
      await attachment.client.close();
      attachment.client = await this.#rig.connect(attachment.target);
    }
  }

  async #serve(driveId: DriveId, drive: Drive): Promise<void> {
    if (drive.attachment === undefined) drive.attachment = await this.#rig.attach({ drive: driveId });
    else {
      await this.#rig.end(drive.attachment);
      drive.attachment = undefined;
    }
  }

  async #write(driveId: DriveId, drive: Drive, a: number, b: number, zero: boolean): Promise<void> {
    const attachment = drive.attachment ?? (await this.#rig.attach({ drive: driveId }));
    const total = drive.content.values.length;
    for (let i = 0; i < 1 + (b % 3); i++) {
      const grain = (a * 131 + i * 997 + b) % total;
      const count = Math.min(total - grain, 1 + ((a + i) % 40));
      const value = zero ? 0 : freshValue();
      if (zero) await attachment.client.writeZeroes(grain * grainBytes, count * grainBytes);
      else await attachment.client.write(grain * grainBytes, grains(value, count));
      drive.content.set(grain, count, value);
    }
    await attachment.client.flush();
    if (drive.attachment === undefined) await this.#rig.end(attachment);
  }

  async #snapshot(drives: DriveId[]): Promise<void> {
    const points = drives.map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
    await this.#rig.engine.snapshot(points, noCommit);
    for (const { driveId, driveSnapshotId } of points) {
      const content = this.drives.get(driveId)?.content.copy();
      if (content !== undefined) this.points.set(driveSnapshotId, { driveId, content });
    }
  }

  async #revert(driveId: DriveId, drive: Drive, b: number): Promise<void> {
    const own = [...this.points].filter(([, point]) => point.driveId === driveId);
    const [id, target] = pick(own, b) ?? [];
    if (id === undefined || target === undefined) return;
    const kept = b % 3 === 0 ? null : newId<DriveSnapshotId>();
    await this.#rig.revert(driveId, id, kept);
    if (kept !== null) this.points.set(kept, { driveId, content: drive.content.copy() });
    drive.content = target.content.copy(drive.content.sizeBytes);
  }

  async #clone(pointId: DriveSnapshotId, a: number): Promise<void> {
    const point = this.points.get(pointId);
    if (point === undefined || this.drives.size >= 4) return;
    const sizeBytes = point.content.sizeBytes + (a % 2) * MiB;
    this.#add(await this.#rig.clone(pointId, sizeBytes), point.content.copy(sizeBytes));
  }

  async #deleteDrive(driveId: DriveId, drive: Drive, withPoints: boolean): Promise<void> {
    if (drive.attachment !== undefined) await this.#rig.end(drive.attachment);
    await this.#rig.engine.deleteDrive(driveId, noCommit);
    this.drives.delete(driveId);
    if (!withPoints) return;
    const own = [...this.points].filter(([, point]) => point.driveId === driveId).map(([id]) => id);
    await this.#rig.deletePoints(...own);
    for (const id of own) this.points.delete(id);
  }

  async #resize(driveId: DriveId, drive: Drive): Promise<void> {
    const sizeBytes = drive.content.sizeBytes + MiB / 2;
    if (sizeBytes > 4 * MiB) return;
    await this.#rig.engine.resizeDrive(driveId, sizeBytes, noCommit);
    drive.content = drive.content.copy(sizeBytes);
    const { attachment } = drive;
    if (attachment === undefined) return;
    await attachment.client.close();
    attachment.client = await this.#rig.connect(attachment.target);
  }

  async check(): Promise<void> {
    for (const [id, { content, attachment }] of this.drives) {
      const { client } = attachment ?? {};
      const bytes = client === undefined ? await this.#rig.read({ drive: id }) : await client.read(0, client.sizeBytes);
      expect(difference(bytes, content), `drive ${id}`).toBeUndefined();
    }
    for (const [id, { content }] of this.points) {
      expect(difference(await this.#rig.read({ point: id }), content), `point ${id}`).toBeUndefined();
    }
    await this.#checkSizes();
    expect(await this.#rig.complaints()).toEqual([]);
  }

  async #checkSizes(): Promise<void> {
    const { engine } = this.#rig;
    for (const [driveId, { content }] of this.drives) {
      const own = [...this.points].filter(([, point]) => point.driveId === driveId);
      const sizes: number[] = [];
      for (const [id, point] of own) {
        const found = await engine.changedExtents(id, { drive: driveId });
        expectExtents(found, point.content, content);
        sizes.push(sumExtents(found));
      }
      const asked = own.map(([id]) => id);
      expect(await engine.changedBytes(driveId, asked)).toEqual(sizes);
      for (const [at, [id, point]] of own.slice(1).entries()) {
        const before = own[at];
        if (before === undefined) continue;
        const found = await engine.changedExtents(before[0], { point: id });
        expectExtents(found, before[1].content, point.content);
      }
    }
  }
}

/** Exact, but that grains which are zeros on both sides may have been written with zeros. */
function expectExtents(found: Extents, from: Content, to: Content): void {
  const wanted = changedGrains(from, to);
  expect(subtractExtents(wanted, found), 'changes that are not reported').toEqual([]);
  const more = subtractExtents(found, wanted);
  expect(subtractExtents(more, zeroGrains(from, to)), 'reported and not changed').toEqual([]);
}

function pick<T>(list: readonly T[], at: number): T | undefined {
  return list.length === 0 ? undefined : list[at % list.length];
}

async function playThrough(harness: EngineHarness, actions: readonly Action[]): Promise<void> {
  await using rig = await Rig.start(harness);
  const play = new Play(rig);
  for (const action of actions) {
    await play.act(action);
    await play.between();
  }
  await play.settle();
  await play.check();
  await rig.engine.reclaim([...play.everyDrive], new TestControl());
  await play.check();
  await rig.reopen({ stopProcesses: true });
  for (const { attachment } of play.drives.values()) {
    if (attachment !== undefined) attachment.client = await rig.connect(attachment.target);
  }
  await play.check();
}

const action = fc.record({ kind: fc.constantFrom(...kinds), a: fc.nat(1000), b: fc.nat(1000) });

export function testRandom(harness: EngineHarness): void {
  const numRuns = Number(process.env.CALOTYPE_RUNS ?? (process.env.CALOTYPE_LONG === '1' ? 300 : 20));
  test(`${numRuns} random trees of drives and points hold every byte, change and size`, async () => {
    const sequence = fc.array(action, { minLength: 25, maxLength: 25, size: 'max' });
    await fc.assert(
      fc.asyncProperty(sequence, (actions) => playThrough(harness, actions)),
      {
        numRuns,
        // A race does not come back in the same place, so that looking for less of it takes long and finds nothing.
        endOnFailure: process.env.CALOTYPE_SHRINK !== '1',
        ...(process.env.CALOTYPE_SEED === undefined ? {} : { seed: Number(process.env.CALOTYPE_SEED) }),
      },
    );
  }, 3_600_000);

  test('deleting in every order leaves the rest whole', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.nat(6), { minLength: 7, maxLength: 7 }), async (order) => {
        await using rig = await Rig.start(harness);
        const driveId = await rig.createDrive(MiB);
        const content = new Content(MiB);
        const points: { id: DriveSnapshotId; content: Content }[] = [];
        const attachment = await rig.attach({ drive: driveId });
        for (let i = 0; i < 7; i++) {
          const value = freshValue();
          await attachment.client.write(i * 20 * grainBytes, grains(value, 50));
          content.set(i * 20, 50, value);
          await attachment.client.flush();
          const id = newId<DriveSnapshotId>();
          await rig.engine.snapshot([{ driveId, driveSnapshotId: id }], noCommit);
          points.push({ id, content: content.copy() });
          if (i === 3) {
            const back = points[1];
            if (back === undefined) continue;
            await rig.engine.revert(newId<ExportId>(), [{ driveId, driveSnapshotId: back.id, keepAs: null }], noCommit);
            content.values.set(back.content.values);
          }
        }
        for (const at of order) {
          const gone = points[at];
          if (gone === undefined) continue;
          await rig.deletePoints(gone.id);
          await rig.reclaim(driveId);
          for (const point of points.filter(
            (one) => !order.slice(0, order.indexOf(at) + 1).includes(points.indexOf(one)),
          )) {
            expect(difference(await rig.read({ point: point.id }), point.content)).toBeUndefined();
          }
        }
        expect(difference(await attachment.client.read(0, MiB), content)).toBeUndefined();
        expect(await rig.usedBytes()).toBeLessThan(MiB + 3 * harness.overheadBytes);
        expect(await rig.complaints()).toEqual([]);
      }),
      { numRuns: 5 },
    );
  }, 120_000);
}
