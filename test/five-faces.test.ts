/** One machine with two drives, seen and changed through every front door. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DialectRig, type Loose, MiB, type Person } from './support/dialect-rig.ts';
import { type Face, facesOf, type Shown, type Target } from './support/faces.ts';

let rig: DialectRig;
let target: Target;
let faces: readonly Face[];

beforeAll(async () => {
  rig = await DialectRig.start();
  target = await machineWithTwoDrives('web');
  faces = facesOf(rig, await rig.person('mia', 'member'), target);
});
afterAll(() => rig[Symbol.asyncDispose]());

async function machineWithTwoDrives(name: string): Promise<Target> {
  const drives = [await rig.drive(`${name}-1`, 4 * MiB), await rig.drive(`${name}-2`, 4 * MiB)];
  const machine = await rig.machine(
    name,
    drives.map((drive) => drive.id),
  );
  return { machine, drives };
}

const faceOf = (door: string): Face => {
  const face = faces.find((item) => item.door === door);
  if (face === undefined) throw new Error(door);
  return face;
};

interface Known {
  readonly name: string;
  readonly number: number;
  readonly createdMs: number;
  readonly sizeBytes: number;
  readonly isOfMachine: boolean;
  readonly parts: readonly { id: string; number: number; driveId: string; sizeBytes: number }[];
}

/** What there is, by the native API as the operator. */
async function known(): Promise<readonly Known[]> {
  const { items } = await rig.native('GET', '/snapshots?limit=1000&sort=number');
  return items.map((item: Loose) => ({
    ...Object(item),
    isOfMachine: item.machine !== null,
    createdMs: Date.parse(item.createdAt),
  }));
}

/** Every face shows the same. */
async function expectAgreement(all: readonly Face[] = faces): Promise<void> {
  // Some show that space is still coming back.
  await rig.settled();
  const snapshots = await known();
  for (const face of all) {
    const shown = await face.list();
    const expected = face.shows === 'parts' ? partsOf(snapshots) : wholes(snapshots);
    const numbered = face.door === 'manageiq' || face.door === 'syminet';
    const byName = (a: { name: string; driveId?: string | null }, b: typeof a): number =>
      `${a.name} ${a.driveId}`.localeCompare(`${b.name} ${b.driveId}`);
    const compared = expected.toSorted(byName).map((item) => ({
      id:
        face.door === 'deltacloud'
          ? `snap-${item.number.toString(16)}`
          : numbered
            ? String(item.number)
            : face.shows === 'parts'
              ? item.id
              : expect.any(String),
      name: item.name,
      driveId: item.driveId,
      ready: true,
    }));
    const seen = shown.toSorted(byName);
    expect(seen, face.door).toMatchObject(compared);
    expect(seen).toHaveLength(compared.length);
    for (const [at, item] of expected.toSorted(byName).entries()) expectFigures(face, seen[at], item);
  }
}

function expectFigures(
  face: Face,
  shown: Shown | undefined,
  item: { readonly createdMs: number; readonly sizeBytes: number },
): void {
  if (shown?.createdMs !== null) {
    expect(Math.abs((shown?.createdMs ?? 0) - item.createdMs), `${face.door}: time`).toBeLessThan(1000);
  }
  if (shown?.sizeBytes !== null) expect(shown?.sizeBytes, `${face.door}: size`).toBe(item.sizeBytes);
}

const wholes = (snapshots: readonly Known[]) =>
  snapshots.filter((item) => item.isOfMachine).map((item) => ({ ...item, id: '', driveId: null }));

const partsOf = (snapshots: readonly Known[]) =>
  snapshots.flatMap((item) => item.parts.map((part) => ({ ...part, name: item.name, createdMs: item.createdMs })));

describe('a snapshot taken through one front door', () => {
  test('is seen through every other, with its id, name, time, size and state', async () => {
    for (const [at, face] of faces.entries()) {
      await face.create(`by ${face.door}`, at % 2);
      for (const drive of target.drives)
        await rig.write(drive.id, at * 65_536, Buffer.alloc(65_536 * (at + 1), at + 1));
    }
    expect(await known()).toHaveLength(faces.length);
    await expectAgreement();
  });

  test('is gone for all of them when another one deletes it', async () => {
    for (const [at, face] of faces.entries()) {
      const other = faces[(at + 1) % faces.length] ?? face;
      const name = `by ${face.door}`;
      const found = (await other.list()).find((item) => item.name === name);
      // Those that show machines do not show what was taken of one drive alone.
      if (found === undefined) {
        expect([face.shows, other.shows]).toEqual(['parts', 'snapshots']);
        continue;
      }
      await other.remove(found.id);
      await expectAgreement();
      expect((await other.list()).map((item) => item.id)).not.toContain(found.id);
    }
  });

  test('is reverted to through the others, and cloned by them', async () => {
    const [first, second] = target.drives;
    if (first === undefined || second === undefined) throw new Error('two drives were expected');
    const contents = new Map<string, Buffer>();
    for (const [at, drive] of [first, second].entries()) {
      await rig.write(drive.id, 0, Buffer.alloc(MiB, 0x41 + at));
      contents.set(drive.id, await rig.read(drive.id));
    }
    await faceOf('manageiq').create('kept');
    for (const face of faces) {
      for (const drive of [first, second]) await rig.write(drive.id, 0, Buffer.alloc(2 * MiB, 0x5a));
      const shown = (await face.list()).filter((item) => item.name === 'kept');
      for (const item of shown) {
        if (face.revert !== undefined) {
          await face.revert(item.id);
          for (const drive of [first, second]) {
            if (item.driveId !== null && item.driveId !== drive.id) continue;
            expect((await rig.read(drive.id)).equals(contents.get(drive.id) ?? Buffer.alloc(0)), face.door).toBe(true);
          }
        }
        if (face.clone !== undefined) {
          const made = await face.clone(item.id, `clone by ${face.door} of ${item.driveId}`);
          const bytes = await rig.read(made);
          expect(bytes.equals(contents.get(item.driveId ?? first.id) ?? Buffer.alloc(0)), face.door).toBe(true);
        }
      }
      expect(shown.length, face.door).toBe(face.shows === 'parts' ? 2 : 1);
    }
    await expectAgreement();
  });
});

describe('rights', () => {
  let reader: Person;

  test('of a guest are the same through all', async () => {
    reader = await rig.person('gus', 'guest');
    for (const face of facesOf(rig, reader, target)) expect(await seenBy(face), face.door).toEqual([]);
    await rig.grant('gus', { machineId: target.machine.id }, 'ro');
    const mine = facesOf(rig, reader, target);
    await expectAgreement(mine.filter((face) => face.shows === 'snapshots'));
    for (const face of mine) {
      for (const item of await face.list()) {
        if (item.writable !== null) expect(item.writable, face.door).toBe(false);
        await expect(face.remove(item.id), face.door).rejects.toMatchObject({ status: expect.toSatisfy(isRefusal) });
      }
    }
    await expectAgreement();
  });

  test('of a foreigner are none', async () => {
    await rig.native('POST', '/projects', { name: 'elsewhere' });
    const foreigner = await rig.person('fay', 'admin', 'elsewhere');
    for (const face of facesOf(rig, foreigner, target)) expect(await seenBy(face), face.door).toEqual([]);
  });

  const isRefusal = (status: number): boolean => [400, 401, 403, 404].includes(status);

  /** Nothing, or that there is no such machine. */
  async function seenBy(face: Face): Promise<readonly Shown[]> {
    return face.list().catch((error: { status?: number }) => {
      expect([403, 404]).toContain(error.status);
      return [];
    });
  }
});
