/**
 * The server dies at every step of every operation, found by watching one that lives, with and without what serves the
 * data dying too. Whoever opens next finds the state before or the state after, whole; the operation, called again, comes
 * to its end; the client goes on, or connects again; the doctor has nothing to say.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type DriveId, type DriveSnapshotId, type ExportId, newId } from '../../core/ids.ts';
import { Content, difference, freshValue, MiB } from './content.ts';
import type { EngineHarness } from './harness.ts';
import { type Operation, perform } from './operations.ts';
import { type Attachment, Rig, readLive, TestControl, writeFresh } from './rig.ts';
import { Victims } from './victim.ts';

/** Small: every case reads everything several times. */
const driveBytes = MiB;

/** Everything there is, and what it reads as. */
class World {
  readonly drives = new Map<DriveId, Content>();
  readonly points = new Map<DriveSnapshotId, Content>();

  copy(): World {
    const world = new World();
    for (const [id, content] of this.drives) world.drives.set(id, content.copy());
    for (const [id, content] of this.points) world.points.set(id, content.copy());
    return world;
  }
}

interface Case {
  operation: Operation;
  before: World;
  after: World;
  /** Drives with a client. */
  served: Map<DriveId, Attachment>;
  /** Drives that may be exported or not, and are read through a point. */
  unreadable: Set<DriveId>;
}

type Prepare = (rig: Rig) => Promise<Case>;

async function servedDrive(rig: Rig, made: Case, grains = 40): Promise<DriveId> {
  const driveId = await rig.createDrive(driveBytes);
  const content = new Content(driveBytes);
  made.before.drives.set(driveId, content);
  const attachment = await rig.attach({ drive: driveId });
  made.served.set(driveId, attachment);
  await writeFresh(attachment.client, content, [{ grain: 10, count: grains }]);
  return driveId;
}

async function freeDrive(rig: Rig, made: Case, grains = 40): Promise<DriveId> {
  const driveId = await rig.createDrive(driveBytes);
  const content = new Content(driveBytes);
  made.before.drives.set(driveId, content);
  await rig.write(driveId, content, [{ grain: 20, count: grains }]);
  return driveId;
}

async function rewrite(rig: Rig, made: Case, driveId: DriveId, grain: number, count = 30): Promise<void> {
  const content = made.before.drives.get(driveId);
  const attachment = made.served.get(driveId);
  if (content === undefined) throw new Error('no such drive');
  if (attachment === undefined) await rig.write(driveId, content, [{ grain, count }]);
  else await writeFresh(attachment.client, content, [{ grain, count }]);
}

async function take(rig: Rig, made: Case, driveId: DriveId): Promise<DriveSnapshotId> {
  const point = await rig.snapshot(driveId);
  made.before.points.set(point, made.before.drives.get(driveId)?.copy() ?? new Content(0));
  return point;
}

function nothing(): Case {
  return {
    operation: { kind: 'reclaim', drives: [] },
    before: new World(),
    after: new World(),
    served: new Map(),
    unreadable: new Set(),
  };
}

/** A case whose operation changes what there is. */
function changing(made: Case, operation: Operation, change: (after: World) => void): Case {
  const after = made.before.copy();
  change(after);
  return { ...made, operation, after };
}

const contentOf = (world: World, id: DriveId): Content => world.drives.get(id)?.copy() ?? new Content(0);

