/** The catalog refuses each commit of each operation in turn, as on a full disk: the call fails, and nothing is half done. */
import { expect, test } from 'vitest';
import type { Catalog } from '../../catalog/catalog.ts';
import { CalotypeError } from '../../core/errors.ts';
import { type DriveId, type DriveSnapshotId, newId } from '../../core/ids.ts';
import { type Content, expectContent, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { type LiveDrive, liveDrive, noCommit, Rig, readLive, TestControl, writeFresh } from './rig.ts';

/** Makes some of the next commits fail: the first is number 0. */
function refuse(catalog: Catalog, which: (commit: number) => boolean): { stop(): void; count(): number } {
  const original = catalog.write.bind(catalog);
  let commits = 0;
  catalog.write = (work) =>
    which(commits++) ? Promise.reject(new CalotypeError('space_exhausted', 'refused')) : original(work);
  return {
    stop: () => {
      catalog.write = original;
    },
    count: () => commits,
  };
}

interface Stage {
  rig: Rig;
  live: LiveDrive;
  points: { id: DriveSnapshotId; content: Content }[];
  clone: DriveId;
  cloned: Content;
}

async function setStage(rig: Rig): Promise<Stage> {
  const live = await liveDrive(rig, MiB);
  const points: Stage['points'] = [];
  for (let i = 0; i < 8; i++) {
    await writeFresh(live.attachment.client, live.content, [{ grain: i * 20, count: 40 }]);
    points.push({ id: await rig.snapshot(live.driveId), content: live.content.copy() });
  }
  const source = points[2];
  if (source === undefined) throw new Error('no point');
  const clone = await rig.clone(source.id, MiB);
  const gone = points.splice(4, 1)[0];
  if (gone !== undefined) await rig.deletePoints(gone.id);
  return { rig, live, points, clone, cloned: source.content };
}

async function expectWhole(stage: Stage, what: string): Promise<void> {
  const { rig, live, points, clone, cloned } = stage;
  expectContent(await readLive(live), live.content, what);
  expectContent(await rig.read({ drive: clone }), cloned, what);
  for (const point of points) expectContent(await rig.read({ point: point.id }), point.content, what);
}

/** Calls that leave every content as it is, or say in `after` what they change. */
const calls: Record<string, { run: (stage: Stage) => Promise<unknown>; after?: (stage: Stage) => void }> = {
  create: { run: ({ rig }) => rig.createDrive(MiB) },
  snapshot: { run: ({ rig, live }) => rig.snapshot(live.driveId) },
  'snapshot of a group': { run: ({ rig, live, clone }) => rig.snapshot(live.driveId, clone) },
  revert: {
    run: ({ rig, live, points }) => rig.revert(live.driveId, points[3]?.id ?? newId(), newId()),
    after: ({ live, points }) => live.content.values.set(points[3]?.content.values ?? []),
  },
  clone: { run: ({ rig, points }) => rig.clone(points[5]?.id ?? newId(), MiB) },
  'copy points': { run: ({ rig, points }) => rig.copyPoint(points[5]?.id ?? newId()) },
  flatten: { run: ({ rig, clone }) => rig.engine.flatten(clone, new TestControl(), noCommit) },
  'delete a point': { run: ({ rig }) => rig.engine.deleteSnapshots([newId()], noCommit) },
  reclaim: { run: ({ rig, live, clone }) => rig.reclaim(live.driveId, clone) },
  compact: { run: ({ rig, live }) => rig.engine.compact(live.driveId, new TestControl()) },
};

export function testRefusals(harness: EngineHarness): void {
  for (const [name, { run, after }] of Object.entries(calls)) {
    test(`${name}: whichever commit is refused, the call fails or comes through whole`, async () => {
      await using rig = await Rig.start(harness);
      let commits = 1;
      for (let refused = -1; refused < commits; refused++) {
        const stage = await setStage(rig);
        const flaky = refuse(rig.catalog, (commit) => commit === refused);
        const failure = await run(stage).then(
          () => undefined,
          (error: unknown) => error,
        );
        const what = `${name}, commit ${refused} refused`;
        if (refused === -1) {
          expect(failure, what).toBeUndefined();
          commits = flaky.count();
        }
        flaky.stop();
        await rig.engine.ping();
        if (failure === undefined) after?.(stage);
        else expect(failure, what).toBeInstanceOf(CalotypeError);
        await expectWhole(stage, what);
        await writeFresh(stage.live.attachment.client, stage.live.content, [{ grain: 5, count: 5 }]);
        await run(stage);
        after?.(stage);
        await expectWhole(stage, `${what}, and called again`);
        await rig.end(stage.live.attachment);
        expect(await rig.complaints(), what).toEqual([]);
        const drives = [stage.live.driveId, stage.clone];
        for (const drive of drives) await rig.engine.deleteDrive(drive, noCommit);
        await rig.deletePoints(...stage.points.map((point) => point.id));
        await rig.reclaim(...drives);
      }
      expect(commits).toBeGreaterThan(0);
    }, 120_000);
  }

  test('a catalog that refuses everything for a while stops nobody for good', async () => {
    await using rig = await Rig.start(harness);
    const stage = await setStage(rig);
    const { live } = stage;
    const flaky = refuse(rig.catalog, () => true);
    for (const name of ['snapshot', 'revert', 'reclaim']) {
      await expect(calls[name]?.run(stage), name).rejects.toBeInstanceOf(CalotypeError);
      await writeFresh(live.attachment.client, live.content, [{ grain: 9, count: 9 }]);
    }
    expectContent(await readLive(live), live.content);
    flaky.stop();
    await rig.engine.ping();
    await expectWhole(stage, 'afterwards');
    await rig.snapshot(live.driveId);
    await rig.reclaim(live.driveId, stage.clone);
    await expectWhole(stage, 'after a merge');
    expect(await rig.complaints()).toEqual([]);
    await rig.reopen({ stopProcesses: true });
    live.attachment.client = await rig.connect(live.attachment.target);
    await expectWhole(stage, 'after a start');
  }, 60_000);
}