const cases: Record<string, Prepare> = {
  'creating a drive': async () => {
    const driveId = newId<DriveId>();
    return changing(nothing(), { kind: 'create', driveId, sizeBytes: driveBytes }, (after) => {
      after.drives.set(driveId, new Content(driveBytes));
    });
  },
  'importing a drive': async (rig) => {
    const driveId = newId<DriveId>();
    const content = new Content(driveBytes);
    content.set(40, 150, freshValue());
    const path = join(rig.directory, 'source.raw');
    await writeFile(path, content.bytes());
    return changing(nothing(), { kind: 'import', driveId, path, format: 'raw' }, (after) => {
      after.drives.set(driveId, content);
    });
  },
  'snapshotting a free drive': async (rig) => {
    const made = nothing();
    const driveId = await freeDrive(rig, made);
    const point = newId<DriveSnapshotId>();
    return changing(made, { kind: 'snapshot', points: [{ driveId, driveSnapshotId: point }] }, (after) => {
      after.points.set(point, contentOf(after, driveId));
    });
  },
  'snapshotting an exported drive': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made);
    const point = newId<DriveSnapshotId>();
    return changing(made, { kind: 'snapshot', points: [{ driveId, driveSnapshotId: point }] }, (after) => {
      after.points.set(point, contentOf(after, driveId));
    });
  },
  'snapshotting a group': async (rig) => {
    const made = nothing();
    const drives = [await servedDrive(rig, made), await freeDrive(rig, made)];
    const points = drives.map((driveId) => ({ driveId, driveSnapshotId: newId<DriveSnapshotId>() }));
    return changing(made, { kind: 'snapshot', points }, (after) => {
      for (const { driveId, driveSnapshotId } of points) after.points.set(driveSnapshotId, contentOf(after, driveId));
    });
  },
  'growing an exported drive': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made);
    return changing(made, { kind: 'resize', driveId, sizeBytes: 2 * driveBytes }, (after) => {
      after.drives.set(driveId, contentOf(after, driveId).copy(2 * driveBytes));
    });
  },
  'growing a free drive': async (rig) => {
    const made = nothing();
    const driveId = await freeDrive(rig, made);
    return changing(made, { kind: 'resize', driveId, sizeBytes: 2 * driveBytes }, (after) => {
      after.drives.set(driveId, contentOf(after, driveId).copy(2 * driveBytes));
    });
  },
  'reverting an exported drive, keeping its state': (rig) => revertCase(rig, [servedDrive], true),
  'reverting an exported drive, dropping its state': (rig) => revertCase(rig, [servedDrive], false),
  'reverting a free drive, keeping its state': (rig) => revertCase(rig, [freeDrive], true),
  'reverting a free drive, dropping its state': (rig) => revertCase(rig, [freeDrive], false),
  'reverting a group': (rig) => revertCase(rig, [servedDrive, freeDrive], true),
  cloning: async (rig) => {
    const made = nothing();
    const source = await servedDrive(rig, made);
    const point = await take(rig, made, source);
    await rewrite(rig, made, source, 30);
    const driveId = newId<DriveId>();
    const operation: Operation = { kind: 'clone', driveSnapshotId: point, driveId, sizeBytes: 2 * driveBytes };
    return changing(made, operation, (after) => {
      after.drives.set(driveId, after.points.get(point)?.copy(2 * driveBytes) ?? new Content(0));
    });
  },
  'copying points': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made);
    const points = [await take(rig, made, driveId)];
    await rewrite(rig, made, driveId, 25);
    points.push(await take(rig, made, driveId));
    const copies = points.map((from) => ({ from, to: newId<DriveSnapshotId>() }));
    return changing(made, { kind: 'copyPoints', copies }, (after) => {
      for (const { from, to } of copies) after.points.set(to, after.points.get(from)?.copy() ?? new Content(0));
    });
  },
  'flattening an exported clone': async (rig) => {
    const made = nothing();
    const source = await freeDrive(rig, made, 120);
    const point = await take(rig, made, source);
    const driveId = await rig.clone(point, driveBytes);
    const content = contentOf(made.before, source);
    made.before.drives.set(driveId, content);
    made.served.set(driveId, await rig.attach({ drive: driveId }));
    await rewrite(rig, made, driveId, 100);
    return changing(made, { kind: 'flatten', driveId }, () => undefined);
  },
  'flattening a free clone': async (rig) => {
    const made = nothing();
    const point = await take(rig, made, await freeDrive(rig, made, 120));
    const driveId = await rig.clone(point, driveBytes);
    made.before.drives.set(driveId, made.before.points.get(point)?.copy() ?? new Content(0));
    await rewrite(rig, made, driveId, 100);
    return changing(made, { kind: 'flatten', driveId }, () => undefined);
  },
  'deleting a drive and keeping its points': async (rig) => {
    const made = nothing();
    const driveId = await freeDrive(rig, made);
    await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 25);
    return changing(made, { kind: 'deleteDrive', driveId }, (after) => after.drives.delete(driveId));
  },
  'deleting points': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made);
    const points = [await take(rig, made, driveId)];
    await rewrite(rig, made, driveId, 25);
    points.push(await take(rig, made, driveId));
    return changing(made, { kind: 'deleteSnapshots', points }, (after) => {
      for (const point of points) after.points.delete(point);
    });
  },
  'merging under an exported drive': (rig) => mergeCase(rig, servedDrive, 60),
  'merging under a free drive': (rig) => mergeCase(rig, freeDrive, 60),
  'merging little into much': (rig) => mergeCase(rig, freeDrive, 140),
  'merging what is empty': (rig) => mergeCase(rig, servedDrive, 0),
  'merging the newest point away': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made, 120);
    await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 60, 50);
    const gone = await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 80, 50);
    await rig.deletePoints(gone);
    made.before.points.delete(gone);
    return changing(made, { kind: 'reclaim', drives: [driveId] }, () => undefined);
  },
  'merging under clones': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made, 180);
    const gone = await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 60, 50);
    const point = await take(rig, made, driveId);
    const clone = await rig.clone(point, driveBytes);
    made.before.drives.set(clone, made.before.points.get(point)?.copy() ?? new Content(0));
    await rewrite(rig, made, clone, 90);
    await rig.deletePoints(gone);
    made.before.points.delete(gone);
    return changing(made, { kind: 'reclaim', drives: [driveId, clone] }, () => undefined);
  },
  'freeing what a deleted drive leaves': async (rig) => {
    const made = nothing();
    const driveId = await freeDrive(rig, made);
    for (let i = 0; i < 3; i++) {
      const point = await take(rig, made, driveId);
      await rewrite(rig, made, driveId, 25 + i);
      await rig.deletePoints(point);
      made.before.points.delete(point);
    }
    await rig.engine.deleteDrive(driveId, async () => undefined);
    made.before.drives.delete(driveId);
    return changing(made, { kind: 'reclaim', drives: [driveId] }, () => undefined);
  },
  'keeping an exported drive shallow': (rig) => compactCase(rig, servedDrive),
  'keeping a free drive shallow': (rig) => compactCase(rig, freeDrive),
  'beginning an export': async (rig) => {
    const made = nothing();
    const driveId = await freeDrive(rig, made);
    const exportId = newId<ExportId>();
    made.unreadable.add(driveId);
    return changing(made, { kind: 'startExport', exportId, driveId, projectId: rig.projectId }, () => undefined);
  },
  'ending an export': async (rig) => {
    const made = nothing();
    const driveId = await servedDrive(rig, made);
    const { exportId } = made.served.get(driveId) ?? { exportId: newId<ExportId>() };
    made.served.delete(driveId);
    made.unreadable.add(driveId);
    return changing(made, { kind: 'stopExport', exportId }, () => undefined);
  },
};

async function revertCase(
  rig: Rig,
  kinds: readonly ((rig: Rig, made: Case) => Promise<DriveId>)[],
  keep: boolean,
): Promise<Case> {
  const made = nothing();
  const targets: { driveId: DriveId; driveSnapshotId: DriveSnapshotId; keepAs: DriveSnapshotId | null }[] = [];
  for (const kind of kinds) {
    const driveId = await kind(rig, made);
    const driveSnapshotId = await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 15);
    await take(rig, made, driveId);
    await rewrite(rig, made, driveId, 35);
    targets.push({ driveId, driveSnapshotId, keepAs: keep ? newId<DriveSnapshotId>() : null });
  }
  return changing(made, { kind: 'revert', operationId: newId<ExportId>(), targets }, (after) => {
    for (const { driveId, driveSnapshotId, keepAs } of targets) {
      if (keepAs !== null) after.points.set(keepAs, contentOf(after, driveId));
      after.drives.set(driveId, after.points.get(driveSnapshotId)?.copy() ?? new Content(0));
    }
  });
}

/** Three points of which the middle one is gone; `grains` is what the newest holds. */
async function mergeCase(rig: Rig, kind: (rig: Rig, made: Case) => Promise<DriveId>, grains: number): Promise<Case> {
  const made = nothing();
  const driveId = await kind(rig, made);
  await take(rig, made, driveId);
  await rewrite(rig, made, driveId, 30, 90);
  const gone = await take(rig, made, driveId);
  if (grains > 0) await rewrite(rig, made, driveId, 100, grains);
  await take(rig, made, driveId);
  await rewrite(rig, made, driveId, 200, 20);
  await rig.deletePoints(gone);
  made.before.points.delete(gone);
  return changing(made, { kind: 'reclaim', drives: [driveId] }, () => undefined);
}

async function compactCase(rig: Rig, kind: (rig: Rig, made: Case) => Promise<DriveId>): Promise<Case> {
  const made = nothing();
  const driveId = await kind(rig, made);
  for (let i = 0; i < 7; i++) {
    await take(rig, made, driveId);
    await rewrite(rig, made, driveId, i * 30);
  }
  return changing(made, { kind: 'compact', driveId }, () => undefined);
}

/** Why what is there is not this world; undefined when it is. */
async function mismatch(rig: Rig, world: World, made: Case): Promise<string | undefined> {
  for (const [id, content] of world.drives) {
    const attachment = made.served.get(id);
    try {
      let bytes: Buffer;
      if (attachment !== undefined) bytes = await readLive({ attachment });
      else if (made.unreadable.has(id)) bytes = await readAside(rig, id);
      else bytes = await rig.read({ drive: id });
      const wrong = difference(bytes, content);
      if (wrong !== undefined) return `drive ${id}: ${wrong}`;
    } catch (error) {
      return `drive ${id}: ${String(error)}`;
    }
  }
  for (const [id, content] of world.points) {
    try {
      const wrong = difference(await rig.read({ point: id }), content);
      if (wrong !== undefined) return `point ${id}: ${wrong}`;
    } catch (error) {
      return `point ${id}: ${String(error)}`;
    }
  }
  return undefined;
}

/** Through a point of the moment. */
async function readAside(rig: Rig, driveId: DriveId): Promise<Buffer> {
  const point = await rig.snapshot(driveId);
  const bytes = await rig.read({ point });
  await rig.deletePoints(point);
  return bytes;
}

/** Ids of one world that the other does not have must not be there. */
async function extras(rig: Rig, world: World, other: World): Promise<string[]> {
  const found: string[] = [];
  for (const id of other.points.keys()) {
    if (world.points.has(id)) continue;
    if ((await rig.read({ point: id }).catch(() => undefined)) !== undefined) found.push(`point ${id}`);
  }
  for (const id of other.drives.keys()) {
    if (world.drives.has(id)) continue;
    if ((await rig.read({ drive: id }).catch(() => undefined)) !== undefined) found.push(`drive ${id}`);
  }
  return found;
}

async function expectOneOf(rig: Rig, made: Case, what: string): Promise<void> {
  const notAfter = await mismatch(rig, made.after, made);
  if (notAfter === undefined) {
    expect(await extras(rig, made.after, made.before), what).toEqual([]);
    return;
  }
  const notBefore = await mismatch(rig, made.before, made);
  expect(notBefore, `${what}: neither the state after (${notAfter}) nor before`).toBeUndefined();
  expect(await extras(rig, made.before, made.after), what).toEqual([]);
}

async function reconnect(rig: Rig, made: Case): Promise<void> {
  for (const attachment of made.served.values()) {
    await attachment.client.close();
    attachment.client = await rig.connect(attachment.target);
  }
}

/** Ends what the case made, so that the next one starts in an empty place. */
async function clear(rig: Rig, made: Case): Promise<void> {
  const rows = await rig.catalog.db.selectFrom('exports').select('id').execute();
  for (const attachment of made.served.values()) await attachment.client.close();
  for (const { id } of rows) await rig.engine.stopExport(id, rig.stopCommit(id));
  const drives = [...new Set([...made.before.drives.keys(), ...made.after.drives.keys()])];
  for (const id of drives) await rig.engine.deleteDrive(id, async () => undefined);
  await rig.deletePoints(...new Set([...made.before.points.keys(), ...made.after.points.keys()]));
  if (drives.length > 0) await rig.engine.reclaim(drives, new TestControl());
}

let orders = 0;

/** `kills` says for each step whether what serves the data dies too. */
async function dieAtEveryStep(
  harness: EngineHarness,
  prepare: Prepare,
  kills: (step: number) => boolean,
): Promise<void> {
  await using rig = await Rig.start(harness);
  await using victims = new Victims(harness);
  let steps: string[] = [];
  for (let dieAt: number | null = null; dieAt === null || dieAt < steps.length; dieAt = (dieAt ?? -1) + 1) {
    const made = await prepare(rig);
    const name = `n${++orders}`;
    await rig.detach();
    const order = { dataDirectory: rig.directory, operation: made.operation, name, dieAt };
    const outcome = await victims.run(order);
    const killAll = kills(dieAt ?? 0);
    const what = `${dieAt === null ? 'not dying' : `dying at step ${dieAt}, ${steps[dieAt]}`}${killAll ? ', with all' : ''}`;
    if (dieAt === null) {
      expect(outcome, what).toMatchObject({ died: false, failure: null });
      if (!outcome.died) steps = outcome.steps;
    }
    if (killAll) await rig.kill();
    await rig.open();
    if (killAll || made.operation.kind === 'resize') await reconnect(rig, made);
    await expectOneOf(rig, made, what);
    expect(await rig.complaints(), what).toEqual([]);
    await perform(rig.engine, made.operation, name);
    if (made.operation.kind === 'resize') await reconnect(rig, made);
    expect(await mismatch(rig, made.after, made), `${what}, and called again`).toBeUndefined();
    if (!['reclaim', 'compact'].includes(made.operation.kind)) {
      expect(await rig.catalog.setting(`done:${name}`), what).toBe('yes');
    }
    for (const driveId of made.served.keys()) {
      await rewriteAfter(rig, made, driveId);
      expect(await mismatch(rig, made.after, made), `${what}, and written after`).toBeUndefined();
    }
    await clear(rig, made);
  }
  expect(steps.length).toBeGreaterThan(0);
  expect(await rig.complaints()).toEqual([]);
  await rig.reopen({ stopProcesses: true });
  expect(await rig.usedBytes(), 'what is left at the end').toBeLessThan(harness.overheadBytes);
}

async function rewriteAfter(rig: Rig, made: Case, driveId: DriveId): Promise<void> {
  const content = made.after.drives.get(driveId);
  const attachment = made.served.get(driveId);
  if (content === undefined || attachment === undefined) return;
  await writeFresh(attachment.client, content, [{ grain: 17, count: 3 }]);
  const point = await rig.snapshot(driveId);
  made.after.points.set(point, content.copy());
  await writeFresh(attachment.client, content, [{ grain: 18, count: 3 }]);
}

export function testFaults(harness: EngineHarness): void {
  const isLong = process.env.CALOTYPE_LONG === '1';
  for (const [at, [name, prepare]] of Object.entries(cases).entries()) {
    test(`${name}: the server dies at every step, every other time with all that serves the data`, async () => {
      await dieAtEveryStep(harness, prepare, (step) => (step + at) % 2 === 0);
    }, 120_000);
    if (!isLong) continue;
    for (const killAll of [false, true]) {
      test(`${name}: the server dies at every step${killAll ? ', and all that serves with it' : ''}`, async () => {
        await dieAtEveryStep(harness, prepare, () => killAll);
      }, 300_000);
    }
  }
}
